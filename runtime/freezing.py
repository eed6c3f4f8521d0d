"""What the garbage collector does with the objects that `import nufunc` makes.

Note [Frozen imports]
Modules, functions and classes stay until the process ends, and there are forty thousand of them. The collector looks at
all of them again and again, and at the end of the process several times more: a fifth of the time of a process that
finds its code on disk. So they are frozen (`gc.freeze`), as are all objects that exist by then. This may only concern
what is no garbage, now or later, and what has nothing to do when it goes. So it is done where nothing but imports is
running, in the only thread, where there are not more objects than imports make, none of a class of the program's main
module, and none with a finaliser (open files, generators, classes with `__del__`) but the standard streams. What is
made later is none of this, and collected as ever.
"""

import gc
import os
import sys
from types import FrameType, GeneratorType
from typing import Any


class Imports:
    """From its creation to `end`, what is imported is not looked at; then it is frozen, or old."""

    def __init__(self) -> None:
        self._collected = gc.isenabled()
        gc.disable()
        self._nobody = not gc.get_freeze_count()  # counts what is frozen, one by one
        self._frozen = self._nobody and len(sys._current_frames()) == 1 and _importing() and _harmless()

    def end(self) -> None:
        if self._nobody:
            gc.freeze()
            if not self._frozen:
                gc.unfreeze()  # into the oldest generation, without a look at it
        if self._collected:
            gc.enable()


def _importing() -> bool:
    """Whether the stack holds modules that are imported, and what imports them, alone."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_name != "<module>" and not code.co_filename.startswith(("<frozen importlib", "<frozen runpy")):
            return False
        frame = frame.f_back
    return not hasattr(sys, "ps1")  # a session's modules are its user's data


_MANY = 150_000  # objects, of which NumPy makes 20,000


def _harmless() -> bool:
    """Whether what there is seems to be modules, and does nothing at its end, but for the standard streams."""
    objects = gc.get_objects()
    kinds = list(map(type, objects))
    if len(kinds) > _MANY:
        return False
    found = [kind for kind in set(kinds) if hasattr(kind, "__del__") or kind.__module__ == "__main__"]
    known = sum(type(stream) in found for stream in _streams())
    if GeneratorType in found:
        found.remove(GeneratorType)
        if not all(_installed(x.gi_code.co_filename) for x in objects if type(x) is GeneratorType):
            return False
    return sum(map(kinds.count, found)) <= known


def _installed(file: str) -> bool:
    return f"{os.sep}site-packages" in file or f"{os.sep}dist-packages" in file


def _streams() -> list[Any]:
    """The standard streams with what lies under them."""
    streams: list[Any] = [sys.__stdin__, sys.__stdout__, sys.__stderr__]
    streams += [getattr(stream, "buffer", None) for stream in streams]
    streams += [getattr(stream, "raw", None) for stream in streams]
    return list({id(stream): stream for stream in streams}.values())

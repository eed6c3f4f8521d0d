"""What the garbage collector does with the objects that `import nufunc` makes.

Note [Frozen imports]
Modules, functions and classes stay until the process ends, and there are forty thousand of them. The collector looks at
all of them again and again, and at the end of the process several times more: a fifth of the time of a process that
finds its code on disk. So they are frozen (`gc.freeze`), as are all objects that exist by then. This may only concern
what is no garbage, now or later, and what has nothing to do when it goes. So it is done where nothing but imports is
running, in the only thread, and where no object has a finaliser (open files, generators, classes with `__del__`) but
the standard streams. What is made later is none of this, and collected as ever.
"""

import gc
import sys
from types import FrameType
from typing import Any


class Imports:
    """From its creation to `end`, what is imported is not looked at; then it is frozen, or old."""

    def __init__(self) -> None:
        self._collected = gc.isenabled()
        gc.disable()
        self._nobody = not gc.get_freeze_count()  # counts what is frozen, one by one
        self._frozen = self._nobody and len(sys._current_frames()) == 1 and _importing() and not _finalisers()

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


def _finalisers() -> bool:
    """Whether there are objects that do something at their end, beside the standard streams."""
    kinds = list(map(type, gc.get_objects()))
    found = [kind for kind in set(kinds) if hasattr(kind, "__del__")]
    return sum(map(kinds.count, found)) > sum(type(stream) in found for stream in _streams())


def _streams() -> list[Any]:
    """The standard streams with what lies under them."""
    streams: list[Any] = [sys.__stdin__, sys.__stdout__, sys.__stderr__]
    streams += [getattr(stream, "buffer", None) for stream in streams]
    streams += [getattr(stream, "raw", None) for stream in streams]
    return list({id(stream): stream for stream in streams}.values())

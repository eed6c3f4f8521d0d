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


def may_freeze() -> bool:
    """Whether the objects of this moment, and those that imports make, can be frozen."""
    return not gc.get_freeze_count() and len(sys._current_frames()) == 1 and _importing() and not _finalisers()


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
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if hasattr(kind, "__del__")}
    known = set(map(id, _streams()))
    return any(type(x) in kinds and id(x) not in known for x in objects)


def _streams() -> list[Any]:
    found: list[Any] = []
    for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        buffer = getattr(stream, "buffer", None)
        found += [stream, buffer, getattr(buffer, "raw", None)]
    return found

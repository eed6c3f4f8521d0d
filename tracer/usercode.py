"""Which code is the user's, and where in it we are: the file:line of errors and of traced nodes.

User code is every Python function whose source file is not part of the standard library, of an installed
package (site-packages, dist-packages) or of nufunc itself. Functions without a file (`<stdin>`, notebook
cells, exec'ed text) are the user's. A module of nufunc that is plain NumPy code meant to be traced (nn,
optim) sets the global `__nufunc_traceable__ = True` and then counts as the user's code for tracing, though
not for locations.
"""

from __future__ import annotations

import functools
import os
import sys
from bisect import bisect_right
from collections.abc import Mapping
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from nufunc.ir.errors import Location

_HEAP_TYPE = 1 << 9


def _library_prefixes() -> tuple[str, ...]:
    # installed packages are known by the name of their folder; sysconfig knows its path, but reads a large table
    folder = os.path.dirname(os.__file__)
    return tuple(os.path.normcase(f) + os.sep for f in sorted({folder, os.path.realpath(folder)}))


_PREFIXES = _library_prefixes()


@functools.lru_cache(maxsize=4096)
def is_user_file(filename: str) -> bool:
    """Whether a code object's file name is that of user code."""
    if filename.startswith("<"):
        return not filename.startswith(("<frozen", "<__array_function__"))
    name = os.path.normcase(os.path.abspath(filename))
    parts = name.split(os.sep)
    return not (name.startswith(_PREFIXES) or "site-packages" in parts or "dist-packages" in parts)


def is_own(name: object) -> bool:
    """Whether a module name is nufunc's."""
    return isinstance(name, str) and (name == "nufunc" or name.startswith("nufunc."))


def is_user_namespace(namespace: Mapping[str, Any]) -> bool:
    """Whether a module dictionary belongs to user code."""
    if namespace.get("__nufunc_traceable__") is True:
        return True
    name = namespace.get("__name__")
    if is_own(name):
        return False
    file = namespace.get("__file__")
    if isinstance(file, str):
        return is_user_file(file)
    if name in sys.builtin_module_names:
        return False
    origin = getattr(namespace.get("__spec__"), "origin", None)
    return origin not in ("built-in", "frozen")


def is_user_code(fn: FunctionType) -> bool:
    """Whether a Python function is user code, which is traced; library functions are called as they are."""
    namespace = fn.__globals__
    if namespace.get("__nufunc_traceable__") is True:
        return True
    filename = fn.__code__.co_filename
    if filename.startswith("<"):
        # Text compiled on behalf of a module (dataclass methods, named tuples) belongs to that module.
        return is_user_namespace(namespace) and is_user_file(filename)
    return not is_own(namespace.get("__name__")) and is_user_file(filename)


def is_user_module(module: ModuleType) -> bool:
    """Whether a module is user code."""
    return is_user_namespace(vars(module))


def is_user_class(cls: type) -> bool:
    """Whether a class is defined in user code."""
    if not cls.__flags__ & _HEAP_TYPE:
        return False
    if getattr(cls, "__nufunc_traceable__", None) is True:  # nn.Module says so for every model
        return True
    module = sys.modules.get(cls.__module__)
    if module is not None and cls.__module__ != "builtins":
        return is_user_namespace(vars(module))
    functions = [member for member in vars(cls).values() if isinstance(member, FunctionType)]
    return any(map(is_user_code, functions)) if functions else cls.__module__ != "builtins"


def user_location() -> Location | None:
    """The innermost line of user code on the stack; None when there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        named = _NAMED.get(code.co_filename)
        if named is None:
            named = _is_named(code.co_filename, frame.f_globals)
        if named:
            lines = _LINES.get(id(code))
            return (lines or _lines(code)).at(frame)
        frame = frame.f_back
    return None


def is_user_frame(frame: FrameType) -> bool:
    """Whether locations name the code that runs in a frame."""
    named = _NAMED.get(frame.f_code.co_filename)
    return _is_named(frame.f_code.co_filename, frame.f_globals) if named is None else named


_NAMED: dict[str, bool] = {}  # whether locations name this file


def _is_named(filename: str, namespace: Mapping[str, Any]) -> bool:
    """Whether locations may name code of this file with these globals; kept per file where it has one."""
    named = is_user_file(filename) and not is_own(namespace.get("__name__"))
    if filename.startswith("<"):
        generated = filename == "<string>" and "__file__" in namespace
        return named and not generated and not filename.startswith("<nufunc")
    _NAMED[filename] = named
    return named


class _Lines:
    """The lines of a code object. (`frame.f_lineno` walks the table from its beginning: a long function, in which every
    line makes a node, would take time that is quadratic in its length.)"""

    __slots__ = ("code", "lines", "locations", "starts")

    def __init__(self, code: CodeType) -> None:
        self.code = code
        table = list(code.co_lines())
        self.starts = [start for start, _, _ in table]
        self.lines = [line for _, _, line in table]
        self.locations: list[Location | None] = [None] * len(table)

    def at(self, frame: FrameType) -> Location:
        """The line that a frame of this code is at."""
        k = bisect_right(self.starts, frame.f_lasti) - 1
        found = self.locations[k]
        if found is None:
            line = self.lines[k] or self.code.co_firstlineno
            found = self.locations[k] = Location(self.code.co_filename, line, self.code.co_qualname)
        return found


_LINES: dict[int, _Lines] = {}  # by id of the code, which the entry keeps alive


def _lines(code: CodeType) -> _Lines:
    if len(_LINES) >= 1024:
        _LINES.clear()
    lines = _LINES[id(code)] = _Lines(code)
    return lines

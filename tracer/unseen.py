"""Changes that no stand-in could refuse (globals, nonlocals, attributes, by C code), found after a call."""

from __future__ import annotations

import dis
from collections import deque
from types import CellType, CodeType, FunctionType
from typing import Any

from nufunc.ir.errors import Location, MutationError
from nufunc.tracer.captures import Path, source
from nufunc.tracer.containers import LOST, content, original_type
from nufunc.tracer.usercode import user_location

_MISSING = object()


class Unseen:
    """What was handed out in one trace, to compare with what is there after the call."""

    def __init__(self) -> None:
        self.views: list[tuple[dict[str, Any], dict[str, Any]]] = []  # raw storage, what was handed out
        self.codes: list[tuple[Any, CodeType]] = []  # the view that a function runs on, its code
        self.cells: list[tuple[CellType, object, CodeType, str]] = []
        self.functions: list[tuple[FunctionType, dict[str, Any], Path]] = []
        self.classes: list[tuple[type, dict[str, Any]]] = []
        self.instances: list[tuple[dict[str, Any], Path]] = []  # the own dictionaries of stand-ins
        self.containers: list[tuple[Any, list[Any], Path]] = []
        # Containers of which a variable holds one or a copy, depending on a traced condition, with the variable and the
        # place where that came to be: to change one of them would have to change the other.
        self.perhaps_same: list[tuple[Any, list[Any], str, Location | None]] = []

    def namespace(self, view: dict[str, Any], given: dict[str, Any]) -> None:
        """Watch the raw storage of a view of globals."""
        self.views.append((view, given))

    def check(self) -> None:
        """Raise `MutationError` for what the call changed: the change would be lost, or done once."""
        self._check_variables()
        for fn, attributes, path in self.functions:
            if _differ(vars(fn), attributes):
                _lost(f"an attribute of the function {fn.__qualname__} ({source(path)}) is assigned")
        for cls, members in self.classes:
            if _differ(vars(cls), members):
                _lost(f"an attribute of the class {cls.__qualname__} is assigned")
        for attributes, path in self.instances:
            if len(attributes) != 1:
                _lost(f"an attribute of a captured object ({source(path)}) is assigned")
        for container, items, path in self.containers:
            now = content(container)
            if len(now) != len(items) or any(a is not b for a, b in zip(now, items)):
                _lost(f"a captured {original_type(type(container)).__name__} ({source(path)}) is changed")
        for container, items, name, location in self.perhaps_same:
            now = _items(container)
            if len(now) != len(items) or any(a is not b for a, b in zip(now, items)):
                kind = original_type(type(container)).__name__
                raise MutationError(
                    f"a {kind} is changed after a traced condition decided whether {name} is that {kind} or another "
                    f"one; copy it there first",
                    location,
                )

    def may_be_same(self, container: Any, name: str, location: Location | None) -> None:
        """Watch a container of `perhaps_same`."""
        self.perhaps_same.append((container, _items(container), name, location))

    def _check_variables(self) -> None:
        for view, given in self.views:
            raw = dict(dict.items(view))
            for name in {**given, **raw}:
                if raw.get(name, _MISSING) is not given.get(name, _MISSING) and not is_dunder(name):
                    codes = [code for owner, code in self.codes if owner is view]
                    _lost(f"global {name!r} is assigned", _store("_GLOBAL", name, codes))
        for cell, content_given, code, name in self.cells:
            if not _holds(cell, content_given):
                _lost(f"nonlocal {name!r} is assigned", _store("_DEREF", name, [code]))


def _items(container: Any) -> list[Any]:
    return content(container) if isinstance(container, dict | list | deque) else list(vars(container).values())


def is_dunder(name: str) -> bool:
    """Whether a name is one of Python's own."""
    return name.startswith("__") and name.endswith("__")


def _lost(what: str, location: Location | None = None) -> None:
    raise MutationError(f"{what} {LOST}", location or user_location())


def _holds(cell: CellType, given: object) -> bool:
    try:
        return cell.cell_contents is given
    except ValueError:
        return False


def _differ(now: Any, before: dict[str, Any]) -> bool:
    """Whether a namespace has changed, but for names such as __slotnames__ that Python itself adds."""
    names = [name for name in now if not is_dunder(name)]
    return any(now[name] is not before.get(name, _MISSING) for name in names) or any(
        name not in now for name in before
    )


def _store(suffix: str, name: str, codes: list[CodeType]) -> Location | None:
    """The line of the first STORE or DELETE of a variable in code objects and those nested in them."""
    for code in codes:
        line = None
        for instruction in dis.get_instructions(code):
            start = instruction.positions.lineno if instruction.positions is not None else None
            line = start or line
            if instruction.opname in ("STORE" + suffix, "DELETE" + suffix) and instruction.argval == name:
                return Location(code.co_filename, line or code.co_firstlineno, code.co_qualname)
        found = _store(suffix, name, [const for const in code.co_consts if isinstance(const, CodeType)])
        if found is not None:
            return found
    return None

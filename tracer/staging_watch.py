"""Watch: notices what a staged branch or loop body changed besides variables and arrays, which would happen once."""

from __future__ import annotations

import collections
import collections.abc
import functools
import operator
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from types import CellType, FrameType, FunctionType, MethodType
from typing import Any

from nufunc.ir.errors import Location, MutationError
from nufunc.tracer.array import Array
from nufunc.tracer.containers import original_type
from nufunc.tracer.usercode import is_user_class, is_user_frame, user_location

_ATOMS = (Array, int, float, complex, str, bytes, type(None), range, slice, types.ModuleType, type)
_EMPTY = object()


class Watch:
    """The containers, objects and cells that functions can reach, as they are now."""

    def __init__(self, functions: Sequence[Any], variables: list[CellType]) -> None:
        self.variables = {id(c) for c in variables}  # these are staged: changes of them are seen elsewhere
        self.seen: dict[int, tuple[Any, str, Any]] = {}  # by id: the object, its name, what it holds
        pending: list[tuple[Any, str]] = [(f, "") for f in reversed(functions)]
        while pending:
            obj, name = pending.pop()
            if isinstance(obj, _ATOMS) or id(obj) in self.seen:
                continue
            inner = _content(obj)
            if inner is not None:
                self.seen[id(obj)] = (obj, name, inner)
                pending.extend((x, _named(obj, k, name)) for k, x in enumerate(inner))

    def holds(self, obj: Any) -> bool:
        """Whether an object existed before."""
        return id(obj) in self.seen

    def check(self, again: Callable[[], Any], what: str) -> None:
        """Raise `MutationError` where something has changed. `again` repeats what was run, to find the line."""
        changed = self.changed()
        if changed is None:
            return
        self._restore()
        location = self._find_line(again) or user_location()
        raise MutationError(
            f"{changed} is changed in {what}, whose condition is traced: all paths are traced, so that this would "
            "happen once, while tracing, whatever the values are; assign a new value to a variable instead, or write "
            "into an array",
            location,
        )

    def changed(self) -> str | None:
        """What is no longer as it was."""
        for obj, name, content in self.seen.values():
            if id(obj) in self.variables or isinstance(obj, tuple):
                continue
            now = _content(obj) or []
            if len(now) != len(content) or any(a is not b for a, b in zip(now, content)):
                return _description(obj, name)
        return None

    def _restore(self) -> None:
        for obj, _, content in self.seen.values():
            if id(obj) in self.variables:
                continue
            if isinstance(obj, CellType):
                if content:
                    obj.cell_contents = content[0]
                elif _content(obj):
                    del obj.cell_contents
            elif isinstance(obj, list | collections.deque):
                obj.clear()
                obj.extend(content)
            elif isinstance(obj, dict):
                _restore_dict(obj, content)
            elif isinstance(obj, set):
                obj.clear()
                obj.update(content)
            elif hasattr(obj, "__dict__") and not isinstance(obj, FunctionType | MethodType):
                _restore_dict(object.__getattribute__(obj, "__dict__"), content)

    def _find_line(self, again: Callable[[], Any]) -> Location | None:
        """Run once more and look after every line of user code."""
        last: list[Location] = []
        found: list[Location] = []

        def look(frame: FrameType, event: str, argument: Any) -> Any:
            if not is_user_frame(frame):
                return look if event == "call" else None
            if last and not found and self.changed() is not None:
                found.append(last[-1])
            if event == "line":
                code = frame.f_code
                last[:] = [Location(code.co_filename, frame.f_lineno, code.co_qualname)]
            return look

        before = sys.gettrace()
        sys.settrace(look)
        try:
            again()
        finally:
            sys.settrace(before)
        if not found and last and self.changed() is not None:
            found.append(last[-1])
        return found[0] if found else None


def _restore_dict(target: dict[Any, Any], content: list[Any]) -> None:
    half = len(content) // 2
    target.clear()
    target.update(zip(content[:half], content[half:]))


def _content(obj: Any) -> list[Any] | None:
    """What an object holds, to compare by identity; None for what is not looked into."""
    if isinstance(obj, CellType):
        try:
            return [obj.cell_contents]
        except ValueError:
            return []
    if isinstance(obj, dict):
        return [*dict.keys(obj), *dict.values(obj)]
    if isinstance(obj, list | tuple | set | collections.deque):
        return list(iter(obj)) if not isinstance(obj, list) else list(list.__iter__(obj))
    if isinstance(obj, FunctionType):
        return [*(obj.__closure__ or ()), *(obj.__defaults__ or ())] if _is_traced(obj) else None
    if isinstance(obj, MethodType):
        return [obj.__self__, obj.__func__]
    if isinstance(obj, functools.partial):
        return [obj.func, obj.args, obj.keywords]
    cls = type(obj)
    if original_type(cls) is not cls or is_user_class(cls) or cls is types.SimpleNamespace:
        attributes = getattr(obj, "__dict__", None)
        return [*attributes.keys(), *attributes.values()] if isinstance(attributes, dict) else None
    return _position(obj) if isinstance(obj, collections.abc.Iterator) else None


@functools.cache
def _small(number: int) -> tuple[int, ...]:
    return (number,)


def _position(iterator: Iterator[Any]) -> list[Any]:
    """Where an iterator stands."""
    if isinstance(iterator, types.GeneratorType):
        frame = iterator.gi_frame
        return [_small(-1 if frame is None else frame.f_lasti)]
    return [_small(operator.length_hint(iterator, -1))]


def _is_traced(fn: FunctionType) -> bool:
    """Whether a function is the user's, as it is traced, or one of staging's around those."""
    from nufunc.tracer.view import GlobalsView

    return type(fn.__globals__) is GlobalsView or fn.__module__ == "nufunc.tracer.staging_run"


def _named(obj: Any, index: int, name: str) -> str:
    """What the item at `index` of an object's content is called."""
    if isinstance(obj, FunctionType):
        names = obj.__code__.co_freevars
        return names[index] if index < len(names) and not names[index].startswith("@") else name
    return name


def _description(obj: Any, name: str) -> str:
    if isinstance(obj, CellType):
        return f"the nonlocal variable {name!r}"
    kind = original_type(type(obj)).__qualname__
    if isinstance(obj, collections.abc.Iterator):
        return f"an iterator ({name})" if name else "an iterator"
    if isinstance(obj, list | dict | set | collections.deque):
        return f"the {kind} {name!r}" if name else f"a {kind}"
    return f"an attribute of {name!r}, of class {kind}," if name else f"an attribute of a {kind}"

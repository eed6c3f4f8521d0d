"""What a traced function leaves behind: results that can be handed out at every call, arguments that it changed."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, Location, MutationError
from nufunc.runtime.subgraph import Slot
from nufunc.tracer import tree
from nufunc.tracer.containers import original_type

# Objects of these cannot change and hold no traced value.
_LASTING = (
    Slot, type(None), bool, int, float, complex, str, bytes, range, slice, types.EllipsisType, np.generic, np.dtype,
    type, enum.Enum, np.ufunc, types.BuiltinFunctionType, types.ModuleType,
)  # fmt: skip


def lasting(
    template: Sequence[Any], leaves: Sequence[Any], given: Sequence[Any], location: Location | None
) -> tuple[Any, ...]:
    """The leaves of a result with the caller's own static arguments in the place of their stand-ins.

    `leaves` are the arguments and `given` what the function got for them. Other objects are refused: one made while
    tracing would be handed out at every call, with whatever the caller does to it in between, and may hold traced
    values.
    """
    own = {id(stand_in): leaf for leaf, stand_in in zip(leaves, given, strict=True)}
    return tuple(x if _lasts(x) else _callers_own(x, own, location) for x in template)


def _lasts(x: Any) -> bool:
    if isinstance(x, frozenset):
        return all(map(_lasts, x))
    return isinstance(x, _LASTING)


def _callers_own(x: Any, own: dict[int, Any], location: Location | None) -> Any:
    if id(x) in own:
        return own[id(x)]
    name = original_type(type(x)).__qualname__
    raise ArgumentTypeError(
        f"the function returns an object of type {name}, which would be the same one at every call; return arrays, "
        "numbers, and lists, tuples, dicts and dataclasses of these, or register the class with nf.tree.register",
        location,
    )


# -- containers among the arguments


def snapshot(args: Any) -> list[tuple[Any, list[Any]]]:
    """The lists, dicts and dataclass objects in a tree of arguments, each with its present content."""
    return [(node, content) for node, content in _nodes(args)]


def refuse_lost_changes(before: list[tuple[Any, list[Any]]], result: Any, name: str, location: Location | None) -> None:
    """Raise where a function changed a list, dict or dataclass object among its arguments that it does not return.

    It got a copy of the caller's, so that the change would be lost.
    """
    changed = [node for node, content in before if not _same(_content(node), content)]
    if changed:
        returned = {id(node) for node, _ in _nodes(result)}
        for node in changed:
            if id(node) not in returned:
                kind = original_type(type(node)).__qualname__
                raise MutationError(
                    f"{name} changes a {kind} that it got as an argument, and does not return it: the caller's {kind} "
                    "would stay as it was; build a new one and return it (arrays in it may be written in place)",
                    location,
                )


def _nodes(node: Any) -> Iterator[tuple[Any, list[Any]]]:
    content = _content(node)
    if content is not None and not isinstance(node, tuple):
        yield node, content
    for item in content or ():
        yield from _nodes(item)


def _content(node: Any) -> Any:
    if isinstance(node, dict):
        return [*node.keys(), *node.values()]
    if isinstance(node, list | tuple):
        return list(node)
    if hasattr(type(node), "__dataclass_fields__") or tree.is_object(node):
        return list(vars(node).values())
    return None


def _same(now: list[Any], then: list[Any]) -> bool:
    return len(now) == len(then) and all(a is b for a, b in zip(now, then, strict=True))

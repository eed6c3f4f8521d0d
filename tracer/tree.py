"""Pytrees: nested dicts, lists, tuples, namedtuples, dataclasses, None and registered types, through optree."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import optree

from nufunc.ir.errors import ArgumentTypeError
from nufunc.tracer.containers import is_captured_node, original_type, plain
from nufunc.tracer.standins import as_original
from nufunc.tracer.view import rebuilt_type, user_location

NAMESPACE = "nufunc"
TreeDef = optree.PyTreeSpec


def register(
    cls: Any, to_children: Callable[[Any], tuple[Iterable[Any], Any]], from_children: Callable[[Any, Any], Any]
) -> Any:
    """Make instances of `cls` tree nodes.

    `to_children(obj)` gives (children, aux) with hashable, comparable aux; `from_children(aux, children)` the object
    again.

    >>> import nufunc as nf
    >>> class Pair:
    ...     def __init__(self, a, b): self.a, self.b = a, b
    >>> _ = nf.tree.register(Pair, lambda p: ((p.a, p.b), None), lambda _, children: Pair(*children))
    >>> nf.tree.leaves(Pair(1, [2, 3]))
    [1, 2, 3]
    """
    optree.register_pytree_node(cls, to_children, from_children, namespace=NAMESPACE)
    return cls


def _register_dataclass(cls: type) -> None:
    names = tuple(f.name for f in dataclasses.fields(cls))

    def to_children(obj: Any) -> tuple[tuple[Any, ...], Any, tuple[str, ...]]:
        for name in getattr(obj, "__dict__", ()):
            if name not in names and _is_plain(cls, name):
                raise ArgumentTypeError(
                    f"attribute {name!r} of a {cls.__qualname__} hides the one of its class, but is no field of the "
                    f"dataclass and would be lost; declare it with a type ({name}: float = ...) or make it an argument",
                    user_location(),
                )
        return tuple(getattr(obj, n) for n in names), None, names

    def from_children(_: Any, children: Iterable[Any]) -> Any:
        # not through __init__, which may check or convert what a traced value cannot satisfy
        obj = object.__new__(rebuilt_type(cls))
        for name, child in zip(names, children, strict=True):
            object.__setattr__(obj, name, child)
        return obj

    optree.register_pytree_node(cls, to_children, from_children, namespace=NAMESPACE)


_OBJECTS: set[type] = set()  # classes registered by `register_object`


def register_object(
    cls: type,
    split: Callable[[Any], tuple[tuple[Any, ...], Any, tuple[str, ...]]],
    join: Callable[[type, Any, Iterable[Any]], Any],
) -> None:
    """Make instances of `cls` tree nodes that keep their class as traced code sees it.

    `split(obj)` gives (children, aux, the children's names); `join(class, aux, children)` the object again.
    """
    if original_type(cls) is cls:  # the form of a class that traced code sees is no class of its own
        _OBJECTS.add(cls)
        optree.register_pytree_node(
            cls, split, lambda aux, children: join(rebuilt_type(cls), aux, children), namespace=NAMESPACE
        )


def is_object(x: Any) -> bool:
    """Whether x is of a class registered by `register_object`, or of such a class as traced code sees it."""
    return original_type(type(x)) in _OBJECTS


def _is_plain(cls: type, name: str) -> bool:
    """Whether a class has an attribute of this name that is no descriptor (as a cached property is)."""
    return hasattr(cls, name) and not hasattr(type(inspect.getattr_static(cls, name)), "__get__")


def _is_node(leaf: Any) -> bool:
    """Whether a leaf is a dataclass object that is not registered yet, traced code's form of a registered one, or
    that of a captured container.
    """
    return hasattr(leaf, "__dataclass_fields__") or is_object(leaf) or is_captured_node(leaf)


def _known(tree: Any) -> Any:
    """The tree with every dataclass in it registered, objects of classes as traced code sees them as the user's own,
    and captured containers as plain ones.
    """
    found = [
        x
        for x in optree.tree_leaves(tree, namespace=NAMESPACE)
        if _is_node(x) and not isinstance(x, type)
    ]
    if not found:
        return tree
    if any(_own(x) is not x for x in found):
        return _known(optree.tree_map(_own, tree, namespace=NAMESPACE))
    for cls in {type(x) for x in found}:
        _register_dataclass(cls)
    return _known(tree)


def _own(x: Any) -> Any:
    return plain(x) if is_captured_node(x) else as_original(x)


def flatten(tree: Any) -> tuple[list[Any], TreeDef]:
    """The leaves of a tree, and its structure.

    >>> leaves, structure = flatten({"b": 2, "a": (1, None)})
    >>> leaves
    [1, 2]
    >>> unflatten(structure, [10, 20])
    {'b': 20, 'a': (10, None)}
    """
    leaves, structure = optree.tree_flatten(tree, namespace=NAMESPACE)
    for leaf in leaves:
        if _is_node(leaf) and not isinstance(leaf, type):
            return optree.tree_flatten(_known(tree), namespace=NAMESPACE)
    return leaves, structure


def unflatten(structure: TreeDef, leaves: Iterable[Any]) -> Any:
    """The tree of this structure with these leaves."""
    return optree.tree_unflatten(structure, leaves)


def leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, in order (dict entries by sorted key)."""
    return flatten(tree)[0]


def structure(tree: Any) -> TreeDef:
    """The structure of a tree: comparable, hashable, independent of the leaves."""
    return flatten(tree)[1]


def map(func: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """The tree of func's results on the leaves of trees of one structure.

    >>> map(lambda a, b: a + b, {"x": 1, "y": [2]}, {"x": 10, "y": [20]})
    {'x': 11, 'y': [22]}
    """
    first, spec = flatten(tree)
    others = [spec.flatten_up_to(_known(r)) for r in rest]
    return unflatten(spec, [func(*items) for items in zip(first, *others, strict=True)])


def paths(tree: Any) -> list[str]:
    """A readable path per leaf, such as `['w'][0]` or `.bias`."""
    accessors, _, _ = optree.tree_flatten_with_accessor(_known(tree), namespace=NAMESPACE)
    return [a.codify("") for a in accessors]


def broadcast_prefix(prefix: Any, tree: Any) -> list[Any]:
    """One item of `prefix` per leaf of `tree`, where `prefix` may end above the leaves. None counts as an item.

    ValueError if the structures do not fit.
    """
    tree = _known(tree)
    return _prefix(prefix, tree, optree.tree_structure(tree, namespace=NAMESPACE))


def _prefix(prefix: Any, tree: Any, spec: TreeDef) -> list[Any]:
    if prefix is None or isinstance(prefix, int):
        return [prefix] * spec.num_leaves
    if spec.is_leaf():
        raise ValueError("a structure stands where the tree has a leaf")
    items, children = _one_level(prefix), _one_level(tree)
    if items is None or children is None or items[0] != children[0] or len(items[1]) != len(children[1]):
        raise ValueError("the structures differ")
    return [x for p, t, s in zip(items[1], children[1], spec.children(), strict=True) for x in _prefix(p, t, s)]


def _one_level(tree: Any) -> tuple[Any, list[Any]] | None:
    """The kind of a node (list and tuple alike, dicts by their keys) and its children; None for a leaf."""
    children, spec = optree.tree_flatten(tree, is_leaf=lambda x: x is not tree, none_is_leaf=True, namespace=NAMESPACE)
    if spec.is_leaf():
        return None
    if isinstance(tree, dict):
        return ("dict", tuple(sorted(tree, key=str))), children
    if isinstance(tree, list | tuple):
        return "sequence", children
    return type(tree), children

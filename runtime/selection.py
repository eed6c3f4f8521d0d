"""Which arguments are differentiated: argnums and argnames, and the checks of inputs, outputs and tangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nufunc.ir.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from nufunc.ir.types import ArrayType, is_complex, is_inexact
from nufunc.runtime.subgraph import Sub, array_leaves, as_array, is_number, trace_sub
from nufunc.runtime.transform import Callee, leaf_names, parameter_names
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.levels import at_level
from nufunc.tracer.trace import require
from nufunc.tracer.usercode import user_location


class Selection(NamedTuple):
    """The differentiated leaves of a call, and how to call again with others in their place."""

    arrays: list[Array]
    names: list[str]
    structures: list[tree.TreeDef]
    bare: bool
    rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]

    def pack(self, values: Sequence[Any]) -> Any:
        """One tree per selected argument: bare for an int argnums, else a tuple."""
        trees, start = [], 0
        for spec in self.structures:
            trees.append(tree.unflatten(spec, values[start : start + spec.num_leaves]))
            start += spec.num_leaves
        return trees[0] if self.bare else tuple(trees)


def normal_argnums(argnums: Any, count: int, transform: str) -> tuple[int, ...]:
    """argnums as non-negative, distinct ints; the errors name argnums."""
    if isinstance(argnums, bool) or not isinstance(argnums, int | tuple):
        raise ArgumentTypeError(
            f"{transform}: argnums must be int or Tuple[int, ...], got {type(argnums).__name__}", user_location()
        )
    items = argnums if isinstance(argnums, tuple) else (argnums,)
    if not items:
        raise ArgumentError(f"{transform}: argnums must be non-empty", user_location())
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int):
            raise ArgumentTypeError(f"{transform}: argnum must be int, got {type(item).__name__}", user_location())
        if not -count <= item < count:
            raise ArgumentError(f"{transform}: Got argnum={item}, but only {count} positional inputs", user_location())
    wrapped = tuple(i % count for i in items)
    if len(set(wrapped)) != len(wrapped):
        raise ArgumentError(f"{transform}: argnums elements must be unique, got {argnums}", user_location())
    return wrapped


def select(
    callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], argnums: Any, argnames: Any, transform: str
) -> Selection:
    """The leaves that argnums (or argnames) choose, checked to be differentiable."""
    keys: tuple[int | str, ...]
    if argnames is None:
        bare = isinstance(argnums, int)
        keys = normal_argnums(argnums, len(args), transform)
    else:
        bare = isinstance(argnames, str)
        keys = _named(callee, args, kwargs, (argnames,) if isinstance(argnames, str) else argnames, transform)
    leaves: list[Any] = []
    names: list[str] = []
    structures = []
    for key in keys:
        arg = args[key] if isinstance(key, int) else kwargs[key]
        found, spec = tree.flatten(arg)
        leaves += found
        names += leaf_names(callee, key, arg) if isinstance(key, int) else [repr(key) + p for p in tree.paths(arg)]
        structures.append(spec)
    arrays = differentiable(leaves, names, transform)

    def rebuild(values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        new_args, new_kwargs, start = list(args), dict(kwargs), 0
        for key, spec in zip(keys, structures, strict=True):
            item = tree.unflatten(spec, values[start : start + spec.num_leaves])
            start += spec.num_leaves
            if isinstance(key, int):
                new_args[key] = item
            else:
                new_kwargs[key] = item
        return tuple(new_args), new_kwargs

    return Selection(arrays, names, structures, bare, rebuild)


def _named(
    callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], argnames: Any, transform: str
) -> tuple[int | str, ...]:
    if not isinstance(argnames, tuple | list) or not all(isinstance(n, str) for n in argnames) or not argnames:
        raise ArgumentTypeError(f"{transform}: argnames must be a name or a tuple of names", user_location())
    positional = parameter_names(callee.origin)[: len(args)]
    keys: list[int | str] = []
    for name in argnames:
        if name in kwargs:
            keys.append(name)
        elif name in positional:
            keys.append(positional.index(name))
        else:
            raise ArgumentError(f"{transform}: argnames has {name!r}, but no such argument is given", user_location())
    if len(set(keys)) != len(keys):
        raise ArgumentError(f"{transform}: argnames must be unique, got {argnames}", user_location())
    return tuple(keys)


def differentiable(leaves: Sequence[Any], names: Sequence[str], transform: str) -> list[Array]:
    """The leaves as Arrays of float or complex dtype; the error names the first that is not."""
    for leaf, name in zip(leaves, names, strict=True):
        dtype = getattr(leaf, "dtype", None)
        if not is_number(leaf):
            raise ArgumentTypeError(
                f"{transform}: argument {name} is of type {type(leaf).__name__}, which cannot be "
                f"differentiated; choose "
                "other arguments with argnums",
                user_location(),
            )
        if isinstance(leaf, bool | int) or (dtype is not None and not is_inexact(dtype)):
            kind = dtype if dtype is not None else type(leaf).__name__
            raise DTypeError(
                f"{transform}: argument {name} is {kind}, but derivatives need float or complex inputs; convert "
                f"it, for "
                "instance with x.astype(float), or choose other arguments with argnums",
                user_location(),
            )
    return [as_array(leaf) for leaf in leaves]


def split_aux(result: Any, has_aux: bool, callee: Callee) -> tuple[Any, Any]:
    """(output, aux) of the user's function."""
    if not has_aux:
        return result, None
    if type(result) is not tuple or len(result) != 2:
        raise ArgumentTypeError(
            f"output of function {callee.name} should be a tuple: (output, aux) if has_aux is True", callee.location()
        )
    return result


def trace_with_aux(
    callee: Callee,
    arrays: Sequence[Array],
    rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]],
    has_aux: bool,
    label: str,
) -> tuple[Sub, int]:
    """Trace callee on the selected leaves for the transform `label`; gives the graph and how many of its leaves belong
    to the output (not aux).
    """
    count = 0

    def call(params: list[Array]) -> Any:
        nonlocal count
        at_level(require(), label, arrays)
        args, kwargs = rebuild(params)
        output, aux = split_aux(callee(*args, **kwargs), has_aux, callee)
        leaves = tree.leaves(output)
        count = len(leaves)
        for leaf in leaves:
            if not is_number(leaf):
                raise ArgumentTypeError(
                    f"{callee.name} must return only arrays, got type {type(leaf).__name__}", callee.location()
                )
        if not leaves:
            raise ArgumentTypeError(f"{callee.name} returned no array: expected a non-empty output", callee.location())
        return (output, aux) if has_aux else (output,)

    return trace_sub(call, arrays, callee.name, numbers=True), count


def check_inexact(sub: Sub, count: int, callee: Callee, message: str) -> None:
    for k in range(count):
        if not is_inexact(sub.graph.outputs[k].dtype):
            raise DTypeError(f"{message}, but output {k} is {sub.graph.outputs[k].dtype}", callee.location())


def matching(leaves: Sequence[Any], types: Sequence[ArrayType], names: Sequence[str], label: str) -> list[Array]:
    """The leaves as Arrays of these types; Python scalars take the dtype, anything else must have it."""
    arrays = array_leaves(leaves, names, f"{label}: tangents and cotangents")
    out = []
    for array, want, name in zip(arrays, types, names, strict=True):
        if array.shape != want.shape:
            raise ShapeError(f"{label}: {name} has shape {array.shape}, but should have {want.shape}", user_location())
        if array.dtype != want.dtype:
            if not array.weak or (is_complex(array.dtype) and not is_complex(want.dtype)):
                raise DTypeError(
                    f"{label}: {name} has dtype {array.dtype}, but should have {want.dtype}", user_location()
                )
            array = require().wrap(require().b.astype(require().lift(array), want.dtype), scalar=True)
        out.append(array)
    return out

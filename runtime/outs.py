"""Arrays that a caller gives for the results of a call (`out=`): which leaf takes which result, and that it can."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from nufunc.ir.types import ArrayType
from nufunc.runtime.executable import Executable
from nufunc.runtime.subgraph import Slot
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.usercode import user_location

_HARD = 10_000  # steps after which two interleaved arrays are taken to overlap


def has_own_out(func: Callable[..., Any]) -> bool:
    """Whether `out` is an argument of the function itself. Where nobody knows, as for some C functions, it is."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind is p.VAR_KEYWORD or (p.name == "out" and p.kind is not p.POSITIONAL_ONLY) for p in parameters)


def matching_outs(executable: Executable, out: Any) -> list[np.ndarray]:
    """The arrays of `out`, one per result of a call, or an error that names the leaf.

    They may overlap the arguments: results are then computed apart and copied. They may not overlap each other.
    """
    if len(executable.written) > len(executable.graph.updates):
        raise ArgumentError(
            "out: the results of this call stand in donated arguments; give either out= or donate_argnums",
            user_location(),
        )
    leaves, spec = tree.flatten(out)
    if spec != executable.structure:
        raise ArgumentTypeError(
            f"out: expected a tree like the result of {executable.name}, {executable.structure}, got {spec}",
            user_location(),
        )
    names = [f"out{path}" for path in tree.paths(out)]
    found: dict[int, tuple[np.ndarray, str]] = {}
    for leaf, expected, name in zip(leaves, executable.leaves, names, strict=True):
        if isinstance(expected, Slot):
            on_device = executable.device is not None and not isinstance(leaf, np.ndarray)
            want = executable.graph.outputs[expected.index].type
            leaf = _of_device(leaf, want, name) if on_device else leaf
            _check(leaf, want, name, executable.name, on_device)
            found[expected.index] = leaf, name
        elif leaf is not expected and leaf != expected:
            raise ArgumentError(f"{name}: {executable.name} returns {expected!r} here, got {leaf!r}", user_location())
    given = [found[k] for k in range(executable.num_results)]
    if executable.device is not None:
        from nufunc.runtime.cuda.outs import adopted_outs

        return adopted_outs(given, executable.device)
    for k, (array, name) in enumerate(given):
        for other, other_name in given[:k]:
            if _share(array, other):
                raise ArgumentError(f"{name} and {other_name} share memory", user_location())
    return [array for array, _ in given]


def _of_device(leaf: Any, want: ArrayType, name: str) -> Any:
    """An array on a device as ours, which has NumPy's dtype; torch's tensors have not, and others may have no shape."""
    from nufunc.runtime.cuda.interop import adopted

    found = adopted(leaf)
    if found is None:
        raise ArgumentTypeError(f"{name}: expected an array {want}, got {type(leaf).__name__}", user_location())
    return found


def _check(leaf: Any, want: ArrayType, name: str, func: str, on_device: bool) -> None:
    if not on_device and (not isinstance(leaf, np.ndarray) or isinstance(leaf, np.ma.MaskedArray | np.matrix)):
        where = " on a device, and the call runs on the host" if hasattr(type(leaf), "__cuda_array_interface__") else ""
        raise ArgumentTypeError(
            f"{name}: expected an array {want}, got {type(leaf).__name__}{where}", user_location()
        )
    if leaf.shape != want.shape:
        raise ShapeError(
            f"{name}: {func} returns an array of shape {want.shape} here, got {leaf.shape}", user_location()
        )
    if leaf.dtype != want.dtype:
        raise DTypeError(
            f"{name}: {func} returns an array of dtype {want.dtype} here, got {leaf.dtype}", user_location()
        )
    if not on_device and not leaf.flags.writeable:
        raise ArgumentError(f"{name} is read-only", user_location())


def _share(a: np.ndarray, b: np.ndarray) -> bool:
    exactly: Any = np.shares_memory  # NumPy's stubs know two values of max_work only
    try:
        return bool(exactly(a, b, max_work=_HARD))
    except np.exceptions.TooHardError:
        return True


def write_traced(result: Any, out: Any) -> Any:
    """`out` with the result stored, inside a traced function."""
    leaves, spec = tree.flatten(out)
    values, structure = tree.flatten(result)
    if spec != structure:
        raise ArgumentTypeError(f"out: expected a tree like the result, {structure}, got {spec}", user_location())
    for leaf, value, path in zip(leaves, values, tree.paths(out), strict=True):
        if not isinstance(leaf, Array):
            raise ArgumentTypeError(f"out{path}: expected a traced array, got {type(leaf).__name__}", user_location())
        _check_traced(leaf, value, f"out{path}")
        leaf[...] = value
    return out


def _check_traced(leaf: Array, value: Any, name: str) -> None:
    shape, dtype = np.shape(value), getattr(value, "dtype", None)
    if leaf.shape != shape:
        raise ShapeError(f"{name}: the result has shape {shape} here, got {leaf.shape}", user_location())
    if leaf.dtype != dtype:
        raise DTypeError(f"{name}: the result has dtype {dtype} here, got {leaf.dtype}", user_location())

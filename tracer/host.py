"""Python functions that compiled code calls back: from the stand-ins that traced code sees to the user's own objects,
and the nodes that call them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import ArgumentTypeError, TraceError
from nufunc.ir.prims.host import Host
from nufunc.ir.types import ArrayType
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array
from nufunc.tracer.trace import require
from nufunc.tracer.usercode import user_location
from nufunc.tracer.view import GlobalsView, active_session


def plain(obj: Any, what: str) -> Any:
    """What a stand-in stands for: a function to run as Python does, on NumPy arrays and the globals of that time.

    `what` is how messages call it. A traced value in it is refused: it has no value when the function runs.
    """
    session = active_session()
    known = None if session is None else session.original_of(obj)
    if known is not None:
        return known[0]
    if isinstance(obj, Array):
        raise TraceError(
            f"{what} uses a traced value of the enclosing function, which has no value in Python: pass it as an "
            "argument",
            user_location(),
        )
    if isinstance(obj, FunctionType) and isinstance(obj.__globals__, GlobalsView):
        cells = tuple(CellType(plain(cell.cell_contents, what)) for cell in obj.__closure__ or ())
        defaults = tuple(plain(x, what) for x in obj.__defaults__ or ())
        new = FunctionType(obj.__code__, obj.__globals__.base, obj.__name__, defaults or None, cells or None)
        new.__kwdefaults__ = {k: plain(x, what) for k, x in (obj.__kwdefaults__ or {}).items()} or None
        return new
    if isinstance(obj, MethodType):
        owner = plain(obj.__self__, what)
        return getattr(owner, obj.__name__) if owner is not obj.__self__ else obj
    if isinstance(obj, functools.partial):
        keywords = {k: plain(x, what) for k, x in obj.keywords.items()}
        return functools.partial(plain(obj.func, what), *(plain(x, what) for x in obj.args), **keywords)
    if type(obj) in (list, tuple, dict) and any(isinstance(x, Array) for x in tree.leaves(obj)):
        return plain(next(x for x in tree.leaves(obj) if isinstance(x, Array)), what)
    return getattr(obj, "original", None) or getattr(obj, "__wrapped__", obj) if callable(obj) else obj


def _call(host: Host, arrays: Sequence[Array]) -> list[Array]:
    trace = require()
    results = trace.b.emit("callback", [trace.lift(a) for a in arrays], {"host": host})
    return [trace.wrap(v) for v in results]


class _Put:
    """Puts arrays into a tree, at `places` among its leaves; the others are `kept`."""

    def __init__(self, kept: list[Any], places: list[int], structure: tree.TreeDef) -> None:
        self.kept, self.places, self.structure = kept, places, structure

    def __call__(self, items: Sequence[Any]) -> Any:
        new = list(self.kept)
        for k, item in zip(self.places, items, strict=True):
            new[k] = item
        return tree.unflatten(self.structure, new)


def _split(values: Any) -> tuple[list[Array], _Put]:
    """The arrays in a tree, and what puts others in their place; everything else stays as it is."""
    leaves, structure = tree.flatten(values)
    places = [k for k, x in enumerate(leaves) if isinstance(x, Array | np.ndarray | np.generic | float | complex)]
    arrays = [as_array(leaves[k]) for k in places]
    kept = [None if k in places else plain(x, "a callback") for k, x in enumerate(leaves)]
    return arrays, _Put(kept, places, structure)


def pure_callback(func: Any, types: Sequence[ArrayType], structure: tree.TreeDef, args: Any, vectorized: bool) -> Any:
    """See `nufunc.pure_callback`; `types` are those of the leaves of the result."""
    name = getattr(func, "__name__", type(func).__name__)
    function = plain(func, f"the function {name} of pure_callback")
    arrays, put = _split(args)
    run = _Pure(name, function, put, [a.type for a in arrays], types, structure)
    return tree.unflatten(structure, _call(run.host(vectorized), arrays))


class _Pure:
    """The function of a `pure_callback` for arrays of these types. What a Host calls are objects and not closures, so
    that pickles of compiled functions hold them where they hold the user's functions.
    """

    def __init__(
        self, name: str, function: Any, put: _Put, operands: Sequence[ArrayType], results: Sequence[ArrayType],
        structure: tree.TreeDef,
    ) -> None:  # fmt: skip
        self.name, self.function, self.put = name, function, put
        self.operands, self.results, self.structure = list(operands), list(results), structure

    def host(self, vectorized: bool) -> Host:
        return Host(self.name, self, self.operands, self.results, self.batch if vectorized else None)

    def __call__(self, *values: np.ndarray) -> list[np.ndarray]:
        given = self.function(*self.put([v if v.ndim else v[()] for v in values]))
        try:
            leaves = self.structure.flatten_up_to(given)
        except ValueError:
            raise ArgumentTypeError(
                f"pure_callback: {self.name} must return a tree of the structure {self.structure}, got "
                f"{tree.structure(given)}"
            ) from None
        return [_result(self.name, leaf, want) for leaf, want in zip(leaves, self.results, strict=True)]

    def batch(self, size: int, batched: Sequence[bool]) -> Host:
        # every array has the lanes in front, as the function expects them of all its arguments
        operands, results = ([t.batched(size) for t in types] for types in (self.operands, self.results))
        return _Pure(self.name, self.function, self.put, operands, results, self.structure).host(True)


def _result(name: str, leaf: Any, want: ArrayType) -> np.ndarray:
    array = np.asarray(leaf)
    if array.shape != want.shape or not promotion.can_cast(array.dtype, want.dtype, "same_kind"):
        raise ArgumentTypeError(
            f"pure_callback: {name} must return an array of shape {want.shape} and dtype {want.dtype}, got shape "
            f"{array.shape} and dtype {array.dtype}"
        )
    return np.asarray(array, want.dtype, order="C")


def effect(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> None:
    """Call a Python function at this point, at every run, in order; once per lane under vmap."""
    function = plain(func, what)
    arrays, put = _split((args, kwargs))
    _call(Host(what, _Effect(function, put), [a.type for a in arrays], ()), arrays)


class _Effect:
    """A function that is called for its effect."""

    def __init__(self, function: Any, put: _Put) -> None:
        self.function, self.put = function, put

    def __call__(self, *values: np.ndarray) -> list[np.ndarray]:
        given, named = self.put([v if v.ndim else v[()] for v in values])
        self.function(*given, **named)
        return []

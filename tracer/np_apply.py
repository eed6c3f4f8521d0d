"""Functions that take a function: apply_along_axis, apply_over_axes, piecewise, vectorize, frompyfunc."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError
from nufunc.ir.types import BOOL
from nufunc.tracer import tree
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.np_core import as_array, broadcast_shapes, fail, has_traced, is_scalar, normal_axis, result_dtype
from nufunc.tracer.np_creation import zeros, zeros_like
from nufunc.tracer.np_shape import broadcast_to, expand_dims, moveaxis
from nufunc.tracer.trace import current


def _mapped(function: Callable[..., Any], rows: Sequence[Array], count: int) -> Any:
    """The function of each row, results stacked; written out where there are few."""
    from nufunc.tracer.control import map
    from nufunc.tracer.np_join import stack

    if count > 2:
        return map(lambda items: function(*items), tuple(rows))
    results = [function(*[row[k] for row in rows]) for k in range(count)]
    structure = tree.structure(results[0])
    columns = zip(*[tree.leaves(r) for r in results], strict=True)
    return tree.unflatten(structure, [stack([as_array(part) for part in column]) for column in columns])


def apply_along_axis(func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, **kwargs: Any) -> Array:
    """numpy.apply_along_axis: the function is traced once, for all lines along the axis."""
    x = as_array(arr)
    index = normal_axis(axis, x.ndim)
    outer = (*x.shape[:index], *x.shape[index + 1 :])
    count = math.prod(outer)
    if not count:
        raise fail(ShapeError, "Cannot apply_along_axis when any iteration dimensions are 0")
    lines = moveaxis(x, index, -1).reshape((count, x.shape[index]))
    result = _mapped(lambda line: as_array(func1d(line, *args, **kwargs)), (lines,), count)
    inner = result.shape[1:]
    result = result.reshape((*outer, *inner))
    places = range(len(outer), len(outer) + len(inner))
    return moveaxis(result, tuple(places), tuple(range(index, index + len(inner)))) if inner else result


def apply_over_axes(func: Callable[..., Any], a: Any, axes: Any) -> Array:
    """numpy.apply_over_axes: the function of one axis after another, all kept."""
    value = as_array(a)
    for axis in np.atleast_1d(np.asarray(axes)).tolist():
        index = normal_axis(axis, value.ndim)
        result = as_array(func(value, index))
        if result.ndim != value.ndim:
            result = expand_dims(result, index)
            if result.ndim != value.ndim:
                raise fail(ShapeError, "function is not returning an array of the correct shape")
        value = result
    return value


def piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Array:
    """numpy.piecewise: each function is computed with, and differentiated at, the elements of its condition alone."""
    source = as_array(x)
    conditions = _conditions(source, condlist)
    if len(funclist) == len(conditions) + 1:
        otherwise = ~functools.reduce(lambda p, q: p | q, conditions)
        conditions = [*conditions, otherwise]
    elif len(funclist) != len(conditions):
        raise fail(
            ShapeError,
            f"with {len(conditions)} condition(s), either {len(conditions)} or {len(conditions) + 1} functions are "
            "expected",
        )
    if not source.ndim:
        return piecewise(source.reshape(1), [c.reshape(1) for c in conditions], funclist, *args, **kw).reshape(())
    result = zeros_like(source)
    for condition, function in zip(conditions, funclist, strict=True):
        result[condition] = function(source[condition], *args, **kw) if callable(function) else function
    return result


def _conditions(x: Array, condlist: Any) -> list[Array]:
    """The conditions as a list of masks; a single one needs no list around it."""
    first = condlist if type(condlist) is Array or is_scalar(condlist) else condlist[0]
    single = type(condlist) is Array and condlist.shape == x.shape
    if is_scalar(condlist) or single or (x.ndim and not isinstance(first, (list, tuple)) and not as_array(first).ndim):
        condlist = [condlist]
    return [as_array(c).astype(BOOL) for c in condlist]


# -- vectorize and frompyfunc


_ARGUMENTS = r"\([^()]*\)(?:,\([^()]*\))*"


def _parsed(signature: str) -> tuple[list[list[str]], list[list[str]]]:
    """The core dimensions of operands and results."""
    text = re.sub(r"\s+", "", signature)
    if not re.fullmatch(f"(?:{_ARGUMENTS})?->{_ARGUMENTS}", text):
        raise ValueError(f"not a valid gufunc signature: {signature}")
    sides = [side[1:-1].split("),(") if side else [] for side in text.split("->")]
    names = [[[n for n in part.split(",") if n] for part in side] for side in sides]
    return names[0], names[1]


class Vectorize:
    """numpy.vectorize in traced code: the function is traced once, for all elements, and not called for each."""

    def __init__(
        self,
        pyfunc: Any = np._NoValue,
        otypes: Any = None,
        doc: str | None = None,
        excluded: Any = None,
        cache: bool = False,
        signature: str | None = None,
    ) -> None:
        self.pyfunc, self.signature, self.cache = pyfunc, signature, cache
        self.otypes = otypes
        self.excluded = set() if excluded is None else set(excluded)
        self.__doc__ = doc if doc is not None else getattr(pyfunc, "__doc__", None)
        self.__name__ = getattr(pyfunc, "__name__", "vectorize")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.pyfunc is np._NoValue:  # used as a decorator with arguments
            return Vectorize(
                args[0], self.otypes, excluded=self.excluded, cache=self.cache, signature=self.signature
            )
        if current() is None and not has_traced((args, kwargs)):
            original: Any = np.vectorize(
                self.pyfunc, self.otypes, None, self.excluded, self.cache, self.signature
            )
            return original(*args, **kwargs)
        varied = [k for k in range(len(args)) if k not in self.excluded]
        named = [name for name in kwargs if name not in self.excluded]

        def call(*parts: Any) -> Any:
            positional = list(args)
            for k, part in zip(varied, parts):
                positional[k] = part
            return self.pyfunc(*positional, **{**kwargs, **dict(zip(named, parts[len(varied) :]))})

        operands = [as_array(x) for x in (*(args[k] for k in varied), *(kwargs[n] for n in named))]
        inner = [[] for _ in operands] if self.signature is None else _parsed(self.signature)[0]
        if len(inner) != len(operands):
            raise TypeError(f"wrong number of positional arguments: expected {len(inner)}, got {len(operands)}")
        if self.otypes and self.signature is None and not all(x.size for x in operands):
            shape = broadcast_shapes(*[x.shape for x in operands])
            made = [zeros(shape, check_dtype(t)) for t in self.otypes]
            return made[0] if len(made) == 1 else tuple(made)
        return self._typed(_over_loop(call, operands, [len(names) for names in inner]))

    def _typed(self, results: Any) -> Any:
        if self.otypes is None or (isinstance(self.otypes, str) and not self.otypes):
            return results
        kinds = [check_dtype(t) for t in self.otypes]
        if isinstance(results, tuple):
            return tuple(r.astype(k) for r, k in zip(results, kinds, strict=True))
        return results.astype(kinds[0])


def _over_loop(call: Callable[..., Any], operands: Sequence[Array], cores: Sequence[int]) -> Any:
    """The function over the loop dimensions, which broadcast; the last `cores` of each operand are the function's."""
    loops = [x.shape[: x.ndim - core] for x, core in zip(operands, cores, strict=True)]
    loop = broadcast_shapes(*loops)
    count = math.prod(loop)
    if not loop:
        return call(*[x if core else x[()] for x, core in zip(operands, cores, strict=True)])
    if not count:
        raise ValueError("cannot call `vectorize` on size 0 inputs unless `otypes` is set")
    rows = []
    for x, core in zip(operands, cores, strict=True):
        own = x.shape[x.ndim - core :]
        rows.append(broadcast_to(x, (*loop, *own)).reshape((count, *own)))
    results = _mapped(call, rows, count)
    shaped = [r.reshape((*loop, *r.shape[1:])) for r in (results if isinstance(results, tuple) else (results,))]
    return tuple(shaped) if isinstance(results, tuple) else shaped[0]


class Objects(np.lib.mixins.NDArrayOperatorsMixin):
    """What a ufunc made of a Python function gives: an array of Python objects, which only conversion gives a dtype."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def astype(self, dtype: Any) -> Array:
        return self._values.astype(dtype)

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse()

    __array_function__ = __array_ufunc__

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise fail(
            DTypeError, "the result of np.frompyfunc is an array of Python objects; convert it with x.astype(float)"
        )


def frompyfunc(func: Callable[..., Any], /, nin: int, nout: int, **kwargs: Any) -> Any:
    """numpy.frompyfunc: its results have no dtype until they are converted."""
    element = Vectorize(func)

    def call(*args: Any) -> Any:
        if current() is None and not has_traced(args):
            return np.frompyfunc(func, nin, nout, **kwargs)(*args)
        if len(args) != nin:
            raise TypeError(f"{nin} arguments, not {len(args)}")
        results = element(*args)
        return tuple(Objects(as_array(r)) for r in results) if nout > 1 else Objects(as_array(results))

    return call


def iterable(y: Any) -> bool:
    """numpy.iterable."""
    if type(y) is Array:
        return y.ndim > 0
    return np.iterable(y)


def common_type(*arrays: Any) -> type:
    """numpy.common_type: the inexact type of all arrays together."""
    kinds = [as_array(a).dtype for a in arrays]
    if any(k.kind == "b" for k in kinds):
        raise TypeError("can't get common type for non-numeric array")
    return result_dtype(*[np.dtype(np.float64) if k.kind in "iu" else k for k in kinds]).type


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    apply_along_axis, apply_over_axes, piecewise, iterable, common_type,
)  # fmt: skip

"""The ufuncs: a table from each NumPy ufunc to primitives, and the calling conventions they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL, ArrayType, is_float
from nufunc.tracer.array import Array
from nufunc.tracer.np_checks import casting as check_casting
from nufunc.tracer.np_checks import order as check_order
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    cast_output,
    cast_scalar,
    elementwise_strides,
    fail,
    is_scalar,
    operand_value,
    resolve_dtypes,
    store,
    wrap,
)
from nufunc.tracer.np_selection import Selection, selected_call
from nufunc.tracer.np_ufunc_rules import PRIMITIVES, Rule, rules
from nufunc.tracer.trace import current, require

# Comparisons and what they become when their operands change sides.
_MIRRORED = {
    "equal": "equal", "not_equal": "not_equal", "less": "greater", "less_equal": "greater_equal",
    "greater": "less", "greater_equal": "less_equal",
}  # fmt: skip


class TracedUfunc:
    """One ufunc of the namespace: callable as NumPy's, with its methods; `rule` emits the primitives."""

    def __init__(self, original: np.ufunc, rule: Rule) -> None:
        self.original = original
        self.rule = rule
        self.__name__ = original.__name__
        self.__doc__ = original.__doc__
        self.nin, self.nout, self.nargs = original.nin, original.nout, original.nargs
        self.ntypes, self.types = original.ntypes, original.types
        self.identity, self.signature = original.identity, original.signature
        self.compares = original.__name__ in _MIRRORED

    def __repr__(self) -> str:
        return f"<traced ufunc {self.__name__!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _concrete(args, kwargs):
            return _results(self.original(*args, **kwargs))
        if any(type(x) is Selection for x in args) and not kwargs:
            return selected_call(self, args)
        return apply(self, args, **kwargs)

    def reduce(
        self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False, **kw: Any
    ) -> Any:
        from nufunc.tracer import np_ufunc_methods

        if _concrete((array,), kw):
            return self.original.reduce(array, axis=axis, dtype=dtype, out=out, keepdims=keepdims, **kw)
        return np_ufunc_methods.reduce(self, array, axis, dtype, out, keepdims, **kw)

    def accumulate(self, array: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        from nufunc.tracer import np_ufunc_methods

        if _concrete((array,), {}):
            return self.original.accumulate(array, axis=axis, dtype=dtype, out=out)
        return np_ufunc_methods.accumulate(self, array, axis, dtype, out)

    def outer(self, A: Any, B: Any, /, **kwargs: Any) -> Any:
        if _concrete((A, B), kwargs):
            return self.original.outer(A, B, **kwargs)
        a, b = (as_array(np.asarray(x)[()] if is_scalar(x) else x) for x in (A, B))  # no scalar is weak here
        if is_scalar(B):  # a known exponent, say
            return self(a, np.asarray(B)[()], **kwargs)
        return self(a[(..., *(None,) * b.ndim)] if b.ndim else a, b, **kwargs)

    def at(self, a: Any, indices: Any, b: Any = None, /) -> None:
        from nufunc.tracer import np_writing

        if _concrete((a, indices, b), {}):
            self.original.at(a, indices, *(() if b is None else (b,)))
        else:
            np_writing.ufunc_at(self, a, indices, b)

    def reduceat(self, array: Any, indices: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        from nufunc.tracer import np_ufunc_methods

        if _concrete((array, indices), {}):
            return self.original.reduceat(array, indices, axis=axis, dtype=dtype, out=out)
        return np_ufunc_methods.reduceat(self, array, indices, axis, dtype, out)


def _results(results: Any) -> Any:
    """What NumPy computed; arrays become constants while tracing."""
    from nufunc.tracer.np_namespace import as_constants

    return as_constants(results)


def _concrete(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Nothing traced and no array: NumPy computes at once. Outside tracing that goes for arrays too."""
    for x in args:
        if type(x) is Array:
            return False
    outside = current() is None

    def plain(x: Any) -> bool:
        if isinstance(x, (list, tuple)):
            return all(plain(item) for item in x)
        return type(x) not in (Array, Selection) and (outside or not isinstance(x, np.ndarray))

    return all(plain(x) for x in args) and all(plain(x) for x in kwargs.values())


def apply(
    spec: TracedUfunc,
    inputs: Sequence[Any],
    out: Any = None,
    *,
    where: Any = True,
    dtype: Any = None,
    casting: str = "same_kind",
    order: str = "K",
    subok: bool = True,
    signature: Any = None,
    sig: Any = None,
    python: bool = False,
) -> Any:
    """Call a ufunc on operands of which some are traced. `python`: a Python operator, where weak stays
    weak.
    """
    nin = spec.nin
    if order != "K":
        check_order(order)
    if casting != "same_kind":
        check_casting(casting)
    if not isinstance(subok, bool):
        raise fail(DTypeError, "'subok' must be a boolean")
    if len(inputs) > spec.nargs:
        raise fail(
            DTypeError, f"{spec.__name__}() takes from {nin} to {spec.nargs} positional "
            f"arguments but {len(inputs)} were given"
        )
    if len(inputs) > nin:
        out, inputs = tuple(inputs[nin:]), inputs[:nin]
    if len(inputs) < nin:
        raise TypeError(f"{spec.__name__}() takes {nin} positional arguments but {len(inputs)} were given")
    operands = [x if type(x) is Array or is_scalar(x) else as_array(x) for x in inputs]
    if python:
        operands = [_python_bool(x, spec) if type(x) is Array and x.weak else x for x in operands]
    special = _comparison(spec, operands) if spec.compares else None
    if special is None:
        dtypes = resolve_dtypes(spec.original, operands, dtype, casting, signature if sig is None else sig)
    else:
        dtypes = (BOOL,) * 3
    shape = broadcast_shapes(*[x.shape if type(x) is Array else () for x in operands])
    trace = require()
    b = trace.b
    if special is not None:
        results: Any = special(b, trace, shape)
    else:
        power = _static_power(spec, b, trace, operands, dtypes, shape)
        if power is not None:
            results = power
        else:
            values = [operand_value(b, trace, x, d, shape) for x, d in zip(operands, dtypes)]
            results = spec.rule(b, *values)
    results = results if isinstance(results, tuple) else (results,)
    strides = elementwise_strides(shape, operands)
    weak = python and all(map(_weak, operands))
    known = _known_result(spec, operands, shape) if out is None and where is True else None
    outs = out if isinstance(out, tuple) else (out,) * len(results)
    return_values = []
    for value, target in zip(results, outs):
        if where is not True:
            if target is not None:  # what stays is not to be cast there and back
                value = cast_output(value, as_array(target).dtype, f"ufunc '{spec.__name__}'", casting)
            value = _masked(b, value, where, target)
        if target is None:
            result = wrap(value, strides=strides, weak=weak)
            if known is not None and len(results) == 1:
                result._constant = known.astype(value.dtype)
            elif not shape:
                result.affine = _affine(spec.__name__, operands, value.dtype)
            return_values.append(result)
        else:
            return_values.append(store(target, value, f"ufunc '{spec.__name__}'", casting))
    return return_values[0] if len(return_values) == 1 else tuple(return_values)


def _known_result(spec: TracedUfunc, operands: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """The result where all operands are static and small."""
    values = []
    for x in operands:
        if type(x) is not Array:
            values.append(x)
            continue
        known = x.known
        if known is None:
            return None
        values.append(known.item() if x.weak else known)
    if math.prod(shape) > 4096:
        return None
    with np.errstate(all="ignore"):
        return np.asarray(spec.original(*values)) if spec.nout == 1 else None


def _affine(name: str, operands: Sequence[Any], dtype: np.dtype) -> tuple[Array, int, int] | None:
    """origin * scale + offset of an int scalar computed from another one and static ints, for slices x[i : i
    + n].
    """
    if dtype.kind not in "iu" or name not in ("add", "subtract", "multiply") or len(operands) != 2:
        return None
    x, y = operands
    if type(y) is Array and type(x) is not Array and name != "subtract":
        x, y = y, x
    if type(x) is not Array or type(y) is Array or not isinstance(y, (int, np.integer)):
        return None
    origin, scale, offset = x.affine or (x, 1, 0)
    number = int(y)
    if name == "multiply":
        return origin, scale * number, offset * number
    return origin, scale, offset + (number if name == "add" else -number)


def _weak(x: Any) -> bool:
    return x.weak if type(x) is Array else not isinstance(x, np.generic)


_BIT_OPERATORS = ("bitwise_and", "bitwise_or", "bitwise_xor")


def _python_bool(x: Any, spec: TracedUfunc) -> Any:
    """The truth value of a comparison of Python numbers counts as an int in Python's arithmetic."""
    if type(x) is Array and x.weak and x.dtype == BOOL and spec.__name__ not in _BIT_OPERATORS:
        b = builder()
        return wrap(b.astype(require().lift(x), np.dtype(np.int64)), weak=True)
    return x


def _masked(b: Builder, value: Value, where: Any, target: Any) -> Value:
    """The result where the mask holds, else what stood in `out`; without `out` the rest is undefined (zero
    here).
    """
    mask = as_array(where)
    if mask.dtype != BOOL:
        raise fail(DTypeError, f"where must be a bool array, not {mask.dtype}")
    trace = require()
    shape = broadcast_shapes(value.shape, mask.shape, *(() if target is None else (as_array(target).shape,)))
    value = b.broadcast_to(value, shape)
    if target is None:
        other = b.zeros(value.type)
    else:
        other = b.broadcast_to(trace.lift(as_array(target)), shape)
    return b.select(b.broadcast_to(trace.lift(mask), shape), value, other)


# -- special cases of promotion


def _comparison(spec: TracedUfunc, operands: Sequence[Any]) -> Callable[..., Value] | None:
    """Comparisons that no common integer dtype can hold: with a Python int out of range, and int64 with
    uint64.
    """
    x, y = operands
    if type(x) is not Array:
        if type(y) is not Array or isinstance(x, (np.generic, bool)) or not isinstance(x, int):
            return None
        return _out_of_range(_MIRRORED[spec.__name__], y, x)
    if type(y) is not Array:
        if isinstance(y, (np.generic, bool)) or not isinstance(y, int):
            return None
        return _out_of_range(spec.__name__, x, y)
    if (
        x.weak
        or y.weak
        or {x.dtype.kind, y.dtype.kind} != {"i", "u"}
        or np.result_type(x.dtype, y.dtype).kind != "f"
    ):
        return None
    return _signed_unsigned(spec.__name__, x, y)


def _out_of_range(name: str, x: Array, limit: int) -> Callable[..., Value] | None:
    if x.dtype.kind not in "iu" or x.weak:
        return None
    info = np.iinfo(x.dtype)
    if info.min <= limit <= info.max:
        return None
    above = limit > info.max
    answer = {
        "equal": False, "not_equal": True, "less": above, "less_equal": above, "greater": not above,
        "greater_equal": not above,
    }[name]  # fmt: skip
    return lambda b, trace, shape: b.filled(answer, ArrayType(shape, BOOL))


def _signed_unsigned(name: str, x: Array, y: Array) -> Callable[..., Value]:
    """Compare an int64 with a uint64: a negative one is smaller, others compare as unsigned."""

    def rule(b: Builder, trace: Any, shape: tuple[int, ...]) -> Value:
        unsigned = np.dtype(np.uint64)
        values = [trace.lift(x), trace.lift(y)]
        signed = 0 if values[0].dtype.kind == "i" else 1
        wide = [b.broadcast_to(b.astype(v, unsigned), shape) for v in values]
        own = b.broadcast_to(values[signed], shape)
        negative = b.lt(own, b.like(own, 0))
        smaller = name in ("less", "less_equal") if signed == 0 else name in ("greater", "greater_equal")
        answer = b.filled(name == "not_equal" or smaller, ArrayType(shape, BOOL))
        return b.select(negative, answer, getattr(b, PRIMITIVES[name])(*wide))

    return rule


def _static_power(
    spec: TracedUfunc,
    b: Builder,
    trace: Any,
    operands: Sequence[Any],
    dtypes: Sequence[np.dtype],
    shape: tuple[int, ...],
) -> Value | None:
    """x ** n for a static whole n: exact for ints, products for small n, and no logarithm in the
    derivative.
    """
    if (
        spec.__name__ != "power"
        or not is_scalar(operands[1])
        or isinstance(operands[1], (complex, np.complexfloating))
    ):
        return None
    base, exponent = operands[0], operands[1]
    integral = dtypes[2].kind in "iu"
    if integral and exponent < 0:
        raise ValueError("Integers to negative integer powers are not allowed.")
    if not math.isfinite(exponent) or exponent != int(exponent) or (abs(exponent) > 32 and not integral):
        if exponent == 0.5 and is_float(dtypes[2]):
            return None  # NumPy's scalar power; sqrt differs from it at -0.0 and -inf
        return None
    cast_scalar(exponent, dtypes[1])
    value = operand_value(b, trace, base, dtypes[0], shape)
    return b.integer_pow(value, y=int(exponent))


def build() -> dict[str, TracedUfunc]:
    """All traced ufuncs under every name that NumPy has for them."""
    table = rules()
    made: dict[np.ufunc, TracedUfunc] = {}
    named: dict[str, TracedUfunc] = {}
    for name, original in vars(np).items():  # dir and getattr would load numpy.f2py and numpy.testing
        if not isinstance(original, np.ufunc) or original.signature is not None:
            continue
        rule = table.get(original.__name__)
        if rule is None:
            continue
        if original not in made:
            made[original] = TracedUfunc(original, rule)
        named[name] = made[original]
    return named


UFUNCS = build()


def operator_call(name: str, operands: Sequence[Any], out: Any = None) -> Any:
    """A Python operator: weak scalars stay weak, and in place it writes to `out`."""
    if name == "matmul":
        from nufunc.tracer.np_linalg import matmul

        return matmul(operands[0], operands[1], out=out)
    if name == "power" and out is None and type(operands[1]) is int and operands[1] == 2:
        base = operands[0]
        if type(base) is Array and base.dtype == BOOL and not (base.weak or base.scalar):
            return UFUNCS["square"](base)  # as NumPy's operator does: in int8
    if name == "invert" and operands[0].weak and operands[0].dtype == BOOL:
        raise fail(DTypeError, "~ of the truth value of a Python number; use np.logical_not")
    if out is None and Selection in map(type, operands):
        return selected_call(UFUNCS[name], operands)
    return apply(UFUNCS[name], operands, out=out, python=True)

"""The ufuncs: a table from each NumPy ufunc to primitives, and the calling conventions they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL, ArrayType, is_complex, is_float, is_inexact
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
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
from nufunc.tracer.trace import current, require

Rule = Callable[..., Any]
_PI = math.pi


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
        from nufunc.tracer import np_cumulate

        if _concrete((array,), {}):
            return self.original.reduce(array, axis=axis, dtype=dtype, out=out, keepdims=keepdims, **kw)
        return np_cumulate.ufunc_reduce(
            self.__name__, array, axis=axis, dtype=dtype, out=out, keepdims=keepdims, **kw
        )

    def accumulate(self, array: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        from nufunc.tracer import np_cumulate

        if _concrete((array,), {}):
            return self.original.accumulate(array, axis=axis, dtype=dtype, out=out)
        return np_cumulate.ufunc_accumulate(self.__name__, array, axis=axis, dtype=dtype, out=out)

    def outer(self, A: Any, B: Any, /, **kwargs: Any) -> Any:
        if _concrete((A, B), kwargs):
            return self.original.outer(A, B, **kwargs)
        a, b = as_array(A), as_array(B)
        return self(a[(..., *(None,) * b.ndim)] if b.ndim else a, b, **kwargs)

    def at(self, a: Any, indices: Any, b: Any = None, /) -> None:
        from nufunc.tracer import np_indexing

        if _concrete((a, indices, b), {}):
            self.original.at(a, indices, *(() if b is None else (b,)))
        else:
            np_indexing.ufunc_at(self, a, indices, b)

    def reduceat(self, *args: Any, **kwargs: Any) -> Any:
        if _concrete(args, kwargs):
            return self.original.reduceat(*args, **kwargs)
        raise fail(UnsupportedError, f"np.{self.__name__}.reduceat of a traced array")


def _results(results: Any) -> Any:
    """What NumPy computed; arrays become constants while tracing."""
    from nufunc.tracer.np_namespace import as_constants

    return as_constants(results)


def _concrete(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Nothing traced and no array: NumPy computes at once. Outside tracing that goes for arrays too."""
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
    python: bool = False,
) -> Any:
    """Call a ufunc on operands of which some are traced. `python`: a Python operator, where weak stays
    weak.
    """
    nin = spec.nin
    if len(inputs) > nin:
        out, inputs = tuple(inputs[nin:]), inputs[:nin]
    if len(inputs) < nin:
        raise TypeError(f"{spec.__name__}() takes {nin} positional arguments but {len(inputs)} were given")
    operands = [x if type(x) is Array or is_scalar(x) else as_array(x) for x in inputs]
    if python:
        operands = [_python_bool(x, spec) for x in operands]
    special = _comparison(spec, operands) if spec.__name__ in _MIRRORED else None
    dtypes = resolve_dtypes(spec.original, operands, dtype) if special is None else (BOOL,) * 3
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
    weak = python and all(_weak(x) for x in operands)
    known = _known_result(spec, operands, shape) if out is None and where is True else None
    outs = out if isinstance(out, tuple) else (out,) * len(results)
    return_values = []
    for value, target in zip(results, outs):
        if where is not True:
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
    if math.prod(shape) > 4096:
        return None
    values = []
    for x in operands:
        if type(x) is not Array:
            values.append(x)
            continue
        known = x.known
        if known is None:
            return None
        values.append(known.item() if x.weak else known)
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
    shape = broadcast_shapes(value.shape, mask.shape)
    value = b.broadcast_to(value, shape)
    if target is None:
        other = b.zeros(value.type)
    else:
        other = b.broadcast_to(b.astype(trace.lift(as_array(target)), value.dtype), shape)
    return b.select(b.broadcast_to(trace.lift(mask), shape), value, other)


# -- special cases of promotion

_MIRRORED = {
    "equal": "equal", "not_equal": "not_equal", "less": "greater", "less_equal": "greater_equal",
    "greater": "less", "greater_equal": "less_equal",
}  # fmt: skip


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
        return b.select(negative, answer, getattr(b, _PRIMITIVES[name])(*wide))

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


# -- rules: (b, operands of the loop's dtypes and one shape) -> result(s)


def _boolean(b: Builder, x: Value) -> Value:
    return b.astype(x, BOOL)


def _logical(prim: str) -> Rule:
    return lambda b, x, y: b.emit(prim, (_boolean(b, x), _boolean(b, y)))[0]


def _same(b: Builder, x: Value) -> Value:
    """A copy (wrap copies a value that has an Array already)."""
    return x


def _rounding(prim: str) -> Rule:
    return lambda b, x: b.emit(prim, (x,))[0] if is_float(x.dtype) else x


def _real_only(name: str, prim: str) -> Rule:
    def rule(b: Builder, *xs: Value) -> Value:
        if is_complex(xs[0].dtype):
            raise fail(UnsupportedError, f"np.{name} of complex values")
        return b.emit(prim, xs)[0]

    return rule


def _ordering(name: str, prim: str) -> Rule:
    """Comparisons of complex numbers are lexicographic in NumPy."""
    strict = {"less": "lt", "less_equal": "lt", "greater": "gt", "greater_equal": "gt"}[name]

    def rule(b: Builder, x: Value, y: Value) -> Value:
        if not is_complex(x.dtype):
            return b.emit(prim, (x, y))[0]
        xr, yr = b.real(x), b.real(y)
        tie = b.bit_and(b.eq(xr, yr), b.emit(prim, (b.imag(x), b.imag(y)))[0])
        ordered = b.bit_not(b.bit_or(b.isnan(b.imag(x)), b.isnan(b.imag(y))))
        return b.bit_or(b.bit_and(b.emit(strict, (xr, yr))[0], ordered), tie)

    return rule


def _finite(name: str, prim: str, otherwise: bool) -> Rule:
    def rule(b: Builder, x: Value) -> Value:
        if is_inexact(x.dtype):
            return b.emit(prim, (x,))[0]
        return b.filled(otherwise, ArrayType(x.shape, BOOL))

    return rule


def _heaviside(b: Builder, x: Value, h: Value) -> Value:
    zero = b.like(x, 0)
    step = b.select(b.lt(x, zero), zero, b.select(b.eq(x, zero), h, b.like(x, 1)))
    return b.select(b.isnan(x), x, step)


def _logaddexp(b: Builder, x: Value, y: Value, base: float | None = None) -> Value:
    """max + log(1 + exp(-|x - y|)); equal operands (infinities too) give x + log 2."""
    larger = b.maximum(x, y)
    same = b.eq(x, y)
    gap = b.select(same, b.like(x, 0), b.neg(b.abs(b.sub(x, y))))
    if base is None:
        return b.add(larger, b.log1p(b.exp(gap)))
    return b.add(larger, b.div(b.log1p(b.exp2(gap)), b.like(x, math.log(2))))


def _sign(b: Builder, x: Value) -> Value:
    return b.sign(x)


def _abs(b: Builder, x: Value) -> Value:
    return x if x.dtype == BOOL or x.dtype.kind == "u" else b.abs(x)


def _negative(b: Builder, x: Value) -> Value:
    return b.neg(x)


def _reciprocal(b: Builder, x: Value) -> Value:
    one = b.like(x, 1)
    if is_inexact(x.dtype):
        return b.div(one, x)
    # C's truncating 1 / x: only 1 and -1 have a quotient other than 0; NumPy leaves x == 0 to the machine
    unit = b.eq(b.abs(x) if x.dtype.kind == "i" else x, one)
    return b.select(unit, x, b.like(x, 0))


def _modf(b: Builder, x: Value) -> tuple[Value, Value]:
    whole = b.trunc(x)
    rest = b.select(b.isinf(x), b.like(x, 0), b.sub(x, whole))
    return b.copysign(rest, x), whole


def _ldexp(b: Builder, x: Value, n: Value) -> Value:
    return b.mul(x, b.exp2(b.astype(n, x.dtype)))


def _signbit(b: Builder, x: Value) -> Value:
    return b.signbit(x) if is_float(x.dtype) else b.lt(x, b.like(x, 0))


def _scaled(factor: float) -> Rule:
    return lambda b, x: b.mul(x, b.like(x, factor))


def _conj(b: Builder, x: Value) -> Value:
    return b.conj(x) if is_complex(x.dtype) else x


def _fmod(b: Builder, x: Value, y: Value) -> Value:
    return b.fmod(x, y)


_PRIMITIVES = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "floor_divide": "floor_div",
    "remainder": "mod", "fmod": "fmod", "power": "pow", "float_power": "pow", "arctan2": "atan2",
    "copysign": "copysign", "nextafter": "nextafter", "hypot": "hypot", "bitwise_and": "bit_and",
    "bitwise_or": "bit_or", "bitwise_xor": "bit_xor", "left_shift": "shift_left",
    "right_shift": "shift_right",
    "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt",
    "greater_equal": "ge",
    "sqrt": "sqrt", "cbrt": "cbrt", "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log",
    "log2": "log2",
    "log10": "log10", "log1p": "log1p", "sin": "sin", "cos": "cos", "tan": "tan", "arcsin": "asin",
    "arccos": "acos", "arctan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "arcsinh": "asinh",
    "arccosh": "acosh", "arctanh": "atanh", "invert": "bit_not",
}  # fmt: skip


def _primitive_rule(prim: str) -> Rule:
    return lambda b, *xs: b.emit(prim, xs)[0]


def rules() -> dict[str, Rule]:
    """The rule of each ufunc by NumPy's name."""
    table: dict[str, Rule] = {name: _primitive_rule(prim) for name, prim in _PRIMITIVES.items()}
    for name in ("less", "less_equal", "greater", "greater_equal"):
        table[name] = _ordering(name, _PRIMITIVES[name])
    for name in ("maximum", "minimum", "fmax", "fmin"):
        table[name] = _real_only(name, name)
    for name in ("floor", "ceil", "trunc", "rint"):
        table[name] = _rounding(name)
    table["rint"] = lambda b, x: (
        _complex_parts(b, x, "rint") if is_complex(x.dtype) else _rounding("rint")(b, x)
    )
    table.update(
        logical_and=_logical("bit_and"),
        logical_or=_logical("bit_or"),
        logical_xor=_logical("bit_xor"),
        logical_not=lambda b, x: b.bit_not(_boolean(b, x)),
        isnan=_finite("isnan", "isnan", False),
        isinf=_finite("isinf", "isinf", False),
        isfinite=_finite("isfinite", "isfinite", True),
        signbit=_signbit,
        absolute=_abs,
        fabs=_abs,
        sign=_sign,
        negative=_negative,
        positive=_same,
        conjugate=_conj,
        square=lambda b, x: b.mul(x, x) if x.dtype != BOOL else x,
        reciprocal=_reciprocal,
        heaviside=_heaviside,
        logaddexp=_logaddexp,
        logaddexp2=lambda b, x, y: _logaddexp(b, x, y, 2.0),
        deg2rad=_scaled(_PI / 180),
        radians=_scaled(_PI / 180),
        rad2deg=_scaled(180 / _PI),
        degrees=_scaled(180 / _PI),
        divmod=lambda b, x, y: (b.floor_div(x, y), b.mod(x, y)),
        modf=_modf,
        ldexp=_ldexp,
    )
    return table


def _complex_parts(b: Builder, x: Value, prim: str) -> Value:
    return b.complex(b.emit(prim, (b.real(x),))[0], b.emit(prim, (b.imag(x),))[0])


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
    if name == "invert" and operands[0].weak and operands[0].dtype == BOOL:
        raise fail(DTypeError, "~ of the truth value of a Python number; use np.logical_not")
    if out is None and any(type(x) is Selection for x in operands):
        return selected_call(UFUNCS[name], operands)
    return apply(UFUNCS[name], operands, out=out, python=True)

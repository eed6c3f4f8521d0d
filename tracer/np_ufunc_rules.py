"""The rules of the ufuncs: which primitives each emits, on operands of its loop's dtypes and of one shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL, ArrayType, is_complex, is_float, is_inexact
from nufunc.tracer import np_ufunc_bits

Rule = Callable[..., Any]


def _boolean(b: Builder, x: Value) -> Value:
    return b.astype(x, BOOL)


def _logical(prim: str) -> Rule:
    return lambda b, x, y: b.emit(prim, (_boolean(b, x), _boolean(b, y)))[0]


def _same(b: Builder, x: Value) -> Value:
    """A copy (wrap copies a value that has an Array already)."""
    return x


def _rounding(prim: str) -> Rule:
    return lambda b, x: b.emit(prim, (x,))[0] if is_float(x.dtype) else x


def _extreme(prim: str) -> Rule:
    """maximum, minimum, fmax, fmin; complex numbers are ordered by their real parts, then by their imaginary ones."""
    order = _ordering("greater_equal" if prim in ("maximum", "fmax") else "less_equal", "ge" if "max" in prim else "le")
    joins = {"maximum": "bit_or", "fmax": "bit_or", "minimum": "bit_and", "fmin": "bit_and"}

    def rule(b: Builder, x: Value, y: Value) -> Value:
        if x.dtype == BOOL:
            return b.emit(joins[prim], (x, y))[0]
        if not is_complex(x.dtype):
            return b.emit(prim, (x, y))[0]
        missing = b.isnan(y if prim.startswith("f") else x)
        return b.select(b.bit_or(missing, order(b, x, y)), x, y)

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
    # C's truncating 1 / x: only 1 and -1 have a quotient other than 0; of 0 it is what NumPy gives on this machine
    unit = b.eq(b.abs(x) if x.dtype.kind == "i" else x, one)
    with np.errstate(all="ignore"):
        nothing = np.reciprocal(np.zeros((), x.dtype)).item()
    return b.select(unit, x, b.select(b.eq(x, b.like(x, 0)), b.like(x, nothing), b.like(x, 0)))


def _modf(b: Builder, x: Value) -> tuple[Value, Value]:
    whole = b.trunc(x)
    rest = b.select(b.isinf(x), b.like(x, 0), b.sub(x, whole))
    return b.copysign(rest, x), whole


def _signbit(b: Builder, x: Value) -> Value:
    return b.signbit(x) if is_float(x.dtype) else b.lt(x, b.like(x, 0))


def _scaled(factor: float) -> Rule:
    return lambda b, x: b.mul(x, b.like(x, factor))


def _conj(b: Builder, x: Value) -> Value:
    return b.conj(x) if is_complex(x.dtype) else x


def _fmod(b: Builder, x: Value, y: Value) -> Value:
    return b.fmod(x, y)


PRIMITIVES = {
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
    table: dict[str, Rule] = {name: _primitive_rule(prim) for name, prim in PRIMITIVES.items()}
    for name in ("less", "less_equal", "greater", "greater_equal"):
        table[name] = _ordering(name, PRIMITIVES[name])
    for name in ("maximum", "minimum", "fmax", "fmin"):
        table[name] = _extreme(name)
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
        deg2rad=_scaled(math.pi / 180),
        radians=_scaled(math.pi / 180),
        rad2deg=_scaled(180 / math.pi),
        degrees=_scaled(180 / math.pi),
        divmod=lambda b, x, y: (b.floor_div(x, y), b.mod(x, y)),
        modf=_modf,
        **np_ufunc_bits.rules(),
    )
    return table


def _complex_parts(b: Builder, x: Value, prim: str) -> Value:
    return b.complex(b.emit(prim, (b.real(x),))[0], b.emit(prim, (b.imag(x),))[0])

"""Elementwise primitives: arithmetic, comparison, selection, transcendental functions, conversion."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Jvp, Primitive, register
from nufunc.ir.prims.kinds import (
    ANY,
    BOOLS,
    COMPLEXES,
    FLOATS,
    INEXACT,
    INTS,
    NUMBERS,
    REALS,
    Arrays,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    batch_all,
    binary,
    elementwise,
    exact,
    instantiated,
    linear_jvp,
    linear_transpose,
    need_count,
    need_dtype,
    need_same,
    need_same_shape,
    unary,
)
from nufunc.ir.types import COMPLEX64, COMPLEX128, FLOAT32, ArrayType, dtype_name, is_complex, is_inexact, kind_of

LN2 = math.log(2)
LN10 = math.log(10)


# -- arithmetic

binary(
    "add", np.add, ANY, commutative=True, cheap=True,
    jvp=(lambda b, t, x, y, r: t, lambda b, t, x, y, r: t),
    transpose=lambda b, ct, operands, types, attrs: [ct, ct],
)  # fmt: skip
binary(
    "sub", np.subtract, NUMBERS, cheap=True,
    jvp=(lambda b, t, x, y, r: t, lambda b, t, x, y, r: b.neg(t)),
    transpose=lambda b, ct, operands, types, attrs: [ct, None if operands[1] is not None else b.neg(ct)],
)  # fmt: skip


def _mul_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    x, y = operands
    return [None if y is None else b.mul(ct, y), None if x is None else b.mul(x, ct)]


binary(
    "mul", np.multiply, ANY, commutative=True, cheap=True,
    jvp=(lambda b, t, x, y, r: b.mul(t, y), lambda b, t, x, y, r: b.mul(x, t)),
    transpose=_mul_transpose,
)  # fmt: skip
def _reciprocal(b: Builder, x: Value) -> Value:
    """Slopes multiply with it, so that several of one denominator cost one division."""
    return b.div(b.like(x, 1), x)


binary(
    "div", np.true_divide, INEXACT, cheap=True,
    jvp=(lambda b, t, x, y, r: b.div(t, y), lambda b, t, x, y, r: b.neg(b.mul(t, b.mul(r, _reciprocal(b, y))))),
    transpose=lambda b, ct, operands, types, attrs: [b.div(ct, operands[1]), None],
)  # fmt: skip
binary("floor_div", np.floor_divide, REALS, differentiable=False)
binary(
    "mod", np.remainder, REALS,
    jvp=(lambda b, t, x, y, r: t, lambda b, t, x, y, r: b.neg(b.mul(t, b.floor_div(x, y)))),
)  # fmt: skip
# The truncated quotient from the remainder: trunc(x / y) would be off by one where the division rounds up.
binary(
    "fmod", np.fmod, REALS,
    jvp=(lambda b, t, x, y, r: t, lambda b, t, x, y, r: b.neg(b.mul(t, b.rint(b.div(b.sub(x, r), y))))),
)  # fmt: skip


def _pow_base(b: Builder, t: Value, x: Value, y: Value, r: Value) -> Value:
    """y * x**(y - 1), and 0 for y == 0, where x**(-1) would be inf at x == 0."""
    constant = b.eq(y, b.like(y, 0))
    exponent = b.sub(b.select(constant, b.like(y, 1), y), b.like(y, 1))
    return b.mul(t, b.mul(y, b.pow(x, exponent)))


def _pow_exponent(b: Builder, t: Value, x: Value, y: Value, r: Value) -> Value:
    """x**y * log(x), and 0 at x == 0 for y >= 0; the log is taken at 1 there, so that no NaN comes back."""
    if is_complex(y.dtype):
        re, im = b.real(y), b.imag(y)
        growing = b.bit_and(b.ge(re, b.like(re, 0)), b.eq(im, b.like(im, 0)))
    else:
        growing = b.ge(y, b.like(y, 0))
    flat = b.bit_and(b.eq(x, b.like(x, 0)), growing)
    slope = b.mul(r, b.log(b.select(flat, b.like(x, 1), x)))
    return b.mul(t, slope)


binary("pow", np.power, NUMBERS, jvp=(_pow_base, _pow_exponent))


def _maximum_jvp(compare: str, skip_nan: bool) -> Jvp:
    """Tangent of the larger (smaller) operand, half of both at ties; `skip_nan`: numbers win against NaN."""

    def jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> Maybes:
        if all(t is None for t in tangents):
            return [None]
        x, y = primals
        tx, ty = instantiated(b, tangents, primals)
        first = b.bit_or(getattr(b, compare)(x, y), b.isnan(y if skip_nan else x))
        both = b.mul(b.add(tx, ty), b.like(tx, 0.5))
        return [b.select(b.eq(x, y), both, b.select(first, tx, ty))]

    return jvp


elementwise(
    "maximum", np.maximum, REALS + BOOLS, 2, jvp=_maximum_jvp("gt", False), commutative=True, cheap=True
)
elementwise(
    "minimum", np.minimum, REALS + BOOLS, 2, jvp=_maximum_jvp("lt", False), commutative=True, cheap=True
)
elementwise("fmax", np.fmax, REALS, 2, jvp=_maximum_jvp("gt", True), commutative=True, cheap=True)
elementwise("fmin", np.fmin, REALS, 2, jvp=_maximum_jvp("lt", True), commutative=True, cheap=True)


def _atan2_part(sign: float) -> Callable[..., Value]:
    """The other operand over x^2 + y^2, by two divisions through hypot: the square would overflow."""

    def part(b: Builder, t: Value, y: Value, x: Value, r: Value) -> Value:
        radius = b.hypot(y, x)
        other = b.div(x, radius) if sign > 0 else b.neg(b.div(y, radius))
        return b.mul(t, b.div(other, radius))

    return part


def _hypot_part(index: int) -> Callable[..., Value]:
    """The operand over the result, and 0 at the origin (as for abs)."""

    def part(b: Builder, t: Value, x: Value, y: Value, r: Value) -> Value:
        origin = b.eq(r, b.like(r, 0))
        return b.mul(t, b.div(y if index else x, b.select(origin, b.like(r, 1), r)))

    return part


def _copysign_base(b: Builder, t: Value, x: Value, y: Value, r: Value) -> Value:
    return b.select(b.eq(b.signbit(x), b.signbit(y)), t, b.neg(t))


binary("atan2", np.arctan2, FLOATS, jvp=(_atan2_part(1), _atan2_part(-1)))
binary("hypot", np.hypot, FLOATS, jvp=(_hypot_part(0), _hypot_part(1)), commutative=True)
binary("copysign", np.copysign, FLOATS, jvp=(_copysign_base, None), cheap=True)
# A step to the neighbouring number: slope 1 in x, and y only says which way.
binary("nextafter", np.nextafter, FLOATS, jvp=(lambda b, t, x, y, r: t, None), cheap=True)

binary("bit_and", np.bitwise_and, BOOLS + INTS, differentiable=False, commutative=True, cheap=True)
binary("bit_or", np.bitwise_or, BOOLS + INTS, differentiable=False, commutative=True, cheap=True)
binary("bit_xor", np.bitwise_xor, BOOLS + INTS, differentiable=False, commutative=True, cheap=True)
binary("shift_left", np.left_shift, INTS, differentiable=False, cheap=True)
binary("shift_right", np.right_shift, INTS, differentiable=False, cheap=True)
binary("gcd", np.gcd, INTS, differentiable=False, commutative=True)

binary("eq", np.equal, ANY, result="bool", differentiable=False, commutative=True, cheap=True)
binary("ne", np.not_equal, ANY, result="bool", differentiable=False, commutative=True, cheap=True)
binary("lt", np.less, ANY, result="bool", differentiable=False, cheap=True)
binary("le", np.less_equal, ANY, result="bool", differentiable=False, cheap=True)
binary("gt", np.greater, ANY, result="bool", differentiable=False, cheap=True)
binary("ge", np.greater_equal, ANY, result="bool", differentiable=False, cheap=True)


# -- select


def _select_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("select", types, 3)
    if types[0].dtype.kind != "b":
        raise DTypeError(f"select: the condition must be bool, not {types[0]}")
    need_same("select", types[1:])
    need_same_shape("select", types)
    return (types[1],)


def _select_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    if tangents[1] is None and tangents[2] is None:
        return [None]
    return [b.select(primals[0], *instantiated(b, tangents[1:], primals[1:]))]


def _select_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    """The cotangent stays masked by a select: multiplying by 0 and 1 would make NaN of inf."""
    condition, x, y = operands
    zero = b.zeros(ct.type)
    return [
        None,
        None if x is not None else b.select(condition, ct, zero),
        None if y is not None else b.select(condition, zero, ct),
    ]


register(
    Primitive(
        "select", "elementwise", _select_infer, lambda arrays, attrs,
        regions: [np.asarray(np.where(*arrays))],
        _select_jvp, linear_transpose(_select_transpose), batch_all("select"), cheap=True,
    )
)  # fmt: skip


# -- sign, magnitude and powers


def _abs_jvp(b: Builder, t: Value, x: Value, y: Value) -> Value:
    """sign(x) * t, for complex x Re(conj(x / |x|) * t); both 0 at 0, since sign(0) is 0."""
    if is_complex(x.dtype):
        return b.real(b.mul(b.conj(b.sign(x)), t))
    return b.mul(t, b.sign(x))


def _sign_jvp(b: Builder, t: Value, x: Value, y: Value) -> Maybe:
    """Zero for real x; for complex x = r s only the turn of s moves: i s Im(conj(s) t) / r, 0 at 0."""
    if not is_complex(x.dtype):
        return None
    radius = b.abs(x)
    origin = b.eq(radius, b.like(radius, 0))
    turn = b.div(b.imag(b.mul(b.conj(y), t)), b.select(origin, b.like(radius, 1), radius))
    return b.mul(y, b.complex(b.zeros(turn.type), turn))


unary(
    "neg",
    np.negative,
    NUMBERS,
    jvp=lambda b, t, x, y: b.neg(t),
    transpose=lambda b, ct: b.neg(ct),
    cheap=True,
)
unary("abs", np.absolute, ANY, result="real", jvp=_abs_jvp, cheap=True)
unary("sign", np.sign, NUMBERS, jvp=_sign_jvp, cheap=True)


def _integer_pow_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("integer_pow", types, 1)
    need_dtype("integer_pow", types[0], ANY)
    if attrs["y"] < 0 and not is_inexact(types[0].dtype):
        raise DTypeError(f"integer_pow: {types[0]} cannot be raised to the negative power {attrs['y']}")
    return (types[0],)


def _integer_pow(x: np.ndarray, y: int) -> np.ndarray:
    """x ** y; integers by repeated squaring, since y need not fit their dtype (they wrap, as in NumPy)."""
    if is_inexact(x.dtype):
        return np.power(x, y)
    out = np.ones_like(x)
    while y:
        out, x, y = (out * x if y & 1 else out), x * x, y >> 1
    return out


def _integer_pow_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [exact(_integer_pow(arrays[0], attrs["y"]), arrays[0].dtype)]


def _integer_pow_jvp(
    b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs
) -> list[Maybe]:
    (t,), (x,), y = tangents, primals, attrs["y"]
    if t is None or y == 0:
        return [None]
    if y == 1:
        return [t]
    return [b.mul(t, b.mul(b.like(x, y), b.integer_pow(x, y=y - 1)))]


register(
    Primitive(
        "integer_pow", "elementwise", _integer_pow_infer, _integer_pow_evaluate, _integer_pow_jvp, None,
        batch_all("integer_pow"), attrs=("y",), cheap=True,
    )
)  # fmt: skip


# -- functions of one operand


def _times(b: Builder, t: Value, value: float) -> Value:
    return b.mul(t, b.like(t, value))


def _one_minus_square(b: Builder, x: Value) -> Value:
    """(1 - x)(1 + x): 1 - x*x would lose digits near +-1."""
    one = b.like(x, 1)
    return b.mul(b.sub(one, x), b.add(one, x))


def _asinh_slope(b: Builder, x: Value) -> Value:
    """sqrt(1 + x^2), for real x without overflow."""
    one = b.like(x, 1)
    return b.sqrt(b.add(one, b.mul(x, x))) if is_complex(x.dtype) else b.hypot(x, one)


def _acosh_slope(b: Builder, x: Value) -> Value:
    """sqrt(x - 1) sqrt(x + 1), which unlike sqrt(x^2 - 1) is on the right branch for complex x."""
    one = b.like(x, 1)
    return b.mul(b.sqrt(b.sub(x, one)), b.sqrt(b.add(x, one)))


def _atan_slope(b: Builder, x: Value) -> Value:
    return b.add(b.like(x, 1), b.mul(x, x))


unary("sqrt", np.sqrt, cheap=True, jvp=lambda b, t, x, y: b.mul(t, _times(b, _reciprocal(b, y), 0.5)))
unary("cbrt", np.cbrt, FLOATS, jvp=lambda b, t, x, y: b.div(t, _times(b, b.mul(y, y), 3)))
unary("exp", np.exp, jvp=lambda b, t, x, y: b.mul(t, y))
unary("exp2", np.exp2, jvp=lambda b, t, x, y: b.mul(t, _times(b, y, LN2)))
unary("expm1", np.expm1, jvp=lambda b, t, x, y: b.mul(t, b.exp(x)))  # y + 1 would lose digits for x << 0
unary("log", np.log, jvp=lambda b, t, x, y: b.div(t, x))
unary("log2", np.log2, jvp=lambda b, t, x, y: b.div(t, _times(b, x, LN2)))
unary("log10", np.log10, jvp=lambda b, t, x, y: b.div(t, _times(b, x, LN10)))
unary("log1p", np.log1p, jvp=lambda b, t, x, y: b.div(t, b.add(b.like(x, 1), x)))
unary("sin", np.sin, jvp=lambda b, t, x, y: b.mul(t, b.cos(x)))
unary("cos", np.cos, jvp=lambda b, t, x, y: b.neg(b.mul(t, b.sin(x))))
unary("tan", np.tan, jvp=lambda b, t, x, y: b.mul(t, _atan_slope(b, y)))
unary("asin", np.arcsin, jvp=lambda b, t, x, y: b.div(t, b.sqrt(_one_minus_square(b, x))))
unary("acos", np.arccos, jvp=lambda b, t, x, y: b.neg(b.div(t, b.sqrt(_one_minus_square(b, x)))))
unary("atan", np.arctan, jvp=lambda b, t, x, y: b.div(t, _atan_slope(b, x)))
unary("sinh", np.sinh, jvp=lambda b, t, x, y: b.mul(t, b.cosh(x)))
unary("cosh", np.cosh, jvp=lambda b, t, x, y: b.mul(t, b.sinh(x)))
unary("tanh", np.tanh, jvp=lambda b, t, x, y: b.mul(t, _one_minus_square(b, y)))
unary("asinh", np.arcsinh, jvp=lambda b, t, x, y: b.div(t, _asinh_slope(b, x)))
unary("acosh", np.arccosh, jvp=lambda b, t, x, y: b.div(t, _acosh_slope(b, x)))
unary("atanh", np.arctanh, jvp=lambda b, t, x, y: b.div(t, _one_minus_square(b, x)))

unary("floor", np.floor, FLOATS, differentiable=False, cheap=True)
unary("ceil", np.ceil, FLOATS, differentiable=False, cheap=True)
unary("trunc", np.trunc, FLOATS, differentiable=False, cheap=True)
unary("rint", np.rint, FLOATS, differentiable=False, cheap=True)
unary("isnan", np.isnan, result="bool", differentiable=False, cheap=True)
unary("isinf", np.isinf, result="bool", differentiable=False, cheap=True)
unary("isfinite", np.isfinite, result="bool", differentiable=False, cheap=True)
unary("signbit", np.signbit, FLOATS, result="bool", differentiable=False, cheap=True)
unary("bit_not", np.invert, BOOLS + INTS, differentiable=False, cheap=True)
# The identity with a tangent of zero.
unary("stop_gradient", np.array, ANY, differentiable=False, cheap=True)


# -- conversion and complex parts; see Note [Complex pairing] in kinds.py for the transposes


def _convert_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("convert", types, 1)
    dtype_name(attrs["dtype"])
    return (types[0].with_dtype(attrs["dtype"]),)


def _convert_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    (x,), dtype = arrays, attrs["dtype"]
    if is_complex(x.dtype) and kind_of(dtype) not in "bc":
        x = x.real
    with np.errstate(all="ignore"):
        return [np.asarray(x.astype(dtype))]


def _convert_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    (t,) = tangents
    return [None if t is None or not is_inexact(attrs["dtype"]) else b.astype(t, attrs["dtype"])]


register(
    Primitive(
        "convert", "elementwise", _convert_infer, _convert_evaluate, _convert_jvp,
        linear_transpose(lambda b, ct, operands, types, attrs: [b.astype(ct, types[0].dtype)]),
        batch_all("convert"), attrs=("dtype",), cheap=True,
    )
)  # fmt: skip



def _bitcast_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("bitcast", types, 1)
    need_dtype("bitcast", types[0], "iuf")
    name, dtype = dtype_name(attrs["dtype"]), attrs["dtype"]
    if kind_of(dtype) not in "iuf" or dtype.itemsize != types[0].dtype.itemsize:
        raise DTypeError(f"bitcast: the bytes of {types[0]} cannot be read as {name}")
    return (types[0].with_dtype(dtype),)


register(
    Primitive(
        "bitcast", "elementwise", _bitcast_infer,
        lambda arrays, attrs, regions: [np.array(arrays[0], order="C").view(attrs["dtype"])],
        None, None, batch_all("bitcast"), attrs=("dtype",), differentiable=False, cheap=True,
    )
)  # fmt: skip

unary(
    "real", lambda x: x.real.copy(), COMPLEXES, result="real", cheap=True,
    jvp=lambda b, t, x, y: b.real(t), transpose=lambda b, ct: b.complex(ct, b.zeros(ct.type)),
)  # fmt: skip
unary(
    "imag", lambda x: x.imag.copy(), COMPLEXES, result="real", cheap=True,
    jvp=lambda b, t, x, y: b.imag(t), transpose=lambda b, ct: b.complex(b.zeros(ct.type), b.neg(ct)),
)  # fmt: skip
unary(
    "conj", np.conjugate, COMPLEXES, cheap=True,
    jvp=lambda b, t, x, y: b.conj(t), transpose=lambda b, ct: b.conj(ct),
)  # fmt: skip


def _complex_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("complex", types, 2)
    need_dtype("complex", types[0], FLOATS)
    need_same("complex", types)
    return (types[0].with_dtype(COMPLEX64 if types[0].dtype == FLOAT32 else COMPLEX128),)


def _complex_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    re, im = arrays
    out = np.empty(re.shape, COMPLEX64 if re.dtype == FLOAT32 else COMPLEX128)
    out.real, out.imag = re, im  # re + 1j * im would make NaN of an infinite part
    return [out]


register(
    Primitive(
        "complex", "elementwise", _complex_infer, _complex_evaluate, linear_jvp("complex"),
        linear_transpose(lambda b, ct, operands, types, attrs: [b.real(ct), b.neg(b.imag(ct))]),
        batch_all("complex"), cheap=True,
    )
)  # fmt: skip

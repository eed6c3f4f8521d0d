"""Scalar recipes of emitted text: each elementwise primitive as a Python expression, and the names it uses.

Emitted text names functions (`sin`, `floor_div_i`) that its namespace binds: here to NumPy's functions and to
the helper functions below, on CUDA to device functions. The helpers are plain Python on scalars, from which those
for CUDA are lowered: a variable has one type, and a literal takes the type of what it meets. A helper may return a
wider type than its operands; the expression converts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy import copysign, exp, floor, fmod, int64, log, rint, tan, uint64

from nufunc.codegen.random import threefry2x32
from nufunc.ir import primitive
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.prims.scipy_special import RULES as SCIPY
from nufunc.ir.types import DTYPE_NAMES, bfloat16, is_bfloat16, kind_of, real_dtype

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "bit_and": "&", "bit_or": "|", "bit_xor": "^",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
_OF_BOOLS = {**_INFIX, "add": "|", "mul": "&", "maximum": "|", "minimum": "&", "fmax": "|", "fmin": "&"}
_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
ROUNDED = ("floor", "ceil", "trunc", "rint")
WIDE = ("cbrt", "erfcx", "erfinv", "erfcinv")  # functions that devices have in double precision
LACKING = ("i0e", "i1e", "gammainc", "gammaincc", "betainc")  # functions that they do not have
_COMPLEX_FUNCTIONS = (
    "sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh pow"
).split()
_OF_FLOATS = (
    "cbrt erf erfc erfcx erfinv erfcinv gamma gammainc gammaincc betainc i0e i1e lgamma atan2 copysign nextafter "
    "hypot fmod"
).split()
FUNCTIONS = (*_COMPLEX_FUNCTIONS, *_OF_FLOATS)
# Functions that read the bytes of a signed integer as a float, and those of a float as a signed integer.
BITS = {"f4": "int_as_float", "f8": "longlong_as_double", "i4": "float_as_int", "i8": "double_as_longlong"}
_HALF_BITS = {  # the same of floats of two bytes, by their names
    "float16": ("short_as_half", "half_as_short"), "bfloat16": ("short_as_bfloat16", "bfloat16_as_short"),
}  # fmt: skip
_HELPERS_BY_KIND = {"floor_div": "ifu", "mod": "ifu", "fmod": "iu", "sign": "ifc", "shift_right": "iu"}


def number(value: Any, dtype: np.dtype) -> str:
    """A constant of a dtype, as text."""
    kind = kind_of(dtype)
    if kind == "c":
        z = complex(value)
        return f"{dtype.name}(complex({_float(z.real)}, {_float(z.imag)}))"
    if kind == "f":
        return f"{dtype.name}({_float(float(value))})"
    if kind == "b":
        return f"bool_({bool(value)})"
    if kind == "u":
        return f"{dtype.name}({int(value) % 2 ** (8 * dtype.itemsize)})"  # all bits may be written as -1
    return f"{dtype.name}({int(value)})"


def _float(value: float) -> str:
    return repr(value)  # inf and nan are names of the namespace


def type_text(dtype: np.dtype) -> str:
    """The name of a dtype in emitted text."""
    return "bool_" if dtype.kind == "b" else dtype.name


def expression(
    op: str, args: Sequence[str], dtypes: Sequence[np.dtype], dtype: np.dtype, attrs: Mapping[str, Any]
) -> str:
    """`op` of `args` (names or constants) of `dtypes` as text; `dtype` is the result's."""
    source = dtypes[0]
    cast = lambda text: f"{type_text(dtype)}({text})"
    if op in ("stop_gradient", "conj", "real") and source.kind != "c":
        return args[0]
    if op == "select":
        return f"{args[1]} if {args[0]} else {args[2]}"
    if op == "convert":
        return conversion(args[0], source, dtype)
    if op == "bitcast":
        return _bitcast(args[0], source, dtype)
    if op == "integer_pow":
        return _integer_pow(args[0], dtype, attrs["y"])
    if op == "scipy":  # which devices lack altogether
        return cast(f"scipy_{attrs['function'].replace('.', '_')}({', '.join(args)})")
    if op == "complex":
        return cast(f"complex({args[0]}, {args[1]})")
    rule = {"c": _complex, "f": _float_op, "b": _bool_op}.get(kind_of(source), _integer_op)
    text = rule(op, list(args), source, cast)
    if text is None:
        raise UnsupportedError(f"loops as text have no {op} of {source}")
    return text


Cast = Callable[[str], str]


def _float_op(op: str, args: list[str], dtype: np.dtype, cast: Cast) -> str | None:
    x = args[0]
    if op in _INFIX:
        return f"{x} {_INFIX[op]} {args[1]}"
    if op in ("neg", "abs"):
        return f"-{x}" if op == "neg" else f"abs({x})"
    if op in ("isnan", "isinf", "isfinite"):
        return {"isnan": f"{x} != {x}", "isinf": f"abs({x}) == inf", "isfinite": f"abs({x}) < inf"}[op]
    if op == "signbit":
        return f"copysign({number(1, dtype)}, {x}) < 0"
    if op in (*ROUNDED, *WIDE, *LACKING):
        return cast(f"{op}({', '.join(args)})")
    if op in (*FUNCTIONS, "maximum", "minimum", "fmax", "fmin"):
        return f"{op}({', '.join(args)})"
    if op == "gamma_sample":
        return args[1]
    if op == "digamma":
        return cast(f"digamma(float64({x}))")
    if op == "logistic":
        return cast(f"logistic({x})")
    return cast(f"{op}_f({', '.join(args)})") if "f" in _HELPERS_BY_KIND.get(op, "") else None


def _bool_op(op: str, args: list[str], dtype: np.dtype, cast: Cast) -> str | None:
    if op in ("lt", "le", "gt", "ge"):
        return f"int64({args[0]}) {_INFIX[op]} int64({args[1]})"
    if op in _OF_BOOLS and op not in ("sub", "div"):
        return f"{args[0]} {_OF_BOOLS[op]} {args[1]}"
    if op in ("sign", "abs"):
        return args[0]
    if op in ("isnan", "isinf", "signbit", "isfinite"):
        return number(op == "isfinite", dtype)
    return f"{args[0]} ^ bool_(True)" if op == "bit_not" else None


def _integer_op(op: str, args: list[str], dtype: np.dtype, cast: Cast) -> str | None:
    x, kind = args[0], dtype.kind
    if op in _COMPARE:
        return f"{x} {_INFIX[op]} {args[1]}"
    if op in _INFIX and op != "div":
        text = f"{x} {_INFIX[op]} {args[1]}"
        return text if dtype.itemsize == 8 else cast(text)  # Numba computes in 64 bits
    if op in ("neg", "bit_not"):
        return cast(f"{'-' if op == 'neg' else '~'}{x}")
    if op == "abs":
        return x if kind == "u" else cast(f"abs({x})")
    if op == "sign" and kind == "u":
        return cast(f"{x} != {number(0, dtype)}")
    if op in ("maximum", "minimum", "fmax", "fmin"):
        return cast(f"{'maximum' if op in ('maximum', 'fmax') else 'minimum'}({x}, {args[1]})")
    if op == "pow":
        return cast(f"int_pow({x}, {args[1]}, {number(0, dtype)}, {number(1, dtype)})")
    if op == "threefry2x32":
        return cast(f"threefry2x32({x}, {args[1]})")
    if op == "shift_left":
        return cast(f"shift_left({x}, {args[1]}, {8 * dtype.itemsize})")
    if op == "gcd":
        return cast(f"gcd({x}, {args[1]}, {number(0, dtype)})")
    if op == "shift_right":
        return cast(f"shift_right_{kind}({x}, {args[1]}, {8 * dtype.itemsize})")
    if op in ("isnan", "isinf", "isfinite"):
        return f"bool_({op == 'isfinite'})"
    if op == "signbit":
        return f"{x} < 0" if kind == "i" else "bool_(False)"
    return cast(f"{op}_{kind}({', '.join(args)})") if kind in _HELPERS_BY_KIND.get(op, "") else None


def _complex(op: str, args: list[str], dtype: np.dtype, cast: Cast) -> str | None:
    x = args[0]
    if op in ("lt", "le", "gt", "ge"):
        return f"complex_{op}({x}, {args[1]})"
    if op in _INFIX and not op.startswith("bit"):
        return f"{x} {_INFIX[op]} {args[1]}"
    if op in ("neg", "stop_gradient"):
        return f"-{x}" if op == "neg" else x
    if op in ("real", "imag"):
        return f"{x}.{op}"
    if op == "conj":
        return cast(f"complex({x}.real, -{x}.imag)")
    if op == "abs":
        return f"{type_text(real_dtype(dtype))}(hypot({x}.real, {x}.imag))"
    if op in ("isnan", "isinf"):
        parts = [_float_op(op, [f"{x}.{part}"], real_dtype(dtype), cast) for part in ("real", "imag")]
        return f"({parts[0]}) | ({parts[1]})"
    if op == "isfinite":
        return f"(abs({x}.real) < inf) & (abs({x}.imag) < inf)"
    if op in _COMPLEX_FUNCTIONS:
        return cast(f"complex_{op}({', '.join(args)})")
    return cast(f"sign_c({x})") if op == "sign" else None


def _bitcast(x: str, source: np.dtype, target: np.dtype) -> str:
    """The bytes of x as another dtype of this size."""
    if source == target:
        return x
    if kind_of(source) == "f":
        read = _HALF_BITS[source.name][1] if source.itemsize == 2 else BITS[f"i{source.itemsize}"]
        return _bitcast(f"{read}({x})", np.dtype(f"i{source.itemsize}"), target)
    signed = x if source.kind == "i" else f"int{8 * source.itemsize}({x})"
    if kind_of(target) != "f":
        return f"{type_text(target)}({signed})" if target.kind != "i" else signed
    return f"{_HALF_BITS[target.name][0] if target.itemsize == 2 else BITS[f'f{target.itemsize}']}({signed})"


def _integer_pow(x: str, dtype: np.dtype, y: int) -> str:
    name, one = type_text(dtype), number(1, dtype)
    if dtype.kind == "f" and abs(y) > 8:  # products would lose more digits than the function
        return f"{name}(pow({x}, {number(y, dtype)}))"
    if y == 0:
        return one
    if dtype.kind == "b":
        return x
    text = x if abs(y) == 1 else f"{x} * {x}" if abs(y) == 2 else f"power({x}, {abs(y)})"
    if dtype.kind in "iu":
        return f"{name}({text})"
    return f"{one} / ({text})" if y < 0 else text


def conversion(x: str, source: np.dtype, target: np.dtype) -> str:
    """astype: C's rules; floats out of range become the least integer of 32 or 64 bits, as on x86."""
    if source == target:
        return x
    if target.kind == "b":
        return f"{x} != {number(0, source)}"
    if source.kind == "c" and target.kind != "c":
        x, source = f"{x}.real", real_dtype(source)
    name = type_text(target)
    if kind_of(source) == "f" and target.kind in "iu":
        if target == np.dtype(np.uint64):
            return f"float_to_uint64(float64({x}))"
        wide = target.itemsize == 8 or target == np.dtype(np.uint32)
        return f"{name}(float_to_int{64 if wide else 32}(float64({x})))"
    return f"{name}({x})"


# -- helper functions of emitted text: integers


def floor_div_i(x: Any, y: Any) -> Any:
    if y == 0:
        return x - x
    if y == -1:
        return -x  # the least integer stays; dividing it traps
    return x // y


def floor_div_u(x: Any, y: Any) -> Any:
    if y == 0:
        return x - x
    return x // y


def mod_i(x: Any, y: Any) -> Any:
    if y == 0 or y == -1:
        return x - x
    return x % y


def mod_u(x: Any, y: Any) -> Any:
    if y == 0:
        return x - x
    return x % y


def fmod_i(x: Any, y: Any) -> Any:
    if y == 0 or y == -1:
        return x - x
    rest = x % y
    if rest != 0 and (x < 0) != (y < 0):
        return rest - y
    return rest


def fmod_u(x: Any, y: Any) -> Any:
    if y == 0:
        return x - x
    return x % y


def sign_i(x: Any) -> Any:
    return 1 if x > 0 else -1 if x < 0 else 0


def int_pow(x: Any, y: Any, zero: Any, one: Any) -> Any:
    result = one
    while y > zero:
        if y & one == one:
            result = result * x
        x = x * x
        y = y >> one
    return result


def gcd(x: Any, y: Any, zero: Any) -> Any:
    """The greatest common divisor of integers, by division."""
    x = x if x >= zero else -x
    y = y if y >= zero else -y
    while y != zero:
        x, y = y, x % y
    return x


def power(x: Any, y: int) -> Any:
    """x**y for y >= 1 by squaring."""
    while y % 2 == 0:
        x = x * x
        y = y // 2
    result = x
    y = y // 2
    while y > 0:
        x = x * x
        if y % 2 == 1:
            result = result * x
        y = y // 2
    return result


def shift_left(x: Any, y: Any, bits: int) -> Any:
    if y >= 0 and y < bits:
        return x << y
    return x - x


def shift_right_i(x: Any, y: Any, bits: int) -> Any:
    if y >= 0 and y < bits:
        return x >> y
    return -1 if x < 0 else 0


def shift_right_u(x: Any, y: Any, bits: int) -> Any:
    if y < bits:
        return x >> y
    return x - x


def float_to_int32(x: Any) -> Any:
    """Truncated; out of range and NaN the least 32-bit integer, as x86 has it."""
    if x > -2147483649.0 and x < 2147483648.0:
        return int64(x)
    return int64(-2147483648)


def float_to_int64(x: Any) -> Any:
    if x >= -9223372036854775808.0 and x < 9223372036854775808.0:
        return int64(x)
    return int64(-9223372036854775808)


def float_to_uint64(x: Any) -> Any:
    """Negative numbers wrap; NaN and numbers beyond 2**64 give what the CPU's instructions give."""
    if x < 9223372036854775808.0:
        if x >= -9223372036854775808.0:
            return uint64(int64(x))
        return uint64(9223372036854775808)
    if x < 18446744073709551616.0:
        return uint64(int64(x - 9223372036854775808.0)) ^ uint64(9223372036854775808)
    return uint64(0)


# -- floats


def maximum(x: Any, y: Any) -> Any:
    return x if x >= y or x != x else y


def minimum(x: Any, y: Any) -> Any:
    return x if x <= y or x != x else y


def fmax(x: Any, y: Any) -> Any:
    return x if x >= y or y != y else y


def fmin(x: Any, y: Any) -> Any:
    return x if x <= y or y != y else y


def sign_f(x: Any) -> Any:
    if x > 0.0:
        return 1.0
    if x < 0.0:
        return -1.0
    return abs(x)  # +0 for both zeros, NaN for NaN


def floor_div_f(x: Any, y: Any) -> Any:
    """NumPy's: the quotient of what is left when the remainder is taken off, rounded to a whole number."""
    if y == 0.0:
        return x / y
    rest = fmod(x, y)
    quotient = (x - rest) / y
    if rest != 0.0 and (y < 0.0) != (rest < 0.0):
        quotient = quotient - 1.0
    if quotient == 0.0:
        return copysign(0.0, x / y)
    low = floor(quotient)
    if quotient - low > 0.5:
        low = low + 1.0
    return low


def mod_f(x: Any, y: Any) -> Any:
    """NumPy's remainder: of the divisor's sign."""
    rest = fmod(x, y)
    if rest == 0.0:
        return copysign(0.0, y)
    if (y < 0.0) != (rest < 0.0):
        return rest + y
    return rest


def logistic(x: Any) -> Any:
    return 1.0 / (1.0 + exp(-x))


def digamma(x: Any) -> Any:
    """Reflection below 0, recurrence up to 10, then the asymptotic series."""
    if x == 0.0:
        return copysign(math_inf, -x)
    if x <= 0.0 and x == floor(x):
        return math_nan
    total = 0.0
    if x <= 0.0:
        total = -math_pi / tan((x - rint(x)) * math_pi)
        x = 1.0 - x
    if x == math_inf:
        return x
    while x < 10.0:
        total = total - 1.0 / x
        x = x + 1.0
    z = 1.0 / (x * x)
    series = z * (-691 / 32760 + z * (1 / 12))
    series = z * (1 / 12 + z * (-1 / 120 + z * (1 / 252 + z * (-1 / 240 + z * (1 / 132 + series)))))
    return log(x) - 0.5 / x - series + total


math_inf, math_nan, math_pi = math.inf, math.nan, math.pi  # names that device functions see as constants


def argmax_better(new: Any, place: Any, best: Any, at: Any) -> Any:
    """Whether a value beats the best so far: NaN counts as the extreme, the first of equals wins."""
    if new != new:
        return best == best or place < at
    return new > best or (new == best and place < at)


def argmin_better(new: Any, place: Any, best: Any, at: Any) -> Any:
    if new != new:
        return best == best or place < at
    return new < best or (new == best and place < at)


def checked(index: Any, extent: int, holds: Any, site: int, error: Any) -> Any:
    """An index, or 0 where it is outside; then the error site is recorded if the guard holds."""
    if index >= 0 and index < extent:
        return index
    if holds:
        error[0] = site
    return int64(0)


# -- memory


def load_vec(x: Any, i: Any, n: int) -> Any:
    """Neighbours in memory, loaded together."""
    return tuple(x[i + k] for k in range(n))


def store_vec(x: Any, i: Any, values: Any) -> None:
    for k, value in enumerate(values):
        x[i + k] = value


def aligned(n: int, *arrays: Any) -> bool:
    """Whether the addresses of arrays are multiples of n."""
    return all(getattr(a, "array", a).ctypes.data % n == 0 for a in arrays)


# -- complex numbers; the order is lexicographic


def sign_c(z: Any) -> Any:
    if z.real == 0.0 and z.imag == 0.0:
        return complex(0.0, 0.0)
    return z / abs(z)


def complex_lt(x: Any, y: Any) -> Any:
    return x.real < y.real or (x.real == y.real and x.imag < y.imag)


def complex_le(x: Any, y: Any) -> Any:
    return x.real < y.real or (x.real == y.real and x.imag <= y.imag)


def complex_gt(x: Any, y: Any) -> Any:
    return x.real > y.real or (x.real == y.real and x.imag > y.imag)


def complex_ge(x: Any, y: Any) -> Any:
    return x.real > y.real or (x.real == y.real and x.imag >= y.imag)


HELPERS: tuple[Callable[..., Any], ...] = (
    floor_div_i, floor_div_u, floor_div_f, mod_i, mod_u, mod_f, fmod_i, fmod_u, sign_i, sign_f, sign_c,
    int_pow, gcd, power, shift_left, shift_right_i, shift_right_u, float_to_int32, float_to_int64, float_to_uint64,
    maximum, minimum, fmax, fmin, logistic, digamma, argmax_better, argmin_better, checked,
    threefry2x32,
    complex_lt, complex_le, complex_gt, complex_ge,
)  # fmt: skip
CONSTANTS = {"inf": math.inf, "nan": math.nan, "math_inf": math.inf, "math_nan": math.nan, "math_pi": math.pi}
MEMORY: tuple[Callable[..., Any], ...] = (load_vec, store_vec, aligned)
TYPES = {type_text(dtype): dtype.type for dtype in DTYPE_NAMES if not is_bfloat16(dtype)}
TYPE_NAMES = frozenset((*TYPES, "bfloat16"))  # whose type exists where ml_dtypes is imported


def _evaluated(prim: str, **attrs: Any) -> Callable[..., Any]:
    """A primitive's NumPy reference, on vectors of one: a 0-d exponent 0.5 makes NumPy's power take sqrt."""
    evaluate = primitive.get(prim).evaluate
    return lambda *args: evaluate([np.reshape(a, 1) for a in args], attrs, ())[0][0]


def _viewed(dtype: str) -> Callable[..., Any]:
    own = np.dtype(dtype.translate(str.maketrans("fi", "if"))).type
    return lambda x: own(x).view(dtype)


def of_bfloat16() -> dict[str, Any]:
    """What text with bfloat16 may name beside `PLAIN`; imports ml_dtypes."""
    number = bfloat16().type
    return {
        "bfloat16": number, "bfloat16_as_short": lambda x: number(x).view(np.int16),
        "short_as_bfloat16": lambda x: np.int16(x).view(number),
    }  # fmt: skip


def _plain() -> dict[str, Any]:
    names: dict[str, Any] = {**TYPES, **CONSTANTS}
    names.update((op, _evaluated(op)) for op in (*FUNCTIONS, *ROUNDED))
    names.update((f"complex_{op}", _evaluated(op)) for op in _COMPLEX_FUNCTIONS)
    names.update((name, _viewed(dtype)) for dtype, name in BITS.items())
    names.update(zip(_HALF_BITS["float16"], (_viewed("f2"), _viewed("i2")), strict=True))
    names.update((f.__name__, f) for f in (*HELPERS, *MEMORY))
    names.update((f"scipy_{f.replace('.', '_')}", _evaluated("scipy", function=f)) for f in SCIPY)
    return names


# What emitted text may name when plain Python runs it.
PLAIN: Mapping[str, Any] = MappingProxyType(_plain())

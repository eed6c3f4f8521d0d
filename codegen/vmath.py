"""Owns vector mathematics: elementary functions as LLVM polynomials for scalars and vectors, f32 and f64.

`emit` puts a call of an internal function such as `nf.exp.v8f64` into the builder's module, defining it on
first use; LLVM's inliner dissolves the small ones. Results are within ULP_BOUND of the exact value everywhere
(checked by tests/test_vmath.py; benchmarks/results/vmath_ulp.md holds what was measured), and correct at zeros,
infinities, NaN, subnormals and the ends of the range. No libm call, no fast-math flag.

exp, log, log1p, sin, cos, tan, pow, inverse and hyperbolic functions, erf and gamma families, i0e and i1e are vector
code; gammainc, gammaincc and betainc are vector code that iterates; nextafter, and fmod of huge quotients, are the C
library's, lane by lane. Everything else of scipy.special that is supported is a composition of these, see
tracer/np_special.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from nufunc.codegen import (
    vmath_bessel,
    vmath_exp,
    vmath_gamma,
    vmath_incomplete,
    vmath_inverse,
    vmath_log,
    vmath_more,
    vmath_special,
    vmath_trig,
)
from nufunc.codegen.vmath_builder import F32, F64, Math, V, element_type, type_name
from nufunc.ir.errors import ArgumentTypeError, DTypeError, UnsupportedError

_FUNCTIONS: dict[str, tuple[int, Callable[..., V]]] = {
    "exp": (1, vmath_exp.exp),
    "expm1": (1, vmath_exp.expm1),
    "tanh": (1, vmath_exp.tanh),
    "erf": (1, vmath_exp.erf),
    "log": (1, vmath_log.log),
    "log1p": (1, vmath_log.log1p),
    "pow": (2, vmath_log.pow),
    "sin": (1, vmath_trig.sin),
    "cos": (1, vmath_trig.cos),
    "tan": (1, vmath_trig.tan),
    "sqrt": (1, Math.sqrt),
    "asin": (1, vmath_inverse.asin),
    "acos": (1, vmath_inverse.acos),
    "atan": (1, vmath_inverse.atan),
    "atan2": (2, vmath_inverse.atan2),
    "exp2": (1, vmath_more.exp2),
    "log2": (1, vmath_more.log2),
    "log10": (1, vmath_more.log10),
    "expit": (1, vmath_more.expit),
    "sinh": (1, vmath_more.sinh),
    "cosh": (1, vmath_more.cosh),
    "asinh": (1, vmath_more.asinh),
    "acosh": (1, vmath_more.acosh),
    "atanh": (1, vmath_more.atanh),
    "erfc": (1, vmath_special.erfc),
    "erfcx": (1, vmath_special.erfcx),
    "gamma": (1, vmath_gamma.gamma),
    "lgamma": (1, vmath_gamma.lgamma),
    "digamma": (1, vmath_gamma.digamma),
    "i0e": (1, vmath_bessel.i0e),
    "i1e": (1, vmath_bessel.i1e),
    "cbrt": (1, vmath_more.cbrt),
    "hypot": (2, vmath_more.hypot),
    "erfinv": (1, vmath_special.erfinv),
    "erfcinv": (1, vmath_special.erfcinv),
}

# Functions that iterate; their errors grow with their parameters, see `vmath_incomplete`.
_ITERATED: dict[str, tuple[int, Callable[..., V]]] = {
    "gammainc": (2, vmath_incomplete.gammainc),
    "gammaincc": (2, vmath_incomplete.gammaincc),
    "betainc": (3, vmath_incomplete.betainc),
}
_EXACT: dict[str, tuple[int, Callable[..., V]]] = {"fmod": (2, vmath_more.fmod)}
_KNOWN = {**_FUNCTIONS, **_ITERATED, **_EXACT}

# Functions of one argument that cost little more together than apart: the name that `emit_joint` takes, by those of
# its results in order.
_JOINT: dict[str, tuple[tuple[str, str], Callable[[Math, V], tuple[V, V]]]] = {
    "sin_cos": (("sin", "cos"), vmath_trig.sin_cos),
    "sinh_cosh": (("sinh", "cosh"), vmath_more.sinh_cosh),
}
JOINT = {names: joint for joint, (names, _) in _JOINT.items()}

_ONE_ULP = frozenset(("exp", "exp2", "log", "sin", "cos", "tanh"))
_BOUND = {"sqrt": 0.5}

# The largest error promised, in units in the last place of the exact result. Of lgamma and digamma for positive
# arguments; for negative ones it is relative to the larger term of the reflection formula.
ULP_BOUND: dict[tuple[str, str], float] = {
    (name, dtype): 1.0 if name in _ONE_ULP else _BOUND.get(name, 2.0)
    for name in _FUNCTIONS
    for dtype in ("f32", "f64")
}
# Where rounding products and sums apart costs more than that.
NO_FMA_BOUND: dict[tuple[str, str], float] = {
    (name, "f64"): bound for name, bound in (("erfc", 2.5), ("lgamma", 2.5), ("erfcx", 2.5), ("i0e", 2.5), ("i1e", 3.0))
}


def supported() -> frozenset[str]:
    """The names whose errors are bounded."""
    return frozenset(_FUNCTIONS)


def known() -> frozenset[str]:
    """The names that `emit` takes."""
    return frozenset(_KNOWN)


def arity(name: str) -> int:
    """How many arguments the function takes."""
    return _KNOWN[name][0]


def emit(name: str, builder: ir.IRBuilder, args: Sequence[ir.Value], *, has_fma: bool = True) -> ir.Value:
    """Emit `name` of `args` at the builder's position.

    All arguments have one type (float, double, or a vector of either), which is the type of the result.
    `has_fma` states whether the target multiplies and adds in one instruction. Raises UnsupportedError for a
    name outside `known()`.
    """
    if name not in _KNOWN:
        raise UnsupportedError(f"vector mathematics has no {name!r}")
    _check(name, _KNOWN[name][0], args)
    if name == "sqrt":
        return Math(builder, has_fma).sqrt(V(Math(builder, has_fma), args[0])).value
    return builder.call(_function(builder.module, name, args[0].type, has_fma), list(args))


def emit_joint(name: str, builder: ir.IRBuilder, arg: ir.Value, *, has_fma: bool = True) -> tuple[ir.Value, ir.Value]:
    """Emit both results of a function of `JOINT` at the builder's position; each has the bits that it has alone."""
    _check(name, 1, [arg])
    pair = builder.call(_function(builder.module, name, arg.type, has_fma), [arg])
    return builder.extract_value(pair, 0), builder.extract_value(pair, 1)


def _check(name: str, count: int, args: Sequence[ir.Value]) -> None:
    type_ = args[0].type
    if len(args) != count or any(a.type != type_ for a in args):
        raise ArgumentTypeError(
            f"{name} takes {count} argument(s) of one type, got ({', '.join(str(a.type) for a in args)})"
        )
    if element_type(type_) not in (F32, F64):
        raise DTypeError(f"{name} is emitted for float and double, not for {type_}")


def _function(module: ir.Module, name: str, type_: ir.Type, has_fma: bool) -> ir.Function:
    symbol = f"nf.{name}.{type_name(type_)}" + ("" if has_fma else ".nofma")
    if symbol in module.globals:
        return module.globals[symbol]
    joint = _JOINT.get(name)
    count = 1 if joint else _KNOWN[name][0]
    result = ir.LiteralStructType([type_, type_]) if joint else type_
    function = ir.Function(module, ir.FunctionType(result, [type_] * count), symbol)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    b = ir.IRBuilder(function.append_basic_block())
    math = Math(b, has_fma)
    args = [V(math, a) for a in function.args]
    if joint:
        first, second = joint[1](math, args[0])
        pair = b.insert_value(ir.Constant(result, ir.Undefined), first.value, 0)
        b.ret(b.insert_value(pair, second.value, 1))
    else:
        b.ret(_KNOWN[name][1](math, *args).value)
    return function

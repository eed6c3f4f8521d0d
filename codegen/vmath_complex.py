"""Owns the complex functions of vector mathematics: exp, log, square root, sines and their kin as pairs of vectors.

Formulas in the real functions serve finite arguments whose results neither overflow nor vanish; a vector with another
lane takes the C library's function for such lanes, whose special values are NumPy's. The inverse functions are
always the C library's, lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from nufunc.codegen import vmath
from nufunc.codegen.vmath_builder import F32, F64, Math, V, element_type, type_name, with_element

Pair = tuple[V, V]
# largest |x| for which sinh and cosh are taken from the real functions, and range in which squares are normal
_STEEP = {"f64": 700.0, "f32": 80.0}
_SQUARES = {"f64": (1e-150, 1e150), "f32": (1e-18, 1e18)}
_INF = float("inf")
_SINGLE_LANE = "casin cacos catan casinh cacosh catanh".split()


def call(m: Math, name: str, *args: V) -> V:
    return V(m, vmath.emit(name, m.builder, [a.value for a in args], has_fma=m.has_fma))


def joint(m: Math, name: str, x: V) -> Pair:
    first, second = vmath.emit_joint(name, m.builder, x.value, has_fma=m.has_fma)
    return V(m, first), V(m, second)


def _exp(m: Math, x: V, y: V) -> tuple[V, V, V]:
    size = call(m, "exp", x)
    limit = _STEEP[x.format.name]
    sine, cosine = joint(m, "sin_cos", y)
    return size * cosine, size * sine, (m.abs(x) < limit) & (m.abs(y) < _INF)


def _log(m: Math, x: V, y: V) -> tuple[V, V, V]:
    """log |z| near the unit circle from |z|**2 - 1 in two pieces, since it vanishes there."""
    a, b = m.abs(x), m.abs(y)
    low, high = _SQUARES[x.format.name]
    wide = a > b
    large, small = m.select(wide, a, b), m.select(wide, b, a)
    # far from 1 the bounds only keep what is thrown away finite
    p, p_low = m.two_prod(m.at_most(large, 2.0), m.at_most(large, 2.0))
    q, q_low = m.two_prod(m.at_most(small, 2.0), m.at_most(small, 2.0))
    total, rest = m.two_sum(p - 1.0, q)
    total = total + (rest + (p_low + q_low))
    near = (large < 1.5) & (large > 0.5)
    size = m.select(near, call(m, "log1p", m.select(near, total, 0.0)) * 0.5, call(m, "log", call(m, "hypot", x, y)))
    return size, call(m, "atan2", y, x), (large > low) & (large < high) & y.eq(y) & x.eq(x)


def _sqrt(m: Math, x: V, y: V) -> tuple[V, V, V]:
    low, high = _SQUARES[x.format.name]
    a, b = m.abs(x), m.abs(y)
    root = m.sqrt((a + call(m, "hypot", x, y)) * 0.5)
    zero = root.eq(0.0)
    other = b * 0.5 / m.select(zero, 1.0, root)
    right = m.select(x < 0.0, other, root)
    up = m.select(x < 0.0, root, other)
    usual = ((a > low) | (b > low)) & (a < high) & (b < high)
    return right, m.copysign(up, y), usual | zero


def _sinh(m: Math, x: V, y: V) -> tuple[V, V, V]:
    usual = (m.abs(x) < _STEEP[x.format.name]) & (m.abs(y) < _INF)
    (odd, even), (sine, cosine) = joint(m, "sinh_cosh", x), joint(m, "sin_cos", y)
    return odd * cosine, even * sine, usual


def _cosh(m: Math, x: V, y: V) -> tuple[V, V, V]:
    usual = (m.abs(x) < _STEEP[x.format.name]) & (m.abs(y) < _INF)
    (odd, even), (sine, cosine) = joint(m, "sinh_cosh", x), joint(m, "sin_cos", y)
    return even * cosine, odd * sine, usual


def _tanh(m: Math, x: V, y: V) -> tuple[V, V, V]:
    """(sinh x cosh x + i sin y cos y) / (sinh(x)**2 + cos(y)**2)."""
    (s, even), (sine, c) = joint(m, "sinh_cosh", x), joint(m, "sin_cos", y)
    inverse = 1.0 / (s * s + c * c)
    usual = (m.abs(x) < 8.0 if x.format.name == "f32" else m.abs(x) < 20.0) & (m.abs(y) < _INF)
    return s * even * inverse, sine * c * inverse, usual


def _turned(function: Callable[..., tuple[V, V, V]]) -> Callable[..., tuple[V, V, V]]:
    """f(z) = -i g(i z)."""

    def turned(m: Math, x: V, y: V) -> tuple[V, V, V]:
        re, im, usual = function(m, -y, x)
        return im, -re, usual

    return turned


def _cos(m: Math, x: V, y: V) -> tuple[V, V, V]:
    return _cosh(m, -y, x)


_FUNCTIONS: dict[str, Callable[..., tuple[V, V, V]]] = {
    "cexp": _exp, "clog": _log, "csqrt": _sqrt, "csinh": _sinh, "ccosh": _cosh, "ctanh": _tanh,
    "csin": _turned(_sinh), "ccos": _cos, "ctan": _turned(_tanh),
}  # fmt: skip


def emit(name: str, builder: ir.IRBuilder, arg: Sequence[ir.Value], has_fma: bool) -> tuple[ir.Value, ir.Value]:
    """The C library's complex function `name` of (re, im), scalars or vectors of float or double."""
    type_ = arg[0].type
    function = _library(builder.module, name, type_) if name in _SINGLE_LANE else None
    result = builder.call(function or _function(builder.module, name, type_, has_fma), list(arg))
    return builder.extract_value(result, 0), builder.extract_value(result, 1)


def _declared(module: ir.Module, symbol: str, type_: ir.Type) -> tuple[ir.Function, ir.IRBuilder]:
    result = ir.LiteralStructType([type_, type_])
    function = ir.Function(module, ir.FunctionType(result, [type_, type_]), symbol)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    return function, ir.IRBuilder(function.append_basic_block())


def _returned(b: ir.IRBuilder, pair: Sequence[ir.Value]) -> None:
    out: ir.Value = ir.Constant(ir.LiteralStructType([pair[0].type] * 2), ir.Undefined)
    b.ret(b.insert_value(b.insert_value(out, pair[0], 0), pair[1], 1))


def _function(module: ir.Module, name: str, type_: ir.Type, has_fma: bool) -> ir.Function:
    symbol = f"nf.{name}.{type_name(type_)}" + ("" if has_fma else ".nofma")
    if symbol in module.globals:
        return module.globals[symbol]
    function, b = _declared(module, symbol, type_)
    m = Math(b, has_fma)
    x, y = (V(m, a) for a in function.args)
    re, im, usual = _FUNCTIONS[name](m, x, y)

    def unusual() -> list[V]:
        result = b.call(_library(module, name, type_), [x.value, y.value])
        return [m.select(usual, own, V(m, b.extract_value(result, i))) for i, own in enumerate((re, im))]

    _returned(b, [v.value for v in m.rarely(~usual, [re, im], unusual)])
    return function


def _library(module: ir.Module, name: str, type_: ir.Type) -> ir.Function:
    """The C library's function on each lane, in double precision: argument and result travel as two doubles."""
    symbol = f"nf.libm.{name}.{type_name(type_)}"
    if symbol in module.globals:
        return module.globals[symbol]
    function, b = _declared(module, symbol, type_)
    function.attributes.add("noinline")
    pair = ir.LiteralStructType([F64, F64])
    if name in module.globals:
        outside = module.globals[name]
    else:
        outside = ir.Function(module, ir.FunctionType(pair, [F64, F64]), name)
    wide = with_element(type_, F64)
    single = element_type(type_) == F32
    parts = [b.fpext(a, wide) if single else a for a in function.args]
    if not isinstance(type_, ir.VectorType):
        result = b.call(outside, parts)
        done = [b.extract_value(result, i) for i in range(2)]
    else:
        done = [ir.Constant(wide, ir.Undefined)] * 2
        for lane in range(type_.count):
            at = ir.Constant(ir.IntType(32), lane)
            result = b.call(outside, [b.extract_element(p, at) for p in parts])
            done = [b.insert_element(d, b.extract_value(result, i), at) for i, d in enumerate(done)]
    _returned(b, [b.fptrunc(d, type_) if single else d for d in done])
    return function

"""digamma as code: reflection, recurrence up to 6, then the asymptotic series; about 1e-14 relative away
from its zeros."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llvmlite import ir

from nufunc.codegen.llvm import F32, F64, like, per_lane, scalar_of
from nufunc.ir.types import FLOAT64

if TYPE_CHECKING:
    from nufunc.codegen.scalars import Scalars

# B_2k / 2k for k = 1, 2, ...: digamma(x) ~ log x - 1/2x - sum of these / x^2k
_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


def digamma(scalars: Scalars, x: ir.Value) -> ir.Value:
    """Lane by lane, in double precision."""
    b, module = scalars.b, scalars.b.module
    single = scalar_of(x.type) == F32
    if "nf.digamma" not in module.globals:
        _define(module, scalars.has_fma)
    wide = b.fpext(x, like(x.type, F64)) if single else x
    result = per_lane(b, "nf.digamma", module.globals["nf.digamma"], [wide])
    return b.fptrunc(result, x.type) if single else result


def _define(module: ir.Module, has_fma: bool) -> None:
    from nufunc.codegen.scalars import Scalars

    function = ir.Function(module, ir.FunctionType(F64, [F64]), "nf.digamma")
    function.linkage = "internal"
    start, loop, series = (function.append_basic_block(n) for n in ("start", "loop", "series"))
    b = ir.IRBuilder(start)
    scalars = Scalars(b, has_fma)
    x = function.args[0]
    call = lambda name, *args: scalars.function(name, args)
    low = b.fcmp_ordered("<=", x, F64(0.0))
    floor = scalars.float_floor(x, FLOAT64)
    pole = b.and_(low, b.fcmp_ordered("==", x, floor))
    fraction = b.fsub(
        x, scalars.float_rint(x, FLOAT64)
    )  # tan(pi x) of the part beyond integers keeps its digits
    tangent = call("tan", b.fmul(fraction, F64(math.pi)))
    reflected = b.fdiv(F64(-math.pi), tangent)
    first = b.select(low, b.fsub(F64(1.0), x), x)
    base = b.select(low, reflected, F64(0.0))
    at_zero = b.fdiv(F64(-1.0), x)  # -inf and inf at the two zeros, as SciPy has it
    b.branch(loop)
    b.position_at_end(loop)
    y, total = b.phi(F64), b.phi(F64)
    small = b.fcmp_ordered("<", y, F64(6.0))
    next_total = b.select(small, b.fsub(total, b.fdiv(F64(1.0), y)), total)
    next_y = b.select(small, b.fadd(y, F64(1.0)), y)
    for phi, before, after in ((y, first, next_y), (total, base, next_total)):
        phi.add_incoming(before, start)
        phi.add_incoming(after, loop)
    b.cbranch(small, loop, series)
    b.position_at_end(series)
    inverse = b.fdiv(F64(1.0), b.fmul(y, y))
    tail = F64(0.0)
    for c in reversed(_SERIES):
        tail = b.fmul(inverse, b.fadd(F64(c), tail))
    result = b.fsub(call("log", y), b.fdiv(F64(0.5), y))
    result = b.fadd(b.fsub(result, tail), total)
    infinite = b.fcmp_ordered("==", y, F64(math.inf))
    result = b.select(infinite, y, result)
    result = b.select(pole, F64(math.nan), result)
    b.ret(b.select(b.fcmp_ordered("==", x, F64(0.0)), at_zero, result))

"""Owns sin, cos and tan of vector mathematics, and the reduction of their argument by pi/2.

Up to FAST the reduction is Cody and Waite's. A vector with a lane beyond it (or NaN, inf) takes a rarely run
branch to Payne and Hanek's method: the bits of 2/pi that matter for x are multiplied by its significand in
integers. That part is one scalar function a module, called per lane.
"""

from __future__ import annotations

from llvmlite import ir

from nufunc.codegen.vmath_builder import F64, I1, Math, V, type_name, with_element
from nufunc.codegen.vmath_coefficients import PIO2, PIO2_SHORT, POLY, TWO_OVER_PI, TWO_OVER_PI_WORDS

I32 = ir.IntType(32)
I64 = ir.IntType(64)
I128 = ir.IntType(128)
# With fma the products with three full doubles are exact for any quadrant count below 2**51; without it the
# pieces of 33 bits leave 20 bits for the count.
FAST = {True: 2.0**30, False: 2.0**20}


def _two_over_pi_table(module: ir.Module) -> ir.GlobalVariable:
    table = module.globals.get("nf.two_over_pi")
    if table is None:
        type_ = ir.ArrayType(I64, len(TWO_OVER_PI_WORDS))
        table = ir.GlobalVariable(module, type_, "nf.two_over_pi")
        table.initializer = ir.Constant(type_, list(TWO_OVER_PI_WORDS))
        table.global_constant = True
        table.linkage = "internal"
    return table


def _internal(module: ir.Module, name: str, type_: ir.FunctionType) -> ir.Function:
    """A function that is seldom called: unoptimised it compiles in half the time and is 4% slower."""
    function = ir.Function(module, type_, name)
    function.linkage = "internal"
    for attribute in ("nounwind", "noinline", "optnone"):
        function.attributes.add(attribute)
    return function


def _payne_hanek(module: ir.Module, has_fma: bool) -> ir.Function:
    """f64 x > 2**19 -> (r, r_low, q): x = (4 j + q) pi/2 + r + r_low, |r| <= pi/4; NaN for inf and NaN."""
    name = "nf.payne_hanek" + ("" if has_fma else ".nofma")
    if name in module.globals:
        return module.globals[name]
    result = ir.LiteralStructType([F64, F64, I64])
    function = _internal(module, name, ir.FunctionType(result, [F64]))
    b = ir.IRBuilder(function.append_basic_block())
    m = Math(b, has_fma)
    bits = V(m, function.args[0]).bits()
    exponent = (bits >> 52) & 0x7FF
    significand = (bits & ((1 << 52) - 1)) | (1 << 52)
    # x = significand * 2**e, e = exponent - 1075. Bits of 2/pi above 2**(1 - e) give multiples of 4, so the
    # window starts there: at bit e - 2 behind the point, 64 later in a table that begins with a zero word.
    offset = exponent - (1075 + 2 - 64)
    word, shift = offset >> 6, offset & 63
    table = _two_over_pi_table(module)
    words = []
    for i in range(4):
        index = (word + i).value
        words.append(V(m, b.load(b.gep(table, [ir.Constant(I64, 0), index], inbounds=True))))
    window = [m.intrinsic("llvm.fshl", words[i], words[i + 1], shift) for i in range(3)]

    def wide(x: V) -> V:
        return V(m, b.zext(x.value, I128))

    # significand * window modulo 2**192, less its lowest word: x * 2/pi modulo 4, 126 bits behind the point
    low = wide(significand) * wide(window[2])
    middle = wide(significand) * wide(window[1]) + (low >> 64)
    product = (wide(significand * window[0]) << 64) + middle
    quadrant = V(m, b.trunc((product >> 126).value, I64)) + V(m, b.trunc(((product >> 125) & 1).value, I64))
    fraction = product << 2  # signed, in units of 2**-128 quadrants
    negative = fraction < 0
    magnitude = m.select(negative, m.like(fraction, 0) - fraction, fraction)
    zeros = V(m, b.call(_ctlz(module), [magnitude.value, ir.Constant(I1, 0)]))
    magnitude = magnitude << zeros
    # 106 bits as two doubles, each exact
    scale = m.pow2(V(m, b.trunc((m.like(zeros, 0) - zeros).value, I64)))

    def piece(shift_: int) -> V:
        part = V(m, b.trunc((magnitude >> shift_).value, I64)) & ((1 << 53) - 1)
        return V(m, b.sitofp(part.value, F64)) * scale * 2.0 ** (shift_ - 128)

    high, high_low = piece(75), piece(22)
    r, r_low = m.two_prod(high, PIO2[0])
    r_low = r_low + m.fma(high, PIO2[1], high_low * PIO2[0])
    r, r_low = m.quick_two_sum(r, r_low)
    finite = exponent < 0x7FF
    r = m.select(finite, m.select(negative, -r, r), float("nan"))
    r_low = m.select(negative, -r_low, r_low)
    out = b.insert_value(ir.Constant(result, ir.Undefined), r.value, 0)
    out = b.insert_value(b.insert_value(out, r_low.value, 1), quadrant.value, 2)
    b.ret(out)
    return function


def _ctlz(module: ir.Module) -> ir.Function:
    if "llvm.ctlz.i128" not in module.globals:
        ir.Function(module, ir.FunctionType(I128, [I128, I1]), "llvm.ctlz.i128")
    return module.globals["llvm.ctlz.i128"]


def _payne_hanek_lanes(module: ir.Module, type_: ir.VectorType, has_fma: bool) -> ir.Function:
    """(x, r, r_low, q) -> (r, r_low, q) with the lanes replaced where x is beyond FAST: a loop over lanes."""
    name = f"nf.payne_hanek.{type_name(type_)}" + ("" if has_fma else ".nofma")
    if name in module.globals:
        return module.globals[name]
    int_type = with_element(type_, I64)
    types = [type_, type_, int_type]
    result = ir.LiteralStructType(types)
    function = _internal(module, name, ir.FunctionType(result, [type_, *types]))
    entry, loop, slow, step, done = (
        function.append_basic_block(n) for n in ("", "lane", "slow", "next", "done")
    )
    b = ir.IRBuilder(entry)
    b.branch(loop)
    b.position_at_end(loop)
    lane = b.phi(I32)
    before = [b.phi(t) for t in types]
    x = b.extract_element(function.args[0], lane)
    b.cbranch(b.fcmp_ordered("<=", x, ir.Constant(F64, FAST[has_fma])), step, slow)
    b.position_at_end(slow)
    reduced = b.call(_payne_hanek(module, has_fma), [x])
    replaced = [b.insert_element(v, b.extract_value(reduced, i), lane) for i, v in enumerate(before)]
    b.branch(step)
    b.position_at_end(step)
    after = [b.phi(t) for t in types]
    following = b.add(lane, ir.Constant(I32, 1))
    b.cbranch(b.icmp_unsigned("<", following, ir.Constant(I32, type_.count)), loop, done)
    lane.add_incoming(ir.Constant(I32, 0), entry)
    lane.add_incoming(following, step)
    for i, argument in enumerate(function.args[1:]):
        before[i].add_incoming(argument, entry)
        before[i].add_incoming(after[i], step)
        after[i].add_incoming(before[i], loop)
        after[i].add_incoming(replaced[i], slow)
    b.position_at_end(done)
    out: ir.Value = ir.Constant(result, ir.Undefined)
    for i, value in enumerate(after):
        out = b.insert_value(out, value, i)
    b.ret(out)
    return function


def _reduce_fast(m: Math, a: V, precise: bool) -> tuple[V, V | None, V]:
    """Cody and Waite: (r, r_low, quadrant) for 0 <= a <= FAST; not `precise`: r alone, for f32 results."""
    n, quadrant = m.round_to_int(a, TWO_OVER_PI)
    if not m.has_fma:
        first, *pieces, last = PIO2_SHORT
        r = a - n * first  # exact, and so are the products with `pieces`
        if not precise:
            return (r - n * pieces[0]) - n * pieces[1], None, quadrant
        r, low = m.two_sum(r, n * -pieces[0])
        r, error = m.two_sum(r, n * -pieces[1])
        return *m.quick_two_sum(r, (low + error) - n * last), quadrant
    r = m.fma(n, -PIO2[0], a)  # exact
    if not precise:
        return m.fma(n, -PIO2[1], r), None, quadrant
    p, p_low = m.two_prod(n, -PIO2[1])
    r, low = m.quick_two_sum(r, p)  # also where cancellation leaves |r| < |p|: then r is a multiple of p's last place
    return r, low + m.fma(n, -PIO2[2], p_low), quadrant


def reduce_quadrant(m: Math, a: V, precise: bool) -> tuple[V, V | None, V]:
    """(r, r_low, quadrant) for every f64 a >= 0, inf or NaN; the builder ends up in a new block."""
    r, low, quadrant = _reduce_fast(m, a, precise)
    fast = [r, m.like(a, 0.0) if low is None else low, quadrant]

    def slow() -> list[V]:
        b = m.builder
        if isinstance(a.type, ir.VectorType):
            call = b.call(_payne_hanek_lanes(b.module, a.type, m.has_fma), [v.value for v in (a, *fast)])
        else:
            call = b.call(_payne_hanek(b.module, m.has_fma), [a.value])
        return [V(m, b.extract_value(call, i)) for i in range(3)]

    r, low, quadrant = m.rarely(~(a <= FAST[m.has_fma]), fast, slow)
    return r, low if precise else None, quadrant


def _sin_cos(m: Math, r: V, low: V | None) -> tuple[V, V, V, V]:
    """sin and cos of r + low on [-pi/4, pi/4]: (s, ds, c, dc), to be added; s and c are the larger parts."""
    z = r * r
    fit = "f32_wide" if low is None else "f64"
    odd = z * r * m.poly(z, POLY[f"sin_{fit}"])
    even = z * z * m.poly(z, POLY[f"cos_{fit}"])
    half = z * 0.5
    w = 1.0 - half
    if low is None:
        return r, odd, w, even
    return r, m.fma(low, w, odd), w, ((1.0 - w) - half) + m.fma(-r, low, even)


def _with_sign(x: V, sign: V) -> V:
    """x, negated in lanes where the top bit of `sign` is set."""
    return (x.bits() ^ (sign & x.format.sign_bit)).as_float()


def _widened(m: Math, x: V) -> tuple[V, bool]:
    return (x, True) if x.format.name == "f64" else (m.widen(x), False)


def _narrowed(m: Math, y: V, like: V) -> V:
    return y if like.format.name == "f64" else m.narrow(y)


def sin(m: Math, x: V) -> V:
    return sin_cos(m, x)[0]


def cos(m: Math, x: V) -> V:
    return sin_cos(m, x)[1]


def sin_cos(m: Math, x: V) -> tuple[V, V]:
    """Both cost little more than one: they share the reduction and the two polynomials."""
    wide, precise = _widened(m, x)
    r, low, quadrant = reduce_quadrant(m, m.abs(wide), precise)
    s, ds, c, dc = _sin_cos(m, r, low)
    s, c, odd = s + ds, c + dc, (quadrant & 1).ne(0)
    sine = _with_sign(m.select(odd, c, s), (quadrant << 62) ^ wide.bits())
    cosine = _with_sign(m.select(odd, s, c), (quadrant + 1) << 62)
    return _narrowed(m, sine, x), _narrowed(m, cosine, x)


def tan(m: Math, x: V) -> V:
    """sin / cos or -cos / sin; for f64 with a correction for what rounding took from the two."""
    wide, precise = _widened(m, x)
    r, low, quadrant = reduce_quadrant(m, m.abs(wide), precise)
    s, ds, c, dc = _sin_cos(m, r, low)
    s, ds = m.quick_two_sum(s, ds)
    c, dc = m.quick_two_sum(c, dc)
    odd = (quadrant & 1).ne(0)
    above, below = m.select(odd, c, s), m.select(odd, s, c)
    if not precise:
        y = above / below
    else:
        above_low, below_low = m.select(odd, dc, ds), m.select(odd, ds, dc)
        if m.has_fma:  # one division serves twice, as the remainder of the first quotient is exact
            inverse = 1.0 / below
            y = above * inverse
            y = m.fma(m.fma(-y, below, above) + m.fma(-y, below_low, above_low), inverse, y)
        else:
            y = above / below
            y = y + (above_low - y * below_low) / below
    return _narrowed(m, _with_sign(y, (quadrant << 63) ^ wide.bits()), x)

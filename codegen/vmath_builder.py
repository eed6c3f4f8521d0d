"""Owns the language of vector mathematics: one text serves scalars and vectors, f32 and f64.

A :class:`V` is an LLVM value with Python operators; a :class:`Math` adds what needs more than one instruction
(fma, Estrin polynomials, error-free sums and products, exponent scaling). Python numbers are splatted to the
type of the other operand. Nothing here sets a fast-math flag, and every intrinsic used maps to instructions,
so no call of libm can appear in the object code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

from llvmlite import ir

from nufunc.codegen import x86

I1 = ir.IntType(1)
F32 = ir.FloatType()
F64 = ir.DoubleType()


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: `bits` wide, `mantissa` stored bits, exponent `bias`."""

    name: str
    bits: int
    mantissa: int
    bias: int

    @property
    def magic(self) -> float:
        """1.5 * 2**mantissa: adding it rounds to an integer that then stands in the low bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def magic_bits(self) -> int:
        return ((self.bias + self.mantissa) << self.mantissa) | (1 << (self.mantissa - 1))

    @property
    def one_bits(self) -> int:
        return self.bias << self.mantissa

    @property
    def sign_bit(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return float(2.0 ** (1 - self.bias))


FORMATS = {"f32": Format("f32", 32, 23, 127), "f64": Format("f64", 64, 52, 1023)}

Operand = Union["V", float, int]


def element_type(type_: ir.Type) -> ir.Type:
    return type_.element if isinstance(type_, ir.VectorType) else type_


def with_element(type_: ir.Type, element: ir.Type) -> ir.Type:
    """`type_` with its lanes replaced by `element`."""
    return ir.VectorType(element, type_.count) if isinstance(type_, ir.VectorType) else element


def splat(type_: ir.Type, number: float | int) -> ir.Constant:
    if isinstance(type_, ir.VectorType):
        return ir.Constant(type_, [number] * type_.count)
    return ir.Constant(type_, number)


def type_name(type_: ir.Type) -> str:
    """`f64`, `v8f64`, `v4i32`: LLVM's own suffixes of overloaded intrinsics."""
    element = element_type(type_)
    name = f"i{element.width}" if isinstance(element, ir.IntType) else {F32: "f32", F64: "f64"}[element]
    return f"v{type_.count}{name}" if isinstance(type_, ir.VectorType) else name


class V:
    """An LLVM value (float, integer or mask; scalar or vector) with operators. `>>` is the logical shift."""

    __slots__ = ("math", "value")

    def __init__(self, math: Math, value: ir.Value) -> None:
        self.math = math
        self.value = value

    @property
    def type(self) -> ir.Type:
        return self.value.type

    @property
    def is_float(self) -> bool:
        return not isinstance(element_type(self.type), ir.IntType)

    @property
    def format(self) -> Format:
        return FORMATS["f64" if element_type(self.type) in (F64, ir.IntType(64)) else "f32"]

    def _coerce(self, other: Operand) -> ir.Value:
        if isinstance(other, V):
            return other.value
        return splat(self.type, float(other) if self.is_float else int(other))

    def _op(self, other: Operand, float_op: str, int_op: str, swap: bool = False) -> V:
        left, right = self.value, self._coerce(other)
        if swap:
            left, right = right, left
        method = getattr(self.math.builder, float_op if self.is_float else int_op)
        return V(self.math, method(left, right))

    def __add__(self, other: Operand) -> V:
        return self._op(other, "fadd", "add")

    def __sub__(self, other: Operand) -> V:
        return self._op(other, "fsub", "sub")

    def __mul__(self, other: Operand) -> V:
        return self._op(other, "fmul", "mul")

    def __truediv__(self, other: Operand) -> V:
        return self._op(other, "fdiv", "")

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Operand) -> V:
        return self._op(other, "fsub", "sub", swap=True)

    def __rtruediv__(self, other: Operand) -> V:
        return self._op(other, "fdiv", "", swap=True)

    def __neg__(self) -> V:
        return V(self.math, self.math.builder.fneg(self.value))

    def __and__(self, other: Operand) -> V:
        return self._op(other, "", "and_")

    def __or__(self, other: Operand) -> V:
        return self._op(other, "", "or_")

    def __xor__(self, other: Operand) -> V:
        return self._op(other, "", "xor")

    def __lshift__(self, other: Operand) -> V:
        return self._op(other, "", "shl")

    def __rshift__(self, other: Operand) -> V:
        return self._op(other, "", "lshr")

    def __invert__(self) -> V:
        return self ^ -1

    def _compare(self, relation: str, other: Operand) -> V:
        b = self.math.builder
        compare: Callable[..., ir.Value] = b.icmp_signed
        if self.is_float:  # NaN: every relation is false, except that it differs from everything
            compare = b.fcmp_unordered if relation == "!=" else b.fcmp_ordered
        return V(self.math, compare(relation, self.value, self._coerce(other)))

    def __lt__(self, other: Operand) -> V:
        return self._compare("<", other)

    def __le__(self, other: Operand) -> V:
        return self._compare("<=", other)

    def __gt__(self, other: Operand) -> V:
        return self._compare(">", other)

    def __ge__(self, other: Operand) -> V:
        return self._compare(">=", other)

    def eq(self, other: Operand) -> V:
        return self._compare("==", other)

    def ne(self, other: Operand) -> V:
        return self._compare("!=", other)

    def bits(self) -> V:
        """The same lanes read as integers."""
        type_ = with_element(self.type, ir.IntType(self.format.bits))
        return V(self.math, self.math.builder.bitcast(self.value, type_))

    def as_float(self) -> V:
        """The same lanes read as floats."""
        type_ = with_element(self.type, F64 if self.format.name == "f64" else F32)
        return V(self.math, self.math.builder.bitcast(self.value, type_))


class Math:
    """Emits into `builder`; without `has_fma` no fma is emitted, and products are split by Veltkamp's way. Where the
    module allows it, what AVX-512 has an instruction for becomes that."""

    def __init__(self, builder: ir.IRBuilder, has_fma: bool) -> None:
        self.builder = builder
        self.has_fma = has_fma
        self.has_avx512 = x86.allowed(builder.module)

    def like(self, x: V, number: float | int) -> V:
        return V(self, splat(x.type, number))

    def intrinsic(self, name: str, *args: V) -> V:
        """Call LLVM's overloaded intrinsic `name` on arguments of one type."""
        type_ = args[0].type
        full = f"{name}.{type_name(type_)}"
        function = self.builder.module.globals.get(full)
        if function is None:
            function = ir.Function(self.builder.module, ir.FunctionType(type_, [type_] * len(args)), full)
        return V(self, self.builder.call(function, [a.value for a in args]))

    def fma(self, a: V, b: Operand, c: Operand) -> V:
        """a * b + c: rounded once where the target has fma, twice elsewhere."""
        if not self.has_fma:
            return a * b + c
        b, c = (t if isinstance(t, V) else self.like(a, t) for t in (b, c))
        return self.intrinsic("llvm.fma", a, b, c)

    def select(self, mask: V, yes: Operand, no: Operand) -> V:
        if not isinstance(yes, V):
            yes = self.like(no, yes) if isinstance(no, V) else self.like(mask, yes)
        if not isinstance(no, V):
            no = self.like(yes, no)
        return V(self, self.builder.select(mask.value, yes.value, no.value))

    def at_most(self, x: V, limit: float) -> V:
        """min(x, limit) that lets NaN through."""
        return self.select(x > limit, limit, x)

    def at_least(self, x: V, limit: float) -> V:
        """max(x, limit) that lets NaN through."""
        return self.select(x < limit, limit, x)

    def abs(self, x: V) -> V:
        return self.intrinsic("llvm.fabs", x)

    def sqrt(self, x: V) -> V:
        return self.intrinsic("llvm.sqrt", x)

    def copysign(self, magnitude: V, sign: V) -> V:
        return self.intrinsic("llvm.copysign", magnitude, sign)

    def any(self, mask: V) -> V:
        """True (an i1) if a lane of `mask` is true."""
        if not isinstance(mask.type, ir.VectorType):
            return mask
        word = self.builder.bitcast(mask.value, ir.IntType(mask.type.count))
        return V(self, self.builder.icmp_unsigned("!=", word, ir.Constant(word.type, 0)))

    def is_whole(self, a: V) -> V:
        """Mask of the integers among a >= 0 (inf included)."""
        if self.has_fma:  # such targets round in one instruction; older ones would call libm
            return self.intrinsic("llvm.rint", a).eq(a)
        anchor = 2.0**a.format.mantissa
        return (a >= anchor) | ((a + anchor) - anchor).eq(a)

    def rarely(self, mask: V, values: Sequence[V], repaired: Callable[[], Sequence[V]]) -> list[V]:
        """`values`, or what `repaired` emits if a lane of `mask` is true; ends in a new block."""
        b = self.builder
        usual = b.block
        rare, join = b.append_basic_block("rare"), b.append_basic_block("join")
        b.cbranch(self.any(mask).value, rare, join).set_weights([1, 4000])
        b.position_at_end(rare)
        others = repaired()
        rare = b.block
        b.branch(join)
        b.position_at_end(join)
        merged = []
        for value, other in zip(values, others, strict=True):
            phi = b.phi(value.type)
            phi.add_incoming(value.value, usual)
            phi.add_incoming(other.value, rare)
            merged.append(V(self, phi))
        return merged

    def to_float(self, n: V) -> V:
        """Signed integers of 32 bits as f32."""
        return V(self, self.builder.sitofp(n.value, with_element(n.type, F32)))

    def from_float(self, x: V) -> V:
        """f32, truncated, as signed integers of 32 bits."""
        return V(self, self.builder.fptosi(x.value, with_element(x.type, ir.IntType(32))))

    def widen(self, x: V) -> V:
        return V(self, self.builder.fpext(x.value, with_element(x.type, F64)))

    def narrow(self, x: V) -> V:
        return V(self, self.builder.fptrunc(x.value, with_element(x.type, F32)))

    def poly(self, x: V, coefficients: Sequence[float], chain: int = 0) -> V:
        """sum(c[k] * x**k) by Estrin's scheme: the dependency chain is log2 of the degree, not the degree.

        The first `chain` coefficients go by Horner's scheme, which rounds no powers of x.
        """
        if chain:
            result = self.poly(x, coefficients[chain:])
            for c in reversed(coefficients[:chain]):
                result = self.fma(result, x, c)
            return result
        terms: list[Operand] = list(coefficients)
        power = x
        while len(terms) > 1:
            pairs = [self.fma(power, terms[i + 1], terms[i]) for i in range(0, len(terms) - 1, 2)]
            terms = [*pairs, *([terms[-1]] if len(terms) % 2 else [])]
            if len(terms) > 1:
                power = power * power
        last = terms[0]
        return last if isinstance(last, V) else self.like(x, last)

    def round_to_int(self, x: V, factor: float) -> tuple[V, V]:
        """n = x * factor rounded to nearest, as a float and as a signed integer; |n| < 2**(mantissa - 1)."""
        f = x.format
        shifted = self.fma(x, factor, f.magic)
        return shifted - f.magic, shifted.bits() - f.magic_bits

    def scale(self, x: V, exponent: V, whole: V) -> V:
        """x * 2**exponent rounded once, for |exponent| within twice the format's range; `whole` is the exponent as a
        float.

        In two factors, so that overflow and subnormal results come out right; with logical shifts only, since
        AVX2 has no arithmetic shift of 64-bit lanes.
        """
        if self.has_avx512:
            return V(self, x86.scaled(self.builder, x.value, whole.value))
        f = x.format
        biased = exponent + 2 * f.bias
        half = biased >> 1
        return x * (half << f.mantissa).as_float() * ((biased - half) << f.mantissa).as_float()

    def pow2(self, exponent: V) -> V:
        """2**exponent for exponents of normal numbers."""
        f = exponent.format
        return ((exponent + f.bias) << f.mantissa).as_float()

    def reciprocal(self, x: V) -> V:
        """1 / x to 14 bits at least."""
        return V(self, x86.reciprocal(self.builder, x.value)) if self.has_avx512 else 1.0 / x

    def two_sum(self, a: V, b: V) -> tuple[V, V]:
        """a + b as (rounded, error) for any order of magnitude (Knuth)."""
        s = a + b
        t = s - a
        return s, (a - (s - t)) + (b - t)

    def quick_two_sum(self, a: V, b: V) -> tuple[V, V]:
        """a + b as (rounded, error) where |a| >= |b| or a is zero (Dekker)."""
        s = a + b
        return s, b - (s - a)

    def _split(self, a: V) -> tuple[V, V]:
        c = a * float(2 ** ((a.format.mantissa + 2) // 2) + 1)
        high = c - (c - a)
        return high, a - high

    def two_prod(self, a: V, b: Operand) -> tuple[V, V]:
        """a * b as (rounded, error); without fma by Veltkamp's splitting, for values far from overflow."""
        p = a * b
        if self.has_fma:
            return p, self.fma(a, b, -p)
        ah, al = self._split(a)
        bh, bl = self._split(b if isinstance(b, V) else self.like(a, b))
        return p, al * bl - (((p - ah * bh) - al * bh) - ah * bl)

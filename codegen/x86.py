"""Instructions of x86 with AVX-512 that vector mathematics uses and LLVM's portable intrinsics do not reach.

A module says by metadata whether they may be used in it (`allow`), so that who emits mathematics into it need not know
the target. Vectors are worked on register by register, and scalars in the first lane of a register.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llvmlite import ir

from nufunc.codegen.llvm import F64, I32, constant, declare, like, scalar_of

_ALLOWED = "nf.avx512"
_FEATURES = ("avx512f", "avx512vl", "avx512dq")
_AS_SET = I32(4)  # the rounding mode that the processor is in

# What `replaced` puts in place of numbers of a class, and the classes in the order of the instruction's table.
KEEP, SOURCE, NAN, MINUS_INF, INF = 0, 2, 3, 4, 5
_CLASSES = ("quiet NaN", "signaling NaN", "zero", "one", "-inf", "inf", "negative", "positive")


def allow(module: ir.Module, features: str) -> None:
    """Let `module` use these instructions if LLVM's list of features has them."""
    on = features.split(",")
    if all(f"+{name}" in on for name in _FEATURES) and not allowed(module):
        module.add_named_metadata(_ALLOWED)


def allowed(module: ir.Module) -> bool:
    return _ALLOWED in module.namedmetadata


def scaled(b: ir.IRBuilder, x: ir.Value, exponent: ir.Value) -> ir.Value:
    """x * 2**exponent rounded once, for whole exponents of any size, given as floats."""
    return _call(b, "mask.scalef", x, exponent)


def exponent(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """floor(log2(x)) as a float, for positive x that may be subnormal."""
    return _call(b, "mask.getexp", x)


def significand(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """x * 2**-exponent(x), in [1, 2)."""
    return _call(b, "mask.getmant", x, immediate=I32(0))


def reciprocal(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """1 / x to 14 bits."""
    return _call(b, "rcp14", x)


def replaced(b: ir.IRBuilder, result: ir.Value, source: ir.Value, by: Mapping[str, int]) -> ir.Value:
    """`result`, or what `by` says for the class of number that `source` is of."""
    words = sum(by.get(name, KEEP) << (4 * k) for k, name in enumerate(_CLASSES))
    table = constant(like(source.type, ir.IntType(64 if scalar_of(source.type) == F64 else 32)), words)
    return _call(b, "mask.fixupimm", result, source, table, immediate=I32(0))


def _call(b: ir.IRBuilder, name: str, *args: ir.Value, immediate: ir.Value | None = None) -> ir.Value:
    """The instruction on each register of `args`, without a mask."""
    scalar = scalar_of(args[0].type)
    bits = 64 if scalar == F64 else 32
    count = args[0].type.count if isinstance(args[0].type, ir.VectorType) else 1
    lanes = min(max(count, 128 // bits), 512 // bits)
    symbol = f"llvm.x86.avx512.{name}.{'pd' if bits == 64 else 'ps'}.{lanes * bits}"
    type_ = ir.VectorType(scalar, lanes)
    rest = [] if immediate is None else [immediate]
    if name != "mask.fixupimm":  # what lanes outside the mask would take; there the first argument
        rest.append(ir.Constant(type_, None))
    rest.append(ir.Constant(ir.IntType(max(lanes, 8)), -1))
    if lanes * bits == 512 and name != "rcp14":
        rest.append(_AS_SET)
    parts = []
    for first in range(0, count, lanes):
        given = [*(_register(b, a, first, lanes) for a in args), *rest]
        parts.append(b.call(declare(b.module, symbol, type_, [g.type for g in given]), given))
    while len(parts) > 1:
        both = range(2 * parts[0].type.count)
        parts = [_shuffled(b, x, y, both) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    if count >= lanes:
        return parts[0]
    return b.extract_element(parts[0], I32(0)) if count == 1 else _shuffled(b, parts[0], parts[0], range(count))


def _register(b: ir.IRBuilder, x: ir.Value, first: int, lanes: int) -> ir.Value:
    """`lanes` lanes of x; where it has fewer, some of them again."""
    if not isinstance(x.type, ir.VectorType):
        return b.insert_element(ir.Constant(ir.VectorType(x.type, lanes), None), x, I32(0))
    if x.type.count == lanes:
        return x
    return _shuffled(b, x, x, [first + k % x.type.count for k in range(lanes)])


def _shuffled(b: ir.IRBuilder, x: ir.Value, y: ir.Value, lanes: Sequence[int]) -> ir.Value:
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))

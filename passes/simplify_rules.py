"""Algebra of simplify: exact rewrites of elementwise primitives and reductions.

A rule takes the Simplifier and a node on simplified operands, and gives a value equal to the node's result,
or None.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir import primitive, promotion
from nufunc.ir.graph import Node, Value
from nufunc.ir.types import FLOAT64, kind_of

if TYPE_CHECKING:
    from nufunc.passes.simplify import Rule, Simplifier


def _is(value: Any, number: float) -> bool:
    """Whether a fill is this number, signed zeros apart; booleans are no numbers here."""
    if value is None or isinstance(value, bool) or value != number:
        return False
    return number != 0 or bool(np.signbit(np.real(value)) == np.signbit(number))


def _real(x: Value) -> bool:
    return kind_of(x.dtype) in "iuf"


# -- arithmetic


def _add(s: Simplifier, node: Node) -> Value | None:
    x, y = node.operands
    if x.dtype.kind == "b":
        return _bit_or(s, node)
    zero = -0.0 if kind_of(x.dtype) == "f" else 0
    for a, b in ((x, y), (y, x)):
        if _real(x) and _is(s.fill_of(b), zero):
            return a
        negated = s.made_by(b, "neg")
        if negated:
            return s.again("sub", (a, negated.operands[0]))
    return None


def _sub(s: Simplifier, node: Node) -> Value | None:
    x, y = node.operands
    if _real(x) and _is(s.fill_of(y), 0):
        return x
    negated = s.made_by(y, "neg")
    return s.again("add", (x, negated.operands[0])) if negated else None


def _mul(s: Simplifier, node: Node) -> Value | None:
    x, y = node.operands
    if x.dtype.kind == "b":
        return _bit_and(s, node)
    if not _real(x):
        return None
    for a, b in ((x, y), (y, x)):
        if _is(s.fill_of(b), 1):
            return a
        if _is(s.fill_of(b), -1) and kind_of(x.dtype) == "f":
            return s.again("neg", (a,))
    return _signs_cancel(s, node)


def _signs_cancel(s: Simplifier, node: Node) -> Value | None:
    x, y = (s.made_by(o, "neg") for o in node.operands)
    if x and y and kind_of(node.result.dtype) == "f":
        return s.again(node.prim, (x.operands[0], y.operands[0]))
    return None


def _div(s: Simplifier, node: Node) -> Value | None:
    x, y = node.operands
    c = s.fill_of(y)
    if kind_of(x.dtype) != "f":
        return None
    if c is None:
        return _signs_cancel(s, node)
    if _is(c, 1):
        return x
    inverse = _inverse(c, x.dtype)
    return None if inverse is None else s.again("mul", (x, s.full(inverse, y)))


def _inverse(value: float, dtype: np.dtype) -> float | None:
    """1 / value for a power of two whose inverse is a normal number: multiplying by it is dividing by
    value."""
    if not math.isfinite(value) or abs(math.frexp(value)[0]) != 0.5:
        return None
    info = promotion.finfo(dtype)
    inverse = 1 / value
    return inverse if float(info.tiny) <= abs(inverse) <= float(info.max) else None


def _neg(s: Simplifier, node: Node) -> Value | None:
    inner = s.made_by(node.operands[0], "neg")
    return inner.operands[0] if inner else None


def _abs(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    if x.dtype.kind in "bu":
        return x
    if s.made_by(x, "abs"):
        return x
    inner = s.made_by(x, "neg")
    return s.again("abs", inner.operands) if inner and kind_of(x.dtype) == "f" else None


def _pow(s: Simplifier, node: Node) -> Value | None:
    """Known powers of ints."""
    (x, y), known = node.operands, s.fill_of(node.operands[1])
    whole = x.dtype.kind in "iu" and x.dtype == y.dtype and known is not None and 0 <= known < 64
    return s.again("integer_pow", (x,), {"y": int(known)}) if whole else None


def _integer_pow(s: Simplifier, node: Node) -> Value | None:
    (x,), y = node.operands, node.attrs["y"]
    if y == 1 and x.dtype.kind != "c":  # NumPy's complex power loses the sign of a zero
        return x
    if y == 2 and _real(x):
        return s.again("mul", (x, x))
    return None


# -- bits


def _bit_and(s: Simplifier, node: Node) -> Value | None:
    return _absorb(s, node, neutral=-1, absorbing=0)


def _bit_or(s: Simplifier, node: Node) -> Value | None:
    return _absorb(s, node, neutral=0, absorbing=-1)


def _absorb(s: Simplifier, node: Node, neutral: int, absorbing: int) -> Value | None:
    """`and` and `or`: x with itself, with the neutral and with the absorbing element (-1: all bits set)."""
    x, y = node.operands
    if x is y:
        return x
    for a, b in ((x, y), (y, x)):
        c = s.fill_of(b)
        if c is None:
            continue
        bits = -1 if c == _all_set(x.dtype) else int(c)
        if bits == neutral:
            return a
        if bits == absorbing:
            return b
    return None


def _all_set(dtype: np.dtype) -> int:
    return 1 if dtype.kind == "b" else -1 if dtype.kind == "i" else int(np.iinfo(dtype).max)


def _bit_not(s: Simplifier, node: Node) -> Value | None:
    inner = s.made_by(node.operands[0], "bit_not")
    return inner.operands[0] if inner else None


# -- selection and conversion


def _select(s: Simplifier, node: Node) -> Value | None:
    c, x, y = node.operands
    if x is y:
        return x
    fill = s.fill_of(c)
    if fill is not None:
        return x if fill else y
    inverted = s.made_by(c, "bit_not")
    if inverted:
        return s.again("select", (inverted.operands[0], y, x))
    if x.dtype.kind == "b" and s.fill_of(x) is True and s.fill_of(y) is False:
        return c
    return None


def _convert(s: Simplifier, node: Node) -> Value | None:
    (x,), dtype = node.operands, node.attrs["dtype"]
    if x.dtype == dtype:
        return x
    inner = s.made_by(x, "convert")
    if inner:
        (source,) = inner.operands
        # integers wrap, but what a float outside an integer's range becomes depends on the float's dtype
        integers = source.dtype.kind in "biu" and x.dtype.kind in "biu"
        if _lossless(source.dtype, x.dtype) and (kind_of(dtype) in "fcb" or integers):
            return s.again("convert", (source,), {"dtype": dtype})
    return None


def _lossless(source: np.dtype, target: np.dtype) -> bool:
    """Whether every value of `source` is one of `target`."""
    if source.kind in "iu" and kind_of(target) in "fc":
        return 8 * source.itemsize <= promotion.finfo(target).nmant
    return promotion.can_cast(source, target, "safe")


def _part(which: int) -> Rule:
    """real and imag of what `complex` has put together."""

    def rule(s: Simplifier, node: Node) -> Value | None:
        inner = s.made_by(node.operands[0], "complex")
        return inner.operands[which] if inner else None

    return rule


def _complex(s: Simplifier, node: Node) -> Value | None:
    re, im = s.made_by(node.operands[0], "real"), s.made_by(node.operands[1], "imag")
    return re.operands[0] if re and im and re.operands == im.operands else None


def _conj(s: Simplifier, node: Node) -> Value | None:
    inner = s.made_by(node.operands[0], "conj")
    return inner.operands[0] if inner else None


# -- elementwise on what is repeated


def _on_repeated(s: Simplifier, node: Node) -> Value | None:
    """An elementwise primitive on broadcasts of one form: computed once, then repeated."""
    form: tuple[Any, ...] | None = None
    sources: list[Value | None] = []
    for operand in node.operands:
        inner = s.made_by(operand, "broadcast")
        if inner is None:
            if s.fill_of(operand) is None:
                return None
            sources.append(None)
            continue
        (source,) = inner.operands
        found = (source.shape, inner.attrs["shape"], inner.attrs["dims"])
        if (form is not None and form != found) or source.type.size >= operand.type.size:
            return None
        form = found
        sources.append(source)
    if form is None:
        return None
    shape, target, dims = form
    operands = [
        s.full(s.fill_of(o), Value(o.type.with_shape(shape))) if source is None else source
        for o, source in zip(node.operands, sources, strict=True)
    ]
    inner_result = s.again(node.prim, operands, dict(node.attrs))
    return s.again("broadcast", (inner_result,), {"shape": target, "dims": dims})


# -- reductions


def _reduce(s: Simplifier, node: Node) -> Value | None:
    """Over axes of extent 1, and over none, nothing is computed."""
    (x,), axes = node.operands, node.attrs["axes"]
    if node.prim == "reduce_prod" and x.type.size == 0:
        return s.full(1, node.result)
    # a sum starts from 0.0, which makes 0.0 of -0.0; a complex product from 1, which can make NaN of an
    # infinity
    alters = {"reduce_sum": "fc", "reduce_prod": "c"}.get(node.prim, "")
    if kind_of(x.dtype) not in alters and all(x.shape[a] == 1 for a in axes):
        return s.again("reshape", (x,), {"shape": node.result.shape})
    return None


def _reduce_sum(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    fill, dtype = s.fill_of(x), x.dtype
    count = math.prod(x.shape[a] for a in node.attrs["axes"])
    if x.type.size == 0:
        return s.full(0, node.result)
    if fill is None or kind_of(dtype) not in "iuf":
        return None
    if kind_of(dtype) == "f" and not _multiples_are_exact(fill, count, dtype):
        return None
    if kind_of(dtype) == "f":
        return s.full(fill * count, node.result)
    wrapped = int(fill) * count & (2 ** (8 * dtype.itemsize) - 1)
    return s.full(np.array(wrapped, np.uint64).astype(dtype).item(), node.result)


def _multiples_are_exact(value: float, count: int, dtype: np.dtype) -> bool:
    """Whether every partial sum of `count` such numbers is a number of the dtype (so that the order is
    free)."""
    if not math.isfinite(value) or (value == 0 and math.copysign(1, value) < 0):
        return False
    odd = abs(value.as_integer_ratio()[0])
    odd //= odd & -odd or 1
    digits = 53 if dtype == FLOAT64 else 24  # halves are summed in float32
    return odd * count <= 2**digits and abs(value) * count <= float(promotion.finfo(dtype).max) / 2


RULES: dict[str, tuple[Rule, ...]] = {
    "add": (_add,),
    "sub": (_sub,),
    "mul": (_mul,),
    "div": (_div,),
    "neg": (_neg,),
    "abs": (_abs,),
    "pow": (_pow,), "integer_pow": (_integer_pow,),
    "bit_and": (_bit_and,),
    "bit_or": (_bit_or,),
    "bit_not": (_bit_not,),
    "select": (_select,),
    "convert": (_convert,),
    "real": (_part(0),),
    "imag": (_part(1),),
    "complex": (_complex,),
    "conj": (_conj,),
    "reduce_sum": (_reduce, _reduce_sum),
    **dict.fromkeys(("reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_xor"), (_reduce,)),
}
RULES.update(
    (name, RULES.get(name, ()) + (_on_repeated,))
    for name, record in primitive.all_primitives().items()
    if record.kind == "elementwise"
)

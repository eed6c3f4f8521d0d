"""Rules of primitives for spread values (see `basis`): the terms of a node's result, or None where it must be computed
for all unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nufunc.ir.graph import Node, Value
from nufunc.ir.prims.library import dot_free_axes

if TYPE_CHECKING:
    from nufunc.passes.basis import Push


@dataclass(frozen=True)
class Tie:
    """The index along a basis axis is offset + stride * the index along this axis of the value."""

    axis: int
    offset: int
    stride: int


@dataclass(frozen=True)
class Term:
    """`coeff` has the free basis axes in order, then the value's axes, of which it covers the box that begins at `low`;
    it is zero outside."""

    coeff: Value
    basis: tuple[int, ...]
    ties: tuple[Tie | None, ...]
    low: tuple[int, ...]

    @property
    def free(self) -> int:
        return self.ties.count(None)

    @property
    def box(self) -> tuple[int, ...]:
        return self.coeff.shape[self.free :]

    def tied_to(self, axis: int) -> int | None:
        """The basis axis that is tied to an axis of the value."""
        return next((q for q, t in enumerate(self.ties) if t is not None and t.axis == axis), None)


def _unary(p: Push, node: Node) -> list[Term]:
    return [replace(t, coeff=p.b.emit(node.prim, (t.coeff,), node.attrs)[0]) for t in p.terms(node.operands[0])]


def _scaled(p: Push, node: Node) -> list[Term] | None:
    x, y = node.operands
    if (x in p.spread) == (y in p.spread) or (node.prim == "div" and y in p.spread):
        return None
    lin, known = (x, p.known[y]) if x in p.spread else (y, p.known[x])
    made = []
    for t in p.terms(lin):
        other = p.beside(known, t)
        pair = (t.coeff, other) if lin is x else (other, t.coeff)
        made.append(replace(t, coeff=p.b.emit(node.prim, pair)[0]))
    return made


def _sum(p: Push, node: Node) -> list[Term]:
    x, y = node.operands
    second = p.terms(y)
    if node.prim == "sub":
        second = [replace(t, coeff=p.b.neg(t.coeff)) for t in second]
    return [*p.terms(x), *second]


def _select(p: Push, node: Node) -> list[Term] | None:
    chosen, x, y = node.operands
    if chosen in p.spread:
        return None
    made = []
    for value, first in ((x, True), (y, False)):
        for t in p.terms(value):
            zero = p.b.like(t.coeff, 0)
            pair = (t.coeff, zero) if first else (zero, t.coeff)
            made.append(replace(t, coeff=p.b.select(p.beside(p.known[chosen], t), *pair)))
    return made


def _broadcast(p: Push, node: Node) -> list[Term]:
    x, shape, dims = node.operands[0], node.result.shape, node.attrs["dims"]
    made = []
    for t in p.terms(x):
        for k, d in enumerate(dims):
            if x.shape[k] != shape[d]:
                t = p.freed(p.boxed_axis(t, k, 1), k, 1)
        low, box = [0] * len(shape), list(shape)
        for k, d in enumerate(dims):
            if x.shape[k] == shape[d]:
                low[d], box[d] = t.low[k], t.box[k]
        whole = (*t.coeff.shape[: t.free], *box)
        places = (*range(t.free), *(t.free + d for d in dims))
        coeff = p.b.emit("broadcast", (t.coeff,), {"shape": whole, "dims": places})[0]
        ties = tuple(None if tie is None else replace(tie, axis=dims[tie.axis]) for tie in t.ties)
        made.append(Term(coeff, t.basis, ties, tuple(low)))
    return made


def _transpose(p: Push, node: Node) -> list[Term]:
    perm = node.attrs["perm"]
    made = []
    for t in p.terms(node.operands[0]):
        coeff = p.b.transposed(t.coeff, (*range(t.free), *(t.free + k for k in perm)))
        ties = tuple(None if tie is None else replace(tie, axis=perm.index(tie.axis)) for tie in t.ties)
        made.append(Term(coeff, t.basis, ties, tuple(t.low[k] for k in perm)))
    return made


def _slice(p: Push, node: Node) -> list[Term]:
    start, stop, step = (node.attrs[k] for k in ("start", "stop", "step"))
    made = []
    for t in p.terms(node.operands[0]):
        high = [a + n for a, n in zip(t.low, t.box, strict=True)]
        low = [-(-(max(a, s) - s) // d) for a, s, d in zip(t.low, start, step, strict=True)]
        end = [-(-(min(h, e) - s) // d) for h, s, e, d in zip(high, start, stop, step, strict=True)]
        if any(a >= e for a, e in zip(low, end, strict=True)):
            continue
        first = [s + d * a - own for s, d, a, own in zip(start, step, low, t.low, strict=True)]
        until = [s + d * (e - 1) - own + 1 for s, d, e, own in zip(start, step, end, t.low, strict=True)]
        lead = t.coeff.shape[: t.free]
        coeff = p.sliced(t.coeff, ((0,) * t.free + tuple(first)), (*lead, *until), ((1,) * t.free + tuple(step)))
        ties = tuple(
            None if x is None else Tie(x.axis, x.offset + x.stride * start[x.axis], x.stride * step[x.axis])
            for x in t.ties
        )
        made.append(Term(coeff, t.basis, ties, tuple(low)))
    return made


def _flip(p: Push, node: Node) -> list[Term]:
    axes, shape = node.attrs["axes"], node.result.shape
    made = []
    for t in p.terms(node.operands[0]):
        low = tuple(shape[k] - t.low[k] - t.box[k] if k in axes else t.low[k] for k in range(len(shape)))
        ties = tuple(
            Tie(x.axis, x.offset + x.stride * (shape[x.axis] - 1), -x.stride) if x and x.axis in axes else x
            for x in t.ties
        )
        coeff = p.b.flip(t.coeff, axes=tuple(t.free + k for k in axes))
        made.append(Term(coeff, t.basis, ties, low))
    return made


def _pad(p: Push, node: Node) -> list[Term]:
    x, attrs = node.operands[0], node.attrs
    return [_shifted(p, t, x.shape, attrs["low"], attrs["interior"]) for t in p.terms(x)]


def _shifted(p: Push, t: Term, shape: Sequence[int], low: Sequence[int], interior: Sequence[int]) -> Term:
    """A term at other places of a larger value."""
    for k, gap in enumerate(interior):
        if gap:
            t = p.freed(t, k, shape[k])
    if any(interior):
        zeros = (0,) * t.coeff.ndim
        attrs = {"low": zeros, "high": zeros, "interior": (0,) * t.free + tuple(interior)}
        t = replace(t, coeff=p.b.emit("pad", (t.coeff,), attrs)[0])
    ties = tuple(None if x is None else replace(x, offset=x.offset - x.stride * low[x.axis]) for x in t.ties)
    return replace(t, ties=ties, low=tuple(a * (g + 1) + l for a, g, l in zip(t.low, interior, low, strict=True)))


def _concat(p: Push, node: Node) -> list[Term]:
    axis, begin, made = node.attrs["axis"], 0, []
    for x in node.operands:
        low = [begin if k == axis else 0 for k in range(x.ndim)]
        made += [_shifted(p, t, x.shape, low, (0,) * x.ndim) for t in p.terms(x)]
        begin += x.shape[axis]
    return made


def _reduce_sum(p: Push, node: Node) -> list[Term]:
    return [p.summed(t, node.attrs["axes"]) for t in p.terms(node.operands[0])]


def _reshape(p: Push, node: Node) -> list[Term]:
    before, after = node.operands[0].shape, node.result.shape
    return [_reshaped(p, t, before, after) for t in p.terms(node.operands[0])]


def _reshaped(p: Push, t: Term, before: tuple[int, ...], after: tuple[int, ...]) -> Term:
    groups = _groups(before, after)
    for old, new in groups:
        kept = [k for k in old if before[k] != 1]
        if [before[k] for k in kept] == [after[k] for k in new if after[k] != 1]:
            drop = [k for k in old if before[k] == 1]
        elif _is_whole(t, kept, before):
            drop = [k for k in old if before[k] == 1]
            t = _split(t, kept, [after[k] for k in new if after[k] != 1])
        else:
            drop = list(old)
        for k in drop:
            t = p.freed(p.boxed_axis(t, k, before[k]), k, before[k])
    return _regrouped(p, t, before, after, groups)


def _is_whole(t: Term, axes: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether axes of the value are tied, element by element, to as many whole basis axes in order."""
    at = [t.tied_to(k) for k in axes]
    if not at or at[0] is None or at != list(range(at[0], at[0] + len(at))):
        return False
    return all(
        t.ties[q] == Tie(k, 0, 1) and t.basis[q] == shape[k] == t.box[k]
        for q, k in zip(range(at[0], at[0] + len(at)), axes, strict=True)
    )


def _split(t: Term, axes: Sequence[int], extents: Sequence[int]) -> Term:
    """Basis axes joined and split like the axes that they are tied to. The new ties name their axes by a negative
    number and, as offset, the first of the old ones, until `_regrouped` knows better."""
    first = t.tied_to(axes[0])
    assert first is not None
    parts = tuple(Tie(-1 - k, axes[0], 1) for k in range(len(extents)))
    rest = first + len(axes)
    basis, ties = (*t.basis[:first], *extents, *t.basis[rest:]), (*t.ties[:first], *parts, *t.ties[rest:])
    return Term(t.coeff, basis, ties, t.low)


def _regrouped(
    p: Push, t: Term, before: tuple[int, ...], after: tuple[int, ...], groups: Sequence[tuple[list[int], list[int]]]
) -> Term:
    """Coefficients, boxes and ties over the axes of the result."""
    low, box = [0] * len(after), list(after)
    names: dict[tuple[int, int], int] = {}
    for old, new in groups:
        kept, made = [k for k in old if before[k] != 1], [k for k in new if after[k] != 1]
        if [before[k] for k in kept] == [after[k] for k in made]:
            for k, m in zip(kept, made, strict=True):
                low[m], box[m] = t.low[k], t.box[k]
                names[(k, 0)] = m
        elif kept:
            names.update(((-1 - n, kept[0]), m) for n, m in enumerate(made))
    ties: list[Tie | None] = []
    for tie in t.ties:
        if tie is None:
            ties.append(None)
        elif tie.axis < 0:
            ties.append(Tie(names[(tie.axis, tie.offset)], 0, 1))
        else:
            ties.append(replace(tie, axis=names[(tie.axis, 0)]))
    coeff = p.b.reshaped(t.coeff, (*t.coeff.shape[: t.free], *box))
    return Term(coeff, t.basis, tuple(ties), tuple(low))


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Neighbouring axes of the two shapes that hold the same elements, as few together as possible."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old: list[int] = []
        new: list[int] = []
        x = y = 1
        while True:
            if x <= y and i < len(before) and (x < y or not old):
                old.append(i)
                x *= before[i]
                i += 1
            elif y <= x and j < len(after) and (y < x or not new):
                new.append(j)
                y *= after[j]
                j += 1
            elif x != y:
                return [(list(range(len(before))), list(range(len(after))))]
            else:
                break
        groups.append((old, new))
    return groups


def _dot(p: Push, node: Node) -> list[Term] | None:
    x, y = node.operands
    if x in p.spread and y in p.spread:
        return None
    which = 0 if x in p.spread else 1
    return [_product(p, t, node, which) for t in p.terms(node.operands[which])]


def _product(p: Push, t: Term, node: Node, which: int) -> Term:
    """A term times what is known: tied axes that are contracted go along as batch axes, and are free then."""
    lin, other = node.operands[which], p.known[node.operands[1 - which]]
    contract = list(zip(node.attrs["contract"][which], node.attrs["contract"][1 - which], strict=True))
    batch = list(zip(node.attrs["batch"][which], node.attrs["batch"][1 - which], strict=True))
    start, stop = [0] * other.ndim, list(other.shape)
    for k, m in (*contract, *batch):
        start[m], stop[m] = t.low[k], t.low[k] + t.box[k]
    other = p.sliced(other, start, stop)
    tied = [(k, m) for k, m in contract if t.tied_to(k) is not None]
    inner = [(k, m) for k, m in contract if t.tied_to(k) is None]
    mine = list(dot_free_axes(node.attrs, which, lin.ndim))
    theirs = list(dot_free_axes(node.attrs, 1 - which, other.ndim))
    along = [*batch, *tied]
    f = t.free
    if inner:
        made = p.b.dot(
            t.coeff, other,
            contract=(tuple(f + k for k, _ in inner), tuple(m for _, m in inner)),
            batch=(tuple(f + k for k, _ in along), tuple(m for _, m in along)),
        )  # fmt: skip
        lead = len(along)
        made = p.b.transposed(made, (*range(lead, lead + f), *range(lead), *range(lead + f, made.ndim)))
    else:
        made = _outer(p, t, other, along, mine, theirs)
    # now: free basis axes, batch, tied, mine, theirs; ties speak of the operand's axes, `theirs` have new names
    names = [k for k, _ in along] + mine + [lin.ndim + k for k in range(len(theirs))]
    low = (*(t.low[k] for k in names[: len(along) + len(mine)]), *(0,) * len(theirs))
    done = p.released(Term(made, t.basis, t.ties, low), names, [k for k, _ in tied])
    if which == 0 or not mine or not theirs:
        return done
    lead, a, c = len(batch), len(mine), len(theirs)
    perm = (*range(lead), *range(lead + a, lead + a + c), *range(lead, lead + a))
    coeff = p.b.transposed(done.coeff, (*range(done.free), *(done.free + k for k in perm)))
    ties = tuple(None if x is None else replace(x, axis=perm.index(x.axis)) for x in done.ties)
    return Term(coeff, done.basis, ties, tuple(done.low[k] for k in perm))


def _outer(
    p: Push, t: Term, other: Value, along: Sequence[tuple[int, int]], mine: Sequence[int], theirs: Sequence[int]
) -> Value:
    """The product where nothing is summed."""
    f, b = t.free, p.b
    left = b.transposed(t.coeff, (*range(f), *(f + k for k, _ in along), *(f + k for k in mine)))
    right = b.transposed(other, (*(m for _, m in along), *theirs))
    shape = (*left.shape, *(other.shape[m] for m in theirs))
    lead = left.ndim
    places = (*range(f, f + len(along)), *range(lead, len(shape)))
    left = b.emit("broadcast", (left,), {"shape": shape, "dims": tuple(range(lead))})[0]
    right = b.emit("broadcast", (right,), {"shape": shape, "dims": places})[0]
    return b.mul(left, right)


RULES: dict[str, Callable[[Push, Node], list[Term] | None]] = {
    **dict.fromkeys(("neg", "convert", "real", "imag", "conj"), _unary),
    **dict.fromkeys(("mul", "div"), _scaled), **dict.fromkeys(("add", "sub"), _sum),
    "select": _select, "broadcast": _broadcast, "transpose": _transpose, "slice": _slice, "flip": _flip, "pad": _pad,
    "concat": _concat, "reduce_sum": _reduce_sum, "reshape": _reshape, "dot": _dot,
}  # fmt: skip

"""Jacobians of linear graphs: the unit vectors of a parameter go through as structure, not as an identity matrix.

Note [Spread values]
What a linear graph makes of all unit vectors of one parameter is an array with the parameter's axes beside those of
the value. It is kept as a sum of terms. A term has factored the parameter into basis axes, each of which is either
*tied* to an axis of the value (it is zero unless the index is offset + stride * the value's) or *free* (an axis of the
term's coefficients, which are an ordinary array). At the start all axes are tied and the coefficients are ones.
Elementwise work, slices, pads and transpositions change coefficients and ties, so they cost what they cost for one
vector; a sum or a contraction over a tied axis only makes it free. What no rule (`basis_rules`) speaks of is computed
for all unit vectors at once.
The zeros outside the ties are those of the basis: they are never multiplied with anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import INT64, ArrayType
from nufunc.passes.basis_rules import RULES, Term, Tie
from nufunc.passes.control_parts import derived_name
from nufunc.passes.vmap import batched_outputs, vmap

_TERMS = 6  # of a value; beyond, they are added up as arrays
_PARAMS = 8  # parameters that are pushed through one by one


def is_pushed(linear: Graph, num_residuals: int) -> bool:
    """Whether to push the linear parameters through, one by one. Regions are run for all of them at once: what they
    compute besides is computed once."""
    if len(linear.params) - num_residuals > _PARAMS:
        return False
    return all(primitive.get(n.prim).kind not in ("control", "derived", "custom") for n in linear.nodes)


def jacobian(linear: Graph, num_residuals: int, last: bool) -> Graph:
    """The Jacobians of a linear graph: a graph of its residuals whose outputs are, for each output of `linear` and each
    of its linear parameters, an array with the axes of the parameter and then those of the output (`last`: the other
    way round)."""
    b = Builder(derived_name(linear.name, "jacobian"))
    residuals = [b.param(p.type, p.hint) for p in linear.params[:num_residuals]]
    consts = {value: b.const(array, value.hint) for value, array in linear.consts}
    results: list[list[Value]] = []
    for param in linear.params[num_residuals:]:
        push = Push(b, param.type)
        push.known.update(zip(linear.params, residuals, strict=False))
        push.known.update(consts)
        push.spread.update((other, [push.unit()] if other is param else []) for other in linear.params[num_residuals:])
        push.run(linear)
        results.append([push.rendered(o, last) for o in linear.outputs])
    return b.build([row[k] for k in range(len(linear.outputs)) for row in results])


class Push:
    """The unit vectors of a parameter of type `type` on their way through a graph."""

    def __init__(self, b: Builder, type: ArrayType) -> None:
        self.b, self.type = b, type
        self.known: dict[Value, Value] = {}  # what does not depend on the parameter
        self.spread: dict[Value, list[Term]] = {}

    def unit(self) -> Term:
        shape = self.type.shape
        return Term(
            self.b.filled(1, self.type), shape, tuple(Tie(k, 0, 1) for k in range(len(shape))), (0,) * len(shape)
        )

    def run(self, graph: Graph) -> None:
        for node in graph.nodes:
            with self.b.at(node.loc):
                if not any(o in self.spread for o in node.operands):
                    results = self.b.copy_node(node, [self.known[o] for o in node.operands])
                    self.known.update(zip(node.results, results, strict=True))
                    continue
                if not any(self.spread.get(o) for o in node.operands):
                    self.spread.update((r, []) for r in node.results)
                    continue
                terms = RULES[node.prim](self, node) if node.prim in RULES else None
                if terms is None:
                    self.whole(node)
                else:
                    self.spread[node.result] = self.added(node.result.type, terms)

    def terms(self, value: Value) -> list[Term]:
        """The terms of a value; what does not depend on the parameter is zero, since the graph is linear."""
        return self.spread.get(value, [])

    # -- sums of terms

    def added(self, type: ArrayType, terms: Sequence[Term]) -> list[Term]:
        """The same sum with terms of equal ties in one."""
        merged: list[Term] = []
        for term in terms:
            for k, other in enumerate(merged):
                if (term.basis, term.ties) == (other.basis, other.ties):
                    merged[k] = self._joined(other, term)
                    break
            else:
                merged.append(term)
        return merged if len(merged) <= _TERMS else [self.dense(type, merged)]

    def _joined(self, x: Term, y: Term) -> Term:
        low = tuple(map(min, x.low, y.low))
        high = [max(a + n, c + m) for a, n, c, m in zip(x.low, x.box, y.low, y.box, strict=True)]
        x, y = (self.boxed(t, low, high) for t in (x, y))
        return replace(x, coeff=self.b.add(x.coeff, y.coeff))

    def boxed(self, term: Term, low: Sequence[int], high: Sequence[int]) -> Term:
        """With coefficients over a larger box."""
        before = [a - c for a, c in zip(term.low, low, strict=True)]
        after = [h - a - n for h, a, n in zip(high, term.low, term.box, strict=True)]
        coeff = self.padded(term.coeff, (0,) * term.free + tuple(before), (0,) * term.free + tuple(after))
        return replace(term, coeff=coeff, low=tuple(low))

    def boxed_axis(self, term: Term, axis: int, extent: int) -> Term:
        """With coefficients over the whole of an axis."""
        low, high = list(term.low), [a + n for a, n in zip(term.low, term.box, strict=True)]
        low[axis], high[axis] = 0, extent
        return self.boxed(term, low, high)

    def padded(self, x: Value, before: Sequence[int], after: Sequence[int]) -> Value:
        if not any(before) and not any(after):
            return x
        return self.b.emit("pad", (x,), {"low": tuple(before), "high": tuple(after), "interior": (0,) * x.ndim})[0]

    def sliced(self, x: Value, start: Sequence[int], stop: Sequence[int], step: Sequence[int] | None = None) -> Value:
        steps = (1,) * x.ndim if step is None else tuple(step)
        if not any(start) and tuple(stop) == x.shape and set(steps) <= {1}:
            return x
        return self.b.emit("slice", (x,), {"start": tuple(start), "stop": tuple(stop), "step": steps})[0]

    def beside(self, known: Value, term: Term) -> Value:
        """What multiplies a value, as an array like the coefficients of one of its terms."""
        part = self.sliced(known, term.low, [a + n for a, n in zip(term.low, term.box, strict=True)])
        return self.b.broadcast_to(part, term.coeff.shape)

    # -- ties that end

    def freed(self, term: Term, axis: int, extent: int) -> Term:
        """With an axis of the value that is tied no more: the diagonal that the tie was is written out."""
        q = term.tied_to(axis)
        if q is None:
            return term
        tie = term.ties[q]
        assert tie is not None
        place = sum(t is None for t in term.ties[:q])
        shape = (*term.coeff.shape[:place], term.basis[q], *term.coeff.shape[place:])
        own = place + 1 + (term.free - place) + axis
        dims = tuple(k for k in range(len(shape)) if k != place)
        wide = self.b.emit("broadcast", (term.coeff,), {"shape": shape, "dims": dims})[0]
        hit = self.b.eq(self.b.iota(shape=shape, dtype=INT64, axis=place), self._line(shape, own, tie, term.low[axis]))
        coeff = self.b.select(hit, wide, self.b.like(wide, 0))
        return replace(term, coeff=coeff, ties=(*term.ties[:q], None, *term.ties[q + 1 :]))

    def _line(self, shape: tuple[int, ...], axis: int, tie: Tie, low: int) -> Value:
        """offset + stride * (low + index along an axis)."""
        index = self.b.iota(shape=shape, dtype=INT64, axis=axis)
        if tie.stride != 1:
            index = self.b.mul(index, self.b.like(index, tie.stride))
        offset = tie.offset + tie.stride * low
        return self.b.add(index, self.b.like(index, offset)) if offset else index

    def summed(self, term: Term, axes: Sequence[int]) -> Term:
        """Summed over axes of the value: those with ties become free basis axes, of the others the sum is taken."""
        tied = [k for k in axes if term.tied_to(k) is not None]
        plain = [k for k in axes if k not in tied]
        coeff = self.b.summed(term.coeff, [term.free + k for k in plain])
        rest = [k for k in range(len(term.box)) if k not in plain]
        return self.released(replace(term, coeff=coeff, low=tuple(term.low[k] for k in rest)), rest, tied)

    def released(self, term: Term, names: Sequence[int], tied: Sequence[int]) -> Term:
        """With value axes moved among the basis axes. The coefficients' value axes have these `names`, by which ties
        speak of them; then they are numbered anew."""
        at = {name: term.free + k for k, name in enumerate(names)}
        perm: list[int] = []
        before: list[int] = []
        after: list[int] = []
        ties: list[Tie | None] = []
        free = iter(range(term.free))
        coeff = term.coeff
        for n, tie in zip(term.basis, term.ties, strict=True):
            if tie is not None and tie.axis not in tied:
                ties.append(tie)
                continue
            ties.append(None)
            if tie is None:
                perm.append(next(free))
                before.append(0)
                after.append(0)
                continue
            axis = at[tie.axis]
            perm.append(axis)
            first = tie.offset + tie.stride * term.low[axis - term.free]
            count = coeff.shape[axis]
            if tie.stride < 0:
                coeff, first = self.b.flip(coeff, axes=(axis,)), first + tie.stride * (count - 1)
            coeff, first, count = self._within(coeff, axis, first, abs(tie.stride), n)
            before.append(first)
            after.append(n - first - count)
        kept = [name for name in names if name not in tied]
        coeff = self.b.transposed(coeff, (*perm, *(at[name] for name in kept)))
        coeff = self.padded(coeff, (*before, *(0,) * len(kept)), (*after, *(0,) * len(kept)))
        number = {name: k for k, name in enumerate(kept)}
        renamed = tuple(None if t is None else replace(t, axis=number[t.axis]) for t in ties)
        return Term(coeff, term.basis, renamed, tuple(term.low[at[name] - term.free] for name in kept))

    def _within(self, coeff: Value, axis: int, first: int, step: int, extent: int) -> tuple[Value, int, int]:
        """An axis whose elements stand at first, first + step, ...: those inside the extent, and what lies between."""
        count = coeff.shape[axis]
        skip = max(0, -(-(0 - first) // step))
        stop = min(count, max(skip, -(-(extent - first) // step)))
        start, end = [0] * coeff.ndim, list(coeff.shape)
        start[axis], end[axis] = skip, stop
        coeff, first = self.sliced(coeff, start, end), first + skip * step
        if stop == skip:
            return coeff, 0, 0
        if step > 1 and stop - skip > 1:
            interior = tuple(step - 1 if k == axis else 0 for k in range(coeff.ndim))
            zeros = (0,) * coeff.ndim
            coeff = self.b.emit("pad", (coeff,), {"low": zeros, "high": zeros, "interior": interior})[0]
        return coeff, first, coeff.shape[axis]

    # -- whole arrays

    def dense(self, type: ArrayType, terms: Sequence[Term]) -> Term:
        """The terms as one whose only basis axis is free."""
        size = self.type.size
        coeff = self.b.reshaped(self.array(type, terms, last=False), (size, *type.shape))
        return Term(coeff, (size,), (None,), (0,) * type.ndim)

    def whole(self, node: Node) -> None:
        """A node without a rule, for all unit vectors at once."""
        size = self.type.size
        flags = [o in self.spread for o in node.operands]
        operands = []
        for o, flag in zip(node.operands, flags, strict=True):
            if flag:
                self.spread[o] = [self.dense(o.type, self.terms(o))]
            operands.append(self.spread[o][0].coeff if flag else self.known[o])
        inner = Builder(node.prim)
        graph = inner.build(inner.copy_node(node, [inner.param(o.type) for o in node.operands]))
        dims = [0 if flag else None for flag in flags]
        batched = batched_outputs(graph, size, dims)
        results = self.b.inline(vmap(graph, size, dims, [0 if flag else None for flag in batched]), operands)
        for old, new, flag in zip(node.results, results, batched, strict=True):
            if flag:
                self.spread[old] = [Term(new, (size,), (None,), (0,) * (new.ndim - 1))]
            else:
                self.known[old] = new

    def rendered(self, value: Value, last: bool) -> Value:
        """The Jacobian of a value as an array."""
        own, shape = self.type.shape, value.shape
        array = self.array(value.type, self.terms(value), last)
        return self.b.reshaped(array, (*shape, *own) if last else (*own, *shape))

    def array(self, type: ArrayType, terms: Sequence[Term], last: bool) -> Value:
        """The sum of terms, flat. Diagonals are written into what the others come to."""
        b, size = self.b, self.type.size * type.size
        flat = ArrayType((size,), type.dtype)
        total: Value | None = None
        lines: list[tuple[Term, int, int]] = []
        for term in terms:
            line = _line(term, type.shape, self.type.size, last)
            if line is None:
                total = b.added(total, b.reshaped(self._full(term, type, last), (size,)))
            else:
                lines.append((term, *line))
        if total is None:
            total = b.zeros(flat)
            fresh = True
        else:
            fresh = False
        for k, (term, first, step) in enumerate(lines):
            count = term.coeff.type.size
            if not count:
                continue
            value = b.reshaped(term.coeff, (count,))
            last_one = first + step * (count - 1)
            apart = all(
                (s == step and (first - f) % step)
                or last_one < f
                or f + s * (t.coeff.type.size - 1) < first
                for t, f, s in lines[:k]
            )
            if not (fresh and apart):
                value = b.add(self.sliced(total, (first,), (last_one + 1,), (step,)), value)
            total = b.emit("update", (total, value), {"start": (first,), "stop": (last_one + 1,), "step": (step,)})[0]
        return total

    def _full(self, term: Term, type: ArrayType, last: bool) -> Value:
        """A term as an array of the basis axes and the value's (`last`: the other way round)."""
        b = self.b
        term = self.boxed(term, (0,) * type.ndim, type.shape)
        count = len(term.basis)
        free = [q for q, t in enumerate(term.ties) if t is None]
        shape = (*type.shape, *term.basis) if last else (*term.basis, *type.shape)
        q_at = type.ndim if last else 0
        k_at = 0 if last else count
        source = [q_at + q for q in free] + [k_at + k for k in range(type.ndim)]
        order = sorted(range(len(source)), key=source.__getitem__)
        coeff = b.transposed(term.coeff, tuple(order))
        if len(free) < count:
            dims = tuple(sorted(source))
            coeff = b.emit("broadcast", (coeff,), {"shape": shape, "dims": dims})[0]
        hit: Value | None = None
        for q, tie in enumerate(term.ties):
            if tie is not None:
                here = b.eq(b.iota(shape=shape, dtype=INT64, axis=q_at + q), self._line(shape, k_at + tie.axis, tie, 0))
                hit = here if hit is None else b.bit_and(hit, here)
        return coeff if hit is None else b.select(hit, coeff, b.like(coeff, 0))


def _line(term: Term, shape: Sequence[int], size: int, last: bool) -> tuple[int, int] | None:
    """Where the coefficients of a term stand in the flat array, as start and step; None where on no line, or where the
    term leaves its basis."""
    if term.free:
        return None
    weight = {}
    for q, tie in enumerate(term.ties):
        assert tie is not None
        ends = [tie.offset + tie.stride * s for s in (term.low[tie.axis], term.low[tie.axis] + term.box[tie.axis] - 1)]
        if min(ends) < 0 or max(ends) >= term.basis[q]:
            return None
        weight[tie.axis] = (tie, math.prod(term.basis[q + 1 :]))
    count = math.prod(shape)
    own, others = (size, 1) if last else (1, count)
    first, steps = 0, []
    for k, n in enumerate(shape):
        step = math.prod(shape[k + 1 :]) * own
        if k in weight:
            tie, weighed = weight[k]
            first += tie.offset * weighed * others
            step += tie.stride * weighed * others
        first += step * term.low[k]
        if term.box[k] != 1:
            steps.append((term.box[k], step))
        assert n >= term.box[k]
    while len(steps) > 1:
        (n, outer), (m, inner) = steps[-2:]
        if outer != inner * m:
            return None
        steps[-2:] = [(n * m, inner)]
    step = steps[0][1] if steps else 1
    return (first, step) if step > 0 else None

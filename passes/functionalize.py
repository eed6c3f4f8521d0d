"""functionalize: removes views and writes, so that a traced graph becomes a pure one with the same values.

Every value of the traced graph is a base or a view of one: a chain of view primitives applied to a base. A base has a
current pure value. A write folds the inverse of its chain into a new current value; a view that is read after a
write replays its chain on the current value. What is written to a parameter becomes an extra output, listed in `updates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.errors import MutationError, UnsupportedError
from nufunc.ir.graph import Graph, Node, Value


@dataclass(eq=False)
class _Base:
    """One piece of memory: its current pure value and how often it has been written."""

    current: Value
    version: int = 0


@dataclass(eq=False)
class _Alias:
    """A value of the traced graph: its base and the views that lead to it, with the last replay."""

    base: _Base
    chain: tuple[Node, ...] = ()
    replay: tuple[int, Value] | None = None


@dataclass
class _State:
    b: Builder
    env: dict[Value, _Alias] = field(default_factory=dict)

    def define(self, value: Value, pure: Value) -> None:
        self.env[value] = _Alias(_Base(pure))

    def view(self, node: Node) -> None:
        source = self.env[node.operands[0]]
        self.env[node.result] = _Alias(source.base, (*source.chain, node))

    def read(self, value: Value) -> Value:
        alias = self.env[value]
        if not alias.chain:
            return alias.base.current
        if alias.replay is None or alias.replay[0] != alias.base.version:
            alias.replay = (alias.base.version, self.replays(alias)[-1])
        return alias.replay[1]

    def replays(self, alias: _Alias) -> list[Value]:
        """The base's current value and what each view of the chain makes of it."""
        values = [alias.base.current]
        for view in alias.chain:
            parent = self.env[view.result]
            if parent.replay is not None and parent.replay[0] == parent.base.version:
                values.append(parent.replay[1])
                continue
            with self.b.at(view.loc):
                (value,) = self.b.emit(primitive.get(view.prim).views, (values[-1],), view.attrs)
            parent.replay = (parent.base.version, value)
            values.append(value)
        return values

    def write(self, target: Value, value: Value) -> None:
        """Make `value` what `target`, and every alias of it, holds from now on."""
        alias = self.env[target]
        sources = self.replays(alias)
        for view, source in zip(reversed(alias.chain), reversed(sources[:-1]), strict=True):
            value = _unview(self.b, view, source, value)
        alias.base.current = value
        alias.base.version += 1


def _unview(b: Builder, view: Node, source: Value, value: Value) -> Value:
    """`source` with the part that `view` shows replaced by `value`."""
    match view.prim:
        case "view_slice":
            return b.update(source, value, **view.attrs)
        case "view_flip":
            return b.flip(value, **view.attrs)
        case "view_transpose":
            perm = view.attrs["perm"]
            return b.transposed(value, [perm.index(i) for i in range(len(perm))])
        case "view_reshape":
            return b.reshaped(value, source.shape)
        case _:
            raise MutationError("assignment destination is read-only (the result of a broadcast)", view.loc)


def functionalize(graph: Graph) -> Graph:
    """A pure graph with the outputs of `graph`, followed by the new values of the parameters that it writes to.

    >>> from nufunc.ir.text import parse_graph
    >>> traced = parse_graph('''
    ... graph @f(%x: f64[3], %y: f64[]) stage=traced {
    ...   %v: f64[1] = view_slice{start=(0,), stop=(1,), step=(1,)}(%x)
    ...   %w: f64[] = view_reshape{shape=()}(%v)
    ...   write(%w, %y)
    ...   return %y
    ... }''')
    >>> print(functionalize(traced))
    graph @f(%0: f64[3], %1: f64[]) stage=pure updates=(0,) {
      %2: f64[1] = slice{start=(0,), step=(1,), stop=(1,)}(%0)
      %3: f64[] = reshape{shape=()}(%2)
      %4: f64[1] = reshape{shape=(1,)}(%1)
      %5: f64[3] = update{start=(0,), step=(1,), stop=(1,)}(%0, %4)
      return %1, %5
    }
    """
    return _functionalize(graph)[0]


def _functionalize(graph: Graph) -> tuple[Graph, list[int]]:
    state = _State(Builder(graph.name))
    for param in graph.params:
        state.define(param, state.b.param(param.type, param.hint))
    for value, array in graph.consts:
        state.define(value, state.b.const(array, value.hint))
    for node in graph.nodes:
        _step(state, node)
    outputs = [state.read(o) for o in graph.outputs]
    written = [k for k, p in enumerate(graph.params) if state.env[p].base.version]
    outputs += [state.env[graph.params[k]].base.current for k in written]
    return state.b.build(outputs, written), written


def _step(state: _State, node: Node) -> None:
    kind = primitive.get(node.prim).kind
    with state.b.at(node.loc):
        if kind == "view":
            state.view(node)
        elif kind == "write":
            state.write(node.operands[0], state.read(node.operands[1]))
        elif kind == "control":
            results = _control(state, node)
            for value, pure in zip(node.results, results, strict=True):
                state.define(value, pure)
        else:
            operands = [state.read(o) for o in node.operands]
            if node.prim == "convert" and operands[0].dtype == node.attrs["dtype"]:
                results = operands  # a copy: pure values need none
            else:
                results = list(state.b.copy_node(node, operands))
            for value, pure in zip(node.results, results, strict=True):
                state.define(value, pure)


def _control(state: _State, node: Node) -> Sequence[Value]:
    """Emit a control node with pure regions; what they write to captured operands is written after it."""
    regions, written = zip(*(_functionalize(r) for r in node.regions), strict=True)
    operands = [state.read(o) for o in node.operands]
    match node.prim:
        case "cond":
            targets = sorted({k for w in written for k in w})
            branches = [_with_outputs(r, w, targets) for r, w in zip(regions, written, strict=True)]
            _check_aliases(state, node, [k + 1 for k in targets])
            results = state.b.emit("cond", operands, node.attrs, branches)
            _write_back(state, [node.operands[k + 1] for k in targets], results[len(node.results) :])
            return results[: len(node.results)]
        case "while":
            return _while(state, node, operands, regions, written)
        case "scan":
            return _scan(state, node, operands, regions[0], written[0])
        case _:
            if written[0]:
                raise MutationError("the lanes of a map cannot write to an array of the enclosing function", node.loc)
            return state.b.emit(node.prim, operands, node.attrs, regions)


def _while(
    state: _State, node: Node, operands: list[Value], regions: Sequence[Graph], written: Sequence[list[int]]
) -> Sequence[Value]:
    cond, body = regions
    nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
    if any(k < nc for k in written[0]):
        raise MutationError("the condition of a while loop cannot write to an array", node.loc)
    targets = [k for k in written[1] if k < nb]
    _check_aliases(state, node, [nc + k for k in targets])
    body = _moved(_with_outputs(body, written[1], targets), targets, nb, len(body.params))
    cond = cond.replace(
        params=(*cond.params, *(Value(p.type, p.hint) for p in body.params[len(body.params) - len(targets) :])),
        outputs=cond.outputs[:1], updates=(),
    )  # fmt: skip
    stay = [k for k in range(nb) if k not in targets]
    consts = [operands[nc + k] for k in stay]
    carry = [*operands[nc + nb :], *(operands[nc + k] for k in targets)]
    attrs = {"num_cond": nc, "num_body": len(stay)}
    results = state.b.emit("while", [*operands[:nc], *consts, *carry], attrs, (cond, body))
    _write_back(state, [node.operands[nc + k] for k in targets], results[len(node.results) :])
    return results[: len(node.results)]


def _scan(state: _State, node: Node, operands: list[Value], body: Graph, written: list[int]) -> Sequence[Value]:
    ncon, ncar = node.attrs["num_consts"], node.attrs["num_carry"]
    if any(k >= ncon + ncar for k in written):
        raise UnsupportedError("writing into the items that a scan runs over; copy the item first", node.loc)
    targets = [k for k in written if k < ncon]
    _check_aliases(state, node, targets)
    extended = _with_outputs(body, written, targets)
    # results: carry, then the written constants (carries from now on), then the stacked ones
    num = len(body.outputs) - len(body.updates)
    outs = extended.outputs
    outs = (*outs[:ncar], *outs[num:], *outs[ncar:num])
    extended = _moved(extended.replace(outputs=outs), targets, ncon, ncon + ncar)
    stay = [k for k in range(ncon) if k not in targets]
    arguments = [*(operands[k] for k in stay), *operands[ncon : ncon + ncar]]
    arguments += [*(operands[k] for k in targets), *operands[ncon + ncar :]]
    attrs = {**node.attrs, "num_consts": len(stay), "num_carry": ncar + len(targets)}
    results = state.b.emit("scan", arguments, attrs, (extended,))
    _write_back(state, [node.operands[k] for k in targets], results[ncar : ncar + len(targets)])
    return [*results[:ncar], *results[ncar + len(targets) :]]


def _with_outputs(region: Graph, written: list[int], targets: Sequence[int]) -> Graph:
    """The region without updates, giving the values that the `targets` among its parameters have at its end."""
    num = len(region.outputs) - len(written)
    finals = dict(zip(written, region.outputs[num:], strict=True))
    outputs = [*region.outputs[:num], *(finals.get(k, region.params[k]) for k in targets)]
    return region.replace(outputs=tuple(outputs), updates=())


def _moved(region: Graph, targets: Sequence[int], num_consts: int, end: int) -> Graph:
    """The region with those of its first `num_consts` parameters that are in `targets` moved to position `end`."""
    p = region.params
    stay = [p[k] for k in range(num_consts) if k not in targets]
    return region.replace(params=(*stay, *p[num_consts:end], *(p[k] for k in targets), *p[end:]))


def _check_aliases(state: _State, node: Node, targets: Sequence[int]) -> None:
    """A written operand must not reach the region under a second name: its writes would not be seen there."""
    bases = [state.env[o].base for o in node.operands]
    for k in targets:
        if any(bases[k] is other for j, other in enumerate(bases) if j != k):
            raise UnsupportedError(
                f"the body of this {node.prim} writes to an array that it also uses through another view; "
                "use one of them in the body, and take views of it there",
                node.loc,
            )


def _write_back(state: _State, targets: Sequence[Value], values: Sequence[Value]) -> None:
    for target, value in zip(targets, values, strict=True):
        state.write(target, value)

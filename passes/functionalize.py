"""functionalize: removes views and writes, so that a traced graph becomes a pure one with the same values.

Every value of the traced graph is a base or a view of one: a chain of view primitives applied to a base. A
base has a current pure value. A write folds the inverse of its chain into a new current value; a view that is
read after a write replays its chain on the current value. What is written to a parameter becomes an extra
output, listed in `updates`. A region that writes to what it captures gains results, or carries, that are
written after its node.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.errors import MutationError, ReadOnlyError, UnsupportedError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.passes.control_parts import remembered


@dataclass(eq=False)
class _Base:
    """One piece of memory: the value that made it, its current pure value and how often it has been
    written."""

    root: Value
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
        self.env[value] = _Alias(_Base(value, pure))

    def view(self, node: Node) -> None:
        source = self.env[node.operands[0]]
        same = node.prim == "view_reshape" and node.result.shape == node.operands[0].shape
        self.env[node.result] = source if same else _Alias(source.base, (*source.chain, node))

    def read(self, value: Value) -> Value:
        return self.replays(self.env[value])[-1]

    def replays(self, alias: _Alias) -> list[Value]:
        """The base's current value and what each view of the chain makes of it."""
        values = [alias.base.current]
        for view in alias.chain:
            part = self.env[view.result]
            if part.replay is None or part.replay[0] != part.base.version:
                with self.b.at(view.loc):
                    value = _shown(self.b, view, values[-1])
                part.replay = (part.base.version, value)
            values.append(part.replay[1])
        return values

    def write(self, target: Value, value: Value) -> None:
        """Make `value` what `target`, and every alias of it, holds from now on."""
        alias = self.env[target]
        sources = self.replays(alias)
        alias.base.version += 1
        for view, source in zip(reversed(alias.chain), reversed(sources[:-1]), strict=True):
            self.env[view.result].replay = (alias.base.version, value)
            value = _unview(self.b, view, source, value)
        alias.base.current = value


def _shown(b: Builder, view: Node, source: Value) -> Value:
    """What `view` shows of `source`."""
    if view.prim != "view_diagonal":
        return b.emit(view.prim.removeprefix("view_"), (source,), view.attrs)[0]
    flat, bounds = _diagonal_bounds(b, source, view)
    return b.slice(flat, **bounds)


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
        case "view_real":
            return b.complex(value, b.imag(source))
        case "view_imag":
            return b.complex(b.real(source), value)
        case "view_bitcast":
            return b.bitcast(value, dtype=source.dtype)
        case "view_diagonal":
            flat, bounds = _diagonal_bounds(b, source, view)
            return b.reshaped(b.update(flat, value, **bounds), source.shape)
        case _:
            raise ReadOnlyError("assignment destination is read-only (the result of a broadcast)", view.loc)


def _diagonal_bounds(b: Builder, source: Value, view: Node) -> tuple[Value, dict[str, tuple[int, ...]]]:
    """The source with its last two axes in a row, and the slice of it that is the diagonal."""
    *lead, rows, columns = source.shape
    offset, count = view.attrs["offset"], view.result.shape[-1]
    first = (offset if offset >= 0 else -offset * columns) if count else 0
    last = first + (count - 1) * (columns + 1) + 1 if count else 0
    bounds = {
        "start": (*(0 for _ in lead), first), "stop": (*lead, last), "step": (*(1 for _ in lead), columns + 1),
    }  # fmt: skip
    return b.reshaped(source, (*lead, rows * columns)), bounds


def functionalize(graph: Graph) -> Graph:
    """A pure graph with the outputs of `graph`, followed by the new values of the parameters that it
    writes to.

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
    """The pure graph, and which parameters it writes to."""
    if graph.stage != "traced":
        return graph, []
    return remembered(graph, ("pure",), lambda: _purified(graph))


def _purified(graph: Graph) -> tuple[Graph, list[int]]:
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


# -- control nodes: what their regions write to captured operands is written after them


def _control(state: _State, node: Node) -> Sequence[Value]:
    """Emit a control node with pure regions."""
    match node.prim:
        case "cond":
            return _cond(state, node)
        case "while":
            return _while(state, node)
        case "scan":
            return _loop(state, node, node.attrs["num_consts"], node.attrs["num_carry"])
        case _:
            return _loop(state, node, node.attrs["num_consts"], 0)


def _cond(state: _State, node: Node) -> Sequence[Value]:
    operands, _, pure = _unaliased(state, node.operands[1:], node.regions)
    targets = _targets(pure, len(operands))
    branches = [_with_outputs(region, written, targets) for region, written in pure]
    results = state.b.emit(
        "cond", [state.read(o) for o in (node.operands[0], *operands)], node.attrs, branches
    )
    _write_back(state, [operands[k] for k in targets], results[len(node.results) :])
    return results[: len(node.results)]


def _while(state: _State, node: Node) -> Sequence[Value]:
    test, body = node.regions
    nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
    tested, init = node.operands[:nc], [state.read(o) for o in node.operands[nc + nb :]]
    bases = {state.env[o].base for o in tested}
    operands: Sequence[Value]
    operands, _, ((body, written),) = _unaliased(state, node.operands[nc : nc + nb], (body,), bases)
    nb = len(operands)
    targets = [k for k in written if k < nb]
    extended = _moved(_with_outputs(body, written, targets), targets, nb, len(body.params))
    pure_test, reads = _test(state, test, tested, [operands[k] for k in targets], node)
    consts = [state.read(o) for k, o in enumerate(operands) if k not in targets]
    carry = [*init, *(state.read(operands[k]) for k in targets)]
    attrs = {"num_cond": len(reads), "num_body": len(consts)}
    arguments = [*(state.read(o) for o in reads), *consts, *carry]
    results = state.b.emit("while", arguments, attrs, (pure_test, extended))
    _write_back(state, [operands[k] for k in targets], results[len(node.results) :])
    return results[: len(node.results)]


def _test(
    state: _State, test: Graph, operands: Sequence[Value], targets: Sequence[Value], node: Node
) -> tuple[Graph, list[Value]]:
    """The condition of a while, pure, with a parameter more per target of the body's writes.

    Operands that alias a target are read from its parameter, and left out of the operands.
    """
    carried = {state.env[t].base: Value(t.type, t.hint) for t in targets}
    params, kept, prefix = [], [], []
    for operand, param in zip(operands, test.params, strict=False):
        alias = state.env[operand]
        if alias.base in carried:
            prefix += _views(alias, carried[alias.base], param)
        else:
            params.append(param)
            kept.append(operand)
    params += [*test.params[len(operands) :], *carried.values()]
    nodes = (*prefix, *test.nodes)
    stage = "traced" if prefix else test.stage
    pure, written = _functionalize(test.replace(params=tuple(params), nodes=nodes, stage=stage))
    if written:
        raise MutationError("the condition of a while loop cannot write to an array", node.loc)
    return pure, kept


def _loop(state: _State, node: Node, num_consts: int, num_carry: int) -> Sequence[Value]:
    """scan and map: written constants become carries, written items further stacked results."""
    init = [state.read(o) for o in node.operands[num_consts : num_consts + num_carry]]
    items = node.operands[num_consts + num_carry :]
    consts, _, ((body, written),) = _unaliased(state, node.operands[:num_consts], node.regions)
    ncon = len(consts)
    targets = [k for k in written if k < ncon]
    stacked = [k for k in written if k >= ncon + num_carry]
    if targets and node.prim == "map":
        raise MutationError("the lanes of a map cannot write to an array of the enclosing function", node.loc)
    written_items = [items[k - ncon - num_carry] for k in stacked]
    _check_items(state, node, [*consts, *items], [*(consts[k] for k in targets), *written_items])
    body = _with_outputs(body, written, [*targets, *stacked])
    num, outs = len(node.results), body.outputs
    ends = num + len(targets)
    outs = (*outs[:num_carry], *outs[num:ends], *outs[num_carry:num], *outs[ends:])
    body = _moved(body.replace(outputs=outs), targets, ncon, ncon + num_carry)
    stay = [state.read(o) for k, o in enumerate(consts) if k not in targets]
    carry = [*init, *(state.read(consts[k]) for k in targets)]
    attrs = {**node.attrs, "num_consts": len(stay)}
    if node.prim == "scan":
        attrs["num_carry"] = len(carry)
    results = state.b.emit(node.prim, [*stay, *carry, *(state.read(o) for o in items)], attrs, (body,))
    first, last = len(carry), len(results) - len(stacked)
    _write_back(state, [consts[k] for k in targets], results[num_carry:first])
    _write_back(state, written_items, results[last:])
    return [*results[:num_carry], *results[first:last]]


def _check_items(state: _State, node: Node, operands: Sequence[Value], written: Sequence[Value]) -> None:
    """What a loop runs over must not change under another name while it runs."""
    bases = [state.env[o].base for o in operands]
    for target in written:
        if sum(base is state.env[target].base for base in bases) > 1:
            raise UnsupportedError(
                f"the body of this {node.prim} writes to an array that the loop runs over; "
                "run over a copy of it, or index it in the body",
                node.loc,
            )


def _unaliased(
    state: _State, operands: Sequence[Value], regions: Sequence[Graph], shared: Collection[_Base] = ()
) -> tuple[Sequence[Value], Sequence[Graph], list[tuple[Graph, list[int]]]]:
    """Operands, regions and the pure regions with what they write, such that no written operand has an alias.

    `operands` are those of the regions' first parameters. Aliases of one written piece of memory become one
    operand, the whole of it, of which the regions take the views; so does an operand in `shared`.
    """
    while True:
        pure = [_functionalize(region) for region in regions]
        bases = [state.env[o].base for o in operands]
        for k in _targets(pure, len(operands)):
            base = bases[k]
            group = [j for j, other in enumerate(bases) if other is base]
            if len(group) > 1 or (base in shared and state.env[operands[k]].chain):
                regions = [_on_base(state, region, operands, group) for region in regions]
                operands = [base.root, *(o for j, o in enumerate(operands) if j not in group)]
                break
        else:
            return operands, regions, pure


def _on_base(state: _State, region: Graph, operands: Sequence[Value], group: Sequence[int]) -> Graph:
    """The region with the parameters of a group of aliases replaced by one, the base, in front."""
    root = state.env[operands[group[0]]].base.root
    base = Value(root.type, root.hint)
    views = [n for j in group for n in _views(state.env[operands[j]], base, region.params[j])]
    params = (base, *(p for j, p in enumerate(region.params) if j not in group))
    return region.replace(params=params, nodes=(*views, *region.nodes), stage="traced")


def _views(alias: _Alias, source: Value, target: Value) -> list[Node]:
    """Nodes that take the views of `alias` from `source`, the last of them defining `target`."""
    if not alias.chain:
        return [Node("view_reshape", (source,), {"shape": source.shape}, (), (target,))]
    nodes = []
    for view in alias.chain:
        result = target if view is alias.chain[-1] else Value(view.result.type)
        nodes.append(Node(view.prim, (source,), view.attrs, (), (result,), view.loc))
        source = result
    return nodes


def _targets(pure: Sequence[tuple[Graph, list[int]]], count: int) -> list[int]:
    """Which of the first `count` parameters any of the regions writes to."""
    return sorted({k for _, written in pure for k in written if k < count})


def _with_outputs(region: Graph, written: Sequence[int], targets: Sequence[int]) -> Graph:
    """The region without updates, giving the values that the `targets` among its parameters have at its
    end."""
    num = len(region.outputs) - len(written)
    finals = dict(zip(written, region.outputs[num:], strict=True))
    outputs = [*region.outputs[:num], *(finals.get(k, region.params[k]) for k in targets)]
    return region.replace(outputs=tuple(outputs), updates=())


def _moved(region: Graph, targets: Sequence[int], num_consts: int, end: int) -> Graph:
    """The region with those of its first `num_consts` parameters that are in `targets` at position `end`."""
    p = region.params
    stay = [p[k] for k in range(num_consts) if k not in targets]
    return region.replace(params=(*stay, *p[num_consts:end], *(p[k] for k in targets), *p[end:]))


def _write_back(state: _State, targets: Sequence[Value], values: Sequence[Value]) -> None:
    for target, value in zip(targets, values, strict=True):
        state.write(target, value)

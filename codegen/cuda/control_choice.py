"""Which control flow runs inside a kernel: how long it takes there and how long if the host drives it.

Note [Where loops run]
A control node whose regions hold nothing but loops over small arrays, and further control, can be one kernel. For a map
over lanes that is a thread per lane where every value is small enough for registers and the stack, and else a block per
lane; for anything else a block, of which every thread knows what is one number, or a thread for each place of an axis
along which nothing meets (Note [Lanes of a loop]). The alternative is a launch for each
nest of each iteration, and a flag read back by the host for each decision.

Both are estimated from shapes: a block takes `_MEETING` for a nest, whose values come from and go to memory between
two barriers, and works at the rate of one multiprocessor; a thread alone waits for each instruction; a launch costs
`_LAUNCH` beside its work, a decision of the host `_DECISION`. What is not known (how often a `while` runs) is in both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from nufunc.codegen.buffers import aligned, is_view
from nufunc.codegen.cuda import control_lanes, control_nests
from nufunc.codegen.loops import LoopNest
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.nests import build_nests
from nufunc.codegen.schedule import op_cost
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import FLOAT32, TapeType, is_half

Rule = Callable[[Node], float]
CONTROL = ("scan", "map", "while", "cond")
TAPES = ("record", "replay", "tape_zeros")
_PLAIN = ("checkpoint", "named")
_LAUNCH, _DECISION, _MEETING = 2.5, 15.0, 0.25  # microseconds
_BLOCK_RATE = 40e3  # instructions of a nest per microsecond that the threads of one block do together
_THREAD_RATE = 250.0  # and one thread alone
_DEVICE_RATE, _PRODUCT_RATE = 4e6, 4e7  # and the whole device, in loops and in products of matrices
_BLOCKS, _THREADS = 132, 132 * 512  # at work at the same time
SMALL, LOCAL = 32, 1024  # elements of a value, and bytes of all values, that a thread keeps for itself,
MOST_LOCAL = 4096  # or bytes where otherwise the host would drive each lane
ALONE = 8  # elements of a value where a single thread does everything
LARGEST = 1 << 15  # elements of a value in a block
_MOST_BUFFERS = 480  # parameters of a kernel are 4 KiB at most
_FEW_ROWS, _ROWS_BYTES = 2, 1 << 28  # blocks from which a loop is split among them, and the memory that this may take


def mode(node: Node) -> str | None:
    """"thread", "block", "lanes" or "rows" where a control node runs inside a kernel."""
    times = _inside(node)
    best = min(times, key=lambda k: (times[k], k == "block"), default=None)
    return best if best is not None and times[best] < _hosted(node) else None


def _inside(node: Node) -> dict[str, float]:
    """The times of a control node in the kernels that can do it."""
    if node.prim not in CONTROL or not _plain_types(node) or _buffers(node) > _MOST_BUFFERS:
        return {}
    if node.prim == "map" and records(node):
        fits = all(_fits(r, True) for r in node.regions) and node.attrs["length"] > 1
        return {k: t for k, t in _times(node).items() if fits and k == "thread"}
    if not all(map(_fits, node.regions)):
        return {}
    times = _times(node)
    split = control_lanes.split(node, nests_of)
    if split is not None:
        times["lanes"] = _time(node, lambda n: _in_lanes(n, split.lanes))
    rows = rows_of(node)
    if rows is not None:
        times["rows"] = _waves(rows.lanes, _BLOCKS) * _time(node, lambda n: _in_block(n, rows.lanes))
    return times


def _buffers(node: Node) -> int:
    """Arrays that a kernel may have as parameters, at most."""
    consts = [v for r in node.regions for n in r.walk() for i in n.regions for v, _ in i.consts]
    inside = sum(v.type.size > 1 for v in (*consts, *(v for r in node.regions for v, _ in r.consts), *_values(node)))
    return inside + len(node.operands) + 3 * len(node.results)


def rows_of(node: Node) -> control_lanes.Split | None:
    """The split of a loop among blocks."""
    split = control_lanes.split(node, nests_of, _FEW_ROWS, LARGEST)
    return split if split is not None and rows_bytes(node) <= _ROWS_BYTES else None


def rows_bytes(node: Node) -> int:
    """Bytes for all that a loop makes, each in memory of its own, and carries twice."""
    carried = node.results if node.prim == "while" else node.results[: node.attrs["num_carry"]]
    made = [v for r in node.regions for v in r.outputs]
    return sum(aligned(max(v.type.nbytes, 1)) for v in (*carried, *carried, *made, *_values(node)))


def _times(node: Node) -> dict[str, float]:
    """The time in a block or in threads, where they can do it."""
    lanes = node.attrs["length"] if node.prim == "map" else 1
    largest = SMALL if node.prim == "map" else ALONE
    inside = _largest(node)
    if inside > LARGEST or lanes == 0:
        return {}
    times = {"block": _waves(lanes, _BLOCKS) * _once(node, _in_block)}
    if inside <= largest and _local_bytes(node) <= (MOST_LOCAL if records(node) else LOCAL):
        times["thread"] = _waves(lanes, _THREADS) * _once(node, _in_thread)
    return times


def _waves(lanes: int, most: int) -> int:
    return -(-lanes // most)


def _plain_types(node: Node) -> bool:
    return not any(isinstance(v.type, TapeType) for v in (*node.operands, *node.results))


def records(node: Node) -> bool:
    """Whether there are tapes in its regions."""
    return any(n.prim in TAPES for r in node.regions for n in r.walk())


def _own_tapes(region: Graph, node: Node) -> bool:
    """Whether the tapes of a record or replay are those of this region, and small."""
    made = {r for n in region.nodes if n.prim in TAPES for r in n.results}
    items = [v.type.item for v in (*node.operands, *node.results) if isinstance(v.type, TapeType)]
    if any(isinstance(i, TapeType) or i.size > SMALL or not i.size for i in items):
        return False
    tapes = [v for v in (*node.operands, *node.results) if isinstance(v.type, TapeType)]
    return all(v in made and v.type.ndim == 0 for v in tapes)


def _fits(region: Graph, tapes: bool = False) -> bool:
    """Whether all that a region does can be done inside a kernel; `tapes`: by threads alone, which may have tapes."""
    if any(isinstance(v.type, TapeType) for v in (*region.params, *region.outputs)):
        return False
    for node in region.nodes:
        if tapes and node.prim in TAPES:
            if not _own_tapes(region, node) or not all(_fits(r, tapes) for r in node.regions):
                return False
            continue
        if not _plain_types(node):
            return False
        if node.prim == "fused":
            if not is_view(node) and not all(_orderly(node, nest) for nest in nests_of(node)):
                return False
        elif node.prim in (*CONTROL, *_PLAIN):
            if not all(_fits(r, tapes) for r in node.regions):
                return False
        elif node.prim != "dot" or not node.result.type.size:
            return False
    return True


def _orderly(node: Node, nest: LoopNest) -> bool:
    """Whether numbers that go to registers are computed once, not by the points of a loop."""
    inputs = len(node.operands) + len(node.regions[0].consts)
    to_numbers = {inputs + k for k, r in enumerate(node.results) if r.type.size == 1}
    stores = {i.buffer for p in nest.phases for i in p.body if i.op == "store"}
    return to_numbers.isdisjoint(stores) or control_nests.outer_points(nest) == 1


def nests_of(node: Node) -> list[LoopNest]:
    """The nests of a fused node or a dot, for estimates."""
    if node.prim == "dot":
        node = as_sum(node)
    facts = node.regions[0].facts
    if "nests" not in facts:
        facts["nests"] = build_nests(node.regions[0], "estimate", Sites())
    found: list[LoopNest] = facts["nests"]
    return found


@functools.lru_cache(maxsize=256)
def as_sum(node: Node) -> Node:
    """A dot as a fused node. Products of halves are added up in float32."""
    x, y = node.operands
    (xc, yc), (xb, yb) = node.attrs["contract"], node.attrs["batch"]
    free = [[a for a in range(v.ndim) if a not in c and a not in d] for v, c, d in ((x, xc, xb), (y, yc, yb))]
    batch, first, second, inner = len(xb), len(free[0]), len(free[1]), len(xc)
    rank = batch + first + second + inner
    shape = (*node.result.shape, *(x.shape[a] for a in xc))
    along_x = (*range(batch + first), *range(batch + first + second, rank))
    along_y = (*range(batch), *range(batch + first, rank))
    b = Builder("fused", "pure")
    params = [b.param(x.type), b.param(y.type)] if x is not y else [b.param(x.type)]
    wide = lambda v: b.astype(v, FLOAT32) if is_half(v.dtype) else v
    sides = []
    for value, order, dims in (
        (params[0], (*xb, *free[0], *xc), along_x), (params[-1], (*yb, *free[1], *yc), along_y)
    ):  # fmt: skip
        (turned,) = b.emit("transpose", (value,), {"perm": tuple(order)})
        sides.append(b.emit("broadcast", (wide(turned),), {"shape": shape, "dims": tuple(dims)})[0])
    (product,) = b.emit("mul", sides)
    (total,) = b.emit("reduce_sum", (product,), {"axes": tuple(range(rank - inner, rank))})
    total = b.astype(total, node.result.dtype)
    return Node("fused", list(dict.fromkeys((x, y))), {"kind": "reduce"}, (b.build([total]),), node.results, node.loc)


def with_sums(graph: Graph) -> Graph:
    """A region with its products as sums."""
    nodes = []
    for node in graph.nodes:
        if node.prim == "dot":
            node = as_sum(node)
        elif node.prim != "fused" and node.regions:
            regions = [with_sums(r) for r in node.regions]
            node = Node(node.prim, node.operands, node.attrs, regions, node.results, node.loc)
        nodes.append(node)
    return graph.replace(nodes=nodes)


# -- sizes


def _values(node: Node) -> Sequence[Value]:
    """What is made inside of a node's regions, and what they carry."""
    found: list[Value] = []
    for region in node.regions:
        for inner in region.nodes:
            found += inner.results if not is_view(inner) else ()
            if inner.prim in (*CONTROL, *TAPES, "checkpoint"):
                found += _values(inner)
    return found


def _largest(node: Node) -> int:
    own = node.results if node.prim in ("while", "cond") else node.results[: node.attrs.get("num_carry", 0)]
    return max((v.type.size for v in (*own, *_values(node))), default=1)


def _local_bytes(node: Node) -> int:
    own = node.results if node.prim in ("while", "cond") else node.results[: node.attrs.get("num_carry", 0)]
    return sum(2 * v.type.nbytes for v in (*own, *_values(node)) if v.type.size > 1)


# -- times in microseconds


def _instructions(nest: LoopNest) -> float:
    """Instructions of all points of a nest."""
    outer = control_nests.count(nest.axes)
    inner = sum(
        control_nests.count(p.axes) * sum(op_cost(i.op) for i in p.body if i.op not in ("const", "index"))
        for p in nest.phases
    )
    return float(outer * inner)


def _work(node: Node) -> list[tuple[float, int]]:
    """(instructions, points) of each nest of a fused node or a dot."""
    points = lambda nest: control_nests.outer_points(nest) * control_nests.reduced_points(nest)
    return [(_instructions(nest), points(nest)) for nest in nests_of(node)]


def _in_block(node: Node, lanes: int = 1) -> float:
    """In a block, which does one of so many lanes."""
    total = 0.0
    for work, points in ((w / lanes, -(-p // lanes)) for w, p in _work(node)):
        threads = min(max(points, 1), 512)
        alone = work / _THREAD_RATE / threads  # no thread is faster than this
        total += (_MEETING if points > 1 else 0.0) + max(work / _BLOCK_RATE, alone)
    return total


def _in_thread(node: Node) -> float:
    return sum(work for work, _ in _work(node)) / _THREAD_RATE


def _in_lanes(node: Node, lanes: int) -> float:
    return sum(max(work / lanes / _THREAD_RATE, work / _DEVICE_RATE) for work, _ in _work(node))


def _launched(node: Node) -> float:
    rate = _PRODUCT_RATE if node.prim == "dot" else _DEVICE_RATE
    return sum(_LAUNCH + work / rate for work, _ in _work(node))


def _once(node: Node, of: Rule) -> float:
    """The time of one lane of a map, or of another control node."""
    return sum(_time(n, of) for n in node.regions[0].nodes) if node.prim == "map" else _time(node, of)


def _time(node: Node, of: Rule) -> float:
    """The time of a control node, or of what is inside, by a rule for its nests. What the host launches may itself be a
    kernel with control flow."""
    if node.prim in ("fused", "dot"):
        return 0.0 if node.prim == "fused" and is_view(node) else of(node)
    plain = _by_parts(node, of)
    if of is not _launched:
        return plain
    return min([plain, *(_LAUNCH + t for t in _inside(node).values())])


def _by_parts(node: Node, of: Rule) -> float:
    """The time of a control node with its regions around."""
    inner = [sum(_time(n, of) for n in r.nodes) for r in node.regions]
    hosted = of is _launched
    match node.prim:
        case "scan" | "map":
            return float(node.attrs["length"] * inner[0])
        case "while" | "record" | "replay":
            return sum(inner) + (_DECISION if hosted else 0.0)
        case "cond":
            return max(inner) + (_DECISION if hosted else 0.0)
        case "named":
            return _LAUNCH if hosted else 0.0
        case _:
            return sum(inner)


def _hosted(node: Node) -> float:
    lanes = node.attrs["length"] if node.prim == "map" else 1
    return lanes * _once(node, _launched)


def threads_of(nodes: Sequence[Node], lanes: int = 1) -> int:
    """Threads of a block for some nests, of which it does one of so many lanes: as many as most of the points, a power
    of two."""
    most = 1
    for node in nodes:
        for nest in nests_of(node) if not is_view(node) else ():
            points = -(-control_nests.outer_points(nest) // lanes)
            most = max(most, points * min(control_nests.reduced_points(nest), 32))
    return min(512, max(32, 1 << math.ceil(math.log2(most))))

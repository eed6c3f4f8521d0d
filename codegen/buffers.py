"""The buffer plan: where each value of a grouped graph stands during a call.

Values share memory in classes: a reshape stands where its operand does, and an update whose base dies is
done in place. A class stands in a parameter, a constant, an output, or in the arena, at an offset that no
class of overlapping life has; but a large elementwise result is written over an operand that dies. Regions of
control nodes have frames of their own, inside the arena of the node's life.

Note [Lent parameters]
An output may be lent the memory of a parameter (a donated argument, or one that is written in place). If it comes to
stand there by updates in place, or is made when nothing reads the parameter any more, it is written there at once;
else it is made in the arena and copied at the end, after everything that is copied from parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nufunc.codegen.nest_rules import ASSEMBLY
from nufunc.codegen.overwrite import can_overwrite
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import TapeType

ALIGNMENT = 64
LOOPS = ("while", "record", "scan", "replay")  # control nodes with carries
SMALL = 16  # bytes up to which a value lies on the stack, where LLVM turns it into a register
OVERWRITE = 1 << 16  # bytes from which an elementwise kernel writes over an operand that dies


@dataclass
class Frame:
    """The plan of one graph. Offsets are relative to the frame; `size` is its extent in bytes."""

    root: dict[Value, Value] = field(default_factory=dict)  # the value that names a class
    offset: dict[Value, int] = field(default_factory=dict)  # of classes in the arena
    on_stack: set[Value] = field(default_factory=set)
    borrowed: dict[Value, int] = field(default_factory=dict)  # class -> output in whose memory it stands meanwhile
    destination: dict[Value, int] = field(default_factory=dict)  # class -> output number
    lent: dict[int, Value] = field(default_factory=dict)  # output number -> parameter whose memory it has
    late: dict[int, int] = field(default_factory=dict)  # lent output, copied last from a parameter -> its offset
    overwritten: dict[Node, list[tuple[Value, Value]]] = field(default_factory=dict)  # (operand, result)
    scratch: dict[Node, int] = field(default_factory=dict)  # offset of a node's own memory, regions included
    scratch_bytes: dict[Node, int] = field(default_factory=dict)
    frames: dict[Node, list[Frame]] = field(default_factory=dict)
    in_place: set[Node] = field(default_factory=set)
    life: dict[Value, tuple[int, int]] = field(default_factory=dict)
    could_borrow: int = 0
    size: int = 0

    def of(self, value: Value) -> Value:
        root = value
        while root in self.root:
            root = self.root[root]
        while value is not root:  # a thousand updates make a chain as long, which is walked once
            self.root[value], value = root, self.root[value]
        return root


def is_copied(graph: Graph, frame: Frame, output: int) -> bool:
    """Whether an output is made elsewhere and copied at the end."""
    root = frame.of(graph.outputs[output])
    return root is not frame.lent.get(output) and frame.destination.get(root) != output


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def is_view(node: Node) -> bool:
    return node.prim == "fused" and node.attrs["kind"] == "view"


def plan_frame(
    graph: Graph,
    scratch_of: Callable[[Node, list[Frame]], int],
    donated: Iterable[Value] = (),
    lent: Mapping[int, Value] | None = None,
    early: Iterable[int] = (),
    small: int = SMALL,
) -> Frame:
    """The frame of a grouped graph. `scratch_of` tells a node's scratch bytes, given its regions' frames;
    `donated` are parameters that the graph may overwrite. `lent` tells which outputs have the memory of which
    parameters, and `early` which of these may be written before the end. Values of up to `small` bytes lie on the
    stack; -1: none."""
    donated, early = tuple(donated), tuple(early)
    frame = _planned(graph, scratch_of, donated, lent or {}, early, 0, small)
    if frame.borrowed:  # which of two buffers that change places is the borrowed one decides what is needed at the end
        other = _planned(graph, scratch_of, donated, lent or {}, early, 1, small)
        frame = min(frame, other, key=lambda f: f.size)
    return frame


def _planned(
    graph: Graph, scratch_of: Callable[[Node, list[Frame]], int], donated: Iterable[Value], lent: Mapping[int, Value],
    early: Iterable[int], since: int, small: int,
) -> Frame:  # fmt: skip
    """`plan_frame`, where the first `since` values that could borrow memory do not."""
    frame = Frame(lent=dict(lent))
    updatable = {frame.lent[k] for k in early if _comes_from(graph, graph.outputs[k], frame.lent[k])}
    owned = {v for n in graph.nodes for v in n.results} | set(donated) | updatable
    last = {o: k for k, n in enumerate(graph.nodes) for o in n.operands}
    end = len(graph.nodes)
    last.update(dict.fromkeys(graph.outputs, end))
    _classes(graph, frame, owned, last)
    class_last: dict[Value, int] = {}
    for value, k in last.items():
        root = frame.of(value)
        class_last[root] = max(class_last.get(root, -1), k)
    fixed = {*graph.params, *(v for v, _ in graph.consts)}
    early = frozenset(early)
    for k, value in enumerate(graph.outputs):
        root = frame.of(value)
        if root in fixed or root in frame.destination:
            continue
        if k not in frame.lent or (k in early and _free_by_then(graph, frame, root, frame.lent[k], class_last)):
            frame.destination[root] = k
    blocks: list[tuple[int, int, int, int]] = []  # offset, size, first, last
    for k, param in frame.lent.items():
        root = frame.of(graph.outputs[k])
        if root in fixed and root is not param:
            frame.late[k] = _place(blocks, root.type.nbytes, end, end)
    free = _free_memory(graph, frame, early, class_last)
    for k, node in enumerate(graph.nodes):
        frame.frames[node] = [] if node.prim == "fused" else _region_frames(node, scratch_of, small)
        need = scratch_of(node, frame.frames[node])
        if need:
            frame.scratch[node], frame.scratch_bytes[node] = _place(blocks, need, k, k), need
        if is_view(node):
            continue
        for value in node.results:
            root = frame.of(value)
            if root is not value or root in frame.destination or root in fixed:
                continue
            life = (k, max(class_last.get(root, k), k))
            if value.type.nbytes <= small:
                frame.on_stack.add(value)
                continue
            base = _overwritable(frame, node, value, k, class_last)
            frame.life[value] = life
            if base is None and _borrows(graph, frame, free, value, since):
                continue
            if base is None:
                frame.offset[value] = _place(blocks, value.type.nbytes, *life)
            else:
                frame.overwritten.setdefault(node, []).append((base, value))
                frame.offset[value] = frame.offset[frame.of(base)]
                blocks.append((frame.offset[value], aligned(value.type.nbytes), *life))
            frame.life[value] = life
    frame.size = max((offset + size for offset, size, _, _ in blocks), default=0)
    return frame


def _region_frames(node: Node, scratch_of: Callable[[Node, list[Frame]], int], small: int) -> list[Frame]:
    """The frames of a control node's regions. A large carry that the body ends by writing over stays where it is."""
    frames = [plan_frame(r, scratch_of, d, small=small) for r, d in zip(node.regions, donations(node))]
    if node.prim not in LOOPS:
        return frames
    body, donated = node.regions[-1], donations(node)[-1]
    pairs = {o: body.params[p] for p, o in carry_pairs(node) if body.params[p].type.nbytes >= OVERWRITE}
    lent = {o: p for o, p in pairs.items() if p not in donated and body.outputs.count(body.outputs[o]) == 1}
    if lent:
        tried = plan_frame(body, scratch_of, donated, lent, lent, small)
        kept = {o: p for o, p in lent.items() if not is_copied(body, tried, o)}
        if kept:
            frames[-1] = tried if kept == lent else plan_frame(body, scratch_of, donated, kept, kept, small)
    return frames


def _free_by_then(graph: Graph, frame: Frame, root: Value, param: Value, class_last: Mapping[Value, int]) -> bool:
    """Whether nothing reads a parameter any more when a class is first written, but what overwrites it in step."""
    made = next(k for k, n in enumerate(graph.nodes) if root in n.results)
    last = class_last.get(param, -1)
    if last < made:
        return True
    node = graph.nodes[made]
    if last > made or [frame.of(o) for o in node.operands].count(param) != 1:
        return False
    if node.prim in LOOPS:  # which begins by moving its first carry there
        return frame.of(node.operands[_first_carry(node) + node.results.index(root)]) is param
    if not can_overwrite(node, param, root):
        return False
    frame.overwritten.setdefault(node, []).append((param, root))
    return True


def _free_memory(
    graph: Graph, frame: Frame, early: Collection[int], class_last: Mapping[Value, int]
) -> dict[int, list[tuple[int, int]]]:
    """Of the memory of each output when it is taken, as (first, last) nodes: others may stand there before it is
    written, and where it is lent, after its parameter has been read.
    """
    made, end = {r: k for k, n in enumerate(graph.nodes) for r in n.results}, len(graph.nodes)
    free: dict[int, list[tuple[int, int]]] = {}
    fixed = {*graph.params, *(v for v, _ in graph.consts)}  # a parameter that is updated in place may be the output
    for k, value in enumerate(graph.outputs):
        root = frame.of(value)
        here = frame.destination.get(root) == k
        if isinstance(value.type, TapeType) or value.type.nbytes < OVERWRITE or root in fixed:
            continue
        taken = [(made[root] if here else end, end)]
        if k in frame.lent:
            if k not in early:
                continue
            taken.append((-1, class_last.get(frame.lent[k], -1)))
        free[k] = taken
    return free


def _borrows(
    graph: Graph, frame: Frame, free: Mapping[int, list[tuple[int, int]]], value: Value, since: int
) -> bool:
    """Let a large value stand in the memory of an output meanwhile, but for the first `since` that could."""
    if value.type.nbytes < OVERWRITE:
        return False
    first, last = frame.life[value]
    for k, taken in free.items():
        room = graph.outputs[k].type
        fits = value.type.nbytes <= room.nbytes and value.dtype == room.dtype
        if fits and all(first > until or last < since for since, until in taken):
            frame.could_borrow += 1
            if frame.could_borrow <= since:
                return False
            taken.append((first, last))
            frame.borrowed[value] = k
            return True
    return False


def _overwritable(
    frame: Frame, node: Node, result: Value, k: int, class_last: Mapping[Value, int]
) -> Value | None:
    """An operand in the arena that dies at node k, over which its result may be written."""
    if node.prim != "fused" or node in frame.in_place or result.type.nbytes < OVERWRITE:
        return None
    taken = {frame.of(base) for base, _ in frame.overwritten.get(node, [])}
    roots = [frame.of(o) for o in node.operands]
    for operand, root in zip(node.operands, roots, strict=True):
        dies = root in frame.offset and class_last[root] == k and root not in taken and roots.count(root) == 1
        if dies and operand.type == result.type and can_overwrite(node, operand, result):
            return operand
    return None


def _classes(graph: Graph, frame: Frame, owned: set[Value], last: dict[Value, int]) -> None:
    class_last: dict[Value, int] = {}
    producers = {r: n for n in graph.nodes for r in n.results}
    readers: dict[Value, list[Value]] = {}
    for node in graph.nodes:  # views live as long as what is read through them
        if is_view(node):
            readers.setdefault(node.operands[0], []).append(node.result)

    def final(value: Value) -> int:
        if value not in class_last:
            class_last[value] = max([last.get(value, -1), *(final(v) for v in readers.get(value, ()))])
        return class_last[value]

    for k, node in enumerate(graph.nodes):
        if is_view(node):
            frame.root[node.result] = node.operands[0]
            continue
        base = updated(node)
        if base is None or final(base) > k or node.operands.count(base) != 1:
            continue
        if any(o is not base and frame.of(o) is frame.of(base) for o in node.operands):
            continue  # it reads the base under another name
        root, through = base, producers.get(base)
        while through is not None and is_view(through):  # another reader of what is viewed may come later
            root = through.operands[0]
            if final(root) > k:
                break
            through = producers.get(root)
        if final(root) <= k and frame.of(root) in owned:
            frame.root[node.result] = base
            frame.in_place.add(node)


def updated(node: Node) -> Value | None:
    """The operand that an assembling fused node could overwrite: one that it reads only as the base of its
    update."""
    if node.prim != "fused" or node.attrs["kind"] != "assemble":
        return None
    region = node.regions[0]
    inner = next(n for n in region.nodes if n.result is region.outputs[0])
    if inner.prim not in ASSEMBLY or inner.prim == "concat" or inner.operands[0] not in region.params:
        return None
    base = inner.operands[0]
    uses = sum(n.operands.count(base) for n in region.nodes)
    return node.operands[region.params.index(base)] if uses == 1 else None


def donations(node: Node) -> list[Sequence[Value]]:
    """For each region of a control node the parameters that it may overwrite: carries that it only
    updates."""
    if node.prim not in LOOPS:
        return [()] * len(node.regions)
    body = node.regions[-1]
    found = [
        body.params[p] for p, o in carry_pairs(node) if _comes_from(body, body.outputs[o], body.params[p])
    ]
    return [()] * (len(node.regions) - 1) + [found]


def carry_pairs(node: Node) -> list[tuple[int, int]]:
    """(parameter, output) of each carry in the body of a loop."""
    body = node.regions[-1]
    first = node.attrs["num_body"] if "num_body" in node.attrs else node.attrs["num_consts"]
    count = len(body.params) - first if "num_body" in node.attrs else node.attrs["num_carry"]
    return [(first + k, k) for k in range(count)]


def second_sizes(node: Node, frames: Sequence[Frame]) -> list[int]:
    """Bytes of the second buffer of each carry of a loop; 0 where the body works in place."""
    if node.prim not in LOOPS:
        return []
    body, frame = node.regions[-1], frames[-1]
    sizes = []
    for p, o in carry_pairs(node):
        in_place = frame.of(body.outputs[o]) is body.params[p] or frame.lent.get(o) is body.params[p]
        sizes.append(0 if in_place else aligned(max(body.outputs[o].type.nbytes, 1)))
    return sizes


def _first_carry(node: Node) -> int:
    """The number of a loop's operand that its first result starts from."""
    match node.prim:
        case "scan":
            return int(node.attrs["num_consts"])
        case "replay":
            return 1 + int(node.attrs["num_consts"])
        case _:
            return int(node.attrs["num_cond"] + node.attrs["num_body"])


def _comes_from(body: Graph, value: Value, param: Value) -> bool:
    producers = {r: n for n in body.nodes for r in n.results}
    if body.outputs.count(value) != 1:
        return False
    while value is not param:
        node = producers.get(value)
        base = None if node is None else node.operands[0] if is_view(node) else updated(node)
        if base is None:
            return False
        value = base
    return True


def _place(blocks: list[tuple[int, int, int, int]], size: int, first: int, last: int) -> int:
    """The lowest offset that no block of overlapping life covers."""
    size = aligned(max(size, 1))
    taken = sorted((o, s) for o, s, f, l in blocks if f <= last and first <= l)
    offset = 0
    for start, extent in taken:
        if offset + size <= start:
            break
        offset = max(offset, start + extent)
    blocks.append((offset, size, first, last))
    return offset

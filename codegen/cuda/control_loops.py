"""Control nodes inside kernels as text: loops with their carries, maps, branches (Note [Control in kernels])."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nufunc.codegen import buffers
from nufunc.codegen.buffers import Frame, is_view
from nufunc.codegen.cuda import control_choice
from nufunc.codegen.cuda.control_nests import Home
from nufunc.codegen.cuda.program import Place
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import ArrayType

if TYPE_CHECKING:
    from nufunc.codegen.cuda.control_kernels import Writer

Area = tuple[str, int, int]
Homes = Sequence[Home | None]  # of results: None for numbers, which get registers


def second_sizes(node: Node, frames: Sequence[Frame]) -> list[int]:
    """Bytes for both halves of each carry that is an array and not updated in place."""
    sizes = buffers.second_sizes(node, frames)
    return [2 * n if r.type.size > 1 else 0 for n, r in zip(sizes, node.results, strict=False)]


def control(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Homes, arena: Place
) -> list[Home]:
    """Write a control node; the homes of its results."""
    return _WRITERS[node.prim](w, node, frames, operands, results, arena)


def plain(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Homes, arena: Place
) -> list[Home]:
    return w.region(node.regions[0], frames[0], operands, results, arena)


def map_(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Homes, arena: Place
) -> list[Home]:
    stacks = [boxed(w, h, r) for h, r in zip(results, node.results, strict=True)]
    index = w.fresh("turn")
    w.settle()
    with w.indented(f"for {index} in range({w.counted('0')}, {node.attrs['length']}):"):
        row(w, node, frames[0], operands, stacks, arena, 0, index)
        w.settle()
    return stacks


def boxed(w: Writer, home: Home | None, value: Value) -> Home:
    """Where a stacked result stands; a single number in a register."""
    return Home(w.fresh("reg"), value.dtype, register=True) if home is None else home


def scan(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Homes, arena: Place
) -> list[Home]:
    attrs = node.attrs
    length, consts, count = attrs["length"], attrs["num_consts"], attrs["num_carry"]
    stacks = [boxed(w, h, r) for h, r in zip(results[count:], node.results[count:], strict=True)]
    carry = Carries(w, node, frames, operands[consts : consts + count], results[:count], arena)
    if length:
        w.settle()
        index = w.fresh("turn")
        with w.indented(f"for {index} in range({w.counted('0')}, {length}):"):
            number = f"({length - 1} - {index})" if attrs["reverse"] else index
            made = row(
                w, node, frames[0], operands, [*carry.current, *stacks], carry.arena, count, number, carry.current,
                carry.following,
            )  # fmt: skip
            carry.step(made)
            w.settle()
    return [*carry.finish(), *stacks]


def while_(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Homes, arena: Place
) -> list[Home]:
    cond, body = node.regions
    nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
    carry = Carries(w, node, frames, operands[nc + nb :], results, arena)
    w.settle()
    with w.indented("while True:"):
        leave_unless(w, node, cond, frames[0], [*operands[:nc], *carry.current], carry.arena)
        touched = list(w.touched)
        made = w.region(body, frames[1], [*operands[nc : nc + nb], *carry.current], carry.following, carry.arena)
        carry.step(made)
        w.settle()
    w.touched = touched
    return carry.finish()


def leave_unless(w: Writer, node: Node, cond: Graph, frame: Frame, arguments: Sequence[Home], arena: Place) -> None:
    """At the head of a loop: leave it where a check has failed, or where the condition is false."""
    if any(may_fail(n) for r in node.regions for n in r.walk()):
        look(w)
    (flag,) = w.region(cond, frame, arguments, [None], arena)
    w.line(f"if not {flag.name}: break")


def may_fail(node: Node) -> bool:
    if node.prim != "fused" or is_view(node):
        return False
    return any(i.op == "check" for n in control_choice.nests_of(node) for p in n.phases for i in p.body)


def lanes(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Sequence[Home], arena: Place
) -> None:
    """The map around a kernel: a lane per thread or block."""
    with w.indented(f"for lane in range({w.worker[0]}, {node.attrs['length']}, {w.worker[1]}):"):
        row(w, node, frames[0], operands, results, arena, 0, "lane")
        if not w.by_thread:
            w.settle()


def row(
    w: Writer, node: Node, frame: Frame, operands: Sequence[Home], results: Sequence[Home], arena: Place, carries: int,
    index: str, carried: Sequence[Home] = (), following: Sequence[Home | None] = (),
) -> list[Home]:  # fmt: skip
    """One run of the body of a scan or map, whose stacked results are stored; the homes of new carries."""
    body, consts = node.regions[0], node.attrs["num_consts"]
    stacked = zip(operands[consts + carries :], body.params[consts + carries :], strict=True)
    xs = [home.at(f"{index} * {p.type.size}") if p.type.size != 1 else home.at(index) for home, p in stacked]
    ys: list[Home | None] = []
    outs = list(zip(results[carries:], body.outputs[carries:], strict=True))
    for home, out in outs:
        ys.append(None if out.type.size == 1 else home.at(f"{index} * {out.type.size}"))
    made = w.region(body, frame, [*operands[:consts], *carried, *xs], [*following, *ys], arena)
    for (home, _), value in zip(outs, made[carries:], strict=True):
        if home.register:
            w.line(f"{home.name} = {value.name}")
        elif value.register:
            target = home.at(index)
            w.before([], [target])
            w.single(f"{target.element('0')} = {target.stored(value.name)}")
    return made[:carries]


def look(w: Writer) -> None:
    """Leave a loop where a check has failed; all threads of a block do."""
    if w.by_thread:
        w.line("if error[0] != 0: break")
        return
    w.shared["failed"] = (1, "int32")
    w.line("cuda.syncthreads()")
    w.line("if thread == 0: failed[0] = error[0]")
    w.line("cuda.syncthreads()")
    w.touched.clear()
    w.line("if failed[0] != 0: break")


def cond(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Homes, arena: Place
) -> list[Home]:
    index, *args = operands
    index = w.loaded(index)
    numbers = [Home(w.fresh("reg"), r.dtype, register=True) for r in node.results]
    made = [n if h is None else h for n, h in zip(numbers, results, strict=True)]
    last = len(node.regions) - 1
    before, after = list(w.touched), list[tuple[Area, bool]]()
    for k, (region, frame) in enumerate(zip(node.regions, frames, strict=True)):
        if index.dtype.kind == "b":
            test = index.name if k else f"not {index.name}"
        else:
            test = f"{index.name} <= 0" if k == 0 else f"{index.name} == {k}"
        head = "else:" if k and k == last else f"{'elif' if k else 'if'} {test}:"
        if not last:
            head = "if True:"
        w.touched = list(before)
        with w.indented(head):
            for target, home in zip(made, w.region(region, frame, args, results, arena), strict=True):
                if target.register:
                    w.line(f"{target.name} = {home.name}")
        after += w.touched
    w.touched = list(dict.fromkeys(after))
    return made


class Carries:
    """The carries of a loop: registers, memory that the body updates, or two halves of memory that change places."""

    def __init__(
        self, writer: Writer, node: Node, frames: Sequence[Frame], initial: Sequence[Home],
        results: Sequence[Home | None], arena: Place,
    ) -> None:  # fmt: skip
        self.writer, self.results = writer, results
        sizes = second_sizes(node, frames)
        self.types = [r.type for r in node.results[: len(sizes)]]
        self.current: list[Home] = []
        self.following: list[Home | None] = []
        self.halves: dict[int, tuple[str, int]] = {}
        self.back: list[int] = []  # those that are copied back after an iteration
        offset = 0
        for k, (size, home, result, type_) in enumerate(zip(sizes, initial, results, self.types, strict=True)):
            if type_.size == 1:
                register = Home(writer.fresh("reg"), type_.dtype, register=True)
                writer.line(f"{register.name} = {writer.loaded(home).name}")
                self.current.append(register)
                self.following.append(None)
                continue
            if writer.by_thread:  # at places known when code is made, both can be registers
                self.current.append(writer.stacked(type_))
                self.following.append(writer.stacked(type_) if size else self.current[-1])
                self.back.append(k)
            elif not size:
                assert result is not None
                self.current.append(result)
                self.following.append(result)
            else:
                half = size // 2 // type_.dtype.itemsize
                pair = ArrayType((2 * half,), type_.dtype)
                both, turn = writer.arena(arena.moved(offset), pair), writer.fresh("half")
                both = replace(both, lane=type_.size if both.lane else 0)
                writer.line(f"{turn} = int64(0)")
                self.current.append(both.at(turn))
                self.following.append(both.at(f"({half} - {turn})"))
                self.halves[k] = (turn, half)
            writer.copied(self.current[-1], home, type_)
            offset += size
        self.arena = arena.moved(offset)

    def step(self, made: Sequence[Home]) -> None:
        """After an iteration, whose outputs stand at `made`."""
        pairs = [(c.name, m.name) for c, m in zip(self.current, made, strict=True) if c.register and c.name != m.name]
        if pairs:
            targets, values = zip(*pairs, strict=True)
            self.writer.line(f"{', '.join(targets)} = {', '.join(values)}")
        for k in self.back:
            following = self.following[k]
            assert following is not None
            if following is self.current[k]:
                continue
            size, split = self.types[k].size, self.writer.split
            for at in map(str, range(size if split is None else split.elements(size))):
                self.writer.line(f"{self.current[k].element(at)} = {following.element(at)}")
        for turn, half in self.halves.values():
            self.writer.line(f"{turn} = {half} - {turn}")

    def finish(self) -> list[Home]:
        made = []
        for k, (home, result, type_) in enumerate(zip(self.current, self.results, self.types, strict=True)):
            if k in self.halves or k in self.back:
                assert result is not None
                self.writer.copied(result, home, type_)
                home = result
            made.append(home)
        return made


_WRITERS: dict[str, Callable[..., list[Home]]] = {
    "scan": scan, "while": while_, "cond": cond, "map": map_, "checkpoint": plain,
}  # fmt: skip

"""One region of control flow inside a kernel: where its values are, and its nodes as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nufunc.codegen import buffers
from nufunc.codegen.buffers import Frame, aligned
from nufunc.codegen.cuda import control_choice, control_loops, control_tapes
from nufunc.codegen.cuda.control_lanes import LaneNest, RowNest
from nufunc.codegen.cuda.control_nests import WARP, BlockNest, Home, ThreadNest, renumbered
from nufunc.codegen.cuda.program import Place
from nufunc.codegen.loops import Buffer
from nufunc.codegen.schedule import collapse
from nufunc.codegen.text_scalars import number
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import ArrayType, TapeType

if TYPE_CHECKING:
    from nufunc.codegen.cuda.control_kernels import Writer


class Region:
    """One region while it is written: where its values are."""

    def __init__(
        self, writer: Writer, graph: Graph, frame: Frame, params: Sequence[Home], outputs: Sequence[Home | None],
        arena: Place,
    ) -> None:  # fmt: skip
        self.writer, self.graph, self.frame, self.outputs, self.place = writer, graph, frame, outputs, arena
        self.homes: dict[Value, Home] = {}
        self.kept: dict[Value, Home | None] = {}  # tapes; None: of zeros
        for param, home in zip(graph.params, params, strict=True):
            self.homes[param] = writer.loaded(home) if param.type.size == 1 else home
        for value, array in graph.consts:
            self.homes[value] = self.constant(array)

    def constant(self, array: np.ndarray) -> Home:
        if array.size == 1:
            return Home(number(array.item(), array.dtype), array.dtype, register=True)
        return self.writer.memory(self.writer.planner.constant(array), ArrayType(array.shape, array.dtype))

    def home(self, value: Value) -> Home:
        root = self.frame.of(value)
        if root not in self.homes:
            self.homes[root] = self.made(root)
        return self.homes[root]

    def made(self, root: Value) -> Home:
        frame, writer = self.frame, self.writer
        if root.type.size == 1:
            return Home(writer.fresh("reg"), root.dtype, register=True)
        alone = writer.split is not None or writer.rows is not None  # other lanes may be elsewhere in the loop
        k = frame.destination.get(root, None if alone else frame.borrowed.get(root))
        if k is not None and self.outputs[k] is not None:
            home = self.outputs[k]
            assert home is not None
            return replace(home, lane=root.type.size) if alone else home
        return writer.arena(self.place.moved(frame.offset.get(root, 0)), root.type)

    def node(self, node: Node) -> None:
        if node.prim == "fused":
            self.fused(node)
            return
        if node.prim == "named":
            self.named(node)
            return
        writer = self.writer
        if node.prim in control_choice.TAPES:
            self.tapes(node)
            return
        operands = [self.home(o) for o in node.operands]
        results = [None if r.type.size == 1 else self.home(r) for r in node.results]
        arena = self.place.moved(self.frame.scratch.get(node, 0))
        made = control_loops.control(writer, node, self.frame.frames[node], operands, results, arena)
        for result, home in zip(node.results, made, strict=True):
            if home.register:
                self.homes[self.frame.of(result)] = home

    def tapes(self, node: Node) -> None:
        """record, replay and tape_zeros."""
        writer, frames = self.writer, self.frame.frames[node]
        if node.prim == "tape_zeros":
            self.kept[node.result] = None
            return
        plain = [self.home(o) for o in node.operands if not isinstance(o.type, TapeType)]
        read = [self.kept[o] for o in node.operands if isinstance(o.type, TapeType)]
        carried = [r for r in node.results if not isinstance(r.type, TapeType)]
        if node.prim == "record":
            carried.pop()
        homes = [None if r.type.size == 1 else self.home(r) for r in carried]
        arena = self.place.moved(self.frame.scratch.get(node, 0))
        if node.prim == "record":
            made = control_tapes.record(writer, node, frames, plain, homes, arena)
        else:
            made = control_tapes.replay(writer, node, frames, plain, homes, arena, read)
        for result, home in zip(node.results, made, strict=True):
            if isinstance(result.type, TapeType):
                self.kept[result] = home
            elif home.register:
                self.homes[self.frame.of(result)] = home

    def named(self, node: Node) -> None:
        source, target = self.home(node.operands[0]), self.home(node.result)
        if target.register:
            self.writer.line(f"{target.name} = {source.name}")
        else:
            self.writer.copied(target, source, node.result.type)

    def fused(self, node: Node) -> None:
        writer, region = self.writer, node.regions[0]
        homes = [self.home(o) for o in node.operands]
        homes += [self.constant(array) for _, array in region.consts]
        homes += [self.home(r) for r in node.results]
        place = self.place.moved(self.frame.scratch.get(node, 0))
        in_place = node in self.frame.in_place
        for nest in writer.planner.nests(node):
            if in_place and nest.copies is not None:
                continue
            whole = writer.split is not None or writer.rows is not None
            nest, writer.first_id = renumbered(nest if whole else collapse(nest), writer.first_id)
            rows = self.rows([b for b in nest.buffers if b.scratch], place)
            all_homes = [*homes, *rows]
            used = {i.buffer: False for p in nest.phases for i in p.body if i.op == "load"}
            used.update((i.buffer, True) for p in nest.phases for i in p.body if i.op == "store")
            stores = [all_homes[k] for k, w in used.items() if w]
            loads = [
                all_homes[i.buffer] for p in nest.phases for i in p.body
                if i.op == "load" or (i.op == "store" and i.attrs["mode"] == "add")
            ]  # fmt: skip
            writer.before(loads, stores)
            written: ThreadNest
            if writer.split is not None:
                written = LaneNest(nest, all_homes, writer.planner.sites, writer.depth, writer.split)
            elif writer.rows is not None:
                written = RowNest(
                    nest, all_homes, writer.planner.sites, writer.depth, writer.threads, writer.rows
                )  # fmt: skip
            elif writer.by_thread:
                written = ThreadNest(nest, all_homes, writer.planner.sites, writer.depth)
            else:
                written = BlockNest(nest, all_homes, writer.planner.sites, writer.depth, writer.threads)
            writer.lines += written.write()
            if isinstance(written, BlockNest):
                writer.shared.update(written.shared)

    def rows(self, scratch: Sequence[Buffer], place: Place) -> list[Home]:
        """Memory for rows: one on the stack of a thread, one for each warp of a block."""
        found, offset = [], 0
        for buffer in scratch:
            type_ = ArrayType((buffer.size * (1 if self.writer.by_thread else WARP),), buffer.dtype)
            home = self.writer.arena(place.moved(offset), type_)
            if not self.writer.by_thread:
                home = home.at(f"thread // {WARP} * {buffer.size}")
                self.writer.written.add(home.name)
            found.append(replace(home, row=True))
            offset += aligned(type_.nbytes)
        return found

    def finish(self) -> list[Home]:
        """Copy what was made elsewhere, in the order of `Planner.run`."""
        graph, frame, writer = self.graph, self.frame, self.writer
        sources = {k: self.home(v) for k, v in enumerate(graph.outputs)}
        arrays = [k for k, v in enumerate(graph.outputs) if v.type.size != 1]
        copied = [k for k in arrays if buffers.is_copied(graph, frame, k)]
        for k in copied:
            if k not in frame.lent:
                self.to_output(k, sources[k])
        for k, offset in frame.late.items():
            if k in copied:
                late = writer.arena(self.place.moved(offset), graph.outputs[k].type)
                writer.copied(late, sources[k], graph.outputs[k].type)
                sources[k] = late
        for k in copied:
            if k in frame.lent:
                self.to_output(k, sources[k])
        made = []
        for k, value in enumerate(graph.outputs):
            out = self.outputs[k]
            made.append(sources[k] if value.type.size == 1 or out is None else out)
        return made

    def to_output(self, k: int, source: Home) -> None:
        target = self.outputs[k]
        assert target is not None
        self.writer.copied(target, source, self.graph.outputs[k].type)

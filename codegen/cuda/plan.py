"""The plan for a device: a grouped graph as a program, with every value at a place in memory.

Memory is planned as on the CPU (Note [Lent parameters] of `codegen.buffers`): values share it, updates happen in place.
Registers belong to kernels alone, so that the smallest value between two of them has a place too. A kernel is made once
for equal nests.

Note [Failing on a device]
A check that fails leaves a key in the error word, and what follows runs on with something harmless. So inputs that are
written in place are written at the end where anything may fail, by a kernel that looks at the error word first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from nufunc.codegen import buffers
from nufunc.codegen.buffers import Frame, aligned, is_view
from nufunc.codegen.cuda import control_choice, libraries
from nufunc.codegen.cuda.kernels import Kernel, kernels
from nufunc.codegen.cuda.prepare import prepared
from nufunc.codegen.cuda.program import Call, Copy, Host, Launch, Operand, Place, Program, Step, launched
from nufunc.codegen.cuda.sorting import sort_kernels
from nufunc.codegen.loops import LoopNest
from nufunc.codegen.nest_builder import NestBuilder, Sites
from nufunc.codegen.nests import build_nests, narrowed
from nufunc.ir.builder import Builder
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import ArrayType, TapeType

_ROUND = 256  # alignment of the memory of libraries
Piece = tuple[bool, list[Kernel], list[int]]  # of a group: whether it only copies the base, kernels, numbers of buffers


@dataclass
class Origins:
    """What the steps of a program were made of, for those who look at one: the graph that was planned, where its values
    stand, the node of each step by the step's identity, and the nests by the names of their kernels."""

    graph: Graph
    frame: Frame
    nodes: dict[int, tuple[Step, Node]]
    nests: dict[str, tuple[LoopNest, tuple[Kernel, ...]]]


def device_program(
    grouped: Graph, name: str, lent: Mapping[int, int] | None = None, early: Sequence[int] = (), tapes: bool = False
) -> Program:
    """The program of `planned` without its origins."""
    return planned(grouped, name, lent, early, tapes)[0]


def planned(
    grouped: Graph, name: str, lent: Mapping[int, int] | None = None, early: Sequence[int] = (), tapes: bool = False
) -> tuple[Program, Origins]:
    """The program of a grouped graph. `lent` tells which outputs have the memory of which inputs, beside those of the
    graph's updates; those of them in `early` may be written before the end even where something may fail, or have a
    memory of their own if they would only be copied. With `tapes` whoever runs it hands these in and out."""
    if not tapes and any(isinstance(v.type, TapeType) for v in (*grouped.params, *grouped.outputs)):
        raise UnsupportedError("on a device tapes of loops of unknown length cannot leave the function that made them")
    count = len(grouped.outputs) - len(grouped.updates)
    given = {**(lent or {}), **{count + k: p for k, p in enumerate(grouped.updates)}}
    modes: dict[Node, str] = {}
    planner = Planner(prepared(grouped, modes), name, modes)
    program = planner.program(given, tuple(given))
    unhelpful = [k for k in planner.copied if k in early]
    if unhelpful:
        given = {k: p for k, p in given.items() if k not in unhelpful}
        program = planner.program(given, tuple(given))
    if given and planner.can_fail(program):
        program = planner.program(given, tuple(k for k in given if k in early))
    return program, planner.origins


class Planner:
    """Makes the programs of one graph; what does not depend on who lends what is made once."""

    def __init__(self, graph: Graph, name: str, modes: Mapping[Node, str]) -> None:
        """`modes` are the control nodes inside kernels, see `prepared`."""
        from nufunc.codegen.cuda import control_tapes

        self.graph, self.name, self.sites = graph, name, Sites()
        self.modes = {n: modes[n] for n in _outermost(graph, modes)}
        self.inside = {n for outer in self.modes for r in outer.regions for n in r.walk()}
        outer = [n for n in self.modes if control_tapes.recording(n) is not None]
        self.both = {*outer, *(n for o in outer for r in o.regions for n in r.walk())}
        self.no_tapes = np.zeros(1, np.int64)
        self.built: dict[Node, list[LoopNest]] = {}
        self.nest_of: dict[str, tuple[LoopNest, tuple[Kernel, ...]]] = {}  # by the name of a kernel
        self.constants: list[np.ndarray] = []
        self.numbers: dict[int, int] = {}  # of constants, by identity
        self.groups: dict[tuple[Node, bool], list[Piece]] = {}
        self.known: dict[str, list[Kernel]] = {}  # kernels by what they compute
        self.call_sites: dict[Node, int] = {}
        self.steps: list[Step] = []
        self.copied: tuple[int, ...] = ()

    def program(self, lent: Mapping[int, int], early: Sequence[int]) -> Program:
        graph = self.graph
        self.loops = itertools.count()
        self.early = early
        params = {k: graph.params[p] for k, p in lent.items()}
        frame = buffers.plan_frame(graph, self.scratch_of, (), params, early, small=-1)
        inputs = [Place("input", k) for k in range(len(graph.params))]
        own = itertools.count()
        count = len(graph.outputs)
        outputs = [Place("input", lent[k]) if k in lent else Place("output", next(own)) for k in range(count)]
        self.copied = tuple(k for k in lent if buffers.is_copied(graph, frame, k))
        self.origins = Origins(graph, frame, {}, self.nest_of)
        with self.into() as steps:
            self.run(graph, frame, inputs, outputs, Place("workspace"), guarded=True)
        made = tuple(Operand(p, o.type) for p, o in zip(outputs, graph.outputs, strict=True))
        return Program(
            self.name, graph.param_types, made, tuple(self.constants), frame.size, tuple(steps), dict(self.sites.sites)
        )

    def can_fail(self, program: Program) -> bool:
        return bool(self.sites.sites) or any(isinstance(s, Host) for s in program.walk())

    # -- steps

    @contextmanager
    def into(self) -> Iterator[list[Step]]:
        """Steps that are added inside go to the list that this gives."""
        before, self.steps = self.steps, []
        try:
            yield self.steps
        finally:
            self.steps = before

    def copy(self, target: Place, source: Place, nbytes: int) -> None:
        if nbytes and target != source:
            self.steps.append(Copy(target, source, nbytes))

    def constant(self, array: np.ndarray) -> Place:
        if id(array) not in self.numbers:
            self.numbers[id(array)] = len(self.constants)
            self.constants.append(np.ascontiguousarray(array))
        return Place("constant", self.numbers[id(array)])

    # -- graphs

    def run(
        self, graph: Graph, frame: Frame, params: Sequence[Place], outputs: Sequence[Place], arena: Place,
        guarded: bool = False,
    ) -> None:  # fmt: skip
        """Steps of a graph: its parameters stand at `params`, its results go to `outputs`, its frame is at `arena`.
        With `guarded` lent memory is left alone after an error, where it is written at the end."""
        scope = Scope(self, graph, frame, params, outputs, arena)
        for node in graph.nodes:
            if not is_view(node):
                self.node(scope, node)
        copied = [k for k in range(len(graph.outputs)) if buffers.is_copied(graph, frame, k)]
        sources = {k: scope.place(graph.outputs[k]) for k in copied}
        for k in copied:
            if k not in frame.lent:
                self.copy(outputs[k], sources[k], graph.outputs[k].type.nbytes)
        for k, offset in frame.late.items():
            source, sources[k] = sources[k], arena.moved(offset)
            self.copy(sources[k], source, graph.outputs[k].type.nbytes)
        for k in copied:
            if k in frame.lent and guarded and k not in self.early:
                self.commit(outputs[k], sources[k], graph.outputs[k])
            elif k in frame.lent:
                self.copy(outputs[k], sources[k], graph.outputs[k].type.nbytes)

    def node(self, scope: Scope, node: Node) -> None:
        before, first = self.steps, len(self.steps)
        self.node_steps(scope, node)
        assert self.steps is before
        for step in before[first:]:  # those that nodes inside of it have made are theirs
            self.origins.nodes.setdefault(id(step), (step, node))

    def node_steps(self, scope: Scope, node: Node) -> None:
        from nufunc.codegen.cuda import control, control_kernels

        if node.prim == "fused":
            self.fused(scope, node)
        elif node in self.modes:
            self.steps += control_kernels.steps(self, scope, node, self.modes[node])
        elif node.prim in control.STEPS:
            control.STEPS[node.prim](self, scope, node)
        elif node.prim in ("sort", "argsort"):
            places = [scope.place(v) for v in (*node.operands, *node.results)]
            self.launch(self.sorting(node), places, scope.scratch(node))
        else:
            self.library(scope, node)

    def fused(self, scope: Scope, node: Node) -> None:
        region = node.regions[0]
        places = [scope.place(o) for o in node.operands]
        places += [self.constant(array) for _, array in region.consts]
        places += [scope.place(r) for r in node.results]
        in_place = node in scope.frame.in_place
        for copies, made, used in self.pieces(node, whole=not in_place):
            if not (in_place and copies):
                self.launch(made, [places[k] for k in used], scope.scratch(node))

    def launch(self, made: Sequence[Kernel], places: Sequence[Place], scratch: Place) -> None:
        """Run the kernels of one nest, which share their scratch memory."""
        for kernel in made:
            own = [scratch.moved(offset) for offset in _scratch_offsets(kernel)]
            self.steps.append(launched(kernel, (*places, *own)))

    def library(self, scope: Scope, node: Node) -> None:
        operands, results = ([scope.operand(v) for v in values] for values in (node.operands, node.results))
        if node.prim == "callback":
            from nufunc.codegen.callback import HostCall

            self.steps.append(Host(HostCall(node.attrs["host"]), tuple(operands), tuple(results), node.loc))
            return
        if node.regions:
            raise UnsupportedError(f"programs for CUDA have no {node.prim}", node.loc)
        if results and not any(r.type.size for r in results):
            return
        need = libraries.scratch_of(node)
        space = _rounded(scope.scratch(node)) if need else None
        self.steps.append(
            Call(
                node.prim, tuple(operands), tuple(results), dict(node.attrs), space, need, node.loc,
                site=self.site(node),
            )
        )  # fmt: skip

    def site(self, node: Node) -> int:
        """The key of what a library call reports."""
        if node not in self.call_sites:
            kind = libraries.failure(node.prim, node.attrs)
            self.call_sites[node] = 0 if kind is None else self.sites.add(kind, node.loc)
        return self.call_sites[node]

    # -- kernels

    def pieces(self, node: Node, whole: bool = False) -> list[Piece]:
        """The kernels of a fused node, nest by nest; `whole`: of one that is not in place."""
        if (node, whole) not in self.groups:
            found: list[Piece] = []
            one = _one_nest(node, self.sites) if whole else None
            for nest in self.nests(node) if one is None else [one]:
                small, used = narrowed(nest)
                numbers = [k for k in used if not nest.buffers[k].scratch]
                found.append((nest.copies is not None, self.kernels(small), numbers))
            self.groups[node, whole] = found
        return self.groups[node, whole]

    def nests(self, node: Node) -> list[LoopNest]:
        if node not in self.built:
            self.built[node] = build_nests(node.regions[0], node.attrs["kind"], self.sites)
        return self.built[node]

    def kernels(self, nest: LoopNest) -> list[Kernel]:
        key = str(nest)
        if key not in self.known:
            made = self.known[key] = kernels(nest, f"{nest.name}_{len(self.known)}", self.sites)
            self.nest_of.update((kernel.name, (nest, tuple(made))) for kernel in made)
        return self.known[key]

    def sorting(self, node: Node) -> list[Kernel]:
        """The kernels of a sort or argsort."""
        x, axis = node.operands[0].type, node.attrs["axis"]
        key = f"{node.prim} {x} {axis}"
        if key not in self.known:
            self.known[key] = sort_kernels(node.prim, x, axis, f"{node.prim}_{len(self.known)}")
        return self.known[key]

    def adding(self, item: ArrayType) -> Kernel | None:
        """The kernel that adds two arrays."""
        b = Builder("tape_add", "pure")
        region = b.build([b.emit("add", (b.param(item), b.param(item)))[0]])
        made = [k for nest in build_nests(region, "tape_add", self.sites) for k in self.kernels(nest)]
        return made[0] if made else None

    def zeros(self, size: int) -> Place:
        """Handles of tapes of zeros."""
        self.no_tapes = self.no_tapes if self.no_tapes.size >= size else np.zeros(size, np.int64)
        return self.constant(self.no_tapes)

    def commit(self, target: Place, source: Place, value: Value) -> None:
        """Copy unless something has failed."""
        region = _identity(value)
        (nest,) = build_nests(region, "commit", self.sites) or (None,)
        if nest is None:
            return
        for kernel in self.kernels(nest):
            head, *body = kernel.source.splitlines()
            lines = [head, "    if error[0] == 0:", *("    " + line for line in body)]
            guarded = replace(kernel, source="\n".join(lines) + "\n")
            self.steps.append(Launch(guarded, (source, target)))

    # -- memory

    def scratch_of(self, node: Node, frames: list[Frame]) -> int:
        from nufunc.codegen.cuda import control, control_kernels, control_tapes

        if is_view(node):
            return 0
        if node in self.inside and node not in self.both and node.prim == "fused":
            return control_kernels.rows_bytes(node)
        if node in self.both and node.prim != "fused":  # in a kernel or driven by the host, as there is room for tapes
            tapes = control_tapes.recording(node) if node in self.modes else None
            inside = control_kernels.scratch(node, frames) if tapes is None else tapes.nbytes
            return max(inside, control.scratch(self, node, frames)) if node.prim in control.STEPS else inside
        if node not in self.both and (node in self.inside or node in self.modes):
            if self.modes.get(node) == "rows":
                return control_choice.rows_bytes(node)
            blocks = control_kernels.blocks_of(node) if node in self.modes else 1
            return blocks * control_kernels.scratch(node, frames)
        if node.prim == "fused":
            return max((_scratch_bytes(k) for _, made, _ in self.pieces(node) for k in made), default=0)
        if node.prim in ("sort", "argsort"):
            return max((_scratch_bytes(k) for k in self.sorting(node)), default=0)
        if node.prim in control.STEPS:
            return control.scratch(self, node, frames)
        need = 0 if node.prim == "callback" else libraries.scratch_of(node)
        return need + _ROUND if need else 0


class Scope:
    """Where the values of one graph stand."""

    def __init__(
        self, planner: Planner, graph: Graph, frame: Frame, params: Sequence[Place], outputs: Sequence[Place],
        arena: Place,
    ) -> None:  # fmt: skip
        self.planner, self.frame, self.arena, self.outputs = planner, frame, arena, outputs
        self.fixed = dict(zip(graph.params, params, strict=True))
        self.consts = dict(graph.consts)

    def place(self, value: Value) -> Place:
        root, frame = self.frame.of(value), self.frame
        if root in self.fixed:
            return self.fixed[root]
        if root in self.consts:
            return self.planner.constant(self.consts[root])
        if root in frame.destination:
            return self.outputs[frame.destination[root]]
        if root in frame.borrowed:
            return self.outputs[frame.borrowed[root]]
        return self.arena.moved(frame.offset[root])

    def operand(self, value: Value) -> Operand:
        if isinstance(value.type, TapeType):
            raise UnsupportedError("programs for CUDA have no tapes here")
        return Operand(self.place(value), value.type)

    def scratch(self, node: Node) -> Place:
        return self.arena.moved(self.frame.scratch.get(node, 0))


def _scratch_offsets(kernel: Kernel) -> list[int]:
    own = kernel.buffers[len(kernel.buffers) - kernel.scratch :]
    ends = list(itertools.accumulate(aligned(b.size * b.dtype.itemsize) for b in own))
    return [0, *ends[:-1]] if ends else []


def _scratch_bytes(kernel: Kernel) -> int:
    own = kernel.buffers[len(kernel.buffers) - kernel.scratch :]
    return sum(aligned(b.size * b.dtype.itemsize) for b in own)


def _one_nest(node: Node, sites: Sites) -> LoopNest | None:
    """One nest for an array of which most is replaced, whose points look up which part is theirs: so the rest is not
    copied before."""
    region = node.regions[0]
    if node.attrs["kind"] != "assemble" or any(isinstance(p.type, TapeType) for p in region.params):
        return None
    producers = {r: n for n in region.nodes for r in n.results}
    last = producers[region.outputs[0]]
    if last.prim not in ("update", "dynamic_update") or 2 * last.operands[1].type.size < last.result.type.size:
        return None
    return NestBuilder(region, node.attrs["kind"], sites, producers).build()


def _outermost(graph: Graph, modes: Mapping[Node, str]) -> Iterator[Node]:
    for node in graph.nodes:
        if node in modes:
            yield node
        elif node.prim != "fused":
            for region in node.regions:
                yield from _outermost(region, modes)


def _rounded(place: Place) -> Place:
    """The next place that libraries like."""
    return place.moved(-place.offset % _ROUND)


def _identity(value: Value) -> Graph:
    b = Builder("commit", "pure")
    return b.build([b.reshaped(b.param(value.type), value.shape)])

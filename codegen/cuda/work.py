"""What each step of a device program computes and moves, for `nf.profile`: counted from the program, not measured.

Note [Work of steps]
Numbers are those of Note [What is counted] of `nufunc.codegen.counts`. Where a nest takes several kernels, its
operations stand at the one that moves most, and bytes are those of the buffers that each kernel's text reads and
writes. A kernel that holds loops or branches moves each of its buffers once, whatever it keeps in memory in between,
and computes what its loops do; bodies of `while` count once. A call of a library moves its operands and results.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nufunc.codegen.counts import Kernel as Row
from nufunc.codegen.counts import group_name, kernels, locations, nest_work
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.plan import Origins
from nufunc.codegen.cuda.program import (
    Branch,
    Call,
    Copy,
    Host,
    Launch,
    Program,
    Record,
    Repeat,
    Replay,
    Scoped,
    Step,
    TapeStep,
    While,
)
from nufunc.ir.errors import Location
from nufunc.ir.graph import Node

Leaf = Launch | Copy | Call | Host | TapeStep


def inner(step: Step) -> Sequence[Step]:
    """The steps inside a step, in order; of a leaf none."""
    match step:
        case Repeat() | Replay() | Scoped():
            return step.body
        case While() | Record():
            return (*step.condition, *step.body)
        case Branch():
            return [s for branch in step.branches for s in branch]
    return ()


def work(program: Program, origins: Origins) -> dict[int, Row]:
    """A row for one run of each step, by the step's identity; loops and branches compute nothing themselves."""
    found: dict[int, Row] = {}
    launches: dict[tuple[int, str], list[Launch]] = {}  # those that compute one thing together
    nodes = dict(_nodes(program.steps, origins, None))
    for step in program.walk():
        node = nodes[id(step)]
        if isinstance(step, Launch):
            nest = origins.nests.get(step.kernel.name)
            group = nest[1][0].name if nest is not None else step.kernel.name if node is None else ""
            launches.setdefault((id(node), group), []).append(step)
        else:
            found[id(step)] = _row(step, node)
    for together in launches.values():
        found.update(_launched(together, nodes[id(together[0])], origins))
    return found


def _nodes(steps: Sequence[Step], origins: Origins, around: Node | None) -> Iterator[tuple[int, Node | None]]:
    """The node of each step: its own, or that of the step around it."""
    for step in steps:
        own = origins.nodes.get(id(step))
        node = around if own is None else own[1]
        yield id(step), node
        yield from _nodes(inner(step), origins, node)


def _row(step: Step, node: Node | None) -> Row:
    lines = _lines(node)
    match step:
        case Copy():
            return Row("copy", False, lines, 1, 0, 0, step.nbytes, step.nbytes)
        case Call():
            counted = list(kernels(node)) if node is not None and node.prim == step.prim else []
            if len(counted) == 1:
                return counted[0]
        case Host():
            name = f"host {step.call.host.name}"
            return Row(name, True, lines, 1, 0, 0, *_moved(step))
    name = getattr(step, "prim", None) or ("loop" if node is None else node.prim)
    own = isinstance(step, Call | TapeStep)
    return Row(name, own, lines, 1, 0, 0, *(_moved(step) if isinstance(step, Call) else (0, 0)))


def _moved(step: Call | Host) -> tuple[int, int]:
    return sum(o.type.nbytes for o in step.operands), sum(o.type.nbytes for o in step.results)


def _lines(node: Node | None) -> tuple[Location, ...]:
    if node is None:
        return ()
    return locations([node, *(n for region in node.regions for n in region.walk())])


def _launched(together: Sequence[Launch], node: Node | None, origins: Origins) -> Iterator[tuple[int, Row]]:
    """The rows of launches that compute one thing together."""
    nest = origins.nests.get(together[0].kernel.name)
    name = "copy" if node is None else group_name(node) if node.prim == "fused" else node.prim
    lines = _lines(node)
    if nest is not None:
        counted = nest_work(nest[0])
        flops, transcendentals = counted.flops, counted.transcendentals
        if len(nest[1]) == 1:
            read, written = sum(counted.read.values()), sum(counted.written.values())
            for step in together:
                yield id(step), Row(name, False, lines, 1, flops, transcendentals, read, written)
            return
    else:
        rows = list(kernels(node)) if node is not None else []
        flops, transcendentals = sum(r.flops for r in rows), sum(r.transcendentals for r in rows)
        counted = None
    moved = []
    for step in together:
        loaded, stored = accesses(step.kernel)
        sizes = [b.size * b.dtype.itemsize for b in step.kernel.buffers]
        reads, writes = dict(enumerate(sizes)), dict(enumerate(sizes))
        if counted is not None:
            reads.update(counted.read)
            writes.update(counted.written)
        moved.append((sum(reads[k] for k in loaded), sum(writes[k] for k in stored)))
    names = [step.kernel.name for step in together]
    most = names[max(range(len(moved)), key=lambda k: sum(moved[k]))]
    for k, step in enumerate(together):
        row = Row(name, False, lines, 1, 0, 0, *moved[k])
        yield id(step), replace(row, flops=flops, transcendentals=transcendentals) if names[k] == most else row


@functools.lru_cache(maxsize=1024)
def accesses(kernel: Kernel) -> tuple[frozenset[int], frozenset[int]]:
    """The buffers that a kernel's text reads, and those that it writes."""
    function = ast.parse(kernel.source).body[0]
    assert isinstance(function, ast.FunctionDef)
    numbers = {a.arg: k for k, a in enumerate(function.args.args[: len(kernel.buffers)])}
    read: set[int] = set()
    written: set[int] = set()
    known: set[ast.AST] = set()  # names whose use is understood
    for node in ast.walk(function):
        match node:
            case ast.AugAssign(target=ast.Subscript(value=ast.Name(id=name))) if name in numbers:
                read.add(numbers[name])
            case ast.Subscript(value=ast.Name(id=name) as at, ctx=context) if name in numbers:
                known.add(at)
                (written if isinstance(context, ast.Store) else read).add(numbers[name])
            case ast.Call(func=ast.Name(id=function_name), args=[ast.Name(id=name) as at, *_]) if name in numbers:
                if function_name in ("load_vec", "store_vec"):
                    known.add(at)
                    (read if function_name == "load_vec" else written).add(numbers[name])
            case ast.Call(func=ast.Name(id="aligned"), args=given):
                known.update(given)
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in numbers and node not in known:
            read.add(numbers[node.id])  # handed to something else: an atomic operation, another name
            if kernel.buffers[numbers[node.id]].written:
                written.add(numbers[node.id])
    return frozenset(read), frozenset(written)

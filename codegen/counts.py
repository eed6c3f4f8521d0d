"""What a grouped graph computes and moves, counted without running it: the numbers behind `lower(...).cost()`.

Note [What is counted]
Kernels are counted as they run: from their loop nests, so that what two kernels both compute counts twice and what a
loop finds once counts once. A flop is one addition, subtraction, multiplication, division, negation, comparison,
minimum, maximum, square root or rounding of a real number; a complex addition counts 2, a complex product 6, a
complex quotient 11; x ** n for a constant n counts its multiplications; a sum of n elements counts n. Elementary
functions (exp, sin, pow, ...) count as `transcendentals` and not as flops, whatever they are made of. Integer
arithmetic, selection, conversion and addresses count nothing. A matrix product counts 2 m n k; factorisations count
the leading term of their textbook algorithm.

Bytes are those that a kernel needs from memory and leaves there, each element once per kernel; what stays in a cache
between two kernels is not taken off. Bodies of loops count as often as they run, those of `while` once
(`Cost.unbounded` says so); of branches the one with the most work counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nufunc.codegen.buffers import is_view
from nufunc.codegen.callspec import CallSpec
from nufunc.codegen.loops import Inst, LoopNest, Phase, levels
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.nests import build_nests
from nufunc.ir import primitive
from nufunc.ir.errors import Location
from nufunc.ir.graph import Graph, Node
from nufunc.ir.prims.conv import conv_steps
from nufunc.ir.product_group import halves, is_product
from nufunc.ir.types import kind_of

_COMPLEX = {"add": 2, "sub": 2, "neg": 2, "mul": 6, "div": 11, "conj": 1, "abs": 4}
_SIMPLE = frozenset(
    "add sub mul div neg abs sign sqrt maximum minimum fmax fmin eq ne lt le gt ge floor ceil trunc rint floor_div mod "
    "fmod copysign".split()
)
_TRANSCENDENTAL = frozenset(
    "pow exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh atan2 hypot "
    "cbrt erf erfc erfinv erfcinv lgamma digamma logistic".split()
)
_NAMED = 6  # operations in the name of a kernel


@dataclass(frozen=True)
class Kernel:
    """One row of a Cost: a kernel or a library call, with the user's lines that it is for. Its numbers are those of
    all its `times`.
    """

    name: str
    library: bool
    locations: tuple[Location, ...]
    times: int
    flops: int
    transcendentals: int
    bytes_read: int
    bytes_written: int

    @property
    def location(self) -> Location | None:
        """The line that its last operation stands on."""
        return self.locations[-1] if self.locations else None

    def repeated(self, times: int) -> Kernel:
        return replace(
            self, times=self.times * times, flops=self.flops * times, transcendentals=self.transcendentals * times,
            bytes_read=self.bytes_read * times, bytes_written=self.bytes_written * times,
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a call computes and needs, see Note [What is counted] in `nufunc.codegen.counts`.

    rows : a `Kernel` for each kernel and library call, in order, and for each result that is only a copy.
    unbounded : whether there is a `while` loop, whose body is counted once.
    argument_bytes : of all inputs, captured arrays included.
    output_bytes : of new results; those that stand in arguments (written in place, donated) need none.
    constant_bytes : of arrays that are part of the program.
    arena_bytes : of the one block in which all temporaries lie.
    """

    rows: tuple[Kernel, ...]
    unbounded: bool
    argument_bytes: int
    output_bytes: int
    constant_bytes: int
    arena_bytes: int

    @property
    def flops(self) -> int:
        return sum(k.flops for k in self.rows)

    @property
    def transcendentals(self) -> int:
        return sum(k.transcendentals for k in self.rows)

    @property
    def bytes_read(self) -> int:
        return sum(k.bytes_read for k in self.rows)

    @property
    def bytes_written(self) -> int:
        return sum(k.bytes_written for k in self.rows)

    @property
    def num_kernels(self) -> int:
        return sum(not k.library for k in self.rows)

    @property
    def num_library_calls(self) -> int:
        return sum(k.library for k in self.rows)

    @property
    def peak_bytes(self) -> int:
        """Arguments, new results, constants and temporaries of a call whose arguments are C-contiguous (others are
        copied first).
        """
        return self.argument_bytes + self.output_bytes + self.constant_bytes + self.arena_bytes

    def __str__(self) -> str:
        lines = [
            f"flops {self.flops:,}, transcendentals {self.transcendentals:,}"
            + (" (bodies of while loops counted once)" if self.unbounded else ""),
            f"bytes read {self.bytes_read:,}, written {self.bytes_written:,}",
            (
                f"peak bytes {self.peak_bytes:,}: arguments {self.argument_bytes:,}, outputs {self.output_bytes:,}, "
                f"constants {self.constant_bytes:,}, arena {self.arena_bytes:,}"
            ),
            f"kernels {self.num_kernels}, library calls {self.num_library_calls}",
        ]
        for row in self.rows:
            place = f"{row.location.file}:{row.location.line}" if row.location else "-"
            times = f" x{row.times}" if row.times != 1 else ""
            lines.append(
                f"  {row.name}{times}: flops {row.flops:,}, transcendentals {row.transcendentals:,}, "
                f"read {row.bytes_read:,}, written {row.bytes_written:,}  {place}"
            )
        return "\n".join(lines)


def count(grouped: Graph, spec: CallSpec, copied: Sequence[int]) -> Cost:
    """The cost of a grouped graph that is called as `spec` says; `copied` are outputs that are copied at the end."""
    copies = [Kernel("copy", False, (), 1, 0, 0, n, n) for n in (grouped.outputs[k].type.nbytes for k in copied)]
    size = lambda shape, dtype: math.prod(shape) * dtype.itemsize
    return Cost(
        rows=(*_graph_rows(grouped), *copies),
        unbounded=any(n.prim in ("while", "record", "replay") for n in grouped.walk()),
        argument_bytes=sum(size(a.shape, a.dtype) for a in spec.args),
        output_bytes=sum(size(r.shape, r.dtype) for r in spec.results if r.source is None),
        constant_bytes=sum(array.nbytes for graph in _graphs(grouped) for _, array in graph.consts),
        arena_bytes=spec.workspace,
    )


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        for region in node.regions:
            yield from _graphs(region)


def _graph_rows(graph: Graph) -> Iterator[Kernel]:
    for node in graph.nodes:
        yield from kernels(node)


def is_leaf(node: Node) -> bool:
    """Whether a node is one kernel or library call, and no control flow over several."""
    return node.prim == "fused" or not node.regions


def kernels(node: Node) -> Iterator[Kernel]:
    """The rows of a node of a grouped graph: none if it computes nothing, one if it is a leaf."""
    if is_view(node) or (not node.regions and primitive.get(node.prim).kind == "derived"):
        return
    if is_product(node):
        yield _product(node)
    elif node.prim == "fused":
        yield _kernel(node)
    elif not node.regions:
        yield _library(node)
    elif node.prim in ("scan", "map"):
        yield from (row.repeated(node.attrs["length"]) for row in _graph_rows(node.regions[0]))
    elif node.prim == "cond":
        branches = [list(_graph_rows(region)) for region in node.regions]
        yield from max(branches, key=_weight)
    else:
        for region in node.regions:
            yield from _graph_rows(region)


def _weight(rows: Iterable[Kernel]) -> tuple[int, int]:
    rows = list(rows)
    return sum(r.flops + r.transcendentals for r in rows), sum(r.bytes_read + r.bytes_written for r in rows)


# -- kernels


def _kernel(node: Node) -> Kernel:
    region = node.regions[0]
    work = [nest_work(nest) for nest in build_nests(region, node.attrs["kind"], Sites())]
    return Kernel(
        name=group_name(node), library=False, locations=locations(region.nodes) or locations([node]), times=1,
        flops=sum(w.flops for w in work), transcendentals=sum(w.transcendentals for w in work),
        bytes_read=sum(sum(w.read.values()) for w in work), bytes_written=sum(sum(w.written.values()) for w in work),
    )  # fmt: skip


class NestWork(NamedTuple):
    """What a nest computes, and the bytes that it reads and writes of each of its buffers, by number."""

    flops: int
    transcendentals: int
    read: dict[int, int]
    written: dict[int, int]


def nest_work(nest: LoopNest) -> NestWork:
    """See Note [What is counted]."""
    flops = transcendentals = 0
    known: dict[int, int] = {}
    touched: dict[tuple[int, str], int] = {}
    for phase in nest.phases:
        more = _operations(nest, phase, known, touched)
        flops, transcendentals = flops + more[0], transcendentals + more[1]
    moved: dict[str, dict[int, int]] = {"load": {}, "store": {}}
    for (buffer, op), elements in touched.items():
        if not nest.buffers[buffer].scratch:
            moved[op][buffer] = min(elements, nest.buffers[buffer].size) * nest.buffers[buffer].dtype.itemsize
    return NestWork(flops, transcendentals, moved["load"], moved["store"])


def group_name(node: Node) -> str:
    """The name of a fused node."""
    return _name([n.prim for n in node.regions[0].nodes])


def locations(nodes: Iterable[Node]) -> tuple[Location, ...]:
    """The lines of nodes, each once, in the order of their last mention."""
    return tuple(dict.fromkeys(n.loc for n in reversed(list(nodes)) if n.loc is not None))[::-1]


def _name(names: Sequence[str]) -> str:
    """A kernel's name: what it computes, without what only moves or makes values if there is more."""
    work = dict.fromkeys(n for n in names if primitive.get(n).kind not in ("layout", "create"))
    found = list(work or dict.fromkeys(names))
    return "+".join(found[:_NAMED]) + (f"+{len(found) - _NAMED} more" if len(found) > _NAMED else "")


def _operations(
    nest: LoopNest, phase: Phase, known: dict[int, int], touched: dict[tuple[int, str], int]
) -> tuple[int, int]:
    """(flops, transcendentals) of a phase; the elements that it loads and stores are added to `touched`."""
    flops = transcendentals = 0
    axes = (*nest.axes, *phase.axes)
    levels(nest, phase, known)
    dtypes = {i.id: i.dtype for p in nest.phases for i in p.body}
    dtypes.update({a.id: a.dtype for p in nest.phases for a in p.accumulators})
    for inst in phase.body:
        times = math.prod(a.extent for a in axes[: known[inst.id]])
        if inst.op in ("load", "store"):
            keys = [k for k, _ in inst.index.terms]
            if all(isinstance(k, str) for k in keys):
                times = math.prod(a.extent for a in axes if a.name in keys)
            touched[inst.buffer, inst.op] = touched.get((inst.buffer, inst.op), 0) + times
            if inst.attrs.get("mode") == "add":
                flops += times * _flops("add", inst.dtype, inst)
            continue
        dtype = dtypes[inst.args[0]] if inst.args else inst.dtype
        if inst.op in _TRANSCENDENTAL and kind_of(dtype) in "fc":
            transcendentals += times
        else:
            flops += times * _flops(inst.op, dtype, inst)
    for acc in phase.accumulators:
        flops += math.prod(a.extent for a in axes) * _flops(acc.op, acc.dtype, None)
    return flops, transcendentals


def _flops(op: str, dtype: np.dtype, inst: Inst | None) -> int:
    """Flops of one operation on operands of a dtype."""
    if kind_of(dtype) not in "fc":
        return 0
    if op == "integer_pow" and inst is not None:
        power = abs(inst.attrs["y"])
        products = max(power.bit_length() - 1 + power.bit_count() - 1, 0)
        return products * (6 if dtype.kind == "c" else 1) + (_flops("div", dtype, None) if inst.attrs["y"] < 0 else 0)
    if dtype.kind == "c":
        return _COMPLEX.get(op, 0)
    return int(op in _SIMPLE)


# -- library calls


def _library(node: Node) -> Kernel:
    types = [v.type for v in node.operands]
    return Kernel(
        name=node.prim, library=True, locations=locations([node]), times=1,
        flops=_library_flops(node), transcendentals=0,
        bytes_read=sum(t.nbytes for t in types), bytes_written=sum(v.type.nbytes for v in node.results),
    )  # fmt: skip


def _product(node: Node) -> Kernel:
    """A matrix product with what is done to its elements as they are made."""
    made = halves(node)
    dot = _library(made.dot)
    if made.follow is None:
        return dot
    follow, between = _kernel(made.follow), made.product.type.nbytes  # which never goes to memory
    return replace(
        dot, name=f"dot+{follow.name}", locations=(*follow.locations, *dot.locations),
        flops=dot.flops + follow.flops, transcendentals=follow.transcendentals,
        bytes_read=dot.bytes_read + follow.bytes_read - between,
        bytes_written=sum(v.type.nbytes for v in node.results),
    )  # fmt: skip


# Of matrices of l by k, k the smaller, as factors of l k^2 and k^3, without and with vectors: Golub and Van Loan,
# "Matrix Computations".
_DECOMPOSITIONS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "qr": ((2, -2 / 3), (4, -4 / 3)), "householder": ((2, -2 / 3), (2, -2 / 3)), "lu": ((1, -1 / 3), (1, -1 / 3)),
    "svd": ((4, -4 / 3), (14, 8)), "eigh": ((0, 4 / 3), (0, 9)), "eig": ((0, 10), (0, 25)),
    "schur": ((0, 25), (0, 25)), "hessenberg": ((0, 14 / 3), (0, 14 / 3)),
}  # fmt: skip


def _library_flops(node: Node) -> int:
    dtype = node.operands[0].dtype if node.operands else np.dtype(bool)
    if kind_of(dtype) not in "fc":
        return 0
    scale = 4 if dtype.kind == "c" else 1
    if node.prim == "dot":
        contracted = math.prod(node.operands[0].shape[a] for a in node.attrs["contract"][0])
        return 2 * scale * node.result.type.size * contracted
    if node.prim == "conv":
        return 2 * scale * node.result.type.size * conv_steps([o.type for o in node.operands], node.attrs)
    shape: Sequence[int] = node.operands[0].shape
    if node.prim in ("fft", "rfft", "irfft", "fft_along"):
        prim, points = node.attrs.get("prim", node.prim), shape[node.attrs.get("axis", len(shape) - 1)]
        n = node.attrs["n"] if prim == "irfft" else points
        return round(math.prod(shape) // points * n * math.log2(n) * (5 if prim == "fft" else 2.5))
    if node.prim in _DECOMPOSITIONS:
        k, longer = sorted(shape[-2:])
        square, cube = _DECOMPOSITIONS[node.prim][bool(node.attrs.get("vectors", True))]
        return round(scale * math.prod(shape[:-2]) * k * k * (square * longer + cube * k))
    cubes = {"cholesky": (1, 3), "solve": (2, 3), "det": (2, 3), "slogdet": (2, 3), "triangular_solve": (0, 1)}
    if node.prim not in cubes:
        return 0
    n, batch = shape[-1], math.prod(shape[:-2])
    over, under = cubes[node.prim]
    columns = node.operands[1].shape[-1] if len(node.operands) > 1 else 0
    solves = (2 if node.prim == "solve" else 1) * n * n * columns
    return scale * batch * (over * n**3 // under + solves)

"""The text emitter: loop nests as readable Python over flat arrays, which plain Python runs as it stands.

The text is what dumps show, what `run_grouped` executes without any compiler, and, with other loops around
the same statements, what `codegen.cuda.kernels` compiles for CUDA. Values are typed scalars, so every statement
rounds and wraps as compiled code does. The vector schedule of a nest is left out: it only changes the order
of sums.
"""

from __future__ import annotations

import itertools
import keyword
import linecache
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nufunc.codegen.loops import Accumulator, Affine, Axis, Inst, LoopNest, Phase, levels
from nufunc.codegen.nest_builder import Sites, site_error
from nufunc.codegen.nests import build_nests
from nufunc.codegen.schedule import collapse
from nufunc.codegen.text_scalars import PLAIN, expression, number
from nufunc.ir import primitive
from nufunc.ir.errors import LinAlgError, NufuncError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.product_group import expanded
from nufunc.ir.types import INT64

FAR = 2**63 - 1  # the place of "none yet" in argmax
_OWN = re.compile(r"(v|a|i|r|tree|part)\d|tree_|tile_")
_OWN_WORDS = frozenset(
    "abs range complex error cuda point item thread block width first inside key source same slot lane place number "
    "rest step".split()
)
_numbers = itertools.count()

Arrays = Sequence[np.ndarray]
RunGroup = Callable[[Node, Arrays], list[np.ndarray]]


def emit_group(nests: Sequence[LoopNest], name: str, sites: Sites | None = None) -> str:
    """One function `name(buffer, ..., error)` that runs the nests of a fused group one after the other.

    Buffers are flat: operands, constants, results, scratch rows. `error[0]` receives a failed check's site.
    """
    buffers = nests[0].buffers if nests else ()
    names = buffer_names([b.name for b in buffers])
    lines = [f"def {identifier(name)}({', '.join((*names, 'error'))}):"]
    for nest in nests:
        lines += NestWriter(nest, names, sites).write()
    if not nests:
        lines.append("    pass")
    return "\n".join(lines) + "\n"


def identifier(name: str) -> str:
    """A name as a Python identifier that is no word of the emitted text."""
    word = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    word = f"_{word}" if word[0].isdigit() else word
    taken = keyword.iskeyword(word) or word in PLAIN or word in _OWN_WORDS or _OWN.match(word)
    return f"{word}_" if taken else word


def buffer_names(hints: Iterable[str]) -> list[str]:
    """Distinct identifiers, near to the hints."""
    names: dict[str, None] = {}
    for hint in hints:
        name = identifier(hint)
        while name in names:
            name += "_"
        names[name] = None
    return list(names)


class NestWriter:
    """Writes the loops of one nest, each instruction in the loop that it depends on (Note [LoopNest])."""

    def __init__(self, nest: LoopNest, names: Sequence[str], sites: Sites | None = None) -> None:
        self.nest, self.names = nest, names
        self.sites = {} if sites is None else sites.sites
        self.lines: list[str] = []
        self.depth = 1
        self.consts: dict[int, str] = {}
        self.dtypes: dict[int, np.dtype] = {}
        self.level: dict[int, int] = {}
        for phase in nest.phases:
            levels(nest, phase, self.level)
            for inst in phase.body:
                self.dtypes[inst.id] = inst.dtype
                if inst.op == "const":
                    self.consts[inst.id] = number(inst.attrs["value"], inst.dtype)
            for acc in phase.accumulators:
                self.dtypes[acc.id] = INT64 if acc.index is not None else acc.dtype
        self.accumulators = {acc.id for phase in nest.phases for acc in phase.accumulators}

    # -- structure

    def write(self) -> list[str]:
        """The lines of the nest, indented once."""
        self.outer_loops()
        for phase in self.nest.phases:
            self.phase(phase)
        self.close()
        return self.lines

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def close(self) -> None:
        """Leave loops; everything in the innermost one may have moved out of it."""
        if self.lines and self.lines[-1].endswith(":"):
            self.line("pass")

    def early(self, level: int) -> None:
        """What depends on the first `level` outer loops only, of all phases."""
        for phase in self.nest.phases:
            self.body(phase, level)

    def outer_loops(self) -> None:
        for k, axis in enumerate(self.nest.axes):
            self.early(k)
            self.loop(axis)

    def loop(self, axis: Axis) -> None:
        self.line(f"for {axis.name} in range({axis.extent}):")
        self.depth += 1

    def phase(self, phase: Phase) -> None:
        """A phase's loops, inside the outer ones."""
        depth, level = self.depth, len(self.nest.axes)
        if phase.axes:
            self.body(phase, level)
        self.begin(phase)
        for k, axis in enumerate(phase.axes):
            if k:
                self.body(phase, level + k)
            self.loop(axis)
        self.body(phase, level + len(phase.axes))
        self.combine_values(phase)
        self.close()
        self.depth = depth

    def begin(self, phase: Phase) -> None:
        for acc in phase.accumulators:
            self.initial(acc)

    def accumulator(self, acc: Accumulator) -> str:
        """The variable that accumulates; beside that of a position there is one of the value, `_best`."""
        return f"a{acc.id}"

    def initial(self, acc: Accumulator) -> None:
        a = self.accumulator(acc)
        if acc.index is not None:
            self.line(f"{a}_best = {number(acc.init, acc.dtype)}")
            self.line(f"{a} = int64({FAR})")
        else:
            self.line(f"{a} = {number(acc.init, acc.dtype)}")

    def combine_values(self, phase: Phase) -> None:
        ran = {i.attrs["accumulator"] for i in phase.body if i.op == "running"}
        for acc in phase.accumulators:
            if acc.id not in ran:
                place = None if acc.index is None else self.value(acc.index)
                self.combine(acc, self.value(acc.value), place)

    def combine(self, acc: Accumulator, value: str, place: str | None) -> None:
        """Take a further value into an accumulator."""
        a = self.accumulator(acc)
        if place is None:
            self.line(f"{a} = {expression(acc.op, (a, value), (acc.dtype, acc.dtype), acc.dtype, {})}")
            return
        self.line(f"if {acc.op}_better({value}, {place}, {a}_best, {a}):")
        self.line(f"    {a}_best = {value}")
        self.line(f"    {a} = {place}")

    # -- instructions

    def value(self, number: int) -> str:
        """The text of an instruction's value."""
        return self.consts.get(number) or (f"a{number}" if number in self.accumulators else f"v{number}")

    def body(self, phase: Phase, level: int) -> None:
        for inst in phase.body:
            if self.level[inst.id] == level:
                self.inst(phase, inst)

    def inst(self, phase: Phase, inst: Inst) -> None:
        if inst.op == "const":
            return
        if inst.op == "store":
            self.store(inst)
        elif inst.op == "running":
            acc = next(a for a in phase.accumulators if a.id == inst.attrs["accumulator"])
            self.combine(acc, self.value(inst.args[0]), None)
            self.line(f"v{inst.id} = a{acc.id}")
        else:
            self.line(f"v{inst.id} = {self.computed(inst)}{self.comment(inst)}")

    def computed(self, inst: Inst) -> str:
        args = [self.value(a) for a in inst.args]
        if inst.op == "load":
            text = self.read(inst)
            if inst.guard is None:
                return text
            return f"{text} if {self.value(inst.guard)} else {number(0, inst.dtype)}"
        if inst.op == "index":
            return f"int64({self.affine(inst.index)})"
        if inst.op == "check":
            return f"checked({args[0]}, {inst.attrs['extent']}, {self.holds(inst)}, {inst.attrs['site']}, error)"
        if inst.op in ("index_div", "index_mod"):
            return f"{args[0]} {'//' if inst.op == 'index_div' else '%'} {inst.attrs['by']}"
        return expression(inst.op, args, [self.dtypes[a] for a in inst.args], inst.dtype, inst.attrs)

    def holds(self, inst: Inst) -> str:
        """Whether an instruction is wanted."""
        return "True" if inst.guard is None else self.value(inst.guard)

    def comment(self, inst: Inst) -> str:
        """The user's line of an instruction that can fail."""
        site = self.sites.get(inst.attrs["site"]) if inst.op == "check" else None
        return "" if site is None or site[1] is None else f"  # {site[1].file}:{site[1].line}"

    def store(self, inst: Inst) -> None:
        target = self.element(inst)
        value = self.value(inst.args[0])
        if inst.attrs["mode"] == "add":
            value = expression("add", (self.read(inst), value), (inst.dtype, inst.dtype), inst.dtype, {})
        guard = "" if inst.guard is None else f"if {self.value(inst.guard)}: "
        self.line(f"{guard}{target} = {self.stored(value, inst.dtype)}")

    def read(self, inst: Inst) -> str:
        """The value at the place that an instruction means."""
        return self.element(inst)

    def stored(self, value: str, dtype: np.dtype) -> str:
        """A value as it lies in memory."""
        return value

    def element(self, inst: Inst) -> str:
        """The place that a load or store means."""
        return f"{self.names[inst.buffer]}[{self.affine(inst.index)}]"

    def affine(self, index: Affine) -> str:
        terms = []
        for key, c in index.terms:
            name = key if isinstance(key, str) else self.value(key)
            terms.append(name if c == 1 else f"-{name}" if c == -1 else f"{c} * {name}")
        if index.const or not terms:
            terms.append(str(index.const))
        return " + ".join(terms).replace("+ -", "- ")


# -- plain Python


def compile_text(source: str, name: str, namespace: Mapping[str, Any]) -> Callable[..., Any]:
    """The function `name` of emitted text; its lines appear in tracebacks."""
    file = f"<nufunc loops {next(_numbers)}: {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names = dict(namespace)
    exec(compile(source, file, "exec"), names)
    return names[name]


def group_nests(node: Node, sites: Sites) -> tuple[str, list[LoopNest]]:
    """The name and the nests of a fused node, neighbouring axes merged."""
    name = identifier(node.attrs["kind"])
    return name, [collapse(n) for n in build_nests(node.regions[0], name, sites)]


def group_arrays(node: Node, operands: Arrays) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The flat buffers of a fused node's nests, and its results, which are views of the last of them."""
    region = node.regions[0]
    inputs = [*operands, *(array for _, array in region.consts)]
    flat = [np.ascontiguousarray(x).reshape(-1) for x in inputs]
    results = [np.empty(v.shape, v.dtype) for v in region.outputs]
    return [*flat, *(r.reshape(-1) for r in results)], results


def raise_site(sites: Sites, code: int) -> None:
    """The error of a failed check; code 0 is none."""
    if code:
        raise site_error(*sites.sites[code])


def loops_text(grouped: Graph) -> str:
    """The loops of all fused groups of a grouped graph, regions included: the dump of stage "loops"."""
    sites = Sites()
    texts: list[str] = []
    for node in expanded(grouped).walk():
        if node.prim == "fused":
            name, nests = group_nests(node, sites)
            texts.append(emit_group(nests, f"{name}_{len(texts)}", sites))
    return "\n\n".join(texts)


class TextGroups:
    """Runs fused nodes through their text, each emitted once."""

    def __init__(self) -> None:
        self.sites = Sites()
        self.functions: dict[Node, tuple[Callable[..., Any], list[LoopNest]]] = {}

    def __call__(self, node: Node, operands: Arrays) -> list[np.ndarray]:
        if node not in self.functions:
            name, nests = group_nests(node, self.sites)
            function = compile_text(emit_group(nests, name, self.sites), name, PLAIN)
            self.functions[node] = function, nests
        function, nests = self.functions[node]
        arrays, results = group_arrays(node, operands)
        error = np.zeros(1, np.int32)
        if nests:
            rows = [np.empty(b.size, b.dtype) for b in nests[0].buffers if b.scratch]
            with np.errstate(all="ignore"):
                function(*arrays, *rows, error)
        raise_site(self.sites, int(error[0]))
        return results


def run_grouped(grouped: Graph, arrays: Arrays, run_group: RunGroup | None = None) -> list[np.ndarray]:
    """The outputs of a grouped graph: fused groups run as plain Python loops, other nodes through NumPy.

    `run_group(node, operands)` replaces the execution of fused nodes. Raises BoundsError with the user's line
    where a checked index is outside. Results never share memory with the arguments.
    """
    runner = _Runner(TextGroups() if run_group is None else run_group)
    return runner.run(expanded(grouped), [np.asarray(a) for a in arrays])


class _Runner:
    def __init__(self, run_group: RunGroup) -> None:
        self.run_group = run_group

    def run(self, graph: Graph, arrays: Arrays) -> list[np.ndarray]:
        env: dict[Value, np.ndarray] = dict(zip(graph.params, arrays, strict=True))
        env.update(graph.consts)
        for node in graph.nodes:
            results = self.node(node, [env[o] for o in node.operands])
            env.update(zip(node.results, results, strict=True))
        given = {id(a) for a in (*arrays, *(a for _, a in graph.consts))}
        return [env[o].copy() if id(env[o]) in given else env[o] for o in graph.outputs]

    def node(self, node: Node, operands: list[np.ndarray]) -> list[np.ndarray]:
        if node.prim == "fused":
            return self.run_group(node, operands)
        if node.prim in _CONTROL:
            return _CONTROL[node.prim](self, node, operands)
        try:
            with np.errstate(all="ignore"):
                results = primitive.get(node.prim).evaluate(operands, node.attrs, node.regions)
        except NufuncError as error:
            if error.location is None and node.loc is not None:
                raise type(error)(str(error), node.loc) from error
            raise
        except np.linalg.LinAlgError as error:
            raise LinAlgError(str(error), node.loc) from None
        return [np.asarray(r) for r in results]

    def cond(self, node: Node, operands: list[np.ndarray]) -> list[np.ndarray]:
        index = min(max(int(operands[0]), 0), len(node.regions) - 1)
        return self.run(node.regions[index], operands[1:])

    def while_(self, node: Node, operands: list[np.ndarray]) -> list[np.ndarray]:
        first, second = node.attrs["num_cond"], node.attrs["num_cond"] + node.attrs["num_body"]
        carry = operands[second:]
        while self.run(node.regions[0], [*operands[:first], *carry])[0]:
            carry = self.run(node.regions[1], [*operands[first:second], *carry])
        return carry

    def scan(self, node: Node, operands: list[np.ndarray]) -> list[np.ndarray]:
        (body,), attrs = node.regions, node.attrs
        first, count, length = attrs["num_consts"], attrs.get("num_carry", 0), attrs["length"]
        carry, xs = operands[first : first + count], operands[first + count :]
        stacked = [np.empty((length, *t.shape), t.dtype) for t in body.output_types[count:]]
        for i in reversed(range(length)) if attrs.get("reverse", False) else range(length):
            results = self.run(body, [*operands[:first], *carry, *(x[i] for x in xs)])
            carry = results[:count]
            for stack, item in zip(stacked, results[count:], strict=True):
                stack[i] = item
        return [*carry, *stacked]


_CONTROL: dict[str, Callable[[_Runner, Node, list[np.ndarray]], list[np.ndarray]]] = {
    "cond": _Runner.cond, "while": _Runner.while_, "scan": _Runner.scan, "map": _Runner.scan,
}  # fmt: skip

"""Parts that the rules for control flow share: the operands of a loop by role, regions under construction,
dependence."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nufunc.ir.builder import Builder
from nufunc.ir.errors import VerifyError
from nufunc.ir.graph import Graph, Node, Value

T = TypeVar("T")
R = TypeVar("R")


def need_pure(graph: Graph) -> None:
    """VerifyError for a graph of another stage: writes would be lost."""
    if graph.stage != "pure":
        raise VerifyError(
            f"transforms work on pure graphs, but @{graph.name} is {graph.stage}: functionalize it first"
        )


def remembered(graph: Graph, question: tuple[Hashable, ...], find: Callable[[], T]) -> T:
    """What `find` says about a graph, asked once."""
    if question not in graph.facts:
        graph.facts[question] = find()
    return graph.facts[question]


def grown_flags(
    graph: Graph, question: tuple[Hashable, ...], start: Sequence[bool], region: Callable[[list[bool]], tuple[R,
    list[bool]]]
) -> tuple[R, list[bool]]:
    """The least flags of carries that `start` grows to, and what `region` builds for them.

    `region` builds something for given flags and tells which flags come out of it. Building is costly, and doubles
    with every level of a nest, so the fixpoint is remembered and started from when the question comes again.
    """
    flags = list(graph.facts.get(question, start))
    while True:
        built, out = region(flags)
        grown = either(flags, out)
        if grown == flags:
            graph.facts[question] = flags
            return built, flags
        flags = grown


def chunks(items: Sequence[T], *sizes: int) -> list[list[T]]:
    """`items` cut into lists of the given sizes, and a last one with the rest."""
    out, at = [], 0
    for size in sizes:
        out.append(list(items[at : at + size]))
        at += size
    out.append(list(items[at:]))
    return out


def chosen(items: Iterable[T], flags: Iterable[bool]) -> list[T]:
    """The items whose flag is set."""
    return [item for item, flag in zip(items, flags, strict=True) if flag]


def rejected(items: Iterable[T], flags: Iterable[bool]) -> list[T]:
    """The items whose flag is not set."""
    return [item for item, flag in zip(items, flags, strict=True) if not flag]


def either(a: Sequence[bool], b: Sequence[bool]) -> list[bool]:
    """The union of two lists of flags."""
    return [x or y for x, y in zip(a, b, strict=True)]


@dataclass(frozen=True)
class Loop:
    """What `scan`, `map` and `replay` have in common; a map is a scan without carry whose order does not matter.

    `length` is None for a replay, whose first operand tells it.
    """

    prim: str
    length: int | None
    reverse: bool
    num_consts: int
    num_carry: int
    body: Graph

    @staticmethod
    def of(node: Node) -> Loop:
        (body,) = node.regions
        reverse, num_carry = node.attrs.get("reverse", False), node.attrs.get("num_carry", 0)
        return Loop(node.prim, node.attrs.get("length"), reverse, node.attrs["num_consts"], num_carry, body)

    @property
    def lead(self) -> int:
        """The number of operands before the body's."""
        return 1 if self.length is None else 0

    def roles(self, items: Sequence[T]) -> list[list[T]]:
        """What is given for each of the body's parameters as [consts, carry, xs]."""
        return chunks(items, self.num_consts, self.num_carry)

    def given(self, items: Sequence[T]) -> list[list[T]]:
        """What is given for each operand as [consts, carry, xs]."""
        return self.roles(items[self.lead :])

    def outs(self, items: Sequence[T]) -> list[list[T]]:
        """Results (or the body's outputs) as [carry, ys]."""
        return chunks(items, self.num_carry)

    def emit(
        self, b: Builder, body: Graph, consts: Sequence[Value], carry: Sequence[Value], xs: Sequence[Value],
        lead: Sequence[Value] = (),
    ) -> list[list[Value]]:  # fmt: skip
        """The same loop over another body and other operands; gives [carry, ys]."""
        attrs: dict[str, Any] = {"length": self.length, "num_consts": len(consts)}
        if self.length is None:
            attrs = {"reverse": self.reverse, "num_consts": len(consts), "num_carry": len(carry)}
            results = b.emit("replay", (*lead, *consts, *carry, *xs), attrs, (body,))
        elif self.prim == "scan" or carry:
            attrs |= {"reverse": self.reverse, "num_carry": len(carry)}
            results = b.emit("scan", (*consts, *carry, *xs), attrs, (body,))
        else:
            results = b.emit("map", (*consts, *xs), attrs, (body,))
        return chunks(results, len(carry))


@dataclass
class OpenRegion:
    """A region under construction: which of its values it takes and gives is decided when all regions are
    known."""

    b: Builder
    params: list[Value]
    outputs: list[Value]
    extra_params: list[Value | None]  # a tangent or cotangent parameter per position, None where it is zero
    extra: list[Value | None]  # the tangents or cotangents that come out

    @property
    def active(self) -> list[bool]:
        return [e is not None for e in self.extra]

    def extras(self, flags: Sequence[bool], like: Sequence[Value]) -> list[Value]:
        """The flagged extras, zeros where one is None; `like[i]` has the type of the i-th."""
        return [
            self.b.zeros(v.type) if e is None else e
            for e, v, f in zip(self.extra, like, flags, strict=True)
            if f
        ]

    def close(self, params: Sequence[Value], outputs: Sequence[Value]) -> Graph:
        self.b.params = list(params)
        return self.b.build(outputs)


def present(items: Iterable[T | None]) -> list[T]:
    """The items that are not None."""
    return [item for item in items if item is not None]


def flags_of(items: Iterable[object]) -> list[bool]:
    """Which of the items are not None."""
    return [item is not None for item in items]


def merge(flags: Sequence[bool], values: Sequence[T]) -> list[T | None]:
    """`values` spread over the flagged positions, None elsewhere."""
    rest = iter(values)
    return [next(rest) if f else None for f in flags]


def derived_name(name: str, suffix: str) -> str:
    """The name of a region made from another: `body` -> `body.jvp`."""
    return f"{name}.{suffix}"


def dependent(graph: Graph, roots: Sequence[bool]) -> frozenset[Value]:
    """The values of a graph that depend on the flagged parameters."""
    return remembered(graph, ("dependent", *roots), lambda: frozenset(_dependent(graph, roots)))


def _dependent(graph: Graph, roots: Sequence[bool]) -> set[Value]:
    depends = set(chosen(graph.params, roots))
    for node in graph.nodes:
        flags = [o in depends for o in node.operands]
        if any(flags):
            depends.update(chosen(node.results, dependent_results(node, flags)))
    return depends


def dependent_outputs(graph: Graph, roots: Sequence[bool]) -> list[bool]:
    """Which outputs of a graph depend on the flagged parameters."""
    depends = dependent(graph, roots)
    return [o in depends for o in graph.outputs]


def dependent_results(node: Node, flags: Sequence[bool]) -> list[bool]:
    """Which results of a node depend on the flagged operands; through control flow, result by result."""
    if node.prim == "cond" and not flags[0]:
        out = [False] * len(node.results)
        for branch in node.regions:
            out = either(out, dependent_outputs(branch, flags[1:]))
        return out
    if node.prim in ("scan", "map", "replay"):
        loop = Loop.of(node)
        if any(flags[: loop.lead]):
            return [True] * len(node.results)
        stable = stable_loop_flags(loop, flags)
        out = dependent_outputs(loop.body, stable)
        return [*loop.roles(stable)[1], *loop.outs(out)[1]]
    if node.prim in ("while", "record"):
        carry = stable_while_flags(node, flags)
        if carry is None:
            return [True] * len(node.results)
        nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
        ys = dependent_outputs(node.regions[1], [*flags[nc : nc + nb], *carry])[len(carry) :]
        return [*carry, *ys, *([False] if node.prim == "record" else [])]
    if node.prim == "checkpoint":
        return dependent_outputs(node.regions[0], flags)
    return [True] * len(node.results)


def stable_loop_flags(loop: Loop, flags: Sequence[bool]) -> list[bool]:
    """The flags of the body's parameters with the carries grown to a fixpoint of the body's dependence."""
    consts, carry, xs = loop.given(flags)
    while True:
        grown = either(carry, loop.outs(dependent_outputs(loop.body, [*consts, *carry, *xs]))[0])
        if grown == carry:
            return [*consts, *carry, *xs]
        carry = grown


def stable_while_flags(node: Node, flags: Sequence[bool]) -> list[bool] | None:
    """Which carries of a while or record depend on the flagged operands; None where the number of iterations does."""
    cond, body = node.regions
    cond_consts, body_consts, carry = chunks(flags, node.attrs["num_cond"], node.attrs["num_body"])
    while True:
        grown = either(carry, dependent_outputs(body, [*body_consts, *carry])[: len(carry)])
        if grown == carry:
            break
        carry = grown
    return None if dependent_outputs(cond, [*cond_consts, *carry])[0] else carry

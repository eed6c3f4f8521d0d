"""The call of a Python function in the middle of compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import UnsupportedError, VerifyError
from nufunc.ir.graph import Attrs, Graph, Node, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import Arrays, Regions, Types, shown
from nufunc.ir.types import ArrayType


class Host:
    """A Python function that a `callback` node calls. Like a custom rule it has a name in the text form, but no text.

    `function` takes an array per operand (its own to keep) and gives one per result, of the declared types. A callback
    without results is called for its effect: it is kept, and stays in order. `batch(size, batched)` gives the callback
    for all lanes at once; None: it is called once per lane.
    """

    def __init__(
        self, name: str, function: Callable[..., Sequence[np.ndarray]], operand_types: Sequence[ArrayType],
        result_types: Sequence[ArrayType], batch: Callable[[int, Sequence[bool]], Host] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.function, self.batch = name, function, batch
        self.operand_types, self.result_types = tuple(operand_types), tuple(result_types)
        self.origin = self  # the one that the program has

    def of_bits(self, stored: Callable[[ArrayType], ArrayType]) -> Host:
        """The same function in a graph where values are `stored` in other types, as the same bytes."""

        def function(*arrays: np.ndarray) -> list[np.ndarray]:
            given = [a.view(t.dtype) for a, t in zip(arrays, self.operand_types, strict=True)]
            made = zip(self.function(*given), self.result_types, strict=True)
            return [np.array(r, t.dtype).view(stored(t).dtype) for r, t in made]

        host = Host(self.name, function, [*map(stored, self.operand_types)], [*map(stored, self.result_types)])
        host.origin = self.origin
        return host


def _infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    host: Host = attrs["host"]
    if tuple(types) != host.operand_types:
        raise VerifyError(f"callback @{host.name}: operands {shown(types)}, but it takes {shown(host.operand_types)}")
    return host.result_types


def _evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list:
    return list(attrs["host"].function(*[np.array(a) for a in arrays]))


def _jvp(
    b: Builder, primals: Sequence[Value], tangents: Sequence[Value | None], results: Sequence[Value], attrs: Attrs
) -> list[Value | None]:
    host: Host = attrs["host"]
    if not results:
        return []
    raise UnsupportedError(
        f"the Python function {host.name} of a pure_callback has no derivative; give it one with nf.custom_jvp or "
        "nf.custom_vjp, or use nf.stop_gradient on its arguments",
        b.loc,
    )


register(
    Primitive("callback", "host", _infer, _evaluate, jvp=_jvp, attrs=("host",), doc="call a Python function")
)


def calls_host(node: Node) -> bool:
    """Whether a node, or one in its regions, calls back into Python."""
    return node.prim == "callback" or any(_any(region, "host", calls_host) for region in node.regions)


def has_effect(node: Node) -> bool:
    """Whether a node, or one in its regions, is there for its effect."""
    if node.prim == "callback":
        return not node.results
    return any(_any(region, "effect", has_effect) for region in node.regions)


def _any(region: Graph, question: str, asked: Callable[[Node], bool]) -> bool:
    """Whether something holds for any node of a region, found out once."""
    if question not in region.facts:
        region.facts[question] = any(map(asked, region.nodes))
    answer: bool = region.facts[question]
    return answer

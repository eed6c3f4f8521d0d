"""Checkpoints: functions of which derivatives keep little and compute the rest again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nufunc.passes.segments import segmented
from nufunc.runtime.subgraph import inline, trace_sub, wrap, write_updates
from nufunc.runtime.transform import Callee, Transform
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.trace import require


@dataclass(frozen=True)
class Checkpoint(Transform):
    """Derivatives keep the arguments and the values named in `save`; with `segments` scans are taken in segments."""

    save: tuple[str, ...] = ()
    segments: bool = False

    @property
    def label(self) -> str:
        return "checkpoint"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arrays = [x for x in tree.leaves((args, kwargs)) if isinstance(x, Array)]

        def call(params: list[Array]) -> Any:
            # The arguments are captured, not made parameters: so they stay aliases of each other where they are.
            for array in arrays:
                require().lift(array)
            return callee(*args, **kwargs)

        sub = trace_sub(call, (), callee.name, numbers=False)
        if self.segments:
            values = inline(segmented(sub.graph), sub.captured)
        else:
            b = require().b
            operands = [require().lift(a) for a in sub.captured]
            attrs = {"save": self.save, "again": False}
            values = list(b.emit("checkpoint", operands, attrs, (sub.graph.replace(updates=()),)))
        result = sub.result(wrap(values[: sub.num_outputs], sub.slots))
        write_updates(sub, (), values)
        return result

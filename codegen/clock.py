"""The clock of a plan: how often each of its nodes ran and how long it took, for `nf.profile` and `nf.report`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from nufunc.codegen.llvm import I32, I64, POINTER, declare
from nufunc.ir.graph import Graph, Node

if TYPE_CHECKING:
    from nufunc.codegen.buffers import Frame
    from nufunc.codegen.plan import Plan

_SECOND = 1_000_000_000


class Clock:
    """Reads the system's clock before and after each node that is not part of a task of several threads.

    `counts` has a row (runs, nanoseconds) for each node in `rows`, those of regions included; the plan adds to it at
    each call. `frame` tells where values stand in memory.
    """

    frame: Frame

    def __init__(self, graph: Graph) -> None:
        self.rows = {node: k for k, node in enumerate(_timed(graph))}
        self.counts = np.zeros((len(self.rows), 2), np.int64)

    @contextmanager
    def around(self, plan: Plan, node: Node) -> Iterator[None]:
        """What is emitted inside is a node's work."""
        started = self._now(plan)
        yield
        b = plan.b
        taken = b.sub(self._now(plan), started)
        row = plan.at(plan.held(self.counts), 16 * self.rows[node])
        for offset, more in ((0, I64(1)), (8, taken)):
            place = plan.at(row, offset)
            b.store(b.add(b.load(place, typ=I64), more), place)

    def _now(self, plan: Plan) -> ir.Value:
        slot = plan.alloca(16)
        read = declare(plan.module, "clock_gettime", I32, [I32, POINTER])
        plan.b.call(read, [I32(time.CLOCK_MONOTONIC), slot])
        seconds = plan.b.load(slot, typ=I64)
        return plan.b.add(plan.b.mul(seconds, I64(_SECOND)), plan.b.load(plan.at(slot, 8), typ=I64))


def _timed(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        if node.prim not in ("fused", "derived"):
            for region in node.regions:
                yield from _timed(region)

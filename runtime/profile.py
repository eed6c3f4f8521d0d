"""Profile: the time, flops and bytes of each kernel of one compilation, measured by a clock inside the code."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Graph
from nufunc.runtime.compilation import compile_program, executable_of, lower_program
from nufunc.runtime.executable import Executable

if TYPE_CHECKING:
    from nufunc.codegen.clock import Clock
    from nufunc.codegen.compile import Lowered
    from nufunc.codegen.counts import Kernel
    from nufunc.runtime.function import Transformed

_RUNS = 1000  # at most


@dataclass(frozen=True)
class Timed:
    """A row of a Profile, per call: what was computed (`kernel`, whose `times` are the measured ones) and the
    seconds that it took. `depth` is the number of loops and branches around it, `step` the place of the outermost of
    them, or of itself, in the program.
    """

    kernel: Kernel
    seconds: float
    depth: int
    step: int

    @property
    def flops_per_second(self) -> float:
        """Of flops and transcendentals together; 0.0 for what took no measurable time."""
        return (self.kernel.flops + self.kernel.transcendentals) / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Of bytes read and written."""
        return (self.kernel.bytes_read + self.kernel.bytes_written) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """Where the time of a call goes.

    rows : a `Timed` per kernel and library call, in order; a loop or branch has a row for what it does beside its
        kernels, or for all it does where its iterations run on several threads.
    seconds : the fastest call without clocks, from Python to Python.
    clocked : the mean call with clocks inside, in which the rows were measured.
    calls : how many calls these were.
    """

    name: str
    rows: tuple[Timed, ...]
    seconds: float
    clocked: float
    calls: int

    def __str__(self) -> str:
        clocked = f"with clocks {_shown(self.clocked)}, the mean of {self.calls} calls"
        head = f"{self.name}: {_shown(self.seconds)} a call; {clocked}"
        lines = [head, f"{'time':>10} {'share':>6} {'runs':>7} {'GFLOP/s':>8} {'GB/s':>7}  kernel"]
        for row in self.rows:
            place = f"  {row.kernel.location.file}:{row.kernel.location.line}" if row.kernel.location else ""
            lines.append(
                f"{_shown(row.seconds):>10} {row.seconds / self.clocked:6.1%} {row.kernel.times:7} "
                f"{row.flops_per_second / 1e9:8.2f} {row.bytes_per_second / 1e9:7.2f}  "
                f"{'  ' * row.depth}{row.kernel.name}{place}"
            )
        return "\n".join(lines)


def _shown(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def profile(function: Transformed, args: tuple[Any, ...], kwargs: dict[str, Any], seconds: float) -> Profile:
    """Compile the function with clocks, run it on copies of the arguments for about `seconds`, and read them."""
    if os.environ.get("NUFUNC_NOJIT", "") not in ("", "0"):
        raise UnsupportedError("profile: NUFUNC_NOJIT=1 runs readable loops, which have no clocks; unset it")
    program, values = function.program_of(args, kwargs)
    lowered = lower_program(program, timed=True)
    return measured(executable_of(program), compile_program(program, lowered), lowered, values, seconds)


def measured(
    plain: Executable, timed: Executable, lowered: Lowered, values: Sequence[Any], seconds: float
) -> Profile:
    """The profile of a program, compiled as it is, and with the clock of `lowered`."""
    clock = lowered.clock
    assert clock is not None
    _repeat(timed, values, 0.0)
    clock.counts[:] = 0
    taken = _repeat(timed, values, seconds / 2)
    return Profile(
        plain.name, tuple(_rows(lowered.grouped, clock, len(taken))), min(_repeat(plain, values, seconds / 2)),
        sum(taken) / len(taken), len(taken),
    )  # fmt: skip


def _repeat(executable: Executable, values: Sequence[Any], seconds: float) -> list[float]:
    """The seconds of each of the calls that fit into a time, at least one, at most some. Each gets arrays of its own in
    the place of those that it changes.
    """
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while not taken or (len(taken) < _RUNS and time.perf_counter() < until):
        own = [np.array(v) if k in executable.written else v for k, v in enumerate(values)]
        start = time.perf_counter()
        executable.run(own)
        taken.append(time.perf_counter() - start)
    return taken


def _rows(graph: Graph, clock: Clock, calls: int, depth: int = 0, around: int | None = None) -> list[Timed]:
    """The rows of a graph, per call."""
    from nufunc.codegen.counts import Kernel, is_leaf, kernels

    rows: list[Timed] = []
    for k, node in enumerate(graph.nodes):
        step = k if around is None else around
        runs, nanoseconds = (int(n) for n in clock.counts[clock.rows[node]])
        parts = list(kernels(node))
        if not runs or not (parts or node.regions):
            continue
        seconds, times = nanoseconds / 1e9 / calls, max(round(runs / calls), 1)
        if is_leaf(node):
            rows.append(Timed(parts[0].repeated(times), seconds, depth, step))
            continue
        inner = [row for region in node.regions for row in _rows(region, clock, calls, depth + 1, step)]
        locations = (node.loc,) if node.loc is not None else ()
        work = [] if inner else parts  # counted in the inner rows, where these were measured
        total = [sum(getattr(k, f) for k in work) for f in ("flops", "transcendentals", "bytes_read", "bytes_written")]
        whole = Kernel(node.prim, False, locations, 1, *total).repeated(times)
        rows.append(Timed(whole, max(seconds - sum(r.seconds for r in inner), 0.0), depth, step))
        rows += inner
    return rows

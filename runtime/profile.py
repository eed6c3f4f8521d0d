"""Profile: the time, flops and bytes of each kernel of one compilation, by a clock inside the code or by the device."""

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
from nufunc.runtime.executable import Executable, Program

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
    them, or of itself, in the program. `by` says who does it on a device: a kernel of the stage "device", with its
    blocks and threads, or a library.
    """

    kernel: Kernel
    seconds: float
    depth: int
    step: int
    by: str = ""

    @property
    def flops_per_second(self) -> float:
        """Of flops and transcendentals together; 0.0 for what took no measurable time."""
        return (self.kernel.flops + self.kernel.transcendentals) / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Of bytes read and written."""
        return (self.kernel.bytes_read + self.kernel.bytes_written) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class DeviceTimes:
    """What a Profile tells of a call on a device beside its rows.

    name : of the device.
    simulated : whether it is one of host memory, whose times are those of a simulator in Python.
    bandwidth : bytes per second, read and written, of a large copy on the device.
    queued : seconds on the device of a call whose steps are queued one by one, the median.
    replayed : of one that is replayed as a CUDA graph; None for functions that wait for the host.
    uploaded, downloaded : bytes that a call copies from the host and back to it.
    memory : bytes that a call takes for results, temporaries, tapes, and what it copies up, where none are kept.
    allocations : in how many pieces it asks the device for them.
    again : how many pieces a later call asks for: 0 where all is found again.
    peak : bytes of `memory`, of arguments that are on the device, and of constants.
    """

    name: str
    simulated: bool
    bandwidth: float
    queued: float
    replayed: float | None
    uploaded: int
    downloaded: int
    memory: int
    allocations: int
    again: int
    peak: int

    def __str__(self) -> str:
        replayed = "not replayed" if self.replayed is None else f"{shown(self.replayed)} replayed as a graph"
        pieces = f"{self.allocations} pieces, {self.again} of them in later calls"
        lines = [
            f"on {self.name}: {shown(self.queued)} queued step by step, {replayed}",
            f"a copy there {self.bandwidth / 1e9:.2f} GB/s; to it {self.uploaded:,} bytes, from it {self.downloaded:,}",
            f"peak memory {self.peak:,} bytes: {self.memory:,} for a call in {pieces}; with arguments and constants",
        ]
        if self.simulated:
            lines.append("simulated: kernels run in Python on the host, and so do these times")
        return "\n".join(lines)


@dataclass(frozen=True)
class Profile:
    """Where the time of a call goes.

    rows : a `Timed` per kernel and library call, in order; a loop or branch has a row for what it does beside its
        kernels, or for all it does where its iterations run on several threads. On a device one per step: launch, copy,
        call of a library or of the host.
    seconds : the fastest call without clocks, from Python to Python, on a device until it is done.
    clocked : the mean call with clocks inside, in which the rows were measured; on a device the median of its own time
        from the first step to the end of the last, and rows are medians.
    calls : how many calls these were.
    device : the rest of what is known of a call on a device, else None.
    """

    name: str
    rows: tuple[Timed, ...]
    seconds: float
    clocked: float
    calls: int
    device: DeviceTimes | None = None

    def __str__(self) -> str:
        clocked = f"with clocks {shown(self.clocked)}, the {'median' if self.device else 'mean'} of {self.calls} calls"
        head = f"{self.name}: {shown(self.seconds)} a call; {clocked}"
        if self.device:
            head += f", the sum of the steps {shown(sum(row.seconds for row in self.rows))}"
        copy = f" {'of copy':>7}" if self.device else ""
        lines = [head, *([] if self.device is None else [str(self.device)])]
        lines.append(f"{'time':>10} {'share':>6} {'runs':>7} {'GFLOP/s':>8} {'GB/s':>7}{copy}  kernel")
        for row in self.rows:
            place = f"  {row.kernel.location.file}:{row.kernel.location.line}" if row.kernel.location else ""
            share = f" {row.bytes_per_second / self.device.bandwidth:7.1%}" if self.device else ""
            lines.append(
                f"{shown(row.seconds):>10} {row.seconds / self.clocked:6.1%} {row.kernel.times:7} "
                f"{row.flops_per_second / 1e9:8.2f} {row.bytes_per_second / 1e9:7.2f}{share}  "
                f"{'  ' * row.depth}{row.kernel.name}{f' [{row.by}]' if row.by else ''}{place}"
            )
        return "\n".join(lines)


def shown(seconds: float) -> str:
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
    return measured(program, executable_of(program), lowered, values, seconds)


def measured(program: Program, plain: Executable, lowered: Any, values: Sequence[Any], seconds: float) -> Profile:
    """The profile of a program, compiled as it is, and with the clock of `lowered`, or that of its device."""
    timed: Any = compile_program(program, lowered)
    if program.device is None:
        return _measured(plain, timed, lowered, values, seconds)
    from nufunc.runtime.cuda import measure

    return measure.measured(program, plain, timed, lowered, values, seconds)


def _measured(
    plain: Executable, timed: Executable, lowered: Lowered, values: Sequence[Any], seconds: float
) -> Profile:
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

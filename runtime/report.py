"""The report: one HTML page that shows a compilation from the user's lines to the time of each kernel."""

from __future__ import annotations

import html
import json
import linecache
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import Location, UnsupportedError
from nufunc.ir.graph import Graph, Node
from nufunc.ir.types import is_float
from nufunc.runtime import pipeline
from nufunc.runtime.compilation import executable_of, lower_program
from nufunc.runtime.executable import Program
from nufunc.runtime.profile import Profile, measured, shown
from nufunc.runtime.threading import get_num_threads

if TYPE_CHECKING:
    from nufunc.codegen.buffers import Frame
    from nufunc.runtime.function import Transformed

_AROUND = 4  # lines of the user's source that are shown before and after those that are in the graph
_LONGEST = 400_000  # characters of a stage; machine code of large programs goes on for ever


def report(function: Transformed, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path, seconds: float) -> Profile:
    """Compile and measure the function, and write the page."""
    if os.environ.get("NUFUNC_NOJIT", "") not in ("", "0"):
        raise UnsupportedError("report: NUFUNC_NOJIT=1 runs readable loops, which have no clocks; unset it")
    record = pipeline.Record()
    with pipeline.recording(record):
        program, values = function.program_of(args, kwargs)
        plain = executable_of(program)
    lowered = lower_program(program, timed=True)
    profile = measured(program, plain, lowered, values, seconds)
    data = {
        "name": program.name,
        "inputs": [f"{s}: {i.type}" for s, i in zip(program.sources, program.inputs, strict=True)],
        "outputs": [str(v.type) for v in program.graph.outputs],
        "tiles": _tiles(profile),
        "seconds": profile.seconds,
        "clocked": profile.clocked,
        "calls": profile.calls,
        "kernels": _kernels(profile),
        "files": _files(_locations(lowered, profile)),
        "stages": [{"name": name, "text": text[:_LONGEST]} for name, text in record.entries],
        **_surroundings(program, lowered, profile),
    }
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    # `</` would end the script that the data stands in
    page = page.replace("__TITLE__", html.escape(program.name))
    path.write_text(page.replace("__DATA__", json.dumps(data).replace("</", "<\\/")), encoding="utf-8")
    return profile


def _tiles(profile: Profile) -> list[list[str]]:
    """What stands at the head of the page beside times and sums, as value and label."""
    there = profile.device
    if there is None:
        return [[str(get_num_threads()), "threads"]]
    found = [
        [there.name, "simulated: times are those of Python on the host" if there.simulated else "device"],
        [shown(sum(row.seconds for row in profile.rows)), "sum of the steps"],
        [shown(there.queued), "queued step by step"],
    ]
    if there.replayed is not None:
        found.append([shown(there.replayed), "replayed as a graph"])
    found.append([f"{there.bandwidth / 1e9:.1f} GB/s", "a copy on the device"])
    found.append([f"{there.uploaded:,} / {there.downloaded:,}", "bytes copied up / down"])
    pieces = f"peak memory; {there.memory:,} for a call in {there.allocations} pieces, later {there.again}"
    return [*found, [f"{there.peak:,} bytes", pieces]]


def _surroundings(program: Program, lowered: Any, profile: Profile) -> dict[str, Any]:
    """Temporaries in memory, and the roof: of the processor or of the device."""
    if profile.device is None:
        assert lowered.clock is not None
        memory = _memory(lowered.grouped, lowered.clock.frame, lowered.workspace)
        return {"memory": memory, "machine": _machine(), "roof": "NumPy's copy and matrix product on this machine"}
    from nufunc.runtime.cuda import devices, measure

    assert program.device is not None
    sizes = {p.type.dtype: p.type.nbytes for p in program.graph.params if is_float(p.type.dtype)}
    dtype = max(sizes, key=lambda d: sizes[d], default=np.dtype(np.float64))
    flops = measure.product_rate(devices.device_of(program.device), dtype)
    return {
        "memory": _memory(lowered.origins.graph, lowered.origins.frame, lowered.workspace),
        "machine": {"bandwidth": profile.device.bandwidth, "flops": flops},
        "roof": f"a copy and a matrix product ({dtype}) on {profile.device.name}",
        "copy": profile.device.bandwidth,
    }


def _kernels(profile: Profile) -> list[dict[str, Any]]:
    return [
        {
            "name": row.kernel.name, "library": row.kernel.library, "seconds": row.seconds, "depth": row.depth,
            "step": row.step, "times": row.kernel.times, "flops": row.kernel.flops + row.kernel.transcendentals,
            "read": row.kernel.bytes_read, "written": row.kernel.bytes_written,
            "lines": [[place.file, place.line] for place in row.kernel.locations], "by": row.by,
        }
        for row in profile.rows
    ]  # fmt: skip


def _locations(lowered: Any, profile: Profile) -> Iterable[Location]:
    for row in profile.rows:
        yield from row.kernel.locations
    for node in lowered.grouped.walk():
        if node.loc is not None:
            yield node.loc


def _files(locations: Iterable[Location]) -> list[dict[str, Any]]:
    """The lines of the user's files that are in the graph, with those around them."""
    wanted: dict[str, set[int]] = {}
    for place in locations:
        wanted.setdefault(place.file, set()).update(range(place.line - _AROUND, place.line + _AROUND + 1))
    files = []
    for file, numbers in wanted.items():
        text = linecache.getlines(file)
        lines = [[n, text[n - 1].rstrip("\n")] for n in sorted(numbers) if 0 < n <= len(text)]
        files.append({"path": file, "lines": lines or [[n, ""] for n in sorted(numbers) if n > 0]})
    return files


def _memory(graph: Graph, frame: Frame, size: int) -> dict[str, Any]:
    """Where the temporaries stand in the arena, from which step to which."""
    made: dict[Any, Node] = {value: node for node in graph.nodes for value in node.results}
    blocks = [
        {"name": f"{made[v].prim if made[v].prim != 'fused' else made[v].attrs['kind']}: {v.type}",
         "offset": frame.offset[v], "size": v.type.nbytes, "first": life[0], "last": life[1]}
        for v, life in frame.life.items() if v in frame.offset
    ]  # fmt: skip
    steps = {node: k for k, node in enumerate(graph.nodes)}
    blocks += [
        {"name": f"inside {node.prim}", "offset": offset, "size": frame.scratch_bytes[node],
         "first": steps[node], "last": steps[node]}
        for node, offset in frame.scratch.items()
    ]  # fmt: skip
    return {"size": size, "steps": len(graph.nodes), "blocks": blocks}


def _machine() -> dict[str, float]:
    """The roofline: bytes per second of a large copy, flops per second of a matrix product, both NumPy's."""
    source, target = np.ones(1 << 22), np.empty(1 << 22)
    square = np.ones((512, 512))
    return {
        "bandwidth": 2 * source.nbytes / _fastest(lambda: np.copyto(target, source)),
        "flops": 2 * 512**3 / _fastest(lambda: square @ square),
    }


def _fastest(call: Callable[[], object], repeats: int = 5) -> float:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)

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
from nufunc.ir.graph import Node
from nufunc.runtime import pipeline
from nufunc.runtime.compilation import compile_program, executable_of, lower_program
from nufunc.runtime.profile import Profile, measured
from nufunc.runtime.threading import get_num_threads

if TYPE_CHECKING:
    from nufunc.codegen.compile import Lowered
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
    profile = measured(plain, compile_program(program, lowered), lowered, values, seconds)
    data = {
        "name": program.name,
        "inputs": [f"{s}: {i.type}" for s, i in zip(program.sources, program.inputs, strict=True)],
        "outputs": [str(v.type) for v in program.graph.outputs],
        "threads": get_num_threads(),
        "seconds": profile.seconds,
        "clocked": profile.clocked,
        "calls": profile.calls,
        "kernels": _kernels(profile),
        "files": _files(_locations(lowered, profile)),
        "stages": [{"name": name, "text": text[:_LONGEST]} for name, text in record.entries],
        "memory": _memory(lowered),
        "machine": _machine(),
    }
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    # `</` would end the script that the data stands in
    page = page.replace("__TITLE__", html.escape(program.name))
    path.write_text(page.replace("__DATA__", json.dumps(data).replace("</", "<\\/")), encoding="utf-8")
    return profile


def _kernels(profile: Profile) -> list[dict[str, Any]]:
    return [
        {
            "name": row.kernel.name, "library": row.kernel.library, "seconds": row.seconds, "depth": row.depth,
            "step": row.step, "times": row.kernel.times, "flops": row.kernel.flops + row.kernel.transcendentals,
            "read": row.kernel.bytes_read, "written": row.kernel.bytes_written,
            "lines": [[place.file, place.line] for place in row.kernel.locations],
        }
        for row in profile.rows
    ]  # fmt: skip


def _locations(lowered: Lowered, profile: Profile) -> Iterable[Location]:
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


def _memory(lowered: Lowered) -> dict[str, Any]:
    """Where the temporaries stand in the arena, from which step to which."""
    assert lowered.clock is not None
    frame = lowered.clock.frame
    made: dict[Any, Node] = {value: node for node in lowered.grouped.nodes for value in node.results}
    blocks = [
        {"name": f"{made[v].prim if made[v].prim != 'fused' else made[v].attrs['kind']}: {v.type}",
         "offset": frame.offset[v], "size": v.type.nbytes, "first": life[0], "last": life[1]}
        for v, life in frame.life.items() if v in frame.offset
    ]  # fmt: skip
    steps = {node: k for k, node in enumerate(lowered.grouped.nodes)}
    blocks += [
        {"name": f"inside {node.prim}", "offset": offset, "size": frame.scratch_bytes[node],
         "first": steps[node], "last": steps[node]}
        for node, offset in frame.scratch.items()
    ]  # fmt: skip
    return {"size": lowered.workspace, "steps": len(lowered.grouped.nodes), "blocks": blocks}


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

"""Programs for CUDA devices ahead of time: kernels as PTX and cubin, and a manifest that says how to launch them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nufunc.codegen.cuda.compile import compiled
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.plan import device_program
from nufunc.codegen.cuda.program import Call, Copy, Launch, Place, Program, Repeat, Step
from nufunc.codegen.nest_builder import site_error
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Graph

ABOUT = (
    "`memories` are what to allocate, of so many bytes, with the content that `from` says, if any: an input, a "
    "constant (a file), or zeros. A place is [memory, byte offset]. `steps` run in order on one stream: either a "
    "kernel (by number in `kernels`), whose parameters are the 64-bit addresses of its places, or the copy of bytes "
    "from place to place. The memory `error` is one i32, 0 unless a check failed: then it is a key of `errors`. Behind "
    "the last step `outputs` are the places of the results, and `updates` the inputs that have been written in place."
)
_MOST = 10_000  # steps of a manifest


def program(grouped: Graph, name: str, label: str) -> Program:
    """The program of a graph that a manifest can hold; what is something else is an UnsupportedError."""
    made = device_program(grouped, name)
    for step in made.walk():
        if isinstance(step, Call):
            raise UnsupportedError(f"{label}: there is no CUDA kernel for {step.prim}", step.loc)
        if not isinstance(step, Launch | Copy | Repeat):
            raise UnsupportedError(
                f"{label}: a manifest for CUDA holds kernels and copies; here the host decides what runs (loops of "
                "unknown length over large arrays, their derivatives, calls of Python)"
            )
    if sum(1 for _ in _unrolled(made.steps, {})) > _MOST:
        raise UnsupportedError(f"{label}: a loop over large arrays would be more than {_MOST} steps of a manifest")
    return made


def _unrolled(steps: Sequence[Step], loops: dict[int, int]) -> Iterator[tuple[Launch | Copy, dict[int, int]]]:
    """Launches and copies with the iterations that they belong to."""
    for step in steps:
        if isinstance(step, Repeat):
            for i in reversed(range(step.length)) if step.reverse else range(step.length):
                yield from _unrolled(step.body, {**loops, step.loop: i})
        elif isinstance(step, Launch | Copy):
            yield step, loops


class _Memories:
    """The memories of a program, in the order in which the manifest lists them."""

    def __init__(self, program: Program) -> None:
        self.rows: list[dict[str, Any]] = []
        self.numbers: dict[tuple[str, int], int] = {}
        self.add("error", 0, 4, ["zeros"])
        for k, type_ in enumerate(program.inputs):
            self.add("input", k, type_.nbytes, ["input", k])
        for k, array in enumerate(program.constants):
            self.add("constant", k, array.nbytes, ["constant", f"constant_{k}.npy"])
        for operand in program.outputs:
            if operand.place.space == "output":
                self.add("output", operand.place.number, operand.type.nbytes, None)
        self.add("workspace", 0, program.workspace, None)

    def add(self, space: str, number: int, nbytes: int, source: list[Any] | None) -> None:
        self.numbers[space, number] = len(self.rows)
        name = space if space in ("error", "workspace") else f"{space}_{number}"
        self.rows.append({"name": name, "bytes": nbytes, "from": source})

    def place(self, place: Place, loops: dict[int, int]) -> list[int]:
        offset = place.offset + sum(loops[loop] * size for loop, size in place.steps)
        return [self.numbers[place.space, place.number], offset]


def write(
    program: Program, folder: Path, capability: tuple[int, int], about: dict[str, Any], updates: Sequence[int]
) -> list[str]:
    """Write the kernels and the manifest; the names of the files."""
    files: list[str] = []
    rows = [_written(kernel, k, folder, capability, files) for k, kernel in enumerate(program.kernels)]
    numbers = {kernel: k for k, kernel in enumerate(program.kernels)}
    memories = _Memories(program)
    steps: list[dict[str, Any]] = []
    for step, loops in _unrolled(program.steps, {}):
        at = lambda place, loops=loops: memories.place(place, loops)
        if isinstance(step, Launch):
            places = [*map(at, step.places), at(Place("error"))]
            steps.append({"kernel": numbers[step.kernel], "places": places})
        else:
            steps.append({"copy": step.nbytes, "to": at(step.target), "from": at(step.source)})
    for k, constant in enumerate(program.constants):
        np.save(folder / f"constant_{k}.npy", constant)
    results = program.outputs[: len(program.outputs) - len(updates)]
    found = lambda operand: memories.place(operand.place, {})
    manifest = {
        **about,
        "how": ABOUT,
        "capability": list(capability),
        "memories": memories.rows,
        "kernels": rows,
        "steps": steps,
        "outputs": [found(operand) for operand in results],
        "updates": list(updates),
        "errors": {str(c): " ".join(str(site_error(*site)).split()) for c, site in program.sites.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return files


def _written(
    kernel: Kernel, number: int, folder: Path, capability: tuple[int, int], files: list[str]
) -> dict[str, Any]:
    """Write one kernel; its row of the manifest."""
    stem, code = f"{number:03d}_{kernel.name}", compiled(kernel, capability)
    (folder / f"{stem}.ptx").write_text(code.ptx, encoding="utf-8")
    (folder / f"{stem}.py.txt").write_text(kernel.source, encoding="utf-8")
    files.append(f"{stem}.ptx")
    if code.cubin is not None:
        (folder / f"{stem}.cubin").write_bytes(code.cubin)
        files.append(f"{stem}.cubin")
    buffers = [{"dtype": b.dtype.name, "elements": b.size, "written": b.written} for b in kernel.buffers]
    return {
        "ptx": f"{stem}.ptx", "cubin": None if code.cubin is None else f"{stem}.cubin", "source": f"{stem}.py.txt",
        "name": kernel.name, "symbol": code.symbol, "blocks": kernel.blocks, "threads": kernel.threads,
        "buffers": buffers,
    }  # fmt: skip

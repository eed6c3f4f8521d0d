"""Programs for CUDA devices ahead of time: kernels as PTX and cubin, and a manifest that says how to launch them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nufunc.codegen.cuda.compile import assemble, assembler, ptx
from nufunc.codegen.cuda.kernels import Kernel, kernels
from nufunc.codegen.emit_text import group_nests
from nufunc.codegen.nest_builder import Sites, site_error
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.product_group import expanded

ABOUT = (
    "Arrays are flat and contiguous, and need no particular content unless `from` says so. Launches run in order on "
    "one stream. A kernel takes one 64-bit parameter, the device pointer, for each of its "
    "arrays; bools are bytes; the last array is always `error`, whose element is 0 unless a "
    "check failed: then it is a key of `errors`. Behind the last launch `outputs` are the arrays of the results, and "
    "`updates` the pairs (array, input) of what is to be written to inputs."
)


@dataclass
class Launches:
    """A grouped graph as launches over numbered arrays. `source` of an array: ("input", k), ("constant", k) or none."""

    arrays: list[tuple[np.dtype, int, tuple[str, int] | None]] = field(default_factory=list)
    constants: list[np.ndarray] = field(default_factory=list)
    launches: list[tuple[Kernel, list[int]]] = field(default_factory=list)
    sites: Sites = field(default_factory=Sites)
    outputs: list[int] = field(default_factory=list)

    def array(self, dtype: np.dtype, size: int, source: tuple[str, int] | None = None) -> int:
        self.arrays.append((dtype, size, source))
        return len(self.arrays) - 1

    def constant(self, value: np.ndarray) -> int:
        self.constants.append(np.ascontiguousarray(value))
        return self.array(value.dtype, value.size, ("constant", len(self.constants) - 1))


def launches(grouped: Graph, label: str) -> Launches:
    """The launches of a graph of fused nodes; what is something else is an UnsupportedError."""
    found = Launches()
    error = found.array(np.dtype(np.int32), 1)
    place: dict[Value, int] = {}
    for k, param in enumerate(grouped.params):
        place[param] = found.array(param.dtype, param.type.size, ("input", k))
    for value, array in grouped.consts:
        place[value] = found.constant(array)
    for node in expanded(grouped).nodes:
        if node.prim != "fused":
            raise UnsupportedError(f"{label}: there is no CUDA kernel for {node.prim} yet", node.loc)
        _launch(found, node, place, error)
    found.outputs = [place[o] for o in grouped.outputs]
    return found


def _launch(found: Launches, node: Node, place: dict[Value, int], error: int) -> None:
    name, nests = group_nests(node, found.sites)
    region = node.regions[0]
    arrays = [place[o] for o in node.operands] + [found.constant(array) for _, array in region.consts]
    for result in node.results:
        place[result] = found.array(result.dtype, result.type.size)
    arrays += [place[r] for r in node.results]
    for nest in nests:
        scratch: list[int] = []
        for kernel in kernels(nest, f"{name}_{len(found.launches)}", found.sites):
            if not scratch and kernel.scratch:
                scratch = [found.array(b.dtype, b.size) for b in kernel.buffers[-kernel.scratch :]]
            found.launches.append((kernel, [*arrays, *scratch, error]))


def write(
    found: Launches, folder: Path, capability: tuple[int, int], about: dict[str, Any], updates: Sequence[int]
) -> list[str]:
    """Write the kernels and the manifest; the names of the files."""
    files, rows = [], []
    for k, (kernel, arrays) in enumerate(found.launches):
        stem = f"{k:03d}_{kernel.name}"
        text = ptx(kernel, capability)
        (folder / f"{stem}.ptx").write_text(text, encoding="utf-8")
        (folder / f"{stem}.py.txt").write_text(kernel.source, encoding="utf-8")
        files.append(f"{stem}.ptx")
        if assembler() is not None:
            (folder / f"{stem}.cubin").write_bytes(assemble(text, capability)[0])
            files.append(f"{stem}.cubin")
        (symbol,) = [line.split(".entry", 1)[1].split("(")[0].strip() for line in text.splitlines() if ".entry" in line]
        rows.append(
            {
                "ptx": f"{stem}.ptx", "cubin": f"{stem}.cubin" if assembler() else None, "source": f"{stem}.py.txt",
                "name": kernel.name, "symbol": symbol, "blocks": kernel.blocks, "threads": kernel.threads,
                "arrays": arrays,
            }
        )  # fmt: skip
    for k, constant in enumerate(found.constants):
        np.save(folder / f"constant_{k}.npy", constant)
    count = len(found.outputs) - len(updates)
    manifest = {
        **about,
        "how": ABOUT,
        "capability": list(capability),
        "arrays": [
            {"dtype": dtype.name, "elements": size, "from": None if source is None else list(source)}
            for dtype, size, source in found.arrays
        ],
        "launches": rows,
        "outputs": found.outputs[:count],
        "updates": [[array, k] for array, k in zip(found.outputs[count:], updates, strict=True)],
        "error": 0,
        "errors": {str(c): " ".join(str(site_error(*site)).split()) for c, site in found.sites.sites.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return files

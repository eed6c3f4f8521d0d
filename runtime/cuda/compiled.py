"""From a traced program to one that runs on a device, and its stages in text."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.codegen.callspec import ArgSpec, ResultSpec
from nufunc.codegen.cuda.program import Program as Steps
from nufunc.ir.errors import ArgumentError, UnsupportedError
from nufunc.ir.graph import Graph
from nufunc.ir.types import TapeType
from nufunc.runtime import pipeline
from nufunc.runtime.cuda.devices import device_of
from nufunc.runtime.cuda.entry import DeviceEntry, specs, store
from nufunc.runtime.executable import Executable, Program
from nufunc.runtime.stored import Origin

if TYPE_CHECKING:
    from nufunc.codegen.cuda.plan import Origins

CAPABILITY = (8, 0)  # of PTX for no device in particular, which drivers of later ones compile too


@dataclass(frozen=True)
class DeviceLowered:
    """A program for a device, before its kernels are compiled."""

    grouped: Graph
    steps: Steps
    origins: Origins
    placed: frozenset[int]
    args: tuple[ArgSpec, ...]
    results: tuple[ResultSpec, ...]

    @property
    def spec(self) -> Any:
        return specs(self.args, self.results, self.steps)

    @property
    def workspace(self) -> int:
        return self.steps.workspace

    @property
    def copied(self) -> tuple[int, ...]:
        return ()


@dataclass(eq=False, kw_only=True)
class DeviceExecutable(Executable):
    """A program with its entry on a device."""

    entry: DeviceEntry

    def run(self, values: Sequence[Any], outs: Sequence[Any] = ()) -> list[Any]:
        if self.check is None:
            return self.entry.call(values, outs)
        results = self.entry.slow(*values)
        self.check(self, [np.asarray(v) for v in values], [np.asarray(r) for r in results])
        for source, result in zip(self.graph.updates, results[self.num_results :], strict=True):
            store(values[source], result)
        for out, result in zip(outs, results):
            store(out, result)
        return [] if outs else results[: self.num_results]


def lowered_for(program: Program) -> DeviceLowered:
    """The device program of a traced one."""
    from nufunc.codegen.compile import _lent as lent_outputs  # of what is loaded from disk nothing is planned
    from nufunc.codegen.cuda.plan import planned
    from nufunc.passes.placement import placed
    from nufunc.runtime.compilation import _placements, _specs

    placements = {k: p for k, p in _placements(program).items() if program.inputs[k].device is not None}
    refusals: list[str] = []
    grouped = pipeline.grouped(placed(program.graph, placements), refusals)
    pipeline.note("fusion", lambda: "\n".join(dict.fromkeys(refusals)) or "nothing was refused")
    args, results = _specs(program)
    donated = [k for k in program.donated if program.inputs[k].strides is None]
    lent = lent_outputs(grouped, args, results, donated)
    _refuse_tapes(program)
    steps, origins = planned(grouped, program.name, lent, tuple(lent), tapes=True)
    pipeline.note("loops", lambda: "\n\n".join(kernel.source for kernel in steps.kernels))
    pipeline.note("device", lambda: str(steps))
    return DeviceLowered(grouped, steps, origins, frozenset(placements), tuple(args), tuple(results))


def _refuse_tapes(program: Program) -> None:
    """Tapes stay where they were made: those of the host cannot be read on a device, and a call with arrays of the host
    alone gives none away."""
    own = any(s.device is not None for s in program.inputs)
    given = any(isinstance(s.type, TapeType) and s.device is None for s in program.inputs)
    if given or (not own and any(isinstance(v.type, TapeType) for v in program.graph.outputs)):
        raise UnsupportedError(
            "tapes of loops of unknown length do not travel between the host and a device; give "
            "nf.vjp or nf.linearize arrays of the device (nf.to_device) and call what they give there too, or "
            "differentiate within one function (nf.grad)"
        )


def machine_text(lowered: DeviceLowered, program: Program, stage: str) -> str:
    """The kernels as PTX."""
    if stage != "ptx":
        raise ArgumentError(f"the stage {stage!r} is one of programs for the host; kernels of a device have 'ptx'")
    from nufunc.codegen.cuda.compile import compiled

    assert program.device is not None
    capability = device_of(program.device).driver.capability
    return "\n\n".join(compiled(kernel, capability).ptx for kernel in lowered.steps.kernels)


def text_for_any_device(program: Program, stage: str) -> str:
    """A program of the host as it would be on a device: its steps, or its kernels as PTX for `CAPABILITY`. No device is
    needed."""
    with pipeline.recording(None):
        steps = lowered_for(program).steps
    if stage == "device":
        return str(steps)
    from nufunc.codegen.cuda.compile import compiled_together

    return "\n\n".join(dict.fromkeys(code.ptx for code in compiled_together(steps.kernels, CAPABILITY)))


def executable_for(program: Program, lowered: DeviceLowered) -> DeviceExecutable:
    """A program as it was lowered, with its kernels loaded on its device."""
    return executable_with(program, lowered.steps, lowered.placed)


def executable_with(program: Program, steps: Steps, placed: Set[int]) -> DeviceExecutable:
    """A program with these steps, its kernels loaded on its device; `placed` are the inputs that are read where they
    lie."""
    from nufunc.runtime.compilation import _specs

    begin = time.perf_counter()
    assert program.device is not None
    entry = DeviceEntry(
        steps, device_of(program.device), specs(*_specs(program), steps), program.inputs, placed, program.sources,
        program.name, next((node.loc for node in program.graph.nodes if node.loc is not None), None),
    )  # fmt: skip
    origin = Origin("compiled", None, "it was not asked for", time.perf_counter() - begin)
    return DeviceExecutable(**vars(program), entry=entry, origin=origin)


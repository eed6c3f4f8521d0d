"""Runs the library calls of a device program: steps on the device, or the primitive's own rule on the host."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from nufunc.codegen.cuda.library_steps import Glue, Hosted, LibraryStep, Made, Ready, Routine
from nufunc.codegen.cuda.program import Call, Copy, Kernel, Launch
from nufunc.ir import primitive
from nufunc.ir.errors import ArgumentError
from nufunc.ir.halves import in_single
from nufunc.ir.types import FLOAT32, ArrayType, is_half
from nufunc.runtime.cuda import nvidia
from nufunc.runtime.cuda.driver import Driver
from nufunc.runtime.cuda.memory import scratch


def run(call: Call, driver: Driver, addresses: Sequence[int], stream: Any, spare: int = 0) -> None:
    """Queue a call. `addresses` are those of its operands, of its results, of its workspace (0 without one) and of the
    error word, in this order; at `spare` are the bytes that `spare_of` wants."""
    how = route(driver)
    if how == "host":
        _by_the_host(call, driver, addresses, stream)
        return
    count = len(call.operands)
    bases = {
        "input": addresses[:count], "output": addresses[count:-2], "workspace": addresses[-2:-1],
        "error": addresses[-1:],
    }  # fmt: skip
    at = lambda place: bases[place.space][place.number] + place.offset
    for step in _steps(call, how, driver):
        match step:
            case Launch():
                driver.launch(driver.load(step.kernel), [*map(at, step.places), addresses[-1]], stream)
            case Copy():
                driver.copy(at(step.target), at(step.source), step.nbytes, stream)
            case Routine(name="conv"):
                from nufunc.runtime.cuda import cudnn

                places = {name: at(place) for name, place in step.places.items()}
                cudnn.run(step.numbers["plan"], driver, stream, places, spare)
            case Routine():
                places = {name: at(place) for name, place in step.places.items()}
                nvidia.call(step.name, driver, stream, step.dtype, places, step.numbers)
            case Glue() | Made():
                _glue(step, driver, [at(place) for place in step.places], addresses[-1], stream)
            case Hosted():
                _by_the_host(call, driver, addresses, stream)


def replayable(call: Call, driver: Driver) -> bool:
    """Whether a call can be recorded, and replayed without the host."""
    how = route(driver)
    if driver.simulated or how == "host":
        return driver.simulated
    known = _ready(call, how)
    if known is not None:
        return known.replayable
    from nufunc.codegen.cuda import libraries

    return libraries.replayable(_steps(call, how, driver))


def keeping(stream: Any, recorded: bool = True) -> AbstractContextManager[list[Any]]:
    """Inside, calls of this thread run for a stream though they are queued on another one, or are recorded to be
    replayed there. The list is what they refer to, which has to live as long as the recording does."""
    return nvidia.keeping(stream, recorded)


def spare_of(calls: Iterable[Call], driver: Driver) -> int:
    """Bytes that calls work in, one after the other, beside the program's workspace: those of plans of cuDNN, which are
    known when a device has made them."""
    convolutions = [call for call in calls if call.prim == "conv"]
    how = route(driver) if convolutions else "host"
    steps = [] if how == "host" else [step for call in convolutions for step in _steps(call, how, driver)]
    return max((step.numbers["plan"].workspace for step in steps if isinstance(step, Routine)), default=0)


def kernels(calls: Iterable[Call], driver: Driver) -> list[Kernel]:
    """The kernels that calls launch, so that they are compiled together."""
    calls = list(calls)
    how = route(driver) if calls else "host"
    return [] if how == "host" else [k for call in calls for k in _kernels(call, how, driver)]


def _kernels(call: Call, how: str, driver: Driver) -> list[Kernel]:
    known = _ready(call, how)
    if known is not None:
        return known.kernels
    from nufunc.codegen.cuda import libraries

    return libraries.kernels_of(_steps(call, how, driver))


def ready(call: Call, driver: Driver) -> Ready | None:
    """What a call has become, for a program that is stored; None where the host does it, or where a process has to look
    at the device first."""
    how = route(driver)
    if how == "host" or call.prim == "conv":
        return None
    steps = [_made(step) if isinstance(step, Glue) else step for step in _steps(call, how, driver)]
    return Ready(how, tuple(steps), replayable(call, driver))


def _made(step: Glue) -> Made:
    from nufunc.codegen.cuda.libraries import glue_kernels

    return Made(tuple((kernel, tuple(used)) for kernel, used in glue_kernels(step)), step.places)


def give(call: Call, found: Ready | None) -> None:
    """A call of a stored program becomes what it was; it is not looked at how that is done."""
    vars(call)["ready"] = found


def _ready(call: Call, how: str) -> Ready | None:
    found: Ready | None = vars(call).get("ready")
    return found if found is not None and found.route == how else None


def route(driver: Driver) -> str:
    """Who computes calls: "nvidia", by its libraries, "own", by our kernels and what these lack on the host, or "host".

    NUFUNC_CUDA_LIBRARIES says it; left out, NVIDIA's libraries where they are installed, on simulated devices the host.
    """
    said = os.environ.get("NUFUNC_CUDA_LIBRARIES", "")
    if said not in ("", "nvidia", "own", "host"):
        raise ArgumentError(f"NUFUNC_CUDA_LIBRARIES is nvidia, own or host, not {said!r}")
    if said:
        return said
    if driver.simulated:
        return "host"
    return "nvidia" if nvidia.available() else "own"


def who(call: Call, driver: Driver) -> str:
    """Who computes a call on a device: a library, our own kernels, or the host."""
    how = route(driver)
    if how != "nvidia":
        return {"own": "kernels"}.get(how, how)
    from nufunc.codegen.cuda.libraries import where

    found = where(call)
    if found == "cudnn" and not any(isinstance(step, Routine) for step in _steps(call, how, driver)):
        return "kernels"
    return found


def _steps(call: Call, how: str, driver: Driver) -> Sequence[LibraryStep]:
    """What a call becomes, which is kept beside its fields. Plans of cuDNN belong to a device; where there is none, the
    call is left to our own kernel."""
    known = _ready(call, how)
    if known is not None:
        return known.steps
    kept = vars(call)
    key = f"{how} {driver.index}" if call.prim == "conv" else how
    if key not in kept:
        from nufunc.codegen.cuda import libraries  # programs without calls do not need all that makes kernels

        steps = libraries.steps_of(call, how == "nvidia")
        planned = [_planned(step, driver) for step in steps]
        kept[key] = libraries.steps_of(call, False) if None in planned else planned
    found: Sequence[LibraryStep] = kept[key]
    return found


def _planned(step: LibraryStep, driver: Driver) -> LibraryStep | None:
    """A step with the plan that it needs, if any; None where cuDNN cannot do it."""
    if not isinstance(step, Routine) or step.name != "conv":
        return step
    from nufunc.runtime.cuda import cudnn

    plan = cudnn.plan(driver, step.numbers["convolution"], step.numbers["limit"], nvidia.tf32())
    return None if plan is None else replace(step, numbers={**step.numbers, "plan": plan})


def _glue(step: Glue | Made, driver: Driver, addresses: Sequence[int], word: int, stream: Any) -> None:
    """Run a small graph as kernels."""
    for kernel, used in (step if isinstance(step, Made) else _made(step)).kernels:
        own = kernel.buffers[len(kernel.buffers) - kernel.scratch :]
        spaces = [scratch(driver, b.size * b.dtype.itemsize, stream) for b in own]
        places = [*(addresses[k] for k in used), *spaces]
        driver.launch(driver.load(kernel), [*places, word], stream)
        for space in spaces:
            driver.free(space, stream)


def _results(call: Call, driver: Driver, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray] | None:
    """The results, by code for the processor, on simulated devices by the primitive's own rule; None where it fails
    and the call says so in the error word."""
    try:
        if not driver.simulated:
            from nufunc.runtime.cuda.host_code import host_function  # all that compiles

            return host_function(call.prim, [o.type for o in call.operands], call.attrs)(arrays)
        with np.errstate(all="ignore"):
            return primitive.get(call.prim).evaluate([_single(a) for a in arrays], in_single(call.attrs), ())
    except np.linalg.LinAlgError:
        if not call.site:
            raise
        return None


def _single(array: np.ndarray) -> np.ndarray:
    """Halves as what they are computed in."""
    return array.astype(FLOAT32) if is_half(array.dtype) else array


def _by_the_host(call: Call, driver: Driver, addresses: Sequence[int], stream: Any) -> None:
    """Down, computed there, and up again; nothing where something has failed before."""
    count = len(call.operands)
    given = [_fetched(driver, o.type, a, stream) for o, a in zip(call.operands, addresses, strict=False)]
    error = np.zeros(1, np.int32)
    driver.download(error, addresses[-1], stream)
    if error[0]:
        return
    made = _results(call, driver, given)
    if made is None:
        driver.upload(addresses[-1], np.array([call.site], np.int32), stream)
        return
    for operand, address, value in zip(call.results, addresses[count:], made, strict=False):
        if operand.type.size:
            driver.upload(address, np.ascontiguousarray(value, operand.type.dtype), stream)


def _fetched(driver: Driver, type_: ArrayType, address: int, stream: Any) -> np.ndarray:
    array = np.empty(type_.shape, type_.dtype)
    if array.size:
        driver.download(array, address, stream)
    return array

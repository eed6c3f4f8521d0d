"""The process of one library: reads requests, a line of JSON each, and answers each with a line.

    {"first": CASE, "save": FILE}   trace, compile and run; seconds of it, and the results in FILE
    {"time": CASE}                  one round of calls; seconds of a call, the median of the round
    {"memory": CASE}                MB by which calls raise the peak of resident memory, after the first ones

With the name of a case as second argument the process runs that case once and says "done".

An adaptor is a module with these names:

    over_numpy(kind, args)          the workload as a function of NumPy arrays that returns NumPy arrays
    on_device(kind, args)           with BENCH_TARGET=cuda: the workload as a function of arrays on the device, and what
                                    moves a tree of NumPy arrays there, waits for a result, and moves it back
    warm_up()                       compiles something that is no workload
    SKIP, NOTES                     kind -> why it is left out, or how it differs
    PACKAGES                        the distributions whose versions stand in the report
"""

import ctypes
import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import workloads as w

BURST = 0.12  # seconds of a round
ADAPTORS = {"nufunc": "run_nufunc"}  # the others stand in the folder neighbours
INPUTS = 2  # calls go through so many sets of arguments, so that no result can be kept
LIBC = ctypes.CDLL(None) if os.name == "posix" else None
STATUS = Path("/proc/self/status")
ON_DEVICE = os.environ.get("BENCH_TARGET") == "cuda"
clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter


def median_time(call: Callable[..., object], inputs: list[tuple], wait: Callable[[object], object]) -> float:
    """Seconds per call in one round; a slow call is a round by itself. Calls that only queue their work are queued one
    behind the other, and `wait` ends a sample: small ones take what the host takes, large ones what the device takes.
    """
    gc.collect()
    begin = clock()
    wait(call(*inputs[0]))
    once = clock() - begin
    if once > 0.3:
        return once
    begin = clock()
    for args in inputs:
        result = call(*args)
    wait(result)
    repeats = max(1, int(2e-4 / max(clock() - begin, 1e-9)))
    samples, end = [], clock() + BURST
    gc.disable()
    while clock() < end or len(samples) < 3:
        begin = clock()
        for _ in range(repeats):
            for args in inputs:
                result = call(*args)
        wait(result)
        samples.append((clock() - begin) / (repeats * len(inputs)))
    gc.enable()
    return statistics.median(samples)


def resident(field: str) -> float:
    """MB of memory of this process: VmRSS now, VmHWM at its peak."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_growth(call: Callable[..., object], inputs: list[tuple]) -> float | None:
    """MB by which calls raise the peak, results included; None where the system does not tell."""
    if not STATUS.exists():
        return None
    for args in inputs:
        call(*args)
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)  # or freed blocks that the heap keeps would hide what calls need
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present
    before = resident("VmRSS")
    for args in inputs:
        call(*args)
    return max(0.0, resident("VmHWM") - before)


def source(module: object) -> str:
    """Where the package was read from, symbolic links resolved."""
    return str(Path(str(getattr(module, "__file__", ""))).resolve().parent)


class Server:
    def __init__(self, library: str) -> None:
        self.adaptor = importlib.import_module(ADAPTORS.get(library, f"neighbours.run_{library}"))
        self.adaptor.warm_up()
        self.calls: dict[str, Callable[..., object]] = {}
        self.inputs: dict[str, list[tuple]] = {}

    def hello(self) -> dict:
        packages = {name: version(name) for name in ("numpy", *self.adaptor.PACKAGES)}
        sources = {name: source(sys.modules.get(name)) for name in self.adaptor.PACKAGES if name == "nufunc"}
        return {"packages": packages, "sources": sources, "notes": dict(self.adaptor.NOTES)}

    def first(self, name: str, save: str) -> dict:
        case = w.CASES[name]
        if case.kind in self.adaptor.SKIP:
            return {"skip": self.adaptor.SKIP[case.kind]}
        inputs = [case.inputs(seed) for seed in range(INPUTS)]
        gc.collect()
        place = fetch = self.wait = lambda tree: tree
        if ON_DEVICE:
            call, place, self.wait, fetch = self.adaptor.on_device(case.kind, inputs[0])
        inputs = [place(args) for args in inputs]
        self.wait(inputs)
        begin = clock()
        if not ON_DEVICE:
            call = self.adaptor.over_numpy(case.kind, inputs[0])
        result = call(*inputs[0])
        self.wait(result)
        seconds = clock() - begin
        self.calls, self.inputs = {name: call}, {name: inputs}  # one case at a time, or memory would pile up
        np.savez(save, *(np.asarray(leaf) for leaf in w.leaves(fetch(result))))
        return {"seconds": seconds}

    def answer(self, request: dict) -> dict:
        if "first" in request:
            return self.first(request["first"], request["save"])
        if "memory" in request:
            return {"mb": peak_growth(self.calls[request["memory"]], self.inputs[request["memory"]])}
        return {"seconds": median_time(self.calls[request["time"]], self.inputs[request["time"]], self.wait)}


def start_once(library: str, name: str) -> None:
    """The first result of a case in a process that does nothing else."""
    case = w.CASES[name]
    adaptor = importlib.import_module(ADAPTORS.get(library, f"neighbours.run_{library}"))
    args = case.inputs()
    adaptor.over_numpy(case.kind, args)(*args)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with answers
    if len(sys.argv) == 3:
        start_once(*sys.argv[1:])
        print("done", file=answers, flush=True)
        return
    server = Server(sys.argv[1])
    print(json.dumps(server.hello()), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever a library raises becomes the cell of the table
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

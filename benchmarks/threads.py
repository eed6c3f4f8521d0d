"""Measures parallel regions: what one costs, from which size on it pays, and how it bears other work on the cores.

    python benchmarks/threads.py cost [LAYER...]      us of an empty region, also after pauses; CPU time burnt after it
    python benchmarks/threads.py sizes [LAYER...]     us of a memory-bound and a compute-bound loop, one thread and all
    python benchmarks/threads.py shared [LAYER...]    us of a 50 us loop while 0, 1, 2 other processes compute

LAYER: omp, tbb, workqueue (Numba's), pool (nufunc's own); each is measured in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import backend, threads

LAYERS = ("omp", "tbb", "workqueue", "pool")
F64, I64, POINTER = ir.DoubleType(), ir.IntType(64), ir.PointerType()
LANES = 8
VECTOR = ir.VectorType(F64, LANES)
CONSTANT = ir.Constant(VECTOR, [1.5] * LANES)
STEPS = 24  # multiplications and additions per element of the compute-bound loop
SIZE = 1 << 20


def loop(b: ir.IRBuilder, start: Any, stop: Any, step: int, inner: Callable[[Any], None]) -> None:
    before, block, after = b.block, b.function.append_basic_block(), b.function.append_basic_block()
    b.cbranch(b.icmp_signed("<", start, stop), block, after)
    b.position_at_end(block)
    i = b.phi(I64)
    i.add_incoming(start, before)
    inner(i)
    following = b.add(i, I64(step))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, stop), block, after)
    b.position_at_end(after)


def emit_body(module: ir.Module, kind: str) -> ir.Function:
    """y = f(x) over a task's part of n elements, n a multiple of the lanes."""
    body = threads.declare_body(module, f"body_{kind}")
    b = ir.IRBuilder(body.append_basic_block())
    data, task, tasks = body.args
    if kind != "empty":
        x, y, n = threads.unpack(b, data, [POINTER, POINTER, I64])
        units = b.udiv(n, I64(LANES))
        bound = lambda k: b.mul(b.udiv(b.mul(units, k), tasks), I64(LANES))

        def inner(i: Any) -> None:
            value = b.load(b.gep(x, [i], source_etype=F64), typ=VECTOR, align=8)
            done = b.fadd(value, CONSTANT)
            for _ in range(STEPS if kind == "compute" else 0):
                done = b.fadd(b.fmul(done, value), CONSTANT)
            b.store(done, b.gep(y, [i], source_etype=F64), align=8)

        loop(b, bound(task), bound(b.add(task, I64(1))), LANES, inner)
    b.ret_void()
    return body


def build() -> backend.Executable:
    """`void KIND(launch, x, y, n, tasks, repeats)` for each kind of loop."""
    module = ir.Module("threads")
    for kind in ("empty", "memory", "compute"):
        body = emit_body(module, kind)
        type_ = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER, I64, I64, I64])
        function = ir.Function(module, type_, kind)
        b = ir.IRBuilder(function.append_basic_block())
        launch, x, y, n, tasks, repeats = function.args
        data = b.alloca(ir.ArrayType(I64, 3))
        data.type = POINTER
        threads.pack(b, data, [x, y, n])
        region = lambda i, b=b, launch=launch, body=body, data=data, tasks=tasks: threads.emit_region(
            b, launch, body, data, tasks
        )
        loop(b, I64(0), repeats, 1, region)
        b.ret_void()
    return backend.compile_module(str(module), "threads")


class Bench:
    def __init__(self) -> None:
        self.executable = build()
        self.launch = threads.launch_address()
        self.x, self.y = np.zeros(SIZE), np.zeros(SIZE)

    def __call__(
        self, kind: str, n: int, tasks: int, calls: int, repeats: int = 1, pause: float = 0.0
    ) -> np.ndarray[Any, Any]:
        """Microseconds of a region in each of `calls` calls of `repeats` regions."""
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        function = ctypes.CFUNCTYPE(None, *[pointer] * 3, *[word] * 3)(self.executable.address(kind))
        times = []
        for _ in range(calls):
            if pause:
                time.sleep(pause)
            begin = time.perf_counter()
            function(self.launch, self.x.ctypes.data, self.y.ctypes.data, n, tasks, repeats)
            times.append((time.perf_counter() - begin) / repeats)
        return np.array(times) * 1e6


def spread(times: np.ndarray[Any, Any]) -> str:
    parts = {"min": times.min(), "median": np.median(times), "p90": np.quantile(times, 0.9), "mean": times.mean()}
    return "  ".join(f"{name} {value:9.2f}" for name, value in parts.items())


def cost(bench: Bench) -> None:
    bench("empty", 8, 8, 100)
    print("  one after the other ", spread(bench("empty", 8, 8, 200, repeats=100)))
    for pause, calls in ((0.0, 2000), (0.001, 300), (0.02, 50)):
        print(f"  after a pause of {1e3 * pause:2.0f} ms", spread(bench("empty", 8, 8, calls, pause=pause)))
    burnt = []
    for _ in range(20):
        bench("empty", 8, 8, 1)
        begin = time.process_time()
        time.sleep(0.03)
        burnt.append(time.process_time() - begin)
    print(f"  CPU time after a region: {1e3 * np.median(burnt):.2f} ms")


def sizes(bench: Bench) -> None:
    for kind in ("memory", "compute"):
        for n in (1 << e for e in range(10, 21)):
            calls, tasks = max(20, min(200, (1 << 21) // n)), max(2, min(64, n // 512))
            row = [np.median(bench(kind, n, t, calls, repeats=4)) for t in (1, tasks)]
            row += [np.median(bench(kind, n, t, 40, pause=0.002)) for t in (1, tasks)]
            print(
                f"  {kind:8s} {n:8d} elements: one thread {row[0]:8.2f}, all {row[1]:8.2f};"
                f" after a pause of 2 ms {row[2]:8.2f}, {row[3]:8.2f}"
            )


@contextmanager
def competitors(count: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.3)
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def shared(bench: Bench) -> None:
    n = 1 << 15
    for count in (0, 1, 2):
        with competitors(count):
            for name, tasks in (("one thread", 1), ("all threads", 32)):
                print(f"  {count} others, {name:12s}", spread(bench("compute", n, tasks, 1500)))


MODES = {"cost": cost, "sizes": sizes, "shared": shared}


def main(mode: str, *layers: str) -> None:
    if os.environ.get("NUFUNC_BENCHMARK_LAYER"):
        bench = Bench()
        print(f"{os.environ['NUFUNC_BENCHMARK_LAYER']}, {threads.threads().limit} threads", flush=True)
        MODES[mode](bench)
        return
    for layer in layers or LAYERS:
        name, value = ("NUFUNC_THREADING_LAYER", "pool") if layer == "pool" else ("NUMBA_THREADING_LAYER", layer)
        environment = {**os.environ, name: value, "NUFUNC_BENCHMARK_LAYER": layer}
        subprocess.run([sys.executable, __file__, mode], env=environment, check=False)


if __name__ == "__main__":
    main(*sys.argv[1:])

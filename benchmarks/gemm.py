"""Matrix products beside NumPy's, JAX's and torch's, and own kernels beside OpenBLAS's -> results/gemm.md.

python benchmarks/gemm.py                        all sizes, 1 and 2 threads, about six minutes
python benchmarks/gemm.py --kernels [NAME...]    single-threaded kernels alone, GFLOP/s on the terminal

Libraries run in processes of their own, in turn; a time is the least of all calls. OpenBLAS chooses its best kernels
for the processor, whatever the shell pins it to: "Haswell" on an AVX-512 machine would halve its speed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

for setting in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(setting, None)

PAGE = Path(__file__).resolve().parent / "results" / "gemm.md"
LIBRARIES = ("nufunc", "numpy", "jax", "torch")
SIZES = (64, 100, 128, 200, 256, 384, 512, 768, 1000, 1024, 2048)
THREADS = (1, 2)
ROUNDS, BURST = 5, 0.12  # seconds of a burst of calls


# ---- the process of one library ----


def product(library: str, threads: int) -> Any:
    """A function of two NumPy arrays that returns their product; results may stay with the library."""
    if library == "nufunc":
        import nufunc as nf

        nf.set_num_threads(threads)
        return nf.jit(lambda x, y: x @ y)
    if library == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        multiply = jax.jit(lambda x, y: x @ y)
        return lambda x, y: multiply(x, y).block_until_ready()
    if library == "torch":
        import torch

        torch.set_num_threads(threads)
        return lambda x, y: torch.from_numpy(x) @ torch.from_numpy(y)
    import numpy as np

    return np.matmul


def serve(library: str, threads: int) -> None:
    """Answers requests `DTYPE N` with the least time of a call in a burst."""
    import numpy as np

    multiply, kept = product(library, threads), {}
    clock = time.process_time if threads == 1 else time.perf_counter  # one thread's time, however busy the machine is
    for line in sys.stdin:
        dtype, n = line.split()
        if (dtype, n) not in kept:
            rng = np.random.default_rng(int(n))
            arrays = [rng.standard_normal((int(n), int(n))).astype(dtype) for _ in range(2)]
            got, exact = np.asarray(multiply(*arrays)), np.matmul(*arrays)
            assert np.allclose(got, exact, rtol=0, atol=1e-3 if dtype == "f4" else 1e-9), (library, dtype, n)
            kept[dtype, n] = arrays
        arrays, best, end = kept[dtype, n], float("inf"), time.perf_counter() + BURST
        repeats = max(1, 10**7 // int(n) ** 3)
        while time.perf_counter() < end:
            begin = clock()
            for _ in range(repeats):
                multiply(*arrays)
            best = min(best, (clock() - begin) / repeats)
        print(best, flush=True)


class Server:
    def __init__(self, library: str, threads: int) -> None:
        count = str(threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        env = {**os.environ, **dict.fromkeys(names, count), "JAX_PLATFORMS": "cpu"}
        if library == "jax" and threads == 1:
            env["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            env["TF_NUM_INTRAOP_THREADS"] = env["NPROC"] = "1"
        command = [sys.executable, __file__, "--serve", library, count]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, dtype: str, n: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{dtype} {n}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


# ---- the page ----


def table(threads: int, libraries: list[str], sizes: list[int]) -> list[str]:
    lines = ["| dtype, n | nufunc ms | GFLOP/s | " + " | ".join(f"/ {name}" for name in libraries[1:]) + " |"]
    lines += ["| --- " * (len(libraries) + 2) + "|"]
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(Server(name, threads)) for name in libraries}
        for dtype in ("f4", "f8"):
            for n in sizes:
                best = dict.fromkeys(libraries, float("inf"))
                for _ in range(ROUNDS):
                    for name, server in servers.items():
                        best[name] = min(best[name], server.ask(dtype, n))
                own = best["nufunc"]
                ratios = [f"{own / best[other]:.2f}" for other in libraries[1:]]
                name = {"f4": "float32", "f8": "float64"}[dtype]
                row = [f"{name}, {n}", f"{own * 1e3:.4g}", f"{2e-9 * n**3 / own:.0f}"]
                lines.append(f"| {' | '.join([*row, *ratios])} |")
                print(lines[-1], flush=True)
    return lines


def kernel_table(names: list[str]) -> list[str]:
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    from gemm_kernels import CASES, core_name, measure

    lines = [f"OpenBLAS's kernels: {core_name()}.", "", "| product (m, n, k) | own GFLOP/s | OpenBLAS | own / it |"]
    lines.append("| --- | --- | --- | --- |")
    for dtype in ("f32", "f64"):
        for name, case in CASES.items():
            if names and not any(n in name for n in names):
                continue
            own, blas = measure(dtype, case)
            lines.append(f"| {dtype} {name} | {own:.1f} | {blas:.1f} | {own / blas:.2f} |")
            print(lines[-1], flush=True)
    return lines


def page(libraries: list[str], sizes: list[int], numbers: list[int]) -> str:
    parts = ["# Matrix products", ""]
    parts += [
        "Square products of NumPy arrays through the public interface: `nf.jit(lambda x, y: x @ y)`, `np.matmul`,",
        "`jax.jit` and torch, each in a process of its own, in turn; times are the least of all calls. Ratios are of",
        "times (with one thread: CPU times): below 1 nufunc is faster. JAX's and torch's results stay with them.",
        f"Measured {time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.",
    ]
    for threads in numbers:
        parts += ["", f"## {threads} thread{'s' * (threads > 1)}", "", *table(threads, libraries, sizes)]
    parts += ["", "## Kernels on one thread", "", "Calls from compiled code, without Python; ratios are of speeds.", ""]
    return "\n".join([*parts, *kernel_table([])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, metavar=("LIBRARY", "THREADS"))
    parser.add_argument("--kernels", nargs="*", metavar="NAME")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--threads", nargs="*", type=int, default=list(THREADS))
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
    elif options.kernels is not None:
        kernel_table(options.kernels)
    else:
        found = [name for name in LIBRARIES if find_spec(name) is not None]
        options.out.write_text(page(found, options.sizes, options.threads))


if __name__ == "__main__":
    main()

"""Everything that is measured on a CUDA device, in one command -> results/cuda-DEVICE.md.

    python benchmarks/device.py                       all of it
    python benchmarks/device.py --only kernels calls  some of the parts: kernels beside a copy; products, convolutions
                                                      and workloads beside JAX and torch; calls; tests; the sanitizer

    NUFUNC_CUDA_SIMULATOR=1 python benchmarks/device.py --only kernels calls --elements 40960 --out FILE

tries it without a device. Kernels: bytes that an operation must read and write, once, over its time, as a share of what
a copy on the device moves in the same run. Times are of many calls queued one behind the other.
Workloads: those of compare.py at sizes for devices; arrays stay on the device. Tests: the samples of NumPy there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from device_conv import convolutions

import nufunc as nf

HERE = Path(__file__).resolve().parent
BURST = 0.2  # seconds of a sample
PARTS = ("kernels", "products", "convolutions", "calls", "workloads", "tests", "sanitizer")
MARK = 0.9  # share of a copy's bandwidth that is asked of kernels


@dataclass(frozen=True)
class Row:
    """A function of NumPy arrays and its arguments for about n elements of a dtype."""

    name: str
    function: Callable[..., Any]
    arguments: Callable[[int, Any], tuple[Any, ...]]


def _random(shape: Any, dtype: Any) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _vectors(count: int) -> Callable[[int, Any], tuple[Any, ...]]:
    return lambda n, dtype: tuple(_random(n, dtype) for _ in range(count))


def _matrix(columns: int) -> Callable[[int, Any], tuple[Any, ...]]:
    return lambda n, dtype: (_random((max(n // columns, 1), columns), dtype),)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def cross_entropy(logits: Any, labels: Any) -> Any:
    top = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    return np.mean(total - np.take_along_axis(logits, labels[:, None], axis=-1)[:, 0])


def _labelled(n: int, dtype: Any) -> tuple[Any, ...]:
    rows = max(n // 1000, 1)
    return _random((rows, 1000), dtype), np.random.default_rng(1).integers(0, 1000, rows)


ROWS = [
    Row("a + b * c", lambda a, b, c: a + b * c, _vectors(3)),
    Row("tanh(x) exp(-x x) + sin(x) log1p(x x)", lambda x: np.tanh(x) * np.exp(-x * x) + np.sin(x) * np.log1p(x * x),
        _vectors(1)),
    Row("sum", np.sum, _vectors(1)),
    Row("mean and variance", lambda x: (np.mean(x), np.var(x)), _vectors(1)),
    Row("sums of rows of 1000", lambda x: x.sum(axis=1), _matrix(1000)),
    Row("sums of columns of 1000", lambda x: x.sum(axis=0), _matrix(1000)),
    Row("sums of rows of 16", lambda x: x.sum(axis=1), _matrix(16)),
    Row("argmax of rows of 1000", lambda x: np.argmax(x, axis=1), _matrix(1000)),
    Row("softmax of rows of 1000", softmax, _matrix(1000)),
    Row("cross entropy and its gradient", nf.value_and_grad(cross_entropy), _labelled),
    Row("transpose", lambda x: np.ascontiguousarray(x.T), _matrix(4096)),
    Row("row + column", lambda x: x - x[0] - x[:, :1], _matrix(1000)),
    Row("cumulative sum", np.cumsum, _vectors(1)),
    Row("five-point stencil", lambda x: x[1:-1, 1:-1] + 0.2 * (x[2:, 1:-1] + x[:-2, 1:-1] + x[1:-1, 2:] + x[1:-1, :-2]),
        _matrix(4096)),
]  # fmt: skip


def per_call(call: Callable[[], Any], rounds: int = 5, wait: Callable[[], Any] = nf.synchronize) -> float:
    """Seconds per call, the median of samples of calls that are queued and then waited for."""
    call()
    call()
    wait()
    begin = time.perf_counter()
    call()
    wait()
    repeats = max(1, min(10_000, int(BURST / max(time.perf_counter() - begin, 1e-7))))
    samples = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        wait()
        samples.append((time.perf_counter() - begin) / repeats)
    return statistics.median(samples)


def nbytes(tree: Any) -> int:
    if isinstance(tree, tuple):
        return sum(nbytes(part) for part in tree)
    return int(tree.nbytes)


def copy_bandwidth(elements: int) -> float:
    """Bytes per second, read and written, of a copy on the device."""
    source = nf.to_device(np.ones(elements))
    return 2 * source.nbytes / per_call(source.copy)


def kernels(elements: int) -> list[str]:
    limit = copy_bandwidth(elements)
    lines = [
        "## Kernels beside a copy", "",
        f"A copy of {8 * elements >> 20} MB on the device moves {limit / 1e9:.0f} GB/s, read and written.",
        f"Asked: {MARK} of it.", "", "| kernel | dtype | GB/s | share of the copy |", "| --- | --- | ---: | ---: |",
    ]  # fmt: skip
    for row in ROWS:
        for dtype in (np.float64, np.float32):
            count = elements * 8 // np.dtype(dtype).itemsize
            arguments = tuple(nf.to_device(a) for a in row.arguments(count, dtype))
            function = nf.jit(row.function)
            moved = nbytes(arguments) + nbytes(function(*arguments))
            speed = moved / per_call(lambda f=function, a=arguments: f(*a))
            lines.append(f"| {row.name} | {np.dtype(dtype).name} | {speed / 1e9:.0f} | {speed / limit:.2f} |")
            print(lines[-1], flush=True)
    return lines


def _torch_product(a: Any, b: Any) -> float | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    x, y = torch.from_dlpack(a), torch.from_dlpack(b)
    return per_call(lambda: x @ y, wait=torch.cuda.synchronize)


def _jax_product(a: Any, b: Any) -> float | None:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # nufunc and torch have memory of this device, too
    try:
        import jax
    except ImportError:
        return None
    if jax.default_backend() != "gpu":
        return None
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")  # float32, as the others
    x, y = jax.numpy.from_dlpack(a), jax.numpy.from_dlpack(b)
    product, made = jax.jit(jax.numpy.matmul), []

    def call() -> None:
        made[:] = [product(x, y)]

    return per_call(call, wait=lambda: made[0].block_until_ready())


def products(elements: int) -> list[str]:
    """Square matrices in every precision, and in lanes, beside what torch and JAX make of the same memory."""
    lines = ["## Products", "", "TFLOP/s; float32 is not rounded to TF32 by anybody; halves have float32 sums.", ""]
    lines += ["| shape | dtype | nufunc | torch | JAX |", "| --- | --- | ---: | ---: | ---: |"]
    shapes = [(32, 32), (1024, 1024), (4096, 4096), (8192, 8192), (256, 256, 256)]
    for shape in [s for s in shapes if np.prod(s) <= elements]:
        for dtype in (np.float64, np.float32, np.float16, nf.bfloat16):
            a, b = (nf.to_device(_random(shape, np.float32).astype(dtype)) for _ in range(2))
            work = 2.0 * a.size * shape[-1]
            product = nf.jit(np.matmul)
            times = (per_call(lambda f=product, a=a, b=b: f(a, b)), _torch_product(a, b), _jax_product(a, b))
            speeds = " | ".join("" if t is None else f"{work / t / 1e12:.1f}" for t in times)
            lines.append(f"| {'x'.join(map(str, shape))} | {np.dtype(dtype).name} | {speeds} |")
            print(lines[-1], flush=True)
    return lines


def small(x: Any) -> Any:
    return np.sum(np.sin(x) * x)


def calls() -> list[str]:
    """What a call takes where the device has next to nothing to do."""
    x = nf.to_device(np.arange(3.0))
    tree = {f"l{k}": {"w": x, "b": x} for k in range(5)}
    gradient = nf.jit(nf.grad(small))
    out = gradient(x)
    of_tree = nf.jit(nf.grad(lambda t: sum(small(v) for part in t.values() for v in part.values())))
    rows = {
        "gradient of three numbers": lambda: gradient(x),
        "the same, written to `out=`": lambda: gradient(x, out=out),
        "the same, bound": gradient.bind(x),
        "gradient of a tree of ten arrays": lambda: of_tree(tree),
    }
    lines = ["## Calls", "", "Host time of a call of a recorded program; asked: under 10 us.", ""]
    lines += ["| call | us |", "| --- | ---: |"]
    for name, call in rows.items():
        lines.append(f"| {name} | {per_call(call) * 1e6:.1f} |")
        print(lines[-1], flush=True)
    return lines


def workloads(label: str) -> list[str]:
    page = HERE / "results" / f"cuda-{label}-workloads.md"
    command = [sys.executable, str(HERE / "compare.py"), "--target", "cuda", "--rounds", "3", "--out", str(page)]
    done = subprocess.run(command, check=False)
    text = page.read_text() if page.exists() else "nothing was measured"
    end = "" if done.returncode == 0 else "\n\nSome results differ; see the output of compare.py."
    return ["## Workloads", "", f"From [{page.name}]({page.name}):", "", *_tables(text), end]


def _tables(text: str) -> list[str]:
    """The sections of a page that compare times."""
    sections = re.split(r"^## ", text, flags=re.M)[1:]
    kept = [s for s in sections if s.startswith(("Milliseconds", "Geometric"))]
    return [line for s in kept for line in ("### " + s).splitlines()]


def tests() -> list[str]:
    """The samples of NumPy, their lanes and gradients on the device."""
    simulated = "NUFUNC_CUDA_SIMULATOR" in os.environ
    environment = {**os.environ, **({} if simulated else {"NUFUNC_TEST_DEVICE": "hardware"})}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "tests/test_cuda_numpy.py"]
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
    tail = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))][:40]
    return ["## Tests", "", f"`tests/test_cuda_numpy.py`: {done.stdout.strip().splitlines()[-1]}", *tail]


def sanitizer() -> list[str]:
    """A part of the tests under NVIDIA's checker of memory, where it is installed."""
    lines = ["## compute-sanitizer", ""]
    program = shutil.which("compute-sanitizer")
    if program is None:
        return [*lines, "not installed"]
    tests = [sys.executable, "-m", "pytest", "-q", "-x", "tests/test_cuda_numpy.py", "-k", "like_numpy"]
    environment = {**os.environ, "NUFUNC_TEST_DEVICE": "hardware"}
    for tool in ("memcheck", "racecheck", "synccheck"):
        command = [program, "--tool", tool, "--error-exitcode", "7", *tests]
        done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
        said = [line for line in done.stdout.splitlines() if "SUMMARY" in line or "passed" in line or "failed" in line]
        lines += [f"{tool}: exit status {done.returncode}; {' '.join(said[-2:])}", ""]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--elements", type=int, default=1 << 26, help="float64 elements of the kernels' arrays")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = nf.device("cuda:0")
    label = re.sub(r"\W+", "-", device.name.removeprefix("NVIDIA").strip()).lower()
    out = options.out or HERE / "results" / f"cuda-{label}.md"
    when = time.strftime("%Y-%m-%d %H:%M")
    lines = [f"# {device.name}", "", f"nufunc {nf.__version__}, {when}; `python benchmarks/device.py`."]
    makers = {
        "kernels": lambda: kernels(options.elements),
        "products": lambda: products(options.elements),
        "convolutions": lambda: convolutions(options.elements, per_call),
        "calls": calls,
        "workloads": lambda: workloads(label),
        "tests": tests,
        "sanitizer": sanitizer,
    }
    for part in options.only:
        lines += ["", *makers[part]()]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join(lines) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()

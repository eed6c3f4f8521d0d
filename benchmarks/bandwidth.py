"""Memory-bound kernels beside a STREAM-like triad measured in the same run -> results/bandwidth.md.

    python benchmarks/bandwidth.py [--only SUBSTR ...] [--rounds N] [--threads N] [--out FILE]

The triad a = b + s * c is written in Numba, runs on the same threads and writes to a given array, as STREAM's does; one
into a new array stands beside it. Calls of nufunc return new results, or with out= write to given ones. Bytes are
counted as STREAM counts them: what the operation must read and write, once. Kernels, triads and NumPy take turns, and
the least time counts: the machine should be quiet, but a neighbour slows all of them alike. With one thread its own
time is measured, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if "--threads" in sys.argv:
    os.environ["NUMBA_NUM_THREADS"] = sys.argv[sys.argv.index("--threads") + 1]
os.environ.setdefault("NUMBA_NUM_THREADS", "2")

import numba
import numpy as np

import nufunc as nf

HERE = Path(__file__).resolve().parent
LARGE, CACHED = 1 << 23, 1 << 14  # elements of f64 of an operand: 64 MB, and 128 KB, which stay in the second cache
BURST = 0.02  # seconds of one turn
CLOCK = time.thread_time if os.environ["NUMBA_NUM_THREADS"] == "1" else time.perf_counter


@numba.njit(parallel=True, error_model="numpy")
def _triad_into(a: Any, b: Any, c: Any, s: Any) -> None:
    for i in numba.prange(a.size):
        a[i] = b[i] + s * c[i]


@numba.njit(error_model="numpy")
def _triad_one(a: Any, b: Any, c: Any, s: Any) -> None:
    for i in range(a.size):
        a[i] = b[i] + s * c[i]


@dataclass(frozen=True)
class Row:
    """A function of NumPy arrays, and how to make its arguments for `n` elements of a dtype."""

    name: str
    function: Callable[..., Any]
    arguments: Callable[[int, Any], tuple[Any, ...]]


def _random(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _square(n: int) -> tuple[int, int]:
    side = 1 << (n.bit_length() - 1) // 2
    return side, n // side


def _uneven(n: int) -> tuple[int, int]:
    """Sides of a matrix whose rows lie no power of two apart."""
    rows = _square(n)[0] - 48
    return rows, n // rows // 16 * 16


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _cube(n: int) -> tuple[int, int, int]:
    return 16, n // 16 // 64, 64


def _padded(x: Any) -> Any:
    return np.pad(x, 1)


def _stencil(x: Any) -> Any:
    return x[1:-1, 1:-1] * 4.0 - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]


ROWS = (
    Row("a + b * c", lambda a, b, c: a + b * c, lambda n, t: tuple(_random((n,), t) for _ in range(3))),
    Row("copy: 2 * a", lambda a: a * 2.0, lambda n, t: (_random((n,), t),)),
    Row(
        "row + column",
        lambda r, c: r + c,
        lambda n, t: (_random((1, _square(n)[1]), t), _random((_square(n)[0], 1), t)),
    ),
    Row(
        "matrix + row * column",
        lambda a, r, c: a + r * c,
        lambda n, t: (_random(_square(n), t), _random((1, _square(n)[1]), t), _random((_square(n)[0], 1), t)),
    ),
    Row("exp", lambda x: np.exp(x), lambda n, t: (_random((n,), t),)),
    Row("row softmax", _softmax, lambda n, t: (_random((n // 256, 256), t),)),
    Row("column sums", lambda x: x.sum(axis=0), lambda n, t: (_random(_square(n), t),)),
    Row("row sums", lambda x: x.sum(axis=1), lambda n, t: (_random(_square(n), t),)),
    Row("sums over (0, 2)", lambda x: x.sum(axis=(0, 2)), lambda n, t: (_random(_cube(n), t),)),
    Row("sum", lambda x: x.sum(), lambda n, t: (_random((n,), t),)),
    Row("transpose", lambda x: x.T.copy(), lambda n, t: (_random(_square(n), t),)),
    Row("transpose, odd sides", lambda x: x.T.copy(), lambda n, t: (_random(_uneven(n), t),)),
    Row(
        "concatenate",
        lambda a, b: np.concatenate([a, b], axis=1),
        lambda n, t: tuple(_random((_square(n)[0], _square(n)[1] // 2), t) for _ in range(2)),
    ),
    Row("pad", _padded, lambda n, t: (_random(_square(n), t),)),
    Row("slice", lambda x: x[1:-1, 3:-3].copy(), lambda n, t: (_random(_square(n), t),)),
    Row("every second column", lambda x: x[:, ::2] + 1.0, lambda n, t: (_random(_square(n), t),)),
    Row("stencil", _stencil, lambda n, t: (_random(_square(n), t),)),
)


def touched(row: Row, arguments: tuple[Any, ...], result: Any) -> int:
    """Bytes that must be read or written."""
    return sum(a.nbytes for a in arguments) + np.asarray(result).nbytes


def least(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The least time of each, taking turns."""
    times = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            start = CLOCK()
            call()
            count = max(1, int(BURST / 4 / max(CLOCK() - start, 1e-7)))
            for _ in range(4):
                start = CLOCK()
                for _ in range(count):
                    call()
                times[name] = min(times[name], (CLOCK() - start) / count)
    return times


def measure(row: Row, n: int, dtype: Any, rounds: int) -> dict[str, float]:
    """GB/s of a row and of what stands beside it."""
    arguments = row.arguments(n, dtype)
    compiled = nf.jit(row.function)
    result = compiled(*arguments)
    expected = row.function(*arguments)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    size = max(n * np.dtype(dtype).itemsize // 8, 1)
    a, b, c = np.zeros(size), np.ones(size), np.ones(size)
    triad = _triad_into if size > 2 * CACHED else _triad_one
    out = np.empty(np.shape(result), np.asarray(result).dtype)

    def fresh() -> Any:
        made = np.empty_like(b)
        triad(made, b, c, 3.0)
        return made

    times = least(
        {
            "nufunc": lambda: compiled(*arguments), "out": lambda: compiled(*arguments, out=out),
            "triad": lambda: triad(a, b, c, 3.0), "fresh": fresh, "numpy": lambda: row.function(*arguments),
        },
        rounds,
    )  # fmt: skip
    moved = touched(row, arguments, result)
    speeds = {k: (3 * a.nbytes if k in ("triad", "fresh") else moved) / t / 1e9 for k, t in times.items()}
    return {**speeds, "share": speeds["nufunc"] / speeds["triad"]}


NOTES = """What bounds a row beside memory:

- cached: a line that is written moves twice, into the first cache and back, one that is read once. So what only writes
  (row + column) can reach two thirds of the triad, a copy eight ninths; and what takes a microsecond pays some tenths
  of one for the call.
- row softmax: the row `exp` does nothing else than its exponentials. A softmax evaluates as many, and besides goes
  through each row for the maximum and once more to divide.
- transpose: rows that lie a power of two apart push each other out of the caches; the row with odd sides has none.
- stencil: all five operands lie across lines of the cache, and so take two accesses each."""


def page(found: list[tuple[str, str, str, dict[str, float]]]) -> str:
    threads = "1 thread" if numba.get_num_threads() == 1 else f"{numba.get_num_threads()} threads"
    lines = [
        "# Memory-bound kernels",
        "",
        f"GB/s, counted as STREAM counts: what must be read and written, once. {threads},",
        f"load {os.getloadavg()[0]:.1f} at the end (neighbours take what they like, now here, now there).",
        "Written by benchmarks/bandwidth.py, which says what is compared. `share` is the part that a call of nufunc,",
        "which returns a new array, reaches of the triad into a given array.",
        "",
        "| kernel | dtype | size | nufunc | out= | triad, given array | triad, new array | NumPy | share | of NumPy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [table_line(*row) for row in found]
    return "\n".join([*lines, "", NOTES]) + "\n"


def table_line(name: str, dtype: str, size: str, s: dict[str, float]) -> str:
    speeds = " | ".join(f"{s[k]:.1f}" for k in ("nufunc", "out", "triad", "fresh", "numpy"))
    return f"| {name} | {dtype} | {size} | {speeds} | {s['share']:.2f} | {s['nufunc'] / s['numpy']:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", default=["large", "cached"])
    parser.add_argument("--dtypes", nargs="*", default=["float64", "float32"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", default=str(HERE / "results" / "bandwidth.md"))
    options = parser.parse_args()
    found = []
    for size in options.sizes:
        for dtype in options.dtypes:
            for row in ROWS:
                if options.only and not any(part in row.name for part in options.only):
                    continue
                n = (LARGE if size == "large" else CACHED) * 8 // np.dtype(dtype).itemsize
                speeds = measure(row, n, dtype, options.rounds)
                found.append((row.name, dtype, size, speeds))
                print(table_line(*found[-1]), flush=True)
    if not options.only:
        Path(options.out).write_text(page(found))


if __name__ == "__main__":
    main()

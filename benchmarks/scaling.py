"""Cost against size: nodes of a graph, elements of an array, a batch, depth of transforms; a table and a picture.

    python benchmarks/scaling.py [--libraries nufunc jax numpy] [--series nodes arrays batch depth] [--largest N]

Each curve is measured in a process of its own, from the smallest size on, and ends at the first point that
takes longer than the limit. Writes results/scaling.md and results/scaling.png beside this file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import report
import workloads as w
from library import HERE, environment
from serve import median_time

LIMIT = 30.0  # seconds of one point after which a curve ends
LIBRARIES = ("nufunc", "jax", "numpy")


# ---- a library as far as the curves need it ----


@dataclass(frozen=True)
class Toolkit:
    """A NumPy namespace and the transforms over it; `numpy` has no transforms."""

    np: Any
    jit: Callable
    grad: Callable | None = None
    vmap: Callable | None = None
    batched: str = ""  # the keyword of vmap that names axes


def toolkit(name: str) -> Toolkit:
    if name == "numpy":
        return Toolkit(np, lambda func: func)
    if name == "nufunc":
        import nufunc as nf

        return Toolkit(np, nf.jit, nf.grad, nf.vmap, "in_dims")
    import jax

    jax.config.update("jax_enable_x64", True)

    def jit(func: Callable) -> Callable:
        compiled = jax.jit(func)
        return lambda *args: w.tmap(np.asarray, compiled(*args))

    return Toolkit(jax.numpy, jit, jax.grad, jax.vmap, "in_axes")


# ---- the curves: each yields (size, function, arguments), smallest first ----

Point = tuple[int, Callable, Callable[[int], tuple]]


def recurrence(nodes: int) -> Callable:
    """Two arrays that depend on each other, four operations a step, over 16 numbers."""

    def func(x: Any) -> Any:
        y = x
        for _ in range(nodes // 4):
            x, y = x * 0.75 + y, x - y * 0.25
        return x + y

    return func


def vectors(n: int) -> Callable[[int], tuple]:
    return lambda seed: (np.random.default_rng(seed).standard_normal(n),)


NODES = (100, 300, 1000, 3000, 10_000, 20_000)


def nodes(kit: Toolkit) -> Iterator[Point]:
    for n in NODES:
        yield n, kit.jit(recurrence(n)), vectors(16)


def nodes_grad(kit: Toolkit) -> Iterator[Point]:
    for n in NODES:
        func = recurrence(n)
        yield n, kit.jit(kit.grad(lambda x, func=func: kit.np.sum(func(x) ** 2))), vectors(16)


def arrays(kit: Toolkit) -> Iterator[Point]:
    lib = kit.np

    def chain(x: Any) -> Any:
        return lib.tanh(x) * lib.exp(-x * x) + lib.sin(x) * lib.log1p(x * x)

    for n in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000):
        yield n, kit.jit(chain), vectors(n)


def batch(kit: Toolkit) -> Iterator[Point]:
    lib = kit.np

    def loss(params: dict, x: Any, y: Any) -> Any:
        return lib.mean((lib.tanh(x @ params["W1"] + params["b1"]) @ params["W2"] + params["b2"] - y) ** 2)

    def points(n: int, seed: int) -> tuple:
        rng = np.random.default_rng(seed)
        return w.layers(rng, 4, 16, 1), w.single(rng.standard_normal((n, 4))), w.single(rng.standard_normal((n, 1)))

    for n in (1, 4, 16, 64, 256, 1024, 4096, 16384):
        per_sample = kit.vmap(kit.grad(loss), **{kit.batched: (None, 0, 0)})
        yield n, kit.jit(per_sample), lambda seed, n=n: points(n, seed)


def depth_grad(kit: Toolkit) -> Iterator[Point]:
    def func(x: Any) -> Any:
        return kit.np.sin(x) * kit.np.exp(0.5 * x)

    for k in range(1, 9):
        func = kit.grad(func)
        yield k, kit.jit(func), lambda seed: (np.random.default_rng(seed).standard_normal(()),)


def depth_vmap(kit: Toolkit) -> Iterator[Point]:
    def func(x: Any) -> Any:
        return kit.np.sum(kit.np.sin(x) * x)

    for k in range(1, 9):
        func = kit.vmap(func)
        yield k, kit.jit(func), lambda seed, k=k: (np.random.default_rng(seed).standard_normal((2,) * (k + 1)),)


@dataclass(frozen=True)
class Curve:
    points: Callable[[Toolkit], Iterator[Point]]
    figure: str  # "first" or "call"
    title: str
    axis: str

    def fits(self, library: str) -> bool:
        return library != "numpy" or self.points is arrays


CURVES = {
    "nodes": Curve(nodes, "first", "elementwise operations in one function", "nodes"),
    "nodes_grad": Curve(nodes_grad, "first", "the gradient of that function", "nodes"),
    "arrays": Curve(arrays, "call", w.CHAIN, "elements"),
    "batch": Curve(batch, "call", "vmap(grad) of a small network", "samples"),
    "depth_grad": Curve(depth_grad, "first", "grad of grad of ...", "grads"),
    "depth_vmap": Curve(depth_vmap, "first", "vmap of vmap of ...", "vmaps"),
}
FIGURES = {"first": "seconds of the first call", "call": "seconds of a call"}


def measure(library: str, curve: Curve, largest: int | None) -> Iterator[dict]:
    kit = toolkit(library)
    kit.jit(lambda x: x - 1)(np.ones(7))  # a process that has compiled something before
    for size, func, arguments in curve.points(kit):
        if largest and size > largest:
            return
        inputs = [arguments(0), arguments(1)]
        begin = time.perf_counter()
        func(*inputs[0])
        first = time.perf_counter() - begin
        yield {"size": size, "first": first, "call": median_time(func, inputs)}
        if first > LIMIT:
            return


# ---- the parent ----


def run(library: str, name: str, largest: int | None) -> list[dict]:
    """The points of one curve, from a process of its own; those before an error or the limit."""
    command = [sys.executable, __file__, "--serve", library, name, str(largest or 0)]
    points = []
    with tempfile.TemporaryDirectory() as cache:
        try:
            done = subprocess.run(
                command, env=environment(Path(cache)), capture_output=True, text=True, timeout=6 * LIMIT, check=False
            )
            out, error = done.stdout, done.stderr
        except subprocess.TimeoutExpired as expired:
            out, error = (expired.stdout or b"").decode(), "time limit"
    points = [json.loads(line) for line in out.splitlines()]
    if error:
        points.append({"ended": error.strip().splitlines()[-1][:160]})
    return points


def tables(results: dict) -> list[str]:
    lines = []
    for name, by_library in results.items():
        curve = CURVES[name]
        columns = {library: {p["size"]: p for p in points if "size" in p} for library, points in by_library.items()}
        sizes = sorted({size for column in columns.values() for size in column})
        body = [
            [str(size)]
            + [report.number(1e3 * c[size][curve.figure]) if size in c else "-" for c in columns.values()]
            for size in sizes
        ]
        unit = FIGURES[curve.figure].replace("seconds", "milliseconds")
        lines += ["", f"## {curve.title}: {unit}", "", *report.table([curve.axis, *columns], body)]
        for library, points in by_library.items():
            lines += [f"\n{library} ended: {p['ended']}" for p in points if "ended" in p]
    return lines


def picture(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.5), squeeze=True)
    for axis, (name, by_library) in zip(axes.flat, results.items(), strict=False):
        curve = CURVES[name]
        for library, points in by_library.items():
            shown = [p for p in points if "size" in p]
            axis.plot([p["size"] for p in shown], [p[curve.figure] for p in shown], marker=".", label=library)
        if not name.startswith("depth"):
            axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set(title=curve.title, xlabel=curve.axis, ylabel=FIGURES[curve.figure])
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, help="default: those that are installed")
    parser.add_argument("--series", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--largest", type=int, help="leave out larger sizes")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scaling.md")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        library, name, largest = options.serve
        for point in measure(library, CURVES[name], int(largest)):
            print(json.dumps(point), flush=True)
        return
    libraries = options.libraries or [name for name in LIBRARIES if find_spec(name)]
    results: dict[str, dict] = {}
    for name in options.series:
        results[name] = {k: run(k, name, options.largest) for k in libraries if CURVES[name].fits(k)}
        print(time.strftime("%H:%M:%S"), name, flush=True)
    page = ["# Cost against size", "", f"{report.machine()}. First calls trace, compile and run, with nothing on disk."]
    page += ["", f"![curves]({options.out.stem}.png)", *tables(results)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(page) + "\n")
    picture(results, options.out.with_suffix(".png"))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

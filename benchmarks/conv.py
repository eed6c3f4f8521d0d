"""Convolutions beside torch, torch.compile and JAX, modules beside torch.func, in one process -> results/conv.md.

python benchmarks/conv.py [--threads N] [--print] [NAME...]

Calls of all libraries take turns; a time is the least of all calls. With --print, or for some rows alone, the page
stays as it is.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for setting in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(setting, None)

import numpy as np  # noqa: E402

PAGE = Path(__file__).resolve().parent / "results" / "conv.md"
LIBRARIES = ("nufunc", "torch", "torch.compile", "jax")
ROUNDS, BURST = 12, 0.02  # seconds of a burst of calls

# name: shape of x, shape of the weight, options as torch names them
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "8x3x32x32, 16 of 3x3": ((8, 3, 32, 32), (16, 3, 3, 3), {"padding": 1}),
    "32x64x28x28, 64 of 3x3": ((32, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
    "the same, stride 2": ((32, 64, 28, 28), (64, 64, 3, 3), {"padding": 1, "stride": 2}),
    "the same, depthwise": ((32, 64, 28, 28), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    "the same, 128 of 1x1": ((32, 64, 28, 28), (128, 64, 1, 1), {}),
    "16x256x7x7, 256 of 3x3": ((16, 256, 7, 7), (256, 256, 3, 3), {"padding": 1}),
    "4x3x112x112, 32 of 7x7, stride 2": ((4, 3, 112, 112), (32, 3, 7, 7), {"padding": 3, "stride": 2}),
    "32x16x200, 32 of 5": ((32, 16, 200), (32, 16, 5), {"padding": 2}),
}
SIZES = ("float32", "float64")


def convolution(name: str, dtype: str) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
    shape, weight, options = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    return tuple((rng.standard_normal(s) / 8).astype(dtype) for s in (shape, weight)), options


def nufunc_calls(name: str, dtype: str) -> dict[str, Callable[[], Any]]:
    import nufunc as nf

    (x, w), options = convolution(name, dtype)
    dims = x.ndim - 2
    conv = getattr(nf.nn.functional, f"conv{dims}d")
    forward = nf.jit(lambda x, w: conv(x, w, **options))
    gradient = nf.grad(lambda x, w: (conv(x, w, **options) ** 2).sum(), argnums=(0, 1))
    return {"forward": lambda: forward(x, w), "gradient": lambda: gradient(x, w)}


def torch_calls(name: str, dtype: str, compiled: bool) -> dict[str, Callable[[], Any]]:
    import torch

    arrays, options = convolution(name, dtype)
    x, w = map(torch.from_numpy, arrays)
    conv = getattr(torch.nn.functional, f"conv{x.dim() - 2}d")
    leaves = [v.clone().requires_grad_() for v in (x, w)]

    def value(x: Any, w: Any) -> Any:
        return conv(x, w, **options)

    def loss(x: Any, w: Any) -> Any:
        return (value(x, w) ** 2).sum()

    if compiled:
        torch._dynamo.reset()  # it gives up after eight shapes
        value_, loss_ = torch.compile(value), torch.compile(loss)
    else:
        value_, loss_ = value, loss
    return {"forward": lambda: value_(x, w), "gradient": lambda: torch.autograd.grad(loss_(*leaves), leaves)}


def jax_calls(name: str, dtype: str) -> dict[str, Callable[[], Any]]:
    import jax

    jax.config.update("jax_enable_x64", True)
    arrays, options = convolution(name, dtype)
    x, w = map(jax.numpy.asarray, arrays)
    dims = x.ndim - 2

    def value(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, w, (options.get("stride", 1),) * dims, [(options.get("padding", 0),) * 2] * dims,
            feature_group_count=options.get("groups", 1),
        )  # fmt: skip

    forward = jax.jit(value)
    gradient = jax.jit(jax.grad(lambda x, w: (value(x, w) ** 2).sum(), (0, 1)))
    return {
        "forward": lambda: forward(x, w).block_until_ready(),
        "gradient": lambda: jax.block_until_ready(gradient(x, w)),
    }


def calls(library: str, name: str, dtype: str) -> dict[str, Callable[[], Any]]:
    if library == "nufunc":
        return nufunc_calls(name, dtype)
    if library == "jax":
        return jax_calls(name, dtype)
    return torch_calls(name, dtype, library == "torch.compile")


def least_times(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of one call of each, taking turns."""
    best: dict[str, float] = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        best[name] = time.perf_counter() - start
    for _ in range(ROUNDS):
        for name, function in functions.items():
            until = time.perf_counter() + BURST
            while True:
                start = time.perf_counter()
                function()
                end = time.perf_counter()
                best[name] = min(best[name], end - start)
                if end >= until:
                    break
    return best


def agree(results: dict[str, Any], dtype: str) -> None:
    """That all libraries computed the same numbers."""
    flat = {k: [np.asarray(v) for v in (r if isinstance(r, tuple | list) else (r,))] for k, r in results.items()}
    for k, arrays in flat.items():
        for mine, other in zip(flat["nufunc"], arrays, strict=True):
            scale = float(np.abs(other).max())
            np.testing.assert_allclose(mine, other, atol=scale * (1e-4 if dtype == "float32" else 1e-10), err_msg=k)


def row(name: str, dtype: str) -> list[str]:
    lines = []
    made = {library: calls(library, name, dtype) for library in LIBRARIES}
    for what in ("forward", "gradient"):
        functions = {library: found[what] for library, found in made.items()}
        agree({k: f() for k, f in functions.items()}, dtype)
        times = least_times(functions)
        others = min(t for k, t in times.items() if k != "nufunc")
        cells = [f"{times[k] * 1e3:.3g}" for k in LIBRARIES]
        lines.append(f"| {name} | {dtype} | {what} | {' | '.join(cells)} | {times['nufunc'] / others:.2f} |")
        print(lines[-1], flush=True)
    return lines


# ---- modules, by functional_call, beside torch.func on torch's modules ----


def network(n: Any, *widths: int) -> Any:
    """Linear layers with ReLU between them, of nf.nn or torch.nn."""
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (n.Linear(a, b), n.ReLU())]
    return n.Sequential(*layers[:-1])


def convolutional(n: Any) -> Any:
    parts = (n.Conv2d(1, 8, 3, 2, 1), n.ReLU(), n.Conv2d(8, 16, 3, 2, 1), n.ReLU(), n.Flatten(), n.Linear(784, 10))
    return n.Sequential(*parts)


def encoder(n: Any) -> Any:
    return n.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def labels(n: int, classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, n)


# name: the model, its inputs, and what is computed
MODULES: dict[str, tuple[Callable[[Any], Any], tuple[np.ndarray, ...], str]] = {
    "3 small linear layers on (4, 8)": (lambda n: network(n, 8, 16, 16, 4), (random(4, 8),), "forward"),
    "gradient of the same": (lambda n: network(n, 8, 16, 16, 4), (random(4, 8), labels(4, 4)), "gradient"),
    "64-128-128-10, 64 examples": (
        lambda n: network(n, 64, 128, 128, 10), (random(64, 64), labels(64, 10)), "per sample",
    ),
    "8 models 64-128-128-10, 64 examples": (lambda n: network(n, 64, 128, 128, 10), (random(64, 64),), "ensemble"),
    "convolutional network, 32 images": (convolutional, (random(32, 1, 28, 28), labels(32, 10)), "per sample"),
    "transformer layer, (8, 64, 128)": (encoder, (random(8, 64, 128),), "squares"),
    "784-512-512-10, 256 examples": (
        lambda n: network(n, 784, 512, 512, 10), (random(256, 784), labels(256, 10)), "training step",
    ),
}  # fmt: skip


def module_call(name: str, torch_side: bool) -> Callable[[], Any]:
    """A call of a row of MODULES, by nufunc or by torch.func."""
    import torch

    import nufunc as nf

    make, arrays, what = MODULES[name]
    torch.manual_seed(0)
    theirs = make(torch.nn)
    params = {k: p.detach() for k, p in theirs.named_parameters()}
    if torch_side:
        f, n, model = torch.func, torch.nn, theirs
        inputs: tuple[Any, ...] = tuple(map(torch.from_numpy, arrays))
        call = lambda p, x: f.functional_call(model, p, (x,))
        value_and_grad = lambda g: lambda p: f.grad_and_value(g)(p)[::-1]
        stacked = {k: torch.stack([p * (1 + i) for i in range(8)]) for k, p in params.items()}
        compiled = lambda g: g
    else:
        f, n, model = nf, nf.nn, make(nf.nn)
        params, inputs = {k: p.numpy().copy() for k, p in params.items()}, arrays
        call = lambda p, x: nf.functional_call(model, p, x)
        value_and_grad = nf.value_and_grad
        stacked = {k: np.stack([p * np.float32(1 + i) for i in range(8)]) for k, p in params.items()}
        compiled = nf.jit
    entropy = n.functional.cross_entropy
    if what == "forward":
        forward = compiled(call)
        return lambda: forward(params, *inputs)
    if what == "ensemble":
        mapped = f.vmap(call, in_dims=(0, None))
        return lambda: mapped(stacked, *inputs)
    if what == "squares":
        squares = compiled(lambda p, x: value_and_grad(lambda p: (call(p, x) ** 2).mean())(p))
        return lambda: squares(params, *inputs)
    if what == "gradient":
        gradient = f.grad(lambda p, x, y: entropy(call(p, x), y))
        return lambda: gradient(params, *inputs)
    if what == "per sample":
        each = f.vmap(f.grad(lambda p, x, y: entropy(call(p, x[None]), y[None])), in_dims=(None, 0, 0))
        return lambda: each(params, *inputs)

    def step(p: Any, x: Any, y: Any) -> Any:
        value, gradient = value_and_grad(lambda p: entropy(call(p, x), y))(p)
        return value, {k: p[k] - 0.1 * gradient[k] for k in p}

    trained = compiled(step)
    return lambda: trained(params, *inputs)


def module_row(name: str) -> str:
    import torch

    functions = {"nufunc": module_call(name, False), "torch.func": module_call(name, True)}
    results = {k: _leaves(f()) for k, f in functions.items()}
    for mine, other in zip(results["nufunc"], results["torch.func"], strict=True):
        found = other.detach().numpy() if isinstance(other, torch.Tensor) else np.asarray(other)
        np.testing.assert_allclose(mine, found, rtol=1e-3, atol=1e-3 * float(np.abs(found).max() + 1e-6))
    with torch.no_grad():
        times = least_times(functions)
    mine, other = (times[k] * 1e3 for k in ("nufunc", "torch.func"))
    line = f"| {name} | {MODULES[name][2]} | {mine:.3g} | {other:.3g} | {mine / other:.3f} |"
    print(line, flush=True)
    return line


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in _leaves(tree[key])]
    return [leaf for item in tree for leaf in _leaves(item)] if isinstance(tree, tuple | list) else [tree]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="parts of names of rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--print", action="store_true")
    chosen = parser.parse_args()

    import torch

    import nufunc as nf

    torch.set_num_threads(chosen.threads)
    nf.set_num_threads(chosen.threads)
    names = [n for n in CONVOLUTIONS if not chosen.names or any(part in n for part in chosen.names)]
    modules = [n for n in MODULES if not chosen.names or any(part in n for part in chosen.names)]
    calls_of_modules = [module_row(name) for name in modules]
    lines = [line for name in names for dtype in SIZES for line in row(name, dtype)]
    if chosen.print or chosen.names:
        return
    threads = f"{chosen.threads} thread{'s' * (chosen.threads > 1)}"
    head = f"""# Convolutions beside torch, torch.compile and JAX

Milliseconds of a call with {threads}, the least of many that took turns with those of the others;
`python benchmarks/conv.py` writes this page. The last column is nufunc's time in that of the fastest other. The
gradient is that of the sum of squares in x and in the weight. JAX uses the threads that it finds.

| | dtype | | {' | '.join(LIBRARIES)} | ratio |
|---|---|---|{'---|' * (len(LIBRARIES) + 1)}
"""
    tail = """
## Modules by functional_call beside torch.func

| | | nufunc | torch.func | ratio |
|---|---|---|---|---|
"""
    PAGE.write_text("\n".join([head + "\n".join(lines), tail + "\n".join(calls_of_modules), ""]))


if __name__ == "__main__":
    main()

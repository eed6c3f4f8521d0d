"""The workloads: 23 pieces of mathematics in 40 cases, with their sizes and arguments; no library but NumPy.

    python benchmarks/workloads.py        lists them

Those labelled `gpu`, for devices, are 16 to 64 times as large as the largest of their kind; the rest is for CPUs, and
what does not grow for both.

A function below makes the arguments of one workload, or of several over the same arguments; a decorator says
what an adaptor computes from them (the lowest of several comes first in the tables). Trees of arrays are
nested dicts, lists and tuples. Numbers that belong to the mathematics are constants of this module, so that
every adaptor uses the same ones.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

LAM = 0.1  # weight of the L2 term of the logistic regression
LORENZ = {"sigma": 10.0, "rho": 28.0, "beta": 8.0 / 3.0, "dt": 0.01, "steps": 1000}
NBODY_EPS2 = 0.01  # softening, squared
HEAT = {"alpha": 0.2, "steps": 200}
MANDEL_ITERS = 100
MAML_ALPHA = 0.1  # step of the inner loop
SGD_LR = 0.01
HEADS = 4

TOLERANCE = {"float64": 1e-9, "float32": 2e-4, "int64": 1e-3}  # of the largest element; integers: share that differs
CHAOTIC = {"rk4_value": 1e-7, "rk4_grad": 1e-6}  # a thousand steps magnify the last bit some ten thousand times


def tmap(func: Callable[..., Any], *trees: Any) -> Any:
    """The tree of func over the leaves of trees of one structure."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: tmap(func, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(tmap(func, *parts) for parts in zip(*trees, strict=True))
    return func(*trees)


def leaves(tree: Any) -> list[Any]:
    """The leaves, dicts in the order of their keys."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    if isinstance(tree, list | tuple):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


@dataclass(frozen=True)
class Case:
    """One row of the tables: a kind of workload at one size."""

    kind: str
    label: str
    task: str
    make: Callable[[np.random.Generator], tuple]

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.label}"

    def inputs(self, seed: int = 0) -> tuple:
        """The arguments; those of different seeds have the same shapes."""
        return tmap(np.ascontiguousarray, self.make(np.random.default_rng(seed)))

    def tolerance(self, dtype: np.dtype) -> float:
        return CHAOTIC.get(self.kind, TOLERANCE[str(dtype)])


CASES: dict[str, Case] = {}
ANYWHERE = ("small_calls", "small_calls_tree", "jacrev_mlp", "jacfwd_mlp")  # on devices too, as they are
Maker = Callable[..., tuple]


def workload(kind: str, task: str, **sizes: Any) -> Callable[[Maker], Maker]:
    """Registers a case of `kind` for each size; the decorated function is called with the generator and the size."""

    def register(maker: Maker) -> Maker:
        for label, size in sizes.items():
            case = Case(kind, label, task, lambda rng, size=size: maker(rng, size))
            CASES[case.name] = case
        return maker

    return register


def select(parts: Iterable[str] | None, target: str = "cpu") -> list[Case]:
    """The cases of a target whose name contains one of the parts; all without parts."""
    wanted = list(parts or [""])
    known = [case for case in CASES.values() if case.kind in ANYWHERE or (case.label == "gpu") == (target == "cuda")]
    return [case for case in known if any(part in case.name for part in wanted)]


def single(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)


def layers(rng: np.random.Generator, *widths: int, stack: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Parameters W1, b1, W2, b2, ... of a network of these widths, or of a stack of such networks."""
    params = {}
    for i, (before, after) in enumerate(pairwise(widths), 1):
        params[f"W{i}"] = single(rng.standard_normal((*stack, before, after)) / np.sqrt(before))
        params[f"b{i}"] = single(0.1 * rng.standard_normal((*stack, after)))
    return params


# ---- elementwise, float64 ----

CHAIN = "tanh(x) exp(-x x) + sin(x) log1p(x x)"


@workload("grad_chain", f"gradient of the sum of {CHAIN}", large=1_000_000, small=100, gpu=64_000_000)
@workload("elementwise_chain", CHAIN, large=1_000_000, small=100, gpu=64_000_000)
def vector(rng, n):
    return (rng.standard_normal(n),)


# ---- logistic regression, float64 ----

LOSS = "mean(log(1 + exp(-y (X w)))) + L2 term"


def regression(rng, n, d):
    features = rng.standard_normal((n, d))
    weights = rng.standard_normal(d) / np.sqrt(d)
    signs = np.where(features @ weights + rng.standard_normal(n) > 0, 1.0, -1.0)
    return 0.5 * weights, features, signs


@workload("logreg_grad", f"gradient of {LOSS}", large=(10_000, 100), small=(50, 5), gpu=(640_000, 100))
def regression_arguments(rng, size):
    return regression(rng, *size)


@workload("hvp", f"Hessian of {LOSS} by a vector, jvp of grad", large=(10_000, 100), small=(50, 5), gpu=(640_000, 100))
def regression_with_vector(rng, size):
    weights, features, signs = regression(rng, *size)
    return weights, rng.standard_normal(size[1]), features, signs


# ---- small networks, float32 ----


@workload(
    "per_sample_grads_mlp", "vmap over samples of the gradient of the cross entropy, relu 784-128-10",
    large=64, gpu=2048,
)  # fmt: skip
def images(rng, n):
    return layers(rng, 784, 128, 10), single(rng.standard_normal((n, 784))), rng.integers(0, 10, n)


@workload(
    "per_sample_grads_tanh", "vmap over samples of the gradient of the squared error, tanh 4-16-1",
    small=32, gpu=2048,
)  # fmt: skip
def points(rng, n):
    params = layers(rng, 4, 16, 1)
    return params, single(rng.standard_normal((n, 4))), single(rng.standard_normal((n, 1)))


@workload("ensemble_grad", "vmap over relu networks of loss and gradient over images", large=(10, 64), gpu=(40, 1024))
@workload("ensemble_fwd", "vmap over relu networks 784-128-10 of the logits of images", large=(10, 64), gpu=(40, 1024))
def ensemble(rng, size):
    networks, n = size
    params = layers(rng, 784, 128, 10, stack=(networks,))
    return params, single(rng.standard_normal((n, 784))), rng.integers(0, 10, n)


@workload("jacfwd_mlp_vmap", "the same for many rows", batch64=64, gpu=4096)
@workload("jacfwd_mlp", "jacfwd of a tanh network 32-64-64-32", one=None)
@workload("jacrev_mlp_vmap", "the same for many rows", batch64=64, gpu=4096)
@workload("jacrev_mlp", "jacrev of a tanh network 32-64-64-32", one=None)
def network_and_point(rng, batch):
    shape = (32,) if batch is None else (batch, 32)
    return layers(rng, 32, 64, 64, 32), single(rng.standard_normal(shape))


# ---- second order ----


@workload("hessian_rosenbrock", "Hessian of Rosenbrock's function, float64", N100=100, N5=5, gpu=1600)
def rosenbrock_point(rng, n):
    return (rng.standard_normal(n),)


@workload("maml_sine", "MAML: loss and gradient through one inner step, 1-40-40-1, float32", t25=25, gpu=1600)
def sines(rng, tasks):
    amplitude, phase = rng.uniform(0.1, 5, (tasks, 1, 1)), rng.uniform(0, np.pi, (tasks, 1, 1))
    near, far = rng.uniform(-5, 5, (2, tasks, 10, 1))
    sets = [(single(x), single(amplitude * np.sin(x + phase))) for x in (near, far)]
    return layers(rng, 1, 40, 40, 1), *sets[0], *sets[1]


@workload("ntk", "neural tangent kernel of a tanh network 8-64-64-4, float32", n20=20, gpu=320)
def two_sets(rng, n):
    params = layers(rng, 8, 64, 64, 4)
    return params, single(rng.standard_normal((n, 8))), single(rng.standard_normal((n, 8)))


# ---- loops in time ----


@workload("rk4_grad", "the gradient of the sum of the states at the end", b100=100, gpu=6400)
@workload("rk4_value", "1000 Runge-Kutta steps of Lorenz's system, float64", b100=100, gpu=6400)
def states(rng, n):
    return (rng.standard_normal((n, 3)) + np.array([1.0, 1.0, 20.0]),)


@workload("rnn", "loss and gradient of a tanh RNN, 16-64-8, batch of 32, float32", T100=100, gpu=1600)
def sequences(rng, steps):
    shapes = {"Wx": (16, 64), "Wh": (64, 64), "Wo": (64, 8)}
    params = {name: single(rng.standard_normal(shape) / np.sqrt(shape[0])) for name, shape in shapes.items()}
    params["b"] = single(np.zeros(64))
    return params, single(rng.standard_normal((steps, 32, 16))), single(rng.standard_normal((32, 8)))


HEAT_TASK = "200 steps of the heat equation on a grid, in place, float64"


@workload("heat_grad", f"gradient of half the squared norm after {HEAT_TASK}", n256=256, n16=16, gpu=2048)
@workload("heat_value", HEAT_TASK, n256=256, n16=16, gpu=2048)
def grid(rng, n):
    return (rng.standard_normal((n, n)),)


ESCAPE = "iterations until |z| > 2, at most 100, float64"


@workload("mandelbrot", f"vmap of a while loop: {ESCAPE}", n1e5=100_000, n100=100, gpu=6_400_000)
def plane(rng, n):
    return rng.uniform(-2, 1, n), rng.uniform(-1.5, 1.5, n)


# ---- science, float64 ----


@workload("nbody", "softened potential of n bodies and its gradient", n512=512, n16=16, gpu=4096)
def bodies(rng, n):
    return rng.standard_normal((n, 3)), rng.uniform(0.5, 1.5, n)


@workload("gp_nll", "negative log likelihood of a Gaussian process and its gradient", n200=200, n20=20, gpu=3200)
def observations(rng, n):
    x = rng.standard_normal((n, 3))
    return np.array([0.1, -0.2, -1.0]), x, np.sin(x).sum(axis=1) + 0.1 * rng.standard_normal(n)


# ---- larger networks, float32 ----


@workload("conv_per_sample", "vmap over images of the gradient of a small convolutional network", b32=32, gpu=2048)
def pictures(rng, n):
    params = {
        "C1": single(rng.standard_normal((8, 1, 3, 3)) / 3),
        "c1": single(np.zeros(8)),
        "C2": single(rng.standard_normal((16, 8, 3, 3)) / 8),
        "c2": single(np.zeros(16)),
        "W": single(rng.standard_normal((784, 10)) / 28),
        "b": single(np.zeros(10)),
    }
    return params, single(rng.standard_normal((n, 1, 28, 28))), rng.integers(0, 10, n)


@workload("transformer_block", "loss and gradient of one block, width 128, 64 tokens", b8=8, gpu=256)
def tokens(rng, n):
    d = 128
    products = {"Wqkv": (d, 3 * d), "Wo": (d, d), "W1": (d, 4 * d), "W2": (4 * d, d)}
    params = {name: single(rng.standard_normal(s) / np.sqrt(s[0])) for name, s in products.items()}
    for name, width in {"bqkv": 3 * d, "bo": d, "b1": 4 * d, "b2": d, "h1": d, "h2": d}.items():
        params[name] = single(0.1 * rng.standard_normal(width))
    params["g1"], params["g2"] = single(np.ones(d)), single(np.ones(d))
    return params, single(rng.standard_normal((n, 64, d))), single(rng.standard_normal((n, 64, d)))


@workload("mlp_train_step", "loss and parameters after a step of SGD, relu 784-512-512-10", b256=256, gpu=8192)
def training_batch(rng, n):
    return layers(rng, 784, 512, 512, 10), single(rng.standard_normal((n, 784))), rng.integers(0, 10, n)


@workload(
    "softmax_xent", "cross entropy and its gradient over logits",
    large=(4096, 1000), small=(32, 10), gpu=(65536, 1000),
)  # fmt: skip
def logits(rng, size):
    rows, classes = size
    return single(3 * rng.standard_normal((rows, classes))), rng.integers(0, classes, rows)


# ---- overhead of a call, float64 ----


@workload("small_calls", "gradient of sum(sin(x) x) of three numbers", x3=3)
def three_numbers(rng, n):
    return (rng.standard_normal(n),)


@workload("small_calls_tree", "the same over a tree of ten leaves", t10=5)
def tree_of_leaves(rng, n):
    return ({f"l{i}": {"w": rng.standard_normal(3), "b": rng.standard_normal(3)} for i in range(n)},)


if __name__ == "__main__":
    for case in CASES.values():
        shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves(case.inputs()))
        print(f"{case.name:32s} {case.task}\n    {shapes}")

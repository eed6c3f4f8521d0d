"""The workloads in nufunc: plain NumPy under its transforms.

The interface is that of serve.py. ADAPTOR and the names below it serve other harnesses as well: kind of workload ->
factory, which makes (function, arguments, conversion of results) from arguments.
"""

import math
import os
from pathlib import Path

import numpy as np
import workloads as w

# A first call must find an empty cache: keep ours beside those that the benchmark clears.
if "NUMBA_CACHE_DIR" in os.environ:
    os.environ.setdefault("NUFUNC_CACHE_DIR", str(Path(os.environ["NUMBA_CACHE_DIR"]).parent / "nufunc"))

import nufunc as nf

NAME, CACHE = "nufunc", True
NUMPY_NATIVE = True
PACKAGES = ("nufunc", "numba", "llvmlite")
NOTES: dict[str, str] = {}


# ---- the mathematics ----


def chain(x):
    return np.tanh(x) * np.exp(-x * x) + np.sin(x) * np.log1p(x * x)


def chain_sum(x):
    return np.sum(chain(x))


def logistic_loss(weights, features, signs):
    return np.mean(np.logaddexp(0.0, -signs * (features @ weights))) + 0.5 * w.LAM * (weights @ weights)


def logsumexp(z):
    top = z.max(axis=-1, keepdims=True)
    return np.log(np.exp(z - top).sum(axis=-1)) + top[..., 0]


def cross_entropy(logits, labels):
    """Mean over the leading axis, if there is one."""
    chosen = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return np.mean(logsumexp(logits) - chosen)


def relu(x):
    return np.maximum(x, 0.0)


def network(params, x, activation):
    layers = len(params) // 2
    for i in range(1, layers):
        x = activation(x @ params[f"W{i}"] + params[f"b{i}"])
    return x @ params[f"W{layers}"] + params[f"b{layers}"]


def relu_network(params, x):
    return network(params, x, relu)


def tanh_network(params, x):
    return network(params, x, np.tanh)


def classifier_loss(params, x, labels):
    return cross_entropy(relu_network(params, x), labels)


def tanh_error(params, x, y):
    return np.mean((tanh_network(params, x) - y) ** 2)


def relu_error(params, x, y):
    return np.mean((relu_network(params, x) - y) ** 2)


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def hessian_vector_product(weights, vector, features, signs):
    return nf.jvp(lambda q: nf.grad(logistic_loss)(q, features, signs), (weights,), (vector,))[1]


def adapted_loss(params, x1, y1, x2, y2):
    def task(x1, y1, x2, y2):
        gradient = nf.grad(relu_error)(params, x1, y1)
        return relu_error({k: params[k] - w.MAML_ALPHA * gradient[k] for k in params}, x2, y2)

    return np.mean(nf.vmap(task)(x1, y1, x2, y2))


def tangent_kernel(params, x1, x2):
    jacobians = nf.vmap(nf.jacrev(tanh_network), in_dims=(None, 0))
    first, second = jacobians(params, x1), jacobians(params, x2)

    def rows(jacobian):
        return jacobian.reshape(*jacobian.shape[:2], -1)

    return sum(np.einsum("naf,mbf->nmab", rows(first[k]), rows(second[k])) for k in params)


def lorenz(s):
    c = w.LORENZ
    x, y, z = s[:, 0], s[:, 1], s[:, 2]
    return np.stack([c["sigma"] * (y - x), x * (c["rho"] - z) - y, x * y - c["beta"] * z], axis=1)


def runge_kutta_step(s, _):
    dt = w.LORENZ["dt"]
    k1 = lorenz(s)
    k2 = lorenz(s + dt / 2 * k1)
    k3 = lorenz(s + dt / 2 * k2)
    k4 = lorenz(s + dt * k3)
    return s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None


def trajectory_end(s):
    return nf.scan(runge_kutta_step, s, None, length=w.LORENZ["steps"])[0]


def recurrent_loss(params, xs, y):
    def step(h, x):
        return np.tanh(x @ params["Wx"] + h @ params["Wh"] + params["b"]), None

    h, _ = nf.scan(step, np.zeros((xs.shape[1], params["Wh"].shape[0]), dtype=xs.dtype), xs)
    return np.mean((h @ params["Wo"] - y) ** 2)


def gravity(x, m):
    d = x[:, None] - x[None]
    return -0.5 * np.sum(m[:, None] * m / np.sqrt(np.sum(d * d, axis=-1) + w.NBODY_EPS2))


def gaussian_process(t, x, y):
    d = x[:, None] - x[None]
    kernel = np.exp(2 * t[1]) * np.exp(-0.5 * np.sum(d * d, axis=-1) * np.exp(-2 * t[0]))
    factor = np.linalg.cholesky(kernel + np.exp(2 * t[2]) * np.eye(len(y)))
    a = np.linalg.solve(factor, y)
    return 0.5 * a @ a + np.sum(np.log(np.diag(factor))) + 0.5 * len(y) * math.log(2 * math.pi)


def convolve(x, kernel, bias):
    """3 by 3 taps at stride 2 over a border of zeros; x: (channels, rows, columns)."""
    channels, rows, columns = x.shape
    padded = np.zeros((channels, rows + 2, columns + 2), dtype=x.dtype)
    padded[:, 1:-1, 1:-1] = x
    taps = [padded[:, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)]
    windows = np.stack(taps, axis=1).reshape(channels * 9, -1)
    out = kernel.reshape(kernel.shape[0], -1) @ windows + bias[:, None]
    return out.reshape(-1, rows // 2, columns // 2)


def convolution_loss(params, x, label):
    h = relu(convolve(relu(convolve(x, params["C1"], params["c1"])), params["C2"], params["c2"]))
    return cross_entropy(h.reshape(-1) @ params["W"] + params["b"], label)


def layer_norm(x, gain, shift):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * gain + shift


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def transformer_loss(params, x, target):
    batch, length, width = x.shape

    def heads(a):
        return a.reshape(batch, length, w.HEADS, -1).swapaxes(1, 2)

    projected = layer_norm(x, params["g1"], params["h1"]) @ params["Wqkv"] + params["bqkv"]
    q, k, v = (heads(part) for part in np.split(projected, 3, axis=-1))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(width // w.HEADS)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    u = x + mixed.swapaxes(1, 2).reshape(batch, length, width) @ params["Wo"] + params["bo"]
    hidden = gelu(layer_norm(u, params["g2"], params["h2"]) @ params["W1"] + params["b1"])
    return np.mean((u + hidden @ params["W2"] + params["b2"] - target) ** 2)


def train_step(params, x, labels):
    value, gradient = nf.value_and_grad(classifier_loss)(params, x, labels)
    return value, {k: params[k] - w.SGD_LR * gradient[k] for k in params}


def escape_count(real, imaginary):
    def inside(state):
        zr, zi, k = state
        return (k < w.MANDEL_ITERS) & (zr * zr + zi * zi < 4)

    def step(state):
        zr, zi, k = state
        return zr * zr - zi * zi + real, 2 * zr * zi + imaginary, k + 1

    return nf.while_loop(inside, step, (0.0 * real, 0.0 * imaginary, np.zeros((), dtype=np.int64)))[2]


def heat_step(_, u):
    u = u.copy()
    inner = u[1:-1, 1:-1]
    u[1:-1, 1:-1] += w.HEAT["alpha"] * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * inner)
    return u


def heat(u):
    return nf.fori_loop(0, w.HEAT["steps"], heat_step, u)


def heat_energy(u):
    return 0.5 * np.sum(heat(u) ** 2)


def small(x):
    return np.sum(np.sin(x) * x)


def small_tree(tree):
    return sum(small(leaf) for leaf in w.leaves(tree))


FUNCTIONS = {
    "elementwise_chain": chain,
    "grad_chain": nf.grad(chain_sum),
    "logreg_grad": nf.grad(logistic_loss),
    "hvp": hessian_vector_product,
    "per_sample_grads_mlp": nf.vmap(nf.grad(classifier_loss), in_dims=(None, 0, 0)),
    "per_sample_grads_tanh": nf.vmap(nf.grad(tanh_error), in_dims=(None, 0, 0)),
    "ensemble_fwd": lambda params, x, labels: nf.vmap(relu_network, in_dims=(0, None))(params, x),
    "ensemble_grad": nf.vmap(nf.value_and_grad(classifier_loss), in_dims=(0, None, None)),
    "jacrev_mlp": nf.jacrev(tanh_network, 1),
    "jacfwd_mlp": nf.jacfwd(tanh_network, 1),
    "jacrev_mlp_vmap": nf.vmap(nf.jacrev(tanh_network, 1), in_dims=(None, 0)),
    "jacfwd_mlp_vmap": nf.vmap(nf.jacfwd(tanh_network, 1), in_dims=(None, 0)),
    "hessian_rosenbrock": nf.hessian(rosenbrock),
    "maml_sine": nf.value_and_grad(adapted_loss),
    "ntk": tangent_kernel,
    "rk4_value": trajectory_end,
    "rk4_grad": nf.grad(lambda s: trajectory_end(s).sum()),
    "rnn": nf.value_and_grad(recurrent_loss),
    "nbody": nf.value_and_grad(gravity),
    "gp_nll": nf.value_and_grad(gaussian_process),
    "conv_per_sample": nf.vmap(nf.grad(convolution_loss), in_dims=(None, 0, 0)),
    "transformer_block": nf.value_and_grad(transformer_loss),
    "mlp_train_step": train_step,
    "softmax_xent": nf.value_and_grad(cross_entropy),
    "mandelbrot": nf.vmap(escape_count),
    "heat_value": heat,
    "heat_grad": nf.grad(heat_energy),
    "small_calls": nf.grad(small),
    "small_calls_tree": nf.grad(small_tree),
}

NEEDS = {
    "scan": ("rk4_value", "rk4_grad", "rnn"),
    "while_loop": ("mandelbrot",),
    "fori_loop": ("heat_value", "heat_grad"),
}
MISSING = [name for name in NEEDS if not hasattr(nf, name)]
SKIP = {kind: f"this version has no nf.{name}" for name in MISSING for kind in NEEDS[name]}


# ---- the adaptor ----


def numpy_in(args):
    return args


def to_numpy(out):
    return out


def sync(out):
    return out


def compiled(func):
    return lambda args: (nf.jit(func), args, to_numpy)


ADAPTOR = {kind: compiled(func) for kind, func in FUNCTIONS.items() if kind not in SKIP}


def over_numpy(kind, args):
    return nf.jit(FUNCTIONS[kind])


def on_device(kind, args):
    return (
        nf.jit(FUNCTIONS[kind], target="cuda"),
        lambda tree: w.tmap(nf.to_device, tree),
        lambda tree: nf.synchronize(),
        lambda tree: w.tmap(np.asarray, tree),
    )


def warm_up():
    nf.jit(lambda x: np.sin(x) + 1)(np.ones(3))


warmup = warm_up

"""The workloads that PyTensor (default mode, Numba) expresses in a few lines. The interface is that of serve.py.

PyTensor wants older versions of Numba: compare.py's --python runs it from an environment of its own.
"""

import math

import numpy as np
import pytensor
import pytensor.tensor as pt
import workloads as w
from pytensor.gradient import jacobian, pushforward
from pytensor.graph.replace import vectorize_graph

PACKAGES = ("pytensor",)
SKIP = {
    "mandelbrot": "no loop per element that ends on data",
    "conv_per_sample": "no batched convolution with strides",
    "transformer_block": "not written",
    "maml_sine": "not written",
    "ntk": "not written",
    "ensemble_fwd": "not written",
    "ensemble_grad": "not written",
}
NOTES: dict[str, str] = {}


def chain(x):
    return pt.tanh(x) * pt.exp(-x * x) + pt.sin(x) * pt.log1p(x * x)


def logistic_loss(weights, features, signs):
    return pt.mean(pt.softplus(-signs * (features @ weights))) + 0.5 * w.LAM * (weights @ weights)


def cross_entropy(logits, labels):
    """Of one row of logits and its label, or the mean over rows."""
    top = pt.max(logits, axis=-1, keepdims=True)
    total = pt.log(pt.sum(pt.exp(logits - top), axis=-1)) + top[..., 0]
    chosen = logits[labels] if logits.ndim == 1 else logits[pt.arange(labels.shape[0]), labels]
    return pt.mean(total - chosen)


def network(params, x, activation):
    count = len(params) // 2
    for i in range(1, count):
        x = activation(x @ params[f"W{i}"] + params[f"b{i}"])
    return x @ params[f"W{count}"] + params[f"b{count}"]


def relu(x):
    return pt.maximum(x, np.float32(0))


def classifier_loss(params, x, labels):
    return cross_entropy(network(params, x, relu), labels)


def tanh_error(params, x, y):
    return pt.mean((network(params, x, pt.tanh) - y) ** 2)


def gradient(value, params):
    if not isinstance(params, dict):
        return pytensor.grad(value, params)
    return dict(zip(params, pytensor.grad(value, list(params.values())), strict=True))


def value_and_grad(func):
    def both(params, *args):
        value = func(params, *args)
        return value, gradient(value, params)

    return both


def batched(func):
    """`func` over rows of its arguments after the first."""

    def over_rows(params, *args):
        row = [a[0].type() for a in args]
        out = func(params, *row)
        return like(out, vectorize_graph(w.leaves(out), dict(zip(row, args, strict=True))))

    return over_rows


def like(tree, flat):
    """A tree of the same structure over a flat list in the order of `leaves`."""
    rest = iter(flat)

    def build(part):
        if isinstance(part, dict):
            return {key: build(part[key]) for key in sorted(part)}
        return tuple(map(build, part)) if isinstance(part, tuple) else next(rest)

    return build(tree)


def sample_gradient(loss):
    return batched(lambda params, x, y: gradient(loss(params, x, y), params))


def jacrev(params, x):
    return jacobian(network(params, x, pt.tanh), x, vectorize=True)


def jacfwd(params, x):
    direction = x.type()
    column = pushforward(network(params, x, pt.tanh), x, direction)
    return vectorize_graph(column, {direction: pt.eye(32, dtype="float32")}).T


def rosenbrock(x):
    return pt.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def hessian_vector_product(weights, vector, features, signs):
    return pushforward(pytensor.grad(logistic_loss(weights, features, signs), weights), weights, vector)


def iterate(step, first, count, sequences=()):
    return pytensor.scan(
        step, outputs_info=[first], n_steps=count, sequences=list(sequences), return_updates=False
    )[-1]


def lorenz(s):
    c = w.LORENZ
    x, y, z = s[:, 0], s[:, 1], s[:, 2]
    return pt.stack([c["sigma"] * (y - x), x * (c["rho"] - z) - y, x * y - c["beta"] * z], axis=1)


def runge_kutta_step(s):
    dt = w.LORENZ["dt"]
    k1 = lorenz(s)
    k2 = lorenz(s + dt / 2 * k1)
    k3 = lorenz(s + dt / 2 * k2)
    k4 = lorenz(s + dt * k3)
    return s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def trajectory_end(s):
    return iterate(runge_kutta_step, s, w.LORENZ["steps"])


def recurrent_loss(params, xs, y):
    def step(x, h):
        return pt.tanh(x @ params["Wx"] + h @ params["Wh"] + params["b"])

    h = iterate(step, pt.zeros((32, 64), dtype="float32"), xs.type.shape[0], [xs])
    return pt.mean((h @ params["Wo"] - y) ** 2)


def gravity(x, m):
    d = x[:, None] - x[None]
    return -0.5 * pt.sum(m[:, None] * m / pt.sqrt(pt.sum(d * d, axis=-1) + w.NBODY_EPS2))


def gaussian_process(t, x, y):
    d, n = x[:, None] - x[None], y.shape[0]
    kernel = pt.exp(2 * t[1]) * pt.exp(-0.5 * pt.sum(d * d, axis=-1) * pt.exp(-2 * t[0]))
    factor = pt.linalg.cholesky(kernel + pt.exp(2 * t[2]) * pt.eye(n))
    a = pt.linalg.solve_triangular(factor, y, lower=True)
    return 0.5 * a @ a + pt.sum(pt.log(pt.diag(factor))) + 0.5 * n * math.log(2 * math.pi)


def train_step(params, x, labels):
    value, slope = value_and_grad(classifier_loss)(params, x, labels)
    return value, {k: params[k] - np.float32(w.SGD_LR) * slope[k] for k in params}


def heat_step(u):
    flow = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1]
    return pt.inc_subtensor(u[1:-1, 1:-1], w.HEAT["alpha"] * flow)


def heat(u):
    return iterate(heat_step, u, w.HEAT["steps"])


def small(x):
    return pt.sum(pt.sin(x) * x)


def small_tree(tree):
    flat = w.leaves(tree)
    return like(tree, pytensor.grad(sum(map(small, flat)), flat))


FUNCTIONS = {
    "elementwise_chain": chain,
    "grad_chain": lambda x: pytensor.grad(pt.sum(chain(x)), x),
    "logreg_grad": lambda weights, *data: pytensor.grad(logistic_loss(weights, *data), weights),
    "hvp": hessian_vector_product,
    "per_sample_grads_mlp": sample_gradient(classifier_loss),
    "per_sample_grads_tanh": sample_gradient(tanh_error),
    "jacrev_mlp": jacrev,
    "jacfwd_mlp": jacfwd,
    "jacrev_mlp_vmap": batched(jacrev),
    "jacfwd_mlp_vmap": batched(jacfwd),
    "hessian_rosenbrock": lambda x: jacobian(pytensor.grad(rosenbrock(x), x), x, vectorize=True),
    "rk4_value": trajectory_end,
    "rk4_grad": lambda s: pytensor.grad(trajectory_end(s).sum(), s),
    "rnn": value_and_grad(recurrent_loss),
    "nbody": value_and_grad(gravity),
    "gp_nll": value_and_grad(gaussian_process),
    "mlp_train_step": train_step,
    "softmax_xent": value_and_grad(cross_entropy),
    "heat_value": heat,
    "heat_grad": lambda u: pytensor.grad(0.5 * pt.sum(heat(u) ** 2), u),
    "small_calls": lambda x: pytensor.grad(small(x), x),
    "small_calls_tree": small_tree,
}


def over_numpy(kind, args):
    symbols = w.tmap(lambda a: pt.tensor(dtype=a.dtype, shape=a.shape), args)
    out = FUNCTIONS[kind](*symbols)
    inputs = [pytensor.In(s, borrow=True) for s in w.leaves(symbols)]
    outputs = [pytensor.Out(o, borrow=True) for o in w.leaves(out)]
    compiled = pytensor.function(inputs, outputs, on_unused_input="ignore")
    compiled.trust_input = True
    if isinstance(out, dict | tuple):
        return lambda *args: like(out, compiled(*w.leaves(args)))
    return lambda *args: compiled(*w.leaves(args))[0]


def warm_up():
    x = pt.dvector()
    pytensor.function([x], pt.sqrt(x) + 1)(np.ones(7))

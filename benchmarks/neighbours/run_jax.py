"""The workloads in JAX under jax.jit, 64-bit types enabled. The interface is that of serve.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import workloads as w
from jax import lax

jax.config.update("jax_enable_x64", True)

PACKAGES = ("jax", "jaxlib")
SKIP: dict[str, str] = {}
NOTES: dict[str, str] = {}


def chain(x):
    return jnp.tanh(x) * jnp.exp(-x * x) + jnp.sin(x) * jnp.log1p(x * x)


def logistic_loss(weights, features, signs):
    return jnp.mean(jnp.logaddexp(0.0, -signs * (features @ weights))) + 0.5 * w.LAM * (weights @ weights)


def cross_entropy(logits, labels):
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def network(params, x, activation):
    count = len(params) // 2
    for i in range(1, count):
        x = activation(x @ params[f"W{i}"] + params[f"b{i}"])
    return x @ params[f"W{count}"] + params[f"b{count}"]


def relu_network(params, x):
    return network(params, x, jax.nn.relu)


def tanh_network(params, x):
    return network(params, x, jnp.tanh)


def classifier_loss(params, x, labels):
    return cross_entropy(relu_network(params, x), labels)


def relu_error(params, x, y):
    return jnp.mean((relu_network(params, x) - y) ** 2)


def tanh_error(params, x, y):
    return jnp.mean((tanh_network(params, x) - y) ** 2)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def hessian_vector_product(weights, vector, features, signs):
    return jax.jvp(lambda q: jax.grad(logistic_loss)(q, features, signs), (weights,), (vector,))[1]


def adapted_loss(params, x1, y1, x2, y2):
    def task(x1, y1, x2, y2):
        gradient = jax.grad(relu_error)(params, x1, y1)
        return relu_error(jax.tree.map(lambda p, g: p - w.MAML_ALPHA * g, params, gradient), x2, y2)

    return jnp.mean(jax.vmap(task)(x1, y1, x2, y2))


def tangent_kernel(params, x1, x2):
    jacobians = jax.vmap(jax.jacrev(tanh_network), in_axes=(None, 0))
    first, second = jacobians(params, x1), jacobians(params, x2)

    def rows(jacobian):
        return jacobian.reshape(*jacobian.shape[:2], -1)

    return sum(jnp.einsum("naf,mbf->nmab", rows(first[k]), rows(second[k])) for k in params)


def lorenz(s):
    c = w.LORENZ
    x, y, z = s[:, 0], s[:, 1], s[:, 2]
    return jnp.stack([c["sigma"] * (y - x), x * (c["rho"] - z) - y, x * y - c["beta"] * z], axis=1)


def runge_kutta_step(s, _):
    dt = w.LORENZ["dt"]
    k1 = lorenz(s)
    k2 = lorenz(s + dt / 2 * k1)
    k3 = lorenz(s + dt / 2 * k2)
    k4 = lorenz(s + dt * k3)
    return s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None


def trajectory_end(s):
    return lax.scan(runge_kutta_step, s, None, length=w.LORENZ["steps"])[0]


def recurrent_loss(params, xs, y):
    def step(h, x):
        return jnp.tanh(x @ params["Wx"] + h @ params["Wh"] + params["b"]), None

    h, _ = lax.scan(step, jnp.zeros((xs.shape[1], params["Wh"].shape[0]), xs.dtype), xs)
    return jnp.mean((h @ params["Wo"] - y) ** 2)


def gravity(x, m):
    d = x[:, None] - x[None]
    return -0.5 * jnp.sum(m[:, None] * m / jnp.sqrt(jnp.sum(d * d, axis=-1) + w.NBODY_EPS2))


def gaussian_process(t, x, y):
    d = x[:, None] - x[None]
    kernel = jnp.exp(2 * t[1]) * jnp.exp(-0.5 * jnp.sum(d * d, axis=-1) * jnp.exp(-2 * t[0]))
    factor = jnp.linalg.cholesky(kernel + jnp.exp(2 * t[2]) * jnp.eye(len(y)))
    a = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
    return 0.5 * a @ a + jnp.sum(jnp.log(jnp.diag(factor))) + 0.5 * len(y) * math.log(2 * math.pi)


def convolve(x, kernel, bias):
    return lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1), (1, 1)]) + bias[:, None, None]


def convolution_loss(params, x, label):
    h = jax.nn.relu(convolve(x[None], params["C1"], params["c1"]))
    h = jax.nn.relu(convolve(h, params["C2"], params["c2"]))
    return cross_entropy(h.reshape(-1) @ params["W"] + params["b"], label)


def layer_norm(x, gain, shift):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * gain + shift


def transformer_loss(params, x, target):
    batch, length, width = x.shape

    def heads(a):
        return a.reshape(batch, length, w.HEADS, -1).swapaxes(1, 2)

    projected = layer_norm(x, params["g1"], params["h1"]) @ params["Wqkv"] + params["bqkv"]
    q, k, v = (heads(part) for part in jnp.split(projected, 3, axis=-1))
    mixed = jax.nn.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(width // w.HEADS)) @ v
    u = x + mixed.swapaxes(1, 2).reshape(batch, length, width) @ params["Wo"] + params["bo"]
    hidden = jax.nn.gelu(layer_norm(u, params["g2"], params["h2"]) @ params["W1"] + params["b1"])
    return jnp.mean((u + hidden @ params["W2"] + params["b2"] - target) ** 2)


def train_step(params, x, labels):
    value, gradient = jax.value_and_grad(classifier_loss)(params, x, labels)
    return value, jax.tree.map(lambda p, g: p - w.SGD_LR * g, params, gradient)


def escape_count(real, imaginary):
    def inside(state):
        zr, zi, k = state
        return (k < w.MANDEL_ITERS) & (zr * zr + zi * zi < 4)

    def step(state):
        zr, zi, k = state
        return zr * zr - zi * zi + real, 2 * zr * zi + imaginary, k + 1

    return lax.while_loop(inside, step, (0.0 * real, 0.0 * imaginary, jnp.zeros((), jnp.int64)))[2]


def heat_step(_, u):
    inner = u[1:-1, 1:-1]
    flow = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * inner
    return u.at[1:-1, 1:-1].add(w.HEAT["alpha"] * flow)


def heat(u):
    return lax.fori_loop(0, w.HEAT["steps"], heat_step, u)


def small(x):
    return jnp.sum(jnp.sin(x) * x)


FUNCTIONS = {
    "elementwise_chain": chain,
    "grad_chain": jax.grad(lambda x: jnp.sum(chain(x))),
    "logreg_grad": jax.grad(logistic_loss),
    "hvp": hessian_vector_product,
    "per_sample_grads_mlp": jax.vmap(jax.grad(classifier_loss), in_axes=(None, 0, 0)),
    "per_sample_grads_tanh": jax.vmap(jax.grad(tanh_error), in_axes=(None, 0, 0)),
    "ensemble_fwd": lambda params, x, labels: jax.vmap(relu_network, in_axes=(0, None))(params, x),
    "ensemble_grad": jax.vmap(jax.value_and_grad(classifier_loss), in_axes=(0, None, None)),
    "jacrev_mlp": jax.jacrev(tanh_network, 1),
    "jacfwd_mlp": jax.jacfwd(tanh_network, 1),
    "jacrev_mlp_vmap": jax.vmap(jax.jacrev(tanh_network, 1), in_axes=(None, 0)),
    "jacfwd_mlp_vmap": jax.vmap(jax.jacfwd(tanh_network, 1), in_axes=(None, 0)),
    "hessian_rosenbrock": jax.hessian(rosenbrock),
    "maml_sine": jax.value_and_grad(adapted_loss),
    "ntk": tangent_kernel,
    "rk4_value": trajectory_end,
    "rk4_grad": jax.grad(lambda s: trajectory_end(s).sum()),
    "rnn": jax.value_and_grad(recurrent_loss),
    "nbody": jax.value_and_grad(gravity),
    "gp_nll": jax.value_and_grad(gaussian_process),
    "conv_per_sample": jax.vmap(jax.grad(convolution_loss), in_axes=(None, 0, 0)),
    "transformer_block": jax.value_and_grad(transformer_loss),
    "mlp_train_step": train_step,
    "softmax_xent": jax.value_and_grad(cross_entropy),
    "mandelbrot": jax.vmap(escape_count),
    "heat_value": heat,
    "heat_grad": jax.grad(lambda u: 0.5 * jnp.sum(heat(u) ** 2)),
    "small_calls": jax.grad(small),
    "small_calls_tree": jax.grad(lambda tree: sum(small(leaf) for leaf in w.leaves(tree))),
}


def over_numpy(kind, args):
    compiled = jax.jit(FUNCTIONS[kind])

    def call(*args):
        return w.tmap(np.asarray, compiled(*args))

    return call


def on_device(kind, args):
    jax.config.update("jax_default_matmul_precision", "highest")  # float32, as the others
    return (
        jax.jit(FUNCTIONS[kind]),
        lambda tree: w.tmap(jnp.asarray, tree),
        jax.block_until_ready,
        lambda tree: w.tmap(np.asarray, tree),
    )


def warm_up():
    jax.jit(lambda x: jnp.sqrt(x) + 1)(np.ones(7)).block_until_ready()

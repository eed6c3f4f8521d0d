"""The workloads in torch.func, eager. The interface is that of serve.py."""

import math
import os

import torch
import torch.nn.functional as F
import workloads as w
from torch.func import grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vmap

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

PACKAGES = ("torch",)
SKIP = {"mandelbrot": "no loop that ends on data under vmap"}
NOTES: dict[str, str] = {}


def value_and_grad(func):
    """(value, gradient), the order of the other adaptors."""
    transformed = grad_and_value(func)

    def call(*args):
        gradient, value = transformed(*args)
        return value, gradient

    return call


def chain(x):
    return torch.tanh(x) * torch.exp(-x * x) + torch.sin(x) * torch.log1p(x * x)


def logistic_loss(weights, features, signs):
    losses = F.softplus(-signs * (features @ weights), threshold=1e9)  # the linear branch would be inexact
    return losses.mean() + 0.5 * w.LAM * (weights @ weights)


def network(params, x, activation):
    count = len(params) // 2
    for i in range(1, count):
        x = activation(x @ params[f"W{i}"] + params[f"b{i}"])
    return x @ params[f"W{count}"] + params[f"b{count}"]


def relu_network(params, x):
    return network(params, x, torch.relu)


def tanh_network(params, x):
    return network(params, x, torch.tanh)


def classifier_loss(params, x, labels):
    return F.cross_entropy(relu_network(params, x), labels)


def relu_error(params, x, y):
    return ((relu_network(params, x) - y) ** 2).mean()


def tanh_error(params, x, y):
    return ((tanh_network(params, x) - y) ** 2).mean()


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def hessian_vector_product(weights, vector, features, signs):
    return jvp(lambda q: grad(logistic_loss)(q, features, signs), (weights,), (vector,))[1]


def adapted_loss(params, x1, y1, x2, y2):
    def task(x1, y1, x2, y2):
        gradient = grad(relu_error)(params, x1, y1)
        return relu_error({k: params[k] - w.MAML_ALPHA * gradient[k] for k in params}, x2, y2)

    return vmap(task)(x1, y1, x2, y2).mean()


def tangent_kernel(params, x1, x2):
    jacobians = vmap(jacrev(tanh_network), in_dims=(None, 0))
    first, second = jacobians(params, x1), jacobians(params, x2)
    return sum(torch.einsum("naf,mbf->nmab", first[k].flatten(2), second[k].flatten(2)) for k in params)


def lorenz(s):
    c = w.LORENZ
    x, y, z = s[:, 0], s[:, 1], s[:, 2]
    return torch.stack([c["sigma"] * (y - x), x * (c["rho"] - z) - y, x * y - c["beta"] * z], dim=1)


def runge_kutta_step(s):
    dt = w.LORENZ["dt"]
    k1 = lorenz(s)
    k2 = lorenz(s + dt / 2 * k1)
    k3 = lorenz(s + dt / 2 * k2)
    k4 = lorenz(s + dt * k3)
    return s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def trajectory_end(s):
    for _ in range(w.LORENZ["steps"]):
        s = runge_kutta_step(s)
    return s


def recurrent_loss(params, xs, y):
    h = torch.zeros(xs.shape[1], params["Wh"].shape[0], dtype=xs.dtype)
    for x in xs.unbind(0):
        h = torch.tanh(x @ params["Wx"] + h @ params["Wh"] + params["b"])
    return ((h @ params["Wo"] - y) ** 2).mean()


def gravity(x, m):
    d = x[:, None] - x[None]
    return -0.5 * (m[:, None] * m / torch.sqrt((d * d).sum(-1) + w.NBODY_EPS2)).sum()


def gaussian_process(t, x, y):
    d = x[:, None] - x[None]
    kernel = torch.exp(2 * t[1]) * torch.exp(-0.5 * (d * d).sum(-1) * torch.exp(-2 * t[0]))
    factor = torch.linalg.cholesky(kernel + torch.exp(2 * t[2]) * torch.eye(len(y), dtype=y.dtype))
    a = torch.linalg.solve_triangular(factor, y[:, None], upper=False)[:, 0]
    return 0.5 * a @ a + torch.log(torch.diagonal(factor)).sum() + 0.5 * len(y) * math.log(2 * math.pi)


def convolution_loss(params, x, label):
    h = F.relu(F.conv2d(x[None], params["C1"], params["c1"], stride=2, padding=1))
    h = F.relu(F.conv2d(h, params["C2"], params["c2"], stride=2, padding=1))
    return F.cross_entropy(h.reshape(-1) @ params["W"] + params["b"], label)


def transformer_loss(params, x, target):
    batch, length, width = x.shape

    def heads(a):
        return a.reshape(batch, length, w.HEADS, -1).transpose(1, 2)

    projected = F.layer_norm(x, (width,), params["g1"], params["h1"]) @ params["Wqkv"] + params["bqkv"]
    q, k, v = (heads(part) for part in projected.split(width, dim=-1))
    mixed = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // w.HEADS), dim=-1) @ v
    u = x + mixed.transpose(1, 2).reshape(batch, length, width) @ params["Wo"] + params["bo"]
    hidden = F.layer_norm(u, (width,), params["g2"], params["h2"]) @ params["W1"] + params["b1"]
    out = u + F.gelu(hidden, approximate="tanh") @ params["W2"] + params["b2"]
    return ((out - target) ** 2).mean()


def train_step(params, x, labels):
    gradient, value = grad_and_value(classifier_loss)(params, x, labels)
    return value, {k: params[k] - w.SGD_LR * gradient[k] for k in params}


def heat(u):
    u = u.clone()
    for _ in range(w.HEAT["steps"]):
        flow = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1]
        u[1:-1, 1:-1] += w.HEAT["alpha"] * flow
    return u


def small(x):
    return (torch.sin(x) * x).sum()


FUNCTIONS = {
    "elementwise_chain": chain,
    "grad_chain": grad(lambda x: chain(x).sum()),
    "logreg_grad": grad(logistic_loss),
    "hvp": hessian_vector_product,
    "per_sample_grads_mlp": vmap(grad(classifier_loss), in_dims=(None, 0, 0)),
    "per_sample_grads_tanh": vmap(grad(tanh_error), in_dims=(None, 0, 0)),
    "ensemble_fwd": lambda params, x, labels: vmap(relu_network, in_dims=(0, None))(params, x),
    "ensemble_grad": vmap(value_and_grad(classifier_loss), in_dims=(0, None, None)),
    "jacrev_mlp": jacrev(tanh_network, 1),
    "jacfwd_mlp": jacfwd(tanh_network, 1),
    "jacrev_mlp_vmap": vmap(jacrev(tanh_network, 1), in_dims=(None, 0)),
    "jacfwd_mlp_vmap": vmap(jacfwd(tanh_network, 1), in_dims=(None, 0)),
    "hessian_rosenbrock": hessian(rosenbrock),
    "maml_sine": value_and_grad(adapted_loss),
    "ntk": tangent_kernel,
    "rk4_value": trajectory_end,
    "rk4_grad": grad(lambda s: trajectory_end(s).sum()),
    "rnn": value_and_grad(recurrent_loss),
    "nbody": value_and_grad(gravity),
    "gp_nll": value_and_grad(gaussian_process),
    "conv_per_sample": vmap(grad(convolution_loss), in_dims=(None, 0, 0)),
    "transformer_block": value_and_grad(transformer_loss),
    "mlp_train_step": train_step,
    "softmax_xent": value_and_grad(F.cross_entropy),
    "heat_value": heat,
    "heat_grad": grad(lambda u: 0.5 * (heat(u) ** 2).sum()),
    "small_calls": grad(small),
    "small_calls_tree": grad(lambda tree: sum(small(leaf) for leaf in w.leaves(tree))),
}


def converted(func):
    """`func` over NumPy arrays, which PyTorch reads and hands back in place."""

    def call(*args):
        return w.tmap(torch.Tensor.numpy, func(*w.tmap(torch.from_numpy, args)))

    return call


def over_numpy(kind, args):
    return converted(FUNCTIONS[kind])


def placed(func):
    """What serve.py asks of `func` on a device; tensors that it makes itself stand there too."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)
    torch.backends.cudnn.allow_tf32 = False  # float32, as the others; of products this is the default
    return (
        func,
        lambda tree: w.tmap(lambda x: torch.as_tensor(x, device=device), tree),
        lambda tree: torch.cuda.synchronize() if device == "cuda" else None,
        lambda tree: w.tmap(lambda x: x.cpu().numpy(), tree),
    )


def on_device(kind, args):
    return placed(FUNCTIONS[kind])


def warm_up():
    grad(lambda x: torch.sqrt(x).sum())(torch.ones(7))

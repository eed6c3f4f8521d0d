"""Optimizers against the recursions of their papers, written as plain loops; clipping and schedules."""

import numpy as np
import pytest

import nufunc as nf

RNG = np.random.default_rng(0)
A, Y = RNG.normal(size=(6, 3)), RNG.normal(size=6)
STEPS = 7


def gradient(w):
    return 2 / len(Y) * A.T @ (A @ w - Y)


def heavy_ball(w, lr, momentum=0.0, nesterov=False, weight_decay=0.0, dampening=0.0):
    v = None
    for _ in range(STEPS):
        g = gradient(w) + weight_decay * w
        v = g.copy() if v is None else momentum * v + (1 - dampening) * g
        w = w - lr * (g + momentum * v if nesterov else v)
    return w


def kingma_ba(w, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, decoupled=False):
    m, v, top = (np.zeros_like(w) for _ in range(3))
    for t in range(1, STEPS + 1):
        g = gradient(w)
        if decoupled:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        top = np.maximum(top, v)
        second = (top if amsgrad else v) / (1 - betas[1] ** t)
        w = w - lr * m / (1 - betas[0] ** t) / (np.sqrt(second) + eps)
    return w


def root_mean_square(w, lr, alpha=0.99, eps=1e-8):
    s = np.zeros_like(w)
    for _ in range(STEPS):
        g = gradient(w)
        s = alpha * s + (1 - alpha) * g**2
        w = w - lr * g / (np.sqrt(s) + eps)
    return w


def sum_of_squares(w, lr, eps=1e-10):
    s = np.zeros_like(w)
    for _ in range(STEPS):
        g = gradient(w)
        s = s + g**2
        w = w - lr * g / (np.sqrt(s) + eps)
    return w


RULES = [
    (nf.optim.sgd, heavy_ball, {"lr": 0.1}),
    (nf.optim.sgd, heavy_ball, {"lr": 0.1, "momentum": 0.9}),
    (nf.optim.sgd, heavy_ball, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (nf.optim.sgd, heavy_ball, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    (nf.optim.adam, kingma_ba, {"lr": 0.1}),
    (nf.optim.adam, kingma_ba, {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True, "betas": (0.8, 0.99)}),
    (nf.optim.adamw, lambda w, **k: kingma_ba(w, decoupled=True, **k), {"lr": 0.1, "weight_decay": 0.05}),
    (nf.optim.rmsprop, root_mean_square, {"lr": 0.1}),
    (nf.optim.adagrad, sum_of_squares, {"lr": 0.1}),
]


@pytest.mark.parametrize(("make", "reference", "options"), RULES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_steps_follow_the_recursion(make, reference, options, dtype):
    optimizer = make(**options)

    @nf.jit
    def step(params, state):
        grads = nf.grad(lambda p: np.mean((A.astype(dtype) @ p["w"] - Y.astype(dtype)) ** 2))(params)
        return optimizer.update(grads, state, params)

    params = {"w": np.full(3, 0.5, dtype)}
    state = optimizer.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    assert params["w"].dtype == dtype
    assert state["step"] == STEPS
    np.testing.assert_allclose(
        params["w"], reference(np.full(3, 0.5), **options), rtol=1e-12 if dtype is np.float64 else 2e-5
    )


def test_a_new_rate_compiles_nothing_anew():
    rate = 0.1

    @nf.jit
    def step(p):
        optimizer = nf.optim.sgd(rate)
        return optimizer.update(p, optimizer.init(p), p)[0]

    assert step(np.ones(2))[0] == 0.9
    before = nf.cache_info().compiles
    rate = 0.5
    assert step(np.ones(2))[0] == 0.5
    assert nf.cache_info().compiles == before


def test_models_are_params():
    model = nf.nn.Linear(3, 1, dtype=np.float64)
    optimizer = nf.optim.adam(0.05)

    @nf.jit
    def step(params, state):
        loss = lambda p: np.mean((nf.functional_call(model, p, A)[:, 0] - Y) ** 2)
        value, grads = nf.value_and_grad(loss)(params)
        return *optimizer.update(grads, state, params), value

    params = dict(model.named_parameters())
    state = optimizer.init(params)
    for _ in range(400):
        params, state, value = step(params, state)
    best = np.linalg.lstsq(np.c_[A, np.ones(6)], Y, rcond=None)[1][0] / 6
    assert value < best + 1e-3


def test_clipping():
    grads = {"w": np.array([3.0, 0.0]), "b": np.array(4.0)}
    clipped, norm = nf.optim.clip_by_norm(grads, 1.0)
    assert norm == 5
    np.testing.assert_allclose(clipped["w"], [0.6, 0])
    np.testing.assert_allclose(clipped["b"], 0.8)
    np.testing.assert_array_equal(nf.optim.clip_by_norm(grads, 10.0)[0]["w"], grads["w"])
    np.testing.assert_array_equal(nf.optim.clip_by_value(grads, 2.0)["w"], [2, 0])


def test_schedules():
    o = nf.optim
    assert [float(o.linear(1.0, 0.0, 4)(k)) for k in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert [float(o.piecewise(1.0, [(2, 0.5), (3, 0.1)])(k)) for k in range(4)] == [1, 1, 0.5, 0.05]
    np.testing.assert_allclose([o.exponential(1.0, 0.5, 2)(k) for k in (0, 2, 4)], [1, 0.5, 0.25])
    np.testing.assert_allclose([o.cosine(1.0, 4, 0.2)(k) for k in (0, 2, 4, 9)], [1, 0.6, 0.2, 0.2])
    warm = [o.warmup_cosine(1.0, 2, 6)(k) for k in (0, 1, 2, 4, 6)]
    np.testing.assert_allclose(warm, [0, 0.5, 1, 0.5, 0], atol=1e-15)
    decayed = o.sgd(o.linear(1.0, 0.0, 4))
    params, state = np.zeros(1), decayed.init(np.zeros(1))
    for _ in range(5):
        params, state = nf.jit(lambda p, s: decayed.update(np.ones(1), s, p))(params, state)
    np.testing.assert_allclose(params, [-2.5])


def test_wrong_options():
    with pytest.raises(nf.ArgumentError, match="nesterov needs a momentum"):
        nf.optim.sgd(0.1, nesterov=True)


def test_state_of_another_optimizer_is_named():
    params = {"w": np.ones(3)}
    state = nf.optim.adam().init(params)
    with pytest.raises(nf.ArgumentError, match=r"sgd: .* with step, velocity; got step, first, second"):
        nf.optim.sgd(0.1, momentum=0.9).update(params, state, params)
    with pytest.raises(nf.ArgumentError, match=r"rmsprop: the state .* got tuple"):
        nf.jit(lambda p: nf.optim.rmsprop().update(p, (), p))(params)


def test_a_step_compiles_once():
    opt = nf.optim.adam(0.1)
    gradient = nf.grad(lambda p: np.sum((p["w"] - 3) ** 2))
    step = nf.jit(lambda params, state: opt.update(gradient(params), state, params))
    params = {"w": np.zeros(2)}
    state = opt.init(params)
    params, state = step(params, state)
    compiled = nf.cache_info().compiles
    for _ in range(2):
        params, state = step(params, state)
    assert nf.cache_info().compiles == compiled


def test_init_under_vmap_counts_for_each_lane():
    state = nf.vmap(nf.optim.adam(0.1).init)({"w": np.ones((4, 3))})
    assert state["step"].shape == (4,)
    assert state["first"]["w"].shape == (4, 3)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_trees_that_do_not_fit_are_named(name):
    optimizer = nf.optim.sgd(0.1, momentum=0.9) if name == "sgd" else getattr(nf.optim, name)(0.1)
    params = {"a": np.ones(3), "b": np.ones(2)}
    state = optimizer.init(params)
    words = r"grads must be a tree like params, a dict with 'a', 'b'; got a dict with 'a'"
    with pytest.raises(ValueError, match=words):
        optimizer.update({"a": np.ones(3)}, state, params)
    with pytest.raises(ValueError, match=r"the arrays of grads must have the shapes of params"):
        nf.jit(optimizer.update)({"a": np.ones(3), "b": np.ones(5)}, state, params)
    with pytest.raises(ValueError, match=r"state\['.*'\] must be a tree like params"):
        optimizer.update(params, optimizer.init({"a": np.ones(3)}), params)

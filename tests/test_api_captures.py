"""What a traced function reaches beside its arguments is seen as it is at each call, and compiled once."""

import types

import numpy as np
import pytest

import nufunc as nf

X = np.array([1.0, -2.0, 3.0])
WEIGHTS = np.array([1.0, 2.0, 3.0])
RATE = 0.5
POWER = 2
SETTINGS = {"scale": 2.0, "weights": np.ones(3), "nested": [np.zeros(3), 1.5]}
NAMESPACE = types.SimpleNamespace(shift=np.ones(3), factor=3.0, mode="plus")


def helper(x):
    return x * RATE


def compiles():
    return nf.cache_info().compiles


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_rebound_global(monkeypatch):
    func = nf.jit(lambda x: x * WEIGHTS + helper(x))
    close(func(X), X * WEIGHTS + X * 0.5)
    monkeypatch.setitem(globals(), "WEIGHTS", np.array([5.0, 6.0, 7.0]))
    close(func(X), X * np.array([5.0, 6.0, 7.0]) + X * 0.5)
    monkeypatch.setitem(globals(), "RATE", 2.0)
    close(func(X), X * np.array([5.0, 6.0, 7.0]) + X * 2.0)
    monkeypatch.setitem(globals(), "helper", lambda x: -x)
    close(func(X), X * np.array([5.0, 6.0, 7.0]) - X)


def test_global_of_another_dtype_or_shape(monkeypatch):
    func = nf.jit(lambda x: (x * WEIGHTS).sum())
    close(func(X), (X * WEIGHTS).sum())
    monkeypatch.setitem(globals(), "WEIGHTS", np.array(2.0))
    close(func(X), 2 * X.sum())
    monkeypatch.setitem(globals(), "WEIGHTS", np.ones((2, 3), dtype=np.float32))
    close(func(X), 2 * X.sum())


def test_static_global(monkeypatch):
    func = nf.jit(lambda x: x**POWER)
    close(func(X), X**2)
    monkeypatch.setitem(globals(), "POWER", 3)
    close(func(X), X**3)


def test_rebound_closure_variable():
    weights = np.ones(3)
    func = nf.jit(lambda x: x * weights)
    close(func(X), X)
    weights = 4 * np.ones(3)
    close(func(X), 4 * X)


def test_closure_array_changed_in_place():
    weights = np.ones(3)
    func, gradient = nf.jit(lambda x: x * weights), nf.grad(lambda x: (x * weights).sum())
    close(func(X), X)
    weights[1] = 10.0
    close(func(X), X * [1, 10, 1])
    close(gradient(X), [1, 10, 1])
    weights *= -1.0
    close(gradient(X), [-1, -10, -1])


def test_method_of_a_captured_array():
    """`weights.sum()` is part of the function, not a number found while tracing."""
    weights = np.ones(3)
    func = nf.jit(lambda x: x * weights.sum() + weights.T[0] + weights.mean())
    close(func(X), 3 * X + 2)
    weights[:] = 2.0
    close(func(X), 6 * X + 4)


def test_captured_containers(monkeypatch):
    func = nf.jit(lambda x: x * SETTINGS["scale"] + SETTINGS["weights"] + SETTINGS["nested"][1])
    close(func(X), 2 * X + 2.5)
    monkeypatch.setitem(SETTINGS, "scale", 3.0)
    close(func(X), 3 * X + 2.5)
    monkeypatch.setitem(SETTINGS, "weights", np.full(3, 5.0))
    close(func(X), 3 * X + 6.5)
    monkeypatch.setitem(SETTINGS, "nested", [np.zeros(3), 0.0])
    close(func(X), 3 * X + 5)
    SETTINGS["nested"][1] = 1.0
    close(func(X), 3 * X + 6)


def test_captured_attributes(monkeypatch):
    def func(x):
        y = x * NAMESPACE.factor
        return y + NAMESPACE.shift if NAMESPACE.mode == "plus" else y - NAMESPACE.shift

    traced = nf.jit(func)
    close(traced(X), func(X))
    for name, value in (("factor", 7.0), ("shift", np.full(3, 2.0)), ("mode", "minus")):
        monkeypatch.setattr(NAMESPACE, name, value)
        close(traced(X), func(X))


def test_captured_function_with_its_own_captures():
    table = {"f": np.sin}
    rate = 2.0

    def inner(x):
        return table["f"](x) * rate

    func = nf.jit(lambda x: inner(x) + 1)
    close(func(X), np.sin(X) * 2 + 1)
    rate = 3.0
    close(func(X), np.sin(X) * 3 + 1)
    table["f"] = np.cos
    close(func(X), np.cos(X) * 3 + 1)


def test_default_arguments():
    scale = np.ones(3)

    def func(x, scale=scale, shift=0.5):
        return x * scale + shift

    traced = nf.jit(func)
    close(traced(X), X + 0.5)
    scale[:] = 2.0
    close(traced(X), 2 * X + 0.5)


def test_a_float_hyper_parameter_does_not_recompile():
    schedule, rate = types.SimpleNamespace(rate=1.0), 1.0

    def step(x):
        return x - rate * schedule.rate * RATE * x

    traced = nf.jit(step)
    close(traced(X), step(X))
    before = compiles()
    for k in range(1, 20):
        rate = 1.0 / k
        schedule.rate = 0.9**k
        close(traced(X), step(X))
    assert compiles() == before


def test_float_arguments_do_not_recompile():
    traced = nf.jit(lambda x, rate: x * rate)
    traced(X, 0.1)
    before = compiles()
    for rate in np.linspace(0, 1, 11).tolist():
        close(traced(X, rate), X * rate)
    assert compiles() == before


def test_array_contents_do_not_recompile():
    weights = np.ones(3)
    gradient = nf.grad(lambda x: (x * weights).sum())
    gradient(X)
    before = compiles()
    for k in range(5):
        weights = np.full(3, float(k))
        close(gradient(X * k), weights)
    assert compiles() == before


def test_fresh_lambdas_compile_once():
    def loss(w, x):
        return ((w * x) ** 2).sum()

    def gradient(w, x):
        return nf.grad(lambda w: loss(w, x))(w)

    close(gradient(X, WEIGHTS), 2 * X * WEIGHTS**2)
    before = nf.cache_info()
    for k in range(300):
        x = WEIGHTS * k
        close(gradient(X, x), 2 * X * x**2)
    after = nf.cache_info()
    assert after.compiles == before.compiles
    assert after.entries == before.entries
    assert after.hits >= before.hits + 300


def test_different_code_at_one_place_is_told_apart():
    functions = [nf.jit(eval(f"lambda x: x {op} 2.0")) for op in ("+", "-", "*", "/")]
    for func, expected in zip(functions, (X + 2, X - 2, X * 2, X / 2)):
        close(func(X), expected)


def test_captures_differ_between_closures_of_one_code():
    def make(scale, kind):
        return nf.jit(lambda x: x * scale if kind == "scale" else x + scale)

    cases = [(2.0, "scale"), (3.0, "scale"), (2.0, "shift"), (2, "scale")]
    cases += [(np.ones(3), "shift"), (np.ones((2, 3)), "scale"), (np.ones(3, dtype=np.float32), "scale")]
    functions = [make(*case) for case in cases]
    for (scale, kind), func in zip(cases, functions):
        close(func(X), X * scale if kind == "scale" else X + scale)


def test_captured_array_is_a_constant_to_the_gradient_and_to_vmap():
    w = np.array([1.0, 2.0, 3.0])
    close(nf.grad(lambda x: (x * w * x).sum())(X), 2 * X * w)
    close(nf.vmap(lambda s: s * w)(X), np.outer(X, w))


def test_an_outer_argument_captured_by_an_inner_function():
    def outer(x, scales):
        inner = nf.grad(lambda v: (v * x).sum() ** 2)
        return nf.vmap(lambda s: inner(s * x))(scales)

    expected = np.array([2 * s * (X @ X) * X for s in (1.0, 2.0)])
    close(nf.jit(outer)(X, np.array([1.0, 2.0])), expected)


def test_printing_happens_once(capsys):
    def func(x):
        print("traced", x.shape)
        return x * 2

    traced = nf.jit(func)
    for _ in range(3):
        close(traced(X), 2 * X)
    close(traced(np.ones(2)), [2.0, 2.0])
    assert capsys.readouterr().out == "traced (3,)\ntraced (2,)\n"


def total(func):
    return nf.grad(lambda x: func(x).sum())


@pytest.mark.parametrize("wrap", [nf.jit, nf.vmap, total], ids=["jit", "vmap", "grad"])
def test_cached_calls_are_counted(wrap):
    traced = wrap(lambda x: x * 3.0)
    traced(X)
    before = nf.cache_info()
    traced(X)
    after = nf.cache_info()
    assert after.compiles == before.compiles


def test_captured_containers_are_trees():
    params = {"w": np.arange(3.0), "s": [np.ones(3), {"b": np.full(3, 2.0)}]}
    x = np.arange(6.0).reshape(2, 3)
    loss = lambda p, x: (p["w"] * x * p["s"][0] + p["s"][1]["b"] ** 2).sum()
    found = nf.vmap(lambda x: nf.grad(loss)(params, x))(x)
    assert type(found) is dict
    np.testing.assert_allclose(found["w"], x)
    np.testing.assert_allclose(found["s"][0], x * params["w"])
    np.testing.assert_allclose(found["s"][1]["b"], np.full((2, 3), 4.0))
    value, _ = nf.jit(lambda x: nf.vjp(lambda p: loss(p, x), params))(x[0])
    params["s"][0] = np.full(3, 5.0)  # the next call sees it
    again, _ = nf.jit(lambda x: nf.vjp(lambda p: loss(p, x), params))(x[0])
    assert value == loss({**params, "s": [np.ones(3), params["s"][1]]}, x[0])
    assert again == loss(params, x[0])
    doubled = nf.jit(lambda x: nf.tree.map(lambda a: a * x, params))(np.array(2.0))
    np.testing.assert_allclose(doubled["s"][1]["b"], np.full(3, 4.0))


def test_what_a_function_among_the_arguments_captures_is_an_input():
    w = np.full(2, 2.0)
    inner = lambda x: np.sin(x) + w * x
    apply = nf.jit(lambda fn, x: fn(x) + 1)
    x = np.array([0.3, 0.7])
    np.testing.assert_allclose(apply(inner, x), inner(x) + 1)
    w[:] = -1.0
    np.testing.assert_allclose(apply(inner, x), inner(x) + 1)
    w = np.full(2, 5.0)
    np.testing.assert_allclose(apply(inner, x), inner(x) + 1)
    np.testing.assert_allclose(nf.grad(lambda x: apply(inner, x).sum())(x), np.cos(x) + w)

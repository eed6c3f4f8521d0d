"""parse, profile, verify and debug_nans: from outside, with passes and rules that are wrong on purpose."""

import dataclasses
import re

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir import primitive
from nufunc.runtime import oracle, pipeline


def loss(w, x):
    h = np.tanh(x @ w)
    h[0] += 1.0
    return np.sum(h**2)


def relaxed(x):
    def body(i, c):
        return c * 0.5 + np.sin(x)

    return nf.fori_loop(0, 7, body, x)


W, X = np.linspace(-1, 1, 12).reshape(4, 3), np.linspace(0, 1, 20).reshape(5, 4)


# -- parse


@pytest.mark.parametrize("stage", ["whole", "pure", "simplified", "grouped"])
def test_each_stage_runs_again(stage):
    parsed = nf.parse(nf.dump(loss, W, X, stage=stage))
    assert parsed(W, X) == pytest.approx(loss(W, X), rel=1e-12)
    expected = 2 * X.T @ (np.tanh(X @ W) * (1 - np.tanh(X @ W) ** 2))
    expected += 2 * np.outer(X[0], 1 - np.tanh(X[0] @ W) ** 2)
    np.testing.assert_allclose(nf.grad(parsed)(W, X), expected, rtol=1e-10)
    batched = nf.vmap(parsed, in_dims=(None, 0))(W, np.stack([X, 2 * X]))
    np.testing.assert_allclose(batched, [loss(W, X), loss(W, 2 * X)], rtol=1e-12)


def test_edited_text_is_what_runs():
    text = nf.dump(lambda x: np.sin(x) + 1, nf.spec(3), stage="simplified")
    np.testing.assert_allclose(nf.parse(text.replace("sin(", "exp("))(np.arange(3.0)), np.exp(np.arange(3.0)) + 1)


def test_parsed_functions_write_in_place():
    def step(u, k):
        u[1:] += k * u[:-1]
        return u.sum()

    for stage in ("whole", "simplified", "grouped"):
        u, expected = np.arange(4.0), np.arange(4.0)
        parsed = nf.parse(nf.dump(step, u.copy(), 2.0, stage=stage))
        assert parsed(u, 2.0) == step(expected, 2.0)
        np.testing.assert_array_equal(u, expected)


def test_loops_are_parsed_too():
    parsed = nf.parse(nf.dump(nf.vmap(relaxed), X, stage="grouped"))
    np.testing.assert_allclose(parsed(X), np.stack([relaxed(row) for row in X]), rtol=1e-12)


def test_what_parse_refuses():
    with pytest.raises(nf.ParseError, match="line 2"):
        nf.parse("graph @f(%0: f64[3]) stage=pure {\n  %1: f64[3] = sinus %0\n  return %1\n}")
    with pytest.raises(nf.VerifyError):
        nf.parse("graph @f(%0: f64[3]) stage=pure {\n  %1: f64[4] = sin(%0)\n  return %1\n}")
    parsed = nf.parse("graph @f(%0: f64[3]) stage=pure {\n  %1: f64[3] = sin(%0)\n  return %1\n}")
    with pytest.raises(nf.ShapeError, match=r"f: argument 0 has shape \(4,\), but should have \(3,\)"):
        parsed(np.ones(4))
    with pytest.raises(nf.ArgumentTypeError, match=r"f takes 1 arguments \(f64\[3\]\), but got 2"):
        parsed(np.ones(3), 1.0)


# -- profile


def test_profile_counts_what_ran():
    found = nf.profile(nf.jit(relaxed), np.ones(1000), seconds=0.02)
    (loop,) = [row for row in found.rows if row.kernel.name == "scan"]
    inner = [row for row in found.rows if row.depth == 1]
    assert loop.depth == 0
    assert {row.kernel.times for row in inner} == {7}
    assert sum(row.kernel.flops for row in inner) == 7 * 2 * 1000
    assert any(__file__ == place.file for row in inner for place in row.kernel.locations)
    assert 0 < sum(row.seconds for row in found.rows) <= found.clocked
    assert found.calls >= 1
    table = str(found)
    assert table.startswith("relaxed: ")
    assert re.search(r"GFLOP/s.*kernel\n", table)
    assert table.count("\n") == 1 + len(found.rows)


def test_profile_measures_while_loops_by_their_iterations():
    def halved(x):
        return nf.while_loop(lambda c: np.sum(c) > 1.0, lambda c: c / 2, x)

    found = nf.profile(halved, np.full(4, 64.0), seconds=0.01)
    assert max(row.kernel.times for row in found.rows) >= 8
    np.testing.assert_array_equal(nf.jit(halved)(np.full(4, 64.0)), np.full(4, 0.25))


def test_profile_leaves_arguments_alone():
    def fill(u):
        u[:] = u * 2 + 1

    u = np.ones(500)
    nf.profile(fill, u, seconds=0.01)
    np.testing.assert_array_equal(u, np.ones(500))


def test_profile_without_code(monkeypatch):
    monkeypatch.setenv("NUFUNC_NOJIT", "1")
    with pytest.raises(nf.UnsupportedError, match="unset it"):
        nf.profile(np.sin, np.ones(3))


# -- verify

FUNCTIONS = {
    "grad": (nf.grad(loss), (W, X)),
    "per sample": (nf.vmap(nf.grad(loss), in_dims=(None, 0)), (W, np.stack([X, X + 1]))),
    "hessian": (nf.hessian(loss), (W, X)),
    "jvp": (lambda x: nf.jvp(relaxed, (x,), (x + 1,)), (np.linspace(0.2, 1, 5),)),
    "jacrev": (nf.jacrev(relaxed), (np.linspace(0.2, 1, 5),)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_right_passes(name):
    func, args = FUNCTIONS[name]
    lines = nf.verify(func, *args).splitlines()
    assert lines[-1].endswith("right")
    assert lines[-1].startswith("machine code")
    assert {line.rsplit(": ", 1)[1] for line in lines} == {"right"}


def test_a_wrong_derivative_is_named(monkeypatch):
    rule = primitive.get("tanh")
    wrong = dataclasses.replace(rule, jvp=lambda b, primals, tangents, results, attrs: [tangents[0]])
    monkeypatch.setitem(primitive._REGISTRY, "tanh", wrong)
    with pytest.raises(nf.VerifyError, match=r"linearize is wrong for @loss.*primitive that is wrong is tanh") as e:
        nf.verify(nf.grad(loss), W, X)
    assert f'"{__file__}", line {loss.__code__.co_firstlineno + 1}' in str(e.value)


def test_a_wrong_pass_is_named(monkeypatch):
    def forgetful(graph):
        return graph.replace(outputs=[graph.params[0] if o.type == graph.params[0].type else o for o in graph.outputs])

    monkeypatch.setattr(pipeline, "simplify", oracle.tested(forgetful, oracle.same))
    with pytest.raises(nf.VerifyError, match=r"forgetful is wrong for @<lambda>: output 0 changes by"):
        nf.verify(lambda x: np.sin(x), np.ones(3))


def test_wrong_code_is_named(monkeypatch):
    rule = primitive.get("sin")
    broken = dataclasses.replace(rule, evaluate=lambda arrays, attrs, regions: [np.sin(arrays[0]) + 1e-6])
    monkeypatch.setitem(primitive._REGISTRY, "sin", broken)
    with pytest.raises(nf.VerifyError, match=r"machine code is wrong.*the first kernel that is wrong is sin\+") as e:
        nf.verify(lambda x: (np.sin(x) * 2) @ x, np.ones(3))
    assert __file__ in str(e.value)


def test_what_cannot_be_tested_is_said():
    @nf.custom_jvp
    def twice(x):
        return 2 * x

    twice.defjvp(lambda primals, tangents: (twice(*primals), 3 * tangents[0]))
    found = nf.verify(nf.grad(lambda x: twice(x).sum()), np.ones(3))
    assert "rule @twice is believed" in found
    assert "single precision" in nf.verify(nf.grad(lambda x: np.sin(x).sum()), np.ones(3, "f4"))


# -- debug_nans


def roots(x):
    y = x - 2.0
    z = np.sqrt(y)
    return z.sum(), x + 1


def test_the_line_of_the_first_nan():
    call = nf.jit(roots)
    assert np.isnan(call(np.ones(2))[0])  # the short way is in use by now
    message = r"sqrt made the first NaN of result 0, at \[1\] from -1.0"
    with nf.debug_nans(), pytest.raises(nf.NaNError, match=message) as e:
        call(np.array([3.0, 1.0]))
    assert e.value.location == (__file__, roots.__code__.co_firstlineno + 2, "roots")
    assert isinstance(e.value, FloatingPointError)
    assert np.isnan(call(np.ones(2))[0])
    with nf.debug_nans():
        assert call(np.full(2, 3.0))[0] == 2.0


def test_nans_inside_loops_and_of_inputs():
    def body(c, v):
        c = c + v
        return c, np.log(c)

    with nf.debug_nans():
        with pytest.raises(nf.NaNError, match=r"log made the first NaN of result 1 from -1.0") as e:
            nf.jit(lambda x: nf.scan(body, 0.0, x))(np.array([1.0, -2.0, 5.0]))
        assert e.value.location.line == body.__code__.co_firstlineno + 2
        with pytest.raises(nf.NaNError, match=r"the NaN of the result comes from argument 0"):
            nf.jit(lambda x: x * 2)(np.array([1.0, np.nan]))
        with pytest.raises(nf.NaNError, match=r"mul made the first NaN of the result, at \[0\] from inf and 0.0"):
            nf.grad(lambda x: np.sum(np.sqrt(x) * 0 / x))(np.zeros(2))


def test_nans_are_found_before_anything_is_written():
    @nf.jit
    def write(u):
        u[0] = np.log(u[1])

    u = np.array([1.0, -1.0])
    with nf.debug_nans(), pytest.raises(nf.NaNError, match=r"log made the first NaN of argument 0"):
        write(u)
    np.testing.assert_array_equal(u, [1.0, -1.0])


def test_infinities_on_request_and_bound_calls():
    x = np.array([1.0, 0.0])
    bound = nf.jit(lambda x: 1.0 / x).bind(x)
    with nf.debug_nans():
        assert np.isinf(bound()[1])
    with nf.debug_nans(infs=True), pytest.raises(nf.NaNError, match=r"div made the first NaN or infinity"):
        bound()
    nf.debug_nans()
    try:
        with pytest.raises(nf.NaNError):
            nf.jit(np.sqrt)(-1.0)
    finally:
        nf.debug_nans(False)
    assert np.isnan(nf.jit(np.sqrt)(-1.0))

"""Derivative rules of the user's, implicit differentiation, and Python functions called by compiled code."""

import gc
import weakref

import numpy as np
import pytest

import nufunc as nf

X = np.array([0.3, 1.2, 2.5])
FACTOR = 2.0  # a run-time input of rules that use it
TABLE = np.array([1.0, 10.0, 100.0])


@nf.custom_jvp
def sine(x):
    return np.sin(x)


@sine.defjvp
def _sine_rule(primals, tangents):
    (x,), (t,) = primals, tangents
    return sine(x), 3 * np.cos(x) * t  # three times the true derivative, so that it is seen which one is used


@nf.custom_vjp
def cosine(x):
    return np.cos(x)


cosine.defvjp(lambda x: (cosine(x), x), lambda x, g: (-3 * np.sin(x) * g,))

# -- custom_jvp and custom_vjp under every transform

UNDER = {
    "grad": lambda f, x: nf.grad(lambda x: f(x).sum())(x),
    "grad of jit": lambda f, x: nf.grad(lambda x: nf.jit(f)(x).sum())(x),
    "jvp": lambda f, x: nf.jvp(f, (x,), (np.ones_like(x),))[1],
    "linearize": lambda f, x: nf.linearize(f, x)[1](np.ones_like(x)),
    "vjp": lambda f, x: nf.vjp(f, x)[1](np.ones_like(x))[0],
    "jacrev": lambda f, x: np.diag(nf.jacrev(f)(x)),
    "jacfwd": lambda f, x: np.diag(nf.jacfwd(f)(x)),
    "vmap of grad": lambda f, x: nf.vmap(nf.grad(f))(x),
    "grad of vmap": lambda f, x: nf.grad(lambda x: nf.vmap(f)(x).sum())(x),
    "jvp of vmap": lambda f, x: nf.jvp(nf.vmap(f), (x,), (np.ones_like(x),))[1],
    "grad in scan": lambda f, x: nf.grad(lambda x: nf.scan(lambda c, v: (c + f(v), None), 0.0, x)[0])(x),
    "grad in cond": lambda f, x: nf.grad(lambda x: nf.cond(x[0] > 0, f, np.sqrt, x).sum())(x),
    "scan of grad": lambda f, x: nf.map(nf.grad(f), x),
    "functionalize": lambda f, x: nf.functionalize(nf.grad(lambda x: f(x).sum()))(x),
}


@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize(("f", "slope"), [(sine, lambda x: 3 * np.cos(x)), (cosine, lambda x: -3 * np.sin(x))])
def test_the_rule_is_used_under_every_transform(under, f, slope):
    np.testing.assert_allclose(UNDER[under](f, X), slope(X), rtol=1e-14)


SECOND = {
    "grad of grad": lambda f, x: nf.vmap(nf.grad(nf.grad(f)))(x),
    "hessian": lambda f, x: np.diag(nf.hessian(lambda x: f(x).sum())(x)),
    "jacrev of jacrev": lambda f, x: np.einsum("iii->i", nf.jacrev(nf.jacrev(f))(x)),
    "jacfwd of jacfwd": lambda f, x: np.einsum("iii->i", nf.jacfwd(nf.jacfwd(f))(x)),
    "jvp of grad of vmap": lambda f, x: nf.jvp(
        nf.grad(lambda x: nf.vmap(f)(x).sum()), (x,), (np.ones_like(x),)
    )[1],
}


@pytest.mark.parametrize("under", SECOND)
def test_the_rule_is_differentiated_in_turn(under):
    # the rule calls the function itself, whose rule counts again where its result is differentiated
    np.testing.assert_allclose(SECOND[under](sine, X), -3 * np.sin(X), rtol=1e-14)
    np.testing.assert_allclose(SECOND[under](cosine, X), -3 * np.cos(X), rtol=1e-14)


def test_a_rule_that_calls_its_function_counts_at_each_order():
    @nf.custom_jvp
    def f(x):
        return x**3

    f.defjvp(lambda p, t: (f(*p), 2 * f(*p) * t[0]))
    # f' = 2 f by the rule, so f'' = 4 f, f''' = 8 f
    assert nf.grad(nf.grad(nf.grad(f)))(2.0) == 64
    assert nf.jacfwd(nf.jacfwd(nf.grad(f)))(2.0) == 64


def test_arguments_are_trees_with_numbers_names_and_statics():
    @nf.custom_jvp
    def f(params, x, power=2, how="sum"):
        assert how == "sum"
        return {"y": (params["w"] * x**power).sum(), "n": 3}

    @f.defjvp
    def rule(primals, tangents):
        _, x, power, _ = primals
        dots, t, none, nothing = tangents
        assert none is None
        assert nothing is None
        assert dots["i"] is None
        out = f(*primals)
        return out, {"y": (dots["w"] * x**power).sum() + 5 * t.sum(), "n": None}

    params = {"w": np.array([1.0, 2.0]), "i": np.array([1, 2])}
    x = np.array([3.0, 4.0])

    def loss(w, x):
        out = f({**params, "w": w}, x, how="sum")
        return out["y"] * out["n"]

    w, dx = nf.grad(loss, (0, 1))(params["w"], x)
    np.testing.assert_array_equal(w, 3 * x**2)
    np.testing.assert_array_equal(dx, [15, 15])


def test_nondiff_arguments_come_first_in_the_rules():
    @nf.custom_jvp
    def f(g, x):
        return g(x)

    g = nf.custom_vjp(f.func, nondiff_argnums=(0,))
    f = nf.custom_jvp(f.func, nondiff_argnums=0)
    f.defjvp(lambda g, p, t: (g(*p), 7 * t[0]))
    g.defvjp(lambda h, x: (h(x), None), lambda h, res, ct: (h(ct),))
    assert nf.grad(lambda x: f(np.sin, x))(2.0) == 7
    assert nf.grad(lambda x: 3 * g(np.sqrt, x))(4.0) == np.sqrt(3.0)


def test_zeros_are_given_as_none_where_asked_for():
    @nf.custom_jvp
    def f(x, y):
        return x * y, x + y

    def rule(primals, tangents):
        (x, y), (s, t) = primals, tangents
        return f(x, y), (y * s if s is not None else 2 * x * t, None)

    f.defjvp(rule, symbolic_zeros=True)
    assert nf.grad(lambda y: f(3.0, y)[0] + f(3.0, y)[1])(5.0) == 6
    assert nf.grad(lambda x: f(x, 5.0)[0] + f(x, 5.0)[1])(3.0) == 5

    @nf.custom_vjp
    def g(x):
        return x * 2, x * 3

    g.defvjp(lambda x: (g(x), None), lambda _, c: (c[0] if c[1] is None else 7 * c[1],), symbolic_zeros=True)
    assert nf.grad(lambda x: g(x)[0])(5.0) == 1
    assert nf.grad(lambda x: g(x)[0] + g(x)[1])(5.0) == 8


def test_defjvps_takes_a_rule_per_argument():
    @nf.custom_jvp
    def f(x, y, z):
        return x * y * z

    f.defjvps(lambda t, out, x, y, z: 10 * out * t, None, lambda t, out, x, y, z: t)
    assert nf.grad(f, (0, 1, 2))(1.0, 2.0, 3.0) == (60, 0, 1)


def test_none_is_a_zero_cotangent_and_complex_ones_follow_torch():
    @nf.custom_vjp
    def f(z, y):
        return z * z * y

    f.defvjp(lambda z, y: (f(z, y), (z, y)), lambda res, g: (g * np.conj(2 * res[0] * res[1]), None))
    z, g = 1 + 2j, 3 - 1j
    own = nf.vjp(f, z, 2.0)[1](g)
    assert own[0] == nf.vjp(lambda z: z * z * 2.0, z)[1](g)[0]
    assert own[1] == 0


def test_what_rules_capture_is_read_at_each_call():
    global FACTOR

    @nf.custom_jvp
    def f(x):
        return x @ x

    f.defjvp(lambda p, t: (f(*p), FACTOR * (TABLE * t[0]).sum()))
    gradient = nf.grad(f)
    np.testing.assert_array_equal(gradient(X), 2 * TABLE)
    np.testing.assert_array_equal(nf.hessian(f)(X), np.zeros((3, 3)))
    FACTOR = 5.0
    try:
        np.testing.assert_array_equal(gradient(X), 5 * TABLE)
    finally:
        FACTOR = 2.0


def test_a_rule_may_capture_what_its_function_does_not_also_at_second_order():
    @nf.custom_jvp
    def f(x):
        return x**2

    f.defjvp(lambda p, t: (f(*p), FACTOR * f(*p) * t[0]))
    assert nf.grad(nf.grad(f))(3.0) == 36  # f'' = 2 f' = 4 f


def test_a_captured_value_is_a_constant_or_an_error():
    def outer(w, x):
        @nf.custom_jvp
        def f(x):
            return w * x

        f.defjvp(lambda p, t: (f(*p), w * t[0]))
        return f(x)

    assert nf.grad(outer, 1)(2.0, 3.0) == 2
    assert nf.vmap(nf.grad(outer, 1), (0, None))(TABLE, 3.0).tolist() == TABLE.tolist()
    with pytest.raises(nf.UnsupportedError, match="no argument of it") as caught:
        nf.grad(outer)(2.0, 3.0)
    assert "test_custom.py" in str(caught.value)


def test_a_nonlinear_backward_rule_works_backwards_and_says_so_forwards():
    @nf.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, g: (np.clip(g, -1, 1),))
    np.testing.assert_array_equal(nf.grad(lambda x: (clipped(x) ** 2).sum())(X), np.clip(2 * X, -1, 1))
    with pytest.raises(nf.UnsupportedError, match="not linear"):
        nf.jvp(clipped, (X,), (X,))


def test_outside_of_traced_functions_it_is_the_function_itself():
    out = sine(X)
    assert type(out) is np.ndarray
    assert (out == np.sin(X)).all()
    assert sine.__name__ == "sine"
    assert "sine" in repr(sine)


def test_methods_can_have_rules():
    class Layer:
        def __init__(self, w):
            self.w = w

        @nf.custom_jvp
        def apply(self, x):
            return self.w * x

        apply.nondiff_argnums = (0,)
        apply.defjvp(lambda self, p, t: (self.apply(*p), 100 * self.w * t[0]))

    layer = Layer(3.0)
    assert nf.grad(lambda x: layer.apply(x))(2.0) == 300


WRONG = {
    "no rule": (lambda: nf.grad(nf.custom_jvp(np.sin))(1.0), nf.ArgumentError, "no derivative rule"),
    "no function": (lambda: nf.custom_jvp(3), nf.ArgumentTypeError, "takes a function"),
    "no pair": (lambda: _with_jvp(lambda p, t: p[0]), nf.ArgumentTypeError, "must return a pair"),
    "shape of the tangent": (lambda: _with_jvp(lambda p, t: (p[0], np.ones(2))), nf.ShapeError, "the tangent of"),
    "dtype of the tangent": (
        lambda: _with_jvp(lambda p, t: (p[0], np.float32(1))), nf.DTypeError, "must have dtype float64",
    ),
    "structure": (lambda: _with_jvp(lambda p, t: (p[0], (t[0], t[0]))), nf.ArgumentTypeError, "got tuple"),
    "result of the rule": (lambda: _with_jvp(lambda p, t: (np.float32(1), t[0])), nf.DTypeError, "the result of"),
    "too few cotangents": (lambda: _with_vjp(lambda r, g: ()), nf.ArgumentTypeError, "each of the 1"),
    "no tuple": (lambda: _with_vjp(lambda r, g: g), nf.ArgumentTypeError, "must be a tuple"),
    "shape of the cotangent": (lambda: _with_vjp(lambda r, g: (np.ones(3),)), nf.ShapeError, "backward rule"),
    "nondiff_argnums": (lambda: nf.custom_jvp(np.sin, nondiff_argnums=-1), nf.ArgumentError, "nondiff_argnums"),
}  # fmt: skip


def _with_jvp(rule):
    f = nf.custom_jvp(lambda x: x)
    f.defjvp(rule)
    return nf.grad(lambda x: f(x) * 1.0)(2.0)


def _with_vjp(backward):
    f = nf.custom_vjp(lambda x: x * 1.0)
    f.defvjp(lambda x: (x * 1.0, None), backward)
    return nf.grad(lambda x: f(x))(2.0)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rules_say_what_is_wrong(case):
    call, error, words = WRONG[case]
    with pytest.raises(error, match=words) as caught:
        call()
    assert "test_custom.py" in str(caught.value)


def test_the_node_has_a_text_form_that_says_it_cannot_be_read_back():
    text = nf.dump(nf.jit(lambda x: sine(x)), X, stage="whole")
    assert "custom{rule=@sine}" in text
    with pytest.raises(nf.NufuncError, match="@sine is code"):
        nf.ir.text.parse_graph(text)
    assert "custom{" not in nf.dump(nf.jit(lambda x: sine(x)), X, stage="simplified")


# -- implicit differentiation

A = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]])
B = np.array([1.0, 2.0, 3.0])


def conjugate_gradients(matvec, b):
    def step(state):
        x, r, p = state
        q = matvec(p)
        a = (r @ r) / (p @ q)
        new = r - a * q
        return x + a * p, new, new + (new @ new) / (r @ r) * p

    return nf.while_loop(lambda s: np.sqrt(s[1] @ s[1]) > 1e-13, step, (b * 0, b, b))[0]


def solved(t, b):
    matrix = A * (1 + t) + np.diag(b**2) * t
    return nf.custom_linear_solve(lambda v: matrix @ v, b, conjugate_gradients, symmetric=True)


def direct(t, b):
    return np.linalg.solve(A * (1 + t) + np.diag(b**2) * t, b)


def cubic(a):
    def newton(f, x):
        return nf.while_loop(lambda x: np.abs(f(x)) > 1e-12, lambda x: x - f(x) / nf.grad(f)(x), x)

    return nf.custom_root(lambda x: x**3 + x - a, 1.0, newton, lambda g, y: y / g(1.0))


IMPLICIT = {
    "value": lambda f: nf.jit(f)(0.3, B),
    "grad": lambda f: nf.grad(lambda t, b: (f(t, b) ** 2).sum(), (0, 1))(0.3, B),
    "jacfwd": lambda f: nf.jacfwd(f, (0, 1))(0.3, B),
    "hessian": lambda f: nf.hessian(lambda t, b: (f(t, b) ** 2).sum(), (0, 1))(0.3, B),
    "vmap of grad": lambda f: nf.vmap(nf.grad(lambda t, b: f(t, b).sum(), 1), (0, None))(np.array([0.1, 0.2]), B),
    "grad of vmap": lambda f: nf.grad(lambda b: nf.vmap(f, (0, None))(np.array([0.1, 0.2]), b).sum())(B),
}


@pytest.mark.parametrize("under", IMPLICIT)
def test_a_linear_solve_by_iteration_is_differentiated_as_a_solution(under):
    nf.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-13),
        IMPLICIT[under](solved), IMPLICIT[under](direct),
    )  # fmt: skip


def test_a_nonsymmetric_system_takes_the_transposed_solver():
    matrix = A + np.triu(np.ones((3, 3)))

    def f(t, b):
        m = matrix * t
        return nf.custom_linear_solve(
            lambda v: m @ v, b, lambda mv, b: np.linalg.solve(m, b), lambda vm, c: np.linalg.solve(m.T, c)
        )

    np.testing.assert_allclose(nf.jacrev(f, 1)(2.0, B), np.linalg.inv(2 * matrix), rtol=1e-13)
    np.testing.assert_allclose(nf.jacrev(f)(2.0, B), -np.linalg.solve(matrix, B) / 4, rtol=1e-13)
    half = lambda b: nf.custom_linear_solve(lambda v: matrix @ v, b, lambda mv, b: np.linalg.solve(matrix, b))
    np.testing.assert_allclose(nf.jacfwd(half)(B), np.linalg.inv(matrix), rtol=1e-13)
    with pytest.raises(nf.UnsupportedError, match="transpose_solve"):
        nf.jacrev(half)(B)


def test_roots_are_differentiated_by_the_implicit_function_theorem():
    for a in (2.0, 10.0, 30.0):
        x = nf.jit(cubic)(a)
        assert abs(x**3 + x - a) < 1e-11
        slope = 1 / (3 * x**2 + 1)
        np.testing.assert_allclose(nf.grad(cubic)(a), slope, rtol=1e-12)
        np.testing.assert_allclose(nf.jvp(cubic, (a,), (1.0,))[1], slope, rtol=1e-12)
        np.testing.assert_allclose(nf.grad(nf.grad(cubic))(a), -6 * x * slope**3, rtol=1e-11)
    many = np.array([2.0, 10.0, 30.0])
    np.testing.assert_allclose(nf.vmap(nf.grad(cubic))(many), [nf.grad(cubic)(a) for a in many], rtol=1e-13)


def test_a_root_of_a_tree():
    def f(a):
        def residual(x):
            return {"u": x["u"] ** 2 - a, "v": x["v"] - x["u"] * 2}

        def solve(f, x):
            return {"u": np.sqrt(a), "v": 2 * np.sqrt(a)}

        def tangent(g, y):
            return nf.custom_linear_solve(g, y, lambda g, y: _by_columns(g, y))

        return nf.custom_root(residual, {"u": 1.0, "v": 1.0}, solve, tangent)["v"]

    np.testing.assert_allclose(nf.jvp(f, (4.0,), (1.0,))[1], 0.5, rtol=1e-14)


def _by_columns(g, y):
    first, second = g({"u": 1.0, "v": 0.0}), g({"u": 0.0, "v": 1.0})
    matrix = np.array([[first["u"], second["u"]], [first["v"], second["v"]]])
    u, v = np.linalg.solve(matrix, np.stack([y["u"], y["v"]]))
    return {"u": u, "v": v}


def test_wrong_solvers_are_named():
    with pytest.raises(nf.ArgumentTypeError, match="matvec must return"):
        nf.jit(lambda b: nf.custom_linear_solve(lambda v: v[:2], b, lambda mv, b: b))(B)
    with pytest.raises(nf.ArgumentTypeError, match=r"initial_guess must be a float"):
        nf.jit(lambda a: nf.custom_root(lambda x: x - a, 1, lambda f, x: x, lambda g, y: y))(2.0)


# -- Python functions


def test_a_callback_runs_at_every_call_with_current_globals():
    global FACTOR

    def middle(x):
        assert type(x) is np.ndarray
        return np.partition(x, 1) * FACTOR

    f = nf.jit(lambda x: nf.pure_callback(middle, nf.spec((3,), float), x)[1] + 1)
    assert f(X) == 1.2 * 2 + 1
    FACTOR = 10.0
    try:
        assert f(X) == 1.2 * 10 + 1
    finally:
        FACTOR = 2.0


def test_a_closure_made_anew_calls_its_own_callback():
    def make(k):
        def python(x):
            return x * k[0]

        return nf.jit(lambda x: nf.pure_callback(python, x, x))

    assert make([2])(np.array([1.0]))[0] == 2
    assert make([3])(np.array([1.0]))[0] == 3


def test_an_exception_in_a_callback_is_the_calls():
    class Own(Exception):
        pass

    def fails(x):
        raise Own("here")

    f = nf.jit(lambda x: nf.pure_callback(fails, x, x) + 1)
    for _ in range(2):
        with pytest.raises(Own, match="here"):
            f(X)
    with pytest.raises(nf.ArgumentTypeError, match="must return an array of shape"):
        nf.jit(lambda x: nf.pure_callback(lambda x: x[:2], x, x))(X)


def test_callbacks_under_vmap_run_lane_by_lane_or_at_once():
    shapes = []

    def twice(x):
        shapes.append(np.shape(x))
        return 2 * x

    rows = np.arange(12.0).reshape(4, 3)
    one = nf.vmap(lambda x: nf.pure_callback(twice, x, x))
    np.testing.assert_array_equal(one(rows), 2 * rows)
    assert shapes == [(3,)] * 4
    shapes.clear()
    both = nf.vmap(lambda x, y: nf.pure_callback(lambda x, y: twice(x) + y, x, x, y, vectorized=True), (0, None))
    np.testing.assert_array_equal(both(rows, X), 2 * rows + X)
    assert shapes == [(4, 3)]


def test_a_callback_has_the_derivative_that_a_rule_gives_it():
    f = lambda x: nf.pure_callback(np.sin, x, x)
    with pytest.raises(nf.UnsupportedError, match="custom_jvp"):
        nf.grad(lambda x: f(x).sum())(X)
    g = nf.custom_jvp(f)
    g.defjvp(lambda p, t: (g(*p), np.cos(p[0]) * t[0]))
    np.testing.assert_allclose(nf.grad(lambda x: g(x).sum())(X), np.cos(X), rtol=1e-15)


def test_a_traced_value_in_a_callback_is_refused():
    with pytest.raises(nf.TraceError, match="pass it as an"):
        nf.jit(lambda x: nf.pure_callback(lambda y: y + x, x, x))(X)


def test_callbacks_for_effect_keep_their_order_and_number():
    seen = []

    def f(x):
        nf.debug.callback(seen.append, ("start", x[0]))
        y = np.sin(x) * 2

        def step(i, c):
            nf.debug.callback(seen.append, ("step", i))
            return c + y.sum()

        out = nf.fori_loop(0, 2, step, 0.0)
        nf.debug.callback(seen.append, ("end", out))
        nf.debug.callback(seen.append, ("end", out))
        return out

    value = nf.jit(f)(X)
    labels = [name for name, _ in seen]
    assert labels == ["start", "step", "step", "end", "end"]
    assert seen[0][1] == X[0]
    assert seen[-1][1] == value
    seen.clear()
    nf.grad(f)(X)
    assert [name for name, _ in seen] == labels


def test_effects_happen_in_the_branch_that_is_taken():
    seen = []

    @nf.vmap
    def f(x):
        return nf.cond(x > 1, lambda: _noted(seen, x), lambda: -x)

    np.testing.assert_array_equal(f(np.array([0.5, 2.0, 3.0])), [-0.5, 2, 3])
    assert seen == [2, 3]


def _noted(seen, x):
    nf.debug.callback(seen.append, x)
    return x


def test_print_formats_current_values(capsys):
    f = nf.jit(lambda x: (nf.debug.print("x = {} {n:.2f} {}", x, "text", n=x[0]), x.sum())[1])
    f(X)
    f(2 * X)
    assert capsys.readouterr().out == "x = [0.3 1.2 2.5] 0.30 text\nx = [0.6 2.4 5. ] 0.60 text\n"
    nf.debug.print("{}", 1)
    assert capsys.readouterr().out == "1\n"


def test_callbacks_without_the_compiler(monkeypatch):
    monkeypatch.setenv("NUFUNC_NOJIT", "1")
    assert nf.jit(lambda x: nf.pure_callback(np.sum, nf.spec((), float), x) * 2)(X) == 8


def test_what_a_callback_holds_is_freed_with_the_compilation():
    class Holder:
        def __call__(self, x):
            return x

    def use():
        holder = Holder()
        nf.jit(lambda x: nf.pure_callback(holder.__call__, x, x))(X)
        return weakref.ref(holder)

    alive = use()
    nf.clear_cache()
    gc.collect()
    assert alive() is None


# -- stop_gradient and associative_scan


def test_stop_gradient_is_a_constant_for_derivatives_alone():
    f = lambda x: x * nf.stop_gradient({"x": x, "n": 2})["x"]
    assert f(3.0) == 9
    assert nf.jit(f)(3.0) == 9
    assert nf.grad(f)(3.0) == 3
    assert nf.jvp(f, (3.0,), (1.0,))[1] == 3
    np.testing.assert_array_equal(nf.vmap(nf.grad(f))(X), X)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [False, True])
def test_associative_scan_of_products_of_matrices(axis, reverse):
    x = np.random.default_rng(0).normal(size=(4, 5, 2, 2))
    axis = axis if axis >= 0 else 1
    got = nf.associative_scan(lambda a, b: a @ b, x, reverse, axis - 4 if axis else 0)
    moved = np.moveaxis(x, axis, 0)[::-1] if reverse else np.moveaxis(x, axis, 0)
    want = [moved[0]]
    for item in moved[1:]:
        want.append(want[-1] @ item)
    want = np.array(want[::-1] if reverse else want)
    np.testing.assert_allclose(got, np.moveaxis(want, 0, axis), rtol=1e-12)


def test_associative_scan_of_trees_is_differentiated():
    a, b = np.array([0.5, 0.2, 0.9]), np.array([1.0, 2.0, 3.0])

    def recurrence(a, b):  # y[i] = a[i] y[i-1] + b[i]
        return nf.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b))[1]

    y0 = b[0]
    y1 = a[1] * y0 + b[1]
    y2 = a[2] * y1 + b[2]
    np.testing.assert_allclose(nf.jit(recurrence)(a, b), [y0, y1, y2], rtol=1e-15)
    grads = nf.grad(lambda a, b: recurrence(a, b)[2], (0, 1))(a, b)
    np.testing.assert_allclose(grads[0], [0, a[2] * y0, y1], rtol=1e-15)
    np.testing.assert_allclose(grads[1], [a[1] * a[2], a[2], 1], rtol=1e-15)
    assert nf.associative_scan(np.add, np.ones((0, 2))).shape == (0, 2)
    with pytest.raises(nf.BoundsError, match="axis 2"):
        nf.associative_scan(np.add, np.ones((3, 2)), axis=2)

"""Compiled functions called by others: through addresses, by SciPy, from njit code, as NumPy ufuncs, by optimizers."""

import ctypes
import threading

import numba
import numpy as np
import pytest
from scipy import integrate, ndimage, optimize

import nufunc as nf

A = np.arange(12.0).reshape(4, 3) / 7


def wave(x):
    return np.exp(-x * x) * np.sin(x + 1)


def plane(x, y):
    return np.sin(x) * y + x


def pulled(w, v):
    return nf.grad(lambda w: np.sum(np.tanh(A @ w) * v))(w)


def step(u, k):
    u[1:] += k * u[:-1]
    return u.sum(), u * 2


def compiled(func, *specs):
    return nf.jit(func).lower(*specs).compile()


WAVE = compiled(wave, nf.spec(()))
PLANE = compiled(plane, nf.spec(()), nf.spec(()))
PULLED = compiled(pulled, nf.spec(3), nf.spec(4))


# -- addresses


def test_a_c_function_by_ctypes():
    call = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)(PULLED.address)
    w, v, result = np.array([0.1, 0.2, 0.3]), np.arange(4.0), np.empty(3)
    assert PULLED.prototype == "int32_t pulled(const double *w, const double *v, double *result, void *workspace)"
    assert call(w.ctypes.data, v.ctypes.data, result.ctypes.data, None) == 0
    np.testing.assert_array_equal(result, PULLED(w, v))


def test_from_many_threads_at_once():
    """ctypes lets go of the GIL."""
    call = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)(PULLED.address)
    inputs = [(np.full(3, k / 10), np.arange(4.0) + k, np.empty(3)) for k in range(8)]

    def work(w, v, result):
        for _ in range(200):
            call(w.ctypes.data, v.ctypes.data, result.ctypes.data, None)

    workers = [threading.Thread(target=work, args=row) for row in inputs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for w, v, result in inputs:
        np.testing.assert_array_equal(result, PULLED(w, v))


def test_captures_keep_their_values():
    scale = 2.0

    def scaled(x):
        return x * scale

    function = compiled(scaled, nf.spec(()))
    call = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(function.native().scalar_address)
    assert call(3.0) == 6.0
    scale = 5.0
    assert (call(3.0), function(3.0)) == (6.0, 15.0)


def test_what_has_no_address():
    def prints(x):
        nf.debug.print("{}", x)
        return x

    with pytest.raises(nf.UnsupportedError, match="Python"):
        _ = compiled(prints, nf.spec(3)).address


# -- SciPy


def test_quad():
    np.testing.assert_allclose(integrate.quad(WAVE.low_level_callable(), 0, 3), integrate.quad(wave, 0, 3), rtol=1e-12)
    user = WAVE.low_level_callable("double (double, void *)")
    assert integrate.quad(user, 0, 3)[0] == pytest.approx(integrate.quad(wave, 0, 3)[0], rel=1e-12)


def test_nquad_and_dblquad():
    expected = integrate.nquad(plane, [[0, 1], [0, 2]])[0]
    assert integrate.nquad(PLANE.low_level_callable(), [[0, 1], [0, 2]])[0] == pytest.approx(expected, rel=1e-12)
    form = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, ctypes.c_void_p)
    call, numbers = form(PLANE.native().address_of("double (int, double *)")), np.array([0.5, 2.0, 9.0])
    assert call(2, numbers.ctypes.data) == PLANE(0.5, 2.0)
    assert np.isnan(call(1, numbers.ctypes.data))  # not what it is for
    assert np.isnan(call(3, numbers.ctypes.data))


def test_generic_filters():
    image = np.random.default_rng(0).normal(size=(12, 15))
    spread = compiled(lambda x: np.sort(x)[7] - np.sort(x)[1], nf.spec(9))
    found = ndimage.generic_filter(image, spread.low_level_callable(), size=3)
    expected = ndimage.generic_filter(image, lambda x: np.sort(x)[7] - np.sort(x)[1], size=3)
    np.testing.assert_array_equal(found, expected)
    lines = compiled(lambda x: x[2:] + x[1:-1] * x[:-2], nf.spec(17))
    found = ndimage.generic_filter1d(image, lines.low_level_callable(), filter_size=3)

    def line(x, out):
        out[:] = x[2:] + x[1:-1] * x[:-2]

    np.testing.assert_allclose(found, ndimage.generic_filter1d(image, line, filter_size=3), rtol=1e-14)
    with pytest.raises(RuntimeError):  # SciPy's, after the function has refused the size
        ndimage.generic_filter(image, spread.low_level_callable(), size=5)


def test_root_finding_by_derivative():
    slope = compiled(nf.grad(wave), nf.spec(()))
    top = optimize.brentq(slope, -1, 2)
    call = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(slope.native().scalar_address)
    assert optimize.brentq(call, -1, 2) == top


def test_forms_that_do_not_fit():
    with pytest.raises(nf.ArgumentError, match=r"has no form 'double \(int\)'; it has double \(double\)"):
        WAVE.low_level_callable("double (int)")
    with pytest.raises(nf.ArgumentError, match="it must be from numbers, or one vector"):
        PULLED.low_level_callable()


# -- njit


@numba.njit
def total(n):
    s = 0.0
    for i in range(n):
        s += WAVE(i * 0.01)
    return s


@numba.njit
def given(f, x, y):
    return f(x, y)


@numba.njit
def vectors(w, v):
    return PULLED(w, v)


def test_numbers_in_njit():
    assert total(100) == pytest.approx(sum(wave(i * 0.01) for i in range(100)), rel=1e-12)
    assert given(PLANE, 0.5, 2) == PLANE(0.5, 2.0)


def test_functions_that_were_not_lowered_in_njit():
    plane_jit = nf.jit(plane)
    assert given(plane_jit, 0.5, 2.0) == PLANE(0.5, 2.0)
    single = np.float32(0.5), np.float32(2.0)
    assert given(nf.grad(plane), *single) == nf.grad(plane)(*single)  # and not what double precision gives
    assert given(plane_jit, 1 + 2j, 2.0) == pytest.approx(np.sin(1 + 2j) * 2 + 1 + 2j, rel=1e-12)


def test_arrays_in_njit():
    w, v = np.array([0.1, 0.2, 0.3]), np.arange(4.0)
    np.testing.assert_array_equal(vectors(w, v), PULLED(w, v))
    np.testing.assert_array_equal(vectors(w, np.arange(8.0)[::2]), PULLED(w, np.arange(8.0)[::2].copy()))
    np.testing.assert_array_equal(vectors(w[::-1], v), PULLED(w[::-1].copy(), v))
    with pytest.raises(ValueError, match=r"argument 1 \('v'\) must be float64 of shape \(4,\), got another shape"):
        vectors(w, np.arange(5.0))
    with pytest.raises(numba.TypingError, match="must be float64 of shape"):
        vectors(w, np.arange(4))
    with pytest.raises(numba.TypingError, match=r"f\.lower\(nf\.spec"):
        given(nf.jit(plane), np.ones(3), 1.0)


def test_several_results_and_writes_in_njit():
    stepped = compiled(step, nf.spec(5), nf.spec(()))

    @numba.njit
    def run(u):
        return stepped(u, 2.0)

    u, expected = np.arange(5.0), np.arange(5.0)
    s, doubled = run(u)
    want = step(expected, 2.0)
    np.testing.assert_array_equal(u, expected)
    assert s == want[0]
    np.testing.assert_array_equal(doubled, want[1])
    with pytest.raises(numba.TypingError, match="written in place and must be C-contiguous"):
        run(np.arange(10.0)[::2])


def test_errors_in_njit():
    pick = compiled(lambda x, i: x[i], nf.spec(4), nf.spec((), np.int64))

    @numba.njit
    def run(i):
        return pick(np.arange(4.0), i)

    assert run(2) == 2.0
    with pytest.raises(IndexError, match="index out of bounds"):
        run(7)


def test_small_integers_in_njit():
    mixed = compiled(lambda a, b, c: a + b - c, nf.spec((), np.int8), nf.spec((), np.uint8), nf.spec((), bool))

    @numba.njit
    def run(a, b, c):
        return mixed(a, b, c)

    assert run(np.int8(-100), np.uint8(250), True) == -100 + 250 - 1


def test_the_caller_is_not_cached():
    """Addresses mean nothing to another process."""

    def caller(x):
        return WAVE(x)

    dispatcher = numba.njit(caller)
    dispatcher(1.0)
    (overload,) = dispatcher.overloads.values()
    assert overload.library.has_dynamic_globals


# -- ufuncs


@pytest.fixture(scope="module")
def ufunc():
    return PULLED.gufunc()


def test_a_real_ufunc(ufunc):
    assert isinstance(ufunc, np.ufunc)
    assert ufunc.signature == "(3),(4)->(3)"
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(5, 3)), rng.normal(size=(7, 5, 4))
    expected = np.array([[pulled(a, b) for a, b in zip(w, row, strict=True)] for row in v])
    np.testing.assert_allclose(ufunc(w, v), expected, rtol=1e-12)
    assert ufunc(w[0], v[0, 0]).shape == (3,)
    assert ufunc(w[:0], v[:, :0]).shape == (7, 0, 3)


@pytest.mark.parametrize("turn", [lambda a: a[..., ::-1], lambda a: np.asfortranarray(a), lambda a: a.astype("f4"),
                                  lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: (a * 4).astype("i2"),
                                  lambda a: a.astype(">f8")])  # fmt: skip
def test_ufuncs_take_arrays_of_any_layout(ufunc, turn):
    rng = np.random.default_rng(1)
    w, v = turn(rng.normal(size=(5, 3))), turn(rng.normal(size=(7, 5, 4)))
    expected = [[pulled(a.astype("f8"), b.astype("f8")) for a, b in zip(w, row, strict=True)] for row in v]
    np.testing.assert_allclose(ufunc(w, v), expected, rtol=1e-12)
    out = np.full((3, 7, 5), np.nan).transpose(1, 2, 0)
    assert ufunc(w, v, out=out) is out
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    np.testing.assert_allclose(ufunc(w, np.moveaxis(v, -1, 0), axes=[-1, 0, -1]), expected, rtol=1e-12)


def test_ufuncs_of_matrices_and_numbers():
    solve = compiled(lambda a, b, c: np.linalg.solve(a, b) * c, nf.spec((3, 3)), nf.spec(3), nf.spec(())).gufunc()
    rng = np.random.default_rng(2)
    a, b, c = rng.normal(size=(6, 3, 3)) + 3 * np.eye(3), rng.normal(size=(6, 3)), np.arange(6.0)
    expected = np.linalg.solve(a, b[..., None])[..., 0] * c[:, None]
    np.testing.assert_allclose(solve(a, b, c), expected, rtol=1e-10)
    np.testing.assert_allclose(solve(a.transpose(0, 2, 1).copy().transpose(0, 2, 1), b, c), expected, rtol=1e-10)
    with pytest.raises(RuntimeError, match="Singular matrix"):
        solve(np.zeros((2, 3, 3)), b[0], 1.0)
    with pytest.raises(ValueError, match="mismatch in its core dimension"):
        solve(a[:, :2], b, c)
    several = compiled(lambda x: (x.sum(), x * 2), nf.spec(4)).gufunc()
    total, doubled = several(np.arange(8.0).reshape(2, 4))
    np.testing.assert_array_equal(total, [6, 22])
    np.testing.assert_array_equal(doubled, np.arange(8.0).reshape(2, 4) * 2)


def test_ufuncs_do_not_write_to_their_inputs():
    with pytest.raises(nf.UnsupportedError, match="in place"):
        compiled(step, nf.spec(5), nf.spec(())).gufunc()


# -- optimizers


def rosenbrock(p, a):
    return np.sum((1 - p["x"]) ** 2 + a * (p["y"] - p["x"] ** 2) ** 2)


@pytest.mark.parametrize(("second", "method"), [(None, "L-BFGS-B"), ("hess", "trust-exact"), ("hessp", "trust-krylov")])
def test_scipy_minimizes(second, method):
    problem = nf.optim.scipy_problem(rosenbrock, {"x": np.full(3, -1.0), "y": np.full(3, 2.0)}, 100.0, second=second)
    result = optimize.minimize(**problem.arguments, method=method, options={"maxiter": 500})
    found = problem.unravel(result.x)
    np.testing.assert_allclose(found["x"], np.ones(3), atol=1e-3)
    np.testing.assert_allclose(found["y"], np.ones(3), atol=2e-3)
    vector = np.random.default_rng(0).normal(size=6)
    value, gradient = problem.arguments["fun"](vector)
    flat = lambda v: rosenbrock({"x": v[:3], "y": v[3:]}, 100.0)
    assert value == pytest.approx(flat(vector), rel=1e-12)
    np.testing.assert_allclose(gradient, optimize.approx_fprime(vector, flat), rtol=1e-3)
    if second == "hessp":
        direction = np.arange(6.0)
        other = nf.optim.scipy_problem(rosenbrock, problem.unravel(vector), 100.0, second="hess")
        expected = other.arguments["hess"](vector) @ direction
        np.testing.assert_allclose(problem.arguments["hessp"](vector, direction), expected, rtol=1e-10)


def test_what_scipy_problem_refuses():
    with pytest.raises(nf.ArgumentError, match='second must be "hess", "hessp" or None'):
        nf.optim.scipy_problem(rosenbrock, {"x": 1.0, "y": 1.0}, second="yes")
    with pytest.raises(nf.DTypeError, match="real numbers"):
        nf.optim.scipy_problem(lambda z: z, 1j)

"""Functions of scipy.special against mpmath: compiled values, and first derivatives, at a few points of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
import scipy.special as special

import nufunc as nf

EPS = np.finfo(np.float64).eps
INSIDE = (0.1, 0.5, 0.9)
WIDE = (0.25, 1.5, 7.0, 30.0)
SIGNED = (-3.5, -0.75, 1e-3, 0.4, 2.5)


class Case(NamedTuple):
    name: str
    exact: Callable[..., Any]
    points: tuple[float, ...]
    before: tuple[float, ...] = ()
    ulps: float = 20.0
    slope: float = 1e3  # bound of the derivative's error, in ulps of it or of one


def _dawson(x: Any) -> Any:
    return mpmath.sqrt(mpmath.pi) / 2 * mpmath.exp(-x * x) * mpmath.erfi(x)


def _boxcox(x: Any, power: Any) -> Any:
    return mpmath.log(x) if power == 0 else mpmath.expm1(power * mpmath.log(x)) / power


CASES = [
    Case("j0", lambda x: mpmath.besselj(0, x), WIDE, (), 60), Case("j1", lambda x: mpmath.besselj(1, x), WIDE, (), 60),
    Case("y0", lambda x: mpmath.bessely(0, x), WIDE, (), 60), Case("y1", lambda x: mpmath.bessely(1, x), WIDE, (), 60),
    Case("k0", lambda x: mpmath.besselk(0, x), WIDE), Case("k1", lambda x: mpmath.besselk(1, x), WIDE),
    Case("i0", lambda x: mpmath.besseli(0, x), WIDE), Case("i1", lambda x: mpmath.besseli(1, x), SIGNED),
    Case("i0e", lambda x: mpmath.besseli(0, x) * mpmath.exp(-abs(x)), WIDE),
    Case("k0e", lambda x: mpmath.besselk(0, x) * mpmath.exp(x), WIDE),
    Case("k1e", lambda x: mpmath.besselk(1, x) * mpmath.exp(x), WIDE),
    *(Case("jv", lambda v, x: mpmath.besselj(v, x), WIDE, (v,), 200) for v in (0.5, 2.0)),
    *(Case("yv", lambda v, x: mpmath.bessely(v, x), WIDE, (v,), 200) for v in (1.0, 2.5)),
    *(Case("iv", lambda v, x: mpmath.besseli(v, x), WIDE, (v,), 200) for v in (0.5, 3.0)),
    Case("ive", lambda v, x: mpmath.besseli(v, x) * mpmath.exp(-x), WIDE, (1.5,), 200),
    *(Case("kv", lambda v, x: mpmath.besselk(v, x), WIDE, (v,), 200) for v in (0.3, 2.0)),
    Case("kve", lambda v, x: mpmath.besselk(v, x) * mpmath.exp(x), WIDE, (1.5,), 200),
    Case("exp1", mpmath.e1, WIDE), Case("expi", mpmath.ei, WIDE), Case("expn", mpmath.expint, WIDE, (3.0,)),
    Case("spence", lambda x: mpmath.polylog(2, 1 - x).real, (0.1, 0.9, 1.5, 4.0)),
    Case("dawsn", _dawson, SIGNED), Case("erfi", mpmath.erfi, SIGNED),
    Case("erf", mpmath.erf, SIGNED, ulps=2), Case("erfc", mpmath.erfc, SIGNED, ulps=3),
    Case("erfcx", lambda x: mpmath.exp(x * x) * mpmath.erfc(x), SIGNED, ulps=3),
    Case("ellipk", lambda m: mpmath.ellipk(m), INSIDE), Case("ellipe", lambda m: mpmath.ellipe(m), INSIDE),
    Case("ellipkm1", lambda p: mpmath.ellipk(1 - mpmath.mpf(p)), INSIDE),
    Case("ellipkinc", lambda p, m: mpmath.ellipf(p, m), INSIDE, (0.7,)),
    Case("ellipeinc", lambda p, m: mpmath.ellipe(p, m), INSIDE, (0.7,)),
    Case("gamma", mpmath.gamma, SIGNED, ulps=4), Case("rgamma", mpmath.rgamma, SIGNED),
    Case("gammaln", mpmath.loggamma, WIDE, ulps=4), Case("digamma", mpmath.digamma, WIDE, ulps=4),
    Case("polygamma", lambda n, x: mpmath.polygamma(int(n), x), WIDE, (1,), 40),
    Case("zeta", lambda s, q: mpmath.zeta(s, q), WIDE, (2.5,), 40),
    Case("beta", mpmath.beta, WIDE, (1.5,), 100), Case("poch", mpmath.rf, (0.25, 1.5, 7.0), (1.5,), 100),
    Case("betaln", lambda a, b: mpmath.log(mpmath.beta(a, b)), WIDE, (1.5,), 100),
    Case("binom", mpmath.binomial, INSIDE, (7.5,), 100),
    Case("gammainc", lambda a, x: mpmath.gammainc(a, 0, x, regularized=True), WIDE, (2.5,), 100),
    Case("gammaincc", lambda a, x: mpmath.gammainc(a, x, regularized=True), WIDE, (2.5,), 300),
    Case("betainc", lambda a, b, x: mpmath.betainc(a, b, 0, x, regularized=True), INSIDE, (2.5, 0.7), 100),
    Case("hyp2f1", mpmath.hyp2f1, INSIDE, (0.5, 1.25, 2.0), 200),
    Case("hyp1f1", mpmath.hyp1f1, SIGNED, (0.5, 1.25), 200), Case("hyp0f1", mpmath.hyp0f1, WIDE, (1.25,), 200),
    Case("eval_legendre", lambda n, x: mpmath.legendre(int(n), x), INSIDE, (4,), 100),
    Case("eval_chebyt", lambda n, x: mpmath.chebyt(int(n), x), INSIDE, (4,), 100),
    Case("eval_hermite", lambda n, x: mpmath.hermite(int(n), x), INSIDE, (4,), 100),
    Case("eval_laguerre", lambda n, x: mpmath.laguerre(int(n), 0, x), INSIDE, (4,), 100),
    Case("exprel", lambda x: mpmath.expm1(x) / x, SIGNED, ulps=3),
    Case("cosm1", lambda x: mpmath.cos(x) - 1, SIGNED, ulps=4),
    Case("boxcox", _boxcox, (0.5, 1e-9, 0.0, -2.0), (3.0,), 10), Case("agm", mpmath.agm, WIDE, (2.0,), 10),
    Case("entr", lambda x: -x * mpmath.log(x), WIDE, ulps=4), Case("ndtr", mpmath.ncdf, SIGNED, ulps=4),
    Case("log_ndtr", lambda x: mpmath.log(mpmath.ncdf(x)), SIGNED, ulps=8),
    Case("expit", lambda x: 1 / (1 + mpmath.exp(-x)), SIGNED, ulps=3),
    Case("logit", lambda p: mpmath.log(p / (1 - mpmath.mpf(p))), INSIDE, ulps=4),
    Case("ndtri", lambda p: mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1), (0.1, 0.3, 0.9), ulps=6),
]  # fmt: skip


def call_of(case: Case) -> Callable[[Any], Any]:
    function = getattr(special, case.name)
    if case.name == "polygamma":
        return lambda x: special.polygamma(1, x)
    if case.name == "zeta":
        return lambda x: special.zeta(2.5, x)
    return lambda x: function(*case.before, x)


SOME = [c if k % 6 == 0 else pytest.param(c, marks=pytest.mark.slow) for k, c in enumerate(CASES)]


@pytest.mark.parametrize("case", SOME, ids=lambda case: f"{case.name}{list(case.before) or ''}")
def test_values_and_derivatives(case: Case) -> None:
    points = np.array(case.points)
    call = call_of(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = nf.jit(call)(points)
        slopes = nf.grad(lambda x: np.sum(call(x)))(points)
    with mpmath.workdps(40):
        exact = [case.exact(*case.before, mpmath.mpf(float(p))) for p in points]
        for value, wanted in zip(values, exact, strict=True):
            assert abs(mpmath.mpf(float(value)) - wanted) <= case.ulps * EPS * abs(wanted)
        for p, slope in zip(points, slopes, strict=True):
            wanted = mpmath.diff(lambda x: case.exact(*case.before, x), mpmath.mpf(float(p)))
            assert abs(mpmath.mpf(float(slope)) - wanted) <= case.slope * EPS * max(abs(wanted), 1)


def test_single_precision_is_rounded_double() -> None:
    x = np.linspace(0.3, 5.0, 40, dtype=np.float32)
    for name in ("j0", "exp1", "dawsn", "spence"):
        function = getattr(special, name)
        got = nf.jit(lambda x, function=function: function(x))(x)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, function(x.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("branch", [0, -1, 1])
def test_lambertw(branch: int) -> None:
    z = np.array([0.5, -0.2, -0.36, 3.0 + 2.0j, -1.0 + 0.1j, 1e10])
    got = nf.jit(lambda z: special.lambertw(z, branch))(z)
    for value, point in zip(got, z, strict=True):
        wanted = mpmath.lambertw(complex(point), branch)
        assert abs(mpmath.mpc(complex(value)) - wanted) <= 1e-13 * abs(wanted)


def test_lambertw_has_derivatives_of_any_order() -> None:
    real = lambda x: special.lambertw(x).real
    for point in (0.0, 0.3, 2.0):
        x = np.array(point)
        for order, slope in ((1, nf.grad(real)), (2, nf.grad(nf.grad(real)))):
            wanted = mpmath.diff(mpmath.lambertw, point, order).real
            assert abs(slope(x) - float(wanted)) < 1e-9 * max(1.0, abs(float(wanted)))


@pytest.mark.parametrize("name", ["jv", "expn", "eval_legendre"])
def test_second_derivatives(name: str) -> None:
    case = next(c for c in CASES if c.name == name)
    call = call_of(case)
    with mpmath.workdps(40):
        for point in case.points[1:3]:
            got = nf.grad(nf.grad(call))(np.array(point))
            wanted = float(mpmath.diff(lambda x: case.exact(*case.before, x), mpmath.mpf(point), 2))
            assert abs(got - wanted) <= 1e-10 * max(1.0, abs(wanted))


@pytest.mark.parametrize(("a", "x"), [(0.3, 0.1), (2.5, 7.0), (200.0, 230.0)])
def test_incomplete_gamma_in_its_parameter(a: float, x: float) -> None:
    own = lambda a: special.gammainc(a, x)
    with mpmath.workdps(30):
        exact = lambda a: mpmath.gammainc(a, 0, x, regularized=True)
        first, second = (float(mpmath.diff(exact, a, n)) for n in (1, 2))
    np.testing.assert_allclose(nf.grad(own)(np.array(a)), first, rtol=1e-12)
    np.testing.assert_allclose(nf.grad(nf.grad(own))(np.array(a)), second, rtol=1e-11)
    level = special.gammainc(a, x)
    inverse = nf.grad(lambda a: special.gammaincinv(a, level))(np.array(a))
    np.testing.assert_allclose(inverse, -first / nf.grad(lambda x: special.gammainc(a, x))(np.array(x)), rtol=1e-9)


def test_statistics_of_scipy_are_refused_by_name() -> None:
    """scipy.stats is classes that convert their arguments: an error, not a constant."""
    from scipy import stats

    with pytest.raises(nf.NufuncError):
        nf.jit(lambda x: stats.norm.logpdf(x))(np.array([0.5]))


BETA = [
    (2.0, 3.0, 0.3), (2.0, 3.0, 0.9), (0.5, 0.5, 0.5), (0.1, 0.2, 0.99), (0.3, 0.3, 1 - 1e-8), (5.0, 0.3, 0.9),
    (0.01, 0.01, 0.5), (30.0, 0.01, 0.5), (0.7, 1.0, 1e-6), (50.0, 60.0, 0.7), (200.0, 0.5, 0.999),
]  # fmt: skip


def test_betainc_in_its_parameters() -> None:
    """Against central differences of mpmath's function in forty digits."""
    a, b, x = np.array(BETA).T
    slopes = nf.grad(lambda a, b: special.betainc(a, b, x).sum(), argnums=(0, 1))(a, b)
    for k, point in enumerate(BETA):
        with mpmath.workdps(40):
            for place in (0, 1):
                step = mpmath.mpf(point[place]) * mpmath.mpf(10) ** -12
                ends = []
                for sign in (1, -1):
                    moved = [mpmath.mpf(v) for v in point]
                    moved[place] += sign * step
                    ends.append(mpmath.betainc(moved[0], moved[1], 0, moved[2], regularized=True))
                wanted = float((ends[0] - ends[1]) / (2 * step))
            assert abs(slopes[place][k] - wanted) <= 1e-12 * abs(wanted)


def test_second_derivatives_and_quantiles_of_beta_in_its_parameters() -> None:
    point = np.array([2.0, 3.0, 0.3])
    for function in (special.betainc, special.betaincinv):
        call = lambda p, function=function: function(p[0], p[1], p[2])
        gradient = nf.jit(nf.grad(call))
        for e in 1e-6 * np.eye(3):
            slope = (call(point + e) - call(point - e)) / 2e-6
            assert abs((gradient(point) * e).sum() / 1e-6 - slope) < 1e-8
        differences = [(gradient(point + e) - gradient(point - e)) / 2e-6 for e in 1e-6 * np.eye(3)]
        np.testing.assert_allclose(nf.hessian(call)(point), differences, rtol=1e-6, atol=1e-7)


def test_betainc_where_a_parameter_is_zero_or_infinite() -> None:
    a = np.array([0, 1, 0, 0, 1, np.inf, 1, 0])
    b = np.array([1, 0, 0, 1, 0, 1, np.inf, 1])
    x = np.array([0.5, 0.5, 0.5, 0, 1, 0.5, 0.5, 2])
    np.testing.assert_array_equal(nf.jit(lambda a, b, x: special.betainc(a, b, x))(a, b, x), special.betainc(a, b, x))


POLYNOMIALS = {"chebyt": 0, "chebyu": 0, "laguerre": 0, "legendre": 0, "genlaguerre": 1, "gegenbauer": 1, "jacobi": 2}


@pytest.mark.parametrize("degrees", [np.arange(-5, 6), np.arange(-5.0, 6.0), np.arange(6, dtype=np.uint8)])
@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials_of_traced_degrees_take_the_loop_that_scipy_takes(name: str, degrees: np.ndarray) -> None:
    """Whole degrees have a loop of their own, which differs below zero."""
    f = getattr(special, f"eval_{name}")
    n, x = (a.ravel() for a in np.meshgrid(degrees, np.array([-1.5, -1.0, -0.7, 0.2, 0.9]), indexing="ij"))
    parameters = [np.full(n.shape, p) for p in (0.5, 2.0)[: POLYNOMIALS[name]]]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(nf.jit(f)(n, *parameters, x), f(n, *parameters, x), rtol=1e-12, atol=1e-14)
        step = 1e-5
        inside = np.abs(x) < 1
        wanted = (f(n, *parameters, x + step) - f(n, *parameters, x - step)) / (2 * step)
    slopes = nf.jvp(lambda x: f(n, *parameters, x), (x,), (np.ones_like(x),))[1]
    np.testing.assert_allclose(slopes[inside], wanted[inside], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [-4, -4.0, 2, 2.0, np.int64(-3), 1.5])
@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials_of_constant_degrees(name: str, n: float) -> None:
    f = getattr(special, f"eval_{name}")
    x = np.array([-0.7, 0.2, 0.9])
    parameters = [np.full(x.shape, p) for p in (0.5, 2.0)[: POLYNOMIALS[name]]]
    np.testing.assert_allclose(nf.jit(lambda *a: f(n, *a))(*parameters, x), f(n, *parameters, x), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [np.arange(-3, 5), 3, 2.5])
@pytest.mark.parametrize("name", ["sh_legendre", "sh_chebyt", "sh_chebyu", "chebyc", "chebys", "sh_jacobi"])
def test_polynomials_on_other_intervals(name: str, n: Any, dtype: type) -> None:
    f = getattr(special, f"eval_{name}")
    x = np.array([[0.02], [0.3], [0.9]], dtype)
    parameters = [np.array(p, dtype) for p in (1.5, 1.2)] if name == "sh_jacobi" else []
    wanted = f(n, *parameters, x)
    got = nf.jit(f)(n, *parameters, x)
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-5 if wanted.dtype == np.float32 else 1e-11, atol=1e-13)
    if dtype is np.float64 and not isinstance(n, np.ndarray):
        step = 1e-6
        slope = nf.grad(lambda x: f(n, *parameters, x).sum())(x)
        central = (f(n, *parameters, x + step) - f(n, *parameters, x - step)) / (2 * step)
        np.testing.assert_allclose(slope, central, rtol=1e-6, atol=1e-7)

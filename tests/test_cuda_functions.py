"""Functions that devices lack, as plain Python: beside mpmath where they are smooth, else beside NumPy and SciPy."""

import itertools

import mpmath
import numpy as np
import pytest
import scipy.special

from nufunc.codegen.cuda import device_functions

EXACT = {
    "exp": mpmath.exp, "exp2": lambda z: mpmath.power(2, z), "expm1": lambda z: mpmath.exp(z) - 1, "log": mpmath.log,
    "log2": lambda z: mpmath.log(z) / mpmath.log(2), "log10": lambda z: mpmath.log(z) / mpmath.log(10),
    "log1p": lambda z: mpmath.log(1 + z), "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "asin": mpmath.asin,
    "acos": mpmath.acos, "atan": mpmath.atan, "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh,
    "asinh": mpmath.asinh, "acosh": mpmath.acosh, "atanh": mpmath.atanh, "sqrt": mpmath.sqrt,
}  # fmt: skip
NAMES = {f"a{f}": f"arc{f}" for f in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan, 1e308]


def near(got: float, want: float, signed: bool) -> bool:
    if np.isnan(want):
        return bool(np.isnan(got))
    return (not signed or np.signbit(got) == np.signbit(want)) and (got == want or abs(got - want) <= 1e-14 * abs(want))


@pytest.mark.parametrize("name", EXACT)
def test_complex_functions_are_near_the_exact_ones(name):
    rng = np.random.default_rng(1)
    function = getattr(device_functions, f"complex_{name}")
    limit = (64 if name == "exp2" else 4) * 2.0**-53
    for k in range(100):
        z = complex(*(rng.normal(size=2) * 10.0 ** rng.uniform(-6, 2, 2)))
        if k % 4 == 0:  # where a logarithm vanishes
            angle = rng.uniform(0, 7)
            z = complex(np.cos(angle), np.sin(angle)) * (1 + rng.normal() * 1e-8)
        with mpmath.workprec(200), np.errstate(all="ignore"):
            want, got = EXACT[name](mpmath.mpc(z)), complex(function(np.complex128(z)))
            assert abs(mpmath.mpc(got) - want) <= limit * abs(want), z


@pytest.mark.parametrize("name", EXACT)
def test_special_values_are_those_of_numpy(name):
    function, numpy_one = getattr(device_functions, f"complex_{name}"), getattr(np, NAMES.get(name, name))
    for x, y in itertools.product(SPECIAL, SPECIAL):
        z = np.complex128(complex(x, y))
        with np.errstate(all="ignore"):
            got, want = complex(function(z)), complex(numpy_one(np.array([z]))[0])
        signed = bool(np.isfinite(z))  # C leaves signs of zeros and infinities open elsewhere
        assert near(got.real, want.real, signed), (z, got, want)
        assert near(got.imag, want.imag, signed), (z, got, want)


@pytest.mark.parametrize("name", ["i0e", "i1e"])
def test_scaled_bessel_functions(name):
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(-20, 20, 100), 10 ** rng.uniform(-8, 5, 50)])
    got = [getattr(device_functions, name)(v) for v in x]
    np.testing.assert_allclose(got, getattr(scipy.special, name)(x), rtol=2e-15)


@pytest.mark.parametrize(("name", "arity"), [("gammainc", 2), ("gammaincc", 2), ("betainc", 3)])
def test_incomplete_functions(name, arity):
    rng = np.random.default_rng(3)
    mine, scipys = getattr(device_functions, name), getattr(scipy.special, name)
    with np.errstate(all="ignore"):
        for _ in range(100):
            first = 10 ** rng.uniform(-2, 2)
            args = [first, first * 10 ** rng.uniform(-1, 0.7), rng.uniform(0, 1)][:arity]
            want = scipys(*args)
            assert abs(mine(*args) - want) <= 1e-12 * abs(want) + 1e-15, args
        for args in itertools.product([0.0, 0.5, 1.0, 2.0, np.inf, -1.0, np.nan], repeat=arity):
            np.testing.assert_allclose(mine(*args), scipys(*args), rtol=1e-13, err_msg=str(args))

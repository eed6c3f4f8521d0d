"""Complex numbers in vector registers: functions, memory of every step, sums; against NumPy and mpmath."""

import itertools

import mpmath
import numpy as np
import pytest

import nufunc as nf

FUNCTIONS = (
    "sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh"
).split()
VECTORISED = {"sqrt": 2, "exp": 3, "log": 3, "sin": 4, "cos": 4, "tan": 6, "sinh": 4, "cosh": 4, "tanh": 6}  # to ulp
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -30.0, 800.0, np.inf, -np.inf, np.nan, 1e-310, 1e300)


def drawn(n: int, dtype: type, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=n) + 1j * rng.normal(size=n)).astype(dtype)


def wide(n: int, dtype: type) -> np.ndarray:
    """Both parts over many orders of magnitude, and close to the unit circle."""
    rng = np.random.default_rng(1)
    parts = np.exp2(rng.uniform(-20, 6, (2, n))) * rng.choice([-1, 1], (2, n))
    near = np.exp(1j * rng.uniform(-3, 3, n)) * (1 + rng.normal(size=n) * 1e-6)
    return np.concatenate([parts[0] + 1j * parts[1], near]).astype(dtype)


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("name", VECTORISED)
def test_functions_are_exact_to_some_ulp(name: str, dtype: type) -> None:
    z = wide(60, dtype)
    function = getattr(np, name)
    got = nf.jit(lambda z: function(z))(z)
    with mpmath.workprec(120):
        for point, ours in zip(z.tolist(), got.tolist(), strict=True):
            exact = getattr(mpmath, name)(mpmath.mpc(point))
            unit = max(float(abs(exact)) * float(np.finfo(dtype).eps), float(np.finfo(dtype).smallest_subnormal))
            if np.isfinite(ours):
                assert float(abs(mpmath.mpc(ours) - exact)) <= VECTORISED[name] * unit, (point, ours, exact)


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_each_part_keeps_its_digits(name: str, dtype: type) -> None:
    """Near the unit circle the real part of the logarithm is small."""
    z = wide(60, dtype)
    function = getattr(np, name)
    got = nf.jit(lambda z: function(z))(z)
    with mpmath.workprec(120):
        exact = [getattr(mpmath, name)(mpmath.mpc(point)) for point in z.tolist()]
    for part in ("real", "imag"):
        wanted = np.array([float(getattr(e, part)) for e in exact])
        np.testing.assert_allclose(getattr(got, part), wanted, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values_are_numpys(name: str, dtype: type) -> None:
    """Where NumPy gives NaN, infinities and zeros; and close to it elsewhere."""
    with np.errstate(all="ignore"):
        z = np.array([complex(x, y) for x, y in itertools.product(SPECIAL, SPECIAL)], np.complex128).astype(dtype)
        if name in ("exp2", "expm1", "log1p", "log2", "log10"):  # products with a real number, in NumPy too
            z = z[np.isfinite(z) & (np.abs(z) < 20)]
        function = getattr(np, name)
        got, wanted = nf.jit(lambda z: function(z))(z), function(z)
    single = dtype is np.complex64
    for part in ("real", "imag"):
        ours, theirs = getattr(got, part), getattr(wanted, part)
        whole = np.maximum(np.abs(wanted), np.finfo(dtype).tiny)
        scale = np.where(np.isfinite(whole), whole, 1.0)
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        with np.errstate(invalid="ignore"):
            close = np.abs(ours - theirs) <= (1e-6 if single else 1e-14) * scale + np.finfo(dtype).tiny
        where = np.flatnonzero(~(same | close))
        assert not where.size, [(name, part, z[k], got[k], wanted[k]) for k in where[:5]]


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("n", [1, 3, 8, 37, 1000])
def test_memory_of_every_step(n: int, dtype: type) -> None:
    def f(x, y, k):
        turned = x[::-1] * y
        return turned, x[::2] + y[::2], x[::3] * 2, x.conj() + y.real, x[k] * y, np.where(x.real > 0, x, y)

    x, y = drawn(n, dtype), drawn(n, dtype, 1)
    k = np.random.default_rng(2).permutation(n)
    for got, want in zip(nf.jit(f)(x, y, k), f(x, y, k), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-6 if dtype is np.complex64 else 1e-15)


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("shape", [(5,), (7, 9), (300, 40), (3, 5000)])
def test_sums_and_products_over_axes(shape: tuple[int, ...], dtype: type) -> None:
    def f(x, y):
        return np.sum(x * y), np.sum(x, axis=0), np.sum(x * np.conj(y), axis=-1), np.prod(x, axis=0), np.cumsum(x)

    x, y = drawn(int(np.prod(shape)), dtype).reshape(shape), drawn(int(np.prod(shape)), dtype, 1).reshape(shape)
    x = (x / np.abs(x)).astype(dtype)
    single = dtype is np.complex64
    for got, want in zip(nf.jit(f)(x, y), f(x, y), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4 if single else 1e-12, atol=1e-3 if single else 1e-12)


def test_shifted_and_padded_arrays_are_guarded() -> None:
    def f(x):
        out = np.zeros(x.size + 4, x.dtype)
        out[2:-2] = x
        return out[1:] - out[:-1], np.roll(x, 3), np.concatenate([x, x * 1j]), np.stack([x, x]).T.copy()

    x = drawn(203, np.complex128)
    for got, want in zip(nf.jit(f)(x), f(x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_loop_is_in_vector_registers() -> None:
    x = drawn(1000, np.complex128)
    text = nf.dump(nf.jit(lambda x, y: x * y), x, x, stage="llvm")
    assert "x double>" in text
    assert "cexp" not in nf.dump(nf.jit(lambda x: x * x + x), x, stage="llvm")

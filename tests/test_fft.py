"""Fourier transforms from outside: derivatives of any order, vmap, types, scipy.fft, and NumPy without its loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.fft
from numpy_harness import assert_same

import nufunc as nf
from nufunc.codegen import fft_loops

RNG = np.random.default_rng(4)
X = RNG.normal(size=(3, 6))
Z = X + 1j * RNG.normal(size=(3, 6))
KINDS = (1, 2, 3, 4)

SCIPY: dict[str, tuple[Callable[..., Any], np.ndarray]] = {
    **{f"{name}{kind} {norm}": (lambda x, n=name, k=kind, m=norm: getattr(scipy.fft, n)(x, k, norm=m), X)
       for name in ("dct", "idct", "dst", "idst") for kind in KINDS for norm in ("backward", "ortho", "forward")},
    "dct of an axis": (lambda x: scipy.fft.dct(x, axis=0, n=5), X),
    "dct orthogonalized": (lambda x: scipy.fft.dct(x, 2, orthogonalize=True), X),
    "dct of complex numbers": (lambda x: scipy.fft.dct(x), Z),
    "dct in single precision": (lambda x: scipy.fft.dct(x), X.astype(np.float32)),
    "dctn": (lambda x: scipy.fft.dctn(x, norm="ortho"), X),
    "idctn": (lambda x: scipy.fft.idctn(x, axes=(1,)), X),
    "dstn": (lambda x: scipy.fft.dstn(x, 3), X),
    "idstn": (lambda x: scipy.fft.idstn(x, 1), X),
    "fft": (lambda x: scipy.fft.fft(x, 7, axis=0, norm="ortho"), X),
    "irfft": (lambda x: scipy.fft.irfft(x, 5), Z),
    "fft2": (lambda x: scipy.fft.fft2(x), X),
    "rfftn": (lambda x: scipy.fft.rfftn(x, s=(4, 4)), X),
    "fftshift": (lambda x: scipy.fft.fftshift(x), X),
    "fftfreq": (lambda x: scipy.fft.fftfreq(4, 0.5) * x[0, :4], X),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if i % 4 == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(SCIPY)]
)
def test_scipy_fft(name: str) -> None:
    function, x = SCIPY[name]
    got = nf.jit(lambda v: function(v))(x)
    assert_same(got, function(x), 1e-5 if x.dtype == np.float32 else 1e-11)


FUNCTIONS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "fft": (lambda x: np.fft.fft(x, 8), Z),
    "ifft": (lambda x: np.fft.ifft(x, 5, axis=0, norm="ortho"), Z),
    "rfft even": (lambda x: np.fft.rfft(x), X),
    "rfft odd": (lambda x: np.fft.rfft(x, 5), X),
    "irfft even": (lambda x: np.fft.irfft(x), Z),
    "irfft odd": (lambda x: np.fft.irfft(x, 7), Z),
    "hfft": (lambda x: np.fft.hfft(x), Z),
    "ihfft": (lambda x: np.fft.ihfft(x), X),
    "rfftn": (lambda x: np.fft.rfftn(x), X),
    "irfftn": (lambda x: np.fft.irfftn(x, norm="forward"), Z),
    "dct": (lambda x: scipy.fft.dct(x, 3), X),
    "dst": (lambda x: scipy.fft.dst(x, 4), X),
}


@pytest.mark.parametrize(
    "name", [n if i % 2 == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(FUNCTIONS)]
)
def test_derivatives(name: str) -> None:
    """Of a function with a curvature, in both modes and to the second order."""
    function, x = FUNCTIONS[name]
    weights = RNG.normal(size=np.shape(function(x))) + 1j * RNG.normal(size=np.shape(function(x)))
    t = RNG.normal(size=x.shape) + (1j * RNG.normal(size=x.shape) if x.dtype.kind == "c" else 0)

    def value(v: Any) -> Any:
        y = function(v)
        return ((y * weights).real ** 3).sum()

    along = lambda v: nf.jvp(value, (v,), (t,))[1]
    slope = (value(x + 1e-6 * t) - value(x - 1e-6 * t)) / 2e-6
    np.testing.assert_allclose(along(x), slope, rtol=1e-6)
    np.testing.assert_allclose((np.conj(nf.grad(value)(x)) * t).real.sum(), slope, rtol=1e-6)
    curvature = (along(x + 1e-5 * t) - along(x - 1e-5 * t)) / 2e-5
    np.testing.assert_allclose((np.conj(nf.grad(along)(x)) * t).real.sum(), curvature, rtol=1e-5)


def test_a_jacobian_is_the_matrix_of_the_transform() -> None:
    n = np.arange(5)
    matrix = np.exp(-2j * np.pi * np.outer(n, n) / 5)
    whole = nf.jacfwd(lambda x: np.fft.fft(x), holomorphic=True)(np.ones(5, complex))
    np.testing.assert_allclose(whole, matrix, atol=1e-13)
    half = nf.jacrev(lambda x: np.fft.rfft(x).real)(np.ones(5))
    np.testing.assert_allclose(half, matrix[:3].real, atol=1e-13)


def test_vmap_of_gradients() -> None:
    energy = lambda x: (np.abs(np.fft.rfft(x)) ** 4).sum()
    got = nf.vmap(nf.grad(energy))(X)
    np.testing.assert_allclose(got, np.stack([nf.grad(energy)(row) for row in X]), rtol=1e-12)
    shared = nf.vmap(lambda x, k: np.fft.irfft(np.fft.rfft(x) * np.fft.rfft(k)), in_dims=(0, None))(X, X[0])
    wanted = np.stack([np.fft.irfft(np.fft.rfft(row) * np.fft.rfft(X[0])) for row in X])
    np.testing.assert_allclose(shared, wanted, rtol=1e-12)


def test_results_are_numpys_bit_for_bit() -> None:
    for x in (X, Z):
        for n in (None, 5, 7):
            np.testing.assert_array_equal(nf.jit(lambda v, n=n: np.fft.fft(v, n))(x), np.fft.fft(x, n))


def test_single_precision_stays_single() -> None:
    for x in (X.astype(np.float32), Z.astype(np.complex64)):
        assert_same(nf.jit(lambda v: np.fft.ifft(v, norm="ortho"))(x), np.fft.ifft(x, norm="ortho"), 1e-5)


ERRORS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "no points": (lambda x: np.fft.fft(x, 0), ValueError, "Invalid number of FFT data points"),
    "norm": (lambda x: np.fft.fft(x, norm="unitary"), ValueError, "Invalid norm value"),
    "axis": (lambda x: np.fft.fft(x, axis=2), IndexError, "axis 2"),
    "rfft of complex": (lambda x: np.fft.rfft(x * 1j), TypeError, "real values"),
    "lengths": (lambda x: np.fft.fftn(x, s=(2, 2), axes=(0,)), ValueError, "different lengths"),
    "dct of one": (lambda x: scipy.fft.dct(x[:, :1], 1), ValueError, "DCT-I"),
    "type": (lambda x: scipy.fft.dct(x, 5), ValueError, "invalid type"),
    "not there": (lambda x: scipy.fft.fht(x, 1.0, 1.0), NotImplementedError, "scipy.fft.fht"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    function, kind, words = ERRORS[name]
    with pytest.raises(kind, match=words) as caught:
        nf.jit(function)(X)
    assert isinstance(caught.value, nf.NufuncError)
    assert "test_fft.py" in str(caught.value)


def test_numpys_loops_are_found() -> None:
    assert fft_loops.available()


def test_numpy_is_called_back_where_its_loops_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fft_loops, "_loops", dict)
    for function, x in ((lambda v: np.fft.fft(v, 9), Z), (lambda v: np.fft.irfft(np.fft.rfft(v), 5), X)):
        np.testing.assert_array_equal(nf.jit(lambda v, f=function: f(v))(x), function(x))
        gradient = nf.vmap(nf.grad(lambda v, f=function: (np.abs(f(v)) ** 2).sum()))(x)
        assert np.isfinite(gradient).all()


def test_an_object_that_reads_otherwise_is_not_trusted() -> None:
    assert fft_loops._read(np.add, "ddd") != (0, 0)
    assert fft_loops._read(np.sin, "ddd") == (0, 0)  # of one operand
    assert fft_loops._read(np.add, "dfd") == (0, 0)  # a loop that there is not

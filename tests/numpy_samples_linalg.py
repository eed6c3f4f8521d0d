"""Samples of numpy.linalg: decompositions by what they determine, so that the choice of vectors drops out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy_sample_arrays import BATCH, CUBE, F32, SPD, C, F, G, Sample, V, one

_RNG = np.random.default_rng(23)
A = _RNG.normal(size=(3, 3)) + 2 * np.eye(3)
STACK = _RNG.normal(size=(2, 3, 3)) + 2 * np.eye(3)
TALL = _RNG.normal(size=(2, 4, 2))
ZM = A + 1j * _RNG.normal(size=(3, 3))
ZH = ZM @ ZM.conj().T
SPD32, A32, ZM64 = SPD.astype(np.float32), A.astype(np.float32), ZM.astype(np.complex64)
SINGLE = 2e-4


def _product(np_: Any, u: Any, s: Any, vh: Any) -> Any:
    k = s.shape[-1]
    return (u[..., :k] * s[..., None, :]) @ vh[..., :k, :]


def _svd(full: bool) -> Callable[..., Any]:
    def call(np_: Any, a: Any) -> Any:
        u, s, vh = np_.linalg.svd(a, full_matrices=full)
        squares = [x @ np_.conj(np_.swapaxes(x, -1, -2)) for x in (np_.swapaxes(u, -1, -2), vh)]
        return s, _product(np_, u, s, vh), *squares

    return call


def _eigh(half: str) -> Callable[..., Any]:
    def call(np_: Any, a: Any) -> Any:
        w, v = np_.linalg.eigh(a, half)
        return w, (v * np_.exp(w)[..., None, :]) @ np_.conj(np_.swapaxes(v, -1, -2))

    return call


def _eig(np_: Any, a: Any) -> Any:
    """Sums over all eigenvalues: their order, and whether they are real, drop out."""
    w, v = np_.linalg.eig(a)
    inverse = np_.linalg.inv(v)
    return np_.sum(w**2, -1).real + 0.0, ((v * np_.exp(w)[..., None, :]) @ inverse).real + 0.0


def _qr(mode: str) -> Callable[..., Any]:
    def call(np_: Any, a: Any) -> Any:
        q, r = np_.linalg.qr(a, mode)
        return q @ r, np_.conj(np_.swapaxes(q, -1, -2)) @ q, np_.abs(r)

    return call


def _named(name: str, call: Callable[..., Any], *arrays: Any, rtol: float = 1e-11) -> Sample:
    shown = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
    return Sample(f"linalg.{name} of {shown}", call, arrays, rtol)


def _decompositions() -> Iterator[Sample]:
    for a in (F, F.T.copy(), CUBE, C):
        for full in (False, True):
            yield _named(f"svd full={full}", _svd(full), a)
        for mode in ("reduced", "complete"):
            yield _named(f"qr {mode}", _qr(mode), a)
        yield from one("linalg.svdvals", a)
        yield from one("linalg.pinv", a, rtol=1e-10)
    yield _named("svd in single precision", _svd(False), F32, rtol=SINGLE)
    yield _named("qr in single precision", _qr("reduced"), F32, rtol=SINGLE)
    yield from one("linalg.svd", F, compute_uv=False)
    yield _named("svd hermitian", lambda np_, a: _product(np_, *np_.linalg.svd(a, hermitian=True)), SPD)
    yield from one("linalg.svd", SPD, compute_uv=False, hermitian=True)
    yield _named("qr r", lambda np_, a: np_.abs(np_.linalg.qr(a, "r")), TALL)
    single = TALL.astype(np.float32)
    yield _named("qr raw", lambda np_, a: np_.abs(np_.linalg.qr(a, "raw")[1]), single, rtol=SINGLE)
    for a in (SPD, BATCH, ZH):
        for half in ("L", "U"):
            yield _named(f"eigh {half}", _eigh(half), a)
        yield from one("linalg.eigvalsh", a)
    yield from one("linalg.eigvalsh", SPD32, rtol=SINGLE)
    yield from one("linalg.eigvalsh", np.array([[2, 1], [1, 3]]))
    for a in (A, STACK, ZM):
        yield _named("eig", _eig, a, rtol=1e-10)
    yield _named("eigvals", lambda np_, a: (np_.linalg.eigvals(a) ** 3).sum(-1).real + 0.0, STACK, rtol=1e-10)
    for n in ((0, 0), (3, 0), (0, 3), (0, 3, 2)):
        yield from one("linalg.svdvals", np.zeros(n))
        yield _named("svd of nothing", lambda np_, a: tuple(np_.linalg.svd(a)), np.zeros(n))
        yield _named("qr of nothing", lambda np_, a: tuple(np_.linalg.qr(a, "complete")), np.zeros(n))
    yield from one("linalg.eigvalsh", np.zeros((2, 0, 0)))


def _solutions() -> Iterator[Sample]:
    for a in (A, STACK, ZM):
        yield from one("linalg.inv", a)
        yield from one("linalg.det", a)
        yield _named("slogdet", lambda np_, x: tuple(np_.linalg.slogdet(x)), a)
        yield from one("linalg.cond", a, rtol=1e-10)
    yield from one("linalg.inv", A32, rtol=SINGLE)
    yield from one("linalg.solve", ZM, A)
    yield from one("linalg.solve", STACK, F)
    yield from one("linalg.solve", A, F[:, 0])
    yield from one("linalg.solve", ZM64, ZM64, rtol=SINGLE)
    yield from one("linalg.pinv", SPD, hermitian=True)
    yield from one("linalg.pinv", F, 0.5)
    yield from one("linalg.pinv", CUBE, rtol=1e-3)
    for side in (V, np.stack([V, V**2], 1)):
        yield _named("lstsq", lambda np_, a, b: np_.linalg.lstsq(a, b)[:2], F.T.copy(), side, rtol=1e-10)
    yield _named("lstsq wide", lambda np_, a, b: tuple(np_.linalg.lstsq(a, b)), F, G[:, 0], rtol=1e-10)
    yield _named("lstsq rank", lambda np_, a, b: np_.linalg.lstsq(a, b, 0.7)[2], F.T.copy(), V)
    for a in (F, CUBE, np.zeros((3, 4)), np.ones((4, 4))):
        yield from one("linalg.matrix_rank", a)
    yield from one("linalg.matrix_rank", SPD, tol=3.0, hermitian=True)
    yield from one("linalg.matrix_rank", F, rtol=0.5)
    for p in (None, 1, -1, 2, -2, "fro", "nuc"):
        yield from one("linalg.cond", A, p, rtol=1e-10)
    single = np.outer([1.0, 2.0, 3.0], [1.0, 0.5, 0.25]).astype(np.float32)  # of rank one
    for name in ("pinv", "matrix_rank"):
        yield from one(f"linalg.{name}", single, rtol=SINGLE)
    side = V[:3].astype(np.float32)
    yield _named("lstsq single", lambda np_, a, b: np_.linalg.lstsq(a, b)[::2], single, side, rtol=SINGLE)
    yield from one("linalg.cond", np.zeros((2, 2)), 1)
    yield from one("linalg.cond", np.ones((2, 2)), "fro")
    yield from one("linalg.tensorinv", np.eye(4).reshape(2, 2, 2, 2) + 0.1)
    yield from one("linalg.tensorsolve", A, V[:3])
    yield from one("linalg.matrix_power", STACK, -3, rtol=1e-10)
    yield from one("linalg.vecdot", C, C[::-1].copy())
    yield Sample("linalg.multi_dot out", lambda np_, x, y, z: np_.linalg.multi_dot([x, y, z]), (A, SPD, F), 1e-11)


def _norms() -> Iterator[Sample]:
    for a in (F, C):
        for order in (2, -2, "nuc", 1, "fro"):
            yield from one("linalg.norm", a, order, rtol=1e-11)
    for order in (2, -2, "nuc"):
        yield from one("linalg.norm", CUBE, order, axis=(0, 2), keepdims=True, rtol=1e-11)
        yield from one("linalg.matrix_norm", CUBE, ord=order, rtol=1e-11)
    for order in (0, 1, 3):
        yield from one("linalg.vector_norm", CUBE, ord=order, axis=(0, 2))
    yield from one("linalg.vector_norm", C, ord=3)
    yield from one("linalg.norm", np.zeros((0,)), 2)


def _convolutions() -> Iterator[Sample]:
    for name in ("convolve", "correlate"):
        for mode in ("full", "same", "valid"):
            yield from one(name, V, F[1, :3], mode)
            yield from one(name, F[1, :2], V, mode)
            yield from one(name, C[0], V, mode)
            yield from one(name, V, C[0, :2], mode)
    yield from one("correlate", np.array([1, 2, 3]), np.array([4, 5]))
    yield from one("convolve", np.array([True, False, True]), np.array([True, True]))


def linalg() -> Iterator[Sample]:
    yield from _decompositions()
    yield from _solutions()
    yield from _norms()
    yield from _convolutions()

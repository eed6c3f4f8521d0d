"""Linear algebra from outside: scipy.linalg, derivatives of functions that do not depend on the choice of vectors,
equal eigenvalues, errors at run time, and JAX."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy_harness import assert_same

import nufunc as nf

RNG = np.random.default_rng(5)
A = RNG.normal(size=(3, 3)) + 3 * np.eye(3)
B = RNG.normal(size=(3, 3))
S = B @ B.T + np.eye(3)
STACK = np.stack([S, S + np.diag([1.0, 2.0, 3.0])])
F, V = RNG.normal(size=(3, 4)), RNG.normal(size=3)
Z = A + 1j * B
H = Z @ Z.conj().T + np.eye(3)
W = RNG.normal(size=(3, 3))

# -- scipy.linalg: name -> (function, arguments); with the choice of vectors dropped where there is one

SCIPY: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "solve_triangular": (lambda a, b: scipy.linalg.solve_triangular(a, b), (A, V)),
    "solve_triangular lower": (lambda a, b: scipy.linalg.solve_triangular(a, b, lower=True, trans=1), (A, F)),
    "solve_triangular unit": (lambda a, b: scipy.linalg.solve_triangular(a, b, unit_diagonal=True), (A, F)),
    "solve_triangular adjoint": (lambda a, b: scipy.linalg.solve_triangular(a, b, trans="C"), (Z, V)),
    "cho_solve": (lambda a, b: scipy.linalg.cho_solve(scipy.linalg.cho_factor(a), b), (S, F)),
    "cho_solve lower": (lambda a, b: scipy.linalg.cho_solve(scipy.linalg.cho_factor(a, True), b), (H, V)),
    "cholesky": (lambda a: scipy.linalg.cholesky(a), (H,)),
    "lu": (lambda a: scipy.linalg.lu(a), (F,)),
    "lu permuted": (lambda a: scipy.linalg.lu(a, permute_l=True), (A,)),
    "lu indices": (lambda a: scipy.linalg.lu(a, p_indices=True), (F.T.copy(),)),
    "lu stack": (lambda a: scipy.linalg.lu(a), (np.stack([A, B, W]),)),
    "lu_factor": (lambda a: scipy.linalg.lu_factor(a), (Z,)),
    "lu_solve": (lambda a, b: scipy.linalg.lu_solve(scipy.linalg.lu_factor(a), b), (B, F)),
    "lu_solve trans": (lambda a, b: scipy.linalg.lu_solve(scipy.linalg.lu_factor(a), b, trans=1), (B, V)),
    "lu_solve adjoint": (lambda a, b: scipy.linalg.lu_solve(scipy.linalg.lu_factor(a), b, trans=2), (Z, V)),
    "expm": (lambda a: scipy.linalg.expm(a), (STACK,)),
    "expm complex": (lambda a: scipy.linalg.expm(a), (Z,)),
    "sqrtm": (lambda a: scipy.linalg.sqrtm(a), (S,)),
    "sqrtm complex": (lambda a: scipy.linalg.sqrtm(a), (Z,)),
    "logm": (lambda a: scipy.linalg.logm(a), (A,)),
    "logm complex": (lambda a: scipy.linalg.logm(a), (Z,)),
    "cosm": (lambda a: (scipy.linalg.cosm(a), scipy.linalg.sinm(a), scipy.linalg.tanm(a)), (B,)),
    "coshm": (lambda a: (scipy.linalg.coshm(a), scipy.linalg.sinhm(a), scipy.linalg.tanhm(a)), (B,)),
    "block_diag": (lambda a, b: scipy.linalg.block_diag(a, b, V), (A, F)),
    "toeplitz": (lambda a, b: scipy.linalg.toeplitz(a, b), (V, F[0])),
    "toeplitz complex": (lambda a: scipy.linalg.toeplitz(a), (Z[0].copy(),)),
    "hankel": (lambda a: scipy.linalg.hankel(a), (V,)),
    "circulant": (lambda a: scipy.linalg.circulant(a), (V,)),
    "solve": (lambda a, b: scipy.linalg.solve(a, b), (A, F)),
    "solve pos": (lambda a, b: scipy.linalg.solve(a, b, assume_a="pos"), (S, V)),
    "solve sym": (lambda a, b: scipy.linalg.solve(a, b, assume_a="sym", lower=True), (S, V)),
    "solve triangular": (lambda a, b: scipy.linalg.solve(np.triu(a), b, assume_a="upper triangular"), (A, V)),
    "solve transposed": (lambda a, b: scipy.linalg.solve(a, b, transposed=True), (A, V)),
    "inv": (lambda a: scipy.linalg.inv(a), (Z,)),
    "det": (lambda a: scipy.linalg.det(a), (STACK,)),
    "svdvals": (lambda a: scipy.linalg.svdvals(a), (F,)),
    "svd": (lambda a: (lambda u, s, vh: (s, (u[:, :3] * s) @ vh[:3]))(*scipy.linalg.svd(a)), (F,)),
    "qr": (lambda a: (lambda q, r: (q @ r, np.abs(r)))(*scipy.linalg.qr(a, mode="economic")), (F.T.copy(),)),
    "qr r": (lambda a: np.abs(scipy.linalg.qr(a, mode="r")[0]), (F,)),
    "eigh": (lambda a: (lambda w, v: (v * w**3) @ v.T)(*scipy.linalg.eigh(a)), (S,)),
    "eigh generalised": (lambda a, b: (lambda w, v: (w, (v * w**3) @ v.T))(*scipy.linalg.eigh(a, b)), (B + B.T, S)),
    "eigvalsh": (lambda a: scipy.linalg.eigvalsh(a, subset_by_index=[0, 1]), (H,)),
    "eig": (lambda a: (lambda w, v: (v * w**3) @ np.linalg.inv(v))(*scipy.linalg.eig(a)), (Z,)),
    "eigvals": (lambda a: (scipy.linalg.eigvals(a) ** 3).sum(), (Z,)),
    "schur": (lambda a: (lambda t, z: z @ t @ z.conj().T)(*scipy.linalg.schur(a, output="complex")), (A,)),
    "schur real": (lambda a: (lambda t, z: (z @ t @ z.T, np.tril(t, -2)))(*scipy.linalg.schur(a)), (B,)),
    "hessenberg": (lambda a: scipy.linalg.hessenberg(a, calc_q=True), (np.stack([B, W]),)),
    "hessenberg complex": (lambda a: scipy.linalg.hessenberg(a), (Z,)),
    "pinv": (lambda a: scipy.linalg.pinv(a), (F,)),
    "pinv rank": (lambda a: scipy.linalg.pinv(a, rtol=0.4, return_rank=True), (F,)),
    "pinv atol": (lambda a: scipy.linalg.pinv(a, atol=0.9), (F,)),
    "lstsq": (lambda a, b: scipy.linalg.lstsq(a, b)[0], (F.T.copy(), RNG.normal(size=4))),
    "norm": (lambda a: (scipy.linalg.norm(a), scipy.linalg.norm(a, "nuc"), scipy.linalg.norm(a, 2)), (F,)),
    "polar": (lambda a: scipy.linalg.polar(a, side="left"), (A,)),
    "khatri_rao": (lambda a, b: scipy.linalg.khatri_rao(a, b), (F, F[:2].copy())),
}  # fmt: skip
KINKED = ("schur", "schur real", "hessenberg", "hessenberg complex")


def some(names: Iterable[str], step: int) -> list[Any]:
    """Every step-th name; the others are marked slow."""
    return [n if i % step == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(names)]


def parts(results: Any) -> list[Any]:
    return list(results) if isinstance(results, (tuple, list)) else [results]


@pytest.mark.parametrize("name", some(SCIPY, 2))
def test_scipy_linalg(name: str) -> None:
    function, arrays = SCIPY[name]
    actual = nf.jit(lambda *xs: function(*xs))(*[a.copy() for a in arrays])
    for got, want in zip(parts(actual), parts(function(*arrays)), strict=True):
        assert_same(got, want, 1e-9)


def direction(a: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hermitian for a Hermitian matrix, whose other triangle nobody may read."""
    d = rng.normal(size=a.shape) + (1j * rng.normal(size=a.shape) if a.dtype.kind == "c" else 0)
    hermitian = a.ndim > 1 and a.shape[-1] == a.shape[-2] and np.allclose(a, np.conj(np.swapaxes(a, -1, -2)))
    return d + np.conj(np.swapaxes(d, -1, -2)) if hermitian else d


def weighted(function: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Callable[..., Any]:
    """The results as one real number."""
    rng = np.random.default_rng(8)
    weights = [
        rng.normal(size=np.shape(r)) + 1j * rng.normal(size=np.shape(r)) if np.asarray(r).dtype.kind in "fc" else None
        for r in parts(function(*arrays))
    ]

    def call(*xs: Any) -> Any:
        results = parts(function(*xs))
        return sum((r * w).real.sum() for r, w in zip(results, weights, strict=True) if w is not None)

    return call


def check_derivatives(function: Callable[..., Any], arrays: tuple[np.ndarray, ...], rtol: float = 1e-5) -> None:
    """Forward mode, reverse mode and the second derivative along a direction, against differences."""
    rng = np.random.default_rng(9)
    call = weighted(function, arrays)
    tangents = [direction(a, rng) for a in arrays]
    number = tuple(range(len(arrays)))
    moved = lambda h: [a + h * t for a, t in zip(arrays, tangents, strict=True)]
    along = lambda *xs: nf.jvp(call, xs, tuple(tangents))[1]
    slope = (call(*moved(1e-6)) - call(*moved(-1e-6))) / 2e-6
    assert abs(along(*arrays) - slope) <= rtol * max(1.0, abs(slope))
    gradients = nf.grad(call, argnums=number)(*arrays)
    back = sum((np.conj(g) * t).real.sum() for g, t in zip(gradients, tangents, strict=True))
    assert abs(back - slope) <= rtol * max(1.0, abs(slope))
    curvature = (along(*moved(1e-5)) - along(*moved(-1e-5))) / 2e-5
    seconds = nf.grad(along, argnums=number)(*arrays)
    second = sum((np.conj(g) * t).real.sum() for g, t in zip(seconds, tangents, strict=True))
    assert abs(second - curvature) <= 10 * rtol * max(1.0, abs(curvature))


@pytest.mark.parametrize("name", some([n for n in SCIPY if n not in KINKED], 7))
def test_derivatives_of_scipy_linalg(name: str) -> None:
    check_derivatives(*SCIPY[name])


# -- complex matrices: functions that do not depend on phases

PHASELESS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "eigh": (lambda a: (lambda w, v: (v * np.exp(w / 9)) @ v.conj().T)(*np.linalg.eigh(a)), (H,)),
    "eigh upper": (lambda a: (lambda w, v: (v * np.exp(w / 9)) @ v.conj().T)(*np.linalg.eigh(a, "U")), (H,)),
    "eigvalsh": (np.linalg.eigvalsh, (H,)),
    "eig": (lambda a: (lambda w, v: ((v * np.exp(w)) @ np.linalg.inv(v), np.abs(v).sum()))(*np.linalg.eig(a)), (Z,)),
    "eigvals": (lambda a: (np.linalg.eigvals(a) ** 2).sum(), (Z,)),
    "svd": (lambda a: (lambda u, s, vh: ((u * s**2) @ vh, np.abs(u)))(*np.linalg.svd(a, False)), (Z[:, :2].copy(),)),
    "svd full": (lambda a: (lambda u, s, vh: u[:, 2:] @ u[:, 2:].conj().T)(*np.linalg.svd(a)), (Z[:, :2].copy(),)),
    "svd wide": (lambda a: (lambda u, s, vh: vh[2:].conj().T @ vh[2:])(*np.linalg.svd(a)), (Z[:2].copy(),)),
    "qr": (lambda a: np.linalg.qr(a), (Z,)),
    "qr complete": (lambda a: (lambda q, r: q[:, 2:] @ q[:, 2:].conj().T)(*np.linalg.qr(a, "complete")),
                    (Z[:, :2].copy(),)),
    "qr wide": (lambda a: np.linalg.qr(a), (Z[:2].copy(),)),
    "pinv": (lambda a: np.linalg.pinv(a), (Z[:, :2].copy(),)),
    "pinv cut off": (lambda a: np.linalg.pinv(a, 0.6), (Z,)),
    "lstsq": (lambda a, b: np.linalg.lstsq(a, b)[0], (Z[:, :2].copy(), Z[2].copy())),
    "norms": (lambda a: (np.linalg.norm(a, 2), np.linalg.norm(a, "nuc"), np.linalg.cond(a)), (Z,)),
    "cholesky": (lambda a: np.linalg.cholesky(a, upper=True), (H,)),
}  # fmt: skip


@pytest.mark.parametrize("name", some(PHASELESS, 6))
def test_derivatives_that_do_not_depend_on_phases(name: str) -> None:
    check_derivatives(*PHASELESS[name])


# -- equal eigenvalues, and what is singular


def test_equal_values_have_finite_derivatives_of_values() -> None:
    for function in (np.linalg.eigvalsh, np.linalg.svdvals):
        gradient = nf.grad(lambda a: function(a).sum())(2 * np.eye(3))
        np.testing.assert_allclose(gradient, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(nf.grad(lambda a: np.linalg.norm(a, "nuc"))(2 * np.eye(3)), np.eye(3), atol=1e-14)


def test_equal_values_have_no_derivatives_of_vectors() -> None:
    """As in JAX and torch: not a number that looks like one."""
    for function in (lambda a: np.linalg.eigh(a)[1], lambda a: np.linalg.svd(a)[0]):
        gradient = nf.grad(lambda a: (function(a) * W).sum())(2 * np.eye(3))
        assert not np.isfinite(gradient).all()


def test_functions_of_matrices_do_not_mind_equal_values() -> None:
    eye = np.eye(3)
    for function, slope in ((scipy.linalg.expm, np.e), (scipy.linalg.sqrtm, 0.5), (scipy.linalg.logm, 1.0)):
        np.testing.assert_allclose(nf.grad(lambda a: (function(a) * W).sum())(eye), slope * W, rtol=1e-12)
    np.testing.assert_allclose(nf.grad(lambda a: (np.linalg.pinv(a) * W).sum())(eye), -W, rtol=1e-12)


def test_pinv_of_lower_rank() -> None:
    """Along matrices of the same rank."""
    left, right = RNG.normal(size=(4, 2)), RNG.normal(size=(2, 3))
    move = RNG.normal(size=(4, 2))
    at = lambda h: (left + h * move) @ right
    found = nf.jvp(lambda a: np.linalg.pinv(a), (at(0.0),), (move @ right,))[1]
    slope = (np.linalg.pinv(at(1e-6)) - np.linalg.pinv(at(-1e-6))) / 2e-6
    np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_gradient_of_a_determinant_that_is_zero(n: int) -> None:
    """The adjugate of a matrix of rank n - 1, from its minors."""
    rng = np.random.default_rng(n)
    for lost in (0, 1, n - 1):
        a = rng.normal(size=(n, n))
        a[:, lost] = 0.0 if lost else a[:, -1]
        minors = lambda i, j: np.linalg.det(np.delete(np.delete(a, i, 0), j, 1))
        wanted = np.array([[(-1) ** (i + j) * minors(i, j) for j in range(n)] for i in range(n)])
        np.testing.assert_allclose(nf.grad(lambda x: np.linalg.det(x))(a), wanted, rtol=1e-9, atol=1e-9)


# -- errors

MISTAKES: dict[str, tuple[Callable[..., Any], np.ndarray, str]] = {
    "inv": (lambda a: np.linalg.inv(a), np.zeros((3, 3)), "Singular matrix"),
    "solve in a stack": (lambda a: np.linalg.solve(a, V), np.stack([A, np.ones((3, 3))]), "Singular matrix"),
    "cholesky": (lambda a: np.linalg.cholesky(a), -np.eye(3), "not positive definite"),
    "svd": (lambda a: np.linalg.svd(a)[1], np.full((3, 3), np.nan), "SVD did not converge"),
    "eigh": (lambda a: np.linalg.eigvalsh(a), np.full((3, 3), np.nan), "Eigenvalues did not converge"),
    "eig": (lambda a: np.linalg.eigvals(a), np.full((3, 3), np.inf), "must not contain infs or NaNs"),
    "solve_triangular": (lambda a: scipy.linalg.solve_triangular(a, V), np.diag([1.0, 0.0, 1.0]), "singular"),
    "sqrtm": (lambda a: scipy.linalg.sqrtm(a), -np.eye(3), "not real"),
    "logm": (lambda a: scipy.linalg.logm(a), np.diag([1.0, -2.0, 1.0]), "not real"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("mode", ["jit", "vmap", "grad"])
def test_errors_at_run_time(name: str, mode: str) -> None:
    function, matrix, words = MISTAKES[name]
    call = {
        "jit": lambda a: nf.jit(function)(a),
        "vmap": lambda a: nf.vmap(function)(np.stack([a, a])),
        "grad": lambda a: nf.grad(lambda x: function(x).sum().real)(a),
    }[mode]
    with pytest.raises(np.linalg.LinAlgError, match=words) as caught:
        call(matrix)
    assert isinstance(caught.value, nf.NufuncError)
    assert caught.value.location.line == function.__code__.co_firstlineno


SHAPES: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "eigh": (lambda a: np.linalg.eigh(a), np.linalg.LinAlgError, "square"),
    "eigh half": (lambda a: np.linalg.eigh(a @ a.T, "X"), ValueError, "UPLO"),
    "svd of a vector": (lambda a: np.linalg.svd(a[0]), np.linalg.LinAlgError, "at least two"),
    "qr mode": (lambda a: np.linalg.qr(a, "upper"), ValueError, "Unrecognized mode"),
    "lstsq": (lambda a: np.linalg.lstsq(a, a[0]), np.linalg.LinAlgError, "Incompatible dimensions"),
    "pinv": (lambda a: np.linalg.pinv(a, 1e-3, rtol=1e-3), ValueError, "can't be both set"),
    "cond": (lambda a: np.linalg.cond(a[:0]), np.linalg.LinAlgError, "empty"),
    "cond 1": (lambda a: np.linalg.cond(a, 1), np.linalg.LinAlgError, "square"),
    "norm": (lambda a: np.linalg.norm(a, 5), ValueError, "Invalid norm order"),
    "tensorsolve": (lambda a: np.linalg.tensorsolve(a, a[0]), np.linalg.LinAlgError, "requirement"),
    "tensorinv": (lambda a: np.linalg.tensorinv(a, 0), ValueError, "Invalid ind"),
    "solve": (lambda a: scipy.linalg.solve(a[:, :3], a.T), ValueError, "incompatible"),
    "half precision": (lambda a: np.linalg.svdvals(a.astype(np.float16)), TypeError, "float16 is unsupported"),
    "correlate": (lambda a: np.correlate(a[0], a[0], "most"), ValueError, "mode"),
    "schur": (lambda a: nf.grad(lambda x: scipy.linalg.schur(x, output="complex")[0].real.sum())(a[:, :3]),
              NotImplementedError, "derivative"),
    "raw qr": (lambda a: nf.grad(lambda x: np.linalg.qr(x, "raw")[0].sum())(a), NotImplementedError, "mode 'raw'"),
    "pivoting": (lambda a: scipy.linalg.qr(a, pivoting=True), NotImplementedError, "pivoting"),
    "schur output": (lambda a: scipy.linalg.schur(a[:, :3], "upper"), ValueError, "'complex'"),
    "not there": (lambda a: scipy.linalg.qz(a, a), NotImplementedError, "scipy.linalg.qz"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_static_errors(name: str) -> None:
    function, kind, words = SHAPES[name]
    with pytest.raises(kind, match=words) as caught:
        nf.jit(function)(F)
    assert isinstance(caught.value, nf.NufuncError)
    assert "test_linalg.py" in str(caught.value)


@pytest.mark.parametrize("way", ["1", "graph"])
def test_errors_of_interpreted_code_name_the_line(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUFUNC_NOJIT", way)
    for function in (lambda a: np.linalg.inv(a), lambda a: np.linalg.svd(a / a)[1]):
        with pytest.raises(np.linalg.LinAlgError) as caught:
            nf.jit(function)(np.zeros((3, 3)))
        assert caught.value.location.line == function.__code__.co_firstlineno


def test_einsum_follows_a_path() -> None:
    arrays = np.ones((2, 50)), np.ones((50, 3)), np.ones((3, 40))
    for first, between in (((1, 2), "f64[50,40]"), ((0, 1), "f64[2,3]")):
        path = ["einsum_path", first, (0, 1)]
        text = nf.dump(lambda x, y, z, p=path: np.einsum("ij,jk,kl->il", x, y, z, optimize=p), *arrays, stage="pure")
        assert f": {between} = dot" in text
    got = nf.jit(lambda x, y, z: np.einsum("ij,jk,kl->il", x, y, z, optimize="optimal"))(*arrays)
    np.testing.assert_array_equal(got, np.full((2, 40), 150.0))


# -- stacks, threads, types


def test_stacks_of_stacks() -> None:
    stack = RNG.normal(size=(2, 1, 4, 3, 2))
    got = nf.vmap(nf.vmap(lambda a: np.linalg.svd(a, full_matrices=False)[1], in_dims=1))(stack)
    np.testing.assert_allclose(got, np.moveaxis(np.linalg.svdvals(stack), 2, 1), rtol=1e-12)


def test_results_are_numpys_named_tuples() -> None:
    result = nf.jit(lambda a: np.linalg.eigh(a))(S)
    assert type(result) is type(np.linalg.eigh(S))
    assert nf.jit(lambda a: np.linalg.svd(a).S)(F).shape == (3,)
    np.testing.assert_allclose(nf.jit(lambda a: np.linalg.qr(a).R)(A), np.linalg.qr(A).R, rtol=1e-12, atol=1e-12)


def test_values_alone_take_no_vectors() -> None:
    """eigvalsh and norms of order 2 ask LAPACK for no vectors, unless a derivative does."""
    for function in (lambda a: np.linalg.eigvalsh(a), lambda a: np.linalg.norm(a, 2)):
        text = nf.dump(function, S, stage="simplified")
        assert "vectors=false" in text
        assert "vectors=true" in nf.dump(nf.grad(lambda a: function(a).sum()), S, stage="simplified")


def test_decompositions_and_transforms_are_counted() -> None:
    cost = nf.jit(lambda a: (np.linalg.svd(a), np.linalg.eigvalsh(a), np.fft.fft(a))).lower(np.ones((8, 8))).cost()
    assert cost.flops >= 22 * 8**3 + 4 * 8**3 // 3 + 8 * 5 * 8 * 3


def test_ranges_of_a_long_stack_are_tasks() -> None:
    stack = RNG.normal(size=(300, 6, 6))
    functions = (
        np.linalg.svd, np.linalg.qr, lambda a: np.linalg.eigh(a + np.swapaxes(a, -1, -2)), np.linalg.eigvals,
        scipy.linalg.lu, scipy.linalg.hessenberg,
    )  # fmt: skip
    for function in functions:
        for got, want in zip(parts(nf.jit(lambda a, f=function: f(a))(stack)), parts(function(stack)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    t, z = nf.jit(lambda a: scipy.linalg.schur(a, output="complex"))(stack)
    np.testing.assert_allclose(z @ t @ np.conj(np.swapaxes(z, -1, -2)), stack, atol=1e-11)
    stack[277] = np.nan
    with pytest.raises(np.linalg.LinAlgError, match="SVD did not converge"):
        nf.jit(lambda a: np.linalg.svdvals(a))(stack)


def test_many_threads_at_once() -> None:
    function = nf.jit(lambda a: (np.linalg.svdvals(a), np.fft.fft(a), scipy.linalg.expm(a)))
    matrices = [RNG.normal(size=(24, 24)) for _ in range(8)]
    found: dict[int, Any] = {}

    def work(k: int) -> None:
        for _ in range(5):
            found[k] = function(matrices[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(matrices))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k, m in enumerate(matrices):
        np.testing.assert_allclose(found[k][0], np.linalg.svdvals(m), rtol=1e-10)
        np.testing.assert_allclose(found[k][1], np.fft.fft(m), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found[k][2], scipy.linalg.expm(m), rtol=1e-8, atol=1e-8)


# -- JAX

AGAINST_JAX: dict[str, tuple[Callable[[Any, Any, Any], Any], np.ndarray]] = {
    "solve": (lambda np_, sp, a: np_.linalg.solve(a, np_.asarray(V)), A),
    "inv": (lambda np_, sp, a: np_.linalg.inv(a), A),
    "det": (lambda np_, sp, a: np_.linalg.det(a), A),
    "slogdet": (lambda np_, sp, a: np_.linalg.slogdet(a)[1], A),
    "cholesky": (lambda np_, sp, a: np_.linalg.cholesky(a), S),
    "eigh": (lambda np_, sp, a: np_.linalg.eigh(a)[0] ** 2, S),
    "svd": (lambda np_, sp, a: np_.linalg.svd(a, full_matrices=False)[1] ** 2, F),
    "qr": (lambda np_, sp, a: np_.abs(np_.linalg.qr(a)[1]), F.T.copy()),
    "pinv": (lambda np_, sp, a: np_.linalg.pinv(a), F),
    "expm": (lambda np_, sp, a: sp.linalg.expm(a), B),
    "norm": (lambda np_, sp, a: np_.linalg.norm(a, "nuc") + np_.linalg.norm(a, 2), F),
    "lu": (lambda np_, sp, a: sp.linalg.lu(a)[2], A),
    "cho_solve": (lambda np_, sp, a: sp.linalg.cho_solve(sp.linalg.cho_factor(a @ a.T), np_.asarray(V)), A),
    "fft": (lambda np_, sp, a: np_.abs(np_.fft.fft(a, 5)) ** 2, F),
    "rfftn": (lambda np_, sp, a: np_.abs(np_.fft.rfftn(a)) ** 2, F),
    "irfft": (lambda np_, sp, a: np_.fft.irfft(a, 7) ** 2, F),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", AGAINST_JAX)
def test_values_gradients_and_hessians_like_jax(name: str) -> None:
    jax = pytest.importorskip("jax")
    function, a = AGAINST_JAX[name]
    with jax.enable_x64(True):
        theirs = lambda x: (function(jax.numpy, jax.scipy, x)).sum()
        wanted = [theirs(a), jax.grad(theirs)(a), jax.hessian(theirs)(a)]
        ours = lambda x: (function(np, scipy, x)).sum()
        for got, want in zip((nf.jit(ours)(a), nf.grad(ours)(a), nf.hessian(ours)(a)), wanted, strict=True):
            np.testing.assert_allclose(got, np.asarray(want), rtol=1e-8, atol=1e-8)

"""Whole functions that call NVIDIA's libraries: on simulated devices, and through the driver's stand-in with graphs."""

from __future__ import annotations

import gc
from typing import Any

import fake_nvmath
import numpy as np
import pytest
import scipy.linalg
from cuda_device import HARDWARE

import nufunc as nf
from nufunc.codegen.cuda.contraction import Tile
from nufunc.runtime.cuda import cudnn, nvidia

pytest.importorskip("cuda.bindings.driver")
from fake_cuda import FakeCuda, installed

pytestmark = pytest.mark.skipif(HARDWARE, reason="stands in for hardware")


class Library:
    """A library's stand-in whose routines are queued, or captured, where the stream of their handle or plan is."""

    ROUTINES = ("gemm", "gemv", "trsm", "exec")

    def __init__(self, cuda: FakeCuda, library: Any) -> None:
        self.cuda, self.library = cuda, library

    def stream(self, handle: int) -> int | None:
        if isinstance(self.library, fake_nvmath.Cufft):
            return self.library.plans[handle].get("stream")
        return self.library.streams.get(handle)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, name)

        def call(*args: Any) -> Any:
            if name == "set_workspace":
                self.cuda.settle()  # what is noise from now on is read before
            stream = self.stream(args[0]) if args else None
            if stream is None or name.startswith("set_"):
                return function(*args)
            if stream not in self.cuda.captures:
                self.cuda.settle()
                return function(*args)
            assert any(word in name for word in self.ROUTINES), f"{name} while a stream is captured"
            return self.cuda.library(stream, lambda: function(*args))

        return call


LIBRARIES = {"cublas": fake_nvmath.Cublas, "cusolverDn": fake_nvmath.CusolverDn, "cufft": fake_nvmath.Cufft}


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    made: dict[str, Any] = {name: kind() for name, kind in LIBRARIES.items()}
    monkeypatch.setattr(nvidia, "module", made.get)
    monkeypatch.setattr(nvidia, "_handles", {})
    monkeypatch.setattr(cudnn, "library", lambda: None)  # test_cuda_conv.py
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "nvidia")
    return made


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, libraries: dict[str, Any]) -> Any:
    """Hardware whose driver and libraries are stand-ins."""
    made = FakeCuda()
    monkeypatch.setattr(nvidia, "module", {n: Library(made, lib) for n, lib in libraries.items()}.get)
    with installed(monkeypatch, made):
        yield made


RANDOM = np.random.default_rng(5)
A, B = RANDOM.normal(size=(60, 60)), RANDOM.normal(size=(60, 40))


def recorded(a: Any, b: Any) -> Any:
    """Products, triangles and transforms."""
    product = np.tanh(a @ b)
    triangle = np.tril(a) + 60 * np.eye(60)
    return product.sum(0), np.fft.rfft(a @ product[:, 0]), scipy.linalg.solve_triangular(triangle, b, lower=True)


def solved(a: Any, b: Any) -> Any:
    x = np.linalg.solve(a, b)
    return np.linalg.eigvalsh(a + a.T), x.sum(), np.linalg.svd(b)[1], np.linalg.slogdet(a)[1]


def loss(a: Any, b: Any) -> Any:
    low = np.linalg.cholesky(a @ a.T + 40 * np.eye(len(a)))
    return np.sum(np.tanh(np.linalg.solve(a, b)) ** 2) + np.sum(np.log(np.diag(low)))


def same(made: Any, wanted: Any) -> None:
    for x, y in zip(made, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-8, atol=1e-10)


def test_recorded_with_the_libraries_calls(driver: FakeCuda, libraries: dict[str, Any]) -> None:
    a, b = nf.to_device((A, B))
    function = nf.jit(recorded)
    for _ in range(4):
        same(function(a, b), recorded(A, B))
    assert driver.calls["cuGraphLaunch"] == 3
    assert dict(libraries["cublas"].calls) == {"gemm": 4, "gemv": 4, "trsm": 4}
    assert dict(libraries["cufft"].calls) == {"r2c": 4}


def test_plans_of_recorded_transforms_last(
    monkeypatch: pytest.MonkeyPatch, driver: FakeCuda, libraries: dict[str, Any]
) -> None:
    """As long as a recording refers to them, others as long as they are among the last ones."""
    monkeypatch.setattr(nvidia, "_MOST_PLANS", 1)
    x = nf.to_device(A)
    function = nf.jit(lambda x: np.fft.rfft(x))
    for _ in range(2):
        function(x)
    handles, library = nvidia._handles[0], libraries["cufft"]
    gone = lambda: [plan.get("gone", False) for plan in library.plans.values()]
    handles.stream = 0
    for n in (3, 4, 5):
        handles.plan(library, 0x6A, n, 1)
    assert gone() == [False, True, False, False]  # and the next is destroyed when another one is made
    np.testing.assert_allclose(np.asarray(function(x)), np.fft.rfft(A), atol=1e-12)
    del function
    nf.clear_cache()
    gc.collect()
    for n in (6, 7):
        handles.plan(library, 0x6A, n, 1)
    assert gone() == [True, True, True, True, False, False]


def test_solvers_run_step_by_step(driver: FakeCuda, libraries: dict[str, Any]) -> None:
    a, b = nf.to_device((A, B))
    function = nf.jit(solved)
    for _ in range(3):
        same(function(a, b), solved(A, B))
    assert not driver.calls["cuGraphLaunch"]
    assert set(libraries["cusolverDn"].calls) == {"getrf", "getrs", "syevd", "gesvd"}


def test_failures_are_raised(driver: FakeCuda) -> None:
    function = nf.jit(lambda a: np.linalg.cholesky(a))
    a = nf.to_device(-A @ A.T)
    with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
        np.asarray(function(a))
    inverse = nf.jit(lambda a: np.linalg.inv(a))
    with pytest.raises(np.linalg.LinAlgError, match="Singular"):
        np.asarray(inverse(nf.to_device(np.ones((60, 60)))))


@pytest.mark.parametrize("way", ["nvidia", "own"])
def test_gradients(monkeypatch: pytest.MonkeyPatch, libraries: dict[str, Any], way: str) -> None:
    monkeypatch.setenv("NUFUNC_CUDA_SIMULATOR", "1")
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", way)
    monkeypatch.setattr("nufunc.codegen.cuda.library_products.tile_for", lambda form: Tile(4, 4, 2, 2, 4))
    made = nf.jit(nf.grad(loss, argnums=(0, 1)), target="cuda")(A[:36, :36], B[:36, :2])
    same(made, nf.grad(loss, argnums=(0, 1))(A[:36, :36], B[:36, :2]))
    calls = libraries["cusolverDn"].calls
    assert set(calls) == ({"getrf", "getrs", "potrf"} if way == "nvidia" else set())

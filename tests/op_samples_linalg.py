"""Rows of op_samples for decompositions, functions of matrices and Fourier transforms.

Derivatives of complex vectors depend on their phase; test_linalg.py tests those of functions that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg

Row = tuple[str, tuple[str, ...], dict[str, Any], dict[str, Any]]
SQUARE = ("f64[3,3]", "f64[2,4,4]", "f64[1,1]", "f64[0,0]", "f64[0,2,2]", "f32[3,3]", "c128[3,3]", "c128[2,2,2]")
ANY_SHAPE = (
    "f64[4,3]", "f64[3,4]", "f64[3,3]", "f64[2,5,2]", "f64[2,2,3]", "f64[3,0]", "f64[0,2]", "f64[0,2,3]", "f32[4,2]",
    "c128[4,2]", "c128[2,3]", "c64[2,2]",
)  # fmt: skip


def _stacked(function: Callable[..., Any], out: tuple[int, ...]) -> Callable[[np.ndarray], Any]:
    """A function of one matrix for stacks; `out` are the extents of a result of no matrices."""

    def call(a: np.ndarray) -> Any:
        flat = a.reshape((-1, *a.shape[-2:])) if a.size else []
        if not len(flat):
            return np.zeros((*a.shape[:-2], *out), a.dtype)
        return np.stack([function(m) for m in flat]).reshape((*a.shape[:-2], *out))

    return call


def rows() -> Iterator[Row]:
    """(primitive, operands, attributes, options)."""
    yield from _spectra()
    yield from _factorizations()
    yield from _functions()
    yield from _transforms()


def _spectra() -> Iterator[Row]:
    for spec in SQUARE:
        for lower, vectors in ((True, True), (False, False)):
            smooth = not (vectors and spec.startswith("c"))
            yield "eigh", (f"{spec} spd",), {"lower": lower, "vectors": vectors}, {"smooth": smooth}
        for vectors in (True, False):
            yield "eig", (f"{spec} regular",), {"vectors": vectors}, {"smooth": not vectors}
        if not spec.startswith("f32"):
            yield "schur", (f"{spec} regular",), {"real": False}, {"smooth": False}
        if not spec.startswith("c"):
            yield "schur", (spec,), {"real": True}, {"smooth": False, "rtol": 1e-10}
        yield "hessenberg", (spec,), {}, {"smooth": False, "rtol": 1e-10}
    for spec in ANY_SHAPE:
        for full, vectors in ((True, True), (False, True), (False, False)):
            smooth = not vectors or not (full or spec.startswith("c"))
            yield "svd", (spec,), {"full": full, "vectors": vectors}, {"smooth": smooth, "rtol": 1e-10}


def _factorizations() -> Iterator[Row]:
    for spec in ANY_SHAPE:
        for full, vectors in ((True, True), (False, True), (False, False)):
            tall = spec in ("f64[4,3]", "f64[2,5,2]", "f64[3,0]", "f32[4,2]", "c128[4,2]")
            smooth = not (full and tall)
            yield "qr", (spec,), {"full": full, "vectors": vectors}, {"smooth": smooth, "rtol": 1e-9}
        yield "householder", (spec,), {}, {"smooth": False, "rtol": 1e-10}
        yield "lu", (spec,), {}, {"rtol": 1e-10}
    for spec in ("f64[2,3]", "f64[]", "f64[0]"):
        yield "require", (spec, "b1[] true"), {"message": "no"}, {"reference": lambda x, ok: x}


def _functions() -> Iterator[Row]:
    scale = {"exp": "", "log": " spd", "sqrt": " spd"}
    reference = {
        "exp": scipy.linalg.expm, "sqrt": scipy.linalg.sqrtm,
        "log": lambda a: scipy.linalg.logm(a.astype(np.result_type(a, np.float64))),
    }  # fmt: skip
    for spec in ("f64[3,3]", "f64[2,2,2]", "f64[0,0]", "f64[0,2,2]", "f32[2,2]", "c128[2,2]"):
        n = int(spec[-2])
        for name, domain in scale.items():
            function = _stacked(reference[name], (n, n))
            rtol = 1e-4 if spec.startswith("f32") else 1e-9
            yield "matfun", (spec + domain,), {"name": name}, {"reference": function, "rtol": rtol}
            yield "frechet", (spec + domain, spec), {"name": name}, {"rtol": 1e-9}
    for spec in ("f64[3,3]", "f64[2,4,4]", "f64[1,1]", "f64[0,0]", "f64[0,2,2]", "f32[3,3]", "c128[3,3]"):
        n = int(spec[-2])
        function = _stacked(lambda a: np.linalg.det(a) * np.linalg.inv(a), (n, n))
        yield "adjugate", (f"{spec} regular",), {}, {"reference": function, "rtol": 1e-10}
    for spec in ("f64[4,3]", "f64[3,4]", "f64[2,3,2]", "f64[0,2]", "f64[2,0]", "f32[3,2]", "c128[3,2]"):
        real = "f32" if spec.startswith("f32") else "f64"
        lead = spec.partition("[")[2].split(",")[:-2]
        cutoff = f"{real}[{','.join(lead)}] tiny"
        columns = spec.rpartition(",")[0] + ",2]"
        how, options = {"hermitian": False, "cut": False}, {"reference": lambda a, c: np.linalg.pinv(a), "rtol": 1e-9}
        yield "pinv", (spec, cutoff), how, options
        options = {"reference": lambda a, b, c: np.linalg.pinv(a) @ b, "rtol": 1e-9}
        yield "lstsq", (spec, columns, cutoff), {"cut": False}, options
    for spec in ("f64[4,3]", "f64[2,4]", "c128[3,2]"):
        cutoff, columns = "f64[] half", spec.rpartition(",")[0] + ",2]"
        yield "pinv", (spec, cutoff), {"hermitian": False, "cut": True}, {"rtol": 1e-9}
        yield "lstsq", (spec, columns, cutoff), {"cut": True}, {"rtol": 1e-9}
    yield "pinv", ("f64[3,3] spd", "f64[] tiny"), {"hermitian": True, "cut": False}, {"smooth": False}


def _transforms() -> Iterator[Row]:
    def dft(x: np.ndarray, sign: int = -1) -> np.ndarray:
        n = np.arange(x.shape[-1])
        return x @ np.exp(sign * 2j * np.pi * np.outer(n, n) / max(1, len(n)))

    for spec in ("c128[6]", "c128[2,5]", "c128[1]", "c128[0,4]", "c64[3,7]", "c128[2,2,3]"):
        yield "fft", (spec,), {"inverse": False}, {"reference": dft}
        yield "fft", (spec,), {"inverse": True}, {"reference": lambda x: dft(x, 1)}
    for spec in ("f64[6]", "f64[2,5]", "f64[1]", "f64[0,4]", "f32[3,7]", "f64[2,2,3]"):
        yield "rfft", (spec,), {}, {"reference": lambda x: dft(x)[..., : x.shape[-1] // 2 + 1]}
    halves = (("c128[4]", 6), ("c128[4]", 7), ("c128[2,3]", 5), ("c128[1]", 1), ("c64[3,4]", 7), ("c128[0,2]", 2))
    for spec, n in halves:
        yield "irfft", (spec,), {"n": n}, {"reference": lambda z, n=n: _from_half(z, n)}
    for spec, axis in (("c128[6]", 0), ("c128[5,2]", 0), ("c64[2,7,3]", 1), ("c128[2,2,3]", 2), ("c128[3,0]", 0)):
        for inverse in (False, True):
            how = {"prim": "fft", "inverse": inverse, "n": 0, "axis": axis}
            yield "fft_along", (spec,), how, {"reference": _along(lambda x, i=inverse: dft(x, 1 if i else -1), axis)}
    how = {"inverse": False, "n": 0, "axis": 1}
    reference = _along(lambda x: dft(x)[..., : x.shape[-1] // 2 + 1], 1)
    for spec in ("f64[2,6,3]", "f32[3,7]", "f64[2,5,1]"):
        yield "fft_along", (spec,), {"prim": "rfft", **how}, {"reference": reference}
    for spec, n in (("c128[4,2]", 6), ("c64[4,3]", 7)):
        how = {"prim": "irfft", "inverse": True, "n": n, "axis": 0}
        yield "fft_along", (spec,), how, {"reference": _along(lambda z, n=n: _from_half(z, n), 0)}


def _along(function: Callable[..., np.ndarray], axis: int) -> Callable[..., np.ndarray]:
    return lambda x: np.moveaxis(function(np.moveaxis(x, axis, -1)), -1, axis)


def _from_half(z: np.ndarray, n: int) -> np.ndarray:
    k, j = np.arange(z.shape[-1]), np.arange(n)
    weight = np.where((k == 0) | (2 * k == n), 1.0, 2.0)
    return np.real((z * weight) @ np.exp(2j * np.pi * np.outer(k, j) / n))


# -- results that do not depend on the choice of vectors


def settled(prim: str, results: list[np.ndarray]) -> list[np.ndarray]:
    """What the results of a decomposition determine: products in which the choice of vectors (signs, phases, order)
    drops out, beside the values."""

    def adjoint(x: np.ndarray) -> np.ndarray:
        return np.conj(np.swapaxes(x, -1, -2))

    if prim == "eigh" and len(results) == 2:
        w, v = results
        return [w, (v * w[..., None, :]) @ adjoint(v), v @ adjoint(v)]
    if prim == "eig" and len(results) == 2:
        w, v = results
        return [w.sum(-1), (v * w[..., None, :]) @ np.linalg.inv(v), (np.abs(v) ** 2).sum(-2)]
    if prim == "eig":
        return [results[0].sum(-1), (results[0] ** 2).sum(-1)]
    if prim == "svd" and len(results) == 3:
        u, s, vh = results
        k = s.shape[-1]
        return [s, (u[..., :k] * s[..., None, :]) @ vh[..., :k, :], adjoint(u) @ u, vh @ adjoint(vh)]
    if prim == "qr":
        return [adjoint(results[-1]) @ results[-1], *([results[0] @ results[1]] if len(results) == 2 else [])]
    if prim == "schur":
        t, z = results
        return [z @ t @ adjoint(z), z @ adjoint(z), np.tril(t, -1 if t.dtype.kind == "c" else -2)]
    return results

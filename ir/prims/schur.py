"""Similarity by unitary matrices: schur and hessenberg, which have no derivatives."""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Attrs
from nufunc.ir.primitive import Jvp, Primitive, register
from nufunc.ir.prims.kinds import Arrays, Maybe, Maybes, Regions, Types, Values, batch_all, need_count
from nufunc.ir.prims.matrices import need_square
from nufunc.ir.prims.spectral import complex_of
from nufunc.ir.types import ArrayType

_STEPS = 300  # for one eigenvalue; a few are usual


def _no_derivative(what: str) -> Jvp:
    def jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
        if tangents[0] is None:
            return [None, None]
        raise UnsupportedError(f"the {what} form has no derivative; eig and functions of matrices have one", b.loc)

    return jvp


def _stacked(a: np.ndarray, made: list[tuple[np.ndarray, np.ndarray]], dtype: np.dtype) -> list[np.ndarray]:
    if not made:
        return [np.zeros(a.shape, dtype) for _ in range(2)]
    return [np.stack(parts).reshape(a.shape).astype(dtype) for parts in zip(*made, strict=True)]


# -- schur


def _schur_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("schur", types, 1)
    need_square("schur", types[0])
    made = types[0] if attrs["real"] else types[0].with_dtype(complex_of(types[0].dtype))
    return (made, made)


def _schur_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    (a,) = arrays
    double = np.dtype(np.float64 if attrs["real"] else np.complex128)
    made = [_schur_of(m.astype(double)) for m in a.reshape((-1, *a.shape[-2:]))] if a.size else []
    return _stacked(a, made, a.dtype if attrs["real"] else complex_of(a.dtype))


def _schur_of(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shifted QR steps (Francis, 1961), from the last row to the first, for the interpreter."""
    z, last = np.eye(len(t), dtype=t.dtype), len(t) - 1
    low = np.finfo(np.float64).eps * np.linalg.norm(t)
    step = 0
    while last > 0:
        here = slice(0, last + 1)
        pair = np.linalg.eigvals(t[last - 1 : last + 1, last - 1 : last + 1])
        double = t.dtype.kind == "f" and bool(np.iscomplex(pair).any())
        first = last - 1 if double else last  # of the rows that are about to come off
        if not first or np.abs(t[first : last + 1, :first]).max() <= low:
            last, step = first - 1, 0
            continue
        step += 1
        if step > _STEPS:
            raise np.linalg.LinAlgError("Schur form did not converge")
        shift = pair[np.abs(pair - t[last, last]).argmin()]
        block, one = t[here, here], np.eye(last + 1)
        if step % 10 == 0:  # out of a cycle
            moved = block - (t[last, last] + np.abs(t[last]).sum()) * one
        elif double:
            moved = block @ block - 2 * shift.real * block + np.abs(shift) ** 2 * one
        else:
            moved = block - (shift.real if t.dtype.kind == "f" else shift) * one
        q, _ = np.linalg.qr(moved)
        t[here] = q.conj().T @ t[here]
        t[:, here] = t[:, here] @ q
        z[:, here] = z[:, here] @ q
    t[np.abs(t) <= low] *= np.abs(np.tri(len(t), k=-1) - 1)[np.abs(t) <= low]
    return t, z


register(
    Primitive(
        "schur", "library", _schur_infer, _schur_evaluate, _no_derivative("Schur"), None, batch_all("schur"),
        attrs=("real",),
    )
)  # fmt: skip


# -- hessenberg


def _hessenberg_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("hessenberg", types, 1)
    need_square("hessenberg", types[0])
    return (types[0], types[0])


def _hessenberg_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    (a,) = arrays
    made = [_hessenberg_of(np.array(m)) for m in a.reshape((-1, *a.shape[-2:]))] if a.size else []
    return _stacked(a, made, a.dtype)


def _hessenberg_of(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A reflection for each column, with the signs of LAPACK's."""
    n = len(h)
    q = np.eye(n, dtype=h.dtype)
    for k in range(n - 1):
        x = h[k + 1 :, k].copy()
        size = np.linalg.norm(x)
        if not x[1:].any() and not x[0].imag:
            continue
        beta = -np.copysign(size, x[0].real)
        v = x.copy()
        v[0] -= beta
        tau = (beta - x[0]) / beta
        v /= v[0]
        reflection = np.eye(n - k - 1, dtype=h.dtype) - tau * np.outer(v, v.conj())
        h[k + 1 :] = reflection.conj().T @ h[k + 1 :]
        h[:, k + 1 :] = h[:, k + 1 :] @ reflection
        q[:, k + 1 :] = q[:, k + 1 :] @ reflection
        h[k + 2 :, k] = 0
    return h, q


register(
    Primitive(
        "hessenberg", "library", _hessenberg_infer, _hessenberg_evaluate, _no_derivative("Hessenberg"), None,
        batch_all("hessenberg"),
    )
)  # fmt: skip

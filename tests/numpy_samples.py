"""Samples of NumPy calls, each run by NumPy and traced, with equal results; `SAMPLES` holds them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy_sample_arrays import (
    BATCH,
    CUBE,
    EMPTY,
    F32,
    I8,
    I32,
    POS,
    SPD,
    SPECIAL,
    U8,
    U64,
    UNIT,
    ZERO_D,
    B,
    C,
    F,
    G,
    I,
    J,
    Sample,
    V,
    W,
    one,
)
from numpy_samples_fft import fft
from numpy_samples_indexing import indexing, operators
from numpy_samples_linalg import linalg
from numpy_samples_special import samples as special
from numpy_samples_statistics import samples as statistics


def _elementwise() -> Iterator[Sample]:
    smooth = "sin cos tan arctan sinh cosh tanh arcsinh exp exp2 expm1 square negative positive absolute sign"
    for name in smooth.split():
        for x in (F, F32, ZERO_D, EMPTY):
            yield from one(name, x, rtol=1e-5 if x.dtype == np.float32 else 1e-12)
    for name in "sin cos exp log sqrt square negative conjugate reciprocal tanh".split():
        yield from one(name, C)
    for name in "cbrt fabs deg2rad rad2deg radians degrees rint floor ceil trunc isnan isinf isfinite signbit".split():
        yield from one(name, F)
    for name in "rint floor ceil trunc isnan isinf isfinite sqrt exp sign absolute negative signbit fabs".split():
        yield from one(name, SPECIAL)
    for name in "log log2 log10 log1p sqrt cbrt reciprocal".split():
        for x in (POS, J, POS.astype(np.float32)):
            yield from one(name, x, rtol=1e-6 if x.dtype == np.float32 else 1e-12)
    for name in "arcsin arccos arctanh".split():
        yield from one(name, UNIT)
    yield from one("arccosh", POS + 1)
    for name in "sin sqrt exp absolute sign negative positive square floor ceil rint isnan logical_not".split():
        yield from one(name, I)
    for name in "absolute negative square invert sign positive".split():
        yield from one(name, I8)
    for name in "invert logical_not absolute isfinite".split():
        yield from one(name, B)
    yield from one("modf", F)
    arithmetic = "add subtract multiply divide floor_divide remainder fmod power arctan2 hypot"
    for name in f"{arithmetic} maximum minimum fmax fmin".split():
        yield from one(name, POS, G)
        yield from one(name, POS, 2.0)
        yield from one(name, POS[:, :1], V)
    for name in "add subtract multiply divide floor_divide remainder maximum minimum".split():
        for x, y in (
            (I, J),
            (I8, J.astype(np.int8)),
            (U8, U8),
            (I, POS),
            (F32, POS),
            (F32, I32),
            (I8, U8),
            (F32, 2.0),
            (I8, 3),
        ):
            yield from one(name, x, y, rtol=1e-6)
    for name in "floor_divide remainder fmod divmod".split():
        yield from one(name, F, G)
        yield from one(name, I, np.array([2, -2, 3, -3]))
        yield from one(name, I, 3)
    for name in "add subtract multiply divide".split():
        yield from one(name, C, F)
    for name in "equal not_equal less less_equal greater greater_equal".split():
        for x, y in (
            (F, G),
            (I, 1),
            (I, J),
            (U64, I),
            (I8, 300),
            (I8, -300),
            (C, C.T.copy().T),
            (SPECIAL, SPECIAL[::-1].copy()),
            (B, True),
        ):
            yield from one(name, x, y)
    for name in "logical_and logical_or logical_xor".split():
        yield from one(name, B, F)
        yield from one(name, I, J)
    for name in "bitwise_and bitwise_or bitwise_xor".split():
        yield from one(name, I, J)
        yield from one(name, B, ~B)
    for name in "left_shift right_shift".split():
        yield from one(name, I, J)
        yield from one(name, I8, 9)
    for name in "maximum minimum fmax fmin".split():
        yield from one(name, SPECIAL, SPECIAL[::-1].copy())
    for name in "add multiply maximum minimum".split():
        yield from one(name, B, B)
    yield from one("logaddexp", SPECIAL, SPECIAL[::-1].copy())
    yield from one("logaddexp", F, G)
    yield from one("logaddexp2", F, G)
    yield from one("heaviside", SPECIAL, 0.5)
    yield from one("copysign", F, G)
    yield from one("nextafter", F, G)
    yield from one("float_power", POS, 3)
    yield from one("float_power", J, 2)
    yield from one("power", I, 3)
    yield from one("power", F, 3)
    yield from one("power", F, -2)
    yield from one("power", F, 0)
    yield from one("power", F32, 2)
    yield from one("power", POS, 0.5)
    yield from one("power", J, J)
    yield from one("ldexp", F, J.astype(np.int32))
    yield from one("sinc", np.array([0.0, 0.5, -1.3]))
    yield from one("i0", np.array([0.0, 0.5, -1.3, 9.0, 700.0]))
    yield from one("add", F, G, dtype=np.float32, casting="unsafe", rtol=1e-6)
    yield from one("nan_to_num", SPECIAL)
    yield from one("real", C)
    yield from one("imag", C)
    yield from one("real", F)
    yield from one("imag", F)
    yield from one("angle", C)
    yield from one("conj", C)
    yield from one("clip", F, -0.5, 0.5)
    yield from one("clip", F, None, 0.5)
    yield from one("clip", F, V, None)
    yield from one("clip", I8, -2, 300)
    yield from one("clip", F32, -0.5, 0.5)
    yield from one("round", F * 10)
    yield from one("round", F * 10, 2)
    yield from one("round", F * 100, -1)
    yield from one("around", I)
    yield from one("isclose", F, F + 1e-9)
    yield from one("isclose", SPECIAL, SPECIAL, equal_nan=True)
    yield from one("allclose", F, G)
    yield from one("array_equal", F, F.copy())
    yield from one("where", B, F, G)
    yield from one("where", B, F32, 1.0)
    yield from one("where", B, 1.0, 0.0)
    yield from one("where", F > 1, I, V)


def _reductions() -> Iterator[Sample]:
    axes: tuple[dict[str, Any], ...] = (
        {}, {"axis": 0}, {"axis": -1}, {"axis": (0, 2)}, {"axis": (-1, 1), "keepdims": True},
        {"keepdims": True}, {"axis": ()},
    )  # fmt: skip
    for name in "sum prod mean var std max min any all ptp".split():
        for kw in axes:
            if name == "ptp" and kw.get("axis") == ():
                continue
            yield from one(name, CUBE, **kw)
    for name in "sum prod mean var std max min any all count_nonzero".split():
        for x in (I, I8, U8, B, F32, C, ZERO_D):
            if (x is C and name in ("max", "min")) or (x is B and name == "ptp"):
                continue
            yield from one(name, x, rtol=1e-5 if x.dtype == np.float32 else 1e-12)
    for name in "sum prod any all mean".split():
        yield from one(name, EMPTY)
        yield from one(name, EMPTY, axis=0)
        yield from one(name, EMPTY, axis=1)
    yield from one("max", EMPTY, axis=1)
    yield from one("max", EMPTY, axis=0, initial=-1.0)
    yield from one("sum", F, initial=2.5)
    yield from one("sum", F, axis=0, dtype=np.float32, rtol=1e-6)
    yield from one("sum", I8, dtype=np.int8)
    yield from one("sum", B, dtype=bool)
    yield from one("prod", F, initial=2.5, axis=1)
    yield from one("max", F, initial=0.1)
    yield from one("min", I, initial=-9)
    for name in "sum prod mean any all var std".split():
        yield Sample(
            f"{name}(where=)",
            lambda np, x, m, name=name: getattr(np, name)(x, axis=1, where=m),
            (F, B | (np.arange(4) == 1)),
        )
    yield Sample("max(where=, initial=)", lambda np, x, m: np.max(x, axis=0, where=m, initial=-1.0), (F, B))
    for ddof in (1, 2):
        yield from one("var", F, axis=0, ddof=ddof)
        yield from one("std", F, ddof=ddof)
    yield from one("average", F, axis=1)
    yield Sample("average(weights)", lambda np, x, w: np.average(x, axis=1, weights=w), (F, POS[0]))
    yield Sample("average(weights, returned)", lambda np, x, w: np.average(x, weights=w, returned=True), (F, POS))
    yield from one("count_nonzero", I, axis=0)
    yield from one("count_nonzero", I, axis=1, keepdims=True)
    for name in "argmax argmin".split():
        for kw in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}):
            yield from one(name, CUBE, **kw)
            yield from one(name, np.array([[1, 3, 3], [0, 0, 5]]), **kw)
        yield from one(name, SPECIAL)
    for name in "cumsum cumprod".split():
        for kw in ({}, {"axis": 0}, {"axis": -1}, {"axis": 1, "dtype": np.float32}):
            yield from one(name, CUBE, rtol=1e-5 if "dtype" in kw else 1e-12, **kw)
        for x in (I8, B, ZERO_D, F32):
            yield from one(name, x, rtol=1e-5)
    yield from one("cumulative_sum", F, axis=1, include_initial=True)
    for n, axis in ((1, -1), (2, 0), (0, 0)):
        yield from one("diff", F, n, axis)
    yield from one("diff", B)
    yield from one("diff", V, prepend=0.0, append=1.0)
    yield from one("trapezoid", F)
    yield from one("trapezoid", F, dx=0.1, axis=0)
    yield Sample("trapezoid(x)", lambda np, y, x: np.trapezoid(y, x), (F, np.sort(V)))
    for name in "add multiply maximum minimum".split():
        yield Sample(f"{name}.reduce", lambda np, x, name=name: getattr(np, name).reduce(x), (F,))
        yield Sample(f"{name}.reduce(axis)", lambda np, x, name=name: getattr(np, name).reduce(x, axis=(0, 1)), (F,))
        yield Sample(f"{name}.accumulate", lambda np, x, name=name: getattr(np, name).accumulate(x, axis=1), (F,))
        yield Sample(f"{name}.outer", lambda np, x, y, name=name: getattr(np, name).outer(x, y), (V, F))
    yield Sample("logical_and.reduce", lambda np, x: np.logical_and.reduce(x, axis=1), (B,))
    yield Sample("sum(list)", lambda np, x, y: np.sum([x, y, 1.0]), (ZERO_D, ZERO_D))
    yield Sample("sort", lambda np, x: (np.sort(x, axis=0), np.argsort(x), np.sort(x, axis=None)), (F,))


def _shapes() -> Iterator[Sample]:
    for shape in ((4, 3), -1, (2, -1), (2, 2, 3), (1, 12), (12, 1)):
        yield from one("reshape", F, shape)
    yield from one("reshape", F, (4, 3), order="F")
    yield from one("reshape", CUBE, (4, -1), order="F")
    yield from one("reshape", ZERO_D, (1, 1))
    yield from one("reshape", EMPTY, (4, 0))
    yield from one("ravel", F)
    yield from one("ravel", F, order="F")
    yield Sample("flatten", lambda np, x: (x.flatten(), x.T.flatten(), x.flatten("F"), x.T.ravel()), (F,))
    yield from one("transpose", CUBE)
    yield from one("transpose", CUBE, (1, -1, 0))
    yield from one("matrix_transpose", CUBE)
    yield from one("swapaxes", CUBE, 0, -1)
    yield from one("moveaxis", CUBE, 0, -1)
    yield from one("moveaxis", CUBE, (0, 1), (-1, 0))
    yield from one("rollaxis", CUBE, 2)
    yield from one("rollaxis", CUBE, 0, 3)
    yield from one("expand_dims", F, 1)
    yield from one("expand_dims", F, (0, -1))
    yield from one("squeeze", F[:, :1])
    yield from one("squeeze", F[None, :, :1], axis=0)
    yield from one("broadcast_to", V, (2, 3, 4))
    yield from one("broadcast_to", ZERO_D, (2, 3))
    yield Sample("broadcast_arrays", lambda np, x, y: tuple(np.broadcast_arrays(x, y)), (F[:, :1], V))
    for name in "atleast_1d atleast_2d atleast_3d".split():
        for x in (ZERO_D, V, F, CUBE):
            yield from one(name, x)
    for name in "flip flipud fliplr rot90".split():
        yield from one(name, F)
    yield from one("flip", CUBE, (0, 2))
    for k in (0, 1, 2, 3, -1):
        yield from one("rot90", F, k)
    for axis in (0, 1, -1, None):
        yield Sample(f"concatenate(axis={axis})", lambda np, x, y, axis=axis: np.concatenate([x, y], axis=axis), (F, G))
        if axis is not None:
            yield Sample(f"stack(axis={axis})", lambda np, x, y, axis=axis: np.stack((x, y), axis=axis), (F, G))
    yield Sample("concatenate(dtypes)", lambda np, x, y: np.concatenate([x, y]), (F32, I))
    for name in "vstack hstack dstack column_stack".split():
        yield Sample(name, lambda np, x, y, name=name: getattr(np, name)([x, y]), (F, G))
        yield Sample(f"{name}(1-d)", lambda np, x, y, name=name: getattr(np, name)([x, y]), (V, W))
    yield Sample("hstack(0-d)", lambda np, x: np.hstack([x, x, 1.0]), (ZERO_D,))
    yield Sample("append", lambda np, x, y: (np.append(x, y), np.append(x, y, axis=0)), (F, G))
    yield Sample("block", lambda np, x, y: np.block([[x, y], [y, x]]), (F, G))
    yield Sample("split", lambda np, x: tuple(np.split(x, 2, axis=1)) + tuple(np.split(x, [1, 2])), (F,))
    yield Sample(
        "array_split",
        lambda np, x: tuple(np.array_split(x, 3, axis=1)) + tuple(np.array_split(x, [1, 5])),
        (F,),
    )
    yield Sample("h/v/dsplit", lambda np, x: (*np.vsplit(x, 2), *np.hsplit(x, 3), *np.dsplit(x, 2)), (CUBE,))
    yield Sample("unstack", lambda np, x: np.unstack(x, axis=1), (F,))
    yield from one("tile", V, 3)
    yield from one("tile", F, (2, 1, 2))
    yield from one("tile", CUBE, 2)
    yield from one("repeat", F, 2)
    yield from one("repeat", F, 2, axis=1)
    yield from one("repeat", F, [1, 0, 2], axis=0)
    for shift, axis in ((1, None), (-2, 1), (5, 0), (0, 0), ((1, 2), (0, 1)), (1, (0, 1))):
        yield from one("roll", F, shift, axis)
    yield Sample("roll(traced)", lambda np, x, n: np.roll(x, n), (V, np.array(3)))
    yield from one("resize", F, (2, 7))
    yield from one("copy", F)
    yield Sample(
        "astype",
        lambda np, x: tuple(x.astype(d) for d in (np.int64, np.float32, np.int8, bool, np.complex128, float, "i4")),
        (F * 3,),
    )
    yield Sample(
        "attributes",
        lambda np, x: (
            np.array(x.shape),
            np.array([x.ndim, x.size, x.nbytes, x.itemsize, len(x)]),
            np.array(x.strides),
        ),
        (CUBE.transpose(1, 0, 2),),
    )
    yield Sample("T, mT", lambda np, x: (x.T, x.mT, x.swapaxes(0, 1).T), (CUBE,))
    yield Sample("iteration", lambda np, x: np.array([row.sum() for row in x]), (F,))
    yield Sample("unpacking", lambda np, x: (lambda a, b, c: a * b + c)(*x), (F,))


def _extras() -> Iterator[Sample]:
    holes = np.where(F > 0.5, np.nan, F)
    yield from one("pad", F, 1)
    yield from one("pad", F, ((1, 0), (2, 3)), constant_values=4.0)
    for mode in ("edge", "reflect", "symmetric", "wrap"):
        yield from one("pad", CUBE, ((0, 1), (2, 1), (1, 1)), mode=mode)
    yield from one("delete", F, [0, -1], axis=1)
    for name in "nansum nanprod nanmean nanvar nanstd nanmax nanmin".split():
        yield Sample(name, lambda np, x, name=name: getattr(np, name)(x), (holes,))
        yield Sample(f"{name}(axis)", lambda np, x, name=name: getattr(np, name)(x, axis=1, keepdims=True), (holes,))
        yield from one(name, I)
    for axis in (None, 0, 1, (0, 2)):
        yield from one("median", CUBE, axis=axis)
    yield from one("median", holes, axis=0, keepdims=True)
    yield from one("median", I)
    yield Sample(
        "searchsorted", lambda np, x, v: (np.searchsorted(x, v), np.searchsorted(x, v, "right")), (np.sort(V), F)
    )
    yield Sample("interp", lambda np, x, p, f: np.interp(x, p, f), (G, np.sort(V), W))
    yield Sample("interp(left)", lambda np, x, p, f: np.interp(x, p, f, left=-1.0, right=9.0), (ZERO_D, np.sort(V), W))
    yield from one("polyval", V, F)
    for mode in ("full", "same", "valid"):
        yield from one("convolve", V, W[:3], mode=mode)
        yield from one("convolve", W[:2], V, mode=mode)
    yield from one("gradient", V)
    yield from one("gradient", F, 0.5)
    yield from one("gradient", CUBE, 2.0, axis=1)
    yield from one("cov", F)
    yield from one("cov", F, G, ddof=0)
    yield from one("cov", V, W)
    yield from one("corrcoef", F)
    yield Sample("nonzero of static", lambda np, x: x[np.nonzero(np.eye(3, 4))], (F,))


def _creation() -> Iterator[Sample]:
    yield Sample("array of scalars", lambda np, x: np.array([x[0], x[1] * 2, 1.0]), (V,))
    yield Sample("array nested", lambda np, x: np.array([[x[0], 0], [1, x[1]]]), (V,))
    yield Sample("array of arrays", lambda np, x, y: np.array([x, y]), (V, W))
    yield Sample("array(dtype)", lambda np, x: np.array([x[0], 2], dtype=np.float32), (V,))
    yield Sample("array ints", lambda np, x: np.array([x[0], 2]), (I[0],))
    yield Sample("array promotes", lambda np, x: np.array([x[0], 2.5]), (I8[0],))
    yield Sample("array(ndmin)", lambda np, x: np.array(x, ndmin=3), (V,))
    yield Sample("asarray", lambda np, x: (np.asarray(x), np.asarray(x, dtype=np.float32), np.asarray([1, 2.0])), (V,))
    yield Sample(
        "zeros ones full",
        lambda np, x: (
            np.zeros(3) + x[0],
            np.ones((2, 2), int),
            np.full((2,), x[0]),
            np.full(3, 7),
            np.zeros(()),
        ),
        (V,),
    )
    for name in "zeros_like ones_like".split():
        yield from one(name, F)
        yield from one(name, I8)
        yield from one(name, F, dtype=np.float32)
        yield from one(name, F, shape=(2, 2))
    yield from one("full_like", F, 3)
    yield from one("full_like", I, 3.7)
    yield Sample(
        "arange",
        lambda np, x: (
            np.arange(4) * x,
            np.arange(1, 9, 2),
            np.arange(0.0, 1.0, 0.25),
            np.arange(5, 0, -2),
            np.arange(3, dtype=np.float32),
        ),
        (V,),
    )
    yield Sample(
        "linspace static",
        lambda np, x: (np.linspace(0, 1, 4) + x, np.linspace(0, 1, 5, endpoint=False), np.linspace(2, 3, 1)),
        (V,),
    )
    yield Sample(
        "linspace traced",
        lambda np, x: (
            np.linspace(x[0], x[1], 5),
            np.linspace(x, 2.0, 3),
            np.linspace(x, 1.0, 3, endpoint=False, axis=-1),
        ),
        (V,),
    )
    yield Sample(
        "eye identity tri",
        lambda np, x: (
            np.eye(4) * x,
            np.eye(3, 4, 1),
            np.eye(3, k=-1, dtype=int),
            np.identity(2),
            np.tri(3, 4, 1),
        ),
        (V,),
    )
    for name in "tril triu".split():
        for k in (-1, 0, 2):
            yield from one(name, F, k)
        yield from one(name, CUBE)
        yield from one(name, V)
    for k in (-2, 0, 1):
        yield from one("diag", V, k)
        yield from one("diag", F, k)
        yield from one("diagonal", F, k)
        yield from one("trace", F, k)
    yield from one("diagonal", CUBE, 0, 0, 2)
    yield from one("diagonal", CUBE, 1, -1, 0)
    yield from one("trace", CUBE, 0, 1, 2)
    yield from one("trace", I8)
    yield from one("diagflat", F)
    yield Sample("meshgrid", lambda np, x, y: tuple(np.meshgrid(x, y)), (V, F[:, 0]))
    yield Sample(
        "meshgrid(ij, sparse)",
        lambda np, x, y: tuple(np.meshgrid(x, y, indexing="ij", sparse=True)),
        (V, F[:, 0]),
    )
    yield from one("vander", V)
    yield from one("vander", V, 3, increasing=True)
    yield Sample("buffer", _buffer, (V,))
    yield Sample("indices", lambda np, x: np.indices((2, 4)) * x, (V,))
    yield Sample("mgrid", lambda np, x: np.mgrid[0:2, 0:4] * x, (V,))
    yield Sample("r_", lambda np, x: np.r_[x, x[0], 1.0], (V,))
    yield Sample("static prod", lambda np, x: x.reshape(np.prod(x.shape)), (CUBE,))


def _buffer(np: Any, x: Any) -> Any:
    b = np.zeros(x.shape)
    for i in range(1, len(b)):
        b[i] = b[i - 1] + np.sin(x[i])
    b[0] = x.max()
    return b


def _linear_algebra() -> Iterator[Sample]:
    m, n = F, G.T.copy()
    for x, y in (
        (m, n),
        (V, W),
        (m, V),
        (V, n),
        (CUBE, n),
        (n, CUBE),
        (CUBE, CUBE.swapaxes(1, 2).copy()),
        (V, n[None]),
        (BATCH, SPD[0]),
    ):
        if x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
            continue
        yield from one("matmul", x, y)
        yield from one("dot", x, y)
    yield from one("matmul", I, J.T.copy())
    yield from one("matmul", B, B.T.copy())
    yield from one("matmul", F32, n, rtol=1e-6)
    yield from one("matmul", C, n)
    yield from one("dot", V, 2.0)
    yield from one("dot", F, ZERO_D)
    yield Sample("operator @", lambda np, x, y: (x @ y, y @ x), (m, n))
    yield from one("vdot", C, C)
    yield from one("vdot", F, G)
    yield from one("inner", F, G)
    yield from one("inner", V, W)
    yield from one("inner", V, 3.0)
    yield from one("outer", F, V)
    yield from one("outer", I, V)
    yield from one("kron", F, G[:2])
    yield from one("kron", V, F)
    yield from one("cross", F[:, :3], G[:, :3])
    yield from one("cross", F[:3], G[:3], axis=0)
    yield from one("vecdot", C, F)
    yield from one("tensordot", CUBE, CUBE, ([0, 1], [0, 1]))
    yield from one("tensordot", F, G, 2)
    yield from one("tensordot", F, G, 0)
    yield from one("tensordot", CUBE, F, ((1, 2), (0, 1)))
    equations = {
        "ij,kj->ik": (F, G), "ij,ij": (F, G), "ij,ij->i": (F, G), "ij->ji": (F,), "ij->": (F,), "ii": (SPD,),
        "ii->i": (SPD,), "i,j": (V, W), "bij,ij->b": (CUBE, F), "bij,bkj->bik": (CUBE, CUBE),
        "...ij,kj->...ik": (CUBE, F),
        "b...,b...->...": (CUBE, CUBE), "ij,jk,kl->il": (SPD, SPD, F), "i,i,i->i": (V, W, V), "ij,j": (F, V),
        "ba": (F,),
        "ij,kl->": (F, G), "bii->b": (BATCH,), "i...->...": (F,),
    }  # fmt: skip
    for equation, operands in equations.items():
        yield Sample(f"einsum({equation})", lambda np, *xs, equation=equation: np.einsum(equation, *xs), operands)
    yield Sample("einsum(lists)", lambda np, x, y: np.einsum(x, [0, 1], y, [2, 1], [0, 2]), (F, G))
    yield Sample("einsum(ints)", lambda np, x, y: np.einsum("ij,ij->j", x, y), (I, J))
    yield Sample("einsum(units)", lambda np, x, y: np.einsum("ij,ij->ij", x, y), (F[:1], G))
    for name in "inv det cholesky".split():
        yield from one(f"linalg.{name}", SPD)
        yield from one(f"linalg.{name}", BATCH)
    yield Sample("linalg.slogdet", lambda np, x: tuple(np.linalg.slogdet(x)), (BATCH,))
    yield Sample("linalg.slogdet fields", lambda np, x: np.linalg.slogdet(x).logabsdet, (SPD,))
    yield from one("linalg.solve", SPD, F)
    yield from one("linalg.solve", SPD, F[:, 0])
    yield from one("linalg.solve", BATCH, F)
    yield from one("linalg.solve", SPD, BATCH)
    yield from one("linalg.inv", np.array([[2, 1], [1, 3]]))
    yield from one("linalg.cholesky", SPD, upper=True)
    yield from one("linalg.matrix_power", SPD, 5)
    yield from one("linalg.matrix_power", SPD, -2)
    yield from one("linalg.matrix_power", SPD, 0)
    yield Sample("linalg.multi_dot", lambda np, x, y, z: np.linalg.multi_dot([x, y, z]), (V, n, F))
    for ord_ in (None, 2, 1, 0, 3, np.inf, -np.inf):
        yield from one("linalg.norm", V, ord_)
        yield from one("linalg.norm", F, ord_, axis=1)
    for ord_ in (None, "fro", 1, -1, np.inf, -np.inf):
        yield from one("linalg.norm", F, ord_)
        yield from one("linalg.norm", CUBE, ord_, axis=(0, 2), keepdims=True)
    yield from one("linalg.norm", C)
    yield from one("linalg.norm", I)
    yield from one("linalg.norm", CUBE)
    yield from one("linalg.norm", F, keepdims=True)
    yield from one("linalg.vector_norm", CUBE, axis=(0, 1))


def samples() -> list[Sample]:
    """All samples."""
    groups = (
        _elementwise, _reductions, _shapes, _extras, _creation, _linear_algebra, indexing, operators, statistics,
        special, linalg, fft,
    )  # fmt: skip
    found = [sample for group in groups for sample in group()]
    seen: dict[str, int] = {}
    unique = []
    for sample in found:
        count = seen[sample.name] = seen.get(sample.name, 0) + 1
        unique.append(
            sample if count == 1 else Sample(f"{sample.name} #{count}", sample.call, sample.args, sample.rtol)
        )
    return unique


SAMPLES = samples()

"""Samples of NumPy calls: each a function of a namespace and arrays, run by NumPy and traced, with equal
results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """`call(np, *args)` with the namespace as `np`; results are an array or a tuple of them."""

    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    rtol: float = 1e-12

    def __repr__(self) -> str:
        return self.name


_RNG = np.random.default_rng(7)
F = _RNG.normal(size=(3, 4))
G = _RNG.normal(size=(3, 4)) + 0.1
POS = np.abs(_RNG.normal(size=(3, 4))) + 0.2
UNIT = _RNG.uniform(0.05, 0.95, size=(3, 4))
F32 = F.astype(np.float32)
C = F + 1j * G
I = _RNG.integers(-5, 6, size=(3, 4))
J = _RNG.integers(1, 5, size=(3, 4))
I8, U8, U64, I32 = I.astype(np.int8), J.astype(np.uint8), J.astype(np.uint64), I.astype(np.int32)
B = F > 0
V, W = F[0], G[1]
CUBE = _RNG.normal(size=(2, 3, 4))
ZERO_D = np.array(0.7)
EMPTY = np.zeros((0, 4))
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 2.5, -2.5, 0.5, 1.5])
SPD = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
BATCH = np.stack([SPD, SPD + np.eye(3)])


def _one(name: str, *args: Any, rtol: float = 1e-12, **kwargs: Any) -> Iterator[Sample]:
    """np.<name>(*args, **kwargs) with the arrays among args traced."""
    traced = tuple(a for a in args if isinstance(a, np.ndarray))

    def call(np_: Any, *arrays: Any) -> Any:
        rest = iter(arrays)
        function = np_
        for part in name.split("."):
            function = getattr(function, part)
        return function(*[next(rest) if isinstance(a, np.ndarray) else a for a in args], **kwargs)

    shown = [f"{a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray) else repr(a) for a in args]
    shown += [f"{k}={v!r}" for k, v in kwargs.items()]
    yield Sample(f"{name}({', '.join(shown)})", call, traced, rtol)


def _elementwise() -> Iterator[Sample]:
    smooth = "sin cos tan arctan sinh cosh tanh arcsinh exp exp2 expm1 square negative positive absolute sign".split()
    for name in smooth:
        for x in (F, F32, ZERO_D, EMPTY):
            yield from _one(name, x, rtol=1e-5 if x.dtype == np.float32 else 1e-12)
    for name in "sin cos exp log sqrt square negative conjugate reciprocal tanh".split():
        yield from _one(name, C)
    for name in (
        "cbrt fabs deg2rad rad2deg radians degrees rint floor ceil trunc isnan isinf isfinite signbit".split()
    ):
        yield from _one(name, F)
    for (
        name
    ) in "rint floor ceil trunc isnan isinf isfinite sqrt exp sign absolute negative signbit fabs".split():
        yield from _one(name, SPECIAL)
    for name in "log log2 log10 log1p sqrt cbrt reciprocal".split():
        for x in (POS, J, POS.astype(np.float32)):
            yield from _one(name, x, rtol=1e-6 if x.dtype == np.float32 else 1e-12)
    for name in "arcsin arccos arctanh".split():
        yield from _one(name, UNIT)
    yield from _one("arccosh", POS + 1)
    for (
        name
    ) in "sin sqrt exp absolute sign negative positive square floor ceil rint isnan logical_not".split():
        yield from _one(name, I)
    for name in "absolute negative square invert sign positive".split():
        yield from _one(name, I8)
    for name in "invert logical_not absolute isfinite".split():
        yield from _one(name, B)
    yield from _one("modf", F)
    binary = "add subtract multiply divide floor_divide remainder fmod power maximum minimum fmax fmin arctan2 hypot".split()
    for name in binary:
        yield from _one(name, POS, G)
        yield from _one(name, POS, 2.0)
        yield from _one(name, POS[:, :1], V)
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
            yield from _one(name, x, y, rtol=1e-6)
    for name in "floor_divide remainder fmod divmod".split():
        yield from _one(name, F, G)
        yield from _one(name, I, np.array([2, -2, 3, -3]))
        yield from _one(name, I, 3)
    for name in "add subtract multiply divide".split():
        yield from _one(name, C, F)
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
            yield from _one(name, x, y)
    for name in "logical_and logical_or logical_xor".split():
        yield from _one(name, B, F)
        yield from _one(name, I, J)
    for name in "bitwise_and bitwise_or bitwise_xor".split():
        yield from _one(name, I, J)
        yield from _one(name, B, ~B)
    for name in "left_shift right_shift".split():
        yield from _one(name, I, J)
        yield from _one(name, I8, 9)
    for name in "maximum minimum fmax fmin".split():
        yield from _one(name, SPECIAL, SPECIAL[::-1].copy())
    for name in "add multiply maximum minimum".split():
        yield from _one(name, B, B)
    yield from _one("logaddexp", SPECIAL, SPECIAL[::-1].copy())
    yield from _one("logaddexp", F, G)
    yield from _one("logaddexp2", F, G)
    yield from _one("heaviside", SPECIAL, 0.5)
    yield from _one("copysign", F, G)
    yield from _one("nextafter", F, G)
    yield from _one("float_power", POS, 3)
    yield from _one("float_power", J, 2)
    yield from _one("power", I, 3)
    yield from _one("power", F, 3)
    yield from _one("power", F, -2)
    yield from _one("power", F, 0)
    yield from _one("power", F32, 2)
    yield from _one("power", POS, 0.5)
    yield from _one("power", J, J)
    yield from _one("ldexp", F, J.astype(np.int32))
    yield from _one("sinc", np.array([0.0, 0.5, -1.3]))
    yield from _one("add", F, G, dtype=np.float32, casting="unsafe", rtol=1e-6)
    yield from _one("nan_to_num", SPECIAL)
    yield from _one("real", C)
    yield from _one("imag", C)
    yield from _one("real", F)
    yield from _one("imag", F)
    yield from _one("angle", C)
    yield from _one("conj", C)
    yield from _one("clip", F, -0.5, 0.5)
    yield from _one("clip", F, None, 0.5)
    yield from _one("clip", F, V, None)
    yield from _one("clip", I8, -2, 300)
    yield from _one("clip", F32, -0.5, 0.5)
    yield from _one("round", F * 10)
    yield from _one("round", F * 10, 2)
    yield from _one("round", F * 100, -1)
    yield from _one("around", I)
    yield from _one("isclose", F, F + 1e-9)
    yield from _one("isclose", SPECIAL, SPECIAL, equal_nan=True)
    yield from _one("allclose", F, G)
    yield from _one("array_equal", F, F.copy())
    yield from _one("where", B, F, G)
    yield from _one("where", B, F32, 1.0)
    yield from _one("where", B, 1.0, 0.0)
    yield from _one("where", F > 1, I, V)


def _reductions() -> Iterator[Sample]:
    axes: tuple[dict[str, Any], ...] = (
        {}, {"axis": 0}, {"axis": -1}, {"axis": (0, 2)}, {"axis": (-1, 1), "keepdims": True},
        {"keepdims": True}, {"axis": ()},
    )  # fmt: skip
    for name in "sum prod mean var std max min any all ptp".split():
        for kw in axes:
            if name == "ptp" and kw.get("axis") == ():
                continue
            yield from _one(name, CUBE, **kw)
    for name in "sum prod mean var std max min any all count_nonzero".split():
        for x in (I, I8, U8, B, F32, C, ZERO_D):
            if (x is C and name in ("max", "min")) or (x is B and name == "ptp"):
                continue
            yield from _one(name, x, rtol=1e-5 if x.dtype == np.float32 else 1e-12)
    for name in "sum prod any all mean".split():
        yield from _one(name, EMPTY)
        yield from _one(name, EMPTY, axis=0)
        yield from _one(name, EMPTY, axis=1)
    yield from _one("max", EMPTY, axis=1)
    yield from _one("max", EMPTY, axis=0, initial=-1.0)
    yield from _one("sum", F, initial=2.5)
    yield from _one("sum", F, axis=0, dtype=np.float32, rtol=1e-6)
    yield from _one("sum", I8, dtype=np.int8)
    yield from _one("sum", B, dtype=bool)
    yield from _one("prod", F, initial=2.5, axis=1)
    yield from _one("max", F, initial=0.1)
    yield from _one("min", I, initial=-9)
    for name in "sum prod mean any all var std".split():
        yield Sample(
            f"{name}(where=)",
            lambda np, x, m, name=name: getattr(np, name)(x, axis=1, where=m),
            (F, B | (np.arange(4) == 1)),
        )
    yield Sample("max(where=, initial=)", lambda np, x, m: np.max(x, axis=0, where=m, initial=-1.0), (F, B))
    for ddof in (1, 2):
        yield from _one("var", F, axis=0, ddof=ddof)
        yield from _one("std", F, ddof=ddof)
    yield from _one("average", F, axis=1)
    yield Sample("average(weights)", lambda np, x, w: np.average(x, axis=1, weights=w), (F, POS[0]))
    yield Sample(
        "average(weights, returned)", lambda np, x, w: np.average(x, weights=w, returned=True), (F, POS)
    )
    yield from _one("count_nonzero", I, axis=0)
    yield from _one("count_nonzero", I, axis=1, keepdims=True)
    for name in "argmax argmin".split():
        for kw in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}):
            yield from _one(name, CUBE, **kw)
            yield from _one(name, np.array([[1, 3, 3], [0, 0, 5]]), **kw)
        yield from _one(name, SPECIAL)
    for name in "cumsum cumprod".split():
        for kw in ({}, {"axis": 0}, {"axis": -1}, {"axis": 1, "dtype": np.float32}):
            yield from _one(name, CUBE, rtol=1e-5 if "dtype" in kw else 1e-12, **kw)
        for x in (I8, B, ZERO_D, F32):
            yield from _one(name, x, rtol=1e-5)
    yield from _one("cumulative_sum", F, axis=1, include_initial=True)
    for n, axis in ((1, -1), (2, 0), (0, 0)):
        yield from _one("diff", F, n, axis)
    yield from _one("diff", B)
    yield from _one("diff", V, prepend=0.0, append=1.0)
    yield from _one("trapezoid", F)
    yield from _one("trapezoid", F, dx=0.1, axis=0)
    yield Sample("trapezoid(x)", lambda np, y, x: np.trapezoid(y, x), (F, np.sort(V)))
    for name in "add multiply maximum minimum".split():
        yield Sample(f"{name}.reduce", lambda np, x, name=name: getattr(np, name).reduce(x), (F,))
        yield Sample(
            f"{name}.reduce(axis)", lambda np, x, name=name: getattr(np, name).reduce(x, axis=(0, 1)), (F,)
        )
        yield Sample(
            f"{name}.accumulate", lambda np, x, name=name: getattr(np, name).accumulate(x, axis=1), (F,)
        )
        yield Sample(f"{name}.outer", lambda np, x, y, name=name: getattr(np, name).outer(x, y), (V, F))
    yield Sample("logical_and.reduce", lambda np, x: np.logical_and.reduce(x, axis=1), (B,))
    yield Sample("sum(list)", lambda np, x, y: np.sum([x, y, 1.0]), (ZERO_D, ZERO_D))
    yield Sample("sort", lambda np, x: (np.sort(x, axis=0), np.argsort(x), np.sort(x, axis=None)), (F,))


def _shapes() -> Iterator[Sample]:
    for shape in ((4, 3), -1, (2, -1), (2, 2, 3), (1, 12), (12, 1)):
        yield from _one("reshape", F, shape)
    yield from _one("reshape", F, (4, 3), order="F")
    yield from _one("reshape", CUBE, (4, -1), order="F")
    yield from _one("reshape", ZERO_D, (1, 1))
    yield from _one("reshape", EMPTY, (4, 0))
    yield from _one("ravel", F)
    yield from _one("ravel", F, order="F")
    yield Sample("flatten", lambda np, x: (x.flatten(), x.T.flatten(), x.flatten("F"), x.T.ravel()), (F,))
    yield from _one("transpose", CUBE)
    yield from _one("transpose", CUBE, (1, -1, 0))
    yield from _one("matrix_transpose", CUBE)
    yield from _one("swapaxes", CUBE, 0, -1)
    yield from _one("moveaxis", CUBE, 0, -1)
    yield from _one("moveaxis", CUBE, (0, 1), (-1, 0))
    yield from _one("rollaxis", CUBE, 2)
    yield from _one("rollaxis", CUBE, 0, 3)
    yield from _one("expand_dims", F, 1)
    yield from _one("expand_dims", F, (0, -1))
    yield from _one("squeeze", F[:, :1])
    yield from _one("squeeze", F[None, :, :1], axis=0)
    yield from _one("broadcast_to", V, (2, 3, 4))
    yield from _one("broadcast_to", ZERO_D, (2, 3))
    yield Sample("broadcast_arrays", lambda np, x, y: tuple(np.broadcast_arrays(x, y)), (F[:, :1], V))
    for name in "atleast_1d atleast_2d atleast_3d".split():
        for x in (ZERO_D, V, F, CUBE):
            yield from _one(name, x)
    for name in "flip flipud fliplr rot90".split():
        yield from _one(name, F)
    yield from _one("flip", CUBE, (0, 2))
    for k in (0, 1, 2, 3, -1):
        yield from _one("rot90", F, k)
    for axis in (0, 1, -1, None):
        yield Sample(
            f"concatenate(axis={axis})", lambda np, x, y, axis=axis: np.concatenate([x, y], axis=axis), (F, G)
        )
        if axis is not None:
            yield Sample(
                f"stack(axis={axis})", lambda np, x, y, axis=axis: np.stack((x, y), axis=axis), (F, G)
            )
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
    yield from _one("tile", V, 3)
    yield from _one("tile", F, (2, 1, 2))
    yield from _one("tile", CUBE, 2)
    yield from _one("repeat", F, 2)
    yield from _one("repeat", F, 2, axis=1)
    yield from _one("repeat", F, [1, 0, 2], axis=0)
    for shift, axis in ((1, None), (-2, 1), (5, 0), (0, 0), ((1, 2), (0, 1)), (1, (0, 1))):
        yield from _one("roll", F, shift, axis)
    yield Sample("roll(traced)", lambda np, x, n: np.roll(x, n), (V, np.array(3)))
    yield from _one("resize", F, (2, 7))
    yield from _one("copy", F)
    yield Sample(
        "astype",
        lambda np, x: tuple(
            x.astype(d) for d in (np.int64, np.float32, np.int8, bool, np.complex128, float, "i4")
        ),
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


def _creation() -> Iterator[Sample]:
    yield Sample("array of scalars", lambda np, x: np.array([x[0], x[1] * 2, 1.0]), (V,))
    yield Sample("array nested", lambda np, x: np.array([[x[0], 0], [1, x[1]]]), (V,))
    yield Sample("array of arrays", lambda np, x, y: np.array([x, y]), (V, W))
    yield Sample("array(dtype)", lambda np, x: np.array([x[0], 2], dtype=np.float32), (V,))
    yield Sample("array ints", lambda np, x: np.array([x[0], 2]), (I[0],))
    yield Sample("array promotes", lambda np, x: np.array([x[0], 2.5]), (I8[0],))
    yield Sample("array(ndmin)", lambda np, x: np.array(x, ndmin=3), (V,))
    yield Sample(
        "asarray", lambda np, x: (np.asarray(x), np.asarray(x, dtype=np.float32), np.asarray([1, 2.0])), (V,)
    )
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
        yield from _one(name, F)
        yield from _one(name, I8)
        yield from _one(name, F, dtype=np.float32)
        yield from _one(name, F, shape=(2, 2))
    yield from _one("full_like", F, 3)
    yield from _one("full_like", I, 3.7)
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
            yield from _one(name, F, k)
        yield from _one(name, CUBE)
        yield from _one(name, V)
    for k in (-2, 0, 1):
        yield from _one("diag", V, k)
        yield from _one("diag", F, k)
        yield from _one("diagonal", F, k)
        yield from _one("trace", F, k)
    yield from _one("diagonal", CUBE, 0, 0, 2)
    yield from _one("diagonal", CUBE, 1, -1, 0)
    yield from _one("trace", CUBE, 0, 1, 2)
    yield from _one("trace", I8)
    yield from _one("diagflat", F)
    yield Sample("meshgrid", lambda np, x, y: tuple(np.meshgrid(x, y)), (V, F[:, 0]))
    yield Sample(
        "meshgrid(ij, sparse)",
        lambda np, x, y: tuple(np.meshgrid(x, y, indexing="ij", sparse=True)),
        (V, F[:, 0]),
    )
    yield from _one("vander", V)
    yield from _one("vander", V, 3, increasing=True)
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
        yield from _one("matmul", x, y)
        yield from _one("dot", x, y)
    yield from _one("matmul", I, J.T.copy())
    yield from _one("matmul", B, B.T.copy())
    yield from _one("matmul", F32, n, rtol=1e-6)
    yield from _one("matmul", C, n)
    yield from _one("dot", V, 2.0)
    yield from _one("dot", F, ZERO_D)
    yield Sample("operator @", lambda np, x, y: (x @ y, y @ x), (m, n))
    yield from _one("vdot", C, C)
    yield from _one("vdot", F, G)
    yield from _one("inner", F, G)
    yield from _one("inner", V, W)
    yield from _one("inner", V, 3.0)
    yield from _one("outer", F, V)
    yield from _one("outer", I, V)
    yield from _one("kron", F, G[:2])
    yield from _one("kron", V, F)
    yield from _one("cross", F[:, :3], G[:, :3])
    yield from _one("cross", F[:3], G[:3], axis=0)
    yield from _one("vecdot", C, F)
    yield from _one("tensordot", CUBE, CUBE, ([0, 1], [0, 1]))
    yield from _one("tensordot", F, G, 2)
    yield from _one("tensordot", F, G, 0)
    yield from _one("tensordot", CUBE, F, ((1, 2), (0, 1)))
    equations = {
        "ij,kj->ik": (F, G), "ij,ij": (F, G), "ij,ij->i": (F, G), "ij->ji": (F,), "ij->": (F,), "ii": (SPD,),
        "ii->i": (SPD,), "i,j": (V, W), "bij,ij->b": (CUBE, F), "bij,bkj->bik": (CUBE, CUBE),
        "...ij,kj->...ik": (CUBE, F),
        "b...,b...->...": (CUBE, CUBE), "ij,jk,kl->il": (SPD, SPD, F), "i,i,i->i": (V, W, V), "ij,j": (F, V),
        "ba": (F,),
        "ij,kl->": (F, G), "bii->b": (BATCH,), "i...->...": (F,),
    }  # fmt: skip
    for equation, operands in equations.items():
        yield Sample(
            f"einsum({equation})", lambda np, *xs, equation=equation: np.einsum(equation, *xs), operands
        )
    yield Sample("einsum(lists)", lambda np, x, y: np.einsum(x, [0, 1], y, [2, 1], [0, 2]), (F, G))
    yield Sample("einsum(ints)", lambda np, x, y: np.einsum("ij,ij->j", x, y), (I, J))
    yield Sample("einsum(units)", lambda np, x, y: np.einsum("ij,ij->ij", x, y), (F[:1], G))
    for name in "inv det cholesky".split():
        yield from _one(f"linalg.{name}", SPD)
        yield from _one(f"linalg.{name}", BATCH)
    yield Sample("linalg.slogdet", lambda np, x: tuple(np.linalg.slogdet(x)), (BATCH,))
    yield Sample("linalg.slogdet fields", lambda np, x: np.linalg.slogdet(x).logabsdet, (SPD,))
    yield from _one("linalg.solve", SPD, F)
    yield from _one("linalg.solve", SPD, F[:, 0])
    yield from _one("linalg.solve", BATCH, F)
    yield from _one("linalg.solve", SPD, BATCH)
    yield from _one("linalg.inv", np.array([[2, 1], [1, 3]]))
    yield from _one("linalg.cholesky", SPD, upper=True)
    yield from _one("linalg.matrix_power", SPD, 5)
    yield from _one("linalg.matrix_power", SPD, -2)
    yield from _one("linalg.matrix_power", SPD, 0)
    yield Sample("linalg.multi_dot", lambda np, x, y, z: np.linalg.multi_dot([x, y, z]), (V, n, F))
    for ord_ in (None, 2, 1, 0, 3, np.inf, -np.inf):
        yield from _one("linalg.norm", V, ord_)
        yield from _one("linalg.norm", F, ord_, axis=1)
    for ord_ in (None, "fro", 1, -1, np.inf, -np.inf):
        yield from _one("linalg.norm", F, ord_)
        yield from _one("linalg.norm", CUBE, ord_, axis=(0, 2), keepdims=True)
    yield from _one("linalg.norm", C)
    yield from _one("linalg.norm", I)
    yield from _one("linalg.norm", CUBE)
    yield from _one("linalg.norm", F, keepdims=True)
    yield from _one("linalg.vector_norm", CUBE, axis=(0, 1))


def _indexing() -> Iterator[Sample]:
    keys: dict[str, Any] = {
        "1": 1, "-1": -1, "1, 2": (1, 2), "1:": slice(1, None), "::-1": slice(None, None, -1),
        "::2, 1": (slice(None, None, 2), 1),
        "..., 0": (Ellipsis, 0), "None": None, ":, None, 1:3": (slice(None), None, slice(1, 3)),
        "...": Ellipsis, "()": (),
        "5:1": slice(5, 1), "-2::-1, ::3": (slice(-2, None, -1), slice(None, None, 3)), "0, ...": (0,
        Ellipsis),
        "1, 2, ...": (1, 2, Ellipsis), "10:": slice(10, None), "3:0:-2": (slice(None), slice(3, 0, -2)),
    }  # fmt: skip
    for shown, key in keys.items():
        yield Sample(f"x[{shown}]", lambda np, x, key=key: x[key], (F,))
        yield Sample(f"x[{shown}] = y", lambda np, x, key=key: _set(x, key, 2.5), (F,))
        yield Sample(f"x[{shown}] += y", lambda np, x, key=key: _augment(x, key), (F,))
    fancy: dict[str, Callable[[Any], Any]] = {
        "[0, 2, 0]": lambda np: [0, 2, 0], "[[0, 1], [2, -1]]": lambda np: np.array([[0, 1], [2, -1]]),
        "[0, 1], [1, -1]": lambda np: ([0, 1], [1, -1]), ":, [1, 3]": lambda np: (slice(None), [1, 3]),
        "1, [0, 2]": lambda np: (1, [0, 2]), "[0, 2], 1": lambda np: ([0, 2], 1),
        "[[0], [2]], [1, 3]": lambda np: ([[0], [2]], [1, 3]),
        "[0, 2], 1:": lambda np: ([0, 2], slice(1, None)), "None, [0, 1]": lambda np: (None, [0, 1]),
        "[]": lambda np: [], "..., [1, 2]": lambda np: (Ellipsis, [1, 2]),
    }  # fmt: skip
    for shown, make in fancy.items():
        yield Sample(f"x[{shown}]", lambda np, x, make=make: x[make(np)], (F,))
        yield Sample(f"x[{shown}] = y", lambda np, x, make=make: _set(x, make(np), 2.5), (F,))
    cube: dict[str, Any] = {
        "[0, 1], :, [1, 2]": ([0, 1], slice(None), [1, 2]), ":, [0, 2], [1, 2]": (slice(None), [0, 2], [1,
        2]),
        "0, :, [1, 2]": (0, slice(None), [1, 2]), "0, [1, 2]": (0, [1, 2]), ":, 1, [1, 2]": (slice(None), 1,
        [1, 2]),
        "[0, 1], None, [1, 2]": ([0, 1], None, [1, 2]), ":, :, [[0, 1], [2, 3]]": (slice(None), slice(None),
        [[0, 1], [2, 3]]),
        "[0, 1], ..., 2": ([0, 1], Ellipsis, 2), "1:, [0, 2], ::2": (slice(1, None), [0, 2], slice(None,
        None, 2)),
    }  # fmt: skip
    for shown, key in cube.items():
        yield Sample(f"cube[{shown}]", lambda np, x, key=key: x[key], (CUBE,))
        yield Sample(
            f"cube[{shown}] = y",
            lambda np, x, key=key: _set(x, key, np.arange(x[key].size).reshape(x[key].shape)),
            (CUBE,),
        )
    i, k = np.array(2), np.array(-1)
    traced: dict[str, Callable[..., Any]] = {
        "i": lambda i, k: i, "i, 1": lambda i, k: (i, 1), "1, i": lambda i, k: (1, i), ":, i": lambda i,
        k: (slice(None), i),
        "i, k": lambda i, k: (i, k), "i, ...": lambda i, k: (i, Ellipsis), "i - 1": lambda i, k: i - 1,
        "i, 1:3": lambda i, k: (i, slice(1, 3)),
        "i - 1 : i + 1": lambda i, k: slice(i - 1, i + 1), "1, i - 1 : i + 1": lambda i, k: (1, slice(i - 1,
        i + 1)),
        "k, i - 2 : i": lambda i, k: (k, slice(i - 2, i)), "i, [0, 2]": lambda i, k: (i, [0, 2]),
        "i - 2 : i, k + 1 : k + 4": lambda i, k: (slice(i - 2, i), slice(k + 1, k + 4)),
    }  # fmt: skip
    for shown, make in traced.items():
        yield Sample(f"x[{shown}] traced", lambda np, x, i, k, make=make: x[make(i[()], k[()])], (F, i, k))
        yield Sample(
            f"x[{shown}] = y traced",
            lambda np, x, i, k, make=make: _set(x, make(i[()], k[()]), 2.5),
            (F, i, k),
        )
        yield Sample(
            f"x[{shown}] += y traced",
            lambda np, x, i, k, make=make: _augment(x, make(i[()], k[()])),
            (F, i, k),
        )
    yield Sample("row = x[i]; row[1:] *= 2", lambda np, x, i: _row(np, x, i[()]), (F, i))
    yield Sample("row = x[0-d array] is a copy", _row, (F, i))
    yield Sample("x[i], x[j] = x[j], x[i]", _swap_rows, (F, i, k))
    yield Sample(
        "x[index array traced]", lambda np, x, j: (x[j], x[:, j], x[j, j]), (F, np.array([0, -1, 2]))
    )
    yield Sample(
        "x[index array traced] = y",
        lambda np, x, j, v: _set(x, (slice(None), j), v),
        (F, np.array([0, -1, 2]), F[:, :3]),
    )
    yield Sample("x[mask traced] = y", lambda np, x: _set(x, x > 0, 0.0), (F,))
    yield Sample("x[rows traced] = y", lambda np, x, m: _set(x, m, np.arange(4.0)), (F, B[:, 0]))
    yield Sample("x[:, columns traced] = y", lambda np, x, m: _set(x, (slice(None), m), x[:, :1]), (F, B[0]))
    yield Sample("x[mask] += y traced", lambda np, x: _augment(x, x > 0), (F,))
    yield Sample("x[mask] = f(x[mask])", _masked_update, (F,))
    yield Sample(
        "x[mask].sum()", lambda np, x: (x[x > 0].sum(), x[x > 0].mean(), np.exp(x[x < 0]).max()), (F,)
    )
    yield Sample(
        "x[static mask]",
        lambda np, x: (x[np.array([True, False, True])], x[:, np.array([False, True, True, False])]),
        (F,),
    )
    yield Sample(
        "x[static mask] = y",
        lambda np, x: _set(x, np.array([True, False, True]), np.arange(8.0).reshape(2, 4)),
        (F,),
    )
    for axis in (0, 1, -1, None):
        yield from _one("take", F, [0, 2, -1], axis=axis)
    yield from _one("take", F, [[0, 1], [2, 2]], axis=0)
    yield from _one("take", F, 1, axis=1)
    yield from _one("take", F, [5, -9], mode="wrap")
    yield from _one("take", F, [50, -9], mode="clip")
    yield Sample("take_along_axis", lambda np, x: np.take_along_axis(x, np.argsort(x, axis=1), axis=1), (F,))
    yield Sample("put_along_axis", _put_along, (F,))
    yield Sample("add.at", _add_at, (V, np.array([0, 1, 0, 3]), W))
    yield Sample("subtract.at", _subtract_at, (F, np.array([0, 2, 0])))
    yield Sample("flat", _flat, (F,))
    yield Sample("item assignment casts", lambda np, x: _set(x, 0, 2.7), (I,))
    yield Sample("views alias", _views_alias, (F,))
    yield Sample("transposed views alias", _transposed_views, (CUBE,))
    yield Sample("reshape of a transpose copies", _reshape_copies, (F,))
    yield Sample("fill", _fill, (F,))
    yield Sample("in place", _in_place, (F, G))
    yield Sample("in place of scalars rebinds", _rebinds, (F,))
    yield Sample("out=", _out, (F, G))
    yield Sample("where= and out=", _where_out, (F, B))
    yield Sample("copyto", _copyto, (F, B))
    yield Sample("real and imag set", _complex_parts, (C,))
    yield Sample("sort in place", _sort, (F,))
    yield Sample("contains", lambda np, x: np.where(np.any(x == 0.5), 1, 2), (F,))


def _set(x: Any, key: Any, value: Any) -> Any:
    x[key] = value
    return x


def _augment(x: Any, key: Any) -> Any:
    x[key] += 1.5
    x[key] *= 2
    return x


def _row(np: Any, x: Any, i: Any) -> Any:
    row = x[i]
    row[1:] *= 2
    x[:, 1] = 7
    return x, row + 0, row[1:] + 0


def _swap_rows(np: Any, x: Any, i: Any, k: Any) -> Any:
    held = x[i].copy()
    x[i] = x[0]
    x[0] = held
    return x


def _masked_update(np: Any, x: Any) -> Any:
    mask = x < 0
    x[mask] = np.exp(x[mask]) * 3
    return x


def _put_along(np: Any, x: Any) -> Any:
    np.put_along_axis(x, np.argmax(x, axis=1, keepdims=True), 99.0, axis=1)
    return x


def _add_at(np: Any, x: Any, i: Any, v: Any) -> Any:
    np.add.at(x, i, v)
    return x


def _subtract_at(np: Any, x: Any, i: Any) -> Any:
    np.subtract.at(x, (i, 1), 2.0)
    return x


def _flat(np: Any, x: Any) -> Any:
    first = x.flat[3]
    x.flat[1:3] = -1.0
    x.flat[-1] = first
    return x


def _views_alias(np: Any, x: Any) -> Any:
    a, b = x[1:], x.T
    c = x.reshape(-1)
    a[0, 0] = 5.0
    b[3] += 1.0
    c[::5] = 0.0
    x[:, 1] = -x[:, 1]
    return x, a + 0, b + 0, c + 0, x[::-1, ::2][1:]


def _transposed_views(np: Any, x: Any) -> Any:
    y = x.transpose(2, 0, 1)[1:3]
    y[:, 0] = 1.0
    z = np.moveaxis(x, 0, -1)
    z[0, 0, :] += 10
    np.squeeze(x[:1])[0] = 3.0
    x.swapaxes(0, 1)[2, 1] *= 2
    return x, y + 0


def _reshape_copies(np: Any, x: Any) -> Any:
    r = x.T.reshape(-1)
    r[0] = 100.0
    s = (x.T + 1).reshape(-1)
    s[0] = 50.0
    t = x[:, ::2].reshape(-1)
    t[1] = 70.0
    return x, r, s, t


def _fill(np: Any, x: Any) -> Any:
    x[1:].fill(3)
    return x


def _in_place(np: Any, x: Any, y: Any) -> Any:
    v = x[0]
    x += y
    x -= 1
    x *= y[:1]
    x /= 2
    x **= 2
    x //= 0.1
    x %= 3
    np.negative(x, out=x)
    return x, v + 0


def _rebinds(np: Any, x: Any) -> Any:
    total = x.sum()
    before = total
    total += 1
    element = x[0, 0]
    element *= 2
    zero_d = np.zeros(())
    alias = zero_d
    zero_d += 4
    return total, before, element, alias + 0, x


def _out(np: Any, x: Any, y: Any) -> Any:
    result = np.zeros((3, 4))
    np.add(x, y, out=result)
    np.multiply(result, 2, result)
    total = np.empty(4)
    returned = np.sum(x, axis=0, out=total)
    x.cumsum(axis=1, out=y)
    return result, total, returned + 0, y


def _where_out(np: Any, x: Any, m: Any) -> Any:
    result = np.full((3, 4), 9.0)
    np.sqrt(x, out=result, where=m)
    return result


def _copyto(np: Any, x: Any, m: Any) -> Any:
    np.copyto(x, 3.0, where=m)
    y = np.zeros_like(x)
    np.copyto(y, x[0])
    return x, y


def _complex_parts(np: Any, z: Any) -> Any:
    z.real = 1.0
    z.imag = z.imag * 2
    return z


def _sort(np: Any, x: Any) -> Any:
    x.sort(axis=0)
    return x


def _operators() -> Iterator[Sample]:
    yield Sample(
        "arithmetic",
        lambda np, x, y: (x + y, x - 1, 2 * x, 1 / y, x // y, x % y, -x, +x, abs(x), x**2, 2.0**x),
        (F, G),
    )
    yield Sample(
        "logic",
        lambda np, x, y: (x < y, x >= 0, (x > 0) & (y > 0), ~(x > 0), (x > 0) | True, x == y, x != y),
        (F, G),
    )
    yield Sample(
        "ints",
        lambda np, x, y: (x & y, x | 1, x ^ y, x << 2, x >> 1, ~x, x**2, x / y, 7 // y, 7 % y, x * 1.5),
        (I, J),
    )
    yield Sample(
        "weak scalars",
        lambda np, x: (x + 1, x * 2.0, x / 2, 2 - x, x**2, x > 0.1, np.where(x > 0, x, 0)),
        (F32,),
    )
    yield Sample("weak into small ints", lambda np, x: (x + 1, x * 2, x - 3, x // 2, x * 2.0), (I8,))
    yield Sample(
        "strong scalars", lambda np, x: (x + np.float64(1), x * np.float32(2), x + np.int64(3)), (F32,)
    )
    yield Sample(
        "scalars", lambda np, x: (x[0, 0] + 1, x.sum() * 2, x[0, 0] ** 2, x[0, 0] > 0, abs(x[1, 1])), (F32,)
    )
    yield Sample("0-d", lambda np, x: (x + 1, np.sin(x), x.reshape(()), x[()], x.sum()), (ZERO_D,))
    yield Sample("divmod", lambda np, x, y: divmod(x, y), (I, J))
    yield Sample(
        "complex", lambda np, z: (z * 1j, abs(z), z.real, z.imag, z.conj(), z**2, z / 2, z == z), (C,)
    )
    yield Sample("lists", lambda np, x: (x + [1, 2, 3, 4], [1, 2, 3, 4] * x), (V,))
    yield Sample(
        "methods",
        lambda np, x: (
            x.sum(),
            x.mean(0),
            x.max(axis=1),
            x.argmax(),
            x.cumsum(),
            x.std(),
            x.clip(0, 1),
            x.round(1),
            x.dot(x.T),
            x.prod(),
            x.any(),
            x.all(1),
            x.ptp() if hasattr(x, "ptpx") else x.min(),
            x.repeat(2),
            x.take([0]),
            x.trace(),
            x.diagonal(),
            x.squeeze(),
            x.var(ddof=1),
        ),
        (F,),
    )
    yield Sample(
        "strided order", lambda np, x: ((x.T + 1).ravel(order="C"), np.exp(x.T).copy(), (x.T * x.T).T), (F,)
    )


def samples() -> list[Sample]:
    """All samples."""
    groups = (_elementwise, _reductions, _shapes, _creation, _linear_algebra, _indexing, _operators)
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

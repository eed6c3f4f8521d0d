"""The order of memory that the tracer takes results to have is NumPy's: it decides what is a view."""

from collections.abc import Callable

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir import ArrayType
from nufunc.tracer.layout import canonical
from nufunc.tracer.trace import Trace

RNG = np.random.default_rng(0)
CUBE, SQUARE = RNG.normal(size=(3, 4, 5)), RNG.normal(size=(4, 4))
LAYOUTS: dict[str, Callable[[], np.ndarray]] = {
    "C": lambda: CUBE, "F": lambda: np.asfortranarray(CUBE), "swapped": lambda: CUBE.transpose(1, 0, 2),
    "rolled": lambda: CUBE.transpose(2, 0, 1), "sliced": lambda: CUBE[:, ::2], "reversed": lambda: CUBE[::-1, :, ::-1],
    "square": lambda: SQUARE, "square F": lambda: SQUARE.T, "columns": lambda: SQUARE[:, ::2],
    "column": lambda: SQUARE[:, 1], "one": lambda: np.zeros((1, 4)).T, "last": lambda: CUBE.swapaxes(1, 2),
    "repeated": lambda: np.broadcast_to(SQUARE[0], (3, 4)), "thin": lambda: CUBE[:, :1],
    "rows reversed": lambda: SQUARE[::-1],
}  # fmt: skip
FORMS = """
x + 1 | x * y | np.sin(x) | x.copy() | np.copy(x) | np.array(x) | x.astype(np.float32) | np.where(x > 0, x, y)
np.where(x > 0, x, 0) | np.concatenate([x, x]) | np.concatenate([x, y], axis=-1) | np.stack([x, y])
np.stack([x, y], axis=-1) | np.vstack([x, x]) | np.hstack([x, x]) | np.dstack([x, x]) | np.sum(x, 0) | np.sum(x, -1)
x.sum(axis=0, keepdims=True) | np.mean(x, 0) | np.max(x, 0) | np.min(x, -1) | np.any(x > 0, 0) | np.var(x, 0)
np.argmax(x, 0) | np.cumsum(x, 0) | np.cumprod(x, -1) | np.sort(x, 0) | np.argsort(x, 0) | np.clip(x, 0, 1)
np.round(x, 1) | np.round(x) | np.zeros_like(x) | np.full_like(x, 2) | np.ones_like(x, order='C')
np.zeros_like(x, order='F') | x[[0, 1]] | x[..., [0, 1]] | x[:, [1, 0]] | x[[0, 1], [1, 0]] | x[[0, 1], ..., [1, 0]]
x[1:, [0]] | x[[[0, 1]]] | np.take(x, [0, 1], axis=0) | np.take_along_axis(x, np.argsort(x, 0), 0)
np.roll(x, 1, axis=0) | np.roll(x, 1) | np.flip(x) | np.flip(x, 0) | np.pad(x, 1) | np.tile(x, 2)
np.repeat(x, 2, axis=0)
np.diff(x) | np.tril(x) | np.triu(x) | np.matmul(x, x.swapaxes(-1, -2)) | np.outer(x, x) | x.T | x.swapaxes(0, -1)
np.moveaxis(x, 0, -1) | x.reshape(-1) | x.ravel() | x.ravel('F') | x.ravel('K') | x.ravel('A') | x.flatten('F')
x[..., None] | np.expand_dims(x, 1) | x[::2] | x[..., ::-1] | np.squeeze(x[None]) | np.broadcast_to(x, (2, *x.shape))
np.atleast_3d(x) | np.diagonal(x) | np.maximum(x, y) | np.minimum(x, x[..., :1]) | np.nan_to_num(x) | x > 0 | x.round(1)
np.rot90(x) | np.array_split(x, 2)[0] | np.median(x, 0) | np.nanmedian(x, 1, keepdims=True) | np.quantile(x, 0.3, 0)
np.select([x > 0], [x]) | np.delete(x, 0, axis=0)
np.append(x, x, axis=0) | np.block([x, x]) | np.add.outer(x, x[0]) | np.add.accumulate(x, axis=0) | np.nansum(x, 0)
np.column_stack([x, x]) | np.asfortranarray(x) | np.ascontiguousarray(x) | np.array(x, order='F')
np.array(x, order='C')
x.copy('F') | x.copy('K') | x.copy('A') | x.astype(float, order='F') | x.T.reshape(-1) | x.reshape(-1, order='F')
x.reshape(-1, order='A') | np.stack([x[0], x[1]], axis=1) | np.unstack(x)[0] | np.zeros(x.shape, order='F')
x.view(np.int64)
np.linalg.diagonal(x) | np.einsum('ij->ji', x) | np.einsum('ii->i', x)
np.lib.stride_tricks.sliding_window_view(x, 2, axis=0)
x.real | np.require(x, requirements='F') | np.full(x.shape, 2.0, order='F') | np.asarray(x, order='C') | x.ravel()[::2]
"""


def strides(shape: tuple[int, ...], given: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    """In elements, None for C order; those of axes of extent one mean nothing."""
    return canonical(shape, tuple(0 if n == 1 else s // size for n, s in zip(shape, given, strict=True)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_results(layout: str) -> None:
    x = LAYOUTS[layout]()
    y = RNG.normal(size=x.shape)
    checked = 0
    for form in FORMS.strip().replace("\n", "|").split("|"):
        code = compile(form.strip(), form, "eval")
        try:
            expected = eval(code, {"np": np, "x": x, "y": y})
        except (ValueError, IndexError, np.exceptions.AxisError):
            continue  # not for arrays of this rank
        if not isinstance(expected, np.ndarray):
            continue
        with Trace() as trace:
            own = strides(x.shape, x.strides, x.itemsize)
            traced = trace.param(ArrayType(x.shape, x.dtype), strides=own)
            other = trace.param(ArrayType(y.shape, y.dtype))
            result = eval(code, {"np": nf.numpy, "x": traced, "y": other})
            assert result.shape == expected.shape, form
            want = strides(expected.shape, expected.strides, expected.itemsize)
            assert strides(result.shape, result.strides, result.itemsize) == want, form
            if x.flags.writeable:
                assert result.flags.writeable == expected.flags.writeable, form
            checked += 1
    assert checked > 60


def test_flags_are_those_of_numpy() -> None:
    def read(x):
        f = x.flags
        return f.c_contiguous, f.f_contiguous, f["C_CONTIGUOUS"], x.T.flags["F_CONTIGUOUS"], f.writeable

    for x in (CUBE, CUBE.T, CUBE[:, ::2], SQUARE[0]):
        assert nf.jit(read)(x) == read(x)

"""ATen operations on NumPy arrays, as torch's exported graphs name them: `aten.add.Tensor` is add_Tensor here.

Layers and activations stand in `aten_layers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from nufunc.ir.errors import UnsupportedError
from nufunc.nn import activation, shape
from nufunc.nn.single import in_single
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


def getitem(x: Any, index: Any) -> Any:
    return x[index]


# -- arithmetic


def add_Tensor(x: Any, y: Any, alpha: Any = 1) -> Any:
    return x + y if alpha == 1 else x + alpha * y


def sub_Tensor(x: Any, y: Any, alpha: Any = 1) -> Any:
    return x - y if alpha == 1 else x - alpha * y


def rsub_Scalar(x: Any, y: Any, alpha: Any = 1) -> Any:
    return y - alpha * x


def mul_Tensor(x: Any, y: Any) -> Any:
    return x * y


def div_Tensor(x: Any, y: Any) -> Any:
    return x / y


def div_Tensor_mode(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return np.floor_divide(x, y)
    return np.trunc(x / y) if rounding_mode == "trunc" else x / y


def add__Tensor(x: Any, y: Any, alpha: Any = 1) -> Any:
    x += y if alpha == 1 else alpha * y
    return x


def sub__Tensor(x: Any, y: Any, alpha: Any = 1) -> Any:
    x -= y if alpha == 1 else alpha * y
    return x


def mul__Tensor(x: Any, y: Any) -> Any:
    x *= y
    return x


def div__Tensor(x: Any, y: Any) -> Any:
    x /= y
    return x


def copy__default(x: Any, y: Any, non_blocking: bool = False) -> Any:
    x[...] = y
    return x


def pow_Tensor_Scalar(x: Any, y: Any) -> Any:
    return x**y


def pow_Tensor_Tensor(x: Any, y: Any) -> Any:
    return x**y


def pow_Scalar(x: Any, y: Any) -> Any:
    return x**y


def neg_default(x: Any) -> Any:
    return -x


def abs_default(x: Any) -> Any:
    return np.abs(x)


def sign_default(x: Any) -> Any:
    return np.sign(x)


def exp_default(x: Any) -> Any:
    return np.exp(x)


def expm1_default(x: Any) -> Any:
    return np.expm1(x)


def log_default(x: Any) -> Any:
    return np.log(x)


def log1p_default(x: Any) -> Any:
    return np.log1p(x)


def sqrt_default(x: Any) -> Any:
    return np.sqrt(x)


def rsqrt_default(x: Any) -> Any:
    return 1 / np.sqrt(x)


def reciprocal_default(x: Any) -> Any:
    return 1 / x


def square_default(x: Any) -> Any:
    return x * x


def sin_default(x: Any) -> Any:
    return np.sin(x)


def cos_default(x: Any) -> Any:
    return np.cos(x)


@in_single
def erf_default(x: Any) -> Any:
    return special.erf(x)


def floor_default(x: Any) -> Any:
    return np.floor(x)


def round_default(x: Any) -> Any:
    return np.round(x)


def maximum_default(x: Any, y: Any) -> Any:
    return np.maximum(x, y)


def minimum_default(x: Any, y: Any) -> Any:
    return np.minimum(x, y)


def clamp_default(x: Any, min: Any = None, max: Any = None) -> Any:
    return np.clip(x, min, max)


def clamp_min_default(x: Any, min: Any) -> Any:
    return np.maximum(x, min)


def where_self(condition: Any, x: Any, y: Any) -> Any:
    return np.where(condition, x, y)


def masked_fill_Scalar(x: Any, mask: Any, value: Any) -> Any:
    return np.where(mask, np.full_like(x, value), x)


def eq_Scalar(x: Any, y: Any) -> Any:
    return x == y


def ne_Scalar(x: Any, y: Any) -> Any:
    return x != y


def gt_Scalar(x: Any, y: Any) -> Any:
    return x > y


def ge_Scalar(x: Any, y: Any) -> Any:
    return x >= y


def lt_Scalar(x: Any, y: Any) -> Any:
    return x < y


def le_Scalar(x: Any, y: Any) -> Any:
    return x <= y


def eq_Tensor(x: Any, y: Any) -> Any:
    return x == y


def gt_Tensor(x: Any, y: Any) -> Any:
    return x > y


def ge_Tensor(x: Any, y: Any) -> Any:
    return x >= y


def lt_Tensor(x: Any, y: Any) -> Any:
    return x < y


def le_Tensor(x: Any, y: Any) -> Any:
    return x <= y


def logical_not_default(x: Any) -> Any:
    return np.logical_not(x)


def logical_and_default(x: Any, y: Any) -> Any:
    return np.logical_and(x, y)


def bitwise_not_default(x: Any) -> Any:
    return ~x


# -- reductions


def _axes(dim: Any) -> Any:
    return tuple(dim) if isinstance(dim, list | tuple) and len(dim) else None if not isinstance(dim, int) else dim


def sum_default(x: Any, dtype: Any = None) -> Any:
    return np.sum(x, dtype=dtype)


def sum_dim_IntList(x: Any, dim: Any, keepdim: bool = False, dtype: Any = None) -> Any:
    return np.sum(x, axis=_axes(dim), keepdims=keepdim, dtype=dtype)


def mean_default(x: Any, dtype: Any = None) -> Any:
    return np.mean(x, dtype=dtype)


def mean_dim(x: Any, dim: Any, keepdim: bool = False, dtype: Any = None) -> Any:
    return np.mean(x, axis=_axes(dim), keepdims=keepdim, dtype=dtype)


def var_correction(x: Any, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> Any:
    return np.var(x, axis=_axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim)


def amax_default(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return np.max(x, axis=_axes(dim), keepdims=keepdim)


def amin_default(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return np.min(x, axis=_axes(dim), keepdims=keepdim)


def max_dim(x: Any, dim: int, keepdim: bool = False) -> Any:
    return np.max(x, axis=dim, keepdims=keepdim), np.argmax(x, axis=dim, keepdims=keepdim)


def argmax_default(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return np.argmax(x, axis=dim, keepdims=keepdim)


def cumsum_default(x: Any, dim: int, dtype: Any = None) -> Any:
    return np.cumsum(x, axis=dim, dtype=dtype)


def softmax_int(x: Any, dim: int, dtype: Any = None) -> Any:
    return activation.softmax(x if dtype is None else x.astype(dtype), dim)


def log_softmax_int(x: Any, dim: int, dtype: Any = None) -> Any:
    return activation.log_softmax(x if dtype is None else x.astype(dtype), dim)


@in_single
def logsumexp_default(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return special.logsumexp(x, axis=_axes(dim), keepdims=keepdim)


def linalg_vector_norm_default(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if not 0 < ord < math.inf:
        raise UnsupportedError(f"the torch module uses a vector norm of order {ord}", user_location())
    powers = np.abs(x if dtype is None else x.astype(dtype)) ** ord
    return np.sum(powers, axis=_axes(dim), keepdims=keepdim) ** (1 / ord)


# -- shapes


def view_default(x: Any, size: Sequence[int]) -> Any:
    return np.reshape(x, tuple(size))


def reshape_default(x: Any, shape: Sequence[int]) -> Any:
    return np.reshape(x, tuple(shape))


def flatten_using_ints(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    return shape.flatten(x, start_dim, end_dim)


def unflatten_int(x: Any, dim: int, sizes: Sequence[int]) -> Any:
    axis = dim % np.ndim(x)
    return np.reshape(x, (*np.shape(x)[:axis], *sizes, *np.shape(x)[axis + 1 :]))


def transpose_int(x: Any, dim0: int, dim1: int) -> Any:
    return np.swapaxes(x, dim0, dim1)


def t_default(x: Any) -> Any:
    return np.transpose(x)


def permute_default(x: Any, dims: Sequence[int]) -> Any:
    return np.transpose(x, tuple(dims))


def squeeze_dim(x: Any, dim: int) -> Any:
    return np.squeeze(x, dim) if np.shape(x)[dim] == 1 else x


def squeeze_dims(x: Any, dim: Sequence[int]) -> Any:
    return np.squeeze(x, tuple(d for d in dim if np.shape(x)[d] == 1))


def squeeze_default(x: Any) -> Any:
    return np.squeeze(x)


def unsqueeze_default(x: Any, dim: int) -> Any:
    return np.expand_dims(x, dim)


def expand_default(x: Any, size: Sequence[int], implicit: bool = False) -> Any:
    own = (1,) * (len(size) - np.ndim(x)) + tuple(np.shape(x))
    return np.broadcast_to(x, tuple(o if s == -1 else s for s, o in zip(size, own, strict=True)))


def expand_as_default(x: Any, other: Any) -> Any:
    return np.broadcast_to(x, np.shape(other))


def repeat_default(x: Any, repeats: Sequence[int]) -> Any:
    return np.tile(x, tuple(repeats))


def contiguous_default(x: Any, memory_format: Any = None) -> Any:
    return x


def clone_default(x: Any, memory_format: Any = None) -> Any:
    return np.copy(x)


def detach_default(x: Any) -> Any:
    from nufunc import stop_gradient

    return stop_gradient(x)


def alias_default(x: Any) -> Any:
    return x


def select_int(x: Any, dim: int, index: int) -> Any:
    return x[(slice(None),) * (dim % np.ndim(x)) + (index,)]


def slice_Tensor(x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return x[(slice(None),) * (dim % np.ndim(x)) + (slice(start, end, step),)]


def narrow_default(x: Any, dim: int, start: int, length: int) -> Any:
    return slice_Tensor(x, dim, start, start + length)


def index_select_default(x: Any, dim: int, index: Any) -> Any:
    return np.take(x, index, axis=dim)


def gather_default(x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    return np.take_along_axis(x, index, axis=dim)


def cat_default(tensors: Sequence[Any], dim: int = 0) -> Any:
    return np.concatenate(list(tensors), axis=dim)


def stack_default(tensors: Sequence[Any], dim: int = 0) -> Any:
    return np.stack(list(tensors), axis=dim)


def split_Tensor(x: Any, split_size: int, dim: int = 0) -> Any:
    return np.split(x, range(split_size, np.shape(x)[dim], split_size), axis=dim)


def split_with_sizes_default(x: Any, split_sizes: Sequence[int], dim: int = 0) -> Any:
    ends: list[int] = []
    for size in split_sizes[:-1]:
        ends.append((ends[-1] if ends else 0) + size)
    return np.split(x, ends, axis=dim)


def chunk_default(x: Any, chunks: int, dim: int = 0) -> Any:
    return split_Tensor(x, -(-np.shape(x)[dim] // chunks), dim)


def unbind_int(x: Any, dim: int = 0) -> Any:
    return [select_int(x, dim, k) for k in range(np.shape(x)[dim])]


def flip_default(x: Any, dims: Sequence[int]) -> Any:
    return np.flip(x, tuple(dims))


def tril_default(x: Any, diagonal: int = 0) -> Any:
    return np.tril(x, diagonal)


def triu_default(x: Any, diagonal: int = 0) -> Any:
    return np.triu(x, diagonal)


def pad_default(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    return shape.pad(x, pad, mode, 0.0 if value is None else value)


def constant_pad_nd_default(x: Any, pad: Sequence[int], value: float = 0) -> Any:
    return shape.pad(x, pad, "constant", value)


# -- creation and conversion


def zeros_default(size: Sequence[int], dtype: Any = None, **_: Any) -> Any:
    return np.zeros(tuple(size), np.float32 if dtype is None else dtype)


def ones_default(size: Sequence[int], dtype: Any = None, **_: Any) -> Any:
    return np.ones(tuple(size), np.float32 if dtype is None else dtype)


def full_default(size: Sequence[int], fill_value: Any, dtype: Any = None, **_: Any) -> Any:
    kind = {bool: np.bool_, int: np.int64}.get(type(fill_value), np.float32)
    return np.full(tuple(size), fill_value, kind if dtype is None else dtype)


def zeros_like_default(x: Any, dtype: Any = None, **_: Any) -> Any:
    return np.zeros_like(x, dtype=dtype)


def ones_like_default(x: Any, dtype: Any = None, **_: Any) -> Any:
    return np.ones_like(x, dtype=dtype)


def full_like_default(x: Any, fill_value: Any, dtype: Any = None, **_: Any) -> Any:
    return np.full_like(x, fill_value, dtype=dtype)


def arange_default(end: Any, dtype: Any = None, **_: Any) -> Any:
    return arange_start_step(0, end, 1, dtype)


def arange_start(start: Any, end: Any, dtype: Any = None, **_: Any) -> Any:
    return arange_start_step(start, end, 1, dtype)


def arange_start_step(start: Any, end: Any, step: Any = 1, dtype: Any = None, **_: Any) -> Any:
    if dtype is None and any(isinstance(bound, float) for bound in (start, end, step)):
        dtype = np.float32
    return np.arange(start, end, step, dtype=dtype)


def to_dtype(x: Any, dtype: Any, *_: Any, **__: Any) -> Any:
    return x.astype(dtype)


def _to_copy_default(x: Any, dtype: Any = None, **_: Any) -> Any:
    return np.copy(x) if dtype is None else x.astype(dtype)


def type_as_default(x: Any, other: Any) -> Any:
    return x.astype(other.dtype)


def lift_fresh_copy_default(x: Any) -> Any:
    return np.copy(x)


def _assert_tensor_metadata_default(*_: Any, **__: Any) -> None:
    return None

"""Tensors of torch as NumPy arrays that share their memory, and back; NumPy's own ways refuse bfloat16."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from nufunc.ir.types import bfloat16, is_bfloat16


def array_of(x: Any) -> np.ndarray:
    """np.asarray(x), also of a tensor of bfloat16 and of one that torch differentiates."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return np.asarray(x)
    x = x.detach()
    if x.dtype is not torch.bfloat16:
        return np.asarray(x)
    return np.asarray(x.view(torch.int16)).view(bfloat16())


def tensor_of(array: np.ndarray) -> Any:
    """A tensor with the elements of an array."""
    import torch

    array = np.ascontiguousarray(array)
    if not is_bfloat16(array.dtype):
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def dtype_of(dtype: Any) -> np.dtype:
    """The dtype of arrays for one of torch."""
    import torch

    return array_of(torch.empty((), dtype=dtype)).dtype

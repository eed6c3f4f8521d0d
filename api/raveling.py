"""A tree of arrays as one vector, and back: what optimizers of other libraries ask for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import ShapeError
from nufunc.tracer.tree import flatten, unflatten
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True  # plain NumPy code: traced like the user's


def ravel(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(all elements of a tree's arrays as one vector, the function from such a vector to the tree).

    The vector has the dtype in which NumPy would concatenate the arrays; on the way back each array gets its own again
    (the real part, where it is real and the vector complex).

    >>> import numpy as np, nufunc as nf
    >>> vector, unravel = nf.tree.ravel({"w": np.ones((2, 2)), "b": np.zeros(1)})
    >>> vector
    array([0., 1., 1., 1., 1.])
    >>> unravel(2 * vector)["w"]
    array([[2., 2.],
           [2., 2.]])
    """
    leaves, structure = flatten(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    shapes, dtypes = [a.shape for a in arrays], [a.dtype for a in arrays]
    sizes = [math.prod(shape) for shape in shapes]

    def unravel(vector: Any) -> Any:
        if np.shape(vector) != (sum(sizes),):
            raise ShapeError(
                f"unravel: expected a vector of {sum(sizes)} elements, got shape {np.shape(vector)}", user_location()
            )
        parts, start = [], 0
        for shape, dtype, size in zip(shapes, dtypes, sizes, strict=True):
            part = np.reshape(vector[start : start + size], shape)
            parts.append((part if dtype.kind == "c" else np.real(part)).astype(dtype))
            start += size
        return unflatten(structure, parts)

    if not arrays:
        return np.zeros(0), unravel
    dtype = promotion.result_type(*dtypes)
    return np.concatenate([np.reshape(a, -1).astype(dtype) for a in arrays]), unravel

"""Python in the middle of compiled functions, and the limits of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc import tree
from nufunc.ir.errors import ArgumentTypeError
from nufunc.ir.types import ArrayType, kind_of
from nufunc.runtime.signatures import Spec
from nufunc.tracer import host
from nufunc.tracer.array import Array
from nufunc.tracer.trace import current, require
from nufunc.tracer.usercode import user_location


def pure_callback(func: Callable[..., Any], result_spec: Any, *args: Any, vectorized: bool = False) -> Any:
    """func(*args), called in Python whenever the compiled function runs.

    func : an ordinary Python function of NumPy arrays without side effects. result_spec : a tree of `nf.spec(shape,
    dtype)` or arrays that says what it returns; it may return other dtypes of the same kind. args : trees of arrays.
    vectorized : under vmap call func once with all lanes on axis 0 of every array, instead of once per lane. It has
    no derivative unless `custom_jvp` or `custom_vjp` gives one. An exception in func ends the call.

    >>> import numpy as np, nufunc as nf
    >>> @nf.jit
    ... def f(x):
    ...     return 2 * nf.pure_callback(lambda x: np.linalg.matrix_rank(x), nf.spec((), np.int64), x)
    >>> f(np.eye(3))
    np.int64(6)
    """
    specs, structure = tree.flatten(result_spec)
    types = []
    for spec in specs:
        if not isinstance(spec, Spec | np.ndarray | np.generic | Array):
            raise ArgumentTypeError(
                f"pure_callback: result_spec must hold nf.spec(shape, dtype) or arrays, got {type(spec).__name__}",
                user_location(),
            )
        types.append(ArrayType(tuple(spec.shape), np.dtype(spec.dtype).newbyteorder("=")))
    if current() is None:
        return func(*args)
    return host.pure_callback(func, types, structure, args, vectorized)


def stop_gradient(x: Any) -> Any:
    """x, a tree of arrays, as a constant for every derivative: its tangent is zero.

    >>> import numpy as np, nufunc as nf
    >>> nf.grad(lambda x: x * nf.stop_gradient(x))(3.)
    np.float64(3.0)
    """
    if current() is None:
        return x

    def stopped(leaf: Any) -> Any:
        if not isinstance(leaf, Array) or kind_of(leaf.dtype) not in "fc":
            return leaf
        trace = require()
        return trace.wrap(trace.b.stop_gradient(trace.lift(leaf)), weak=leaf.weak, scalar=leaf.scalar)

    return tree.map(stopped, x)

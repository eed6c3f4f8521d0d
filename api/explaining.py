"""explain: why a call finds its compilation, or does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nufunc.runtime.explain import Explanation, explained
from nufunc.runtime.function import Transformed


def explain(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Whether a call of `func` with these arguments finds its compilation, in memory or on disk, and if not, why.

    Nothing is compiled or run; where there is nothing in memory, `func` is traced, to know what it would be called on
    disk. The result prints as text. `nf.spec(shape, dtype)` may stand for an array.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> f = nf.jit(lambda x: 2 * x)
    >>> f(np.ones(3))
    array([2., 2., 2.])
    >>> nf.explain(f, np.ones(3)).found
    'memory'
    >>> nf.explain(f, np.ones(4)).reasons
    ("argument 0 ('x') is f64[4], and was f64[3]",)
    """
    transformed = func if isinstance(func, Transformed) else Transformed((), func)
    return explained(transformed, args, kwargs)

"""Looking into compiled functions while they run."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from nufunc.tracer import host
from nufunc.tracer.trace import current


def callback(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Call func(*args, **kwargs) at this point of a compiled function, at every run and in order; its result is
    ignored.

    args, kwargs : trees; arrays in them arrive as NumPy arrays with their current values. Under vmap it is called once
    per lane, under grad with the primal values. func is an ordinary Python function: an exception in it ends the
    call.

    >>> import numpy as np, nufunc as nf
    >>> seen = []
    >>> @nf.vmap
    ... def f(x):
    ...     nf.debug.callback(seen.append, x)
    ...     return x + 1
    >>> f(np.array([1., 2.])), [float(x) for x in seen]
    (array([2., 3.]), [1.0, 2.0])
    """
    if current() is None:
        func(*args, **kwargs)
    else:
        host.effect(func, args, kwargs, getattr(func, "__name__", "the callback"))


def print(fmt: str, /, *args: Any, **kwargs: Any) -> None:
    """Print fmt.format(*args, **kwargs) when the compiled function runs, with current values; see `callback`.

    >>> import numpy as np, nufunc as nf
    >>> @nf.jit
    ... def f(x):
    ...     nf.debug.print("x = {} and {y:.1f}", x, y=x[0] * 2)
    ...     return x.sum()
    >>> f(np.array([1., 2.]))
    x = [1. 2.] and 2.0
    np.float64(3.0)
    """

    def show(*args: Any, **kwargs: Any) -> None:
        builtins.print(fmt.format(*args, **kwargs))

    if current() is None:
        show(*args, **kwargs)
    else:
        host.effect(show, args, kwargs, "debug.print")

"""Control flow as functions: compiled branches and loops, also under every transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nufunc.runtime.function import Transformed
from nufunc.tracer import control
from nufunc.tracer.trace import current


def _run(function: Callable[..., Any], *args: Any) -> Any:
    """Inside a traced function, append to its graph; outside, compile the construct by itself and run it."""
    return function(*args) if current() is not None else Transformed((), function)(*args)


def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any) -> Any:
    """true_fun(*operands) if pred else false_fun(*operands), where pred may be a traced scalar.

    Both functions return trees of one structure with arrays of equal shapes and dtypes. Only the branch that is
    taken runs, also under vmap, where each lane takes its own.

    >>> import numpy as np, nufunc as nf
    >>> nf.vmap(lambda x: nf.cond(x > 0, np.sqrt, lambda x: x * 10, x))(np.array([4., -1.]))
    array([  2., -10.])
    """
    return _run(control.cond, pred, true_fun, false_fun, *operands)


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """branches[index](*operands); an index outside is clamped.

    >>> import numpy as np, nufunc as nf
    >>> nf.jit(lambda i, x: nf.switch(i, [np.sin, np.cos], x))(np.array(1), 0.)
    np.float64(1.0)
    """
    return _run(control.switch, index, branches, *operands)


def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init: Any) -> Any:
    """Repeat carry = body_fun(carry) as long as cond_fun(carry) holds; gives the last carry.

    The carry is a tree of arrays whose shapes and dtypes stay. Under vmap each lane stops by itself. Differentiable
    in both modes: reverse mode keeps the carry of every iteration, as many as there is memory for (else MemoryError),
    and runs the body once more on the way back; see `nf.checkpoint` for loops of a known length.

    >>> import numpy as np, nufunc as nf
    >>> nf.vmap(lambda x: nf.while_loop(lambda v: v < 100, lambda v: v * v, x))(np.array([2., 3.]))
    array([ 256., 6561.])
    """
    return _run(control.while_loop, cond_fun, body_fun, init)


def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init: Any) -> Any:
    """carry = body_fun(i, carry) for i in range(lower, upper); gives the last carry.

    Differentiable in both modes, whether the bounds are Python ints or known only when it runs (then it is a
    `while_loop`).

    >>> import numpy as np, nufunc as nf
    >>> nf.grad(lambda x: nf.fori_loop(0, 3, lambda i, c: c * x, 1.))(2.)
    np.float64(12.0)
    """
    return _run(control.fori_loop, lower, upper, body_fun, init)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """Thread a carry through the items of xs: (carry, y) = f(carry, x) for each x on axis 0; gives (carry, stacked ys).

    xs : a tree of arrays with one leading length, or None with `length`. reverse : run from the last item to the first.

    >>> import numpy as np, nufunc as nf
    >>> nf.scan(lambda c, x: (c + x, c), 0., np.array([1., 2., 3.]))
    (np.float64(6.0), array([0., 1., 3.]))
    """
    result: tuple[Any, Any] = _run(control.scan, f, init, xs, length, reverse)
    return result


def map(f: Callable[[Any], Any], xs: Any) -> Any:
    """f on each item of xs (axis 0 of every array), one after the other, with the results stacked.

    >>> import numpy as np, nufunc as nf
    >>> nf.map(lambda x: x.sum(), np.ones((3, 2)))
    array([2., 2., 2.])
    """
    return _run(control.map, f, xs)


def associative_scan(f: Callable[[Any, Any], Any], xs: Any, reverse: bool = False, axis: int = 0) -> Any:
    """The running combination of the items of xs along an axis by an associative f: x0, f(x0, x1), f(f(x0, x1), x2),
    ...

    f : takes two trees like xs, in which the axis has length 1, and gives one. xs : a tree of arrays of one length
    along `axis`. reverse : start at the end, so that f gets what comes later first. On a CPU the items are taken in
    turn, which does the least work.

    >>> import numpy as np, nufunc as nf
    >>> nf.associative_scan(np.maximum, np.array([1., 3., 2., 5., 4.]))
    array([1., 3., 3., 5., 5.])
    """
    result: Any = _run(control.associative_scan, f, xs, reverse, axis)
    return result

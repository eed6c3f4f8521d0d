"""Checkpoints: what derivatives keep of a function, and what they compute again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nufunc.ir.errors import ArgumentError
from nufunc.runtime.checkpoint import Checkpoint
from nufunc.runtime.function import Transformed
from nufunc.runtime.subgraph import as_array, is_number
from nufunc.tracer import tree
from nufunc.tracer.trace import current, require
from nufunc.tracer.usercode import user_location


def checkpoint(func: Callable[..., Any] | None = None, policy: str | Sequence[str] | None = None) -> Any:
    """The same function, of which reverse mode keeps less and computes more: it trades time for memory.

    policy : what is kept between the function and its backward pass.

    - None or "none": the arguments alone; everything else is computed again.
    - a list of names: the arguments and the values that `nf.checkpoint_name` gave one of these names.
    - "sqrt": every `scan` and `fori_loop` of T steps inside keeps about sqrt(T) carries and computes the steps between
      them again, a segment at a time.
    - "all": everything, as without a checkpoint.

    It changes no value and works under every transform. A decorator with or without arguments.

    >>> import numpy as np, nufunc as nf
    >>> def step(i, x):
    ...     return x + 0.01 * np.sin(x)
    >>> nf.grad(nf.checkpoint(lambda x: nf.fori_loop(0, 100, step, x), policy="sqrt"))(0.).round(12)
    np.float64(2.704813829422)
    """
    if func is None:
        return lambda f: checkpoint(f, policy)
    if policy is None or policy == "none":
        return Transformed((Checkpoint(),), func)
    if policy == "sqrt":
        return Transformed((Checkpoint(segments=True),), func)
    if policy == "all":
        return Transformed((), func)
    if isinstance(policy, str) or not all(isinstance(name, str) for name in policy):
        raise ArgumentError(
            f"checkpoint: policy is None, 'none', 'all', 'sqrt' or a list of names, not {policy!r}", user_location()
        )
    return Transformed((Checkpoint(save=tuple(policy)),), func)


def checkpoint_name(x: Any, name: str) -> Any:
    """x, whose arrays `nf.checkpoint(..., policy=[name])` keeps for the backward pass.

    Looked for in the checkpointed function itself, not in the bodies of its loops.

    >>> import numpy as np, nufunc as nf
    >>> def f(x):
    ...     return np.sum(np.exp(nf.checkpoint_name(np.sin(x), "wave")))
    >>> nf.grad(nf.checkpoint(f, policy=["wave"]))(np.zeros(2))
    array([1., 1.])
    """
    if current() is None:
        return x
    trace = require()

    def named(leaf: Any) -> Any:
        if not is_number(leaf):
            return leaf
        array = as_array(leaf)
        value = trace.b.named(trace.lift(array), name=name)
        return trace.wrap(value, weak=array.weak, scalar=array.scalar)

    return tree.map(named, x)

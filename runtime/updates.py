"""What a transform does with writes of its function: to its arguments, and to arrays of the enclosing scope.

Note [Writes under transforms]
A function under a transform is a graph of its own; what it writes to parameters and captured arrays are further
outputs, `updates`. They are stored into the arrays that they stand for, once, after the function has run:

    jvp, linearize, jacfwd     all writes; of a differentiated argument its primal value
    grad, vjp, jacrev          writes to what is not differentiated; the others raise, as in torch
    vmap                       writes to mapped arguments; writes to what the lanes share raise
    functionalize, jit         all writes

Arrays that a function got under two names are two parameters here, so that a write to one of them would not be seen
through the other: that raises as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nufunc.ir.errors import MutationError
from nufunc.runtime.subgraph import Sub
from nufunc.tracer.array import Array
from nufunc.tracer.usercode import user_location


def admit_updates(
    sub: Sub, arrays: Sequence[Array], names: Sequence[str], refused: Callable[[int], str | None]
) -> None:
    """Raise where the function wrote to what `refused(index of the parameter)` gives a reason for, or to memory that it
    knows under two names. `arrays` stand for the parameters, `names` are what messages call them.
    """
    operands = [*arrays, *sub.captured]
    for index in sub.graph.updates:
        reason = refused(index)
        if reason is not None:
            raise MutationError(reason, user_location())
        same = [k for k, a in enumerate(operands) if a.root is operands[index].root]
        if len(same) > 1:
            other = next(k for k in same if k != index)
            one, two = _called(sub, names, index), _called(sub, names, other)
            raise MutationError(
                f"the function under a transform writes in place to {one}, which shares memory with {two}; "
                "pass a copy of one of them",
                user_location(),
            )


def refuse_differentiated(sub: Sub, names: Sequence[str], transform: str) -> Callable[[int], str | None]:
    """Writes to differentiated arguments are refused."""

    def refused(index: int) -> str | None:
        if index >= sub.num_params:
            return None
        return (
            f"the function under {transform} writes in place to its argument {names[index]}, with respect to which it "
            "is differentiated; work on a copy (x = x.copy()) and return it"
        )

    return refused


def refuse_shared(sub: Sub, shared: Sequence[tuple[Array, str]], transform: str) -> Callable[[int], str | None]:
    """Writes to what all lanes share are refused; `shared` are the arguments that are not mapped."""

    def refused(index: int) -> str | None:
        if index < sub.num_params:
            return None
        target = sub.captured[index - sub.num_params]
        known = (f"its argument {n}" for a, n in shared if a.root is target.root)
        name = next(known, "an array of the enclosing scope")
        return (
            f"the function under {transform} writes in place to {name}, which all lanes share, so that they would "
            "conflict; map it too (in_dims), or work on a copy (x = x.copy()) and return it (for the running "
            "statistics of batch norm: nf.replace_all_batch_norm_modules_, or eval mode)"
        )

    return refused


def admit_all(index: int) -> None:
    """Nothing is refused."""
    return


def _called(sub: Sub, names: Sequence[str], index: int) -> str:
    return f"its argument {names[index]}" if index < sub.num_params else "an array of the enclosing scope"

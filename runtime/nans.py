"""NaNs: where the first one of a result was made (`nf.debug_nans`).

Note [The long way]
The short ways into compiled code look at nothing but types, and stay as short as they are: while NaNs are looked for,
the classes whose calls take them get another `__call__`, which goes the long way to `Executable.run`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import NaNError
from nufunc.ir.graph import Node, Value
from nufunc.ir.interpret import run, watching
from nufunc.ir.types import is_inexact
from nufunc.runtime.bound import Bound
from nufunc.runtime.executable import Check, Executable
from nufunc.runtime.function import Transformed
from nufunc.runtime.lowered import Compiled

Bad = Callable[[np.ndarray], Any]


class debug_nans:
    """Whether a call whose result holds a NaN raises NaNError, which names the user's line that made it.

    Parameters
    ----------
    enabled : bool. It holds from this call on, in all threads; as a context manager, until its end.
    infs : bool. Infinities count as well.

    Notes
    -----
    Each call computes as ever. If a result, or an array that it writes in place, then holds a NaN, its inputs are run
    through the function's graph once more by the NumPy interpreter, and the NaN is followed back to the operation whose
    operands had none. Calls take longer meanwhile: this is for finding errors. `NUFUNC_DEBUG_NANS=1` in the
    environment switches it on from the start.

    Raises
    ------
    NaNError : a FloatingPointError, by the calls.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> with nf.debug_nans():
    ...     nf.jit(lambda x: np.sum(np.sqrt(x) * x))(np.array([1.0, -4.0]))   # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nufunc.ir.errors.NaNError: <lambda>: sqrt made the first NaN of the result, at [1] from -4.0...
    """

    def __init__(self, enabled: bool = True, *, infs: bool = False) -> None:
        self._before = Executable.check
        _switch(_Check(infs) if enabled else None)

    def __enter__(self) -> debug_nans:
        return self

    def __exit__(self, *error: object) -> None:
        _switch(self._before)


def _through_run(self: Transformed, /, *args: Any, **kwargs: Any) -> Any:
    return self._call(args, kwargs)


_SHORT: dict[type, Callable[..., Any]] = {cls: cls.__call__ for cls in (Transformed, Compiled, Bound)}
_LONG: dict[type, Callable[..., Any]] = {
    Transformed: _through_run, Compiled: Compiled._long_way, Bound: Bound._long_way,
}  # fmt: skip


def _switch(check: Check | None) -> None:
    Executable.check = check
    for cls, call in (_SHORT if check is None else _LONG).items():
        cls.__call__ = call  # type: ignore[method-assign]


class _Check:
    """What `Executable.run` asks after each call, with the inputs as they were before it."""

    def __init__(self, infs: bool) -> None:
        self.what = "NaN or infinity" if infs else "NaN"
        self.bad: Bad = (lambda x: ~np.isfinite(x)) if infs else np.isnan

    def __call__(self, executable: Executable, inputs: Sequence[np.ndarray], results: Sequence[Any]) -> None:
        for k, result in enumerate(results):
            array = np.asarray(result)
            if is_inexact(array.dtype) and np.any(self.bad(array)):
                raise self._error(executable, inputs, k)

    def _error(self, executable: Executable, inputs: Sequence[np.ndarray], output: int) -> NaNError:
        graph = executable.graph
        count = executable.num_results
        if output < count:
            place = f"result {output}" if count > 1 else "the result"
        else:
            place = executable.sources[graph.updates[output - count]]
        made: dict[Value, tuple[Node, list[np.ndarray], list[np.ndarray]]] = {}
        inner: list[tuple[Node, list[np.ndarray], list[np.ndarray]]] = []
        top = {id(n) for n in graph.nodes}

        def watch(node: Node, operands: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> None:
            step = (node, [np.array(o) for o in operands], [np.array(r) for r in results])
            if id(node) not in top:
                inner.append(step)
                return
            starts = [s for s in inner if self._starts(s)]
            inner.clear()
            made.update(dict.fromkeys(node.results, starts[0] if starts and self._starts(step) else step))

        with watching(watch):
            run(graph, inputs)
        value = graph.outputs[output]
        while value in made:
            node, operands, _ = step = made[value]
            if self._starts(step):
                return NaNError(
                    f"{executable.name}: {node.prim} made the first {self.what} of {place}{self._at(step)}", node.loc
                )
            value = next(v for v, o in zip(node.operands, operands, strict=True) if self._any(o))
        if value in graph.params:
            source = executable.sources[graph.params.index(value)]
            return NaNError(f"{executable.name}: the {self.what} of {place} comes from {source}")
        return NaNError(f"{executable.name}: {place} holds a {self.what}, but not where the NumPy interpreter runs it")

    def _any(self, array: np.ndarray) -> bool:
        return is_inexact(array.dtype) and bool(np.any(self.bad(array)))

    def _starts(self, step: tuple[Node, list[np.ndarray], list[np.ndarray]]) -> bool:
        _, operands, results = step
        return any(map(self._any, results)) and not any(map(self._any, operands))

    def _at(self, step: tuple[Node, list[np.ndarray], list[np.ndarray]]) -> str:
        """The index of the first one, and what an elementwise operation made it from."""
        _, operands, results = step
        result = next(r for r in results if self._any(r))
        index = tuple(int(i) for i in np.argwhere(self.bad(result))[0])
        place = f", at [{', '.join(map(str, index))}]" if index else ""
        given = [str(o[index]) for o in operands if o.shape == result.shape]
        return f"{place} from {' and '.join(given)}" if given and len(given) == len(operands) else place


if os.environ.get("NUFUNC_DEBUG_NANS", "") not in ("", "0"):
    debug_nans()

"""Transform and Callee: what every transform of a chain is, and the two that only compile or functionalize.

A compiled call is one outermost trace in which the chain of transforms is applied; a transform called by a traced
function is applied in that function's trace. Both are the same code: trace the inner function into a graph, run
passes on it, inline the result.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nufunc.ir.errors import Location
from nufunc.runtime.results import refuse_lost_changes, snapshot
from nufunc.runtime.subgraph import inline, trace_sub, wrap, write_updates
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.levels import at_level
from nufunc.tracer.np_index_parse import checks
from nufunc.tracer.trace import require
from nufunc.tracer.usercode import user_location


@dataclass(frozen=True)
class Transform:
    """A configured transform. `label` is its public name."""

    @property
    def label(self) -> str:
        return type(self).__name__.lower()

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Callee:
    """What a transform is applied to: the rest of the chain over the traced function."""

    transforms: tuple[Transform, ...]
    func: Callable[..., Any]
    origin: Callable[..., Any]  # the user's own object, for names and source lines
    # Whether the trees of arguments that the function gets are copies of the caller's: those of an outermost call are,
    # and those that a transform other than jit hands on.
    copies: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.transforms:
            first, *rest = self.transforms
            copies = self.copies or not isinstance(first, Jit)
            return first.apply(Callee(tuple(rest), self.func, self.origin, copies), args, kwargs)
        if not self.copies:
            return self.func(*args, **kwargs)
        before = snapshot((args, kwargs))
        result = self.func(*args, **kwargs)
        refuse_lost_changes(before, result, self.name, self.location())
        return result

    @property
    def name(self) -> str:
        return getattr(self.origin, "__name__", type(self.origin).__name__)

    def argument(self, index: int) -> str:
        """How messages call a positional argument."""
        names = parameter_names(self.origin)
        return f"{index} ({names[index]!r})" if index < len(names) else str(index)

    def location(self) -> Location | None:
        """Where the user's function is defined, or where we are if that is not known."""
        code = getattr(inspect.unwrap(self.origin), "__code__", None)
        return Location(code.co_filename, code.co_firstlineno, code.co_name) if code else user_location()


def parameter_names(func: Callable[..., Any]) -> list[str]:
    """The names of the positional parameters of a function, as far as they are known."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def leaf_names(callee: Callee, index: int, arg: Any) -> list[str]:
    """A readable name for each leaf of a positional argument."""
    return [callee.argument(index) + path for path in tree.paths(arg)]


@dataclass(frozen=True)
class Jit(Transform):
    """Compile; inside a traced function the function is simply called."""

    static_argnums: tuple[int, ...] = ()
    static_argnames: tuple[str, ...] = ()
    donate_argnums: tuple[int, ...] = ()
    target: str | None = None
    max_bytes: int | None = None
    fastmath: bool = False
    boundscheck: bool = True

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with checks(self.boundscheck):
            return callee(*args, **kwargs)


@dataclass(frozen=True)
class Functionalize(Transform):
    """Remove views and writes; what was written to arguments and captures is written back at the end."""

    remove: str = "mutations"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arrays = [x for x in tree.leaves((args, kwargs)) if isinstance(x, Array)]

        def call(params: list[Array]) -> Any:
            # The arguments are captured, not made parameters: so they stay aliases of each other where they are.
            trace = require()
            at_level(trace, self.label)
            for array in arrays:
                trace.lift(array)
            return callee(*args, **kwargs)

        sub = trace_sub(call, (), callee.name, numbers=False)
        values = inline(sub.graph, sub.captured)
        result = sub.result(wrap(values[: sub.num_outputs], sub.slots))
        write_updates(sub, (), values)
        return result

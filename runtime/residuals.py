"""GraphFunction: a graph with residuals as a callable pytree; what vjp, linearize and linear_transpose return."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentTypeError
from nufunc.ir.graph import Graph, Value
from nufunc.ir.types import HANDLE, TapeType, is_complex
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.trace import current, require
from nufunc.tracer.usercode import user_location


@dataclass(frozen=True, eq=False)
class GraphFunction:
    """A compiled linear function that holds the residuals of the point at which it was made.

    It may be called many times, from several threads, and inside traced functions. `argument` is the structure of
    what it takes (with `variadic`, of its positional arguments), `results` those of the trees that it gives: a tuple of
    them, or with `bare` the only one.
    """

    name: str
    graph: Graph
    residuals: tuple[Any, ...]
    argument: tree.TreeDef
    results: tuple[tree.TreeDef, ...]
    scalars: tuple[bool, ...]
    conjugate: bool = False
    variadic: bool = False
    bare: bool = False
    _from_children: ClassVar[Callable[[Any, Any], GraphFunction]]

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *args: Any) -> Any:
        return self._apply(args) if current() is not None else self._compiled(*args)

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        from nufunc.runtime.function import Transformed

        return Transformed((), self)

    # -- copies

    def __reduce__(self) -> Any:
        for residual in self.residuals:
            if getattr(residual, "dtype", None) == HANDLE:
                raise ArgumentTypeError(
                    f"{self.name} holds tapes, from a loop of unknown length, and cannot be pickled; call it where it "
                    "was made, or give the loop a fixed length"
                )
        residuals, static = _to_children(self)
        return _again, (type(self), static, residuals)

    def __copy__(self) -> GraphFunction:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphFunction:
        residuals, static = _to_children(self)
        return _again(type(self), static, [r.copy() if hasattr(r, "dtype") else r for r in residuals])

    # -- what the globals view needs where a traced function captures one of these

    @property
    def __nufunc_parts__(self) -> tuple[Any, ...]:
        return self.residuals

    @property
    def __nufunc_key__(self) -> Any:
        return _to_children(self)[1]

    def __nufunc_rebind__(self, parts: tuple[Any, ...]) -> GraphFunction:
        return type(self)._from_children(self.__nufunc_key__, parts)

    def _apply(self, args: tuple[Any, ...]) -> Any:
        trace = require()
        out = self._inlined(self._checked(args))
        arrays = [trace.wrap(v, scalar=s and not v.shape) for v, s in zip(out, self.scalars, strict=True)]
        trees, start = [], 0
        for spec in self.results:
            trees.append(tree.unflatten(spec, arrays[start : start + spec.num_leaves]))
            start += spec.num_leaves
        return trees[0] if self.bare else tuple(trees)

    def _inlined(self, arrays: Sequence[Array]) -> list[Value]:
        """The graph's results for these arguments, in the trace."""
        trace = require()
        b = trace.b
        values = [trace.lift(a) for a in arrays]
        if self.conjugate:
            values = [b.conj(v) if is_complex(v.dtype) else v for v in values]
        held = [_fitting(b, trace.lift(r), p) for r, p in zip(self.residuals, self.graph.params, strict=False)]
        out = b.inline(self.graph, [*held, *values])
        return [b.conj(v) if is_complex(v.dtype) else v for v in out] if self.conjugate else out

    def _checked(self, args: tuple[Any, ...]) -> list[Array]:
        """The leaves of the arguments, of the right structure, shapes and dtypes."""
        what = "tangents" if self.variadic else "cotangents"
        if not self.variadic and len(args) != 1:
            raise ArgumentTypeError(f"{self.name} takes one argument, the {what}, but got {len(args)}", user_location())
        given = args if self.variadic else args[0]
        leaves, spec = tree.flatten(given)
        if spec != self.argument:
            raise ArgumentTypeError(
                f"{self.name}: Expected pytree structure of {what} to be the same as the "
                f"{'primals' if self.variadic else 'output'}: "
                f"expected {self.argument}, got {spec}",
                user_location(),
            )
        from nufunc.runtime.selection import matching

        types = [p.type for p in self.graph.params[len(self.residuals) :]]
        names = [f"the {what[:-1]}{path}" for path in tree.paths(given)]
        return matching(leaves, types, names, self.name)


def _fitting(b: Builder, held: Value, param: Value) -> Value:
    """The residual; tapes none of which has items do not know their type."""
    return b.zeros(param.type) if isinstance(param.type, TapeType) and held.type != param.type else held


def _to_children(f: GraphFunction) -> tuple[tuple[Any, ...], Any]:
    static = (f.name, f.graph, f.argument, f.results, f.scalars, f.conjugate, f.variadic, f.bare)
    return f.residuals, static


def _again(cls: type[GraphFunction], static: Any, residuals: Any) -> GraphFunction:
    return cls._from_children(static, residuals)


def register(cls: type[GraphFunction]) -> None:
    """Make a class of graph functions a tree, whose leaves are the residuals."""

    def from_children(static: Any, residuals: Any) -> GraphFunction:
        name, graph, *rest = static
        return cls(name, graph, tuple(residuals), *rest)

    cls._from_children = staticmethod(from_children)
    tree.register(cls, _to_children, from_children)


register(GraphFunction)

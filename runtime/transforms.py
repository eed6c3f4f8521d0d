"""The transforms: frozen descriptions, each with `apply`, which runs it inside the current trace.

A compiled call is one outermost trace in which the chain of transforms is applied; a transform called by a traced
function is applied in that function's trace. Both are the same code: trace the inner function into a graph, run
passes on it, inline the result.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentError, ArgumentTypeError, BoundsError, DTypeError, Location, ShapeError
from nufunc.ir.graph import Graph, Value
from nufunc.ir.types import INT64, ArrayType, is_complex, is_inexact
from nufunc.runtime import pipeline
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.subgraph import (
    Slot,
    Sub,
    array_leaves,
    as_array,
    inline,
    is_number,
    refuse_updates,
    trace_sub,
    wrap,
    write_updates,
)
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.frames import user_location
from nufunc.tracer.trace import require


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.transforms:
            return self.func(*args, **kwargs)
        return self.transforms[0].apply(Callee(self.transforms[1:], self.func, self.origin), args, kwargs)

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


# -- choosing the differentiated arguments


@dataclass(frozen=True)
class Selection:
    """The differentiated leaves of a call, and how to call again with others in their place."""

    arrays: list[Array]
    names: list[str]
    structures: list[tree.TreeDef]
    bare: bool
    rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]

    def pack(self, values: Sequence[Any]) -> Any:
        """One tree per selected argument: bare for an int argnums, else a tuple."""
        trees, start = [], 0
        for spec in self.structures:
            trees.append(tree.unflatten(spec, values[start : start + spec.num_leaves]))
            start += spec.num_leaves
        return trees[0] if self.bare else tuple(trees)


def normal_argnums(argnums: Any, count: int, transform: str) -> tuple[int, ...]:
    """argnums as non-negative, distinct ints; the errors name argnums."""
    if isinstance(argnums, bool) or not isinstance(argnums, int | tuple):
        raise ArgumentTypeError(
            f"{transform}: argnums must be int or Tuple[int, ...], got {type(argnums).__name__}", user_location()
        )
    items = argnums if isinstance(argnums, tuple) else (argnums,)
    if not items:
        raise ArgumentError(f"{transform}: argnums must be non-empty", user_location())
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int):
            raise ArgumentTypeError(f"{transform}: argnum must be int, got {type(item).__name__}", user_location())
        if not -count <= item < count:
            raise ArgumentError(f"{transform}: Got argnum={item}, but only {count} positional inputs", user_location())
    wrapped = tuple(i % count for i in items)
    if len(set(wrapped)) != len(wrapped):
        raise ArgumentError(f"{transform}: argnums elements must be unique, got {argnums}", user_location())
    return wrapped


def select(
    callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], argnums: Any, argnames: Any, transform: str
) -> Selection:
    """The leaves that argnums (or argnames) choose, checked to be differentiable."""
    keys: tuple[int | str, ...]
    if argnames is None:
        bare = isinstance(argnums, int)
        keys = normal_argnums(argnums, len(args), transform)
    else:
        bare = isinstance(argnames, str)
        keys = _named(callee, args, kwargs, (argnames,) if isinstance(argnames, str) else argnames, transform)
    leaves: list[Any] = []
    names: list[str] = []
    structures = []
    for key in keys:
        arg = args[key] if isinstance(key, int) else kwargs[key]
        found, spec = tree.flatten(arg)
        leaves += found
        names += leaf_names(callee, key, arg) if isinstance(key, int) else [repr(key) + p for p in tree.paths(arg)]
        structures.append(spec)
    arrays = differentiable(leaves, names, transform)

    def rebuild(values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        new_args, new_kwargs, start = list(args), dict(kwargs), 0
        for key, spec in zip(keys, structures, strict=True):
            item = tree.unflatten(spec, values[start : start + spec.num_leaves])
            start += spec.num_leaves
            if isinstance(key, int):
                new_args[key] = item
            else:
                new_kwargs[key] = item
        return tuple(new_args), new_kwargs

    return Selection(arrays, names, structures, bare, rebuild)


def _named(
    callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], argnames: Any, transform: str
) -> tuple[int | str, ...]:
    if not isinstance(argnames, tuple | list) or not all(isinstance(n, str) for n in argnames) or not argnames:
        raise ArgumentTypeError(f"{transform}: argnames must be a name or a tuple of names", user_location())
    positional = parameter_names(callee.origin)[: len(args)]
    keys: list[int | str] = []
    for name in argnames:
        if name in kwargs:
            keys.append(name)
        elif name in positional:
            keys.append(positional.index(name))
        else:
            raise ArgumentError(f"{transform}: argnames has {name!r}, but no such argument is given", user_location())
    if len(set(keys)) != len(keys):
        raise ArgumentError(f"{transform}: argnames must be unique, got {argnames}", user_location())
    return tuple(keys)


def differentiable(leaves: Sequence[Any], names: Sequence[str], transform: str) -> list[Array]:
    """The leaves as Arrays of float or complex dtype; the error names the first that is not."""
    for leaf, name in zip(leaves, names, strict=True):
        dtype = getattr(leaf, "dtype", None)
        if not is_number(leaf):
            raise ArgumentTypeError(
                f"{transform}: argument {name} is of type {type(leaf).__name__}, which cannot be differentiated; choose "
                "other arguments with argnums",
                user_location(),
            )
        if isinstance(leaf, bool | int) or (dtype is not None and not is_inexact(dtype)):
            kind = dtype if dtype is not None else type(leaf).__name__
            raise DTypeError(
                f"{transform}: argument {name} is {kind}, but derivatives need float or complex inputs; convert it, for "
                "instance with x.astype(float), or choose other arguments with argnums",
                user_location(),
            )
    return [as_array(leaf) for leaf in leaves]


def split_aux(result: Any, has_aux: bool, callee: Callee) -> tuple[Any, Any]:
    """(output, aux) of the user's function."""
    if not has_aux:
        return result, None
    if type(result) is not tuple or len(result) != 2:
        raise ArgumentTypeError(
            f"output of function {callee.name} should be a tuple: (output, aux) if has_aux is True", callee.location()
        )
    return result


def trace_with_aux(
    callee: Callee, arrays: Sequence[Array], rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]],
    has_aux: bool,
) -> tuple[Sub, int]:
    """Trace callee on the selected leaves; gives the graph and how many of its leaves belong to the output (not aux)."""
    count = 0

    def call(params: list[Array]) -> Any:
        nonlocal count
        args, kwargs = rebuild(params)
        output, aux = split_aux(callee(*args, **kwargs), has_aux, callee)
        leaves = tree.leaves(output)
        count = len(leaves)
        for leaf in leaves:
            if not is_number(leaf):
                raise ArgumentTypeError(
                    f"{callee.name} must return only arrays, got type {type(leaf).__name__}", callee.location()
                )
        if not leaves:
            raise ArgumentTypeError(f"{callee.name} returned no array: expected a non-empty output", callee.location())
        return (output, aux) if has_aux else (output,)

    return trace_sub(call, arrays, callee.name, numbers=True), count


# -- compiling only


@dataclass(frozen=True)
class Jit(Transform):
    """Compile; inside a traced function the function is simply called."""

    static_argnums: tuple[int, ...] = ()
    static_argnames: tuple[str, ...] = ()
    donate_argnums: tuple[int, ...] = ()
    target: str | None = None

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return callee(*args, **kwargs)


@dataclass(frozen=True)
class Functionalize(Transform):
    """Remove views and writes; what was written to arguments and captures is written back at the end."""

    remove: str = "mutations"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = tree.flatten((args, kwargs))
        chosen = [k for k, x in enumerate(leaves) if isinstance(x, Array)]
        arrays = [leaves[k] for k in chosen]

        def call(params: list[Array]) -> Any:
            new = list(leaves)
            for k, p in zip(chosen, params, strict=True):
                new[k] = p
            new_args, new_kwargs = tree.unflatten(spec, new)
            return callee(*new_args, **new_kwargs)

        sub = trace_sub(call, arrays, callee.name, numbers=False)
        values = inline(sub.graph, [*arrays, *sub.captured])
        write_updates(sub, arrays, values)
        return sub.result(wrap(values[: sub.num_outputs], sub.slots))


# -- differentiation


@dataclass(frozen=True)
class Grad(Transform):
    """The gradient of a scalar function; `value` says what comes with it: "", "after" (grad, value) or "before"."""

    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    argnames: str | tuple[str, ...] | None = None
    holomorphic: bool = False
    value: str = ""

    @property
    def label(self) -> str:
        return {"": "grad", "after": "grad_and_value", "before": "value_and_grad"}[self.value]

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = select(callee, args, kwargs, self.argnums, self.argnames, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, self.has_aux)
        refuse_updates(sub, chosen.names, self.label)
        self._check_output(sub, count, callee)
        values, back, residuals = _primal(sub, chosen.arrays, [True] + [False] * (len(sub.graph.outputs) - 1))
        trace = require()
        one = trace.b.filled(1, sub.graph.outputs[0].type)
        grads = inline(back, [*residuals, one])
        grads = [_conjugated(g) if is_complex(g.dtype) and not self.holomorphic else g for g in grads]
        gradient = chosen.pack(wrap(grads, [Slot(k, a.scalar, False) for k, a in enumerate(chosen.arrays)]))
        result = sub.result(wrap(values, sub.slots))
        if self.value:
            value = result if self.has_aux else result[0]
            return (gradient, value) if self.value == "after" else (value, gradient)
        return (gradient, result[1]) if self.has_aux else gradient

    def _check_output(self, sub: Sub, count: int, callee: Callee) -> None:
        where = callee.location()
        if not sub.structure.is_leaf() and (count != 1 or not sub.structure.children()[0].is_leaf()):
            raise ArgumentTypeError(
                f"{self.label}: Expected {callee.name}(*args) to return a single scalar array, got a "
                f"{sub.structure.children()[0].type.__name__}; use has_aux=True for further results",
                where,
            )
        output = sub.graph.outputs[0].type
        if output.shape != ():
            raise ShapeError(
                f"{self.label}: Expected {callee.name}(*args) to return a scalar array, got array with {output.ndim} dims "
                f"(shape {output.shape}). Maybe you wanted to use the vjp or jacrev APIs instead?",
                where,
            )
        if not is_inexact(output.dtype):
            raise DTypeError(
                f"{self.label}: {callee.name} returned {output.dtype}, but derivatives need a float output", where
            )
        if is_complex(output.dtype) and not self.holomorphic:
            raise DTypeError(
                f"{self.label}: {callee.name} returned a complex number; return a real one (such as its abs or real part), "
                "or pass holomorphic=True",
                where,
            )


def _primal(sub: Sub, arrays: Sequence[Array], outputs: Sequence[bool]) -> tuple[list[Any], Any, list[Any]]:
    """Inline the primal part of a function with derivatives for all of its parameters.

    Gives its outputs, the pullback graph for the selected outputs, and the residuals' values.
    """
    which = [True] * sub.num_params + [False] * len(sub.captured)
    primal, back, count = pipeline.pulled_back(sub.graph, which, outputs)
    values = inline(primal, [*arrays, *sub.captured])
    return values[: len(values) - count], back, values[len(values) - count :]


def _conjugated(value: Any) -> Any:
    return require().b.conj(value)


@dataclass(frozen=True)
class Vjp(Transform):
    """(output, pullback[, aux]); the pullback holds the residuals."""

    has_aux: bool = False

    @property
    def label(self) -> str:
        return "vjp"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args:
            raise ArgumentError("vjp: got no primals", user_location())
        chosen = select(callee, args, {}, tuple(range(len(args))), None, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, self.has_aux)
        refuse_updates(sub, chosen.names, self.label)
        _check_inexact(sub, count, callee, "vjp: All outputs of f must be floating-point or complex")
        outputs = [k < count for k in range(len(sub.graph.outputs))]
        values, back, residuals = _primal(sub, chosen.arrays, outputs)
        result = sub.result(wrap(values, sub.slots))
        out_spec = tree.structure(result[0])
        pullback = GraphFunction(
            "vjp_fn", back, tuple(wrap(residuals)), out_spec, tuple(chosen.structures),
            tuple(s.scalar for s in (Slot(0, a.scalar, False) for a in chosen.arrays)), conjugate=True,
        )  # fmt: skip
        return (result[0], pullback, result[1]) if self.has_aux else (result[0], pullback)


def _check_inexact(sub: Sub, count: int, callee: Callee, message: str) -> None:
    for k in range(count):
        if not is_inexact(sub.graph.outputs[k].dtype):
            raise DTypeError(f"{message}, but output {k} is {sub.graph.outputs[k].dtype}", callee.location())


def _check_pair(callee: Callee, primals: Any, tangents: Any, label: str) -> tuple[Selection, list[Array]]:
    """Primals and tangents of equal trees, shapes and dtypes, as Arrays."""
    for what, value in (("primals", primals), ("tangents", tangents)):
        if not isinstance(value, tuple):
            raise ArgumentTypeError(f"{label}: Expected {what} to be a tuple, got {type(value).__name__}", user_location())
    if not tree.leaves(primals):
        raise ArgumentError(f"{label}: Expected at least one array in primals", user_location())
    chosen = select(callee, primals, {}, tuple(range(len(primals))), None, label)
    found, spec = tree.flatten(tangents)
    if spec != tree.structure(primals):
        raise ArgumentTypeError(
            f"{label}: Expected primals and tangents to have the same python structure, but primals have "
            f"{tree.structure(primals)} and tangents {spec}",
            user_location(),
        )
    arrays = matching(found, [a.type for a in chosen.arrays], [f"tangent of argument {n}" for n in chosen.names], label)
    return chosen, arrays


def matching(leaves: Sequence[Any], types: Sequence[ArrayType], names: Sequence[str], label: str) -> list[Array]:
    """The leaves as Arrays of these types; Python scalars take the dtype, anything else must have it."""
    arrays = array_leaves(leaves, names, f"{label}: tangents and cotangents")
    out = []
    for array, want, name in zip(arrays, types, names, strict=True):
        if array.shape != want.shape:
            raise ShapeError(f"{label}: {name} has shape {array.shape}, but should have {want.shape}", user_location())
        if array.dtype != want.dtype:
            if not array.weak or (is_complex(array.dtype) and not is_complex(want.dtype)):
                raise DTypeError(f"{label}: {name} has dtype {array.dtype}, but should have {want.dtype}", user_location())
            array = require().wrap(require().b.astype(require().lift(array), want.dtype), scalar=True)
        out.append(array)
    return out


@dataclass(frozen=True)
class Jvp(Transform):
    """(output, tangent[, aux]) of a function called as f(primals, tangents)."""

    has_aux: bool = False
    strict: bool = False

    @property
    def label(self) -> str:
        return "jvp"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        primals, tangents = args
        chosen, moved = _check_pair(callee, primals, tangents, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, self.has_aux)
        refuse_updates(sub, chosen.names, self.label)
        _check_inexact(sub, count, callee, "jvp: all outputs of f must be floating-point or complex")
        if self.strict:
            _check_dependence(sub, count, callee)
        values, pushed = _forward(sub, chosen.arrays, moved, count)
        result = sub.result(wrap(values, sub.slots))
        spec = tree.structure(result[0])
        tangent = tree.unflatten(spec, wrap(pushed, sub.slots[:count]))
        return (result[0], tangent, result[1]) if self.has_aux else (result[0], tangent)


def _forward(sub: Sub, arrays: Sequence[Array], tangents: Sequence[Array], count: int) -> tuple[list[Any], list[Any]]:
    which = [True] * sub.num_params + [False] * len(sub.captured)
    primal, linear, num = pipeline.pushed_forward(sub.graph, which)
    values = inline(primal, [*arrays, *sub.captured])
    residuals, values = values[len(values) - num :], values[: len(values) - num]
    return values, inline(linear, [*residuals, *tangents])[:count]


def _check_dependence(sub: Sub, count: int, callee: Callee) -> None:
    """strict=True: every output must depend on an input."""
    reached = set(sub.graph.params[: sub.num_params])
    for node in sub.graph.nodes:
        if any(o in reached for o in node.operands):
            reached.update(node.results)
    for k in range(count):
        if sub.graph.outputs[k] not in reached:
            raise ArgumentError(
                f"jvp(f, primals, tangents, strict=True): output {k} of {callee.name} is independent of all inputs",
                callee.location(),
            )


@dataclass(frozen=True)
class Linearize(Transform):
    """(output, jvp_fn), where jvp_fn is linear and holds the residuals."""

    @property
    def label(self) -> str:
        return "linearize"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args:
            raise ArgumentError("linearize: got no primals", user_location())
        chosen = select(callee, args, {}, tuple(range(len(args))), None, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, False)
        refuse_updates(sub, chosen.names, self.label)
        _check_inexact(sub, count, callee, "linearize: all outputs of f must be floating-point or complex")
        which = [True] * sub.num_params + [False] * len(sub.captured)
        primal, linear, num = pipeline.pushed_forward(sub.graph, which)
        values = inline(primal, [*chosen.arrays, *sub.captured])
        (output,) = sub.result(wrap(values[: len(values) - num], sub.slots))
        jvp_fn = GraphFunction(
            "jvp_fn", linear, tuple(wrap(values[len(values) - num :])), tree.structure(args), (tree.structure(output),),
            tuple(s.scalar for s in sub.slots), variadic=True, bare=True,
        )  # fmt: skip
        return output, jvp_fn


@dataclass(frozen=True)
class LinearTranspose(Transform):
    """The transpose of a linear function: takes a cotangent of its output, gives a tuple of cotangents."""

    @property
    def label(self) -> str:
        return "linear_transpose"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = select(callee, args, {}, tuple(range(len(args))), None, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, False)
        refuse_updates(sub, chosen.names, self.label)
        _check_inexact(sub, count, callee, "linear_transpose: all outputs of f must be floating-point or complex")
        graph, n = sub.graph, sub.num_params
        graph = graph.replace(params=(*graph.params[n:], *graph.params[:n]))
        back = pipeline.transposed(graph, len(graph.params) - n)
        captured = [require().wrap(require().lift(a)) for a in sub.captured]
        return GraphFunction(
            "transpose_fn", back, tuple(captured), sub.structure.children()[0], tuple(chosen.structures),
            tuple(a.scalar for a in chosen.arrays),
        )  # fmt: skip


@dataclass(frozen=True)
class Jacobian(Transform):
    """Jacobians by rows (mode "rev") or columns (mode "fwd"), `chunk_size` of them at a time."""

    mode: str
    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    chunk_size: int | None = None
    holomorphic: bool = False

    @property
    def label(self) -> str:
        return f"jac{self.mode}"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = select(callee, args, kwargs, self.argnums, None, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, self.has_aux)
        refuse_updates(sub, chosen.names, self.label)
        _check_inexact(sub, count, callee, f"{self.label}: all outputs of f must be floating-point or complex")
        self._check_complex(sub, count, chosen, callee)
        outs = [o.type for o in sub.graph.outputs[:count]]
        ins = [a.type for a in chosen.arrays]
        blocks, values = (self._rows if self.mode == "rev" else self._columns)(sub, chosen, ins, outs, count)
        result = sub.result(wrap(values, sub.slots))
        # the output's tree, at each leaf the tree of the selected arguments
        nested = [chosen.pack(wrap(blocks[k])) for k in range(count)]
        jacobian = tree.unflatten(tree.structure(result[0]), nested)
        return (jacobian, result[1]) if self.has_aux else jacobian

    def _check_complex(self, sub: Sub, count: int, chosen: Selection, callee: Callee) -> None:
        if self.holomorphic:
            return
        for a, name in zip(chosen.arrays, chosen.names, strict=True):
            if is_complex(a.dtype):
                raise DTypeError(
                    f"{self.label}: argument {name} is complex; pass holomorphic=True for a holomorphic function", user_location()
                )
        for k in range(count):
            if is_complex(sub.graph.outputs[k].dtype):
                raise DTypeError(
                    f"{self.label}: output {k} of {callee.name} is complex; pass holomorphic=True for a holomorphic function",
                    callee.location(),
                )

    def _rows(
        self, sub: Sub, chosen: Selection, ins: list[ArrayType], outs: list[ArrayType], count: int
    ) -> tuple[list[list[Any]], list[Any]]:
        values, back, residuals = _primal(sub, chosen.arrays, [k < count for k in range(len(sub.graph.outputs))])
        rows = _over_basis(back, residuals, outs, self.chunk_size)
        b = require().b
        blocks: list[list[Any]] = []
        starts = _starts(outs)
        for k, out in enumerate(outs):
            cut = [_rows_of(b, r, starts[k], out.size) for r in rows]
            blocks.append([b.reshaped(c, (*out.shape, *t.shape)) for c, t in zip(cut, ins, strict=True)])
        return blocks, values

    def _columns(
        self, sub: Sub, chosen: Selection, ins: list[ArrayType], outs: list[ArrayType], count: int
    ) -> tuple[list[list[Any]], list[Any]]:
        which = [True] * sub.num_params + [False] * len(sub.captured)
        primal, linear, num = pipeline.pushed_forward(sub.graph, which)
        inexact = [k for k, o in enumerate(sub.graph.outputs) if is_inexact(o.dtype)]
        kept = [o for o, k in zip(linear.outputs, inexact, strict=True) if k < count]
        values = inline(primal, [*chosen.arrays, *sub.captured])
        residuals, values = values[len(values) - num :], values[: len(values) - num]
        columns = _over_basis(linear.replace(outputs=tuple(kept)), residuals, ins, self.chunk_size)
        b = require().b
        blocks: list[list[Any]] = [[] for _ in outs]
        starts = _starts(ins)
        for out, column, row in zip(outs, columns, blocks, strict=True):
            for start, t in zip(starts, ins, strict=True):
                cut = _rows_of(b, column, start, t.size)
                cut = b.transposed(cut, (*range(1, out.ndim + 1), 0))
                row.append(b.reshaped(cut, (*out.shape, *t.shape)))
        return blocks, values


def _starts(types: Sequence[ArrayType]) -> list[int]:
    starts, total = [], 0
    for t in types:
        starts.append(total)
        total += t.size
    return starts


def _rows_of(b: Any, x: Any, start: int, count: int) -> Any:
    """x[start:start + count]."""
    if count == x.shape[0]:
        return x
    rest = x.shape[1:]
    return b.slice(x, start=(start,) + (0,) * len(rest), stop=(start + count, *rest), step=(1,) * x.ndim)


def _unit_rows(b: Builder, types: Sequence[ArrayType], index: Value | int, size: int) -> list[Value]:
    """Rows index .. index+size of the identity over all elements of `types`, cut into arrays of these types."""
    parts = []
    for start, t in zip(_starts(types), types, strict=True):
        shape = (size, t.size)
        row = b.iota(shape=shape, dtype=INT64, axis=0)
        if isinstance(index, int):
            offset = b.filled(index - start, ArrayType(shape, INT64))
        else:
            offset = b.broadcast_to(b.sub(index, b.scalar(start, INT64)), shape)
        hit = b.eq(b.add(row, offset), b.iota(shape=shape, dtype=INT64, axis=1))
        parts.append(b.reshaped(b.astype(hit, t.dtype), (size, *t.shape)))
    return parts


def _over_basis(
    linear: Graph, residuals: Sequence[Value], types: Sequence[ArrayType], chunk_size: int | None
) -> list[Value]:
    """The outputs of a linear graph for every unit vector of its linear parameters, stacked on axis 0."""
    b = require().b
    total = sum(t.size for t in types)
    in_dims: list[int | None] = [None] * len(residuals) + [0] * len(types)
    out_dims: list[int | None] = [0] * len(linear.outputs)
    if chunk_size is None or chunk_size >= total:
        rows = pipeline.vmapped(linear, total, in_dims, out_dims)
        return b.inline(rows, [*residuals, *_unit_rows(b, types, 0, total)])
    chunks, rest = divmod(total, chunk_size)
    inner = Builder(f"{linear.name}.chunk")
    held = [inner.param(r.type) for r in residuals]
    index = inner.param(ArrayType((), INT64))
    rows = pipeline.vmapped(linear, chunk_size, in_dims, out_dims)
    body = inner.build(inner.inline(rows, [*held, *_unit_rows(inner, types, index, chunk_size)]))
    first = b.mul(b.iota(shape=(chunks,), dtype=INT64, axis=0), b.filled(chunk_size, ArrayType((chunks,), INT64)))
    stacked = b.emit("map", [*residuals, first], {"length": chunks, "num_consts": len(residuals)}, (body,))
    results = [b.reshaped(s, (chunks * chunk_size, *s.shape[2:])) for s in stacked]
    if rest:
        rows = pipeline.vmapped(linear, rest, in_dims, out_dims)
        last = b.inline(rows, [*residuals, *_unit_rows(b, types, chunks * chunk_size, rest)])
        results = [b.concat(r, part, axis=0) for r, part in zip(results, last, strict=True)]
    return results


# -- batching


@dataclass(frozen=True)
class Vmap(Transform):
    """Lanes over an axis of the arguments."""

    in_dims: Any = 0
    out_dims: Any = 0
    randomness: str = "error"
    chunk_size: int | None = None

    @property
    def label(self) -> str:
        return "vmap"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = tree.flatten(args)
        names = [name for k, arg in enumerate(args) for name in leaf_names(callee, k, arg)]
        dims = self._in_dims(callee, args, leaves, names)
        mapped = [k for k, d in enumerate(dims) if d is not None]
        arrays = [as_array(leaves[k]) for k in mapped]
        size = self._size(arrays, [dims[k] for k in mapped], [names[k] for k in mapped])
        lane = [_lane(a, dims[k]) for a, k in zip(arrays, mapped, strict=True)]

        def call(params: list[Array]) -> Any:
            new = list(leaves)
            for k, p in zip(mapped, params, strict=True):
                new[k] = p
            return callee(*tree.unflatten(spec, new), **kwargs)

        sub = trace_sub(call, lane, callee.name, numbers=False)
        refuse_updates(sub, [names[k] for k in mapped], "vmap")
        if not sub.slots:
            raise ArgumentTypeError(f"vmap({callee.name}): the function returned no array", callee.location())
        leaf_dims = self._out_dims(sub, callee)
        out_dims = [d for d, leaf in zip(leaf_dims, sub.leaves, strict=True) if isinstance(leaf, Slot)]
        in_dims = [*(dims[k] for k in mapped), *(None for _ in sub.captured)]
        values = self._run(sub, size, in_dims, out_dims, [*arrays, *sub.captured], callee)
        slots = [Slot(s.index, s.scalar and d is None, s.weak and d is None) for s, d in zip(sub.slots, out_dims, strict=True)]
        return sub.result(wrap(values, slots))

    def _in_dims(self, callee: Callee, args: tuple[Any, ...], leaves: list[Any], names: list[str]) -> list[int | None]:
        if isinstance(self.in_dims, bool) or not isinstance(self.in_dims, int | tuple):
            raise ArgumentError(
                f"vmap: expected `in_dims` to be int or a (potentially nested) tuple matching the structure of the inputs, "
                f"got {type(self.in_dims).__name__}",
                user_location(),
            )
        if not leaves:
            raise ArgumentError(f"vmap({callee.name}): got no inputs to map over", user_location())
        try:
            dims = tree.broadcast_prefix(self.in_dims, args)
        except ValueError:
            raise ArgumentError(
                f"vmap: in_dims is not compatible with the structure of `inputs`: in_dims is {self.in_dims!r}, the inputs "
                f"have the structure {tree.structure(args)}",
                user_location(),
            ) from None
        out: list[int | None] = []
        for dim, leaf, name in zip(dims, leaves, names, strict=True):
            if dim is None:
                out.append(None)
                continue
            if isinstance(dim, bool) or not isinstance(dim, int):
                raise ArgumentError(f"vmap: in_dims holds {dim!r}; expected ints and None", user_location())
            if not isinstance(leaf, Array) or (leaf.scalar and leaf.weak):
                kind = "float or complex" if isinstance(leaf, Array) else type(leaf).__name__
                raise ArgumentError(
                    f"vmap: Got in_dim={dim} for an input but the input is of type {kind} (argument {name}); expected an "
                    "array, or in_dim None for it",
                    user_location(),
                )
            if not -leaf.ndim <= dim < leaf.ndim:
                raise ArgumentError(
                    f"vmap: Got in_dim={dim} for argument {name}, but that input is an array of dimensionality {leaf.ndim}; "
                    f"expected -{leaf.ndim} <= in_dim < {leaf.ndim}",
                    user_location(),
                )
            out.append(dim % leaf.ndim)
        if all(d is None for d in out):
            raise ArgumentError("vmap: Expected at least one array to vmap over: in_dims maps none", user_location())
        return out

    @staticmethod
    def _size(arrays: list[Array], dims: list[int | None], names: list[str]) -> int:
        sizes = [a.shape[d] for a, d in zip(arrays, dims, strict=True) if d is not None]
        if len(set(sizes)) > 1:
            listed = ", ".join(f"{s} for argument {n}" for s, n in zip(sizes, names, strict=True))
            raise ArgumentError(
                "vmap: Expected all arrays to have the same size in the mapped dimension, got sizes "
                f"{sizes} ({listed})",
                user_location(),
            )
        return sizes[0]

    def _out_dims(self, sub: Sub, callee: Callee) -> list[int | None]:
        """One dim per leaf of the result, normalised; None stays."""
        structure, leaves = sub.structure, sub.leaves
        skeleton = tree.unflatten(structure, range(len(leaves)))
        spec = self.out_dims
        if isinstance(spec, bool) or not isinstance(spec, int | tuple | list | dict | None):
            raise ArgumentError(
                f"vmap: `out_dims` must be an int, None or a python collection of ints, got {type(spec).__name__}",
                user_location(),
            )
        if structure.is_leaf() and isinstance(spec, tuple) and len(spec) == 1:
            spec = spec[0]  # torch allows (1,) for a single output
        try:
            dims = tree.broadcast_prefix(spec, skeleton)
        except ValueError:
            raise ArgumentError(
                f"vmap({callee.name}): out_dims is not compatible with the structure of `outputs`: out_dims is "
                f"{self.out_dims!r}, the outputs have the structure {structure}",
                user_location(),
            ) from None
        out: list[int | None] = []
        for dim, leaf in zip(dims, leaves, strict=True):
            if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
                raise ArgumentError("vmap: `out_dims` must be an int, None or a python collection of ints", user_location())
            if not isinstance(leaf, Slot):
                if dim is not None:
                    raise ArgumentTypeError(
                        f"vmap({callee.name}): the function must only return arrays, got type {type(leaf).__name__}. "
                        "Did you mean to set out_dims= to None for this output?",
                        callee.location(),
                    )
                out.append(None)
                continue
            ndim = sub.graph.outputs[leaf.index].ndim + 1
            if dim is not None and not -ndim <= dim < ndim:
                raise BoundsError(
                    f"vmap: Dimension out of range: out_dims has {dim}, but the output has {ndim} dimensions", user_location()
                )
            out.append(None if dim is None else dim % ndim)
        return out

    def _run(
        self, sub: Sub, size: int, in_dims: list[int | None], out_dims: list[int | None], arrays: list[Array], callee: Callee
    ) -> list[Value]:
        try:
            if self.chunk_size is None or self.chunk_size >= size:
                return inline(pipeline.vmapped(sub.graph, size, in_dims, out_dims), arrays)
            return self._chunks(sub, size, in_dims, out_dims, arrays)
        except ArgumentError as error:
            if getattr(error, "output_index", None) is None:
                raise
            raise ArgumentError(
                f"vmap({callee.name}): can not return a batched array when out_dim is None (output "
                f"{error.output_index}); give it an out_dim",  # type: ignore[attr-defined]
                user_location(),
            ) from None

    def _chunks(
        self, sub: Sub, size: int, in_dims: list[int | None], out_dims: list[int | None], arrays: list[Array]
    ) -> list[Value]:
        """A loop over chunks of lanes, then the rest; each chunk's lanes at once."""
        trace = require()
        b, chunk = trace.b, self.chunk_size or size
        front: list[int | None] = [None if d is None else 0 for d in in_dims]
        back: list[int | None] = [None if d is None else 0 for d in out_dims]
        values = [trace.lift(a) for a in arrays]
        values = [v if d is None else b.moved(v, d, 0) for v, d in zip(values, in_dims, strict=True)]
        chunks, rest = divmod(size, chunk)
        held = [v for v, d in zip(values, front, strict=True) if d is None]
        moving = [v for v, d in zip(values, front, strict=True) if d == 0]
        inner = Builder(f"{sub.graph.name}.chunk")
        consts = iter([inner.param(v.type) for v in held])
        items = iter([inner.param(v.type.with_shape((chunk, *v.shape[1:]))) for v in moving])
        arguments = [next(consts) if d is None else next(items) for d in front]
        body = inner.build(inner.inline(pipeline.vmapped(sub.graph, chunk, front, back), arguments))
        xs = [b.reshaped(_rows_of(b, v, 0, chunks * chunk), (chunks, chunk, *v.shape[1:])) for v in moving]
        stacked = b.emit("map", [*held, *xs], {"length": chunks, "num_consts": len(held)}, (body,))
        results = [
            _first(b, s) if d is None else b.reshaped(s, (chunks * chunk, *s.shape[2:]))
            for s, d in zip(stacked, back, strict=True)
        ]
        if rest:
            tail = [v if d is None else _rows_of(b, v, chunks * chunk, rest) for v, d in zip(values, front, strict=True)]
            last = b.inline(pipeline.vmapped(sub.graph, rest, front, back), tail)
            results = [r if d is None else b.concat(r, t, axis=0) for r, t, d in zip(results, last, back, strict=True)]
        return [r if d is None else b.moved(r, 0, d) for r, d in zip(results, out_dims, strict=True)]


def _first(b: Builder, x: Value) -> Value:
    """x[0]."""
    return b.reshaped(_rows_of(b, x, 0, 1), x.shape[1:])


def _lane(array: Array, dim: int | None) -> tuple[ArrayType, bool]:
    """The type of one lane of an array, and whether it is a scalar (as x[i] of a 1-d x is)."""
    assert dim is not None
    shape = array.shape[:dim] + array.shape[dim + 1 :]
    return ArrayType(shape, array.dtype), not shape

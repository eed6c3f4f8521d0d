"""vmap: lanes over an axis of the arguments, all at once or a chunk of them at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentError, ArgumentTypeError, BoundsError
from nufunc.ir.graph import Value
from nufunc.ir.types import ArrayType
from nufunc.runtime import pipeline
from nufunc.runtime.subgraph import Slot, Sub, as_array, inline, rows_of, trace_sub, wrap, write_updates
from nufunc.runtime.transform import Callee, Transform, leaf_names
from nufunc.runtime.updates import admit_updates, refuse_shared
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.layout import canonical
from nufunc.tracer.levels import at_level
from nufunc.tracer.np_core import strides_of
from nufunc.tracer.np_random import Lanes
from nufunc.tracer.trace import require
from nufunc.tracer.usercode import user_location


class Dims:
    """Dims given as nested dicts or lists, in a hashable form: equal if they print equally, as they hold ints, None
    and keys.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._key = repr(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dims) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return self._key


def _plain(dims: Any) -> Any:
    return dims.value if isinstance(dims, Dims) else dims


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

        drawn = Lanes(self.randomness, size)

        def call(params: list[Array]) -> Any:
            inner = require()
            inner.lanes = drawn
            at_level(inner, "vmap", arrays, size, [dims[k] for k in mapped])  # type: ignore[misc]
            new = list(leaves)
            for k, p in zip(mapped, params, strict=True):
                new[k] = p
            return callee(*tree.unflatten(spec, new), **kwargs)

        sub = trace_sub(call, lane, callee.name, numbers=False)
        shared = [(x, n) for x, n, d in zip(leaves, names, dims, strict=True) if d is None and isinstance(x, Array)]
        admit_updates(sub, arrays, [names[k] for k in mapped], refuse_shared(sub, shared, "vmap"))
        if not sub.slots:
            raise ArgumentTypeError(f"vmap({callee.name}): the function returned no array", callee.location())
        leaf_dims = self._out_dims(sub, callee)
        out_dims = [d for d, leaf in zip(leaf_dims, sub.leaves, strict=True) if isinstance(leaf, Slot)]
        in_dims = [*(dims[k] for k in mapped), *(0 if id(a) in drawn.mapped else None for a in sub.captured)]
        written = [in_dims[k] for k in sub.graph.updates]
        values = self._run(sub, size, in_dims, [*out_dims, *written], [*arrays, *sub.captured], callee)
        slots = [
            Slot(s.index, s.scalar and d is None, s.weak and d is None)
            for s, d in zip(sub.slots, out_dims, strict=True)
        ]
        result = sub.result(wrap(values[: sub.num_outputs], slots))
        write_updates(sub, arrays, values)
        return result

    def _in_dims(self, callee: Callee, args: tuple[Any, ...], leaves: list[Any], names: list[str]) -> list[int | None]:
        spec = _plain(self.in_dims)
        if isinstance(spec, bool) or not isinstance(spec, int | tuple):
            raise ArgumentError(
                f"vmap: expected `in_dims` to be int or a (potentially nested) tuple matching the structure of "
                f"the inputs, "
                f"got {type(spec).__name__}",
                user_location(),
            )
        if not leaves:
            raise ArgumentError(f"vmap({callee.name}): got no inputs to map over", user_location())
        try:
            dims = tree.broadcast_prefix(spec, args)
        except ValueError:
            raise ArgumentError(
                f"vmap: in_dims is not compatible with the structure of `inputs`: in_dims is {self.in_dims!r}, "
                f"the inputs "
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
                    f"vmap: Got in_dim={dim} for an input but the input is of type {kind} (argument {name}); "
                    f"expected an "
                    "array, or in_dim None for it",
                    user_location(),
                )
            if not -leaf.ndim <= dim < leaf.ndim:
                raise ArgumentError(
                    f"vmap: Got in_dim={dim} for argument {name}, but that input is an array of dimensionality "
                    f"{leaf.ndim}; "
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
        spec = _plain(self.out_dims)
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
                raise ArgumentError(
                    "vmap: `out_dims` must be an int, None or a python collection of ints", user_location()
                )
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
                    f"vmap: Dimension out of range: out_dims has {dim}, but the output has {ndim} dimensions",
                    user_location(),
                )
            out.append(None if dim is None else dim % ndim)
        return out

    def _run(
        self,
        sub: Sub,
        size: int,
        in_dims: list[int | None],
        out_dims: list[int | None],
        arrays: list[Array],
        callee: Callee,
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
        xs = [b.reshaped(rows_of(b, v, 0, chunks * chunk), (chunks, chunk, *v.shape[1:])) for v in moving]
        stacked = b.emit("map", [*held, *xs], {"length": chunks, "num_consts": len(held)}, (body,))
        results = [
            _first(b, s) if d is None else b.reshaped(s, (chunks * chunk, *s.shape[2:]))
            for s, d in zip(stacked, back, strict=True)
        ]
        if rest:
            tail = [v if d is None else rows_of(b, v, chunks * chunk, rest) for v, d in zip(values, front, strict=True)]
            last = b.inline(pipeline.vmapped(sub.graph, rest, front, back), tail)
            results = [r if d is None else b.concat(r, t, axis=0) for r, t, d in zip(results, last, back, strict=True)]
        return [r if d is None else b.moved(r, 0, d) for r, d in zip(results, out_dims, strict=True)]


def _first(b: Builder, x: Value) -> Value:
    """x[0]."""
    return b.reshaped(rows_of(b, x, 0, 1), x.shape[1:])


def _lane(array: Array, dim: int | None) -> tuple[ArrayType, bool, tuple[int, ...] | None]:
    """The type of one lane of an array, whether it is a scalar (as x[i] of a 1-d x is), and its strides."""
    assert dim is not None
    shape, own = array.shape[:dim] + array.shape[dim + 1 :], strides_of(array)
    return array.type.with_shape(shape), not shape, canonical(shape, own[:dim] + own[dim + 1 :])

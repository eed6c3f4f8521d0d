"""Control flow on traced values: the functions that trace their bodies into regions of cond, while, scan and map
nodes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import ArgumentError, ArgumentTypeError, BoundsError, ShapeError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import BOOL, INT64, ArrayType
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array
from nufunc.tracer.np_namespace import numpy
from nufunc.tracer.trace import Trace, require
from nufunc.tracer.usercode import user_location


class _Region:
    """A body traced on its own: its result tree, and the arrays of enclosing traces that it captured."""

    def __init__(self, name: str, types: Sequence[ArrayType], call: Callable[[list[Array]], Any]) -> None:
        self.trace = Trace(name)
        with self.trace:
            params = [self.trace.param(t, scalar=not t.shape) for t in types]
            leaves, self.structure = tree.flatten(call(params))
            self.outputs = [as_array(leaf) for leaf in leaves]
        self.params = list(self.trace.builder.params[: len(params)])

    @property
    def captured(self) -> list[Array]:
        return [array for array, _ in self.trace.captured.values()]

    def convert(self, k: int, dtype: np.dtype) -> None:
        """Give output k this dtype."""
        if self.outputs[k].dtype != dtype:
            with self.trace:
                value = self.trace.b.astype(self.trace.lift(self.outputs[k]), dtype)
                self.outputs[k] = self.trace.wrap(value, scalar=not value.shape)

    def retype(self, k: int, dtype: np.dtype) -> None:
        """Give parameter k and output k this dtype; the body computes with the parameter as it was."""
        param = self.params[k]
        if param.dtype != dtype:
            self.params[k] = Value(param.type.with_dtype(dtype), param.hint)
            node = Node("convert", (self.params[k],), {"dtype": param.dtype}, (), (param,))
            self.trace.builder.nodes.insert(0, node)
        self.convert(k, dtype)

    def graph(self, captured: Sequence[Array]) -> Graph:
        """The region over (captured..., params...), for a list of captured arrays that includes its own."""
        graph = self.trace.finish(self.outputs)
        own = {id(array): value for array, value in self.trace.captured.values()}
        consts = [own.get(id(a)) or Value(a.type) for a in captured]
        return graph.replace(params=(*consts, *self.params))


def _union(regions: Sequence[_Region]) -> list[Array]:
    """The arrays that any of the regions captured, each once."""
    return list({id(a): a for r in regions for a in r.captured}.values())


def _wrapped(values: Sequence[Value]) -> list[Array]:
    trace = require()
    return [trace.wrap(v, scalar=not v.shape) for v in values]


def _index(pred: Any, what: str) -> Array:
    array = as_array(pred)
    if array.shape != ():
        raise ShapeError(f"{what} must be a scalar, but has shape {array.shape}", user_location())
    return array


def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any) -> Any:
    """See `nufunc.cond`."""
    if isinstance(pred, bool | np.bool_):
        return true_fun(*operands) if pred else false_fun(*operands)
    array = _index(pred, "cond: pred")
    trace = require()
    value = trace.b.astype(trace.lift(array), BOOL)
    return _branches(value, [false_fun, true_fun], operands, "cond")


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """See `nufunc.switch`."""
    if not branches:
        raise ArgumentError("switch: branches must not be empty", user_location())
    if isinstance(index, int | np.integer):
        return branches[min(max(int(index), 0), len(branches) - 1)](*operands)
    array = _index(index, "switch: index")
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(f"switch: index must be an integer, got {array.dtype}", user_location())
    trace = require()
    return _branches(trace.b.astype(trace.lift(array), INT64), branches, operands, "switch")


def _branches(index: Value, functions: Sequence[Callable[..., Any]], operands: tuple[Any, ...], what: str) -> Any:
    regions = [_Region(f"{what}.{k}", (), lambda _, f=f: f(*operands)) for k, f in enumerate(functions)]  # type: ignore[misc]
    first = regions[0]
    for region in regions[1:]:
        if region.structure != first.structure:
            raise ArgumentTypeError(
                f"{what}: the branches return different structures: {first.structure} and {region.structure}",
                user_location(),
            )
    for k in range(len(first.outputs)):
        found = [r.outputs[k] for r in regions]
        if len({a.shape for a in found}) > 1:
            raise ShapeError(
                f"{what}: the branches return arrays of different shapes: {', '.join(str(a.shape) for a in found)}",
                user_location(),
            )
        strong = {a.dtype for a in found if not a.weak} or {promotion.result_type(*(a.dtype for a in found))}
        if len(strong) > 1:
            raise ArgumentTypeError(
                f"{what}: the branches return different dtypes: {', '.join(str(a.dtype) for a in found)}",
                user_location(),
            )
        for region in regions:
            region.convert(k, next(iter(strong)))
    captured = _union(regions)
    trace = require()
    b = trace.b
    graphs = [r.graph(captured) for r in regions]
    results = b.emit("cond", [index, *(trace.lift(a) for a in captured)], {}, graphs)
    return tree.unflatten(first.structure, _wrapped(results))


class _Nest(threading.local):
    """The dtypes that the carries of a nest of loops were found to take, by the place of each loop in the nest.

    Note [Weak carries]
    A Python number among the initial carry takes the dtype that the body gives back, which is known once the body has
    been traced; then it is traced again. Inner loops do not trace themselves again, which would double the work with
    every level: they note what they found, go on with a region that has the right types but not the right values, and
    the outermost loop traces the whole nest again, until nothing new is found.
    """

    dtypes: dict[tuple[int, ...], list[np.dtype]] | None = None
    place: tuple[int, ...] = ()
    count: int = 0  # loops met so far in the body that is traced
    found: bool = False


_NEST = _Nest()
_PASSES = 8  # over a nest: dtypes only grow


def _fixed_carry(what: str, init: Any, trace_body: Callable[[list[Array]], _Region]) -> tuple[list[Array], _Region]:
    """The initial carry and the body's region, with Python scalars of the carry taking the dtype that the body
    gives.
    """
    if _NEST.dtypes is not None:
        return _carry_and_body(what, init, trace_body)
    _NEST.dtypes = {}
    try:
        for _ in range(_PASSES):
            _NEST.place, _NEST.count, _NEST.found = (), 0, False
            carry, region = _carry_and_body(what, init, trace_body)
            if not _NEST.found:
                break
    finally:
        _NEST.dtypes = None
    return carry, region


def _carry_and_body(what: str, init: Any, trace_body: Callable[[list[Array]], _Region]) -> tuple[list[Array], _Region]:
    """One pass: the carry in the dtypes known so far, the body, and a note of those that it should have."""
    assert _NEST.dtypes is not None
    leaves, structure = tree.flatten(init)
    carry = [as_array(leaf) for leaf in leaves]
    around, place = (_NEST.place, _NEST.count + 1), (*_NEST.place, _NEST.count)
    known = _NEST.dtypes.get(place, [c.dtype for c in carry])
    carry = [_promoted(c, d) for c, d in zip(carry, known, strict=True)]
    weak = [as_array(leaf).weak for leaf in leaves]
    _NEST.place, _NEST.count = place, 0
    try:
        region = trace_body(carry)
    finally:
        _NEST.place, _NEST.count = around
    given = zip(carry, region.outputs, weak, strict=False)
    wanted = [promotion.result_type(c.dtype, o.dtype) if w else c.dtype for c, o, w in given]
    if len(wanted) == len(carry) and wanted != known:
        _NEST.dtypes[place], _NEST.found = wanted, True
        carry = [_promoted(c, d) for c, d in zip(carry, wanted, strict=True)]
        for k, dtype in enumerate(wanted):
            region.retype(k, dtype)
    _check_carry(what, carry, structure, region)
    return carry, region


def _promoted(c: Array, dtype: np.dtype) -> Array:
    """A Python number as a number of this dtype."""
    return c if c.dtype == dtype else as_array(np.dtype(dtype).type(0)) + c


def _check_carry(what: str, carry: list[Array], structure: tree.TreeDef, region: _Region) -> None:
    """The body gives back the carry's structure, shapes and dtypes."""
    returned = region.structure
    if what == "scan":
        returned = region.structure.children()[0]
    if returned != structure:
        raise ArgumentTypeError(
            f"{what}: the body must return a carry of the structure {structure}, but returned {returned}",
            user_location(),
        )
    for k, c in enumerate(carry):
        out = region.outputs[k]
        if out.shape != c.shape:
            raise ShapeError(
                f"{what}: leaf {k} of the carry has shape {c.shape}, but the body returns shape {out.shape}",
                user_location(),
            )
        if out.dtype != c.dtype:
            if not out.weak:
                raise ArgumentTypeError(
                    f"{what}: leaf {k} of the carry is {c.dtype}, but the body returns {out.dtype}; convert one "
                    f"with astype",
                    user_location(),
                )
            region.convert(k, c.dtype)


def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init: Any) -> Any:
    """See `nufunc.while_loop`."""
    structure = tree.structure(init)

    def trace_body(carry: list[Array]) -> _Region:
        return _Region("while.body", [c.type for c in carry], lambda p: body_fun(tree.unflatten(structure, p)))

    carry, body = _fixed_carry("while_loop", init, trace_body)
    test = _Region("while.cond", [c.type for c in carry], lambda p: cond_fun(tree.unflatten(structure, p)))
    if len(test.outputs) != 1 or test.outputs[0].shape != ():
        raise ShapeError(
            f"while_loop: the condition must return one scalar, got {[str(o.type) for o in test.outputs]}",
            user_location(),
        )
    test.convert(0, BOOL)
    trace = require()
    b = trace.b
    attrs = {"num_cond": len(test.captured), "num_body": len(body.captured)}
    operands = [trace.lift(a) for a in (*test.captured, *body.captured, *carry)]
    results = b.emit("while", operands, attrs, (test.graph(test.captured), body.graph(body.captured)))
    return tree.unflatten(structure, _wrapped(results))


def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init: Any) -> Any:
    """See `nufunc.fori_loop`."""
    if isinstance(lower, int | np.integer) and isinstance(upper, int | np.integer):
        length = max(int(upper) - int(lower), 0)
        trace = require()
        b = trace.b
        steps = b.iota(shape=(length,), dtype=INT64, axis=0)
        if lower:
            steps = b.add(steps, b.filled(int(lower), steps.type))
        return scan(lambda carry, i: (body_fun(i, carry), None), init, trace.wrap(steps))[0]
    start, stop = _index(lower, "fori_loop: lower"), _index(upper, "fori_loop: upper")
    trace = require()
    bounds = [trace.wrap(trace.b.astype(trace.lift(x), INT64), scalar=True) for x in (start, stop)]

    def body(state: tuple[Any, Any]) -> tuple[Any, Any]:
        i, carry = state
        return i + 1, body_fun(i, carry)

    return while_loop(lambda state: state[0] < bounds[1], body, (bounds[0], init))[1]


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """See `nufunc.scan`."""
    items, items_structure = tree.flatten(xs)
    arrays = [as_array(x) for x in items]
    count = _length("scan", arrays, length)
    item_types = [a.type.with_shape(a.shape[1:]) for a in arrays]
    structure = tree.structure(init)

    def trace_body(carry: list[Array]) -> _Region:
        def call(params: list[Array]) -> Any:
            result = f(
                tree.unflatten(structure, params[: len(carry)]), tree.unflatten(items_structure, params[len(carry) :])
            )
            if not isinstance(result, tuple) or len(result) != 2:
                raise ArgumentTypeError("scan: the body must return a pair (carry, y)", user_location())
            return result

        return _Region("scan.body", [*(c.type for c in carry), *item_types], call)

    carry, body = _fixed_carry("scan", init, trace_body)
    trace = require()
    b = trace.b
    captured = body.captured
    attrs = {"length": count, "reverse": bool(reverse), "num_consts": len(captured), "num_carry": len(carry)}
    operands = [trace.lift(a) for a in (*captured, *carry, *arrays)]
    results = b.emit("scan", operands, attrs, (body.graph(captured),))
    carry_and_ys: tuple[Any, Any] = tree.unflatten(body.structure, _wrapped(results))
    return carry_and_ys


def map(f: Callable[[Any], Any], xs: Any) -> Any:
    """See `nufunc.map`."""
    items, structure = tree.flatten(xs)
    arrays = [as_array(x) for x in items]
    count = _length("map", arrays, None)
    body = _Region(
        "map.body", [a.type.with_shape(a.shape[1:]) for a in arrays], lambda p: f(tree.unflatten(structure, p))
    )
    trace = require()
    b = trace.b
    captured = body.captured
    operands = [trace.lift(a) for a in (*captured, *arrays)]
    results = b.emit("map", operands, {"length": count, "num_consts": len(captured)}, (body.graph(captured),))
    return tree.unflatten(body.structure, _wrapped(results))


def associative_scan(f: Callable[[Any, Any], Any], xs: Any, reverse: bool = False, axis: int = 0) -> Any:
    """See `nufunc.associative_scan`."""
    leaves, structure = tree.flatten(xs)
    arrays = [as_array(leaf) for leaf in leaves]
    for a in arrays:
        if not -a.ndim <= axis < a.ndim:
            raise BoundsError(
                f"associative_scan: axis {axis} is outside the {a.ndim} axes of an array of xs", user_location()
            )
    items = [numpy.moveaxis(a, axis, 0) for a in arrays]
    count = _length("associative_scan", items, None)
    if not count:
        return xs
    wide = [numpy.expand_dims(a, axis % a.ndim + 1) for a in items]  # an item keeps the axis, with length 1

    def step(carry: Any, item: Any) -> tuple[Any, Any]:
        total = f(carry, item)
        return total, total

    first = tree.unflatten(structure, [a[count - 1 if reverse else 0] for a in wide])
    rest = tree.unflatten(structure, [a[: count - 1] if reverse else a[1:] for a in wide])
    totals = tree.leaves(scan(step, first, rest, count - 1, reverse)[1])
    joined = []
    for one, others, array in zip(tree.leaves(first), totals, arrays, strict=True):
        parts = [others, one[None]] if reverse else [one[None], others]
        place = axis % array.ndim
        joined.append(numpy.moveaxis(numpy.squeeze(numpy.concatenate(parts), axis=place + 1), 0, place))
    return tree.unflatten(structure, joined)


def _length(what: str, arrays: list[Array], length: int | None) -> int:
    sizes = {a.shape[0] for a in arrays if a.ndim}
    if any(not a.ndim for a in arrays):
        raise ShapeError(
            f"{what}: the arrays of xs need a leading axis to run over, but one is a scalar", user_location()
        )
    if length is not None:
        sizes.add(int(length))
    if len(sizes) != 1:
        found = f"lengths {sorted(sizes)}" if sizes else "no array and no length"
        raise ShapeError(f"{what}: needs one length for all of xs, got {found}", user_location())
    return sizes.pop()

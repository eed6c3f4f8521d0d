"""What staged code calls: control flow that stays Python where conditions are concrete, and becomes nodes elsewhere."""

from __future__ import annotations

import builtins
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import CellType, FunctionType
from typing import Any

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.errors import TraceError
from nufunc.ir.types import BOOL
from nufunc.tracer.array import Array
from nufunc.tracer.staging_loops import OneIterationError, StagedLoop, WrittenCarryError
from nufunc.tracer.staging_regions import branch, cells_of, get, in_region, put, region
from nufunc.tracer.staging_values import UNBOUND, Undefined
from nufunc.tracer.staging_watch import Watch
from nufunc.tracer.trace import Trace, require
from nufunc.tracer.usercode import user_location

Thunk = Callable[[], Any]
UNROLLED = 64  # so many iterations are traced one by one where a loop cannot be staged as such


def truth(x: Any) -> Any:
    """The truth of a value: a bool, or a traced bool where it is not known."""
    if type(x) is not Array:
        return bool(x)
    if x.size != 1 or x.known is not None:
        return bool(x)  # NumPy's own error, or a constant
    trace = require()
    b = trace.b
    value = b.reshaped(trace.lift(x), ())
    if value.dtype != BOOL:
        value = b.ne(value, b.filled(0, value.type))
    return x if x.weak and x.dtype == BOOL else trace.wrap(value, weak=True, scalar=True)


def value(x: Any, name: str) -> Any:
    """The value of a variable; an error that says why where it has none."""
    if type(x) is Undefined:
        x.refuse(name)
    return x


def print_(original: Any, *args: Any, **kwargs: Any) -> Any:
    """`print(...)`, with a note where it does not do what it seems to."""
    where = user_location()
    if original is builtins.print and in_region() and where is not None:
        note = (
            "print() in a branch or loop on a traced condition prints while tracing, on all paths and once only; "
            "nf.debug.print prints when the compiled function runs"
        )
        warnings.warn_explicit(note, UserWarning, where.file, where.line)
    return original(*args, **kwargs)


# -- operators


def not_(x: Any) -> Any:
    test = truth(x)
    return not test if type(test) is bool else _logical("bit_not", test)


def _logical(prim: str, *tests: Array) -> Array:
    trace = require()
    return trace.wrap(trace.b.emit(prim, [trace.lift(t) for t in tests])[0], weak=True, scalar=True)


def both(first: Any, *others: Thunk) -> Any:
    """The truth of `first and others...`."""
    return _connected(first, others, True)


def either(first: Any, *others: Thunk) -> Any:
    """The truth of `first or others...`."""
    return _connected(first, others, False)


def _connected(first: Any, others: Sequence[Thunk], goes_on: bool) -> Any:
    """The truth of operands of which the next is looked at as long as those before are all `goes_on`."""
    test = truth(first)
    for k, thunk in enumerate(others):
        if type(test) is bool:
            if test is not goes_on:
                return test
            test = truth(thunk())
        elif _tried(thunk)[1]:
            other = truth(thunk())
            if type(other) is bool:
                test = test if other is goes_on else other
            else:
                test = _logical("bit_and" if goes_on else "bit_or", test, other)
        else:
            rest = lambda k=k: _connected(others[k](), others[k + 1 :], goes_on)
            return chosen(test, rest, lambda: False) if goes_on else chosen(test, lambda: True, rest)
    return test


def _tried(thunk: Thunk) -> tuple[Any, bool]:
    """What an operand that Python may skip gives, and whether computing it always is right and cheap: a few scalars."""
    what = "an operand of `and` or `or`"
    watch = Watch([thunk], [])
    with region("operand", what) as trace:
        found = thunk()
    watch.check(thunk, what)
    nodes = trace.builder.nodes
    return found, len(nodes) <= 12 and all(
        (primitive.get(n.prim).cheap or n.prim in ("full", "convert", "add", "sub", "mul"))
        and n.results
        and n.results[0].type.size == 1
        for n in nodes
    )


def and_(first: Any, *others: Thunk) -> Any:
    """`first and others...`: the first operand that is false, or the last."""
    return _operand(first, others, True)


def or_(first: Any, *others: Thunk) -> Any:
    """`first or others...`: the first operand that is true, or the last."""
    return _operand(first, others, False)


def _operand(first: Any, others: Sequence[Thunk], goes_on: bool) -> Any:
    result = first
    for thunk in others:
        test = truth(result)
        if type(test) is bool:
            if test is not goes_on:
                return result
            result = thunk()
            continue
        if _is_truth(result):
            found, _ = _tried(thunk)
            if _is_truth(found) or type(found) is bool:  # the operands are their own truths
                result = _connected(result, [thunk], goes_on)
                continue
        keep = lambda kept=result: kept
        result = chosen(test, thunk, keep) if goes_on else chosen(test, keep, thunk)
    return result


def _is_truth(x: Any) -> bool:
    return type(x) is Array and x.weak and x.dtype == BOOL


def ifexp(test: Any, first: Thunk, second: Thunk) -> Any:
    """`first if test else second`."""
    pred = truth(test)
    if type(pred) is bool:
        return first() if pred else second()
    return chosen(pred, first, second)


def chosen(pred: Array, first: Thunk, second: Thunk) -> Any:
    """The value of one of two expressions."""
    cell = CellType()
    branch(pred, lambda: put(cell, first()), lambda: put(cell, second()), {"@result": cell}, (first, second))
    result = get(cell)
    if type(result) is Undefined:
        raise TraceError(f"the value of this expression {result.reason}", user_location())
    return result


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq, "NotEq": operator.ne, "Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt,
    "GtE": operator.ge, "Is": operator.is_, "IsNot": operator.is_not,
    "In": lambda x, y: x in y, "NotIn": lambda x, y: x not in y,
}  # fmt: skip


def chain(left: Any, kind: str, right: Any, *links: Any) -> Any:
    """A chained comparison; `links` are kinds and operands in turn."""
    result = _COMPARISONS[kind](left, right)
    if not links:
        return result
    return and_(result, lambda: chain(right, links[0], links[1](), *links[2:]))


# -- statements


def if_(test: Any, first: FunctionType, second: FunctionType | None, names: Sequence[str]) -> None:
    """`if test: first() else: second()`."""
    pred = truth(test)
    if type(pred) is bool:
        if pred:
            first()
        elif second is not None:
            second()
        return
    branch(pred, first, second, cells_of(names, first, second), ())


def guard(flags: Sequence[str], body: FunctionType, names: Sequence[str]) -> None:
    """Run what follows a jump, unless one of the flags is set."""
    cells = cells_of(names, body)
    stop = _stopped(flags, cells)
    if type(stop) is bool:
        if not stop:
            body()
        return
    _guarded(stop, flags, body, cells, (body,))


def _guarded(
    stop: Array, flags: Sequence[str], body: Thunk, cells: dict[str, CellType], watched: Sequence[Any]
) -> None:
    def unless_stopped() -> None:
        for flag in flags:  # here none of them is set
            if flag in cells:
                put(cells[flag], False)
        if "@returned" in flags and "@value" in cells:
            put(cells["@value"], UNBOUND)
        body()

    branch(stop, None, unless_stopped, cells, watched)


def _stopped(flags: Sequence[str], cells: dict[str, CellType]) -> Any:
    """Whether one of the flags is set."""
    stop: Any = False
    for flag in flags:
        if flag in cells:
            stop = either(stop, lambda cell=cells[flag]: get(cell))  # type: ignore[misc]
            if stop is True:
                break
    return stop


def while_(test: FunctionType, body: FunctionType, names: Sequence[str], flags: Sequence[str]) -> None:
    """`while test(): body()`, where the body may set flags that end the loop."""
    cells = cells_of(names, test, body)

    def step() -> Any:
        body()
        stop = _stopped(flags, cells)
        if type(stop) is bool:
            return not stop and truth(test())
        return both(not_(stop), test)

    go_on = truth(test())
    while type(go_on) is bool:
        if not go_on:
            return
        go_on = step()
    _staged(go_on, step, cells, flags, "the `while` loop", (test, body))


def _staged(
    start: Any,
    step: Thunk,
    cells: dict[str, CellType],
    flags: Sequence[str],
    what: str,
    watched: Sequence[Any],
    fresh: Trace | None = None,
) -> None:
    """The rest of a loop as a node; `start` is whether there is any."""
    loop = StagedLoop(step, cells, flags, what, runs_once=start is True, fresh=fresh)
    try:
        loop.run(start, watched)
    except OneIterationError:
        _in_branch(start, step, flags, cells, watched)
    except WrittenCarryError as error:
        if fresh is not None:
            raise TraceError(
                f"{what} writes in place to the array {error} and then assigns {error} anew, while another variable "
                f"shows that array; use one of the two, or copy it: {error} = {error}.copy()",
                user_location(),
            ) from None

        def rest() -> None:  # after one iteration the arrays that are written to are the loop's own
            go_on = step()
            if go_on is not False:
                _staged(go_on, step, cells, flags, what, watched, None if start is True else require())

        _in_branch(start, rest, flags, cells, watched)


def _in_branch(
    start: Any, body: Thunk, flags: Sequence[str], cells: dict[str, CellType], watched: Sequence[Any]
) -> None:
    if type(start) is bool:
        if start:
            body()
        return
    _guarded(not_(start), flags, body, cells, watched)


class TracedRange:
    """range(start, stop, step) with a traced start or stop."""

    def __init__(self, start: Any, stop: Any, step: int) -> None:
        self.start, self.stop, self.step = start, stop, step

    def __iter__(self) -> Iterator[int]:
        raise TraceError("range() of a traced value can only be what a `for` statement runs over", user_location())


def range_(original: Any, *args: Any) -> Any:
    """`range(*args)` as what a for statement runs over."""
    if original is not builtins.range or not any(type(a) is Array and a.known is None for a in args):
        return original(*args)
    if not 1 <= len(args) <= 3:
        return original(*args)
    for arg in args:
        if not isinstance(arg, Array | int | np.integer) or (
            isinstance(arg, Array) and (arg.size != 1 or arg.dtype.kind not in "iu")
        ):
            raise TypeError("range() takes integers")
    start, stop = (0, args[0]) if len(args) == 1 else args[:2]
    step = operator.index(args[2]) if len(args) == 3 else 1
    if step == 0:
        raise ValueError("range() arg 3 must not be zero")
    return TracedRange(_integer(start), _integer(stop), step)


class Indexed:
    """zip or enumerate of arrays and ranges: a number of items, and how to take the one at an index, traced or not."""

    def __init__(self, length: int, take: Callable[[Any], Any]) -> None:
        self.length, self.take = length, take

    def __iter__(self) -> Iterator[Any]:
        return (self.take(i) for i in range(self.length))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: Any) -> Any:
        return self.take(i)


_INDEXED = (Array, Indexed, range)


def zip_(original: Any, *args: Any) -> Any:
    """`zip(*args)` as what a for statement runs over."""
    if original is not builtins.zip or not args or not all(type(a) in _INDEXED for a in args):
        return original(*args)
    return Indexed(min(map(len, args)), lambda i: tuple([_taken(a, i) for a in args]))


def enumerate_(original: Any, *args: Any) -> Any:
    """`enumerate(*args)` as what a for statement runs over."""
    start = args[1] if len(args) == 2 else 0
    if original is not builtins.enumerate or len(args) not in (1, 2) or type(start) is not int:
        return original(*args)
    items = args[0]
    if type(items) not in _INDEXED:
        return original(*args)
    return Indexed(len(items), lambda i: (i + start, _taken(items, i)))


def _taken(items: Any, i: Any) -> Any:
    """items[i], also of a range at a traced index."""
    return items.start + i * items.step if type(items) is range else items[i]


def _integer(x: Any) -> Any:
    """A Python int, traced or not."""
    if type(x) is not Array:
        return operator.index(x)
    trace = require()
    return trace.wrap(trace.b.astype(trace.b.reshaped(trace.lift(x), ()), np.dtype(np.int64)), weak=True, scalar=True)


def for_(items: Iterable[Any], body: Callable[[Any], None], names: Sequence[str], flags: Sequence[str]) -> None:
    """`for item in items: body(item)`, where the body may set flags that end the loop."""
    cells = cells_of(names, body)  # type: ignore[arg-type]
    if isinstance(items, TracedRange):
        _count(items.start, items.stop, items.step, lambda i: i, body, cells, flags, None)
        return
    iterator = iter(items)
    for done, item in enumerate(iterator, 1):
        body(item)
        stop = _stopped(flags, cells)
        if stop is True:
            return
        if stop is not False:
            _rest(stop, items, done, iterator, body, cells, flags)
            return


def _rest(
    stop: Array,
    items: Any,
    done: int,
    iterator: Iterator[Any],
    body: Any,
    cells: dict[str, CellType],
    flags: Sequence[str],
) -> None:
    """The items after one at which a traced flag may have ended the loop."""
    if type(items) in _INDEXED:
        total = len(items)
        if done == total:
            return
        before = {name: get(cell) for name, cell in cells.items()}
        try:
            if type(items) is range:
                _count(items[done], items[-1] + items.step, items.step, lambda i: i, body, cells, flags, stop)
            else:
                _count(done, total, 1, items.__getitem__, body, cells, flags, stop)
            return
        except TraceError:  # the number of an iteration may have to be static
            if total - done > UNROLLED:
                raise
            for name, cell in cells.items():
                put(cell, before[name])
    for item in iterator:
        now = _stopped(flags, cells)
        if type(now) is bool:
            if now:
                return
            body(item)
        else:
            _guarded(now, flags, lambda item=item: body(item), cells, (body,))  # type: ignore[misc]


def _count(
    start: Any,
    stop: Any,
    by: int,
    item: Any,
    body: Any,
    cells: dict[str, CellType],
    flags: Sequence[str],
    stopped: Array | None,
) -> None:
    """A loop over start, start + by, ... before `stop`, unless it is stopped already."""
    counter = CellType(start)
    inside = operator.lt if by > 0 else operator.gt

    def step() -> Any:
        i = get(counter)
        body(item(i))
        counter.cell_contents = i + by
        ended = _stopped(flags, cells)
        more = lambda: inside(i + by, stop)
        return both(not_(ended), more) if type(ended) is not bool else (not ended and truth(more()))

    begin = truth(inside(start, stop))
    if stopped is not None:
        begin = both(begin, lambda: not_(stopped))
    if begin is not False:
        _staged(begin, step, {**cells, "@count": counter}, flags, "the `for` loop", (body,))

"""Programs for the tests of the derivative and batching passes: a row is a graph, example arguments and what
it allows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nufunc.ir import ArrayType, Builder, Graph

F64, I64, BOOL = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_)


def f64(*shape):
    return ArrayType(shape, F64)


def i64(*shape):
    return ArrayType(shape, I64)


def graph_of(function: Callable, *types: ArrayType, name: str = "f") -> Graph:
    """The graph of `function(b, *values)`, which gives a value or a tuple of values."""
    b = Builder(name)
    out = function(b, *[b.param(t) for t in types])
    return b.build(out if isinstance(out, tuple | list) else (out,))


@dataclass
class Program:
    name: str
    graph: Graph
    arguments: list[np.ndarray]
    which: list[bool]  # the differentiable parameters

    def __repr__(self) -> str:
        return self.name


PROGRAMS: list[Program] = []


def program(*types: ArrayType, arguments: tuple | None = None):
    """Registers `function(b, *values)` as a program; inexact arguments are drawn from a normal
    distribution."""

    def add(function):
        rng = np.random.default_rng(len(PROGRAMS))
        drawn = [np.asarray(rng.normal(size=t.shape) * 0.7) for t in types]
        if arguments is not None:
            drawn = [d if a is None else np.asarray(a) for d, a in zip(drawn, arguments, strict=True)]
        graph = graph_of(function, *types, name=function.__name__)
        which = [t.dtype.kind == "f" for t in types]
        PROGRAMS.append(Program(function.__name__, graph, drawn, which))
        return function

    return add


# -- straight lines


@program(f64(3), f64(3))
def chain(b, x, y):
    return b.mul(b.sin(x), b.exp(b.mul(x, y))), b.div(y, b.add(b.mul(x, x), b.like(x, 2.0)))


@program(f64())
def scalar_chain(b, x):
    return b.tanh(b.mul(x, b.sin(b.mul(x, x))))


@program(f64(2, 3), f64(3))
def broadcast_reduce(b, x, y):
    z = b.mul(x, b.broadcast_to(y, (2, 3)))
    return b.summed(z, (0, 1)), b.reduce_max(z, axes=(1,)), b.cumsum(z, axis=1, reverse=False)


@program(f64(2, 3))
def layout(b, x):
    y = b.pad(b.transpose(x, perm=(1, 0)), low=(1, 0), high=(0, 1), interior=(0, 0))
    z = b.slice(b.mul(y, y), start=(0, 0), stop=(4, 3), step=(2, 1))
    return b.concat(b.flip(z, axes=(0,)), z, axis=1), b.reshape(b.exp(x), shape=(6,))


@program(f64(4, 3), f64(3, 5), f64(5, 2), f64(5))
def mlp(b, x, w1, w2, bias):
    hidden = b.dot(x, w1, contract=((1,), (0,)), batch=((), ()))
    hidden = b.tanh(b.add(hidden, b.broadcast_to(bias, (4, 5))))
    out = b.dot(hidden, w2, contract=((1,), (0,)), batch=((), ()))
    return b.summed(b.mul(out, out), (0, 1))


@program(f64(5, 2), i64(3), arguments=(None, [4, 0, 4]))
def gather_rows(b, x, rows):
    picked = b.gather(b.sin(x), rows, axes=(0,), mode="error")
    return b.mul(picked, picked), b.scatter_add(x, picked, rows, axes=(0,), mode="error")


@program(f64(3, 3), f64(3, 2))
def cholesky_solve(b, a, rhs):
    spd = b.dot(a, a, contract=((1,), (1,)), batch=((), ()))
    eye = b.astype(
        b.eq(b.iota(shape=(3, 3), dtype=I64, axis=0), b.iota(shape=(3, 3), dtype=I64, axis=1)), F64
    )
    spd = b.add(spd, b.mul(eye, b.like(eye, 3.0)))
    lower = b.cholesky(spd)
    return b.triangular_solve(lower, rhs, lower=True, trans=False, unit=False), b.solve(spd, rhs)


@program(f64(4), f64())
def partly_independent(b, x, y):
    return b.floor(x), b.full(value=2.5, shape=(2,), dtype=F64), b.mul(x, b.broadcast_to(y, (4,))), y


# -- cond


def _branches(*functions, types):
    return [graph_of(f, *types, name=f"branch{i}") for i, f in enumerate(functions)]


def _cond_body(b, x, y):
    regions = _branches(
        lambda b, x, y: (b.sin(b.mul(x, y)), b.like(x, 1.0)),
        lambda b, x, y: (b.mul(b.exp(x), b.exp(x)), b.cos(y)),
        types=(x.type, y.type),
    )
    return b.cond(b.gt(b.summed(x, (0,)), b.scalar(0.0, F64)), x, y, regions=regions)


@program(f64(3), f64(3), arguments=([0.5, 1.0, 0.2], None))
def cond_true(b, x, y):
    return _cond_body(b, x, y)


@program(f64(3), f64(3), arguments=([-0.5, -1.0, 0.2], None))
def cond_false(b, x, y):
    return _cond_body(b, x, y)


@program(i64(), f64(2), f64(2), arguments=(1, None, None))
def cond_index(b, k, x, y):
    regions = _branches(
        lambda b, x, y: b.mul(x, y),
        lambda b, x, y: b.div(b.exp(x), b.add(b.mul(y, y), b.like(y, 1.0))),
        lambda b, x, y: b.like(x, 3.0),
        types=(x.type, y.type),
    )
    return b.mul(b.cond(k, x, y, regions=regions), x)


@program(i64(), f64(2), arguments=(7, None))
def cond_index_clamped(b, k, x):
    return b.cond(k, x, regions=_branches(lambda b, x: b.sin(x), lambda b, x: b.cos(x), types=(x.type,)))


# -- scan and map


def _scan(b, body, consts, carry, xs, length, reverse=False):
    types = [*(v.type for v in (*consts, *carry)), *(x.type.with_shape(x.shape[1:]) for x in xs)]
    region = graph_of(body, *types, name="body")
    out = b.emit(
        "scan", (*consts, *carry, *xs),
        {"length": length, "reverse": reverse, "num_consts": len(consts), "num_carry": len(carry)}, (region,),
    )  # fmt: skip
    return list(out)


def _map(b, body, consts, xs, length):
    types = [*(v.type for v in consts), *(x.type.with_shape(x.shape[1:]) for x in xs)]
    region = graph_of(body, *types, name="body")
    return list(b.emit("map", (*consts, *xs), {"length": length, "num_consts": len(consts)}, (region,)))


@program(f64(2), f64(2))
def rk4(b, y0, k):
    def body(b, k, y):
        def rate(y):
            return b.mul(b.sin(k), b.sin(y))

        def step(y, r, h):
            return b.add(y, b.mul(r, b.like(r, h)))

        k1 = rate(y)
        k2 = rate(step(y, k1, 0.05))
        k3 = rate(step(y, k2, 0.05))
        k4 = rate(step(y, k3, 0.1))
        total = b.add(b.add(k1, k4), b.mul(b.add(k2, k3), b.like(k2, 2.0)))
        new = step(y, total, 0.1 / 6)
        return new, new

    return _scan(b, body, [k], [y0], [], 5)


def _rnn_body(b, w, u, bias, h, x):
    wh = b.dot(w, h, contract=((1,), (0,)), batch=((), ()))
    ux = b.dot(u, x, contract=((1,), (0,)), batch=((), ()))
    new = b.tanh(b.add(b.add(wh, ux), bias))
    return new, b.mul(new, new)


@program(f64(3, 3), f64(3, 2), f64(3), f64(3), f64(4, 2))
def rnn(b, w, u, bias, h, xs):
    return _scan(b, _rnn_body, [w, u, bias], [h], [xs], 4)


@program(f64(3, 3), f64(3, 2), f64(3), f64(3), f64(4, 2))
def rnn_reversed(b, w, u, bias, h, xs):
    return _scan(b, _rnn_body, [w, u, bias], [h], [xs], 4, reverse=True)


@program(f64(2), f64(3, 2), i64(3), arguments=(None, None, [2, 0, 1]))
def scan_mixed_carry(b, c, xs, picks):
    """An integer counter, a carry that stays constant, one that becomes active, and integer inputs."""

    def body(b, c, count, still, moving, x, pick):
        factor = b.astype(b.add(count, pick), F64)
        new = b.add(b.mul(moving, b.broadcast_to(factor, (2,))), b.mul(b.exp(c), x))
        return b.add(count, b.scalar(1, I64)), still, new, b.mul(new, still), count

    start = [b.scalar(0, I64), b.filled(1.5, f64(2)), b.zeros(f64(2))]
    return _scan(b, body, [c], start, [xs, picks], 3)


@program(f64(2), f64(2))
def scan_empty(b, c, y):
    return _scan(b, lambda b, c, y: (b.mul(c, y), b.sin(y)), [c], [y], [], 0)


@program(f64(3), f64(3))
def scan_swapped(b, x, y):
    """Activity walks from one carry to the next; the last starts as a constant."""

    def body(b, x, y, z):
        return b.mul(x, b.like(x, 1.1)), b.sin(b.mul(x, y)), b.add(z, b.mul(y, y))

    return _scan(b, body, [], [x, b.like(x, 0.3), b.zeros(x.type)], [], 4)


@program(f64(2), f64(4, 2), f64(4))
def map_consts(b, w, xs, s):
    def body(b, w, x, s):
        y = b.mul(b.sin(w), x)
        return b.summed(b.mul(y, y), (0,)), b.mul(b.exp(x), b.broadcast_to(s, (2,)))

    return _map(b, body, [w], [xs, s], 4)


@program(f64(2), f64(3, 2))
def scan_cond_scan(b, w, xs):
    """A scan in a branch of a cond in a scan."""

    def inner(b, w, v):
        new = b.sin(b.mul(v, w))
        return new, b.mul(new, v)

    def long(b, w, v):
        last, ys = _scan(b, inner, [w], [v], [], 3)
        return b.add(last, b.summed(ys, (0,)))

    def body(b, w, v, x):
        positive = b.gt(b.summed(x, (0,)), b.scalar(0.0, F64))
        regions = _branches(lambda b, w, v: b.mul(v, b.cos(v)), long, types=(w.type, v.type))
        new = b.add(b.cond(positive, w, v, regions=regions), b.mul(x, x))
        return new, b.summed(new, (0,))

    return _scan(b, body, [w], [b.like(w, 0.4)], [xs], 3)


@program(f64(2), f64(3, 2))
def map_of_scan(b, w, xs):
    def inner(b, w, v):
        return (b.tanh(b.mul(v, w)),)

    return _map(b, lambda b, w, x: _scan(b, inner, [w], [x], [], 2)[0], [w], [xs], 3)


@program(f64(2), f64(3))
def map_in_scan(b, v, xs):
    def lane(b, v, s):
        return b.mul(b.sin(v), b.broadcast_to(s, (2,)))

    def body(b, xs, v):
        rows = _map(b, lane, [v], [xs], 3)[0]
        return b.tanh(b.summed(rows, (0,))), rows

    return _scan(b, body, [xs], [v], [], 2)


# -- while: forward mode alone


def _while(b, cond, body, cond_consts, body_consts, carry):
    types = [v.type for v in carry]
    regions = (
        graph_of(cond, *(v.type for v in cond_consts), *types, name="cond"),
        graph_of(body, *(v.type for v in body_consts), *types, name="body"),
    )
    attrs = {"num_cond": len(cond_consts), "num_body": len(body_consts)}
    return list(b.emit("while", (*cond_consts, *body_consts, *carry), attrs, regions))


@program(f64(), f64(), arguments=(0.9, 5.0))
def while_newton(b, x, target):
    """Square root by Newton steps, until the residual is small."""

    def cond(b, target, x, count):
        wrong = b.abs(b.sub(b.mul(x, x), target))
        return b.gt(wrong, b.scalar(1e-9, F64))

    def body(b, target, x, count):
        return b.mul(b.add(x, b.div(target, x)), b.scalar(0.5, F64)), b.add(count, b.scalar(1, I64))

    return _while(b, cond, body, [target], [target], [x, b.scalar(0, I64)])


@program(f64(2), i64(), arguments=(None, 3))
def while_counted(b, x, n):
    """The number of steps is one for all lanes unless n is batched."""

    def cond(b, n, k, x, still):
        return b.lt(k, n)

    def body(b, w, k, x, still):
        return b.add(k, b.scalar(1, I64)), b.sin(b.mul(x, w)), b.mul(still, b.scalar(2.0, F64))

    return _while(b, cond, body, [n], [x], [b.scalar(0, I64), b.like(x, 0.8), b.scalar(1.0, F64)])


@program(f64(2), f64(), arguments=(None, 6.4))
def while_inactive(b, x, seed):
    """A while whose operands carry no tangents is fine in reverse mode."""
    start = b.floor(seed)
    (last,) = _while(
        b,
        lambda b, v: b.gt(v, b.scalar(1.0, F64)),
        lambda b, v: (b.mul(v, b.scalar(0.5, F64)),),
        [],
        [],
        [start],
    )
    return b.mul(b.sin(x), b.broadcast_to(last, (2,)))

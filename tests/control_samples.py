"""A table of programs with control flow: functions of three numbers, written over `flow` and `xp`.

`flow` is nufunc, JAX's control flow or plain Python, `xp` the array module that goes with it, so that one text runs as
all three.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from random_programs import PlainFlow

Program = Callable[[Any, Any, Any], Any]
PROGRAMS: dict[str, Program] = {}
MATRIX = np.array([[0.3, -0.5, 0.2], [0.2, 0.4, -0.4], [-0.3, 0.1, 0.6]])
POINT = np.array([0.7, 0.4, 1.3])
LANES = np.array([1.0, 0.8, 1.1, 0.55])


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


class Plain(PlainFlow):
    """Control flow in plain Python, with what the programs of this table need besides."""

    @staticmethod
    def scan(body: Callable, init: Any, xs: Any, length: int | None = None, reverse: bool = False) -> Any:
        count = length if xs is None else len(xs[0] if isinstance(xs, tuple) else xs)
        out: list[Any] = [None] * count
        for k in reversed(range(count)) if reverse else range(count):
            item = None if xs is None else tuple(x[k] for x in xs) if isinstance(xs, tuple) else xs[k]
            init, out[k] = body(init, item)
        return init, None if out[0] is None else np.stack(out)

    @staticmethod
    def switch(index: int, branches: list[Callable], *operands: Any) -> Any:
        return branches[min(max(int(index), 0), len(branches) - 1)](*operands)

    @staticmethod
    def map(body: Callable, xs: Any) -> Any:
        return np.stack([body(x) for x in xs])

    @staticmethod
    def checkpoint(function: Callable, policy: Any = None) -> Callable:
        return function

    @staticmethod
    def checkpoint_name(x: Any, name: str) -> Any:
        return x


# -- while_loop


@program
def newton(flow, xp, x):
    return flow.while_loop(lambda y: xp.abs(y * y - x[0]) > 1e-3, lambda y: 0.5 * (y + x[0] / y), x[2] + 1.5)


@program
def vectors_until_small(flow, xp, x):
    return flow.while_loop(lambda v: xp.sum(v * v) > 0.05, lambda v: 0.8 * xp.sin(v) + 0.01 * x, x + 1.0)


@program
def matrix_products(flow, xp, x):
    return flow.while_loop(lambda v: xp.max(xp.abs(v)) > 0.1, lambda v: xp.tanh(MATRIX @ v) * (1 + 0.1 * x[1]), x * 2)


@program
def matrix_carry(flow, xp, x):
    a = xp.outer(x, x) * 0.2 + MATRIX
    power, _ = flow.while_loop(lambda s: s[1] < 4, lambda s: (s[0] @ a, s[1] + 1), (a, 0))
    return power @ x


@program
def trees_and_integers(flow, xp, x):
    def body(s):
        return {"v": s["v"] * xp.cos(s["w"]) + x[1], "w": (s["w"] * 0.9), "n": s["n"] + 2}

    end = flow.while_loop(lambda s: s["n"] < 9, body, {"v": x, "w": x[0] * 1.0, "n": 0})
    return end["v"] * end["w"] + end["n"]


@program
def no_iteration(flow, xp, x):
    return flow.while_loop(lambda v: xp.sum(v) > 100, lambda v: v * v, x) * x[0]


@program
def bound_from_data(flow, xp, x):
    return flow.fori_loop(0, xp.floor(x[2] * 5).astype(int), lambda i, v: xp.sin(v) * (x + 0.1 * i), x + 0.5)


@program
def both_bounds_from_data(flow, xp, x):
    low = xp.floor(x[0]).astype(int)
    return flow.fori_loop(low, low + 3, lambda i, v: v * x + i, x) + flow.fori_loop(low, low - 2, lambda i, v: v * v, x)


@program
def captures_in_both(flow, xp, x):
    limit, factor = xp.exp(x[1]) * 3, 1.2 + 0.1 * x[0] * x[0]
    return flow.while_loop(lambda v: v < limit, lambda v: v * factor + 0.05 * xp.sin(limit * v), x[2])


@program
def indexed_by_the_counter(flow, xp, x):
    def body(s):
        i, total = s
        return i + 1, xp.tanh(total + x[i % 3] * x[(i + 1) % 3])

    return flow.while_loop(lambda s: (s[0] < 7) & (s[1] < 2.5), body, (0, x[0] * 0.1))[1]


@program
def unused_results(flow, xp, x):
    body = lambda s: (s[0] * 1.5, s[1] + s[0] * s[2], s[2])
    return flow.while_loop(lambda s: s[0] < 6.0, body, (x[0] + 0.2, x[1], x[2]))[1]


# -- loops within loops and branches


@program
def whiles_in_a_while(flow, xp, x):
    def inner(v):
        return flow.while_loop(lambda w: w < 2.0, lambda w: w * (1.3 + 0.1 * x[1]), 0.3 + 0.1 * xp.abs(v))

    return flow.while_loop(lambda v: v < 6.0, lambda v: v + inner(v) * x[0], x[2])


@program
def while_in_a_scan(flow, xp, x):
    def body(c, z):
        y = flow.while_loop(lambda w: w < 1.7, lambda w: w * 1.4 + 0.1 * c, z + 0.2)
        return xp.sin(c + y), y * z

    c, ys = flow.scan(body, x[0], x)
    return ys * c


@program
def scan_in_a_while(flow, xp, x):
    def body(v):
        c, ys = flow.scan(lambda c, z: (c * 0.5 + z, c * z), v[0], v)
        return xp.sin(0.6 * ys + 0.1 * c)

    return flow.while_loop(lambda v: xp.sum(v * v) > 0.2, body, x + 1.0)


@program
def cond_in_a_while(flow, xp, x):
    def body(v):
        return flow.cond(v > 1.6, lambda w: w * x[0], lambda w: w * 2.1 + x[1], v) + 0.31

    return flow.while_loop(lambda v: xp.abs(v - 1.55) > 0.28, body, x[2] * 4.0)


@program
def switch_in_a_while(flow, xp, x):
    branches = [lambda v: v * x[0] + 0.9, lambda v: xp.sin(v) + x[1], lambda v: v + 0.3]

    def body(s):
        return s[0] + 1, flow.switch(s[0] % 3, branches, s[1])

    return flow.while_loop(lambda s: s[0] < 5, body, (0, x[2]))[1]


@program
def while_in_a_branch(flow, xp, x):
    run = lambda v: flow.while_loop(lambda w: w < 3.0, lambda w: w * w + 0.5 * x[1] + 0.4, v)
    return flow.cond(x[0] > 0.5, run, lambda v: xp.exp(v) * x[0], x[0]) + flow.cond(x[0] > 9, run, lambda v: v, x[1])


@program
def whiles_of_each_item(flow, xp, x):
    return flow.map(lambda z: flow.while_loop(lambda w: w < 4.0, lambda w: w * 1.5 + x[0], z), x)


@program
def while_in_while_in_scan(flow, xp, x):
    def middle(v, z):
        inner = lambda w: flow.while_loop(lambda u: u < 1.2, lambda u: u + 0.3 + 0.1 * z, 0.2 * w)
        return flow.while_loop(lambda w: w < 2.0, lambda w: w + 0.4 * inner(w), v)

    return flow.scan(lambda c, z: (middle(0.3 * c, z), c * z), x[0], x)


@program
def one_loop_after_the_other(flow, xp, x):
    v = flow.while_loop(lambda v: xp.sum(v) < 7.0, lambda v: v * 1.4 + x[0], x)
    return flow.while_loop(lambda w: xp.sum(w * w) > 2.0, lambda w: w * 0.7 - 0.01 * v, v)


# -- loops of a known length


@program
def reversed_scan(flow, xp, x):
    c, ys = flow.scan(lambda c, z: (xp.tanh(c + z * x), c * z), x, x * 2, reverse=True)
    return c + xp.sum(ys, axis=0)


@program
def scan_without_items(flow, xp, x):
    c, ys = flow.scan(lambda c, _: (c * xp.cos(c), xp.sum(c)), x, None, length=4)
    return c * ys[:3]


@program
def scan_of_trees(flow, xp, x):
    def body(c, item):
        a, b = item
        return (c[0] + a * c[1], c[1] * xp.sin(b)), a * c[0]

    (p, q), ys = flow.scan(body, (x[0], x[1]), (x, x * x))
    return ys * p + q


@program
def fixed_steps(flow, xp, x):
    return flow.fori_loop(1, 6, lambda i, v: xp.sin(v * x[0]) + v / i, x)


@program
def nested_fixed_steps(flow, xp, x):
    inner = lambda i, v: flow.fori_loop(0, 3, lambda j, w: w * 0.5 + xp.sin(w + i) * x[j], v)
    return flow.fori_loop(0, 3, inner, x)


@program
def mapped(flow, xp, x):
    return flow.map(lambda z: z * xp.exp(-x) + xp.sum(x) * z, x)


# -- checkpoints


@program
def checkpointed(flow, xp, x):
    f = flow.checkpoint(lambda v: xp.exp(xp.sin(v) * x[0]) * v)
    return f(f(x)) + f(x * 0.5)


@program
def checkpointed_with_names(flow, xp, x):
    def f(v):
        return xp.tanh(flow.checkpoint_name(xp.exp(v * 0.3), "e") * x[1]) + v

    return flow.checkpoint(f, policy=("e",))(flow.checkpoint(f, policy=("other",))(x))


@program
def scan_in_segments(flow, xp, x):
    def f(v):
        c, ys = flow.scan(lambda c, z: (xp.sin(c + z), c * z), v[0], xp.concatenate([v, v * v, v + 1]))
        return c * ys[:3] + flow.fori_loop(0, 11, lambda i, w: w * 0.7 + xp.cos(w) * 0.1 * i, v)

    return flow.checkpoint(f, policy="sqrt")(x)


@program
def reversed_scan_in_segments(flow, xp, x):
    def f(v):
        c, ys = flow.scan(lambda c, z: (xp.sin(c + z), c * z), v[0], xp.concatenate([v, v * v]), reverse=True)
        return c * ys[:3]

    return flow.checkpoint(f, policy="sqrt")(x)


@program
def while_in_a_checkpoint(flow, xp, x):
    f = lambda v: flow.while_loop(lambda w: w < 3.0, lambda w: w * (1.2 + 0.1 * xp.sin(v)) + 0.2, v)
    return flow.checkpoint(f)(x[0]) * flow.checkpoint(f)(x[1])


@program
def checkpoint_in_a_while(flow, xp, x):
    body = flow.checkpoint(lambda v: xp.sin(v) * 0.9 + 0.05 * x)
    return flow.while_loop(lambda v: xp.sum(v * v) > 2.0, body, x + 0.5)


@program
def checkpoint_in_a_scan(flow, xp, x):
    body = flow.checkpoint(lambda c, z: (xp.sin(c * z) + x[0], c * c))
    c, ys = flow.scan(body, x[1], x)
    return ys + c

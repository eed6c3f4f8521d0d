"""Arrays put together from columns and taken apart again: computed column by column, with the same results."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph
from nufunc.ir.interpret import run
from nufunc.ir.types import ArrayType
from nufunc.passes.columns import by_columns
from nufunc.passes.fuse import fuse

rng = np.random.default_rng(3)
P = rng.normal(size=(40, 3))
Q = rng.normal(size=(3, 40))


def lorenz(s):
    x, y, z = s[:, 0], s[:, 1], s[:, 2]
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 2.5 * z], axis=1)


def euler(s):
    for _ in range(3):
        s = s + 0.01 * lorenz(s)
    return s


def first_axis(s):
    x, y, z = np.sin(np.stack([s[1], s[2], s[0]]) * 2)
    return np.stack([x + y, z])[::-1]


def columns_of_two(s):
    pair = np.concatenate([s[:, 1:], s[:, :1] * 2], axis=1)
    moved = np.exp(pair)
    return moved[:, 0] + moved[:, 1:].sum(axis=1), moved.max(axis=1), moved


def written(s):
    s = s.copy()
    s[:, 1] = np.cos(s[:, 0])
    s[:, 0] += s[:, 1] * s[:, 2]
    return s


def with_weights(s):
    weights = np.broadcast_to(np.array([1.0, -2.0, 0.5]), s.shape)
    t = np.stack([s[:, 2], s[:, 1], s[:, 0]], axis=1) * weights
    return t[:, 1] - t[:, 2] * np.broadcast_to(s[:, :1], s.shape)[:, 2]


def pairs(s):
    d = s[:, None] - s[None]
    return np.sum(1 / np.sqrt(np.sum(d * d, axis=-1) + 0.1)), np.sum(np.sin(s), axis=0)


PROGRAMS = {f.__name__: f for f in (lorenz, euler, columns_of_two, written, with_weights, pairs)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_and_gradients(name):
    function = PROGRAMS[name]
    for made, expected in zip(_flat(nf.jit(function)(P)), _flat(function(P)), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-13)
    total = lambda s: sum(np.sum(r * np.cos(r)) for r in _flat(function(s)))
    direction = rng.normal(size=P.shape)
    slope = np.sum(nf.grad(total)(P) * direction)
    wanted = (total(P + 1e-6 * direction) - total(P - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(slope, wanted, rtol=1e-5)


def test_along_the_first_axis():
    np.testing.assert_allclose(nf.jit(first_axis)(Q), first_axis(Q), rtol=1e-14)


def test_a_step_of_an_ode_is_one_kernel():
    b = Builder()
    s = b.param(ArrayType((40, 3), np.dtype(np.float64)))

    def column(v, k):
        return b.reshaped(b.slice(v, start=(0, k), stop=(40, k + 1), step=(1, 1)), (40,))

    def rotated(v):
        parts = [b.reshaped(b.sin(column(v, (k + 1) % 3)), (40, 1)) for k in range(3)]
        return b.concat(*parts, axis=1)

    graph = b.build([b.add(s, rotated(b.mul(rotated(s), rotated(rotated(s)))))])
    kinds = [n.attrs["kind"] for n in fuse(graph).nodes]
    assert kinds == ["loop"]
    for made, expected in zip(run(fuse(graph), [P]), run(graph, [P]), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-14)


def test_what_takes_no_columns_stays():
    b = Builder()
    s = b.param(ArrayType((40, 3), np.dtype(np.float64)))
    graph = b.build([b.exp(b.concat(s, s, axis=0))])
    assert by_columns(graph) is graph
    assert isinstance(graph, Graph)


def _flat(result):
    return list(result) if isinstance(result, tuple) else [result]

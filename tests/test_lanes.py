"""Maps of scalar programs run many lanes at a time: each lane as if it were alone."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen.lanes import width

rng = np.random.default_rng(9)


def root(x):
    """Newton's method; lanes need different numbers of steps, NaN none."""
    return nf.while_loop(lambda s: (s[1] < 40) & (np.abs(s[0] * s[0] - x) > 1e-12 * x), _newton(x), (x, 0))


def _newton(x):
    return lambda s: ((s[0] + x / s[0]) / 2, s[1] + 1)


def nested(x):
    def outer(s):
        total, k = s
        inner = nf.while_loop(lambda t: t[0] < k * x, lambda t: (t[0] + 1.0, t[1] + np.sin(t[0])), (0.0, 0.0))
        return total + inner[1], k + 1

    return nf.while_loop(lambda s: s[1] < 5, outer, (0.0 * x, 0))[0]


def branches(x):
    small = nf.cond(x < 0.5, lambda v: np.exp(v), lambda v: v - 1.0, x)
    steps = nf.while_loop(lambda s: s < 9.0, lambda s: nf.cond(s < 3.0, lambda t: t + 2.5, lambda t: t * 2.0, s), small)
    return nf.switch(np.floor(x * 4).astype(np.int64), [lambda v: v, lambda v: -v, lambda v: v * v], steps)


def counted(x):
    limit = np.floor(x * 10)
    return nf.while_loop(
        lambda s: s[0] < limit, lambda s: (s[0] + 1, nf.fori_loop(0, 3, lambda i, v: v * 1.5 + i, s[1])), (0.0, x)
    )[1]


def integers(n):
    step = lambda s: (np.where(s[0] % 2 == 0, s[0] // 2, 3 * s[0] + 1), s[1] + 1)
    return nf.while_loop(lambda s: s[0] > 1, step, (n, 0))[1]


def both(x, y):
    return nf.while_loop(lambda s: s[0] < y, lambda s: (s[0] * 1.5 + 0.1, np.logical_not(s[1])), (x, True))


X = np.abs(rng.normal(size=67)) + 0.01
PROGRAMS = {
    "root": (root, (np.where(rng.random(67) < 0.1, np.nan, X),)),
    "root in single precision": (root, (X.astype(np.float32),)),
    "nested": (nested, (X,)),
    "branches": (branches, (X,)),
    "counted": (counted, (X,)),
    "integers": (integers, (rng.integers(1, 1000, 67),)),
    "two results": (both, (X, 3 * X)),
}


def flat(result):
    return [np.asarray(r) for r in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("count", [3, 4, 33, 67])
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_lane_is_on_its_own(name, count):
    function, args = PROGRAMS[name]
    args = tuple(a[:count] for a in args)
    alone = nf.jit(function)
    expected = [flat(alone(*lane)) for lane in zip(*args, strict=True)]
    made = flat(nf.vmap(function)(*args))
    for k, result in enumerate(made):
        np.testing.assert_array_equal(result, np.stack([e[k] for e in expected]))


def test_a_constant_operand_and_the_gradient():
    function = nf.vmap(lambda x, a: nf.while_loop(lambda s: s < a, lambda s: s * 1.3, x), in_dims=(0, None))
    expected = X.copy()
    while (expected < 2.5).any():
        expected = np.where(expected < 2.5, expected * 1.3, expected)
    np.testing.assert_array_equal(function(X, 2.5), expected)


def test_which_maps(monkeypatch):
    seen = []
    note = lambda node, size: seen.append(width(node, size)) or seen[-1]
    monkeypatch.setattr("nufunc.codegen.control.map_width", note)
    nf.vmap(root)(X[:40])
    assert max(seen) >= 16
    seen.clear()
    table = rng.normal(size=9)
    nf.vmap(
        lambda x: nf.while_loop(lambda s: s[0] < x, lambda s: (s[0] + table[s[1]] ** 2 + 0.1, (s[1] + 1) % 9), (0.0, 0))
    )(X)
    assert set(seen) == {1}  # it looks something up, which may fail

"""The draws that are compared with jax.random: each is written once, for both libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SEEDS = (0, 1, 12345678901234, -3)
PROBABILITIES = np.array([0.1, 0.0, 0.4, 0.2, 0.3])
LOGITS = np.array([[0.5, -1.0, 2.0, 0.0], [-0.5, 0.25, 0.0, 1.0]])
TABLE = np.arange(12.0).reshape(4, 3)


@dataclass(frozen=True)
class Case:
    """`draw(random, key)`. `ulps`: 0 for the same bits; else units in the last place of the greater of |x| and `scale`.
    """

    name: str
    draw: Callable[[Any, Any], Any]
    ulps: int = 0
    scale: float = 0.0
    keys: bool = False


CASES = [
    Case("split", lambda r, k: r.split(k), keys=True),
    Case("split shape", lambda r, k: r.split(k, (2, 3)), keys=True),
    Case("fold_in", lambda r, k: r.fold_in(k, 77), keys=True),
    *(Case(f"bits {d}", lambda r, k, d=d: r.bits(k, (2, 3), np.dtype(d))) for d in ("u1", "u2", "u4", "u8")),
    Case("uniform", lambda r, k: r.uniform(k, (7,))),
    Case("uniform scalar", lambda r, k: r.uniform(k)),
    Case("uniform f32", lambda r, k: r.uniform(k, (2, 3), np.float32)),
    Case("uniform between", lambda r, k: r.uniform(k, (9,), np.float64, -1.3, 2.7)),
    Case("uniform arrays", lambda r, k: r.uniform(k, (2, 3), np.float64, np.array([0.0, 1.0, 2.0]), 5.0)),
    Case("bernoulli", lambda r, k: r.bernoulli(k, 0.3, (20,))),
    Case("bernoulli array", lambda r, k: r.bernoulli(k, np.linspace(0.0, 1.0, 9))),
    Case("rademacher", lambda r, k: r.rademacher(k, (9,))),
    Case("randint", lambda r, k: r.randint(k, (20,), 0, 10)),
    Case("randint wide", lambda r, k: r.randint(k, (9,), -(2**62), 2**62)),
    Case("randint i4 all", lambda r, k: r.randint(k, (9,), -5, 2**31, np.int32)),
    Case("randint i1 all", lambda r, k: r.randint(k, (20,), -128, 128, np.int8)),
    Case("randint u1", lambda r, k: r.randint(k, (20,), 0, 256, np.uint8)),
    Case("randint u4 all", lambda r, k: r.randint(k, (9,), 3, 2**32, np.uint32)),
    Case("randint empty range", lambda r, k: r.randint(k, (5,), 7, 3, np.int16)),
    Case("randint arrays", lambda r, k: r.randint(k, (2, 3), np.array([0, 10, 20]), np.array([5, 11, 40]))),
    Case("permutation", lambda r, k: r.permutation(k, 11)),
    Case("permutation rows", lambda r, k: r.permutation(k, TABLE)),
    Case("permutation columns", lambda r, k: r.permutation(k, TABLE, 1)),
    Case("permutation independent", lambda r, k: r.permutation(k, TABLE, 1, independent=True)),
    Case("permutation long", lambda r, k: r.permutation(k, 3000)[::97]),
    Case("choice", lambda r, k: r.choice(k, 10, (9,))),
    Case("choice rows", lambda r, k: r.choice(k, TABLE, (2, 2), axis=1)),
    Case("choice without replacement", lambda r, k: r.choice(k, 10, (4,), replace=False)),
    Case("choice p", lambda r, k: r.choice(k, 5, (9,), p=PROBABILITIES)),
    Case("choice p without replacement", lambda r, k: r.choice(k, 5, (3,), replace=False, p=PROBABILITIES)),
    Case("categorical", lambda r, k: r.categorical(k, LOGITS)),
    Case("categorical axis", lambda r, k: r.categorical(k, LOGITS, axis=0, shape=(3, 4))),
    Case("normal", lambda r, k: r.normal(k, (40,)), ulps=4),
    Case("normal f32", lambda r, k: r.normal(k, (40,), np.float32), ulps=4),
    Case("exponential", lambda r, k: r.exponential(k, (40,)), ulps=4),
    Case("exponential f32", lambda r, k: r.exponential(k, (40,), np.float32), ulps=4),
    Case("laplace", lambda r, k: r.laplace(k, (40,)), ulps=4),
    Case("laplace f32", lambda r, k: r.laplace(k, (40,), np.float32), ulps=4),
    # near their zeros these are differences of logarithms, or of numbers, near 1
    Case("gumbel", lambda r, k: r.gumbel(k, (40,)), ulps=4, scale=1.0),
    Case("gumbel f32", lambda r, k: r.gumbel(k, (40,), np.float32), ulps=4, scale=1.0),
    Case("logistic", lambda r, k: r.logistic(k, (40,)), ulps=4, scale=1.0),
    Case("cauchy", lambda r, k: r.cauchy(k, (40,)), ulps=4, scale=1.0),
    Case("truncated_normal", lambda r, k: r.truncated_normal(k, -1.0, 1.5, (40,)), ulps=4, scale=1.0),
    Case("truncated_normal half", lambda r, k: r.truncated_normal(k, 0.0, np.inf, (40,)), ulps=4),
    Case("truncated_normal f32", lambda r, k: r.truncated_normal(k, -1.0, 1.0, (40,), np.float32), ulps=4, scale=1.0),
]


def compare(case: Case, mine: Any, theirs: Any) -> None:
    """Raise AssertionError where a draw is not what it should be."""
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype or mine.dtype.kind == theirs.dtype.kind == "i"
    if not case.ulps:
        np.testing.assert_array_equal(mine, theirs)
        return
    unit = np.spacing(np.maximum(np.abs(theirs), theirs.dtype.type(case.scale)))
    worst = np.max(np.abs(mine - theirs) / unit)
    assert worst <= case.ulps, f"{case.name}: {worst} units in the last place"

"""How the programs of numpy_programs*.py say what they take: makers of arguments, and the list of all programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Maker = Callable[[np.random.Generator], Any]


class Program(NamedTuple):
    name: str
    function: Callable[..., Any]
    makers: tuple[Maker, ...]

    def args(self) -> list[Any]:
        rng = np.random.default_rng(3)
        return [np.asarray(a) if isinstance(a, float) else a for a in (make(rng) for make in self.makers)]

    def __repr__(self) -> str:
        return self.name


PROGRAMS: list[Program] = []


def program(*makers: Maker) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function with the makers of its arguments; it is differentiated in all arrays of floats."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        PROGRAMS.append(Program(function.__name__, function, makers))
        return function

    return register


def normal(*shape: int) -> Maker:
    return lambda rng: rng.normal(size=shape)


def uniform(low: float, high: float, *shape: int) -> Maker:
    return lambda rng: rng.uniform(low, high, shape)


def integers(low: int, high: int, *shape: int) -> Maker:
    return lambda rng: rng.integers(low, high, shape)


def spd(n: int) -> Maker:
    """A symmetric matrix with positive eigenvalues."""

    def make(rng: np.random.Generator) -> np.ndarray:
        a = rng.normal(size=(n, n))
        return a @ a.T + n * np.eye(n)

    return make


def constant(value: Any) -> Maker:
    return lambda rng: value

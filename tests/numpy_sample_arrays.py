"""One sample of a NumPy call, and the arrays that the samples use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """`call(np, *args)` with the namespace as `np`; results are an array or a tuple of them."""

    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    rtol: float = 1e-12

    def __repr__(self) -> str:
        return self.name


_RNG = np.random.default_rng(7)
F = _RNG.normal(size=(3, 4))
G = _RNG.normal(size=(3, 4)) + 0.1
POS = np.abs(_RNG.normal(size=(3, 4))) + 0.2
UNIT = _RNG.uniform(0.05, 0.95, size=(3, 4))
F32 = F.astype(np.float32)
C = F + 1j * G
I = _RNG.integers(-5, 6, size=(3, 4))
J = _RNG.integers(1, 5, size=(3, 4))
I8, U8, U64, I32 = I.astype(np.int8), J.astype(np.uint8), J.astype(np.uint64), I.astype(np.int32)
B = F > 0
V, W = F[0], G[1]
CUBE = _RNG.normal(size=(2, 3, 4))
ZERO_D = np.array(0.7)
EMPTY = np.zeros((0, 4))
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 2.5, -2.5, 0.5, 1.5])
SPD = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
BATCH = np.stack([SPD, SPD + np.eye(3)])


def one(name: str, *args: Any, rtol: float = 1e-12, **kwargs: Any) -> Iterator[Sample]:
    """np.<name>(*args, **kwargs) with the arrays among args traced."""
    traced = tuple(a for a in args if isinstance(a, np.ndarray))

    def call(np_: Any, *arrays: Any) -> Any:
        rest = iter(arrays)
        function = np_
        for part in name.split("."):
            function = getattr(function, part)
        return function(*[next(rest) if isinstance(a, np.ndarray) else a for a in args], **kwargs)

    shown = [f"{a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray) else repr(a) for a in args]
    shown += [f"{k}={v!r}" for k, v in kwargs.items()]
    yield Sample(f"{name}({', '.join(shown)})", call, traced, rtol)

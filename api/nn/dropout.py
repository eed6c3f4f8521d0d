"""Dropout: parts of arrays that are set to zero at random while training."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError
from nufunc.nn.module import Module
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


def dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """x with each element zero with probability p, the others divided by 1 - p; x itself where not `training`.

    New elements are drawn at each call. Under vmap its `randomness` says whether lanes share them.
    """
    return _dropped(x, np.shape(x), p, training)


def dropout1d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """dropout of whole channels of x (N, C, L) or (C, L)."""
    return _dropped(x, (*np.shape(x)[:-1], 1), p, training)


def dropout2d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """dropout of whole channels of x (N, C, H, W) or (C, H, W)."""
    return _dropped(x, (*np.shape(x)[:-2], 1, 1), p, training)


def dropout3d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """dropout of whole channels of x (N, C, D, H, W) or (C, D, H, W)."""
    return _dropped(x, (*np.shape(x)[:-3], 1, 1, 1), p, training)


def alpha_dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """dropout that keeps the mean and variance of a self-normalising network (Klambauer et al. 2017)."""
    _check(p)
    if not training or p == 0:
        return x
    low = -1.7580993408473766  # where SELU ends on the left
    a = ((1 - p) * (1 + p * low**2)) ** -0.5 if p < 1 else 0.0
    keep = np.random.default_rng().random(np.shape(x)) >= p
    return np.where(keep, x, np.full_like(x, low)) * a - a * low * p


def _check(p: float) -> None:
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout probability has to be between 0 and 1, but got {p}", user_location())


def _dropped(x: Any, shape: tuple[int, ...], p: float, training: bool) -> Any:
    _check(p)
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0
    keep = np.random.default_rng().random(shape) >= p
    return np.where(keep, x / (1 - p), np.zeros_like(x))


class Dropout(Module):
    """See `functional.dropout`."""

    __constants__ = ("p",)

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        _check(p)
        self.p, self.inplace = p, inplace

    def forward(self, x: Any) -> Any:
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout1d(Dropout):
    """See `functional.dropout1d`."""

    def forward(self, x: Any) -> Any:
        return dropout1d(x, self.p, self.training)


class Dropout2d(Dropout):
    """See `functional.dropout2d`."""

    def forward(self, x: Any) -> Any:
        return dropout2d(x, self.p, self.training)


class Dropout3d(Dropout):
    """See `functional.dropout3d`."""

    def forward(self, x: Any) -> Any:
        return dropout3d(x, self.p, self.training)


class AlphaDropout(Dropout):
    """See `functional.alpha_dropout`."""

    def forward(self, x: Any) -> Any:
        return alpha_dropout(x, self.p, self.training)

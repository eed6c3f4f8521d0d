"""Losses, as functions and as modules."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from nufunc.custom import custom_jvp
from nufunc.ir.errors import ArgumentError, DTypeError, ShapeError
from nufunc.nn.activation import log_softmax, softplus
from nufunc.nn.module import Module
from nufunc.nn.single import in_single
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


def _reduced(loss: Any, reduction: str) -> Any:
    if reduction == "mean":
        return np.mean(loss)
    if reduction == "sum":
        return np.sum(loss)
    if reduction == "none":
        return loss
    raise ArgumentError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}", user_location())


def _check_same(x: Any, y: Any, what: str) -> None:
    if np.shape(x) != np.shape(y):
        raise ShapeError(
            f"{what}: input and target must have one shape, got {np.shape(x)} and {np.shape(y)}", user_location()
        )


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The squared error."""
    _check_same(input, target, "mse_loss")
    return _reduced((input - target) ** 2, reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The absolute error."""
    _check_same(input, target, "l1_loss")
    return _reduced(np.abs(input - target), reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """Half the squared error up to delta, then linear."""
    _check_same(input, target, "huber_loss")
    e = np.abs(input - target)
    return _reduced(np.where(e <= delta, 0.5 * e * e, delta * (e - 0.5 * delta)), reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """huber_loss over beta; l1_loss for beta 0."""
    if beta == 0:
        return l1_loss(input, target, reduction)
    return huber_loss(input, target, reduction, beta) / beta


def nll_loss(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    """Minus the log-probability in `input` (N, C, ...) of the class in `target` (N, ...); also (C,) and a single class.

    weight : a factor per class. Targets that are ignore_index count nothing. The mean is over the weights.
    """
    axis = 0 if np.ndim(input) == 1 else 1
    if np.shape(target) != (*np.shape(input)[:axis], *np.shape(input)[axis + 1 :]):
        raise ShapeError(
            f"nll_loss: for an input of shape {np.shape(input)} the target must have shape "
            f"{(*np.shape(input)[:axis], *np.shape(input)[axis + 1 :])}, got {np.shape(target)}",
            user_location(),
        )
    target = np.asarray(target)
    if target.dtype.kind not in "iu":
        raise DTypeError(
            f"the target must be classes, integers of shape {np.shape(target)}, got {target.dtype}; cross_entropy also "
            f"takes probabilities of the input's shape {np.shape(input)}",
            user_location(),
        )
    counts = target != ignore_index
    index = np.where(counts, target, np.zeros_like(target))
    picked = np.squeeze(np.take_along_axis(input, np.expand_dims(index, axis), axis=axis), axis)
    factors = np.ones_like(picked) if weight is None else np.take(weight, index).astype(picked.dtype)
    factors = np.where(counts, factors, np.zeros_like(factors))
    loss = -picked * factors
    return np.sum(loss) / np.sum(factors) if reduction == "mean" else _reduced(loss, reduction)


def cross_entropy(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    """nll_loss of log_softmax(input) over the classes; target may be probabilities of the shape of input instead.

    label_smoothing : the part of each target that is spread over all classes.
    """
    axis = 0 if np.ndim(input) == 1 else 1
    logs = log_softmax(input, axis)
    classes = np.shape(input)[axis]
    factor = 1.0 if weight is None else np.reshape(weight, (-1, *(1,) * (np.ndim(input) - axis - 1)))
    if np.shape(target) == np.shape(input):
        smooth = target * (1 - label_smoothing) + label_smoothing / classes
        loss = -np.sum(smooth * logs * factor, axis=axis)
        count = max(loss.size, 1)
        return np.sum(loss) / count if reduction == "mean" else _reduced(loss, reduction)
    hard = nll_loss(logs, target, weight, ignore_index, reduction)
    if not label_smoothing:
        return hard
    target = np.asarray(target)
    counts = target != ignore_index
    spread = -np.sum(logs * factor, axis=axis) / classes
    spread = np.where(counts, spread, np.zeros_like(spread))
    if reduction == "mean":
        index = np.where(counts, target, np.zeros_like(target))
        each = np.ones_like(spread) if weight is None else np.take(weight, index).astype(spread.dtype)
        spread = np.sum(spread) / np.sum(np.where(counts, each, np.zeros_like(each)))
    else:
        spread = _reduced(spread, reduction)
    return hard * (1 - label_smoothing) + spread * label_smoothing


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """-(target log(input) + (1 - target) log(1 - input)) of probabilities.

    As in torch, logarithms are not below -100, and the derivative divides by input (1 - input), but by no less than
    1e-12.
    """
    _check_same(input, target, "binary_cross_entropy")
    loss = _bernoulli_loss(input, target)
    return _reduced(loss if weight is None else loss * weight, reduction)


@custom_jvp
def _bernoulli_loss(p: Any, target: Any) -> Any:
    return -(target * _bounded_log(p) + (1 - target) * _bounded_log(1 - p))


@_bernoulli_loss.defjvp
def _bernoulli_loss_jvp(primals: Any, tangents: Any) -> Any:
    (p, target), (p_dot, target_dot) = primals, tangents
    slope = (p - target) / np.maximum((1 - p) * p, 1e-12)
    tangent: Any = None
    if p_dot is not None:
        tangent = slope * p_dot
    if target_dot is not None:
        moved = (_bounded_log(1 - p) - _bounded_log(p)) * target_dot
        tangent = moved if tangent is None else tangent + moved
    return _bernoulli_loss(p, target), tangent


def _bounded_log(p: Any) -> Any:
    inside = p > 0
    return np.where(inside, np.maximum(np.log(np.where(inside, p, np.ones_like(p))), -100.0), np.full_like(p, -100.0))


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """binary_cross_entropy of sigmoid(input), accurate for large |input|; pos_weight is a factor of positive targets.
    """
    _check_same(input, target, "binary_cross_entropy_with_logits")
    factor = 1.0 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * input + factor * softplus(-input, threshold=np.inf)
    return _reduced(loss if weight is None else loss * weight, reduction)


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """target * (log(target) - input), where input holds log-probabilities; "batchmean" divides the sum by the batch."""
    _check_same(input, target, "kl_div")
    loss = _divergence(input, target, log_target)
    if reduction == "batchmean":
        return np.sum(loss) / np.shape(input)[0]
    return _reduced(loss, reduction)


@in_single
def _divergence(x: Any, target: Any, log_target: bool) -> Any:
    return np.exp(target) * (target - x) if log_target else special.xlogy(target, target) - target * x


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The cosine of the angle between vectors along an axis; lengths count as at least eps."""
    first = np.maximum(np.sqrt(np.sum(x1 * x1, axis=dim)), eps)
    second = np.maximum(np.sqrt(np.sum(x2 * x2, axis=dim)), eps)
    return np.sum(x1 * x2, axis=dim) / (first * second)


# -- modules


class _Loss(Module):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction


class MSELoss(_Loss):
    """See `functional.mse_loss`."""

    def forward(self, input: Any, target: Any) -> Any:
        return mse_loss(input, target, self.reduction)


class L1Loss(_Loss):
    """See `functional.l1_loss`."""

    def forward(self, input: Any, target: Any) -> Any:
        return l1_loss(input, target, self.reduction)


class HuberLoss(_Loss):
    """See `functional.huber_loss`."""

    __constants__ = ("delta",)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, input: Any, target: Any) -> Any:
        return huber_loss(input, target, self.reduction, self.delta)


class SmoothL1Loss(_Loss):
    """See `functional.smooth_l1_loss`."""

    __constants__ = ("beta",)

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, input: Any, target: Any) -> Any:
        return smooth_l1_loss(input, target, self.reduction, self.beta)


class NLLLoss(_Loss):
    """See `functional.nll_loss`."""

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.ignore_index = ignore_index
        self.register_buffer("weight", None if weight is None else np.asarray(weight))

    def forward(self, input: Any, target: Any) -> Any:
        return nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class CrossEntropyLoss(NLLLoss):
    """See `functional.cross_entropy`."""

    __constants__ = ("label_smoothing",)

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Any, target: Any) -> Any:
        return cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class BCELoss(_Loss):
    """See `functional.binary_cross_entropy`."""

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", None if weight is None else np.asarray(weight))

    def forward(self, input: Any, target: Any) -> Any:
        return binary_cross_entropy(input, target, self.weight, self.reduction)


class BCEWithLogitsLoss(BCELoss):
    """See `functional.binary_cross_entropy_with_logits`."""

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(weight, reduction)
        self.register_buffer("pos_weight", None if pos_weight is None else np.asarray(pos_weight))

    def forward(self, input: Any, target: Any) -> Any:
        return binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)


class KLDivLoss(_Loss):
    """See `functional.kl_div`."""

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, input: Any, target: Any) -> Any:
        return kl_div(input, target, self.reduction, self.log_target)

"""Connectionist temporal classification: the loss over all alignments of a sequence with shorter targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.control import scan
from nufunc.ir.errors import ArgumentError, ShapeError
from nufunc.nn.module import Module
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


def ctc_loss(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int = 0, reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:  # fmt: skip
    """Minus the logarithm of the probability of the targets, summed over all alignments with blanks and repetitions.

    log_probs : (T, N, C), or (T, C) of a single sequence, logarithms of probabilities. targets : (N, S) classes, or all
    targets one behind the other. input_lengths, target_lengths : (N,), how much of both counts. "mean" divides each
    loss by its target's length. zero_infinity : a target that is too long for its input counts nothing.

    The derivative is that of this function; torch's adds exp(log_probs), which comes to the same for logarithms of a
    softmax.
    """
    alone = np.ndim(log_probs) == 2
    if alone:
        log_probs = np.expand_dims(log_probs, 1)
    if np.ndim(log_probs) != 3:
        raise ShapeError(
            f"ctc_loss: expected log_probs (T, N, C) or (T, C), got {np.shape(log_probs)}", user_location()
        )
    count, classes = np.shape(log_probs)[1:]
    if not 0 <= blank < classes:
        raise ArgumentError(f"ctc_loss: blank must be one of the {classes} classes, got {blank}", user_location())
    lengths = _lengths(input_lengths, count, "input_lengths")
    wanted = _lengths(target_lengths, count, "target_lengths")
    labels = _labels(np.asarray(targets), wanted, count)
    loss = _losses(log_probs, labels, lengths, wanted, blank)
    if zero_infinity:
        loss = np.where(np.isinf(loss), np.zeros_like(loss), loss)
    if reduction == "mean":
        return np.mean(loss / np.maximum(wanted, 1).astype(loss.dtype))
    if reduction == "sum":
        return np.sum(loss)
    if reduction != "none":
        raise ArgumentError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}", user_location())
    return loss[0] if alone else loss


def _lengths(given: Any, count: int, what: str) -> Any:
    found = np.reshape(np.asarray(given), (-1,))
    if np.shape(found) != (count,) or found.dtype.kind not in "iu":
        raise ShapeError(
            f"ctc_loss: {what} must be {count} integers, got {np.shape(given)} of {found.dtype}", user_location()
        )
    return found.astype(np.int64)


def _labels(targets: Any, wanted: Any, count: int) -> Any:
    """Targets as (N, S)."""
    targets = targets.astype(np.int64)
    if np.ndim(targets) == 2:
        return targets
    if count == 1:
        return targets[None]
    starts = np.cumsum(wanted) - wanted
    places = starts[:, None] + np.arange(np.shape(targets)[0])
    return np.take(targets, np.minimum(places, np.shape(targets)[0] - 1))


def _losses(log_probs: Any, labels: Any, lengths: Any, wanted: Any, blank: int) -> Any:
    """One loss per sequence. State k of an alignment is label k // 2 for odd k, else a blank."""
    steps, count, _ = np.shape(log_probs)
    width = 2 * np.shape(labels)[1] + 1
    k = np.arange(width)
    inside = k[None] < 2 * wanted[:, None] + 1
    if width == 1:
        states = np.full((count, 1), blank)
    else:
        states = np.where(k[None] % 2 == 1, np.take(labels, np.minimum(k // 2, np.shape(labels)[1] - 1), axis=1), blank)
    states = np.where(inside, states, blank)
    scores = np.take_along_axis(log_probs, np.broadcast_to(states[None], (steps, count, width)), axis=2)
    before = np.concatenate([np.full((count, min(2, width)), blank), states[:, :-2]], axis=1)
    skips = (states != blank) & (states != before) & (k[None] >= 2)
    never = np.full((count, width), -np.inf, log_probs.dtype)
    start = np.where(inside & (k[None] < 2), scores[0], never)

    def step(alpha: Any, now: Any) -> Any:
        score, number = now
        edge = never[:, :1]
        one = np.concatenate([edge, alpha[:, :-1]], axis=1)
        two = np.concatenate([edge, one[:, :-1]], axis=1)
        total = _logsumexp(np.stack([alpha, one, np.where(skips, two, never)]), 0) + score
        total = np.where(inside, total, never)
        return np.where(number < lengths[:, None], total, alpha), None

    alpha, _ = scan(step, start, (scores[1:], np.arange(1, steps)))
    ends = k[None] >= 2 * wanted[:, None] - 1
    loss = -_logsumexp(np.where(inside & ends, alpha, never), 1)
    empty = np.where(wanted == 0, np.zeros_like(loss), np.full_like(loss, np.inf))
    return np.where(lengths > 0, loss, empty)


def _logsumexp(x: Any, axis: int) -> Any:
    """log(sum(exp(x))); minus infinity, with derivative zero, where all of x is."""
    largest = np.max(x, axis=axis, keepdims=True)
    dead = largest == -np.inf
    total = np.sum(np.exp(x - np.where(dead, np.zeros_like(largest), largest)), axis=axis)
    dead = np.squeeze(dead, axis)
    sums = np.log(np.where(dead, np.ones_like(total), total)) + np.squeeze(largest, axis)
    return np.where(dead, np.full_like(sums, -np.inf), sums)


class CTCLoss(Module):
    """See `functional.ctc_loss`."""

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__()
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def forward(self, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any) -> Any:
        return ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity
        )

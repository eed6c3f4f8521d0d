"""Optimizers as pure functions of trees of parameters: their update compiles together with the gradient."""

from nufunc.optim.rules import Optimizer, adagrad, adam, adamw, clip_by_norm, clip_by_value, global_norm, rmsprop, sgd
from nufunc.optim.schedules import constant, cosine, exponential, linear, piecewise, warmup_cosine
from nufunc.optim.scipy import Problem, scipy_problem

__all__ = [
    "Optimizer",
    "Problem",
    "adagrad",
    "adam",
    "adamw",
    "clip_by_norm",
    "clip_by_value",
    "constant",
    "cosine",
    "exponential",
    "global_norm",
    "linear",
    "piecewise",
    "rmsprop",
    "scipy_problem",
    "sgd",
    "warmup_cosine",
]

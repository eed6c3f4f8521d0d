"""The optimizers: a pair of functions, one for the first state and one for a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nufunc import tree
from nufunc.ir.errors import ArgumentError
from nufunc.ir.types import is_half
from nufunc.runtime.pickling import Closure
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True  # plain NumPy code: traced like the user's

Rate = float | Callable[[Any], Any]  # a learning rate, or a function of the number of the step, from 0


class Optimizer(NamedTuple):
    """init(params) gives the first state; update(grads, state, params) gives (new params, new state).

    All are trees of arrays like params; nothing is changed in place. Learning rates and other numbers may be captured
    or traced: changing them compiles nothing anew. Steps of parameters in half precision are computed in float32, and
    their state is float32.

    >>> import numpy as np, nufunc as nf
    >>> opt = nf.optim.adam(0.1)
    >>> @nf.jit
    ... def step(params, state):
    ...     loss, grads = nf.value_and_grad(lambda p: np.sum((p - 3) ** 2))(params)
    ...     return *opt.update(grads, state, params), loss
    >>> params = np.zeros(2)
    >>> state = opt.init(params)
    >>> for _ in range(200):
    ...     params, state, loss = step(params, state)
    >>> bool(loss < 1e-4)
    True
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]

    def __reduce__(self) -> Any:
        return _again, (Closure.of(self.init), Closure.of(self.update))


def _again(init: Any, update: Any) -> Optimizer:
    return Optimizer(Closure.function(init), Closure.function(update))


def _is_half(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return dtype is not None and is_half(dtype)


def _wide(arrays: Any) -> Any:
    """The arrays, float32 instead of half precision, in which 0.999 is 1 and 1e-8 may be 0."""
    return tree.map(lambda x: x.astype(np.float32) if _is_half(x) else x, arrays)


def _rounded(new: Any, params: Any) -> Any:
    """New parameters in the dtypes of the old ones."""
    return tree.map(lambda n, p: n.astype(p.dtype) if _is_half(p) else n, new, params)


def _zeros(params: Any) -> Any:
    return tree.map(np.zeros_like, _wide(params))


def _start() -> Any:
    return np.int64(0)  # as a compiled update gives it: an array of no axes would compile the first step apart


def _rate(lr: Rate, step: Any) -> Any:
    return lr(step) if callable(lr) else lr


def _check(ok: bool, what: str) -> None:
    if not ok:
        raise ArgumentError(what, user_location())


def _check_state(rule: str, grads: Any, state: Any, params: Any, *names: str) -> None:
    """That the state has these trees beside the number of the step, and all trees are like params."""
    _check(
        isinstance(state, dict) and {"step", *names} <= set(state),
        f"{rule}: the state must be what this optimizer's init or update gave, with {', '.join(('step', *names))}; got "
        f"{', '.join(map(str, state)) if isinstance(state, dict) else type(state).__name__}",
    )
    expected, shapes = tree.structure(params), [np.shape(x) for x in tree.leaves(params)]
    for name, other in (("grads", grads), *((f"state[{n!r}]", state[n]) for n in names)):
        _check(
            tree.structure(other) == expected,
            f"{rule}: {name} must be a tree like params, {_shown(params)}; got {_shown(other)}",
        )
        found = [np.shape(x) for x in tree.leaves(other)]
        _check(
            found == shapes,
            f"{rule}: the arrays of {name} must have the shapes of params, {shapes}; got {found}",
        )


def _shown(given: Any) -> str:
    return f"a dict with {', '.join(map(repr, given))}" if isinstance(given, dict) else f"{tree.structure(given)}"


def _like(value: Any, x: Any) -> Any:
    """A number in the dtype of an array, so that it does not widen the array."""
    return np.asarray(value).astype(x.dtype)


def sgd(
    lr: Rate, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0, dampening: float = 0.0
) -> Optimizer:
    """Gradient descent, as torch.optim.SGD: v = momentum v + (1 - dampening) g, params - lr v (the first v is g)."""
    heavy = momentum != 0.0
    _check(heavy or not nesterov, "sgd: nesterov needs a momentum")
    decays = weight_decay != 0.0

    def init(params: Any) -> Any:
        return {"step": _start(), "velocity": _zeros(params)} if heavy else {"step": _start()}

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        _check_state("sgd", grads, state, params, *(["velocity"] if heavy else []))
        step = state["step"]
        rate = _rate(lr, step)
        grads, wide = _wide(grads), _wide(params)
        if decays:
            grads = tree.map(lambda g, p: g + _like(weight_decay, g) * p, grads, wide)
        new = {"step": step + 1}
        move = grads
        if heavy:
            part = np.where(step == 0, 1.0, 1.0 - dampening)
            velocity = tree.map(
                lambda v, g: _like(momentum, g) * v + _like(part, g) * g, state["velocity"], grads
            )
            new["velocity"] = velocity
            move = tree.map(lambda g, v: g + _like(momentum, g) * v, grads, velocity) if nesterov else velocity
        return _rounded(tree.map(lambda p, m: p - _like(rate, p) * m, wide, move), params), new

    return Optimizer(init, update)


def _moments(state: Any, grads: Any, beta1: float, beta2: float) -> tuple[Any, Any]:
    first = tree.map(lambda m, g: _like(beta1, g) * m + _like(1 - beta1, g) * g, state["first"], grads)
    second = tree.map(
        lambda v, g: _like(beta2, g) * v + _like(1 - beta2, g) * (g * g), state["second"], grads
    )
    return first, second


def adam(
    lr: Rate = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam (Kingma and Ba 2015), as torch.optim.Adam; weight_decay is added to the gradient."""
    return _adam(lr, betas, eps, weight_decay, amsgrad, False)


def adamw(
    lr: Rate = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW."""
    return _adam(lr, betas, eps, weight_decay, amsgrad, True)


def _adam(
    lr: Rate, betas: tuple[float, float], eps: float, weight_decay: float, amsgrad: bool, decoupled: bool
) -> Optimizer:
    beta1, beta2 = betas
    decays = weight_decay != 0.0

    def init(params: Any) -> Any:
        state = {"step": _start(), "first": _zeros(params), "second": _zeros(params)}
        return {**state, "largest": _zeros(params)} if amsgrad else state

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        _check_state("adam", grads, state, params, "first", "second", *(["largest"] if amsgrad else []))
        rate = _rate(lr, state["step"])
        step = state["step"] + 1
        grads, wide = _wide(grads), _wide(params)
        if decays and decoupled:
            wide = tree.map(lambda p: p * _like(1 - rate * weight_decay, p), wide)
        elif decays:
            grads = tree.map(lambda g, p: g + _like(weight_decay, g) * p, grads, wide)
        first, second = _moments(state, grads, beta1, beta2)
        new = {"step": step, "first": first, "second": second}
        scale = second
        if amsgrad:
            scale = new["largest"] = tree.map(np.maximum, state["largest"], second)
        size = rate / (1 - beta1**step)
        root = np.sqrt(1 - beta2**step)

        def moved(p: Any, m: Any, v: Any) -> Any:
            return p - _like(size, p) * m / (np.sqrt(v) / _like(root, p) + _like(eps, p))

        return _rounded(tree.map(moved, wide, first, scale), params), new

    return Optimizer(init, update)


def rmsprop(lr: Rate = 1e-2, alpha: float = 0.99, eps: float = 1e-8) -> Optimizer:
    """The gradient over the root of its running mean square (Hinton 2012), as torch.optim.RMSprop."""

    def init(params: Any) -> Any:
        return {"step": _start(), "square": _zeros(params)}

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        _check_state("rmsprop", grads, state, params, "square")
        rate, grads, wide = _rate(lr, state["step"]), _wide(grads), _wide(params)
        square = tree.map(lambda s, g: _like(alpha, g) * s + _like(1 - alpha, g) * (g * g), state["square"], grads)
        new = tree.map(lambda p, g, s: p - _like(rate, p) * g / (np.sqrt(s) + _like(eps, p)), wide, grads, square)
        return _rounded(new, params), {"step": state["step"] + 1, "square": square}

    return Optimizer(init, update)


def adagrad(lr: Rate = 1e-2, eps: float = 1e-10) -> Optimizer:
    """The gradient over the root of the sum of its squares (Duchi et al. 2011), as torch.optim.Adagrad."""

    def init(params: Any) -> Any:
        return {"step": _start(), "total": _zeros(params)}

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        _check_state("adagrad", grads, state, params, "total")
        rate, grads, wide = _rate(lr, state["step"]), _wide(grads), _wide(params)
        total = tree.map(lambda s, g: s + g * g, state["total"], grads)
        new = tree.map(lambda p, g, s: p - _like(rate, p) * g / (np.sqrt(s) + _like(eps, p)), wide, grads, total)
        return _rounded(new, params), {"step": state["step"] + 1, "total": total}

    return Optimizer(init, update)


# -- gradients


def global_norm(grads: Any) -> Any:
    """The Euclidean norm of all arrays of a tree together; of half precision in float32."""
    return np.sqrt(sum(np.sum(g * g) for g in tree.leaves(_wide(grads))))


def clip_by_norm(grads: Any, max_norm: float) -> tuple[Any, Any]:
    """(the tree scaled so that its global norm is at most max_norm, the norm before).

    >>> import numpy as np, nufunc as nf
    >>> nf.optim.clip_by_norm({"w": np.array([3., 4.])}, 1.)
    ({'w': array([0.6, 0.8])}, np.float64(5.0))
    """
    norm = global_norm(grads)
    factor = max_norm / np.maximum(norm, max_norm)
    return tree.map(lambda g: g * _like(factor, g), grads), norm


def clip_by_value(grads: Any, limit: float) -> Any:
    """The tree with every element between -limit and limit."""
    return tree.map(lambda g: np.clip(g, _like(-limit, g), _like(limit, g)), grads)

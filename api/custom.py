"""Functions with derivative rules of one's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

from nufunc.ir.errors import ArgumentError, ArgumentTypeError
from nufunc.runtime import custom
from nufunc.runtime.pickling import reduced
from nufunc.tracer.trace import current
from nufunc.tracer.usercode import user_location


class _Custom:
    """A function and its rules. Outside traced functions it is the function itself."""

    def __init__(self, func: Callable[..., Any], nondiff_argnums: Sequence[int] = ()) -> None:
        label = type(self).__name__
        if not callable(func):
            raise ArgumentTypeError(f"{label} takes a function, got {type(func).__name__}", user_location())
        nums = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else tuple(nondiff_argnums)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in nums):
            raise ArgumentError(f"{label}: nondiff_argnums must be non-negative ints, got {nums}", user_location())
        self.func = func
        self.nondiff_argnums = tuple(sorted(set(nums)))
        self.rules: tuple[Callable[..., Any], ...] = ()
        self.symbolic_zeros = False
        functools.update_wrapper(self, func, updated=())

    def __repr__(self) -> str:
        return f"<nufunc {type(self).__name__}({getattr(self.func, '__qualname__', self.func)!s})>"

    def __get__(self, obj: Any, cls: type | None = None) -> Any:
        return self if obj is None else MethodType(self, obj)

    # -- what the globals view needs to rebuild this over instrumented functions

    @property
    def __nufunc_parts__(self) -> tuple[Any, ...]:
        return (self.func, *self.rules)

    @property
    def __nufunc_key__(self) -> Any:
        return (self.nondiff_argnums, self.symbolic_zeros)

    def __nufunc_rebind__(self, parts: tuple[Any, ...]) -> _Custom:
        new = type(self)(parts[0], self.nondiff_argnums)
        new.rules, new.symbolic_zeros = parts[1:], self.symbolic_zeros
        return new

    # -- copies

    def __reduce__(self) -> Any:
        parts = type(self), self.func, self.__nufunc_key__, self.rules
        return reduced(self, self.func, lambda base: (_restored, parts))

    def __copy__(self) -> _Custom:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Custom:
        return self

    # -- calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if current() is None:
            return self.func(*args, **kwargs)
        if not self.rules:
            raise ArgumentError(f"{self._name} has no derivative rule: {self._how}", user_location())
        args = self._positional(args, kwargs)
        if any(n >= len(args) for n in self.nondiff_argnums):
            raise ArgumentError(
                f"{self._name} got {len(args)} arguments, but its nondiff_argnums are {self.nondiff_argnums}",
                user_location(),
            )
        key = (type(self), *map(id, self.__nufunc_parts__))
        return custom.call_custom(key, custom.Call(self._name, args, self.nondiff_argnums), self.func, self._rule)

    _how = ""

    def _rule(self, call: custom.Call, primal: Any) -> Any:
        raise NotImplementedError

    @property
    def _name(self) -> str:
        return getattr(self.func, "__name__", type(self.func).__name__)

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments by position, as the rules take them; defaults are filled in."""
        try:
            bound = inspect.signature(self.func).bind(*args, **kwargs)
        except ValueError:  # no signature, as for some built-in functions
            if kwargs:
                raise ArgumentTypeError(f"{self._name} takes its arguments by position", user_location()) from None
            return args
        bound.apply_defaults()
        if bound.kwargs:
            raise ArgumentTypeError(
                f"{self._name} has keyword-only arguments ({', '.join(bound.kwargs)}), which its rules cannot take",
                user_location(),
            )
        return bound.args


def _restored(cls: type[_Custom], func: Any, key: Any, rules: tuple[Any, ...]) -> _Custom:
    made = cls(func, key[0])
    made.rules, made.symbolic_zeros = rules, key[1]
    return made


class custom_jvp(_Custom):
    """A function whose derivative, in both modes, is given by a rule for tangents.

    func : the function. nondiff_argnums : positions of arguments without derivatives, which come first in the rule.

    `defjvp(rule)`, also a decorator: rule(*nondiff, primals, tangents) gives (result, tangent of the result), where
    primals and tangents are tuples with an entry per other argument. Tangents must be used linearly; the tangent of
    what is not a float or complex array is None. With `symbolic_zeros=True` so is every tangent that is zero. A None
    in the returned tangent stands for zero. `defjvps(*rules)` takes a rule per argument: rule(tangent, result,
    *primals), or None.

    The rule may use arrays and numbers of enclosing functions, and `func` itself. A derivative with respect to such
    a captured value raises UnsupportedError, since the rule does not say what it is.

    >>> import numpy as np, nufunc as nf
    >>> @nf.custom_jvp
    ... def log1pexp(x):
    ...     return np.log(1 + np.exp(x))
    >>> @log1pexp.defjvp
    ... def rule(primals, tangents):
    ...     (x,), (t,) = primals, tangents
    ...     return log1pexp(x), (1 - 1 / (1 + np.exp(x))) * t
    >>> nf.grad(log1pexp)(100.)                          # the derivative of the formula would be inf / inf
    np.float64(1.0)
    """

    _how = "give it one with defjvp"

    def defjvp(self, rule: Callable[..., Any], symbolic_zeros: bool = False) -> Callable[..., Any]:
        """Set the rule; gives it back."""
        self.rules, self.symbolic_zeros = (rule,), symbolic_zeros
        return rule

    def defjvps(self, *rules: Callable[..., Any] | None) -> None:
        """Set a rule per argument, or None for one whose derivative is zero."""
        if self.nondiff_argnums:
            raise ArgumentError("defjvps: not with nondiff_argnums; use defjvp", user_location())
        func = self

        def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
            if len(rules) != len(primals):
                raise ArgumentError(
                    f"{func._name} got {len(primals)} arguments, but defjvps {len(rules)} rules", user_location()
                )
            result = func(*primals)
            total = None
            for one, tangent in zip(rules, tangents, strict=True):
                if one is not None and tangent is not None:
                    part = one(tangent, result, *primals)
                    total = part if total is None else total + part
            return result, total

        self.defjvp(rule, symbolic_zeros=True)

    def _rule(self, call: custom.Call, primal: Any) -> Any:
        return custom.JvpRule(call, primal, self.rules[0], self.symbolic_zeros)


class custom_vjp(_Custom):
    """A function whose reverse-mode derivative is given by a pair of rules.

    func : the function. nondiff_argnums : positions of arguments without derivatives, which come first in `bwd`.

    `defvjp(fwd, bwd)`: fwd(*args) gives (result, residuals), where residuals is any tree; bwd(*nondiff, residuals,
    cotangent) gives a tuple with a cotangent per other argument, where None stands for zero. Cotangents follow
    torch's convention for complex numbers, as those of `nf.vjp`. With `symbolic_zeros=True` cotangents that
    are zero are given to bwd as None.

    Forward mode works too where bwd is linear in the cotangent, by its transpose; where it is not (a clipped gradient)
    forward mode raises UnsupportedError. Values of enclosing functions may be used, as in `custom_jvp`.

    >>> import numpy as np, nufunc as nf
    >>> @nf.custom_vjp
    ... def clipped(x):                                  # the identity, with a gradient of at most 1
    ...     return x
    >>> clipped.defvjp(lambda x: (x, None), lambda _, g: (np.clip(g, -1, 1),))
    >>> nf.grad(lambda x: np.sum(clipped(x) ** 2))(np.array([0.1, 3.]))
    array([0.2, 1. ])
    """

    _how = "give it rules with defvjp"

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any], symbolic_zeros: bool = False) -> None:
        """Set the rules."""
        self.rules, self.symbolic_zeros = (fwd, bwd), symbolic_zeros

    def _rule(self, call: custom.Call, primal: Any) -> Any:
        forward, backward = self.rules
        return custom.VjpRule(call, primal, forward, backward, self.symbolic_zeros)

"""What SciPy's optimizers ask for, from a function of a tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nufunc.ir.errors import ArgumentError, DTypeError
from nufunc.ir.types import kind_of
from nufunc.raveling import ravel
from nufunc.runtime.function import Transformed
from nufunc.tracer.usercode import user_location
from nufunc.transforms import grad, grad_and_value, hessian, jit, jvp

__nufunc_traceable__ = True  # plain NumPy code: traced like the user's


@dataclass(frozen=True)
class Problem:
    """The arguments of `scipy.optimize.minimize` (`minimize(**problem.arguments, method=...)`), and `unravel`, which
    turns a vector such as `result.x` into the tree."""

    arguments: dict[str, Any]
    unravel: Callable[[Any], Any]


def scipy_problem(
    func: Callable[..., Any], x0: Any, *args: Any, second: Literal["hess", "hessp"] | None = None
) -> Problem:
    """A minimization for SciPy, with derivatives, compiled.

    Parameters
    ----------
    func : func(x, *args) -> a real scalar; x is a tree like `x0`.
    x0 : where to start: a float, a float array, or a tree of them. Everything is computed in float64.
    args : further arguments; they are read at each evaluation.
    second : what SciPy gets of second derivatives: "hess", the matrix (n, n); "hessp", products of it with vectors,
        for many variables; None.

    Returns
    -------
    Problem, whose `arguments` are x0 (a vector), fun, jac=True (fun gives the value with its gradient, in one
    evaluation) and hess or hessp.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> from scipy.optimize import minimize
    >>> def rosenbrock(p):
    ...     return (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2
    >>> problem = nf.optim.scipy_problem(rosenbrock, {"x": -1.0, "y": 2.0}, second="hess")
    >>> result = minimize(**problem.arguments, method="trust-exact")
    >>> {k: round(float(v), 4) for k, v in problem.unravel(result.x).items()}
    {'x': 1.0, 'y': 1.0}
    """
    if second not in (None, "hess", "hessp"):
        raise ArgumentError(f'scipy_problem: second must be "hess", "hessp" or None, got {second!r}', user_location())
    start, unravel = ravel(x0)
    if kind_of(start.dtype) not in "fiu":
        raise DTypeError(f"scipy_problem: x0 must hold real numbers, got {start.dtype}", user_location())

    def value(vector: Any, *rest: Any) -> Any:
        return func(unravel(vector), *rest)

    slope = grad_and_value(value)

    def fun(vector: Any) -> tuple[float, np.ndarray]:
        gradient, found = slope(np.asarray(vector, np.float64), *args)
        return float(found), gradient

    arguments: dict[str, Any] = {"fun": fun, "x0": start.astype(np.float64), "jac": True}
    if second == "hess":
        matrix = hessian(value)
        arguments["hess"] = lambda vector: matrix(np.asarray(vector, np.float64), *args)
    if second == "hessp":
        product = _product(value)
        arguments["hessp"] = lambda vector, v: product(np.asarray(vector, np.float64), np.asarray(v, np.float64), *args)
    return Problem(arguments, unravel)


def _product(value: Callable[..., Any]) -> Transformed:
    slope = grad(value)
    return jit(lambda vector, v, *rest: jvp(lambda u: slope(u, *rest), (vector,), (v,))[1])

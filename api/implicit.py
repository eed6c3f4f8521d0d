"""Derivatives of solutions: linear systems and roots that any solver may find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nufunc.runtime import solve as implicit
from nufunc.tracer.trace import current


def custom_linear_solve(
    matvec: Callable[[Any], Any],
    b: Any,
    solve: Callable[[Callable[[Any], Any], Any], Any],
    transpose_solve: Callable[[Callable[[Any], Any], Any], Any] | None = None,
    symmetric: bool = False,
) -> Any:
    """x with matvec(x) = b as solve(matvec, b) finds it, differentiated as the solution of a linear system.

    matvec : a linear function from trees like b to trees like b. b : a tree of float or complex arrays.
    transpose_solve : transpose_solve(vecmat, c) solves with the transpose of matvec; needed for reverse mode unless
    `symmetric`, which says that matvec is its own transpose. The derivative of x is solve(matvec, db - (d matvec) x):
    it does not run through the iterations of `solve`.

    >>> import numpy as np, nufunc as nf
    >>> a = np.array([[4., 0.], [0., 2.]])
    >>> def x(b):
    ...     return nf.custom_linear_solve(lambda v: a @ v, b, lambda mv, b: np.linalg.solve(a, b), symmetric=True)
    >>> nf.jacrev(x)(np.ones(2))
    array([[0.25, 0.  ],
           [0.  , 0.5 ]])
    """
    if current() is None:
        return solve(matvec, b)
    return implicit.linear_solve(matvec, b, solve, transpose_solve, symmetric)


def custom_root(
    f: Callable[[Any], Any],
    initial_guess: Any,
    solve: Callable[[Callable[[Any], Any], Any], Any],
    tangent_solve: Callable[[Callable[[Any], Any], Any], Any],
) -> Any:
    """x with f(x) = 0 as solve(f, initial_guess) finds it, differentiated by the implicit function theorem.

    f : a function from trees like initial_guess to trees like it. tangent_solve : tangent_solve(g, y) solves g(v) = y
    for the linear function g, the derivative of f at x; for scalars y / g(1.), for vectors
    `np.linalg.solve(nf.jacfwd(g)(y), y)` or `custom_linear_solve`. The derivative is for whatever f uses of enclosing
    functions; that for initial_guess is zero.

    >>> import numpy as np, nufunc as nf
    >>> def newton(f, x):
    ...     return nf.fori_loop(0, 20, lambda i, x: x - f(x) / nf.grad(f)(x), x)
    >>> def sqrt(a):
    ...     return nf.custom_root(lambda x: x * x - a, 1., newton, lambda g, y: y / g(1.))
    >>> nf.grad(sqrt)(4.)
    np.float64(0.25)
    """
    if current() is None:
        return solve(f, initial_guess)
    return implicit.root(f, initial_guess, solve, tangent_solve)

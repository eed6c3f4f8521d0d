"""The ways in which a row of `inplace_samples` runs: NumPy alone, each transform, and the bodies of control flow."""

from collections.abc import Callable
from typing import Any

import numpy as np
from inplace_samples import ROWS, arguments

import nufunc as nf

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def leaves(result: Any) -> list[Any]:
    return list(result) if isinstance(result, list | tuple) else [result]


def eager(f: Callable[..., Any], given: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """NumPy's results, copied since they may be views, and the arguments afterwards."""
    own = [a.copy(order="K") for a in given]
    with np.errstate(all="ignore"):
        outputs = [np.array(o) for o in leaves(f(*own))]
    return outputs, own


def same(found: Any, expected: Any, what: str) -> None:
    assert len(found) == len(expected)
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        a = np.asarray(a)
        assert a.shape == b.shape, f"{what} {k}: shape {a.shape}, not {b.shape}"
        assert a.dtype == b.dtype, f"{what} {k}: dtype {a.dtype}, not {b.dtype}"
        np.testing.assert_allclose(a, b, **TOLERANCE, err_msg=f"{what} {k}")


def compared(run: Callable[..., Any], f: Callable[..., Any], seed: int = 0) -> None:
    """`run` gives and leaves behind what `f` does in NumPy."""
    given = arguments(seed)
    outputs, final = eager(f, given)
    own = [a.copy() for a in given]
    same(leaves(run(*own)), outputs, "result")
    same(own, final, "argument")


def by_jit(f: Callable[..., Any]) -> None:
    run = nf.jit(f)
    compared(run, f)
    compared(run, f, seed=1)


def by_functionalize(f: Callable[..., Any]) -> None:
    compared(nf.functionalize(f), f)
    compared(nf.jit(nf.functionalize(f, remove="mutations_and_views")), f)


def by_vmap(f: Callable[..., Any]) -> None:
    """Lanes, as a Python loop over them; what each writes to its arguments is written back."""
    given = arguments(2, lanes=3)
    runs = [eager(f, [a[k] for a in given]) for k in range(3)]
    own = [a.copy() for a in given]
    found = leaves(nf.vmap(f)(*own))
    same(found, [np.stack(o) for o in zip(*(r[0] for r in runs), strict=True)], "result")
    same(own, [np.stack(a) for a in zip(*(r[1] for r in runs), strict=True)], "argument")


def loss_of(f: Callable[..., Any]) -> Callable[..., Any]:
    """A smooth real number from everything that `f` returns and leaves in its arguments, which are copied first."""

    def loss(x, y, z, n):
        own = [x.copy(), y.copy(), z.copy(), n.copy()]
        total = 0.0
        for k, o in enumerate([*leaves(f(*own)), *own[:3]]):
            if o.dtype.kind == "c":
                total = total + np.sum(np.sin(o.real + k) + np.cos(o.imag * 0.5))
            elif o.dtype.kind == "f":
                total = total + np.sum(np.sin(o + k))
        return total

    return loss


def directional(loss: Callable[..., float], given: list[np.ndarray], tangents: list[np.ndarray]) -> float:
    """Central differences along a direction."""
    h = 1e-6

    def at(t: float) -> float:
        moved = [a + t * d for a, d in zip(given[:3], tangents, strict=True)]
        with np.errstate(all="ignore"):
            return float(loss(*moved, given[3]))

    return (at(h) - at(-h)) / (2 * h)


def direction(given: list[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(9)
    return [rng.normal(size=a.shape) + (1j * rng.normal(size=a.shape) if a.dtype.kind == "c" else 0) for a in given[:3]]


def by_grad(f: Callable[..., Any]) -> None:
    given = arguments(3)
    loss, tangents = loss_of(f), direction(given)
    own = [a.copy() for a in given]
    gradients = nf.grad(loss, argnums=(0, 1, 2))(*own)
    same(own, given, "argument")
    found = sum(np.sum(g * d.conj()).real for g, d in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(found, directional(loss, given, tangents), rtol=1e-5, atol=1e-5)


def by_jvp(f: Callable[..., Any]) -> None:
    given = arguments(3)
    loss, tangents = loss_of(f), direction(given)
    n = given[3]
    value, pushed = nf.jvp(lambda x, y, z: loss(x, y, z, n), tuple(given[:3]), tuple(tangents))
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(value, loss(*given), **TOLERANCE)
    np.testing.assert_allclose(pushed, directional(loss, given, tangents), rtol=1e-5, atol=1e-5)


def total_of(outputs: list[Any]) -> Any:
    return sum((np.sum(np.abs(o)) for o in outputs), 0.0)


def _loop(f: Callable[..., Any], flow: Any) -> Callable[..., Any]:
    def run(x, y, z, n):
        def body(i, carry):
            return carry * 0.5 + total_of(leaves(f(x, y, z, n)))

        return flow.fori_loop(0, 2, body, 0.0), x, y, z, n

    return run


def _scan(f: Callable[..., Any], flow: Any) -> Callable[..., Any]:
    def run(x, y, z, n):
        def body(carry, item):
            return carry + total_of(leaves(f(x, y, z, n))) * item, carry

        return (*flow.scan(body, 0.0, np.array([1.0, 0.5])), x, y, z, n)

    return run


def _cond(f: Callable[..., Any], flow: Any) -> Callable[..., Any]:
    def run(x, y, z, n):
        def yes():
            return total_of(leaves(f(x, y, z, n)))

        first = flow.cond(n[0] >= 0, yes, lambda: 1.0)
        return first, flow.cond(n[0] < 0, yes, lambda: 1.0), x, y, z, n

    return run


class PlainFlow:
    """nufunc's control flow in plain Python."""

    @staticmethod
    def fori_loop(lower, upper, body, carry):
        for i in range(lower, upper):
            carry = body(i, carry)
        return carry

    @staticmethod
    def scan(body, carry, xs):
        rows = []
        for x in xs:
            carry, y = body(carry, x)
            rows.append(y)
        return carry, np.array(rows)

    @staticmethod
    def cond(test, yes, no):
        return yes() if test else no()


def in_body(make: Callable[..., Any]) -> Callable[[Callable[..., Any]], None]:
    return lambda f: compared(nf.jit(make(f, nf)), make(f, PlainFlow))


WAYS: dict[str, Callable[[Callable[..., Any]], None]] = {
    "jit": by_jit, "functionalize": by_functionalize, "vmap": by_vmap, "grad": by_grad, "jvp": by_jvp,
    "fori_loop": in_body(_loop), "scan": in_body(_scan), "cond": in_body(_cond),
}  # fmt: skip


def check(name: str, way: str) -> None:
    WAYS[way](ROWS[name])

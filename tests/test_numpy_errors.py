"""Mistakes in traced NumPy code: the class of each error, its message, and the user's own line in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy_harness import trace

import nufunc.ir.errors as errors
from nufunc.tracer.np_core import AxisError

X = np.arange(12.0).reshape(3, 4)
N = np.arange(12).reshape(3, 4)

# name: (call, class, a built-in class, part of the message)
MISTAKES: dict[str, tuple[Callable[..., Any], type, type, str]] = {
    "broadcast": (lambda np, x, n: x[0, :3] + x[0], errors.ShapeError, ValueError, "shapes (3,) (4,)"),
    "matmul": (lambda np, x, n: x @ x, errors.ShapeError, ValueError, "(3,4) and (3,4)"),
    "dot": (lambda np, x, n: np.dot(x, x), errors.ShapeError, ValueError, "not aligned"),
    "axis": (
        lambda np, x, n: x.sum(axis=2),
        AxisError,
        np.exceptions.AxisError,
        "axis 2 is out of bounds for array of dimension 2",
    ),
    "axis twice": (lambda np, x, n: x.sum(axis=(0, 0)), errors.ShapeError, ValueError, "duplicate"),
    "axis index error": (lambda np, x, n: np.flip(x, 5), AxisError, IndexError, "axis 5"),
    "reshape": (
        lambda np, x, n: x.reshape(5, 2),
        errors.ShapeError,
        ValueError,
        "cannot reshape array of size 12",
    ),
    "reshape twice unknown": (
        lambda np, x, n: x.reshape(-1, -1),
        errors.ShapeError,
        ValueError,
        "one unknown",
    ),
    "concatenate": (
        lambda np, x, n: np.concatenate([x, x.T]),
        errors.ShapeError,
        ValueError,
        "along dimension 1",
    ),
    "stack": (lambda np, x, n: np.stack([x, x[0]]), errors.ShapeError, ValueError, "same shape"),
    "split": (lambda np, x, n: np.split(x, 2), errors.ShapeError, ValueError, "equal division"),
    "squeeze": (lambda np, x, n: np.squeeze(x, 0), errors.ShapeError, ValueError, "squeeze"),
    "assign shape": (
        lambda np, x, n: x.__setitem__(0, x[:, 0]),
        errors.ShapeError,
        ValueError,
        "from shape (3,) into shape (4,)",
    ),
    "empty max": (lambda np, x, n: x[:0].max(), errors.ShapeError, ValueError, "no identity"),
    "index": (
        lambda np, x, n: x[3],
        errors.BoundsError,
        IndexError,
        "index 3 is out of bounds for axis 0 with size 3",
    ),
    "index negative": (lambda np, x, n: x[:, -5], errors.BoundsError, IndexError, "index -5"),
    "index array": (lambda np, x, n: x[[0, 7]], errors.BoundsError, IndexError, "index 7"),
    "estimator of bins": (lambda np, x, n: np.histogram(x, "none"), errors.DomainError, ValueError, "valid estimator"),
    "take": (lambda np, x, n: np.take(x, [0, 9], axis=1), errors.BoundsError, IndexError, "index 9"),
    "too many indices": (lambda np, x, n: x[0, 0, 0], errors.BoundsError, IndexError, "too many indices"),
    "float index": (lambda np, x, n: x[1.0], errors.BoundsError, IndexError, "valid indices"),
    "traced float index": (
        lambda np, x, n: x[x[0, 0]],
        errors.BoundsError,
        IndexError,
        "integer (or boolean)",
    ),
    "mask shape": (
        lambda np, x, n: x[x[:2] > 0],
        errors.BoundsError,
        IndexError,
        "boolean index did not match",
    ),
    "two ellipses": (lambda np, x, n: x[..., ...], errors.BoundsError, IndexError, "single ellipsis"),
    "in place casting": (lambda np, x, n: n.__iadd__(1.5), errors.DTypeError, TypeError, "same_kind"),
    "out casting": (lambda np, x, n: np.add(x, x, out=n), errors.DTypeError, TypeError, "same_kind"),
    "bool minus": (lambda np, x, n: (x > 0) - (x < 1), errors.DTypeError, TypeError, "boolean subtract"),
    "bitwise float": (lambda np, x, n: x & 1, errors.DTypeError, TypeError, "bitwise_and"),
    "long double": (lambda np, x, n: x.astype(np.longdouble), errors.DTypeError, TypeError, "float128"),
    "object dtype": (lambda np, x, n: np.zeros(3, dtype=object), errors.DTypeError, TypeError, "object"),
    "strings": (lambda np, x, n: x + np.array(["a"]), errors.DTypeError, TypeError, "cannot be traced"),
    "complex into float": (lambda np, x, n: x.__setitem__(0, 1j), errors.DTypeError, TypeError, "complex"),
    "read-only": (
        lambda np, x, n: np.broadcast_to(x, (2, 3, 4)).__setitem__(0, 1.0),
        errors.TraceError,
        TypeError,
        "read-only",
    ),
    "diagonal read-only": (lambda np, x, n: x.diagonal().fill(0), errors.TraceError, TypeError, "read-only"),
    "if": (lambda np, x, n: 1 if x[0, 0] > 0 else 2, errors.TraceError, TypeError, "nf.cond"),
    "float()": (lambda np, x, n: float(x[0, 0]), errors.TraceError, TypeError, "float()"),
    "int()": (lambda np, x, n: int(n[0, 0]), errors.TraceError, TypeError, "int()"),
    "complex()": (lambda np, x, n: complex(x[0, 0]), errors.TraceError, TypeError, "complex()"),
    "range": (lambda np, x, n: list(range(n[0, 0])), errors.TraceError, TypeError, "fori_loop"),
    "item": (lambda np, x, n: x[0, 0].item(), errors.TraceError, TypeError, "x.item()"),
    "tolist": (lambda np, x, n: x.tolist(), errors.TraceError, TypeError, "tolist"),
    "asarray": (lambda np_, x, n: np.asarray(x), errors.TraceError, TypeError, "nf.numpy"),
    "traced shape": (lambda np, x, n: np.zeros(n[0, 1]), errors.TraceError, TypeError, "static argument"),
    "traced arange": (lambda np, x, n: np.arange(n[0, 1]), errors.TraceError, TypeError, "static length"),
    "traced slice": (lambda np, x, n: x[0, n[0, 1] :], errors.TraceError, TypeError, "static size"),
    "in": (lambda np, x, n: 1.0 in x, errors.TraceError, TypeError, "bool()"),
    "where of one": (
        lambda np, x, n: np.where(x > 0),
        errors.UnsupportedError,
        NotImplementedError,
        "np.where(mask, x, y)",
    ),
    "mask escapes": (
        lambda np, x, n: np.concatenate([x[x > 0]]),
        errors.UnsupportedError,
        NotImplementedError,
        "static shape",
    ),
    "two masks": (
        lambda np, x, n: x[x > 0] + x[x < 5],
        errors.UnsupportedError,
        NotImplementedError,
        "different traced masks",
    ),
    "unsupported function": (
        lambda np, x, n: np.array2string(x),
        errors.UnsupportedError,
        NotImplementedError,
        "array2string",
    ),
    "unsupported ufunc": (
        lambda np_, x, n: np.isnat(x),
        errors.UnsupportedError,
        NotImplementedError,
        "isnat",
    ),
    "unsupported protocol": (
        lambda np_, x, n: np.array_repr(x),
        errors.UnsupportedError,
        NotImplementedError,
        "array_repr",
    ),
    "random": (
        lambda np, x, n: np.random.normal(size=3),
        errors.TraceError,
        TypeError,
        "argument",
    ),
    "raw array": (
        lambda np_, x, n: x + np.ones(4),
        errors.UnguardedCaptureError,
        TypeError,
        "nf.numpy.asarray",
    ),
    "non-square": (lambda np, x, n: np.linalg.inv(x), errors.LinAlgError, np.linalg.LinAlgError, "square"),
    "einsum labels": (
        lambda np, x, n: np.einsum("ij->ik", x),
        errors.ShapeError,
        ValueError,
        "never appeared",
    ),
    "einsum extents": (
        lambda np, x, n: np.einsum("ij,ji", x, x),
        errors.ShapeError,
        ValueError,
        "has extents",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name: str) -> None:
    call, kind, builtin, text = MISTAKES[name]
    with pytest.raises(kind) as caught:
        trace(call, X, N)
    assert isinstance(caught.value, builtin)
    assert text in str(caught.value)
    assert "test_numpy_errors.py" in str(caught.value)
    assert caught.value.location.line == call.__code__.co_firstlineno


PYTHON_MISTAKES: dict[str, tuple[Callable[..., Any], type, str]] = {
    "overflow": (lambda np, x, n: n.astype(np.int8) + 300, OverflowError, "300"),
    "overflow unsigned": (lambda np, x, n: n.astype(np.uint8) - 1 + (-1), OverflowError, "-1"),
    "negative power": (lambda np, x, n: n**-1, ValueError, "negative integer powers"),
    "len of 0-d": (lambda np, x, n: len(x[0, 0]), TypeError, "unsized"),
    "hash": (lambda np, x, n: {x: 1}, TypeError, "unhashable"),
    "truth of an array": (lambda np, x, n: bool(x), ValueError, "ambiguous"),
    "scalar assignment": (lambda np, x, n: x.sum().__setitem__((), 1), TypeError, "item assignment"),
    "iteration of 0-d": (lambda np, x, n: list(x.sum()), TypeError, "0-d"),
}


@pytest.mark.parametrize("name", PYTHON_MISTAKES)
def test_mistake_as_in_numpy(name: str) -> None:
    call, kind, text = PYTHON_MISTAKES[name]
    with pytest.raises(kind, match=text.replace("(", r"\(")):
        trace(call, X, N)


def test_escaped_value_names_where_it_was_made() -> None:
    kept: list[Any] = []
    trace(lambda np, x: kept.append(x * 2), X)
    with pytest.raises(errors.EscapedTracerError, match=r"test_numpy_errors\.py"):
        kept[0] + 1
    with pytest.raises(errors.EscapedTracerError):
        trace(lambda np, x: x + kept[0], X)


def test_scalar_types_of_numpy_are_refused_with_the_way_out() -> None:
    with pytest.raises(errors.TraceError, match="astype"):
        trace(lambda np_, x: np.float64(x[0, 0]), X)

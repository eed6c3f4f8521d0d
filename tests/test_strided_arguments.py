"""Strided arguments on the short way: read where they lie, or copied natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.types import ArrayType
from nufunc.passes.placement import Placement, placement

X = np.random.default_rng(0).standard_normal((6, 8))
Y = np.random.default_rng(1).standard_normal((3, 4, 5))

ARGUMENTS: dict[str, np.ndarray] = {
    "transposed": X.T,
    "Fortran": np.asfortranarray(X),
    "columns": X[:, 2:5],
    "one column": X[:, 3],
    "one column, kept": X[:, 3:4],
    "reversed": X[::-1, ::-1],
    "every second": X[::2, ::3],
    "backwards": X[:, ::-2],
    "repeated rows": np.broadcast_to(X[0], (6, 8)),
    "repeated columns": np.broadcast_to(X[:, :1], (6, 8)),
    "one number": np.broadcast_to(np.array(2.0), (6, 8)),
    "three axes": Y.transpose(2, 0, 1)[:, ::-1, 1:3],
    "windows": np.lib.stride_tricks.sliding_window_view(np.arange(9.0), 4),
    "an axis of one": np.lib.stride_tricks.as_strided(X, (1, 6), (24, 8)),
}
IN_PLACE = {  # block, kept, flipped, axes
    "transposed": Placement((6, 8), (6, 8), (), (1, 0)),
    "columns": Placement((6, 8), (6, 3), (), (0, 1)),
    "reversed": Placement((6, 8), (6, 8), (0, 1), (0, 1)),
    "repeated rows": Placement((8,), (8,), (), (1,)),
    "one number": Placement((), (), (), ()),
    "three axes": Placement((3, 4, 5), (3, 2, 5), (0,), (1, 2, 0)),
    "one column": None,
    "every second": None,
    "windows": None,
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "elementwise": (lambda a: a * 2 + 1, lambda a: a * 2 + 1),
    "itself": (lambda a: a, lambda a: a),
    "sum": (lambda a: a.sum(axis=0), lambda a: a.sum(axis=0)),
    "product": (lambda a: a.T @ a if a.ndim == 2 else a * a, lambda a: a.T @ a if a.ndim == 2 else a * a),
    "sorted": (lambda a: np.sort(a, axis=-1), lambda a: np.sort(a, axis=-1)),
    "ravelled": (lambda a: a.ravel() + 1, lambda a: a.ravel() + 1),
    "gradient": (nf.grad(lambda a: (np.sin(a) * a).sum()), lambda a: np.cos(a) * a + np.sin(a)),
    "loop": (lambda a: nf.fori_loop(0, 3, lambda _, c: c * a + a, a * 1.0), lambda a: a**4 + a**3 + a**2 + a),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_where_they_lie(name: str) -> None:
    array = ARGUMENTS[name]
    assert placement(array.shape, [s // array.itemsize for s in array.strides]) == IN_PLACE[name]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_values_and_the_short_way(argument: str, function: str) -> None:
    array, (func, reference) = ARGUMENTS[argument], FUNCTIONS[function]
    expected = reference(array)
    f = nf.jit(func)
    for _ in range(2):
        np.testing.assert_allclose(f(array), expected, rtol=1e-12, atol=1e-13)
    entry = f.lower(array).compile().executable.entry
    if entry.native:
        assert entry.fast(array) is not NotImplemented
        assert entry.fast(np.ascontiguousarray(array)) is NotImplemented or array.flags.c_contiguous
    np.testing.assert_allclose(entry.plain(array)[0], expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(entry.slow(array.copy())[0], expected, rtol=1e-12, atol=1e-13)


def test_other_strides_compile_anew_and_both_stay() -> None:
    f = nf.jit(lambda a: a * 2)
    for _ in range(2):
        for array in (X, X.T.copy().T, X[::-1], X):
            np.testing.assert_array_equal(f(array), array * 2)


@pytest.mark.parametrize("dtype", ["float32", "complex128", "bool", "int16"])
def test_other_dtypes(dtype: str) -> None:
    array = (X * 3).astype(dtype)
    for view in (array.T, array[:, 1:4], array[::2, ::2], array[::-1]):
        f = nf.jit(lambda a, b: (a + b).T)
        np.testing.assert_array_equal(f(view, view), (view + view).T)


def test_results_and_writes_beside_strided_arguments() -> None:
    def func(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a += b
        return a - b

    a = X.copy()
    for b in (X.T.copy().T, X[:, ::-1], np.broadcast_to(X[0], X.shape)):
        expected = a + b
        np.testing.assert_allclose(nf.jit(func)(a, b), expected - b, rtol=1e-13)
        np.testing.assert_allclose(a, expected, rtol=1e-13)
    view = X.copy()[:, 2:5]
    before = view.copy()
    nf.jit(func)(view, view.T.copy().T)
    np.testing.assert_allclose(view, 2 * before)
    out = np.empty((8, 6))
    nf.jit(lambda a: a + 1.0)(X.T, out=out)
    np.testing.assert_array_equal(out, X.T + 1.0)
    shared = X.copy()
    nf.jit(lambda a: a + 1.0)(shared[::-1], out=shared)  # the result overlaps the argument
    np.testing.assert_array_equal(shared, X[::-1] + 1.0)
    same = X.copy()
    nf.jit(func)(same, same[::-1, ::-1])  # what is written overlaps what is read
    expected = X.copy()
    func(expected, expected[::-1, ::-1].copy())
    np.testing.assert_allclose(same, expected)


def test_captured_and_donated() -> None:
    weights = X.T

    def func(a: np.ndarray) -> np.ndarray:
        return a @ weights

    f = nf.jit(func)
    for _ in range(2):
        np.testing.assert_allclose(f(Y[:, 0, :1] * np.ones(8)), (Y[:, 0, :1] * np.ones(8)) @ X.T, rtol=1e-12)
    donated = X.copy().T
    np.testing.assert_array_equal(nf.jit(lambda a: a + 1.0, donate_argnums=0)(donated), X.T + 1.0)


def test_python_wrapper_and_readable_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NUFUNC_NO_NATIVE_CALL", "1"), ("NUFUNC_NOJIT", "1"), ("NUFUNC_NOJIT", "graph")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            for array in ARGUMENTS.values():
                f = nf.jit(lambda a: a * 2 + 1)
                np.testing.assert_allclose(f(array), array * 2 + 1)
                np.testing.assert_allclose(f(array), array * 2 + 1)
                nf.clear_cache()


def test_cost_counts_what_is_read() -> None:
    f = nf.jit(lambda a: a * 2 + 1)
    plain = f.lower(np.ones((6, 3))).cost()
    part = f.lower(X[:, 2:5]).cost()
    assert (part.flops, part.bytes_read, part.bytes_written) == (plain.flops, plain.bytes_read, plain.bytes_written)
    assert part.argument_bytes == 6 * 3 * 8
    assert f.lower(np.broadcast_to(X[0], (6, 8))).cost().bytes_read == 8 * 8


def test_no_memory_is_lost() -> None:
    import tracemalloc

    f = nf.jit(lambda a: a * 2)
    column = np.zeros((1000, 2))[:, 0]
    f(column)
    f(column)
    tracemalloc.start()
    try:
        for _ in range(50):
            f(column)
        assert tracemalloc.get_traced_memory()[0] < 8000 * 5
    finally:
        tracemalloc.stop()


def test_a_block_has_the_type_of_its_input() -> None:
    text = nf.dump(lambda a: a * 2, X.T, stage="grouped")
    assert str(ArrayType((6, 8), np.dtype(np.float64))) in text

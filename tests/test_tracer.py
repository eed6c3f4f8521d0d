"""Traces: how values enter a graph, captures of enclosing traces, static values, stand-ins for Python's
functions.
"""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np
import pytest
import scipy.special
from numpy_harness import assert_same, expected, run, trace

import nufunc as nf
from nufunc.ir import interpret
from nufunc.ir.errors import TraceError, UnguardedCaptureError, UnsupportedError
from nufunc.ir.types import ArrayType, type_of
from nufunc.tracer import dispatch
from nufunc.tracer.array import Array
from nufunc.tracer.layout import c_strides, reshape_strides, result_strides
from nufunc.tracer.np_namespace import numpy as traced_numpy
from nufunc.tracer.trace import Trace, current

F64 = np.dtype(np.float64)
X = np.arange(6.0).reshape(2, 3) - 2.2


def test_the_stack_of_traces() -> None:
    assert current() is None
    with Trace() as outer:
        assert current() is outer
        with Trace() as inner:
            assert current() is inner
            assert inner.parent is outer
        assert current() is outer
    assert current() is None


def test_values_of_enclosing_traces_become_parameters_once() -> None:
    with Trace() as outer:
        x = outer.param(ArrayType((3,), F64))
        y = x * 2
        with Trace() as middle:
            with Trace() as inner:
                z = inner.param(ArrayType((3,), F64))
                result = z + x + y + x
            graph = inner.finish([result])
            assert [a is b for a, b in zip([p for p, _ in inner.captured.values()], (x, y), strict=True)] == [
                True,
                True,
            ]
            assert len(graph.params) == 3
            assert len(middle.captured) == 2
    values = interpret.run(graph, [np.ones(3), np.full(3, 2.0), np.full(3, 5.0)])
    np.testing.assert_array_equal(values[0], np.full(3, 10.0))


def test_a_captured_view_aliases_its_base_inside() -> None:
    with Trace() as outer:
        x = outer.param(ArrayType((4,), F64))
        tail = x[1:]
        with Trace() as inner:
            x[2] = 10.0
            result = tail * 1
        graph = inner.finish([result])
    assert len(graph.params) == 1
    (value,) = interpret.run(graph, [np.zeros(4)])
    np.testing.assert_array_equal(value, [0.0, 10.0, 0.0])


def test_weak_and_strong_parameters() -> None:
    context = Trace()
    with context:
        weak = context.param(ArrayType((), F64), weak=True)
        strong = context.param(ArrayType((), F64), scalar=True)
        single = context.param(ArrayType((2,), np.dtype(np.float32)))
        assert (single * weak).dtype == np.float32
        assert (single * strong).dtype == np.float64
        assert (weak * 2).weak
        assert not traced_numpy.sin(weak).weak
        assert ((weak > 1) * weak).weak
        assert (single * (weak + 1)).dtype == np.float32


def test_nodes_carry_the_users_line() -> None:
    graph, _ = trace(lambda np, x: np.var(x), X)
    assert graph.nodes
    assert all(node.loc is not None and node.loc.file == __file__ for node in graph.nodes)
    assert len({node.loc.line for node in graph.nodes}) == 1


def test_policy_for_raw_arrays() -> None:
    context = Trace(on_ndarray=lambda array: context.constant(array))
    with context:
        x = context.param(type_of(X))
        total = x + np.ones(3)
    (value,) = interpret.run(context.finish([total]), [X])
    np.testing.assert_array_equal(value, X + 1)
    with Trace() as strict, pytest.raises(UnguardedCaptureError):
        strict.param(type_of(X)) + np.ones(3)


def test_static_values_stay_usable() -> None:
    def f(np: Any, x: Any) -> Any:
        sizes = np.array([2, 3])
        n = int(sizes[1])
        total = 0.0
        for k in np.arange(n):
            if k > 0:
                total = total + x[0, k]
        assert np.prod(x.shape) == 6
        assert isinstance(np.sqrt(2.0), float)
        return total

    (value,) = run(f, X)
    assert value == X[0, 1] + X[0, 2]


def test_static_values_end_with_a_write() -> None:
    with Trace() as context:
        x = context.param(type_of(X))
        flags = traced_numpy.array([True, False])
        flags[0] = x[0, 0] > 0
        with pytest.raises(TraceError):
            bool(flags[0])


def test_scalars_rebind_and_arrays_change() -> None:
    with Trace() as context:
        x = context.param(type_of(X))
        total = x.sum()
        before = total
        total += 1
        assert total is not before
        view = x[0]
        same = view
        view += 1
        assert view is same
        assert isinstance(view, Array)


# -- strides


@pytest.mark.parametrize("shape", [(2, 3, 4), (4, 1, 3), (1, 6), (2, 2, 2, 2)])
def test_reshape_is_a_view_where_numpy_has_one(shape: tuple[int, ...]) -> None:
    base = np.arange(math.prod(shape)).reshape(shape)
    views = [base, base.T, base[::-1], base[..., ::2], np.moveaxis(base, 0, -1), base[:, :1]]
    for view in views:
        strides = tuple(s // view.itemsize for s in view.strides)
        for target in [(-1,), (view.size, 1), (2, -1), (-1, 2), view.shape[::-1]]:
            if -1 in target and view.size % (2 if 2 in target else 1):
                continue
            reshaped = view.reshape(target)
            is_view = np.shares_memory(reshaped, base)
            found = reshape_strides(
                view.shape, None if strides == c_strides(view.shape) else strides, reshaped.shape
            )
            assert (found is not False) == is_view
            if isinstance(found, tuple):
                assert all(
                    n == 1 or s * view.itemsize == t
                    for n, s, t in zip(reshaped.shape, found, reshaped.strides)
                )


def test_results_lie_in_memory_as_numpys_do() -> None:
    base = np.zeros((3, 4, 5))
    for perm in [(0, 1, 2), (2, 1, 0), (1, 2, 0)]:
        view = base.transpose(perm)
        wanted = tuple(s // 8 for s in (view + 1).strides)
        found = result_strides(view.shape, [tuple(s // 8 for s in view.strides)])
        assert (c_strides(view.shape) if found is None else found) == wanted


# -- stand-ins


def test_the_swap_table() -> None:
    swap = dispatch.swap
    assert swap(np) is traced_numpy
    assert swap(np.linalg) is traced_numpy.linalg
    assert swap(np.sum) is traced_numpy.sum
    assert swap(np.sin) is traced_numpy.sin
    assert swap(np.linalg.norm) is traced_numpy.linalg.norm
    assert swap(math).sin is swap(math.sin)
    assert swap(builtins.max) is not builtins.max
    assert swap(scipy.special.expit) is swap(scipy.special).expit
    assert swap(np.random.default_rng) is not np.random.default_rng
    for kept in (np.float64, np.ndarray, float, len, range, np.pi, "np", None, dict, print):
        assert swap(kept) is kept


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: s(max)(x[0, 0], 0.5),
        lambda s, x: s(min)(x[0, 0], x[1, 1], 3),
        lambda s, x: s(max)(x[0]),
        lambda s, x: s(max)(float("nan"), x[0, 0]),
        lambda s, x: s(sum)(x),
        lambda s, x: s(sum)([x[0], x[1]], 1.0),
        lambda s, x: s(sum)(v * v for v in x[0]),
        lambda s, x: s(any)(x[0] > 0),
        lambda s, x: s(all)([x[0, 0] > 0, True, x[1, 2] > 0]),
        lambda s, x: s(any)([False, x[0, 0] > 0]),
        lambda s, x: abs(x[0, 0]) + round(x[1, 1]) + len(x),
        lambda s, x: s(math).sin(x[0, 0]) + s(math).pi,
        lambda s, x: s(math).exp(x[0, 0]) * s(math).sqrt(2.0),
        lambda s, x: s(math).hypot(x[0, 0], 3.0) + s(math).atan2(x[0, 0], x[0, 1]),
        lambda s, x: s(math).floor(x[0, 0]) + s(math).ceil(x[0, 1]),
        lambda s, x: s(math).log(x[1, 2], 3.0),
        lambda s, x: s(math).isnan(x[0, 0]),
        lambda s, x: s(math).degrees(x[0, 0]),
        lambda s, x: s(math.tanh)(x[0, 0]),
    ],
)
def test_pythons_functions(call: Any) -> None:
    (actual,) = run(lambda np_, x: call(dispatch.swap, x), X)
    (wanted,) = expected(lambda np_, x: call(lambda obj: obj, x), X)
    np.testing.assert_allclose(np.asarray(actual, float), np.asarray(wanted, float), rtol=1e-13)


def test_isinstance_of_traced_values() -> None:
    check = dispatch.swap(isinstance)
    with Trace() as context:
        x = context.param(type_of(X))
        weak = context.param(ArrayType((), F64), weak=True)
        assert check(x, np.ndarray)
        assert not check(x, (float, int))
        assert check(x[0, 0], float)
        assert check(x[0, 0], np.floating)
        assert not check(x[0, 0], np.ndarray)
        assert check(weak, float)
        assert not check(weak, np.generic)
        assert check(3, (int, str))
        with pytest.raises(UnsupportedError, match=r"np\.sort"):
            dispatch.swap(sorted)(x[0])


SPECIAL: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *[
        (name, (X,), {})
        for name in "erf erfc gammaln digamma psi expit entr ndtr log_expit log1p expm1".split()
    ],
    *[(name, (X,), {}) for name in "erfcx i0 i0e i1 i1e gamma log_ndtr".split()],
    *[(name, (np.array([-8.5, -0.999, -0.3, 0.2, 0.7]),), {}) for name in ("log_ndtr", "erfinv", "i1")],
    *[(name, (np.array([1e-9, 0.2, 0.5, 0.5000001, 0.9]),), {}) for name in ("ndtri", "logit", "erfcinv")],
    ("gammainc", (np.array([0.5, 2.0, 0.0, 40.0, 3.0]), np.array([1.5, 3.0, 2.0, 40.0, np.inf])), {}),
    ("gammaincc", (np.array([0.5, 2.0, 0.0, 400.0, -1.0]), np.array([1.5, 0.0, 2.0, 390.0, 1.0])), {}),
    ("betainc", (np.array([0.5, 2.0, 50.0, 1.0]), np.array([1.5, 3.0, 60.0, 2.0]), np.array([0.2, 0.9, 0.5, 1.0])), {}),
    ("kl_div", (np.array([0.0, 1.0, 2.0, -1.0]), np.array([0.3, 0.5, 0.0, 1.0])), {}),
    ("beta", (np.array([0.5, 2.0, 60.0]), np.array([1.5, 3.0, 2.0])), {}),
    ("zeta", (np.array([1.0, 1.5, 2.0, 3.7, 40.0]), np.array([1.0, 0.3, 1.0, 2.5, 20.0])), {}),
    ("zeta", (np.array([-3.5, 0.0, 0.5, 1.0, 2.0, 30.0]),), {}),
    ("xlogy", (np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 3.0])), {}),
    ("xlog1py", (np.array([0.0, 1.0, 2.0]), np.array([-1.0, 0.5, 3.0])), {}),
    ("rel_entr", (np.array([0.0, 1.0, 2.0]), np.array([0.3, 0.5, 0.0])), {}),
    ("logsumexp", (X,), {}),
    ("logsumexp", (X,), {"axis": 0}),
    ("logsumexp", (X,), {"axis": 1, "keepdims": True}),
    ("logsumexp", (np.array([-np.inf, -np.inf]),), {}),
    ("softmax", (X,), {"axis": -1}),
    ("log_softmax", (X,), {"axis": 0}),
    ("betaln", (np.array([0.5, 2.0]), np.array([1.5, 3.0])), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), SPECIAL, ids=lambda v: v if isinstance(v, str) else "")
def test_scipy_special(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    original = getattr(scipy.special, name)
    swapped = dispatch.swap(original)
    wanted = original(*args, **kwargs)
    (actual,) = run(lambda np_, *xs: swapped(*xs, **kwargs), *args)
    assert_same(actual, wanted, 1e-10)
    if isinstance(original, np.ufunc):
        (through_protocol,) = run(lambda np_, *xs: original(*xs, **kwargs), *args)
        assert_same(through_protocol, wanted, 1e-10)


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_polygamma(order: int) -> None:
    x = np.array([0.1, 1.0, 3.3, 20.0])
    swapped = dispatch.swap(scipy.special.polygamma)
    (actual,) = run(lambda np_, x: swapped(order, x), x)
    assert_same(actual, scipy.special.polygamma(order, x), 1e-12)


def test_outside_tracing_the_namespace_is_numpy() -> None:
    assert type(traced_numpy.zeros(3)) is np.ndarray
    assert type(traced_numpy.sin(X)) is np.ndarray
    assert traced_numpy.random.default_rng(0).normal() == np.random.default_rng(0).normal()
    assert traced_numpy.float64 is np.float64
    assert traced_numpy.pi == np.pi
    np.testing.assert_array_equal(traced_numpy.linalg.svd(X)[1], np.linalg.svd(X)[1])


def test_unsupported_functions_of_static_values_become_constants() -> None:
    def f(np: Any, x: Any) -> Any:
        nodes, weights = np.polynomial.legendre.leggauss(3)
        window = np.hanning(3)
        window[0] = x[0, 0]
        return x[0] * np.asarray(nodes) * np.asarray(weights) + window

    for a, w in zip(run(f, X), expected(f, X), strict=True):
        assert_same(a, w)


def test_numpys_protocols_reach_the_traced_functions() -> None:
    def through_numpy(_: Any, x: Any) -> Any:
        return (
            np.sin(x), np.add.reduce(x), np.add.outer(x[0], x[0]), np.sum(x, axis=0), np.concatenate([x, x]),
            np.linalg.norm(x),
            np.where(x > 0, x, 0.0), np.einsum("ij,kj->ik", x, x), np.amax(x), np.float64(2) * x, np.mean(x,
            keepdims=True),
            np.cumsum(x, axis=1), np.maximum.accumulate(x, axis=1), np.zeros_like(x), np.reshape(x, -1),
            np.clip(x, 0, 1),
        )  # fmt: skip

    for a, w in zip(run(through_numpy, X), expected(through_numpy, X), strict=True):
        assert_same(a, w)


def test_numpy_scalars_compare_with_traced_values():
    x = np.arange(5.0)
    got = nf.jit(lambda x: np.where(np.ones(3).sum() > x, 1.0, x))(x)
    np.testing.assert_array_equal(got, np.where(np.ones(3).sum() > x, 1.0, x))

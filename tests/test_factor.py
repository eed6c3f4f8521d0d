"""Own factorisations and triangular solves against numpy.linalg, with bounds on their residuals."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools

import numpy as np
import pytest
import scipy.linalg.lapack
from llvmlite import ir

from nufunc.codegen import backend, factor, factor_library, linalg
from nufunc.codegen.compile import compile_graph
from nufunc.codegen.loading import PASSES
from nufunc.ir.builder import Builder
from nufunc.ir.errors import LinAlgError
from nufunc.ir.types import ArrayType
from nufunc.passes.fuse import fuse

ORDERS = (0, 1, 2, 3, 5, 8, 16, 17, 31, 32, 33, 64, 100, 200, 513)
SIDES = (0, 1, 3, 50)
FLAGS = tuple(itertools.product((True, False), repeat=3))
DTYPES = (np.float32, np.float64)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_order = pytest.mark.parametrize("n", ORDERS)


def compiled(emit, *arrays):
    """A graph of these arrays' types, compiled; emit(builder, *params) gives its results."""
    b = Builder()
    params = [b.param(ArrayType(a.shape, a.dtype)) for a in arrays]
    return compile_graph(fuse(b.build(emit(b, *params))))


def evaluate(emit, *arrays):
    return compiled(emit, *arrays).slow(*arrays)


def positive(rng, n, dtype, condition=10.0):
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return ((q * np.geomspace(1, 1 / condition, n)) @ q.T).astype(dtype)


def largest(x):
    return np.abs(x).max(initial=0.0)


def bound(n, dtype):
    return 4 * max(n, 4) * np.finfo(dtype).eps


def well_triangular(rng, n, dtype):
    """A full matrix of whose triangles both are well conditioned, with or without their diagonal."""
    return (rng.uniform(-1, 1, (n, n)) / max(n, 1) + np.diag(rng.uniform(1, 2, n))).astype(dtype)


def triangle_of(a, lower, trans, unit):
    part = np.tril(a) if lower else np.triu(a)
    if unit:
        np.fill_diagonal(part, 1)
    return part.T if trans else part


@each_dtype
@each_order
def test_cholesky_leaves_a_small_residual(n, dtype):
    rng = np.random.default_rng(n)
    for condition in (10.0, 1e4 if dtype is np.float32 else 1e12):
        a = positive(rng, n, dtype, condition)
        a[np.triu_indices(n, 1)] = np.nan  # not read
        (low,) = evaluate(lambda b, x: [b.cholesky(x)], a)
        full = np.tril(a).astype(np.float64) + np.tril(a, -1).astype(np.float64).T
        assert np.array_equal(low, np.tril(low))
        assert largest(low.astype(np.float64) @ low.T.astype(np.float64) - full) <= bound(n, dtype) * largest(full)
        if condition == 10.0 and n:
            np.testing.assert_allclose(low, np.linalg.cholesky(np.tril(a)), rtol=0, atol=10 * bound(n, dtype))


@each_dtype
@each_order
def test_solve_leaves_a_small_residual(n, dtype):
    rng = np.random.default_rng(n)
    exact = np.float64
    ill = positive(rng, n, dtype, 1e3 if dtype is np.float32 else 1e11)
    for a in (rng.standard_normal((n, n)).astype(dtype), ill[rng.permutation(n)]):
        sides = [rng.standard_normal((n, k)).astype(dtype) for k in SIDES]
        found = evaluate(lambda b, x, *ys: [b.solve(x, y) for y in ys], a, *sides)
        for x, y in zip(found, sides, strict=True):
            assert x.shape == y.shape
            residual = np.abs(a.astype(exact) @ x.astype(exact) - y)
            scale = np.abs(a).astype(exact) @ np.abs(x).astype(exact) + np.abs(y)
            assert largest(residual) <= bound(n, dtype) * largest(scale)


@each_dtype
@each_order
def test_triangular_solve_leaves_a_small_residual(n, dtype):
    rng = np.random.default_rng(n)
    a = well_triangular(rng, n, dtype)
    sides = [rng.standard_normal((n, k)).astype(dtype) for k in SIDES]

    def every(b, x, *ys):
        return [b.triangular_solve(x, y, lower=lo, trans=t, unit=u) for y in ys for lo, t, u in FLAGS]

    found = iter(evaluate(every, a, *sides))
    for y, flags in itertools.product(sides, FLAGS):
        x, t = next(found).astype(np.float64), triangle_of(a, *flags).astype(np.float64)
        assert largest(t @ x - y) <= bound(n, dtype) * max(largest(np.abs(t) @ np.abs(x)), largest(y)), flags


@pytest.mark.parametrize(("n", "columns"), [(600, 150), (130, 131), (256, 256)])
def test_large_triangular_solves(n, columns):
    rng = np.random.default_rng(n)
    a, y = well_triangular(rng, n, np.float64), rng.standard_normal((n, columns))
    found = evaluate(lambda b, x, y: [b.triangular_solve(x, y, lower=lo, trans=t, unit=u) for lo, t, u in FLAGS], a, y)
    for x, flags in zip(found, FLAGS, strict=True):
        t = triangle_of(a, *flags)
        assert largest(t @ x - y) <= bound(n, np.float64) * max(largest(np.abs(t) @ np.abs(x)), largest(y)), flags


def test_a_triangular_solve_divides():
    a, y = np.diag([49.0, 3.0, 10.0]), np.arange(1.0, 22.0).reshape(3, 7)
    (x,) = evaluate(lambda b, a, y: [b.triangular_solve(a, y, lower=True, trans=False, unit=False)], a, y)
    assert np.array_equal(x, y / np.diag(a)[:, None])


@each_dtype
@each_order
def test_determinants(n, dtype):
    rng = np.random.default_rng(n)
    a = (rng.standard_normal((n, n)) * (np.e / max(n, 1)) ** 0.5).astype(dtype)  # det neither huge nor tiny
    det, sign, log = evaluate(lambda b, x: [b.det(x), *b.slogdet(x)], a)
    wide = np.linalg.slogdet(a.astype(np.float64))
    assert sign == wide.sign
    assert abs(log - wide.logabsdet) <= 20 * bound(n, dtype) * np.linalg.cond(a.astype(np.float64) if n else np.eye(1))
    np.testing.assert_allclose(det, sign * np.exp(np.float64(log)), rtol=1e-2 if dtype is np.float32 else 1e-8)


@each_dtype
@pytest.mark.parametrize("n", [1, 3, 8, 20])
def test_stacks_of_matrices_are_those_of_single_ones(n, dtype):
    rng = np.random.default_rng(n)
    a = np.stack([positive(rng, n, dtype) for _ in range(6)]).reshape(2, 3, n, n)
    y = rng.standard_normal((2, 3, n, 4)).astype(dtype)

    def every(b, x, y):
        low = b.triangular_solve(x, y, lower=True, trans=True, unit=False)
        return [b.cholesky(x), b.solve(x, y), low, b.det(x), *b.slogdet(x)]

    single = compiled(every, a[0, 0], y[0, 0])
    found = evaluate(every, a, y)
    for i in np.ndindex(2, 3):
        for whole, one in zip(found, single.slow(a[i], y[i]), strict=True):
            assert np.array_equal(whole[i], one)


def lu_of(a):
    """The factors in one matrix, the pivots and the code of the kernel itself."""
    module, dtype, n = ir.Module(), a.dtype, len(a)
    kernels = factor.Factor(module, dtype, backend.target())
    lu = kernels.lu(n)
    entry = ir.Function(module, lu.function_type, "entry")
    b = ir.IRBuilder(entry.append_basic_block())
    b.ret(b.call(lu, entry.args))
    executable = backend.compile_module(str(module), "lu", backend.Optimise(passes=PASSES))
    lead = factor.leading(n, dtype)
    work, pivots = np.full((n, lead), np.nan, dtype), np.zeros(n, np.int32)
    scratch = np.full(kernels.lu_scratch_bytes(n), 255, np.uint8)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    run = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, number, number, pointer, pointer)(
        executable.address("entry")
    )
    code = run(work.ctypes.data, a.ctypes.data, n, lead, pivots.ctypes.data, scratch.ctypes.data)
    return work[:, :n], pivots, code


@each_dtype
@pytest.mark.parametrize("n", [1, 4, 9, 23, 40, 70])
def test_pivots_are_the_first_of_the_largest_as_in_lapack(n, dtype):
    rng = np.random.default_rng(n)
    signs = rng.choice([-1, 1], (n, n)) * rng.integers(1, 3, (n, n))  # many of equal magnitude
    for a in (signs.astype(dtype), rng.standard_normal((n, n)).astype(dtype)):
        factors, pivots, code = lu_of(a)
        theirs, places, info = scipy.linalg.lapack.get_lapack_funcs("getrf", (a,))(a)
        first = np.abs(a[:, 0]).argmax()
        assert pivots[0] - 1 == first == places[0]
        assert (code == 0) == (info == 0)
        if not np.array_equal(a, signs):  # ties of the further columns are broken by rounding
            assert np.array_equal(pivots - 1, places)
            np.testing.assert_allclose(factors, theirs, rtol=0, atol=20 * bound(n, dtype) * largest(theirs))
    assert evaluate(lambda b, x: [b.det(x)], np.eye(n)[np.r_[1:n, 0]])[0] == (-1) ** (n - 1)


@pytest.mark.parametrize("n", [1, 2, 9, 20, 40])
def test_singular_matrices(n):
    rng = np.random.default_rng(n)
    a = rng.integers(-3, 4, (n, n)).astype(float)
    a[:, n // 2] = 0
    solve = compiled(lambda b, x: [b.solve(x, x)], a)
    with pytest.raises(LinAlgError, match="Singular"):
        solve.slow(a)
    det, sign, log = evaluate(lambda b, x: [b.det(x), *b.slogdet(x)], a)
    assert (det, sign, log) == (0, 0, -np.inf)


@pytest.mark.parametrize("n", [1, 7, 16, 17, 50])
def test_matrices_that_are_not_positive_definite(n):
    a = np.eye(n)
    entry = compiled(lambda b, x: [b.cholesky(x)], a)
    assert np.array_equal(entry.slow(a)[0], a)
    for place, value in itertools.product({0, n // 2, n - 1}, (0.0, -1.0, -np.inf)):
        bad = a.copy()
        bad[place, place] = value
        with pytest.raises(LinAlgError, match="positive definite"):
            entry.slow(bad)


@pytest.mark.parametrize("n", [1, 5, 20])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_neither_hangs_nor_hides(n, value):
    a = 4 * np.eye(n) + np.tri(n) * 0.01
    entry = compiled(lambda b, x: [b.cholesky(x), b.det(x), b.solve(x, x), *b.slogdet(x)], a)
    for i, j in {(0, 0), (n - 1, 0), (n - 1, n - 1)}:
        bad = a.copy()
        bad[i, j] = value
        try:
            low, det, x, _, log = entry.slow(bad)
        except LinAlgError:
            assert value == np.inf  # a pivot becomes -inf
            assert i != j
            continue
        assert x.shape == a.shape
        assert np.isnan(det) == np.isnan(log)
        theirs = np.linalg.cholesky(bad)
        assert np.array_equal(np.isfinite(np.diag(low)), np.isfinite(np.diag(theirs)))
        if np.isnan(value):
            assert np.isnan(det)
            assert np.isnan(x).any()


def test_complex_matrices_go_to_lapack():
    rng = np.random.default_rng(0)
    g = rng.standard_normal((6, 6)) + 1j * rng.standard_normal((6, 6))
    a = g @ g.conj().T + np.eye(6)
    low, x, det = evaluate(lambda b, x: [b.cholesky(x), b.solve(x, x), b.det(x)], a)
    np.testing.assert_allclose(low, np.linalg.cholesky(a), atol=1e-12)
    np.testing.assert_allclose(x, np.eye(6), atol=1e-11)
    np.testing.assert_allclose(det, np.linalg.det(a), rtol=1e-11)


def test_no_library_is_called_for_real_matrices():
    a = np.eye(30)
    entry = compiled(lambda b, x: [b.cholesky(x), b.solve(x, x), b.det(x)], a)
    assert all(e.startswith(factor_library.PREFIX) for e in entry.lowered.externs if isinstance(e, str))


@pytest.mark.parametrize(("bits", "fma"), [(256, True), (128, False)])
@each_dtype
def test_narrower_vectors(bits, fma, dtype, monkeypatch):
    """What processors with other registers run."""
    narrow = dataclasses.replace(backend.target(), vector_bits=bits, has_fma=fma)
    monkeypatch.setattr(linalg, "target", lambda: narrow)
    rng = np.random.default_rng(bits)
    for n in (3, 30, 150):
        a, y = positive(rng, n, dtype), rng.standard_normal((n, 70)).astype(dtype)
        low, x, z = evaluate(
            lambda b, a, y: [
                b.cholesky(a), b.solve(a, y), b.triangular_solve(a, y, lower=True, trans=True, unit=False)
            ],
            a, y,
        )  # fmt: skip
        wide = a.astype(np.float64)
        assert largest(low.astype(np.float64) @ low.T - np.tril(wide) - np.tril(wide, -1).T) <= bound(n, dtype)
        assert largest(wide @ x - y) <= bound(n, dtype) * largest(np.abs(a) @ np.abs(x))
        assert largest(np.tril(wide).T @ z - y) <= bound(n, dtype) * largest(np.abs(np.tril(a)).T @ np.abs(z))


@pytest.mark.parametrize("n", [1, 8, 64, 255, 512, 1000, 1024])
def test_rows_of_work_matrices_are_whole_lines_and_spread_over_a_cache(n):
    for dtype in map(np.dtype, DTYPES):
        lead = factor.leading(n, dtype)
        assert lead >= n
        assert lead * dtype.itemsize % factor.LINE == 0
        assert lead * dtype.itemsize < n * dtype.itemsize + 2 * factor.LINE
        assert n <= 16 or lead * dtype.itemsize // factor.LINE % 2 == 1


def test_kernels_are_defined_once_in_a_module():
    module = ir.Module()
    kernels = [factor.Factor(module, np.dtype(np.float64), backend.target()) for _ in range(2)]
    assert kernels[0].cholesky(200) is kernels[1].cholesky(300)
    assert kernels[0].lu(200) is kernels[1].lu(300)
    assert kernels[0].forward(200) is kernels[1].forward()


def test_plans_share_the_kernels_of_a_process():
    """The second plan finds the code of the first; what a kernel's module defines for others is found as well."""
    rng = np.random.default_rng(0)
    a, y = positive(rng, 40, np.float64, 10.0), rng.standard_normal((40, 3))
    first = compiled(lambda b, x: [b.cholesky(x)], a)
    known = dict(factor_library._known)
    solved = lambda b, x, y: b.triangular_solve(x, y, lower=True, trans=False, unit=False)
    second = compiled(lambda b, x, y: [b.mul(b.cholesky(x), x), solved(b, x, y)], a, y)
    assert factor_library._known == known
    shared = {e for e in first.lowered.externs if isinstance(e, str)}
    assert len(shared) == 1
    assert shared < {e for e in second.lowered.externs if isinstance(e, str)}
    for entry in (first, second):
        assert "nf.factor" not in entry.lowered.text
    low, x = second.slow(a, y)
    np.testing.assert_allclose(low, np.linalg.cholesky(a) * a, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.tril(a) @ x, y, atol=1e-12)


@pytest.mark.parametrize("kind", sorted(factor_library._KERNELS))
@each_dtype
def test_every_shared_kernel_is_found_by_its_name(kind, dtype):
    host = backend.target()
    lanes, arithmetic = host.lanes(np.dtype(dtype).itemsize), "fma" if host.has_fma else "plain"
    name = f"{factor_library.PREFIX}{np.dtype(dtype).str[1:]}.{lanes}.{arithmetic}.{kind}"
    assert factor_library.address(name) == factor_library.address(name) != 0
    assert f"@{factor_library.exported(name)}(" in factor_library.text(name).replace('"', "")


@pytest.mark.parametrize("kind", ["cholesky", "forward", "lu"])
def test_small_matrices_need_less_code(kind):
    def lines(n):
        module = ir.Module()
        getattr(factor.Factor(module, np.dtype(np.float64), backend.target()), kind)(n)
        return str(module).count("\n")

    assert 3 * lines(3) < 2 * lines(100)

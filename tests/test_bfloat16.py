"""bfloat16 of ml_dtypes: float16's rules, computed in float32 and rounded once; everywhere that other dtypes go."""

import os
import pickle
import subprocess
import sys
import textwrap
import warnings

import ml_dtypes
import numpy as np
import pytest
import scipy.fft
from numpy_forms import FORMS, traced, values

import nufunc as nf
from nufunc.ir import Builder, interpret, promotion
from nufunc.ir.text import parse_graph, print_graph
from nufunc.ir.types import DTYPES_BY_NAME, ArrayType, bfloat16, is_half, kind_of, parse_type, type_of
from nufunc.passes.half import widened_halves, without_halves

BF = np.dtype(ml_dtypes.bfloat16)
F32, F64, HALF = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)
RNG = np.random.default_rng(16)
EVERY = np.arange(65536, dtype=np.uint16).view(BF)
A, B = (RNG.normal(size=(24, 16)).astype(BF) for _ in range(2))
V = A[0]


def single(x):
    """Arrays of bfloat16 as float32, in any tree."""
    return nf.tree.map(lambda a: a.astype(F32) if getattr(a, "dtype", None) == BF else a, x)


def same_bits(actual, wanted):
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert (actual.dtype, actual.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(actual.view(f"u{actual.itemsize}"), wanted.view(f"u{wanted.itemsize}"))


def close(actual, wanted, rtol=2e-2):
    """bfloat16 beside what float32 gives."""
    actual, wanted = np.asarray(actual), np.asarray(wanted, np.float64)
    assert actual.dtype == BF
    assert actual.shape == wanted.shape
    scale = max(1.0, float(np.max(np.abs(wanted))))
    np.testing.assert_allclose(actual.astype(F64), wanted, rtol=rtol, atol=rtol * scale)


# -- conversions


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16", "?", "i4", "i8"])
def test_every_number_converts(dtype):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = EVERY.astype(dtype)
        actual = nf.jit(lambda x: x.astype(dtype))(EVERY)
    np.testing.assert_array_equal(actual, wanted)


def hard(dtype):
    """Numbers between two of bfloat16 and around these, of every size, and random bits."""
    bits = RNG.integers(0, 2**32, 40000, dtype=np.uint32)
    lower = RNG.choice(np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32), 40000)
    ends = np.array([0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800001, 0xFFC00001, 1, 0x8000], np.uint32)
    x = np.concatenate([bits, (bits & np.uint32(0xFFFF0000)) + lower, ends]).view(np.float32)
    if dtype != "f8":
        return x
    wide = x.astype(F64)
    ends = [5e-324, 1e-50, -1e300, 3.4e38, 3.39e38, 1 + 2.0**-8 + 2.0**-40, 2.0**-134 + 2.0**-180, np.nan, -np.inf]
    return np.concatenate([wide, np.nextafter(wide, 0), np.nextafter(wide, np.inf), RNG.normal(size=9999), ends])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floats_round_as_in_ml_dtypes(dtype):
    with np.errstate(all="ignore"):
        x = hard(dtype)
        same_bits(nf.jit(lambda x: x.astype(nf.bfloat16))(x), x.astype(BF))


@pytest.mark.parametrize("dtype", ["f2", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
def test_others_round_as_in_ml_dtypes(dtype):
    x = RNG.integers(0, 256, 80000, dtype=np.uint8)
    x = (x % 2).astype(bool) if dtype == "?" else x.view(dtype)
    with np.errstate(all="ignore"):
        same_bits(nf.jit(lambda x: x.astype("bfloat16"))(x), x.astype(BF))


def test_float16_and_bfloat16_convert_into_each_other():
    halves = np.arange(65536, dtype=np.uint16).view(HALF)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same_bits(nf.jit(lambda x: x.astype(nf.bfloat16))(halves), halves.astype(BF))
        np.testing.assert_array_equal(nf.jit(lambda x: x.astype(np.float16))(EVERY), EVERY.astype(HALF))


def test_bits_are_seen_and_written_through_views():
    def program(x):
        x.view(np.uint16)[1:] += 1
        return x.view(np.int16), x.view(np.uint16).view(nf.bfloat16)

    mine, theirs = A.copy(), A.copy()
    for actual, wanted in zip(nf.jit(program)(mine), program(theirs)):
        same_bits(actual, wanted)
    same_bits(mine, theirs)


# -- operations: what float32 gives, rounded once

UNARY = (
    "absolute arcsinh arctan cbrt ceil conjugate cos cosh exp exp2 expm1 fabs floor isfinite isinf isnan log log10 "
    "log1p log2 logical_not negative positive reciprocal rint sign signbit sin sinh sqrt square tan tanh trunc"
).split()
BINARY = (
    "add arctan2 copysign divide equal floor_divide fmax fmin fmod greater greater_equal hypot less less_equal "
    "logical_and logical_or logical_xor maximum minimum multiply not_equal power remainder subtract"
).split()


def rounded_once(name, *operands):
    with np.errstate(all="ignore"):
        wanted = getattr(np, name)(*(x.astype(F32) for x in operands))
        return wanted.astype(BF) if wanted.dtype == F32 else wanted


def ulps(actual, wanted):
    """How many numbers of bfloat16 lie between."""
    if wanted.dtype != BF:
        return (actual != wanted).astype(int)
    first, second = (x.view(np.int16).astype(int) for x in (actual, wanted))
    first, second = (np.where(x < 0, -(x & 0x7FFF), x) for x in (first, second))
    none = [np.isnan(x.astype(F32)) for x in (actual, wanted)]
    return np.where(none[0] & none[1], 0, np.abs(first - second))


@pytest.mark.parametrize("names", [UNARY, BINARY], ids=["unary", "binary"])
def test_every_number_under_every_function(names):
    operands = (EVERY,) if names is UNARY else (EVERY, np.roll(EVERY, 9999))
    with np.errstate(all="ignore"):
        found = nf.jit(lambda *x: [getattr(np, name)(*x) for name in names])(*operands)
    for name, actual in zip(names, found):
        wanted = rounded_once(name, *operands)
        assert actual.dtype == wanted.dtype, name
        apart = ulps(actual, wanted)
        assert apart.max() <= 1, name  # functions of float32 differ by an ulp of float32, seldom across a tie
        assert (apart > 0).sum() <= 3, name


@pytest.mark.parametrize("dtype", [BF, HALF], ids=str)
def test_neighbours(dtype):
    x = np.arange(65536, dtype=np.uint16).view(dtype)
    x = x[np.isfinite(x.astype(F32))]
    y = np.roll(x, 777)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(nf.jit(np.nextafter)(x, y), np.nextafter(x, y))
        actual, wanted = nf.jit(np.spacing)(x), np.spacing(x)
    kept = x.view(np.uint16) != 0x8000  # of -0.0 that of float32 is positive
    np.testing.assert_array_equal(actual[kept], wanted[kept])


def test_sums_and_products_are_accumulated_in_single_precision():
    ones = np.ones(3001, BF)
    program = lambda x, a: (x.sum(), x.mean(), np.cumsum(x)[-1], np.linalg.norm(x), x @ x, a @ a.T, a.var())
    results = nf.jit(program)(ones, A)
    wanted = (3001.0, 1.0, 3001.0, np.sqrt(3001.0), 3001.0, single(A) @ single(A).T, single(A).var())
    for actual, expected in zip(results, wanted):
        assert actual.dtype == BF
        assert ulps(np.asarray(actual), np.asarray(expected, F32).astype(BF)).max() <= 1


PROGRAMS = {
    "arithmetic": lambda a, b: (a + b * a) / (b - 3),
    "extremes": lambda a, b: np.maximum(np.where(a > b, a, 2), b).max(axis=0),
    "means": lambda a, b: (a.mean(), a.var(axis=1), a.sum(axis=1), np.median(a), np.average(a, weights=np.abs(b))),
    "products": lambda a, b: (a @ b.T, np.einsum("ij,ij->i", a, b), np.tensordot(a, b), np.outer(a, b), a[0] @ b[1]),
    "running": lambda a, b: (np.cumsum(a, axis=1), np.cumprod(a[:, :4], axis=1), np.diff(a), np.gradient(a[0])),
    "order": lambda a, b: (np.sort(a, axis=0), a.max(1), np.clip(a, -1, 1.5), np.ptp(a), np.percentile(a, 30)),
    "moving": lambda a, b: (np.roll(a, 2), a[[3, 1]], np.concatenate([a, b]), np.pad(a, 1), np.tile(a, 2), a[::-2].T),
    "norms": lambda a, b: (np.linalg.norm(a), np.linalg.norm(a, axis=1), np.linalg.norm(a, 1, axis=0)),
    "signal": lambda a, b: (np.convolve(a[0], b[0, :3]), np.interp(a[0], np.sort(b[1]), b[2]).astype(a.dtype)),
    "made": lambda a, b: (np.zeros_like(a) + 1, np.full((2, 3), 1.5, a.dtype), np.arange(5, dtype=a.dtype) * a[0, 0]),
    "softmax": lambda a, b: nf.nn.functional.softmax(a) * nf.nn.functional.log_softmax(b),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_near_single_precision(name):
    actual, wanted = nf.jit(PROGRAMS[name])(A, B), PROGRAMS[name](single(A), single(B))
    for a, w in zip(nf.tree.leaves(actual), nf.tree.leaves(wanted), strict=True):
        close(a, w)


def test_orders_and_comparisons_are_exact():
    def program(a, b):
        places = np.searchsorted(np.sort(a[0]), b[0])
        return np.argmax(a), np.argsort(a[0]), a > b, a == b, places, np.isin(a, a[:2])

    for actual, wanted in zip(nf.jit(program)(A, B), program(single(A), single(B))):
        np.testing.assert_array_equal(actual, wanted)
        assert actual.dtype == wanted.dtype


def test_jax_gives_the_same():
    jnp = pytest.importorskip("jax.numpy")
    program = lambda a, b: (a * 2.5 + b / 3, a.mean(), a.sum(axis=1), a @ b.T, a * True, a**2, a.max(0), 1 - a)
    for a, w in zip(nf.jit(program)(A, B), program(jnp.asarray(A), jnp.asarray(B)), strict=True):
        assert a.dtype == w.dtype == BF
        assert ulps(np.asarray(a), np.asarray(w)).max() <= 1


def cast(a, dtype):
    """Floats as half precision, with values that both dtypes hold."""
    floats = a.dtype in (F64, F32) and a.dtype.isnative
    return a.astype(BF).astype(F64).astype(dtype) if floats else a


def outcome(form, dtype):
    arrays = [cast(a, dtype) for a in form.args]
    try:
        return [r for r in values(*traced(form, arrays), arrays) if isinstance(r, np.ndarray | np.generic)]
    except Exception as error:  # noqa: BLE001 - both dtypes must be refused alike
        return type(error)


# What depends on the bits or the largest number, a sum that cancels, and norms by LAPACK, computed in float32.
DIFFERENT = (
    "spacing finfo np.isinf(f) np.isfinite(f) np.isposinf(f) np.frexp(f) .view( average(x,weights=p norm("
).split()


@pytest.mark.parametrize("part", range(4))
def test_every_form_is_treated_as_with_float16(part):
    """The same results but for their dtype and precision, over the table of NumPy's forms."""
    forms = [f for f in FORMS if not f.refuses and any(cast(a, BF).dtype == BF for a in f.args)]
    forms = [f for f in forms if "float16" not in f.code and "x16" not in f.names]
    forms = [f for f in forms if not any(d in f.code.replace(" ", "") for d in DIFFERENT)]
    wrong = []
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for form in forms[part::12]:
            mine, theirs = outcome(form, BF), outcome(form, HALF)
            if isinstance(mine, type) or isinstance(theirs, type):
                alike = mine is theirs
            else:
                alike = len(mine) == len(theirs) and (all(map(near, mine, theirs)) or "nan" in form.tags)
            if not alike:
                wrong.append(form.code)
    assert not wrong


def near(mine, theirs):
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    if mine.dtype != (BF if theirs.dtype == HALF else theirs.dtype) or mine.shape != theirs.shape:
        return False
    if kind_of(mine.dtype) not in "fc":
        return np.array_equal(mine, theirs)
    wide = np.complex128 if mine.dtype.kind == "c" else F64
    mine, theirs = mine.astype(wide), theirs.astype(wide)
    finite = np.isfinite(theirs) & (np.abs(theirs) < 6e4)
    scale = np.max(np.abs(theirs[finite]), initial=0)
    return np.allclose(mine[finite], theirs[finite], rtol=0.05, atol=0.05 * scale + 1e-6)


# -- dtypes


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ("bf16", BF), ("b1", BF), ("i8", BF), ("u8", BF), ("i16", F32), ("u16", F32), ("i32", F64), ("u32", F64),
        ("i64", F64), ("u64", F64), ("f16", F32), ("f32", F32), ("f64", F64), ("c64", np.complex64),
        ("c128", np.complex128),
    ],
)  # fmt: skip
def test_promotion(other, wanted):
    y = np.ones((24, 16)).astype(DTYPES_BY_NAME.get(other, BF))
    for left, right in ((A, y), (y, A)):
        assert nf.jit(lambda x, y: x * y)(left, right).dtype == wanted
        assert nf.jit(lambda x, y: np.where(x != 0, x, y))(left, right).dtype == wanted
        assert promotion.result_type(left.dtype, right.dtype) == wanted


def test_python_numbers_are_weak():
    results = nf.jit(lambda x: (x * 2.0, 2 + x, True * x, np.maximum(x, 0.5), np.where(x > 0, x, 0.0), x**2, x / 3))(A)
    assert {r.dtype for r in results} == {BF}
    assert nf.jit(lambda x: x * 2j)(A).dtype == np.complex64
    close(results[0], 2 * single(A), 0)


def test_several_dtypes_together():
    assert promotion.result_type(BF, np.int8, np.float16) == F32
    assert promotion.result_type(BF, 2.0, np.uint8) == BF
    assert promotion.resolve_dtypes(np.add, (HALF, HALF, None), signature=(None, None, BF)) == (BF, BF, BF)
    assert nf.jit(lambda x, y: np.add(x, y, dtype=nf.bfloat16))(A.astype(HALF), A.astype(HALF)).dtype == BF


def test_what_is_known_of_the_dtype():
    def program(x):
        assert np.issubdtype(x.dtype, np.floating)
        assert not np.issubdtype(x.dtype, np.float16)
        assert np.isdtype(x.dtype, "real floating")
        assert not np.isdtype(x.dtype, ("integral", np.float16))
        assert np.can_cast(x.dtype, np.float32)
        assert not np.can_cast(np.float16, x.dtype)
        assert np.result_type(x, 1.0) == np.promote_types(x.dtype, np.int8) == x.dtype
        assert np.finfo(np.float32).bits == 32
        return x * float(np.finfo(x.dtype).eps)

    close(nf.jit(program)(A), single(A) / 128, 0)
    assert (kind_of(BF), kind_of(F32), kind_of(np.dtype("V2"))) == ("f", "f", "V")
    assert [is_half(np.dtype(d)) for d in (BF, HALF, np.int16, "V2")] == [True, True, False, False]


def test_types_and_graphs_as_text():
    assert str(type_of(A)) == "bf16[24,16]"
    assert pickle.loads(pickle.dumps(type_of(A))) == type_of(A) == parse_type("bf16[24,16]")
    assert parse_type("tape(bf16[3])[2]").inexact
    b = Builder("f")
    x = b.param(ArrayType((2,), bfloat16()))
    graph = b.build([b.mul(x, b.add(b.const(np.array([1.5, -2], BF)), b.like(x, 0.25)))])
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
    (result,) = interpret.run(graph, [np.array([2, 4], BF)])
    same_bits(result, np.array([3.5, -7], BF))
    program = nf.parse(nf.dump(lambda a: np.tanh(a) + np.arange(16, dtype=nf.bfloat16), A, stage="simplified"))
    same_bits(program(A), nf.jit(lambda a: np.tanh(a) + np.arange(16, dtype=nf.bfloat16))(A))


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e5m2, ml_dtypes.int4, np.dtype("V2")])
def test_other_extensions_are_refused(dtype):
    with pytest.raises(nf.DTypeError, match="not supported"):
        nf.jit(lambda x: x)(np.zeros(3, dtype))
    with pytest.raises(nf.DTypeError, match="not supported"):
        nf.jit(lambda x: x.astype(dtype))(A)


def test_what_float16_has_not_either():
    with pytest.raises(nf.DTypeError, match="bfloat16 is unsupported in linalg"):
        nf.jit(np.linalg.inv)(A[:16])
    with pytest.raises(nf.ArgumentTypeError, match="bfloat16 cannot be drawn"):
        nf.random.normal(nf.random.key(0), (3,), dtype=nf.bfloat16)
    with pytest.raises(nf.UnsupportedError, match="bfloat16"):
        nf.jit(lambda x: x + 1).lower(V).compile().gufunc()


# -- passes


def test_no_halves_are_left_for_processors():
    b = Builder("f")
    x, y = b.param(type_of(A)), b.param(type_of(A.astype(HALF)))
    graph = b.build([b.astype(b.mul(b.exp(x), x), HALF), b.astype(y, BF), b.nextafter(x, b.like(x, 2.0))])
    bits = without_halves(graph)
    assert not [v for node in bits.nodes for v in node.results if is_half(v.dtype)]
    results = interpret.run(bits, [A.view(np.uint16), A.astype(HALF).view(np.uint16)])
    for found, wanted, dtype in zip(results, interpret.run(graph, [A, A.astype(HALF)]), (HALF, BF, BF)):
        same_bits(found.view(dtype), wanted)


def test_devices_keep_what_moves_and_multiplies():
    b = Builder("f")
    x = b.param(type_of(A[:16]))
    product = b.dot(x, x, contract=((1,), (0,)), batch=((), ()))
    wide = widened_halves(b.build([b.exp(b.reshape(product, shape=(256,)))]))
    made = [(node.prim, str(node.result.dtype)) for node in wide.nodes]
    assert made == [
        ("dot", "bfloat16"), ("reshape", "bfloat16"), ("convert", "float32"), ("exp", "float32"),
        ("convert", "bfloat16"),
    ]  # fmt: skip


# -- transforms

LOSS = lambda a: np.sum(np.tanh(a) * a)


def test_derivatives():
    wide = single(A)
    close(nf.grad(LOSS)(A), nf.grad(LOSS)(wide))
    value, gradient = nf.value_and_grad(LOSS)(A)
    close(value, LOSS(wide))
    close(gradient, nf.grad(LOSS)(wide))
    close(nf.jvp(LOSS, (A,), (B,))[1], nf.jvp(LOSS, (wide,), (single(B),))[1], 5e-2)
    close(nf.vjp(np.tanh, A)[1](B)[0], nf.vjp(np.tanh, wide)[1](single(B))[0])
    vector = lambda v: np.tanh(v) * v[0]
    for transform in (nf.jacrev, nf.jacfwd):
        close(transform(vector)(V), transform(vector)(single(V)), 5e-2)
    close(nf.hessian(LOSS)(V), nf.hessian(LOSS)(single(V)), 5e-2)
    close(nf.linearize(np.tanh, A)[1](B), nf.linearize(np.tanh, wide)[1](single(B)))
    slope = nf.grad(lambda a: nf.checkpoint(lambda v: np.sin(np.tanh(v)))(a).sum())
    close(slope(A), np.cos(np.tanh(wide)) / np.cosh(wide) ** 2)


@pytest.mark.parametrize("dtype", [BF, HALF], ids=str)
def test_gradients_of_transforms_have_the_dtype_of_what_is_transformed(dtype):
    f = lambda v: (np.abs(np.fft.rfft(v)) ** 2).sum() + scipy.fft.dct(v)[1]
    actual, wanted = nf.grad(f)(V.astype(dtype)), nf.grad(f)(single(V))
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual.astype(F64), wanted, rtol=2e-2, atol=0.5)


def test_vmap():
    f = lambda a: np.sqrt(np.abs(a)).max() + a @ a
    np.testing.assert_array_equal(nf.vmap(f)(A), np.array([nf.jit(f)(a) for a in A]))
    close(nf.vmap(nf.grad(LOSS))(A), nf.grad(LOSS)(single(A)))


def test_control_flow_and_carries():
    zero = np.zeros(16, BF)

    def program(x):
        last, products = nf.scan(lambda c, r: (c + r, c * r), zero, x)
        grown = nf.while_loop(lambda c: c.sum() < 100, lambda c: c + 1, x)
        chosen = nf.cond(x[0, 0] > 0, lambda v: v * 2, lambda v: -v, x)
        return last, products, grown, chosen, nf.fori_loop(0, 3, lambda i, c: c * 0.5 + x, x), nf.map(np.sum, x)

    def plain(x):
        sums = np.cumsum(x, axis=0)
        grown = x
        while grown.sum() < 100:
            grown = grown + 1
        halved = x
        for _ in range(3):
            halved = halved * 0.5 + x
        return sums[-1], np.vstack([0 * x[:1], sums[:-1]]) * x, grown, x * 2 if x[0, 0] > 0 else -x, halved, x.sum(1)

    for actual, wanted in zip(nf.jit(program)(A), plain(single(A)), strict=True):
        close(actual, wanted, 5e-2)
    slope = lambda x: nf.scan(lambda c, r: (np.tanh(c + r), c * r), zero.astype(x.dtype), x)[0].sum()
    close(nf.grad(slope)(A), nf.grad(slope)(single(A)), 5e-2)
    with_tape = lambda x: nf.while_loop(lambda c: c.sum() < 9, lambda c: c * c + 1, x).sum()
    close(nf.grad(with_tape)(V), nf.grad(with_tape)(single(V)), 5e-2)


def test_in_place_and_python_loops():
    def program(a, n):
        a[1:] += a[:-1]
        for i in range(n):
            if a[0, 0] < 9:
                a *= 1.5
            a[0] = a[i]
        return a.sum()

    mine, theirs = A.copy(), single(A)
    close(nf.jit(program)(mine, np.int64(3)), program(theirs, 3), 5e-2)
    close(mine, theirs, 5e-2)


# -- calls

W = RNG.normal(size=16).astype(BF)
S = ml_dtypes.bfloat16(2.5)


def test_scalars_captures_and_constants():
    assert type(nf.jit(lambda x: x * 2)(ml_dtypes.bfloat16(1.5))) is ml_dtypes.bfloat16
    assert type(nf.grad(lambda x: x * x)(ml_dtypes.bfloat16(1.5))) is ml_dtypes.bfloat16
    same_bits(nf.jit(lambda x: x * W)(A), (single(A) * single(W)).astype(BF))
    same_bits(nf.jit(lambda x: x * S)(A), (single(A) * 2.5).astype(BF))
    same_bits(nf.jit(lambda x: x * nf.bfloat16(3))(A), (single(A) * 3).astype(BF))
    made = nf.jit(lambda x: x + np.array([1, 2.5] * 8, dtype=nf.bfloat16))(A)
    same_bits(made, (single(A) + np.float32([1, 2.5] * 8)).astype(BF))
    W[0] += 1  # a captured array is read at each call
    same_bits(nf.jit(lambda x: x * W)(A), (single(A) * single(W)).astype(BF))


def test_layouts_out_bind_and_donation():
    f = nf.jit(lambda x: x + 1)
    for x in (A.T, A[::2, ::3], A[::-1], pickle.loads(pickle.dumps(A)), np.array(A, order="F"), A[:0]):
        same_bits(f(x), (single(x) + 1).astype(BF))
    out = np.zeros_like(A)
    assert f(A, out=out) is out
    same_bits(out, f(A))
    same_bits(f.bind(A)(), f(A))
    same_bits(nf.jit(lambda x: x + 1, donate_argnums=(0,))(A.copy()), f(A))
    with pytest.raises(nf.DTypeError):
        f(A, out=np.zeros(A.shape, F32))


def test_one_compilation_per_dtype():
    f = nf.jit(lambda x: x * 2)
    for x in (A, A.astype(HALF), A.view(np.uint16)):
        assert nf.explain(f, x).found == "nowhere"
        assert f(x).dtype == x.dtype
        assert nf.explain(f, x).found == "memory"
    assert nf.explain(f, A.view(BF.newbyteorder("="))).found == "memory"  # another object for the same dtype
    same_bits(f(A.view(BF.newbyteorder("="))), f(A))


def test_without_code_generation(monkeypatch):
    program = lambda x: (np.tanh(x) @ x.T, x.sum(), x[0, 0])
    wanted = nf.jit(program)(A)
    for how in ("1", "graph"):
        monkeypatch.setenv("NUFUNC_NOJIT", how)
        nf.clear_cache()
        for dtype in (BF, HALF):
            for actual, w in zip(nf.jit(program)(A.astype(dtype)), wanted):
                assert actual.dtype == dtype
                np.testing.assert_allclose(actual.astype(F64), w.astype(F64), rtol=2e-2, atol=2e-2)
    nf.clear_cache()


def test_lowered():
    lowered = nf.jit(LOSS).lower(nf.spec((24, 16), nf.bfloat16))
    assert lowered.cost().bytes_read == A.nbytes
    same_bits(lowered.compile()(A), nf.jit(LOSS)(A))
    assert "bf16[24,16]" in nf.dump(LOSS, A, stage="pure")


def test_large_results_and_overlapping_arguments():
    big = RNG.normal(size=(1100, 500)).astype(BF)
    same_bits(nf.jit(lambda x: x * 2 + 1)(big), ((single(big) * 2).astype(BF).astype(F32) + 1).astype(BF))

    def shifted(a, b):
        a[...] = a + b

    mine = V.copy()
    nf.jit(shifted)(mine[1:], mine[:-1])
    same_bits(mine[1:], (single(V[1:]) + single(V[:-1])).astype(BF))


def test_callbacks(capsys):
    def program(x):
        nf.debug.print("{} {}", x.sum(), x[0])
        return nf.pure_callback(lambda a: a[::-1] if a.dtype == BF else None, nf.spec(x.shape, x.dtype), x)

    same_bits(nf.jit(program)(V), V[::-1])
    assert capsys.readouterr().out == f"{nf.jit(np.sum)(V)} {V[0]}\n"


@pytest.mark.parametrize("dtype", [BF, HALF], ids=str)
def test_every_step_is_verified(dtype):
    said = str(nf.verify(lambda x: nf.grad(LOSS)(x) @ x.T, A.astype(dtype)))
    assert "machine code" in said
    assert "wrong" not in said


def test_nans_are_found():
    with nf.debug_nans(), np.errstate(all="ignore"), pytest.raises(nf.NaNError, match="log made the first NaN"):
        nf.jit(np.log)(A)


def test_draws():
    jax = pytest.importorskip("jax")
    chance = np.linspace(0, 1, 1000).astype(BF)
    mine, theirs = nf.random.bernoulli(nf.random.key(3), chance), jax.random.bernoulli(jax.random.key(3), chance)
    np.testing.assert_array_equal(mine, theirs)
    drawn = nf.jit(lambda key: nf.random.normal(key, (5,)).astype(nf.bfloat16))(nf.random.key(0))
    same_bits(drawn, nf.random.normal(nf.random.key(0), (5,)).astype(BF))


def test_trees_ravel():
    vector, unravel = nf.tree.ravel({"a": V, "b": V.astype(HALF)})
    assert vector.dtype == F32
    assert [x.dtype for x in nf.tree.leaves(unravel(vector))] == [BF, HALF]


@pytest.mark.parametrize("dtype", [BF, HALF], ids=str)
def test_njit_code_has_none_of_it(dtype):
    numba = pytest.importorskip("numba")
    compiled = nf.jit(lambda x: x + 1).lower(A.astype(dtype)).compile()
    with pytest.raises(numba.TypingError, match="Numba does not compute with"):
        numba.njit(lambda x: compiled(x))(A.astype(F32))


def test_pickles():
    def scaled(x):
        return x * W

    again = pickle.loads(pickle.dumps(nf.jit(np.tanh)))
    same_bits(again(A), nf.jit(np.tanh)(A))
    cloudpickle = pytest.importorskip("cloudpickle")
    same_bits(pickle.loads(cloudpickle.dumps(nf.jit(scaled)))(A), nf.jit(scaled)(A))


PROCESS = """
import numpy as np, ml_dtypes, sys
import nufunc as nf
x = np.arange(12.0).reshape(3, 4).astype(ml_dtypes.bfloat16)
f = nf.jit(lambda x, s: (np.tanh(x) * s + 1, x.sum()))
print([r.astype(float).tolist() for r in f(x, ml_dtypes.bfloat16(0.5))], x.dtype == f(x, 2.0)[0].dtype)
print("numba" in sys.modules)
"""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there is no cache on disk on this system")
def test_the_cache_on_disk(tmp_path):
    environment = {**os.environ, "NUFUNC_CACHE": "1", "NUFUNC_CACHE_DIR": str(tmp_path)}
    command, printed = [sys.executable, "-c", PROCESS], []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert printed[0][0] == printed[1][0]
    assert (printed[0][1], printed[1][1]) == ("True", "False"), "the second process loads what the first one compiled"


def alone(code):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_imports_ml_dtypes_unasked():
    alone("""
        import sys, numpy as np, nufunc as nf
        nf.jit(lambda x: np.sort(x.astype(np.float16)).sum())(np.ones(3))
        nf.grad(lambda x: np.sum(x**2))(np.ones(3, np.float32))
        assert "bfloat16" in dir(nf)
        assert "ml_dtypes" not in sys.modules
        assert nf.jit(lambda x: x * 2).lower(nf.spec((3,), "bfloat16")).cost().bytes_read == 6
        assert nf.nn.Linear(3, 2).to("bfloat16").weight.dtype == nf.nn.Linear(3, 2, dtype="bfloat16").weight.dtype
        assert np.zeros(3, nf.bfloat16).dtype.name == "bfloat16"
        assert "ml_dtypes" in sys.modules
    """)


def test_without_ml_dtypes():
    alone("""
        import sys
        sys.modules["ml_dtypes"] = None
        import numpy as np, nufunc as nf
        for ask in (lambda: nf.bfloat16, lambda: nf.jit(lambda x: x.astype("bfloat16"))(np.ones(3))):
            try:
                ask()
            except nf.DTypeError as error:
                assert "pip install ml_dtypes" in str(error), error
            else:
                raise AssertionError
        assert nf.jit(lambda x: x * 2)(np.ones(3, np.float16)).dtype == np.float16
    """)


# -- modules


class Model(nf.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nf.nn.Linear(16, 8), nf.nn.LayerNorm(8), nf.nn.Linear(8, 1)

    def forward(self, x):
        return self.second(nf.nn.functional.silu(self.norm(self.first(x))))


@pytest.fixture
def model():
    nf.nn.init.manual_seed(0)
    return Model().to(nf.bfloat16)


def test_modules_and_optimizers(model):
    assert {p.dtype for p in model.parameters()} == {BF}
    assert {p.dtype for p in model.half().parameters()} == {HALF}
    assert {p.dtype for p in model.bfloat16().parameters()} == {BF}
    assert nf.nn.Linear(3, 2, dtype=nf.bfloat16).weight.dtype == BF
    params = dict(model.named_parameters())
    close(nf.jit(model)(A), nf.functional_call(model, single(params), (single(A),)), 5e-2)
    target = np.tanh(A[:, :1].astype(F32)).astype(BF)
    optimizer = nf.optim.adam(1e-2)

    @nf.jit
    def step(params, state):
        error = lambda p: np.mean((nf.functional_call(model, p, (A,)) - target) ** 2)
        loss, grads = nf.value_and_grad(error)(params)
        return *optimizer.update(grads, state, params), loss

    state = optimizer.init(params)
    assert {x.dtype for x in state["second"].values()} == {F32}
    losses = []
    for _ in range(60):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert {p.dtype for p in params.values()} == {BF}
    assert losses[-1] < 0.2 * losses[0]


ACTIVATIONS = "sigmoid silu gelu mish softplus softmax log_softmax glu elu softsign logsigmoid".split()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_round_once(name):
    function = getattr(nf.nn.functional, name)
    for dtype in (BF, HALF):
        x = A.astype(dtype)
        actual, wanted = nf.jit(function)(x), nf.jit(function)(x.astype(F32)).astype(dtype)
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual.astype(F64), wanted.astype(F64), rtol=8e-3 if dtype == BF else 1e-3)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_files(model, tmp_path, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"model.{ending}"
    nf.nn.save(model, path)
    state = nf.nn.load(path)
    assert {a.dtype for a in state.values()} == {BF}
    other = Model().to(nf.bfloat16)
    other.load_state_dict(state)
    same_bits(other.first.weight, model.first.weight)


def test_torch():
    torch = pytest.importorskip("torch")
    with pytest.raises(nf.ArgumentTypeError, match=r"view\(nf.bfloat16\)"):
        nf.jit(lambda x: x)(torch.zeros(3, dtype=torch.bfloat16))
    net = torch.nn.Sequential(torch.nn.Linear(16, 4), torch.nn.SiLU(), torch.nn.Linear(4, 1)).to(torch.bfloat16)
    theirs = net(torch.from_numpy(A.view(np.int16)).view(torch.bfloat16)).detach().view(torch.int16).numpy().view(BF)
    params = {k: p.detach().view(torch.int16).numpy().view(BF) for k, p in net.named_parameters()}
    close(nf.jit(lambda p, x: nf.functional_call(net, p, (x,)))(params, A), theirs.astype(F64))
    layer = nf.nn.Linear(16, 4)
    layer.load_state_dict({k.removeprefix("0."): p for k, p in net.state_dict().items() if k.startswith("0.")})
    np.testing.assert_array_equal(layer.weight, params["0.weight"].astype(F32))

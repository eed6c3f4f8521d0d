"""Primitives at delicate points: kinks, ties, zeros, overflow, second derivatives; and error messages."""

import numpy as np
import pytest
import scipy.special
from op_samples import SAMPLES, Sample, parameters

from nufunc.ir import Builder, primitive
from nufunc.ir.errors import BoundsError, DTypeError, ShapeError
from nufunc.ir.graph import Graph
from nufunc.ir.interpret import run
from nufunc.ir.types import DTYPES_BY_NAME, ArrayType, is_inexact, type_of


def pushed(graph: Graph, active: tuple[int, ...]) -> Graph:
    """Forward mode for a graph without regions: (params, tangents of the active ones) -> tangents."""
    b = Builder(graph.name)
    env = {p: b.param(p.type) for p in graph.params}
    env.update({value: b.const(array) for value, array in graph.consts})
    tangents = {graph.params[i]: b.param(graph.params[i].type) for i in active}
    for node in graph.nodes:
        record, operands = primitive.get(node.prim), [env[o] for o in node.operands]
        results = b.copy_node(node, operands)
        env.update(zip(node.results, results, strict=True))
        given = [tangents.get(o) for o in node.operands]
        if record.differentiable and any(t is not None for t in given) and is_inexact(node.results[0].dtype):
            out = record.jvp(b, operands, given, results, node.attrs)
            tangents.update({r: t for r, t in zip(node.results, out, strict=True) if t is not None})
    return b.build([tangents.get(o) or b.zeros(o.type) for o in graph.outputs])


def derivative(prim: str, operands, tangents, **attrs) -> np.ndarray:
    """The tangent of the (first) result; a tangent that is None is zero."""
    operands = [np.asarray(o) for o in operands]
    b = Builder()
    graph = b.build(b.emit(prim, [b.param(type_of(o)) for o in operands], attrs))
    active = tuple(i for i, t in enumerate(tangents) if t is not None)
    given = [np.asarray(tangents[i], operands[i].dtype) for i in active]
    return run(pushed(graph, active), [*operands, *given])[0]


def cotangents(prim: str, operands, ct, known=(), **attrs) -> list[np.ndarray]:
    """What the transpose rule gives for the operands that are not `known`."""
    operands, ct = [np.asarray(o) for o in operands], np.asarray(ct)
    b = Builder()
    values, value = [b.param(type_of(o)) for o in operands], b.param(type_of(ct))
    given = [v if i in known else None for i, v in enumerate(values)]
    out = primitive.get(prim).transpose(b, [value], given, [v.type for v in values], attrs)
    return run(b.build([o for o in out if o is not None]), [*operands, ct])


# -- second derivatives of every smooth row


def _twice(sample: Sample) -> bool:
    record = primitive.get(sample.prim)
    types = (*sample.types, *sample.graph().output_types)
    double = all(t.dtype not in (np.float32, np.complex64) for t in types)
    return (
        sample.smooth and double and record.jvp is not None and any(is_inexact(t.dtype) for t in sample.types)
    )


TWICE = [s for s in SAMPLES if _twice(s)]


@pytest.mark.parametrize("sample", TWICE, ids=[s.id for s in TWICE])
def test_second_derivative_agrees_with_differences(sample: Sample) -> None:
    operands, rng, step = sample.operands(), np.random.default_rng(5), 1e-6
    first = parameters(sample)
    active = tuple(i for i, t in enumerate(sample.types) if is_inexact(t.dtype) and i >= first)

    def direction() -> list[np.ndarray]:
        out = []
        for i in active:
            t = rng.uniform(-1, 1, sample.types[i].shape).astype(sample.types[i].dtype)
            out.append(t + np.conj(np.swapaxes(t, -1, -2)) if sample.prim in ("cholesky", "eigh") else t)
        return out

    def along(tangents: list[np.ndarray], by: float) -> list[np.ndarray]:
        moved = list(operands)
        for i, t in zip(active, tangents):
            moved[i] = operands[i] + by * t
        return moved

    once = pushed(sample.graph(), active)
    second = pushed(once, active)
    t, u = direction(), direction()
    found = run(second, [*operands, *t, *u])
    above, below = run(once, [*along(u, step), *t]), run(once, [*along(u, -step), *t])
    for result, high, low in zip(found, above, below, strict=True):
        if is_inexact(result.dtype):
            np.testing.assert_allclose(result, (high - low) / (2 * step), rtol=1e-5, atol=1e-6)


# -- kinks and ties


@pytest.mark.parametrize("prim", ["maximum", "minimum", "fmax", "fmin"])
def test_ties_of_two_operands_share_the_tangent(prim: str) -> None:
    x = np.array([1.0, 2.0, -0.0])
    np.testing.assert_array_equal(derivative(prim, [x, x], [np.ones(3), None]), [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(derivative(prim, [x, -x], [[4.0, 4.0, 4.0], [2.0, 2.0, 2.0]])[2], 3.0)


def test_fmax_follows_the_number_beside_nan() -> None:
    x, y = np.array([np.nan, 1.0]), np.array([1.0, np.nan])
    np.testing.assert_array_equal(derivative("fmax", [x, y], [[3.0, 3.0], [5.0, 5.0]]), [5.0, 3.0])


def test_abs_and_sign_at_zero() -> None:
    assert derivative("abs", [0.0], [1.0]) == 0
    assert derivative("abs", [0j], [1 + 1j]) == 0
    assert derivative("sign", [0j], [1 + 1j]) == 0
    assert derivative("hypot", [0.0, 0.0], [1.0, 1.0]) == 0
    np.testing.assert_allclose(derivative("abs", [3 + 4j], [1j]), 0.8)


def test_sqrt_at_zero_has_an_infinite_slope() -> None:
    assert derivative("sqrt", [0.0], [1.0]) == np.inf


def test_pow_at_zero() -> None:
    x, y = np.zeros(4), np.array([0.0, 1.0, 2.0, 0.5])
    np.testing.assert_array_equal(derivative("pow", [x, y], [np.ones(4), None]), [0, 1, 0, np.inf])
    np.testing.assert_array_equal(derivative("pow", [x, y], [None, np.ones(4)]), [0, 0, 0, 0])
    assert derivative("pow", [-2.0, 3.0], [1.0, None]) == 12
    assert derivative("pow", [np.inf, 0.0], [1.0, None]) == 0
    assert derivative("pow", [0j, 2 + 0j], [None, 1 + 0j]) == 0


def test_integer_pow_at_zero() -> None:
    for y, slope in ((0, 0), (1, 1), (2, 0), (3, 0)):
        assert derivative("integer_pow", [0.0], [1.0], y=y) == slope


def test_remainders_at_exact_quotients() -> None:
    x, y = np.array([6.0, 7.0, -7.0, 0.3]), np.array([3.0, -2.0, 2.0, 0.1])
    np.testing.assert_array_equal(derivative("mod", [x, y], [None, np.ones(4)]), -(x // y))
    quotient = np.rint((x - np.fmod(x, y)) / y)
    np.testing.assert_array_equal(derivative("fmod", [x, y], [None, np.ones(4)]), -quotient)


def test_reduce_max_shares_among_ties() -> None:
    x = np.array([[3.0, 1.0, 3.0], [2.0, 2.0, 2.0]])
    np.testing.assert_allclose(derivative("reduce_max", [x], [[[1.0, 9, 3], [3, 4, 8]]], axes=(1,)), [2, 5])
    assert np.isnan(derivative("reduce_max", [np.array([1.0, np.nan])], [np.ones(2)], axes=(0,)))


def test_products_with_zeros() -> None:
    t = np.array([1.0, 2.0, 3.0, 4.0])
    one, two = np.array([2.0, 0.0, 5.0, 3.0]), np.array([2.0, 0.0, 0.0, 3.0])
    assert derivative("reduce_prod", [one], [t], axes=(0,)) == 2 * 2 * 5 * 3
    assert derivative("reduce_prod", [two], [t], axes=(0,)) == 0
    np.testing.assert_array_equal(derivative("cumprod", [one], [t], axis=0, reverse=False), [1, 4, 20, 60])
    np.testing.assert_array_equal(derivative("cumprod", [two], [t], axis=0, reverse=False), [1, 4, 0, 0])
    np.testing.assert_array_equal(derivative("cumprod", [two], [t], axis=0, reverse=True), [0, 0, 9, 4])


def test_running_extreme_takes_the_last_of_ties() -> None:
    x, t = np.array([1.0, 3.0, 3.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(derivative("cummax", [x], [t], axis=0, reverse=False), [1, 2, 3, 3])
    np.testing.assert_array_equal(derivative("cummax", [x], [t], axis=0, reverse=True), [2, 2, 3, 4])
    np.testing.assert_array_equal(derivative("cummin", [-x], [t], axis=0, reverse=False), [1, 2, 3, 3])


def test_scatter_set_follows_the_last_of_repeated_indices() -> None:
    x, value, index = np.zeros(4), np.array([1.0, 2.0, 3.0]), np.array([2, 0, 2])
    how = {"axes": (0,), "mode": "error"}
    tangent = derivative("scatter_set", [x, value, index], [np.full(4, 9.0), value, None], **how)
    np.testing.assert_array_equal(tangent, [2, 9, 3, 9])
    ct_x, ct_value = cotangents("scatter_set", [x, value, index], [1.0, 2.0, 3.0, 4.0], known=(2,), **how)
    np.testing.assert_array_equal(ct_x, [0, 2, 0, 4])
    np.testing.assert_array_equal(ct_value, [0, 1, 3])


def test_select_keeps_infinite_cotangents_apart() -> None:
    condition = np.array([True, False])
    ct_x, ct_y = cotangents("select", [condition, np.zeros(2), np.zeros(2)], [np.inf, np.nan], known=(0,))
    np.testing.assert_array_equal(ct_x, [np.inf, 0])
    np.testing.assert_array_equal(ct_y, [0, np.nan])


def test_sort_of_ties_moves_tangents_in_order() -> None:
    x, t = np.array([2.0, 1.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(derivative("sort", [x], [t], axis=0), [2, 4, 1, 3])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_det_of_singular_small_matrices(n: int) -> None:
    rng = np.random.default_rng(n)
    a, t = rng.normal(size=(n, n)), rng.normal(size=(n, n))
    a[-1] = 0 if n == 1 else a[0]
    step = 1e-6
    wanted = (np.linalg.det(a + step * t) - np.linalg.det(a - step * t)) / (2 * step)
    np.testing.assert_allclose(derivative("det", [a], [t]), wanted, rtol=1e-6, atol=1e-9)


def test_singular_matrix_raises_numpys_error() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        primitive.get("solve").evaluate([np.zeros((2, 2)), np.ones((2, 1))], {}, ())
    with pytest.raises(np.linalg.LinAlgError):
        primitive.get("cholesky").evaluate([-np.eye(2)], {}, ())


# -- digits kept where the obvious formula loses them


@pytest.mark.parametrize(
    ("prim", "x", "slope"),
    [
        ("logistic", 50.0, np.exp(-50.0)), ("logistic", -50.0, np.exp(-50.0)),
        ("expm1", -50.0, np.exp(-50.0)),
        ("asinh", 1e200, 1e-200), ("acosh", 1e200, 1e-200), ("atanh", 0.5, 4 / 3),
        ("acosh", 1 + 1e-12, 1 / np.sqrt(2 * (1 + 1e-12 - 1))), ("atan", 1e200, 0.0),
    ],
)  # fmt: skip
def test_slopes_keep_their_digits(prim: str, x: float, slope: float) -> None:
    np.testing.assert_allclose(derivative(prim, [x], [1.0]), slope, rtol=1e-12)


def test_atan2_of_large_numbers() -> None:
    np.testing.assert_allclose(derivative("atan2", [1e200, 1e200], [1.0, None]), 0.5e-200, rtol=1e-12)


def test_trigamma_and_its_derivatives() -> None:
    x = np.array([0.01, 0.3, 0.5, 0.9, 1.5, 4.0, 9.7, 30.0, 1e4, 1e10, -0.3, -1.7, -12.4])
    found = derivative("digamma", [x], [np.ones_like(x)])
    positive = x > 0
    np.testing.assert_allclose(found[positive], scipy.special.polygamma(1, x[positive]), rtol=1e-12)
    low = x[~positive]
    reflected = (np.pi / np.sin(np.pi * low)) ** 2 - scipy.special.polygamma(1, 1 - low)
    np.testing.assert_allclose(found[~positive], reflected, rtol=1e-11)


def test_complex_parts_of_infinities() -> None:
    (z,) = primitive.get("complex").evaluate([np.array(1.0), np.array(np.inf)], {}, ())
    assert z.real == 1
    assert z.imag == np.inf


# -- errors


def typed(text: str) -> ArrayType:
    name, _, shape = text.rstrip("]").partition("[")
    return ArrayType(tuple(int(n) for n in shape.split(",") if n), DTYPES_BY_NAME[name])


ERRORS = [
    ("add", ("f64[3]", "f64[4]"), {}, ShapeError, "add: operands of different shapes: f64[3], f64[4]"),
    ("add", ("f64[3]", "f32[3]"), {}, DTypeError, "add: operands of different dtypes: f64[3], f32[3]"),
    ("sin", ("i64[3]",), {}, DTypeError, "sin does not accept i64[3]; it accepts float, complex"),
    ("floor", ("c128[3]",), {}, DTypeError, "floor does not accept c128[3]; it accepts float"),
    ("select", ("f64[]", "f64[]", "f64[]"), {}, DTypeError, "select: the condition must be bool, not f64[]"),
    (
        "dot", ("f64[3,4]", "f64[5]"), {"contract": ((1,), (0,)), "batch": ((), ())}, ShapeError,
        "dot: contracted extents differ: f64[3,4] axis 1 has 4, f64[5] axis 0 has 5",
    ),
    (
        "dot", ("f64[3]", "f64[3]"), {"contract": ((1,), (0,)), "batch": ((), ())}, ShapeError,
        "there is no axis 1 in f64[3]",
    ),
    ("reshape", ("f64[3,2]",), {"shape": (4,)}, ShapeError, "with 6 elements does not fit the shape (4,)"),
    ("transpose", ("f64[3,2]",), {"perm": (0, 0)}, ShapeError, "(0, 0) is not a permutation"),
    ("broadcast", ("f64[2]",), {"shape": (3,), "dims": (0,)}, ShapeError, "axis 0 of f64[2] has extent 2"),
    ("slice", ("f64[3]",), {"start": (0,), "stop": (4,), "step": (1,)}, ShapeError, "0:4:1 on axis 0 of"),
    ("concat", ("f64[2,3]", "f64[2,2]"), {"axis": 0}, ShapeError, "does not fit f64[2,3] outside axis 0"),
    ("reduce_max", ("f64[0,2]",), {"axes": (0,)}, ShapeError, "f64[0,2] is empty along axes (0,)"),
    ("argmax", ("f64[0]",), {"axis": 0}, ShapeError, "f64[0] is empty along axis 0"),
    ("reduce_sum", ("f64[2]",), {"axes": (1,)}, ShapeError, "there is no axis 1 in f64[2]"),
    ("solve", ("f64[2,2]", "f64[3,1]"), {}, ShapeError, "f64[3,1] does not fit the matrix f64[2,2]"),
    ("det", ("f64[2,3]",), {}, ShapeError, "the last two axes of f64[2,3] are no square matrix"),
    ("gather", ("f64[2]", "i32[1]"), {"axes": (0,), "mode": "clip"}, DTypeError, "are of i64, not i32[1]"),
    ("integer_pow", ("i64[2]",), {"y": -1}, DTypeError, "i64[2] cannot be raised to the negative"),
    ("write", ("f64[2]", "f64[3]"), {}, ShapeError, "write: f64[3] does not fit the target f64[2]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("prim", "types", "attrs", "error", "message"), ERRORS, ids=[f"{e[0]}-{e[1]}" for e in ERRORS]
)
def test_errors_show_the_types(prim: str, types, attrs, error, message: str) -> None:
    with pytest.raises(error) as caught:
        primitive.get(prim).infer([typed(t) for t in types], attrs, ())
    assert message in str(caught.value)


@pytest.mark.parametrize("prim", ["gather", "scatter_set", "scatter_add"])
@pytest.mark.parametrize("index", [-1, 3])
def test_index_outside_names_axis_and_extent(prim: str, index: int) -> None:
    operands = [np.zeros((2, 3)), *([np.zeros((1, 2))] if prim != "gather" else []), np.array([index])]
    with pytest.raises(BoundsError, match=f"index {index} is out of bounds for axis 1 with size 3"):
        primitive.get(prim).evaluate(operands, {"axes": (1,), "mode": "error"}, ())

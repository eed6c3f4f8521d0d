"""Products whose operands lie in memory in every order: matrices by strides, loops of products, copies."""

import re

import mpmath
import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen.gemm_shape import KC

EQUATIONS = [
    ((5, 9, 12), (9, 7), "bij,ik->bjk"),
    ((3, 4, 9, 12), (9, 7), "abij,ik->abjk"),
    ((3, 4, 9, 12), (3, 9, 7), "abij,aik->abjk"),
    ((9, 12), (6, 12, 9, 10), "ij,bjik->bk"),
    ((3, 9, 16), (4, 9, 16), "aij,bik->ajbk"),
    ((2, 9, 16), (2, 5, 9, 16), "cij,cbik->cjbk"),
    ((8, 9), (32, 9, 20), "ij,bjk->bik"),
    ((70, 90, 30), (90, 65), "bij,ik->bjk"),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128, np.int64])
@pytest.mark.parametrize(("left", "right", "equation"), EQUATIONS, ids=[e[2] for e in EQUATIONS])
def test_einsum_of_every_layout(left, right, equation, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-9, 9, shape).astype(dtype) for shape in (left, right))
    product = nf.jit(lambda x, y: np.einsum(equation, x, y))
    np.testing.assert_array_equal(product(x, y), np.einsum(equation, x, y))  # sums of small integers are exact


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (1, None), (None, 2), (2, 1)])
def test_vmap_of_a_product_is_a_loop(in_dims):
    rng = np.random.default_rng(1)
    x, y = rng.integers(-9, 9, (12, 20)).astype(float), rng.integers(-9, 9, (20, 16)).astype(float)
    stacks = [
        a if d is None else np.stack([a + i for i in range(10)], axis=d)
        for a, d in zip((x, y), in_dims, strict=True)
    ]
    got = nf.vmap(lambda a, b: a @ b, in_dims=in_dims)(*stacks)
    lanes = [[a + (i if d is not None else 0) for a, d in zip((x, y), in_dims, strict=True)] for i in range(10)]
    np.testing.assert_array_equal(got, np.stack([a @ b for a, b in lanes]))


EXTENTS = {"n": 24, "k": 40, "m": 56, "e": 10, "b": 8, "h": 12, "q": 24, "d": 32, "a": 9, "c": 11, "i": 20, "j": 16}

# Equation -> kinds of the groups of its grouped graph; a dot stands alone or in a product group. None of these copies.
GROUPS = {
    "nk,km->nm": [], "nk,km->mn": [], "kn,km->nm": [], "kn,mk->nm": [], "kn,mk->mn": [],
    "nk,enm->ekm": ["product"], "enm,nk->ekm": ["product"], "enm,nk->emk": [], "enm,nk->kem": [],
    "bnk,bkm->bnm": [], "bnk,bmk->bnm": [], "bkn,bkm->bmn": [], "bnk,bkm->nbm": ["product"],
    "bnk,km->bnm": [], "bnk,km->bmn": ["product"], "nk,bkm->bnm": ["product"],
    "bhqd,bhkd->bhqk": [], "bqhd,bkhd->bhqk": [], "bhqk,bhkd->bqhd": ["product"], "bhqk,bkhd->bqhd": ["product"],
    "bhqk,bqhd->bkhd": ["product"], "abk,kcd->abcd": [], "abk,kcd->dcab": ["product"], "akb,kcd->abcd": [],
    "abij,ijc->abc": [], "nk,bk->bn": [],
}  # fmt: skip


def operands(equation, dtype=np.float64):
    rng, terms = np.random.default_rng(0), equation.split("->")[0].split(",")
    return [rng.standard_normal([EXTENTS[c] for c in term]).astype(dtype) for term in terms]


def packed(function, arrays):
    """Names of the loops that copy operands."""
    return set(re.findall(r"@([\w.]+\.packed\.\d+)\(", nf.dump(function, *arrays, stage="llvm")))


@pytest.mark.parametrize("equation", GROUPS)
def test_transposed_operands_and_results_cost_no_copy(equation):
    arrays = operands(equation)
    contraction = lambda *xs: np.einsum(equation, *xs)
    text = nf.dump(contraction, *arrays, stage="grouped")
    assert text.count("= dot{") == 1
    assert re.findall(r'fused\{kind="(\w+)"', text) == GROUPS[equation]
    assert not packed(contraction, arrays)
    np.testing.assert_allclose(nf.jit(contraction)(*arrays), contraction(*arrays), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("equation", "results", "operand"), [("bnk,bkm->nmb", 1, 0), ("abji,ijc->abc", 0, 1)])
def test_what_strides_cannot_say_is_copied_once(equation, results, operand):
    """A batch axis innermost in the result; two axes summed over that lie in different orders."""
    arrays = operands(equation)
    contraction = lambda *xs: np.einsum(equation, *xs)
    text = nf.dump(contraction, *arrays, stage="grouped")
    assert (text.count('kind="copy"'), len(packed(contraction, arrays))) == (results, operand)
    np.testing.assert_allclose(nf.jit(contraction)(*arrays), contraction(*arrays), rtol=1e-11, atol=1e-11)


def test_tensordot_is_a_dot():
    x, y = np.random.default_rng(0).standard_normal((2, 9, 20, 16))
    contraction = lambda x, y: np.tensordot(x, y, axes=((1, 2), (1, 2)))
    text = nf.dump(contraction, x, y, stage="grouped")
    assert text.count("= dot{") == 1
    assert "fused" not in text
    np.testing.assert_allclose(nf.jit(contraction)(x, y), contraction(x, y), rtol=1e-11)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bnk,bk->bn", [(7, 60, 80), (7, 80)]),
        ("bkn,bk->bn", [(7, 80, 60), (7, 80)]),
        ("nk,bk->bn", [(60, 80), (7, 80)]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrices_times_vectors_are_kernels_of_vectors(equation, shapes, dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    contraction = lambda *xs: np.einsum(equation, *xs)
    assert re.search(r"fma\.v\d+f(32|64)", nf.dump(contraction, *arrays, stage="llvm"))
    tolerance = 200 * np.finfo(dtype).eps
    exact = np.einsum(equation, *[a.astype(np.longdouble) for a in arrays])
    np.testing.assert_allclose(nf.jit(contraction)(*arrays), exact, rtol=0, atol=tolerance * np.abs(exact).max())


def rank_one(matrix, x, y):
    return matrix + 2.0 * np.outer(x, y)


def rank_one_by_matrices(matrix, x, y):
    return matrix + 2.0 * (x[:, None] @ y[None, :])


def rank_one_of_a_batch(matrices, x, y):
    return matrices - np.einsum("bi,bj->bij", x, y)


@pytest.mark.parametrize("update", [rank_one, rank_one_by_matrices, rank_one_of_a_batch])
def test_rank_one_updates_are_one_loop(update):
    rng, lead = np.random.default_rng(0), (5,) * (update is rank_one_of_a_batch)
    arrays = [rng.standard_normal((*lead, *shape)) for shape in ((90, 110), (90,), (110,))]
    text = nf.dump(update, *arrays, stage="grouped")
    assert text.count('fused{kind="loop"') == 1
    assert "dot" not in text
    np.testing.assert_allclose(nf.jit(update)(*arrays), update(*arrays), rtol=1e-14)


SIZES = [(3, 4, 5), (16, 16, 16), (1, 1, 3000), (2, 70, 900), (40, 30, 513), (64, 64, 1200), (9, 300, 4000)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_accuracy(shape, dtype):
    """Beside sums of many digits: the bound of Note [Matrix products], and errors that grow no faster than the square
    root of the number of terms in a chain, as roundings of random signs do."""
    m, n, k = shape
    rng = np.random.default_rng(k)
    x, y = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    got = nf.jit(lambda x, y: x @ y)(x, y)
    rows, columns = rng.integers(0, m, 12), rng.integers(0, n, 12)
    with mpmath.workdps(40):
        exact = [mpmath.fdot(map(float, x[i]), map(float, y[:, j])) for i, j in zip(rows, columns, strict=True)]
        errors = np.array([float(abs(e - float(got[i, j]))) for e, i, j in zip(exact, rows, columns, strict=True)])
    sizes = np.array([np.abs(x[i].astype(float)) @ np.abs(y[:, j].astype(float)) for i, j in zip(rows, columns)])
    eps, blocks = np.finfo(dtype).eps, -(-k // KC)
    assert (errors <= (min(k, KC) + blocks + 1) * eps * sizes).all()
    assert errors.max() <= 2 * np.sqrt(min(k, KC) + blocks) * eps * sizes.max() / np.sqrt(k) * 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_that_cancel(dtype):
    """Terms that cancel to nothing leave an error of the size of the terms, not more."""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((50, 300)).astype(dtype)
    x, y = np.concatenate([half, -half], axis=1), np.ones((600, 40), dtype)
    got = nf.jit(lambda x, y: x @ y)(x, y)
    assert (np.abs(got) <= 600 * np.finfo(dtype).eps * np.abs(x).sum(axis=1, keepdims=True)).all()

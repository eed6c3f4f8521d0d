"""Products whose operands lie in memory in every order: matrices by strides, loops of products, copies."""

import numpy as np
import pytest

import nufunc as nf

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

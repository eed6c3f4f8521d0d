"""Compiled convolutions and their derivatives against sums over the kernel by NumPy; vmap against loops; windows."""

import itertools

import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen.compile import compile_graph
from nufunc.ir import Builder
from nufunc.ir.interpret import run
from nufunc.ir.types import type_of
from nufunc.passes.fuse import fuse

F = nf.nn.functional
RNG = np.random.default_rng(7)


def by_taps(x, w, ct, stride=1, padding=0, dilation=1, groups=1):
    """(convolution, cotangents of x and w), one element of the kernel after the other."""
    dims = x.ndim - 2
    strides, pads, dilations = ((v,) * dims if isinstance(v, int) else v for v in (stride, padding, dilation))
    n, c, *spatial = x.shape
    o, per, *kernel = w.shape
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in pads)])
    padded = padded.reshape(n, groups, c // groups, *padded.shape[2:])
    weight = w.reshape(groups, o // groups, per, *kernel)
    sizes = zip(spatial, pads, dilations, kernel, strides, strict=True)
    out = [(m + 2 * p - d * (k - 1) - 1) // s + 1 for m, p, d, k, s in sizes]
    y, dx, dw = np.zeros((n, groups, o // groups, *out), x.dtype), np.zeros_like(padded), np.zeros_like(weight)
    ct = None if ct is None else ct.reshape(y.shape)
    for tap in itertools.product(*map(range, kernel)):
        cut = (..., *(slice(t * d, t * d + s * (m - 1) + 1, s) for t, d, s, m in zip(tap, dilations, strides, out)))
        y += np.einsum("ngc...,goc->ngo...", padded[cut], weight[(..., *tap)])
        if ct is not None:
            dx[cut] += np.einsum("ngo...,goc->ngc...", ct, weight[(..., *tap)])
            letters = "xyz"[:dims]
            dw[(..., *tap)] = np.einsum(f"ngc{letters},ngo{letters}->goc", padded[cut], ct)
    inside = (..., *(slice(p, p + m) for p, m in zip(pads, spatial, strict=True)))
    return y.reshape(n, o, *out), dx[inside].reshape(x.shape), dw.reshape(w.shape)


CASES = [
    ((2, 3, 9, 8), (5, 3, 3, 3), {}),
    ((2, 3, 9, 8), (5, 3, 3, 3), {"padding": 1, "stride": 2}),
    ((2, 8, 9, 35), (40, 8, 3, 2), {"padding": (1, 0)}),  # several tiles along rows and channels, and rests of both
    ((1, 6, 11, 11), (70, 6, 4, 3), {"padding": (2, 1), "stride": (3, 2)}),
    ((1, 300, 5, 6), (33, 300, 3, 3), {"padding": 1}),  # channels in blocks
    ((3, 4, 7, 7), (6, 2, 3, 3), {"groups": 2, "dilation": 2, "padding": 3}),
    ((2, 6, 8, 9), (6, 1, 3, 3), {"groups": 6, "stride": 2, "padding": 1}),
    ((2, 6, 8, 9), (18, 1, 3, 3), {"groups": 6, "padding": 1}),
    ((2, 5, 8, 9), (7, 5, 1, 1), {"stride": 2}),
    ((2, 5, 4, 4), (7, 5, 4, 4), {}),
    ((2, 3, 4, 4), (4, 3, 3, 3), {"padding": 4}),
    ((3, 4, 50), (17, 4, 5), {"stride": 3, "padding": 2}),
    ((3, 4, 21), (3, 4, 4), {"dilation": 3, "stride": 5}),
    ((1, 2, 5, 6, 7), (9, 2, 2, 3, 2), {"padding": (0, 1, 1), "stride": (2, 1, 2)}),
    ((4, 1, 12, 12), (10, 1, 5, 5), {}),
    ((8, 16, 20, 20), (64, 16, 3, 3), {"padding": 1}),  # divided among threads
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("shape", "weight", "options"), CASES)
def test_convolutions_and_their_derivatives(shape, weight, options, dtype):
    conv = getattr(F, f"conv{len(shape) - 2}d")
    x, w = RNG.normal(size=shape).astype(dtype), RNG.normal(size=weight).astype(dtype)
    y, pullback = nf.jit(lambda x, w: nf.vjp(lambda x, w: conv(x, w, **options), x, w))(x, w)
    ct = RNG.normal(size=y.shape).astype(dtype)
    exact = by_taps(*(a.astype(float) for a in (x, w, ct)), **options)
    for found, expected in zip((y, *pullback(ct)), exact, strict=True):
        assert found.dtype == dtype
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=scale * (1e-5 if dtype == "float32" else 1e-13))


def test_results_do_not_depend_on_the_number_of_threads():
    x, w = RNG.normal(size=(8, 16, 20, 20)), RNG.normal(size=(64, 16, 3, 3))
    gradient = nf.value_and_grad(lambda x, w: (F.conv2d(x, w, padding=1, stride=2) ** 2).sum(), argnums=(0, 1))
    before = nf.get_num_threads()
    try:
        nf.set_num_threads(1)
        one = gradient(x, w)
    finally:
        nf.set_num_threads(before)
    many = gradient(x, w)
    for a, b in zip(nf.tree.leaves(one), nf.tree.leaves(many), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_vmap_over_either_operand_is_a_loop(in_dims):
    x, w = RNG.normal(size=(2, 4, 7, 6)), RNG.normal(size=(6, 2, 3, 3))
    stacked = [
        v if d is None else np.stack([v, 2 * v, v[..., ::-1]], axis=d) for v, d in zip((x, w), in_dims, strict=True)
    ]
    call = lambda x, w: (F.conv2d(x, w, groups=2, padding=1, stride=2) ** 2).sum()
    found = nf.vmap(nf.grad(call, argnums=(0, 1)), in_dims=in_dims)(*stacked)
    for k in range(3):
        lane = [v if d is None else np.take(v, k, axis=d) for v, d in zip(stacked, in_dims, strict=True)]
        y, _, _ = by_taps(*lane, None, groups=2, padding=1, stride=2)
        _, dx, dw = by_taps(*lane, 2 * y, groups=2, padding=1, stride=2)
        np.testing.assert_allclose(found[0][k], dx, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found[1][k], dw, rtol=1e-10, atol=1e-10)


def test_second_derivatives():
    x, w = RNG.normal(size=(1, 2, 6, 5)), RNG.normal(size=(3, 2, 3, 2))
    u, v = RNG.normal(size=x.shape), RNG.normal(size=w.shape)
    conv = lambda x, w: by_taps(x, w, None, stride=2, padding=1, dilation=1)[0]
    loss = lambda x, w: (F.conv2d(x, w, stride=2, padding=1) ** 3).sum()
    found = nf.jvp(nf.grad(loss, argnums=(0, 1)), (x, w), (u, v))[1]
    step = 1e-5

    def gradient(x, w):
        y = conv(x, w)
        return by_taps(x, w, 3 * y**2, stride=2, padding=1)[1:]

    ahead, behind = gradient(x + step * u, w + step * v), gradient(x - step * u, w - step * v)
    for a, b, c in zip(found, ahead, behind, strict=True):
        np.testing.assert_allclose(a, (b - c) / (2 * step), rtol=1e-6, atol=1e-6)


def test_transposed_convolutions_are_transposes():
    x, w = RNG.normal(size=(2, 4, 9, 8)), RNG.normal(size=(6, 2, 3, 3))
    for options in ({}, {"stride": 2, "padding": 1}, {"stride": 3, "dilation": 2, "padding": 2}):
        y, _, _ = by_taps(x, w, None, groups=2, **options)
        ct = RNG.normal(size=y.shape)
        _, expected, _ = by_taps(x, w, ct, groups=2, **options)
        steps = (options.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
        stride, padding, dilation = steps
        extra = [n - ((m - 1) * stride - 2 * padding + 2 * dilation + 1) for n, m in zip((9, 8), y.shape[2:])]
        found = F.conv_transpose2d(ct, w, groups=2, output_padding=extra, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_hessian_of_a_pooled_convolution():
    x, w = RNG.normal(size=(1, 1, 6, 6)), RNG.normal(size=(2, 1, 3, 3))
    pooled = lambda w: F.max_pool2d(np.tanh(F.conv2d(x, w)), 2)
    loss = lambda w: (pooled(w) ** 2).sum()
    found = nf.hessian(loss)(w).reshape(18, 18)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    direction = RNG.normal(size=w.shape)
    step = 1e-5
    moved = (nf.grad(loss)(w + step * direction) - nf.grad(loss)(w - step * direction)) / (2 * step)
    np.testing.assert_allclose(found @ direction.ravel(), moved.ravel(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["complex128", "int64"])
def test_other_dtypes(dtype):
    x = RNG.integers(-4, 5, (2, 3, 7)).astype(dtype)
    w = RNG.integers(-4, 5, (4, 3, 3)).astype(dtype)
    if dtype == "complex128":
        x, w = x + 1j * x[::-1], w - 2j * w[::-1]
    found = F.conv1d(x, w, stride=2, padding=1)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, by_taps(x, w, None, stride=2, padding=1)[0])


def random_convolution(rng):
    """Operands and attributes of the primitive in any form: letters in any order, any sign of stride and dilation."""
    dims = int(rng.integers(1, 4))
    window, roles = "xyz"[:dims], dict(zip("gmcoGMCO", "gmcogmco"))
    letters = [n for n in roles if rng.random() < 0.6]
    extents = {n: int(rng.integers(1, 40 if roles[n] == "o" else 6)) for n in letters}
    names = []
    for own in ("gmc", "gco", "gmo"):
        chosen = [n for n in letters if roles[n] in own]
        rng.shuffle(chosen)
        chosen += window
        if rng.random() < 0.2:
            rng.shuffle(chosen)
        names.append("".join(chosen))
    numbers = {
        "stride": rng.choice([1, 1, 1, 2, 3, -1], dims), "dilation": rng.choice([1, 1, 2, -1], dims),
        "spread": rng.choice([1, 1, 1, 2, 3], dims), "offset": rng.integers(-4, 6, dims),
        "extent": rng.integers(1, 18 if dims < 3 else 6, dims),
    }  # fmt: skip
    attrs = dict(zip(("x", "w", "out"), names)) | {"window": window}
    attrs |= {name: tuple(map(int, values)) for name, values in numbers.items()}
    seen = dict(zip(window, rng.integers(1, 12 if dims < 3 else 6, dims)))
    kernel = dict(zip(window, rng.integers(1, 5, dims)))
    shapes = [tuple(int({**extents, **own}[n]) for n in given) for given, own in zip(names, (seen, kernel))]
    dtype = rng.choice(["float32", "float64"])
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes], attrs


@pytest.mark.parametrize(
    "seeds", [range(25), *(pytest.param(range(k, k + 50), marks=pytest.mark.slow) for k in range(25, 425, 50))]
)
def test_convolutions_of_any_form(seeds):
    for seed in seeds:
        operands, attrs = random_convolution(np.random.default_rng(seed))
        b = Builder("conv")
        graph = b.build([b.conv(*(b.param(type_of(a)) for a in operands), **attrs)])
        (expected,) = run(graph, operands)
        (found,) = compile_graph(fuse(graph)).slow(*operands)
        tolerance = (1e-4 if expected.dtype == np.float32 else 1e-12) * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=f"seed {seed}: {attrs}")

"""The sorting kernels of CUDA in the simulator, beside np.sort and np.argsort; and their PTX."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from nufunc.codegen.cuda.instrument import poisoned
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.simulate import simulate
from nufunc.codegen.cuda.sorting import sort_kernels
from nufunc.ir import ArrayType
from nufunc.ir.promotion import finfo
from nufunc.ir.types import bfloat16, is_bfloat16, kind_of

DTYPES = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", bfloat16().name, "f2", "f4", "f8")
SHAPES = [
    ((1,), 0), ((2,), 0), ((5,), 0), ((16,), 0), ((37,), 0), ((3, 7), 1), ((3, 7), 0), ((40, 2), 1), ((2, 9, 3), 1),
    ((4, 1), 1), ((130,), 0), ((2, 70, 2), 1), ((0, 3), 1), ((3, 0), 1),
]  # fmt: skip


def numbers(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Few distinct values, the edges of the dtype among them."""
    rng, t = np.random.default_rng(seed), np.dtype(dtype)
    if kind_of(t) == "f":
        edges = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, finfo(t).max, finfo(t).tiny, -1.5, 2.0]
        edges = np.array(edges, t)
    elif t.kind == "b":
        edges = np.array([False, True])
    else:
        info = np.iinfo(t)
        edges = np.array([info.min, info.max, info.max - 1, 0, 1, 3], t)
    other = (rng.normal(size=shape) * 4).astype("i4" if t.kind in "ui" else t).astype(t)
    return np.where(rng.random(shape) < 0.5, rng.choice(edges, shape), other)


def run(kernels: list[Kernel], x: np.ndarray, result: np.dtype, launch=simulate, **options) -> np.ndarray:
    y = poisoned(x.shape, result)
    if not kernels:
        return y
    scratch = [poisoned(b.size, b.dtype) for b in kernels[0].buffers[2:]]
    for kernel in kernels:
        assert kernel.buffers == kernels[0].buffers
        assert kernel.scratch == len(scratch)
        launch(kernel, [x.reshape(-1), y.reshape(-1), *scratch, np.zeros(1, np.int32)], **options)
    return y


def native(kernel: Kernel, arrays: list[np.ndarray]) -> None:
    """Run a kernel's LLVM text on this processor."""
    import cuda_native

    cuda_native.launch(replace(kernel, blocks=min(kernel.blocks, 3)), arrays, {})


def check(x: np.ndarray, axis: int, threads: int, tile: int, **options) -> int:
    """Both primitives; the number of kernels."""
    type_ = ArrayType(x.shape, x.dtype)
    made = sort_kernels("sort", type_, axis, "sort", threads, tile)
    by = x.astype(np.float32) if is_bfloat16(x.dtype) else x  # of which NumPy knows where NaN belongs
    order = np.argsort(by, axis=axis, kind="stable")
    got, want = run(made, x, x.dtype, **options), np.take_along_axis(x, order, axis)
    assert got.tobytes() == want.tobytes(), (got, want)
    made = sort_kernels("argsort", type_, axis, "argsort", threads, tile)
    np.testing.assert_array_equal(run(made, x, np.dtype(np.int64), **options), order, strict=True)
    return len(made)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sorted_as_numpy_sorts(dtype):
    for seed, (shape, axis) in enumerate(SHAPES):
        check(numbers(dtype, shape, seed), axis, 8, 16)


def test_tiles_and_merges():
    counts = [check(numbers("f8", (n,), n), 0, 8, 16) for n in (15, 16, 17, 32, 33, 100, 129)]
    assert counts == [1, 1, 2, 2, 3, 4, 5]
    check(numbers("f4", (3000,), 0), 0, 64, 2048)
    check(numbers("i8", (2, 2500), 0), 1, 256, 2048)


@pytest.mark.parametrize("shape", [(3, 9), (61,), (3, 40, 2)])
def test_no_races(shape):
    x = numbers("f4", shape, 1)
    check(x, min(1, len(shape) - 1), 8, 16, races=True)
    check(x, min(1, len(shape) - 1), 8, 16, order=5)


@pytest.mark.parametrize("dtype", ["f4", "u8", "f2", "bfloat16"])
def test_compiled_for_this_processor(dtype):
    check(numbers(dtype, (3, 40), 7), 1, 32, 16, launch=native)


def test_launches():
    def launched(*shape: int, axis: int = 0) -> list[tuple[int, int, int]]:
        made = sort_kernels("sort", ArrayType(shape, np.dtype(np.float32)), axis, "sort")
        return [(k.blocks, k.threads, k.scratch) for k in made]

    assert launched(1000) == [(1, 256, 0)]
    assert launched(10, 5000, axis=1)[0] == (30, 256, 4)
    assert launched(5) == [(1, 32, 0)]
    assert launched(1000, 4, axis=1) == [(8, 256, 0)]  # 128 lines at a time
    assert len(launched(1_000_000)) == 1 + 9


@pytest.mark.skipif(not importlib.util.find_spec("cuda"), reason="cuda-bindings is not installed")
@pytest.mark.parametrize("dtype", ["?", "u2", "u8", "f2", "bfloat16", "f4", "f8"])
def test_ptx(dtype):
    from nufunc.codegen.cuda.compile import ptx

    for prim in ("sort", "argsort") if dtype == "f4" else ("sort",):
        for kernel in sort_kernels(prim, ArrayType((5000, 2), np.dtype(dtype)), 0, prim)[:3]:
            assert kernel.name in ptx(kernel, (8, 0)).split(".visible .entry ")[1].split("(")[0]

"""The kernels of scattered writes in the simulator, beside NumPy's order of them; and their PTX."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from cuda_programs import array, kernels_of
from pass_programs import graph_of

from nufunc.codegen.cuda import scatter
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.simulate import SimulatedGroups, simulate
from nufunc.codegen.emit_text import run_grouped
from nufunc.ir import Graph, interpret
from nufunc.ir.errors import BoundsError
from nufunc.passes.fuse import fuse


def numbers(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    rng, t = np.random.default_rng(seed), np.dtype(dtype)
    if t.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(t)
    if t.kind == "b":
        return rng.random(shape) < 0.3
    return (rng.normal(size=shape) * 5).astype("i4" if t.kind == "u" else t).astype(t)


def native(kernel: Kernel, arrays: list[np.ndarray]) -> None:
    """Run a kernel's LLVM text on this processor."""
    import cuda_native

    cuda_native.launch(replace(kernel, blocks=min(kernel.blocks, 3)), arrays, {})


def run(
    graph: Graph, *arguments: np.ndarray, threads: int = 8, launch=simulate, **options
) -> tuple[list[np.ndarray], list[str]]:
    groups = SimulatedGroups(threads, lambda k, a: launch(k, a, **options))
    return run_grouped(fuse(graph), arguments, groups), groups.launched


def check(graph: Graph, *arguments: np.ndarray, **options) -> list[str]:
    results, launched = run(graph, *arguments, **options)
    for got, want in zip(results, interpret.run(graph, list(arguments)), strict=True):
        rtol = 0 if want.dtype.kind not in "fc" else 2e-6 if want.dtype.itemsize < 8 or want.dtype == "c8" else 1e-13
        np.testing.assert_allclose(got, want, rtol=rtol, atol=10 * rtol, strict=True)
    return launched


def written(prim: str, dtype: str, shape, value, index, axes=(0,), mode="error") -> Graph:
    def function(b, x, v, *i):
        return getattr(b, prim)(x, v, *i, axes=axes, mode=mode)

    return graph_of(function, array(dtype, *shape), array(dtype, *value), *[array("i8", *index)] * len(axes))


CASES = [  # shape, indices, their axes, shape of the value
    ((5,), (40,), (0,), (40,)),
    ((7, 3), (30,), (0,), (30, 3)),
    ((3, 6), (25,), (1,), (25, 3)),
    ((4, 5), (21,), (0, 1), (21,)),
    ((3, 4, 2), (5, 6), (1,), (5, 6, 3, 2)),
    ((3, 2, 4), (33,), (0, 2), (33, 2)),
]


@pytest.mark.parametrize("prim", ["scatter_add", "scatter_set"])
@pytest.mark.parametrize("dtype", ["f8", "f4", "c16", "i8", "i4", "u2", "?"])
def test_cases(prim, dtype):
    rng = np.random.default_rng(3)
    for shape, index, axes, value in CASES:
        graph = written(prim, dtype, shape, value, index, axes)
        indices = [rng.integers(0, shape[a], index) for a in axes]
        launched = check(graph, numbers(dtype, *shape), numbers(dtype, *value, seed=1), *indices)
        assert len(launched) > 2 or dtype in ("i8", "i4")


@pytest.mark.parametrize("prim", ["scatter_add", "scatter_set"])
@pytest.mark.parametrize("dtype", ["f4", "i8", "?"])
def test_compiled_for_this_processor(prim, dtype):
    rng = np.random.default_rng(3)
    for shape, index, axes, value in CASES[1:3]:
        graph = written(prim, dtype, shape, value, index, axes)
        indices = [rng.integers(0, shape[a], index) for a in axes]
        check(graph, numbers(dtype, *shape), numbers(dtype, *value, seed=1), *indices, threads=32, launch=native)


def sums(got: np.ndarray, x: np.ndarray, v: np.ndarray, i: np.ndarray) -> None:
    want = x.astype(np.longdouble)
    np.add.at(want, i, v)
    np.testing.assert_allclose(got, want.astype(x.dtype), rtol=1e-12)


def test_rows_longer_than_a_chunk():
    rng, n = np.random.default_rng(0), 500
    graph = written("scatter_add", "f8", (4,), (n,), (n,))
    x, v = numbers("f8", 4), rng.random(n)
    for i in (np.zeros(n, int), rng.integers(0, 4, n), np.sort(rng.integers(0, 4, n)), np.arange(n) // 400):
        (got,), launched = run(graph, x, v, i)
        assert "assemble_sums32" in launched
        sums(got, x, v, i)
        again = run(graph, x, v, i, order=4)[0][0]
        assert got.tobytes() == again.tobytes()
    graph = written("scatter_add", "f8", (3, 4), (n, 4), (n,))
    x, v, i = numbers("f8", 3, 4), rng.random((n, 4)), rng.integers(0, 3, n)
    (got,), _ = run(graph, x, v, i, threads=64)
    sums(got, x, v, i)


def test_chunks_of_chunks(monkeypatch):
    monkeypatch.setattr(scatter, "_CHUNK", 4)
    rng, n = np.random.default_rng(0), 300
    graph = written("scatter_add", "f8", (40, 2), (n, 2), (n,))
    x, v = numbers("f8", 40, 2), rng.random((n, 2))
    for i in (np.zeros(n, int), rng.integers(0, 3, n), rng.integers(0, 40, n), np.arange(n) // 110, np.arange(n) // 64):
        (got,), launched = run(graph, x, v, i, races=bool(i[0]))
        assert [name[13:] for name in launched if "sums" in name] == ["4", "16", "64", "256"]
        sums(got, x, v, i)


def test_short_rows_are_added_in_the_order_of_numpy():
    rng, n = np.random.default_rng(0), 400
    graph = written("scatter_add", "f8", (n,), (n,), (n,))
    x, v, i = numbers("f8", n), rng.normal(size=n), rng.permutation(np.arange(n) // 4 * 4)
    want = x.copy()
    np.add.at(want, i, v)
    np.testing.assert_array_equal(run(graph, x, v, i)[0][0], want)


def test_no_races():
    rng = np.random.default_rng(1)
    for prim in ("scatter_add", "scatter_set"):
        for dtype in ("f8", "i8"):
            graph = written(prim, dtype, (6, 2), (70, 2), (70,))
            arguments = numbers(dtype, 6, 2), numbers(dtype, 70, 2), rng.integers(0, 6, 70)
            if (prim, dtype) == ("scatter_add", "f8"):
                sums(run(graph, *arguments, races=True)[0][0], *arguments)
            else:
                check(graph, *arguments, races=True)


def test_modes():
    for prim in ("scatter_add", "scatter_set"):
        graph = written(prim, "f8", (5,), (30,), (30,), mode="clip")
        check(graph, numbers("f8", 5), numbers("f8", 30), np.arange(30) - 9)
        graph = written(prim, "f8", (5,), (30,), (30,))
        with pytest.raises(BoundsError, match="axis of size 5"):
            run(graph, numbers("f8", 5), numbers("f8", 30), np.arange(30) - 9)


def test_what_is_fused_with_a_scatter():
    def function(b, x, v, y, i):
        value = b.mul(b.exp(v), b.broadcast(y, shape=(40, 3), dims=(1,)))
        return b.scatter_add(x, value, b.mod(i, b.like(i, 7)), axes=(0,), mode="error")

    graph = graph_of(function, array("f8", 7, 3), array("f8", 40, 3), array("f8", 3), array("i8", 40))
    arguments = numbers("f8", 7, 3), numbers("f8", 40, 3) / 5, numbers("f8", 3), np.arange(40) * 5
    results, _ = run(graph, *arguments)
    np.testing.assert_allclose(results[0], interpret.run(graph, list(arguments))[0], rtol=1e-13)


def test_stores_to_few_of_many_targets(monkeypatch):
    """Targets that are too many to be numbered: elements are sorted."""
    monkeypatch.setattr(scatter, "_SPARSE", 0)
    monkeypatch.setattr(scatter, "_SMALL", 0)
    rng = np.random.default_rng(3)
    for dtype in ("f8", "?", "c8"):
        for shape, index, axes, value in CASES:
            graph = written("scatter_set", dtype, shape, value, index, axes)
            indices = [rng.integers(0, shape[a], index) for a in axes]
            launched = check(graph, numbers(dtype, *shape), numbers(dtype, *value, seed=1), *indices)
            assert "assemble_keys" in launched


def test_launches():
    made = kernels_of(written("scatter_add", "f4", (50, 64), (5000, 64), (5000,)))
    names = [k.name for k in made]
    assert names == [
        "assemble", "assemble_keys", "assemble_order_tiles", "assemble_order_merge2048", "assemble_order_merge4096",
        "assemble_sums32", "assemble_sums1024", "assemble",
    ]  # fmt: skip
    assert all(k.buffers == made[1].buffers for k in made[1:])
    names = [k.name for k in kernels_of(written("scatter_set", "f4", (50, 64), (5000, 64), (5000,)))]
    assert names == ["assemble", "assemble_none", "assemble_last", "assemble"]
    assert len(kernels_of(written("scatter_add", "i4", (50,), (5000,), (5000,)))) == 2
    assert len(kernels_of(written("scatter_add", "f4", (50, 64), (10, 64), (10,)))) == 2
    assert scatter._FEW >= 10


@pytest.mark.skipif(not importlib.util.find_spec("cuda"), reason="cuda-bindings is not installed")
@pytest.mark.parametrize("dtype", ["?", "i8", "f4", "c16"])
def test_ptx(dtype):
    from nufunc.codegen.cuda.compile import ptx

    for prim in ("scatter_add", "scatter_set"):
        for kernel in kernels_of(written(prim, dtype, (50, 6), (500, 6), (500,))):
            assert ".entry" in ptx(kernel, (8, 0))

"""The kernels of cumulative nests in the simulator, beside NumPy; and their PTX."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from cuda_programs import array, kernels_of
from pass_programs import graph_of

from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.simulate import SimulatedGroups, simulate
from nufunc.codegen.emit_text import run_grouped
from nufunc.ir import Graph, interpret
from nufunc.passes.fuse import fuse

PRIMS = ("cumsum", "cumprod", "cummax", "cummin")


def numbers(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    rng, t = np.random.default_rng(seed), np.dtype(dtype)
    if t.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(t)
    if t.kind == "f":
        return (1 + rng.normal(size=shape) * 0.1).astype(t)
    if t.kind == "b":
        return rng.random(shape) < 0.1
    return rng.integers(0, 5, shape).astype(t)


def native(kernel: Kernel, arrays: list[np.ndarray]) -> None:
    """Run a kernel's LLVM text on this processor."""
    import cuda_native

    cuda_native.launch(replace(kernel, blocks=min(kernel.blocks, 3)), arrays, {})


def check(
    graph: Graph, *arguments: np.ndarray, threads: int = 8, rtol: float = 1e-11, launch=simulate, **options
) -> list[str]:
    groups = SimulatedGroups(threads, lambda k, a: launch(k, a, **options))
    results = run_grouped(fuse(graph), arguments, groups)
    for got, want in zip(results, interpret.run(graph, list(arguments)), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if want.dtype.kind in "fc":
            np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
        else:
            np.testing.assert_array_equal(got, want)
    return groups.launched


def cumulative(prim: str, dtype: str, *shape: int, axis: int, reverse: bool) -> Graph:
    return graph_of(lambda b, x: getattr(b, prim)(x, axis=axis, reverse=reverse), array(dtype, *shape))


@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "i8", "u8", "f4", "f8", "c8", "c16", "?"])
def test_dtypes(dtype):
    rtol = {"f4": 2e-5, "c8": 2e-5}.get(dtype, 1e-11)
    for prim in PRIMS if dtype[0] != "c" else PRIMS[:2]:
        for shape in ((37,), (1100,)):
            graph = cumulative(prim, dtype, *shape, axis=0, reverse=prim in ("cumprod", "cummax"))
            check(graph, numbers(dtype, *shape), rtol=rtol)


def test_shapes_and_the_kernels_that_they_get():
    names = {}
    for shape, axis, threads in (
        ((20,), 0, 8), ((5, 33), 1, 8), ((40, 3), 0, 8), ((3, 70, 4), 1, 8), ((600,), 0, 8), ((2, 700), 1, 64),
        ((900, 3), 0, 8), ((2, 530, 3), 1, 8), ((1000,), 0, 256), ((129, 300), 1, 16), ((5000,), 0, 64),
    ):  # fmt: skip
        for reverse in (False, True):
            graph = cumulative("cumsum", "f8", *shape, axis=axis, reverse=reverse)
            names[shape] = check(graph, numbers("f8", *shape), threads=threads)
    assert names[20,] == names[40, 3] == names[129, 300] == names[1000,] == ["scan"]
    assert names[600,] == names[900, 3] == names[5000,] == ["scan_totals", "scan_carries", "scan"]


def test_order_of_chunks_and_races():
    graph = cumulative("cumsum", "f8", 2, 1100, axis=1, reverse=False)
    for options in ({"races": True}, {"order": 3}):
        assert len(check(graph, numbers("f8", 2, 1100), **options)) == 3
        check(graph, numbers("f8", 2, 1100), threads=64, **options)


@pytest.mark.parametrize(("dtype", "prim"), [("f4", "cumsum"), ("u1", "cummax"), ("?", "cumsum"), ("c16", "cumprod")])
def test_compiled_for_this_processor(dtype, prim):
    for shape, threads in (((200,), 64), ((2100,), 32)) if dtype == "f4" else (((100,), 64),):
        graph = cumulative(prim, dtype, *shape, axis=0, reverse=True)
        check(graph, numbers(dtype, *shape), threads=threads, rtol=2e-5, launch=native)


def test_vectors_of_memory():
    """Where they are aligned and where not, and in both directions."""
    x, memory = numbers("f4", 200, 400), np.zeros(200 * 400 + 4, "f4")
    for step in (1, -1):
        (made,) = kernels_of(cumulative("cumsum", "f4", 200, 400, axis=1, reverse=step < 0))
        assert "load_vec(x0, 400 * i0 + r0_0, 4)" in made.source
        assert "store_vec(y0, 400 * i0 + r0_0, " in made.source
        for start in (0, 1, 4):
            y = memory[start : start + x.size]
            simulate(made, [x.reshape(-1), y, np.zeros(1, np.int32)], blocks=3)
            want = np.cumsum(x[:, ::step], axis=1)[:, ::step]
            np.testing.assert_allclose(y.reshape(200, 400), want, rtol=1e-5)


def test_nan_and_infinities():
    x = numbers("f8", 700)
    x[[100, 350, 351]] = np.inf, np.nan, -np.inf
    for prim in PRIMS:
        check(cumulative(prim, "f8", 700, axis=0, reverse=False), x)


def test_what_is_fused_with_a_scan():
    def function(b, x, y):
        before = b.exp(b.sub(x, y))
        sums = b.cumsum(before, axis=1, reverse=False)
        return b.mul(sums, y), b.sqrt(b.add(sums, b.mul(x, x))), before

    for shape in ((3, 50), (2, 600)):
        graph = graph_of(function, array("f8", *shape), array("f8", *shape))
        check(graph, numbers("f8", *shape), numbers("f8", *shape, seed=1))

    def checked(b, x, i):
        return b.cumsum(b.gather(x, i, axes=(0,), mode="error"), axis=0, reverse=False)

    graph = graph_of(checked, array("f8", 9), array("i8", 600))
    check(graph, numbers("f8", 9), np.arange(600) % 9)


def test_results_do_not_depend_on_the_run():
    x = numbers("f4", 5000)
    graph = cumulative("cumsum", "f4", 5000, axis=0, reverse=False)
    runs = [
        run_grouped(fuse(graph), [x], SimulatedGroups(64, lambda k, a, o=o: simulate(k, a, order=o)))[0]
        for o in (None, 1, 2)
    ]
    assert runs[0].tobytes() == runs[1].tobytes() == runs[2].tobytes()


def test_kernels_share_their_buffers():
    made = kernels_of(cumulative("cumsum", "f8", 100_000, axis=0, reverse=False))
    assert [(k.blocks, k.threads, k.scratch) for k in made] == [(98, 256, 1), (1, 256, 1), (98, 256, 1)]
    assert made[0].buffers == made[1].buffers == made[2].buffers


def test_many_neighbouring_lines_are_a_thread_each():
    (made,) = kernels_of(cumulative("cumsum", "f8", 100, 40_000, axis=0, reverse=False))
    assert "shfl" not in made.source
    (made,) = kernels_of(cumulative("cumsum", "f8", 10_000, 100, axis=1, reverse=False))
    assert "shfl" in made.source
    assert made.threads == 64  # of two elements each


@pytest.mark.skipif(not importlib.util.find_spec("cuda"), reason="cuda-bindings is not installed")
@pytest.mark.parametrize("dtype", ["?", "u1", "i4", "i8", "f4", "f8", "c16"])
def test_ptx(dtype):
    from nufunc.codegen.cuda.compile import ptx

    for shape in ((20, 100), (2, 100_000)):
        for kernel in kernels_of(cumulative("cumsum", dtype, *shape, axis=1, reverse=False)):
            text = ptx(kernel, (8, 0))
            assert "shfl.sync.up" in text
            assert ("bar.sync" in text) == (kernel.threads > 32)

"""The shapes of CUDA kernels, simulated for many extents and types: vectors, groups of lanes, chunks, squares."""

import re

import numpy as np
import pytest
from cuda_programs import array
from pass_programs import graph_of

from nufunc.codegen.cuda import compile as compiler
from nufunc.codegen.cuda import lowering, writer
from nufunc.codegen.cuda.compile import compiled_together
from nufunc.codegen.cuda.kernels import Kernel, kernels
from nufunc.codegen.cuda.simulate import SimulatedGroups, simulate
from nufunc.codegen.emit_text import run_grouped
from nufunc.codegen.loops import Buffer
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.nests import build_nests
from nufunc.ir import interpret
from nufunc.passes.fuse import fuse


def argument(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(len(shape) + sum(shape))
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.random(shape) < 0.1
    if kind in "iu":
        return rng.integers(0 if kind == "u" else -5, 6, shape).astype(dtype)
    made = rng.normal(size=shape) + (1j * rng.normal(size=shape) if kind == "c" else 0)
    return made.astype(dtype)


def sums(axis):
    return lambda b, x: b.reduce_sum(x, axes=(axis,))


def maxima(axis):
    return lambda b, x: b.reduce_max(x, axes=(axis,))


def some(axis):
    return lambda b, x: b.reduce_or(x, axes=(axis,))


def places(axis):
    return lambda b, x: b.argmax(x, axis=axis)


def softmax(axis):
    def function(b, x):
        wide = {"shape": x.shape, "dims": (1 - axis,)}
        shifted = b.exp(b.sub(x, b.broadcast(b.reduce_max(x, axes=(axis,)), **wide)))
        return b.div(shifted, b.broadcast(b.reduce_sum(shifted, axes=(axis,)), **wide))

    return function


def spread(axis):
    def function(b, x):
        mean = b.reduce_sum(x, axes=(axis,))
        mean = b.div(mean, b.like(mean, x.shape[axis]))
        away = b.sub(x, b.broadcast(mean, shape=x.shape, dims=(1 - axis,)))
        return b.reduce_sum(b.mul(away, away), axes=(axis,)), away

    return function


def kept(axis):
    """A dear value, of which there are no vectors, that is a result and read again."""

    def function(b, x):
        e = x
        for _ in range(4):
            e = b.sin(b.exp(b.mul(e, e)))
        return e, b.div(e, b.broadcast(b.reduce_sum(e, axes=(axis,)), shape=x.shape, dims=(1 - axis,)))

    return function


def turned(b, x):
    return b.add(b.transpose(x, perm=(1, 0)), b.transpose(b.mul(x, x), perm=(1, 0)))


def doubled(b, x):
    return b.add(x, x)


SHAPES = [(7, 5), (3, 40), (5, 64), (2, 300), (40, 3), (70, 33), (1, 1), (64, 64)]
LONG = [(300, 40), (3, 2500), (1, 20_000), (20_000, 3), (2000, 48)]
OF_FLOATS = [sums, places, softmax, spread]
CASES = [(f(axis), t, shape) for shape in SHAPES for axis in (0, 1) for f in OF_FLOATS for t in ("f8", "f4")]
CASES += [(sums(a), t, s) for s in SHAPES for a in (0, 1) for t in ("c16", "c8")]
CASES += [(some(a), "?", s) for s in SHAPES for a in (0, 1)] + [(maxima(a), "i1", s) for s in SHAPES for a in (0, 1)]
TYPES = ("f8", "f4", "i1", "c16", "c8", "i2")
CASES += [(f, t, s) for s in [*SHAPES, (8, 100)] for f in (turned, doubled) for t in TYPES]


def check(function, dtype, shape, threads, run) -> None:
    graph, x = graph_of(function, array(dtype, *shape)), argument(dtype, shape)
    got = run_grouped(fuse(graph), [x], SimulatedGroups(threads, run))
    single = np.dtype(dtype).name in ("float32", "complex64")
    for one, want in zip(got, interpret.run(graph, [x]), strict=True):
        assert (one.dtype, one.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(one, want, rtol=2e-5 if single else 1e-11, atol=2e-5 if single else 1e-11)


def test_small_blocks_without_races():
    for function, dtype, shape in CASES:
        check(function, dtype, shape, 8, lambda k, arrays: simulate(k, arrays, races=True))


def test_results_that_are_read_again():
    for shape in ((2, 64), (2, 300), (64, 32), (64, 64)):
        for axis in (0, 1):
            check(kept(axis), "f4", shape, 64, lambda k, arrays: simulate(k, arrays, races=True))


def test_points_that_are_not_there_fail_no_checks():
    """They may read a result before it is stored."""

    def function(b, x):
        q = b.floor_div(x, b.like(x, 3))
        most = b.broadcast(b.reduce_max(q, axes=(1,)), shape=x.shape, dims=(0,))
        return q, b.pow(b.like(x, 2), b.sub(most, q))

    (kernel,) = kernels_of(function, array("i8", 7, 40))
    checks = [line for line in kernel.source.splitlines() if "checked(" in line]
    assert "load_vec(y0" in kernel.source
    assert checks
    assert all(" and number < 7, " in line for line in checks)
    check(function, "i8", (7, 40), 128, simulate)


def test_blocks_of_several_warps():
    for function, dtype, shape in CASES[::3]:
        check(function, dtype, shape, 128, lambda k, arrays: simulate(k, arrays, order=1))


@pytest.mark.parametrize("shape", LONG, ids=str)
def test_chunks(shape):
    for function in (sums, places, spread):
        for axis in (0, 1):
            check(function(axis), "f4", shape, 64, simulate)


@pytest.mark.parametrize("threads", [8, 64, 256])
def test_rows_that_are_kept(threads):
    for shape in ((70, 33), (3, 300), (2, 1000), (5, 2500), (300, 40)):
        for axis in (0, 1):
            if max(shape) * threads < 1 << 18:
                check(softmax(axis), "f8", shape, threads, simulate)


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 40_000)), (0, (5000, 33))])
def test_long_rows_go_from_kernel_to_kernel(axis, shape):
    graph, x = graph_of(softmax(axis), array("f8", *shape)), argument("f8", shape)
    (nest,) = build_nests(graph, "k", Sites())
    made = kernels(nest, "k", None, 64)
    assert [k.name for k in made] == ["k_parts", "k_parts", "k"]
    y = np.zeros(x.size)
    scratch = [np.full(b.size, np.nan, b.dtype) for b in made[0].buffers[2:]]
    for kernel in made:
        simulate(kernel, [x.reshape(-1), y, *scratch, np.zeros(1, np.int32)])
    np.testing.assert_allclose(y.reshape(shape), interpret.run(graph, [x])[0], rtol=1e-11)


def moved(kernel: Kernel, arrays: list[np.ndarray]) -> None:
    """Run with every array one element behind an aligned address."""
    copies = []
    for a in arrays[:-1]:
        space = np.zeros(a.nbytes + 64, np.uint8)
        start = -space.ctypes.data % 16 + a.dtype.itemsize
        copies.append(space[start : start + a.nbytes].view(a.dtype))
        copies[-1][:] = a
    simulate(kernel, [*copies, arrays[-1]])
    for a, copy in zip(arrays, copies):
        a[:] = copy


def test_arrays_that_are_not_aligned():
    for function, dtype, shape in CASES[::2]:
        if "c16" not in dtype:
            check(function, dtype, shape, 8, moved)


def test_results_do_not_depend_on_alignment():
    x = argument("f4", (6, 4000))
    graph = graph_of(sums(1), array("f4", 6, 4000))
    first, second = (run_grouped(fuse(graph), [x], SimulatedGroups(64, run))[0] for run in (simulate, moved))
    assert first.tobytes() == second.tobytes()


def kernels_of(function, *types) -> list[Kernel]:
    found = []
    for node in fuse(graph_of(function, *types)).walk():
        if node.prim == "fused":
            found += [k for n in build_nests(node.regions[0], "k", Sites()) for k in kernels(n, f"k{len(found)}")]
    return found


@pytest.fixture(scope="module")
def compile_for_hopper():
    try:
        compiler.nvvm_version()
    except compiler.CompilerMissingError as missing:
        pytest.skip(str(missing))
    return lambda found: compiled_together(found, (9, 0))


def test_machine_code_has_vectors_and_no_spills(compile_for_hopper):
    big = array("f4", 4096, 4096)
    found = [kernels_of(f, big) for f in (doubled, sums(1), sums(0), softmax(1), turned)]
    codes = compile_for_hopper([k for ks in found for k in ks])
    text = codes[0].ptx
    assert all(code.spilled in (None, 0) for code in codes)
    assert ".local" not in text  # what lanes keep is in registers
    assert all(code.registers is None or code.registers <= 64 for code in codes)
    entries = dict(zip((c.symbol for c in codes), text.split(".visible .entry")[1:], strict=True))
    for k, vectors in ((0, True), (1, True), (4, False)):
        own = entries[codes[sum(map(len, found[:k]))].symbol]
        assert ("ld.global.nc.v4.f32" in own) == vectors
        assert not re.search(r"(div|rem)\.[us]64", own)
    assert "st.global.v4.f32" in entries[codes[0].symbol]
    assert "shfl.sync.bfly" in entries[codes[1].symbol]


def test_large_arrays_have_wide_indices():
    (kernel,) = kernels_of(doubled, array("i1", 1 << 31))
    assert "int64(cuda.grid(1))" in kernel.source
    (kernel,) = kernels_of(doubled, array("i1", 1 << 20))
    assert "int64" not in kernel.source


def test_long_loops_have_wide_indices():
    """Also where no array is large: those of what is broadcast, and of a line just below what 32 bits count."""

    def outer(b, x, y):
        shape = (x.shape[0], y.shape[0])
        return b.reduce_sum(b.add(*(b.broadcast(v, shape=shape, dims=(k,)) for k, v in enumerate((x, y)))), axes=(0, 1))

    first, _ = kernels_of(outer, array("f4", 1 << 16), array("f4", 1 << 16))
    assert "first = int64(" in first.source
    made = kernels_of(lambda b, x: b.cumsum(x, axis=0, reverse=False), array("f4", (1 << 31) - 8))
    assert "for item in range(int64(" in made[-1].source
    rows = kernels_of(softmax(0), array("f4", 40_000, 1 << 18))
    assert all("int64(" in k.source for k in rows)


def test_a_number_need_not_be_aligned():
    """The addresses of vectors alone decide whether there are vectors."""
    scaled = lambda b, x, c: b.mul(x, b.broadcast(c, shape=x.shape, dims=()))
    (kernel,) = kernels_of(scaled, array("f4", 4096), array("f4"))
    assert "aligned(16, x1, y0)" in kernel.source


def test_neighbouring_blocks_sum_neighbouring_columns():
    parts, _ = kernels_of(sums(0), array("f4", 100_000, 1000))
    assert "block % 32 * 32 + slot" in parts.source


def test_loops_in_loops_are_not_all_written_out():
    def text(n: int) -> str:
        loops = f"    for i in range({n}):\n        for j in range(i, {n}):\n            x[i] = x[j]\n"
        source = f"def k(x, error):\n{loops}"
        return lowering.module([("k", Kernel("k", source, (Buffer("x", np.dtype("f8"), n, True),), 0, 1, 1))])

    assert (text(5).count("!llvm.loop !9000"), text(32).count("!llvm.loop !9000")) == (1, 0)


def test_wide_indices_give_the_same(monkeypatch):
    monkeypatch.setattr(writer, "NARROW", 10)
    for function, dtype, shape in CASES[::4]:
        check(function, dtype, shape, 8, simulate)


def test_kernels_of_a_nest_have_the_same_buffers_and_scratch_behind_them():
    first, second = kernels_of(sums(0), array("f8", 1_000_000))
    assert first.buffers == second.buffers
    assert first.scratch == second.scratch == 1
    assert [isinstance(b, Buffer) and b.name for b in first.buffers][-1].startswith("part")

"""The simulator of CUDA kernels: what it computes, and the mistakes that it finds."""

import textwrap

import numpy as np
import pytest
from cuda_programs import CUDA_PROGRAMS

from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.simulate import SimulatedGroups, SimulationError, simulate
from nufunc.codegen.emit_text import run_grouped
from nufunc.codegen.loops import Buffer
from nufunc.ir import interpret
from nufunc.passes.fuse import fuse

F8, I8 = np.dtype(np.float64), np.dtype(np.int64)


def kernel(body: str, threads: int = 8, blocks: int = 1, **sizes: int) -> Kernel:
    """A kernel over f8 buffers; names that start with `x` are only read, and `i...` are i8."""
    source = f"def planted({', '.join(sizes)}, error):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")
    buffers = [Buffer(n, I8 if n[0] == "i" else F8, size, written=n[0] != "x") for n, size in sizes.items()]
    return Kernel("planted", source + "\n", tuple(buffers), 0, blocks, threads)


def run(k: Kernel, *arrays: np.ndarray, **options) -> None:
    simulate(k, [*arrays, np.zeros(1, np.int32)], **options)


SUM = """
    thread = cuda.threadIdx.x
    tree = cuda.shared.array(8, float64)
    tree[thread] = x[thread]
    cuda.syncthreads()
    width = 4
    while width > 0:
        if thread < width:
            tree[thread] = tree[thread] + tree[thread + width]
        cuda.syncthreads()
        width = width // 2
    y[thread] = tree[0]
"""
READS_NEIGHBOURS = """
    thread = cuda.threadIdx.x
    row = cuda.shared.array(8, float64)
    row[thread] = x[thread]
    {barrier}
    y[thread] = row[7 - thread]
"""


def test_a_tree_in_shared_memory():
    for options in ({}, {"order": 3}, {"races": True}, {"checked": False}):
        y = np.zeros(8)
        run(kernel(SUM, x=8, y=8), np.arange(8.0), y, **options)
        np.testing.assert_array_equal(y, 28.0)


def test_a_missing_barrier_reads_poison_or_is_a_race():
    bad = kernel(READS_NEIGHBOURS.format(barrier="pass"), x=8, y=8)
    y = np.zeros(8)
    run(bad, np.arange(8.0), y)
    assert np.isnan(y[0])
    with pytest.raises(SimulationError, match=r"line 4, `row\[thread\] = x\[thread\]`: a race: thread 4"):
        run(bad, np.arange(8.0), y, races=True)
    good = kernel(READS_NEIGHBOURS.format(barrier="cuda.syncthreads()"), x=8, y=8)
    run(good, np.arange(8.0), y, races=True)
    np.testing.assert_array_equal(y, np.arange(8.0)[::-1])


def test_a_barrier_too_few_behind_a_read():
    """The next round overwrites what slower threads still read: in the natural order nothing goes wrong."""
    body = """
        thread = cuda.threadIdx.x
        row = cuda.shared.array(8, float64)
        for i in range(3):
            row[thread] = x[thread] + float64(i)
            cuda.syncthreads()
            y[i * 8 + thread] = row[(thread + 1) % 8]
    """
    with pytest.raises(SimulationError, match="a race"):
        run(kernel(body, x=8, y=24), np.arange(8.0), np.zeros(24), races=True)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("thread + 1", "index 8 is out of bounds"),
        ("thread - 1", "index -1 is below 0"),
        ("x2[thread]", "only integers"),
    ],
)
def test_an_index_outside(index, message):
    body = f"thread = cuda.threadIdx.x\nk = {index}\ny[k] = x2[thread]\n"
    with pytest.raises(SimulationError, match=rf"kernel planted, line \d, .*: {message}.*block 0, thread"):
        run(kernel(body, x2=8, y=8), np.arange(8.0), np.zeros(8))


def test_negative_indices_in_reads_of_reads():
    body = "for p in range(cuda.grid(1), 8, cuda.gridsize(1)):\n    y[p] = x[7 - p + (p // 7) * -3]\n"
    with pytest.raises(SimulationError, match="index -3 is below 0"):
        run(kernel(body, x=8, y=8), np.arange(8.0), np.zeros(8))


def test_a_write_to_what_is_read_only():
    with pytest.raises(SimulationError, match="read-only"):
        run(kernel("x[cuda.threadIdx.x] = 1.0", x=8), np.zeros(8))


def test_a_divergent_barrier():
    body = "if cuda.threadIdx.x < 5:\n    cuda.syncthreads()\n"
    with pytest.raises(SimulationError, match=r"threads 0, 1, 2, 3, ... wait here, threads 5, 6, 7 have ended"):
        run(kernel(body, y=8), np.zeros(8))
    body = "if cuda.threadIdx.x < 1:\n    cuda.syncthreads()\nelse:\n    cuda.syncthreads()\n"
    with pytest.raises(SimulationError, match="are at line 5"):
        run(kernel(body, y=8), np.zeros(8))
    with pytest.raises(SimulationError, match="are at line 5"):
        run(kernel(body + "z = cuda.shfl_xor_sync(-1, 1, 1)", y=8), np.zeros(8))


def test_lanes_that_disagree():
    body = "if cuda.laneid < 3:\n    y[cuda.grid(1)] = cuda.shfl_xor_sync(0xffffffff, y[0], 1)\n"
    with pytest.raises(SimulationError, match="threads 0, 1, 2 wait here"):
        run(kernel(body, y=8), np.zeros(8))
    with pytest.raises(SimulationError, match="the mask 0x3 leaves out"):
        run(kernel("z = cuda.any_sync(0x3, True)", y=8), np.zeros(8))


def test_shuffles_and_votes():
    body = """
        t = cuda.threadIdx.x
        v = x[t]
        y[t] = cuda.shfl_up_sync(-1, v, 1) + float64(1000 * cuda.shfl_down_sync(-1, int64(t), 2))
        i[t] = cuda.ballot_sync(-1, v > 60.0) if t < 32 else cuda.ballot_sync(-1, v > 34.0)
    """
    threads = np.arange(64)
    text = body.replace("if t < 32 else cuda.ballot_sync(-1, v > 34.0)", "")
    y, i = np.zeros(64), np.zeros(64, np.int64)
    run(kernel(text, 64, x=64, y=64, i=64), threads * 1.0, y, i)
    up = np.where(threads % 32 < 1, threads, threads - 1)
    down = np.where(threads % 32 > 29, threads, threads + 2)
    np.testing.assert_array_equal(y, up + 1000 * down)
    np.testing.assert_array_equal(i, np.where(threads < 32, 0, 0b111 << 29))
    # what stands in a branch is reached by whole warps here, so that this is no mistake
    run(kernel(body, 64, x=64, y=64, i=64), threads * 1.0, y, i)
    np.testing.assert_array_equal(i, np.where(threads < 32, 0, (2**32 - 1) & ~0b111))


def test_counting_barriers_and_atomics():
    body = """
        t = cuda.threadIdx.x
        n = cuda.syncthreads_count(x[t] > 5.0)
        total = cuda.shared.array(1, int64)
        if t == 0:
            total[0] = 0
        cuda.syncthreads()
        cuda.atomic.add(total, 0, t)
        cuda.syncthreads()
        i[t] = total[0] * 100 + n
    """
    i = np.zeros(40, np.int64)
    run(kernel(body, 40, x=40, i=40), np.arange(40.0), i, races=True)
    np.testing.assert_array_equal(i, 780 * 100 + 34)


def test_multiplied_and_added_at_once():
    tiny = 2.0**-60
    y = np.array([1 + 2.0**-30, 1 - 2.0**-30, -1.0, 0.0])
    run(kernel("y[3] = cuda.fma(y[0], y[1], y[2])\ny[0] = y[0] * y[1] + y[2]", y=4), y, blocks=1, threads=1)
    assert y[3] == -tiny
    assert y[0] == 0.0


def test_neighbours_at_once():
    body = """
        for p in range(cuda.grid(1), 4, cuda.gridsize(1)):
            if aligned(16, x, y):
                a, b = load_vec(x, 2 * p + 0, 2)
                store_vec(y, 2 * p, (b, a))
    """
    y = np.zeros(8)
    run(kernel(body, x=8, y=8), np.arange(8.0), y)
    np.testing.assert_array_equal(y, [1, 0, 3, 2, 5, 4, 7, 6])
    with pytest.raises(SimulationError, match="2 elements at once from index 1"):
        run(kernel(body.replace("+ 0", "+ 1"), x=8, y=8), np.arange(8.0), y)
    odd = np.zeros(10)[1:]
    run(kernel(body, x=8, y=8), np.arange(8.0), odd)
    assert not odd.any() or odd.ctypes.data % 16 == 0


def test_blocks_have_no_order():
    body = "y[0] = float64(cuda.blockIdx.x)\n"
    with pytest.raises(SimulationError, match="a race: thread 0 of block 1 writes y"):
        run(kernel(body, 1, 2, y=1), np.zeros(1), races=True)
    last = set()
    for seed in range(8):
        y = np.zeros(1)
        run(kernel(body, 1, 4, y=1), y, order=seed)
        last.add(y[0])
    assert len(last) > 1


def test_equal_values_are_no_race():
    """As where several threads note that something has happened."""
    body = "t = cuda.threadIdx.x\nif x[t] > 2.0:\n    y[0] = 1.0\n"
    y = np.zeros(1)
    run(kernel(body, x=8, y=1), np.arange(8.0), y, races=True)
    assert y[0] == 1.0
    with pytest.raises(SimulationError, match="a race: thread 4"):
        run(kernel(body.replace("1.0", "x[t]"), x=8, y=1), np.arange(8.0), y, races=True)


def test_buffers_that_do_not_fit():
    k = kernel("y[0] = 1.0", y=8)
    for wrong in (np.zeros(7), np.zeros(8, np.float32), np.zeros((2, 4))):
        with pytest.raises(SimulationError, match=r"y is float64\[8\]"):
            run(k, wrong)
    with pytest.raises(SimulationError, match="1 buffers"):
        run(k)
    y = np.zeros(9)  # memory may be larger, but what lies behind is not the kernel's
    with pytest.raises(SimulationError, match="out of bounds"):
        run(kernel("y[8] = 1.0", y=8), y)


@pytest.mark.parametrize("threads", [8, 64])
@pytest.mark.parametrize("program", CUDA_PROGRAMS, ids=repr)
def test_programs(program, threads):
    want = interpret.run(program.graph, program.arguments)
    for options in ({}, {"order": 1}, {"races": True}):
        groups = SimulatedGroups(threads, lambda k, a, options=options: simulate(k, a, **options))
        results = run_grouped(fuse(program.graph), program.arguments, groups)
        for got, expected in zip(results, want, strict=True):
            assert got.dtype == expected.dtype
            rtol = 1e-5 if got.dtype == np.float32 else 1e-12
            np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol / 10)

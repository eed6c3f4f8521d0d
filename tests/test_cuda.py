"""CUDA kernels: simulated in a process of their own, and compiled to PTX, both without a device."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_programs import CUDA_PROGRAMS, WITHOUT_WARPS, array, kernels_of
from pass_programs import graph_of

from nufunc.codegen.cuda import codes, lowering
from nufunc.codegen.cuda import compile as compiler
from nufunc.codegen.cuda.compile import compiled, ptx
from nufunc.codegen.cuda.plan import device_program
from nufunc.codegen.cuda.program import Call, Launch
from nufunc.ir.errors import UnsupportedError
from nufunc.passes.fuse import fuse

CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0)]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def capabilities() -> list[tuple[int, int]]:
    """The compute capabilities that the installed libNVVM compiles for."""
    try:
        compiler.nvvm_version()
    except compiler.CompilerMissingError as missing:
        pytest.skip(str(missing))
    return CAPABILITIES


@pytest.mark.cudasim
def test_simulator():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "cudasim_cases.py")]
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"\b{len(WITHOUT_WARPS) + 2} passed", done.stdout), done.stdout


@pytest.mark.parametrize("program", CUDA_PROGRAMS, ids=repr)
def test_ptx_without_contraction(program, capabilities):
    for kernel in kernels_of(program.graph):
        text = ptx(kernel, (8, 0))
        assert re.search(rf"\.visible \.entry \w*{kernel.name}\w*\(", text)
        # What ptxas may contract has no rounding mode; what is left of fma stands in libdevice's functions.
        assert not re.search(r"\b(mul|add|sub)\.f(32|64)\b", text)


def test_multiply_add_keeps_two_roundings(capabilities):
    types = [array("f8", 100)] * 3 + [array("f4", 100)] * 3
    graph = graph_of(lambda b, x, y, z, u, v, w: (b.add(b.mul(x, y), z), b.add(b.mul(u, v), w)), *types)
    for kernel in kernels_of(graph):
        for capability in capabilities:
            text = ptx(kernel, capability)
            assert f".target sm_{capability[0]}{capability[1]}" in text
            assert "fma" not in text
            width = 8 * kernel.buffers[0].dtype.itemsize
            assert f"mul.rn.f{width}" in text
            assert f"add.rn.f{width}" in text


def test_reductions_meet_in_shared_memory(capabilities):
    first, second = kernels_of(next(p.graph for p in CUDA_PROGRAMS if p.name == "long_mean"))
    for kernel in (first, second):
        text = ptx(kernel, capabilities[0])
        assert "bar.sync" in text
        assert "shfl.sync.bfly" in text
        assert re.search(r"\.shared \.align 16 \.b8 [\w$]+\[64\]", text)


def test_shapes_of_kernels():
    def launch(function, *types):
        return [
            (k.blocks, k.threads, len(k.buffers) - k.scratch, k.scratch) for k in kernels_of(graph_of(function, *types))
        ]

    def sums(axis, *shape):
        return launch(lambda b, x: b.reduce_sum(x, axes=(axis,)), array("f8", *shape))

    assert launch(lambda b, x: b.sin(x), array("f8", 1000)) == [(2, 256, 2, 0)]
    assert sums(1, 50, 1000) == [(50, 256, 2, 0)]
    assert sums(1, 50_000, 100) == [(4096, 256, 2, 0)]
    assert sums(1, 5000, 8) == [(40, 256, 2, 0)]
    assert sums(1, 100_000, 8) == [(391, 256, 2, 0)]
    assert sums(0, 50, 5000) == [(157, 256, 2, 0)]
    assert sums(0, 50, 200_000) == [(782, 256, 2, 0)]
    assert sums(0, 300, 5000) == [(471, 256, 2, 1), (157, 256, 2, 1)]
    whole = launch(lambda b, x: b.argmax(x, axis=0), array("f8", 100_000))
    assert whole == [(25, 256, 2, 2), (1, 256, 2, 2)]


def test_text_of_a_kernel():
    (kernel,) = kernels_of(graph_of(lambda b, x, y: b.add(b.mul(x, y), y), array("f8", 100), array("f8", 100)))
    assert kernel.source == (
        "def loop(x0, x1, y0, error):\n"
        "    first = 0\n"
        "    if aligned(16, x0, x1, y0):\n"
        "        for item in range(cuda.grid(1), 50, cuda.gridsize(1)):\n"
        "            point = item * 2\n"
        "            i0 = point\n"
        "            v0_0, v0_1 = load_vec(x0, i0, 2)\n"
        "            v1_0, v1_1 = load_vec(x1, i0, 2)\n"
        "            v2_0 = v0_0 * v1_0\n"
        "            v2_1 = v0_1 * v1_1\n"
        "            v3_0 = v2_0 + v1_0\n"
        "            v3_1 = v2_1 + v1_1\n"
        "            store_vec(y0, i0, (v3_0, v3_1))\n"
        "        first = 100\n"
        "    for point in range(first + cuda.grid(1), 100, cuda.gridsize(1)):\n"
        "        i0 = point\n"
        "        v0 = x0[i0]\n"
        "        v1 = x1[i0]\n"
        "        v2 = v0 * v1\n"
        "        v3 = v2 + v1\n"
        "        y0[i0] = v3\n"
    )


def test_functions_that_a_device_lacks():
    with pytest.raises(UnsupportedError, match=r"scipy\.special\.k0"):
        kernels_of(graph_of(lambda b, x: b.scipy(x, function="k0"), array("f8", 4)))


def test_what_a_device_lacks_leaves_its_group():
    graph = graph_of(lambda b, x: b.mul(b.scipy(b.exp(x), function="k0"), b.scipy(x, function="j0")), array("f8", 4))
    steps = device_program(fuse(graph), "f").steps
    assert [s.prim for s in steps if isinstance(s, Call)] == ["scipy"]
    assert sum(isinstance(s, Launch) for s in steps) == 3


class Kept(dict):
    def put(self, key, data):
        self[key] = data


def test_code_is_kept(capabilities):
    (kernel,) = kernels_of(graph_of(lambda b, x: b.mul(x, x), array("f8", 40)))
    kept = Kept()
    first = compiled(kernel, (8, 0), kept)
    assert first.symbol in first.ptx
    assert compiled(kernel, (8, 0), kept) is first
    codes.CODES.clear()
    assert compiled(kernel, (8, 0), kept) == first
    assert len(kept) == 2 + (first.cubin is not None)


def test_indices_do_not_overflow_but_a_users_numbers_may():
    def function(b, x):
        v = b.convert(x, dtype=np.dtype(np.int32))
        return b.mul(b.add(v, v), b.like(v, 2_000_000_000))

    (kernel,) = kernels_of(graph_of(function, array("u1", 640)))
    text = lowering.module([("f", kernel)])
    assert re.search(r"mul i32 %t\d+, 2000000000", text)
    assert re.search(r"mul nsw nuw i32 %t\d+, 4", text)


def test_kernels_of_one_text_share_their_code(capabilities):
    first, second = (kernels_of(graph_of(lambda b, x: b.slice(x, start=(0,), stop=(8,), step=(1,)), array("f8", n)))[0]
                     for n in (20, 40))  # fmt: skip
    assert first != second
    assert first.source == second.source
    together = compiler.compiled_together([first, second], (8, 0))
    assert together[0] is together[1]

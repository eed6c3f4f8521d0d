"""The CUDA programs in the simulator; test_cuda.py runs this in a process with NUMBA_ENABLE_CUDASIM=1."""

import numpy as np
import pytest
from cuda_programs import WITHOUT_WARPS
from numba import config, cuda
from pass_programs import f64, graph_of, i64

from nufunc.codegen.cuda import simulate
from nufunc.codegen.emit_text import compile_text, run_grouped
from nufunc.codegen.text_scalars import PLAIN
from nufunc.ir import interpret
from nufunc.ir.errors import BoundsError
from nufunc.passes.fuse import fuse

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the threads of the simulator


def launched(kernel, arguments):
    function = compile_text(kernel.source, kernel.name, {**PLAIN, "aligned": lambda n, *arrays: True, "cuda": cuda})
    cuda.jit(function)[kernel.blocks, kernel.threads](*arguments)


def SimulatedGroups(threads: int) -> simulate.SimulatedGroups:
    return simulate.SimulatedGroups(threads, launched)


def test_this_is_the_simulator():
    assert config.ENABLE_CUDASIM


@pytest.mark.parametrize("program", WITHOUT_WARPS, ids=repr)
def test_simulated_equals_interpreted(program):
    groups = SimulatedGroups(8)
    results = run_grouped(fuse(program.graph), program.arguments, groups)
    for got, want in zip(results, interpret.run(program.graph, program.arguments), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        rtol = 1e-5 if got.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol / 10)
    assert groups.launched == program.kernels


def test_an_index_outside_raises():
    graph = graph_of(lambda b, x, i: b.gather(x, i, axes=(0,), mode="error"), f64(5), i64(3))
    with pytest.raises(BoundsError, match="out of bounds"):
        run_grouped(fuse(graph), [np.arange(5.0), np.array([0, 7, 1])], SimulatedGroups(4))

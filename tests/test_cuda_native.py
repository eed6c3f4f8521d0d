"""The programs of the CUDA tests, their kernels run as code of this processor by as many threads as they ask for:
barriers, shuffles and votes as libNVVM is given them.
"""

import numpy as np
import pytest
from cuda_native import NativeMachine
from cuda_programs import CUDA_PROGRAMS

from nufunc.codegen.cuda.plan import device_program
from nufunc.ir.interpret import run
from nufunc.passes.fuse import fuse


@pytest.mark.parametrize("program", CUDA_PROGRAMS, ids=repr)
def test_compiled_equals_interpreted(program):
    made = device_program(fuse(program.graph), program.name)
    results = NativeMachine(made, program.arguments).run()
    single = any(v.dtype in (np.float32, np.complex64) for n in program.graph.nodes for v in (*n.operands, *n.results))
    for got, want in zip(results, run(program.graph, program.arguments), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, rtol=1e-5 if single else 1e-11, atol=1e-6 if single else 1e-13)

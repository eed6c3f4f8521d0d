"""The table of primitives on a simulated device, with kernels run as text and as compiled code, and its kernels as PTX
for every generation of cards.
"""

import re

import numpy as np
import pytest
from cuda_machine import Machine
from cuda_native import NativeMachine
from op_samples_linalg import settled
from test_codegen_ops import BY_PRIMITIVE

from nufunc.codegen.cuda import lowering
from nufunc.codegen.cuda.compile import compiled_together, to_ptx
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.plan import device_program
from nufunc.codegen.cuda.program import Program
from nufunc.ir import Builder, interpret
from nufunc.passes.composites import opened
from nufunc.passes.fuse import fuse

CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0)]
ON_DEVICE = BY_PRIMITIVE.keys()
TOGETHER = 24  # kernels of a module
LONG = {"window_put"}  # kernels of many blocks, whose threads start one by one


def program_of(name: str) -> tuple[Program, list[np.ndarray], list[int]]:
    """All rows of a primitive in one program, its arguments, and how many outputs each row has."""
    b = Builder(name)
    arguments, outputs, counts = [], [], []
    for row in BY_PRIMITIVE[name]:
        results = b.inline(row.graph(), [b.param(t) for t in row.types])
        outputs += results
        counts.append(len(results))
        arguments += row.operands()
    return device_program(fuse(opened(b.build(outputs))), name), arguments, counts


def check(name: str, machine: type[Machine]) -> None:
    program, arguments, counts = program_of(name)
    got = iter(machine(program, arguments).run())
    left = iter(arguments)
    for row, count in zip(BY_PRIMITIVE[name], counts, strict=True):
        operands = [next(left) for _ in row.types]
        pairs = ([next(got) for _ in range(count)], interpret.run(row.graph(), operands)[:count])
        for g, want in zip(*(settled(row.prim, list(results)) for results in pairs), strict=True):
            assert (g.dtype, g.shape) == (want.dtype, want.shape), row.id
            single = g.dtype in (np.float32, np.complex64)
            with np.errstate(all="ignore"):
                np.testing.assert_allclose(
                    g, want, rtol=1e-5 if single else 1e-11, atol=1e-6 if single else 1e-12, err_msg=row.id
                )


@pytest.mark.parametrize("name", sorted(ON_DEVICE))
def test_simulated_equals_interpreted(name):
    check(name, Machine)


@pytest.mark.parametrize("name", sorted(ON_DEVICE - LONG))
def test_compiled_for_this_processor_equals_interpreted(name):
    check(name, NativeMachine)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG))
def test_long_ones_compiled_for_this_processor_equal_interpreted(name):
    check(name, NativeMachine)


def parts_of(name: str) -> list[list[Kernel]]:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install nufunc[cuda]")
    kernels = program_of(name)[0].kernels
    return [kernels[first : first + TOGETHER] for first in range(0, len(kernels), TOGETHER)]


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"sm_{c[0]}{c[1]}")
@pytest.mark.parametrize("name", sorted(BY_PRIMITIVE))
def test_compiles(name, capability):
    for part in parts_of(name):
        text = to_ptx(lowering.module([(f"kernel{k}", kernel) for k, kernel in enumerate(part)]), capability)
        assert f".target sm_{capability[0]}{capability[1]}" in text
        assert len(re.findall(r"\.visible \.entry kernel\d+\(", text)) == len(part)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BY_PRIMITIVE))
def test_assembles(name):
    for part in parts_of(name):
        for code in compiled_together(part, (9, 0)):
            assert code.cubin is not None
            assert code.cubin.startswith(b"\x7fELF")

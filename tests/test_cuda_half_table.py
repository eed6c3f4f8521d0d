"""The table of primitives with float16 and bfloat16 in the place of floats, on a simulated device: kernels as text, as
compiled code, and as PTX for every generation of cards; beside float32, rounded once.
"""

from dataclasses import replace

import numpy as np
import pytest
from cuda_machine import Machine
from cuda_native import NativeMachine
from test_codegen_ops import BY_PRIMITIVE

from nufunc.codegen.cuda import lowering
from nufunc.codegen.cuda.plan import device_program
from nufunc.ir import Builder, interpret, primitive
from nufunc.ir.types import FLOAT16, bfloat16, dtype_name, kind_of
from nufunc.passes.composites import opened
from nufunc.passes.fuse import fuse
from nufunc.passes.half import widened_halves

HALVES = (FLOAT16, bfloat16())
CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0)]
_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
# Numbers of float32 and halves differ in these by more than a rounding, or they are no numbers' business.
LEFT_OUT = {"nextafter", "bitcast", "convert", "complex"}


def in_dtype(row, dtype):
    """A row of the table with another dtype for all floats."""
    name = dtype_name(dtype)
    specs = tuple(s.replace("f64[", f"{name}[").replace("f32[", f"{name}[") for s in row.specs)
    attrs = {k: dtype if isinstance(v, np.dtype) and v in _FLOATS else v for k, v in row.attrs.items()}
    return replace(row, specs=specs, attrs=attrs)


def rows_of(name):
    """The rows of a primitive that have floats, none of them complex, and no regions."""
    found = []
    for row in BY_PRIMITIVE[name]:
        kinds = {t.dtype.kind for t in row.types} | {v.kind for v in row.attrs.values() if isinstance(v, np.dtype)}
        if "f" in kinds and not kinds & set("cO") and not row.regions():
            found.append(row)
    return found


NAMES = sorted(
    name for name in BY_PRIMITIVE
    if name not in LEFT_OUT and rows_of(name) and primitive.get(name).kind not in ("library", "control")
) + ["dot", "conv", "sort", "argsort"]  # fmt: skip


# Some primitives in one program, which are fewer kernels to be compiled.
TOGETHER = [NAMES[first : first + 12] for first in range(0, len(NAMES), 12)]
GROUPS = pytest.mark.parametrize("names", TOGETHER, ids=lambda names: f"{names[0]}-{names[-1]}")


def cases(names, dtype):
    """A program of all rows, its arguments, and the results that are wanted."""
    b = Builder("halves")
    arguments, outputs, wanted = [], [], []
    for row in (row for name in names for row in rows_of(name)):
        single, half = in_dtype(row, np.dtype(np.float32)), in_dtype(row, dtype)
        with np.errstate(all="ignore"):
            given = [
                a.astype(t.dtype) for a, t in zip(row.operands(), half.types, strict=True)
            ]
            wide = [a.astype(t.dtype) for a, t in zip(given, single.types, strict=True)]
            found = interpret.run(single.graph(), wide)
        results = b.inline(half.graph(), [b.param(t) for t in half.types])
        outputs += results
        with np.errstate(all="ignore"):
            wanted += [(row.id, w.astype(r.dtype), r.dtype) for w, r in zip(found, results, strict=True)]
        arguments += given
    return device_program(fuse(widened_halves(opened(b.build(outputs)))), "halves"), arguments, wanted


def check(names, dtype, machine):
    program, arguments, wanted = cases(names, dtype)
    near = 2.0 ** -(10 if dtype == FLOAT16 else 7)  # neighbouring numbers differ by so much at most
    for got, (row, want, kind) in zip(machine(program, arguments).run(), wanted, strict=True):
        assert (got.dtype, got.shape) == (kind, want.shape), row
        if kind_of(kind) == "f":
            got, want = got.astype(np.float64), want.astype(np.float64)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(got, want, rtol=1.01 * near, atol=1e-6, err_msg=row)


@GROUPS
def test_compiled_for_this_processor_equals_float32(names):
    check(names, bfloat16(), NativeMachine)


@pytest.mark.slow
@GROUPS
def test_float16_compiled_for_this_processor_equals_float32(names):
    check(names, FLOAT16, NativeMachine)


@GROUPS
def test_simulated_equals_float32(names):
    check(names, bfloat16(), Machine)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=dtype_name)
@GROUPS
def test_compiles(names, dtype):
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install nufunc[cuda]")
    from nufunc.codegen.cuda.compile import to_ptx

    kernels = cases(names, dtype)[0].kernels
    text = lowering.module([(f"kernel{k}", kernel) for k, kernel in enumerate(kernels)])
    for capability in CAPABILITIES:
        made = to_ptx(text, capability)
        assert ("cvt.rn.bf16x2.f32" in made) == (dtype != FLOAT16 and capability >= (8, 0))

"""float16 on a device: operations in float32, rounded each, and PTX that its cards take."""

import numpy as np
import pytest
from cuda_machine import Machine
from cuda_programs import array
from pass_programs import graph_of

from nufunc.codegen.cuda.plan import device_program
from nufunc.ir import interpret
from nufunc.passes.fuse import fuse

I4, F2, F8 = np.dtype(np.int32), np.dtype(np.float16), np.dtype(np.float64)


def arithmetic(b, x, y):
    sizes = b.abs(x)
    return (
        b.add(x, y), b.mul(x, y), b.div(x, y), b.neg(x), sizes, b.lt(x, y), b.maximum(x, y), b.integer_pow(x, y=2),
        b.floor_div(x, y), b.mod(x, y), b.sign(x), b.isnan(x), b.select(b.lt(x, y), x, y),
    )  # fmt: skip


def functions(b, x, y):
    sizes = b.abs(x)
    return (
        b.sin(x), b.exp(x), b.floor(x), b.sqrt(sizes), b.logistic(x), b.erf(x), b.copysign(x, y), b.atan2(x, y),
        b.pow(sizes, y),
    )  # fmt: skip


def conversions(b, x, y):
    whole = b.convert(x, dtype=I4)
    return whole, b.convert(whole, dtype=F2), b.convert(x, dtype=F8), b.convert(b.convert(x, dtype=F8), dtype=F2)


def reductions(b, x, y):
    return b.reduce_sum(x, axes=(0,)), b.reduce_max(x, axes=(0,)), b.argmax(y, axis=0)


def others(b, x, y):
    return b.cumsum(x, axis=0, reverse=False), b.sort(x, axis=0), b.argsort(y, axis=0)


@pytest.mark.parametrize("function", [arithmetic, functions, conversions, reductions, others])
def test_halves(function):
    graph = graph_of(function, array("f2", 100), array("f2", 100))
    program = device_program(fuse(graph), "halves")
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=100).astype(F2) for _ in range(2)]
    want = interpret.run(graph, arguments)
    for got, expected in zip(Machine(program, arguments).run(), want, strict=True):
        assert got.dtype == expected.dtype
        tolerance = {"others": 0.03, "arithmetic": 1e-7}.get(function.__name__, 2e-3)
        np.testing.assert_allclose(got.astype(F8), expected.astype(F8), rtol=tolerance, atol=tolerance)
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install nufunc[cuda]")
    from nufunc.codegen.cuda.compile import ptx

    for kernel in program.kernels:
        for capability in ((7, 5), (8, 0), (10, 0)):
            text = ptx(kernel, capability)
            assert "f16" in text or "sort" in kernel.name

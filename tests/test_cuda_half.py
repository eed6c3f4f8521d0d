"""float16 and bfloat16 on a device: operations in float32, rounded each, and PTX that its cards take."""

import re

import numpy as np
import pytest
from cuda_machine import Machine
from cuda_native import NativeMachine
from pass_programs import graph_of

from nufunc.codegen.cuda.device_values import constant
from nufunc.codegen.cuda.plan import device_program
from nufunc.ir import ArrayType, interpret
from nufunc.ir.types import bfloat16
from nufunc.passes.fuse import fuse
from nufunc.passes.half import widened_halves

I2, I4, F2, F4, F8 = (np.dtype(name) for name in ("i2", "i4", "f2", "f4", "f8"))
BF = bfloat16()
HALVES = pytest.mark.parametrize("dtype", [F2, BF], ids=lambda d: d.name)


def arithmetic(b, x, y):
    sizes = b.abs(x)
    return (
        b.add(x, y), b.mul(x, y), b.div(x, y), b.neg(x), sizes, b.lt(x, y), b.maximum(x, y), b.integer_pow(x, y=2),
        b.floor_div(x, y), b.mod(x, y), b.sign(x), b.isnan(x), b.nextafter(x, y), b.select(b.lt(x, y), x, y),
    )  # fmt: skip


def functions(b, x, y):
    sizes = b.abs(x)
    return (
        b.sin(x), b.exp(x), b.floor(x), b.sqrt(sizes), b.logistic(x), b.erf(x), b.copysign(x, y), b.atan2(x, y),
        b.pow(sizes, y),
    )  # fmt: skip


def conversions(b, x, y):
    own = x.dtype
    whole = b.convert(x, dtype=I4)
    kinds = (np.bool_, np.int8, np.uint8, np.uint16, np.int64, np.float32, np.complex64)
    back = [b.convert(b.convert(x, dtype=np.dtype(k)), dtype=own) for k in kinds]
    big = b.mul(b.convert(x, dtype=F8), b.like(b.convert(x, dtype=F8), 1e5 + 1 / 3))
    long = b.convert(big, dtype=np.dtype(np.int64))
    made = b.convert(whole, dtype=own), b.convert(x, dtype=F8), b.convert(big, dtype=own), b.convert(long, dtype=own)
    return whole, b.bitcast(x, dtype=I2), b.bitcast(b.bitcast(y, dtype=np.dtype("u2")), dtype=own), *made, *back


def moves(b, x, y):
    pairs = b.concat(x, y, axis=0)
    rows = b.transpose(b.reshape(pairs, shape=(8, 25)), perm=(1, 0))
    indices = b.convert(b.iota(shape=(7,), dtype=I4, axis=0), dtype=np.dtype(np.int64))
    taken = b.gather(x, b.mul(indices, b.like(indices, 3)), axes=(0,), mode="error")
    put = b.scatter_set(y, taken, indices, axes=(0,), mode="error")
    filled = b.filled(1 / 3, ArrayType((9,), x.dtype))
    padded = b.pad(x, low=(2,), high=(1,), interior=(0,))
    return rows, padded, put, filled, b.flip(x, axes=(0,))


def reductions(b, x, y):
    indices = b.convert(b.iota(shape=(100,), dtype=I4, axis=0), dtype=np.dtype(np.int64))
    added = b.scatter_add(y, x, b.floor_div(indices, b.like(indices, 9)), axes=(0,), mode="error")
    return b.reduce_sum(x, axes=(0,)), b.reduce_max(x, axes=(0,)), b.argmax(y, axis=0), added


def others(b, x, y):
    return b.cumsum(x, axis=0, reverse=False), b.sort(x, axis=0), b.argsort(y, axis=0)


@HALVES
@pytest.mark.parametrize("machine", [Machine, NativeMachine])
@pytest.mark.parametrize("function", [arithmetic, functions, conversions, moves, reductions, others])
def test_halves(function, machine, dtype):
    type_ = ArrayType((100,), dtype)
    graph = graph_of(function, type_, type_)
    program = device_program(fuse(widened_halves(graph)), "halves")
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=100).astype(dtype) for _ in range(2)]
    want = interpret.run(graph, arguments)
    single = 2.0 ** -(10 if dtype == F2 else 7)  # by how much neighbours differ
    for got, expected in zip(machine(program, arguments).run(), want, strict=True):
        assert got.dtype == expected.dtype
        exact = function in (arithmetic, conversions, moves) or got.dtype.kind in "biu"
        tolerance = 0 if exact else single * (30 if function is others else 8 if function is reductions else 2)
        np.testing.assert_allclose(_wide(got), _wide(expected), rtol=tolerance, atol=tolerance)
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install nufunc[cuda]")
    from nufunc.codegen.cuda.compile import ptx

    if machine is NativeMachine:
        return
    for capability in ((7, 5), (8, 0), (9, 0), (10, 0)):
        text = "".join(ptx(kernel, capability) for kernel in program.kernels)
        if function is moves:
            assert "cvt.rn" not in text
        elif dtype == F2:
            assert "f16" in text
        else:
            assert ("cvt.rn.bf16x2.f32" in text) == (capability >= (8, 0))


def _wide(array):
    return array.astype(np.complex128 if array.dtype.kind == "c" else F8)


@pytest.mark.parametrize("machine", [Machine, NativeMachine])
def test_rounding_to_bfloat16(machine):
    """All bits there are, what lies between them and ties, infinities and numbers that are none."""
    every = np.arange(1 << 16, dtype=np.uint32) << 16
    if machine is Machine:
        every = every[::97]
    words = np.concatenate([every + offset for offset in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(np.uint32)
    given = words.view(F4)

    def rounded(b, x):
        made = b.convert(x, dtype=BF)
        return made, b.convert(made, dtype=F4)

    graph = graph_of(rounded, ArrayType(given.shape, F4))
    made, back = machine(device_program(fuse(graph), "rounded"), [given]).run()
    with np.errstate(invalid="ignore"):
        want = given.astype(BF)
        assert np.array_equal(np.isnan(back), np.isnan(given))
        assert np.array_equal(back[~np.isnan(back)], want.astype(F4)[~np.isnan(back)])
    numbers = ~np.isnan(given)
    assert np.array_equal(made.view(np.uint16)[numbers], want.view(np.uint16)[numbers])


@HALVES
def test_constants(dtype):
    """Numbers in texts have the bits that NumPy gives them."""
    for value in (0.0, -0.0, 1 / 3, -1e-40, 6e4, 3.4e38, 1e39, float("inf"), -float("inf"), 1.00390625, 65519.9):
        with np.errstate(over="ignore"):
            want = np.array(value, F4).astype(dtype).view(I2) if dtype == BF else np.array(value, dtype).view(I2)
        text = constant(value, dtype.name)
        bits = int(text) if dtype == BF else int(text.removeprefix("0xH"), 16)
        assert bits % 2**16 == int(want) % 2**16, value
    assert np.isnan(np.int16(int(constant(-float("nan"), "bfloat16"))).view(BF))


@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "i2", "u1", "f4"])
def test_vectors_of_memory(dtype):
    """16 bytes at a time, for every generation of cards, or as many as eight elements have."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install nufunc[cuda]")
    from nufunc.codegen.cuda.compile import ptx

    type_ = ArrayType((4096,), np.dtype(dtype))
    program = device_program(fuse(widened_halves(graph_of(lambda b, x, y: b.maximum(x, y), type_, type_))), "vectors")
    (kernel,) = program.kernels
    words = 2 if dtype == "u1" else 4
    for capability in ((7, 5), (8, 0), (9, 0), (10, 0)):
        text = ptx(kernel, capability)
        for access in ("ld.global.nc", "st.global"):
            assert re.search(rf"{re.escape(access)}\.v{words}\.[a-z]32", text)
            assert not re.search(rf"{re.escape(access)}\.v\d\.[a-z](8|16)", text)
    rng = np.random.default_rng(1)
    x, y = ((rng.normal(size=4096) * 9).astype("i4" if dtype in ("i2", "u1") else "f4").astype(dtype) for _ in "xy")
    (made,) = NativeMachine(program, [x, y]).run()
    np.testing.assert_array_equal(made, np.where(x > y, x, y))


def softmax(b, x):
    shape = {"shape": x.shape, "dims": (0,)}
    shifted = b.exp(b.sub(x, b.broadcast(b.reduce_max(x, axes=(1,)), **shape)))
    return b.div(shifted, b.broadcast(b.reduce_sum(shifted, axes=(1,)), **shape))


def scattered(b, x):
    numbers = b.iota(shape=x.shape[:1], dtype=np.dtype(np.int64), axis=0)
    rows = b.mod(numbers, b.like(numbers, 7))
    zeros = b.filled(0.0, ArrayType((8, x.shape[1]), x.dtype))
    how = {"axes": (0,), "mode": "error"}
    return b.scatter_add(zeros, x, rows, **how), b.scatter_set(zeros, x, rows, **how)


KERNELS = {  # shape, function
    "tile": ((96, 130), lambda b, x: b.transpose(x, perm=(1, 0))),
    "reduce_parts": ((20_000,), lambda b, x: b.reduce_sum(b.mul(x, x), axes=(0,))),
    "argmax": ((2, 3000), lambda b, x: (b.argmax(x, axis=1), b.reduce_max(x, axes=(1,)))),
    "rows": ((2, 300), softmax),
    "short rows": ((40, 20), softmax),
    "scan": ((2, 1100), lambda b, x: b.cumsum(x, axis=1, reverse=False)),
    "backwards": ((2, 300), lambda b, x: b.cummax(x, axis=1, reverse=True)),
    "scatter": ((60, 5), scattered),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_larger_arrays(name):
    (shape, function), dtype = KERNELS[name], BF
    x = np.random.default_rng(2).normal(size=shape).astype(dtype)
    program = device_program(fuse(widened_halves(graph_of(function, ArrayType(shape, dtype)))), "large")
    made = NativeMachine(program, [x]).run()
    want = interpret.run(graph_of(function, ArrayType(shape, F4)), [x.astype(F4)])
    single = 2.0**-7
    for got, w in zip(made, want, strict=True):
        if got.dtype.kind == "i":
            np.testing.assert_array_equal(got, w)
        else:
            assert got.dtype == dtype
            np.testing.assert_allclose(_wide(got), w, rtol=3 * single, atol=4 * single)


@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "f4"])
def test_long_bodies_have_vectors(dtype):
    """What is rounded between operations counts as little as these."""

    def polynomial(b, x):
        total = x
        for _ in range(20):
            total = b.add(b.mul(total, x), x)
        return total

    type_ = ArrayType((4096,), np.dtype(dtype))
    (kernel,) = device_program(fuse(widened_halves(graph_of(polynomial, type_))), "long").kernels
    assert f"load_vec(x0, i0, {4 if dtype == 'f4' else 8})" in kernel.source

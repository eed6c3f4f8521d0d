"""Vector mathematics against mpmath and NumPy: ulp, special values, all widths, with and without fma."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from llvmlite import ir

from nufunc.codegen import backend, vmath, x86
from nufunc.ir.errors import ArgumentTypeError, DTypeError, UnsupportedError


def _measuring_tool() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "vmath_ulp.py"
    spec = importlib.util.spec_from_file_location("vmath_ulp", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tool = _measuring_tool()
NAMES = sorted(vmath.supported())
KINDS = {"f64": np.float64, "f32": np.float32}
# Without fma a bare x86-64 of the first generation: SSE2, where many intrinsics would become libm calls.
PLAIN = {"has_fma": False, "features": "+sse2"}
# With fma, but without what AVX-512 has instructions for.
AVX2 = {"features": "+avx2,+fma"}
kernel = functools.cache(tool.kernel)
SLOW = ("erfinv", "erfcinv", "gamma", "lgamma", "digamma", "i0e", "i1e", "erfcx")  # in mpmath


@functools.cache
def _f64_case(name: str) -> tuple[list[np.ndarray], object]:
    args = tool.arguments(name, "f64", 150 if name in SLOW else 1500, seed=3)
    return args, tool.exact(name, args)


@functools.cache
def _f32_case(name: str) -> tuple[list[np.ndarray], object]:
    args = tool.arguments(name, "f32", 200_000, seed=4)
    return args, tool.exact_f32(name, args)


def _check_bound(
    name: str, dtype: str, args: list[np.ndarray], reference: object, got: np.ndarray, has_fma: bool = True
) -> None:
    errors = reference.errors(got)  # type: ignore[attr-defined]
    worst = int(errors.argmax())
    bound = vmath.ULP_BOUND[name, dtype]
    if not has_fma:
        bound = vmath.NO_FMA_BOUND.get((name, dtype), bound)
    assert errors[worst] <= bound, (
        f"{name} of {[a[worst] for a in args]} is {errors[worst]:.3f} ulp off (bound {bound}): {got[worst]}"
    )


@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("name", NAMES)
def test_f64_is_within_its_bound(name: str, width: int) -> None:
    args, reference = _f64_case(name)
    _check_bound(name, "f64", args, reference, kernel(name, "f64", width)(*args))


@pytest.mark.parametrize("width", [1, 16])
@pytest.mark.parametrize("name", NAMES)
def test_f32_is_within_its_bound(name: str, width: int) -> None:
    args, reference = _f32_case(name)
    _check_bound(name, "f32", args, reference, kernel(name, "f32", width)(*args))


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("name", NAMES)
def test_without_fma_the_bound_holds_too(name: str, dtype: str) -> None:
    args, reference = (_f64_case if dtype == "f64" else _f32_case)(name)
    _check_bound(name, dtype, args, reference, kernel(name, dtype, 2, **PLAIN)(*args), has_fma=False)


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("name", NAMES)
def test_without_avx512_the_bound_holds_too(name: str, dtype: str) -> None:
    args, reference = (_f64_case if dtype == "f64" else _f32_case)(name)
    _check_bound(name, dtype, args, reference, kernel(name, dtype, 4, **AVX2)(*args))


@pytest.mark.parametrize(("dtype", "width"), [("f64", 2), ("f64", 4), ("f64", 16), ("f32", 4), ("f32", 8)])
@pytest.mark.parametrize("name", ["exp", "log", "log1p", "sin", "pow"])
def test_every_width_gives_the_same_bits(name: str, dtype: str, width: int) -> None:
    args = tool.arguments(name, dtype, 1000, seed=5)
    np.testing.assert_array_equal(kernel(name, dtype, width)(*args), kernel(name, dtype, 1)(*args))


def _special(dtype: str) -> np.ndarray:
    info = np.finfo(KINDS[dtype])
    positive = [
        0.0,
        info.smallest_subnormal,
        7 * info.smallest_subnormal,
        info.tiny,
        0.25,
        0.5,
        1.0,
        1.5,
        2.0,
        3.0,
        4.5,
        64.0,
        float(2**info.nmant + 1),
        float(2 ** (info.nmant + 1)),
        0.75 * float(info.max),
        float(info.max),
        np.inf,
        np.nan,
    ]
    return np.array([*positive, *(-p for p in positive)], KINDS[dtype])


@pytest.mark.parametrize("options", [{}, AVX2, PLAIN], ids=["host", "avx2", "plain"])
@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("name", NAMES)
def test_special_values_are_numpys(name: str, dtype: str, options: dict) -> None:
    special = _special(dtype)
    args = [special] if vmath.arity(name) == 1 else [g.ravel() for g in np.meshgrid(special, special)]
    got = kernel(name, dtype, 2, **options)(*args)
    with np.errstate(all="ignore"):
        expected = tool.NUMPY[name](*(a.astype(np.float64) for a in args))
        expected = expected.astype(KINDS[dtype])
        spacing = np.spacing(np.abs(expected)).astype(np.float64)
    for *point, ours, theirs, unit in zip(*args, got, expected, spacing, strict=True):
        assert np.isnan(ours) == np.isnan(theirs), (name, point, ours, theirs)
        if np.isnan(theirs):
            continue
        assert np.signbit(ours) == np.signbit(theirs), (name, point, ours, theirs)
        if theirs == 0.0 or np.isinf(theirs):
            assert ours == theirs, (name, point, ours, theirs)
        else:
            if name in ("gamma", "lgamma", "digamma") and point[0] < 0:  # see vmath.ULP_BOUND
                unit = max(unit, np.finfo(KINDS[dtype]).eps)
            assert abs(float(ours) - float(theirs)) <= 4 * unit, (name, point, ours, theirs)


@pytest.mark.parametrize("name", ["exp", "expm1"])
def test_the_ends_of_the_range_are_exact(name: str) -> None:
    top = np.log(np.finfo(np.float64).max)
    edge = np.nextafter(top, [0.0, 1e3])
    got = kernel(name, "f64", 2)(np.array([top, *edge, -745.2, -745.1]))
    assert np.isfinite(got[:2]).all()
    assert got[2] == np.inf
    if name == "exp":
        assert got[3:].tolist() == [0.0, 5e-324]


@pytest.mark.parametrize("options", [{}, PLAIN], ids=["fma", "plain"])
@pytest.mark.parametrize("dtype", ["f64", "f32"])
def test_huge_angles_beside_small_ones(dtype: str, options: dict) -> None:
    """Lanes beyond Cody and Waite's range take the slow branch without disturbing their neighbours."""
    small = tool.arguments("sin", dtype, 600, seed=6)[0]
    small = small[np.abs(small) < 1e5]
    mixed = small.copy()
    mixed[::5] = KINDS[dtype](3.3e38) / np.arange(1, mixed[::5].size + 1, dtype=KINDS[dtype])
    for name in ("sin", "cos", "tan"):
        compiled = kernel(name, dtype, 8, **options)
        alone, got = compiled(small), compiled(mixed)
        keep = np.arange(mixed.size) % 5 != 0
        np.testing.assert_array_equal(got[keep], alone[keep])
        _check_bound(name, dtype, [mixed], tool.exact(name, [mixed]), got)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("name", NAMES)
def test_the_object_code_calls_nothing_outside(name: str, dtype: str, width: int) -> None:
    for options in ({}, PLAIN):
        assembly = kernel(name, dtype, width, **options).assembly
        called = set(re.findall(r"\b(?:callq?|jmp|movabsq)\s+\$?([A-Za-z_][\w.]*)", assembly))
        assert all(symbol.startswith("nf.") for symbol in called), called


# Targets by (triple, processor, features, whether they multiply and add at once).
TARGETS = {
    "avx512": ("x86_64-unknown-linux-gnu", "x86-64-v4", "+avx512f,+avx512vl,+avx512dq", True),
    "avx2": ("x86_64-unknown-linux-gnu", "x86-64-v3", "", True),
    "sse2": ("x86_64-unknown-linux-gnu", "x86-64", "", False),
    "neon": ("aarch64-unknown-linux-gnu", "generic", "+neon", True),
}
REGISTERS = {"avx512": "zmm", "avx2": "ymm", "sse2": "xmm", "neon": r"v\d+\.2d|v\d+\.4s"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f64", "f32"])
def test_no_target_calls_libm(target: str, dtype: str) -> None:
    *machine, has_fma = TARGETS[target]
    names = NAMES if dtype == "f64" else ["exp", *NAMES[::3]]
    for name in names:
        width = (64 if target == "avx512" else 32) // (8 if dtype == "f64" else 4)
        assembly, wanted = tool.for_target(str(tool.loop_module(name, dtype, width, has_fma, machine[2])), *machine)
        assert wanted == [], name
        assert name != "exp" or re.search(REGISTERS[target], assembly())


def test_a_vector_fma_without_the_instruction_calls_libm() -> None:
    """Why there are functions without fma at all; and such calls are seen."""
    *machine, _ = TARGETS["sse2"]
    _, wanted = tool.for_target(str(tool.loop_module("exp", "f64", 8, True)), *machine)
    assert wanted == ["fma"]


def test_no_fma_is_emitted_for_targets_without_it() -> None:
    for name in NAMES:
        assert "llvm.fma" not in str(tool.loop_module(name, "f64", 4, has_fma=False))


def test_one_definition_serves_all_uses_in_a_module() -> None:
    module = ir.Module("twice")
    vector = ir.VectorType(ir.DoubleType(), 4)
    function = ir.Function(module, ir.FunctionType(vector, [vector]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    once = vmath.emit("exp", builder, [function.args[0]])
    builder.ret(vmath.emit("exp", builder, [once]))
    assert [f.name for f in module.functions if f.name.startswith("nf.")] == ["nf.exp.v4f64"]


def test_mismatched_arguments_are_refused() -> None:
    module = ir.Module("wrong")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.DoubleType(), ir.FloatType()]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    with pytest.raises(UnsupportedError, match="no 'zeta'"):
        vmath.emit("zeta", builder, function.args[:1])
    with pytest.raises(ArgumentTypeError, match="pow takes 2 argument"):
        vmath.emit("pow", builder, function.args)
    with pytest.raises(DTypeError, match="emitted for float and double"):
        vmath.emit("exp", builder, [ir.Constant(ir.IntType(32), 1)])


def test_every_function_states_its_bound() -> None:
    assert set(vmath.ULP_BOUND) == {(name, dtype) for name in NAMES for dtype in KINDS}


def _joint_module(name: str, alone: tuple[str, str], dtype: str, features: str) -> ir.Module:
    """A function that stores both results of the joint function of its argument, then those of each alone."""
    module = ir.Module(name)
    x86.allow(module, features)
    element = ir.DoubleType() if dtype == "f64" else ir.FloatType()
    type_ = ir.VectorType(element, 8)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType(), ir.PointerType()]), "both")
    b = ir.IRBuilder(function.append_basic_block())
    x = b.load(function.args[0], typ=type_, align=4)
    values = [*vmath.emit_joint(name, b, x), *(vmath.emit(n, b, [x]) for n in alone)]
    for k, value in enumerate(values):
        place = b.gep(function.args[1], [ir.Constant(ir.IntType(64), 8 * k)], source_etype=element)
        b.store(value, place, align=4)
    b.ret_void()
    return module


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("joint", sorted(vmath.JOINT))
def test_joint_functions_have_the_bits_of_each_alone(joint: tuple[str, str], dtype: str) -> None:
    text = str(_joint_module(vmath.JOINT[joint], joint, dtype, backend.target().features))
    executable = backend.compile_module(text, "joint", backend.Optimise(level=1))
    both = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(executable.address("both"))
    args = tool.arguments(joint[0], dtype, 800, seed=7)[0][:800].astype(KINDS[dtype])
    for x in (*args.reshape(-1, 8), *_special(dtype)[:32].reshape(-1, 8)):
        x, out = np.ascontiguousarray(x), np.zeros((4, 8), KINDS[dtype])
        both(x.ctypes.data, out.ctypes.data)
        np.testing.assert_array_equal(out[:2], out[2:])
        with np.errstate(all="ignore"):
            expected = np.array([getattr(np, name)(x.astype(np.float64)) for name in joint]).astype(KINDS[dtype])
        np.testing.assert_allclose(out[:2], expected, rtol=1e-6 if dtype == "f32" else 1e-14)

"""Own matrix product kernels and OpenBLAS's, one thread each, called from compiled code in turns; for gemm.py."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from scipy.linalg import cython_blas

from nufunc.codegen import backend, gemm
from nufunc.codegen.llvm import I64, POINTER
from nufunc.codegen.loading import PASSES

P, N = ctypes.c_void_p, ctypes.c_int64


class Product:
    """A compiled product; `bind` gives a call of `count` repetitions without Python in between."""

    def __init__(self, dtype: str, m: int, n: int, k: int, a: str, b: str, batch: int = 1) -> None:
        self.dtype, self.m, self.n, self.k, self.batch = np.dtype(dtype), m, n, k, batch
        self.a_strides = (k, 1) if a == "N" else (1, m)
        self.b_strides = (n, 1) if b == "N" else (1, k)
        host = backend.target()
        spec = gemm.product_spec(host, self.dtype, (m, n, k), self.a_strides, self.b_strides, n)
        module = ir.Module("gemm")
        function = gemm.product_function(module, spec)
        outer = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 4 + [I64]), "run")
        b_ = ir.IRBuilder(outer.append_basic_block())
        size = self.dtype.itemsize
        from nufunc.codegen.gemm_tile import loop

        with loop(b_, I64(0), outer.args[4]), loop(b_, I64(0), I64(batch)) as i:
            moved = [
                b_.gep(p, [b_.mul(i, I64(s * size))], source_etype=ir.IntType(8))
                for p, s in zip(outer.args[:3], (m * k, k * n, m * n))
            ]
            b_.call(function, [*moved, outer.args[3]])
        b_.ret_void()
        self.code = backend.compile_module(str(module), "gemm", backend.Optimise(level=3, passes=PASSES))
        self.scratch = np.empty(gemm.kernel(spec).scratch + 64, np.uint8)
        self.function = ctypes.CFUNCTYPE(None, P, P, P, P, N)(self.code.address("run"))

    def operands(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return tuple(
            rng.standard_normal((self.batch, r * c)).astype(self.dtype)
            for r, c in ((self.m, self.k), (self.k, self.n), (self.m, self.n))
        )

    def bind(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Callable[[int], None]:
        scratch = self.scratch.ctypes.data + -self.scratch.ctypes.data % 64
        pointers = a.ctypes.data, b.ctypes.data, c.ctypes.data, scratch
        return lambda count: self.function(*pointers, count)


_get = ctypes.pythonapi.PyCapsule_GetPointer
_get.restype, _get.argtypes = P, [ctypes.py_object, ctypes.c_char_p]
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = ctypes.c_char_p, [ctypes.py_object]


def core_name() -> str:
    """The processor whose kernels SciPy's OpenBLAS has chosen."""
    library = ctypes.CDLL(cython_blas.__file__)
    name = getattr(library, "scipy_openblas_get_corename", None) or getattr(library, "openblas_get_corename", None)
    if name is None:
        return "unknown (not an OpenBLAS)"
    name.restype = ctypes.c_char_p
    return str(name().decode())


class Callee:
    """A function pointer with its type, which llvmlite's pointers do not know."""

    def __init__(self, pointer: ir.Value, type_: ir.FunctionType) -> None:
        self.pointer, self.function_type, self.type = pointer, type_, type_.as_pointer()

    def get_reference(self) -> str:
        return str(self.pointer.get_reference())


def blas(dtype: np.dtype, m: int, n: int, k: int, ta: str, tb: str, batch: int) -> Callable[..., Callable[[int], None]]:
    """The same through SciPy's OpenBLAS, called from compiled code too."""
    letter = "s" if dtype.itemsize == 4 else "d"
    capsule = cython_blas.__pyx_capi__[letter + "gemm"]
    address = _get(capsule, _name(capsule))
    module = ir.Module("blas")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 15 + [I64]), "run")
    b_ = ir.IRBuilder(function.append_basic_block())
    size = dtype.itemsize
    from nufunc.codegen.gemm_tile import loop

    callee = Callee(b_.inttoptr(I64(address), POINTER), ir.FunctionType(ir.VoidType(), [POINTER] * 13))
    pa, pb, pc, *rest = function.args[:-1]
    ta_, tb_, m_, n_, k_, one, la, lb, zero, lc = rest[:10]
    with loop(b_, I64(0), function.args[-1]), loop(b_, I64(0), I64(batch)) as i:
        x, y, z = (
            b_.gep(p, [b_.mul(i, I64(s * size))], source_etype=ir.IntType(8))
            for p, s in zip((pa, pb, pc), (m * k, k * n, m * n))
        )
        b_.call(callee, [tb_, ta_, n_, m_, k_, one, y, lb, x, la, zero, z, lc])
    b_.ret_void()
    code = backend.compile_module(str(module), "blas", backend.Optimise(level=3, passes=PASSES))
    call = ctypes.CFUNCTYPE(None, *[P] * 15, N)(code.address("run"))
    real = ctypes.c_float if size == 4 else ctypes.c_double
    cells = [
        ctypes.c_char(ta.encode()),
        ctypes.c_char(tb.encode()),
        *(ctypes.c_int(v) for v in (m, n, k)),
        real(1),
    ]
    cells += [
        ctypes.c_int(k if ta == "N" else m),
        ctypes.c_int(n if tb == "N" else k),
        real(0),
        ctypes.c_int(n),
    ]
    pointers = [ctypes.addressof(c) for c in cells] + [0, 0]

    def bind(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Callable[[int], None]:
        data = a.ctypes.data, b.ctypes.data, c.ctypes.data
        return lambda count, keep=(code, cells): call(*data, *pointers, count)

    return bind


CASES: dict[str, tuple[int, int, int, str, str, int]] = {
    **{f"square {s}": (s, s, s, "N", "N", 1) for s in (4, 8, 16, 32, 48, 64, 100, 128, 256, 512, 1024, 2048)},
    "mlp 256,784,512": (256, 512, 784, "N", "N", 1),
    "mlp 512,784,256 A'": (784, 256, 512, "T", "N", 1),
    "mlp 256,512,784 B'": (256, 784, 512, "N", "T", 1),
    "mlp 64,784,128": (64, 128, 784, "N", "N", 1),
    "mlp 64,128,10": (64, 10, 128, "N", "N", 1),
    "mlp 128,64,784 A'": (784, 128, 64, "T", "N", 1),
    "transformer 512,128,384": (512, 384, 128, "N", "N", 1),
    "transformer 512,128,384 B'": (512, 384, 128, "N", "T", 1),
    "attention 64,64,32 x32 B'": (64, 64, 32, "N", "T", 32),
    "attention 64,32,64 x32": (64, 32, 64, "N", "N", 32),
    "ensemble 32,64,64": (32, 64, 64, "N", "N", 1),
    "ensemble 32,64,64 B'": (32, 64, 64, "N", "T", 1),
    "points 100,3,3": (100, 3, 3, "N", "N", 1),
    "gemv 10000,100": (10000, 1, 100, "N", "N", 1),
    "gemv 10000,100 A'": (100, 1, 10000, "T", "N", 1),
    "gevm 100 . 100,10000": (1, 10000, 100, "N", "N", 1),
    "gevm 100 . 10000,100 B'": (1, 10000, 100, "N", "T", 1),
    "outer 1000,1000": (1000, 1000, 1, "N", "N", 1),
    "dot 10000": (1, 1, 10000, "N", "N", 1),
}


def measure(dtype: str, case: tuple[int, int, int, str, str, int]) -> tuple[float, float]:
    """GFLOP/s of own code and of OpenBLAS."""
    m, n, k, _, _, batch = case
    product = Product({"f32": "f4", "f64": "f8"}[dtype], m, n, k, *case[3:])
    a, b, c = product.operands()
    other = np.empty_like(c)
    own, theirs = product.bind(a, b, c), blas(product.dtype, *case)(a, b, other)
    own(1), theirs(1)
    assert np.allclose(c, other, rtol=0, atol=1e-4 * k), case
    flop = 2 * m * n * k * batch
    count = max(1, int(2e8 / (flop + 2000 * batch)))
    best = [np.inf, np.inf]
    for _ in range(15):
        for which, call in enumerate((own, theirs)):
            start = time.thread_time()
            call(count)
            best[which] = min(best[which], (time.thread_time() - start) / count)
    return flop / best[0] / 1e9, flop / best[1] / 1e9

"""Programs whose kernels the CUDA tests compile and simulate: graph, arguments, and the kernels expected."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pass_programs import graph_of

from nufunc.codegen.cuda.kernels import THREADS, Kernel, kernels
from nufunc.codegen.emit_text import group_nests
from nufunc.codegen.nest_builder import Sites
from nufunc.ir import ArrayType, Graph
from nufunc.passes.fuse import fuse


def array(dtype: str, *shape: int) -> ArrayType:
    return ArrayType(shape, np.dtype(dtype))


def kernels_of(graph: Graph, threads: int = THREADS) -> list[Kernel]:
    """The kernels of a graph's groups, in order."""
    sites, found = Sites(), []
    for node in fuse(graph).walk():
        if node.prim == "fused":
            name, nests = group_nests(node, sites)
            found += [k for nest in nests for k in kernels(nest, name, sites, threads)]
    return found


@dataclass
class CudaProgram:
    name: str
    graph: Graph
    arguments: list[np.ndarray]
    kernels: list[str]

    def __repr__(self) -> str:
        return self.name


CUDA_PROGRAMS: list[CudaProgram] = []


def program(*kernels: str, **types: ArrayType) -> Callable[[Callable], Callable]:
    """Registers `function(b, *values)`; floats are normally distributed, integers from -4 to 4."""

    def add(function: Callable) -> Callable:
        rng = np.random.default_rng(len(CUDA_PROGRAMS))
        arguments = []
        for name, t in types.items():
            if name.startswith("index"):
                arguments.append(rng.integers(0, 5, t.shape))
            elif t.dtype.kind in "iu":
                arguments.append(rng.integers(0 if t.dtype.kind == "u" else -4, 5, t.shape).astype(t.dtype))
            elif t.dtype.kind == "c":
                arguments.append((rng.normal(size=t.shape) + 1j * rng.normal(size=t.shape)).astype(t.dtype))
            else:
                arguments.append(np.asarray(rng.normal(size=t.shape)).astype(t.dtype))
        graph = graph_of(function, *types.values(), name=function.__name__)
        CUDA_PROGRAMS.append(CudaProgram(function.__name__, graph, arguments, list(kernels)))
        return function

    return add


@program("loop", x=array("f8", 7, 5), y=array("f8", 7, 5))
def chain(b, x, y):
    return b.tanh(b.add(b.mul(x, x), b.exp(b.neg(y))))


@program("loop", x=array("f4", 3, 4), y=array("f4", 4))
def single_precision(b, x, y):
    wide = b.broadcast(y, shape=(3, 4), dims=(1,))
    return b.floor(b.add(b.mul(b.sin(x), wide), b.logistic(x)))


@program("loop", x=array("f8", 4, 6), y=array("f8", 3, 4))
def transposes_and_slices(b, x, y):
    part = b.slice(x, start=(0, 1), stop=(4, 6), step=(1, 2))
    return b.sub(b.transpose(part, perm=(1, 0)), b.flip(y, axes=(1,)))


@program("reduce", x=array("f8", 6, 50))
def row_sums(b, x):
    return b.reduce_sum(b.mul(x, x), axes=(1,))


@program("reduce", x=array("f8", 5, 40))
def column_maxima(b, x):
    return b.reduce_max(x, axes=(0,))


@program("reduce", x=array("f8", 3, 70))
def softmax(b, x):
    shape = {"shape": (3, 70), "dims": (0,)}
    shifted = b.exp(b.sub(x, b.broadcast(b.reduce_max(x, axes=(1,)), **shape)))
    return b.div(shifted, b.broadcast(b.reduce_sum(shifted, axes=(1,)), **shape))


@program("reduce", x=array("f8", 12, 20))
def short_softmax(b, x):
    """Rows so short that one thread does one."""
    shape = {"shape": (12, 20), "dims": (0,)}
    shifted = b.exp(b.sub(x, b.broadcast(b.reduce_max(x, axes=(1,)), **shape)))
    return b.div(shifted, b.broadcast(b.reduce_sum(shifted, axes=(1,)), **shape))


@program("reduce_parts", "reduce", x=array("f8", 20_000))
def long_mean(b, x):
    total = b.reduce_sum(b.mul(x, x), axes=(0,))
    return b.div(total, b.like(total, 20_000))


@program("reduce_parts", "reduce", x=array("f4", 2, 18_000))
def long_argmax(b, x):
    return b.argmax(x, axis=1)


@program("reduce", x=array("f8", 4, 60))
def argmin_of_rows(b, x):
    return b.argmin(x, axis=1)


@program("reduce", x=array("i4", 3, 40))
def any_of_rows(b, x):
    return b.reduce_or(b.gt(x, b.like(x, 3)), axes=(1,))


@program("scan", x=array("f8", 3, 9))
def running_product(b, x):
    return b.cumprod(x, axis=1, reverse=False)


@program("copy", x=array("f8", 5, 3), index=array("i8", 4))
def rows_looked_up(b, x, i):
    return b.gather(x, i, axes=(0,), mode="error")


@program("assemble", "assemble", x=array("f8", 5, 3), v=array("f8", 6, 3), index=array("i8", 6))
def rows_added(b, x, v, i):
    return b.scatter_add(x, v, i, axes=(0,), mode="error")


@program("loop", x=array("i1", 20), y=array("i1", 20))
def bytes_divided(b, x, y):
    return b.add(b.floor_div(x, y), b.mod(b.mul(x, x), y)), b.shift_left(x, y), b.pow(x, b.abs(y))


@program("loop", x=array("u8", 20), y=array("u8", 20))
def unsigned(b, x, y):
    return b.sub(x, y), b.mod(x, y), b.shift_right(x, y), b.integer_pow(x, y=5), b.maximum(x, y)


@program("loop", x=array("f8", 30), y=array("f8", 30))
def conversions(b, x, y):
    i2, u8 = np.dtype(np.int16), np.dtype(np.uint64)
    big = b.mul(x, b.like(x, 1e5))
    return b.convert(big, dtype=i2), b.convert(big, dtype=u8), b.floor_div(x, y), b.mod(x, y), b.sign(x)


@program("loop", x=array("f8", 12), y=array("f8", 12))
def selection(b, x, y):
    return b.select(b.bit_and(b.gt(x, y), b.bit_not(b.isnan(y))), b.sqrt(b.abs(x)), b.fmax(x, y))


@program("loop", x=array("c16", 10), y=array("c16", 10))
def complex_arithmetic(b, x, y):
    return b.div(b.mul(x, b.conj(y)), b.add(x, y)), b.abs(x), b.lt(x, y)


@program("loop", x=array("f8", 15))
def special_functions(b, x):
    return b.erf(x), b.lgamma(x), b.digamma(x), b.cbrt(x)


@program("loop", key=array("u8"))
def random_bits(b, key):
    counter = b.iota(shape=(40,), dtype=np.dtype(np.uint64), axis=0)
    words = b.threefry2x32(b.broadcast(key, shape=(40,), dims=()), counter)
    fraction = b.shift_right(words, b.like(words, 12))
    unit = b.bitcast(b.bit_or(fraction, b.like(words, 0x3FF0000000000000)), dtype=np.dtype(np.float64))
    return words, b.sub(unit, b.like(unit, 1.0))


# What Numba's simulator runs, which has no shuffles.
WITHOUT_WARPS = [
    p for p in CUDA_PROGRAMS if p.name in (
        "chain single_precision transposes_and_slices column_maxima running_product rows_looked_up bytes_divided "
        "unsigned conversions selection complex_arithmetic special_functions random_bits"
    ).split()
]  # fmt: skip

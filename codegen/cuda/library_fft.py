"""Fourier transforms on a device by cuFFT: along the last axis, not normalised, a stack at a time."""

from __future__ import annotations

import math

from nufunc.codegen.cuda.library_steps import Lower, Lowered
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph
from nufunc.ir.types import INT64, ArrayType


def _one_point(type_: ArrayType, prim: str) -> Graph:
    """A transform of one point."""
    b = Builder("one_point")
    x = b.param(type_)
    if prim == "fft":
        return b.build([b.reshaped(x, (type_.size,))])
    return b.build([b.complex(x, b.zeros(type_)) if prim == "rfft" else b.real(x)])


def _hermitian(type_: ArrayType, n: int) -> Graph:
    """The numbers that must be real made so: cuFFT leaves open what other ones would give, NumPy ignores the rest."""
    b = Builder("hermitian")
    z = b.param(type_)
    index = b.iota(shape=type_.shape, dtype=INT64, axis=1)
    ends = b.eq(index, b.like(index, 0))
    if n % 2 == 0:
        ends = b.bit_or(ends, b.eq(index, b.like(index, n // 2)))
    real, imag = b.real(z), b.imag(z)
    return b.build([b.complex(real, b.select(ends, b.zeros(imag.type), imag))])


def _lower(made: Lowered) -> None:
    """Reals must be aligned like complex numbers, which an operand or a result in the midst of an array may not be:
    there is memory beside it then."""
    x, y, prim = made.operands[0], made.results[0], made.prim
    n = (y if prim == "irfft" else x).shape[-1]
    count = math.prod(x.shape[:-1])
    if n == 1:
        made.glue(_one_point(x, prim), made.operand(0), made.result(0))
        return
    source = made.operand(0)
    places = {"x": source, "y": made.result(0)}
    if prim == "irfft":  # which writes over what it reads
        places |= {"x": made.area(x.nbytes), "aligned_y": made.area(y.nbytes)}
        made.glue(_hermitian(x.with_shape((count, x.shape[-1])), n), source, places["x"])
    elif prim == "rfft":
        places["aligned_x"] = made.area(x.nbytes)
    workspace = max(x.nbytes, y.nbytes) + (1 << 16)  # of most sizes; for others the runtime takes more
    places["workspace"] = made.area(workspace)
    kind = {"fft": "c2c", "rfft": "r2c", "irfft": "c2r"}[prim]
    made.routine(
        "fft", x.dtype, places, kind=kind, n=n, batch=count, inverse=prim == "fft" and made.attrs["inverse"],
        x_bytes=x.nbytes, y_bytes=y.nbytes, workspace_bytes=workspace,
    )  # fmt: skip


LOWER: dict[str, Lower] = {"fft": _lower, "rfft": _lower, "irfft": _lower}

"""CUDA kernels from loop nests: which threads do what. The texts are those of `writer` and its like.

Elementwise nests have a thread per point, or per vector of points. Where points have loops, threads share a point as
Note [Groups of threads] says. Transpositions go through tiles in shared memory. Cumulative sums and scattered writes
have kernels of their own. No multiplication is contracted with an addition, so that elementwise results agree with the
CPU's; orders of combination depend on extents alone, so that results are the same in every run.
"""

from __future__ import annotations

from dataclasses import replace

from nufunc.codegen.cuda.chunks import group_kernels
from nufunc.codegen.cuda.groups import shape_of
from nufunc.codegen.cuda.lacking import lacks
from nufunc.codegen.cuda.scans import scan_kernels
from nufunc.codegen.cuda.scatter import scatter_kernels
from nufunc.codegen.cuda.tiles import tile_kernel
from nufunc.codegen.cuda.writer import BLOCKS, THREADS, Kernel, ThreadWriter, named, parallel
from nufunc.codegen.loops import LoopNest
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.schedule import collapse
from nufunc.ir.errors import UnsupportedError

_MEMORY = 1 << 28  # bytes of rows between two phases from which there are fewer blocks
_LEAST = 132  # blocks, whatever they need
__all__ = ["THREADS", "Kernel", "kernels"]


def kernels(nest: LoopNest, name: str, sites: Sites | None = None, threads: int = THREADS) -> list[Kernel]:
    """The kernels of a nest, to be launched in order; they have the same buffers, or scratch behind these."""
    _refuse_lacking(nest)
    nest = _parallel_first(collapse(nest))
    for special in (scan_kernels, scatter_kernels):
        made = special(nest, name, sites, threads)
        if made is not None:
            return made
    shape = shape_of(nest, threads)
    if shape is not None:
        return group_kernels(nest, name, sites, shape)
    tiled = tile_kernel(nest, name, sites, threads)
    return [_thread_kernel(nest, name, sites, threads) if tiled is None else tiled]


def _refuse_lacking(nest: LoopNest) -> None:
    """An error for functions that devices do not have."""
    for phase in nest.phases:
        for inst in phase.body:
            name = str(inst.attrs.get("function", ""))
            if inst.op == "scipy" and lacks(name):
                raise UnsupportedError(f"kernels for CUDA have no scipy.special.{name.split('.')[0]}")


def _parallel_first(nest: LoopNest) -> LoopNest:
    """Outer axes that run in order become loops of a thread, inside the axes that the grid spans."""
    serial = tuple(a for a in nest.axes if a.kind != "parallel")
    return replace(nest, axes=(*parallel(nest.axes), *serial))


def _thread_kernel(nest: LoopNest, name: str, sites: Sites | None, threads: int) -> Kernel:
    names = named(nest)
    writer = ThreadWriter(nest, names, sites, threads)
    lines = writer.write()
    blocks = min(-(-writer.items // threads), BLOCKS)
    size = sum(b.size * b.dtype.itemsize for b in nest.buffers if b.scratch) * threads
    if size:
        blocks = min(blocks, max(_LEAST, _MEMORY // size))
    rows = tuple(replace(b, size=b.size * blocks * threads) for b in nest.buffers if b.scratch)
    source = "\n".join((f"def {name}({', '.join((*names, 'error'))}):", *lines)) + "\n"
    buffers = (*(b for b in nest.buffers if not b.scratch), *rows)
    return Kernel(name, source, buffers, len(rows), blocks, threads)

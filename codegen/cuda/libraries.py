"""Primitives that are no loop nests on a device: who computes them, how much scratch memory they need, their steps.

`where` says who: NVIDIA's cuBLAS, cuSOLVER, cuFFT and cuDNN, our own kernels, or the host. A call never fails silently:
what a routine finds to be unsolvable is written to the program's error word (Note [Failures]).

Note [Failures]
A `Call` has a `site`, the key of what `failure` says in the program's `sites`. Routines leave their info words on the
device, and loops fold them into the error word, which keeps the first key that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nufunc.codegen.cuda import (
    library_conv,
    library_cudnn,
    library_fft,
    library_linalg,
    library_products,
    reflections,
    rotations,
    small_matrices,
)
from nufunc.codegen.cuda.kernels import Kernel, kernels
from nufunc.codegen.cuda.library_steps import Glue, Hosted, LibraryStep, Lower, Lowered, Routine
from nufunc.codegen.cuda.program import Call, Launch
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.nests import build_nests, narrowed
from nufunc.ir.graph import Node
from nufunc.ir.primitive import attr_tuple
from nufunc.ir.types import ArrayType

Where = Literal["cublas", "cusolver", "cufft", "cudnn", "kernels", "host"]

_FAILURES = {
    "cholesky": "Matrix is not positive definite", "solve": "Singular matrix", "eigh": "Eigenvalues did not converge",
    "eig": "Eigenvalues did not converge", "svd": "SVD did not converge", "schur": "Schur form did not converge",
}  # fmt: skip
_LIBRARY: dict[str, Where] = {"gemm": "cublas", "gemv": "cublas", "trsm": "cublas", "fft": "cufft", "conv": "cudnn"}
_LOWER: dict[str, Lower] = {  # with NVIDIA's libraries
    "dot": library_products.lower_dot, "conv": library_cudnn.lower_cudnn, **library_linalg.LOWER, **library_fft.LOWER,
}  # fmt: skip
_OWN: dict[str, Lower] = {  # by kernels of our own
    "dot": library_products.lower_own_dot, "conv": library_conv.lower_conv, "require": library_linalg.lower_require,
    **small_matrices.LOWER, **reflections.LOWER, **rotations.LOWER,
}  # fmt: skip


def _is_small(made: Lowered) -> bool:
    """Whether matrices are so small, or stacks so high, that our own kernels are best."""
    if made.prim in rotations.LOWER:
        return rotations.is_small(made)
    return made.prim in (*small_matrices.LOWER, *reflections.LOWER) and small_matrices.is_small(made)


def where(call: Call) -> Where:
    """Who computes a call on a device where NVIDIA's libraries are installed."""
    steps = steps_of(call, True)
    if any(isinstance(step, Hosted) for step in steps):
        return "host"
    found = (_LIBRARY.get(step.name, "cusolver") for step in steps if isinstance(step, Routine))
    return next(found, "kernels")


def steps_of(call: Call, nvidia: bool) -> Sequence[LibraryStep]:
    operands, results = ([o.type for o in group] for group in (call.operands, call.results))
    return lowered(call.prim, operands, results, call.attrs, call.site, nvidia).steps


def kernels_of(steps: Sequence[LibraryStep]) -> list[Kernel]:
    """The kernels that a call launches."""
    found = [step.kernel for step in steps if isinstance(step, Launch)]
    return found + [k for step in steps if isinstance(step, Glue) for k, _ in glue_kernels(step)]


def replayable(steps: Sequence[LibraryStep]) -> bool:
    """Whether the steps of a call can be recorded: the host does nothing, and no library works in memory of its own."""
    return not any(
        isinstance(step, Hosted) or (isinstance(step, Routine) and step.name not in _RECORDED) for step in steps
    )


_RECORDED = frozenset(("gemm", "gemv", "trsm", "fft", "conv"))


def failure(prim: str, attrs: Mapping[str, Any]) -> str | None:
    """What a call reports where it cannot be done: the kind of an error site. None: it cannot fail."""
    return attrs["message"] if prim == "require" else _FAILURES.get(prim)


def scratch_of(node: Node) -> int:
    """Bytes of scratch memory that a call of a node needs, with NVIDIA's libraries or without."""
    operands, results = tuple(o.type for o in node.operands), tuple(r.type for r in node.results)
    return max(lowered(node.prim, operands, results, node.attrs, 0, has).scratch for has in (True, False))


def glue_kernels(step: Glue) -> list[tuple[Kernel, list[int]]]:
    """The kernels of a small graph, in order, each with the numbers of the places that it is given."""
    if step not in _GLUE:
        found: list[tuple[Kernel, list[int]]] = []
        for number, nest in enumerate(build_nests(step.graph, step.graph.name, Sites())):
            small, used = narrowed(nest)
            places = [k for k in used if not nest.buffers[k].scratch]
            found += [(kernel, places) for kernel in kernels(small, f"{step.graph.name}_{number}")]
        _GLUE[step] = found
    return _GLUE[step]


_GLUE: dict[Glue, list[tuple[Kernel, list[int]]]] = {}
_KEPT: dict[Any, Lowered] = {}


def lowered(
    prim: str, operands: Sequence[ArrayType], results: Sequence[ArrayType], attrs: Mapping[str, Any], site: int,
    nvidia: bool,
) -> Lowered:  # fmt: skip
    """The steps of a call, with NVIDIA's libraries or without."""
    key = (prim, tuple(operands), tuple(results), attr_tuple(attrs), site, nvidia)
    if key not in _KEPT:
        made = Lowered(prim, tuple(operands), tuple(results), attrs, site)
        lower = _OWN.get(prim)
        if nvidia and prim in _LOWER and not _is_small(made):
            lower = _LOWER[prim]
        if lower is None:
            made.steps.append(Hosted())
        elif any(t.size for t in results):
            lower(made)
        _KEPT[key] = made
    return _KEPT[key]

"""Primitives that are no loop nests on a device: who computes them, how much scratch memory they need, their steps.

`where` says who: NVIDIA's cuBLAS, cuSOLVER and cuFFT through nvmath-python, our own kernels, or the host. A call never
fails silently: what a routine finds to be unsolvable is written to the program's error word (Note [Failures]).

Note [Failures]
A `Call` has a `site`, the key of what `failure` says in the program's `sites`. Routines leave their info words on the
device, and loops fold them into the error word, which keeps the first key that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nufunc.codegen.cuda.library_steps import Hosted, Lower, Lowered
from nufunc.ir.graph import Node
from nufunc.ir.primitive import attr_tuple
from nufunc.ir.types import ArrayType

Where = Literal["cublas", "cusolver", "cufft", "kernels", "host"]

_FAILURES = {
    "cholesky": "Matrix is not positive definite", "solve": "Singular matrix", "eigh": "Eigenvalues did not converge",
    "eig": "Eigenvalues did not converge", "svd": "SVD did not converge", "schur": "Schur form did not converge",
}  # fmt: skip
_WHERE: dict[str, Where] = {}
_LOWER: dict[str, Lower] = {}


def where(prim: str) -> Where:
    """Who computes a primitive on a device."""
    return _WHERE.get(prim, "host")


def replayable(prim: str) -> bool:
    """Whether a call stays on the device, so that it can be recorded."""
    return where(prim) != "host"


def failure(prim: str, attrs: Mapping[str, Any]) -> str | None:
    """What a call reports where it cannot be done: the kind of an error site. None: it cannot fail."""
    return attrs["message"] if prim == "require" else _FAILURES.get(prim)


def scratch_of(node: Node) -> int:
    """Bytes of scratch memory that a call of a node needs, with NVIDIA's libraries or without."""
    operands, results = tuple(o.type for o in node.operands), tuple(r.type for r in node.results)
    return max(lowered(node.prim, operands, results, node.attrs, 0, has).scratch for has in (True, False))


_KEPT: dict[Any, Lowered] = {}


def lowered(
    prim: str, operands: Sequence[ArrayType], results: Sequence[ArrayType], attrs: Mapping[str, Any], site: int,
    nvidia: bool,
) -> Lowered:  # fmt: skip
    """The steps of a call, with NVIDIA's libraries or without."""
    key = (prim, tuple(operands), tuple(results), attr_tuple(attrs), site, nvidia)
    if key not in _KEPT:
        made = Lowered(prim, tuple(operands), tuple(results), attrs, site)
        lower = _LOWER.get(prim) if nvidia else None
        if lower is None:
            made.steps.append(Hosted())
        elif any(t.size for t in results):
            lower(made)
        _KEPT[key] = made
    return _KEPT[key]

"""Primitive records: everything that is known of an operation, in one place, with defaults by kind.

A primitive is registered by the file of `ir/prims` that its kind belongs to. Rules take a Builder, so that they
know nothing of tracing; the signatures are

    infer(types, attrs, regions)                      -> result types; raises ShapeError or DTypeError
    evaluate(arrays, attrs, regions)                  -> result arrays, by NumPy
    jvp(b, primals, tangents, results, attrs)         -> a tangent or None (zero) per result
    transpose(b, cotangents, operands, types, attrs)  -> a cotangent or None per operand; operands[i] is None where
                                                         the primitive is linear in it, types are the operands' types
    batch(b, size, operands, dims, attrs)             -> (results, dims), all dims 0 or None (not batched)

Control primitives (cond, while, scan, map) have regions; their rules need whole passes and stand in `passes`. So do
those of kind "derived", which only transforms make: their regions are pure in every stage.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nufunc.ir.errors import VerifyError
from nufunc.ir.graph import Attrs, Graph, Value
from nufunc.ir.types import ArrayType

if TYPE_CHECKING:
    from nufunc.ir.builder import Builder

Kind = Literal[
    "elementwise", "reduce", "layout", "index", "library", "create", "control", "custom", "host", "derived", "view",
    "write", "fused",
]  # fmt: skip
Infer = Callable[[Sequence[ArrayType], Attrs, Sequence[Graph]], tuple[ArrayType, ...]]
Evaluate = Callable[[Sequence[np.ndarray], Attrs, Sequence[Graph]], Sequence[np.ndarray]]
Jvp = Callable[["Builder", Sequence[Value], Sequence["Value | None"], Sequence[Value], Attrs], "Sequence[Value | None]"]
Transpose = Callable[
    ["Builder", "Sequence[Value | None]", "Sequence[Value | None]", Sequence[ArrayType], Attrs],
    "Sequence[Value | None]",
]
Batch = Callable[
    ["Builder", int, Sequence[Value], "Sequence[int | None]", Attrs], "tuple[Sequence[Value], Sequence[int | None]]"
]


@dataclass(frozen=True)
class Primitive:
    """One operation's record; see the module's text for the rules' signatures."""

    name: str
    kind: Kind
    infer: Infer
    evaluate: Evaluate
    jvp: Jvp | None = None
    transpose: Transpose | None = None
    batch: Batch | None = None
    attrs: tuple[str, ...] = ()  # names of the attributes, in the order in which they are printed
    differentiable: bool = True  # False: the result does not depend smoothly on any operand; tangents are zero
    commutative: bool = False
    cheap: bool = False  # cheaper to compute again than to store
    doc: str = ""


_REGISTRY: dict[str, Primitive] = {}


def register(primitive: Primitive) -> Primitive:
    """Add a record; a second one of the same name is a mistake."""
    if primitive.name in _REGISTRY:
        raise VerifyError(f"primitive {primitive.name!r} is registered twice")
    _REGISTRY[primitive.name] = primitive
    return primitive


def get(name: str) -> Primitive:
    """The record of a primitive."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise VerifyError(f"there is no primitive {name!r}") from None


def all_primitives() -> dict[str, Primitive]:
    """All records by name."""
    return dict(_REGISTRY)


def attr_tuple(attrs: Attrs) -> tuple[tuple[str, Any], ...]:
    """Attributes as a hashable, ordered tuple; floats by their bits, so that 0.0 and -0.0, or NaNs, keep apart."""
    return tuple(sorted([(k, _bits(v)) for k, v in attrs.items()])) if attrs else ()


def _bits(value: Any) -> Any:
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    if isinstance(value, complex):
        return ("complex", np.complex128(value).tobytes())
    if isinstance(value, tuple):
        return tuple(_bits(v) for v in value)
    return (type(value).__name__, value)

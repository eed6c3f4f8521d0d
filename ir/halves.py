"""float16 and bfloat16 among the primitives: which of these move them, and evaluation of the others in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.graph import Node
from nufunc.ir.types import FLOAT32, is_bfloat16, is_half

MOVING = frozenset(
    "reshape transpose broadcast slice flip pad concat update dynamic_slice dynamic_update gather scatter_set select "
    "stop_gradient named tape_add tape_join tape_split require".split()
)
_AS_THEY_ARE = MOVING | {"full", "bitcast", "convert", "nextafter"}
_COMPUTING = frozenset({"elementwise", "reduce", "library", "index", "create"})


def in_single(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a node that computes in float32 instead of half precision."""
    return {k: FLOAT32 if isinstance(v, np.dtype) and is_half(v) else v for k, v in attrs.items()}


def evaluate(node: Node, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """What the primitive of a node makes of arrays, by NumPy.

    There are few loops for bfloat16, and its sums are rounded at each step, so what computes does so in float32 and is
    rounded once; of float16 NumPy takes care itself.
    """
    record = primitive.get(node.prim)
    values = (*node.operands, *node.results)
    if (
        record.kind not in _COMPUTING
        or node.prim in _AS_THEY_ARE
        or not any(is_bfloat16(v.dtype) for v in values)
    ):
        return record.evaluate(arrays, node.attrs, node.regions)
    wide = [a.astype(FLOAT32) if is_bfloat16(a.dtype) else a for a in arrays]
    results = record.evaluate(wide, in_single(node.attrs), node.regions)
    return [
        np.asarray(r).astype(v.dtype) if is_bfloat16(v.dtype) else r for r, v in zip(results, node.results, strict=True)
    ]

"""Masks of cotangents: which elements come from a branch of `select` that was taken.

Note [Masked cotangents]
    The cotangent that `select(c, x, y)` gives to x is zero where c is False. Further back it may meet a factor that
    is infinite there, as in where(x > 0, sqrt(x), 0) at x = 0, and 0 * inf is NaN. So the mask c travels with the
    cotangent through elementwise operations, layout changes, sums, broadcasts, reads and writes by index and cumulative
    sums, and the product with a factor is selected by it again. Products by `dot`, whose sums mix all elements, and the
    bodies of control flow and of checkpoints end the mask's way: what is infinite there stays visible.
"""

from __future__ import annotations

from collections.abc import Sequence

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Node, Value
from nufunc.ir.types import BOOL, TapeType

Mask = Value | None

_FACTOR = ("mul", "div")  # the cotangent is multiplied by a value that may be infinite
_SAME_SHAPE = (*_FACTOR, "add", "sub", "neg", "convert", "real", "imag", "conj", "complex", "select")
# their transposes move zeros as zeros; a sum of bools is their or
_LAYOUT = (
    "reshape", "transpose", "flip", "slice", "pad", "concat", "reduce_sum", "update", "dynamic_slice", "dynamic_update",
    "gather", "scatter_set", "scatter_add",
)  # fmt: skip


class MaskedSums:
    """The cotangent collected for each value so far, and the mask outside of which it is zero (None: not known)."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self._sums: dict[Value, tuple[Value, Mask]] = {}

    def add(self, key: Value, cotangent: Value, mask: Mask) -> None:
        """Add a cotangent that is zero outside of `mask`."""
        if key in self._sums:
            other, other_mask = self._sums[key]
            prim = "tape_add" if isinstance(cotangent.type, TapeType) else "add"
            cotangent = self.b.emit(prim, (other, cotangent))[0]
            if mask is not other_mask:
                mask = None if mask is None or other_mask is None else self.b.bit_or(mask, other_mask)
        self._sums[key] = cotangent, mask

    def take(self, key: Value) -> tuple[Value | None, Mask]:
        """The sum for a value, which is then forgotten."""
        return self._sums.pop(key, (None, None))


def follow(
    b: Builder, node: Node, cotangents: Sequence[Value | None], operands: Sequence[Value | None], mask: Mask
) -> tuple[list[Value | None], list[Mask]]:
    """The operands' cotangents of a transposed node, kept zero outside of their masks, and these masks.

    `mask` is that of the node's result; `operands` are the known ones, None where the node is linear.
    """
    given = list(cotangents)
    masks: list[Mask] = [None] * len(given)
    if node.prim == "select":
        chosen = operands[0]
        assert chosen is not None
        for k, own in ((1, lambda: chosen), (2, lambda: b.bit_not(chosen))):
            if given[k] is not None:
                masks[k] = own() if mask is None else b.bit_and(own(), mask)
        return given, masks
    if mask is None:
        return given, masks
    if node.prim in _SAME_SHAPE:
        masks = [mask] * len(given)
        if node.prim in _FACTOR:
            given = [None if c is None else b.select(mask, c, b.zeros(c.type)) for c in given]
    elif node.prim in _LAYOUT:
        types = [o.type.with_dtype(BOOL) for o in node.operands]
        masks = list(primitive.get(node.prim).transpose(b, [mask], operands, types, node.attrs))  # type: ignore[misc]
    elif node.prim == "cumsum":
        masks = [b.cummax(mask, axis=node.attrs["axis"], reverse=not node.attrs["reverse"])]
    elif node.prim == "broadcast":
        masks = [_any_lane(b, mask, node)]
    return given, masks


def _any_lane(b: Builder, mask: Value, node: Node) -> Value:
    """Where any of the elements that a broadcast makes of one is inside the mask."""
    (source,) = node.operands
    dims = node.attrs["dims"]
    kept = [d for d, extent in zip(dims, source.shape, strict=True) if extent == mask.shape[d]]
    axes = tuple(a for a in range(mask.ndim) if a not in kept)
    return b.reshaped(b.reduce_or(mask, axes=axes) if axes else mask, source.shape)

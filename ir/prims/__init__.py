"""All primitives, one file per kind; importing this package registers them."""

from nufunc.ir.prims import (
    control,
    create,
    custom,
    elementwise,
    fused,
    index,
    layout,
    library,
    linalg,
    reduce,
    special,
    view,
)

__all__ = [
    "control",
    "create",
    "custom",
    "elementwise",
    "fused",
    "index",
    "layout",
    "library",
    "linalg",
    "reduce",
    "special",
    "view",
]

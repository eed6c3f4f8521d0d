"""All primitives, one file per kind; importing this package registers them."""

from nufunc.ir.prims import (
    checkpoint,
    control,
    create,
    custom,
    elementwise,
    fused,
    host,
    index,
    layout,
    library,
    linalg,
    random,
    reduce,
    special,
    tape,
    view,
)

__all__ = [
    "checkpoint",
    "control",
    "create",
    "custom",
    "elementwise",
    "fused",
    "host",
    "index",
    "layout",
    "library",
    "linalg",
    "random",
    "reduce",
    "special",
    "tape",
    "view",
]

"""Views and writes of traced graphs: results that alias their operand, and a store into its memory."""

from __future__ import annotations

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError, VerifyError
from nufunc.ir.graph import Attrs
from nufunc.ir.primitive import Evaluate, Primitive, get, register
from nufunc.ir.prims import layout
from nufunc.ir.prims.kinds import Arrays, Regions, Types, need_count
from nufunc.ir.types import ArrayType


def _evaluate_view(name: str) -> Evaluate:
    def evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
        (x,) = arrays
        out = layout.VIEWS[name](x, attrs)
        if x.size and out.size and not np.may_share_memory(out, x):
            raise VerifyError(
                f"view_{name}: an array of strides {x.strides} has no such view; it would be a copy"
            )
        return [out]

    return evaluate


for _name in ("slice", "transpose", "reshape", "broadcast", "flip"):
    register(
        Primitive(
            f"view_{_name}",
            "view",
            layout.INFER[_name],
            _evaluate_view(_name),
            attrs=get(_name).attrs,
            views=_name,
        )
    )


def _write_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("write", types, 2)
    target, value = types
    if target.shape != value.shape:
        raise ShapeError(f"write: {value} does not fit the target {target}")
    if target.dtype != value.dtype:
        raise DTypeError(f"write: {value} has another dtype than the target {target}")
    return ()


def _write_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    target, value = arrays
    target[...] = value
    return []


register(Primitive("write", "write", _write_infer, _write_evaluate))

"""The fused group of the grouped stage: one region of pure IR that code generation makes one kernel of."""

from __future__ import annotations

import numpy as np

from nufunc.ir.errors import VerifyError
from nufunc.ir.graph import Attrs
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import Arrays, Regions, Types, shown
from nufunc.ir.types import ArrayType


def _fused_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    if len(regions) != 1:
        raise VerifyError(f"fused has one region, not {len(regions)}")
    (region,) = regions
    if tuple(types) != region.param_types:
        raise VerifyError(
            f"fused: operands {shown(types)} differ from the region's parameters {shown(region.param_types)}"
        )
    return region.output_types


def _fused_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    from nufunc.ir.interpret import run  # the interpreter imports the primitives

    return list(run(regions[0], list(arrays)))


register(Primitive("fused", "fused", _fused_infer, _fused_evaluate, attrs=("kind",)))

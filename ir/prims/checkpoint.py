"""Records of checkpoint, a region of which the backward pass keeps little, and of named values.

`checkpoint{save, again}` runs its region. What is differentiated keeps its operands and the values named in `save`, and
computes the rest again (`again` is true for the node that does): a region is never merged with what stands around it.
`named{name}` is its operand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nufunc.ir.graph import Attrs, Graph
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.control import check_args, check_form
from nufunc.ir.prims.kinds import batch_all, linear_jvp, linear_transpose, need_count
from nufunc.ir.types import ArrayType


def _infer(types: Sequence[ArrayType], attrs: Attrs, regions: Sequence[Graph]) -> tuple[ArrayType, ...]:
    check_form("checkpoint", 1, types, attrs, regions)
    check_args("a checkpoint", regions[0], types)
    return regions[0].output_types


def _evaluate(args: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph]) -> list[np.ndarray]:
    from nufunc.ir.interpret import run

    return list(run(regions[0], args))


def _named_infer(types: Sequence[ArrayType], attrs: Attrs, regions: Sequence[Graph]) -> tuple[ArrayType, ...]:
    need_count("named", types, 1)
    return (types[0],)


register(
    Primitive(
        "checkpoint", "derived", _infer, _evaluate, attrs=("save", "again"),
        doc="a region whose values are computed again for derivatives",
    )
)  # fmt: skip
register(
    Primitive(
        "named", "derived", _named_infer, lambda arrays, attrs, regions: [np.array(arrays[0])],
        linear_jvp("named"), linear_transpose(lambda b, ct, operands, types, attrs: [ct]), batch_all("named"),
        attrs=("name",), doc="the operand, under a name that a checkpoint may save it by",
    )
)  # fmt: skip

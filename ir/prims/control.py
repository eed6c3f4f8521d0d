"""Records of the control primitives: cond, while, scan and map, whose regions are closed graphs.

Their jvp, transposition and batching need whole passes and stand in `nufunc.passes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nufunc.ir.errors import ShapeError, VerifyError
from nufunc.ir.graph import Attrs, Graph
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.types import BOOL, INT64, ArrayType


def check_form(
    prim: str, count: int, types: Sequence[ArrayType], attrs: Attrs, regions: Sequence[Graph]
) -> None:
    """So many regions, and counts of operands and items that can be."""
    if len(regions) != count:
        raise VerifyError(f"{prim} has {len(regions)} regions, not {count}")
    counts = {
        key: attrs[key]
        for key in ("length", "num_cond", "num_body", "num_consts", "num_carry")
        if key in attrs
    }
    if any(n < 0 for n in counts.values()) or sum(n for key, n in counts.items() if key != "length") > len(
        types
    ):
        raise VerifyError(f"{prim} with {len(types)} operands cannot have {counts}")


def check_args(what: str, region: Graph, types: Sequence[ArrayType]) -> None:
    if tuple(types) != region.param_types:
        raise VerifyError(f"{what} takes {shown_types(region.param_types)}, but is given {shown_types(types)}")


def shown_types(types: Sequence[ArrayType]) -> str:
    return f"({', '.join(map(str, types))})"


def own(arrays: Sequence[np.ndarray], region: Graph) -> list[np.ndarray]:
    """Arrays to hand to a body as its carry: copies, where the body may write to them."""
    return [a.copy() for a in arrays] if region.stage == "traced" else list(arrays)


def _unstacked(types: Sequence[ArrayType], length: int, what: str) -> list[ArrayType]:
    for t in types:
        if not t.shape or t.shape[0] != length:
            raise ShapeError(f"{what} runs over {length} items, but an input has type {t}")
    return [t.with_shape(t.shape[1:]) for t in types]


def _cond_infer(types: Sequence[ArrayType], attrs: Attrs, regions: Sequence[Graph]) -> tuple[ArrayType, ...]:
    if not types:
        raise VerifyError("cond takes an index and the branches' arguments")
    if types[0] not in (ArrayType((), BOOL), ArrayType((), INT64)):
        raise VerifyError(f"cond takes a b1[] or i64[] index, not {types[0]}")
    if not regions or (types[0].dtype == BOOL and len(regions) != 2):
        raise VerifyError(f"cond on {types[0]} has {len(regions)} branches")
    for region in regions:
        check_args("a branch of cond", region, types[1:])
        if region.output_types != regions[0].output_types:
            first, other = shown_types(regions[0].output_types), shown_types(region.output_types)
            raise VerifyError(f"branches of cond differ in their results: {first} and {other}")
    return regions[0].output_types


def _cond_evaluate(
    args: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph]
) -> Sequence[np.ndarray]:
    from nufunc.ir.interpret import run

    index = min(max(int(args[0]), 0), len(regions) - 1)
    return run(regions[index], args[1:])


def _while_infer(types: Sequence[ArrayType], attrs: Attrs, regions: Sequence[Graph]) -> tuple[ArrayType, ...]:
    check_form("while", 2, types, attrs, regions)
    cond, body = regions
    nc, nb = attrs["num_cond"], attrs["num_body"]
    carry = tuple(types[nc + nb :])
    check_args("the condition of while", cond, [*types[:nc], *carry])
    check_args("the body of while", body, [*types[nc : nc + nb], *carry])
    if cond.output_types != (ArrayType((), BOOL),):
        raise VerifyError(f"the condition of while gives {shown_types(cond.output_types)}, not (b1[])")
    if body.output_types != carry:
        raise VerifyError(
            f"the body of while changes the carry's types from {shown_types(carry)} to {shown_types(body.output_types)}"
        )
    return carry


def _while_evaluate(
    args: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph]
) -> Sequence[np.ndarray]:
    from nufunc.ir.interpret import run

    cond, body = regions
    nc, nb = attrs["num_cond"], attrs["num_body"]
    cond_consts, body_consts, carry = args[:nc], args[nc : nc + nb], own(args[nc + nb :], body)
    while run(cond, [*cond_consts, *carry])[0]:
        carry = own(run(body, [*body_consts, *carry]), body)
    return carry


def _scan_infer(types: Sequence[ArrayType], attrs: Attrs, regions: Sequence[Graph]) -> tuple[ArrayType, ...]:
    check_form("scan", 1, types, attrs, regions)
    (body,) = regions
    length, ncon, ncar = attrs["length"], attrs["num_consts"], attrs["num_carry"]
    carry = tuple(types[ncon : ncon + ncar])
    xs = _unstacked(types[ncon + ncar :], length, "scan")
    check_args("the body of scan", body, [*types[:ncon], *carry, *xs])
    if body.output_types[:ncar] != carry:
        raise VerifyError(
            f"the body of scan changes the carry's types from {shown_types(carry)} "
            f"to {shown_types(body.output_types[:ncar])}"
        )
    return (*carry, *(t.batched(length) for t in body.output_types[ncar:]))


def _scan_evaluate(
    args: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph]
) -> Sequence[np.ndarray]:
    from nufunc.ir.interpret import run

    (body,) = regions
    length, ncon, ncar = attrs["length"], attrs["num_consts"], attrs["num_carry"]
    consts, carry, xs = args[:ncon], own(args[ncon : ncon + ncar], body), args[ncon + ncar :]
    ys = [np.empty((length, *t.shape), t.dtype) for t in body.output_types[ncar:]]
    for i in range(length - 1, -1, -1) if attrs["reverse"] else range(length):
        out = run(body, [*consts, *carry, *(x[i] for x in xs)])
        carry = own(out[:ncar], body)
        for stack, y in zip(ys, out[ncar:], strict=True):
            stack[i] = y
    return [*carry, *ys]


def _map_infer(types: Sequence[ArrayType], attrs: Attrs, regions: Sequence[Graph]) -> tuple[ArrayType, ...]:
    check_form("map", 1, types, attrs, regions)
    (body,) = regions
    length, ncon = attrs["length"], attrs["num_consts"]
    check_args("the body of map", body, [*types[:ncon], *_unstacked(types[ncon:], length, "map")])
    return tuple(t.batched(length) for t in body.output_types)


def _map_evaluate(args: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph]) -> Sequence[np.ndarray]:
    return _scan_evaluate(args, {**attrs, "reverse": False, "num_carry": 0}, regions)


register(Primitive("cond", "control", _cond_infer, _cond_evaluate, doc="run the branch that the index names"))
register(
    Primitive(
        "while", "control", _while_infer, _while_evaluate, attrs=("num_cond", "num_body"),
        doc="repeat the body on the carry as long as the condition holds",
    )
)  # fmt: skip
register(
    Primitive(
        "scan", "control", _scan_infer, _scan_evaluate,
        attrs=("length", "reverse", "num_consts", "num_carry"),
        doc="thread a carry through the items of the inputs, stacking the bodies' other results",
    )
)  # fmt: skip
register(
    Primitive(
        "map", "control", _map_infer, _map_evaluate, attrs=("length", "num_consts"),
        doc="run the body on each item independently and stack the results",
    )
)  # fmt: skip

"""Records of the primitives on tapes: loops whose number of iterations is known only when they run.

Note [Tapes]
A tape holds an item per iteration of the loop that wrote it; its type tells the type of the items alone. `record` is a
`while` whose body gives, beside the new carry, items that are appended to tapes. `replay` is a `scan` over tapes, so
many steps as its first operand says, in either direction; what its body stacks is on tapes too. So tapes are to
`record` and `replay` what stacked arrays are to `scan`, values like others: never changed, copied by reference, kept as
long as anything refers to them. A tape made by `tape_zeros` has no items of its own; it reads as zeros however long the
loop over it is. A value of tape type has a shape as arrays have, so that lanes can have tapes of different lengths, and
layout operations move tapes like numbers.

In the interpreter an array of tapes is an array of objects: a tuple of items each, or None for zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import VerifyError
from nufunc.ir.graph import Attrs, Graph, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.control import check_args, check_form, own, shown_types
from nufunc.ir.prims.kinds import Maybe, Maybes, linear_jvp, need_count
from nufunc.ir.types import BOOL, HANDLE, INT64, ArrayType, TapeType, parse_type, tape_of

Types = Sequence[ArrayType]
Arrays = Sequence[np.ndarray]
Regions = Sequence[Graph]
COUNT = ArrayType((), INT64)


def tape_array(items: tuple[np.ndarray, ...] | None) -> np.ndarray:
    """One tape, as the interpreter holds it."""
    out = np.empty((), HANDLE)
    out[()] = items
    return out


def items_of(tape: np.ndarray, length: int, item: ArrayType) -> Sequence[np.ndarray]:
    """The items of one tape of the interpreter."""
    items: Any = tape.item()
    return [zero_of(item)] * length if items is None else items


def zero_of(type: ArrayType) -> np.ndarray:
    """Zeros of a type; for tapes those without items."""
    return np.full(type.shape, None, HANDLE) if isinstance(type, TapeType) else np.zeros(type.shape, type.dtype)


def need_tape(what: str, type: ArrayType, ndim: int = 0) -> TapeType:
    if not isinstance(type, TapeType) or type.ndim != ndim:
        raise VerifyError(f"{what} takes {'a tape' if not ndim else f'an array of tapes with {ndim} axes'}, not {type}")
    return type


# -- record


def _record_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    check_form("record", 2, types, attrs, regions)
    cond, body = regions
    nc, nb = attrs["num_cond"], attrs["num_body"]
    carry = tuple(types[nc + nb :])
    check_args("the condition of record", cond, [*types[:nc], *carry])
    check_args("the body of record", body, [*types[nc : nc + nb], *carry])
    if cond.output_types != (ArrayType((), BOOL),):
        raise VerifyError(f"the condition of record gives {shown_types(cond.output_types)}, not (b1[])")
    if body.output_types[: len(carry)] != carry:
        raise VerifyError(
            f"the body of record changes the carry's types from {shown_types(carry)} to "
            f"{shown_types(body.output_types[: len(carry)])}"
        )
    return (*carry, *(tape_of(t) for t in body.output_types[len(carry) :]), COUNT)


def _record_evaluate(args: Arrays, attrs: Attrs, regions: Regions) -> list[Any]:
    from nufunc.ir.interpret import run

    cond, body = regions
    nc, nb = attrs["num_cond"], attrs["num_body"]
    cond_consts, body_consts, carry = args[:nc], args[nc : nc + nb], own(args[nc + nb :], body)
    count = len(carry)
    tapes: list[list[np.ndarray]] = [[] for _ in body.outputs[count:]]
    length = 0
    while run(cond, [*cond_consts, *carry])[0]:
        out = run(body, [*body_consts, *carry])
        carry = own(out[:count], body)
        for tape, item in zip(tapes, out[count:], strict=True):
            tape.append(item)
        length += 1
    return [*carry, *(tape_array(tuple(t)) for t in tapes), np.array(length, INT64)]


# -- replay


def _replay_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    if not types or types[0] != COUNT:
        raise VerifyError("replay takes the number of iterations, i64[], first")
    types = types[1:]
    check_form("replay", 1, types, attrs, regions)
    (body,) = regions
    ncon, ncar = attrs["num_consts"], attrs["num_carry"]
    carry = tuple(types[ncon : ncon + ncar])
    items = [need_tape("replay", t).item for t in types[ncon + ncar :]]
    check_args("the body of replay", body, [*types[: ncon + ncar], *items])
    if body.output_types[:ncar] != carry:
        raise VerifyError(
            f"the body of replay changes the carry's types from {shown_types(carry)} "
            f"to {shown_types(body.output_types[:ncar])}"
        )
    return (*carry, *(tape_of(t) for t in body.output_types[ncar:]))


def _replay_evaluate(args: Arrays, attrs: Attrs, regions: Regions) -> list[Any]:
    from nufunc.ir.interpret import run

    (body,) = regions
    ncon, ncar = attrs["num_consts"], attrs["num_carry"]
    length, args = int(args[0]), args[1:]
    consts, carry = args[:ncon], own(args[ncon : ncon + ncar], body)
    types = body.param_types[ncon + ncar :]
    xs = [items_of(x, length, t) for x, t in zip(args[ncon + ncar :], types, strict=True)]
    tapes: list[list[np.ndarray]] = [[] for _ in body.outputs[ncar:]]
    for i in range(length - 1, -1, -1) if attrs["reverse"] else range(length):
        out = run(body, [*consts, *carry, *(x[i] for x in xs)])
        carry = own(out[:ncar], body)
        for tape, item in zip(tapes, out[ncar:], strict=True):
            tape.append(item)
    ordered = [tuple(t[::-1]) if attrs["reverse"] else tuple(t) for t in tapes]
    return [*carry, *map(tape_array, ordered)]


# -- zeros and sums


def _zeros_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("tape_zeros", types, 0)
    return (parse_type(attrs["type"]),)


def _zeros_evaluate(args: Arrays, attrs: Attrs, regions: Regions) -> list[Any]:
    return [zero_of(parse_type(attrs["type"]))]


def _add_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("tape_add", types, 2)
    if types[0] != types[1] or not isinstance(types[0], TapeType):
        raise VerifyError(f"tape_add takes tapes of one type, not {types[0]} and {types[1]}")
    return (types[0],)


def _added(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype != HANDLE:
        return np.asarray(x + y)
    out = np.empty(x.shape, HANDLE)
    for i in np.ndindex(x.shape):
        if x[i] is None or y[i] is None:
            out[i] = y[i] if x[i] is None else x[i]
        else:
            out[i] = tuple(_added(p, q) for p, q in zip(x[i], y[i], strict=True))
    return out


# -- lanes outside (an array of tapes) and inside (a tape of items with a batch axis)


def _join_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("tape_join", types, 1)
    tapes = need_tape("tape_join", types[0], 1)
    return (tape_of(tapes.item.batched(tapes.shape[0])),)


def _join_evaluate(args: Arrays, attrs: Attrs, regions: Regions) -> list[Any]:
    (tapes,) = args
    first = next((t for t in tapes if t is not None), None)
    if first is None:
        return [tape_array(None)]
    rows = [[zero_like(model) if t is None else t[k] for t in tapes] for k, model in enumerate(first)]
    return [tape_array(tuple(_stacked(row, model) for row, model in zip(rows, first, strict=True)))]


def zero_like(item: np.ndarray) -> np.ndarray:
    return np.full(item.shape, None, HANDLE) if item.dtype == HANDLE else np.zeros_like(item)


def _stacked(row: Sequence[np.ndarray], model: np.ndarray) -> np.ndarray:
    out = np.empty((len(row), *model.shape), model.dtype)
    for k, item in enumerate(row):
        out[k] = item[()]
    return out


def _split_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("tape_split", types, 1)
    item = need_tape("tape_split", types[0]).item
    if item.shape[:1] != (attrs["lanes"],):
        raise VerifyError(f"tape_split takes a tape whose items have an axis of {attrs['lanes']} lanes, not {types[0]}")
    return (tape_of(item.with_shape(item.shape[1:]), item.shape[:1]),)


def _split_evaluate(args: Arrays, attrs: Attrs, regions: Regions) -> list[Any]:
    items, lanes = args[0][()], attrs["lanes"]
    out = np.empty(lanes, HANDLE)
    for k in range(lanes):
        out[k] = None if items is None else tuple(np.array(item[k], dtype=item.dtype) for item in items)
    return [out]


def _move(name: str) -> Any:
    """The transpose rule: the cotangent goes the other way."""

    def rule(b: Builder, cts: Maybes, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
        (ct,) = cts
        if ct is None:
            return [None]
        if name == "tape_join":
            return [b.tape_join(ct)]
        return [b.tape_split(ct, lanes=types[0].shape[0])]

    return rule


def _add_jvp(
    b: Builder, primals: Sequence[Value], tangents: Maybes, results: Sequence[Value], attrs: Attrs
) -> list[Maybe]:
    return [b.added(*tangents)]


register(
    Primitive(
        "record", "derived", _record_infer, _record_evaluate, attrs=("num_cond", "num_body"),
        doc="a while whose body also appends to tapes; gives the carry, the tapes and the number of iterations",
    )
)  # fmt: skip
register(
    Primitive(
        "replay", "derived", _replay_infer, _replay_evaluate, attrs=("reverse", "num_consts", "num_carry"),
        doc="thread a carry through the items of tapes",
    )
)  # fmt: skip
register(Primitive("tape_zeros", "derived", _zeros_infer, _zeros_evaluate, attrs=("type",), doc="tapes of zeros"))
register(
    Primitive(
        "tape_add", "derived", _add_infer, lambda args, attrs, regions: [_added(*args)], _add_jvp,
        lambda b, cts, operands, types, attrs: [cts[0] if o is None else None for o in operands],
        doc="the sums of two arrays of tapes, item by item",
    )
)  # fmt: skip
register(
    Primitive(
        "tape_join", "derived", _join_infer, _join_evaluate, linear_jvp("tape_join"), _move("tape_split"),
        doc="one tape of batches from a batch of tapes of equal length",
    )
)  # fmt: skip
register(
    Primitive(
        "tape_split", "derived", _split_infer, _split_evaluate, linear_jvp("tape_split"), _move("tape_join"),
        attrs=("lanes",), doc="a batch of tapes from one tape of batches",
    )
)  # fmt: skip

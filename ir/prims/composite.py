"""Composite primitives: one node for the transforms, with a derivative rule of its own, and a body of other primitives
that takes its place before code is generated (`passes/composites.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs, Graph, Value
from nufunc.ir.primitive import Batch, Infer, Jvp, Primitive, Transpose, register
from nufunc.ir.prims.kinds import Arrays, Regions, Values, batch_all
from nufunc.ir.types import type_of

Body = Callable[[Builder, Values, Attrs], Sequence[Value]]

_BODIES: dict[str, Body] = {}
_NATIVE: set[str] = set()


def composite(
    name: str, infer: Infer, body: Body, jvp: Jvp | None, *, transpose: Transpose | None = None,
    batch: Batch | None = None, attrs: tuple[str, ...] = (), doc: str = "", native: bool = False,
    differentiable: bool = True,
) -> None:  # fmt: skip
    """Register a primitive that is computed by `body(b, operands, attrs)`; on the processor by code of its own, if it
    is `native`."""
    _BODIES[name] = body
    if native:
        _NATIVE.add(name)

    def evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
        from nufunc.ir.interpret import run  # the interpreter imports the primitives

        b = Builder(name)
        params = [b.param(type_of(a)) for a in arrays]
        return [np.array(r) for r in run(b.build(body(b, params, attrs)), list(arrays))]

    register(
        Primitive(
            name, "library", infer, evaluate, jvp, transpose, batch or batch_all(name), attrs, doc=doc,
            differentiable=differentiable,
        )
    )  # fmt: skip


def body_of(prim: str, native: bool = True) -> Body | None:
    """The body of a composite primitive; without `native` None for what the processor has code for."""
    return None if not native and prim in _NATIVE else _BODIES.get(prim)


def loop(
    b: Builder, name: str, cond: Callable[[Builder, Values], Value], body: Callable[[Builder, Values], Values],
    consts: Values, carry: Values,
) -> list[Value]:  # fmt: skip
    """A `while` over `carry`, whose condition and body see (consts, carry)."""
    regions: list[Graph] = []
    for part in ("cond", "body"):
        inner = Builder(f"{name}_{part}")
        params = [inner.param(v.type) for v in (*consts, *carry)]
        regions.append(inner.build([cond(inner, params)] if part == "cond" else list(body(inner, params))))
    attrs = {"num_cond": len(consts), "num_body": len(consts)}
    return list(b.emit("while", (*consts, *consts, *carry), attrs, regions))

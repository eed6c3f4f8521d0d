"""The custom call: a computation whose derivatives are given by a rule of its own."""

from __future__ import annotations

from nufunc.ir.errors import VerifyError
from nufunc.ir.graph import Attrs, Graph
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import Arrays, Regions, Types, shown
from nufunc.ir.types import ArrayType


class Rule:
    """What stands behind a `custom` node; `passes.custom` says how it is differentiated, transposed and batched.

    It is an attribute that has a name in the text form but cannot be read from it, since it may hold the user's
    code: a rule may call the function that it belongs to, so no graph could hold it whole. Rules compare by identity.
    """

    name: str
    operand_types: tuple[ArrayType, ...]
    result_types: tuple[ArrayType, ...]

    def body(self) -> Graph:
        """The computation itself, over all operands."""
        raise NotImplementedError


def _infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    rule: Rule = attrs["rule"]
    if tuple(types) != rule.operand_types:
        raise VerifyError(f"custom @{rule.name}: operands {shown(types)}, but it takes {shown(rule.operand_types)}")
    return rule.result_types


def _evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list:
    from nufunc.ir.interpret import run  # the interpreter imports the primitives

    return list(run(attrs["rule"].body(), list(arrays)))


register(
    Primitive("custom", "custom", _infer, _evaluate, attrs=("rule",), doc="a call whose derivatives follow a rule")
)

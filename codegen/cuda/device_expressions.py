"""Expressions of kernel texts: names, operations, choices and calls, on the variables of one function."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from nufunc.codegen.cuda.device_calls import CALLS, device_function
from nufunc.codegen.cuda.device_memory import Memory, space_of
from nufunc.codegen.cuda.device_values import (
    COMPARISONS,
    LITERAL,
    Emitter,
    Pointer,
    Value,
    is_complex,
    literal_type,
    llvm,
    promoted,
    real_of,
)
from nufunc.codegen.text_scalars import CONSTANTS, TYPE_NAMES
from nufunc.ir.errors import UnsupportedError

_SIGNS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.LShift: "<<",
    ast.RShift: ">>", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.Pow: "**",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_REGISTERS = {
    "cuda.threadIdx.x": "tid", "cuda.blockIdx.x": "ctaid", "cuda.gridDim.x": "nctaid", "cuda.blockDim.x": "ntid",
}  # fmt: skip
Result = Value | Pointer | tuple[Any, ...] | str | None


class Wider(Exception):
    """A variable needs another type than that of its first assignment."""


@dataclass
class Variable:
    """Where a variable's parts stand; `natural`: it is never negative."""

    type: str
    slots: tuple[str, ...]
    natural: bool


class Expressions(Memory):
    """Expressions of a function. `types` and `doubtful` (names that may be negative) are what earlier tries found."""

    def __init__(
        self, function: ast.FunctionDef, params: Sequence[Value | Pointer], symbol: str, types: dict[str, str],
        doubtful: set[str],
    ) -> None:  # fmt: skip
        super().__init__()
        self.function, self.symbol, self.types, self.doubtful = function, symbol, types, doubtful
        self.params = dict(zip((a.arg for a in function.args.args), params, strict=True))
        self.entry: list[str] = []
        self.variables: dict[str, Variable] = {}
        self.pointers: dict[str, Pointer] = {k: p for k, p in self.params.items() if isinstance(p, Pointer)}
        self.needs: set[tuple[str, tuple[Any, ...]]] = set()
        self.declared: set[str] = set()
        self.memory: list[str] = []
        self.labels = 0
        self.line = 0
        self.ended = self.again = False
        self.loops: list[tuple[str, str]] = []  # where `continue` and `break` go
        self.returned: list[Value] = []
        self.result: str | None = None

    def lowered(self, name: str, types: tuple[Any, ...]) -> tuple[str, str | None]:
        """The symbol of a function for arguments of types, and the type of its result."""
        raise NotImplementedError

    def refuse(self, what: str) -> NoReturn:
        raise UnsupportedError(f"kernels for CUDA have no {what} ({self.symbol}, line {self.line})")

    def label(self, name: str) -> str:
        self.labels += 1
        return f"{name}{self.labels}"

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.ended = False

    def jump(self, label: str) -> None:
        if not self.ended:
            self.put(f"br label %{label}")
        self.ended = True

    def branch(self, test: Value, yes: str, no: str) -> None:
        self.put(f"br i1 {test.text}, label %{yes}, label %{no}")
        self.ended = True

    def common(self, values: Sequence[Value]) -> str:
        if all(v.literal for v in values):
            return promoted(*(literal_type(v.text) for v in values))
        typed = [v for v in values if not v.literal]
        literals = [v for v in values if v.literal]
        return Emitter().alike(Value(promoted(*(v.type for v in typed)), ("x", "x")), *literals)[0].type

    def assign(self, name: str, value: Value) -> None:
        """Give a variable a value; its type is that of the first."""
        if not isinstance(value, Value):
            self.refuse(f"assignment of {value}")
        variable = self.variables.get(name)
        if variable is None:
            type = self.types.get(name) or (literal_type(value.text) if value.literal else value.type)
            count = self.labels = self.labels + 1
            kinds = _kinds(type)
            slots = tuple(f"%{name}.{count}.{k}" for k in range(len(kinds)))
            self.entry += [f"{slot} = alloca {kind}" for slot, kind in zip(slots, kinds, strict=True)]
            natural = name not in self.doubtful and "int" in type
            variable = self.variables[name] = Variable(type, slots, natural)
        if value.type != variable.type:
            wanted = self.common([Value(variable.type, ""), value])
            if wanted != variable.type:
                self.types[name] = wanted
                raise Wider
            value = self.convert(value, variable.type)
        if variable.natural and not value.natural:
            variable.natural = False
            self.doubtful.add(name)
            self.again = True
        parts = value.text if is_complex(variable.type) else (value.text,)
        if variable.type == "bfloat16":
            parts = (value.text, self.word(value))
        for part, slot, kind in zip(parts, variable.slots, _kinds(variable.type), strict=True):
            self.put(f"store {kind} {part}, {kind}* {slot}")

    def number(self, node: ast.expr) -> Value:
        found = self.expression(node)
        if not isinstance(found, Value):
            self.refuse(f"{ast.unparse(node)} as a number")
        return found

    def truth(self, node: ast.expr) -> Value:
        value = self.number(node)
        return value if value.literal else self.convert(value, "bool_")

    def true_or_false(self, node: ast.expr) -> Value:
        return self.convert(self.truth(node), "bool_")

    def expression(self, node: ast.expr) -> Result:
        match node:
            case ast.Constant(value=bool() | int() | float() | complex() as value):
                return Value(LITERAL, value)
            case ast.Constant(value=str() as value):  # the name of a table
                return value
            case ast.Name(id=name):
                return self.named(name)
            case ast.Attribute():
                return self.attribute(node)
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(_SIGNS[type(op)], self.number(left), self.number(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if _SIGNS.get(type(op)) in COMPARISONS:
                return self.compare(_SIGNS[type(op)], self.number(left), self.number(right))
            case ast.BoolOp(op=op, values=values):
                return self.joined(isinstance(op, ast.And), values)
            case ast.UnaryOp(op=op, operand=operand):
                return self.unary(op, operand)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.conditional(test, body, orelse)
            case ast.Subscript(value=value, slice=index):
                return self.load(self.pointer(value), self.number(index))
            case ast.Tuple(elts=elements):
                return tuple(self.number(e) for e in elements)
            case ast.Call(func=func, args=args, keywords=[]):
                return self.call(dotted(func), args)
        self.refuse(ast.unparse(node))

    def named(self, name: str) -> Value | Pointer:
        if name in self.variables:
            return self.read(name)
        if name in self.pointers:
            return self.pointers[name]
        if name in self.params:
            return self.params[name]
        if name in CONSTANTS:
            return Value(LITERAL, CONSTANTS[name])
        self.refuse(name)

    def read(self, name: str) -> Value:
        variable = self.variables[name]
        kinds = _kinds(variable.type)
        parts = tuple(
            self.op(f"load {kind}, {kind}* {slot}") for kind, slot in zip(kinds, variable.slots, strict=True)
        )
        if variable.type == "bfloat16":
            self.words[parts[0]] = parts[1]
        return Value(variable.type, parts if is_complex(variable.type) else parts[0], variable.natural)

    def attribute(self, node: ast.Attribute) -> Value:
        text = dotted(node)
        if text in _REGISTERS:
            name = f"llvm.nvvm.read.ptx.sreg.{_REGISTERS[text]}.x"
            return self.value(f"call i32 @{name}()", "int32", True)
        value = self.number(node.value)
        if node.attr not in ("real", "imag"):
            self.refuse(text or ast.unparse(node))
        if value.literal:
            return Value(LITERAL, getattr(value.text, node.attr))
        if not is_complex(value.type):
            return value if node.attr == "real" else self.convert(Value(LITERAL, 0), value.type)
        return Value(real_of(value.type), value.text[node.attr == "imag"])

    def unary(self, op: ast.unaryop, operand: ast.expr) -> Value:
        if isinstance(op, ast.Not):
            test = self.truth(operand)
            return Value(LITERAL, not test.text) if test.literal else self.inverted(test)
        value = self.number(operand)
        if isinstance(op, ast.USub):
            return self.negative(value)
        if isinstance(op, ast.Invert):
            return Value(LITERAL, ~value.text) if value.literal else self.inverted(value)
        return value

    def joined(self, every: bool, nodes: Sequence[ast.expr]) -> Value:
        """`and`, `or`; operands that read memory only where the ones before leave it open."""
        first, *rest = nodes
        value, fixed = self.truth(first), Value("bool_", "false" if every else "true")
        for node in rest:
            if value.literal:
                value = self.truth(node) if bool(value.text) == every else value
            elif _is_eager(node):
                text = self.true_or_false(node).text
                value = self.value(f"{'and' if every else 'or'} i1 {value.text}, {text}", "bool_")
            else:
                value = self.branched(value, functools.partial(self.true_or_false, node), lambda: fixed, every)
        return value

    def conditional(self, test: ast.expr, body: ast.expr, orelse: ast.expr) -> Value:
        holds = self.truth(test)
        if holds.literal:
            return self.number(body if holds.text else orelse)
        if _is_eager(body) and _is_eager(orelse):
            return self.choose(holds, self.number(body), self.number(orelse))
        return self.branched(holds, lambda: self.number(body), lambda: self.number(orelse), True)

    def branched(self, test: Value, one: Callable[[], Value], other: Callable[[], Value], first: bool) -> Value:
        """One of two values, of which only the one that is wanted is computed."""
        yes, no, after = self.label("yes"), self.label("no"), self.label("after")
        self.branch(test, *((yes, no) if first else (no, yes)))
        name = f"chosen.{self.labels}"
        for label, what in ((yes, one), (no, other)):
            self.start(label)
            value = what()
            self.assign(name, value)
            self.jump(after)
        self.start(after)
        return self.read(name)

    def call(self, name: str, args: Sequence[ast.expr]) -> Result:
        if name in TYPE_NAMES:
            value = self.number(args[0])
            made = self.convert(value, name)
            return replace(made, natural=False) if value.literal else made  # a user's number, no index
        rule = CALLS.get(name)
        values: list[Any] = [self.expression(a) for a in args]
        if rule is not None:
            return rule(self, values)
        return self.helper(name, values)

    def pointer(self, node: ast.expr) -> Pointer:
        found = self.expression(node)
        if not isinstance(found, Pointer):
            self.refuse(f"{ast.unparse(node)} as an array")
        return found

    def helper(self, name: str, values: Sequence[Value | Pointer]) -> Result:
        """Call a function of `text_scalars`."""
        if device_function(name) is None:
            self.refuse(name)
        values = [self.typed(v) if isinstance(v, Value) else v for v in values]
        key = tuple(v.type if isinstance(v, Value) else (v.type, v.space, v.constant) for v in values)
        symbol, result = self.lowered(name, key)
        self.needs.add((name, key))
        given = []
        for v in values:
            if isinstance(v, Pointer):
                given.append(f"{space_of(v)} {v.text}")
            else:
                given += [f"{llvm(real_of(v.type))} {part}" for part in (v.text if is_complex(v.type) else (v.text,))]
        call = f"@{symbol}({', '.join(given)})"
        if result is None:
            self.put(f"call void {call}")
            return None
        found = self.op(f"call {llvm(result)} {call}")
        if not is_complex(result):
            return Value(result, found)
        parts = [self.op(f"extractvalue {llvm(result)} {found}, {k}") for k in range(2)]
        return Value(result, tuple(parts))


def _kinds(type: str) -> list[str]:
    """The slots of a variable: a complex number's parts; a bfloat16 and its word, of which unused ones cost nothing."""
    real = llvm(real_of(type))
    return [real, "i32"] if type == "bfloat16" else [real] * (2 if is_complex(type) else 1)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_eager(node: ast.expr) -> bool:
    """Whether computing it where nobody wants it is harmless and cheap."""
    calls = (n for n in ast.walk(node) if isinstance(n, ast.Subscript | ast.Call | ast.IfExp))
    cheap = all(isinstance(n, ast.Call) and dotted(n.func) in (*TYPE_NAMES, "abs", "min", "max") for n in calls)
    return cheap and not any(
        isinstance(n, ast.BinOp) and isinstance(n.op, ast.FloorDiv | ast.Mod) for n in ast.walk(node)
    )

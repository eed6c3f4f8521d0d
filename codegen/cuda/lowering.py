"""Kernel texts to LLVM's language as libNVVM reads it: what Note [Kernel texts] allows, and nothing else.

Numba's own way from Python to LLVM infers the type of every variable and takes a few tenths of a second per kernel.
Texts of kernels need no inference: every operand has a type, and a variable has that of what it is first given. Where a
later assignment needs a wider one, the function is lowered again with this. Functions of `text_scalars` that a text
calls are lowered from their own source, once for each types of arguments, and become functions of the module.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from nufunc.codegen.cuda.device_calls import CALLS, DECLARATIONS, device_function
from nufunc.codegen.cuda.device_values import (
    COMPARISONS,
    LITERAL,
    Emitter,
    Pointer,
    Value,
    is_complex,
    literal_type,
    llvm,
    name_of,
    promoted,
    real_of,
    size_of,
)
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.text_scalars import CONSTANTS, TYPES
from nufunc.ir.errors import UnsupportedError

_SIGNS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.LShift: "<<",
    ast.RShift: ">>", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.Pow: "**",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_REGISTERS = {
    "cuda.threadIdx.x": "tid", "cuda.blockIdx.x": "ctaid", "cuda.gridDim.x": "nctaid", "cuda.blockDim.x": "ntid",
}  # fmt: skip
_UNROLLED = 32  # passes of a loop that are written out
_LOADS = 8  # passes of a short loop that are under way together, so that its loads are
_NOTES = [
    "!0 = !{}",
    "!9000 = distinct !{!9000, !9001}", '!9001 = !{!"llvm.loop.unroll.full"}',
    "!9002 = distinct !{!9002, !9003}", f'!9003 = !{{!"llvm.loop.unroll.count", i32 {_LOADS}}}',
]  # fmt: skip
Result = Value | Pointer | tuple[Any, ...] | str | None


@dataclass(frozen=True)
class Lowered:
    """A function of a module, the functions and declarations that it needs, and its global memory."""

    text: str
    result: str | None = None
    needs: frozenset[tuple[str, tuple[Any, ...]]] = frozenset()
    declared: frozenset[str] = frozenset()
    memory: tuple[str, ...] = ()


def module(kernels: Sequence[tuple[str, Kernel]]) -> str:
    """The module of kernels with the names that they have in it, without target and version."""
    bodies, declared, wanted = [], set[str](), list[tuple[str, tuple[Any, ...]]]()
    notes = []
    for symbol, kernel in kernels:
        made = _kernel(symbol, kernel)
        bodies += [*made.memory, made.text]
        declared |= made.declared
        wanted += made.needs
        signature = ", ".join(_parameter(b.dtype) for b in kernel.buffers) + ", i32 addrspace(1)*"
        pointer = f"void ({signature.removeprefix(', ')})* @{symbol}"
        notes += [f'!{{{pointer}, !"kernel", i32 1}}', f'!{{{pointer}, !"maxntidx", i32 {kernel.threads}}}']
    known = set[tuple[str, tuple[Any, ...]]]()
    while wanted:
        key = wanted.pop()
        if key not in known:
            known.add(key)
            made = _helper(*key)
            bodies.append(made.text)
            declared |= made.declared
            wanted += made.needs
    numbers = itertools.count(1)
    annotations = [f"!{next(numbers)} = {note}" for note in notes]
    listed = ", ".join(f"!{k + 1}" for k in range(len(notes)))
    return "\n".join(
        [*sorted(declared), *bodies, *annotations, f"!nvvm.annotations = !{{{listed}}}", *_NOTES]
    )  # fmt: skip


def _parameter(dtype: np.dtype) -> str:
    return f"{llvm(real_of(name_of(dtype)))} addrspace(1)*"


def _kernel(symbol: str, kernel: Kernel) -> Lowered:
    function = _parsed(kernel.source)
    names = [a.arg for a in function.args.args]
    dtypes = [*(b.dtype for b in kernel.buffers), np.dtype(np.int32)]
    if len(names) != len(dtypes):
        raise UnsupportedError(f"the kernel {kernel.name} has {len(names)} parameters for {len(dtypes)} arrays")
    written = [*(b.written for b in kernel.buffers), True]
    params: list[Value | Pointer] = [
        Pointer(name_of(dtype), f"%p{k}", 1, not w) for k, (dtype, w) in enumerate(zip(dtypes, written, strict=True))
    ]
    made = _lowered(function, params, symbol)
    header = ", ".join(f"{_parameter(dtype)} %p{k}" for k, dtype in enumerate(dtypes))
    text = f"define void @{symbol}({header}) {{\n" + "\n".join(made.lines) + "\n}"
    return Lowered(text, None, frozenset(made.needs), frozenset(made.declared), tuple(made.memory))


@functools.cache
def _helper(name: str, types: tuple[Any, ...]) -> Lowered:
    """A function of `text_scalars` for arguments of types: names, or (type, space, constant) of pointers."""
    source = device_function(name)
    assert source is not None
    function = _parsed(textwrap.dedent(inspect.getsource(source)))
    params: list[Value | Pointer] = []
    header = []
    for k, type in enumerate(types):
        if isinstance(type, tuple):
            pointer = Pointer(type[0], f"%p{k}", *type[1:])
            params.append(pointer)
            header.append(f"{_space(pointer)} %p{k}")
        elif is_complex(type):
            params.append(Value(type, (f"%p{k}r", f"%p{k}i")))
            header += [f"{llvm(real_of(type))} %p{k}{part}" for part in "ri"]
        else:
            params.append(Value(type, f"%p{k}"))
            header.append(f"{llvm(type)} %p{k}")
    made = _lowered(function, params, name)
    kind = "void" if made.result is None else llvm(made.result)
    symbol = _mangled(name, types)
    text = f"define internal {kind} @{symbol}({', '.join(header)}) {{\n" + "\n".join(made.lines) + "\n}"
    return Lowered(text, made.result, frozenset(made.needs), frozenset(made.declared))


def _space(pointer: Pointer) -> str:
    space = f" addrspace({pointer.space})" if pointer.space else ""
    return f"{llvm(real_of(pointer.type))}{space}*"


def _mangled(name: str, types: Sequence[Any]) -> str:
    return "_".join((name, *(t if isinstance(t, str) else f"{t[0]}p{t[1]}{int(t[2])}" for t in types)))


def _parsed(source: str) -> ast.FunctionDef:
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree


class _Wider(Exception):
    """A variable needs another type than that of its first assignment."""


def _lowered(function: ast.FunctionDef, params: Sequence[Value | Pointer], symbol: str) -> _Function:
    types: dict[str, str] = {}
    doubtful: set[str] = set()
    while True:
        try:
            made = _Function(function, params, symbol, types, doubtful)
            made.run()
            return made
        except _Wider:
            continue


@dataclass
class _Variable:
    type: str
    slots: tuple[str, ...]
    natural: bool


class _Function(Emitter):
    """Lowers one function. `types` and `doubtful` (names that may be negative) are what earlier tries have found."""

    def __init__(
        self, function: ast.FunctionDef, params: Sequence[Value | Pointer], symbol: str, types: dict[str, str],
        doubtful: set[str],
    ) -> None:  # fmt: skip
        super().__init__()
        self.function, self.symbol, self.types, self.doubtful = function, symbol, types, doubtful
        self.params = dict(zip((a.arg for a in function.args.args), params, strict=True))
        self.entry: list[str] = []
        self.variables: dict[str, _Variable] = {}
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

    # -- structure

    def run(self) -> None:
        assigned = {
            n.id for n in ast.walk(self.function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        for name, param in self.params.items():
            if isinstance(param, Value) and name in assigned:
                self.assign(name, param)
        returns = [n for n in ast.walk(self.function) if isinstance(n, ast.Return) and n.value is not None]
        if returns:
            self.result = self.types.get("return")
        self.block(self.function.body)
        if not self.ended:
            self.put("ret void" if not returns else "unreachable")
        if returns and self.result is None:
            self.types["return"] = self.common(self.returned)
            self.again = True
        if self.again:
            raise _Wider
        self.lines = ["  " + line for line in self.entry] + self.lines
        called = set(re.findall(r"@([\w.]+)\(", "\n".join(self.lines)))
        self.declared = {DECLARATIONS[name] for name in called if name in DECLARATIONS}

    def common(self, values: Sequence[Value]) -> str:
        if all(v.literal for v in values):
            return promoted(*(literal_type(v.text) for v in values))
        typed = [v for v in values if not v.literal]
        literals = [v for v in values if v.literal]
        return Emitter().alike(Value(promoted(*(v.type for v in typed)), ("x", "x")), *literals)[0].type

    def block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if self.ended:
                return
            self.line = statement.lineno
            self.statement(statement)

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

    # -- statements

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=[target], value=value):
                self.assigned(target, value)
            case ast.AugAssign(target=target, op=op, value=value):
                left = ast.copy_location(ast.parse(ast.unparse(target), mode="eval").body, target)
                self.assigned(target, ast.copy_location(ast.BinOp(left, op, value), node))
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=value):
                self.expression(value)
            case ast.If():
                self.if_(node)
            case ast.While():
                self.while_(node)
            case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"), args=args), body=body):
                self.for_(name, args, body)
            case ast.Return(value=value):
                self.return_(value)
            case ast.Break() | ast.Continue():
                self.jump(self.loops[-1][isinstance(node, ast.Break)])
            case _:
                self.refuse(type(node).__name__)

    def assigned(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            made = _array_of(value)
            if made is not None:
                self.array(target.id, *made)
                return
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            values: Any = [self.number(v) for v in value.elts]
        else:
            values = self.expression(value)
        if isinstance(target, ast.Tuple):
            for one, v in zip(target.elts, values, strict=True):
                self.store(one, v)
        else:
            self.store(target, values)

    def store(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            if isinstance(value, Pointer):
                self.pointers[target.id] = value
                return
            self.assign(target.id, value)
        elif isinstance(target, ast.Subscript):
            pointer, index = self.pointer(target.value), self.number(target.slice)
            self.write(pointer, index, value)
        else:
            self.refuse(f"assignment to {ast.unparse(target)}")

    def assign(self, name: str, value: Value) -> None:
        """Give a variable a value; its type is that of the first."""
        if not isinstance(value, Value):
            self.refuse(f"assignment of {value}")
        variable = self.variables.get(name)
        if variable is None:
            type = self.types.get(name) or (literal_type(value.text) if value.literal else value.type)
            count = self.labels = self.labels + 1
            reals = [llvm(real_of(type))] * (2 if is_complex(type) else 1)
            slots = tuple(f"%{name}.{count}.{k}" for k in range(len(reals)))
            self.entry += [f"{slot} = alloca {kind}" for slot, kind in zip(slots, reals, strict=True)]
            natural = name not in self.doubtful and "int" in type
            variable = self.variables[name] = _Variable(type, slots, natural)
        if value.type != variable.type:
            wanted = self.common([Value(variable.type, ""), value])
            if wanted != variable.type:
                self.types[name] = wanted
                raise _Wider
            value = self.convert(value, variable.type)
        if variable.natural and not value.natural:
            variable.natural = False
            self.doubtful.add(name)
            self.again = True
        parts = value.text if is_complex(variable.type) else (value.text,)
        kind = llvm(real_of(variable.type))
        for part, slot in zip(parts, variable.slots, strict=True):
            self.put(f"store {kind} {part}, {kind}* {slot}")

    def array(self, name: str, where: str, size: int, type: str) -> None:
        """Memory of a block or of a thread."""
        real = llvm(real_of(type))
        count = size * 2 if is_complex(type) else size
        if where == "shared":
            symbol = f"{self.symbol}.{name}"
            self.memory.append(
                f"@{symbol} = internal addrspace(3) global [{count} x {real}] undef, align 16"
            )
            place = f"getelementptr ([{count} x {real}], [{count} x {real}] addrspace(3)* @{symbol}, i32 0, i32 0)"
            self.pointers[name] = Pointer(type, place, 3)
            return
        self.entry.append(f"%{name}.local = alloca [{count} x {real}], align {size_of(type)}")
        start = f"%{name}.first = getelementptr [{count} x {real}], [{count} x {real}]* %{name}.local, i32 0, i32 0"
        self.entry.append(start)
        self.pointers[name] = Pointer(type, f"%{name}.first", 0)

    def if_(self, node: ast.If) -> None:
        test = self.truth(node.test)
        if test.literal:
            self.block(node.body if test.text else node.orelse)
            return
        yes, no, after = self.label("yes"), self.label("no"), self.label("after")
        self.branch(test, yes, no if node.orelse else after)
        self.start(yes)
        self.block(node.body)
        ends = [self.ended]
        self.jump(after)
        if node.orelse:
            self.start(no)
            self.block(node.orelse)
            ends.append(self.ended)
            self.jump(after)
        if len(ends) < 2 or not all(ends):
            self.start(after)

    def while_(self, node: ast.While) -> None:
        test, body, after = self.label("while"), self.label("body"), self.label("after")
        self.jump(test)
        self.start(test)
        holds = self.truth(node.test)
        if holds.literal:
            holds = self.convert(holds, "bool_")
        self.branch(holds, body, after)
        self.start(body)
        self.loops.append((test, after))
        self.block(node.body)
        self.loops.pop()
        self.jump(test)
        self.start(after)

    def for_(self, name: str, args: Sequence[ast.expr], body: Sequence[ast.stmt]) -> None:
        zero = [Value(LITERAL, 0)] if len(args) == 1 else []
        first, last, step = [*zero, *map(self.number, args), Value(LITERAL, 1)][:3]
        typed = [v.type for v in (first, last, step) if not v.literal]
        type = promoted(*typed, *(literal_type(v.text) for v in (first, last, step) if v.literal))
        first, last, step = (self.convert(v, type) for v in (first, last, step))
        down = step.text.startswith("-")
        self.assign(name, first)
        test, inside, further, after = (self.label(word) for word in ("for", "body", "next", "after"))
        self.jump(test)
        self.start(test)
        holds = self.compare(">" if down else "<", self.read(name), last)
        self.branch(holds, inside, after)
        self.start(inside)
        self.loops.append((further, after))
        self.block(body)
        self.loops.pop()
        self.jump(further)
        self.start(further)
        moved = self.binary("+", self.read(name), step)
        self.assign(name, moved)
        self.jump(test)
        if _is_short(args):
            self.lines[-1] += ", !llvm.loop !9000"
        elif _only_adds_up(body):
            self.lines[-1] += ", !llvm.loop !9002"
        self.start(after)

    def return_(self, value: ast.expr | None) -> None:
        if value is None:
            self.put("ret void")
        else:
            found = self.number(value)
            self.returned.append(found)
            type = self.result or (literal_type(found.text) if found.literal else found.type)
            found = self.convert(found, type)
            if is_complex(type):
                kind, real = llvm(type), llvm(real_of(type))
                half = self.op(f"insertvalue {kind} undef, {real} {found.text[0]}, 0")
                self.put(f"ret {kind} {self.op(f'insertvalue {kind} {half}, {real} {found.text[1]}, 1')}")
            else:
                self.put(f"ret {llvm(type)} {found.text}")
        self.ended = True

    # -- expressions

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
                return self.call(_dotted(func), args)
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
        kind = llvm(real_of(variable.type))
        parts = tuple(self.op(f"load {kind}, {kind}* {slot}") for slot in variable.slots)
        return Value(variable.type, parts if is_complex(variable.type) else parts[0], variable.natural)

    def attribute(self, node: ast.Attribute) -> Value:
        text = _dotted(node)
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
        if name in TYPES:
            value = self.number(args[0])
            made = self.convert(value, name)
            return replace(made, natural=False) if value.literal else made  # a user's number, no index
        rule = CALLS.get(name)
        values: list[Any] = [self.expression(a) for a in args]
        if rule is not None:
            return rule(self, values)
        return self.helper(name, values)

    def helper(self, name: str, values: Sequence[Value | Pointer]) -> Result:
        """Call a function of `text_scalars`."""
        if device_function(name) is None:
            self.refuse(name)
        values = [self.typed(v) if isinstance(v, Value) else v for v in values]
        key = tuple(v.type if isinstance(v, Value) else (v.type, v.space, v.constant) for v in values)
        made = _helper(name, key)
        self.needs.add((name, key))
        given = []
        for v in values:
            if isinstance(v, Pointer):
                given.append(f"{_space(v)} {v.text}")
            else:
                given += [f"{llvm(real_of(v.type))} {part}" for part in (v.text if is_complex(v.type) else (v.text,))]
        call = f"@{_mangled(name, key)}({', '.join(given)})"
        if made.result is None:
            self.put(f"call void {call}")
            return None
        found = self.op(f"call {llvm(made.result)} {call}")
        if not is_complex(made.result):
            return Value(made.result, found)
        parts = [self.op(f"extractvalue {llvm(made.result)} {found}, {k}") for k in range(2)]
        return Value(made.result, tuple(parts))

    # -- memory

    def pointer(self, node: ast.expr) -> Pointer:
        found = self.expression(node)
        if not isinstance(found, Pointer):
            self.refuse(f"{ast.unparse(node)} as an array")
        return found

    def address(self, pointer: Pointer, index: Value, width: int = 1) -> tuple[str, str]:
        """The address of an element, or of `width` neighbours, and the type of what lies there."""
        index = self.convert(index, "int64")
        real = llvm(real_of(pointer.type))
        width *= 1 + is_complex(pointer.type)
        text = index.text
        if is_complex(pointer.type):
            text = self.op(f"shl i64 {text}, 1")
        place = self.op(f"getelementptr {real}, {_space(pointer)} {pointer.text}, i64 {text}")
        if width == 1:
            return place, real
        kind = f"<{width} x {real}>"
        space = f" addrspace({pointer.space})" if pointer.space else ""
        return self.op(f"bitcast {_space(pointer)} {place} to {kind}{space}*"), kind

    def load(self, pointer: Pointer, index: Value) -> Value:
        return self.loaded(pointer, index, 1)[0]

    def loaded(self, pointer: Pointer, index: Value, width: int) -> tuple[Value, ...]:
        place, kind = self.address(pointer, index, width)
        space = f" addrspace({pointer.space})" if pointer.space else ""
        never = ", !invariant.load !0" if pointer.constant else ""
        found = self.op(f"load {kind}, {kind}{space}* {place}, align {_alignment(pointer, width)}{never}")
        if kind[0] != "<":
            return (Value(pointer.type, found),)
        count = width * (1 + is_complex(pointer.type))
        parts = [self.op(f"extractelement {kind} {found}, i32 {k}") for k in range(count)]
        if is_complex(pointer.type):
            return tuple(Value(pointer.type, tuple(parts[k : k + 2])) for k in range(0, count, 2))
        return tuple(Value(pointer.type, part) for part in parts)

    def write(self, pointer: Pointer, index: Value, value: Value) -> None:
        self.written(pointer, index, (value,))

    def written(self, pointer: Pointer, index: Value, values: Sequence[Value]) -> None:
        values = [self.convert(v, pointer.type) for v in values]
        place, kind = self.address(pointer, index, len(values))
        parts = [p for v in values for p in (v.text if is_complex(pointer.type) else (v.text,))]
        whole = parts[0]
        if kind[0] == "<":
            whole = "undef"
            for k, part in enumerate(parts):
                whole = self.op(f"insertelement {kind} {whole}, {llvm(real_of(pointer.type))} {part}, i32 {k}")
        space = f" addrspace({pointer.space})" if pointer.space else ""
        self.put(f"store {kind} {whole}, {kind}{space}* {place}, align {_alignment(pointer, len(values))}")


def _is_short(args: Sequence[ast.expr]) -> bool:
    """Whether a loop over a range goes a known, small number of times."""
    numbers = [a.value for a in args if isinstance(a, ast.Constant) and isinstance(a.value, int)]
    return len(numbers) == len(args) and len(range(*numbers)) <= _UNROLLED


def _only_adds_up(body: Sequence[ast.stmt]) -> bool:
    """Whether a loop has little to do but to load."""
    parts = [n for statement in body for n in ast.walk(statement)]
    plain = all(isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name) for s in body)
    loads = sum(isinstance(n, ast.Subscript) for n in parts)
    return plain and len(body) <= 6 and 0 < loads <= 2 and not any(isinstance(n, ast.Call) for n in parts)


def _alignment(pointer: Pointer, width: int) -> int:
    """Bytes that an address is a multiple of; a complex number alone may begin anywhere between real ones."""
    return size_of(pointer.type) * width if width > 1 or pointer.space == 3 else size_of(real_of(pointer.type))


def _array_of(node: ast.Call) -> tuple[str, int, str] | None:
    """Where, how many and of what type, of an array of a block or thread."""
    name = _dotted(node.func)
    if name not in ("cuda.shared.array", "cuda.local.array"):
        return None
    size, type = ast.literal_eval(node.args[0]), _dotted(node.args[1])
    return name.split(".")[1], size, "uint8" if type == "bool_" else type


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_eager(node: ast.expr) -> bool:
    """Whether computing it where nobody wants it is harmless and cheap."""
    calls = (n for n in ast.walk(node) if isinstance(n, ast.Subscript | ast.Call | ast.IfExp))
    return all(isinstance(n, ast.Call) and _dotted(n.func) in (*TYPES, "abs", "min", "max") for n in calls) and not any(
        isinstance(n, ast.BinOp) and isinstance(n.op, ast.FloorDiv | ast.Mod) for n in ast.walk(node)
    )


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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nufunc.codegen.cuda.device_calls import DECLARATIONS, device_function
from nufunc.codegen.cuda.device_expressions import Expressions, Wider, dotted
from nufunc.codegen.cuda.device_memory import space_of
from nufunc.codegen.cuda.device_values import (
    LITERAL,
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
from nufunc.codegen.cuda.writer import Kernel
from nufunc.ir.errors import UnsupportedError

_UNROLLED, _NESTED = 32, 512  # passes of a loop that are written out; and with those of loops inside
_LOADS = 8  # passes of a short loop that are under way together, so that its loads are
_NOTES = [
    "!0 = !{}",
    "!9000 = distinct !{!9000, !9001}", '!9001 = !{!"llvm.loop.unroll.full"}',
    "!9002 = distinct !{!9002, !9003}", f'!9003 = !{{!"llvm.loop.unroll.count", i32 {_LOADS}}}',
    "!9004 = distinct !{!9004, !9005}", '!9005 = !{!"llvm.loop.unroll.disable"}',
]  # fmt: skip


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
            header.append(f"{space_of(pointer)} %p{k}")
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


def _mangled(name: str, types: Sequence[Any]) -> str:
    return "_".join((name, *(t if isinstance(t, str) else f"{t[0]}p{t[1]}{int(t[2])}" for t in types)))


def _parsed(source: str) -> ast.FunctionDef:
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree


def _lowered(function: ast.FunctionDef, params: Sequence[Value | Pointer], symbol: str) -> _Function:
    types: dict[str, str] = {}
    doubtful: set[str] = set()
    while True:
        try:
            made = _Function(function, params, symbol, types, doubtful)
            made.run()
            return made
        except Wider:
            continue


class _Function(Expressions):
    """Lowers one function: its statements."""

    def lowered(self, name: str, types: tuple[Any, ...]) -> tuple[str, str | None]:
        return _mangled(name, types), _helper(name, types).result

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
            raise Wider
        self.lines = ["  " + line for line in self.entry] + self.lines
        called = set(re.findall(r"@([\w.]+)\(", "\n".join(self.lines)))
        self.declared = {DECLARATIONS[name] for name in called if name in DECLARATIONS}

    def block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if self.ended:
                return
            self.line = statement.lineno
            self.statement(statement)

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
        if _meets(body):
            self.lines[-1] += ", !llvm.loop !9004"
        elif _is_short(args, body):
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


def _is_short(args: Sequence[ast.expr], body: Sequence[ast.stmt]) -> bool:
    """Whether a loop over a range goes a known, small number of times, also with the loops inside of it."""
    numbers = [a.value for a in args if isinstance(a, ast.Constant) and isinstance(a.value, int)]
    if len(numbers) < len(args):
        return False
    passes = len(range(*numbers))
    return passes <= _UNROLLED and passes * _passes(body) <= _NESTED


def _passes(body: Sequence[ast.stmt]) -> int:
    """How often the innermost statements of loops over ranges run, at most, as far as is known."""
    most = 1
    for loop in (n for statement in body for n in ast.walk(statement) if isinstance(n, ast.For)):
        args = loop.iter.args if isinstance(loop.iter, ast.Call) else []
        numbers = [a.value if isinstance(a, ast.Constant) and isinstance(a.value, int) else 0 for a in args]
        own = len(range(*numbers)) if len(numbers) < 3 else 1
        most = max(most, min(own, _UNROLLED) * _passes(loop.body))
    return most


def _meets(body: Sequence[ast.stmt]) -> bool:
    """Whether the threads of a block wait for each other in a loop; copies of it would only be more code."""
    calls = (n for statement in body for n in ast.walk(statement) if isinstance(n, ast.Call))
    return any(dotted(n.func) == "cuda.syncthreads" for n in calls)


def _only_adds_up(body: Sequence[ast.stmt]) -> bool:
    """Whether a loop has little to do but to load."""
    parts = [n for statement in body for n in ast.walk(statement)]
    plain = all(isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name) for s in body)
    loads = sum(isinstance(n, ast.Subscript) for n in parts)
    return plain and len(body) <= 6 and 0 < loads <= 2 and not any(isinstance(n, ast.Call) for n in parts)


def _array_of(node: ast.Call) -> tuple[str, int, str] | None:
    """Where, how many and of what type, of an array of a block or thread."""
    name = dotted(node.func)
    if name not in ("cuda.shared.array", "cuda.local.array"):
        return None
    size, type = ast.literal_eval(node.args[0]), dotted(node.args[1])
    return name.split(".")[1], size, "uint8" if type == "bool_" else type

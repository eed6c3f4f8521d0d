"""Libraries ahead of time: plans as plain C functions, in one object file without Python.

Note [C functions]
    int32_t NAME(inputs..., results..., void *workspace)

around the plan of the same graph (Note [Plan ABI] in `nufunc.codegen.callspec`). What the plan's table holds in a
process of Python is part of the library here: constants as data; the functions of tapes over malloc; BLAS and LAPACK as
symbols of the libraries that were named; and, for parallel regions, a loop over the tasks, or what the program gave to
`LIBRARY_parallel_for`. Calls keep nothing between them, so they may run side by side.
"""

from __future__ import annotations

import functools
import keyword
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nufunc.codegen import backend, elf, factor_library, tape_library, threads
from nufunc.codegen.callspec import STACK_WORKSPACE, WORKSPACE_ALIGNMENT, plan_symbol
from nufunc.codegen.compile import Lowered, symbol
from nufunc.codegen.loading import PASSES
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.types import is_half

OPTIMISE = backend.Optimise(passes=(*PASSES, "global_dead_code_eliminate"))
_OUT_OF_MEMORY = -1

_C_TYPES = {
    "bool": "uint8_t", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
    "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "uint64": "uint64_t",
    "float32": "float", "float64": "double", "complex64": "float", "complex128": "double", "float16": "uint16_t",
    "bfloat16": "uint16_t",
}  # fmt: skip
_LLVM_TYPES = {"float32": "float", "float64": "double", "bool": "i8 zeroext"}
_WORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while workspace "
    "class new delete this template namespace operator bool true false and or not xor main".split()
)


def identifier(text: str, taken: Sequence[str] = ()) -> str:
    """A name that C, C++ and Python accept, and nobody has taken."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "x"
    name = f"x{name}" if name[0].isdigit() else name
    if name in _WORDS or keyword.iskeyword(name):
        name += "_"
    found, k = name, 1
    while found in taken:
        found, k = f"{name}_{k}", k + 1
    return found


@dataclass(frozen=True)
class Parameter:
    """A parameter of a C function: an input, or memory for a result. `about` says what it is in the user's function."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    about: str
    written: bool

    @property
    def by_value(self) -> bool:
        """Numbers are, but for complex ones, which are pairs, and halves, for whose bits 0.5 would silently be 0."""
        return not self.written and self.shape == () and self.dtype.kind in "iufb" and not is_half(self.dtype)

    @property
    def c_type(self) -> str:
        return _C_TYPES[self.dtype.name]

    @property
    def elements(self) -> int:
        """Numbers of the C type."""
        return math.prod(self.shape) * (2 if self.dtype.kind == "c" else 1)

    def declared(self) -> str:
        if self.by_value:
            return f"{self.c_type} {self.name}"
        return f"{'' if self.written else 'const '}{self.c_type} *{self.name}"

    def described(self) -> str:
        kind = "complex, as pairs (real, imaginary), " if self.dtype.kind == "c" else ""
        kind = f"the bits of {self.dtype.name}, " if is_half(self.dtype) else kind
        size = " x ".join(map(str, self.shape)) or "1"
        return f"{kind}{size} {self.c_type}, {self.about}"


@dataclass(frozen=True)
class EntryPoint:
    """A function of a library. `inputs` and `results` are its parameters; a result that stands in an input has no
    parameter of its own (None)."""

    name: str
    lowered: Lowered
    about: str
    inputs: tuple[Parameter, ...]
    results: tuple[Parameter | None, ...]

    @property
    def parameters(self) -> list[Parameter]:
        return [*self.inputs, *(r for r in self.results if r is not None)]

    @cached_property
    def errors(self) -> dict[int, str]:
        """What the codes that it returns mean."""
        found = {0: "done", _OUT_OF_MEMORY: "there is no memory for the workspace"}
        for code in self.lowered.sites:
            found[code] = " ".join(str(self.lowered.error(code)).split())
        return found

    def prototype(self) -> str:
        return f"int32_t {self.name}({', '.join([*(p.declared() for p in self.parameters), 'void *workspace'])})"


@dataclass(frozen=True)
class Library:
    """Functions that become one library. `blas` and `lapack` name libraries that have these routines."""

    name: str
    entries: tuple[EntryPoint, ...]
    blas: str | None = None
    lapack: str | None = None

    def object_file(self) -> bytes:
        """Machine code for `backend.target()`."""
        texts = [_common_text(self.name)]
        names = {e for entry in self.entries for e in entry.lowered.externs if isinstance(e, str)}
        if any(map(_is_tape, names)):
            texts.append(_shared(tape_library.plain_text()))
        texts += [_shared(factor_library.text(name)) for name in sorted(names) if _is_factor(name)]
        texts += [entry_text(entry, functools.partial(self._slot, entry)) for entry in self.entries]
        code = backend.object_file(texts, self.name, OPTIMISE)
        missing = [s.removeprefix("nf_scipy.").split(".")[0] for s in self.needs(code) if s.startswith("nf_scipy.")]
        if missing:
            raise UnsupportedError(
                f"aot: scipy.special.{missing[0]} is called inside SciPy, which a library does without; it has no "
                "code of its own here"
            )
        return code

    @staticmethod
    def needs(code: bytes) -> list[str]:
        """What the object file expects from others."""
        return sorted(set(elf.undefined_symbols(code)))

    def _slot(self, entry: EntryPoint, k: int, extern: Any) -> tuple[str, str]:
        """(symbol in the table, its definition or declaration)."""
        if isinstance(extern, np.ndarray):
            name = f"{entry.name}.constant.{k}"
            data = np.ascontiguousarray(extern).tobytes()
            content = "".join(map("\\{:02X}".format, data))
            return f'@"{name}"', f'@"{name}" = internal constant [{len(data)} x i8] c"{content}", align 64'
        if extern == threads.LAUNCH:
            return f'@"{threads.LAUNCH}"', f'declare void @"{threads.LAUNCH}"(ptr, ptr, i64)'
        if _is_tape(extern):
            name = tape_library.exported(extern)
            return f"@{name}", f"declare void @{name}()"
        if _is_factor(extern):
            name = factor_library.exported(extern)
            return f'@"{name}"', f'declare void @"{name}"()'
        if not isinstance(extern, str) or extern.startswith("Py"):
            raise UnsupportedError(f"aot: {entry.name} calls a Python function, which a library cannot do")
        if not extern.isidentifier():
            raise UnsupportedError(f"aot: {entry.name} needs {extern}, which only a process with NumPy has")
        kind = "blas" if extern in _BLAS or extern[1:] in _BLAS else "lapack"
        if getattr(self, kind) is None:
            raise UnsupportedError(
                f"aot: {entry.name} needs {extern} of {kind.upper()}; name a library that has it: "
                f'{kind}="openblas", for instance'
            )
        return f"@{extern}_", f"declare void @{extern}_()"


Slot = Callable[[int, Any], tuple[str, str]]


def entry_text(entry: EntryPoint, slot: Slot) -> str:
    """LLVM text of a C function with the plan around which it stands. `slot` gives for each extern of the plan, by
    number, a pointer and what declares or defines it."""
    plan = plan_symbol(symbol(entry.lowered.name))
    start = re.compile(rf'^define i32 @"?{re.escape(plan)}"?(\(.*\).*)$', re.MULTILINE)
    text = start.sub(rf'define internal i32 @"{plan}"\1 alwaysinline', entry.lowered.text)
    pairs = [slot(k, extern) for k, extern in enumerate(entry.lowered.externs)]
    table, slots = f"{entry.name}.table", ", ".join(f"ptr {pointer}" for pointer, _ in pairs)
    rest = [*dict.fromkeys(declaration for _, declaration in pairs if declaration)]
    rest.append(f'@"{table}" = internal constant [{len(pairs)} x ptr] [{slots}]')
    return "\n".join([text, *rest, _function_text(entry, plan, table), _errors_text(entry)])


_BLAS = frozenset("gemm gemv ger geru gerc trsm trmm syrk herk dot dotu dotc axpy scal".split())


def _is_tape(extern: Any) -> bool:
    return isinstance(extern, str) and extern.startswith(tape_library.PREFIX)


def _is_factor(extern: Any) -> bool:
    return isinstance(extern, str) and extern.startswith(factor_library.PREFIX)


def _shared(text: str) -> str:
    """The text of a module whose functions other modules may define as well."""
    return re.sub(r"^define (?!internal)(?:hidden |external )?", "define weak_odr hidden ", text, flags=re.MULTILINE)


def _common_text(library: str) -> str:
    """What all functions of a library share: how the tasks of a parallel region are run."""
    return f"""
@"{library}.run" = internal global ptr null, align 8

define void @{library}_parallel_for(ptr %run) {{
  store atomic ptr %run, ptr @"{library}.run" release, align 8
  ret void
}}

define hidden void @"{threads.LAUNCH}"(ptr %body, ptr %data, i64 %tasks) {{
begin:
  %run = load atomic ptr, ptr @"{library}.run" acquire, align 8
  %own = icmp eq ptr %run, null
  br i1 %own, label %test, label %given
given:
  call void %run(ptr %body, ptr %data, i64 %tasks)
  ret void
test:
  %k = phi i64 [ 0, %begin ], [ %next, %task ]
  %more = icmp slt i64 %k, %tasks
  br i1 %more, label %task, label %done
task:
  call void %body(ptr %data, i64 %k, i64 %tasks)
  %next = add i64 %k, 1
  br label %test
done:
  ret void
}}
"""


def llvm_type(dtype: np.dtype) -> str:
    if dtype.name in _LLVM_TYPES:
        return _LLVM_TYPES[dtype.name]
    bits = 8 * dtype.itemsize
    small = (" zeroext" if dtype.kind == "u" else " signext") if bits < 32 else ""
    return f"i{bits}{small}"


def _function_text(entry: EntryPoint, plan: str, table: str) -> str:
    """The C function: arrays of pointers for the plan, and a workspace if none is given."""
    size = entry.lowered.workspace
    params = [f"{llvm_type(p.dtype) if p.by_value else 'ptr'} %p{k}" for k, p in enumerate(entry.parameters)]
    lines = [f"define i32 @{entry.name}({', '.join([*params, 'ptr %given'])}) {{", "begin:"]
    places: dict[int, str] = {}
    for k, p in enumerate(entry.parameters):
        places[id(p)] = f"%p{k}"
        if p.by_value:
            kind = llvm_type(p.dtype).split()[0]
            lines += [f"  %v{k} = alloca {kind}, align 16", f"  store {kind} %p{k}, ptr %v{k}"]
            places[id(p)] = f"%v{k}"
    inputs = [places[id(p)] for p in entry.inputs]
    sources = [r.source for r in entry.lowered.spec.results]
    outputs = [
        inputs[source] if result is None and source is not None else places[id(result)]
        for result, source in zip(entry.results, sources, strict=True)
    ]
    for name, pointers in (("inputs", inputs), ("outputs", outputs)):
        lines.append(f"  %{name} = alloca [{max(len(pointers), 1)} x ptr], align 8")
        for k, pointer in enumerate(pointers):
            lines.append(f"  %{name}.{k} = getelementptr ptr, ptr %{name}, i64 {k}")
            lines.append(f"  store ptr {pointer}, ptr %{name}.{k}")
    call = f'call i32 @"{plan}"(ptr %inputs, ptr %outputs, ptr %block, ptr @"{table}")'
    if size <= STACK_WORKSPACE:
        lines += [
            f"  %own = alloca [{max(size, 1)} x i8], align {WORKSPACE_ALIGNMENT}",
            "  %none = icmp eq ptr %given, null",
            "  %block = select i1 %none, ptr %own, ptr %given",
            f"  %code = {call}",
            "  ret i32 %code",
            "}",
        ]
        return "\n".join(lines)
    whole = -(-size // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
    lines += [
        "  %none = icmp eq ptr %given, null",
        "  br i1 %none, label %make, label %run",
        "make:",
        f"  %made = call ptr @aligned_alloc(i64 {WORKSPACE_ALIGNMENT}, i64 {whole})",
        "  %failed = icmp eq ptr %made, null",
        "  br i1 %failed, label %out, label %run",
        "run:",
        "  %block = phi ptr [ %given, %begin ], [ %made, %make ]",
        f"  %code = {call}",
        "  br i1 %none, label %free, label %done",
        "free:",
        "  call void @free(ptr %block)",
        "  br label %done",
        "done:",
        "  ret i32 %code",
        "out:",
        f"  ret i32 {_OUT_OF_MEMORY}",
        "}",
        "declare ptr @aligned_alloc(i64, i64)",
        "declare void @free(ptr)",
    ]
    return "\n".join(lines)


def _errors_text(entry: EntryPoint) -> str:
    """`const char *NAME_error(int32_t code)`."""
    lines, cases = [], []
    for k, message in enumerate([*entry.errors.values(), "unknown"]):
        data = message.encode() + b"\0"
        content = "".join(map("\\{:02X}".format, data))
        lines.append(f'@"{entry.name}.error.{k}" = internal constant [{len(data)} x i8] c"{content}"')
    lines += [f"define ptr @{entry.name}_error(i32 %code) {{", "begin:"]
    for k, code in enumerate(entry.errors):
        cases.append(f"i32 {code}, label %case{k}")
    lines.append(f"  switch i32 %code, label %unknown [ {' '.join(cases)} ]")
    for k in range(len(entry.errors)):
        lines += [f"case{k}:", f'  ret ptr @"{entry.name}.error.{k}"']
    lines += ["unknown:", f'  ret ptr @"{entry.name}.error.{len(entry.errors)}"', "}"]
    return "\n".join(lines)

"""C functions of this process: compiled functions at addresses that C, SciPy and njit-compiled code call directly.

A function has the form of Note [C functions] in `nufunc.codegen.ahead`, and beside it, where its parameters are of the
kind, forms that others ask for. It is compiled into one piece with its plan, so that a scalar function keeps its values
in registers. What the plan's table holds are addresses of this process, so the code is not stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from nufunc.codegen import backend
from nufunc.codegen.abi import python_address
from nufunc.codegen.ahead import OPTIMISE, EntryPoint, Parameter, entry_text, llvm_type
from nufunc.codegen.callspec import STACK_WORKSPACE
from nufunc.codegen.loading import extern_address
from nufunc.ir.errors import UnsupportedError

_INT, _SIZE = "i32", "i64"


class NativeFunction:
    """A compiled C function. `signatures` maps the declarations of further forms to their symbols."""

    def __init__(self, entry: EntryPoint) -> None:
        self.entry = entry
        forms = list(_forms(entry))
        text = "\n".join([entry_text(entry, _slot), *dict.fromkeys(form for _, _, form in forms)])
        self._executable = backend.compile_module(text, entry.name, OPTIMISE)
        self._loop: backend.Executable | None = None
        self._constants = [e for e in entry.lowered.externs if not isinstance(e, str)]  # whose addresses it holds
        self.signatures = {declared: symbol for declared, symbol, _ in forms}

    @property
    def address(self) -> int:
        return self._executable.address(self.entry.name)

    @property
    def scalar_address(self) -> int | None:
        """The address of the form that takes and gives numbers, if there is one."""
        return self._executable.address(scalar_symbol(self.entry)) if is_scalar(self.entry) else None

    def address_of(self, signature: str) -> int:
        """The address of the form with a declaration, which must be one of `signatures`."""
        return self._executable.address(self.signatures[signature])

    def loop_address(self) -> int:
        """The address of the loop of a ufunc over further axes, compiled when it is first asked for."""
        if self._loop is None:
            symbol = f"{self.entry.name}.loop"
            text = "\n".join([entry_text(self.entry, _slot), loop_text(self.entry, symbol)])
            self._loop = backend.compile_module(text, symbol, OPTIMISE)
        return self._loop.address(f"{self.entry.name}.loop")


def _slot(k: int, extern: object) -> tuple[str, str]:
    if not isinstance(extern, str | np.ndarray) or (isinstance(extern, str) and extern.startswith("Py")):
        raise UnsupportedError("a C function cannot call Python functions back")
    return f"inttoptr (i64 {extern_address(extern)} to ptr)", ""


# -- forms


def scalar_symbol(entry: EntryPoint) -> str:
    return f"{entry.name}.scalar"


def is_scalar(entry: EntryPoint) -> bool:
    """Whether a function takes and gives numbers: it has a form that returns its result. An error would be lost in an
    integer, but is a NaN in a float."""
    results = entry.results
    if len(results) != 1 or results[0] is None or results[0].shape != () or results[0].dtype.kind not in "iufb":
        return False
    return all(p.by_value for p in entry.inputs) and (results[0].dtype.kind == "f" or not entry.lowered.sites)


def _forms(entry: EntryPoint) -> Iterator[tuple[str, str, str]]:
    """(declaration, symbol, LLVM text) of each further form."""
    name, inputs = entry.name, entry.inputs
    if is_scalar(entry):
        yield _prototype(entry), scalar_symbol(entry), _scalar_text(entry)
        if entry.results[0].dtype == np.float64 and all(p.dtype == np.float64 for p in inputs):  # type: ignore[union-attr]
            loads = "\n".join(
                f"  %a{k} = getelementptr double, ptr %x, i64 {k}\n  %p{k} = load double, ptr %a{k}"
                for k in range(len(inputs))
            )
            numbers = ", ".join(f"double %p{k}" for k in range(len(inputs)))
            call = f'  %r = call double @"{scalar_symbol(entry)}"({numbers})\n  ret double %r'
            checked = "\n".join((  # another count of numbers is an error, which here is a NaN
                f"  %fits = icmp eq {_INT} %n, {len(inputs)}", "  br i1 %fits, label %run, label %out",
                "run:", loads, call, "out:", "  ret double 0x7FF8000000000000", "}",
            ))  # fmt: skip
            for rest, declared in (("", ""), (", ptr %user", ", void *")):
                symbol = f"{name}.many{len(declared)}"
                text = f'define double @"{symbol}"({_INT} %n, ptr %x{rest}) {{\n{checked}'
                yield f"double (int, double *{declared})", symbol, text
            if len(inputs) == 1:
                symbol = f"{name}.user"
                text = f'define double @"{symbol}"(double %p0, ptr %user) {{\n{call}\n}}'
                yield "double (double, void *)", symbol, text
    (x, *more), (result, *others) = inputs or [None], entry.results or [None]
    if x is None or result is None or more or others or {x.dtype, result.dtype} != {np.dtype(np.float64)}:
        return
    if x.written or len(x.shape) != 1:
        return
    for size_type in ("intptr_t", "npy_intp"):
        if result.shape == ():
            declared, symbol = f"int (double *, {size_type}, double *, void *)", f"{name}.filter"
            checks = f"  %fits = icmp eq {_SIZE} %n, {x.shape[0]}"
            yield declared, symbol, _filter_text(name, symbol, f"ptr %x, {_SIZE} %n, ptr %r, ptr %user", checks)
        elif len(result.shape) == 1:
            declared = f"int (double *, {size_type}, double *, {size_type}, void *)"
            symbol = f"{name}.lines"
            checks = (
                f"  %first = icmp eq {_SIZE} %n, {x.shape[0]}\n  %second = icmp eq {_SIZE} %m, {result.shape[0]}\n"
                "  %fits = and i1 %first, %second"
            )
            params = f"ptr %x, {_SIZE} %n, ptr %r, {_SIZE} %m, ptr %user"
            yield declared, symbol, _filter_text(name, symbol, params, checks)


def _prototype(entry: EntryPoint) -> str:
    result = entry.results[0]
    assert result is not None
    return f"{result.c_type} ({', '.join(p.c_type for p in entry.inputs)})"


def _scalar_text(entry: EntryPoint) -> str:
    result = entry.results[0]
    assert isinstance(result, Parameter)
    kind = llvm_type(result.dtype).split()[0]
    params = ", ".join(f"{llvm_type(p.dtype)} %p{k}" for k, p in enumerate(entry.inputs))
    comma = ", " if entry.inputs else ""
    lines = [
        f'define {kind} @"{scalar_symbol(entry)}"({params}) {{',
        f"  %r = alloca {kind}, align 16",
        f"  %code = call i32 @{entry.name}({params}{comma}ptr %r, ptr null)",
        f"  %v = load {kind}, ptr %r",
    ]
    if result.dtype.kind == "f" and entry.lowered.sites:
        nan = f"{kind} 0x7FF8000000000000"
        lines += ["  %good = icmp eq i32 %code, 0", f"  %found = select i1 %good, {kind} %v, {nan}"]
        lines.append(f"  ret {kind} %found")
    else:
        lines.append(f"  ret {kind} %v")
    return "\n".join([*lines, "}"])


def _filter_text(name: str, symbol: str, params: str, checks: str) -> str:
    """1: done, 0: an error, or sizes for which the function is not."""
    return f"""define {_INT} @"{symbol}"({params}) {{
{checks}
  br i1 %fits, label %run, label %out
run:
  %code = call i32 @{name}(ptr %x, ptr %r, ptr null)
  %good = icmp eq i32 %code, 0
  %done = zext i1 %good to i32
  ret i32 %done
out:
  ret i32 0
}}"""


# -- the loop of a generalised ufunc


def loop_text(entry: EntryPoint, symbol: str) -> str:
    """`void (char **args, npy_intp *dimensions, npy_intp *steps, void *data)` around a C function, over contiguous
    copies of the operands' cores where these are strided. NumPy calls it without the GIL; an error is a RuntimeError.
    """
    parameters = entry.parameters
    lines = [
        f'define void @"{symbol}"(ptr %args, ptr %dims, ptr %steps, ptr %data) {{',
        "begin:",
        "  %count = load i64, ptr %dims",
    ]
    at, bases = len(parameters), []
    for k, p in enumerate(parameters):
        size = math.prod(p.shape) * p.dtype.itemsize
        lines += [f"  %args.{k} = getelementptr ptr, ptr %args, i64 {k}", f"  %base.{k} = load ptr, ptr %args.{k}"]
        lines += [f"  %steps.{k} = getelementptr i64, ptr %steps, i64 {k}", f"  %step.{k} = load i64, ptr %steps.{k}"]
        lines += [f"  %core.{k} = getelementptr i64, ptr %steps, i64 {at}"]
        flat = "true"
        stride = p.dtype.itemsize
        for axis in reversed(range(len(p.shape))):
            lines += [
                f"  %c.{k}.{axis} = getelementptr i64, ptr %core.{k}, i64 {axis}",
                f"  %s.{k}.{axis} = load i64, ptr %c.{k}.{axis}",
                f"  %e.{k}.{axis} = icmp eq i64 %s.{k}.{axis}, {stride}",
                f"  %f.{k}.{axis} = and i1 {flat}, %e.{k}.{axis}",
            ]
            flat = f"%f.{k}.{axis}"
            stride *= p.shape[axis]
        bases.append(flat)
        at += len(p.shape)
        lines.append(f"  %copy.{k} = call ptr @malloc(i64 {max(size, 1)})")
    for k in range(len(parameters)):
        lines.append(f"  %got.{k} = icmp ne ptr %copy.{k}, null")
        before = f"%all.{k - 1}" if k else "true"
        lines.append(f"  %all.{k} = and i1 {before}, %got.{k}")
    last = len(parameters) - 1
    lines += [
        f"  br i1 %all.{last}, label %test, label %out",
        "test:",
        "  %n = phi i64 [ 0, %begin ], [ %next, %after ]",
        "  %more = icmp slt i64 %n, %count",
        "  br i1 %more, label %body, label %out",
        "body:",
    ]
    arguments = []
    for k, (p, flat) in enumerate(zip(parameters, bases, strict=True)):
        lines += [
            f"  %o.{k} = mul i64 %n, %step.{k}",
            f"  %at.{k} = getelementptr i8, ptr %base.{k}, i64 %o.{k}",
            f"  %use.{k} = select i1 {flat}, ptr %at.{k}, ptr %copy.{k}",
        ]
        if p in entry.inputs:
            lines.append(f'  call void @"{symbol}.copy.{k}"(ptr %copy.{k}, ptr %at.{k}, ptr %core.{k}, i1 {flat})')
        if p.by_value:
            kind = llvm_type(p.dtype)
            lines.append(f"  %v.{k} = load {kind.split()[0]}, ptr %use.{k}, align 1")
            arguments.append(f"{kind} %v.{k}")
        else:
            arguments.append(f"ptr %use.{k}")
    call = ", ".join([*arguments, "ptr null"])
    lines += [f"  %code = call i32 @{entry.name}({call})"]
    for k, (p, flat) in enumerate(zip(parameters, bases, strict=True)):
        if p not in entry.inputs:
            lines.append(f'  call void @"{symbol}.copy.{k}"(ptr %copy.{k}, ptr %at.{k}, ptr %core.{k}, i1 {flat})')
    lines += [
        "  %bad = icmp ne i32 %code, 0",
        "  br i1 %bad, label %error, label %after",
        "after:",
        "  %next = add i64 %n, 1",
        "  br label %test",
        "error:",
        f"  %text = call ptr @{entry.name}_error(i32 %code)",
        f"  %gil = call i32 {_python('PyGILState_Ensure')}()",
        f"  call void {_python('PyErr_SetString')}(ptr inttoptr (i64 {id(RuntimeError)} to ptr), ptr %text)",
        f"  call void {_python('PyGILState_Release')}(i32 %gil)",
        "  br label %out",
        "out:",
        *(f"  call void @free(ptr %copy.{k})" for k in range(len(parameters))),
        "  ret void",
        "}",
    ]
    lines.append("declare ptr @malloc(i64)")
    if entry.lowered.workspace <= STACK_WORKSPACE:  # else the function has declared it
        lines.append("declare void @free(ptr)")
    copies = [_copy_text(p, f"{symbol}.copy.{k}", p in entry.inputs) for k, p in enumerate(parameters)]
    return "\n".join([*lines, *copies])


def _python(name: str) -> str:
    return f"inttoptr (i64 {python_address(name)} to ptr)"


def _copy_text(p: Parameter, symbol: str, inwards: bool) -> str:
    """Copies a core between strided memory and contiguous memory, unless it is flat."""
    bits = p.dtype.itemsize * 8
    lines = [
        f'define internal void @"{symbol}"(ptr %copy, ptr %at, ptr %strides, i1 %flat) {{',
        "start:",
        "  br i1 %flat, label %out, label %axis0",
    ]
    offset, place, before = "0", "0", "start"
    for axis, extent in enumerate(p.shape):
        lines += [
            f"axis{axis}:",
            f"  %i{axis} = phi i64 [ 0, %{before} ], [ %j{axis}, %end{axis} ]",
            f"  %more{axis} = icmp slt i64 %i{axis}, {extent}",
            f"  br i1 %more{axis}, label %in{axis}, label %" + (f"end{axis - 1}" if axis else "out"),
            f"in{axis}:",
            f"  %sp{axis} = getelementptr i64, ptr %strides, i64 {axis}",
            f"  %s{axis} = load i64, ptr %sp{axis}",
            f"  %m{axis} = mul i64 %i{axis}, %s{axis}",
            f"  %offset{axis} = add i64 {offset}, %m{axis}",
            f"  %w{axis} = mul i64 {place}, {extent}",
            f"  %place{axis} = add i64 %w{axis}, %i{axis}",
        ]
        if axis + 1 < len(p.shape):
            lines.append(f"  br label %axis{axis + 1}")
        offset, place, before = f"%offset{axis}", f"%place{axis}", f"in{axis}"
    if p.shape:
        pair = ("%source", "%target") if inwards else ("%target", "%source")
        lines += [
            f"  {pair[0]} = getelementptr i8, ptr %at, i64 {offset}",
            f"  {pair[1]} = getelementptr i{bits}, ptr %copy, i64 {place}",
            f"  %value = load i{bits}, ptr %source, align 1",
            f"  store i{bits} %value, ptr %target, align 1",
            f"  br label %end{len(p.shape) - 1}",
        ]
        for axis in reversed(range(len(p.shape))):
            lines += [f"end{axis}:", f"  %j{axis} = add i64 %i{axis}, 1", f"  br label %axis{axis}"]
    else:
        lines += ["axis0:", "  br label %out"]
    return "\n".join([*lines, "out:", "  ret void", "}"])

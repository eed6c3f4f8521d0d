"""Calls of scipy.special's scalar code from kernels: functions of scipy.special.cython_special, found by name.

Note [Symbols of SciPy]
    A kernel calls `nf_scipy.jv.dd`: the function's name and its parameters (d: double, n: a whole number; behind a dot
    the number of the result that is wanted). Machine code knows the name alone, so that it can be stored; when it is
    loaded `address` tells where in this process the function stands.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

from llvmlite import ir

from nufunc.codegen import abi
from nufunc.codegen.llvm import F32, F64, I32, I64, POINTER, Poison, Splat, declare, per_lane, scalar_of
from nufunc.ir.errors import NufuncError, UnsupportedError
from nufunc.ir.prims.scipy_special import WHOLE

PREFIX = "nf_scipy."
# Functions of two results, by the names of these: the name that `emit_joint` takes.
JOINT = {(f"{name}.0", f"{name}.1"): name for name in ("sici", "shichi", "fresnel")}
_KINDS = {"double": "d", "long": "n", "Py_ssize_t": "n", "double *": "o"}


class SpecialError(NufuncError, LookupError):
    """scipy.special.cython_special has no such function."""


@functools.cache
def _capsules() -> dict[str, list[tuple[str, str, object]]]:
    """The functions on doubles by name: the kinds of their parameters, the kind of the result, and the capsule."""
    from scipy.special import cython_special

    name_of = abi.python_function("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
    found: dict[str, list[tuple[str, str, object]]] = {}
    for key, capsule in cython_special.__pyx_capi__.items():
        result, _, rest = (name_of(capsule) or b"").decode().partition(" (")
        kinds = [_KINDS.get(part.strip()) for part in rest.rstrip(")").split(",") if "__pyx_skip_dispatch" not in part]
        if result not in ("double", "void") or None in kinds:
            continue
        name = key[len("__pyx_fuse_") :].lstrip("0123456789_") if key.startswith("__pyx_fuse_") else key
        found.setdefault(name, []).append(("".join(filter(None, kinds)), result, capsule))
    return found


def _choice(name: str, args: Sequence[ir.Value], first_whole: bool) -> tuple[str, str]:
    """The parameters and the result of a function: of those with whole numbers where such are known, which compute
    polynomials by recurrence, else all doubles where there is such a one. The two forms differ below zero."""
    whole = [isinstance(n := _number(a), float) and n.is_integer() and 0 <= n < 2.0**31 for a in args]
    whole[0] |= first_whole
    forms = sorted(
        (not all(w for w, kind in zip(whole, kinds) if kind == "n"), kinds.count("d"), kinds, result)
        for kinds, result, _ in _capsules().get(name, ())
    )
    if forms and forms[0][0]:
        forms.sort(key=lambda form: (form[2].count("n"), form[2]))
    if not forms:
        raise UnsupportedError(f"compiled code has no scipy.special.{name}")
    return forms[0][2:]


def _number(x: ir.Value) -> object:
    """What all lanes are known to be."""
    if isinstance(x, Splat):
        x = x.constant
    return x.constant if isinstance(x, ir.Constant) else None


@functools.cache
def address(symbol: str) -> int:
    """Where a function stands in this process."""
    name, kinds = symbol.removeprefix(PREFIX).split(".")
    for own, _, capsule in _capsules().get(name, ()):
        if own == kinds:
            return abi.capsule_pointer(capsule)
    raise SpecialError(f"scipy.special.cython_special has no {name} of ({kinds})")


def emit(b: ir.IRBuilder, function: str, args: Sequence[ir.Value]) -> ir.Value:
    """`function` of floats or vectors of them, lane by lane."""
    name, _, part = function.partition(".")
    if part.isdecimal():
        return b.extract_value(_call(b, name, args), int(part))
    return _call(b, name, args, part == WHOLE[1:])


def emit_joint(b: ir.IRBuilder, name: str, arg: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Both results of a function of `JOINT`."""
    both = _call(b, name, [arg])
    return b.extract_value(both, 0), b.extract_value(both, 1)


def _call(b: ir.IRBuilder, name: str, args: Sequence[ir.Value], first_whole: bool = False) -> ir.Value:
    element = scalar_of(args[0].type)
    kinds, result = _choice(name, args, first_whole)
    symbol = f"nf.scipy.{name}.{kinds}.{'f64' if element == F64 else 'f32'}"
    if symbol not in b.module.globals:
        _emit_scalar(b.module, symbol, name, kinds, result, element)
    return per_lane(b, symbol, b.module.globals[symbol], args)


def _emit_scalar(module: ir.Module, symbol: str, name: str, kinds: str, result: str, element: ir.Type) -> None:
    """One internal function around SciPy's: conversions, and its last parameter, which says nothing. Two results are a
    struct."""
    types = [{"d": F64, "n": I64, "o": POINTER}[k] for k in kinds]
    single, count = result == "double", len(kinds.replace("o", ""))
    outside = declare(
        module, f"{PREFIX}{name}.{kinds}", F64 if single else ir.VoidType(), [*types, I32] if single else types
    )
    made = element if single else ir.LiteralStructType([element] * kinds.count("o"))
    inner = ir.Function(module, ir.FunctionType(made, [element] * count), symbol)
    inner.linkage = "internal"
    inner.attributes.add("alwaysinline")
    b = ir.IRBuilder(inner.append_basic_block())
    values: list[ir.Value] = []
    for kind, argument in zip(kinds, inner.args):
        wide = argument if element == F64 else b.fpext(argument, F64)
        values.append(wide if kind == "d" else b.fptosi(wide, I64))
    narrow = lambda value: value if element == F64 else b.fptrunc(value, F32)
    if single:
        b.ret(narrow(b.call(outside, [*values, I32(0)])))
        return
    slots = []
    for _ in range(kinds.count("o")):
        slot = b.alloca(F64)
        slot.type = POINTER
        slots.append(slot)
    b.call(outside, [*values, *slots])
    whole: ir.Value = Poison(made)
    for k, slot in enumerate(slots):
        whole = b.insert_value(whole, narrow(b.load(slot, typ=F64)), k)
    b.ret(whole)

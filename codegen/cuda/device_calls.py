"""What kernel texts may call: libdevice's functions, registers, barriers, warps, atomics, vectors of memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nufunc.codegen.cuda import device_functions
from nufunc.codegen.cuda.device_values import (
    HALVES,
    LITERAL,
    NARROW,
    NARROWED,
    Pointer,
    Value,
    complex_of,
    is_complex,
    is_float,
    is_unsigned,
    llvm,
    real_of,
    size_of,
)
from nufunc.codegen.text_scalars import FUNCTIONS, HELPERS, LACKING, ROUNDED
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY
from nufunc.ir.prims.random import PARITY, ROTATIONS

if TYPE_CHECKING:
    from nufunc.codegen.cuda.device_expressions import Expressions as _Function

Rule = Callable[["_Function", list[Any]], Any]
_OTHER_NAMES = {"gamma": "tgamma"}  # in libdevice
_ARITY = {"pow": 2, "atan2": 2, "copysign": 2, "nextafter": 2, "hypot": 2, "fmod": 2, "fabs": 1}
_MATH = [f for f in (*FUNCTIONS, *ROUNDED) if f not in LACKING]
_SCIPY = ("j0", "j1", "y0", "y1")  # of scipy.special, those that libdevice has


@functools.cache
def _functions() -> Mapping[str, Callable[..., Any]]:
    functions: tuple[Callable[..., Any], ...] = (*HELPERS, *device_functions.FUNCTIONS)
    return {f.__name__: f for f in functions}


def device_function(name: str) -> Callable[..., Any] | None:
    """The plain Python of a function that kernels call, to be lowered."""
    return _functions().get(name)


# -- declarations


def _declarations() -> dict[str, str]:
    found = {NARROW: NARROWED}
    for name in (*_MATH, *_SCIPY, "fabs"):
        base = _OTHER_NAMES.get(name, name)
        for suffix, kind in (("", "double"), ("f", "float")):
            args = ", ".join([kind] * _ARITY.get(name, 1))
            found[f"__nv_{base}{suffix}"] = f"declare {kind} @__nv_{base}{suffix}({args})"
    for register in ("tid", "ctaid", "ntid", "nctaid"):
        found[f"llvm.nvvm.read.ptx.sreg.{register}.x"] = f"declare i32 @llvm.nvvm.read.ptx.sreg.{register}.x()"
    for result, name, args in (
        ("void", "barrier0", ""), ("void", "bar.warp.sync", "i32"), ("{i32, i1}", "vote.sync", "i32, i32, i1"),
        ("{i32, i1}", "shfl.sync.i32", "i32, i32, i32, i32, i32"),
    ):  # fmt: skip
        found[f"llvm.nvvm.{name}"] = f"declare {result} @llvm.nvvm.{name}({args}) convergent nounwind"
    for bits in (32, 64):
        found[f"llvm.ctpop.i{bits}"] = f"declare i{bits} @llvm.ctpop.i{bits}(i{bits})"
        kind = "double" if bits == 64 else "float"
        found[f"llvm.fma.f{bits}"] = f"declare {kind} @llvm.fma.f{bits}({', '.join([kind] * 3)})"
    return found


DECLARATIONS = _declarations()

# -- mathematics


def _mathematics(name: str) -> Rule:
    base = _OTHER_NAMES.get(name, name)

    def rule(f: _Function, args: list[Value]) -> Value:
        if all(a.literal for a in args):
            args = [f.convert(a, "float64") for a in args]
        args = f.alike(*args)
        if not is_float(args[0].type):
            args = [f.convert(a, "float64") for a in args]
        type = args[0].type
        if type in HALVES:
            return f.convert(rule(f, f.wider(*args)), type)
        given = ", ".join(f"{llvm(type)} {a.text}" for a in args)
        suffix = "f" if type == "float32" else ""
        return f.value(f"call {llvm(type)} @__nv_{base}{suffix}({given})", type)

    return rule


def _bits(target: str) -> Rule:
    def rule(f: _Function, args: list[Value]) -> Value:
        have, want = llvm(args[0].type), llvm(target)
        if have == want:
            return Value(target, args[0].text)
        return f.value(f"bitcast {have} {args[0].text} to {want}", target)

    return rule


def _extreme(sign: str) -> Rule:
    def rule(f: _Function, args: list[Value]) -> Value:
        best, *rest = args
        for other in rest:
            best = f.choose(f.compare(sign, other, best), other, best)
        return best

    return rule


def _complex(f: _Function, args: list[Value]) -> Value:
    if all(a.literal for a in args):
        return Value(LITERAL, complex(args[0].text, args[1].text))
    re, im = f.alike(*args)
    if not is_float(re.type):
        re, im = f.convert(re, "float64"), f.convert(im, "float64")
    return Value(complex_of(re.type), (re.text, im.text))


def _power(f: _Function, args: list[Value]) -> Value:
    """`text_scalars.power` with its loops gone through here."""
    x, count = args
    if not count.literal:
        f.refuse("power with an exponent that is computed")
    y: int = count.text
    while y % 2 == 0:
        x, y = f.binary("*", x, x), y // 2
    result, y = x, y // 2
    while y > 0:
        x = f.binary("*", x, x)
        if y % 2 == 1:
            result = f.binary("*", result, x)
        y //= 2
    return result


def _threefry(f: _Function, args: list[Value]) -> Value:
    """`random.threefry2x32` in words of 32 bits, with its loops gone through here."""
    word = lambda v, shift: f.convert(f.binary(">>", v, Value(LITERAL, shift)) if shift else v, "uint32")
    of = lambda sign, *xs: functools.reduce(lambda x, y: f.binary(sign, x, y), xs)
    key, counter = (Value("uint64", v.text) for v in args)
    first, second = word(key, 32), word(key, 0)
    schedule = (first, second, of("^", first, second, Value(LITERAL, PARITY)))
    x, y = of("+", word(counter, 32), first), of("+", word(counter, 0), second)
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            x = of("+", x, y)
            turned = of("|", *(f.binary(s, y, Value(LITERAL, n)) for s, n in (("<<", turn), (">>", 32 - turn))))
            y = of("^", turned, x)
        x = of("+", x, schedule[(group + 1) % 3])
        y = of("+", y, schedule[(group + 2) % 3], Value(LITERAL, group + 1))
    high = f.binary("<<", f.convert(x, "uint64"), Value(LITERAL, 32))
    return f.binary("|", high, f.convert(y, "uint64"))


def _horner(f: _Function, args: list[Any]) -> Value:
    """`device_functions.horner`."""
    x, name = args
    *rest, first = SPECIAL_POLY[name]
    total = Value(LITERAL, first)
    for c in reversed(rest):
        total = f.binary("+", f.binary("*", total, x), Value(LITERAL, c))
    return total


def _absolute(f: _Function, args: list[Value]) -> Value:
    (x,) = args
    if not x.literal and is_complex(x.type):
        return CALLS["hypot"](f, [Value(real_of(x.type), part) for part in x.text])
    return f.absolute(x)


# -- threads


def _grid(f: _Function, args: list[Value]) -> Value:
    block, size, thread = (
        f.value(f"call i32 @llvm.nvvm.read.ptx.sreg.{name}.x()", "int32", True) for name in ("ctaid", "ntid", "tid")
    )
    return f.binary("+", f.binary("*", block, size), thread)


def _gridsize(f: _Function, args: list[Value]) -> Value:
    size, count = (
        f.value(f"call i32 @llvm.nvvm.read.ptx.sreg.{name}.x()", "int32", True) for name in ("ntid", "nctaid")
    )
    return f.binary("*", size, count)


def _barrier(f: _Function, args: list[Value]) -> None:
    f.put("call void @llvm.nvvm.barrier0()")


def _warp_barrier(f: _Function, args: list[Value]) -> None:
    f.put("call void @llvm.nvvm.bar.warp.sync(i32 -1)")


def _shuffle(mode: int, clamp: int) -> Rule:
    def word(f: _Function, text: str, lane: str) -> str:
        args = f"i32 -1, i32 {mode}, i32 {text}, i32 {lane}, i32 {clamp}"
        both = f.op(f"call {{i32, i1}} @llvm.nvvm.shfl.sync.i32({args})")
        return f.op(f"extractvalue {{i32, i1}} {both}, 0")

    def rule(f: _Function, args: list[Value]) -> Value:
        _, value, lane = args
        value, lane = f.typed(value), f.convert(lane, "int32")
        if is_complex(value.type):
            parts = [rule(f, [args[0], Value(real_of(value.type), part), lane]) for part in value.text]
            return Value(value.type, tuple(part.text for part in parts))
        if size_of(value.type) < 4:
            wide = "float32" if is_float(value.type) else "int32"
            return f.convert(rule(f, [args[0], f.convert(value, wide), lane]), value.type)
        bits, text = 8 * size_of(value.type), value.text
        if is_float(value.type):
            text = f.op(f"bitcast {llvm(value.type)} {text} to i{bits}")
        if bits == 32:
            text = word(f, text, lane.text)
        else:
            low = word(f, f.op(f"trunc i64 {text} to i32"), lane.text)
            high = word(f, f.op(f"trunc i64 {f.op(f'lshr i64 {text}, 32')} to i32"), lane.text)
            upper = f.op(f"shl i64 {f.op(f'zext i32 {high} to i64')}, 32")
            text = f.op(f"or i64 {upper}, {f.op(f'zext i32 {low} to i64')}")
        if is_float(value.type):
            text = f.op(f"bitcast i{bits} {text} to {llvm(value.type)}")
        return Value(value.type, text)

    return rule


def _vote(mode: int, part: int) -> Rule:
    def rule(f: _Function, args: list[Value]) -> Value:
        test = f.convert(args[1], "bool_")
        both = f.op(f"call {{i32, i1}} @llvm.nvvm.vote.sync(i32 -1, i32 {mode}, i1 {test.text})")
        return f.value(f"extractvalue {{i32, i1}} {both}, {part}", "bool_" if part else "uint32")

    return rule


def _popcount(f: _Function, args: list[Value]) -> Value:
    value = f.typed(args[0])
    bits = 64 if size_of(value.type) == 8 else 32
    value = f.convert(value, f"uint{bits}")
    return f.convert(f.value(f"call i{bits} @llvm.ctpop.i{bits}(i{bits} {value.text})", f"uint{bits}"), "int32")


def _fused(f: _Function, args: list[Value]) -> Value:
    """x * y + z, rounded once."""
    x, y, z = (f.convert(v, f.typed(args[2]).type) for v in args)
    bits = 8 * size_of(z.type)
    kind = "double" if bits == 64 else "float"
    call = f"call {kind} @llvm.fma.f{bits}({kind} {x.text}, {kind} {y.text}, {kind} {z.text})"
    return f.value(call, z.type)


# -- memory

_ATOMICS = {"add": "add", "sub": "sub", "and_": "and", "or_": "or", "xor": "xor", "exch": "xchg"}


def _atomic(name: str) -> Rule:
    def rule(f: _Function, args: list[Any]) -> Value:
        pointer, index, value = args
        value = f.convert(value, pointer.type)
        if size_of(pointer.type) not in (4, 8) or is_complex(pointer.type):
            f.refuse(f"atomic {name} of {pointer.type}")
        place, kind = f.address(pointer, index)
        space = f" addrspace({pointer.space})" if pointer.space else ""
        if name in ("max", "min") and not is_float(pointer.type):
            word = ("u" if is_unsigned(pointer.type) else "") + name
        elif name in _ATOMICS and (not is_float(pointer.type) or name == "exch"):
            word = _ATOMICS[name]
        else:
            return _swapped(f, name, pointer, place, value)
        bits = f"i{8 * size_of(pointer.type)}"
        if is_float(pointer.type):
            place = f.op(f"bitcast {kind}{space}* {place} to {bits}{space}*")
            text = f.op(f"bitcast {kind} {value.text} to {bits}")
            old = f.op(f"atomicrmw {word} {bits}{space}* {place}, {bits} {text} monotonic")
            return f.value(f"bitcast {bits} {old} to {kind}", pointer.type)
        return f.value(f"atomicrmw {word} {kind}{space}* {place}, {kind} {value.text} monotonic", pointer.type)

    return rule


def _swapped(f: _Function, name: str, pointer: Pointer, place: str, value: Value) -> Value:
    """An operation of floats by comparing and swapping."""
    kind, bits = llvm(pointer.type), f"i{8 * size_of(pointer.type)}"
    space = f" addrspace({pointer.space})" if pointer.space else ""
    place = f.op(f"bitcast {kind}{space}* {place} to {bits}{space}*")
    seen = f"old.{f.labels}"
    f.assign(seen, f.value(f"load volatile {bits}, {bits}{space}* {place}", bits.replace("i", "int")))
    again, after = f.label("again"), f.label("after")
    f.jump(again)
    f.start(again)
    old = f.read(seen)
    number = f.value(f"bitcast {bits} {old.text} to {kind}", pointer.type)
    if name in ("add", "sub"):
        new = f.binary("+" if name == "add" else "-", number, value)
    else:
        found_by = f.helper("maximum" if name == "max" else "minimum", [number, value])
        assert isinstance(found_by, Value)
        new = found_by
    text = f.op(f"bitcast {kind} {new.text} to {bits}")
    both = f.op(f"cmpxchg {bits}{space}* {place}, {bits} {old.text}, {bits} {text} monotonic monotonic")
    found = f.op(f"extractvalue {{{bits}, i1}} {both}, 0")
    f.assign(seen, Value(old.type, found))
    same = f.compare("==", Value(old.type, found), old)
    f.branch(same, after, again)
    f.start(after)
    return f.value(f"bitcast {bits} {found} to {kind}", pointer.type)


def _compare_and_swap(f: _Function, args: list[Any]) -> Value:
    pointer, index, old, value = args
    place, kind = f.address(pointer, index)
    space = f" addrspace({pointer.space})" if pointer.space else ""
    old, value = f.convert(old, pointer.type), f.convert(value, pointer.type)
    both = f.op(f"cmpxchg {kind}{space}* {place}, {kind} {old.text}, {kind} {value.text} monotonic monotonic")
    return f.value(f"extractvalue {{{kind}, i1}} {both}, 0", pointer.type)


def _load_vec(f: _Function, args: list[Any]) -> tuple[Value, ...]:
    pointer, index, width = args
    return f.loaded(pointer, index, width.text)


def _store_vec(f: _Function, args: list[Any]) -> None:
    pointer, index, values = args
    f.written(pointer, index, values)


def _aligned(f: _Function, args: list[Any]) -> Value:
    unit, *pointers = args
    bits = ""
    for p in pointers:
        space = f" addrspace({p.space})" if p.space else ""
        own = f.op(f"ptrtoint {llvm(real_of(p.type))}{space}* {p.text} to i64")
        bits = f.op(f"or i64 {bits}, {own}") if bits else own
    rest = f.op(f"and i64 {bits}, {unit.text - 1}")
    return f.value(f"icmp eq i64 {rest}, 0", "bool_")


CALLS: dict[str, Rule] = {
    **{name: _mathematics(name) for name in _MATH},
    **{f"scipy_{name}": _mathematics(name) for name in _SCIPY},
    "int_as_float": _bits("float32"), "longlong_as_double": _bits("float64"), "float_as_int": _bits("int32"),
    "double_as_longlong": _bits("int64"), "half_as_short": _bits("int16"), "short_as_half": _bits("float16"),
    "bfloat16_as_short": _bits("int16"), "short_as_bfloat16": _bits("bfloat16"),
    "power": _power, "horner": _horner, "threefry2x32": _threefry,
    "min": _extreme("<"), "max": _extreme(">"), "complex": _complex, "abs": _absolute,
    "cuda.grid": _grid, "cuda.gridsize": _gridsize, "cuda.syncthreads": _barrier, "cuda.syncwarp": _warp_barrier,
    "cuda.shfl_sync": _shuffle(0, 31), "cuda.shfl_up_sync": _shuffle(1, 0), "cuda.shfl_down_sync": _shuffle(2, 31),
    "cuda.shfl_xor_sync": _shuffle(3, 31),
    "cuda.all_sync": _vote(0, 1), "cuda.any_sync": _vote(1, 1), "cuda.ballot_sync": _vote(3, 0),
    "cuda.popc": _popcount, "cuda.fma": _fused,
    **{f"cuda.atomic.{name}": _atomic(name) for name in (*_ATOMICS, "max", "min")},
    "cuda.atomic.cas": _compare_and_swap,
    "load_vec": _load_vec, "store_vec": _store_vec, "aligned": _aligned,
}  # fmt: skip

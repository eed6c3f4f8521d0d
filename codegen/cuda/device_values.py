"""Values of kernels as text of LLVM's language: NumPy's scalar types, conversions, arithmetic, comparisons.

A literal has no type until it meets a value that has one (NumPy's rule); arithmetic on literals is done here. Integers
that are known not to be negative, loop counters and what is computed of them, divide and extend as unsigned ones do;
those of 32 bits are indices, whose sums and products do not overflow, while a user's numbers may.
Complex numbers are pairs of registers. bfloat16, which libNVVM's language lacks, are their bits, an i16: the upper half
of a float32. `NARROWED` rounds to such a word with zeros behind it, which `words` knows of a register: what is rounded
between operations needs no shifts.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError

LITERAL = "literal"
_REAL = {"complex64": "float32", "complex128": "float64"}
_COMPLEX = {real: name for name, real in _REAL.items()}
_FLOATS = {"bfloat16": "i16", "float16": "half", "float32": "float", "float64": "double"}
_SIZES = {"complex64": 8, "complex128": 16, "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "bool_": 1}
HALVES = ("float16", "bfloat16")  # which are computed with in float32
NARROW = "nufunc.bfloat16"  # the function of modules that rounds a float to bfloat16, to even at ties
NARROWED = f"""define internal i32 @{NARROW}(float %x) alwaysinline {{
  %bits = bitcast float %x to i32
  %kept = lshr i32 %bits, 16
  %odd = and i32 %kept, 1
  %more = add i32 %odd, 32767
  %near = add i32 %bits, %more
  %quiet = or i32 %bits, 4194304
  %number = fcmp ord float %x, %x
  %word = select i1 %number, i32 %near, i32 %quiet
  %made = and i32 %word, -65536
  ret i32 %made
}}"""


@dataclass(frozen=True)
class Value:
    """A register or constant `text` of a scalar type by name; of a literal `text` is the Python number, of a complex
    number the parts' texts."""

    type: str
    text: Any
    natural: bool = False  # an integer that is known not to be negative

    @property
    def literal(self) -> bool:
        return self.type == LITERAL


@dataclass(frozen=True)
class Pointer:
    """The first element of a buffer, or of an array of a block or thread."""

    type: str
    text: str
    space: int  # LLVM's: 0 generic, 1 global, 3 shared
    constant: bool = False  # nobody writes to it while the kernel runs


def is_complex(type: str) -> bool:
    return type in _REAL


def is_float(type: str) -> bool:
    return type in _FLOATS


def is_integer(type: str) -> bool:
    return "int" in type


def is_unsigned(type: str) -> bool:
    return type[0] == "u"


def bits_of(type: str) -> int:
    return 1 if type == "bool_" else int(type.lstrip("uint"))


def size_of(type: str) -> int:
    """Bytes in memory."""
    return _SIZES.get(type) or bits_of(type) // 8


def real_of(type: str) -> str:
    return _REAL.get(type, type)


def complex_of(type: str) -> str:
    return _COMPLEX[type]


def llvm(type: str) -> str:
    """The type of a register; of a complex number a struct."""
    if type in _REAL:
        return f"{{{llvm(_REAL[type])}, {llvm(_REAL[type])}}}"
    return _FLOATS.get(type) or f"i{bits_of(type)}"


def name_of(dtype: np.dtype) -> str:
    """A dtype as the type of elements in memory: bools are bytes."""
    return "uint8" if dtype.kind == "b" else dtype.name


def promoted(*types: str) -> str:
    """NumPy's common type; that of bfloat16 and others is what they are computed in."""
    if "bfloat16" in types and set(types) != {"bfloat16"}:
        return promoted(*("float32" if t == "bfloat16" else t for t in types))
    if "bfloat16" in types:
        return "bfloat16"
    return "bool_" if set(types) == {"bool_"} else _type_name(np.result_type(*(t.rstrip("_") for t in types)))


def _type_name(dtype: np.dtype) -> str:
    return "bool_" if dtype.kind == "b" else dtype.name


def literal_type(value: Any) -> str:
    """The type of a literal that meets nothing."""
    if isinstance(value, bool):
        return "bool_"
    if isinstance(value, int):
        return "int32" if abs(value) < 2**31 else "int64" if abs(value) < 2**63 else "uint64"
    return "float64" if isinstance(value, float) else "complex128"


def constant(value: Any, type: str) -> str:
    """The text of a real constant."""
    if type == "bfloat16":
        return str(_bits_of_bfloat16(float(value)))
    if type == "float16":
        with np.errstate(over="ignore"):
            return "0xH" + struct.pack(">e", np.float16(value)).hex().upper()
    if is_float(type):
        number = float(np.float32(value)) if type == "float32" else float(value)
        return "0x" + struct.pack(">d", number).hex().upper()
    return ("true" if value else "false") if type == "bool_" else str(int(value))


def _bits_of_bfloat16(value: float) -> int:
    """As a signed number of 16 bits, by way of float32."""
    with np.errstate(over="ignore"):
        bits = int(np.float32(value).view(np.uint32))
    if value != value:
        return (bits >> 16 | 64) - (bits >> 31 << 16)
    word = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return word - (word >> 15 << 16)


_FOLDED: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "<<": operator.lshift, ">>": operator.rshift, "&": operator.and_, "|": operator.or_,
    "^": operator.xor, "**": operator.pow,
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
COMPARISONS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_OF_INTEGERS = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor", "<<": "shl"}
_OF_FLOATS = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}


@dataclass
class Emitter:
    """Writes instructions of one function."""

    lines: list[str] = field(default_factory=list)
    count: int = 0
    words: dict[str, str] = field(default_factory=dict)  # of registers of bfloat16

    def fresh(self) -> str:
        self.count += 1
        return f"%t{self.count}"

    def put(self, text: str) -> None:
        self.lines.append("  " + text)

    def op(self, text: str) -> str:
        """An instruction, and the register of its result."""
        name = self.fresh()
        self.put(f"{name} = {text}")
        return name

    def value(self, text: str, type: str, natural: bool = False) -> Value:
        return Value(type, self.op(text), natural)

    # -- conversions

    def typed(self, value: Value) -> Value:
        """A literal as what it is alone."""
        return self.convert(value, literal_type(value.text)) if value.literal else value

    def convert(self, value: Value, type: str) -> Value:
        """`type(value)`."""
        if value.type == type:
            return value
        if is_complex(type):
            return self._to_complex(value, type)
        if value.literal:
            number = value.text
            if isinstance(number, complex):
                number = number.real
            if is_integer(type):
                number = int(number)
            return Value(type, constant(number, type), is_integer(type) and number >= 0)
        if is_complex(value.type):
            if type == "bool_":
                return self.compare("!=", value, Value(LITERAL, 0))
            return self.convert(Value(real_of(value.type), value.text[0]), type)
        return self._to_real(value, type)

    def _to_complex(self, value: Value, type: str) -> Value:
        real = real_of(type)
        if value.literal:
            z = complex(value.text)
            return Value(type, (constant(z.real, real), constant(z.imag, real)))
        if not is_complex(value.type):
            return Value(type, (self.convert(value, real).text, constant(0.0, real)))
        source = real_of(value.type)
        return Value(type, tuple(self.convert(Value(source, part), real).text for part in value.text))

    def _to_real(self, value: Value, type: str) -> Value:
        source, text = value.type, value.text
        if type == "bool_":
            return self.compare("!=", value, Value(LITERAL, 0))
        have, want = llvm(source), llvm(type)
        if source == "bfloat16":
            return self.convert(self.value(f"bitcast i32 {self.word(value)} to float", "float32"), type)
        if type == "bfloat16":  # in two steps, as ml_dtypes rounds
            single = self.convert(value, "float32")
            word = self.op(f"call i32 @{NARROW}(float {single.text})")
            made = self.value(f"trunc i32 {self.op(f'lshr i32 {word}, 16')} to i16", type)
            self.words[made.text] = word
            return made
        if is_float(source):
            if is_float(type):
                wider = size_of(type) > size_of(source)
                return self.value(f"{'fpext' if wider else 'fptrunc'} {have} {text} to {want}", type)
            if source == "float16":
                return self.convert(self.convert(value, "float32"), type)
            return self.value(f"{'fptoui' if is_unsigned(type) else 'fptosi'} {have} {text} to {want}", type)
        unsigned = source == "bool_" or is_unsigned(source)
        if type == "float16":  # of which every integer's is the same by way of f64
            return self.convert(self.convert(value, "float64"), type)
        if is_float(type):
            return self.value(f"{'uitofp' if unsigned else 'sitofp'} {have} {text} to {want}", type)
        if bits_of(source) == bits_of(type):
            return Value(type, text, value.natural)
        if bits_of(source) > bits_of(type):
            return self.value(f"trunc {have} {text} to {want}", type)
        word = "zext" if unsigned or value.natural else "sext"
        return self.value(f"{word} {have} {text} to {want}", type, value.natural)

    def word(self, value: Value) -> str:
        """A bfloat16 as the upper half of 32 bits."""
        known = self.words.get(value.text)
        return known or self.op(f"shl i32 {self.op(f'zext i16 {value.text} to i32')}, 16")

    def alike(self, *values: Value) -> list[Value]:
        """Values in their common type; not all are literals."""
        types = [v.type for v in values if not v.literal]
        literals = [v.text for v in values if v.literal]
        type = promoted(*types)
        for number in literals:
            if isinstance(number, complex) and not is_complex(type):
                type = complex_of(type) if is_float(type) else "complex128"
            elif isinstance(number, float) and not (is_float(type) or is_complex(type)):
                type = "float64"
            elif isinstance(number, int) and not isinstance(number, bool) and type == "bool_":
                type = "int64"
            elif is_integer(type) and abs(number) >= 2**31:
                type = promoted(type, literal_type(number)) if bits_of(type) < 64 else type
        return [self.convert(v, type) for v in values]

    def wider(self, *values: Value) -> list[Value]:
        """Halves as the floats in which one operation on them is done, as NumPy does it."""
        return [self.convert(v, "float32") for v in values]

    # -- operations

    def binary(self, sign: str, x: Value, y: Value) -> Value:
        if x.literal and y.literal:
            return Value(LITERAL, _FOLDED[sign](x.text, y.text))
        natural = all(v.natural or (v.literal and isinstance(v.text, int) and v.text >= 0) for v in (x, y))
        x, y = self.alike(x, y)
        type = x.type
        if type == "bool_" and sign in "+*":
            sign = {"+": "|", "*": "&"}[sign]
        if is_complex(type):
            return self._complex(sign, x, y)
        if is_float(type):
            if sign not in _OF_FLOATS:
                raise UnsupportedError(f"kernels for CUDA have no {sign} of floats")
            if type in HALVES:
                return self.convert(self.binary(sign, *self.wider(x, y)), type)
            return self.value(f"{_OF_FLOATS[sign]} {llvm(type)} {x.text}, {y.text}", type)
        if sign == "/":
            return self.binary("/", self.convert(x, "float64"), self.convert(y, "float64"))
        if sign in ("//", "%"):
            return self._division(sign, x, y, natural or is_unsigned(type))
        if sign == ">>":
            word = "lshr" if is_unsigned(type) or natural else "ashr"
            return self.value(f"{word} {llvm(type)} {x.text}, {y.text}", type, natural)
        flags = " nsw nuw" if natural and type == "int32" and sign in "+*" else ""
        kept = natural and (sign in "&|^" or (type == "int32" and sign in "+*"))
        return self.value(f"{_OF_INTEGERS[sign]}{flags} {llvm(type)} {x.text}, {y.text}", type, kept)

    def _division(self, sign: str, x: Value, y: Value, unsigned: bool) -> Value:
        """Rounded down."""
        type, kind = x.type, llvm(x.type)
        if unsigned:
            natural = not is_unsigned(type)
            return self.value(f"{'udiv' if sign == '//' else 'urem'} {kind} {x.text}, {y.text}", type, natural)
        rest = self.op(f"srem {kind} {x.text}, {y.text}")
        differ = self.op(f"icmp slt {kind} {self.op(f'xor {kind} {rest}, {y.text}')}, 0")
        some = self.op(f"icmp ne {kind} {rest}, 0")
        down = self.op(f"and i1 {some}, {differ}")
        if sign == "%":
            moved = self.op(f"add {kind} {rest}, {y.text}")
            return self.value(f"select i1 {down}, {kind} {moved}, {kind} {rest}", type)
        quotient = self.op(f"sdiv {kind} {x.text}, {y.text}")
        return self.value(f"sub {kind} {quotient}, {self.op(f'zext i1 {down} to {kind}')}", type)

    def _complex(self, sign: str, x: Value, y: Value) -> Value:
        real = llvm(real_of(x.type))
        (a, b), (c, d) = x.text, y.text
        of = lambda word, p, q: self.op(f"{word} {real} {p}, {q}")
        if sign in "+-":
            word = _OF_FLOATS[sign]
            return Value(x.type, (of(word, a, c), of(word, b, d)))
        if sign == "*":
            re = of("fsub", of("fmul", a, c), of("fmul", b, d))
            return Value(x.type, (re, of("fadd", of("fmul", a, d), of("fmul", b, c))))
        if sign != "/":
            raise UnsupportedError(f"kernels for CUDA have no {sign} of complex numbers")
        return self._complex_quotient(x.type, (a, b), (c, d))

    def _complex_quotient(self, type: str, x: tuple[str, str], y: tuple[str, str]) -> Value:
        """Smith's method; by zero both parts are divided by it, as in NumPy."""
        real = llvm(real_of(type))
        of = lambda word, p, q: self.op(f"{word} {real} {p}, {q}")
        choose = lambda test, p, q: self.op(f"select i1 {test}, {real} {p}, {real} {q}")
        size_re, size_im = (self.absolute(Value(real_of(type), p)).text for p in y)
        wide = self.op(f"fcmp oge {real} {size_re}, {size_im}")
        large, small = choose(wide, *y), choose(wide, y[1], y[0])
        ratio = of("fdiv", small, large)
        one = constant(1.0, real_of(type))
        scale = of("fdiv", one, of("fadd", large, of("fmul", small, ratio)))
        first, second = choose(wide, *x), choose(wide, x[1], x[0])
        re = of("fmul", of("fadd", first, of("fmul", second, ratio)), scale)
        im = of("fmul", of("fsub", second, of("fmul", first, ratio)), scale)
        im = choose(wide, im, self.negative(Value(real_of(type), im)).text)
        zero = constant(0.0, real_of(type))
        nothing = self.op(f"fcmp oeq {real} {of('fadd', size_re, size_im)}, {zero}")
        by_zero = [of("fdiv", p, size_re) for p in x]
        return Value(type, (choose(nothing, by_zero[0], re), choose(nothing, by_zero[1], im)))

    def compare(self, sign: str, x: Value, y: Value) -> Value:
        if x.literal and y.literal:
            return Value(LITERAL, _FOLDED[sign](x.text, y.text))
        natural = all(v.natural or (v.literal and isinstance(v.text, int) and v.text >= 0) for v in (x, y))
        x, y = self.alike(x, y)
        type, word = x.type, COMPARISONS[sign]
        if is_complex(type):
            if sign not in ("==", "!="):
                raise UnsupportedError(f"kernels for CUDA have no {sign} of complex numbers")
            real = real_of(type)
            parts = [self.compare(sign, Value(real, p), Value(real, q)).text for p, q in zip(x.text, y.text)]
            return self.value(f"{'and' if sign == '==' else 'or'} i1 {parts[0]}, {parts[1]}", "bool_")
        if type in HALVES:
            return self.compare(sign, *self.wider(x, y))
        if is_float(type):
            word = "une" if word == "ne" else f"o{word}"
            return self.value(f"fcmp {word} {llvm(type)} {x.text}, {y.text}", "bool_")
        if word not in ("eq", "ne"):
            word = ("u" if natural or type == "bool_" or is_unsigned(type) else "s") + word
        return self.value(f"icmp {word} {llvm(type)} {x.text}, {y.text}", "bool_")

    def negative(self, x: Value) -> Value:
        if x.literal:
            return Value(LITERAL, -x.text)
        if is_complex(x.type):
            real = real_of(x.type)
            return Value(x.type, tuple(self.negative(Value(real, p)).text for p in x.text))
        if x.type in HALVES:
            return self.convert(self.negative(*self.wider(x)), x.type)
        if is_float(x.type):
            return self.value(f"fsub {llvm(x.type)} {constant(-0.0, x.type)}, {x.text}", x.type)
        return self.value(f"sub {llvm(x.type)} 0, {x.text}", x.type)

    def inverted(self, x: Value) -> Value:
        """`~x`."""
        return self.value(f"xor {llvm(x.type)} {x.text}, {'true' if x.type == 'bool_' else -1}", x.type)

    def absolute(self, x: Value) -> Value:
        if x.literal:
            return Value(LITERAL, abs(x.text))
        if x.type in HALVES:
            return self.convert(self.absolute(*self.wider(x)), x.type)
        if is_float(x.type):
            suffix = {"float32": "f", "float64": ""}[x.type]
            return self.value(f"call {llvm(x.type)} @__nv_fabs{suffix}({llvm(x.type)} {x.text})", x.type)
        if x.type == "bool_" or is_unsigned(x.type):
            return x
        below = self.compare("<", x, Value(LITERAL, 0))
        return self.choose(below, self.negative(x), x)

    def choose(self, test: Value, x: Value, y: Value) -> Value:
        """`x if test else y`, both computed."""
        if test.literal:
            return x if test.text else y
        if x.literal and y.literal:
            types = [literal_type(v.text) for v in (x, y)]
            x, y = self.convert(x, promoted(*types)), self.convert(y, promoted(*types))
        natural = all(v.natural or (v.literal and isinstance(v.text, int) and v.text >= 0) for v in (x, y))
        x, y = self.alike(x, y)
        if is_complex(x.type):
            real = llvm(real_of(x.type))
            parts = [self.op(f"select i1 {test.text}, {real} {p}, {real} {q}") for p, q in zip(x.text, y.text)]
            return Value(x.type, tuple(parts))
        kind = llvm(x.type)
        return self.value(f"select i1 {test.text}, {kind} {x.text}, {kind} {y.text}", x.type, natural)

"""Memory of kernels as text of LLVM's language: elements, and neighbours together.

Neighbours of one or two bytes go as words of 32 bits, since libNVVM splits vectors of more than four elements; of
float16 it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from nufunc.codegen.cuda.device_values import Emitter, Pointer, Value, is_complex, llvm, real_of, size_of


class Memory(Emitter):
    """Loads and stores."""

    def address(self, pointer: Pointer, index: Value, width: int = 1) -> tuple[str, str]:
        """The address of an element, or of `width` neighbours, and the type of what lies there."""
        index = self.convert(index, "int64")
        real = llvm(real_of(pointer.type))
        width *= 1 + is_complex(pointer.type)
        text = index.text
        if is_complex(pointer.type):
            text = self.op(f"shl i64 {text}, 1")
        place = self.op(f"getelementptr {real}, {space_of(pointer)} {pointer.text}, i64 {text}")
        if width == 1:
            return place, real
        kind = f"<{width} x {real}>"
        if _in_word(pointer, width):
            words = width // _in_word(pointer, width)
            kind = f"<{words} x i32>" if words > 1 else "i32"
        space = f" addrspace({pointer.space})" if pointer.space else ""
        return self.op(f"bitcast {space_of(pointer)} {place} to {kind}{space}*"), kind

    def load(self, pointer: Pointer, index: Value) -> Value:
        return self.loaded(pointer, index, 1)[0]

    def loaded(self, pointer: Pointer, index: Value, width: int) -> tuple[Value, ...]:
        place, kind = self.address(pointer, index, width)
        space = f" addrspace({pointer.space})" if pointer.space else ""
        never = ", !invariant.load !0" if pointer.constant else ""
        found = self.op(f"load {kind}, {kind}{space}* {place}, align {_alignment(pointer, width)}{never}")
        if width > 1 and _in_word(pointer, width):
            return tuple(Value(pointer.type, part) for part in self._apart(pointer, kind, found))
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
        element = llvm(real_of(pointer.type))
        if len(values) > 1 and _in_word(pointer, len(values)):
            parts, element = self._together(pointer, parts), "i32"
        whole = parts[0]
        if kind[0] == "<":
            whole = "undef"
            for k, part in enumerate(parts):
                whole = self.op(f"insertelement {kind} {whole}, {element} {part}, i32 {k}")
        space = f" addrspace({pointer.space})" if pointer.space else ""
        self.put(f"store {kind} {whole}, {kind}{space}* {place}, align {_alignment(pointer, len(values))}")

    def _apart(self, pointer: Pointer, kind: str, found: str) -> list[str]:
        """The elements of words."""
        words, bits = [found], 8 * size_of(pointer.type)
        if kind[0] == "<":
            count = int(kind[1:].split()[0])
            words = [self.op(f"extractelement {kind} {found}, i32 {k}") for k in range(count)]
        parts = []
        for word in words:
            for first in range(0, 32, bits):
                moved = self.op(f"lshr i32 {word}, {first}") if first else word
                parts.append(self.op(f"trunc i32 {moved} to {llvm(pointer.type)}"))
        return parts

    def _together(self, pointer: Pointer, parts: Sequence[str]) -> list[str]:
        """Elements as words."""
        bits, words = 8 * size_of(pointer.type), []
        for first in range(0, len(parts), 32 // bits):
            word = ""
            for k, part in enumerate(parts[first : first + 32 // bits]):
                own = self.op(f"zext {llvm(pointer.type)} {part} to i32")
                own = self.op(f"shl i32 {own}, {k * bits}") if k else own
                word = self.op(f"or i32 {word}, {own}") if word else own
            words.append(word)
        return words


def _in_word(pointer: Pointer, width: int) -> int:
    """How many elements a word of 32 bits has, where neighbours go as such; else 0."""
    size = 0 if is_complex(pointer.type) or pointer.type == "float16" else size_of(pointer.type)
    return 4 // size if 0 < size < 4 and width * size % 4 == 0 else 0


def space_of(pointer: Pointer) -> str:
    space = f" addrspace({pointer.space})" if pointer.space else ""
    return f"{llvm(real_of(pointer.type))}{space}*"


def _alignment(pointer: Pointer, width: int) -> int:
    """Bytes that an address is a multiple of; a complex number alone may begin anywhere between real ones."""
    return size_of(pointer.type) * width if width > 1 or pointer.space == 3 else size_of(real_of(pointer.type))

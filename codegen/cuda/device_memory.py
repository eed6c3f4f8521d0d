"""Memory of kernels as text of LLVM's language: elements, and neighbours together."""

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
        space = f" addrspace({pointer.space})" if pointer.space else ""
        return self.op(f"bitcast {space_of(pointer)} {place} to {kind}{space}*"), kind

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


def space_of(pointer: Pointer) -> str:
    space = f" addrspace({pointer.space})" if pointer.space else ""
    return f"{llvm(real_of(pointer.type))}{space}*"


def _alignment(pointer: Pointer, width: int) -> int:
    """Bytes that an address is a multiple of; a complex number alone may begin anywhere between real ones."""
    return size_of(pointer.type) * width if width > 1 or pointer.space == 3 else size_of(real_of(pointer.type))

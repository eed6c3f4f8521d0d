"""Image: the code of an ELF object file in memory, its references resolved, without LLVM.

Note [Loading without LLVM]
LLVM's library is tens of megabytes, and to load it and make an engine takes longer than all else that a process does
that finds its code on disk. What the code generator emits for x86-64 is simple: sections to be laid out in memory, and
references of 64 bits, absolute or relative, to symbols of its own or of the process (the large code model has no
others). `Image.of` takes objects of this kind, and says None to others, which LLVM loads: other processors and formats,
thread-local variables, start-up code, references of other kinds.

Pages are writable until references are resolved, then code is executable and constants are read-only. Tables for
unwinding are registered with libgcc, as LLVM does it, so that debuggers and C++ exceptions see the frames.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

_REL, _X86_64 = 1, 62  # e_type of an object file, e_machine
_SYMTAB, _RELA, _NOBITS, _INIT_ARRAY, _FINI_ARRAY, _UNWIND = 2, 4, 8, 14, 15, 0x70000001
_WRITE, _ALLOC, _EXEC, _TLS = 1, 2, 4, 0x400
_UNDEFINED, _ABSOLUTE, _RESERVED = 0, 0xFFF1, 0xFF00
_ABS64, _PC64 = 1, 24
_READ_ONLY, _READ_WRITE, _READ_EXEC = 1, 3, 5
_PAGE = 4096
_MASK = (1 << 64) - 1


class _Section(NamedTuple):
    """A header as the format has it, and where the section stands in memory, from the image's start."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


class _Symbol(NamedTuple):
    name: int
    info: int
    other: int
    section: int
    value: int
    size: int


def _sections(data: bytes) -> list[_Section]:
    """The sections of a 64-bit little-endian ELF object; none of anything else."""
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    (headers,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    return [_Section(*fields) for fields in struct.iter_unpack("<IIQQQQIIQQ", data[headers : headers + size * count])]


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


def _symbols(data: bytes, sections: list[_Section]) -> tuple[list[_Symbol], int]:
    """The symbols, and where their names begin."""
    for section in sections:
        if section.kind == _SYMTAB:
            table = data[section.offset : section.offset + section.size]
            return [_Symbol(*fields) for fields in struct.iter_unpack("<IBBHQQ", table)], sections[section.link].offset
    return [], 0


def undefined_symbols(data: bytes) -> list[str]:
    """What an ELF object expects from outside, also what LLVM added (memset, fmod). Other formats: none."""
    symbols, names = _symbols(data, _sections(data))
    return [_text(data, names + s.name) for s in symbols if s.name and s.section == _UNDEFINED]


@functools.cache
def _process() -> Any:
    return ctypes.CDLL(None)


def process_address(name: str) -> int:
    """The address of what the process exports by a name; 0: nothing, or the system does not say."""
    if not hasattr(sys, "getdlopenflags"):  # Windows
        return 0
    function = getattr(_process(), name, None)
    return 0 if function is None else int(ctypes.cast(function, ctypes.c_void_p).value or 0)


@functools.cache
def host_loads() -> bool:
    """Whether object files of this system are of the kind that is loaded here."""
    return sys.platform == "linux" and os.uname().machine == "x86_64" and ctypes.sizeof(ctypes.c_void_p) == 8


class Image:
    """Loaded code: `symbols` are the addresses of what it exports. Its memory is freed with it, but not at the end of
    the process, when threads may still be in it."""

    def __init__(self, data: bytes, sections: list[_Section], resolve: Callable[[str], int]) -> None:
        places, groups, size = _layout(sections)
        self._start = _mapped(size)
        self._frames: list[int] = []
        self._finalizer = weakref.finalize(self, _free, self._start, size, self._frames)
        self._finalizer.atexit = False
        memory = memoryview((ctypes.c_char * size).from_address(self._start)).cast("B")
        for section, place in zip(sections, places):
            if place is not None and section.kind != _NOBITS:
                memory[place : place + section.size] = data[section.offset : section.offset + section.size]
        self.symbols: dict[str, int] = {}
        addresses = self._addresses(data, sections, places, resolve)
        for section in sections:
            if section.kind == _RELA and places[section.info] is not None:
                self._relocate(memory, data, section, places[section.info] or 0, addresses)
        for (start, end), protection in zip(groups, (_READ_EXEC, _READ_ONLY, _READ_WRITE)):
            if end > start:
                _protect(self._start + start, end - start, protection)
        for section, place in zip(sections, places):
            if section.kind == _UNWIND and place is not None:
                self._register(self._start + place)

    @classmethod
    def of(cls, data: bytes, resolve: Callable[[str], int]) -> Image | None:
        """The image of an object file, or None where LLVM has to load it. `resolve` gives the addresses of what it
        expects from outside."""
        sections = _sections(data) if host_loads() else []
        return cls(data, sections, resolve) if _loadable(data, sections) else None

    def _addresses(
        self, data: bytes, sections: list[_Section], places: list[int | None], resolve: Callable[[str], int]
    ) -> list[int]:
        """Where each symbol of the table stands."""
        symbols, names = _symbols(data, sections)
        found = []
        for s in symbols:
            if s.section == _UNDEFINED:
                found.append(resolve(_text(data, names + s.name)) if s.name else 0)
            elif s.section == _ABSOLUTE:
                found.append(s.value)
            else:
                found.append(self._start + (places[s.section] or 0) + s.value)
                if s.info >> 4:  # not local
                    self.symbols[_text(data, names + s.name)] = found[-1]
        return found

    def _relocate(
        self, memory: memoryview, data: bytes, section: _Section, place: int, addresses: list[int]
    ) -> None:
        entries = data[section.offset : section.offset + section.size]
        for offset, info, addend in struct.iter_unpack("<QQq", entries):
            value = addresses[info >> 32] + addend
            if info & 0xFFFFFFFF == _PC64:
                value -= self._start + place + offset
            struct.pack_into("<Q", memory, place + offset, value & _MASK)

    def _register(self, frames: int) -> None:
        register, _ = _unwinder()
        if register is not None:
            register(frames)
            self._frames.append(frames)


def _loadable(data: bytes, sections: list[_Section]) -> bool:
    """Whether a file has nothing but what an Image knows."""
    if not sections or struct.unpack_from("<HH", data, 16) != (_REL, _X86_64):
        return False
    loaded = [bool(s.flags & _ALLOC) for s in sections]
    for section, here in zip(sections, loaded):
        if here and (section.flags & _TLS or section.kind in (_INIT_ARRAY, _FINI_ARRAY) or section.align > _PAGE):
            return False
        if section.kind == _RELA and loaded[section.info]:
            entries = data[section.offset : section.offset + section.size]
            if any(info & 0xFFFFFFFF not in (_ABS64, _PC64) for _, info, _ in struct.iter_unpack("<QQq", entries)):
                return False
    symbols, _ = _symbols(data, sections)
    return all(s.section < _RESERVED or s.section == _ABSOLUTE or s.info & 15 == 4 for s in symbols)  # 4: the file


def _layout(sections: list[_Section]) -> tuple[list[int | None], list[tuple[int, int]], int]:
    """Where each section stands, the pages of code, of constants and of variables, and the size of all."""
    places: list[int | None] = [None] * len(sections)
    groups, at = [], 0
    for wanted in (_EXEC, 0, _WRITE):
        start = at
        for k, section in enumerate(sections):
            if section.flags & _ALLOC and section.flags & (_EXEC | _WRITE) == wanted:
                align = max(section.align, 1)
                places[k] = place = -(-at // align) * align
                at = place + section.size + 8 * (section.kind == _UNWIND)  # zeros end the table of frames
        at = -(-at // _PAGE) * _PAGE
        groups.append((start, at))
    return places, groups, max(at, _PAGE)


@functools.cache
def _system() -> tuple[Any, Any, Any]:
    """mmap, munmap and mprotect."""
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    kind = functools.partial(ctypes.CFUNCTYPE, use_errno=True)
    process = _process()
    return (
        kind(pointer, pointer, size, number, number, number, ctypes.c_int64)(("mmap", process)),
        kind(number, pointer, size)(("munmap", process)),
        kind(number, pointer, size, number)(("mprotect", process)),
    )


@functools.cache
def _unwinder() -> tuple[Any, Any]:
    """libgcc's functions that register a table of frames, and forget it."""
    try:
        library = ctypes.CDLL("libgcc_s.so.1")
        return tuple(
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)((name, library))
            for name in ("__register_frame", "__deregister_frame")
        )  # type: ignore[return-value]
    except (OSError, AttributeError):
        return None, None


def _mapped(size: int) -> int:
    address = _system()[0](None, size, _READ_WRITE, 0x22, -1, 0)  # private and anonymous
    if address is None or address == _MASK:
        raise MemoryError(f"no memory for {size} bytes of code")
    return int(address)


def _protect(start: int, size: int, protection: int) -> None:
    if _system()[2](start, size, protection):
        number = ctypes.get_errno()
        raise OSError(number, "the system does not let pages of code be made executable")


def _free(start: int, size: int, frames: list[int]) -> None:
    _, forget = _unwinder()
    for table in frames:
        forget(table)
    _system()[1](start, size)

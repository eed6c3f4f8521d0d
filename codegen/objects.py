"""ObjectCode: the machine code of one plan with all that is needed to load it, a plain value that is stored as bytes.

Note [Object code]
`code` is an object file of the host's format that defines two functions,

    <prefix>_plan     i32 (ptr inputs, ptr outputs, ptr workspace, ptr table), see Note [Plan ABI] of `callspec`
    <prefix>_call     the CPython wrapper, see Note [Pointer table] there

and refers to nothing but functions of the C library by name (memcpy, fmod). What else the plan needs stands in its
table, whose slots are `externs`, in order: the name of a function, or a constant, for whose data the slot is a
pointer. The names are those of BLAS and LAPACK routines ("dgemm"), of CPython's C API ("PyErr_CheckSignals"), of what
runs tasks (`threads.LAUNCH`), of what is told an index (`checks.REPORT`), and of the functions of tapes
(`tape_library.PREFIX...`). A Python function that the plan calls back is `callback.PREFIX` and its number among those
of the program. `sites` says for each positive code that the plan can return what went wrong, and at which of the
program's locations. Locations and Python functions are no part of the value: equal programs of different lines share
it, and the functions are those of the program that it is loaded for.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from nufunc.codegen.callspec import ArgSpec, CallSpec, ResultSpec
from nufunc.ir.errors import NufuncError
from nufunc.ir.types import is_bfloat16

_MAGIC = b"nufunc object 1\n"
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64


class ObjectError(NufuncError, ValueError):
    """Bytes that are no object code."""


@dataclass(frozen=True, eq=False)
class ObjectCode:
    """Machine code for `target` (a `backend.Target.key`). See Note [Object code]."""

    target: tuple[str, ...]
    prefix: str
    spec: CallSpec
    externs: tuple[str | np.ndarray, ...]
    sites: Mapping[int, tuple[str, int | None]]
    code: bytes

    def pack(self) -> bytes:
        """The value as bytes."""
        constants = [e for e in self.externs if isinstance(e, np.ndarray)]
        spec: dict[str, Any] = {f.name: getattr(self.spec, f.name) for f in fields(CallSpec)}
        spec["args"] = [_fields(arg) for arg in self.spec.args]
        spec["results"] = [_fields(result) for result in self.spec.results]
        head = {
            "target": self.target,
            "prefix": self.prefix,
            "spec": spec,
            "externs": [e if isinstance(e, str) else [e.dtype.str, e.shape] for e in self.externs],
            "sites": [[code, *site] for code, site in self.sites.items()],
            "code": len(self.code),
        }
        return packed(_MAGIC, head, (self.code, *(c.tobytes() for c in constants)))


def packed(magic: bytes, head: Any, blobs: Iterable[bytes]) -> bytes:
    """A head of JSON and what lies in memory behind it, each piece aligned; `magic` says what this is."""
    text = json.dumps(head, separators=(",", ":")).encode()
    parts = [magic, _LENGTH.pack(len(text)), text]
    for blob in blobs:
        parts += [b"\0" * (-sum(map(len, parts)) % _ALIGNMENT), blob]
    return b"".join(parts)


def opened(magic: bytes, data: bytes) -> tuple[Any, Callable[[int], bytes]]:
    """The head of what `packed` made, and a function that gives the next piece, of so many bytes; ValueError and
    struct.error where it is something else or has no end."""
    if not data.startswith(magic):
        raise ValueError("it begins differently")
    at = len(magic)
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    head = json.loads(data[at : at + length])
    at += length

    def blob(size: int) -> bytes:
        nonlocal at
        at += -at % _ALIGNMENT
        part = data[at : at + size]
        if len(part) != size:
            raise ValueError("it is truncated")
        at += size
        return part

    return head, blob


def _fields(spec: ArgSpec | ResultSpec) -> list[Any]:
    values = (getattr(spec, f.name) for f in fields(spec))
    return [_dtype_text(v) if isinstance(v, np.dtype) else v for v in values]


def _dtype_text(dtype: np.dtype) -> str:
    return dtype.name if is_bfloat16(dtype) else dtype.str  # whose str is that of any two bytes


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def unpack(data: bytes) -> ObjectCode:
    """What `ObjectCode.pack` made, or ObjectError."""
    try:
        return _unpacked(data)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ObjectError(f"no object code: {error}") from error


def _unpacked(data: bytes) -> ObjectCode:
    head, blob = opened(_MAGIC, data)
    code = blob(head["code"])
    externs: list[str | np.ndarray] = []
    for extern in head["externs"]:
        if isinstance(extern, str):
            externs.append(extern)
        else:
            dtype, shape = np.dtype(extern[0]), tuple(extern[1])
            flat = np.frombuffer(blob(math.prod(shape) * dtype.itemsize), dtype)
            externs.append(flat.reshape(shape).copy())  # aligned
    spec = dict(head["spec"])
    spec["args"] = tuple(ArgSpec(*map(_frozen, arg)) for arg in spec["args"])
    spec["results"] = tuple(ResultSpec(*map(_frozen, result)) for result in spec["results"])
    sites = {number: (kind, place) for number, kind, place in head["sites"]}
    return ObjectCode(tuple(head["target"]), head["prefix"], CallSpec(**spec), tuple(externs), sites, code)

"""Portable: a device program as bytes, for the cache on disk, with what its kernels' code is kept under; and back.

Note [Stored programs]
The value is JSON with the bytes of constants behind it. It holds numbers, text, types and the classes of `_CLASSES`,
by their fields, and nothing else: reading it makes no object of any other class and calls nothing by name. What a
program has beside that is told apart by a tag: kernels by their number in a table, so that each stands there once; the
user's lines and Python functions by their numbers among those of the program, as in object code (Note [Object code] of
`nufunc.codegen.objects`), so that equal programs of other lines share it. A kernel comes with the name of its machine
code on disk, if it has any; where that has gone, its text is compiled again.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.codegen.cuda import program as steps
from nufunc.codegen.cuda.library_steps import Hosted, Made, Ready, Routine
from nufunc.codegen.cuda.program import Kernel, Program
from nufunc.codegen.loops import Buffer
from nufunc.codegen.objects import ObjectError, opened, packed
from nufunc.ir.errors import Location
from nufunc.ir.types import ArrayType, dtype_name, dtype_named, is_supported, parse_type

if TYPE_CHECKING:
    from nufunc.codegen.callback import HostCall
    from nufunc.ir.prims.host import Host

_MAGIC = b"nufunc device program 1\n"
_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Buffer, steps.Branch, steps.Call, steps.Copy, steps.Host, steps.Launch, steps.Operand, steps.Place,
        steps.Record, steps.Repeat, steps.Replay, steps.Scoped, steps.TapeStep, steps.While, Hosted, Made, Ready,
        Routine,
    )
}  # fmt: skip
_NAMES = {kind: name for name, kind in _CLASSES.items()}
_PLAIN = (bool, int, float, str)


class UnstorableError(Exception):
    """Why a program has no bytes."""


@dataclass(frozen=True)
class Portable:
    """A program, which of its inputs it reads where they lie, the names of the machine code of kernels (its own, and
    those of its library calls), and what each library call has become, if that can be said."""

    program: Program
    placed: frozenset[int]
    names: Mapping[Kernel, str | None]
    ready: tuple[Ready | None, ...] = ()

    def pack(self, locations: Sequence[Location], hosts: Sequence[Host]) -> bytes:
        """The value as bytes; UnstorableError where it holds what these do not name."""
        writer = _Writer(locations, hosts)
        program = self.program
        head = {
            "name": program.name,
            "inputs": [str(t) for t in program.inputs],
            "outputs": writer.value(program.outputs),
            "constants": [[dtype_name(c.dtype), c.shape] for c in program.constants],
            "workspace": program.workspace,
            "steps": writer.value(program.steps),
            "sites": [[code, *map(writer.value, site)] for code, site in program.sites.items()],
            "placed": sorted(self.placed),
        }
        head["ready"] = [writer.ready(call) for call in self.ready]
        names = [[writer.kernel(kernel), name] for kernel, name in self.names.items()]
        head["names"], head["kernels"] = names, writer.written
        return packed(_MAGIC, head, (constant.tobytes() for constant in program.constants))


class _Writer:
    """Values as JSON takes them."""

    def __init__(self, locations: Sequence[Location], hosts: Sequence[Host]) -> None:
        self.locations = {place: k for k, place in enumerate(locations)}
        self.hosts = {host: k for k, host in enumerate(hosts)}
        self.kernels: dict[Kernel, int] = {}
        self.written: list[Any] = []

    def ready(self, call: Ready | None) -> Any:
        try:
            return self.value(call)
        except UnstorableError:  # it is worked out again
            return None

    def kernel(self, kernel: Kernel) -> int:
        if kernel not in self.kernels:
            self.kernels[kernel] = len(self.kernels)
            fields = (getattr(kernel, f.name) for f in dataclasses.fields(Kernel))
            self.written.append([self.value(v) for v in fields])
        return self.kernels[kernel]

    def value(self, value: Any) -> Any:
        if value is None or type(value) in _PLAIN:
            return value
        if type(value) in (tuple, list):
            return [self.value(v) for v in value]
        kind = _NAMES.get(type(value))
        if kind is not None:
            return {kind: [self.value(getattr(value, f.name)) for f in dataclasses.fields(value)]}
        return self._other(value)

    def _other(self, value: Any) -> Any:
        from nufunc.codegen.callback import HostCall  # of programs that call functions

        match value:
            case Kernel():
                return {"kernel": self.kernel(value)}
            case np.dtype() if is_supported(value):
                return {"dtype": dtype_name(value)}
            case ArrayType():
                return {"type": str(value)}
            case complex():
                return {"complex": [value.real, value.imag]}
            case Mapping():
                return {"map": [[self.value(k), self.value(v)] for k, v in value.items()]}
            case Location() if value in self.locations:
                return {"line": self.locations[value]}
            case HostCall() if value.host in self.hosts:
                return {"host": self.hosts[value.host]}
            case Location():
                raise UnstorableError("an error in it would be at a place that the program does not name")
            case HostCall():
                raise UnstorableError("it calls a Python function that the program does not name")
        raise UnstorableError(f"it holds a {type(value).__name__}")


def unpack(data: bytes, locations: Sequence[Location], hosts: Sequence[Host]) -> Portable:
    """What `Portable.pack` made, for a program with these lines and functions; or ObjectError."""
    try:
        return _unpacked(data, locations, hosts)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error) as error:
        raise ObjectError(f"no device program: {error}") from error


def _unpacked(data: bytes, locations: Sequence[Location], hosts: Sequence[Host]) -> Portable:
    head, blob = opened(_MAGIC, data)
    constants = []
    for name, shape in head["constants"]:
        dtype = _dtype(name)
        constants.append(np.frombuffer(blob(math.prod(shape) * dtype.itemsize), dtype).reshape(shape))
    reader = _Reader(head["kernels"], locations, hosts)
    program = Program(
        head["name"], tuple(map(parse_type, head["inputs"])), reader.value(head["outputs"]), tuple(constants),
        int(head["workspace"]), reader.value(head["steps"]),
        {int(code): (reader.value(kind), reader.value(line)) for code, kind, line in head["sites"]},
    )  # fmt: skip
    names = {reader.kernels[k]: name for k, name in head["names"]}
    ready = reader.value(head["ready"])
    if len(ready) != sum(isinstance(step, steps.Call) for step in program.walk()):
        raise ValueError("its calls are others")
    return Portable(program, frozenset(head["placed"]), names, ready)


class _Reader:
    """The values of a `_Writer`."""

    def __init__(self, kernels: Sequence[Any], locations: Sequence[Location], hosts: Sequence[Host]) -> None:
        self.locations, self.hosts = locations, hosts
        self.calls: dict[int, HostCall] = {}
        self.kernels: list[Kernel] = []
        for fields in kernels:
            self.kernels.append(Kernel(*map(self.value, fields)))

    def value(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(map(self.value, value))
        if not isinstance(value, dict):
            return value
        ((tag, content),) = value.items()
        if tag in _CLASSES:
            return _CLASSES[tag](*map(self.value, content))
        match tag:
            case "kernel":
                return self.kernels[content]
            case "dtype":
                return _dtype(content)
            case "type":
                return parse_type(content)
            case "complex":
                return complex(*content)
            case "map":
                return {self.value(k): self.value(v) for k, v in content}
            case "line":
                return self.locations[content]
            case "host":
                return self._call(content)
        raise ValueError(f"it has a {tag}")

    def _call(self, number: int) -> HostCall:
        from nufunc.codegen.callback import HostCall

        if number not in self.calls:
            self.calls[number] = HostCall(self.hosts[number])
        return self.calls[number]


def _dtype(name: str) -> np.dtype[Any]:
    found = dtype_named(name)
    if found is None:
        raise ValueError(f"it has the dtype {name}")
    return found

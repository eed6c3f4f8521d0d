"""Programs in the cache on disk: the key of a program's machine code, and how an entry is found, made or stored.

Note [Keys]
The key is the hash of everything that code generation reads: the graph as canonical text, constants by their bytes,
how inputs and results are passed, the options; the target; the versions of what generates code, nufunc's own sources
among them; what the wrapper knows of Python and NumPy. It leaves the user's lines out, so that moving code or editing
what stands around it recompiles nothing, but not which nodes share a line: an error names its place by the place's
number among the program's distinct locations, in order, and that is the right one wherever these stand now.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nufunc.ir.errors import Location, NufuncError
from nufunc.ir.graph import Graph
from nufunc.ir.prims.custom import Rule
from nufunc.ir.prims.host import Host
from nufunc.ir.text import graph_hash
from nufunc.runtime.disk_cache import DISK

if TYPE_CHECKING:
    from nufunc.codegen.compile import Lowered
    from nufunc.codegen.loading import Compiled
    from nufunc.runtime.executable import Executable, Program

_STARTED = time.time()
_JUST_NOW = 2  # seconds before the start in which an edit may be younger than what was imported
_SOURCES = ("nufunc.ir", "nufunc.ir.prims", "nufunc.passes", "nufunc.codegen")  # what makes code of graphs
_DEVICE_SOURCES = ("nufunc.codegen.cuda",)  # and what makes programs for devices of them
_TOOLS = ("cuda_", "nvidia_", "nvmath")  # packages that make the machine code of kernels


class Origin(NamedTuple):
    """Where an executable's code comes from: "compiled", "loaded", "unpickled", or "interpreted" with NUFUNC_NOJIT; its
    key on disk; why it is not there, if it is not; and the seconds that it took.
    """

    how: str
    key: str | None = None
    unstored: str | None = None
    seconds: float = 0.0


class Address(NamedTuple):
    """The key of a program, and the locations and Python functions by whose numbers its code names them."""

    key: str
    locations: tuple[Location, ...]
    hosts: tuple[Host, ...]


def address_of(program: Program) -> Address | str:
    """Where the machine code of a program is stored, or why it cannot be."""
    graph = program.graph
    hosts: dict[Host, int] = {}
    called = []
    for node in graph.walk():
        for value in node.attrs.values():
            if isinstance(value, Host):
                called.append(hosts.setdefault(value, len(hosts)))
            elif isinstance(value, Rule):
                return f"it calls a rule of its own ({node.loc})" if node.loc else "it calls a rule of its own"
    numbers: dict[Location | None, int] = {None: -1}
    pattern = [numbers.setdefault(node.loc, len(numbers) - 1) for node in graph.walk()]
    inputs = [(s.kind, s.type.shape, str(s.type), s.strides, s.device is not None) for s in program.inputs]
    options = (program.scalars, program.donated, sorted(program.stored), program.fastmath)
    around = environment() if program.device is None else device_environment(program.device)
    parts = ("program", around, graph_hash(graph), pattern, called, inputs, options)
    del numbers[None]
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    return Address(key, tuple(x for x in numbers if x is not None), tuple(hosts))


@functools.cache
def environment() -> tuple[str, ...]:
    """What machine code depends on beside the program."""
    from nufunc.codegen import backend

    return (*backend.target().key, *_python(), f"sources {_sources(False)}")


def device_environment(index: int) -> tuple[str, ...]:
    """What a program for a device depends on beside the traced one: devices of one capability share it."""
    from nufunc.runtime.cuda.devices import device_of

    driver = device_of(index).driver
    return (f"cuda {driver.capability}", f"simulated {driver.simulated}", *device_versions())


@functools.cache
def device_versions() -> tuple[str, ...]:
    """The versions of what makes kernels: of NVIDIA's packages, as the folders of their descriptions are called, since
    to import these takes longer than to load a program, or where a toolkit of the system is."""
    found = set()
    for folder in sys.path:
        with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
            found |= {e.name for e in entries if e.name.endswith("-info") and e.name.lower().startswith(_TOOLS)}
    toolkit = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    return (*sorted(found), f"toolkit {toolkit}", *_python(), f"sources {_sources(True)}")


def _python() -> tuple[str, str]:
    python = f"{sys.implementation.cache_tag} {getattr(sys, 'abiflags', '')} {object.__basicsize__}"
    return f"numpy {np.__version__}", python


def _source_files(device: bool) -> Iterator[os.DirEntry[str]]:
    """The source files that code generation consists of, for a device or for the processor."""
    for package in (*_SOURCES, *(_DEVICE_SOURCES if device else ())):
        (folder,) = importlib.import_module(package).__path__
        with os.scandir(folder) as found:
            yield from sorted((entry for entry in found if entry.name.endswith(".py")), key=lambda entry: entry.name)


def _sources(device: bool = False) -> str:
    """A hash of the source files. To read them takes longer than to load a program, so the cache knows it, for files of
    these sizes and times.
    """
    found = [(e.path, e.stat().st_size, e.stat().st_mtime_ns) for e in _source_files(device)]
    key = hashlib.sha256(repr(("sources", found)).encode()).hexdigest()
    known = DISK.get(key)
    if known is not None:
        return known.decode()
    digest = hashlib.sha256()
    for path, *_ in found:
        with open(path, "rb") as file:
            text = file.read()
        digest.update(f"{os.path.basename(path)} {len(text)}\n".encode())
        digest.update(text)
    DISK.put(key, digest.hexdigest().encode(), "library: the hash of nufunc's sources")
    return digest.hexdigest()


def _edited() -> bool:
    """Whether a source file may have changed since this process imported it: then the hash is not of what runs."""
    return max(entry.stat().st_mtime for entry in _source_files(False)) > _STARTED - _JUST_NOW


_EDITED = "nufunc's own sources were edited since this process began, or just before"


@functools.cache
def _hashed_edited() -> bool:
    """Whether they may have when the hash was made. What is loaded later is for that hash; what is compiled later may
    be by modules that were imported, and edited, after it, so that `_edited` is asked again before it is stored.
    """
    return _edited()


def device_edited() -> bool:
    """`_edited` for programs of devices."""
    return max(entry.stat().st_mtime for entry in _source_files(True)) > _STARTED - _JUST_NOW


@functools.cache
def hashed_device_edited() -> bool:
    return device_edited()


@functools.cache
def attach() -> None:
    """Import what loads code, and let the modules that every process needs be kept in the cache on disk too."""
    from nufunc.codegen import backend, loading  # noqa: F401

    backend.use_store(DISK)


def workspace_of(program: Program, ask: Callable[[], int]) -> int:
    """The bytes of a program's temporaries, which `ask` tells at length."""
    attach()
    address = address_now(program)
    if isinstance(address, str):
        return ask()
    key = hashlib.sha256(f"workspace {address.key}".encode()).hexdigest()
    found = DISK.get(key)
    if found is not None:
        return int(found)
    size = ask()
    _put(program, key, str(size).encode(), f"temporaries of {described(program.name, program.graph)}")
    return size


def address_now(program: Program) -> Address | str:
    """Where code of a program is looked for and stored, or why nowhere."""
    off = DISK.reason_off()
    if off is None and (_hashed_edited() if program.device is None else hashed_device_edited()):
        off = _EDITED
    return address_of(program) if off is None else off


def entry_of(program: Program, lower: Callable[[], Lowered], fresh: bool = False) -> tuple[Compiled, Origin]:
    """The entry of a program: loaded, or compiled and stored. With `fresh` it is compiled in any case."""
    begin = time.perf_counter()
    attach()
    address = address_now(program)
    if isinstance(address, Address) and not fresh:
        entry = _loaded(address, lower)
        if entry is not None:
            return entry, Origin("loaded", address.key, None, time.perf_counter() - begin)
    from nufunc.codegen.compile import compile_lowered

    entry = compile_lowered(lower())
    seconds = time.perf_counter() - begin
    if isinstance(address, str):
        return entry, Origin("compiled", None, address, seconds)
    return entry, Origin("compiled", address.key, _store(address, entry, program), seconds)


def _loaded(address: Address, lower: Callable[[], Lowered]) -> Compiled | None:
    data = DISK.get(address.key)
    if data is None:
        return None
    try:
        return _entry(data, address, lower)
    except NufuncError as error:
        DISK.discard(address.key, str(error))
        return None


def _entry(data: bytes, address: Address, lower: Callable[[], Lowered]) -> Compiled:
    from nufunc.codegen.loading import load_object
    from nufunc.codegen.objects import unpack

    return load_object(unpack(data), address.locations, address.hosts, lower)


def packed(executable: Executable) -> tuple[str, bytes] | None:
    """The machine code of an executable with its key, for another process; None where it is of no use elsewhere."""
    if executable.device is not None or executable.origin.how == "interpreted" or _edited():
        return None
    from nufunc.codegen.compile import object_code

    address = address_of(executable)
    if isinstance(address, str):
        return None
    value = object_code(executable.entry, address.locations, address.hosts)
    return None if value is None else (address.key, value.pack())


def entry_from(
    program: Program, lower: Callable[[], Lowered], key: str, data: bytes
) -> tuple[Compiled, Origin] | None:
    """The entry of a program from what `packed` gave, or None where that is for another machine or other versions."""
    begin = time.perf_counter()
    attach()
    address = address_of(program)
    if isinstance(address, str) or address.key != key:
        return None
    try:
        entry = _entry(data, address, lower)
    except NufuncError:
        return None
    return entry, Origin("unpickled", key, "it came with a pickle", time.perf_counter() - begin)


def _store(address: Address, entry: Compiled, program: Program) -> str | None:
    from nufunc.codegen.compile import object_code

    if _edited():
        return _EDITED
    value = object_code(entry, address.locations, address.hosts)
    if value is None:
        return "it calls a Python function, or an error in it would be at a place, that the program does not name"
    return store(program, address, value.pack())


def store(program: Program, address: Address, data: bytes) -> str | None:
    """Store code that was made just now; None, or why it was not stored."""
    return _put(program, address.key, data, described(program.name, program.graph))


def _put(program: Program, key: str, data: bytes, about: str) -> str | None:
    edited = _edited() if program.device is None else device_edited()
    return _EDITED if edited else DISK.put(key, data, about)


def described(name: str, graph: Graph) -> str:
    """A program in one line."""

    def types(of: Any) -> str:
        listed = [str(t) for t in of]
        return ", ".join(listed if len(listed) <= 6 else [*listed[:5], f"and {len(listed) - 5} more"])

    return f"{name}({types(graph.param_types)}) -> {types(graph.output_types)}"

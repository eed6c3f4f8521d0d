"""Ahead of time: functions compiled for given shapes, as a folder with a C library that needs no Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentError, UnsupportedError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.passes.composites import opened
from nufunc.passes.decompose import dot_as_product
from nufunc.passes.fuse import fuse
from nufunc.passes.half import without_halves
from nufunc.passes.rewrite import rewritten
from nufunc.passes.simplify import simplify
from nufunc.runtime.compilation import lower_program
from nufunc.runtime.executable import Program
from nufunc.runtime.function import Transformed
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.codegen.ahead import EntryPoint, Library
    from nufunc.codegen.cuda.program import Program as DeviceProgram

_SUFFIXES = {"darwin": ".dylib", "win32": ".dll"}


@dataclass(frozen=True)
class Built:
    """What `nf.aot.compile` has written: the folder, the names of the functions, the manifests (one, or for CUDA one
    per function), and for the CPU the library (None if nothing was linked), the object file, the header and the C
    example.
    """

    folder: Path
    functions: tuple[str, ...]
    manifests: tuple[Path, ...]
    library: Path | None = None
    object_file: Path | None = None
    header: Path | None = None
    example: Path | None = None


def build(
    functions: Mapping[str, tuple[Callable[..., Any], Sequence[Any]]], name: str, folder: Path, *, cpu: str,
    embed: bool, blas: str | None, lapack: str | None, link: bool,
) -> Built:  # fmt: skip
    """Compile the functions, each with its arguments or specs, into a folder."""
    from nufunc.codegen import ahead, ahead_text, backend

    if cpu not in backend.CPUS:
        raise ArgumentError(f"aot.compile: cpu must be one of {', '.join(backend.CPUS)}, got {cpu!r}", user_location())
    if ahead.identifier(name) != name:
        raise ArgumentError(f"aot.compile: {name!r} cannot be the name of a library in C", user_location())
    _check_names(name, list(functions))
    with backend.targeting(backend.foreign_target(cpu)):
        entries = tuple(
            _entry(f"{name}_{key}" if key else name, func, args, embed) for key, (func, args) in functions.items()
        )
        library = ahead.Library(name, entries, blas, lapack)
        code = library.object_file()
        texts = {
            f"{name}.h": ahead_text.header(library),
            "example.c": ahead_text.example(library),
            "manifest.json": ahead_text.manifest(library),
            "__init__.py": Path(__file__).with_name("library_package.py.txt").read_text(encoding="utf-8"),
        }
    folder.mkdir(parents=True, exist_ok=True)
    object_file = folder / f"{name}.o"
    object_file.write_bytes(code)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    linked = _link(library, object_file, backend.target().triple, cpu) if link else None
    names = tuple(e.name for e in entries)
    header, example = folder / f"{name}.h", folder / "example.c"
    return Built(folder, names, (folder / "manifest.json",), linked, object_file, header, example)


def _check_names(name: str, keys: Sequence[str]) -> None:
    """Each function must have names in C, which no other has."""
    taken = {f"{name}_parallel_for": "the library", f"{name}_body": "the library"}
    for key in keys:
        if key and not re.fullmatch(r"\w+", key, re.ASCII):
            raise ArgumentError(f"aot.compile: {key!r} cannot be part of a name in C", user_location())
        own = f"{name}_{key}" if key else name
        for symbol in (own, f"{own}_error"):
            if symbol in taken:
                owner = f"would be called {own}, but {symbol} belongs to {taken[symbol]}"
                raise ArgumentError(f"aot.compile: {key!r} {owner}", user_location())
            taken[symbol] = own


def build_cuda(
    functions: Mapping[str, tuple[Callable[..., Any], Sequence[Any]]], name: str, folder: Path, *,
    capability: tuple[int, int], embed: bool,
) -> Built:  # fmt: skip
    """Compile the functions to kernels for CUDA devices, each into a folder of its own."""
    from nufunc.codegen.cuda import ahead as ahead_cuda

    programs: dict[str, tuple[Program, DeviceProgram]] = {}
    for key, (func, args) in functions.items():
        own = f"{name}_{key}" if key else name
        program = _program(func, args, embed)
        pure = rewritten(program.graph, _without_products)
        grouped = fuse(without_halves(opened(simplify(pure), native=True)))
        programs[own] = program, ahead_cuda.program(grouped, own, f"aot.compile: {own}")
    manifests = []
    for own, (program, made) in programs.items():
        place = folder / own
        place.mkdir(parents=True, exist_ok=True)
        about = {
            "function": own,
            "inputs": [
                {"about": source, "shape": list(p.shape), "dtype": p.dtype.name}
                for source, p in zip(program.sources, program.graph.params, strict=True)
            ],
            "results": [{"shape": list(o.shape), "dtype": o.dtype.name} for o in program.graph.outputs],
        }
        ahead_cuda.write(made, place, capability, about, program.graph.updates)
        manifests.append(place / "manifest.json")
    return Built(folder, tuple(programs), tuple(manifests))


def _without_products(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
    """Products of matrices as sums, which kernels compute."""
    return [dot_as_product(b, node, *operands)] if node.prim == "dot" else None


def _entry(name: str, func: Callable[..., Any], args: Sequence[Any], embed: bool) -> EntryPoint:
    return entry_point(name, _program(func, args, embed), None, _shown(func), "aot.compile")


def _program(func: Callable[..., Any], args: Sequence[Any], embed: bool) -> Program:
    function = func if isinstance(func, Transformed) else Transformed((), func)
    program, values = function.program_of(tuple(args), {})
    captured = values[len(program.positions) :] if embed else None
    return _plain(program, captured, f"aot.compile: {_shown(func)}")


def _shown(func: Callable[..., Any]) -> str:
    return re.sub(r"^<nufunc (.*)>$", r"\1", repr(func)) if isinstance(func, Transformed) else func.__name__


def entry_point(
    name: str, program: Program, captured: Sequence[Any] | None, about: str, label: str
) -> EntryPoint:
    """The C function of a program over its arguments and what it captures; where values of that are given, over its
    arguments alone. `about` says what it is, `label` who asks.
    """
    from nufunc.codegen.ahead import EntryPoint, Parameter, identifier

    program = replace(_plain(program, captured, f"{label}: {about}"), name=name)
    lowered = lower_program(program, standalone=True)
    names: list[str] = []
    for source in program.sources:
        names.append(identifier(re.sub(r"^(argument \d+|global|closure variable|local)\b", "", source), names))
    written = set(program.graph.updates)
    inputs = tuple(
        Parameter(n, value.shape, value.dtype, source, k in written)
        for k, (n, value, source) in enumerate(zip(names, program.graph.params, program.sources, strict=True))
    )
    results: list[Parameter | None] = []
    alone = program.num_results == 1
    for k, (spec, value) in enumerate(zip(lowered.spec.results, program.graph.outputs, strict=True)):
        if spec.source is not None:
            results.append(None)
            continue
        names.append(identifier("result" if alone else f"result_{k}", names))
        which = "the result" if alone else f"result {k}"
        results.append(Parameter(names[-1], value.shape, value.dtype, which, True))
    return EntryPoint(name, lowered, about, inputs, tuple(results))


def _plain(program: Program, captured: Sequence[Any] | None, label: str) -> Program:
    """The program as a C function can run it, with the values that are given for what it captures."""
    if program.draws is not None:
        raise UnsupportedError(f"{label} draws from a NumPy generator, which lives in Python; use nf.random with a key")
    for value in (*program.graph.params, *program.graph.outputs):
        if value.dtype.kind == "O":
            raise UnsupportedError(f"{label}: tapes of loops of unknown length cannot cross a C function's boundary")
    for k, given in enumerate(program.inputs):
        if given.strides is not None:
            raise ArgumentError(f"{label}: {program.sources[k]} is no C-contiguous array; pass nf.spec(shape, dtype)")
    count = len(program.positions)
    if captured is None or len(program.inputs) == count:
        return program
    for k in program.graph.updates:
        if k >= count:
            source = program.sources[k]
            raise UnsupportedError(f"{label} writes in place to {source}, which becomes a constant here")
    graph = _with_constants(program.graph, count, [np.asarray(v) for v in captured])
    return replace(program, graph=graph, inputs=program.inputs[:count], sources=program.sources[:count])


def _with_constants(graph: Graph, count: int, values: Sequence[np.ndarray]) -> Graph:
    """The graph with its parameters from `count` on as constants."""
    frozen = []
    for param, value in zip(graph.params[count:], values, strict=True):
        array = np.array(value, param.dtype, order="C")
        array.flags.writeable = False
        frozen.append((param, array))
    return simplify(graph.replace(params=graph.params[:count], consts=[*graph.consts, *frozen]))


def _link(library: Library, object_file: Path, triple: str, cpu: str) -> Path:
    """The shared library of an object file, by the system's C compiler."""
    if cpu == "aarch64" and not triple.startswith("aarch64"):
        raise ArgumentError(
            f"aot.compile: {object_file} is written; linking for aarch64 needs a cross compiler: pass link=False and "
            "link it there"
        )
    words = os.environ.get("CC", "").split()
    compiler = words or [found for found in ("cc", "gcc", "clang") if shutil.which(found)][:1]
    if not compiler or shutil.which(compiler[0]) is None:
        wanted = words[0] if words else "cc, gcc or clang"
        raise UnsupportedError(
            f"aot.compile: there is no C linker ({wanted} was not found); install a C compiler or set CC. "
            f"{object_file} is written; link=False asks for no more"
        )
    target = object_file.with_name(f"lib{library.name}{_SUFFIXES.get(sys.platform, '.so')}")
    others = dict.fromkeys(found for found in (library.lapack, library.blas) if found)
    strict = [] if sys.platform == "darwin" else ["-Wl,-z,defs"]
    with tempfile.TemporaryDirectory(dir=object_file.parent) as folder:
        made = Path(folder) / target.name
        command = [*compiler, "-shared", "-o", str(made), str(object_file), *strict, *(f"-l{o}" for o in others), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnsupportedError(f"aot.compile: {' '.join(command)} failed:\n{done.stderr.strip()}")
        made.replace(target)
    return target

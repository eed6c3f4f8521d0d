"""Kernels to machine code: PTX by libNVVM, cubins by ptxas where it is found, each made once and kept."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

import numpy as np

from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.emit_text import compile_text
from nufunc.codegen.text_scalars import BITS, CONSTANTS, FUNCTIONS, HELPERS, LACKING, PLAIN, ROUNDED, TYPES, WIDE
from nufunc.ir.errors import UnsupportedError

Capability = tuple[int, int]


class Store(Protocol):
    """Bytes by key, kept between processes."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, data: bytes) -> None: ...


@dataclass(frozen=True)
class Code:
    """A compiled kernel: the function `symbol` of a module, which several kernels may share and `module` names.

    `cubin` is None where no assembler was found: a driver compiles the PTX then. `registers` and `spilled` (bytes of
    registers that did not fit) are those of the cubin.
    """

    module: str
    symbol: str
    ptx: str
    cubin: bytes | None
    registers: int | None = None
    spilled: int | None = None


_codes: dict[tuple[Kernel, Capability], Code] = {}


def compiled(kernel: Kernel, capability: Capability, store: Store | None = None) -> Code:
    """The machine code of a kernel for a compute capability."""
    key = (kernel, capability)
    if key not in _codes:
        name = code_key(kernel, capability)
        data = None if store is None else store.get(name)
        code = _compile(kernel, capability, name) if data is None else _loaded(data)
        if data is None and store is not None:
            store.put(name, _stored(code))
        _codes[key] = code
    return _codes[key]


def code_key(kernel: Kernel, capability: Capability) -> str:
    """What a kernel's code depends on, as a name."""
    buffers = [(b.dtype.str, b.size, b.written) for b in kernel.buffers]
    parts = (kernel.source, buffers, kernel.threads, capability, _versions(), assembler())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def _versions() -> tuple[str, ...]:
    return tuple(importlib.metadata.version(name) for name in ("nufunc", "numba-cuda", "cuda-bindings"))


def _stored(code: Code) -> bytes:
    about = asdict(replace(code, ptx="", cubin=None))
    head = json.dumps({**about, "sizes": [len(code.ptx.encode()), -1 if code.cubin is None else len(code.cubin)]})
    return head.encode() + b"\n" + code.ptx.encode() + (code.cubin or b"")


def _loaded(data: bytes) -> Code:
    head, _, rest = data.partition(b"\n")
    about = json.loads(head)
    text, binary = about.pop("sizes")
    return Code(**{**about, "ptx": rest[:text].decode(), "cubin": None if binary < 0 else rest[text : text + binary]})


def _compile(kernel: Kernel, capability: Capability, module: str) -> Code:
    text = ptx(kernel, capability)
    (symbol,) = re.findall(r"\.visible \.entry (\w+)\(", text)
    if assembler() is None:
        return Code(module, symbol, text, None)
    cubin, log = assemble(text, capability)
    registers, spilled = re.search(r"Used (\d+) registers", log), re.search(r"(\d+) bytes spill stores", log)
    return Code(
        module, symbol, text, cubin, int(registers[1]) if registers else None, int(spilled[1]) if spilled else None
    )


# -- the assembler


@functools.cache
def assembler() -> str | None:
    """ptxas, of NVIDIA's package or of the system."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(place).glob("*/bin/ptxas")):
            return str(path)
    return shutil.which("ptxas")


def assemble(text: str, capability: Capability) -> tuple[bytes, str]:
    """The cubin of a PTX text, and what ptxas says about its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(text, encoding="utf-8")
        arch = f"-arch=sm_{capability[0]}{capability[1]}"
        command = [str(assembler()), "-v", arch, str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnsupportedError(f"ptxas refused a kernel: {done.stderr.strip()}")
        return target.read_bytes(), done.stderr


# -- numba.cuda


def _module(name: str) -> Any:
    """A module of numba or numba-cuda, imported when it is needed; both are untyped."""
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise UnsupportedError(f"CUDA needs the packages of `pip install nufunc[cuda]`: {missing}") from missing


@functools.cache
def _device_names() -> Mapping[str, Any]:
    """What emitted text may name on a device."""
    cuda, libdevice = _module("numba.cuda"), _module("numba.cuda.libdevice")
    names: dict[str, Any] = {**TYPES, **CONSTANTS, "cuda": cuda}
    wide = (*ROUNDED, *WIDE)  # in double precision only; math's floor and its like would give integers
    known = [name for name in (*FUNCTIONS, *ROUNDED) if name not in LACKING]
    names.update((name, getattr(libdevice if name in wide else math, name)) for name in known)
    names.update((name, getattr(libdevice, name)) for name in BITS.values())
    plain = dict(names)
    for helper in HELPERS:
        # Inlined, since numba.cuda asks a device for its architecture when it compiles a device function.
        function = FunctionType(helper.__code__, plain, helper.__name__)
        names[helper.__name__] = cuda.jit(function, device=True, inline="always")
    return names


def ptx(kernel: Kernel, capability: Capability) -> str:
    """PTX of a kernel for a compute capability; needs libNVVM and libdevice, but no device and no driver."""
    compiler, types = _module("numba.cuda.compiler"), _module("numba.cuda.types")
    from_dtype = _module("numba.cuda.np.numpy_support").from_dtype
    names = _device_names()
    missing = [n for n in PLAIN if n not in names and re.search(rf"\b{n}\b", kernel.source)]
    if missing:
        raise UnsupportedError(f"CUDA kernels have no {', '.join(missing)}")
    function = compile_text(kernel.source, kernel.name, names)
    pointer = lambda dtype: types.CPointer(types.uint8 if dtype.kind == "b" else from_dtype(dtype))
    signature = (*(pointer(b.dtype) for b in kernel.buffers), pointer(np.dtype(np.int32)))
    # cuda.compile_ptx has no way to turn contraction off; this is what it does, with one option more.
    options = {"opt": 3, "fma": False}
    made = compiler.compile_cuda(function, types.void, signature, nvvm_options=options, cc=capability)
    library, symbol = made.library, made.fndesc.llvm_func_name
    compiler.kernel_fixup(library.get_function(symbol), False)
    library._entry_name = symbol
    text: str = library.get_asm_str(cc=capability)
    return text

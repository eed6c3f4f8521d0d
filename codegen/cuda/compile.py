"""Kernels to machine code: PTX by libNVVM, cubins by nvJitLink where it is installed, each made once and kept."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nufunc.codegen import random, text_scalars, vmath_coefficients_special
from nufunc.codegen.cuda import (
    device_calls,
    device_expressions,
    device_functions,
    device_memory,
    device_values,
    lowering,
)
from nufunc.codegen.cuda.codes import CODES, Code, Store, keep, kept
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.ir.errors import UnsupportedError

Capability = tuple[int, int]


def compiled(kernel: Kernel, capability: Capability, store: Store | None = None) -> Code:
    """The machine code of a kernel for a compute capability."""
    return compiled_together([kernel], capability, store)[0]


def compiled_together(kernels: Sequence[Kernel], capability: Capability, store: Store | None = None) -> list[Code]:
    """The machine code of several kernels; what has to be compiled becomes one module, which takes less time than a
    module for each."""
    names = [code_key(kernel, capability) for kernel in kernels]
    missing = {name: kernel for name, kernel in zip(names, kernels, strict=True) if kept(name, store) is None}
    if missing:
        for name, code in zip(missing, _compile(missing, capability), strict=True):
            keep(name, code, store)
    return [CODES[name] for name in names]


@functools.lru_cache(maxsize=4096)
def code_key(kernel: Kernel, capability: Capability) -> str:
    """What a kernel's code depends on, as a name."""
    buffers = [(b.dtype.name, b.written) for b in kernel.buffers]
    return _hashed((kernel.source, buffers, kernel.threads, capability, *_versions()))


def _hashed(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def _versions() -> tuple[object, ...]:
    tables = (device_functions, text_scalars, vmath_coefficients_special, random)
    parts = (lowering, device_expressions, device_calls, device_memory, device_values)
    sources = [inspect.getsource(m) for m in (sys.modules[__name__], *parts, *tables)]
    linker = assembler()
    return _hashed(sources), nvvm_version(), None if linker is None else linker.version()


def _compile(kernels: Mapping[str, Kernel], capability: Capability) -> list[Code]:
    """The code of kernels by their keys."""
    symbols = [f"{kernel.name}_{name[:12]}" for name, kernel in kernels.items()]
    text = to_ptx(lowering.module(list(zip(symbols, kernels.values(), strict=True))), capability)
    module = _hashed(sorted(kernels))
    if assembler() is None:
        return [Code(module, symbol, text, None) for symbol in symbols]
    cubin, log = assemble(text, capability)
    figures = {m[1]: (int(m[3]), int(m[2])) for m in _FIGURES.finditer(log)}
    return [Code(module, symbol, text, cubin, *figures.get(symbol, (None, None))) for symbol in symbols]


_FIGURES = re.compile(r"Function properties for (\w+)\n.*?(\d+) bytes spill stores.*?\n.*?Used (\d+) registers")


# -- the assembler


@functools.cache
def assembler() -> Any | None:
    """nvJitLink's binding, if the library is installed: it comes with libNVVM and knows its version of PTX, as an older
    ptxas or driver does not."""
    try:
        binding = importlib.import_module("cuda.bindings.nvjitlink")
        binding.version()
        return binding
    except (ImportError, RuntimeError, OSError):
        return None


def assemble(text: str, capability: Capability) -> tuple[bytes, str]:
    """The cubin of a PTX text, and what the assembler says about its kernels."""
    binding, data = assembler(), text.encode()
    assert binding is not None
    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-O3", "-verbose"]
    try:
        handle = binding.create(len(options), options)
    except binding.nvJitLinkError as error:
        raise UnsupportedError(f"nvJitLink does not know devices of capability {capability}: {error}") from error
    try:
        binding.add_data(handle, binding.InputType.PTX, data, len(data), "nufunc")
        binding.complete(handle)
        cubin = bytearray(binding.get_linked_cubin_size(handle))
        binding.get_linked_cubin(handle, cubin)
        return bytes(cubin), _log(binding, handle, "info")
    except binding.nvJitLinkError as error:
        raise UnsupportedError(f"nvJitLink refused a kernel: {_log(binding, handle, 'error')}") from error
    finally:
        binding.destroy(handle)


def _log(binding: Any, handle: Any, kind: str) -> str:
    text = bytearray(getattr(binding, f"get_{kind}_log_size")(handle))
    getattr(binding, f"get_{kind}_log")(handle, text)
    return text.decode().strip("\0")


# -- libNVVM

_LAYOUT = (
    "e-p:64:64:64-i1:8:8-i8:8:8-i16:16:16-i32:32:32-i64:64:64-i128:128:128-f32:32:32-f64:64:64-v16:16:16-v32:32:32-"
    "v64:64:64-v128:128:128-n16:32:64"
)


def _module(name: str) -> Any:
    """A module of NVIDIA's packages, which are untyped, imported when it is needed."""
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise CompilerMissingError(f"CUDA needs the packages of `pip install nufunc[cuda]`: {missing}") from missing


class CompilerMissingError(UnsupportedError, ImportError):
    """The packages that compile for CUDA are not installed."""


@functools.cache
def _nvvm() -> tuple[Any, bytes]:
    """libNVVM's binding, and the bitcode of libdevice."""
    nvvm, pathfinder = _module("cuda.bindings.nvvm"), _module("cuda.pathfinder")
    try:
        nvvm.version()
        library = Path(pathfinder.find_bitcode_lib("device")).read_bytes()
    except (RuntimeError, OSError) as missing:
        raise CompilerMissingError(f"CUDA needs the packages of `pip install nufunc[cuda]`: {missing}") from missing
    return nvvm, library


@functools.cache
def nvvm_version() -> tuple[object, ...]:
    nvvm, library = _nvvm()
    path = _module("cuda.pathfinder").load_nvidia_dynamic_lib("nvvm").abs_path
    return nvvm.version(), Path(path).stat().st_size, len(library)


# Rounding to bfloat16 by an instruction: that of two numbers (F2FP), as one alone goes to the few units of F2F.
_NARROWED = f"""define internal i32 @{device_values.NARROW}(float %x) alwaysinline {{
  %made = call i32 asm "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f"(float %x, float 0.0)
  ret i32 %made
}}"""


def to_ptx(module: str, capability: Capability) -> str:
    """PTX of a module in LLVM's language; needs libNVVM and libdevice, but no device and no driver."""
    nvvm, library = _nvvm()
    numbers = ", ".join(f"i32 {n}" for n in nvvm.ir_version())
    head = f'target triple = "nvptx64-nvidia-cuda"\ntarget datalayout = "{_LAYOUT}"\n'
    version = f"\n!nvvmir.version = !{{!9999}}\n!9999 = !{{{numbers}}}\n"
    if capability >= (8, 0):
        module = module.replace(device_values.NARROWED, _NARROWED)
    text = (head + module + version).encode()
    options = ["-opt=3", "-fma=0", f"-arch=compute_{capability[0]}{capability[1]}"]
    program = nvvm.create_program()
    try:
        nvvm.add_module_to_program(program, text, len(text), "nufunc")
        if "@__nv_" in module:
            nvvm.lazy_add_module_to_program(program, library, len(library), "libdevice")
        nvvm.compile_program(program, len(options), options)
        data = bytearray(nvvm.get_compiled_result_size(program))
        nvvm.get_compiled_result(program, data)
    except nvvm.nvvmError as error:
        log = bytearray(nvvm.get_program_log_size(program))
        nvvm.get_program_log(program, log)
        raise UnsupportedError(f"libNVVM refused a kernel: {error} {log.decode()}") from error
    finally:
        nvvm.destroy_program(program)
    return data.decode().strip("\x00").strip()


def ptx(kernel: Kernel, capability: Capability) -> str:
    """PTX of a kernel alone, not kept."""
    return to_ptx(lowering.module([(kernel.name, kernel)]), capability)

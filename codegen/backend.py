"""Machine code from LLVM text through Numba's CPU code generator: the one file with Numba's private names.

What is taken from Numba: its settings of the target, its module pass pipeline and its compiler lock. What is not:
its bytecode and typing front end, and its one engine for the life of the process. Here every `Executable` has an
engine of its own, so that dropping it frees its code.

Note [Without Numba]
Code that is there already, from the disk cache, runs without Numba, whose import takes longer than everything else, and
on Linux and x86-64 without llvmlite too (Note [Loading without LLVM] in `nufunc.codegen.elf`). The target is what Numba
would take, by its own word where it is imported or where a setting of its own may change that, and fixed when it is
first asked for: all code of a process is for it. What LLVM calls this processor and its features is kept in the store
of object code, under what the system says of it.

Note [Relocatable code]
A module is emitted as an object file and then loaded, also when it runs in this very process: the bytes are
what a disk cache stores. Numba's JIT options are kept (on x86-64 the large code model): the loader may put
code, constants and the functions of the process terabytes apart. The small code model measured no faster in
polynomial kernels, and llvmlite's memory manager, which it would need, has no room for its tables of external
functions on x86-64 and ends the process. Nothing outside the module may be named by address in it; what the
process exports (memcpy, libm) is found by name when loading, everything else comes through the pointer table,
see Note [Pointer table] in `nufunc.codegen.callspec`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

from nufunc.codegen import elf
from nufunc.ir.errors import NufuncError

# Numba's private names below are known to exist, with this meaning, in this half-open range.
NUMBA_VERSIONS = ((0, 62), (0, 69))


class BackendError(NufuncError, RuntimeError):
    """The code generator cannot be used, or refused a module."""


@dataclass(frozen=True)
class Target:
    """What code is generated for. `key` names all that machine code depends on beside the module's text."""

    triple: str
    data_layout: str
    cpu: str
    features: str
    level: int
    pointer_bits: int
    vector_bits: int
    has_fma: bool
    key: tuple[str, ...]

    def lanes(self, itemsize: int) -> int:
        """How many elements of `itemsize` bytes fill one vector register."""
        return max(1, self.vector_bits // (8 * itemsize))

    def has(self, feature: str) -> bool:
        """Whether LLVM's name of a processor feature ("avx2", "f16c") is on."""
        return f"+{feature}" in self.features.split(",")


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


@functools.cache
def _codegen() -> Any:
    """Numba's code generator, for its target machine and its pass pipeline. Its own engine stays empty."""
    import numba

    low, high = NUMBA_VERSIONS
    if not low <= _version(numba.__version__) < high:
        raise BackendError(
            f"nufunc's code generator works with numba >= {low[0]}.{low[1]}, < {high[0]}.{high[1]}; "
            f"found numba {numba.__version__}"
        )
    try:
        from numba.core.codegen import JITCPUCodegen
    except ImportError as error:
        raise BackendError(f"numba {numba.__version__} has no numba.core.codegen.JITCPUCodegen") from error

    needed = ("_module_pass_manager", "_customize_tm_options", "_tm_features", "_tm", "_check_llvm_bugs")
    make: Any = JITCPUCodegen
    with _lock():
        codegen = make("nufunc")
    missing = [name for name in needed if not hasattr(codegen, name)]
    if missing:
        raise BackendError(f"numba {numba.__version__}: JITCPUCodegen has no {', '.join(missing)}")
    return codegen


def _lock() -> Any:
    """Numba's compiler lock (reentrant), so that Numba's own compilations take turns with ours."""
    from numba.core.compiler_lock import global_compiler_lock

    return global_compiler_lock


def _numba_config() -> Any:
    from numba.core import config

    return config


# Settings of Numba on which its target depends.
_SETTINGS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX", "NUMBA_OPT")
SETTINGS_FILE = ".numba_config.yaml"  # of Numba, in the working directory
# Processors on which Numba leaves AVX alone.
_WITHOUT_AVX = ("corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona")


def _numba_decides() -> bool:
    return "numba" in sys.modules or any(name in os.environ for name in _SETTINGS) or os.path.exists(SETTINGS_FILE)


def _host() -> tuple[str, str, int]:
    """(name of the processor, its features, level of optimisation) for which Numba generates code."""
    import llvmlite.binding as ll

    if _numba_decides():
        codegen = _codegen()
        return codegen._get_host_cpu_name(), codegen._tm_features, int(_numba_config().OPT)
    cpu = ll.get_host_cpu_name()
    features = ll.get_host_cpu_features()
    if cpu in _WITHOUT_AVX:
        for name in features:
            if name.startswith("avx"):
                features[name] = False
    return cpu, features.flatten(), 3


@functools.cache
def _initialise() -> None:
    """Let LLVM know the processor of this process."""
    import llvmlite.binding as ll

    ll.initialize_native_target()
    ll.initialize_native_asmprinter()


def _machine(cpu: str, features: str, level: int) -> Any:
    """A new target machine; an engine takes ownership of its own."""
    import llvmlite.binding as ll

    _initialise()
    triple = ll.get_process_triple()
    relocation = "static" if triple.startswith(("x86", "i686")) else "pic" if triple.startswith("p") else "default"
    options: dict[str, Any] = {"cpu": cpu, "features": features, "opt": level, "reloc": relocation}
    return ll.Target.from_triple(triple).create_target_machine(codemodel="jitdefault", jit=True, **options)


def _numba_version() -> str:
    """Numba's version, without importing it, or the reader of packages' metadata, if that can be avoided."""
    if "numba" in sys.modules:
        import numba

        return str(numba.__version__)
    spec = importlib.util.find_spec("numba")
    if spec is not None and spec.origin is not None:
        with contextlib.suppress(OSError), open(os.path.join(os.path.dirname(spec.origin), "_version.py")) as file:
            found = re.search(r'"version": "([^"]+)"', file.read())
            if found:
                return found[1]
    from importlib.metadata import version

    return version("numba")


_FOREIGN: ContextVar[Target | None] = ContextVar("foreign", default=None)


def target() -> Target:
    """What code is generated for: the host, or inside `targeting` something else."""
    return _FOREIGN.get() or _host_target()


@contextlib.contextmanager
def targeting(foreign: Target) -> Iterator[None]:
    """Code that is emitted inside, in this thread, is for another processor; it can be made an object file only."""
    token = _FOREIGN.set(foreign)
    try:
        yield
    finally:
        _FOREIGN.reset(token)


# The levels of the x86-64 psABI as LLVM names them, with what each adds to the one before.
_LEVELS = {
    "x86-64": "sse,sse2,fxsr,mmx,cmov,cx8",
    "x86-64-v2": "sse3,ssse3,sse4.1,sse4.2,popcnt,cx16,sahf",
    "x86-64-v3": "avx,avx2,bmi,bmi2,f16c,fma,lzcnt,movbe,xsave",
    "x86-64-v4": "avx512f,avx512bw,avx512cd,avx512dq,avx512vl",
}
CPUS = ("native", *_LEVELS, "aarch64")


def foreign_target(cpu: str) -> Target:
    """One of `CPUS`, on Linux, or this system where that is an x86-64."""
    import llvmlite.binding as ll

    if cpu == "native":
        return _host_target()
    ll.initialize_all_targets()
    ll.initialize_all_asmprinters()
    if cpu == "aarch64":
        triple, name, on = "aarch64-unknown-linux-gnu", "generic", ["neon", "fp-armv8"]
    else:
        own = ll.get_process_triple()
        triple, name = own if own.startswith("x86_64") else "x86_64-unknown-linux-gnu", cpu
        levels = list(_LEVELS)
        on = [f for level in levels[: levels.index(cpu) + 1] for f in _LEVELS[level].split(",")]
    features = ",".join(f"+{f}" for f in on)
    machine = ll.Target.from_triple(triple).create_target_machine(cpu=name, features=features, opt=3)
    bits = 512 if "avx512f" in on else 256 if "avx2" in on else 128
    fma = cpu == "aarch64" or "fma" in on
    return Target(triple, str(machine.target_data), name, features, 3, 64, bits, fma, (triple, name, features))


@functools.cache
def _host_target() -> Target:
    """The host, less what NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and NUMBA_ENABLE_AVX take away."""
    import llvmlite

    versions = f"llvmlite {llvmlite.__version__}", f"numba {_numba_version()}"
    processor = None if _store is None or _numba_decides() else _processor()
    if _store is None or processor is None:
        return _asked_target(versions)
    names = tuple(field.name for field in fields(Target))
    key = hashlib.sha256(repr(("target", names, *versions, processor)).encode()).hexdigest()
    found = _store.get(key)
    if found is not None:
        known: dict[str, Any] = json.loads(found)
        return Target(**{**known, "key": tuple(known["key"])})
    made = _asked_target(versions)
    _store.put(key, json.dumps({name: getattr(made, name) for name in names}).encode(), "library: the processor")
    return made


def _processor() -> str | None:
    """What Linux says about the first processor, as far as it tells what code may run there; None elsewhere."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return None
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as file:
            text = file.read(1 << 14)
    except OSError:
        return None
    first = text.partition(b"\n\n")[0].decode(errors="replace")
    lines = {line.partition(":")[0].strip(): line for line in first.splitlines()}
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")
    return "\n".join(lines[name] for name in names if name in lines) if "flags" in lines else None


def _asked_target(versions: tuple[str, ...]) -> Target:
    """The host by LLVM's word, or Numba's."""
    import llvmlite.binding as ll

    triple = ll.get_process_triple()
    cpu, features, level = _host()
    on = {name[1:] for name in features.split(",") if name.startswith("+")}
    arm = triple.startswith(("aarch64", "arm64"))
    bits = 512 if {"avx512f", "avx512dq", "avx512vl"} <= on else 256 if "avx2" in on else 128
    layout = str(_machine(cpu, features, level).target_data)
    key = (triple, cpu, features, f"opt {level}", *versions)
    pointer_bits = 64 if "64" in triple.split("-")[0] else 32
    return Target(triple, layout, cpu, features, level, pointer_bits, bits, arm or "fma" in on, key)


def new_machine() -> Any:
    """A target machine of the target, for an engine that will own it."""
    host = target()
    return _machine(host.cpu, host.features, host.level)


def _own_memory_manager() -> Any:
    """Whether NUMBA_USE_LLVMLITE_MEMORY_MANAGER asks for llvmlite's memory manager; None: llvmlite decides."""
    if "NUMBA_USE_LLVMLITE_MEMORY_MANAGER" in os.environ or "numba" in sys.modules:
        return _numba_config().USE_LLVMLITE_MEMORY_MANAGER
    return None


class _Code:
    """Loaded machine code; frees it when the last reference goes (every Entry holds one)."""

    def __init__(self, object_code: bytes, name: str) -> None:
        known = _addresses(object_code, name)
        image = elf.Image.of(object_code, known.__getitem__)
        self.address: Callable[[str], int | None] = _engine(object_code, known) if image is None else image.symbols.get
        self._image = image


def _engine(object_code: bytes, known: Mapping[str, int]) -> Callable[[str], int]:
    """The addresses in code that LLVM loads, of any kind; they hold the code. llvmlite locks each of its calls, and no
    two of these belong together."""
    import llvmlite.binding as ll

    ll.load_library_permanently("")  # what the process itself exports
    for symbol, address in known.items():
        if symbol.startswith("nf_scipy."):
            ll.add_symbol(symbol, address)
    # In the global context: one of its own might be collected, and freed, before the engine.
    engine = ll.create_mcjit_compiler(ll.parse_assembly(""), new_machine(), use_lmm=_own_memory_manager())
    engine.add_object_file(ll.ObjectFileRef.from_data(object_code))
    engine.finalize_object()
    address_of: Callable[[str], int] = engine.get_function_address
    return address_of


class Executable:
    """The machine code of one module.

    Its code lives as long as the Executable (until `close`) or any `Entry` made from it, whichever is longer;
    then the engine and its memory are freed. `object_code` is what `load_object` takes, in this or another
    process of the same `target().key`.
    """

    def __init__(self, name: str, object_code: bytes, text: str | None, optimise: Optimise) -> None:
        self.name = name
        self.object_code = object_code
        self._text = text
        self._optimise = optimise
        self._code: _Code | None = _Code(object_code, name)

    @property
    def code(self) -> _Code:
        """The loaded code, to be held by whoever keeps an address of it."""
        if self._code is None:
            raise BackendError(f"executable {self.name!r} is closed")
        return self._code

    def address(self, symbol: str) -> int:
        """The address of a function that the module defines and exports."""
        address = self.code.address(symbol)
        if not address:
            raise BackendError(f"executable {self.name!r} has no symbol {symbol!r}")
        return int(address)

    def _source(self) -> str:
        if self._text is None:
            raise BackendError(
                f"executable {self.name!r} was loaded from object code: its LLVM text is not known"
            )
        return self._text

    def llvm(self) -> str:
        """The optimised LLVM text (made again on demand, so that a compilation need not print it)."""
        return optimised_text(self._source(), self.name, self._optimise)

    def assembly(self) -> str:
        """The machine code as assembly text."""
        return assembly_text(self._source(), self.name, self._optimise)

    def close(self) -> None:
        """Let go of the code. It is freed at once unless an Entry still holds it."""
        self._code = None


class Optimise(NamedTuple):
    """Pass pipeline settings. The vectorisers are off: kernels arrive with explicit vectors, and the loop
    vectoriser doubles the compile time of the scalar remainders, which are not worth it."""

    level: int = 3
    loop_vectorize: bool = False
    slp_vectorize: bool = False
    passes: tuple[str, ...] = ()  # llvmlite's names of module passes to run instead of Numba's pipeline


DEFAULT_OPTIMISE = Optimise()


@contextlib.contextmanager
def _optimised(text: str, name: str, optimise: Optimise) -> Iterator[Any]:
    """The parsed, verified and optimised module, until the end of the block; the caller holds the lock.

    It stands in a context of its own, since types and constants of the global one are never freed. Both are
    closed here, in order: left to the garbage collector the context might go first, and LLVM would crash.
    """
    import llvmlite.binding as ll

    _codegen()._check_llvm_bugs()
    with ll.create_context() as context:
        try:
            parsed = ll.parse_assembly(text, context)
        except RuntimeError as error:
            raise BackendError(f"LLVM refused module {name!r}: {error}") from error
        with parsed as module:
            try:
                module.verify()
            except RuntimeError as error:
                raise BackendError(f"LLVM refused module {name!r}: {error}") from error
            module.name = name
            module.triple = target().triple
            module.data_layout = target().data_layout
            _run_passes(module, optimise)
            yield module


def optimised_text(llvm_text: str, name: str, optimise: Optimise = DEFAULT_OPTIMISE) -> str:
    """LLVM text after optimisation."""
    with _lock(), _optimised(llvm_text, name, optimise) as module:
        return str(module)


def assembly_text(llvm_text: str, name: str, optimise: Optimise = DEFAULT_OPTIMISE) -> str:
    """Machine code as assembly text."""
    machine = new_machine()
    with _lock(), _optimised(llvm_text, name, optimise) as module:
        return str(machine.emit_assembly(module))


def _run_passes(module: Any, optimise: Optimise) -> None:
    settings = {"loop_vectorize": optimise.loop_vectorize, "slp_vectorize": optimise.slp_vectorize}
    manager, builder = _codegen()._module_pass_manager(opt=optimise.level, **settings)
    adders = [f"add_{name}_pass" for name in optimise.passes]
    if adders and all(hasattr(manager, adder) for adder in adders):  # else Numba's own serve
        from llvmlite.binding.newpassmanagers import create_new_module_pass_manager

        _dispose(manager)
        manager = create_new_module_pass_manager()
        for adder in adders:
            getattr(manager, adder)()
    try:
        manager.run(module, builder)
    finally:
        _dispose(manager)


def _dispose(manager: Any) -> None:
    """Free a pass manager. llvmlite leaks it (some 60 KB each): of the two bases of ModulePassManager the
    first, whose `_dispose` does nothing, wins over the one that frees."""
    from llvmlite.binding.newpassmanagers import NewPassManager

    if type(manager)._dispose is not NewPassManager._dispose:
        NewPassManager._dispose(manager)
        manager.detach()


def _addresses(object_code: bytes, name: str) -> dict[str, int]:
    """Where in this process stands what an ELF object expects from outside. LLVM's loader ends the process at a symbol
    that it cannot find; say it in Python before."""
    wanted = elf.undefined_symbols(object_code)
    found = {symbol: _address(symbol) for symbol in wanted}
    if not all(found.values()) and "numba" not in sys.modules:  # it may be one of those that Numba brings
        _codegen()
        found = {symbol: _address(symbol) for symbol in wanted}
    missing = sorted(symbol for symbol, address in found.items() if not address)
    if missing:
        raise BackendError(f"module {name!r} refers to unknown symbols: {', '.join(missing)}")
    return found


def _address(symbol: str) -> int:
    """The address of a C function, or of one that LLVM has been told of; 0: there is none."""
    if symbol.startswith("nf_scipy."):
        from nufunc.codegen import scipy_calls

        return scipy_calls.address(symbol)
    found = elf.process_address(symbol)
    if not found and ("llvmlite.binding" in sys.modules or not elf.host_loads()):
        import llvmlite.binding as ll

        found = int(ll.address_of_symbol(symbol) or 0)
    return found


def finder_address() -> int:
    """The address of `void *find(const char *name)`: what LLVM has been told of, or the process exports, by name. 0
    where llvmlite keeps it to itself."""
    import llvmlite.binding as ll

    ll.load_library_permanently("")
    function = getattr(ll.ffi.lib.LLVMPY_SearchAddressOfSymbol, "_cfn", None)  # without llvmlite's lock
    return 0 if function is None else int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def compile_module(llvm_text: str, name: str, optimise: Optimise = DEFAULT_OPTIMISE) -> Executable:
    """Compile LLVM text into an `Executable` of its own. Triple and data layout of the text are replaced by
    the host's.

    Raises `BackendError` where LLVM refuses the text or a symbol that it calls does not exist in the process.
    """
    host = target()  # fixed before Numba is imported
    _codegen()
    with _lock():
        with _optimised(llvm_text, name, optimise) as module:
            object_code = _machine(host.cpu, host.features, host.level).emit_object(module)
        return Executable(name, object_code, llvm_text, optimise)


def object_file(texts: Sequence[str], name: str, optimise: Optimise) -> bytes:
    """One object file of several modules, to be linked into a library: position-independent, for `target()`. Functions
    that are hidden are for the other modules alone."""
    import llvmlite.binding as ll

    _codegen()
    _initialise()
    host = target()
    with _lock(), ll.create_context() as context:
        try:
            first, *rest = [ll.parse_assembly(text, context) for text in texts]
            for module in rest:
                first.link_in(module)
        except RuntimeError as error:
            raise BackendError(f"LLVM refused library {name!r}: {error}") from error
        with first:
            whole = re.sub(r"^define (weak_odr )?hidden ", "define internal ", str(first), flags=re.MULTILINE)
        with _optimised(whole, name, optimise) as module:
            machine = ll.Target.from_triple(host.triple).create_target_machine(
                cpu=host.cpu, features=host.features, opt=host.level, reloc="pic", codemodel="small"
            )
            return bytes(machine.emit_object(module))


def load_object(object_code: bytes, name: str) -> Executable:
    """Load what `Executable.object_code` gave. The caller vouches for the bytes and for their target."""
    return Executable(name, object_code, None, DEFAULT_OPTIMISE)


class ObjectStore(Protocol):
    """Where object code is kept between processes, by a key that names all that it depends on."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, data: bytes, about: str) -> object: ...


_store: ObjectStore | None = None


def use_store(store: ObjectStore | None) -> None:
    """Keep the object code of `library_module` there from now on."""
    global _store
    _store = store


def library_module(llvm_text: str, name: str, optimise: Optimise = DEFAULT_OPTIMISE) -> Executable:
    """`compile_module` for code that every process needs again, from the store where it is there."""
    store = _store
    if store is None:
        return compile_module(llvm_text, name, optimise)
    key = hashlib.sha256("\0".join(("library", *target().key, name, repr(optimise), llvm_text)).encode()).hexdigest()
    found = store.get(key)
    if found is not None:
        with contextlib.suppress(BackendError):
            return Executable(name, found, llvm_text, optimise)
    executable = compile_module(llvm_text, name, optimise)
    store.put(key, executable.object_code, f"library {name}")
    return executable

"""`Entry`: a compiled plan as a Python function, and the owner of all that its native wrapper points to.

`ArgSpec`, `ResultSpec` and `CallSpec` say what is called; `declare_plan` and `emit_wrapper` put it into an
llvmlite module; `backend.compile_module` compiles that; `Entry` makes it callable.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.codegen import abi, result_pool
from nufunc.codegen.backend import BackendError
from nufunc.codegen.callspec import (
    WORKSPACE_ALIGNMENT,
    ArgSpec,
    CallSpec,
    ResultSpec,
    call_symbol,
    plan_symbol,
)
from nufunc.codegen.wrapper_emitter import declare_plan, emit_wrapper
from nufunc.ir.errors import ArgumentTypeError

if TYPE_CHECKING:
    from nufunc.codegen.backend import Executable

__all__ = ["MISS", "ArgSpec", "CallSpec", "Entry", "ResultSpec", "declare_plan", "emit_wrapper"]

_KIND_TYPE = {"float": float, "complex": complex, "bool": bool}


MISS = NotImplemented
"""What `Entry.fast` returns, having done nothing, for an argument that it was not compiled for. No compiled function
returns it: it is no array, and results that are no arrays are checked."""


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_METH_FASTCALL = 0x0080
_FREE_PLAN = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)
_PLAN = ctypes.PYFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)  # this one raises too


class _State(np.ndarray[Any, Any]):
    """The pointer table, and as attributes what it points to. See Note [Pointer table]."""

    owned: tuple[object, ...]


def _aligned_block(size: int) -> tuple[np.ndarray[Any, Any], int]:
    block = np.empty(size + WORKSPACE_ALIGNMENT, np.uint8)
    start = _data(block)
    return block, -(-start // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT


class _Workspaces:
    """The free list of workspaces of an Entry: `head` points to the first block, which native code takes and gives
    back, see `wrapper_emitter`. It goes with the last owner; at the end of the process there is nothing to do."""

    def __init__(self) -> None:
        self.head = ctypes.c_void_p(0)
        free = abi.python_function("PyMem_RawFree", None, ctypes.c_void_p)
        weakref.finalize(self, _free_all, self.head, free).atexit = False


def _free_all(head: ctypes.c_void_p, free: Callable[[int | None], None]) -> None:
    while block := head.value:
        head.value = ctypes.c_void_p.from_address(block).value
        free(ctypes.c_void_p.from_address(block - ctypes.sizeof(ctypes.c_void_p)).value)


class Entry:
    """A compiled plan that Python can call.

    `fast(*args)` checks the arguments and runs, or returns MISS without having done anything. It is a builtin
    function (or with NUFUNC_NO_NATIVE_CALL=1, or on an interpreter of another ABI, a Python function of the
    same behaviour). `into(*args, *outs)` is the same with an array for each returned result, and returns (). Both
    write in place where results stand in arguments. `slow(*leaves)` accepts any memory layout of the right types
    and shapes, changes nothing and returns the list of all results; `plain(*leaves)` is the same through ctypes
    only. All may be called from several threads at once.

    `externs` becomes the plan's table. A positive code of the plan raises `on_error(code)`. The code, the
    table and `keep` live until both the Entry and its `fast` are gone.
    """

    def __init__(
        self,
        executable: Executable,
        prefix: str,
        spec: CallSpec,
        externs: Sequence[int] = (),
        on_error: Callable[[int], BaseException] | None = None,
        keep: object = None,
    ) -> None:
        self.spec = spec
        self._fail = fail = _raiser(on_error)
        self._externs = (ctypes.c_void_p * max(len(externs), 1))(*externs)
        self._address = executable.address(plan_symbol(prefix))
        self._plan = (_FREE_PLAN if spec.release_gil and not spec.polls else _PLAN)(self._address)
        self._owned: tuple[object, ...] = (executable.code, keep)
        self._native_parts = (externs, fail, _Workspaces())
        self.native = abi.native_call_wanted()
        self.fast: Callable[..., Any] = (
            self._native(executable, prefix, spec) if self.native else functools.partial(_python, self, spec)
        )

    @functools.cached_property
    def into(self) -> Callable[..., Any]:
        """`fast` with arrays for the results behind the arguments; its wrapper is compiled when first asked for."""
        spec = self.spec.into()
        if not self.native:
            return functools.partial(_python, self, spec)
        from llvmlite import ir

        from nufunc.codegen.backend import Optimise, library_module

        module = ir.Module("into")
        emit_wrapper(module, None, spec, "into")
        executable = library_module(str(module), "into", Optimise(passes=("simplify_cfg",)))
        return self._native(executable, "into", spec)

    def _native(self, executable: Executable, prefix: str, spec: CallSpec) -> Callable[..., Any]:
        externs, fail, workspaces = self._native_parts
        objects: dict[object, object] = {
            "ndarray": np.ndarray,
            "float": float,
            "complex": complex,
            "True": True,
            "False": False,
            "MISS": MISS,
            "fail": fail,
        }
        words: dict[object, int] = {key: id(value) for key, value in objects.items()}
        words.update(abi.function_addresses())
        words["workspaces"], words["plan"] = ctypes.addressof(workspaces.head), self._address
        if "pooled_result" in spec.slots:
            words["pooled_result"] = result_pool.new_address()
        for key in spec.slots:
            if isinstance(key, tuple):
                held = key[1] if key[0] == "array" else key[1].type
                objects[key], words[key] = held, id(held)
        table = np.array([words[key] for key in spec.slots] + list(externs), np.uintp)
        state = table.view(_State)
        name = call_symbol(prefix).encode()
        method = _MethodDef(name, executable.address(call_symbol(prefix)), _METH_FASTCALL, None)
        state.owned = (method, objects, workspaces, executable.code, *self._owned)
        pointer, obj = ctypes.c_void_p, ctypes.py_object
        new = abi.python_function("PyCFunction_NewEx", obj, pointer, obj, pointer)
        function: Callable[..., Any] = new(ctypes.addressof(method), state, None)
        return function

    def slow(self, *leaves: object) -> list[Any]:
        """Run on arguments of the right types and shapes in any memory layout, else ArgumentTypeError."""
        fixed = self._conform(leaves)
        answer = self.fast(*fixed)
        if answer is MISS:
            return self._run(self.spec, fixed)
        returned = iter(answer if self.spec.as_tuple else (answer,))
        return [next(returned) if r.returned else fixed[r.source] for r in self.spec.results]  # type: ignore[index]

    def plain(self, *leaves: object) -> list[Any]:
        """`slow`, but through ctypes: needs nothing of CPython's or NumPy's ABI."""
        return self._run(self.spec, self._conform(leaves))

    def _conform(self, leaves: Sequence[object]) -> list[object]:
        if len(leaves) != len(self.spec.args):
            raise ArgumentTypeError(f"expected {len(self.spec.args)} arguments, got {len(leaves)}")
        sources = self.spec.sources
        return [
            _conformed(index, arg, leaf, index in sources)
            for index, (arg, leaf) in enumerate(zip(self.spec.args, leaves))
        ]

    def _run(self, spec: CallSpec, args: Sequence[Any]) -> list[Any]:
        """Call the plan on arguments that match their specs."""
        pairs = zip(spec.args, args, strict=True)
        inputs = [_input(arg, x) for arg, x in pairs]
        outputs = [np.empty(r.shape, r.dtype) if r.source is None else args[r.source] for r in spec.results]
        size = spec.workspace
        _block, workspace = _aligned_block(size) if size else (None, None)
        addresses = [_data(x) - (0 if arg.copied else arg.first) for arg, x in zip(spec.args, inputs)]
        code = self._plan(_pointers(addresses), _pointers(map(_data, outputs)), workspace, self._externs)
        if code:
            self._fail(code)
        return [out[()] if r.scalar else out for r, out in zip(spec.results, outputs, strict=True)]


def _python(entry: Entry, spec: CallSpec, *args: Any) -> Any:
    """The native wrapper of a spec, in Python."""
    if len(args) != len(spec.args) or not all(map(_matches, spec.args, args)) or not _apart(spec, args):
        return MISS
    results = [x for x, r in zip(entry._run(spec, args), spec.results, strict=True) if r.returned]
    return tuple(results) if spec.as_tuple else results[0]


def _apart(spec: CallSpec, args: Sequence[Any]) -> bool:
    """Whether the arguments that are written can be, and share no memory with others."""
    arrays = [k for k, arg in enumerate(spec.args) if arg.kind == "array"]
    return all(
        args[k].flags.writeable and not any(j != k and np.may_share_memory(args[j], args[k]) for j in arrays)
        for k in spec.sources
    )


def _raiser(on_error: Callable[[int], BaseException] | None) -> Callable[[int], None]:
    def fail(code: int) -> None:
        if on_error is None:
            raise BackendError(f"compiled code failed with code {code}")
        raise on_error(code)

    return fail


def _data(array: np.ndarray[Any, Any]) -> int:
    address: int = array.__array_interface__["data"][0]  # `array.ctypes.data` takes five times as long
    return address


def _pointers(addresses: Iterable[int]) -> Any:
    words = tuple(addresses)
    return (ctypes.c_void_p * max(len(words), 1))(*words)


def _input(arg: ArgSpec, x: Any) -> np.ndarray[Any, Any]:
    """An argument that matches its spec as an array that the plan can read."""
    if arg.kind != "array":
        return np.array(x, arg.dtype)
    return x.copy() if arg.copied else x


def _matches(arg: ArgSpec, item: Any) -> bool:
    """The wrapper's checks, in Python."""
    if arg.kind == "array":
        if type(item) is not np.ndarray or item.dtype is not arg.dtype or item.shape != arg.shape:
            return False
        size = arg.dtype.itemsize
        laid = item.flags.c_contiguous if arg.strides is None else all(
            item.strides[k] == s * size for k, _, s in arg.moves
        )
        return bool(laid and item.flags.aligned)
    return type(item) is (arg.dtype.type if arg.kind == "scalar" else _KIND_TYPE[arg.kind])


def _strided(arg: ArgSpec, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy with the strides of its spec. Where these repeat an axis, so did what it is a copy of."""
    size = arg.dtype.itemsize
    block = np.empty(arg.extent // size, arg.dtype)
    strides = tuple(s * size for s in arg.strides or ())
    view = np.lib.stride_tricks.as_strided(block[arg.first // size :], arg.shape, strides)
    view[...] = array
    return view


def _conformed(index: int, arg: ArgSpec, leaf: Any, written: bool) -> object:
    """The leaf in the memory layout that the plan reads; the leaf itself where it has it and is only read."""
    if _matches(arg, leaf):
        return leaf.copy() if written else leaf
    is_array = arg.kind == "array" and type(leaf) is np.ndarray
    if is_array and leaf.shape == arg.shape and leaf.dtype.newbyteorder("=") == arg.dtype:
        made = np.array(leaf, dtype=arg.dtype, order="C", copy=True)
        return made if arg.strides is None else _strided(arg, made)
    if arg.kind == "scalar" and isinstance(leaf, np.generic) and leaf.dtype == arg.dtype:
        return arg.dtype.type(leaf)  # the other of two types of one size, as int64's `long` and `long long`
    raise ArgumentTypeError(f"argument {index}: expected {arg}, got {type(leaf).__name__} {leaf!r:.60}")

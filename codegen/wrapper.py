"""The native call wrapper: a C function of CPython's around a plan, its pointer table, and `Entry`, which owns both.

Note [Plan ABI]
    i32 plan(ptr inputs, ptr outputs, ptr workspace, ptr table)
`inputs` and `outputs` are arrays of data pointers, one per argument and result, to C-contiguous data aligned for its dtype (no
more); `workspace` is 64-byte aligned; `table` holds the pointers given to `Entry` as externs. Result 0: done. Positive: an
error, handed to `on_error`. Negative: an exception is set already (by a callback). A plan writes to no input and keeps no pointer.

Note [Pointer table]
Nothing that moves between processes stands in the module as a number. The wrapper's `self` is a `_State`, an ndarray of
pointer-sized words whose data pointer it reads at a fixed offset: first the words of `_FIXED`, then a dtype object
or scalar type for each one that the CallSpec names, then the plan's own table. The `_State` also holds, as Python
attributes, all that must outlive a call: machine code, PyMethodDef, workspace. A builtin function keeps its `self` alive and CPython
reads the PyMethodDef before it lets go of `self`, so the last reference to the function frees everything, in order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nufunc.codegen import abi
from nufunc.ir.errors import ArgumentTypeError

if TYPE_CHECKING:
    from llvmlite import ir

    from nufunc.codegen.backend import Executable

STACK_WORKSPACE = 16 * 1024  # up to here a workspace lies on the C stack
CACHED_WORKSPACE = 256 * 1024 * 1024  # up to here an Entry keeps one block; beyond, every call allocates
_ALIGNMENT = 64


class _Miss:
    """The type of MISS."""

    def __repr__(self) -> str:
        return "MISS"


MISS = _Miss()
"""What `Entry.fast` returns when an argument is not exactly what the code was compiled for; nothing was done then."""

Kind = Literal["array", "scalar", "float", "complex", "bool"]
_KIND_TYPE = {"float": float, "complex": complex, "bool": bool}
_KIND_DTYPE = {"float": np.dtype(np.float64), "complex": np.dtype(np.complex128), "bool": np.dtype(np.bool_)}


@dataclass(frozen=True)
class ArgSpec:
    """One argument. "array": exactly an ndarray, C-contiguous and aligned; "scalar": exactly the NumPy scalar type of
    the dtype; "float", "complex", "bool": exactly that Python type (dtype f64, c128, bool)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: Kind = "array"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", abi.canonical_dtype(self.dtype))
        if self.kind != "array" and self.shape != ():
            raise ValueError(f"an argument of kind {self.kind!r} has no shape, got {self.shape}")
        if self.dtype != _KIND_DTYPE.get(self.kind, self.dtype):
            raise ValueError(f"an argument of kind {self.kind!r} cannot be {self.dtype}")


@dataclass(frozen=True)
class ResultSpec:
    """One result: a new C-contiguous ndarray, or with `scalar` a NumPy scalar, as NumPy's functions return for 0-d."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scalar: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", abi.canonical_dtype(self.dtype))
        if self.scalar and self.shape != ():
            raise ValueError(f"a scalar result has no shape, got {self.shape}")


_FIXED = (
    *abi.FUNCTIONS,
    *("ndarray", "float", "complex", "True", "False", "MISS", "fail", "workspace", "workspace_busy"),
)


@dataclass(frozen=True)
class CallSpec:
    """All that the wrapper is specialised for. `tuple_result` makes a single result a tuple of one; results other than one
    always come as a tuple. `release_gil` lets other Python threads run during the plan."""

    args: tuple[ArgSpec, ...]
    results: tuple[ResultSpec, ...]
    workspace: int = 0
    tuple_result: bool = False
    release_gil: bool = False

    @property
    def as_tuple(self) -> bool:
        return self.tuple_result or len(self.results) != 1

    @cached_property
    def slots(self) -> dict[object, int]:
        """What stands where in the pointer table; the plan's table begins at `len(slots)`."""
        keys: dict[object, int] = {name: index for index, name in enumerate(_FIXED)}
        for arg in self.args:
            if arg.kind in ("array", "scalar"):
                keys.setdefault((arg.kind, arg.dtype), len(keys))
        for result in self.results:
            keys.setdefault(("array", result.dtype), len(keys))
        return keys


def plan_symbol(prefix: str) -> str:
    return f"{prefix}_plan"


def call_symbol(prefix: str) -> str:
    return f"{prefix}_call"


def declare_plan(module: ir.Module, prefix: str) -> ir.Function:
    """An empty plan function of the ABI above, for the emitter to fill."""
    from llvmlite import ir

    pointer = ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), [pointer] * 4), plan_symbol(prefix))
    for argument, name in zip(function.args, ("inputs", "outputs", "workspace", "table"), strict=True):
        argument.name = name
    return function


def emit_wrapper(module: ir.Module, plan: ir.Function, spec: CallSpec, prefix: str) -> ir.Function:
    """Emit `PyObject *<prefix>_call(PyObject *self, PyObject **args, Py_ssize_t n)` around `plan` into `module`."""
    # Inlined into the wrapper it would be optimised and stored twice, as the plain symbol must stay.
    plan.attributes.add("noinline")
    return _WrapperEmitter(module, plan, spec, prefix).emit()


class _WrapperEmitter:
    """Emits one wrapper. Blocks besides the straight path: `miss`, and `cleanup`, which drops what was made and returns NULL."""

    def __init__(self, module: ir.Module, plan: ir.Function, spec: CallSpec, prefix: str) -> None:
        from llvmlite import ir

        self.ir, self.plan, self.spec, self.module = ir, plan, spec, module
        self.pointer, self.word, self.i32 = ir.PointerType(), ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(self.pointer, [self.pointer, self.pointer, self.word])
        self.function = ir.Function(module, kind, call_symbol(prefix))
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.miss = self.function.append_basic_block("miss")
        self.cleanup = self.function.append_basic_block("cleanup")
        self.null = ir.Constant(self.pointer, None)

    def emit(self) -> ir.Function:
        self_, arguments, count = self.function.args
        self._frame()
        self.table = self._field(self_, abi.DATA, self.pointer)
        self._require(self.b.icmp_signed("==", count, self.word(len(self.spec.args))))
        for index, arg in enumerate(self.spec.args):
            self._argument(index, arg, self._item(arguments, index))
        for index, result in enumerate(self.spec.results):
            self._allocate(index, result)
        self._check_code(self._call_plan())
        for index, result in enumerate(self.spec.results):
            if result.scalar:
                made = self._api("PyArray_Scalar", [self._item(self.outputs, index), self._descr(result), self.null])
                self._made(index, made)
        self._return()
        self._failures()
        return self.function

    # Stack, memory and control flow.

    def _stack(self, size: int, align: int = 16) -> Any:
        slot = self.b.alloca(self.ir.ArrayType(self.ir.IntType(8), max(size, 1)))
        slot.align = align
        return self._opaque(slot)

    def _opaque(self, value: Any) -> Any:
        """llvmlite still gives memory it defines a typed pointer, which it refuses to mix with the opaque ones."""
        value.type = self.pointer
        return value

    def _frame(self) -> None:
        results = self.spec.results
        self.inputs = self._stack(8 * len(self.spec.args))
        self.outputs = self._stack(8 * len(results))
        self.objects = self._stack(8 * len(results))
        self.scalars = {index: self._stack(r.dtype.itemsize) for index, r in enumerate(results) if r.scalar}
        self.flags = {index: self._stack(1) for index, a in enumerate(self.spec.args) if a.kind == "bool"}
        if 0 < self.spec.workspace <= STACK_WORKSPACE:
            self.stack_workspace = self._stack(self.spec.workspace, _ALIGNMENT)
        for index in range(len(results)):
            self.b.store(self.null, self._address(self.objects, 8 * index))

    def _address(self, pointer: Any, offset: int) -> Any:
        return self.b.gep(pointer, [self.word(offset)], source_etype=self.ir.IntType(8))

    def _field(self, pointer: Any, offset: int, kind: Any) -> Any:
        return self.b.load(self._address(pointer, offset), typ=kind)

    def _item(self, pointer: Any, index: int) -> Any:
        return self._field(pointer, 8 * index, self.pointer)

    def _slot(self, key: object) -> Any:
        return self._item(self.table, self.spec.slots[key])

    def _descr(self, result: ResultSpec) -> Any:
        return self._slot(("array", result.dtype))

    def _branch(self, condition: Any, otherwise: Any) -> None:
        """Go on where `condition` holds."""
        block = self.function.append_basic_block()
        self.b.cbranch(condition, block, otherwise).set_weights([1 << 20, 1])
        self.b.position_at_end(block)

    def _require(self, condition: Any) -> None:
        self._branch(condition, self.miss)

    def _require_same(self, pointer: Any, key: object) -> None:
        self._require(self.b.icmp_unsigned("==", pointer, self._slot(key)))

    def _api(self, name: str, arguments: Sequence[Any], returns: Any = None) -> Any:
        """Call a C function of the table."""
        result = self.pointer if returns is None else returns
        kind = self.ir.FunctionType(result, [a.type for a in arguments])
        function = self._field(self.table, 8 * self.spec.slots[name], self.ir.PointerType(kind))
        return self.b.call(function, arguments)

    def _void(self, name: str, argument: Any) -> None:
        self._api(name, [argument], self.ir.VoidType())

    # Arguments.

    def _argument(self, index: int, arg: ArgSpec, item: Any) -> None:
        if arg.kind == "array":
            self._check_array(arg, item)
            data = self._field(item, abi.DATA, self.pointer)
        elif arg.kind == "bool":
            true = self.b.icmp_unsigned("==", item, self._slot("True"))
            self._require(self.b.or_(true, self.b.icmp_unsigned("==", item, self._slot("False"))))
            data = self.flags[index]
            self.b.store(self.b.zext(true, self.ir.IntType(8)), data)
        else:
            # The number inside the object itself: immutable, and alive as long as the caller's reference.
            key: object = ("scalar", arg.dtype) if arg.kind == "scalar" else arg.kind
            self._require_same(self._field(item, abi.TYPE, self.pointer), key)
            data = self._address(item, abi.VALUE)
        self.b.store(data, self._address(self.inputs, 8 * index))

    def _check_array(self, arg: ArgSpec, item: Any) -> None:
        b = self.b
        self._require_same(self._field(item, abi.TYPE, self.pointer), "ndarray")
        self._require_same(self._field(item, abi.DESCR, self.pointer), ("array", arg.dtype))
        ndim = self._field(item, abi.NDIM, self.i32)
        self._require(b.icmp_signed("==", ndim, self.i32(len(arg.shape))))
        if arg.shape:
            dims = self._field(item, abi.DIMS, self.pointer)
            for axis, extent in enumerate(arg.shape):
                seen = self._field(dims, 8 * axis, self.word)
                self._require(b.icmp_signed("==", seen, self.word(extent)))
        # NumPy keeps this flag in step with the strides, and axes of extent 1 and empty arrays may have any.
        wanted = self.i32(abi.C_CONTIGUOUS_AND_ALIGNED)
        flags = b.and_(self._field(item, abi.FLAGS, self.i32), wanted)
        self._require(b.icmp_signed("==", flags, wanted))

    # Results and the call.

    def _made(self, index: int, item: Any) -> None:
        """Own a new result object; if it is NULL, an exception is set."""
        self.b.store(item, self._address(self.objects, 8 * index))
        self._branch(self.b.icmp_unsigned("!=", item, self.null), self.cleanup)

    def _allocate(self, index: int, result: ResultSpec) -> None:
        if result.scalar:
            data = self.scalars[index]
        else:
            descr, none, zero = self._descr(result), self.null, self.i32(0)
            self._void("Py_IncRef", descr)  # the next call takes this reference
            shape = [self.i32(len(result.shape)), self._extents(result.shape)]
            arguments = [self._slot("ndarray"), descr, *shape, none, none, zero, none]
            item = self._api("PyArray_NewFromDescr", arguments)
            self._made(index, item)
            data = self._field(item, abi.DATA, self.pointer)
        self.b.store(data, self._address(self.outputs, 8 * index))

    def _extents(self, shape: tuple[int, ...]) -> Any:
        if not shape:
            return self.null
        kind = self.ir.ArrayType(self.word, len(shape))
        name = self.module.get_unique_name("extents")
        constant = self.ir.GlobalVariable(self.module, kind, name)
        constant.linkage, constant.global_constant = "internal", True
        constant.initializer = self.ir.Constant(kind, list(shape))
        return self._opaque(constant)

    def _call_plan(self) -> Any:
        """Call the plan with a workspace and, if asked, without the GIL; the workspace is given back at once."""
        size = self.spec.workspace
        plan_table = self._address(self.table, 8 * len(self.spec.slots))
        if size > STACK_WORKSPACE:
            workspace, block = self._acquire_workspace(size)
        else:
            workspace, block = (self.stack_workspace if size else self.null), None
        if self.spec.release_gil:
            state = self._api("PyEval_SaveThread", [])
        code = self.b.call(self.plan, [self.inputs, self.outputs, workspace, plan_table])
        if self.spec.release_gil:
            self._void("PyEval_RestoreThread", state)
        if block is not None:
            self._release_workspace(block)
        return code

    def _acquire_workspace(self, size: int) -> tuple[Any, Any]:
        """The Entry's cached block where it has one and no other call holds it, else a new one; (aligned pointer, the
        allocation or NULL). Both this and the release run with the GIL held, so the flag needs no atomic access."""
        b, word = self.b, self.word
        busy_slot = self._address(self.table, 8 * self.spec.slots["workspace_busy"])
        taken, own, ready = (self.function.append_basic_block(n) for n in ("ws_taken", "ws_own", "ws_ready"))
        busy = b.load(busy_slot, typ=word)
        b.cbranch(b.icmp_unsigned("==", busy, word(0)), own, taken)
        b.position_at_end(own)
        b.store(word(1), busy_slot)
        cached = self._slot("workspace")
        b.branch(ready)
        b.position_at_end(taken)
        block = self._api("PyMem_RawMalloc", [word(size + _ALIGNMENT)])
        failed = self.function.append_basic_block("no_memory")
        self._branch(b.icmp_unsigned("!=", block, self.null), failed)
        bumped = b.add(b.ptrtoint(block, word), word(_ALIGNMENT - 1))
        aligned = b.inttoptr(b.and_(bumped, word(-_ALIGNMENT)), self.pointer)
        allocated = b.block
        b.branch(ready)
        b.position_at_end(failed)
        self._api("PyErr_NoMemory", [])
        b.branch(self.cleanup)
        b.position_at_end(ready)
        workspace, owner = b.phi(self.pointer), b.phi(self.pointer)
        for value, phi in ((cached, workspace), (self.null, owner)):
            phi.add_incoming(value, own)
        for value, phi in ((aligned, workspace), (block, owner)):
            phi.add_incoming(value, allocated)
        return workspace, owner

    def _release_workspace(self, block: Any) -> None:
        b = self.b
        own, other, done = (self.function.append_basic_block(n) for n in ("ws_return", "ws_free", "ws_done"))
        b.cbranch(b.icmp_unsigned("==", block, self.null), own, other)
        b.position_at_end(own)
        b.store(self.word(0), self._address(self.table, 8 * self.spec.slots["workspace_busy"]))
        b.branch(done)
        b.position_at_end(other)
        self._void("PyMem_RawFree", block)
        b.branch(done)
        b.position_at_end(done)

    def _check_code(self, code: Any) -> None:
        b = self.b
        failed, call, raised = (self.function.append_basic_block(n) for n in ("failed", "report", "reported"))
        self._branch(b.icmp_signed("==", code, self.i32(0)), failed)
        after = b.block
        b.position_at_end(failed)
        b.cbranch(b.icmp_signed(">", code, self.i32(0)), call, self.cleanup)
        b.position_at_end(call)
        number = self._api("PyLong_FromLong", [b.sext(code, self.word)])
        self._branch(b.icmp_unsigned("!=", number, self.null), self.cleanup)
        answer = self._api("PyObject_CallOneArg", [self._slot("fail"), number])
        self._void("Py_DecRef", number)
        self._void("Py_DecRef", answer)  # NULL: `fail` always raises
        b.branch(raised)
        b.position_at_end(raised)
        b.branch(self.cleanup)
        b.position_at_end(after)

    def _return(self) -> None:
        count = len(self.spec.results)
        if not self.spec.as_tuple:
            self.b.ret(self._item(self.objects, 0))
            return
        group = self._api("PyTuple_New", [self.word(count)])
        self._branch(self.b.icmp_unsigned("!=", group, self.null), self.cleanup)
        for index in range(count):
            item = self._item(self.objects, index)
            self._api("PyTuple_SetItem", [group, self.word(index), item], self.i32)  # takes the reference
        self.b.ret(group)

    def _failures(self) -> None:
        b = self.b
        b.position_at_end(self.miss)
        miss = self._slot("MISS")
        self._void("Py_IncRef", miss)
        b.ret(miss)
        b.position_at_end(self.cleanup)
        for index in range(len(self.spec.results)):
            self._void("Py_DecRef", self._item(self.objects, index))  # accepts NULL
        b.ret(self.null)


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_METH_FASTCALL = 0x0080


class _State(np.ndarray[Any, Any]):
    """The pointer table, and as attributes what it points to. See Note [Pointer table]."""

    owned: tuple[object, ...]


def _aligned_block(size: int) -> tuple[np.ndarray[Any, Any], int]:
    block = np.empty(size + _ALIGNMENT, np.uint8)
    start = int(block.ctypes.data)
    return block, -(-start // _ALIGNMENT) * _ALIGNMENT


class Entry:
    """A compiled plan that Python can call.

    `fast(*args)` checks the arguments and runs, or returns MISS without having done anything. It is a builtin function (or
    with NUFUNC_NO_NATIVE_CALL=1, or on an interpreter of another ABI, a Python function of the same behaviour).
    `slow(*leaves)` accepts any memory layout of the right types and shapes and returns a list; `plain(*leaves)` is the same
    through ctypes only. All may be called from several threads at once.

    `externs` becomes the plan's table. A positive code of the plan raises `on_error(code)`. The code, the table and `keep`
    live until both the Entry and its `fast` are gone.
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
        make = ctypes.CFUNCTYPE if spec.release_gil else ctypes.PYFUNCTYPE
        self._plan = make(ctypes.c_int32, *[ctypes.c_void_p] * 4)(executable.address(plan_symbol(prefix)))
        self._owned: tuple[object, ...] = (executable.code, keep)
        self.native = abi.native_call_wanted()
        self.fast: Callable[..., Any] = self._native(executable, prefix, externs, fail) if self.native else self._python

    def _native(self, executable: Executable, prefix: str, externs: Sequence[int], fail: object) -> Callable[..., Any]:
        spec = self.spec
        objects: dict[object, object] = {
            **{"ndarray": np.ndarray, "float": float, "complex": complex, "True": True, "False": False},
            **{"MISS": MISS, "fail": fail},
        }
        words: dict[object, int] = {key: id(value) for key, value in objects.items()}
        words.update(abi.function_addresses())
        block = None
        words["workspace"], words["workspace_busy"] = 0, 1
        if STACK_WORKSPACE < spec.workspace <= CACHED_WORKSPACE:
            block, words["workspace"] = _aligned_block(spec.workspace)
            words["workspace_busy"] = 0
        for key in spec.slots:
            if isinstance(key, tuple):
                held = key[1] if key[0] == "array" else key[1].type
                objects[key], words[key] = held, id(held)
        table = np.array([words[key] for key in spec.slots] + list(externs), np.uintp)
        state = table.view(_State)
        name = call_symbol(prefix).encode()
        method = _MethodDef(name, executable.address(call_symbol(prefix)), _METH_FASTCALL, None)
        state.owned = (method, objects, block, *self._owned)
        pointer, obj = ctypes.c_void_p, ctypes.py_object
        new = abi.python_function("PyCFunction_NewEx", obj, pointer, obj, pointer)
        function: Callable[..., Any] = new(ctypes.addressof(method), state, None)
        return function

    def slow(self, *leaves: object) -> list[Any]:
        """Run on arguments of the right types and shapes in any memory layout. Raises ArgumentTypeError for others."""
        fixed = self._conform(leaves)
        answer = self.fast(*fixed)
        if answer is MISS:
            return self._run(fixed)
        return list(answer) if self.spec.as_tuple else [answer]

    def plain(self, *leaves: object) -> list[Any]:
        """`slow`, but through ctypes: needs nothing of CPython's or NumPy's ABI."""
        return self._run(self._conform(leaves))

    def _python(self, *args: object) -> Any:
        """`fast` without the native wrapper."""
        if len(args) != len(self.spec.args) or not all(map(_matches, self.spec.args, args)):
            return MISS
        results = self._run(args)
        return tuple(results) if self.spec.as_tuple else results[0]

    def _conform(self, leaves: Sequence[object]) -> list[object]:
        if len(leaves) != len(self.spec.args):
            raise ArgumentTypeError(f"expected {len(self.spec.args)} arguments, got {len(leaves)}")
        return [_conformed(index, arg, leaf) for index, (arg, leaf) in enumerate(zip(self.spec.args, leaves))]

    def _run(self, args: Sequence[Any]) -> list[Any]:
        """Call the plan on arguments that match their specs."""
        pairs = zip(self.spec.args, args, strict=True)
        inputs = [x if arg.kind == "array" else np.array(x, arg.dtype) for arg, x in pairs]
        outputs = [np.empty(result.shape, result.dtype) for result in self.spec.results]
        block, workspace = _aligned_block(self.spec.workspace)
        code = self._plan(_pointers(inputs), _pointers(outputs), workspace, self._externs)
        del block
        if code:
            self._fail(code)
        return [out[()] if r.scalar else out for r, out in zip(self.spec.results, outputs, strict=True)]


def _raiser(on_error: Callable[[int], BaseException] | None) -> Callable[[int], None]:
    def fail(code: int) -> None:
        if on_error is None:
            raise RuntimeError(f"compiled code failed with code {code}")
        raise on_error(code)

    return fail


def _pointers(arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
    # `array.ctypes.data` says the same and takes five times as long.
    return (ctypes.c_void_p * max(len(arrays), 1))(*[array.__array_interface__["data"][0] for array in arrays])


def _matches(arg: ArgSpec, item: Any) -> bool:
    """The wrapper's checks, in Python."""
    if arg.kind == "array":
        if type(item) is not np.ndarray or item.dtype is not arg.dtype or item.shape != arg.shape:
            return False
        return bool(item.flags.c_contiguous and item.flags.aligned)
    return type(item) is (arg.dtype.type if arg.kind == "scalar" else _KIND_TYPE[arg.kind])


def _conformed(index: int, arg: ArgSpec, leaf: Any) -> object:
    """The leaf in the memory layout that the plan reads; the leaf itself where it has it."""
    if _matches(arg, leaf):
        return leaf
    if arg.kind == "array" and type(leaf) is np.ndarray and leaf.shape == arg.shape:
        if leaf.dtype.newbyteorder("=") == arg.dtype:
            return np.array(leaf, dtype=arg.dtype, order="C", copy=True)
    raise ArgumentTypeError(f"argument {index}: expected {arg}, got {type(leaf).__name__} {leaf!r:.60}")

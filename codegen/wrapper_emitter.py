"""Emits the native call wrapper, a METH_FASTCALL C function around a plan, into an llvmlite module.

It follows Note [Plan ABI] and Note [Pointer table] of `nufunc.codegen.callspec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nufunc.codegen import abi
from nufunc.codegen.callspec import (
    STACK_WORKSPACE,
    WORKSPACE_ALIGNMENT,
    ArgSpec,
    CallSpec,
    ResultSpec,
    call_symbol,
    plan_symbol,
)

if TYPE_CHECKING:
    from llvmlite import ir


def declare_plan(module: ir.Module, prefix: str) -> ir.Function:
    """An empty plan function of the ABI above, for the emitter to fill."""
    from llvmlite import ir

    pointer = ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), [pointer] * 4), plan_symbol(prefix))
    for argument, name in zip(function.args, ("inputs", "outputs", "workspace", "table"), strict=True):
        argument.name = name
    return function


def emit_wrapper(module: ir.Module, plan: ir.Function, spec: CallSpec, prefix: str) -> ir.Function:
    """Emit `PyObject *<prefix>_call(PyObject *self, PyObject **args, Py_ssize_t n)` around `plan` into
    `module`."""
    # Inlined into the wrapper it would be optimised and stored twice, as the plain symbol must stay.
    plan.attributes.add("noinline")
    return _WrapperEmitter(module, plan, spec, prefix).emit()


class _WrapperEmitter:
    """Emits one wrapper. Blocks besides the straight path: `miss`, and `cleanup`, which drops what was made
    and returns NULL."""

    def __init__(self, module: ir.Module, plan: ir.Function, spec: CallSpec, prefix: str) -> None:
        from llvmlite import ir

        self.ir, self.plan, self.spec, self.module = ir, plan, spec, module
        self.pointer, self.word, self.i32 = ir.PointerType(), ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(self.pointer, [self.pointer, self.pointer, self.word])
        self.function = ir.Function(module, kind, call_symbol(prefix))
        # Straight-line checks: optimising them gains 5 ns a call and doubles a small plan's compile time.
        for attribute in ("noinline", "optnone"):
            self.function.attributes.add(attribute)
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
                made = self._api(
                    "PyArray_Scalar", [self._item(self.outputs, index), self._descr(result), self.null]
                )
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
        """llvmlite still gives memory it defines a typed pointer, which it refuses to mix with the opaque
        ones."""
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
            self.stack_workspace = self._stack(self.spec.workspace, WORKSPACE_ALIGNMENT)
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
        """Call the plan with a workspace and, if asked, without the GIL; the workspace is given back at
        once."""
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
        """The Entry's cached block where it has one and no other call holds it, else a new one; (aligned
        pointer, the allocation or NULL). Both this and the release run with the GIL held, so the flag needs
        no atomic access."""
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
        block = self._api("PyMem_RawMalloc", [word(size + WORKSPACE_ALIGNMENT)])
        failed = self.function.append_basic_block("no_memory")
        self._branch(b.icmp_unsigned("!=", block, self.null), failed)
        bumped = b.add(b.ptrtoint(block, word), word(WORKSPACE_ALIGNMENT - 1))
        aligned = b.inttoptr(b.and_(bumped, word(-WORKSPACE_ALIGNMENT)), self.pointer)
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

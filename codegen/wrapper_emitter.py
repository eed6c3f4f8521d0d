"""Emits the native call wrapper, a METH_FASTCALL C function around a plan, into an llvmlite module.

It follows Note [Plan ABI], Note [Pointer table] and Note [Results in arguments] of `nufunc.codegen.callspec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nufunc.codegen import abi
from nufunc.codegen.callspec import (
    KEPT_WORKSPACE,
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


def emit_wrapper(module: ir.Module, plan: ir.Function | None, spec: CallSpec, prefix: str) -> ir.Function:
    """Emit `PyObject *<prefix>_call(PyObject *self, PyObject **args, Py_ssize_t n)` around `plan` into
    `module`; None: around the plan whose address stands in the table."""
    if plan is not None:
        # Inlined into the wrapper it would be optimised and stored twice, as the plain symbol must stay.
        plan.attributes.add("noinline")
    return _WrapperEmitter(module, plan, spec, prefix).emit()


class _WrapperEmitter:
    """Emits one wrapper. Blocks besides the straight path: `miss`, and `cleanup`, which drops what was made
    and returns NULL."""

    def __init__(self, module: ir.Module, plan: ir.Function | None, spec: CallSpec, prefix: str) -> None:
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
        if self.spec.sources:
            self._require(self.b.call(self._apart(), [self.inputs]))
        for place, index in enumerate(self.copied):
            self._copy(place, index, self._item(arguments, index))
        for index, result in enumerate(self.spec.results):
            if result.source is not None:
                self._stands(index, result.source, self._item(arguments, result.source))
            else:
                self._allocate(index, result)
        code = self._call_plan()
        for place in range(len(self.copied)):
            self._void("Py_DecRef", self._item(self.copies, place))
            self.b.store(self.null, self._address(self.copies, 8 * place))
        self._check_code(code)
        for index, result in enumerate(self.spec.results):
            if result.scalar and result.source is None:
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
        self.copied = [index for index, arg in enumerate(self.spec.args) if arg.copied]
        self.copies = self._stack(8 * len(self.copied))
        self.scalars = {index: self._stack(r.dtype.itemsize) for index, r in enumerate(results) if r.scalar}
        self.flags = {index: self._stack(1) for index, a in enumerate(self.spec.args) if a.kind == "bool"}
        if 0 < self.spec.workspace <= STACK_WORKSPACE:
            self.stack_workspace = self._stack(self.spec.workspace, WORKSPACE_ALIGNMENT)
        for made, count in ((self.objects, len(results)), (self.copies, len(self.copied))):
            for index in range(count):
                self.b.store(self.null, self._address(made, 8 * index))

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
            self._check_array(arg, item, index in self.spec.sources)
            data = self._address(self._field(item, abi.DATA, self.pointer), -arg.first)
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

    def _check_array(self, arg: ArgSpec, item: Any, written: bool) -> None:
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
        if arg.strides is not None:
            strides = self._field(item, abi.STRIDES, self.pointer)
            for axis, _, stride in arg.moves:
                seen = self._field(strides, 8 * axis, self.word)
                self._require(b.icmp_signed("==", seen, self.word(stride * arg.dtype.itemsize)))
        # NumPy keeps the flags in step with the strides, and axes of extent 1 and empty arrays may have any.
        contiguous = abi.C_CONTIGUOUS if arg.strides is None else 0
        wanted = self.i32(contiguous | abi.ALIGNED | (abi.WRITEABLE if written else 0))
        flags = b.and_(self._field(item, abi.FLAGS, self.i32), wanted)
        self._require(b.icmp_signed("==", flags, wanted))

    def _apart(self) -> Any:
        """A function of the data pointers: whether no argument that is written shares memory with another. It loops
        over constant tables, since there may be hundreds of pairs."""
        ir, word = self.ir, self.word
        function = ir.Function(
            self.module, ir.FunctionType(ir.IntType(1), [self.pointer]), f"{self.function.name}.apart"
        )
        function.linkage = "internal"
        arrays = [k for k, arg in enumerate(self.spec.args) if arg.kind == "array"]
        sizes = [self.spec.args[k].extent for k in arrays]
        sources = [arrays.index(k) for k in sorted(self.spec.sources)]
        numbers, extents, written = (self._words(t) for t in (arrays, sizes, sources))
        entry, outer, inner, after, disjoint, shared = map(
            function.append_basic_block, ("entry", "outer", "inner", "after", "disjoint", "shared")
        )
        b = ir.IRBuilder(entry)
        at = lambda table, index: b.load(b.gep(table, [index], source_etype=word), typ=word)
        ends = lambda j: (at(function.args[0], at(numbers, j)), at(extents, j))
        b.branch(outer)
        b.position_at_end(outer)
        k = b.phi(word)
        source = at(written, k)
        start, size = ends(source)
        b.branch(inner)
        b.position_at_end(inner)
        j = b.phi(word)
        other, length = ends(j)
        # two ranges meet where each begins before the other's end
        met = b.and_(
            b.icmp_unsigned("<", start, b.add(other, length)), b.icmp_unsigned("<", other, b.add(start, size))
        )
        following = b.add(j, word(1))
        going = b.append_basic_block("going")
        b.cbranch(b.and_(met, b.icmp_unsigned("!=", j, source)), shared, going)
        b.position_at_end(going)
        b.cbranch(b.icmp_unsigned("<", following, word(len(arrays))), inner, after)
        b.position_at_end(after)
        next_source = b.add(k, word(1))
        b.cbranch(b.icmp_unsigned("<", next_source, word(len(sources))), outer, disjoint)
        for phi, first, value, back in ((k, entry, next_source, after), (j, outer, following, going)):
            phi.add_incoming(word(0), first)
            phi.add_incoming(value, back)
        for block, answer in ((disjoint, 1), (shared, 0)):
            b.position_at_end(block)
            b.ret(ir.IntType(1)(answer))
        return function

    def _words(self, numbers: Sequence[int]) -> Any:
        """A constant array of words."""
        kind = self.ir.ArrayType(self.word, len(numbers))
        constant = self.ir.GlobalVariable(self.module, kind, self.module.get_unique_name("words"))
        constant.linkage, constant.global_constant = "internal", True
        constant.initializer = self.ir.Constant(kind, list(numbers))
        return self._opaque(constant)

    def _copy(self, place: int, index: int, item: Any) -> None:
        """Put a C-contiguous copy in the place of a strided argument."""
        made = self._api("PyArray_NewCopy", [item, self.i32(0)])
        self.b.store(made, self._address(self.copies, 8 * place))
        self._branch(self.b.icmp_unsigned("!=", made, self.null), self.cleanup)
        self.b.store(self._field(made, abi.DATA, self.pointer), self._address(self.inputs, 8 * index))

    # Results and the call.

    def _stands(self, index: int, source: int, argument: Any) -> None:
        """A result in the memory of an argument."""
        self.b.store(self._item(self.inputs, source), self._address(self.outputs, 8 * index))
        if self.spec.results[index].returned:
            self._void("Py_IncRef", argument)
            self.b.store(argument, self._address(self.objects, 8 * index))

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
            shape = [self.i32(len(result.shape)), self._words(result.shape) if result.shape else none]
            arguments = [self._slot("ndarray"), descr, *shape, none, none, zero, none]
            item = self._api("pooled_result" if result.pooled else "PyArray_NewFromDescr", arguments)
            self._made(index, item)
            data = self._field(item, abi.DATA, self.pointer)
        self.b.store(data, self._address(self.outputs, 8 * index))

    def _call_plan(self) -> Any:
        """Call the plan with a workspace and, if asked, without the GIL; the workspace is given back at
        once."""
        size = self.spec.workspace
        plan_table = self._address(self.table, 8 * len(self.spec.slots))
        if size > STACK_WORKSPACE:
            workspace = self._acquire_workspace(size)
        else:
            workspace = self.stack_workspace if size else self.null
        arguments = [self.inputs, self.outputs, workspace, plan_table]
        if self.spec.release_gil:
            state = self._api("PyEval_SaveThread", [])
        code = self._api("plan", arguments, self.i32) if self.plan is None else self.b.call(self.plan, arguments)
        if self.spec.release_gil:
            self._void("PyEval_RestoreThread", state)
        if size > STACK_WORKSPACE:
            self._release_workspace(workspace, size)
        return code

    def _acquire_workspace(self, size: int) -> Any:
        """The first block of the free list, or a new one: as many are made as calls overlap. The first word of a free
        block is the next one; the word before any block is the allocation that it lies in. The GIL is held here
        and at the release, so that nothing needs to be atomic."""
        b, word, head = self.b, self.word, self._slot("workspaces")
        free, none, ready = map(self.function.append_basic_block, ("ws_free", "ws_none", "ws_ready"))
        first = b.load(head, typ=self.pointer)
        b.cbranch(b.icmp_unsigned("!=", first, self.null), free, none)
        b.position_at_end(free)
        b.store(b.load(first, typ=self.pointer), head)
        b.branch(ready)
        b.position_at_end(none)
        made = self._api("PyMem_RawMalloc", [word(size + WORKSPACE_ALIGNMENT)])
        failed = self.function.append_basic_block("no_memory")
        self._branch(b.icmp_unsigned("!=", made, self.null), failed)
        # malloc aligns to 16 bytes at least, so there is room for a word before the block
        above = b.add(b.ptrtoint(made, word), word(WORKSPACE_ALIGNMENT))
        block = b.inttoptr(b.and_(above, word(-WORKSPACE_ALIGNMENT)), self.pointer)
        b.store(made, self._address(block, -8))
        allocated = b.block
        b.branch(ready)
        b.position_at_end(failed)
        self._api("PyErr_NoMemory", [])
        b.branch(self.cleanup)
        b.position_at_end(ready)
        workspace = b.phi(self.pointer)
        workspace.add_incoming(first, free)
        workspace.add_incoming(block, allocated)
        return workspace

    def _release_workspace(self, block: Any, size: int) -> None:
        if size > KEPT_WORKSPACE:
            self._void("PyMem_RawFree", self._field(block, -8, self.pointer))
            return
        head = self._slot("workspaces")
        self.b.store(self.b.load(head, typ=self.pointer), block)
        self.b.store(block, head)

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
        returned = [index for index, r in enumerate(self.spec.results) if r.returned]
        if not self.spec.as_tuple:
            self.b.ret(self._item(self.objects, returned[0]))
            return
        group = self._api("PyTuple_New", [self.word(len(returned))])
        self._branch(self.b.icmp_unsigned("!=", group, self.null), self.cleanup)
        for place, index in enumerate(returned):
            item = self._item(self.objects, index)
            self._api("PyTuple_SetItem", [group, self.word(place), item], self.i32)  # takes the reference
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
        for place in range(len(self.copied)):
            self._void("Py_DecRef", self._item(self.copies, place))
        b.ret(self.null)

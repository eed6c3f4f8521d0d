"""The memory of large results: aligned blocks that come back when a result dies, for results of later calls.

Note [Result pool]
A fresh block of many megabytes costs more than what is written to it: the system clears each page at its first touch
(a copy of 64 MB: 24 GB/s into new memory, 45 GB/s into memory that was used before). So results of POOLED_RESULT bytes
and more get their memory here. They own it as any array owns its own, by a NumPy memory handler (NEP 49) that is set
just while the result is made; so `resize`, `OWNDATA` and the arrays' lives are NumPy's. When the last reference to a
result goes, its block is kept for the next one of the same size class, up to `limit` bytes in SLOTS blocks in the
whole process; the oldest go first. Blocks of HUGE bytes and more lie on huge pages, where the system has them, and
while they are kept the system may take their pages away when it needs memory (MADV_FREE); smaller ones are plain.

A block is a mapping of its own: [capacity, 56 bytes of nothing, data ...]. Size classes are an eighth of a power of two
apart, so that the pages of a block that no result of its class touches are few, and cost no memory.
The handlers run under the GIL; a lock that is only ever tried makes them safe anywhere else. A forked child has its own
copy of all of it. The code is never freed, since results may outlive everything.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

from nufunc.codegen import abi
from nufunc.codegen.backend import Executable, Optimise, library_module

HUGE = 1 << 22  # bytes from which NumPy's allocator asks for huge pages too
SLOTS = 32
LIMIT = 1 << 28  # bytes that are kept at most, until `set_limit` says otherwise
HEADER = 64

_TEXT = """
@lock = internal global i8 0
@limit = internal global i64 {limit}
@held = internal global i64 0
@count = internal global i64 0
@blocks = internal global [{slots} x ptr] zeroinitializer   ; the oldest first
@sizes = internal global [{slots} x i64] zeroinitializer
@set_handler = internal global ptr null
@new_array = internal global ptr null
@decref = internal global ptr null
@handler = internal global ptr null

declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @madvise(ptr, i64, i32)
declare i64 @llvm.ctlz.i64(i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define void @nufunc_results_setup(ptr %set, ptr %new, ptr %decref, ptr %handler) {{
  store ptr %set, ptr @set_handler
  store ptr %new, ptr @new_array
  store ptr %decref, ptr @decref
  store ptr %handler, ptr @handler
  ret void
}}

define internal i1 @try_lock() {{
  %old = atomicrmw xchg ptr @lock, i8 1 acquire
  %free = icmp eq i8 %old, 0
  ret i1 %free
}}

define internal void @unlock() {{
  store atomic i8 0, ptr @lock release, align 1
  ret void
}}

; Bytes of the block for %size bytes of data.
define internal i64 @capacity(i64 %size) {{
  %bytes = add i64 %size, {header}
  %zeros = call i64 @llvm.ctlz.i64(i64 %bytes, i1 false)
  %shift = sub i64 60, %zeros
  %eighth = shl i64 1, %shift
  %page = icmp ugt i64 %eighth, 4096
  %unit = select i1 %page, i64 %eighth, i64 4096
  %less = sub i64 %unit, 1
  %above = add i64 %bytes, %less
  %mask = sub i64 0, %unit
  %rounded = and i64 %above, %mask
  ret i64 %rounded
}}

define internal ptr @map(i64 %capacity) {{
entry:
  %large = icmp uge i64 %capacity, {huge}
  %room = select i1 %large, i64 {page}, i64 0
  %all = add i64 %capacity, %room
  %raw = call ptr @mmap(ptr null, i64 %all, i32 3, i32 34, i32 -1, i64 0)
  %at = ptrtoint ptr %raw to i64
  %failed = icmp eq i64 %at, -1
  br i1 %failed, label %none, label %some
none:
  ret ptr null
some:
  br i1 %large, label %align, label %plain
plain:
  ret ptr %raw
align:
  %above = add i64 %at, {page_less}
  %start = and i64 %above, {page_mask}
  %block = inttoptr i64 %start to ptr
  %head = sub i64 %start, %at
  %tail = sub i64 {page}, %head
  %headed = icmp ne i64 %head, 0
  br i1 %headed, label %cut, label %rest
cut:
  call i32 @munmap(ptr %raw, i64 %head)
  br label %rest
rest:
  %tailed = icmp ne i64 %tail, 0
  br i1 %tailed, label %trim, label %advise
trim:
  %end = getelementptr i8, ptr %block, i64 %capacity
  call i32 @munmap(ptr %end, i64 %tail)
  br label %advise
advise:
  call i32 @madvise(ptr %block, i64 %capacity, i32 14)
  ret ptr %block
}}

; Take block %k out of the table; the lock is held.
define internal void @remove(i64 %k) {{
entry:
  %n = load i64, ptr @count
  %last = sub i64 %n, 1
  %size.at = getelementptr i64, ptr @sizes, i64 %k
  %size = load i64, ptr %size.at
  %held = load i64, ptr @held
  %left = sub i64 %held, %size
  store i64 %left, ptr @held
  store i64 %last, ptr @count
  br label %shift
shift:
  %i = phi i64 [%k, %entry], [%next, %move]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %move, label %done
move:
  %next = add i64 %i, 1
  %b.from = getelementptr ptr, ptr @blocks, i64 %next
  %b.to = getelementptr ptr, ptr @blocks, i64 %i
  %b = load ptr, ptr %b.from
  store ptr %b, ptr %b.to
  %s.from = getelementptr i64, ptr @sizes, i64 %next
  %s.to = getelementptr i64, ptr @sizes, i64 %i
  %s = load i64, ptr %s.from
  store i64 %s, ptr %s.to
  br label %shift
done:
  ret void
}}

; Give blocks back to the system until at most %most bytes and %slots blocks are kept; the lock is held.
define internal void @shrink(i64 %most, i64 %slots) {{
entry:
  br label %test
test:
  %held = load i64, ptr @held
  %n = load i64, ptr @count
  %much = icmp ugt i64 %held, %most
  %many = icmp ugt i64 %n, %slots
  %over = or i1 %much, %many
  %some = icmp ne i64 %n, 0
  %go = and i1 %over, %some
  br i1 %go, label %drop, label %done
drop:
  %block = load ptr, ptr @blocks
  %size = load i64, ptr @sizes
  call void @remove(i64 0)
  call i32 @munmap(ptr %block, i64 %size)
  br label %test
done:
  ret void
}}

; The newest kept block of a size class, or null.
define internal ptr @take(i64 %capacity) {{
entry:
  %free = call i1 @try_lock()
  br i1 %free, label %look, label %none
look:
  %n = load i64, ptr @count
  br label %test
test:
  %i = phi i64 [%n, %look], [%k, %step]
  %some = icmp sgt i64 %i, 0
  br i1 %some, label %step, label %empty
step:
  %k = sub i64 %i, 1
  %size.at = getelementptr i64, ptr @sizes, i64 %k
  %size = load i64, ptr %size.at
  %fits = icmp eq i64 %size, %capacity
  br i1 %fits, label %found, label %test
found:
  %block.at = getelementptr ptr, ptr @blocks, i64 %k
  %block = load ptr, ptr %block.at
  call void @remove(i64 %k)
  call void @unlock()
  ret ptr %block
empty:
  call void @unlock()
  br label %none
none:
  ret ptr null
}}

define internal ptr @result_malloc(ptr %context, i64 %size) {{
entry:
  %wrong = icmp slt i64 %size, 0
  br i1 %wrong, label %fail, label %good
good:
  %capacity = call i64 @capacity(i64 %size)
  %kept = call ptr @take(i64 %capacity)
  %found = icmp ne ptr %kept, null
  br i1 %found, label %ready, label %make
make:
  %made = call ptr @map(i64 %capacity)
  %got = icmp ne ptr %made, null
  br i1 %got, label %ready, label %again
again:                                            ; without what is kept there may be room
  call i64 @nufunc_results_trim(i64 0)
  %second = call ptr @map(i64 %capacity)
  %lucky = icmp ne ptr %second, null
  br i1 %lucky, label %ready, label %fail
ready:
  %block = phi ptr [%kept, %good], [%made, %make], [%second, %again]
  store i64 %capacity, ptr %block
  %data = getelementptr i8, ptr %block, i64 {header}
  ret ptr %data
fail:
  ret ptr null
}}

define internal void @result_free(ptr %context, ptr %data, i64 %size) {{
entry:
  %null = icmp eq ptr %data, null
  br i1 %null, label %done, label %some
some:
  %block = getelementptr i8, ptr %data, i64 -{header}
  %capacity = load i64, ptr %block
  %limit = load i64, ptr @limit
  %small = icmp ule i64 %capacity, %limit
  br i1 %small, label %lock, label %drop
lock:
  %free = call i1 @try_lock()
  br i1 %free, label %keep, label %drop
keep:
  %room = sub i64 %limit, %capacity
  call void @shrink(i64 %room, i64 {slots_less})
  %huge = icmp uge i64 %capacity, {huge}
  br i1 %huge, label %advise, label %store
advise:                                           ; MADV_FREE: nothing is done unless memory gets scarce
  call i32 @madvise(ptr %block, i64 %capacity, i32 8)
  br label %store
store:
  %n = load i64, ptr @count
  %block.at = getelementptr ptr, ptr @blocks, i64 %n
  store ptr %block, ptr %block.at
  %size.at = getelementptr i64, ptr @sizes, i64 %n
  store i64 %capacity, ptr %size.at
  %more = add i64 %n, 1
  store i64 %more, ptr @count
  %held = load i64, ptr @held
  %sum = add i64 %held, %capacity
  store i64 %sum, ptr @held
  call void @unlock()
  ret void
drop:
  call i32 @munmap(ptr %block, i64 %capacity)
  ret void
done:
  ret void
}}

define internal ptr @result_calloc(ptr %context, i64 %count, i64 %each) {{
entry:
  %size = mul i64 %count, %each
  %data = call ptr @result_malloc(ptr %context, i64 %size)
  %got = icmp ne ptr %data, null
  br i1 %got, label %clear, label %done
clear:
  call void @llvm.memset.p0.i64(ptr %data, i8 0, i64 %size, i1 false)
  br label %done
done:
  ret ptr %data
}}

define internal ptr @result_realloc(ptr %context, ptr %data, i64 %size) {{
entry:
  %null = icmp eq ptr %data, null
  br i1 %null, label %fresh, label %some
fresh:
  %first = call ptr @result_malloc(ptr %context, i64 %size)
  ret ptr %first
some:
  %block = getelementptr i8, ptr %data, i64 -{header}
  %old = load i64, ptr %block
  %new = call i64 @capacity(i64 %size)
  %same = icmp eq i64 %old, %new
  br i1 %same, label %stay, label %move
stay:
  ret ptr %data
move:
  %made = call ptr @result_malloc(ptr %context, i64 %size)
  %got = icmp ne ptr %made, null
  br i1 %got, label %copy, label %fail
copy:
  %room = sub i64 %old, {header}
  %fewer = icmp ult i64 %room, %size
  %bytes = select i1 %fewer, i64 %room, i64 %size
  call void @llvm.memcpy.p0.p0.i64(ptr %made, ptr %data, i64 %bytes, i1 false)
  call void @result_free(ptr %context, ptr %data, i64 0)
  ret ptr %made
fail:
  ret ptr null
}}

define ptr @nufunc_results_functions() {{
  ret ptr @functions
}}
@functions = internal constant [5 x ptr]
  [ptr null, ptr @result_malloc, ptr @result_calloc, ptr @result_realloc, ptr @result_free]

; PyArray_NewFromDescr with memory from here.
define ptr @nufunc_results_new(ptr %type, ptr %descr, i32 %nd, ptr %dims, ptr %strides, ptr %data, i32 %flags,
                               ptr %obj) {{
entry:
  %set = load ptr, ptr @set_handler
  %new = load ptr, ptr @new_array
  %decref = load ptr, ptr @decref
  %handler = load ptr, ptr @handler
  %before = call ptr %set(ptr %handler)
  %ok = icmp ne ptr %before, null
  br i1 %ok, label %make, label %fail
make:
  %array = call ptr %new(ptr %type, ptr %descr, i32 %nd, ptr %dims, ptr %strides, ptr %data, i32 %flags, ptr %obj)
  %ours = call ptr %set(ptr %before)
  call void %decref(ptr %before)
  %back = icmp ne ptr %ours, null
  br i1 %back, label %done, label %undo
done:
  call void %decref(ptr %ours)
  ret ptr %array
undo:
  call void %decref(ptr %array)
  ret ptr null
fail:
  call void %decref(ptr %descr)                   ; which the call would have taken
  ret ptr null
}}

; Keep at most %most bytes from now on.
define void @nufunc_results_limit(i64 %most) {{
  store i64 %most, ptr @limit
  call i64 @nufunc_results_trim(i64 %most)
  ret void
}}

; Give back to the system what is kept beyond %most bytes; how many are kept then.
define i64 @nufunc_results_trim(i64 %most) {{
entry:
  %free = call i1 @try_lock()
  br i1 %free, label %go, label %done
go:
  call void @shrink(i64 %most, i64 {slots})
  call void @unlock()
  br label %done
done:
  %held = load i64, ptr @held
  ret i64 %held
}}
"""


class _Handler(ctypes.Structure):
    """NumPy's PyDataMem_Handler."""

    _fields_ = [("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("functions", ctypes.c_void_p * 5)]


class _Pool:
    """The compiled pool of this process, which is never freed."""

    def __init__(self, limit: int) -> None:
        text = _TEXT.format(
            limit=limit, slots=SLOTS, slots_less=SLOTS - 1, header=HEADER, huge=HUGE,
            page=1 << 21, page_less=(1 << 21) - 1, page_mask=-(1 << 21),
        )  # fmt: skip
        passes = ("always_inliner", "sroa", "instruction_combine", "simplify_cfg")
        self.executable: Executable = library_module(text, "nufunc.results", Optimise(passes=passes))
        address, pointer = self.executable.address, ctypes.c_void_p
        functions = ctypes.CFUNCTYPE(pointer)(address("nufunc_results_functions"))()
        self.handler = _Handler(b"nufunc", 1, (pointer * 5).from_address(functions))
        new = abi.python_function("PyCapsule_New", ctypes.py_object, pointer, ctypes.c_char_p, pointer)
        self.capsule_name = b"mem_handler"
        self.capsule = new(ctypes.addressof(self.handler), self.capsule_name, None)
        setup = ctypes.CFUNCTYPE(None, *[pointer] * 4)(address("nufunc_results_setup"))
        known = abi.function_addresses()
        setup(known["PyDataMem_SetHandler"], known["PyArray_NewFromDescr"], known["Py_DecRef"], id(self.capsule))
        self.new = address("nufunc_results_new")
        word = ctypes.c_int64
        # through PyDLL's kind of call: the GIL is held, as it is where arrays die
        self.set_limit = ctypes.PYFUNCTYPE(None, word)(address("nufunc_results_limit"))
        self.trim = ctypes.PYFUNCTYPE(word, word)(address("nufunc_results_trim"))
        abi.python_function("Py_IncRef", None, ctypes.py_object)(self)


_making = threading.Lock()
_pool: _Pool | None = None
_limit = LIMIT


def _made() -> _Pool:
    global _pool
    with _making:
        if _pool is None:
            _pool = _Pool(_limit)
        return _pool


def new_address() -> int:
    """The address of what makes large results: PyArray_NewFromDescr, where the system is not known to have all that is
    needed."""
    if not sys.platform.startswith("linux"):
        return abi.function_addresses()["PyArray_NewFromDescr"]
    return _made().new


def set_limit(most: int) -> int:
    """Keep at most so many bytes from now on; what the limit was."""
    global _limit
    with _making:
        before, _limit = _limit, most
        pool: Any = _pool
    if pool is not None:
        pool.set_limit(most)
    return before


def kept() -> int:
    """Bytes that are kept now, of results that are no more."""
    return 0 if _pool is None else int(_pool.trim((1 << 63) - 1))

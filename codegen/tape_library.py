"""What all plans share of the code for tapes: a small library in LLVM text, compiled once per process and never freed.

See Note [Tapes in memory] of `nufunc.codegen.tapes`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nufunc.codegen.backend import Executable

PREFIX = "nufunc.tape."  # of the names of these functions among a plan's externs

# A tape is {ptr items, i64 length, ptr next, i64 references, i64 tapes per item}.
_TAPE = """
declare ptr @PyMem_RawMalloc(i64)
declare ptr @PyMem_RawRealloc(ptr, i64)
declare void @PyMem_RawFree(ptr)
declare i32 @PyGILState_Ensure()
declare void @PyGILState_Release(i32)
declare ptr @PyCapsule_New(ptr, ptr, ptr)
declare ptr @PyCapsule_GetName(ptr)
declare ptr @PyCapsule_GetPointer(ptr, ptr)
declare i32 @Py_IsNone(ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
%T = type { ptr, i64, ptr, i64, i64 }

; A tape at the head of a list with room for so many bytes, or null.
define ptr @tape_new(ptr %head, i64 %bytes, i64 %nested) {
  %tape = call ptr @PyMem_RawMalloc(i64 40)
  %none = icmp eq ptr %tape, null
  br i1 %none, label %failed, label %made
made:
  %items = call ptr @PyMem_RawMalloc(i64 %bytes)
  store ptr %items, ptr %tape
  %length = getelementptr %T, ptr %tape, i64 0, i32 1
  store i64 0, ptr %length
  %next = getelementptr %T, ptr %tape, i64 0, i32 2
  %first = load ptr, ptr %head
  store ptr %first, ptr %next
  %references = getelementptr %T, ptr %tape, i64 0, i32 3
  store i64 0, ptr %references
  %handles = getelementptr %T, ptr %tape, i64 0, i32 4
  store i64 %nested, ptr %handles
  store ptr %tape, ptr %head
  %empty = icmp eq ptr %items, null
  br i1 %empty, label %failed, label %done
done:
  ret ptr %tape
failed:
  ret ptr null
}

define i1 @tape_grow(ptr %tape, i64 %bytes) {
  %items = load ptr, ptr %tape
  %more = call ptr @PyMem_RawRealloc(ptr %items, i64 %bytes)
  %good = icmp ne ptr %more, null
  br i1 %good, label %grown, label %done
grown:
  store ptr %more, ptr %tape
  br label %done
done:
  ret i1 %good
}

; Free the tapes of a list in front of a mark, but for those with references.
define void @tape_release(ptr %head, ptr %mark) {
  br label %test
test:
  %tape = load ptr, ptr %head
  %end = icmp eq ptr %tape, %mark
  br i1 %end, label %done, label %more
more:
  %next = getelementptr %T, ptr %tape, i64 0, i32 2
  %following = load ptr, ptr %next
  store ptr %following, ptr %head
  %references = getelementptr %T, ptr %tape, i64 0, i32 3
  %count = load i64, ptr %references
  %free = icmp eq i64 %count, 0
  br i1 %free, label %freed, label %test
freed:
  %items = load ptr, ptr %tape
  call void @PyMem_RawFree(ptr %items)
  call void @PyMem_RawFree(ptr %tape)
  br label %test
done:
  ret void
}

; Free the items of a tape that is read no more.
define void @tape_empty(ptr %tape) {
  %null = icmp eq ptr %tape, null
  br i1 %null, label %done, label %some
some:
  %items = load ptr, ptr %tape
  call void @PyMem_RawFree(ptr %items)
  store ptr null, ptr %tape
  br label %done
done:
  ret void
}

; Put the list that begins with a tape in front of another, which other threads may do too.
define void @tape_splice(ptr %head, ptr %first) {
  %none = icmp eq ptr %first, null
  br i1 %none, label %done, label %walk
walk:
  %tape = phi ptr [ %first, %0 ], [ %following, %walk ]
  %next = getelementptr %T, ptr %tape, i64 0, i32 2
  %following = load ptr, ptr %next
  %last = icmp eq ptr %following, null
  br i1 %last, label %try, label %walk
try:
  %old = load atomic ptr, ptr %head acquire, align 8
  store ptr %old, ptr %next
  %pair = cmpxchg ptr %head, ptr %old, ptr %first acq_rel acquire
  %set = extractvalue { ptr, i1 } %pair, 1
  br i1 %set, label %done, label %try
done:
  ret void
}

; One reference more; the first one refers to the tapes among the items.
define void @tape_hold(ptr %tape) {
  %null = icmp eq ptr %tape, null
  br i1 %null, label %done, label %some
some:
  %references = getelementptr %T, ptr %tape, i64 0, i32 3
  %count = load i64, ptr %references
  %more = add i64 %count, 1
  store i64 %more, ptr %references
  %first = icmp eq i64 %count, 0
  br i1 %first, label %begin, label %done
begin:
  %n = call i64 @tape_inner(ptr %tape)
  %items = load ptr, ptr %tape
  br label %test
test:
  %i = phi i64 [ 0, %begin ], [ %j, %each ]
  %goes = icmp slt i64 %i, %n
  br i1 %goes, label %each, label %done
each:
  %at = getelementptr ptr, ptr %items, i64 %i
  %inner = load ptr, ptr %at
  call void @tape_hold(ptr %inner)
  %j = add i64 %i, 1
  br label %test
done:
  ret void
}

define i64 @tape_inner(ptr %tape) {
  %length = getelementptr %T, ptr %tape, i64 0, i32 1
  %count = load i64, ptr %length
  %handles = getelementptr %T, ptr %tape, i64 0, i32 4
  %each = load i64, ptr %handles
  %n = mul i64 %count, %each
  ret i64 %n
}

; One reference less; the last one frees the tape.
define void @tape_drop(ptr %tape) {
  %null = icmp eq ptr %tape, null
  br i1 %null, label %done, label %some
some:
  %references = getelementptr %T, ptr %tape, i64 0, i32 3
  %count = load i64, ptr %references
  %less = sub i64 %count, 1
  store i64 %less, ptr %references
  %last = icmp eq i64 %less, 0
  br i1 %last, label %begin, label %done
begin:
  %n = call i64 @tape_inner(ptr %tape)
  %items = load ptr, ptr %tape
  br label %test
test:
  %i = phi i64 [ 0, %begin ], [ %j, %each ]
  %goes = icmp slt i64 %i, %n
  br i1 %goes, label %each, label %free
each:
  %at = getelementptr ptr, ptr %items, i64 %i
  %inner = load ptr, ptr %at
  call void @tape_drop(ptr %inner)
  %j = add i64 %i, 1
  br label %test
free:
  call void @PyMem_RawFree(ptr %items)
  call void @PyMem_RawFree(ptr %tape)
  br label %done
done:
  ret void
}

define void @tape_destroy(ptr %capsule) {
  %name = call ptr @PyCapsule_GetName(ptr %capsule)
  %tape = call ptr @PyCapsule_GetPointer(ptr %capsule, ptr %name)
  call void @tape_drop(ptr %tape)
  ret void
}

; Capsules in the place of tapes; a tape of zeros stays null, which NumPy shows as None. -1: an exception is set.
define i32 @tape_wrap(ptr %slots, i64 %n, ptr %name) {
  %gil = call i32 @PyGILState_Ensure()
  br label %test
test:
  %i = phi i64 [ 0, %0 ], [ %j, %stored ]
  %goes = icmp slt i64 %i, %n
  br i1 %goes, label %each, label %done
each:
  %at = getelementptr ptr, ptr %slots, i64 %i
  %tape = load ptr, ptr %at
  %none = icmp eq ptr %tape, null
  br i1 %none, label %stored, label %some
some:
  %capsule = call ptr @PyCapsule_New(ptr %tape, ptr %name, ptr @tape_destroy)
  %bad = icmp eq ptr %capsule, null
  br i1 %bad, label %failed, label %made
made:
  call void @tape_hold(ptr %tape)
  store ptr %capsule, ptr %at
  br label %stored
stored:
  %j = add i64 %i, 1
  br label %test
failed:
  br label %done
done:
  %code = phi i32 [ 0, %test ], [ -1, %failed ]
  call void @PyGILState_Release(i32 %gil)
  ret i32 %code
}

; Tapes in the place of capsules, elsewhere. -1: an exception is set.
define i32 @tape_unwrap(ptr %objects, ptr %slots, i64 %n, ptr %name) {
  %gil = call i32 @PyGILState_Ensure()
  br label %test
test:
  %i = phi i64 [ 0, %0 ], [ %j, %stored ]
  %goes = icmp slt i64 %i, %n
  br i1 %goes, label %each, label %done
each:
  %at = getelementptr ptr, ptr %objects, i64 %i
  %object = load ptr, ptr %at
  %empty = icmp eq ptr %object, null
  br i1 %empty, label %stored, label %some
some:
  %is_none = call i32 @Py_IsNone(ptr %object)
  %none = icmp ne i32 %is_none, 0
  br i1 %none, label %stored, label %capsule
capsule:
  %tape = call ptr @PyCapsule_GetPointer(ptr %object, ptr %name)
  %bad = icmp eq ptr %tape, null
  br i1 %bad, label %failed, label %stored
stored:
  %value = phi ptr [ null, %each ], [ null, %some ], [ %tape, %capsule ]
  %slot = getelementptr ptr, ptr %slots, i64 %i
  store ptr %value, ptr %slot
  %j = add i64 %i, 1
  br label %test
failed:
  br label %done
done:
  %code = phi i32 [ 0, %test ], [ -1, %failed ]
  call void @PyGILState_Release(i32 %gil)
  ret i32 %code
}

define void @tape_unset(ptr %slots, i64 %n) {
  %bytes = mul i64 %n, 8
  call void @llvm.memset.p0.i64(ptr %slots, i8 0, i64 %bytes, i1 false)
  ret void
}

; x + y, item by item, at %out. %levels: {1, tapes of an item} per level of nesting, then {0, numbers of an item}.
define i1 @tape_add(ptr %head, ptr %x, ptr %y, ptr %levels, i64 %single, ptr %out) {
  %no_x = icmp eq ptr %x, null
  %no_y = icmp eq ptr %y, null
  %other = select i1 %no_x, ptr %y, ptr %x
  %trivial = or i1 %no_x, %no_y
  br i1 %trivial, label %one, label %both
one:
  store ptr %other, ptr %out
  ret i1 true
both:
  %nested = load i64, ptr %levels
  %size_at = getelementptr i64, ptr %levels, i64 1
  %size = load i64, ptr %size_at
  %length_at = getelementptr %T, ptr %x, i64 0, i32 1
  %length = load i64, ptr %length_at
  %n = mul i64 %length, %size
  %bytes = mul i64 %n, 8
  %handles = mul i64 %nested, %size
  %sum = call ptr @tape_new(ptr %head, i64 %bytes, i64 %handles)
  %bad = icmp eq ptr %sum, null
  br i1 %bad, label %failed, label %made
made:
  %sum_length = getelementptr %T, ptr %sum, i64 0, i32 1
  store i64 %length, ptr %sum_length
  store ptr %sum, ptr %out
  %xs = load ptr, ptr %x
  %ys = load ptr, ptr %y
  %zs = load ptr, ptr %sum
  %inner = icmp ne i64 %nested, 0
  %deeper = getelementptr i64, ptr %levels, i64 2
  call void @llvm.memset.p0.i64(ptr %zs, i8 0, i64 %bytes, i1 false)
  br label %test
test:
  %i = phi i64 [ 0, %made ], [ %j, %stored ]
  %goes = icmp slt i64 %i, %n
  br i1 %goes, label %each, label %good
each:
  br i1 %inner, label %tapes, label %numbers
tapes:
  %xt_at = getelementptr ptr, ptr %xs, i64 %i
  %yt_at = getelementptr ptr, ptr %ys, i64 %i
  %zt_at = getelementptr ptr, ptr %zs, i64 %i
  %xt = load ptr, ptr %xt_at
  %yt = load ptr, ptr %yt_at
  %went = call i1 @tape_add(ptr %head, ptr %xt, ptr %yt, ptr %deeper, i64 %single, ptr %zt_at)
  br i1 %went, label %stored, label %failed
numbers:
  %is_single = icmp ne i64 %single, 0
  br i1 %is_single, label %floats, label %doubles
floats:
  %xf_at = getelementptr float, ptr %xs, i64 %i
  %yf_at = getelementptr float, ptr %ys, i64 %i
  %zf_at = getelementptr float, ptr %zs, i64 %i
  %xf = load float, ptr %xf_at
  %yf = load float, ptr %yf_at
  %zf = fadd float %xf, %yf
  store float %zf, ptr %zf_at
  br label %stored
doubles:
  %xd_at = getelementptr double, ptr %xs, i64 %i
  %yd_at = getelementptr double, ptr %ys, i64 %i
  %zd_at = getelementptr double, ptr %zs, i64 %i
  %xd = load double, ptr %xd_at
  %yd = load double, ptr %yd_at
  %zd = fadd double %xd, %yd
  store double %zd, ptr %zd_at
  br label %stored
stored:
  %j = add i64 %i, 1
  br label %test
good:
  ret i1 true
failed:
  ret i1 false
}

; One tape of batches at %out, from an array of tapes of equal length with items of so many bytes.
define i1 @tape_join(ptr %head, ptr %tapes, i64 %lanes, i64 %bytes, i64 %nested, ptr %out) {
  br label %search
search:
  %s = phi i64 [ 0, %0 ], [ %s1, %next ]
  %left = icmp slt i64 %s, %lanes
  br i1 %left, label %look, label %zeros
look:
  %first_at = getelementptr ptr, ptr %tapes, i64 %s
  %first = load ptr, ptr %first_at
  %found = icmp ne ptr %first, null
  br i1 %found, label %begin, label %next
next:
  %s1 = add i64 %s, 1
  br label %search
zeros:
  store ptr null, ptr %out
  ret i1 true
begin:
  %length_at = getelementptr %T, ptr %first, i64 0, i32 1
  %length = load i64, ptr %length_at
  %row = mul i64 %lanes, %bytes
  %all = mul i64 %length, %row
  %made = call ptr @tape_new(ptr %head, i64 %all, i64 %nested)
  %bad = icmp eq ptr %made, null
  br i1 %bad, label %failed, label %fill
fill:
  %made_length = getelementptr %T, ptr %made, i64 0, i32 1
  store i64 %length, ptr %made_length
  store ptr %made, ptr %out
  %items = load ptr, ptr %made
  call void @llvm.memset.p0.i64(ptr %items, i8 0, i64 %all, i1 false)
  br label %lane
lane:
  %l = phi i64 [ 0, %fill ], [ %l1, %lane_done ]
  %more = icmp slt i64 %l, %lanes
  br i1 %more, label %one, label %good
one:
  %tape_at = getelementptr ptr, ptr %tapes, i64 %l
  %tape = load ptr, ptr %tape_at
  %none = icmp eq ptr %tape, null
  br i1 %none, label %lane_done, label %copy
copy:
  %from = load ptr, ptr %tape
  %shift = mul i64 %l, %bytes
  %to = getelementptr i8, ptr %items, i64 %shift
  br label %test
test:
  %i = phi i64 [ 0, %copy ], [ %j, %each ]
  %goes = icmp slt i64 %i, %length
  br i1 %goes, label %each, label %lane_done
each:
  %a = mul i64 %i, %bytes
  %b = mul i64 %i, %row
  %source = getelementptr i8, ptr %from, i64 %a
  %target = getelementptr i8, ptr %to, i64 %b
  call void @llvm.memcpy.p0.p0.i64(ptr %target, ptr %source, i64 %bytes, i1 false)
  %j = add i64 %i, 1
  br label %test
lane_done:
  %l1 = add i64 %l, 1
  br label %lane
good:
  ret i1 true
failed:
  ret i1 false
}

; An array of tapes at %out, from one tape of batches of so many lanes.
define i1 @tape_split(ptr %head, ptr %tape, i64 %lanes, i64 %bytes, i64 %nested, ptr %out) {
  %none = icmp eq ptr %tape, null
  br i1 %none, label %zeros, label %begin
zeros:
  %slots = mul i64 %lanes, 8
  call void @llvm.memset.p0.i64(ptr %out, i8 0, i64 %slots, i1 false)
  ret i1 true
begin:
  %length_at = getelementptr %T, ptr %tape, i64 0, i32 1
  %length = load i64, ptr %length_at
  %items = load ptr, ptr %tape
  %row = mul i64 %lanes, %bytes
  %all = mul i64 %length, %bytes
  br label %lane
lane:
  %l = phi i64 [ 0, %begin ], [ %l1, %test ]
  %more = icmp slt i64 %l, %lanes
  br i1 %more, label %one, label %good
one:
  %made = call ptr @tape_new(ptr %head, i64 %all, i64 %nested)
  %bad = icmp eq ptr %made, null
  br i1 %bad, label %failed, label %copy
copy:
  %made_length = getelementptr %T, ptr %made, i64 0, i32 1
  store i64 %length, ptr %made_length
  %slot = getelementptr ptr, ptr %out, i64 %l
  store ptr %made, ptr %slot
  %to = load ptr, ptr %made
  %shift = mul i64 %l, %bytes
  %from = getelementptr i8, ptr %items, i64 %shift
  %l1 = add i64 %l, 1
  br label %test
test:
  %i = phi i64 [ 0, %copy ], [ %j, %each ]
  %goes = icmp slt i64 %i, %length
  br i1 %goes, label %each, label %lane
each:
  %a = mul i64 %i, %row
  %b = mul i64 %i, %bytes
  %source = getelementptr i8, ptr %from, i64 %a
  %target = getelementptr i8, ptr %to, i64 %b
  call void @llvm.memcpy.p0.p0.i64(ptr %target, ptr %source, i64 %bytes, i1 false)
  %j = add i64 %i, 1
  br label %test
good:
  ret i1 true
failed:
  ret i1 false
}
"""


@functools.cache
def _library() -> Executable:
    from nufunc.codegen.backend import Optimise, library_module

    return library_module(_TAPE, "nufunc_tapes", Optimise(passes=("sroa", "instruction_combine", "simplify_cfg")))


def address(name: str) -> int:
    """The address of a function by its name among a plan's externs."""
    return _library().address(exported(name))


def exported(name: str) -> str:
    """The symbol of a function by its name among a plan's externs."""
    return f"tape_{name.removeprefix(PREFIX)}"


def plain_text() -> str:
    """The library over malloc, for where there is no Python; what makes capsules is dead code there."""
    plain = {"PyMem_RawMalloc": "malloc", "PyMem_RawRealloc": "realloc", "PyMem_RawFree": "free"}
    text = _TAPE
    for python, c in plain.items():
        text = text.replace(f"@{python}(", f"@{c}(")
    return text

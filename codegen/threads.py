"""Parallel regions of plans: how they are emitted, and `launch`, which runs them on Numba's threads.

Note [Parallel regions]
A region is a function `void body(ptr data, i64 task, i64 tasks)` of the plan's module and a number of tasks.
A plan calls `void launch(ptr body, ptr data, i64 tasks)`, whose address it finds in its pointer table; launch
returns when every task has run, each exactly once, in any order and on any thread.

- The number of tasks follows from the amount of work alone (`tasks_for`), never from the number of threads.
  So a reduction that keeps one partial result per task and combines them in order gives the same bits
  everywhere.
- Every thread begins with its own run of neighbouring tasks, the same ones in the next region of as many
  tasks, and so finds its part of the data in its own caches. Then it takes what others have not begun: a core
  that is busy with something else gets fewer tasks.
- Tasks hold no Python state and the GIL is free (`CallSpec.release_gil`): they may not call back into Python.
- Tasks run with a thread mask of one, so a region that is reached from a task runs in its thread, in order.

Note [When a region stays on its thread]
Numba's layers end the process when they are used in a way that they do not support: GNU OpenMP in a forked
child (SIGTERM, or a hang in a grandchild), the workqueue from two threads at once or nested (SIGABRT). Launch
runs all tasks in the calling thread where that thread's mask is one (`numba.set_num_threads`, a task), in a
process that was forked from the one that started the threads, and where other Python threads' regions have
all threads: all regions together use at most NUMBA_NUM_THREADS threads (OpenMP would make a team per Python
thread), and the workqueue has one region at a time. A forked child that finds threads started by others
before it (by Numba, or a GNU OpenMP that is loaded already) starts none.

Note [Masks without Numba]
Where the threads are our own, nothing of Numba is needed until somebody sets a mask, and importing it takes longer than
a process that finds its code on disk takes for all else. So the pool starts without it; a thread has no mask, and a
region all threads, until Numba has told LLVM, with which it is linked, where its functions are. Launch asks LLVM (60
ns), so that `numba.set_num_threads` is heeded from the next region on, whoever imports Numba, and when. Where LLVM is
not loaded either, launch is told where to ask as soon as somebody imports Numba.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nufunc.codegen import elf, thread_pool
from nufunc.codegen.backend import (
    SETTINGS_FILE,
    BackendError,
    Executable,
    Optimise,
    finder_address,
    library_module,
)

if TYPE_CHECKING:
    from llvmlite import ir

LAUNCH = "nufunc.launch"  # the name of launch among a plan's externs

# Cost model, in nanoseconds of one thread's work.
PARALLEL_WORK = 40_000  # from here a region is split
TASK_WORK = 10_000  # a task is worth at least this
# The same inside a loop of many steps, between whose regions the threads do not fall asleep.
REPEATED_PARALLEL_WORK = 8_000
REPEATED_TASK_WORK = 4_000
REPEATS = 16  # steps that make a loop such
MAX_TASKS = 64

CACHE_LINE = 64


def tasks_for(work: float, repeated: bool = False) -> int:
    """How many tasks a region of `work` nanoseconds (of one thread) is split into; 1: not worth a region."""
    least, task = (REPEATED_PARALLEL_WORK, REPEATED_TASK_WORK) if repeated else (PARALLEL_WORK, TASK_WORK)
    if work < least:
        return 1
    return min(MAX_TASKS, int(work // task))


# -- emission


def declare_body(module: ir.Module, symbol: str) -> ir.Function:
    """An empty `void symbol(ptr data, i64 task, i64 tasks)`, for the emitter to fill."""
    from llvmlite import ir

    pointer, word = ir.PointerType(), ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, word, word]), symbol)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    for argument, name in zip(function.args, ("data", "task", "tasks"), strict=True):
        argument.name = name
    return function


def emit_region(b: ir.IRBuilder, launch: ir.Value, body: ir.Function, data: ir.Value, tasks: int | ir.Value) -> None:
    """Run `body(data, task, tasks)` for every task; `launch` is what the plan's table holds for LAUNCH."""
    from llvmlite import ir

    pointer, word = ir.PointerType(), ir.IntType(64)
    count = word(tasks) if isinstance(tasks, int) else tasks
    type_ = ir.FunctionType(ir.VoidType(), [pointer, pointer, word])
    b.call(_Callee(launch, type_), [_Reference(body), data, count])


class _Callee:
    """A function pointer with its type, as llvmlite's call wants it (its own pointers know none)."""

    def __init__(self, pointer: ir.Value, type_: ir.FunctionType) -> None:
        self.pointer, self.function_type, self.type = pointer, type_, type_.as_pointer()

    def get_reference(self) -> str:
        return str(self.pointer.get_reference())


class _Reference:
    """A function as a plain pointer (llvmlite types functions' pointers)."""

    def __init__(self, function: ir.Function) -> None:
        from llvmlite import ir

        self.function, self.type = function, ir.PointerType()

    def get_reference(self) -> str:
        return str(self.function.get_reference())


def captures_size(values: Sequence[ir.Value]) -> int:
    """Bytes of the block that `pack` fills: a word per value."""
    return 8 * max(len(values), 1)


def pack(b: ir.IRBuilder, block: ir.Value, values: Sequence[ir.Value]) -> None:
    """Store what a body reads (pointers, words, doubles) in `block`, which lives until the region is done."""
    from llvmlite import ir

    for index, value in enumerate(values):
        b.store(value, b.gep(block, [ir.IntType(64)(index)], source_etype=ir.IntType(64)), align=8)


def unpack(b: ir.IRBuilder, block: ir.Value, types: Sequence[ir.Type]) -> list[ir.Value]:
    """What `pack` stored, in the body."""
    from llvmlite import ir

    word = ir.IntType(64)
    places = [b.gep(block, [word(index)], source_etype=word) for index in range(len(types))]
    return [b.load(place, typ=type_, align=8) for place, type_ in zip(places, types, strict=True)]


def chunk(b: ir.IRBuilder, task: ir.Value, tasks: ir.Value, extent: int, unit: int = 1) -> tuple[ir.Value, ir.Value]:
    """The part [start, stop) of `range(extent)` that a task has. Parts begin at multiples of `unit` and differ
    by one unit at most; a part is empty where there are more tasks than units."""
    from llvmlite import ir

    word = ir.IntType(64)
    units = word(-(-extent // unit))

    def bound(number: ir.Value) -> ir.Value:
        place = b.mul(b.udiv(b.mul(units, number), tasks), word(unit))
        return b.select(b.icmp_signed("<", place, word(extent)), place, word(extent))

    return bound(task), bound(b.add(task, word(1)))


NO_ERROR = -1  # what an error word holds before a region


def record_error(b: ir.IRBuilder, word: ir.Value, task: ir.Value, code: ir.Value) -> None:
    """In a body: note a task's error code (i32; 0: none) in the region's word, an i64 that held NO_ERROR. The
    lowest task that failed wins, so the error does not depend on the threads either."""
    from llvmlite import ir

    i64 = ir.IntType(64)
    place = b.or_(b.shl(task, i64(32)), b.zext(code, i64))
    good = b.icmp_signed("==", code, code.type(0))
    b.atomic_rmw("umin", word, b.select(good, i64(NO_ERROR), place), "monotonic")


def first_error(b: ir.IRBuilder, word: ir.Value) -> ir.Value:
    """Behind a region: the code (i32) of the first task that failed, 0 where none did."""
    from llvmlite import ir

    i32, i64 = ir.IntType(32), ir.IntType(64)
    held = b.load(word, typ=i64)
    return b.select(b.icmp_signed("==", held, i64(NO_ERROR)), i32(0), b.trunc(held, i32))


# -- launch

_TEXT = """
; body, data, tasks, team; behind it one counter per member, each in a cache line of its own
%context = type {{ ptr, ptr, i64, i64 }}

@parallel_for = internal global ptr null
@get_threads = internal global ptr null
@set_threads = internal global ptr null
@find = internal global ptr null
@getpid = internal global ptr null
@name.for = internal constant [19 x i8] c"numba_parallel_for\\00"
@name.get = internal constant [16 x i8] c"get_num_threads\\00"
@name.set = internal constant [16 x i8] c"set_num_threads\\00"
@pid = internal global i32 0
@exclusive = internal global i64 0
@limit = internal global i64 1
@free = internal global i64 1

define void @nufunc_threads_setup(ptr %for, ptr %get, ptr %set, ptr %find, ptr %getpid, i32 %pid,
                                  i64 %exclusive, i64 %limit) {{
  store ptr %for, ptr @parallel_for
  store ptr %get, ptr @get_threads
  store ptr %set, ptr @set_threads
  store ptr %find, ptr @find
  store ptr %getpid, ptr @getpid
  store i32 %pid, ptr @pid
  store i64 %exclusive, ptr @exclusive
  store i64 %limit, ptr @limit
  store i64 %limit, ptr @free
  ret void
}}

; LLVM has been loaded, and can be asked.
define void @nufunc_threads_find(ptr %find) {{
  store atomic ptr %find, ptr @find release, align 8
  ret void
}}

; See Note [Masks without Numba]. The calling thread's mask; 0: it has none.
define internal i32 @mask() {{
entry:
  %known = load atomic ptr, ptr @get_threads acquire, align 8
  %have = icmp ne ptr %known, null
  br i1 %have, label %ask, label %search
search:
  %find = load atomic ptr, ptr @find acquire, align 8
  %finds = icmp ne ptr %find, null
  br i1 %finds, label %look, label %none
look:
  %for = call ptr %find(ptr @name.for)
  %started = icmp ne ptr %for, null
  br i1 %started, label %adopt, label %none
adopt:
  %set = call ptr %find(ptr @name.set)
  %get = call ptr %find(ptr @name.get)
  %set.there = icmp ne ptr %set, null
  %get.there = icmp ne ptr %get, null
  %both = and i1 %set.there, %get.there
  br i1 %both, label %keep, label %none
keep:
  store atomic ptr %set, ptr @set_threads release, align 8
  store atomic ptr %get, ptr @get_threads release, align 8
  br label %ask
ask:
  %function = phi ptr [%known, %entry], [%get, %keep]
  %mask = call i32 %function()
  ret i32 %mask
none:
  ret i32 0
}}

; Set the mask of the calling thread where it was %mask, not 0.
define internal void @set_mask(i32 %mask, i32 %value) {{
entry:
  %has = icmp sgt i32 %mask, 0
  br i1 %has, label %change, label %done
change:
  %set = load atomic ptr, ptr @set_threads acquire, align 8
  call void %set(i32 %value)
  br label %done
done:
  ret void
}}

; The threads that a region started from here could have: 1 means that it stays on its thread.
define i64 @nufunc_threads_mask() {{
entry:
  %limit = load i64, ptr @limit
  %some = icmp sgt i64 %limit, 1
  br i1 %some, label %process, label %one
process:
  %getpid = load ptr, ptr @getpid
  %forks = icmp ne ptr %getpid, null
  br i1 %forks, label %compare, label %mask
compare:
  %pid = call i32 %getpid()
  %home = load i32, ptr @pid
  %same = icmp eq i32 %pid, %home
  br i1 %same, label %mask, label %one
mask:
  %n32 = call i32 @mask()
  %get = load ptr, ptr @get_threads
  %masks = icmp ne ptr %get, null
  %n = sext i32 %n32 to i64
  %positive = icmp sgt i64 %n, 1
  %several = select i1 %positive, i64 %n, i64 1
  %masked = select i1 %masks, i64 %several, i64 %limit
  ret i64 %masked
one:
  ret i64 1
}}

; Take up to %want threads; 0 where there are not two.
define internal i64 @acquire(i64 %want) {{
entry:
  %exclusive = load i64, ptr @exclusive
  %alone = icmp ne i64 %exclusive, 0
  %limit = load i64, ptr @limit
  %first = load atomic i64, ptr @free monotonic, align 8
  br label %try
try:
  %free = phi i64 [%first, %entry], [%seen, %take]
  %fewer = icmp slt i64 %free, %want
  %team = select i1 %fewer, i64 %free, i64 %want
  %whole = icmp eq i64 %free, %limit
  %barred = xor i1 %whole, true
  %shut = and i1 %alone, %barred
  %small = icmp slt i64 %team, 2
  %no = or i1 %shut, %small
  br i1 %no, label %none, label %take
take:
  %cost = select i1 %alone, i64 %limit, i64 %team
  %left = sub i64 %free, %cost
  %pair = cmpxchg ptr @free, i64 %free, i64 %left acquire monotonic, align 8
  %seen = extractvalue {{ i64, i1 }} %pair, 0
  %done = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %done, label %got, label %try
got:
  ret i64 %team
none:
  ret i64 0
}}

define internal void @release(i64 %team) {{
  %exclusive = load i64, ptr @exclusive
  %alone = icmp ne i64 %exclusive, 0
  %limit = load i64, ptr @limit
  %cost = select i1 %alone, i64 %limit, i64 %team
  %old = atomicrmw add ptr @free, i64 %cost release, align 8
  ret void
}}

; The counter of a member, in a cache line of its own.
define internal ptr @counter(ptr %context, i64 %member) {{
  %line = add i64 %member, 1
  %at = mul i64 %line, {line}
  %place = getelementptr i8, ptr %context, i64 %at
  ret ptr %place
}}

; What the threading layer calls on each thread: args[0] is the context moved by the member's number.
define internal void @member(ptr %args, ptr %dims, ptr %steps, ptr %context) {{
entry:
  %moved = load ptr, ptr %args
  %high = ptrtoint ptr %moved to i64
  %low = ptrtoint ptr %context to i64
  %me = sub i64 %high, %low
  %body = load ptr, ptr %context
  %data.at = getelementptr %context, ptr %context, i64 0, i32 1
  %data = load ptr, ptr %data.at
  %tasks.at = getelementptr %context, ptr %context, i64 0, i32 2
  %tasks = load i64, ptr %tasks.at
  %team.at = getelementptr %context, ptr %context, i64 0, i32 3
  %team = load i64, ptr %team.at
  %mask = call i32 @mask()
  call void @set_mask(i32 %mask, i32 1)
  br label %visit
visit:
  %k = phi i64 [0, %entry], [%next, %visited]
  %turn = add i64 %me, %k
  %whose = urem i64 %turn, %team
  %counter = call ptr @counter(ptr %context, i64 %whose)
  %upper = add i64 %whose, 1
  %ends = mul i64 %tasks, %upper
  %end = udiv i64 %ends, %team
  br label %claim
claim:
  %task = atomicrmw add ptr %counter, i64 1 monotonic, align 8
  %mine = icmp slt i64 %task, %end
  br i1 %mine, label %run, label %visited
run:
  call void %body(ptr %data, i64 %task, i64 %tasks)
  br label %claim
visited:
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %team
  br i1 %more, label %visit, label %leave
leave:
  call void @set_mask(i32 %mask, i32 %mask)
  ret void
}}

define internal void @in_order(ptr %body, ptr %data, i64 %tasks) {{
entry:
  %some = icmp sgt i64 %tasks, 0
  br i1 %some, label %loop, label %done
loop:
  %task = phi i64 [0, %entry], [%next, %loop]
  call void %body(ptr %data, i64 %task, i64 %tasks)
  %next = add i64 %task, 1
  %more = icmp slt i64 %next, %tasks
  br i1 %more, label %loop, label %done
done:
  ret void
}}

define internal void @together(ptr %body, ptr %data, i64 %tasks, i64 %team) {{
entry:
  %lines = add i64 %team, 1
  %bytes = mul i64 %lines, {line}
  %context = alloca i8, i64 %bytes, align {line}
  %args = alloca ptr
  %dims = alloca i64
  %steps = alloca i64
  store ptr %body, ptr %context
  %data.at = getelementptr %context, ptr %context, i64 0, i32 1
  store ptr %data, ptr %data.at
  %tasks.at = getelementptr %context, ptr %context, i64 0, i32 2
  store i64 %tasks, ptr %tasks.at
  %team.at = getelementptr %context, ptr %context, i64 0, i32 3
  store i64 %team, ptr %team.at
  br label %fill
fill:
  %k = phi i64 [0, %entry], [%next, %fill]
  %counter = call ptr @counter(ptr %context, i64 %k)
  %product = mul i64 %tasks, %k
  %begin = udiv i64 %product, %team
  store i64 %begin, ptr %counter
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %team
  br i1 %more, label %fill, label %start
start:
  store ptr %context, ptr %args
  store i64 %team, ptr %dims
  store i64 1, ptr %steps
  %for = load ptr, ptr @parallel_for
  %mask = call i32 @mask()
  call void %for(ptr @member, ptr %args, ptr %dims, ptr %steps, ptr %context, i64 0, i64 1, i64 %team)
  call void @set_mask(i32 %mask, i32 %mask)          ; the layers leave the team's size in the caller's mask
  ret void
}}

define void @nufunc_launch(ptr %body, ptr %data, i64 %tasks) {{
entry:
  %several = icmp sgt i64 %tasks, 1
  br i1 %several, label %mask, label %alone
mask:
  %n = call i64 @nufunc_threads_mask()
  %fewer = icmp slt i64 %tasks, %n
  %want = select i1 %fewer, i64 %tasks, i64 %n
  %team = call i64 @acquire(i64 %want)
  %any = icmp sgt i64 %team, 1
  br i1 %any, label %share, label %alone
share:
  call void @together(ptr %body, ptr %data, i64 %tasks, i64 %team)
  call void @release(i64 %team)
  ret void
alone:
  call void @in_order(ptr %body, ptr %data, i64 %tasks)
  ret void
}}
"""


@dataclass(frozen=True)
class Threads:
    """The threads of the process `home`: the layer's name ("" where there is one thread), and launch."""

    layer: str
    limit: int
    executable: Executable
    home: int
    pool: Executable | None = None

    @functools.cached_property
    def launch(self) -> int:
        return self.executable.address("nufunc_launch")

    @functools.cached_property
    def mask(self) -> Any:
        """How many threads a region that starts in the calling thread may have: 1 in a forked child."""
        return ctypes.CFUNCTYPE(ctypes.c_int64)(self.executable.address("nufunc_threads_mask"))


def _inherited() -> bool:
    """Whether this is a forked child in which somebody's threads, lost in the fork, still seem to exist."""
    children = sys.modules.get("multiprocessing.process")  # imported in every child that it made
    if os.getpid() == _IMPORTED_IN and (children is None or children.parent_process() is None):
        return False
    if "numba" in sys.modules:
        import numba

        try:
            numba.threading_layer()
        except ValueError:  # not started
            pass
        else:
            return True
    try:
        ctypes.CDLL("libgomp.so.1", mode=getattr(os, "RTLD_NOLOAD", 0))
    except OSError:  # not loaded
        return False
    return hasattr(os, "RTLD_NOLOAD")


def _layer_functions(numba: Any) -> list[int]:
    """Start Numba's threading layer; its functions' addresses, which Numba gives to LLVM by these names."""
    import llvmlite.binding as ll

    try:
        numba.get_num_threads()
    except ValueError as error:
        raise BackendError(f"numba's threading layer did not start: {error}") from error
    names = ("numba_parallel_for", "get_num_threads", "set_num_threads")
    found = {name: ll.address_of_symbol(name) for name in names}
    missing = [name for name, address in found.items() if not address]
    if missing:
        raise BackendError(f"numba {numba.__version__}: its threading layer has no {', '.join(missing)}")
    return list(found.values())


def most_threads() -> int:
    """NUMBA_NUM_THREADS: the number of threads that a process has at most."""
    text = os.environ.get("NUMBA_NUM_THREADS")
    if "numba" not in sys.modules and (text is None or text.isdecimal()) and hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)) if text is None else int(text))  # as Numba would say
    import numba

    config: Any = numba.config
    return int(config.NUMBA_NUM_THREADS)


_LAYER_SETTINGS = ("NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY", "NUMBA_THREADING_LAYER_CONFIG")


def _needs_numba() -> bool:
    """Whether Numba decides on the layer: it is imported already, it was asked for one, or there is TBB."""
    known = "llvmlite.binding" not in sys.modules or finder_address()
    if not known or "numba" in sys.modules or os.name != "posix" or _choice() == "numba":
        return True
    if any(name in os.environ for name in _LAYER_SETTINGS) or os.path.exists(SETTINGS_FILE):
        return True
    try:
        ctypes.CDLL("libtbb.so.12" if sys.platform != "darwin" else "libtbb.12.dylib")
    except OSError:
        return False
    return _choice() != "pool"


class _Watch:
    """Finds no module, but notices that Numba is imported, and tells launch whom to ask for its functions."""

    def __init__(self, executable: Executable) -> None:
        self._tell = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(executable.address("nufunc_threads_find"))

    def find_spec(self, fullname: str, path: object, target: object = None, /) -> None:
        if fullname == "numba.np.ufunc.parallel":  # which has the functions, and which every import of Numba imports
            with contextlib.suppress(ValueError):  # another thread was here
                sys.meta_path.remove(self)
            self._tell(finder_address())


def _start() -> Threads:
    passes = ("always_inliner", "sroa", "instruction_combine", "simplify_cfg")
    executable = library_module(_TEXT.format(line=CACHE_LINE), "nufunc.threads", Optimise(passes=passes))
    limit = most_threads()
    if limit < 2 or _inherited():
        return Threads("", 1, executable, os.getpid())
    layer, pool = "", None
    parallel_for, get_mask, set_mask = 0, 0, 0
    if _needs_numba():
        import numba

        parallel_for, get_mask, set_mask = _layer_functions(numba)
        layer = str(numba.threading_layer())
    if not layer or _own_pool(layer, numba):
        pool, parallel_for, started = thread_pool.start(limit - 1)
        layer, limit = "pool", started + 1
    find = finder_address() if "llvmlite.binding" in sys.modules else 0
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    setup = ctypes.CFUNCTYPE(None, *[pointer] * 5, ctypes.c_int32, word, word)
    setup(executable.address("nufunc_threads_setup"))(
        parallel_for,
        get_mask,
        set_mask,
        find,
        elf.process_address("getpid"),  # 0 on Windows, which has no fork
        os.getpid(),
        layer in ("workqueue", "pool"),
        limit,
    )
    if not find:
        sys.meta_path.insert(0, _Watch(executable))
    return Threads(layer, limit, executable, os.getpid(), pool)


def _choice() -> str:
    choice = os.environ.get("NUFUNC_THREADING_LAYER", "auto")
    if choice not in ("auto", "numba", "pool"):
        raise BackendError(f"NUFUNC_THREADING_LAYER is 'auto', 'numba' or 'pool', not {choice!r}")
    return choice


def _own_pool(layer: str, numba: Any) -> bool:
    """Whether our own threads run the tasks instead of Numba's layer, which has started as `layer`.

    By itself where Numba would take omp or workqueue and the user asked for neither: after a pause omp keeps a core
    busy for milliseconds and then takes as long to wake, and workqueue must not be entered twice.
    """
    choice = _choice()
    asked = str(numba.config.THREADING_LAYER) != "default"
    return choice == "pool" or (choice == "auto" and layer != "tbb" and not asked and os.name == "posix")


def threads() -> Threads:
    """Start the threads, once in a process: at the first load of a plan that has a parallel region.

    Which layer: that of NUMBA_THREADING_LAYER, else tbb where it is installed, else the threads of
    `nufunc.codegen.thread_pool`; NUFUNC_THREADING_LAYER=numba or pool decides it. With NUMBA_NUM_THREADS=1 none is
    started.
    """
    global _threads
    if _threads is None:
        with _starting:
            if _threads is None:
                _threads = _start()
    return _threads


_IMPORTED_IN = os.getpid()
_starting = threading.Lock()
_threads: Threads | None = None


def launch_address() -> int:
    """The address that stands in a plan's table for LAUNCH; starts the threads at the first call."""
    return threads().launch

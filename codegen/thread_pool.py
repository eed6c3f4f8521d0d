"""A pool of threads of our own, in the place of a Numba layer's `parallel_for`.

Note [Why a pool]
OpenMP ends a region with a barrier that every thread of the team must reach, also one that the system has not
yet given a core: on a machine shared with other work a region of 50 us took 0.4 to 3 ms in the mean, and 8 ms and
more in one of ten. Its idle threads spin for some 5 ms of a core after each region. Numba's workqueue sleeps and
wakes twice per region (60 to 130 us) and ends the process when two threads enter it. Here the caller takes part
from the first moment and waits at the end only for threads that have begun a task: a region is never much slower
than its work on one thread. Threads spin for some 10 us after a region, then sleep: longer spinning takes the core
from the caller where others have the rest (2000 pauses: 60 us in one region of ten).

One region at a time; who comes meanwhile runs alone (`exclusive` in `nufunc.codegen.threads`). The protocol: under
the mutex the caller publishes (job, wanted), counts the generation up and wakes sleepers; a thread joins while
the job is open and fewer than `wanted` have started; the caller closes the job and waits until as many have
finished as had started. Nobody touches the job's memory after counting itself as finished.
"""

from __future__ import annotations

import ctypes

from nufunc.codegen.backend import BackendError, Executable, Optimise, library_module, target

SPIN = 300  # pauses (some 20 to 40 ns each) before a thread sleeps

_PAUSE = {"x86": "llvm.x86.sse2.pause()", "aarch64": "llvm.aarch64.hint(i32 1)", "": "llvm.donothing()"}

_TEXT = """
@mutex = internal global [128 x i8] zeroinitializer, align 64
@work = internal global [128 x i8] zeroinitializer, align 64
@done = internal global [128 x i8] zeroinitializer, align 64
@job = internal global ptr null, align 64
@function = internal global ptr null
@wanted = internal global i64 0
@started = internal global i64 0
@sleepers = internal global i64 0
@finished = internal global i64 0, align 64
@generation = internal global i64 0, align 64

declare void @{pause_declaration}
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_signal(ptr)
declare i32 @pthread_cond_broadcast(ptr)

; Start %count > 0 threads; how many could be started.
define i64 @nufunc_pool_start(i64 %count) {{
entry:
  %id = alloca i64
  call i32 @pthread_mutex_init(ptr @mutex, ptr null)
  call i32 @pthread_cond_init(ptr @work, ptr null)
  call i32 @pthread_cond_init(ptr @done, ptr null)
  br label %loop
loop:
  %k = phi i64 [0, %entry], [%next, %made]
  %error = call i32 @pthread_create(ptr %id, ptr null, ptr @worker, ptr null)
  %good = icmp eq i32 %error, 0
  br i1 %good, label %made, label %refused
made:
  %thread = load i64, ptr %id
  call i32 @pthread_detach(i64 %thread)
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %all
refused:
  ret i64 %k
all:
  ret i64 %count
}}

define internal ptr @worker(ptr %none) {{
entry:
  %slot = alloca ptr
  call i32 @pthread_mutex_lock(ptr @mutex)
  br label %look
look:                                    ; the mutex is held
  %job = load ptr, ptr @job
  %open = icmp ne ptr %job, null
  %started = load i64, ptr @started
  %wanted = load i64, ptr @wanted
  %room = icmp slt i64 %started, %wanted
  %join.it = and i1 %open, %room
  br i1 %join.it, label %join, label %idle
join:
  %me = add i64 %started, 1
  store i64 %me, ptr @started
  %function = load ptr, ptr @function
  call i32 @pthread_mutex_unlock(ptr @mutex)
  %moved = getelementptr i8, ptr %job, i64 %me
  store ptr %moved, ptr %slot
  call void %function(ptr %slot, ptr null, ptr null, ptr %job)
  call i32 @pthread_mutex_lock(ptr @mutex)
  %finished = load i64, ptr @finished
  %finished.now = add i64 %finished, 1
  store atomic i64 %finished.now, ptr @finished release, align 8
  %job.now = load ptr, ptr @job
  %closed = icmp eq ptr %job.now, null
  br i1 %closed, label %tell, label %look
tell:
  call i32 @pthread_cond_signal(ptr @done)
  br label %look
idle:
  %old = load i64, ptr @generation
  call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %spin
spin:
  %n = phi i64 [0, %idle], [%n.next, %again]
  %n.next = add i64 %n, 1
  %seen = load atomic i64, ptr @generation monotonic, align 8
  %new = icmp ne i64 %seen, %old
  %long = icmp sge i64 %n, {spin}
  %leave = or i1 %new, %long
  br i1 %leave, label %spun, label %again
again:
  call void @{pause}
  br label %spin
spun:
  call i32 @pthread_mutex_lock(ptr @mutex)
  %now = load i64, ptr @generation
  %same = icmp eq i64 %now, %old
  br i1 %same, label %sleep, label %look
sleep:
  %sleepers = load i64, ptr @sleepers
  %sleepers.more = add i64 %sleepers, 1
  store i64 %sleepers.more, ptr @sleepers
  call i32 @pthread_cond_wait(ptr @work, ptr @mutex)
  %sleepers.now = load i64, ptr @sleepers
  %sleepers.less = sub i64 %sleepers.now, 1
  store i64 %sleepers.less, ptr @sleepers
  br label %look
}}

; As a layer's parallel_for: args[0] is the context moved by the member's number; the caller is number 0.
define void @nufunc_pool_for(ptr %function, ptr %args, ptr %dims, ptr %steps, ptr %context,
                             i64 %inner, i64 %arrays, i64 %team) {{
entry:
  %others = sub i64 %team, 1
  call i32 @pthread_mutex_lock(ptr @mutex)
  store ptr %context, ptr @job
  store ptr %function, ptr @function
  store i64 %others, ptr @wanted
  store i64 0, ptr @started
  store i64 0, ptr @finished
  %generation = load i64, ptr @generation
  %generation.now = add i64 %generation, 1
  store atomic i64 %generation.now, ptr @generation monotonic, align 8
  %sleepers = load i64, ptr @sleepers
  call i32 @pthread_mutex_unlock(ptr @mutex)
  %asleep = icmp sgt i64 %sleepers, 0
  br i1 %asleep, label %wake, label %run
wake:
  %several = icmp sgt i64 %others, 1
  br i1 %several, label %wake.all, label %wake.one
wake.all:
  call i32 @pthread_cond_broadcast(ptr @work)
  br label %run
wake.one:
  call i32 @pthread_cond_signal(ptr @work)
  br label %run
run:
  call void %function(ptr %args, ptr %dims, ptr %steps, ptr %context)
  call i32 @pthread_mutex_lock(ptr @mutex)
  store ptr null, ptr @job
  %started = load i64, ptr @started
  call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %spin
spin:
  %n = phi i64 [0, %run], [%n.next, %again]
  %n.next = add i64 %n, 1
  %finished = load atomic i64, ptr @finished acquire, align 8
  %all = icmp sge i64 %finished, %started
  br i1 %all, label %out, label %not.yet
not.yet:
  %long = icmp sge i64 %n, {spin}
  br i1 %long, label %block, label %again
again:
  call void @{pause}
  br label %spin
block:
  call i32 @pthread_mutex_lock(ptr @mutex)
  br label %check
check:
  %finished.now = load i64, ptr @finished
  %all.now = icmp sge i64 %finished.now, %started
  br i1 %all.now, label %leave, label %wait
wait:
  call i32 @pthread_cond_wait(ptr @done, ptr @mutex)
  br label %check
leave:
  call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %out
out:
  ret void
}}
"""


def start(count: int) -> tuple[Executable, int, int]:
    """Start `count` threads beside the callers'; the code (it must outlive them: the process), the address of
    the pool's `parallel_for`, and how many threads could be started.

    Raises BackendError where the system has no POSIX threads.
    """
    machine = target().triple.split("-")[0]
    family = "x86" if machine in ("x86_64", "i686") else "aarch64" if machine in ("aarch64", "arm64") else ""
    pause = _PAUSE[family]
    text = _TEXT.format(pause=pause, pause_declaration=pause.replace("i32 1", "i32"), spin=SPIN)
    passes = ("always_inliner", "sroa", "instruction_combine", "simplify_cfg")
    executable = library_module(text, "nufunc.pool", Optimise(passes=passes))
    begin = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(executable.address("nufunc_pool_start"))
    started = int(begin(count))
    if started == 0:
        raise BackendError("the system refuses to start threads")
    return executable, executable.address("nufunc_pool_for"), started

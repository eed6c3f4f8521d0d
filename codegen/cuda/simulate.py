"""A simulator of CUDA kernels: the text of a kernel runs on NumPy arrays, in lockstep, with checks of memory.

Note [The simulator]
Blocks run one after the other, the threads of a block in turn from barrier to barrier (Note [Simulated text]). All of
these are errors that name the kernel and its line: an index outside a buffer, a write to a buffer that the kernel only
reads, a barrier that not all threads of a block come to, an operation of a warp that not all of its lanes do. Shared
and local memory is poisoned when it is made. On request blocks and threads run in another order, and `races` reports
two threads that touch one element between two barriers, one of them writing something else than what is there: the
error word alone is exempt. A block has its own count of barriers, and blocks have no order.

Kernels that need no barriers and stride over the grid run with few threads, and all that stride over blocks with few
blocks: the points are the same.
"""

from __future__ import annotations

import functools
import linecache
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nufunc.codegen.cuda.instrument import OF_BLOCKS, Text, poisoned, rewritten
from nufunc.codegen.cuda.kernels import Kernel, kernels
from nufunc.codegen.emit_text import Arrays, group_arrays, group_nests, raise_site
from nufunc.codegen.nest_builder import Sites
from nufunc.ir.errors import NufuncError
from nufunc.ir.graph import Node

_WARP = 32
_FEW_BLOCKS, _FEW_THREADS = 3, 4
_MISTAKES = (
    IndexError, ValueError, TypeError, NameError, ZeroDivisionError, OverflowError, AttributeError, RuntimeWarning,
)  # fmt: skip


class SimulationError(NufuncError, AssertionError):
    """A kernel that breaks a rule of CUDA: always a defect of nufunc."""


def simulate(
    kernel: Kernel, arrays: Arrays, blocks: int | None = None, threads: int | None = None, *, checked: bool = True,
    order: int | None = None, races: bool = False,
) -> None:  # fmt: skip
    """Run a kernel on flat arrays, one for each buffer and last the i32 error word; see Note [The simulator].

    `blocks` and `threads` replace the kernel's; `order` is the seed of an order of blocks and threads.
    """
    text = rewritten(kernel.source, kernel.name, checked)
    few = text.strides and not (text.barriers or text.warps)
    if threads is None:
        threads = min(kernel.threads, _FEW_THREADS) if few else kernel.threads
    if blocks is None:
        blocks = min(kernel.blocks, _FEW_BLOCKS) if text.spans else kernel.blocks
    given = _arguments(kernel, arrays, checked)
    watch = _Watch(kernel, text) if races else None
    if watch is not None:
        given = [*(watch.array(a, b.name) for a, b in zip(given, kernel.buffers)), given[-1]]
    random = np.random.default_rng(order)
    natural = range(blocks) if order is None else random.permutation(blocks).tolist()
    with np.errstate(all="ignore"):
        for block in natural:
            turns = range(threads) if order is None else random.permutation(threads).tolist()
            run = _Block(kernel, text, watch, block, threads, blocks, turns)
            try:
                run.run(given)
            except _MISTAKES as mistake:
                raise _located(kernel, text, mistake, block) from mistake


def _arguments(kernel: Kernel, arrays: Arrays, checked: bool) -> list[Any]:
    if len(arrays) != len(kernel.buffers) + 1:
        raise SimulationError(f"{kernel.name} has {len(kernel.buffers)} buffers and an error word: {len(arrays)}")
    given: list[Any] = []
    for array, buffer in zip(arrays, kernel.buffers):
        if array.ndim != 1 or array.dtype != buffer.dtype or array.size < buffer.size:
            raise SimulationError(
                f"{kernel.name}: {buffer.name} is {buffer.dtype}[{buffer.size}], not {array.dtype}{list(array.shape)}"
            )
        view = array[: buffer.size]
        if checked and not buffer.written:
            view.flags.writeable = False
        given.append(view)
    return [*given, arrays[-1]]


def _located(kernel: Kernel, text: Text, mistake: Exception, block: int) -> SimulationError:
    """An error in a thread, with its line of the kernel's text."""
    for frame, line in reversed(list(traceback.walk_tb(mistake.__traceback__))):
        if frame.f_code.co_filename == text.file:
            return _error(kernel, text, line, f"{mistake} (block {block}, thread {frame.f_locals.get('_thread')})")
    return SimulationError(f"{kernel.name}: {mistake}")


def _error(kernel: Kernel, text: Text, line: int, message: str) -> SimulationError:
    shown = linecache.getline(text.file, line).strip()
    return SimulationError(f"kernel {kernel.name}, line {line}, `{shown}`: {message}")


class _Block:
    """The threads of one block."""

    def __init__(
        self, kernel: Kernel, text: Text, watch: _Watch | None, block: int, threads: int, blocks: int,
        turns: Sequence[int],
    ) -> None:  # fmt: skip
        self.kernel, self.text, self.watch, self.block = kernel, text, watch, block
        self.threads, self.blocks, self.turns = threads, blocks, turns

    def run(self, given: list[Any]) -> None:
        shared: list[Any] = [poisoned(shape, dtype) for shape, dtype in self.text.shared]
        if self.watch is not None:
            self.watch.begin(self.block)
            shared = [self.watch.array(a, f"shared array {k}") for k, a in enumerate(shared)]
        size, first = self.threads * self.blocks, self.block * self.threads

        def thread(t: int) -> Any:
            return self.text.function(*given, t, self.block, self.threads, self.blocks, first + t, size, shared)

        if self.text.warps:
            self.warps([thread(t) for t in range(self.threads)])
        elif self.text.barriers:
            self.barriers([thread(t) for t in range(self.threads)])
        else:
            for t in self.turns:
                if self.watch is not None:
                    self.watch.thread = t
                thread(t)

    def barriers(self, running: list[Iterator[Any]]) -> None:
        """From barrier to barrier; no operations of warps."""
        plain, watch = isinstance(self.turns, range) and self.watch is None, self.watch
        tokens: list[Any] = [None] * len(running)
        while True:
            if plain:
                tokens = [next(r, None) for r in running]
            else:
                for t in self.turns:
                    if watch is not None:
                        watch.thread = t
                    tokens[t] = next(running[t], None)
            if tokens.count(tokens[0]) != len(tokens):
                self.divergent(tokens)
            if tokens[0] is None:
                return
            if watch is not None:
                watch.interval += 1

    def warps(self, running: list[Any]) -> None:
        """With operations of warps: a warp runs from barrier to barrier, its lanes in turn."""
        answers: list[Any] = [None] * len(running)
        starts = sorted({t // _WARP * _WARP for t in range(len(running))}, key=list(self.turns).index)
        while True:
            tokens: list[Any] = [None] * len(running)
            for start in starts:
                self.warp(running, range(start, min(start + _WARP, len(running))), tokens, answers)
            places = [token[:2] if isinstance(token, tuple) else token for token in tokens]
            if places.count(places[0]) != len(places):
                self.divergent(tokens)
            if tokens[0] is None:
                return
            answers = [None] * len(running)
            if isinstance(tokens[0], tuple):
                true = sum(bool(token[2]) for token in tokens)
                among = {"count": true, "and": true == len(tokens), "or": true > 0}
                answers = [np.int32(among[tokens[0][1].removeprefix("syncthreads_")])] * len(running)
            if self.watch is not None:
                self.watch.interval += 1

    def warp(self, running: list[Any], lanes: range, tokens: list[Any], answers: list[Any]) -> None:
        """Run a warp to a barrier of its block, or to its end."""
        turns = [t for t in self.turns if t in lanes]
        while True:
            for t in turns:
                if self.watch is not None:
                    self.watch.thread = t
                try:
                    tokens[t] = running[t].send(answers[t])
                except StopIteration:
                    tokens[t] = None
            there = [tokens[t] for t in lanes]
            if not isinstance(there[0], tuple) or there[0][1] in OF_BLOCKS:
                return  # whether all threads are there is looked at by the block
            if not all(isinstance(token, tuple) and token[:2] == there[0][:2] for token in there):
                self.divergent(tokens, lanes)
            line, name, *_ = there[0]
            found = _OF_WARPS[name]([token[2:] for token in there], functools.partial(self.refuse, line))
            for t, answer in zip(lanes, found, strict=True):
                answers[t] = answer
            if self.watch is not None and name == "syncwarp":
                self.watch.meet(lanes)

    def refuse(self, line: int, message: str) -> None:
        raise _error(self.kernel, self.text, line, f"{message} (block {self.block})")

    def divergent(self, tokens: Sequence[Any], lanes: range | None = None) -> None:
        """Threads that wait at different places."""
        where: dict[int | None, list[int]] = {}
        for t in range(self.threads) if lanes is None else lanes:
            token = tokens[t]
            where.setdefault(token[0] if isinstance(token, tuple) else token, []).append(t)
        (line, some), *rest = sorted(where.items(), key=lambda item: item[0] is None)
        others = ", ".join(
            f"threads {_listed(ts)} {'have ended' if at is None else f'are at line {at}'}" for at, ts in rest
        )
        self.refuse(line or 0, f"threads {_listed(some)} wait here, {others}")


def _listed(threads: Sequence[int]) -> str:
    return ", ".join(map(str, threads[:4])) + (", ..." if len(threads) > 4 else "")


# -- operations of a warp: what each lane gives to what each lane gets

_Refuse = Callable[[str], None]


def _masked(given: Sequence[Any], refuse: _Refuse) -> None:
    full = 2 ** len(given) - 1
    for args in given:
        if int(args[0]) % 2**_WARP & full != full:
            refuse(f"the mask {int(args[0]):#x} leaves out lanes that are here")


def _shuffle(source: Callable[[int, int], int]) -> Callable[[Sequence[Any], _Refuse], list[Any]]:
    """`source(lane, amount)` is the lane to read; beyond the warp a lane keeps its own value."""

    def operation(given: Sequence[Any], refuse: _Refuse) -> list[Any]:
        _masked(given, refuse)
        found = []
        for lane, (_, value, amount) in enumerate(given):
            other = source(lane, int(amount))
            found.append(given[other][1] if 0 <= other < len(given) else value)
        return found

    return operation


def _vote(among: Callable[[list[bool]], Any]) -> Callable[[Sequence[Any], _Refuse], list[Any]]:
    def operation(given: Sequence[Any], refuse: _Refuse) -> list[Any]:
        _masked(given, refuse)
        return [among([bool(args[1]) for args in given])] * len(given)

    return operation


def _matching(given: Sequence[Any], refuse: _Refuse) -> list[Any]:
    _masked(given, refuse)
    return [np.int32(np.uint32(sum(1 << k for k, o in enumerate(given) if o[1] == own[1]))) for own in given]


def _wait(given: Sequence[Any], refuse: _Refuse) -> list[Any]:
    _masked([args or (-1,) for args in given], refuse)
    return [None] * len(given)


_OF_WARPS: dict[str, Callable[[Sequence[Any], _Refuse], list[Any]]] = {
    "shfl_sync": _shuffle(lambda lane, amount: amount % _WARP),
    "shfl_up_sync": _shuffle(lambda lane, amount: lane - amount),
    "shfl_down_sync": _shuffle(lambda lane, amount: lane + amount),
    "shfl_xor_sync": _shuffle(lambda lane, amount: lane ^ amount),
    "all_sync": _vote(all),
    "any_sync": _vote(any),
    "eq_sync": _vote(lambda votes: all(votes) or not any(votes)),
    "ballot_sync": _vote(lambda votes: np.uint32(sum(1 << k for k, v in enumerate(votes) if v))),
    "match_any_sync": _matching,
    "syncwarp": _wait,
}


# -- races


class _Watch:
    """Who touched what when. `thread` and `interval` are now; a warp that waits for itself counts apart."""

    def __init__(self, kernel: Kernel, text: Text) -> None:
        self.kernel, self.text = kernel, text
        self.block = self.thread = self.interval = 0
        self.met: dict[int, int] = {}

    def begin(self, block: int) -> None:
        self.block, self.interval, self.met = block, 0, {}

    def meet(self, lanes: range) -> None:
        warp = lanes.start // _WARP
        self.met[warp] = self.met.get(warp, 0) + 1

    def array(self, array: np.ndarray, name: str) -> _Watched:
        return _Watched(self, array, name)

    def touch(self, watched: _Watched, index: Any, writes: bool, checked: bool = True) -> None:
        """Compare an access with those before it, if it is not a write of what is there: this counts as read."""
        own = (self.thread, self.met.get(self.thread // _WARP, 0))
        seen = watched.seen.get(index)
        if seen is None:
            seen = watched.seen[index] = _Seen(self.block, self.interval)
        elif (seen.block, seen.interval) != (self.block, self.interval):
            seen.forget(self.block, self.interval)
        against = (True, False) if writes else (True,)
        for wrote in against if checked else ():
            for thread, met in seen.here[wrote]:
                same_warp = thread // _WARP == own[0] // _WARP
                if thread != own[0] and not (same_warp and met != own[1]):
                    self.refuse(watched, index, writes, thread, self.block, wrote)
            for block, thread in seen.elsewhere[wrote].items():
                if block != self.block:
                    self.refuse(watched, index, writes, thread, block, wrote)
        seen.here[writes].add(own)

    def refuse(self, watched: _Watched, index: Any, writes: bool, thread: int, block: int, wrote: bool) -> None:
        did = {True: "writes", False: "reads"}
        place = f"{watched.name}[{index}]"
        raise ValueError(
            f"a race: thread {self.thread} of block {self.block} {did[writes]} {place}, thread {thread} of block "
            f"{block} {did[wrote]} it too, with no barrier between them"
        )


class _Seen:
    """Who touched one element, writing (True) or reading: threads, with how often their warps have met, since the last
    barrier of a block; and a thread of each block before."""

    def __init__(self, block: int, interval: int) -> None:
        self.block, self.interval = block, interval
        self.here: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}
        self.elsewhere: dict[bool, dict[int, int]] = {True: {}, False: {}}

    def forget(self, block: int, interval: int) -> None:
        """Another block, or a barrier later."""
        for wrote, threads in self.here.items():
            for thread, _ in threads:
                self.elsewhere[wrote].setdefault(self.block, thread)
            threads.clear()
        self.block, self.interval = block, interval


class _Watched:
    """An array that tells a watch of each access."""

    def __init__(self, watch: _Watch, array: np.ndarray, name: str) -> None:
        self.watch, self.array, self.name = watch, array, name
        self.seen: dict[Any, _Seen] = {}

    def __getitem__(self, index: Any) -> Any:
        value = self.array[index]
        self.watch.touch(self, index, False)
        return value

    def __setitem__(self, index: Any, value: Any) -> None:
        before = self.array[index]
        self.array[index] = value
        changed = bool(before != self.array[index])
        self.watch.touch(self, index, changed, checked=changed)


# -- fused groups


class SimulatedGroups:
    """Runs fused nodes through their CUDA kernels; a `run_group` for `run_grouped`. `run` launches a kernel."""

    def __init__(self, threads: int = 8, run: Callable[[Kernel, list[np.ndarray]], None] = simulate) -> None:
        self.threads, self.run = threads, run
        self.launched: list[str] = []

    def __call__(self, node: Node, operands: Arrays) -> list[np.ndarray]:
        sites = Sites()
        name, nests = group_nests(node, sites)
        arrays, results = group_arrays(node, operands)
        error = np.zeros(1, np.int32)
        for nest in nests:
            scratch: list[np.ndarray] = []
            for kernel in kernels(nest, name, sites, self.threads):
                if not scratch and kernel.scratch:
                    scratch = [poisoned(b.size, b.dtype) for b in kernel.buffers[-kernel.scratch :]]
                self.run(kernel, [*arrays, *scratch, error])
                self.launched.append(kernel.name)
            raise_site(sites, int(error[0]))
        return results

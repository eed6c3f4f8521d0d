"""Queues of a stand-in device: work runs as late as it may, and what touches memory in no certain order is found.

Work depends on what its stream holds, on events that the stream waits for, and, between the default stream and others
that are not "non-blocking", on all that came before. It runs when somebody waits for it, and then nothing runs that it
does not depend on: every other stream is late. Clocks say what comes before what: each piece of work knows how far
every stream has surely got when it begins. Two that touch the same bytes, one of them writing, have to be in an order.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Clock = dict[Hashable, int]
LEGACY = "legacy"


class Access(NamedTuple):
    """Bytes that a piece of work touches: to "r"ead, to "w"rite, or with writes that are "a"tomic among themselves."""

    address: int
    nbytes: int
    kind: str


@dataclass(eq=False)
class Work:
    """Something queued."""

    number: int
    what: str
    run: Callable[[], None] | None
    needs: list["Work"]
    clock: Clock
    done: bool = False


@dataclass
class Touched:
    """Who touched bytes of an allocation, and when."""

    first: int
    last: int
    kind: str
    stream: Hashable
    number: int
    what: str


@dataclass
class Allocation:
    """Memory: `history` is who touched it, `device` whose it is, `freed` whether it is given back by what is queued."""

    address: int
    nbytes: int
    device: int
    history: list[Touched] = field(default_factory=list)
    freed: str = ""


class Streams:
    """The streams of one device."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        self.last: dict[Hashable, Work] = {}
        self.blocking: set[Hashable] = set()
        self.host: Clock = {}  # how far streams have got as the host knows
        self.count = 0

    def queue(
        self, stream: Hashable, what: str, run: Callable[[], None] | None,
        touched: Sequence[tuple[Allocation, Access]] = (), needs: Sequence[Work | None] = (),
    ) -> Work:  # fmt: skip
        """Put work at the end of a stream, after other work that it `needs`."""
        before = [*needs, self.last.get(stream)]
        if stream == LEGACY:
            before += [self.last.get(other) for other in self.blocking]
        elif stream in self.blocking:
            before.append(self.last.get(LEGACY))
        found = [work for work in before if work is not None]
        clock = dict(self.host)
        for work in found:
            _join(clock, work.clock)
        self.count += 1
        clock[stream] = self.count
        made = self.last[stream] = Work(self.count, what, run, [w for w in found if not w.done], clock)
        for allocation, access in touched:
            self._touch(allocation, access, made, stream)
        return made

    def _touch(self, allocation: Allocation, access: Access, work: Work, stream: Hashable) -> None:
        first, last = access.address, access.address + access.nbytes
        kept = []
        for other in allocation.history:
            if other.last <= first or last <= other.first:
                kept.append(other)
                continue
            ordered = work.clock.get(other.stream, 0) >= other.number
            if not ordered and "w" in (access.kind, other.kind):
                self.problems.append(
                    f"{work.what} on {stream} and {other.what} on {other.stream} touch {first:#x} in no order"
                )
            covered = first <= other.first and other.last <= last
            if not (ordered and covered and (access.kind == "w" or access.kind == other.kind)):
                kept.append(other)
        kept.append(Touched(first, last, access.kind, stream, work.number, work.what))
        allocation.history = kept

    def finish(self, work: Work | None, known: bool = True) -> None:
        """Run a piece of work with all that it depends on; `known`: and the host knows."""
        if work is None:
            return
        closure: dict[int, Work] = {}
        open_ = [work]
        while open_:
            one = open_.pop()
            if not one.done and one.number not in closure:
                closure[one.number] = one
                open_ += one.needs
        for number in sorted(closure):
            one = closure[number]
            one.done, one.needs = True, []
            if one.run is not None:
                run, one.run = one.run, None
                run()
        if known:
            _join(self.host, work.clock)

    def finish_all(self, known: bool = True) -> None:
        for work in list(self.last.values()):
            self.finish(work, known)


def _join(clock: Clock, other: Clock) -> None:
    for stream, number in other.items():
        if clock.get(stream, 0) < number:
            clock[stream] = number

"""The program of a grouped graph for a device: steps over places in memory, as plain data.

Note [Device programs]
A program is to a device what the plan is to the CPU: it says what runs in which order and where every value lies, and
nothing about how. Whoever runs it gives it memory for each space: inputs, constants (uploaded once), outputs
that do not stand in inputs, by a number of their own, one `workspace`, and one i32, `error`, that is 0 unless a check
failed, then a key of `sites`. Steps run in order on one stream. Nothing in a program depends on the values of inputs,
so that a run can be recorded and replayed; only `While` and `Branch` read a flag back, and `Host` and `Call`s of
routines that a library cannot do on the device leave it. `Program.replayable` says that there are none of these.

A place inside a loop may move with it: `steps` are (loop, bytes per iteration) for the enclosing `Repeat`s by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nufunc.codegen.loops import Buffer
from nufunc.ir.errors import Location
from nufunc.ir.types import ArrayType

if TYPE_CHECKING:
    from nufunc.codegen.callback import HostCall

Space = Literal["input", "constant", "output", "workspace", "error"]


@dataclass(frozen=True)
class Place:
    """Where an array begins: `offset` bytes behind the start of a memory."""

    space: Space
    number: int = 0
    offset: int = 0
    steps: tuple[tuple[int, int], ...] = ()

    def moved(self, nbytes: int) -> Place:
        return replace(self, offset=self.offset + nbytes) if nbytes else self

    def along(self, loop: int | None, nbytes: int) -> Place:
        """A place that moves with a loop; None: with none."""
        return self if loop is None or not nbytes else replace(self, steps=(*self.steps, (loop, nbytes)))

    def __str__(self) -> str:
        moves = "".join(f" + {size} * i{loop}" for loop, size in self.steps)
        name = self.space if self.space in ("workspace", "error") else f"{self.space}{self.number}"
        return f"{name} + {self.offset}{moves}" if self.offset else name + moves


@dataclass(frozen=True)
class Operand:
    """A contiguous array at a place."""

    place: Place
    type: ArrayType

    def __str__(self) -> str:
        return f"{self.place}: {self.type}"


@dataclass(frozen=True)
class Kernel:
    """A kernel's text and launch; see Note [Kernel texts] of `codegen.cuda.writer`.

    Its arguments are the addresses of `buffers` and of the error word, an i32. The last `scratch` buffers are workspace
    that the kernels of one nest share, and of no particular content. `blocks` is how many there are at most: kernels
    that stride over the grid may be launched with fewer.
    """

    name: str
    source: str
    buffers: tuple[Buffer, ...]
    scratch: int
    blocks: int
    threads: int


@dataclass(frozen=True)
class Launch:
    """A kernel over `places`, one for each of its buffers, and then the error word."""

    kernel: Kernel
    places: tuple[Place, ...]


def launched(kernel: Kernel, places: Sequence[Place]) -> Launch:
    """A launch. What stands in memory that the kernel writes is not read as a constant: such loads may be moved behind
    the stores."""
    sizes = [b.size * b.dtype.itemsize for b in kernel.buffers]
    written = [k for k, b in enumerate(kernel.buffers) if b.written]
    buffers = tuple(
        replace(b, written=True)
        if not b.written and any(_meet(places[k], sizes[k], places[w], sizes[w]) for w in written)
        else b
        for k, b in enumerate(kernel.buffers)
    )
    return Launch(kernel if buffers == kernel.buffers else replace(kernel, buffers=buffers), tuple(places))


def _meet(a: Place, size: int, b: Place, other: int) -> bool:
    """Whether arrays of so many bytes may share memory."""
    if (a.space, a.number) != (b.space, b.number):
        return False
    return a.steps != b.steps or (a.offset < b.offset + other and b.offset < a.offset + size)


@dataclass(frozen=True)
class Copy:
    """Bytes from place to place; they do not overlap."""

    target: Place
    source: Place
    nbytes: int


@dataclass(frozen=True)
class Call:
    """A primitive that is no loop nest, done by a library: `prim` with its attributes from operands to results, with
    `scratch` bytes of workspace at `workspace`. Where it cannot be done, the error word becomes `site`, a key of the
    program's sites (0: it cannot fail); `libraries.failure` says which error that is."""

    prim: str
    operands: tuple[Operand, ...]
    results: tuple[Operand, ...]
    attrs: Mapping[str, Any]
    workspace: Place | None = None
    scratch: int = 0
    loc: Location | None = None
    site: int = 0


@dataclass(frozen=True)
class Repeat:
    """`body`, `length` times; `loop` numbers it for the places in it. The count goes down where `reverse`."""

    loop: int
    length: int
    reverse: bool
    body: tuple[Step, ...]


@dataclass(frozen=True)
class While:
    """`body` as long as `condition`, run before each, leaves a true b1 at `flag`."""

    condition: tuple[Step, ...]
    flag: Place
    body: tuple[Step, ...]


@dataclass(frozen=True)
class Branch:
    """The branch whose number, clamped, stands at `index`, a b1 or an i64."""

    index: Operand
    branches: tuple[tuple[Step, ...], ...]


@dataclass(frozen=True)
class Host:
    """A Python function of the user on host copies of the operands."""

    call: HostCall
    operands: tuple[Operand, ...]
    results: tuple[Operand, ...]
    loc: Location | None = None


@dataclass(frozen=True)
class Record:
    """A While that also keeps what each iteration leaves at `items`: tapes, whose handles go to `tapes`, and how many
    iterations there were, an i64, to `count`. See Note [Handles] of `runtime.cuda.tapes`."""

    condition: tuple[Step, ...]
    flag: Place
    body: tuple[Step, ...]
    items: tuple[Operand, ...]
    tapes: tuple[Place, ...]
    count: Place


@dataclass(frozen=True)
class Replay:
    """`body` for each of `length` (an i64) iterations, before which the items of `tapes` are put at `items`, and after
    which what stands at `made` goes to tapes, whose handles go to `results`."""

    length: Place
    reverse: bool
    tapes: tuple[Place, ...]
    items: tuple[Operand, ...]
    body: tuple[Step, ...]
    made: tuple[Operand, ...]
    results: tuple[Place, ...]


@dataclass(frozen=True)
class TapeStep:
    """tape_add, tape_join or tape_split; `kernel` adds two items that are numbers."""

    prim: str
    operands: tuple[Operand, ...]
    result: Operand
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Scoped:
    """Steps after which the tapes that were made in them are not used any more."""

    body: tuple[Step, ...]


Step = Launch | Copy | Call | Repeat | While | Branch | Host | Record | Replay | TapeStep | Scoped


@dataclass(frozen=True)
class Program:
    """See Note [Device programs]. `outputs` are where the results stand at the end: an output of its own, or the memory
    of an input that is written in place or returned, or a constant."""

    name: str
    inputs: tuple[ArrayType, ...]
    outputs: tuple[Operand, ...]
    constants: tuple[np.ndarray, ...]
    workspace: int
    steps: tuple[Step, ...]
    sites: Mapping[int, tuple[str | HostCall, Location | None]] = field(default_factory=dict)

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, values)) for values in (self.inputs, self.outputs))
        head = f"program {self.name}({inputs}) -> ({outputs}), workspace {self.workspace}"
        return "\n".join([head, *_text(self.steps, "  ")])

    def walk(self) -> Iterator[Step]:
        """All steps, those inside others behind these."""
        yield from _walk(self.steps)

    @property
    def replayable(self) -> bool:
        """Whether a run never waits for the host."""
        return not any(isinstance(step, _WAITING) for step in self.walk())

    @property
    def kernels(self) -> list[Kernel]:
        found = (step.kernel for step in self.walk() if isinstance(step, Launch | TapeStep))
        return list(dict.fromkeys(k for k in found if k is not None))


_WAITING = While | Branch | Host | Record | Replay | TapeStep


def _walk(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        match step:
            case Repeat() | Replay() | Scoped():
                yield from _walk(step.body)
            case While() | Record():
                yield from _walk(step.condition)
                yield from _walk(step.body)
            case Branch():
                for branch in step.branches:
                    yield from _walk(branch)


def _text(steps: Sequence[Step], indent: str) -> Iterator[str]:
    """The lines of a program's steps."""
    deeper = indent + "  "
    from nufunc.codegen.cuda.libraries import where  # which knows programs

    for step in steps:
        match step:
            case Launch(kernel, places):
                yield f"{indent}{kernel.name}<{kernel.blocks}, {kernel.threads}>({', '.join(map(str, places))})"
            case Copy(target, source, nbytes):
                yield f"{indent}copy {nbytes} bytes from {source} to {target}"
            case Call() | Host():
                name = step.prim if isinstance(step, Call) else f"host {step.call.host.name}"
                operands, results = (", ".join(map(str, values)) for values in (step.operands, step.results))
                at = f", {step.scratch} bytes at {step.workspace}" if isinstance(step, Call) and step.scratch else ""
                by = f", by {where(step)}" if isinstance(step, Call) else ""
                yield f"{indent}{results} = {name}({operands}){by}{at}"
            case Repeat(loop, length, reverse, body):
                yield f"{indent}for i{loop} in {'reversed ' if reverse else ''}0..{length}:"
                yield from _text(body, deeper)
            case While(condition, flag, body) | Record(condition, flag, body):
                yield f"{indent}while {flag} after:"
                yield from _text(condition, deeper)
                yield f"{indent}do:"
                yield from _text(body, deeper)
                if isinstance(step, Record):
                    yield f"{deeper}append {', '.join(map(str, step.items))} to {', '.join(map(str, step.tapes))}"
            case Replay():
                yield f"{indent}for each of {step.length}{' reversed' if step.reverse else ''}:"
                yield f"{deeper}read {', '.join(map(str, step.items))} from {', '.join(map(str, step.tapes))}"
                yield from _text(step.body, deeper)
                yield f"{deeper}append {', '.join(map(str, step.made))} to {', '.join(map(str, step.results))}"
            case TapeStep():
                yield f"{indent}{step.result} = {step.prim}({', '.join(map(str, step.operands))})"
            case Scoped(body):
                yield from _text(body, indent)
            case Branch(index, branches):
                for k, branch in enumerate(branches):
                    yield f"{indent}if {index} is {k}:"
                    yield from _text(branch, deeper)

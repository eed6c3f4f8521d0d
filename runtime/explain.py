"""Why a call finds its compilation, or has to be compiled: `nf.explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.runtime.bound import described
from nufunc.runtime.cache import CACHE
from nufunc.runtime.disk_cache import DISK
from nufunc.runtime.executable import Executable
from nufunc.runtime.overlap import Pattern, overlap_of
from nufunc.runtime.signatures import base_key, signature
from nufunc.runtime.stored import Address, Origin, address_of
from nufunc.runtime.transform import Transform

if TYPE_CHECKING:
    from nufunc.runtime.function import Call, Transformed


@dataclass(frozen=True)
class Explanation:
    """What a call would find now.

    Attributes
    ----------
    found : "memory", "disk" or "nowhere".
    reasons : how the call differs from the nearest compilation in memory, in words; empty if it is found there.
    origin : where the code in memory comes from: `origin.how` is "compiled" or "loaded", `origin.seconds` how long that
        took; None if there is none.
    key : the name of the machine code on disk, if it can be there.
    unstored : why it is not, or cannot be, on disk; None if it is.
    place : the device that the call runs on, "cuda:0" say, as far as its arguments and the context tell; else "cpu".
    """

    function: str
    found: str
    reasons: tuple[str, ...] = ()
    origin: Origin | None = None
    key: str | None = None
    unstored: str | None = None
    place: str = "cpu"

    def __str__(self) -> str:
        there = "" if self.place == "cpu" else f" on {self.place}"
        lines = [f"{self.function}{there}: " + self._headline()]
        lines += [f"  {reason}" for reason in self.reasons]
        if self.key is not None and self.unstored is None:
            lines.append(f"  on disk as {self.key[:12]}")
        elif self.unstored is not None:
            lines.append(f"  not on disk: {self.unstored}")
        return "\n".join(lines)

    def _headline(self) -> str:
        if self.origin is not None:
            took = f" in {1000 * self.origin.seconds:.0f} ms" if self.origin.how != "interpreted" else ""
            return f"found in memory, {self.origin.how}{took}"
        if self.found == "disk":
            return "not in memory; its machine code is found on disk"
        return "not found; it would be compiled"


def explained(function: Transformed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
    """What a call with these arguments would find; nothing is compiled, run or counted."""
    _, kwargs = function._split_out(kwargs)
    call = function._described(args, kwargs)
    key = function._key(call)
    name = repr(function).removeprefix("<nufunc ").removesuffix(">")
    executable, reasons = _in_memory(function, call, key)
    number = call.device if executable is None or executable.device is None else executable.device
    place = "cpu" if number is None else f"cuda:{number}"
    if executable is not None and not reasons:
        origin = executable.origin
        there = origin.key is not None and origin.unstored is None and DISK.get(origin.key) is not None
        unstored = None if there else origin.unstored or "it has been removed"
        return Explanation(name, "memory", (), origin, origin.key, unstored, place)
    address = DISK.reason_off() or address_of(function._traced(call))
    if not isinstance(address, Address):
        return Explanation(name, "nowhere", reasons, None, None, address, place)
    there = DISK.get(address.key) is not None
    unstored = None if there else "nothing is stored under its key"
    return Explanation(name, "disk" if there else "nowhere", reasons, None, address.key, unstored, place)


def _in_memory(function: Transformed, call: Call, key: Any) -> tuple[Executable | None, tuple[str, ...]]:
    """The compilation for a call, or how it differs from the nearest one."""
    variants = CACHE.entries.get(key)
    if variants is None:
        return None, _nearest(function, call)
    for executable in variants.executables:
        captured = executable.captured(function.func)
        if captured is not None:
            return _overlapping(executable, call, key, captured)
    newest = variants.executables[0]
    return None, (_difference(newest, function.func),)


def _overlapping(
    executable: Executable, call: Call, key: Any, captured: Sequence[Any]
) -> tuple[Executable | None, tuple[str, ...]]:
    values = [*(call.leaves[k] for k in executable.positions), *captured]
    pattern: Pattern = ()
    if executable.graph.updates and all(isinstance(v, np.ndarray | np.generic | float | complex) for v in values):
        pattern = overlap_of(executable, executable.graph.updates, values)
    if not pattern:
        return executable, ()
    special = CACHE.entries.get((key, pattern))
    if special is None:
        return None, ("an array that it writes overlaps another argument, in a way that has not been compiled",)
    return special.executables[0], ()


def _difference(executable: Executable, func: Any) -> str:
    """Why a compilation does not fit what a function captures."""
    failed = executable.failure(func)
    if failed is not None:
        return failed
    values = executable.read(func) or ()
    for k, value in enumerate(values, len(executable.positions)):
        now = signature(value, lambda: "of a capture")
        if now != executable.inputs[k]:
            return f"{executable.sources[k]} was {described(executable.inputs[k])} and is {described(now)}"
    return "what it captures has changed"


def _nearest(function: Transformed, call: Call) -> tuple[str, ...]:
    base = base_key(function.func)[0] if function._held is None else None
    best: tuple[str, ...] | None = None
    for key in reversed(list(CACHE.entries)):
        if len(key) == 2 or key[1] != base:  # with a pattern of overlaps, or of another function
            continue
        found = tuple(_differences(function, call, key))
        if best is None or len(found) < len(best):
            best = found
    return ("it has not been compiled in this process",) if best is None else best


def _differences(function: Transformed, call: Call, key: Any) -> Iterator[str]:
    """How a call differs from a key of the same function."""
    transforms, _, spec, signatures, *there = key
    if there != ([] if call.device is None else [call.device]):
        places = ["the host" if k is None else f"cuda:{k}" for k in (call.device, *(there or [None]))]
        yield "it runs on {}, and ran on {}".format(*places)
    yield from _options(function.transforms, transforms)
    if call.spec != spec:
        yield f"its arguments are {call.spec}, and were {spec}"
        return
    for name, now, then in zip(function._leaf_names(call), call.signatures, signatures, strict=True):
        if now != then:
            yield f"argument {name} is {described(now)}, and was {described(then)}"


def _options(now: Sequence[Transform], then: Sequence[Transform]) -> Iterator[str]:
    if [type(t) for t in now] != [type(t) for t in then]:
        labels = (" of ".join(t.label for t in chain) or "no transform" for chain in (now, then))
        yield "it is {}, and was {}".format(*labels)
        return
    for new, old in zip(now, then):
        for field in fields(new):
            a, b = getattr(new, field.name), getattr(old, field.name)
            if a != b:
                yield f"{new.label}: {field.name} is {a!r}, and was {b!r}"

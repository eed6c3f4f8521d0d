"""The compilations of this process: bounded, shared by all functions, safe to use from several threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from nufunc.runtime.executable import Executable

MAX_KEYS = 1024  # signatures kept, over all functions
MAX_VARIANTS = 16  # compilations kept per signature, for different captured static values


class CacheInfo(NamedTuple):
    """How often something was compiled, how often a compilation was found again by the long way, how many are held, and
    how many of `compiles` took their machine code from the cache on disk.
    """

    compiles: int
    hits: int
    entries: int
    loaded: int


@dataclass(eq=False)
class _Variants:
    """What was compiled under one key; `used` orders keys by their last use."""

    executables: list[Executable]
    used: int


class Cache:
    """The executables of this process by key, the least recently used dropped first."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.entries: dict[Any, _Variants] = {}
        self.compiles = 0
        self.hits = 0
        self.loaded = 0
        self._compiling: dict[Any, tuple[threading.RLock, int]] = {}  # by key: a lock and how many hold or await it

    @contextmanager
    def compiling(self, key: Any) -> Iterator[None]:
        """Inside, no other thread compiles for this key. For others it may: the traced function is the user's code,
        which may wait for a thread that compiles something itself.
        """
        with self.lock:
            lock, count = self._compiling.get(key, (threading.RLock(), 0))
            self._compiling[key] = lock, count + 1
        try:
            with lock:
                yield
        finally:
            with self.lock:
                lock, count = self._compiling.pop(key)
                if count > 1:
                    self._compiling[key] = lock, count - 1

    def find(self, key: Any, func: Any) -> tuple[Executable, tuple[Any, ...]] | None:
        """The compilation that fits what the function captures now, and what it captures."""
        variants = self.entries.get(key)
        for executable in variants.executables if variants is not None else ():
            captured = executable.captured(func)
            if captured is not None:
                with self.lock:
                    self.hits += 1
                    variants.used = self.hits + self.compiles  # type: ignore[union-attr]
                return executable, captured
        return None

    def add(self, key: Any, executable: Executable) -> None:
        with self.lock:
            self.compiles += 1
            self.loaded += executable.origin.how == "loaded"
            before = self.entries.get(key)
            executables = [executable, *(before.executables if before is not None else ())][:MAX_VARIANTS]
            self.entries[key] = _Variants(executables, self.hits + self.compiles)
            while len(self.entries) > MAX_KEYS:
                del self.entries[min(self.entries, key=lambda k: self.entries[k].used)]


CACHE = Cache()


def _forked() -> None:
    """In a child: locks that other threads held at the fork would be held for ever."""
    CACHE.lock, CACHE._compiling = threading.RLock(), {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def cache_info() -> CacheInfo:
    """Counters of the cache of compilations of this process.

    >>> import nufunc as nf
    >>> nf.cache_info().compiles >= 0
    True
    """
    held = sum(len(v.executables) for v in CACHE.entries.values())
    return CacheInfo(CACHE.compiles, CACHE.hits, held, CACHE.loaded)


def clear_cache() -> None:
    """Forget all compilations of this process: functions compile again for signatures that they meet next, or find
    their machine code on disk (`python -m nufunc.cache clear` removes that). Functions that are still there keep the
    last few programs that they ran.
    """
    with CACHE.lock:
        CACHE.entries.clear()

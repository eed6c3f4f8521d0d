"""The compilations of this process: bounded, shared by all functions, safe to use from several threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from nufunc.runtime.executable import Executable

MAX_KEYS = 1024  # signatures kept, over all functions
MAX_VARIANTS = 16  # compilations kept per signature, for different captured static values


class CacheInfo(NamedTuple):
    """How often something was compiled, how often a compilation was found again by the long way, and how many are
    held.
    """

    compiles: int
    hits: int
    entries: int


class Cache:
    """The executables of this process by key, the least recently used dropped first."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.entries: OrderedDict[Any, list[Executable]] = OrderedDict()
        self.compiles = 0
        self.hits = 0

    def find(self, key: Any, func: Any) -> tuple[Executable, tuple[Any, ...]] | None:
        """The compilation that fits what the function captures now, and what it captures."""
        variants = self.entries.get(key)
        for executable in variants or ():
            captured = executable.captured(func)
            if captured is not None:
                with self.lock:
                    self.hits += 1
                    if key in self.entries:
                        self.entries.move_to_end(key)
                return executable, captured
        return None

    def add(self, key: Any, executable: Executable) -> None:
        with self.lock:
            self.compiles += 1
            variants = self.entries.get(key, [])
            self.entries[key] = [executable, *variants][:MAX_VARIANTS]
            self.entries.move_to_end(key)
            while len(self.entries) > MAX_KEYS:
                self.entries.popitem(last=False)


CACHE = Cache()


def cache_info() -> CacheInfo:
    """Counters of the cache of compilations of this process.

    >>> import nufunc as nf
    >>> nf.cache_info().compiles >= 0
    True
    """
    return CacheInfo(CACHE.compiles, CACHE.hits, sum(map(len, CACHE.entries.values())))


def clear_cache() -> None:
    """Forget all compilations; functions compile again at their next call."""
    with CACHE.lock:
        CACHE.entries.clear()

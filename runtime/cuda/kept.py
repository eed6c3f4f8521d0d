"""Kernels: their machine code for devices of one capability, from the cache on disk or compiled, and its names there.

Note [Names of kernels]
Machine code is kept under a name that is a hash of the kernel's text and of all that compiles it, which takes longer to
import than the code to load. So stored programs tell the names of their kernels (`named`), and a kernel that is loaded
by itself (a copy of strided memory) leaves its name on disk, under a hash of its text and of what keys of programs
hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nufunc.codegen.cuda.codes import Code, kept
from nufunc.codegen.cuda.program import Kernel
from nufunc.runtime import stored
from nufunc.runtime.disk_cache import DISK


class Store:
    """Compiled kernels in the cache on disk."""

    def get(self, key: str) -> bytes | None:
        return None if DISK.reason_off() is not None else DISK.get(_disk_key(key))

    def put(self, key: str, data: bytes) -> None:
        if DISK.reason_off() is None:
            DISK.put(_disk_key(key), data, f"a kernel for CUDA: {key}")


def _disk_key(key: str) -> str:
    return hashlib.sha256(f"cuda kernel {key}".encode()).hexdigest()


STORE = Store()


class Kernels:
    """See Note [Names of kernels]."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability
        self.names: dict[Kernel, str] = {}
        self.prepared: set[Kernel] = set()  # those of programs, which tell their names

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        """Compile those that are nowhere, together."""
        missing = [kernel for kernel in kernels if self._found(kernel) is None]
        if missing:
            from nufunc.codegen.cuda.compile import compiled_together

            compiled_together(missing, self.capability, STORE)
            self.prepared.update(missing)

    def code(self, kernel: Kernel) -> Code:
        code = self._found(kernel)
        if code is not None:
            return code
        key = None if kernel in self.prepared else self._key(kernel)
        name = None if key is None else DISK.get(key)
        if name is not None:
            self.names[kernel] = name.decode()
            code = self._found(kernel)
        return self._compiled(kernel, key) if code is None else code

    def name_of(self, kernel: Kernel) -> str:
        if kernel not in self.names:
            from nufunc.codegen.cuda.compile import code_key

            self.names[kernel] = code_key(kernel, self.capability)
        return self.names[kernel]

    def named(self, kernel: Kernel, name: str | None) -> None:
        """What `name_of` gave in another process."""
        if name is not None:
            self.names[kernel] = name

    def _found(self, kernel: Kernel) -> Code | None:
        """The code of a kernel whose name is known."""
        name = self.names.get(kernel)
        return None if name is None else kept(name, STORE)

    def _compiled(self, kernel: Kernel, key: str | None) -> Code:
        from nufunc.codegen.cuda.compile import compiled

        code = compiled(kernel, self.capability, STORE)
        if key is not None and not stored.device_edited():
            DISK.put(key, self.name_of(kernel).encode(), f"a kernel for CUDA: the name of {kernel.name}")
        return code

    def _key(self, kernel: Kernel) -> str | None:
        """Where on disk the name of a kernel's code stands, or None."""
        if DISK.reason_off() is not None or stored.hashed_device_edited():
            return None
        buffers = [(b.dtype.str, b.dtype.name, b.written) for b in kernel.buffers]
        text = (kernel.name, kernel.source, buffers, kernel.threads, self.capability)
        return hashlib.sha256(repr(("the name of a kernel", text, stored.device_versions())).encode()).hexdigest()

"""Machine code of kernels as it is kept, by name, in this process and on disk; nothing is compiled here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Protocol


class Store(Protocol):
    """Bytes by key, kept between processes."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, data: bytes) -> None: ...


@dataclass(frozen=True)
class Code:
    """A compiled kernel: the function `symbol` of a module, which several kernels may share and `module` names.

    `cubin` is None where no assembler was found: a driver compiles the PTX then. `registers` and `spilled` (bytes of
    registers that did not fit) are those of the cubin.
    """

    module: str
    symbol: str
    ptx: str
    cubin: bytes | None
    registers: int | None = None
    spilled: int | None = None


CODES: dict[str, Code] = {}


def kept(name: str, store: Store | None) -> Code | None:
    """The code of this name, if it is there."""
    code = CODES.get(name)
    if code is None and store is not None:
        code = _found(store, name)
        if code is not None:
            CODES[name] = code
    return code


def keep(name: str, code: Code, store: Store | None) -> None:
    CODES[name] = code
    if store is None:
        return
    store.put(f"{code.module}.ptx", code.ptx.encode())
    if code.cubin is not None:
        store.put(f"{code.module}.cubin", code.cubin)
    store.put(name, json.dumps(asdict(replace(code, ptx="", cubin=None))).encode())


def _found(store: Store, name: str) -> Code | None:
    data = store.get(name)
    if data is None:
        return None
    about = json.loads(data)
    ptx, cubin = (store.get(f"{about['module']}.{kind}") for kind in ("ptx", "cubin"))
    if ptx is None:
        return None
    return Code(**{**about, "ptx": ptx.decode(), "cubin": cubin})

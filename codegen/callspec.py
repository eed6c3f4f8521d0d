"""What a native call is specialised for: arguments, results, the plan's ABI, the pointer table's layout.

Note [Plan ABI]
    i32 plan(ptr inputs, ptr outputs, ptr workspace, ptr table)

`inputs` and `outputs` are arrays of data pointers, one per argument and result, to C-contiguous data aligned
for its dtype (no more), or to the lowest address of a strided argument that is not copied; `workspace` is 64-byte
aligned; `table` holds the pointers given to `Entry` as externs. Result 0: done. Positive: an error, handed to
`on_error`. Negative: an exception is set already (by a callback). A plan writes to no input that is not also an
output, and keeps no pointer.

Note [Pointer table]
Nothing that moves between processes stands in the module as a number. The wrapper's `self` is a `_State`, an
ndarray of pointer-sized words whose data pointer it reads at a fixed offset: first the words of `_FIXED`,
then a dtype object or scalar type for each one that the CallSpec names, what makes large results if there are any,
then the plan's own table. The
`_State` also holds, as Python attributes, all that must outlive a call: machine code, PyMethodDef, workspaces.
A builtin function keeps its `self` alive, and CPython reads the PyMethodDef before it lets go of `self`; so
the last reference to the function frees everything, in order.

Note [Results in arguments]
A result with a `source` stands in the memory of that argument, which must be writable and share no memory with
any other argument; otherwise the wrapper misses. So it is with arguments that are written in place, with donated
ones, and with `out=`, whose arrays follow the plan's own arguments (`CallSpec.into`).

Note [Strided arguments]
The strides of an argument are part of its signature, since NumPy's views depend on them. So the wrapper knows them, and
the plan may read the argument where it lies (Note [Placed inputs] in `nufunc.passes.placement`). Where it does not, the
wrapper has NumPy make a copy, once all arguments have been found right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from nufunc.codegen import abi
from nufunc.ir.errors import ArgumentError

STACK_WORKSPACE = 16 * 1024  # up to here a workspace lies on the C stack
KEPT_WORKSPACE = 256 * 1024 * 1024  # up to here an Entry keeps blocks for later calls; beyond, every call allocates
WORKSPACE_ALIGNMENT = 64
POOLED_RESULT = 1 << 20  # bytes from which a result has memory of `nufunc.codegen.result_pool`

Kind = Literal["array", "scalar", "float", "complex", "bool"]
_KIND_DTYPE = {"float": np.dtype(np.float64), "complex": np.dtype(np.complex128), "bool": np.dtype(np.bool_)}


@dataclass(frozen=True)
class ArgSpec:
    """One argument. "array": exactly an ndarray, aligned, C-contiguous or of these `strides` (in elements); "scalar":
    exactly the NumPy scalar type of the dtype; "float", "complex", "bool": exactly that Python type (dtype f64, c128,
    bool). One that is `copied` is strided, and the plan gets a C-contiguous copy; see Note [Strided arguments]."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: Kind = "array"
    strides: tuple[int, ...] | None = None
    copied: bool = False

    @property
    def moves(self) -> tuple[tuple[int, int, int], ...]:
        """Axis, extent and stride where the stride matters."""
        axes = enumerate(zip(self.shape, self.strides or (), strict=self.strides is not None))
        return tuple((k, n, s) for k, (n, s) in axes if n > 1)

    @property
    def first(self) -> int:
        """By how many bytes an array's first element lies above its lowest address."""
        return sum(-s * (n - 1) for _, n, s in self.moves if s < 0) * self.dtype.itemsize

    @property
    def extent(self) -> int:
        """Bytes from the lowest address to the end."""
        if self.strides is None or 0 in self.shape:
            return math.prod(self.shape) * self.dtype.itemsize
        return (1 + sum(abs(s) * (n - 1) for _, n, s in self.moves)) * self.dtype.itemsize

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", abi.canonical_dtype(self.dtype))
        if self.strides is not None:
            object.__setattr__(self, "strides", tuple(self.strides))
        if self.kind != "array" and self.shape != ():
            raise ArgumentError(f"an argument of kind {self.kind!r} has no shape, got {self.shape}")
        if self.dtype != _KIND_DTYPE.get(self.kind, self.dtype):
            raise ArgumentError(f"an argument of kind {self.kind!r} cannot be {self.dtype}")


@dataclass(frozen=True)
class ResultSpec:
    """One result: a new C-contiguous ndarray, or with `scalar` a NumPy scalar, or the argument `source`, in whose
    memory it stands. One that is not `returned` is only written there."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scalar: bool = False
    source: int | None = None
    returned: bool = True

    @property
    def pooled(self) -> bool:
        """Whether its memory is of the pool; see Note [Result pool]."""
        return self.source is None and math.prod(self.shape) * self.dtype.itemsize >= POOLED_RESULT

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", abi.canonical_dtype(self.dtype))
        if self.scalar and self.shape != ():
            raise ArgumentError(f"a scalar result has no shape, got {self.shape}")
        if self.source is None and not self.returned:
            raise ArgumentError("a result that is not returned stands in an argument")


_FIXED = (
    *abi.FUNCTIONS,
    *("ndarray", "float", "complex", "True", "False", "MISS", "fail", "workspaces", "plan"),
)


@dataclass(frozen=True)
class CallSpec:
    """All that the wrapper is specialised for. `tuple_result` makes a single result a tuple of one; returned results
    other than one always come as a tuple. `release_gil` lets other Python threads run during the
    plan; one that `polls` may come back with the exception of a signal's handler."""

    args: tuple[ArgSpec, ...]
    results: tuple[ResultSpec, ...]
    workspace: int = 0
    tuple_result: bool = False
    release_gil: bool = False
    polls: bool = False

    @property
    def as_tuple(self) -> bool:
        return self.tuple_result or sum(r.returned for r in self.results) != 1

    @property
    def sources(self) -> frozenset[int]:
        """The arguments in whose memory results stand."""
        return frozenset(r.source for r in self.results if r.source is not None)

    def into(self) -> CallSpec:
        """The same call with an array for each returned result behind the arguments, to be written to."""
        outs: list[ArgSpec] = []
        results = []
        for result in self.results:
            if result.returned:
                outs.append(ArgSpec(result.shape, result.dtype))
                result = ResultSpec(result.shape, result.dtype, False, len(self.args) + len(outs) - 1, False)
            results.append(result)
        return replace(self, args=(*self.args, *outs), results=tuple(results), tuple_result=False)

    @cached_property
    def slots(self) -> dict[object, int]:
        """What stands where in the pointer table; the plan's table begins at `len(slots)`."""
        keys: dict[object, int] = {name: index for index, name in enumerate(_FIXED)}
        for arg in self.args:
            if arg.kind in ("array", "scalar"):
                keys.setdefault((arg.kind, arg.dtype), len(keys))
        for result in self.results:
            if result.source is None:
                keys.setdefault(("array", result.dtype), len(keys))
        if any(result.pooled for result in self.results):
            keys["pooled_result"] = len(keys)
        return keys


def plan_symbol(prefix: str) -> str:
    return f"{prefix}_plan"


def call_symbol(prefix: str) -> str:
    return f"{prefix}_call"

"""Types of values: arrays of a static shape and a strong dtype, printed `f64[8,3]`, and tapes, `tape(f64[3])[8]`.

Note [bfloat16]
~~~~~~~~~~~~~~~
NumPy has no bfloat16; the dtype is that of the package ml_dtypes, as in JAX and TensorFlow. Importing it costs a tenth
of what importing NumPy costs, so this happens when a program asks for it (`bfloat16()`, the name `bf16`), and a dtype
that an array brings along is known by its name (`is_bfloat16`). From then on it stands in the tables of dtypes.

NumPy says little about a foreign dtype: its kind is "V", as that of structures, `np.finfo` and `np.issubdtype` do not
know it, `dtype.str` is that of two raw bytes, and promotion has no Python numbers. So code asks `kind_of` instead of
`dtype.kind`, `dtype_name` for a key, and `nufunc.ir.promotion` for what dtypes make together.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError

DTYPE_NAMES: dict[np.dtype, str] = {
    np.dtype(np.bool_): "b1",
    **{np.dtype(f"i{n}"): f"i{8 * n}" for n in (1, 2, 4, 8)},
    **{np.dtype(f"u{n}"): f"u{8 * n}" for n in (1, 2, 4, 8)},
    np.dtype(np.float16): "f16",
    np.dtype(np.float32): "f32",
    np.dtype(np.float64): "f64",
    np.dtype(np.complex64): "c64",
    np.dtype(np.complex128): "c128",
}
DTYPES_BY_NAME: dict[str, np.dtype] = {name: dtype for dtype, name in DTYPE_NAMES.items()}

BOOL = np.dtype(np.bool_)
HANDLE = np.dtype(object)  # an element of an array of tapes
INT64 = np.dtype(np.int64)
FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
COMPLEX64 = np.dtype(np.complex64)
COMPLEX128 = np.dtype(np.complex128)


def bfloat16() -> np.dtype:
    """The dtype bfloat16 of ml_dtypes, which is imported here; DTypeError where it is not installed."""
    found = DTYPES_BY_NAME.get("bf16")
    if found is not None:
        return found
    try:
        import ml_dtypes
    except ImportError:
        raise DTypeError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes") from None
    return _registered(np.dtype(ml_dtypes.bfloat16))


def _registered(dtype: np.dtype) -> np.dtype:
    DTYPE_NAMES[dtype] = "bf16"
    return DTYPES_BY_NAME.setdefault("bf16", dtype)


def is_bfloat16(dtype: np.dtype) -> bool:
    """Whether a dtype is bfloat16, without importing anything."""
    return dtype.kind == "V" and dtype.name == "bfloat16" and dtype.type.__module__ == "ml_dtypes"


def dtype_name(dtype: np.dtype) -> str:
    """The short name of a dtype (`f64`); DTypeError for one that nufunc does not compute with."""
    name = DTYPE_NAMES.get(dtype)
    if name is None and is_bfloat16(dtype):
        name = DTYPE_NAMES[_registered(dtype)]
    if name is None:
        raise DTypeError(
            f"dtype {dtype} is not supported; use bool, int8-64, uint8-64, bfloat16, float16/32/64 or complex64/128"
        )
    return name


def dtype_named(name: str) -> np.dtype | None:
    """The dtype of a short name, or None; `bf16` imports ml_dtypes."""
    return bfloat16() if name == "bf16" else DTYPES_BY_NAME.get(name)


def is_supported(dtype: np.dtype) -> bool:
    """Whether nufunc computes with arrays of this dtype, in native byte order."""
    return dtype in DTYPE_NAMES or is_bfloat16(dtype)


def dtype_from(given: Any) -> np.dtype:
    """numpy.dtype(given), which knows the name bfloat16 only once ml_dtypes has been imported."""
    return bfloat16() if type(given) is str and given == "bfloat16" else np.dtype(given)


def native(dtype: np.dtype) -> np.dtype:
    """A dtype in native byte order, as the one object that all types share; DTypeError if it is not supported."""
    return DTYPES_BY_NAME[dtype_name(dtype.newbyteorder("="))]


def kind_of(dtype: np.dtype) -> str:
    """The kind of a dtype, `dtype.kind`, but "f" for bfloat16."""
    kind = dtype.kind
    return "f" if kind == "V" and is_bfloat16(dtype) else kind


def is_half(dtype: np.dtype) -> bool:
    """Whether values take two bytes and are computed with in float32: float16 and bfloat16."""
    return dtype.itemsize == 2 and kind_of(dtype) == "f"


def element(value: Any, dtype: np.dtype) -> Any:
    """A number as one of a dtype, as a Python scalar."""
    if dtype.kind == "V" and isinstance(value, int):  # ml_dtypes takes short ones alone
        value = float(value)
    return dtype.type(value).item()


def is_float(dtype: np.dtype) -> bool:
    return kind_of(dtype) == "f"


def is_complex(dtype: np.dtype) -> bool:
    return dtype.kind == "c"


def is_inexact(dtype: np.dtype) -> bool:
    """Whether values of this dtype can be differentiated."""
    return kind_of(dtype) in "fc"


def real_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of the real part: float64 for complex128, the dtype itself for a real one."""
    parts: dict[np.dtype, np.dtype] = {COMPLEX64: FLOAT32, COMPLEX128: FLOAT64}
    return parts.get(dtype, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class ArrayType:
    """The type of a value: a static shape and a native dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __eq__(self, other: object) -> bool:
        if self is other:  # nearly always: the types of results are those of operands
            return True
        return type(other) is ArrayType and self.shape == other.shape and self.dtype == other.dtype

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def __reduce__(self) -> Any:  # dtypes are the same objects everywhere, which those of pickle are not
        return parse_type, (str(self),)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{dtype_name(self.dtype)}[{','.join(map(str, self.shape))}]"

    def with_shape(self, shape: tuple[int, ...]) -> ArrayType:
        return ArrayType(tuple(shape), self.dtype)

    def with_dtype(self, dtype: np.dtype) -> ArrayType:
        return ArrayType(self.shape, np.dtype(dtype))

    def batched(self, size: int) -> ArrayType:
        """The type of `size` of these stacked along a new leading axis."""
        return self.with_shape((size, *self.shape))

    @property
    def inexact(self) -> bool:
        """Whether values of this type have tangents."""
        return kind_of(self.dtype) in "fc"


@dataclass(frozen=True, slots=True, eq=False)
class TapeType(ArrayType):
    """The type of an array of tapes: each holds an item per iteration of the loop that made it, all of type `item`.

    See Note [Tapes] in `nufunc.ir.prims.tape`.
    """

    item: ArrayType

    def __eq__(self, other: object) -> bool:
        return type(other) is TapeType and self.shape == other.shape and self.item == other.item

    def __hash__(self) -> int:
        return hash((self.shape, self.item))

    def __str__(self) -> str:
        return f"tape({self.item})[{','.join(map(str, self.shape))}]"

    def with_shape(self, shape: tuple[int, ...]) -> ArrayType:
        return TapeType(tuple(shape), HANDLE, self.item)

    @property
    def inexact(self) -> bool:
        return self.item.inexact


def tape_of(item: ArrayType, shape: tuple[int, ...] = ()) -> TapeType:
    """The type of a tape with such items."""
    return TapeType(shape, HANDLE, item)


def parse_type(text: str) -> ArrayType:
    """The type that prints as `text`; ValueError if none does."""
    match = re.fullmatch(_TYPE, text, re.ASCII)
    dtype = dtype_named(str(match["dtype"])) if match else None
    if match is None or (dtype is None and match["item"] is None):
        raise ValueError(f"{text!r} is not a type")
    shape = tuple(int(n) for n in match["shape"].split(",") if n)
    return tape_of(parse_type(match["item"]), shape) if dtype is None else ArrayType(shape, dtype)


_TYPE = r"(?:tape\((?P<item>.+)\)|(?P<dtype>[a-z]+\d+))\[(?P<shape>[\d,]*)\]"


def type_of(array: np.ndarray) -> ArrayType:
    """The type of a concrete array (its dtype in native byte order); DTypeError for one of objects."""
    array = np.asarray(array)
    return ArrayType(array.shape, native(array.dtype))

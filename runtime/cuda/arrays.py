"""DeviceArray: an array in a device's memory, its views, and its way to the host."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, DTypeError, ShapeError
from nufunc.ir.types import DTYPE_NAMES, HANDLE, INT64, ArrayType, TapeType, bfloat16, is_bfloat16
from nufunc.runtime.cuda import devices
from nufunc.runtime.cuda.devices import Device
from nufunc.runtime.cuda.memory import Block, Foreign, ordered
from nufunc.tracer.layout import reshape_strides
from nufunc.tracer.usercode import user_location
from nufunc.tracer.view import register_array

if TYPE_CHECKING:
    from nufunc.runtime.cuda.execute import Span


class Layout:
    """What of a device array its values are not: one object for all arrays of the same, so that `is` compares them.

    `strides` are None for C order; those of axes with at most one element are what C order has.
    """

    __slots__ = ("__weakref__", "bounds", "device", "dtype", "input", "nbytes", "shape", "size", "strides")

    def __init__(
        self, device: Device, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None
    ) -> None:
        from nufunc.runtime.signatures import Input

        self.device, self.shape, self.dtype, self.strides = device, shape, dtype, strides
        self.size = math.prod(shape)
        self.nbytes = self.size * dtype.itemsize
        steps = None if strides is None else tuple(s // dtype.itemsize for s in strides)
        self.input = Input("array", ArrayType(shape, dtype), steps, device.index)
        self.bounds = self._bounds()  # the first and the last byte + 1 of the array, relative to its first element

    @property
    def byte_strides(self) -> tuple[int, ...]:
        return _c_strides(self.shape, self.dtype.itemsize) if self.strides is None else self.strides

    def _bounds(self) -> tuple[int, int]:
        if not self.size:
            return 0, 0
        ends = [s * (n - 1) for n, s in zip(self.shape, self.byte_strides, strict=True)]
        return sum(e for e in ends if e < 0), sum(e for e in ends if e > 0) + self.dtype.itemsize


_LAYOUTS: WeakValueDictionary[Any, Layout] = WeakValueDictionary()


def layout(
    device: Device, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None = None
) -> Layout:
    """The one layout of these; strides in bytes."""
    asked = (device.index, shape, dtype, strides)
    found = _LAYOUTS.get(asked)
    return _LAYOUTS.setdefault(asked, _layout(device, shape, dtype, strides)) if found is None else found


def _layout(device: Device, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None) -> Layout:
    """The one layout, with what it is called by: strides of C order, say, are none."""
    known = _CANONICAL.get(dtype)
    if known is None and is_bfloat16(dtype):
        known = _CANONICAL.setdefault(dtype, bfloat16())
    if known is None or not dtype.isnative:
        raise DTypeError(f"device arrays of dtype {dtype} are not supported", user_location())
    if strides is not None:
        plain = _c_strides(shape, dtype.itemsize)
        strides = tuple(p if n <= 1 else s for n, s, p in zip(shape, strides, plain, strict=True))
        if strides == plain or 0 in shape:
            strides = None
        elif any(s % dtype.itemsize for s in strides):
            raise ArgumentTypeError(
                f"device arrays whose strides {strides} are no multiples of their items ({dtype}) are not supported; "
                "copy them first",
                user_location(),
            )
    key = (device.index, shape, known, strides)
    found = _LAYOUTS.get(key)
    if found is None:
        found = _LAYOUTS.setdefault(key, Layout(device, shape, known, strides))
    return found


def layout_of(device: Device, type_: ArrayType) -> Layout:
    """The one layout of arrays of a type in C order; tapes lie as the numbers by which they are known."""
    if not isinstance(type_, TapeType):
        return layout(device, type_.shape, type_.dtype)
    key = (device.index, str(type_))
    found = _LAYOUTS.get(key)
    if found is None:
        made = Layout(device, type_.shape, INT64, None)
        made.input = made.input._replace(type=type_)
        found = _LAYOUTS.setdefault(key, made)
    return found


_CANONICAL = {dtype: dtype for dtype in DTYPE_NAMES}


def _c_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides, step = [], itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


class DeviceArray:
    """An array in the memory of a CUDA device.

    Results of functions of device arrays are such arrays; `nf.to_device` makes one of an array of the host, and
    `copy_to_host()` or `np.asarray` give it back. Slices, transposed and reshaped ones are views of the same memory.
    Operators compute, compiled, on the device. Other libraries take it as it is (`__cuda_array_interface__`, DLPack).
    Nothing here waits for the device but what asks for values.
    """

    __slots__ = ("__weakref__", "address", "block", "layout", "readonly", "span")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, layout: Layout, block: Block | Foreign, address: int, span: Span | None = None, readonly: bool = False
    ) -> None:
        self.layout, self.block, self.address, self.span, self.readonly = layout, block, address, span, readonly

    # -- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype:
        return self.layout.dtype

    @property
    def strides(self) -> tuple[int, ...]:
        return self.layout.byte_strides

    @property
    def ndim(self) -> int:
        return len(self.layout.shape)

    @property
    def size(self) -> int:
        return self.layout.size

    @property
    def nbytes(self) -> int:
        return self.layout.nbytes

    @property
    def itemsize(self) -> int:
        return self.layout.dtype.itemsize

    @property
    def device(self) -> Device:
        return self.layout.device

    def __len__(self) -> int:
        if not self.layout.shape:
            raise ArgumentTypeError("len() of an array without axes", user_location())
        return self.layout.shape[0]

    def __repr__(self) -> str:
        text = np.array2string(self.copy_to_host(), separator=", ", prefix="DeviceArray(")
        return f"DeviceArray({text}, dtype={self.dtype}, device='{self.device}')"

    # -- to the host

    def copy_to_host(self, out: np.ndarray | None = None) -> np.ndarray:
        """The values as a NumPy array, `out` if it is given; waits for the device, and raises what failed on it."""
        if out is not None and (out.shape, out.dtype) != (self.shape, self.dtype):
            raise ShapeError(
                f"copy_to_host: out is {out.dtype}{out.shape}, not {self.dtype}{self.shape}", user_location()
            )
        made = downloaded(self)
        if out is None:
            return made
        np.copyto(out, made)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array on a device is copied to become a NumPy array")
        made = self.copy_to_host()
        return made if dtype is None else made.astype(dtype, copy=False)

    def item(self, *index: int) -> Any:
        """The only value, or the one at an index, as a Python number."""
        return self.copy_to_host().item(*index)

    def tolist(self) -> Any:
        return self.copy_to_host().tolist()

    def _number(self, kind: Callable[[Any], Any]) -> Any:
        if self.size != 1:
            raise (ShapeError if kind is bool else ArgumentTypeError)(  # NumPy's classes
                f"{kind.__name__}() takes an array of one element, this one is {self.dtype}{list(self.shape)}",
                user_location(),
            )
        return kind(self.item())

    def __float__(self) -> float:
        return self._number(float)

    def __int__(self) -> int:
        return self._number(int)

    def __complex__(self) -> complex:
        return self._number(complex)

    def __bool__(self) -> bool:
        return self._number(bool)

    def __index__(self) -> int:
        return operator.index(self.copy_to_host()[()])

    def __format__(self, spec: str) -> str:
        return format(self.item() if not self.ndim else self, spec) if spec else str(self)

    def __reduce__(self) -> Any:
        return _restored, (self.copy_to_host(), str(self.device))

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceArray:
        return self.copy()

    # -- copies and views

    def copy(self) -> DeviceArray:
        """The same values in memory of their own, in C order."""
        from nufunc.runtime.cuda.strided import contiguous

        if self.layout.strides is not None:
            return contiguous(self)
        made = empty(self.shape, self.dtype, self.device)
        made.span = self.span
        stream = self.device.stream
        use(self, stream)
        if self.nbytes:
            self.device.driver.copy(made.address, self.address, self.nbytes, stream)
        return made

    def view_of(
        self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, dtype: np.dtype | None = None
    ) -> DeviceArray:
        """Other axes, or another dtype, over the same memory; strides and offset in bytes."""
        made = layout(self.device, shape, self.dtype if dtype is None else dtype, strides)
        return DeviceArray(made, self.block, self.address + offset, self.span, self.readonly)

    def __getitem__(self, key: Any) -> DeviceArray:
        from nufunc.runtime.cuda import strided

        return strided.indexed(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        from nufunc.runtime.cuda import strided

        strided.assigned(self, key, value)

    def __iter__(self) -> Any:
        return (self[k] for k in range(len(self)))

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same elements, in C order, along other axes; a view where NumPy's would be one."""
        given = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        wanted = _filled(tuple(operator.index(n) for n in given), self.shape)
        strides = reshape_strides(self.shape, self.layout.strides, wanted)
        if isinstance(strides, tuple):
            return self.view_of(wanted, strides)
        array = self if strides is None else self.copy()
        return DeviceArray(
            layout(self.device, wanted, self.dtype), array.block, array.address, array.span, array.readonly
        )

    def ravel(self) -> DeviceArray:
        return self.reshape(-1)

    @property
    def T(self) -> DeviceArray:
        return self.view_of(self.shape[::-1], self.layout.byte_strides[::-1])

    @property
    def mT(self) -> DeviceArray:
        if self.ndim < 2:
            raise ShapeError(f"mT takes an array of at least two axes, this one has {self.ndim}", user_location())
        (*lead, m, n), (*steps, down, right) = self.shape, self.layout.byte_strides
        return self.view_of((*lead, n, m), (*steps, right, down))

    def astype(self, dtype: Any, *, copy: bool = True) -> DeviceArray:
        """A copy of another dtype; the array itself where it has that dtype and `copy` is False."""
        from nufunc.runtime.cuda import operators

        wanted = np.dtype(dtype)
        return self if not copy and wanted == self.dtype else operators.converted(self, wanted)

    # -- other libraries

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        from nufunc.runtime.cuda import interop

        return interop.interface(self)

    def __dlpack__(
        self, *, stream: Any = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None, copy: bool | None = None,
    ) -> Any:  # fmt: skip
        from nufunc.runtime.cuda import interop

        return interop.exported(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        from nufunc.runtime.cuda import interop

        return interop.device_number(self)


class DeviceTapes(DeviceArray):
    """An array of tapes on a device: what the derivative of a loop of unknown length keeps. It stays there."""

    __slots__ = ("tapes",)

    def __init__(self, array: DeviceArray, tapes: list[Any]) -> None:
        super().__init__(array.layout, array.block, array.address, array.span)
        self.tapes = tapes

    @property
    def dtype(self) -> np.dtype:
        return HANDLE

    def __repr__(self) -> str:
        return f"<{self.layout.input.type} on {self.device}>"

    def copy_to_host(self, out: np.ndarray | None = None) -> np.ndarray:
        raise ArgumentTypeError("tapes of a device cannot be copied to the host", user_location())

    def copy(self) -> DeviceArray:
        return self  # nobody writes to it


def _filled(shape: tuple[int, ...], old: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with -1 replaced; ShapeError where it has another number of elements."""
    size = math.prod(old)
    if shape.count(-1) == 1:
        rest = math.prod(n for n in shape if n != -1)
        if rest and not size % rest:
            shape = tuple(size // rest if n == -1 else n for n in shape)
    if min(shape, default=0) < 0 or math.prod(shape) != size:
        raise ShapeError(f"cannot reshape an array of shape {old} into {shape}", user_location())
    return shape


def _restored(values: np.ndarray, name: str) -> DeviceArray:
    where = devices.device(name)
    assert isinstance(where, Device)
    return uploaded(values, where)


# -- making and reading them


def empty(shape: tuple[int, ...], dtype: Any, device: Device) -> DeviceArray:
    """An array in new memory, whose values mean nothing."""
    return fresh(layout(device, shape, np.dtype(dtype)))


def fresh(made: Layout) -> DeviceArray:
    """An array of a layout in new memory."""
    block = made.device.pool.take(made.nbytes, made.device.stream)
    return DeviceArray(made, block, block.address)


def uploaded(values: np.ndarray, device: Device) -> DeviceArray:
    """A copy of a NumPy array."""
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    made = empty(values.shape, values.dtype, device)
    if values.nbytes:
        device.driver.upload(made.address, np.ascontiguousarray(values), device.stream)
    return made


def downloaded(array: DeviceArray) -> np.ndarray:
    """The values, once the device has them; what failed on the way is raised."""
    device, lay = array.layout.device, array.layout
    stream = device.stream
    use(array, stream)
    if lay.strides is None:
        made = np.empty(lay.shape, lay.dtype)
        if lay.nbytes:
            device.driver.download(made, array.address, stream)
        else:
            device.driver.synchronize(stream)
    else:
        low, high = lay.bounds
        line = np.empty(high - low, np.uint8)
        device.driver.download(line, array.address + low, stream)
        made = np.ndarray(lay.shape, lay.dtype, line, -low, lay.strides).copy()
    device.check(stream)
    sound(array)
    return made


def sound(array: DeviceArray) -> None:
    """Raise the failure of the call whose result an array is, where it is known."""
    if array.span is not None and array.span.failure is not None:
        raise array.span.failure.with_traceback(None)  # one object for all looks: it would keep the frames of each


def use(array: DeviceArray, stream: Any) -> None:
    """What is queued on the stream from now on may read and write the array."""
    ordered(array.block, stream, array.layout.device.driver)


register_array(DeviceArray)

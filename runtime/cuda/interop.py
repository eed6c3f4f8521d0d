"""Arrays of other libraries on a device, without copies: `__cuda_array_interface__` and DLPack, in both directions.

Note [Streams of others]
An array that comes in with a stream is used after what that stream holds now; one that goes out names the stream that
it is ready on, or (DLPack) is made ready on the stream that the other side gives. Numbers of streams: 0 and 1 are the
default stream, 2 the one of each thread. The first interface tells of streams from version 3 on, so that DLPack is
asked where it is older. It has no name for bfloat16: torch and CuPy say that there are two bytes, JAX and we have no
such attribute then, so that others ask for DLPack. What comes in with two bytes is bfloat16 where its owner says so.

Note [DLPack by hand]
A capsule holds a pointer to a C struct; both are made here with ctypes. What the struct points at (its shape, strides
and the array) is held by number until the other side calls the deleter, or the capsule dies unused. Versioned capsules
(DLPack 1.0) are made for those who ask for them, and asked for first; they carry the flag of read-only memory.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import itertools
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, DTypeError, ReadOnlyError
from nufunc.ir.types import bfloat16, is_bfloat16
from nufunc.runtime.cuda.arrays import DeviceArray, downloaded, layout, use
from nufunc.runtime.cuda.devices import Device, device_of, number_of_stream
from nufunc.runtime.cuda.memory import Foreign
from nufunc.tracer.usercode import user_location

_CPU, _CUDA, _PINNED, _MANAGED = 1, 2, 3, 13
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_BFLOAT = 4


def adopted(x: Any) -> DeviceArray | None:
    """An array of another library on a device as a DeviceArray of the same memory; None for anything else."""
    if isinstance(x, DeviceArray):
        return x
    interface = getattr(x, "__cuda_array_interface__", None)
    if interface is not None and interface.get("version", 0) >= 3:
        return _from_interface(x, interface)
    asked = getattr(type(x), "__dlpack_device__", None)
    if asked is not None and hasattr(type(x), "__dlpack__"):
        kind, index = asked(x)
        if int(kind) in (_CUDA, _MANAGED):
            with contextlib.suppress(BufferError):  # of a dtype that DLPack has not, say
                return _from_capsule(x, device_of(index))
    return None if interface is None else _from_interface(x, interface)


# -- __cuda_array_interface__


def interface(array: DeviceArray) -> dict[str, Any]:
    """What describes an array of ours to others."""
    if is_bfloat16(array.dtype):
        raise AttributeError("__cuda_array_interface__ has no bfloat16; use DLPack, as torch.from_dlpack does")
    device = array.device
    stream = device.stream
    use(array, stream)
    return {
        "shape": array.shape, "typestr": array.dtype.str, "data": (array.address if array.size else 0, array.readonly),
        "strides": array.layout.strides, "version": 3, "stream": device.driver.external(stream),
    }  # fmt: skip


def _from_interface(x: Any, given: dict[str, Any]) -> DeviceArray:
    if given.get("mask") is not None:
        raise ArgumentTypeError("device arrays with a mask are not supported", user_location())
    dtype, shape = _named(x, given["typestr"]), tuple(int(n) for n in given["shape"])
    address, readonly = given["data"]
    address = int(address or 0)
    strides = given.get("strides")
    device = device_of(_device_at(x, address))
    made = layout(device, shape, dtype, None if strides is None else tuple(int(s) for s in strides))
    _refuse_misaligned(address, dtype)
    theirs = given.get("stream") if given.get("version", 0) >= 3 else None
    _after(device, theirs)
    low, high = made.bounds
    memory = Foreign(address + low, high - low, x, device.driver, device.stream)
    return DeviceArray(made, memory, address, None, bool(readonly))


def _named(x: Any, typestr: str) -> np.dtype:
    """The dtype of an array of another library; see Note [Streams of others] for bfloat16."""
    dtype = np.dtype(typestr)
    if dtype.kind != "V":
        return dtype
    return bfloat16() if dtype.itemsize == 2 and "bfloat16" in str(getattr(x, "dtype", "")) else dtype


def _device_at(x: Any, address: int) -> int:
    """The number of the device of an address; where the address says nothing, what the array says, else 0."""
    from nufunc.runtime.cuda import devices

    if not devices.simulated() and address:
        from nufunc.runtime.cuda import hardware

        with device_of(0).driver.entered():
            return hardware.device_at(address)
    for name in ("device", "device_id"):
        found = getattr(x, name, None)
        found = getattr(found, "id", getattr(found, "index", found))
        if isinstance(found, int):
            return found
    return 0


def _after(device: Device, theirs: Any) -> None:
    """What is queued on this thread's stream waits for what theirs holds."""
    if theirs is None:
        return
    if theirs == 0:
        raise ArgumentTypeError(
            "__cuda_array_interface__: stream 0 is ambiguous; it is 1, 2 or a handle", user_location()
        )
    other = number_of_stream(theirs)
    if other != device.stream:
        device.driver.wait(device.stream, other)


# -- DLPack: structs


class _DLDevice(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device", _DLDevice), ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("offset", ctypes.c_uint64),
    )  # fmt: skip


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", _DLTensor),
    )  # fmt: skip


# the same as numbers, which are read faster: what stands before the tensor in a versioned struct, and the tensor
_HEAD, _FIELDS = struct.Struct("=IIQQQ"), struct.Struct("=QiiiBBHQQQ")
_READ_ONLY, _COPIED = 1, 2
_NAMES = {_Managed: b"dltensor", _Versioned: b"dltensor_versioned"}
_USED = {_Managed: b"used_dltensor", _Versioned: b"used_dltensor_versioned"}

_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_api.PyCapsule_IsValid.restype = ctypes.c_int
_api.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_SetName.restype = ctypes.c_int
_api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
# The destructor of a capsule gets one that is dying: its address, not a reference.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))


# -- DLPack: out

_HELD: dict[int, Any] = {}  # what capsules that are out point at, and the stream of the other side
_NUMBERS = itertools.count(1)


def _release(address: int) -> None:
    _let_go(_Managed.from_address(address).context)


def _release_versioned(address: int) -> None:
    _let_go(_Versioned.from_address(address).context)


def _let_go(number: int) -> None:
    """The other side is done; what it has queued by now may still run."""
    held = _HELD.pop(number, None)
    if held is None:
        return
    *_, array, stream = held
    block = array.block
    if stream is not None and stream not in (block.stream, *block.others):
        block.others = (*block.others, stream)


def _unused(capsule: int, ended: Callable[[], bool] = sys.is_finalizing) -> None:
    if ended():
        return
    for kind, release in ((_Managed, _release), (_Versioned, _release_versioned)):
        if _is_valid(capsule, _NAMES[kind]):
            release(_pointer(capsule, _NAMES[kind]))


_RELEASE, _RELEASE_VERSIONED = _Deleter(_release), _Deleter(_release_versioned)
_UNUSED = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_unused)


def _outlive() -> None:
    """The process ends: what other libraries let go of later finds its struct, and nothing of Python to call. Instead
    of a deleter they call a function of C that does nothing with an address."""
    nothing = ctypes.cast(ctypes.CDLL(None).labs, ctypes.c_void_p).value
    for managed, numbers, *_ in _HELD.values():
        managed.deleter = nothing
        _api.Py_IncRef(ctypes.py_object((managed, numbers)))
    _api.Py_IncRef(ctypes.py_object((_RELEASE, _RELEASE_VERSIONED, _UNUSED)))


atexit.register(_outlive)


def device_number(array: DeviceArray) -> tuple[int, int]:
    """The device as DLPack numbers it; simulated memory is the host's."""
    return (_CPU, 0) if array.device.driver.simulated else (_CUDA, array.device.index)


def exported(
    array: DeviceArray, stream: Any, max_version: tuple[int, int] | None, dl_device: tuple[Any, int] | None,
    copy: bool | None,
) -> Any:  # fmt: skip
    """A capsule of an array of ours, ready on the stream that the other side gives (-1: it looks after that itself)."""
    versioned = max_version is not None and max_version[0] >= 1
    own = device_number(array)
    if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != own:
        if (int(dl_device[0]), int(dl_device[1])) != (_CPU, 0) or copy is False:
            raise BufferError(f"an array on {array.device} cannot be handed to DLPack's device {tuple(dl_device)}")
        host: Any = downloaded(array)
        known = versioned and np.lib.NumpyVersion(np.__version__) >= "2.1.0"
        return host.__dlpack__(max_version=max_version) if known else host.__dlpack__()
    if array.readonly and not versioned:
        raise BufferError("a read-only array needs DLPack 1.0")
    if copy:
        array = array.copy()
    driver, theirs = array.device.driver, None
    if driver.simulated:
        array.device.synchronize()
    elif stream != -1:
        theirs = number_of_stream(stream)
        use(array, theirs)
    return _capsule(array, own, versioned, bool(copy), theirs)


def _capsule(array: DeviceArray, device: tuple[int, int], versioned: bool, copied: bool, stream: Any) -> Any:
    ndim, item = array.ndim, array.itemsize
    numbers = (ctypes.c_int64 * ndim)(*array.shape), (ctypes.c_int64 * ndim)(*(s // item for s in array.strides))
    kind = _Versioned if versioned else _Managed
    managed: Any = kind()
    tensor = managed.tensor
    tensor.data, tensor.device, tensor.ndim = array.address if array.size else None, _DLDevice(*device), ndim
    code = _BFLOAT if is_bfloat16(array.dtype) else _CODES[array.dtype.kind]
    tensor.code, tensor.bits, tensor.lanes = code, 8 * item, 1
    tensor.shape = ctypes.cast(numbers[0], ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(numbers[1], ctypes.POINTER(ctypes.c_int64))
    release = _RELEASE_VERSIONED if versioned else _RELEASE
    managed.deleter = ctypes.cast(release, ctypes.c_void_p).value
    if versioned:
        managed.major, managed.minor = 1, 0
        managed.flags = _READ_ONLY * array.readonly | _COPIED * copied
    number = next(_NUMBERS)
    managed.context = number
    _HELD[number] = managed, numbers, array, stream
    return _api.PyCapsule_New(ctypes.addressof(managed), _NAMES[kind], ctypes.cast(_UNUSED, ctypes.c_void_p).value)


# -- DLPack: in


class _Lent:
    """What a capsule gave: its deleter is called when nobody uses it any more."""

    def __init__(self, managed: Any) -> None:
        self.managed = managed

    def __del__(self, call: Any = _Deleter, address_of: Callable[[Any], int] = ctypes.addressof) -> None:
        deleter = self.managed.deleter
        if deleter:
            call(deleter)(address_of(self.managed))


def _from_capsule(x: Any, device: Device) -> DeviceArray:
    theirs = device.driver.external(device.stream)
    capsule = None
    with contextlib.suppress(TypeError):  # from before there were versions
        capsule = x.__dlpack__(stream=theirs, max_version=(1, 0))
    if capsule is None:
        capsule = x.__dlpack__(stream=theirs)
    return from_capsule(capsule, device)


def from_capsule(capsule: Any, device: Device) -> DeviceArray:
    """The array of a capsule, which is used up."""
    kind: Any = next((k for k, name in _NAMES.items() if _api.PyCapsule_IsValid(capsule, name)), None)
    if kind is None:
        raise ArgumentTypeError("a DLPack capsule can be used once, and this one was, or it is none", user_location())
    place = _api.PyCapsule_GetPointer(capsule, _NAMES[kind])
    versioned = kind is _Versioned
    major, minor, _, _, flags = _HEAD.unpack(ctypes.string_at(place, _HEAD.size)) if versioned else (1, 0, 0, 0, 0)
    if major > 1:
        raise ArgumentTypeError(f"DLPack {major}.{minor} is not supported", user_location())
    fields = _FIELDS.unpack(ctypes.string_at(place + _HEAD.size * versioned, _FIELDS.size))
    data, where, index, ndim, code, bits, lanes, extents, steps, offset = fields
    if not device.driver.simulated:
        if where not in (_CUDA, _MANAGED):
            raise ArgumentTypeError(
                f"the memory of a DLPack capsule is not on a CUDA device (its kind is {where})", user_location()
            )
        device = device_of(index)
    dtype = _dtype(code, bits, lanes)
    shape = _integers(extents, ndim)
    strides = tuple(n * dtype.itemsize for n in _integers(steps, ndim)) if steps else None
    made = layout(device, shape, dtype, strides)
    address = data + offset
    _refuse_misaligned(address, dtype)
    _api.PyCapsule_SetName(capsule, _USED[kind])
    low, high = made.bounds
    owner = _Lent(kind.from_address(place))
    memory = Foreign(address + low, high - low, owner, device.driver, device.stream)
    return DeviceArray(made, memory, address, None, bool(flags & _READ_ONLY))


def _integers(address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"={count}q", ctypes.string_at(address, 8 * count))


@functools.cache
def _dtype(code: int, bits: int, lanes: int) -> np.dtype:
    if (code, bits, lanes) == (_BFLOAT, 16, 1):
        return bfloat16()
    letter = next((k for k, c in _CODES.items() if c == code), None)
    if letter is None or lanes != 1 or bits % 8:
        raise DTypeError(f"a DLPack array of type code {code} with {bits} bits is not supported", user_location())
    return np.dtype(np.bool_) if letter == "b" else np.dtype(f"{letter}{bits // 8}")


def _refuse_misaligned(address: int, dtype: np.dtype) -> None:
    """A device stops for good at a number whose address is no multiple of its size."""
    if address % dtype.itemsize:
        raise ArgumentTypeError(
            f"device arrays whose address is no multiple of their items ({dtype}) are not supported; copy them first",
            user_location(),
        )


def refuse_read_only(array: DeviceArray, what: str) -> None:
    """Read-only memory of others is not written to."""
    if array.readonly:
        raise ReadOnlyError(f"{what} is read-only", user_location())



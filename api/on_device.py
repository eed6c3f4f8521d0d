"""Devices and their arrays: `nf.device`, `nf.devices`, `nf.to_device`, `nf.synchronize`, `nf.DeviceArray`."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentTypeError
from nufunc.runtime.cuda import devices as places
from nufunc.runtime.cuda import interop, operators
from nufunc.runtime.cuda.arrays import DeviceArray, uploaded
from nufunc.runtime.cuda.devices import Device, device, devices, synchronize
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.usercode import user_location

__all__ = ["Device", "DeviceArray", "device", "devices", "from_dlpack", "synchronize", "to_device"]

operators.install()


def to_device(x: Any, device: Any = None) -> Any:
    """Arrays in the memory of a device.

    Parameters
    ----------
    x : an array, a number, or a tree of them: of NumPy, of a device, or of another library on a device.
    device : "cuda:0", its number, a `Device`, or "cpu", which gives NumPy arrays; by default the device of the context
        around (`with nf.device(...)`), else where an array is already, else the first one.

    Returns
    -------
    A tree of DeviceArrays, or for "cpu" of NumPy arrays. Arrays that are there already are handed back, those of other
    libraries as the same memory; copies are in C order.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> x = nf.to_device(np.arange(3.0))
    >>> nf.grad(lambda x: np.sum(x ** 3))(x)
    DeviceArray([ 0.,  3., 12.], dtype=float64, device='cuda:0')
    """
    where = None if device is None else places.device(device)
    return tree.map(lambda leaf: _moved(leaf, where), x)


def _moved(leaf: Any, where: Any) -> Any:
    if isinstance(leaf, Array):
        return leaf  # traced: it is wherever the call is
    found = interop.adopted(leaf)
    if found is not None and where is None:
        where = places.entered() or found.device
    if where is None:
        where = places.entered() or places.device_of(0)
    if found is not None and found.device is where:
        return found
    values = found.copy_to_host() if found is not None else _host(leaf)
    return uploaded(values, where) if isinstance(where, Device) else values


def _host(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex):
        raise ArgumentTypeError(f"to_device takes arrays and numbers, got {type(leaf).__name__}", user_location())
    return np.asarray(leaf)


def from_dlpack(x: Any, device: Any = None) -> DeviceArray:
    """The array of an object with `__dlpack__` on a device, or of a DLPack capsule, without a copy.

    Memory is where the capsule says; of a simulated device, which is the host's, `device` says which one it is.
    """
    where = places.device("cuda:0" if device is None else device)
    if not isinstance(where, Device):
        raise ArgumentTypeError("from_dlpack makes arrays of CUDA devices; use numpy.from_dlpack", user_location())
    if hasattr(x, "__dlpack__"):
        if where.driver.simulated:
            return interop.from_capsule(x.__dlpack__(), where)
        found = interop.adopted(x)
        if found is None:
            raise ArgumentTypeError(f"{type(x).__name__} is no array on a CUDA device", user_location())
        return found
    return interop.from_capsule(x, where)

"""Views of device arrays, and copies between strided arrays: one small kernel per pair of layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.codegen.cuda.program import Kernel
from nufunc.codegen.loops import Buffer
from nufunc.ir.errors import BoundsError, ShapeError
from nufunc.runtime.cuda.arrays import DeviceArray, Layout, empty, sound, uploaded, use
from nufunc.runtime.cuda.interop import adopted, refuse_read_only
from nufunc.tracer.usercode import user_location

_THREADS, _BLOCKS = 256, 4096


def contiguous(array: DeviceArray) -> DeviceArray:
    """The array, or a copy of it in C order."""
    if array.layout.strides is None:
        return array
    made = empty(array.shape, array.dtype, array.device)
    made.span = array.span
    copy_into(made, array)
    return made


def copy_into(target: DeviceArray, source: DeviceArray) -> None:
    """Write one array into another of the same shape and dtype, on one device; they do not overlap."""
    device = target.device
    stream = device.stream
    if source.device is not device:
        source = uploaded(source.copy_to_host(), device)
    use(target, stream)
    use(source, stream)
    target.span = source.span
    if not target.size:
        return
    if target.layout.strides is None and source.layout.strides is None:
        device.driver.copy(target.address, source.address, target.nbytes, stream)
        return
    kernel = _copy_kernel(target.layout, source.layout)
    word, _ = device.no_checks
    places = [source.address + source.layout.bounds[0], target.address + target.layout.bounds[0], word]
    device.driver.launch(device.driver.load(kernel), places, stream)


@functools.lru_cache(maxsize=1024)
def _copy_kernel(target: Layout, source: Layout) -> Kernel:
    """Elements as words of their size, one thread each."""
    item = min(target.dtype.itemsize, 8)
    words = target.dtype.itemsize // item
    dtype = np.dtype(f"u{item}")
    lines = ["def copy(x, y, error):"]
    lines.append(f"    for i in range(cuda.grid(1), {target.size * words}, cuda.gridsize(1)):")
    lines.append(f"        y[{_place(target, item, words)}] = x[{_place(source, item, words)}]")
    sizes = [(lay.bounds[1] - lay.bounds[0]) // item for lay in (source, target)]
    buffers = (Buffer("x", dtype, sizes[0]), Buffer("y", dtype, sizes[1], written=True))
    blocks = min(-(-target.size * words // _THREADS), _BLOCKS)
    return Kernel("copy", "\n".join(lines) + "\n", buffers, 0, blocks, _THREADS)


def _place(lay: Layout, item: int, words: int) -> str:
    """Where word `i` of an array in C order lies, from its lowest address on."""
    axes = [*zip(lay.shape, (s // item for s in lay.byte_strides), strict=True)]
    if words > 1:
        axes.append((words, 1))
    terms = [str(-lay.bounds[0] // item)] if lay.bounds[0] else []
    step = 1
    for n, stride in reversed(axes):
        if n > 1 and stride:
            number = "i" if step == 1 else f"i // {step}"
            number = number if step * n == lay.size * words else f"{number} % {n}"
            terms.append(number if stride == 1 else f"({number}) * {stride}")
        step *= n
    return " + ".join(terms) or "0"


# -- indexing


def indexed(array: DeviceArray, key: Any) -> DeviceArray:
    """`array[key]`: a view for slices, numbers, None and ...; a copy where the key holds arrays."""
    parts = key if type(key) is tuple else (key,)
    if all(_is_basic(part) for part in parts):
        return _view(array, parts)
    from nufunc.runtime.cuda import operators

    return operators.taken(array, parts)


def assigned(array: DeviceArray, key: Any, value: Any) -> None:
    """`array[key] = value`, on the device."""
    parts = key if type(key) is tuple else (key,)
    refuse_read_only(array, "the array")
    if not all(_is_basic(part) for part in parts):
        from nufunc.runtime.cuda import operators

        return operators.put(array, parts, value)
    target = _view(array, parts)
    if type(value) is not DeviceArray:
        found = adopted(value)
        value = np.asarray(value) if found is None else found
    if isinstance(value, np.ndarray):
        value = uploaded(value.astype(array.dtype, casting="unsafe"), array.device)
    sound(value)
    if value.dtype != array.dtype:
        value = value.astype(array.dtype)
    from nufunc.runtime.cuda.entry import overlap

    if overlap(target, value):
        value = value.copy()
    copy_into(target, broadcast(value, target.shape))
    if value.span is not None:  # of a call that may still fail
        array.span = value.span


def broadcast(array: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    """A view in which axes of one element repeat it, as NumPy's rules have it."""
    try:
        return rearranged(array, lambda probe: np.broadcast_to(probe, shape))
    except ValueError as error:
        raise ShapeError(
            f"could not broadcast an array of shape {array.shape} into shape {shape}", user_location()
        ) from error


def _is_basic(part: Any) -> bool:
    return (
        part is None or part is Ellipsis or isinstance(part, slice)
        or (isinstance(part, int | np.integer) and not isinstance(part, bool))
    )  # fmt: skip


def _probe(array: DeviceArray) -> np.ndarray:
    """Host "memory" of the same shape and strides, never read."""
    return np.lib.stride_tricks.as_strided(np.empty(1, array.dtype), array.shape, array.strides, writeable=False)


def rearranged(array: DeviceArray, change: Callable[[np.ndarray], np.ndarray]) -> DeviceArray:
    """The view of an array that a function gives of a NumPy array."""
    probe = _probe(array)
    found = change(probe)
    offset = found.ctypes.data - probe.ctypes.data if found.size else 0
    return array.view_of(found.shape, found.strides, offset, found.dtype)


def _view(array: DeviceArray, parts: tuple[Any, ...]) -> DeviceArray:
    try:
        return rearranged(array, lambda probe: probe[parts if Ellipsis in parts else (*parts, Ellipsis)])
    except IndexError as error:
        raise BoundsError(str(error), user_location()) from None



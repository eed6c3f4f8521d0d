"""The short way of a call on a device: a function of Python made for one signature, see Note [Calls on a device]."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.runtime.cuda.arrays import DeviceArray
from nufunc.runtime.cuda.devices import CURRENT
from nufunc.runtime.cuda.interop import adopted
from nufunc.runtime.cuda.memory import Block, rounded
from nufunc.runtime.front import define

if TYPE_CHECKING:
    from nufunc.runtime.cuda.entry import DeviceEntry, Way


def _missed(*args: Any) -> Any:
    return NotImplemented


def short_way(entry: DeviceEntry) -> Callable[..., Any]:
    """A function of the inputs: the result or a tuple of them, or NotImplemented, without effect, where something is
    not as usual."""
    machine = entry.machine
    copied = [w for w in entry.ways if w.layout is not None and w.layout.strides is not None and not w.placed]
    written = [w for w in entry.ways if w.layout is None and w.written]
    if copied or written or not entry.on_device or entry.gives_tapes:
        return _missed
    driver = entry.device.driver
    names: dict[str, Any] = {
        "DeviceArray": DeviceArray, "Block": Block, "streams": CURRENT, "take": entry.device.pool.take_sized,
        "machine": machine, "run": machine.run, "view": machine.view, "unchecked": entry.device.unchecked,
        "index": entry.device.index, "graphs": machine.graphs, "replay": driver.replay, "upload": driver.upload,
        "send": driver.send, "adopted": adopted, "ndarray": np.ndarray,
    }  # fmt: skip
    lines = ["s = streams.streams.get(index, 0)"]
    if machine.checked:
        lines.append("if view[0]: return NotImplemented")
    for k, way in enumerate(entry.ways):
        lines += _checks(k, way, names)
    lines += _unshared(entry)
    lines += _uploads(entry, names)
    inputs = []
    for k, way in enumerate(entry.ways):
        low = 0 if way.layout is None else way.layout.bounds[0]
        inputs.append(f"a{k}.address + {low}" if low else f"a{k}.address" if way.layout is not None else f"p{k}")
    for k in entry.own:
        names[f"r{k}"] = entry.results[k]
        lines.append(f"o{k} = take({rounded(entry.results[k].nbytes)}, s)")
    outputs = [f"o{k}.address" for k in entry.own]
    given, own = (f"({''.join(f'{x}, ' for x in places)})" for places in (inputs, outputs))
    if machine.replayable:
        lines += [f"g = graphs.get(({''.join(f'{x}, ' for x in ('s', *inputs, *outputs))}))"]
        lines += [f"if g is None: run({given}, {own}, s)"]
        lines += ["else:", "    machine.runs += 1", "    replay(g.graph, s)"]
    else:
        lines.append(f"run({given}, {own}, s)")
    if machine.checked:
        lines += ["unchecked.add(machine)", "span = machine.span"]
        lines += [f"a{k}.span = span" for k, way in enumerate(entry.ways) if way.written]
    span = "span" if machine.checked else "None"
    made = []
    for k, result in enumerate(entry.spec.results):
        if k in entry.own:
            made.append(f"DeviceArray(r{k}, o{k}, o{k}.address, {span})")
        elif result.returned:
            made.append(f"a{result.source}")
    lines.append(f"return {made[0]}" if not entry.spec.as_tuple else f"return ({''.join(f'{x}, ' for x in made)})")
    arguments = ", ".join(f"a{k}" for k in range(len(entry.ways)))
    function: Callable[..., Any] = define(f"def fast({arguments}):", lines, names)
    return function


def _checks(k: int, way: Way, names: dict[str, Any]) -> list[str]:
    """Lines that see to it that an input is as usual."""
    if way.layout is not None:
        names[f"l{k}"] = way.layout
        other = "return NotImplemented" if way.written else f"a{k} = adopted(a{k})"
        lines = [
            f"if type(a{k}) is not DeviceArray: {other}",
            f"if type(a{k}) is not DeviceArray or a{k}.layout is not l{k}: return NotImplemented",
            f"b{k} = a{k}.block",
            f"if b{k}.stream != s or b{k}.others: return NotImplemented",
        ]
        if not way.written:
            lines.append(f"if a{k}.span is not None and a{k}.span.failure is not None: return NotImplemented")
        return lines
    kind, type_ = way.input.kind, way.input.type
    if kind in ("float", "complex"):
        return [f"if type(a{k}) is not {kind}: return NotImplemented"]
    names[f"t{k}"] = type_.dtype.type if kind == "scalar" else type_.dtype
    if kind == "scalar":
        return [f"if type(a{k}) is not t{k}: return NotImplemented"]
    return [
        f"if type(a{k}) is not ndarray or a{k}.dtype is not t{k} or a{k}.shape != {type_.shape}: return NotImplemented",
        f"if not a{k}.flags.c_contiguous: return NotImplemented",
    ]


_FORMATS = {  # of the standard sizes of `struct`, by NumPy's codes
    "f8": "d", "f4": "f", "i8": "q", "u8": "Q", "i4": "i", "u4": "I", "i2": "h", "u2": "H", "i1": "b", "u1": "B",
    "b1": "?", "c8": "ff", "c16": "dd",
}  # fmt: skip


def _uploads(entry: DeviceEntry, names: dict[str, Any]) -> list[str]:
    """Lines that bring what is of the host to the device: `p{k}` is where."""
    numbers = [(k, way) for k, way in enumerate(entry.ways) if way.number >= 0]
    lines, values, text = [], [], "="
    for k, way in numbers:
        code = way.input.type.dtype.str[1:]
        packed = way.input.kind != "array" and code in _FORMATS
        if not packed:
            names.setdefault("padded", _padded)
            text += "16s"
            values.append(f"padded(a{k})")
        else:
            text += f"{_FORMATS[code]}{16 - way.input.type.dtype.itemsize}x"
            values += [f"a{k}.real", f"a{k}.imag"] if code[0] == "c" else [f"a{k}"]
    if numbers:
        names["pack"] = struct.Struct(text).pack
        lines += [f"n = take({rounded(entry.numbers)}, s)"]
        lines += [f"send(n.address, pack({', '.join(values)}), s)"]
        lines += [f"p{k} = n.address + {16 * way.number}" for k, way in numbers]
    for k, way in enumerate(entry.ways):
        if way.layout is None and way.number < 0:
            nbytes = way.input.type.nbytes
            lines += [f"h{k} = take({rounded(nbytes)}, s)", f"p{k} = h{k}.address"]
            lines += [f"upload(p{k}, a{k}, s)"] if nbytes else []
    return lines


def _padded(value: Any) -> bytes:
    return bytes(value.tobytes())


def _unshared(entry: DeviceEntry) -> list[str]:
    """Lines that see to it that what is written is ours to write and shares memory with no other input."""
    written = [k for k, way in enumerate(entry.ways) if way.written]
    lines = []
    for k in written:
        lines.append(f"if a{k}.readonly: return NotImplemented")
        others = [j for j, w in enumerate(entry.ways) if j != k and w.layout is not None and (not w.written or j > k)]
        lines += [f"if type(b{k}) is not Block: return NotImplemented"] if others else []
        lines += [f"if b{j} is b{k} or type(b{j}) is not Block: return NotImplemented" for j in others]
    return lines

"""The short way of a call on a device: a function of Python made for one signature, see Note [Calls on a device]."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nufunc.runtime.cuda.arrays import DeviceArray
from nufunc.runtime.cuda.devices import CURRENT
from nufunc.runtime.cuda.memory import Block, rounded
from nufunc.runtime.front import define

if TYPE_CHECKING:
    from nufunc.runtime.cuda.entry import DeviceEntry


def _missed(*args: Any) -> Any:
    return NotImplemented


def short_way(entry: DeviceEntry) -> Callable[..., Any]:
    """A function of the inputs: the result or a tuple of them, or NotImplemented, without effect, where something is
    not as usual."""
    machine = entry.machine
    unusual = [w for w in entry.ways if w.layout is None or (w.layout.strides is not None and not w.placed)]
    if unusual or not entry.on_device or not machine.replayable:
        return _missed
    names: dict[str, Any] = {
        "DeviceArray": DeviceArray, "Block": Block, "streams": CURRENT, "take": entry.device.pool.take_sized,
        "machine": machine, "run": machine.run, "view": machine.view, "unchecked": entry.device.unchecked,
        "index": entry.device.index, "graphs": machine.graphs, "replay": entry.device.driver.replay,
    }  # fmt: skip
    lines = ["s = streams.streams.get(index, 0)"]
    if machine.checked:
        lines.append("if view[0]: return NotImplemented")
    for k, way in enumerate(entry.ways):
        names[f"l{k}"] = way.layout
        lines.append(f"if type(a{k}) is not DeviceArray or a{k}.layout is not l{k}: return NotImplemented")
        lines += [f"b{k} = a{k}.block", f"if b{k}.stream != s or b{k}.others: return NotImplemented"]
    lines += _unshared(entry)
    inputs = []
    for k, way in enumerate(entry.ways):
        assert way.layout is not None
        low = way.layout.bounds[0]
        inputs.append(f"a{k}.address + {low}" if low else f"a{k}.address")
    for k in entry.own:
        names[f"r{k}"] = entry.results[k]
        lines.append(f"o{k} = take({rounded(entry.results[k].nbytes)}, s)")
    outputs = [f"o{k}.address" for k in entry.own]
    given, own = (f"({''.join(f'{x}, ' for x in places)})" for places in (inputs, outputs))
    lines += [f"g = graphs.get(({''.join(f'{x}, ' for x in (*inputs, *outputs))}))"]
    lines += [f"if g is None or g.stream != s: run({given}, {own}, s)"]
    lines += ["else:", "    machine.runs += 1", "    replay(g.graph, s)"]
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


def _unshared(entry: DeviceEntry) -> list[str]:
    """Lines that see to it that what is written is ours to write and shares memory with no other input."""
    written = [k for k, way in enumerate(entry.ways) if way.written]
    lines = []
    for k in written:
        lines.append(f"if a{k}.readonly: return NotImplemented")
        others = [j for j in range(len(entry.ways)) if j != k and (j not in written or j > k)]
        lines += [f"if type(b{k}) is not Block: return NotImplemented"] if others else []
        lines += [f"if b{j} is b{k} or type(b{j}) is not Block: return NotImplemented" for j in others]
    return lines

"""Which device a call runs on: that of its arrays, else what `target` or the context around says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from nufunc.ir.errors import ArgumentError
from nufunc.runtime.signatures import Input, Static
from nufunc.runtime.transform import Jit, Transform
from nufunc.tracer.usercode import user_location

_DEVICES = "nufunc.runtime.cuda.devices"  # where nobody has loaded it, there are no contexts


def target_of(transforms: Sequence[Transform]) -> str | None:
    """What the outermost jit of a chain that says so is for."""
    return next((t.target for t in transforms if isinstance(t, Jit) and t.target is not None), None)


def asks_for_devices(transforms: Sequence[Transform]) -> bool:
    """Whether a call may run on a device. What knows of devices is loaded with the first array that is on one."""
    for transform in transforms:
        if type(transform) is Jit and transform.target is not None:
            return True
    return _DEVICES in sys.modules


def device_of_call(
    name: str, signatures: Sequence[Input | Static], names: Callable[[], Sequence[str]], transforms: Sequence[Transform]
) -> int | None:
    """The number of the device that a call runs on, as far as its arguments tell; None for the host."""
    found: int | None = None
    for k, sig in enumerate(signatures):
        number = sig.device if type(sig) is Input else None
        if number is None or number == found:
            continue
        if found is not None:
            first = next(i for i, s in enumerate(signatures) if isinstance(s, Input) and s.device == found)
            listed = names()
            _refuse_two(name, f"argument {listed[first]}", found, f"argument {listed[k]}", number)
        found = number
    target = target_of(transforms)
    if target == "cpu" and found is not None:
        k = next(i for i, s in enumerate(signatures) if isinstance(s, Input) and s.device is not None)
        _refuse_device(name, f"argument {names()[k]}", found)
    return found if found is not None or target == "cpu" else _around(target)


def _around(target: str | None) -> int | None:
    """The device of the context around, or for the target "cuda" the first one."""
    loaded: Any = sys.modules.get(_DEVICES)
    inner = loaded.entered() if loaded is not None else None
    if inner is not None:
        return int(inner.index)
    return 0 if target == "cuda" else None


def device_of_inputs(
    name: str, inputs: Sequence[Input], sources: Sequence[str], transforms: Sequence[Transform], default: int | None
) -> int | None:
    """The number of the device that a traced program is for, captured arrays included."""
    found: dict[int, str] = {}
    for sig, source in zip(inputs, sources, strict=False):
        if sig.device is not None:
            found.setdefault(sig.device, source)
    if len(found) > 1:
        (a, first), (b, second), *_ = found.items()
        _refuse_two(name, first, a, second, b)
    number = next(iter(found), None)
    if number is not None and target_of(transforms) == "cpu":
        _refuse_device(name, found[number], number)
    return default if number is None else number


def _refuse_two(name: str, first: str, a: int, second: str, b: int) -> None:
    raise ArgumentError(
        f"{name}: {first} is on cuda:{a} and {second} on cuda:{b}; move one of them with nf.to_device", user_location()
    )


def _refuse_device(name: str, what: str, number: int) -> None:
    raise ArgumentError(
        f"{name}: {what} is on cuda:{number}, but target='cpu' was asked for; pass copy_to_host() of it, or leave the "
        "target out",
        user_location(),
    )

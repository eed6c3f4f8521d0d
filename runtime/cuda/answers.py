"""What CUDA's driver answers: values, and errors as ours."""

from __future__ import annotations

from typing import Any

from nufunc.ir.errors import DeviceError, DeviceMemoryError, DriverTooOldError, LaunchError, LostDeviceError

LOST = frozenset((214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721))  # the context is broken
LAUNCH = frozenset((1, 98, 400, 701))
TOO_OLD = frozenset((35, 36, 222, 803, 804))
GONE = frozenset((400, 709))  # what is said of a stream that its owner has destroyed


def named(module: Any, result: Any) -> str:
    """The name of an error, and what the driver says about it."""
    name = getattr(result, "name", None) or f"error {int(result)}"
    try:
        text = module.cuGetErrorString(result)[1]
    except RuntimeError:
        return str(name)
    return f"{name} ({text.decode() if isinstance(text, bytes) else text})"


def checked(module: Any, answer: tuple[Any, ...], what: str) -> Any:
    """The value of a driver's answer; its error as one of ours."""
    if answer[0]:
        raise error_of(module, answer[0], what)
    return answer[1] if len(answer) == 2 else answer[1:] if len(answer) > 2 else None


def error_of(module: Any, result: Any, what: str) -> DeviceError:
    number, text = int(result), named(module, result)
    if number in LOST:
        return LostDeviceError(
            f"the device failed ({what}): {text}. This process cannot use it any more; start another one. "
            "CUDALAUNCH_BLOCKING=1 shows the call that breaks"
        )
    if number in TOO_OLD:
        return DriverTooOldError(f"the NVIDIA driver is too old for this code ({what}): {text}; update it")
    if number == 2:
        return DeviceMemoryError(f"{what}: {text}")
    if number == 209:
        return DriverTooOldError(f"there is no code for this device ({what}): {text}; a newer toolkit may make it")
    return LaunchError(f"{what}: {text}") if number in LAUNCH and "launch" in what else DeviceError(f"{what}: {text}")

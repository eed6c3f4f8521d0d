"""The error classes of nufunc: one per kind of mistake, each also the built-in class a person would catch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Location(NamedTuple):
    """A line of the user's source: file name, line number (from 1) and the function it stands in."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        where = f'File "{self.file}", line {self.line}'
        return f"{where}, in {self.function}" if self.function else where


class NufuncError(Exception):
    """Base of all errors raised by nufunc.

    `location` is the user's line that the error is about, where one is known; it is part of the message.
    """

    def __init__(self, message: str, location: Location | None = None) -> None:
        self.location = location
        super().__init__(f"{message}\n  {location}" if location is not None else message)


class TraceError(NufuncError, TypeError):
    """A traced value was used where Python needs a concrete one, or traced code did what cannot be traced."""


class EscapedTracerError(TraceError):
    """A traced value was used after, or outside, the call that made it."""


class UnguardedCaptureError(TraceError):
    """A traced function reached an array or number in a way that cannot be looked up again at the next call."""


class MutationError(TraceError):
    """A traced function changed something whose change would be lost: a captured container, a global, a lane's
    input.
    """


class ReadOnlyError(MutationError, ValueError):
    """An assignment to an array that NumPy holds for read-only: a diagonal, the result of a broadcast."""


class ShapeError(NufuncError, ValueError):
    """Shapes that do not fit each other or an axis that does not exist."""


class DTypeError(NufuncError, TypeError):
    """A dtype that an operation or a transform does not accept."""


class ArgumentError(NufuncError, ValueError):
    """A wrong value for a parameter of a transform (argnums, in_dims, chunk_size, ...)."""


class ArgumentTypeError(NufuncError, TypeError):
    """An argument of a wrong kind, or a tree of a wrong structure."""


class BoundsError(NufuncError, IndexError):
    """An index outside the axis that it indexes."""


class DomainError(NufuncError, ValueError):
    """A value outside of what an operation is defined for."""


class LinAlgError(NufuncError, np.linalg.LinAlgError):
    """A singular or otherwise unsolvable matrix; also NumPy's own class, which is a ValueError."""


class UnsupportedError(NufuncError, NotImplementedError):
    """Something that NumPy has and nufunc does not (yet): a function, a parameter, a dtype."""


class NaNError(NufuncError, FloatingPointError):
    """A result holds a NaN, while `nf.debug_nans` looks for them."""


class RandomnessError(NufuncError, RuntimeError):
    """A draw under vmap that its `randomness` does not allow."""


class OutOfMemoryError(NufuncError, MemoryError):
    """No memory for the values of a loop that its derivative needs."""


class DeviceError(NufuncError, RuntimeError):
    """A device cannot be used, or what ran on it failed."""


class DeviceWarning(UserWarning):
    """A function of device arrays runs on the host. Results are right, but take longer."""


class NoDriverError(DeviceError):
    """There is no driver of devices, or it does not start."""


class NoDeviceError(DeviceError):
    """There is a driver, but no device of this number."""


class DriverTooOldError(DeviceError):
    """The driver is older than the packages that make code for it."""


class DeviceMemoryError(DeviceError, OutOfMemoryError):
    """No memory left on a device."""


class LaunchError(DeviceError):
    """A kernel could not be started."""


class LostDeviceError(DeviceError):
    """A kernel has broken the process's connection with the device: nothing there can be used any more."""


class VerifyError(NufuncError, RuntimeError):
    """A graph that breaks the rules of its stage: always a defect of nufunc or of a hand-written graph."""


class ParseError(NufuncError, ValueError):
    """Text that is not a graph."""

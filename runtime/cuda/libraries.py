"""Runs the library calls of a device program."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.codegen.cuda.program import Call, Operand
from nufunc.ir import primitive
from nufunc.runtime.cuda.driver import Driver


def run(call: Call, driver: Driver, addresses: Sequence[int], stream: Any) -> None:
    """Queue a call. `addresses` are those of its operands, of its results, of its workspace (0 without one) and of the
    error word, in this order."""
    if driver.simulated:
        _in_host_memory(call, addresses)
    else:
        _by_the_host(call, driver, addresses, stream)


def _evaluated(call: Call, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """The results by the primitive's own rule; None where it fails and the call says so in the error word."""
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(r) for r in primitive.get(call.prim).evaluate(arrays, call.attrs, ())]
    except np.linalg.LinAlgError:
        if not call.site:
            raise
        return None


def memory(operand: Operand, address: int) -> np.ndarray:
    """Host memory at an address as an array."""
    type_ = operand.type
    if not type_.size:
        return np.empty(type_.shape, type_.dtype)
    return np.frombuffer((ctypes.c_char * type_.nbytes).from_address(address), type_.dtype).reshape(type_.shape)


def _in_host_memory(call: Call, addresses: Sequence[int]) -> None:
    count = len(call.operands)
    error = np.frombuffer((ctypes.c_char * 4).from_address(addresses[-1]), np.int32)
    if error[0]:
        return
    given = [memory(o, a) for o, a in zip(call.operands, addresses, strict=False)]
    made = _evaluated(call, given)
    if made is None:
        error[0] = call.site
        return
    for operand, address, value in zip(call.results, addresses[count:], made, strict=False):
        memory(operand, address)[...] = value


def _by_the_host(call: Call, driver: Driver, addresses: Sequence[int], stream: Any) -> None:
    """Down, computed there, and up again."""
    count = len(call.operands)
    given = [np.empty(o.type.shape, o.type.dtype) for o in call.operands]
    for array, address in zip(given, addresses, strict=False):
        if array.size:
            driver.download(array, address, stream)
    error = np.empty(1, np.int32)
    driver.download(error, addresses[-1], stream)
    if error[0]:
        return
    made = _evaluated(call, given)
    if made is None:
        driver.upload(addresses[-1], np.array([call.site], np.int32), stream)
        return
    for operand, address, value in zip(call.results, addresses[count:], made, strict=False):
        if operand.type.size:
            driver.upload(address, np.ascontiguousarray(value, operand.type.dtype), stream)

"""nufunc: torch.func for plain NumPy code, compiled by Numba."""

# ruff: noqa: E402

import importlib
from typing import TYPE_CHECKING, Any

from nufunc.runtime.freezing import Imports

_imports = Imports()

from nufunc import tree
from nufunc.ir.errors import (
    ArgumentError,
    ArgumentTypeError,
    BoundsError,
    DeviceError,
    DeviceMemoryError,
    DeviceWarning,
    DomainError,
    DriverTooOldError,
    DTypeError,
    EscapedTracerError,
    LaunchError,
    LinAlgError,
    LostDeviceError,
    MutationError,
    NaNError,
    NoDeviceError,
    NoDriverError,
    NufuncError,
    OutOfMemoryError,
    ParseError,
    RandomnessError,
    ReadOnlyError,
    ShapeError,
    TraceError,
    UnguardedCaptureError,
    UnsupportedError,
    VerifyError,
)
from nufunc.runtime.cache import cache_info, clear_cache
from nufunc.runtime.disk_cache import CacheWarning
from nufunc.runtime.memory import set_result_cache
from nufunc.runtime.nans import debug_nans
from nufunc.runtime.threading import get_num_threads, set_num_threads
from nufunc.runtime.unwrap import debug_unwrap
from nufunc.transforms import (
    functionalize,
    grad,
    grad_and_value,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jit,
    jvp,
    linear_transpose,
    linearize,
    transform,
    value_and_grad,
    vjp,
    vmap,
)

_imports.end()

if TYPE_CHECKING:
    from nufunc import aot, debug, nn, optim, random
    from nufunc.checkpointing import checkpoint, checkpoint_name
    from nufunc.control import associative_scan, cond, fori_loop, map, scan, switch, while_loop
    from nufunc.custom import custom_jvp, custom_vjp
    from nufunc.explaining import explain
    from nufunc.host import pure_callback, stop_gradient
    from nufunc.implicit import custom_linear_solve, custom_root
    from nufunc.inspection import dump, parse, profile, report, spec, verify
    from nufunc.modules import (
        combine_state_for_ensemble,
        functional_call,
        make_functional,
        make_functional_with_buffers,
        rearrange,
        replace_all_batch_norm_modules_,
        stack_module_state,
    )
    from nufunc.on_device import Device, DeviceArray, device, devices, from_dlpack, synchronize, to_device
    from nufunc.tracer.np_namespace import numpy

    bfloat16: Any  # the scalar type of ml_dtypes, which is loaded when the name is read

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BoundsError",
    "CacheWarning",
    "DTypeError",
    "Device",
    "DeviceArray",
    "DeviceError",
    "DeviceMemoryError",
    "DeviceWarning",
    "DomainError",
    "DriverTooOldError",
    "EscapedTracerError",
    "LaunchError",
    "LinAlgError",
    "LostDeviceError",
    "MutationError",
    "NaNError",
    "NoDeviceError",
    "NoDriverError",
    "NufuncError",
    "OutOfMemoryError",
    "ParseError",
    "RandomnessError",
    "ReadOnlyError",
    "ShapeError",
    "TraceError",
    "UnguardedCaptureError",
    "UnsupportedError",
    "VerifyError",
    "aot",
    "associative_scan",
    "cache_info",
    "checkpoint",
    "checkpoint_name",
    "clear_cache",
    "combine_state_for_ensemble",
    "cond",
    "custom_jvp",
    "custom_linear_solve",
    "custom_root",
    "custom_vjp",
    "debug",
    "debug_nans",
    "debug_unwrap",
    "device",
    "devices",
    "dump",
    "explain",
    "fori_loop",
    "from_dlpack",
    "functional_call",
    "functionalize",
    "get_num_threads",
    "grad",
    "grad_and_value",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "linear_transpose",
    "linearize",
    "make_functional",
    "make_functional_with_buffers",
    "map",
    "nn",
    "numpy",
    "optim",
    "parse",
    "profile",
    "pure_callback",
    "random",
    "rearrange",
    "replace_all_batch_norm_modules_",
    "report",
    "scan",
    "set_num_threads",
    "set_result_cache",
    "spec",
    "stack_module_state",
    "stop_gradient",
    "switch",
    "synchronize",
    "to_device",
    "transform",
    "tree",
    "value_and_grad",
    "verify",
    "vjp",
    "vmap",
    "while_loop",
]  # fmt: skip


# What `import nufunc` does not load: the module that each of these names is found in.
_LATE = {
    "numpy": "nufunc.tracer.np_namespace",
    "aot": "nufunc.aot",
    "debug": "nufunc.debug",
    "nn": "nufunc.nn",
    "optim": "nufunc.optim",
    "random": "nufunc.random",
    **dict.fromkeys(("checkpoint", "checkpoint_name"), "nufunc.checkpointing"),
    **dict.fromkeys(("associative_scan", "cond", "fori_loop", "map", "scan", "switch", "while_loop"), "nufunc.control"),
    **dict.fromkeys(("custom_jvp", "custom_vjp"), "nufunc.custom"),
    **dict.fromkeys(("Device", "DeviceArray", "device", "devices", "from_dlpack", "synchronize", "to_device"),
                    "nufunc.on_device"),
    **dict.fromkeys(("explain",), "nufunc.explaining"),
    **dict.fromkeys(("pure_callback", "stop_gradient"), "nufunc.host"),
    **dict.fromkeys(("custom_linear_solve", "custom_root"), "nufunc.implicit"),
    **dict.fromkeys(("dump", "parse", "profile", "report", "spec", "verify"), "nufunc.inspection"),
    **dict.fromkeys(
        ("combine_state_for_ensemble", "functional_call", "make_functional", "make_functional_with_buffers",
         "rearrange", "replace_all_batch_norm_modules_", "stack_module_state"), "nufunc.modules",
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "bfloat16":
        from nufunc.ir.types import bfloat16

        return globals().setdefault(name, bfloat16().type)
    if name in _LATE:
        module = importlib.import_module(_LATE[name])
        found = module if _LATE[name] == f"nufunc.{name}" else getattr(module, name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'nufunc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE, "bfloat16"})

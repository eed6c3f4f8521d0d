"""nufunc: torch.func for plain NumPy code, compiled by Numba."""

from typing import TYPE_CHECKING, Any

from nufunc import debug, random, tree
from nufunc.control import associative_scan, cond, fori_loop, map, scan, switch, while_loop
from nufunc.custom import custom_jvp, custom_vjp
from nufunc.dumping import dump, spec
from nufunc.host import pure_callback, stop_gradient
from nufunc.implicit import custom_linear_solve, custom_root
from nufunc.ir.errors import (
    ArgumentError,
    ArgumentTypeError,
    BoundsError,
    DomainError,
    DTypeError,
    EscapedTracerError,
    LinAlgError,
    MutationError,
    NufuncError,
    RandomnessError,
    ShapeError,
    TraceError,
    UnguardedCaptureError,
    UnsupportedError,
)
from nufunc.runtime.cache import cache_info, clear_cache
from nufunc.runtime.threading import get_num_threads, set_num_threads
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

if TYPE_CHECKING:
    from nufunc.tracer.np_namespace import numpy

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BoundsError",
    "DTypeError",
    "DomainError",
    "EscapedTracerError",
    "LinAlgError",
    "MutationError",
    "NufuncError",
    "RandomnessError",
    "ShapeError",
    "TraceError",
    "UnguardedCaptureError",
    "UnsupportedError",
    "associative_scan",
    "cache_info",
    "clear_cache",
    "cond",
    "custom_jvp",
    "custom_linear_solve",
    "custom_root",
    "custom_vjp",
    "debug",
    "dump",
    "fori_loop",
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
    "map",
    "numpy",
    "pure_callback",
    "random",
    "scan",
    "set_num_threads",
    "spec",
    "stop_gradient",
    "switch",
    "transform",
    "tree",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "numpy":
        from nufunc.tracer.np_namespace import numpy

        return numpy
    raise AttributeError(f"module 'nufunc' has no attribute {name!r}")

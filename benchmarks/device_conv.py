"""Convolutions on a device and both their cotangents, beside torch's and JAX's: a part of device.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import nufunc as nf

Timer = Callable[..., float]  # of a call, with `wait`
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, int]]] = {  # of x and the weight; options
    "32x64x56x56, 64 of 3x3": ((32, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "32x128x28x28, 256 of 3x3, stride 2": ((32, 128, 28, 28), (256, 128, 3, 3), {"padding": 1, "stride": 2}),
    "32x256x14x14, 256 of 3x3": ((32, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
    "32x256x14x14, 1024 of 1x1": ((32, 256, 14, 14), (1024, 256, 1, 1), {}),
    "32x3x224x224, 64 of 7x7, stride 2": ((32, 3, 224, 224), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
    "32x128x28x28, depthwise 3x3": ((32, 128, 28, 28), (128, 1, 3, 3), {"padding": 1, "groups": 128}),
    "8x3x16x16, 8 of 3x3": ((8, 3, 16, 16), (8, 3, 3, 3), {"padding": 1}),
}
LIBRARIES = ("nufunc", "own kernels", "torch", "JAX")


@contextmanager
def setting(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def nufunc_times(x: Any, w: Any, ct: Any, options: dict[str, int], timer: Timer) -> list[float | None]:
    conv = lambda x, w: nf.nn.functional.conv2d(x, w, **options)
    forward = nf.jit(conv)
    both = nf.jit(lambda x, w, ct: nf.vjp(conv, x, w)[1](ct))
    return [timer(lambda: forward(x, w)), timer(lambda: both(x, w, ct))]


def own_times(*args: Any) -> list[float | None]:
    with setting("NUFUNC_CUDA_LIBRARIES", "own"):
        nf.clear_cache()
        found = nufunc_times(*args)
    nf.clear_cache()
    return found


def torch_times(x: Any, w: Any, ct: Any, options: dict[str, int], timer: Timer) -> list[float | None]:
    try:
        import torch
    except ImportError:
        return [None, None]
    if not torch.cuda.is_available():
        return [None, None]
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    x, w, ct = (torch.from_dlpack(a) for a in (x, w, ct))
    stride, padding = ([options.get(name, default)] * 2 for name, default in (("stride", 1), ("padding", 0)))
    given = (x, w, None, stride, padding, [1, 1], False, [0, 0], options.get("groups", 1), [True, True, False])
    calls = (
        lambda: torch.nn.functional.conv2d(x, w, **options),
        lambda: torch.ops.aten.convolution_backward(ct, *given),
    )
    return [timer(call, wait=torch.cuda.synchronize) for call in calls]


def jax_times(x: Any, w: Any, ct: Any, options: dict[str, int], timer: Timer) -> list[float | None]:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # nufunc and torch have memory of this device, too
    try:
        import jax
    except ImportError:
        return [None, None]
    if jax.default_backend() != "gpu":
        return [None, None]
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")  # float32, as the others
    arrays = [jax.numpy.from_dlpack(a) for a in (x, w, ct)]
    pad, stride, groups = (options.get(k, d) for k, d in (("padding", 0), ("stride", 1), ("groups", 1)))

    def conv(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(x, w, (stride,) * 2, [(pad, pad)] * 2, feature_group_count=groups)

    forward, both, made = jax.jit(conv), jax.jit(lambda x, w, ct: jax.vjp(conv, x, w)[1](ct)), []

    def call(function: Any, *given: Any) -> None:
        made[:] = [function(*given)]

    wait = lambda: jax.block_until_ready(made)
    return [timer(lambda: call(forward, *arrays[:2]), wait=wait), timer(lambda: call(both, *arrays), wait=wait)]


def convolutions(elements: int, timer: Timer) -> list[str]:
    """The lines of a page."""
    lines = ["## Convolutions", ""]
    lines += ["TFLOP/s of a convolution, and of the cotangents of both its arguments, without TF32 and deterministic;"]
    lines += ["nufunc calls cuDNN where it is installed.", ""]
    lines += [f"| convolution | dtype | what | {' | '.join(LIBRARIES)} |"]
    lines += ["| --- | --- | --- |" + " ---: |" * len(LIBRARIES)]
    for name, (shape, weight, options) in SHAPES.items():
        if np.prod(shape) > elements:
            continue
        for dtype in (np.float32, np.float16, nf.bfloat16, np.float64):
            random = np.random.default_rng(0)
            x, w = (nf.to_device((random.standard_normal(s) / 8).astype(dtype)) for s in (shape, weight))
            ct = nf.jit(lambda x, w: nf.nn.functional.conv2d(x, w, **options))(x, w)  # noqa: B023
            times = [f(x, w, ct, options, timer) for f in (nufunc_times, own_times, torch_times, jax_times)]
            work = 2.0 * ct.size * np.prod(weight[1:])
            for k, (what, count) in enumerate((("forward", work), ("cotangents", 2 * work))):
                speeds = " | ".join("" if t[k] is None else f"{count / t[k] / 1e12:.2f}" for t in times)
                lines.append(f"| {name} | {np.dtype(dtype).name} | {what} | {speeds} |")
                print(lines[-1], flush=True)
    return lines

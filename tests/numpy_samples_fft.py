"""Samples of numpy.fft: every function, along any axis, cropped and padded, in every norm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy_sample_arrays import CUBE, F32, C, F, I, Sample, V, one

Z = CUBE + 1j * CUBE[::-1]
NORMS = (None, "backward", "ortho", "forward")


def fft() -> Iterator[Sample]:
    for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
        real = name in ("rfft", "ihfft")
        x = F if real else C
        for norm in NORMS:
            yield from one(f"fft.{name}", x, norm=norm)
        for n in (1, 2, 3, 6, 7):
            yield from one(f"fft.{name}", x, n)
        yield from one(f"fft.{name}", x, axis=0)
        yield from one(f"fft.{name}", CUBE if real else Z, 5, 1, "ortho")
        yield from one(f"fft.{name}", F32 if real else C.astype(np.complex64), rtol=1e-5)
        yield from one(f"fft.{name}", V)
        yield from one(f"fft.{name}", I)
        yield from one(f"fft.{name}", np.zeros((0, 3)))
    yield from _several_axes()
    for x in (V, F, C):
        yield from one("fft.fftshift", x)
        yield from one("fft.ifftshift", x)
    yield from one("fft.fftshift", CUBE, axes=(0, 2))
    yield from one("fft.ifftshift", CUBE, axes=1)
    for n in (4, 5):
        yield Sample(f"fft.fftfreq({n})", lambda np_, d, n=n: np_.fft.fftfreq(n, d), (np.array(0.25),))
        yield Sample(f"fft.rfftfreq({n})", lambda np_, d, n=n: np_.fft.rfftfreq(n, d), (np.array(0.25),))


def _several_axes() -> Iterator[Sample]:
    for name in ("fftn", "ifftn", "rfftn", "irfftn", "fft2", "ifft2", "rfft2", "irfft2"):
        x = CUBE if name.startswith("rfft") else Z
        for norm in (None, "ortho", "forward"):
            yield from one(f"fft.{name}", x, norm=norm)
        yield from one(f"fft.{name}", x, axes=(0, 1))
        yield from one(f"fft.{name}", x, s=(5, 2), axes=(2, 0))
        yield from one(f"fft.{name}", x, s=(-1, 6), axes=(0, 2), norm="forward")
    yield from one("fft.fftn", Z, axes=(1, 1))

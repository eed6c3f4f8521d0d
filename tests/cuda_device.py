"""Which device the tests of the public way to devices use: one of host memory, with NUFUNC_TEST_DEVICE=hardware the
first that there is, with NUFUNC_TEST_DEVICE=strict two of the strict stand-in of NVIDIA's driver."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

STRICT = os.environ.get("NUFUNC_TEST_DEVICE") == "strict"
HARDWARE = STRICT or os.environ.get("NUFUNC_TEST_DEVICE") == "hardware"


@contextmanager
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two devices of the strict stand-in."""
    from fake_cuda import FakeCuda, installed

    with installed(monkeypatch, FakeCuda(devices=2, total=1 << 32)):
        yield


@pytest.fixture(autouse=True)
def device(monkeypatch):
    import nufunc as nf

    monkeypatch.setenv("NUFUNC_CUDA_FALLBACK", "0")  # nothing runs on the host unnoticed
    if not HARDWARE:
        monkeypatch.setenv("NUFUNC_CUDA_SIMULATOR", "1")
    with strict(monkeypatch) if STRICT else nullcontext():
        yield nf.device("cuda:0")
        nf.synchronize()

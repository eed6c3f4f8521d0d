"""Which device the tests of the public way to devices use: one of host memory, or with NUFUNC_TEST_DEVICE=hardware the
first that there is."""

import os

import pytest

HARDWARE = os.environ.get("NUFUNC_TEST_DEVICE") == "hardware"


@pytest.fixture(autouse=True)
def device(monkeypatch):
    import nufunc as nf

    monkeypatch.setenv("NUFUNC_CUDA_FALLBACK", "0")  # nothing runs on the host unnoticed
    if not HARDWARE:
        monkeypatch.setenv("NUFUNC_CUDA_SIMULATOR", "1")
    yield nf.device("cuda:0")
    nf.synchronize()

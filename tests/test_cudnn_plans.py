"""Convolutions that nufunc asks cuDNN for, planned by the real library for a device that is not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TENSOR_CORE, DOWN_CONVERT, HALF_SUMS, FFT, NONDETERMINISTIC = range(5)
STAND_IN = """
#define REFUSE(name) int name(void) { return 100; }
REFUSE(cuGetErrorString) REFUSE(cuModuleGetFunction) REFUSE(cuModuleLoadData) REFUSE(cuModuleUnload)
REFUSE(cuTensorMapEncodeIm2col) REFUSE(cuTensorMapEncodeTiled)
"""


def test_plans_of_the_real_library(tmp_path: Path) -> None:
    """All forms have one, in the precision and the memory that was asked for."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and Linux")
    source, library = tmp_path / "cuda.c", tmp_path / "libcuda.so.1"
    source.write_text(STAND_IN)
    subprocess.run([compiler, "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, source], check=True)
    program = Path(__file__).with_name("cudnn_plans.py")
    done = subprocess.run(
        [sys.executable, program, library], env={**os.environ, "NUFUNC_CUDA_TF32": ""}, capture_output=True, text=True
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("cuDNN is not installed, or older than 9.11")
    assert not done.returncode, done.stderr
    plans = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(plans) >= 13 * 3 * 4
    for plan in plans:
        assert plan["workspace"] is not None, plan
        assert plan["workspace"] <= plan["limit"], plan
        assert not {HALF_SUMS, FFT, NONDETERMINISTIC} & set(plan["notes"]), plan
        if plan["dtype"] == "float32" and not plan["tf32"]:
            assert not {TENSOR_CORE, DOWN_CONVERT} & set(plan["notes"]), plan
    on_tensor_cores = [p for p in plans if TENSOR_CORE in p["notes"]]
    assert {p["dtype"] for p in on_tensor_cores} >= {"float32", "float16"}
    assert {p["operation"] for p in on_tensor_cores} == {"fprop", "dgrad", "wgrad"}

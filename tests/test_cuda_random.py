"""Random programs on a device: in-place NumPy code, control flow of Python's own, loops with their derivatives.

A few of each; `python tests/fuzz.py --target cuda --compiled all --programs 5000 --loops 500` is the long run.
"""

import numpy as np
import pytest
from cuda_device import HARDWARE, device  # noqa: F401  (a fixture)
from random_loops import fuzz_loops
from random_programs import (
    COMPILED,
    PlainFlow,
    RandomChooser,
    aliases,
    check_program,
    close,
    eager,
    random_program,
    runs_in_numpy,
)
from staging_programs import check_staging_program

import nufunc as nf


@pytest.fixture(autouse=True)
def _there(device):  # noqa: F811
    before = HARDWARE or device.driver.counts["launch"]
    with device:
        yield
    assert HARDWARE or device.driver.counts["launch"] > before, "nothing ran on the device"


@pytest.mark.parametrize("block", range(5))
def test_programs(block):
    for seed in range(8 * block, 8 * block + 8):
        check_program(random_program(RandomChooser(50_000 + seed), steps=10), seed, COMPILED)


def windows(program, seed):
    """The program's arguments as overlapping windows of one piece of the device's memory."""
    given = aliases(program, seed)
    space = given[0].base
    there = nf.to_device(space)
    found = []
    for x in given:
        start = (x.__array_interface__["data"][0] - space.__array_interface__["data"][0]) // 8
        step = next((s // 8 for n, s in zip(reversed(x.shape), reversed(x.strides), strict=True) if n > 1), 1)
        stop = start + step * x.size
        found.append(there[start : stop if stop >= 0 else None : step].reshape(x.shape))
    return given, found


@pytest.mark.parametrize("block", range(4))
def test_overlapping_arguments(block):
    for seed in range(10 * block, 10 * block + 10):
        program = random_program(RandomChooser(80_000 + seed), steps=8)
        given, there = windows(program, seed)
        if not runs_in_numpy(program, given):
            continue
        outputs, final = eager(program.lifted(PlainFlow), given)
        found = nf.jit(program.lifted(nf))(*there)
        for got, wanted in zip([*found, *there], [*outputs, *final], strict=True):
            close(np.asarray(got), wanted, "on the device", program.source)
    nf.clear_cache()


@pytest.mark.parametrize("block", range(2))
def test_loops(block):
    for seed in range(4 * block, 4 * block + 4):
        fuzz_loops(60_000 + seed)


@pytest.mark.parametrize("block", range(4))
def test_staging(block):
    for seed in range(10 * block, 10 * block + 10):
        check_staging_program(70_000 + seed)


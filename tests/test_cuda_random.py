"""Random programs on a device: in-place NumPy code, control flow of Python's own, loops with their derivatives.

A few of each; `python tests/fuzz.py --target cuda --compiled all --programs 5000 --loops 500` is the long run.
"""

import pytest
from cuda_device import HARDWARE, device  # noqa: F401  (a fixture)
from random_loops import fuzz_loops
from random_programs import COMPILED, RandomChooser, check_program, random_program
from staging_programs import check_staging_program


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


@pytest.mark.parametrize("block", range(2))
def test_loops(block):
    for seed in range(4 * block, 4 * block + 4):
        fuzz_loops(60_000 + seed)


@pytest.mark.parametrize("block", range(4))
def test_staging(block):
    for seed in range(10 * block, 10 * block + 10):
        check_staging_program(70_000 + seed)


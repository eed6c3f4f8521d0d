"""Random imperative NumPy programs: plain NumPy == interpreter == compiled == each lane under vmap.

A bounded, repeatable number of them; `python tests/fuzz.py --programs 20000` is the long run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_programs import (
    WAYS,
    PlainFlow,
    Program,
    RandomChooser,
    check_program,
    drawn_ways,
    random_program,
    runs_in_numpy,
)

# Shrinking a failure takes minutes, with a compilation per step: NUFUNC_SHRINK=1 asks for it.
PHASES = [Phase.generate, Phase.shrink] if os.environ.get("NUFUNC_SHRINK") else [Phase.generate]
BOUNDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=PHASES,
    report_multiple_bugs=False,
)


class DrawnChooser:
    """Choices made by hypothesis, which tries smaller ones when a program fails."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))


@st.composite
def programs(draw: st.DrawFn, steps: int) -> Program:
    return random_program(DrawnChooser(draw), steps)


@settings(BOUNDED, max_examples=15)
@given(programs(8))
def test_interpreter_equals_numpy(program: Program) -> None:
    check_program(program, 0, ("interpreter",))


@settings(BOUNDED, max_examples=12)
@given(programs(6))
def test_compiled_equals_numpy(program: Program) -> None:
    check_program(program, 1, ("jit",))


@settings(BOUNDED, max_examples=8)
@given(programs(5))
def test_lanes_equal_numpy(program: Program) -> None:
    check_program(program, 2, ("vmap",))


@pytest.mark.parametrize("way", WAYS)
def test_longer_programs(way: str) -> None:
    for seed in range(6):
        check_program(random_program(RandomChooser(1000 + seed), steps=12), seed, (way,))


@pytest.mark.parametrize("block", range(25))
def test_a_thousand_programs(block: int) -> None:
    """Each program in three ways, every second one in one of them as machine code."""
    for seed in range(40 * block, 40 * block + 40):
        ways, compiled = drawn_ways(seed // 2, 3)
        check_program(random_program(RandomChooser(seed), steps=10), seed, ways, compiled if seed % 2 else ())


@pytest.mark.slow
def test_a_thousand_programs_in_every_way() -> None:
    for seed in range(5000, 6000):
        check_program(random_program(RandomChooser(seed), steps=10), seed)


def test_programs_are_not_trivial() -> None:
    """The generator writes in place, branches and loops, and its programs run in NumPy."""
    sources = []
    for seed in range(300):
        program = random_program(RandomChooser(seed))
        if runs_in_numpy(program, program.arguments(seed)):
            sources.append(program.source)
    assert len(sources) > 285
    for construct in (
        "flow.cond",
        "flow.fori_loop",
        "flow.scan",
        "flow.while_loop",
        "] +=",
        "] = ",
        ".moveaxis",
        "reshape",
        "for _",
        "out=",
        ".at(",
        ".sort(",
        "np.put",
        "where=",
        ".flat",
        "ravel(order=",
        ".imag",
        "order='F'",
    ):
        assert sum(construct in source for source in sources) > 5, construct


def test_plain_flow_is_python() -> None:
    assert PlainFlow.fori_loop(0, 3, lambda i, c: c + i, 1.0) == 4.0
    assert PlainFlow.while_loop(lambda c: c < 10, lambda c: c * 2, 1) == 16


def test_the_long_run_starts() -> None:
    command = [
        sys.executable,
        str(Path(__file__).parent / "fuzz.py"),
        "--programs",
        "1",
        "--graphs",
        "3",
        "--seed",
        "5",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 programs in" in done.stdout
    assert "3 graphs in" in done.stdout


NESTED_BRANCHES = """
def program(x, y):
    v = x[:]
    x += 0.25
    w = np.zeros((2,))
    def outer():
        def inner():
            v[::-1] = v * np.tanh(x)
            return y + np.sin(w)
        z = flow.cond(np.sum(y) > 0.25, inner, lambda: y + y)
        return x * 3.0
    return flow.cond(np.sum(w) > 0.25, lambda: 2 + x, outer), y
"""


@pytest.mark.parametrize("seed", range(4))
def test_branches_within_branches_that_write(seed: int) -> None:
    """Found by fuzzing: the inner branch needs memory of its own in the outer one."""
    check_program(Program(NESTED_BRANCHES, ((4,), (2, 2), (2,))), seed)

"""A long loop in compiled code ends when a signal's handler raises, as Python code would."""

import signal
import threading
import time

import numpy as np
import pytest

import nufunc as nf


class Enough(Exception):
    """What the handler raises."""


def _raise(number, frame):
    raise Enough


@pytest.fixture
def alarm():
    before = signal.signal(signal.SIGALRM, _raise)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals here"),
    pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="not in the main thread"),
]


def endless(x):
    return nf.while_loop(lambda s: s[0] > 0, lambda s: (s[0] + 1.0, np.sin(s[1])), (np.abs(x) + 1.0, x))


def long(x):
    return nf.fori_loop(0, 10**9, lambda i, v: np.sin(v) * 1.0001, x)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("function", [endless, long])
def test_a_signal_ends_a_loop(function, native, alarm, monkeypatch):
    if not native:
        monkeypatch.setenv("NUFUNC_NO_NATIVE_CALL", "1")
    compiled = nf.jit(function)
    start = time.perf_counter()
    alarm(2.0)
    with pytest.raises(Enough):
        compiled(0.5)
    assert 1 < time.perf_counter() - start < 60


def test_loops_that_end_are_not_disturbed():
    assert nf.jit(lambda x: nf.while_loop(lambda v: v < 1e6, lambda v: v + 1.0, x))(0.0) == 1e6

"""How many threads compiled functions use: Numba's own setting, of the calling thread."""

from __future__ import annotations

import operator
import os

from nufunc.ir.errors import ArgumentError, ArgumentTypeError


def set_num_threads(n: int) -> None:
    """Let calls from this thread use at most `n` threads.

    The setting is Numba's (`numba.set_num_threads`): each Python thread has its own, its first value is
    NUMBA_NUM_THREADS (by default the number of cores), which is also the largest. Results do not depend on it.

    Raises ArgumentTypeError (a TypeError) if `n` is no integer, ArgumentError (a ValueError) if it is not
    between 1 and NUMBA_NUM_THREADS.
    """
    from nufunc.codegen import threads
    from nufunc.runtime.stored import attach

    try:
        number = operator.index(n)
    except TypeError as error:
        raise ArgumentTypeError(f"the number of threads is an integer, got {n!r}") from error
    largest = threads.most_threads()
    if not 1 <= number <= largest:
        raise ArgumentError(f"the number of threads is between 1 and {largest} (NUMBA_NUM_THREADS), got {n!r}")
    attach()
    started = threads.threads()
    if started.limit > 1 and started.home == os.getpid():
        import numba

        numba.set_num_threads(number)


def get_num_threads() -> int:
    """How many threads a call from this thread may use: 1 in a child forked after the threads had started."""
    from nufunc.codegen import threads
    from nufunc.runtime.stored import attach

    attach()
    return int(threads.threads().mask())

"""How much memory of dead results is kept for the results of later calls."""

from __future__ import annotations

import operator

from nufunc.ir.errors import ArgumentError, ArgumentTypeError


def set_result_cache(max_bytes: int) -> int:
    """Keep at most `max_bytes` of the memory of large results that are no more; returns the limit before.

    Results of a megabyte and more take memory that earlier ones left, which saves the system's work for new pages: some
    40 % of the time of a function that does little more than to write its result. By default up to 256 MB are kept in
    the whole process, in at most 32 blocks; on Linux the system may take those of 4 MB and more back whenever it runs
    short of memory. With 0 nothing is kept, and what is kept now is given back at once.

    Raises ArgumentTypeError (a TypeError) if `max_bytes` is no integer, ArgumentError (a ValueError) if it is negative.
    """
    from nufunc.codegen import result_pool

    try:
        number = operator.index(max_bytes)
    except TypeError as error:
        raise ArgumentTypeError(f"max_bytes is an integer, got {max_bytes!r}") from error
    if not 0 <= number < 1 << 62:
        raise ArgumentError(f"max_bytes is between 0 and 2**62, got {max_bytes!r}")
    return result_pool.set_limit(number)

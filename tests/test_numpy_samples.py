"""Every sample of NumPy: traced and interpreted, also after functionalize, it gives NumPy's values, shapes
and dtypes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy_harness as harness
import pytest
from numpy_samples import SAMPLES

from nufunc.tracer.array import Array


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_like_numpy(sample: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's warnings of means of nothing and of overflow
        wanted = harness.expected(sample.call, *sample.args)
    for pure in (False, True):
        actual = harness.run(sample.call, *sample.args, pure=pure)
        assert len(actual) == len(wanted)
        for a, w in zip(actual, wanted, strict=True):
            harness.assert_same(a, w, sample.rtol)


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_scalars_and_arrays_apart(sample: Any) -> None:
    """A 0-d result is a NumPy scalar where NumPy gives one, and an array where it gives that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = harness.expected(sample.call, *sample.args)
    _, flat = harness.trace(sample.call, *sample.args)
    for a, w in zip(flat, wanted, strict=True):
        if isinstance(a, Array) and not a.shape:
            assert a.scalar == isinstance(w, (np.generic, bool))

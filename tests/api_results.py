"""What the tests of the public interface share: comparison of result trees."""

import numpy as np


def same(got, expected, rtol=1e-10):
    """Equal containers, shapes, dtypes and numbers."""
    if expected is None or isinstance(expected, str):
        assert got == expected
    elif isinstance(expected, (dict, list, tuple)):
        assert type(got) is type(expected)
        assert len(got) == len(expected)
        if isinstance(expected, dict):
            assert list(got) == list(expected)
            got, expected = got.values(), expected.values()
        for g, e in zip(got, expected, strict=True):
            same(g, e, rtol)
    else:
        expected = np.asarray(expected)
        assert isinstance(got, (np.ndarray, np.generic))
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-12)

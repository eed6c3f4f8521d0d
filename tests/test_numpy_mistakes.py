"""The forms of NumPy with wrong or other arguments: NumPy's value, or an error of the class that NumPy raises.

A part of the forms by default, all of them with `-m slow`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy_forms import FORMS
from numpy_mistakes import mistakes

SECTIONS = list(dict.fromkeys(f.section for f in FORMS))


def _check(forms: list) -> None:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for form in forms:
        own, differing = mistakes(form)
        counts += own
        wrong += differing
    assert not wrong, "\n".join(wrong)
    assert counts["class"] <= 0.05 * counts.total() + 2


def test_a_part() -> None:
    _check(FORMS[::50])


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_all(section: str) -> None:
    _check([f for f in FORMS if f.section == section])


def test_the_check_sees_differences() -> None:
    """The generator really changes forms, and NumPy really refuses a good part of the changes."""
    counts, _ = mistakes(next(f for f in FORMS if f.code == "np.sum(c, keepdims=True)"))
    assert counts.total() > 10
    assert not set(counts) - {"", "class"}
    with pytest.raises(TypeError):
        np.sum(np.ones(3), keepdims="bogus")

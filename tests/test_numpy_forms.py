"""Every form of NumPy in numpy_forms.txt, under every check; a test is a section of the table under one check.

The checks run in the interpreter; a part of the forms is compiled as well, all of them with `-m slow`.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from coverage_page import CHECKS, PAGE, outcome, page
from numpy_forms import FORMS, Form, compare, compiled, derivatives_of_second_order, expand

SECTIONS = list(dict.fromkeys(f.section for f in FORMS))


def of(section: str) -> list[Form]:
    return [f for f in FORMS if f.section == section]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("section", SECTIONS)
def test_forms(section: str, check: str) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        wrong = [f"{f.code}  ::  {said}" for f in of(section) if (said := outcome(f, check))]
    assert not wrong, "\n".join(wrong)


def chosen(step: int) -> list[Form]:
    return [f for f in FORMS if not f.refuses][::step]


def test_compiled() -> None:
    wrong = [f"{f.code}  ::  {said}" for f in chosen(60) if (said := compiled(f))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_all_compiled(section: str) -> None:
    wrong = [f"{f.code}  ::  {said}" for f in of(section) if not f.refuses and (said := compiled(f))]
    assert not wrong, "\n".join(wrong)


def test_second_derivatives() -> None:
    wrong = [f"{f.code}  ::  {said}" for f in chosen(25) if (said := derivatives_of_second_order(f))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_all_second_derivatives(section: str) -> None:
    wrong = [f"{f.code}  ::  {said}" for f in of(section) if (said := derivatives_of_second_order(f))]
    assert not wrong, "\n".join(wrong)


def test_the_page_is_true() -> None:
    """The counts and the forms that the page names are those of the table; that they hold, say the tests above."""
    assert PAGE.read_text() == page()


def test_alternatives() -> None:
    assert list(expand("f({x|y, {1: 2}})[{0|1}]")) == ["f(x)[0]", "f(x)[1]", "f(y, {1: 2})[0]", "f(y, {1: 2})[1]"]
    assert list(expand("a {b \\| c}")) == ["a {b \\| c}"]


def test_comparison_sees_differences() -> None:
    assert compare([np.float64(1.0)], [np.float64(1.0)], 1e-12) == ""
    assert "values" in compare([np.array([1.0])], [np.array([1.1])], 1e-12)
    assert "shape" in compare([np.array([1.0])], [np.array(1.0)], 1e-12)
    assert "dtype" in compare([np.array([1.0])], [np.array([1.0], np.float32)], 1e-12)
    assert "signs" in compare([np.array([0.0])], [np.array([-0.0])], 1e-12)

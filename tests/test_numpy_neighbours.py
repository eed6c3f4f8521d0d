"""Derivatives of the forms of NumPy beside JAX's and torch's: jvp and vjp, real and complex.

A part of the forms by default, all of them with `-m slow`.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_forms import FORMS, Form
from numpy_neighbours import expected_to_differ, neighbours

import nufunc as nf

pytest.importorskip("jax")
pytest.importorskip("torch")
SECTIONS = list(dict.fromkeys(f.section for f in FORMS))


def differing(forms: list[Form]) -> list[str]:
    """What differs without a reason that is known."""
    found = [(form, *neighbours(form)) for form in forms]
    return [
        f"{form.code}  ::  {who}: {outcome.said}"
        for form, who, outcome in found
        if outcome.kind == "differs" and not expected_to_differ(form)
    ]


def test_a_part() -> None:
    wrong = differing(FORMS[::200])
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_all(section: str) -> None:
    wrong = differing([f for f in FORMS if f.section == section])
    assert not wrong, "\n".join(wrong)


def test_most_forms_are_compared() -> None:
    """The check does compare: a well-known form is one that JAX has, and a write to an array is put in its words."""
    by_name = {f.code: f for f in FORMS}
    for code in ("np.sin(z)", "r = x.copy(); r[1] = s; r", "np.arctan2.reduce(p)"):
        assert neighbours(by_name[code])[1].kind == "compared"


def test_complex_gradients_are_the_conjugates_of_those_of_jax() -> None:
    """At the boundary; the graphs compared above conjugate nothing."""
    import jax

    jax.config.update("jax_enable_x64", True)
    z = np.array([0.3 - 1.2j, 2.0 + 0.5j])
    for name in ("sin", "exp", "sqrt", "tanh"):
        ours = nf.grad(lambda z, name=name: np.abs(getattr(np, name)(z)).sum())(z)
        theirs = jax.grad(lambda z, name=name: abs(getattr(jax.numpy, name)(z)).sum())(z)
        np.testing.assert_allclose(ours, np.conj(theirs), rtol=1e-12)

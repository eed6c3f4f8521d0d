"""docs/coverage.md: what of NumPy works, form by form, written from the table of numpy_forms.txt by running it.

`python tests/coverage_page.py` writes the page; with words behind it, it lists what fails in the sections whose titles
hold one of them: `python tests/coverage_page.py linear FFT`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy_forms
from numpy_forms import FORMS, Form

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
CHECKS = {
    "value": numpy_forms.forward,
    "derivative": numpy_forms.derivatives,
    "vmap": numpy_forms.batched,
    "float32": numpy_forms.single_precision,
    "empty": numpy_forms.empty,
    "0-d": numpy_forms.zero_dim,
}


def outcome(form: Form, check: str) -> str | None:
    """What is wrong with a form under a check: "" nothing, None where the question does not arise."""
    if form.refuses:
        return numpy_forms.is_refused(form) if check == "value" else None
    return CHECKS[check](form)


def listing(words: list[str]) -> None:
    """Print what fails in some sections."""
    chosen = [f for f in FORMS if any(w.lower() in f.section.lower() or w in f.code for w in words)]
    for check in CHECKS:
        results = [(f, outcome(f, check)) for f in chosen]
        wrong = [(f, r) for f, r in results if r]
        print(f"== {check}: {len(wrong)} of {sum(r is not None for _, r in results)} fail")
        for form, result in wrong:
            print(f"{form.code}  ::  {result}")


if __name__ == "__main__":
    listing(sys.argv[1:])

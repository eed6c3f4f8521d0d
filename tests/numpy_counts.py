"""How many forms of each function pass which check: the numbers of docs/coverage.md, counted by running every form."""

from __future__ import annotations

import multiprocessing
import re
import warnings
from collections import Counter

import numpy as np
import numpy_forms
from numpy_forms import FORMS, Form
from numpy_mistakes import mistakes
from numpy_neighbours import expected_to_differ, neighbours

# Columns of the table: of how many forms something holds; of the last two, of how many changed forms.
COLUMNS = (
    "derivatives", "second order", "JAX", "torch", "vmap", "float32", "empty", "0-d", "other arguments",
    "another error",
)  # fmt: skip
FUNCTION = re.compile(r"(?:np|special|linalg|math)(?:\.[a-zA-Z_]\w*)+")
CHECKS = {
    "derivatives": numpy_forms.derivatives,
    "second order": numpy_forms.derivatives_of_second_order,
    "vmap": lambda form: numpy_forms.batched(form, everything=True),
    "float32": numpy_forms.single_precision,
    "empty": numpy_forms.empty,
    "0-d": numpy_forms.zero_dim,
}


def subject(form: Form) -> str:
    """The function, method or kind of indexing that a form is about."""
    found = FUNCTION.search(form.code)
    if form.section.startswith("Indexing") or found is None:
        return "operators and attributes" if not form.section.startswith("Indexing") else form.section
    return found[0]


def counted(form: Form) -> tuple[str, Counter[str], list[str]]:
    """The form's subject, its counts, and what went wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    if form.refuses:
        return subject(form), counts, wrong
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for name, check in CHECKS.items():
            said = check(form)
            counts[name] += said == ""
            if said:
                wrong.append(f"{name}: {form.code}  ::  {said}")
        who, outcome = neighbours(form)
        counts[who] += outcome.kind == "compared"
        counts["beside " + outcome.kind] += 1
        if outcome.kind == "differs" and not expected_to_differ(form):
            wrong.append(f"{who}: {form.code}  ::  {outcome.said}")
        changed, differing = mistakes(form)
    counts["other arguments"] += changed.total()
    counts["another error"] += changed.total() - changed[""]
    for kind, number in changed.items():
        counts["mistake " + kind] += number
    return subject(form), counts, wrong + differing


def measure(processes: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """The counts of every subject, and of all together under ""; and everything that went wrong."""
    rows: dict[str, Counter[str]] = {"": Counter()}
    wrong: list[str] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for name, counts, said in pool.imap(counted, FORMS, chunksize=40):
            rows.setdefault(name, Counter()).update(counts)
            rows[""].update(counts)
            wrong += said
    return rows, wrong

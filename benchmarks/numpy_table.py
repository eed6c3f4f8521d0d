"""Each function of NumPy's beside nufunc on a million elements: `python benchmarks/numpy_table.py` writes
results/numpy_table.md.

The forms are those of tests/numpy_forms.txt, with the arrays of the table made large; of each function and kind of
operands one form. Both run on one thread, in turns in one process; the fastest of several turns counts.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import coverage_page
import numpy_forms
from numpy_forms import Form

import nufunc as nf

RESULTS = Path(__file__).parent / "results" / "numpy_table.md"
SMALL = ("Linear algebra", "scipy.linalg")  # sides of 200 instead of 1000
SKIPPED = ("Creation", "Indexing, reading", "Numbers of other kinds")
# of a result per row or element, or of more than a million elements
EACH = (" for ", "unstack", "list(", "(lambda p, q, r", "sum(v)", "min(v)", "kron", "outer", "toeplitz", "hankel")
TURNS, SLOWEST = 7, 20


def enlarged(name: str, side: int) -> np.ndarray:
    """An array of the table, with `side` in place of its extents and values like its own."""
    a = numpy_forms.ARRAYS[name]
    rng = np.random.default_rng(3)
    if name in ("m", "m32", "zh", "a", "zm", "mb"):
        root = rng.normal(size=(side, side)) / side**0.5
        square = root @ root.T + np.eye(side) if name != "a" else root + 3 * np.eye(side)
        return (np.stack([square] * 2) if name == "mb" else square).astype(a.dtype)
    if name in ("idx", "idy", "lidx", "oidx", "iv", "iv2"):
        return np.sort(rng.integers(0, side, side)) if name == "oidx" else rng.integers(0, side, side)
    if a.ndim == 0:
        return a
    line = side * side if name in ("l", "f", "fr") else side
    shape = {1: (line,), 2: (side, side), 3: (side // 10, side, 10)}[a.ndim]
    if name == "k":
        shape = (side, 1)
    if a.size == 0:
        return a
    made = np.resize(a, shape)
    if a.dtype.kind in "fc" and name not in ("f", "fr", "n"):
        made = (made * rng.uniform(0.9, 1.0, shape)).astype(a.dtype)
    return np.sort(made) if name in ("o3", "o4") else made


def chosen() -> list[Form]:
    """One form of each function and kind of operands."""
    found: dict[tuple[Any, ...], Form] = {}
    for form in numpy_forms.FORMS:
        if form.refuses or form.section in SKIPPED or not form.args or any(word in form.code for word in EACH):
            continue
        kinds = tuple(a.dtype.str for a in form.args)
        if form.section in ("Methods of ufuncs", "Keywords of ufuncs", "Reductions", "Statistics"):
            kinds = tuple(k for k in kinds if k[1:] in ("f8", "i8", "b1"))
        key = (coverage_page.subject(form), kinds, "axis=1" in form.code)
        found.setdefault(key, form)
    forms = list(found.values())
    return [forms[k] for k in np.random.default_rng(0).permutation(len(forms))]


def timed(call: Callable[..., Any], arrays: Sequence[np.ndarray]) -> float:
    start = time.perf_counter()
    call(*arrays)
    return time.perf_counter() - start


def measured(form: Form) -> tuple[float, float] | str:
    """Seconds of NumPy and of nufunc, or why the form has no large version."""
    side = 200 if form.section in SMALL else 1000
    arrays = [enlarged(name, side) for name in form.names]
    ours, theirs = nf.jit(numpy_forms.plain(form)), numpy_forms.plain(form)
    try:
        theirs(*arrays)
    except Exception as error:  # noqa: BLE001 - the form is of small arrays
        return str(error)
    if timed(theirs, arrays) < 2e-5:
        return "nothing to compute"
    ours(*arrays)
    slow = timed(theirs, arrays) > 0.2
    pairs = [(timed(theirs, arrays), timed(ours, arrays)) for _ in range(2 if slow else TURNS)]
    return min(p[0] for p in pairs), min(p[1] for p in pairs)


def main(words: Sequence[str], seconds: float = 1e9) -> None:
    """Measure and write the table, for so many seconds at most; with words, print the forms that hold one of them."""
    nf.set_num_threads(1)
    rows: list[tuple[float, float, float, Form]] = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        for form in chosen():
            if time.perf_counter() - start > seconds:
                break
            if words and not any(w in form.code for w in words):
                continue
            try:
                result = measured(form)
            except Exception as error:  # noqa: BLE001 - shown
                print(f"{form.code}: {type(error).__name__}: {str(error)[:150]}")
                continue
            if isinstance(result, tuple):
                rows.append((result[1] / result[0], *result, form))
                print(f"{rows[-1][0]:6.2f}  {form.code}", file=sys.stderr, flush=True)
    rows.sort(key=lambda row: -row[0])
    if words:
        for ratio, theirs, ours, form in rows:
            print(f"{ratio:6.2f}  {theirs * 1e3:9.3f} ms  {ours * 1e3:9.3f} ms  {form.code}")
        return
    RESULTS.write_text(report(rows))


def report(rows: Sequence[tuple[float, float, float, Form]]) -> str:
    """The page."""
    ratios = np.array([row[0] for row in rows])
    lines = [
        "# NumPy's functions on a million elements",
        "",
        "Written by `python benchmarks/numpy_table.py`: forms of [docs/coverage.md](../../docs/coverage.md) on arrays",
        "of 1000 by 1000 (linear algebra: 200 by 200), one thread each, the fastest of seven turns; with `--seconds=N`",
        "as many forms, in a random order, as fit into that time.",
        "",
        f"{len(rows)} forms. Time over NumPy's: geometric mean {np.exp(np.log(ratios).mean()):.2f}, median",
        f"{np.median(ratios):.2f}; {int((ratios > 1.5).sum())} forms take more than 1.5 times as long,",
        f"{int((ratios > 1).sum())} longer, {int((ratios < 0.5).sum())} less than half.",
        "",
        "The slowest:",
        "",
        "| form | NumPy, ms | nufunc, ms | ratio |",
        "|---|---:|---:|---:|",
    ]
    for ratio, theirs, ours, form in rows[:SLOWEST]:
        code = form.code.replace("|", "\\|")
        lines.append(f"| `{code}` | {theirs * 1e3:.3f} | {ours * 1e3:.3f} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    limit = next((float(w[10:]) for w in sys.argv if w.startswith("--seconds=")), 1e9)
    main([w for w in sys.argv[1:] if not w.startswith("--")], limit)

"""Each function of NumPy's beside nufunc on a million elements, and the time that its compilation takes:
`python benchmarks/numpy_table.py` writes results/numpy_table.md.

The forms are those of tests/numpy_forms.txt, with the arrays of the table made large; of each function and kind of
operands one form. Both run on one thread, in turns in one process; the fastest of several turns counts. All times are
of the processor (`time.thread_time`; for compilations `time.process_time`), so that other processes matter little.

`--raw FILE` keeps what was measured there, one line each, and measures only what is not there yet; `--part=0/2`
measures every second form, for two processes with a file each; `--page FILE FILE` writes the page from such files.
"""

from __future__ import annotations

# ruff: noqa: E402 - what the environment says must be there before NumPy is imported
import os
import sys

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "NUFUNC_CACHE": "0"}  # read when NumPy and nufunc are imported
for _pin in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_pin, None)

import json
import re
import resource
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
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
SKIPPED = ("Numbers of other kinds",)
ONE_OF_EACH = ("Methods of ufuncs", "Keywords of ufuncs", "Reductions", "Statistics")  # kinds: real, integer, bool
# of a result per row or element, or quadratic in a million elements
EACH = (" for ", "unstack", "list(", "(lambda p, q, r", "sum(v)", "min(v)", "kron", "toeplitz", "hankel")
UNROLLED = ("polyval", "polydiv", "np.poly(")  # one step of the trace per element of a vector: these stay short
TURNS, SLOWEST = 7, 24
MOST_SECONDS, MOST_ELEMENTS = 0.5, 4e6  # of a call whose operands are vectors
MOST_BYTES = 10 << 30  # of the process: what makes too much of large operands fails, and is left out
LEAST = 2e-5  # seconds of NumPy's below which a call computes nothing to speak of
FORMAL = re.compile(r"= (full|iota|broadcast|reshape|transpose|convert|slice|squeeze)\{")


@dataclass(frozen=True)
class Row:
    """What was measured of a form: seconds of NumPy and of nufunc, of the compilation, primitives of the function."""

    code: str
    section: str
    subject: str
    elements: int
    theirs: float
    ours: float
    compile: float
    primitives: int
    why: str = ""  # instead of numbers

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def enlarged(name: str, side: int, line: int | None = None) -> np.ndarray:
    """An array of the table, with `side` in place of its extents (`line`: of a vector's) and values like its own."""
    a = numpy_forms.ARRAYS[name]
    line = line or side
    rng = np.random.default_rng(3)
    if name in ("m", "m32", "zh", "a", "zm", "mb"):
        root = rng.normal(size=(side, side)) / side**0.5
        if a.dtype.kind == "c":
            root = root + 1j * rng.normal(size=(side, side)) / side**0.5
        square = root @ root.conj().T + np.eye(side) if name not in ("a", "zm") else root + 3 * np.eye(side)
        return (np.stack([square] * 2) if name == "mb" else square).astype(a.dtype)
    if name in ("idx", "idy", "lidx", "oidx", "iv", "iv2"):
        chosen = rng.integers(0, line, line)
        return np.sort(chosen) if name == "oidx" else chosen
    if a.ndim == 0 or a.size == 0:
        return a
    long = side * side if name in ("l", "f", "fr") else line
    shape = {1: (long,), 2: (side, side), 3: (side // 10, side, 10)}[a.ndim] if name != "k" else (side, 1)
    made = np.resize(a, shape)
    if a.dtype.kind in "fc" and name not in ("f", "fr", "n"):
        made = (made * rng.uniform(0.9, 1.0, shape)).astype(a.dtype)
    return np.sort(made) if name in ("o3", "o4") else made


def large(form: Form, call: Callable[..., Any]) -> list[np.ndarray]:
    """The operands: a million elements each. Vectors alone may be fewer, where their call is quadratic."""
    side = 200 if form.section in SMALL else 1000
    if any(word in form.code for word in UNROLLED):
        return [a if a.ndim == 1 else enlarged(name, side) for name, a in zip(form.names, form.args)]
    if any(a.ndim > 1 for a in form.args) or form.section in SMALL:
        return [enlarged(name, side) for name in form.names]
    found, before = [enlarged(name, side, 10) for name in form.names], (0.0, 0)
    for line in (10, 100, 1000, 10_000, 100_000, 1_000_000):
        arrays = [enlarged(name, side, line) for name in form.names]
        call(*arrays)
        start = time.thread_time()
        result = call(*arrays)
        now = (time.thread_time() - start, sum(np.size(r) for r in numpy_forms.leaves(result)))
        found = arrays
        if line > 10:
            grown = [max(1.0, b / max(a, 1e-6)) for a, b in zip(before, now)]
            if now[0] * grown[0] > MOST_SECONDS or now[1] * grown[1] > MOST_ELEMENTS:
                break
        before = now
    return found


def chosen() -> list[Form]:
    """One form of each function and kind of operands."""
    found: dict[tuple[Any, ...], Form] = {}
    for form in numpy_forms.FORMS:
        if form.refuses or form.section in SKIPPED or not form.args or any(word in form.code for word in EACH):
            continue
        kinds = tuple(a.dtype.str for a in form.args)
        if form.section in ONE_OF_EACH:
            kinds = tuple(k for k in kinds if k[1:] in ("f8", "i8", "b1"))
        if form.section == "Indexing, reading":
            kinds = (form.code,)
        key = (coverage_page.subject(form), kinds, "axis=1" in form.code)
        found.setdefault(key, form)
    forms = list(found.values())
    return [forms[k] for k in np.random.default_rng(0).permutation(len(forms))]


def timed(call: Callable[..., Any], arrays: Sequence[np.ndarray]) -> float:
    start = time.thread_time()
    call(*arrays)
    return time.thread_time() - start


def fastest(theirs: Callable[..., Any], ours: Callable[..., Any], arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """Seconds of both, in turns; the fastest."""
    once = timed(theirs, arrays)
    turns = 2 if once > 0.2 else TURNS if once > 1e-3 else 5 * TURNS
    pairs = [(timed(theirs, arrays), timed(ours, arrays)) for _ in range(turns)]
    return min(p[0] for p in pairs), min(p[1] for p in pairs)


def measured(form: Form) -> Row:
    """A row; without numbers, why the form has no large version."""
    ours, theirs = nf.jit(numpy_forms.plain(form)), numpy_forms.plain(form)
    head = (form.code, form.section, coverage_page.subject(form))
    try:
        arrays = large(form, theirs)
        theirs(*arrays)
    except Exception as error:  # noqa: BLE001 - the form is of small arrays
        return Row(*head, 0, 0, 0, 0, 0, f"of small arrays: {type(error).__name__}")
    elements = max(a.size for a in arrays)
    seconds = min(timed(theirs, arrays) for _ in range(3))
    start = time.process_time()
    ours(*arrays)
    compiling = time.process_time() - start - timed(ours, arrays)
    text = nf.dump(numpy_forms.plain(form), *form.args, stage="simplified")
    primitives = sum(" = " in line and not FORMAL.search(line) for line in text.splitlines())
    if seconds < LEAST:
        return Row(*head, elements, seconds, 0, compiling, primitives, "nothing to compute")
    both = fastest(theirs, ours, arrays)
    return Row(*head, elements, *both, compiling, primitives)


def warm() -> None:
    """Compile something of each kind, as a process has that compiles another function."""
    x = np.eye(8)
    for call in (np.sin, np.sum, np.cumsum, np.sort, np.linalg.inv, lambda x: x @ x, lambda x: x[[0, 2]]):
        nf.jit(call)(x)


def rows_of(forms: Iterable[Form], seconds: float, raw: Path | None) -> list[Row]:
    nf.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    rows = [Row(**json.loads(line)) for line in raw.read_text().splitlines()] if raw and raw.exists() else []
    done = {row.code for row in rows}
    start = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        warm()
        for form in forms:
            if time.perf_counter() - start > seconds:
                break
            if form.code in done:
                continue
            try:
                row = measured(form)
            except Exception as error:  # noqa: BLE001 - shown
                print(f"{form.code}: {type(error).__name__}: {str(error)[:150]}", flush=True)
                continue
            nf.clear_cache()
            rows.append(row)
            print(f"{row.why or format(row.ratio, '6.2f')}  {form.code}", file=sys.stderr, flush=True)
            if raw:
                with raw.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    return rows


def main(arguments: Sequence[str]) -> None:
    """Measure and write the page; with words, print the forms that hold one of them."""
    options = dict(a[2:].partition("=")[::2] for a in arguments if a.startswith("--"))
    words = [a for a in arguments if not a.startswith("--")]
    if "page" in options:
        rows = [Row(**json.loads(line)) for name in words for line in Path(name).read_text().splitlines()]
        RESULTS.write_text(report(list({row.code: row for row in rows}.values())))
        return
    part, parts = (int(n) for n in options.get("part", "0/1").split("/"))
    forms = [f for f in chosen()[part::parts] if not words or any(w in f.code for w in words)]
    raw = Path(options["raw"]) if "raw" in options else None
    rows = rows_of(forms, float(options.get("seconds", 1e9)), raw)
    if words:
        for row in sorted((r for r in rows if not r.why), key=lambda r: -r.ratio):
            numbers = f"{row.theirs * 1e3:9.3f} ms  {row.ours * 1e3:9.3f} ms  {row.compile * 1e3:6.0f} ms"
            print(f"{row.ratio:6.2f}  {numbers}  {row.elements:8d}  {row.code}")
    elif parts == 1:
        RESULTS.write_text(report(rows))


def report(rows: Sequence[Row]) -> str:
    """The page."""
    timed_rows = sorted((r for r in rows if not r.why), key=lambda r: -r.ratio)
    ratios = np.array([row.ratio for row in timed_rows])
    subjects = {row.subject for row in timed_rows}
    lines = [
        "# NumPy's functions on a million elements",
        "",
        "Written by `python benchmarks/numpy_table.py`: of each function and kind of operands in",
        "[docs/coverage.md](../../docs/coverage.md) one form, on arrays of 1000 by 1000 or vectors of a million",
        "(linear algebra: 200 by 200; what is quadratic in a vector's length: fewer), one thread each, OpenBLAS's too.",
        "Times are of the processor, the fastest of seven turns or more, NumPy and nufunc in turns in one process.",
        "The machine (two cores) was busy with other processes, which share its caches: what waits for memory varies",
        "by half.",
        "",
        f"{len(rows)} forms, of which {len(timed_rows)}, of {len(subjects)} functions, take long enough to be timed",
        f"({LEAST * 1e6:.0f} microseconds of NumPy). Time over NumPy's: geometric mean",
        f"{np.exp(np.log(ratios).mean()):.2f}, median {np.median(ratios):.2f}; {int((ratios > 1.5).sum())} forms take",
        f"more than 1.5 times as long, {int((ratios > 1).sum())} longer, {int((ratios < 0.5).sum())} less than half.",
        "",
        "The slowest:",
        "",
        "| form | elements | NumPy, ms | nufunc, ms | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in timed_rows[:SLOWEST]:
        code = row.code.replace("|", "\\|")
        lines.append(
            f"| `{code}` | {row.elements:,} | {row.theirs * 1e3:.3f} | {row.ours * 1e3:.3f} | {row.ratio:.2f} |"
        )
    return "\n".join([*lines, "", *by_section(rows), "", *compilations(rows)]) + "\n"


def by_section(rows: Sequence[Row]) -> list[str]:
    head = "| section | forms | geometric mean | slowest | above 1.5 |"
    lines = ["By section:", "", head, "|---|---:|---:|---:|---:|"]
    for section in dict.fromkeys(f.section for f in numpy_forms.FORMS):
        ratios = np.array([r.ratio for r in rows if r.section == section and not r.why])
        if ratios.size:
            mean = np.exp(np.log(ratios).mean())
            lines.append(
                f"| {section} | {ratios.size} | {mean:.2f} | {ratios.max():.2f} | {int((ratios > 1.5).sum())} |"
            )
    return lines


def compilations(rows: Sequence[Row]) -> list[str]:
    """Time of the processor for tracing, transforming and compiling a function, by section."""
    made = [r for r in rows if not r.why.startswith("of small")]
    single = [r.compile for r in made if r.primitives <= 1]
    lines = [
        "## Compilation",
        "",
        "Milliseconds of the processor from a function to its machine code, tracing included, in a process that has",
        "compiled before, without the cache on disk. Functions of one primitive are those that have at most one after",
        "simplification, besides constants, conversions and layout.",
        "",
        f"Functions of one primitive: {len(single)}, median {np.median(single) * 1e3:.0f} ms, nine of ten below",
        f"{np.quantile(single, 0.9) * 1e3:.0f} ms, {np.mean(np.array(single) < 0.06) * 100:.0f}% below 60 ms; all",
        f"{len(made)} functions: median {np.median([r.compile for r in made]) * 1e3:.0f} ms.",
        "",
        "| section | of one primitive | median, ms | all | median, ms | slowest, ms | of |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for section in dict.fromkeys(f.section for f in numpy_forms.FORMS):
        own = [r for r in made if r.section == section]
        if not own:
            continue
        one = [r.compile for r in own if r.primitives <= 1]
        worst = max(own, key=lambda r: r.compile)
        middle = f"{np.median(one) * 1e3:.0f}" if one else ""
        code = worst.code.replace("|", "\\|")
        lines.append(
            f"| {section} | {len(one)} | {middle} | {len(own)} | {np.median([r.compile for r in own]) * 1e3:.0f} "
            f"| {worst.compile * 1e3:.0f} | `{code}` |"
        )
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])

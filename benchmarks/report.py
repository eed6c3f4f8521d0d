"""Figures of compare.py as a page in Markdown."""

import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import workloads as w
from library import HAND

SHORT = 2e-4  # calls below so many seconds are overhead more than work


def machine() -> str:
    """The processor, its vector instructions, cores, system and Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    vectors = ""
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        entries = {key.strip(): value.strip() for key, value in fields.items()}
        model = entries.get("model name", model)
        flags = entries.get("flags", "").split()
        vectors = next((f" with {name}" for name in ("avx512f", "avx2") if name in flags), "")
    system = f"{platform.system()} {platform.machine()}"
    return f"{model}{vectors}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def rivals(row: dict) -> dict[str, float]:
    """Times of the neighbours of nufunc on one row; what was written by hand is none."""
    return {name: cell["call"] for name, cell in row.items() if "call" in cell and name not in ("nufunc", HAND)}


def ratio(row: dict, name: str) -> float | None:
    """The time of nufunc over that of a library, or of the fastest neighbour."""
    ours = row.get("nufunc", {}).get("call")
    if name == "fastest":
        others = rivals(row)
        theirs = min(others.values()) if others else None
    else:
        theirs = row.get(name, {}).get("call")
    return ours / theirs if ours and theirs else None


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, never an exponent."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def milliseconds(cell: dict) -> str:
    if "call" in cell:
        return number(1e3 * cell["call"])
    return "-" if "skip" in cell or not cell else "failed"


def summary(row: dict) -> str:
    """A row on one line, for the terminal."""
    cells = [f"{name} {milliseconds(cell)}" + ("!" if "differs" in cell else "") for name, cell in row.items()]
    best = ratio(row, "fastest")
    return ", ".join(cells) + (f" ms; nufunc / fastest {best:.2f}" if best else " ms")


def differences(results: dict) -> list[str]:
    return [
        f"{case}: {name} differs by {cell['differs']}"
        for case, row in results["rows"].items()
        for name, cell in row.items()
        if "differs" in cell
    ]


def table(head: list[str], body: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def calls(names: list[str], rows: dict) -> list[str]:
    hand = HAND in names
    others = [name for name in names if name != HAND]
    head = ["case", *others, "fastest neighbour", "nufunc / it"]
    head += ["by hand", "nufunc / by hand"] if hand else []
    body = []
    for case, row in rows.items():
        fastest = min(rivals(row).items(), key=lambda item: item[1], default=("-", None))[0]
        line = [case, *(milliseconds(row.get(name, {})) for name in others), fastest, number(ratio(row, "fastest"))]
        line += [milliseconds(row.get(HAND, {})), number(ratio(row, HAND))] if hand else []
        body.append(line)
    return table(head, body)


def means(names: list[str], rows: dict) -> list[str]:
    """Geometric means of the ratios, over all rows, and apart for short and long calls."""
    short = {case for case, row in rows.items() if min(rivals(row).values(), default=1.0) < SHORT}
    groups = {
        "all rows": set(rows),
        f"fastest neighbour below {1e3 * SHORT:g} ms": short,
        "the longer ones": set(rows) - short,
    }
    others = [name for name in names if name != "nufunc"]
    body = []
    for label, chosen in groups.items():
        line = [label]
        for name in ["fastest", *others]:
            ratios = [r for case in chosen if (r := ratio(rows[case], name))]
            line.append(f"{geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "-")
        body.append(line)
    return table(["", "fastest neighbour", *("by hand" if name == HAND else name for name in others)], body)


def slower(rows: dict) -> str:
    """The rows on which a neighbour is faster, the worst first."""
    worse = sorted(((r, case) for case, row in rows.items() if (r := ratio(row, "fastest")) and r > 1), reverse=True)
    if not worse:
        return "No neighbour is faster on any of these rows."
    listed = ", ".join(f"{case} {r:.2f}" for r, case in worse)
    return f"A neighbour is faster on {len(worse)} of {len(rows)} rows: {listed}."


def first_calls(names: list[str], rows: dict) -> list[str]:
    def cell(figures: dict) -> str:
        if "first" not in figures:
            return "-"
        second = figures.get("second")
        return f"{figures['first']:.2f}" + (f" / {second:.2f}" if second is not None else "")

    return table(["case", *names], ([case, *(cell(row.get(n, {})) for n in names)] for case, row in rows.items()))


def memory(names: list[str], rows: dict) -> list[str]:
    def cell(figures: dict) -> str:
        return f"{figures['memory']:.1f}" if figures.get("memory") is not None else "-"

    lean = {case: leanest(row) for case, row in rows.items()}
    return table(
        ["case", *names, "leanest neighbour"],
        ([case, *(cell(row.get(n, {})) for n in names), lean[case] or "-"] for case, row in rows.items()),
    )


def leanest(row: dict) -> str | None:
    """The neighbour that needs the least memory."""
    needs = {n: c["memory"] for n, c in row.items() if n not in ("nufunc", HAND) and c.get("memory") is not None}
    return min(needs, key=needs.__getitem__, default=None)


def fatter(rows: dict) -> str:
    """The rows on which nufunc needs more than a tenth above the leanest neighbour; 0.1 MB are pages, not data."""
    worse = []
    for case, row in rows.items():
        name, own = leanest(row), row.get("nufunc", {}).get("memory")
        if name is not None and own is not None and own > 1.1 * row[name]["memory"] + 0.1:
            worse.append(f"{case} ({own:.1f} MB, {name} {row[name]['memory']:.1f})")
    if not worse:
        return "On no row nufunc needs over a tenth more than the leanest neighbour."
    return f"nufunc needs over a tenth more than the leanest neighbour on {len(worse)} rows: {', '.join(worse)}."


def start_times(names: list[str], starts: dict) -> list[str]:
    def cell(times: list[float] | None) -> str:
        return f"{times[0]:.2f} / {times[1]:.2f}" if times else "-"

    return table(["case", *names], ([case, *(cell(row.get(n)) for n in names)] for case, row in starts.items()))


def imports(times: dict[str, float]) -> list[str]:
    seconds = [f"{value:.3f}" for value in times.values()]
    relative = [f"{value / times['numpy']:.2f}" for value in times.values()]
    return table(["", *times], [["seconds", *seconds], ["over that of NumPy", *relative]])


def remarks(results: dict, rows: dict) -> list[str]:
    kinds: dict[tuple[str, str], str] = {}
    for case, row in rows.items():
        for name, cell in row.items():
            for key in ("skip", "error"):
                if key in cell and name != HAND:
                    kinds[name, case] = f"{'left out' if key == 'skip' else 'failed'}: {cell[key]}"
    notes = [f"- {name}, {case}: {text}" for (name, case), text in kinds.items()]
    for name, hello in results["libraries"].items():
        notes += [f"- {name}, {kind}: {text}" for kind, text in hello["notes"].items()]
    return notes


HOW = """NumPy arrays in, NumPy arrays out, one process per library, {clock}. Rounds go
from library to library. A time is the least, over rounds, of the median within a round of some 0.1 s; calls go through
two sets of arguments in turn. Absolute times move with the machine: compare the ratios. By hand means loops and
derivatives written in Numba."""

CLOCKS = {"wall": "two threads", "cpu": "one thread; CPU time, which other programs disturb little"}

FIRST = """Seconds to trace, compile and run, in a process that has compiled something else before and finds no cache on
disk; after the stroke, in a second process that finds what the first left there."""

MEMORY = """MB by which two calls raise the peak of resident memory once the first calls are over, results included. The
heap is trimmed before; a library with a pool of its own shows less than it holds. nufunc keeps arenas of temporaries
and the memory of dead results of 1 MB and more."""


def page(title: str, results: dict) -> str:
    rows = {case: results["rows"][case] for case in w.CASES if case in results["rows"]}
    names = list(results["libraries"])
    packages: dict[str, str] = {}
    for hello in results["libraries"].values():
        packages |= hello["packages"]
    runs = [
        f"{run['begin']} ({run['rows']} rows, {run['rounds']} rounds"
        + (f", commit {run['commit']}" if run["commit"] else "")
        + f", load {run['load']:.1f} at the start)"
        for run in results["runs"]
    ]
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    lines = [f"# {title}", "", f"{results['machine']}; {versions}. Measured {'; '.join(runs)}."]
    lines += ["", HOW.format(clock=CLOCKS[results["clock"]])]
    lines += ["", "## Milliseconds of a call", "", *calls(names, rows), "", slower(rows)]
    lines += ["", "## Geometric means of nufunc / library", ""]
    lines += ["In brackets the number of rows.", "", *means(names, rows)]
    lines += ["", "## First call", "", FIRST, "", *first_calls(names, rows)]
    if results.get("starts"):
        text = "Seconds from starting Python to the first result: nothing on disk / caches on disk."
        lines += ["", "## Start", "", text, "", *start_times(names, results["starts"])]
    if results.get("imports"):
        text = "In fresh processes with bytecode on disk, the least of the rounds."
        lines += ["", "## Import", "", text, "", *imports(results["imports"])]
    lines += ["", "## Memory", "", MEMORY, "", *memory(names, rows), "", fatter(rows)]
    lines += ["", "## Remarks", "", *(remarks(results, rows) or ["None."])]
    wrong = differences(results)
    lines += ["", "Results differ: " + "; ".join(wrong) if wrong else "Results agree."]
    return "\n".join(lines) + "\n"

"""Runs nufunc and its neighbours side by side on the workloads and writes a page of results.

    python benchmarks/compare.py                                everything that is installed -> results/cpu.md
    python benchmarks/compare.py --only heat --rounds 9         some rows again; the page keeps the others
    python benchmarks/compare.py --libraries nufunc jax         only these
    python benchmarks/compare.py --marks                        four rows and imports -> results/first_marks.md
    python benchmarks/compare.py --cpu-time                     one thread, CPU time -> results/cpu_time.md
    python benchmarks/compare.py --target cuda --out FILE       the large cases, arrays on the first CUDA device

Each library runs in a process of its own (pools of threads do not mix); rounds go from library to library,
so that a slow moment of the machine hits all of them. The page says how each figure was taken. Beside the
page lies a JSON file with the raw figures, into which later runs of some rows are merged. Exits with 1 if
results disagree.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import library
import numpy as np
import report
import workloads as w
from library import Library

MARKS = ("small_calls/x3", "elementwise_chain/large", "grad_chain/large", "per_sample_grads_mlp/large")
STARTS = ("small_calls/x3", "per_sample_grads_mlp/large", "transformer_block/b8")


def disagreement(case: w.Case, expected: Path, got: Path) -> str | None:
    """None, or how two libraries' results differ."""
    worst = 0.0
    with np.load(expected) as first, np.load(got) as second:
        if [first[k].shape for k in first.files] != [second[k].shape for k in second.files]:
            return "another shape"
        if [first[k].dtype for k in first.files] != [second[k].dtype for k in second.files]:
            return "another dtype"
        for name in first.files:
            e, g = first[name], second[name]
            if e.dtype.kind == "i":
                share = float(np.mean(e != g))
            else:
                share = float(np.abs(e.astype(np.float64) - g).max() / max(np.abs(e).max(), 1e-300))
            share /= case.tolerance(e.dtype)
            worst = share if share > worst or share != share else worst
    return None if worst <= 1 else f"{worst:.3g} times the tolerance"


def measure(case: w.Case, libraries: list[Library], rounds: int, folder: Path) -> dict:
    """One row: first call, agreement, rounds of calls, memory; per library."""
    row: dict[str, dict] = {}
    reference: Path | None = None
    for one in libraries:
        file = folder / f"{one.name}.npz"
        answer = one.ask(first=case.name, save=str(file))
        row[one.name] = {"first": answer["seconds"]} if "seconds" in answer else answer
        if "seconds" in answer:
            reference = reference or file
            differs = disagreement(case, reference, file)
            if differs:
                row[one.name]["differs"] = f"{differs}, against {reference.stem}"
    live = [one for one in libraries if "first" in row[one.name]]
    times: dict[str, list[float]] = {one.name: [] for one in live}
    for count in range(rounds):
        for one in live:
            taken = times[one.name]
            if count >= 3 and taken and taken[0] > 0.3:
                continue  # three rounds of slow calls are enough
            answer = one.ask(time=case.name)
            taken += [answer["seconds"]] if "seconds" in answer else []
    for one in live:
        if times[one.name]:
            row[one.name]["call"] = min(times[one.name])
            row[one.name]["rounds"] = times[one.name]
            if library.SETTINGS["BENCH_TARGET"] == "cpu":
                row[one.name]["memory"] = one.ask(memory=case.name).get("mb")
    return row


def measure_all(options: argparse.Namespace, results: dict, folder: Path) -> None:
    caches = {name: folder / "caches" / name for name in options.libraries}
    running = [Library(name, caches[name]) for name in options.libraries]
    for one in running:
        if "error" in one.greeting:
            raise SystemExit(f"{one.name} did not start; its error stands above")
        results["libraries"][one.name] = one.greeting
    for case in options.cases:
        row = measure(case, running, options.rounds, folder)
        results["rows"].setdefault(case.name, {}).update(row)
        print(f"{time.strftime('%H:%M:%S')} {case.name:28s} {report.summary(row)}", flush=True)
    for one in running:
        one.close()
    if options.starts:
        second_process(options, results, caches, folder)
        results["starts"] = starts(options.libraries, folder)
    if options.imports:
        results["imports"] = library.import_times(options.libraries, options.rounds, folder)


def second_process(options: argparse.Namespace, results: dict, caches: dict[str, Path], folder: Path) -> None:
    """First calls once more, in a new process that finds what the first one left on disk."""
    for name in options.libraries:
        one = Library(name, caches[name])
        for case in options.cases:
            row = results["rows"][case.name][name]
            if "call" in row:
                row["second"] = one.ask(first=case.name, save=str(folder / "second.npz")).get("seconds")
        one.close()


def starts(libraries: list[str], folder: Path) -> dict:
    """Per library and case: from starting Python to the first result, without and with caches on disk."""
    table: dict[str, dict] = {}
    for name in libraries:
        cache = folder / "starts" / name
        for case in STARTS:
            shutil.rmtree(cache, ignore_errors=True)
            cold = library.fresh_start(name, case, cache)
            if cold is not None:
                again = [t for t in (library.fresh_start(name, case, cache) for _ in range(3)) if t is not None]
                table.setdefault(case, {})[name] = [cold, min(again)]
    return table


def commit(folder: str) -> str:
    """The commit of a checkout, with a plus sign if files differ from it; "" elsewhere."""
    git = ["git", "-C", folder]
    try:
        name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno", "."], text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.strip() + ("+" if changed else "")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = list(library.NEEDS)
    parser.add_argument("--libraries", nargs="+", choices=known, help="default: those that are installed")
    parser.add_argument("--python", nargs="+", default=[], metavar="LIBRARY=FILE", help="interpreters of their own")
    parser.add_argument("--only", nargs="+", metavar="PART", help="cases whose names contain one of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="page to write, in place of the one in results")
    parser.add_argument("--marks", action="store_true", help="nufunc, jax and torch on four cases, and imports")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, CPU time: for a machine that is not quiet")
    parser.add_argument("--calls-only", action="store_true", help="no second processes, starts and imports")
    parser.add_argument("--target", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.target == "cuda":
        library.SETTINGS.update(BENCH_TARGET="cuda", JAX_PLATFORMS="")
        options.libraries = options.libraries or [name for name in ("nufunc", "jax", "torch", "torch_compile")
                                                  if name in library.installed()]  # fmt: skip
        options.calls_only = True
    if options.cpu_time:
        library.SETTINGS.update(threads="1", BENCH_CLOCK="cpu")
    library.INTERPRETERS.update(item.split("=", 1) for item in options.python)
    names = library.installed()
    if options.marks:
        names = [name for name in names if name in ("nufunc", "jax", "torch")]
    options.libraries = options.libraries or names
    options.cases = [w.CASES[name] for name in MARKS] if options.marks else w.select(options.only, options.target)
    default = "first_marks.md" if options.marks else "cpu_time.md" if options.cpu_time else f"{options.target}.md"
    options.out = options.out or library.HERE / "results" / default
    options.imports = not options.calls_only and not options.only
    options.starts = options.imports and not options.marks
    return options


def main() -> None:
    options = parse()
    raw = options.out.with_suffix(".json")
    results: dict = {"libraries": {}, "rows": {}, "runs": []}
    if options.only and raw.exists():
        results = json.loads(raw.read_text())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    begin = time.strftime("%Y-%m-%d %H:%M")
    with tempfile.TemporaryDirectory() as folder:
        measure_all(options, results, Path(folder))
    sources = results["libraries"].get("nufunc", {}).get("sources", {})
    run = {"begin": begin, "load": load, "rows": len(options.cases), "commit": commit(sources.get("nufunc", "."))}
    results["runs"].append(run | {"rounds": options.rounds})
    results |= {"machine": report.machine(), "clock": library.SETTINGS["BENCH_CLOCK"]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(json.dumps(results, indent=1) + "\n")
    title = "First marks" if options.marks else f"Benchmarks on {options.target.upper()}"
    options.out.write_text(report.page(title, results))
    print(f"wrote {options.out}")
    if load > 1.5 and not options.cpu_time:
        print(f"load average {load:.1f} at the start: other programs were running, do not trust these figures")
    wrong = report.differences(results)
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()

"""A fresh process to its first result, with warm and with empty caches on disk, beside JAX -> results/cold_start.md.

    python benchmarks/cold_start.py [--rounds 9]

Both libraries keep compiled code on disk: JAX in JAX_COMPILATION_CACHE_DIR, with no least compile time or size. A time
is the least over rounds that go from library to library, from starting Python to the end of the process, imports
included; the processor's time is that of all threads, and does not depend on what else the machine does as much.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import library
import report

CASES = ("small_calls/x3", "grad_chain/large", "mlp_train_step/b256")
LIBRARIES = ("nufunc", "jax")
BUSY = 1.5  # load from which other programs take much of two cores
MARK = 0.4  # of JAX's time, with warm caches

ADAPTORS = {"nufunc": "run_nufunc", "jax": "neighbours.run_jax"}
FIRST = """
import {adaptor} as adaptor, workloads
case = workloads.CASES["{case}"]
args = case.inputs()
adaptor.over_numpy(case.kind, args)(*args)
"""

# What a process with everything imported takes to trace a case, to name its code, and to load it.
STEPS = """
import json, sys, time
import run_nufunc, workloads as w
case = w.CASES[sys.argv[1]]
fn, args, _ = run_nufunc.ADAPTOR[case.kind](case.inputs())
fn(*args)
import nufunc as nf
from nufunc.codegen.loading import load_object
from nufunc.codegen.objects import unpack
from nufunc.runtime import stored
from nufunc.runtime.disk_cache import DISK
from nufunc.runtime.function import Transformed
fn = fn if isinstance(fn, Transformed) else nf.jit(fn)
def least(call):
    taken = []
    for _ in range(15):
        begin = time.perf_counter()
        result = call()
        taken.append(time.perf_counter() - begin)
    return result, min(taken)
(program, _), trace = least(lambda: fn.program_of(args, {}))
address, name = least(lambda: stored.address_of(program))
data, read = least(lambda: DISK.get(address.key))
_, load = least(lambda: load_object(unpack(data), address.locations, address.hosts, None))
print(json.dumps({"trace": trace, "name": name, "read": read, "load": load, "bytes": len(data)}))
"""


@dataclass
class Cost:
    """Seconds of a process: by the clock, and of the processor."""

    wall: float = math.inf
    cpu: float = math.inf

    def least(self, other: "Cost") -> "Cost":
        return Cost(min(self.wall, other.wall), min(self.cpu, other.cpu))


def times(rounds: int, folder: Path) -> dict[str, dict[str, dict[str, Cost]]]:
    """Case -> library -> {"empty": cost, "warm": cost}."""
    table: dict[str, dict[str, dict[str, Cost]]] = {}
    for case in CASES:
        table[case] = {name: {"empty": Cost(), "warm": Cost()} for name in LIBRARIES}
        for count in range(rounds + 3):
            for name, row in table[case].items():
                if count < 3:
                    shutil.rmtree(folder / name, ignore_errors=True)
                kind = "empty" if count < 3 else "warm"
                row[kind] = row[kind].least(started(name, case, folder))
    return table


def started(name: str, case: str, folder: Path) -> Cost:
    """What the first result of a case costs in a process of its own."""
    command = [library.python(name), "-c", FIRST.format(adaptor=ADAPTORS[name], case=case)]
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=library.environment(folder / name), cwd=library.HERE, check=True, capture_output=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def steps(case: str, folder: Path) -> dict[str, float]:
    """The steps of a call in nufunc that finds its code on disk, in seconds."""
    command = [library.python("nufunc"), "-c", STEPS, case]
    out = subprocess.check_output(command, env=library.environment(folder / "nufunc"), text=True, cwd=library.HERE)
    found: dict[str, float] = json.loads(out)
    return found


def milliseconds(seconds: float) -> str:
    return report.number(1000 * seconds)


def page(table: dict, parts: dict, imports: dict[str, float], rounds: int, load: float) -> list[str]:
    ratios = [row["nufunc"]["warm"].wall / row["jax"]["warm"].wall for row in table.values()]
    lines = [
        "# A fresh process to its first result",
        "",
        f"{report.machine()}. Measured {time.strftime('%Y-%m-%d %H:%M')}, {rounds} rounds, load {load:.1f}",
        "at the start. Made by `benchmarks/cold_start.py`: two threads, the least over rounds that go from library to",
        "library, from starting Python to the end of the process, imports included. Warm: compiled code is in each",
        "library's cache on disk. The processor's time is that of all threads; on a busy machine it says more.",
        *(["Other programs were running meanwhile: the ratios hold, the milliseconds do not."] if load > BUSY else []),
        "",
        "## Milliseconds",
        "",
        "| case | | nufunc, warm | JAX, warm | ratio | nufunc, empty cache | JAX, empty cache |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, row in table.items():
        for kind, label in (("wall", "clock"), ("cpu", "processor")):
            cost = {(name, state): getattr(row[name][state], kind) for name in LIBRARIES for state in ("warm", "empty")}
            cells = [milliseconds(cost["nufunc", "warm"]), milliseconds(cost["jax", "warm"])]
            cells.append(f"{cost['nufunc', 'warm'] / cost['jax', 'warm']:.2f}")
            cells += [milliseconds(cost["nufunc", "empty"]), milliseconds(cost["jax", "empty"])]
            lines.append(f"| {case} | {label} | {' | '.join(cells)} |")
    worst = max(ratios)
    lines += [
        "",
        f"The largest ratio by the clock is {worst:.2f}; the mark is {MARK}{'' if worst <= MARK else ', and missed'}.",
        "",
        "Of these, imports alone: " + ", ".join(f"{name} {milliseconds(s)} ms" for name, s in imports.items()) + ".",
        "",
        "## Steps of a call that finds its code on disk",
        "",
        "Milliseconds, in a process that has imported everything: tracing with transforms and passes, the hash that",
        "names the code, reading the file with its checksum, and making a function of it.",
        "",
        "| case | trace | name | read | load | bytes of the file |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for case, found in parts.items():
        texts = [milliseconds(found[key]) for key in ("trace", "name", "read", "load")]
        lines.append(f"| {case} | {' | '.join(texts)} | {found['bytes']:,} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=library.HERE / "results" / "cold_start.md")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        table = times(options.rounds, folder)
        parts = {}
        for case in CASES:
            started("nufunc", case, folder)
            parts[case] = steps(case, folder)
        imports = library.import_times(list(LIBRARIES), 5, folder / "nufunc")
    options.out.write_text("\n".join(page(table, parts, imports, options.rounds, load)) + "\n", encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

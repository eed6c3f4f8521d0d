"""Long fuzzing, on the command line: `python tests/fuzz.py --programs 20000 --graphs 100000 --seed 1`.

Programs are random imperative NumPy code (`random_programs`): NumPy eager, the interpreter, the compiled function with
captured and overlapping arrays, vmap, gradients and functionalize must agree; one of these ways, drawn by the seed,
ends in machine code and the others in the interpreter, which costs a tenth of it, unless `--compiled all` is given.
Staging programs are random control flow of Python's own on traced values (`staging_programs`), which plain Python
decides. Loops are programs of nested control flow (`random_loops`), whose first and second derivatives, also under
vmap, must be those of differences. Graphs are random IR (`random_graphs`): text, functionalize and simplify must keep
every bit. A failure prints its seed, with which it runs again: `--programs 1 --seed SEED`. With `--large 17` also the
small arrays of these programs are treated as large ones are: computed over each other, in the memory of results. With
`--target cuda` programs, staging programs and loops run on the first device, which may be a simulated one.
"""

import argparse
import contextlib
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial

from random_graphs import random_arguments, random_graph, same_bits
from random_loops import fuzz_loops
from random_programs import COMPILED, RandomChooser, check_program, drawn_ways, random_program
from staging_programs import check_staging_program

import nufunc as nf
from nufunc.codegen import buffers
from nufunc.ir.interpret import run
from nufunc.ir.text import graph_hash, parse_graph, print_graph
from nufunc.ir.verify import verify
from nufunc.passes import reread
from nufunc.passes.functionalize import functionalize
from nufunc.passes.simplify import simplify


def fuzz_program(seed: int, compiled: str = "one") -> None:
    """One program in every way, of which one, drawn by the seed, all or none end in machine code."""
    program = random_program(RandomChooser(seed), steps=10)
    chosen = {"one": drawn_ways(seed)[1], "all": COMPILED, "none": ()}[compiled]
    try:
        check_program(program, seed, compiled=chosen)
    except Exception as error:
        error.add_note(program.source)
        raise


def fuzz_graph(seed: int) -> None:
    """One pure and one traced graph, through text and passes."""
    for stage in ("pure", "traced"):
        graph = verify(random_graph(seed, stage, steps=30, locs=seed % 2 == 0))
        text = print_graph(graph)
        parsed = parse_graph(text)
        assert print_graph(parsed) == text, "the text is not canonical"
        assert graph_hash(parsed) == graph_hash(graph), "the hash changes with the text"
        arguments = random_arguments(graph, seed)
        in_place = [a.copy() for a in arguments]
        expected = run(graph, in_place)
        if stage == "traced":
            graph = verify(functionalize(graph), "functionalize")
            expected = [*expected, *(in_place[k] for k in graph.updates)]
        simplified = verify(simplify(graph), "simplify")
        for name, result in (("functionalize", graph), ("simplify", simplified)):
            found = run(result, arguments)
            assert all(same_bits(a, b) for a, b in zip(expected, found, strict=True)), f"{name} changes a value"
        assert print_graph(simplify(simplified)) == print_graph(simplified), "simplify is not idempotent"


def campaign(what: str, check: Callable[[int], None], first: int, count: int, most: int) -> Counter:
    """Run `check` on so many seeds; failures by kind, of which the first `most` are shown."""
    failures: Counter = Counter()
    start = time.perf_counter()
    for seed in range(first, first + count):
        try:
            check(seed)
        except Exception as error:  # noqa: BLE001  (whatever goes wrong is a finding)
            failures[f"{type(error).__name__}: {str(error).partition(chr(10))[0][:80]}"] += 1
            if sum(failures.values()) <= most:
                print(f"--- {what}, seed {seed}")
                traceback.print_exc(limit=-3, file=sys.stdout)
        if (seed - first + 1) % 1000 == 0:
            print(f"{seed - first + 1} of {count} {what}, {sum(failures.values())} failures", flush=True)
    if count:
        print(f"{count} {what} in {time.perf_counter() - start:.0f} s, {sum(failures.values())} failures")
    for kind, times in failures.most_common():
        print(f"{times:6d}  {kind}")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz nufunc with random programs and random graphs.")
    parser.add_argument("--programs", type=int, default=0, help="number of random NumPy programs")
    parser.add_argument("--compiled", choices=("one", "all", "none"), default="one", help="ways of a program with code")
    parser.add_argument("--large", type=int, help="bytes from which the memory of arrays is lent")
    parser.add_argument("--target", choices=("cpu", "cuda"), default="cpu", help="where code runs")
    parser.add_argument("--graphs", type=int, default=0, help="number of random graphs")
    parser.add_argument("--staging", type=int, default=0, help="number of random programs of Python's control flow")
    parser.add_argument("--loops", type=int, default=0, help="number of random programs of nested control flow")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--show", type=int, default=5, help="failures shown in full")
    options = parser.parse_args()
    warnings.simplefilter("error")
    if options.large is not None:
        buffers.OVERWRITE = reread._LARGE = options.large
    os.environ["NUFUNC_CUDA_FALLBACK"] = "0"  # nothing runs on the host unnoticed
    programs = partial(fuzz_program, compiled=options.compiled)
    failures = campaign("graphs", fuzz_graph, options.seed, options.graphs, options.show)
    with nf.device("cuda:0") if options.target == "cuda" else contextlib.nullcontext():
        failures += campaign("programs", programs, options.seed, options.programs, options.show)
        failures += campaign("staging programs", check_staging_program, options.seed, options.staging, options.show)
        failures += campaign("loops", fuzz_loops, options.seed, options.loops, options.show)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

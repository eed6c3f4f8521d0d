"""First marks beside JAX and torch.func: small calls, three workloads from first call on, imports.

    python benchmarks/first_marks.py [--libraries nufunc jax torch] [--rounds 5] [--out FOLDER]

Each library runs in one process of its own; rounds go from library to library, so that a slow moment of the
machine hits all of them. Arguments and results are NumPy arrays for every library. The time of a call is
the least, over rounds, of the median within a round; a first call is the whole of tracing, compiling and
running, in a process that has compiled something else before and finds no cache on disk. Results must
agree, or the program fails. Writes first_marks.md and first_marks.json into the folder `results` beside
this file.
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
THREADS = "2"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
LIBRARIES = ("nufunc", "jax", "torch")
IMPORTS = {"numpy": "numpy", "nufunc": "nufunc", "jax": "jax, jax.numpy", "torch": "torch, torch.func"}
BURST = 0.25  # seconds of one round
TOLERANCE = {"float64": 1e-9, "float32": 2e-4}


# ---- workloads: arguments, and the mathematics in each library ----


def arguments(case: str) -> tuple:
    rng = np.random.default_rng(0)
    if case == "small_grad":
        return (rng.standard_normal(3),)
    if case in ("elementwise_chain", "grad_chain"):
        return (rng.standard_normal(1_000_000),)

    def single(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    params = {"w1": single(784, 128, scale=784**-0.5), "b1": single(128, scale=0.1),
              "w2": single(128, 10, scale=128**-0.5), "b2": single(10, scale=0.1)}
    return params, single(64, 784), rng.integers(0, 10, 64)


CASES = {
    "small_grad": "gradient of sum(sin(x) * x), 3 numbers",
    "elementwise_chain": "tanh(x) exp(-x x) + sin(x) log1p(x x), 1e6 float64",
    "grad_chain": "gradient of the sum of the same, 1e6 float64",
    "per_sample_grads_mlp": "vmap(grad) of cross entropy, 784-128-10 relu network, 64 samples, float32",
}


def numpy_functions() -> dict:
    import nufunc as nf

    def chain(x):
        return np.tanh(x) * np.exp(-x * x) + np.sin(x) * np.log1p(x * x)

    def loss(p, x, label):
        z = np.maximum(x @ p["w1"] + p["b1"], 0.0) @ p["w2"] + p["b2"]
        top = z.max()
        return np.log(np.exp(z - top).sum()) + top - z[label]

    return {
        "warm": nf.jit(lambda x: np.sqrt(x) + 1.0),
        "small_grad": nf.grad(lambda x: np.sum(np.sin(x) * x)),
        "elementwise_chain": nf.jit(chain),
        "grad_chain": nf.grad(lambda x: np.sum(chain(x))),
        "per_sample_grads_mlp": nf.vmap(nf.grad(loss), in_dims=(None, 0, 0)),
    }


def jax_functions() -> dict:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def chain(x):
        return jnp.tanh(x) * jnp.exp(-x * x) + jnp.sin(x) * jnp.log1p(x * x)

    def loss(p, x, label):
        z = jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        return jax.nn.logsumexp(z) - z[label]

    def compiled(func):
        fast = jax.jit(func)
        return lambda *args: jax.tree.map(np.asarray, fast(*args))

    return {
        "warm": compiled(lambda x: jnp.sqrt(x) + 1.0),
        "small_grad": compiled(jax.grad(lambda x: jnp.sum(jnp.sin(x) * x))),
        "elementwise_chain": compiled(chain),
        "grad_chain": compiled(jax.grad(lambda x: jnp.sum(chain(x)))),
        "per_sample_grads_mlp": compiled(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))),
    }


def torch_functions() -> dict:
    import torch

    torch.set_num_threads(int(THREADS))

    def chain(x):
        return torch.tanh(x) * torch.exp(-x * x) + torch.sin(x) * torch.log1p(x * x)

    def loss(p, x, label):
        z = torch.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        return torch.nn.functional.cross_entropy(z, label)

    def by_leaf(convert, tree):
        return {k: convert(v) for k, v in tree.items()} if isinstance(tree, dict) else convert(tree)

    def over_numpy(func):
        def call(*args):
            out = func(*(by_leaf(torch.from_numpy, a) for a in args))
            return by_leaf(torch.Tensor.numpy, out)

        return call

    grad, vmap = torch.func.grad, torch.func.vmap
    return {
        "warm": over_numpy(lambda x: torch.sqrt(x) + 1.0),
        "small_grad": over_numpy(grad(lambda x: (torch.sin(x) * x).sum())),
        "elementwise_chain": over_numpy(chain),
        "grad_chain": over_numpy(grad(lambda x: chain(x).sum())),
        "per_sample_grads_mlp": over_numpy(vmap(grad(loss), in_dims=(None, 0, 0))),
    }


FUNCTIONS = {"nufunc": numpy_functions, "jax": jax_functions, "torch": torch_functions}


# ---- one library's process ----


def leaves(result: object) -> list[np.ndarray]:
    if isinstance(result, dict):
        return [np.asarray(result[k]) for k in sorted(result)]
    return [np.asarray(result)]


def median_time(call) -> float:
    """Seconds per call: the median over the samples of one round."""
    clock = time.perf_counter
    call()
    begin = clock()
    call()
    repeats = max(1, int(2e-4 / max(clock() - begin, 1e-9)))
    samples, end = [], clock() + BURST
    gc.disable()
    while clock() < end or len(samples) < 3:
        begin = clock()
        for _ in range(repeats):
            call()
        samples.append((clock() - begin) / repeats)
    gc.enable()
    return statistics.median(samples)


def serve(library: str) -> None:
    """Answer requests, one line of JSON each: {"first": case, "save": path} or {"time": case}."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    functions = FUNCTIONS[library]()
    functions["warm"](np.ones(7))
    calls = {}
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "first" in request:
            case = request["first"]
            func, args = functions[case], arguments(case)
            calls[case] = lambda func=func, args=args: func(*args)
            begin = time.perf_counter()
            result = calls[case]()
            answer = time.perf_counter() - begin
            np.savez(request["save"], *leaves(result))
        else:
            answer = median_time(calls[request["time"]])
        print(json.dumps(answer), file=answers, flush=True)


# ---- the parent ----


def environment(cache: str) -> dict[str, str]:
    caches = {"NUFUNC_CACHE_DIR": cache, "NUMBA_CACHE_DIR": cache}
    settings = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, THREADS), **caches, "JAX_PLATFORMS": "cpu"}
    settings.pop("PYTHONDONTWRITEBYTECODE", None)  # imports are measured with their bytecode on disk
    return settings


class Worker:
    """The process of one library."""

    def __init__(self, library: str, cache: str) -> None:
        command = [sys.executable, __file__, "--serve", library]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(cache)
        )
        self.library = library
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.library} ended; its error stands above")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def disagreement(reference: Path, other: Path) -> float:
    """The largest difference as a share of what is allowed."""
    worst = 0.0
    with np.load(reference) as expected, np.load(other) as got:
        assert expected.files == got.files, (expected.files, got.files)
        for name in expected.files:
            e, g = expected[name], got[name]
            assert e.shape == g.shape, (e.shape, g.shape)
            assert e.dtype == g.dtype, (e.dtype, g.dtype)
            worst = max(worst, np.abs(e - g).max() / np.abs(e).max() / TOLERANCE[str(e.dtype)])
    return float(worst)


def measure_cases(libraries: list[str], rounds: int) -> dict:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(library, f"{folder}/{library}") for library in libraries]
        for case in CASES:
            row = results[case] = {library: {} for library in libraries}
            files = {library: Path(folder, f"{library}.npz") for library in libraries}
            for worker in workers:
                row[worker.library]["first"] = worker.ask(first=case, save=str(files[worker.library]))
            for library in libraries[1:]:
                share = disagreement(files[libraries[0]], files[library])
                if not share <= 1:
                    pair = f"{library} and {libraries[0]}"
                    raise SystemExit(f"{case}: {pair} differ, {share:.3g} times what is allowed")
            times = {library: [] for library in libraries}
            for _ in range(rounds):
                for worker in workers:
                    times[worker.library].append(worker.ask(time=case))
            for library in libraries:
                row[library]["call"] = min(times[library])
            print(f"{case:24s}", {k: f"{v['call'] * 1e6:.2f} us" for k, v in row.items()}, flush=True)
        for worker in workers:
            worker.close()
    return results


def measure_imports(libraries: list[str], rounds: int) -> dict[str, float]:
    names = ["numpy", *libraries]
    times = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(rounds + 1):
            for name in names:
                code = f"from time import perf_counter as t\na = t()\nimport {IMPORTS[name]}\nprint(t() - a)"
                command = [sys.executable, "-c", code]
                out = subprocess.check_output(command, env=environment(cache), text=True)
                times[name].append(float(out))
    return {name: min(values[1:]) for name, values in times.items()}


def quantity(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def table(libraries: list[str], rows: dict[str, dict[str, float]]) -> list[str]:
    """Times per library, and the time of nufunc divided by that of the fastest other one."""
    lines = [f"| | {' | '.join(libraries)} | nufunc / fastest other |", "|---" * (len(libraries) + 2) + "|"]
    for name, times in rows.items():
        others = [times[library] for library in libraries if library != "nufunc"]
        ratio = f"{times['nufunc'] / min(others):.3g}" if others and "nufunc" in times else "-"
        lines.append(f"| {name} | {' | '.join(quantity(times[k]) for k in libraries)} | {ratio} |")
    return lines


REMARK = (
    "NumPy arrays in and out. Absolute times move with the machine: compare the ratios. "
    "Made by `python benchmarks/first_marks.py`."
)


def report(libraries: list[str], cases: dict, imports: dict[str, float]) -> str:
    packages = ("numpy", "numba", *libraries)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    machine = f"Python {platform.python_version()}, {versions}; {platform.machine()}, {os.cpu_count()} cores"
    import_names = ["numpy", *libraries]
    import_row = " | ".join(quantity(imports[name]) for name in import_names)
    over_numpy = ", ".join(f"{name} {imports[name] / imports['numpy']:.2f}" for name in libraries)
    return "\n".join([
        "# First marks",
        "",
        f"{machine}, {THREADS} threads for each library. {REMARK}",
        "",
        "## Time of a call",
        "",
        *table(libraries, {CASES[c]: {k: v["call"] for k, v in row.items()} for c, row in cases.items()}),
        "",
        "## First call: trace, compile and run, with no cache on disk",
        "",
        *table(libraries, {CASES[c]: {k: v["first"] for k, v in row.items()} for c, row in cases.items()}),
        "",
        "## Import in a fresh process",
        "",
        f"| {' | '.join(import_names)} |",
        "|---" * len(import_names) + "|",
        f"| {import_row} |",
        "",
        f"Times the import of NumPy: {over_numpy}.",
        "",
    ])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, help="default: those that are installed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    libraries = options.libraries or [name for name in LIBRARIES if importlib.util.find_spec(name)]
    cases = measure_cases(libraries, options.rounds)
    imports = measure_imports(libraries, options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    figures = json.dumps({"cases": cases, "imports": imports}, indent=1)
    (options.out / "first_marks.json").write_text(figures + "\n")
    text = report(libraries, cases, imports)
    (options.out / "first_marks.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

"""The parent's side of a library's process: environment, requests with a time limit, start-up and import times."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIMEOUT = 240.0  # seconds for one answer
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
HAND = "numba"  # loops written by hand: a mark, not a neighbour
NEEDS = {
    "nufunc": "nufunc",
    "jax": "jax",
    "torch": "torch",
    "torch_compile": "torch",
    "pytensor": "pytensor",
    HAND: "numba",
}
IMPORTS = {
    "numpy": "numpy",
    "nufunc": "nufunc",
    "jax": "jax, jax.numpy",
    "torch": "torch, torch.func",
    "pytensor": "pytensor, pytensor.tensor",
    HAND: "numba",
}


SETTINGS = {"threads": "2", "BENCH_CLOCK": "wall", "BENCH_TARGET": "cpu", "JAX_PLATFORMS": "cpu"}
INTERPRETERS: dict[str, str] = {}  # the Python of a library that needs an environment of its own


def installed() -> list[str]:
    return [library for library, package in NEEDS.items() if library in INTERPRETERS or find_spec(package)]


def python(library: str) -> str:
    return INTERPRETERS.get(library, sys.executable)


def environment(cache: Path) -> dict[str, str]:
    """The same number of threads for each library, its caches in a folder of their own, bytecode on disk."""
    folder = str(cache)
    settings = os.environ | dict.fromkeys(THREAD_VARIABLES, SETTINGS["threads"])
    settings |= {
        **{name: value for name, value in SETTINGS.items() if name != "threads"},
        "NUFUNC_CACHE_DIR": f"{folder}/nufunc",
        "NUMBA_CACHE_DIR": f"{folder}/numba",
        "PYTHONWARNINGS": "ignore",
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "PYTENSOR_FLAGS": f"base_compiledir={folder}/pytensor",
    }
    settings.pop("PYTHONDONTWRITEBYTECODE", None)
    return settings


class Library:
    """A running serve.py; started again after it died or ran into the time limit."""

    def __init__(self, name: str, cache: Path) -> None:
        self.name = name
        self.cache = cache
        self.greeting: dict = {}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [python(self.name), str(HERE / "serve.py"), self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(self.cache),
            cwd=HERE,
            start_new_session=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True).start()
        self.greeting = self._next() or self.greeting

    @staticmethod
    def _read(stream, lines: queue.Queue) -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    def _next(self) -> dict:
        try:
            line = self.lines.get(timeout=TIMEOUT)
        except queue.Empty:
            self.kill()
            return {"error": "time limit"}
        if not line:
            self.kill()
            return {"error": "process died"}
        return json.loads(line)

    def ask(self, **request: str) -> dict:
        if self.process.poll() is not None:
            self.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"error": "process died"}
        return self._next()

    def kill(self) -> None:
        """End the process and its compiling helpers."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


def fresh_start(library: str, case: str, cache: Path) -> float | None:
    """Seconds from starting Python to the first result of a case; None if it fails."""
    command = [python(library), str(HERE / "serve.py"), library, case]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(cache), cwd=HERE) as process:
        line = process.stdout.readline()
        seconds = time.perf_counter() - begin
    return seconds if line.strip() == "done" else None


def import_times(libraries: list[str], rounds: int, cache: Path) -> dict[str, float]:
    """Seconds to import, the least over rounds of fresh processes; the first round only writes bytecode."""
    names = ["numpy", *(name for name in libraries if name in IMPORTS)]
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds + 1):
        for name in names:
            code = f"from time import perf_counter as t\na = t()\nimport {IMPORTS[name]}\nprint(t() - a)"
            out = subprocess.check_output([python(name), "-c", code], env=environment(cache), text=True)
            times[name].append(float(out))
    return {name: min(values[1:]) for name, values in times.items()}

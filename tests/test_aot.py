"""Libraries ahead of time: used from C, from Python without nufunc, and what is refused."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import nufunc as nf
from nufunc import aot

CC = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler here")
A = np.arange(12.0).reshape(4, 3) / 7
SCALE = 1.5
ALONE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nufunc", "numba", "llvmlite", "scipy", "optree"):
            raise ImportError(name)
sys.meta_path.insert(0, Nothing())
import numpy as np
"""


def loss(w, x):
    return np.sum(np.tanh(x @ w) ** 2)


def captured(x):
    return A @ x * SCALE


def step(u, k):
    u[1:] += k * u[:-1]
    return u.sum(), u * 2


def halved(x):
    return nf.while_loop(lambda c: c[1] < c[0], lambda c: (c[0] * 0.9, c[1] + 1.0), (x, 0.0))[0]


def smoothed(u):
    return nf.scan(lambda c, row: (c + np.roll(row, 1), c * row), u[0], u)


def trees(params, flag, z):
    return {"a": params["w"][0] * z, "b": np.where(flag, params["b"], -params["b"])}


def pick(x, i):
    return x[i]


W, X = np.linspace(-1, 1, 60).reshape(20, 3), np.linspace(0, 1, 200).reshape(10, 20)
BIG = np.linspace(-1, 1, 300 * 200).reshape(300, 200), np.linspace(0, 1, 1000 * 300).reshape(1000, 300)
PARAMS = {"w": [np.arange(3.0) + 1j], "b": np.arange(4, dtype="i4")}
CASES = {
    "value": (loss, (W, X)),
    "grad": (nf.grad(loss, argnums=(0, 1)), (W, X)),
    "big": (nf.grad(loss), BIG),
    "captured": (captured, (np.arange(3.0),)),
    "step": (step, (np.arange(10.0), 2.0)),
    "halved": (nf.grad(halved), (30.0,)),
    "trees": (trees, (PARAMS, np.array([True, False, True, True]), np.complex128(2 + 1j))),
    "pick": (pick, (np.arange(5.0), np.int64(3))),
    "solve": (np.linalg.solve, (np.eye(5) * 3 + np.ones((5, 5)), np.arange(5.0))),
    "single": (nf.vmap(nf.grad(lambda v: np.sum(np.exp(v) / v))), (np.linspace(1, 2, 12, dtype="f4").reshape(3, 4),)),
    "small": (lambda a, b: (a + b, a // b), (np.int8(100), np.int8(27))),
}  # fmt: skip


def flat(tree):
    return [np.asarray(leaf) for leaf in nf.tree.leaves(tree)]


def expected(name):
    func, args = CASES[name]
    args = nf.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, args)
    return flat(nf.jit(func)(*args)), args


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aot") / "model"
    return nf.aot.compile(CASES, out=folder)


def run(code, folder, *arguments):
    """What a Python with NumPy alone prints."""
    command = [sys.executable, "-c", ALONE + code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=True).stdout


@needs_cc
def test_from_python_with_numpy_alone(library, tmp_path):
    """The results of all functions, bit for bit those of the compiled functions here."""
    wanted, given = {}, {}
    for name, (func, args) in CASES.items():
        wanted[name], after = expected(name)
        given[name] = [*flat(args), *([A, np.float64(SCALE)] if name == "captured" else [])]
        if func is step:
            wanted[name].append(after[0])
    arrays = {f"{name}.{k}": a for name, inputs in given.items() for k, a in enumerate(inputs)}
    np.savez(tmp_path / "inputs.npz", **arrays)
    code = """
import model
inputs = np.load(sys.argv[1])
made = {}
for key in sorted({k.split(".")[0] for k in inputs}):
    args = [inputs[f"{key}.{i}"] for i in range(sum(k.startswith(key + ".") for k in inputs))]
    results = getattr(model, "model_" + key)(*args)
    results = results if isinstance(results, tuple) else (results,)
    made.update({f"{key}.{k}": r for k, r in enumerate((*results, *([args[0]] if key == "step" else [])))})
np.savez(sys.argv[2], **made)
"""
    run(code, library.folder.parent, tmp_path / "inputs.npz", tmp_path / "results.npz")
    results = np.load(tmp_path / "results.npz")
    for name, values in wanted.items():
        for k, value in enumerate(values):
            found = results[f"{name}.{k}"]
            assert (found.shape, found.dtype) == (value.shape, value.dtype), name
            np.testing.assert_array_equal(found, value, name)


@needs_cc
def test_errors_of_the_loader(library):
    code = """
import model
for call in (lambda: model.model_pick(np.arange(5.0), 9), lambda: model.model_pick(np.arange(4.0), 1),
             lambda: model.model_pick(np.arange(5.0)), lambda: model.model_pick(np.arange(5.0), 1.5),
             lambda: model.model_step(np.arange(20.0)[::2], 1.0)):
    try:
        print(call())
    except Exception as error:
        print(type(error).__name__, error)
print(model.model_pick.__doc__.splitlines()[0], model.model_pick(np.arange(5.0), -1))
"""
    lines = run(code, library.folder.parent).splitlines()
    assert lines[0].startswith("Error model_pick: index out of bounds")
    assert f"line {pick.__code__.co_firstlineno + 1}" in lines[0]
    assert lines[1] == "TypeError model_pick: x must be float64 of shape (5,), got float64 of shape (4,)"
    assert lines[2] == "TypeError model_pick takes 2 inputs, got 1"
    assert lines[3] == "TypeError model_pick: i must be int64 of shape (), got float64 of shape ()"
    assert "model_step: u is written in place; pass a C-contiguous, writeable array" in lines[4]
    assert lines[5] == "pick 4.0"


def example_inputs(name):
    """What example.c passes."""
    inputs = []
    for leaf in flat(CASES[name][1]):
        size = leaf.size * (2 if leaf.dtype.kind == "c" else 1)
        real = np.array([i % 10 / 10.0 for i in range(size)])
        if leaf.shape == () and leaf.dtype.kind != "c":
            inputs.append(leaf.dtype.type(0.5))
        elif leaf.dtype.kind == "c":
            inputs.append(real.view(leaf.dtype).reshape(leaf.shape)[()])
        else:
            inputs.append(real.astype(leaf.dtype).reshape(leaf.shape))
    return inputs


@needs_cc
def test_the_c_example(library, tmp_path):
    """It compiles without a warning, as C and as C++, and prints the compiled functions' numbers."""
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    link = ["-L.", "-lmodel", "-lm", "-Wl,-rpath,."]
    subprocess.run([CC, *strict, "-std=c99", "example.c", *link, "-o", "example"], cwd=library.folder, check=True)
    if shutil.which("g++"):
        text = '#include "model.h"\nint main() { model_parallel_for(nullptr); return 0; }\n'
        (tmp_path / "main.cpp").write_text(text)
        include = ["-I", str(library.folder)]
        command = ["g++", *strict, *include, str(tmp_path / "main.cpp"), *link, "-o", str(tmp_path / "main")]
        subprocess.run(command, cwd=library.folder, check=True)
    printed = subprocess.run(["./example"], cwd=library.folder, capture_output=True, text=True, check=True).stdout
    for name in ("value", "grad", "pick"):
        func, args = CASES[name]
        structure = nf.tree.structure(args)
        results = flat(nf.jit(func)(*nf.tree.unflatten(structure, example_inputs(name))))
        want = np.concatenate([a.ravel()[:4] for a in results])
        block = re.search(rf"model_{name}: done\n((?:    .*\n)*)", printed)[1]
        found = [float(line.rsplit("=", 1)[1]) for line in block.splitlines()]
        np.testing.assert_array_equal(found, want)


@needs_cc
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_halves_are_passed_as_bits_in_memory(tmp_path, name):
    """Numbers too: as a number 0.5 would become the bits 0."""
    dtype = nf.bfloat16 if name == "bfloat16" else np.float16
    halves = (dtype(0.5), np.array([1.5, -2.0, 3.0], dtype))
    built = aot.compile({"f": lambda a, x: (a * x + 1, a + a)}, *halves, out=tmp_path / "halves")
    assert "const uint16_t *a, const uint16_t *x, uint16_t *result_0" in built.header.read_text()
    code = f"""
    sys.path.insert(0, {str(tmp_path)!r})
    import halves
    {"from ml_dtypes import bfloat16" if name == "bfloat16" else "from numpy import float16"}
    products, double = halves.halves_f({name}(0.5), np.array([1.5, -2.0, 3.0], {name}))
    assert halves.halves_f(0.5, np.array([1.5, -2.0, 3.0], {name}))[1] == double
    print(products.dtype, products.tolist(), double.dtype, float(double))
    """
    done = subprocess.run([sys.executable, "-c", ALONE + textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == f"{name} [1.75, 0.0, 2.5] {name} 1.0", done.stderr
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-std=c99"]
    command = [CC, *strict, "example.c", "-L.", "-lhalves", "-lm", "-Wl,-rpath,.", "-o", "example"]
    subprocess.run(command, cwd=built.folder, check=True)
    printed = subprocess.run(["./example"], cwd=built.folder, capture_output=True, text=True, check=True).stdout
    bits = [int(line.rsplit("=", 1)[1], 16) for line in printed.splitlines() if "=" in line]
    first, one = (0x3F00, 0x3F80) if name == "bfloat16" else (0x3800, 0x3C00)
    half, x = dtype(0.5), np.array([first, first + 1, first + 2], np.uint16).view(dtype)
    assert bits == [*(half * x + dtype(1)).view(np.uint16).tolist(), one]


@needs_cc
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind here")
def test_valgrind_finds_nothing(tmp_path):
    """Every function once, for a processor that valgrind knows."""
    cases = {name: CASES[name] for name in ("value", "grad", "captured", "step", "halved", "trees", "pick", "solve")}
    built = nf.aot.compile(cases, out=tmp_path / "model", cpu="x86-64-v3")
    link = ["-g", "example.c", "-L.", "-lmodel", "-lm", "-Wl,-rpath,.", "-o", "example"]
    subprocess.run([CC, *link], cwd=built.folder, check=True)
    command = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "./example"]
    done = subprocess.run(command, cwd=built.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = re.findall(r"^model_(\w+): (.*)$", done.stdout, re.MULTILINE)
    assert [name for name, _ in lines] == list(cases)
    assert {said for name, said in lines if name != "solve"} == {"done"}
    assert dict(lines)["solve"].startswith("Singular matrix")  # its numbers repeat


THREADS = """
import ctypes, threading
import model
Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
seen = []
@ctypes.CFUNCTYPE(None, Body, ctypes.c_void_p, ctypes.c_int64)
def run(body, data, tasks):
    seen.append(tasks)
    workers = [threading.Thread(target=body, args=(data, k, tasks)) for k in reversed(range(tasks))]
    [w.start() for w in workers]
    [w.join() for w in workers]
library = model._LIBRARY
w, x = np.linspace(-1, 1, 300 * 200).reshape(300, 200), np.linspace(0, 1, 1000 * 300).reshape(1000, 300)
alone = model.model_big(w, x)
library.model_parallel_for(run)
shared = model.model_big(w, x)
library.model_parallel_for(None)
print(len(seen) > 0, min(seen) > 1, np.array_equal(alone, shared), np.array_equal(alone, model.model_big(w, x)))
size = model.model_big._about["workspace"]
block = np.empty(size + 64, np.uint8)
start = block.ctypes.data + -block.ctypes.data % 64
out = np.empty_like(w)
code = model.model_big._call(w.ctypes.data, x.ctypes.data, out.ctypes.data, start)
print(code, size > 0, np.array_equal(alone, out))
"""


@needs_cc
def test_tasks_on_the_programs_own_threads(library):
    assert run(THREADS, library.folder.parent).split() == ["True"] * 4 + ["0", "True", "True"]


@needs_cc
@pytest.mark.parametrize("cpu", ["x86-64", "x86-64-v2", "x86-64-v3"])
def test_other_levels_of_the_processor(cpu, tmp_path):
    built = nf.aot.compile({"grad": nf.grad(loss), "e": (lambda v: np.exp(v) + np.sin(v), (nf.spec(100),))},
                           W, X, out=tmp_path / "lesser", cpu=cpu)  # fmt: skip
    code = """
import lesser
w, x = np.linspace(-1, 1, 60).reshape(20, 3), np.linspace(0, 1, 200).reshape(10, 20)
t = np.tanh(x @ w)
print(np.allclose(lesser.lesser_grad(w, x), 2 * x.T @ (t * (1 - t * t)), rtol=1e-12))
v = np.linspace(-5, 5, 100)
print(np.allclose(lesser.lesser_e(v), np.exp(v) + np.sin(v), rtol=1e-14))
"""
    assert run(code, built.folder.parent).split() == ["True", "True"]
    assert json.loads(built.manifests[0].read_text())["target"]["cpu"] == cpu


def test_an_object_file_for_another_architecture(tmp_path):
    built = nf.aot.compile(nf.grad(loss), W, X, out=tmp_path / "arm", cpu="aarch64", link=False)
    data = built.object_file.read_bytes()
    assert built.library is None
    assert data[:5] == b"\x7fELF\x02"
    assert int.from_bytes(data[18:20], "little") == 183  # EM_AARCH64
    assert b"arm_error" in data


@needs_cc
def test_embedded_captures(tmp_path):
    built = nf.aot.compile(captured, nf.spec(3), out=tmp_path / "held", embed=True)
    assert [p["name"] for p in json.loads(built.manifests[0].read_text())["functions"][0]["inputs"]] == ["x"]
    code = """
import held
x = np.arange(3.0)
print(np.allclose(held.held(x), np.arange(12.0).reshape(4, 3) / 7 @ x * 1.5, rtol=1e-15))
"""
    assert run(code, built.folder.parent).strip() == "True"


@needs_cc
def test_the_gradient_of_a_network_is_small(tmp_path):
    def network(params, x, y):
        for w, b in params:
            x = np.tanh(x @ w + b)
        return np.mean((x - y) ** 2)

    sizes = (64, 32, 10)
    params = [(nf.spec((m, n)), nf.spec(n)) for m, n in itertools.pairwise(sizes)]
    built = nf.aot.compile(nf.grad(network), params, nf.spec((1797, 64)), nf.spec((1797, 10)), out=tmp_path / "digits")
    assert built.library.stat().st_size < 1_000_000


@needs_cc
def test_the_command_line(tmp_path, capsys, monkeypatch):
    text = "import numpy as np\nimport nufunc as nf\nf = nf.grad(lambda x: np.sum(x ** 3))\n"
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert aot.main(["mine:f", "--spec", "f64[5]", "--out", "cubes"]) == 0
    assert capsys.readouterr().out.strip().endswith("libcubes.so")
    assert run("import cubes; print(cubes.cubes(np.arange(5.0)))", tmp_path).strip() == "[ 0.  3. 12. 27. 48.]"
    assert aot.main(["mine:g", "--spec", "f64[5]"]) == 1
    assert "has no attribute 'g'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        aot.main(["mine"])


def test_names_that_c_cannot_have(tmp_path):
    wrong = {"x y": "cannot be part", "": "belongs to", "f_error": "belongs to m_f", "body": "library"}
    for key, words in wrong.items():
        functions = {"f": np.sin, **({"error": np.cos} if key == "" else {}), key: np.cos}
        with pytest.raises(nf.ArgumentError, match=words):
            aot.compile(functions, nf.spec(3), out=tmp_path / "m")
        assert not (tmp_path / "m").exists()


def test_mistakes_on_the_command_line(tmp_path, capsys):
    out = ["--out", str(tmp_path / "m")]
    assert aot.main(["textwrap:dedent", "--spec", "f64[3]", "--spec", "f64[3]", *out]) == 1
    assert "2 times --spec for the arguments (text)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        aot.main(["numpy:sin", "--spec", "f64[3", *out])
    assert "no type, as f64[100,3]" in capsys.readouterr().err


def test_what_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "no"
    spec = nf.spec(4)

    def prints(x):
        nf.debug.print("{}", x)
        return x

    with pytest.raises(nf.UnsupportedError, match="calls a Python function"):
        nf.aot.compile(prints, spec, out=out)
    generator = np.random.default_rng(0)
    with pytest.raises(nf.UnsupportedError, match=r"use nf\.random with"):
        nf.aot.compile(lambda x: x + generator.normal(size=4), spec, out=out)
    with pytest.raises(nf.UnsupportedError, match=r"BLAS; name a library that has it: blas="):
        nf.aot.compile(lambda x: x @ x, nf.spec((100, 100), "c16"), out=out)
    with pytest.raises(nf.UnsupportedError, match=r"LAPACK; name a library"):
        nf.aot.compile(np.linalg.eigvalsh, nf.spec((4, 4)), out=out)
    with pytest.raises(nf.ArgumentError, match="cpu must be one of native"):
        nf.aot.compile(loss, W, X, out=out, cpu="z80")
    with pytest.raises(nf.ArgumentError, match="cannot be the name of a library in C"):
        nf.aot.compile(loss, W, X, out=tmp_path / "not-c")
    with pytest.raises(nf.ArgumentError, match="target must be 'cpu' or 'cuda'"):
        nf.aot.compile(loss, W, X, out=out, target="tpu")
    with pytest.raises(nf.ArgumentError, match="no C-contiguous array"):
        nf.aot.compile(loss, W[::2], X[:, ::2], out=out)
    with pytest.raises(nf.ArgumentTypeError, match="takes functions, got int"):
        nf.aot.compile({"a": 3}, out=out)
    assert not out.exists()
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(nf.UnsupportedError, match=r"no-such-compiler was not found.*link=False"):
        nf.aot.compile(loss, W, X, out=out)
    assert (out / "no.o").exists()


# -- CUDA

SIMULATED = """
import json, sys
import numpy as np
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.simulate import simulate
from nufunc.codegen.loops import Buffer
folder, inputs = sys.argv[1], np.load(sys.argv[2])
manifest = json.load(open(folder + "/manifest.json"))
memories = []
for m in manifest["memories"]:
    kind, what = (*(m["from"] or [None]), 0)[:2]
    array = {"input": lambda: inputs[f"arr_{what}"], "constant": lambda: np.load(f"{folder}/{what}"),
             "zeros": lambda: np.zeros(m["bytes"], "u1"), None: lambda: np.full(m["bytes"], 255, "u1")}[kind]()
    memories.append(np.frombuffer(bytearray(np.ascontiguousarray(array).tobytes()), "u1"))
def at(place, nbytes):
    return memories[place[0]][place[1] : place[1] + nbytes]
for step in manifest["steps"]:
    if "copy" in step:
        at(step["to"], step["copy"])[:] = at(step["from"], step["copy"])
        continue
    kernel = manifest["kernels"][step["kernel"]]
    source = open(f"{folder}/{kernel['source']}").read()
    buffers = [Buffer("b", np.dtype(b["dtype"]), b["elements"], b["written"]) for b in kernel["buffers"]]
    arrays = [at(p, b.size * b.dtype.itemsize).view(b.dtype) for p, b in zip(step["places"], buffers)]
    error = at(step["places"][-1], 4).view("i4")
    made = Kernel(kernel["name"], source, tuple(buffers), 0, kernel["blocks"], kernel["threads"])
    simulate(made, [*arrays, error])
assert error[0] == 0
results = []
for place, r in zip(manifest["outputs"], manifest["results"]):
    dtype = np.dtype(r["dtype"])
    results.append(at(place, dtype.itemsize * int(np.prod(r["shape"]))).view(dtype).reshape(r["shape"]))
for k in manifest["updates"]:
    results.append(memories[1 + k].view(inputs[f"arr_{k}"].dtype))
np.savez(sys.argv[3], *results)
"""


def test_kernels_for_cuda(tmp_path):
    """PTX without a device; the manifest, followed by a program that knows nothing else, in the simulator."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install nufunc[cuda]")
    small = np.linspace(-1, 1, 6).reshape(3, 2), np.linspace(0, 1, 12).reshape(4, 3)
    rows = np.linspace(0, 1, 30).reshape(5, 6)
    cases = {
        "grad": (nf.grad(loss), small), "step": (step, (np.arange(5.0), np.float64(2.0))),
        "loop": (halved, (np.float64(30.0),)), "scan": (smoothed, (rows,)),
    }  # fmt: skip
    built = nf.aot.compile(cases, out=tmp_path / "kernels", target="cuda", capability=(9, 0))
    assert built.functions == ("kernels_grad", "kernels_step", "kernels_loop", "kernels_scan")
    for manifest in built.manifests:
        data = json.loads(manifest.read_text())
        assert data["steps"]
        for kernel in data["kernels"]:
            text = (manifest.parent / kernel["ptx"]).read_text()
            assert f".entry {kernel['symbol']}" in text
            assert ".target sm_90" in text
            assert text.split(".entry", 1)[1].split(")", 1)[0].count(".param") == len(kernel["buffers"]) + 1
            if kernel["cubin"]:
                assert (manifest.parent / kernel["cubin"]).read_bytes()[:4] == b"\x7fELF"
    for k, (func, args) in enumerate(cases.values()):
        np.savez(tmp_path / "inputs.npz", *args)
        files = [str(built.manifests[k].parent), str(tmp_path / "inputs.npz"), str(tmp_path / "results.npz")]
        subprocess.run([sys.executable, "-c", SIMULATED, *files], check=True, capture_output=True)
        found = list(np.load(tmp_path / "results.npz").values())
        own = [a.copy() for a in args]
        expected = flat(nf.jit(func)(*own)) + ([own[0]] if func is step else [])
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12)


def test_what_has_no_kernel(tmp_path):
    with pytest.raises(nf.UnsupportedError, match="no CUDA kernel for cholesky"):
        nf.aot.compile(np.linalg.cholesky, nf.spec((4, 4)), out=tmp_path / "no", target="cuda")
    with pytest.raises(nf.UnsupportedError, match="the host decides what runs"):
        nf.aot.compile(nf.grad(halved), 30.0, out=tmp_path / "no", target="cuda")
    assert not (tmp_path / "no").exists()

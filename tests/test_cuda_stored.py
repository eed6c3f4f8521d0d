"""Programs of devices in the cache on disk: what is stored, what a later process loads, and what it does not."""

import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cuda
import fake_nvmath
import numpy as np
import pytest
from cuda_device import HARDWARE, device

import nufunc as nf
from nufunc.codegen.cuda import codes
from nufunc.codegen.cuda import compile as compiler
from nufunc.codegen.cuda.portable import Portable, UnstorableError, unpack
from nufunc.codegen.objects import ObjectError
from nufunc.runtime import disk_cache, stored
from nufunc.runtime.cache import CACHE
from nufunc.runtime.cuda import compiled, devices, kept, nvidia
from nufunc.runtime.disk_cache import DISK

__all__ = ["device"]
pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="there is no cache on disk on this system")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, switched on."""
    stored.device_versions()  # which is worked out once in a process, and would leave a file
    monkeypatch.setenv("NUFUNC_CACHE", "1")
    monkeypatch.setenv("NUFUNC_CACHE_DIR", str(tmp_path / "cache"))
    for question in ("_edited", "_hashed_edited", "device_edited", "hashed_device_edited"):
        monkeypatch.setattr(stored, question, lambda: False)
    monkeypatch.setattr(disk_cache, "_warned", set())
    nf.clear_cache()
    yield tmp_path / "cache"
    nf.clear_cache()


def origins() -> list[str]:
    return [e.origin.how for v in CACHE.entries.values() for e in v.executables]


def forgotten(function: Any) -> Any:
    """The function as a later process would see it."""
    nf.clear_cache()
    return type(function)(function.transforms, function.func)


def loss(w, x):
    return np.sum(np.tanh(x * w) ** 2)


X = np.linspace(-1, 1, 12).reshape(4, 3)
TABLE = np.arange(4.0)


def _looked_up(x, i):
    return x[i] * TABLE[i][:, None]


def _doubled(x):
    return nf.while_loop(lambda c: np.linalg.norm(c @ c.T) < 100.0, lambda c: c * 2.0, x + 1.0)


def _written(x):
    x[1:3] += 1.0
    return x.sum()


PROGRAMS: dict[str, tuple[Any, tuple[np.ndarray, ...]]] = {
    "gradient": (nf.grad(loss), (X[0], X)),
    "reductions and sorts": (lambda x: (np.sort(x), np.cumsum(x), np.argmax(x, axis=1)), (X,)),
    "a table and an index": (_looked_up, (X, np.array([1, 3]))),
    "a loop that the device ends": (_doubled, (X,)),
    "its derivative": (nf.grad(lambda x: _doubled(x).sum()), (X,)),
    "a loop with a solution in it": (
        lambda x: nf.fori_loop(0, 5, lambda i, c: np.linalg.solve(c + 5 * np.eye(3), c), x), (X[:3],),
    ),
    "a branch": (lambda x: nf.cond(x.sum() > 0, np.sort, lambda x: np.linalg.qr(x)[0][:, ::-1], x), (X[:3] + 1.0,)),
    "complex numbers": (lambda x: np.fft.fft(x * (1 + 2j)).real, (X,)),
    "lanes that end by themselves": (
        nf.vmap(nf.grad(lambda x: nf.while_loop(lambda c: c < 10.0, lambda c: c * 1.5, x))), (np.ones(20),),
    ),
    "a call of Python": (lambda x: nf.pure_callback(lambda a: a * 3, nf.spec((4, 3)), x * 2) + 1, (X,)),
    "halves": (lambda x: np.sin(x.astype(np.float16)) * np.float16(2), (X,)),
    "written in place": (_written, (np.ones(5),)),
    "strided": (lambda x: x.T @ np.ones(4) * 2, (X,)),
}  # fmt: skip


def copies(values):
    return [nf.to_device(v.copy()) for v in values]


def same(actual: Any, wanted: Any) -> None:
    for a, w in zip(nf.tree.leaves(actual), nf.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(w))


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_loaded_computes_the_same(name, folder, monkeypatch) -> None:
    function, values = PROGRAMS[name]
    f = nf.jit(function)
    first = copies(values)
    wanted = f(*first)
    assert origins() == ["compiled"]
    (executable,) = (e for v in CACHE.entries.values() for e in v.executables)
    assert executable.origin.unstored is None
    assert nf.explain(f, *copies(values)).unstored is None
    steps = str(executable.entry.steps)
    monkeypatch.setattr(compiled, "lowered_for", lambda program: pytest.fail("it was planned"))
    again, second = forgotten(f), copies(values)
    assert nf.explain(again, *second).found == "disk"
    before = nf.cache_info()
    same(again(*second), wanted)
    same(second, first)
    assert origins() == ["loaded"]
    assert nf.cache_info().loaded == before.loaded + 1
    (loaded,) = (e for v in CACHE.entries.values() for e in v.executables)
    assert str(loaded.entry.steps) == steps
    same(again(*copies(values)), wanted)
    same(again(*copies(values)), wanted)  # replayed, where it can be


LINEAR = {
    "products": (lambda x: np.tanh(x @ x.T) @ x, (np.linspace(0, 1, 600).reshape(20, 30),)),
    "factors": (lambda x: (np.linalg.cholesky(x), np.linalg.solve(x, x[:, :2])), (np.eye(40) + 0.01,)),
    "a stack of spectra": (lambda x: np.fft.rfft(np.linalg.eigvalsh(x)).real, (np.eye(20) + np.zeros((3, 20, 20)),)),
}  # fmt: skip


@pytest.mark.skipif(HARDWARE, reason="stands in for hardware")
@pytest.mark.parametrize("route", ["own", "nvidia"])
@pytest.mark.parametrize("name", LINEAR)
def test_library_calls_are_not_looked_at_again(name, route, folder, monkeypatch) -> None:
    import nufunc.codegen.cuda.libraries as lowering

    function, values = LINEAR[name]
    libraries = {
        "cublas": fake_nvmath.Cublas(), "cusolverDn": fake_nvmath.CusolverDn(), "cufft": fake_nvmath.Cufft(),
    }  # fmt: skip
    monkeypatch.setattr(nvidia, "module", libraries.get)
    monkeypatch.setattr(nvidia, "_handles", {})
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", route)
    f = nf.jit(function)
    wanted = f(*copies(values))
    (executable,) = (e for v in CACHE.entries.values() for e in v.executables)
    replayable = executable.entry.machine.replayable
    monkeypatch.setattr(compiled, "lowered_for", lambda program: pytest.fail("it was planned"))
    for question in ("steps_of", "glue_kernels", "kernels_of", "replayable"):
        monkeypatch.setattr(lowering, question, lambda *args: pytest.fail("it was looked at"))
    again = forgotten(f)
    same(again(*copies(values)), wanted)
    same(again(*copies(values)), wanted)
    (executable,) = (e for v in CACHE.entries.values() for e in v.executables)
    assert executable.origin.how == "loaded"
    assert executable.entry.machine.replayable == replayable


@pytest.mark.skipif(HARDWARE, reason="stands in for hardware")
def test_convolutions_are_planned_with_the_device_at_hand(folder, monkeypatch) -> None:
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "own")
    f = nf.jit(lambda x, w: np.tanh(nf.nn.functional.conv1d(x, w)))
    values = (np.linspace(0, 1, 72).reshape(2, 3, 12), np.linspace(-1, 1, 60).reshape(4, 3, 5))
    wanted = f(*copies(values))
    same(forgotten(f)(*copies(values)), wanted)
    (executable,) = (e for v in CACHE.entries.values() for e in v.executables)
    assert executable.origin.how == "loaded"
    found = {call.prim: vars(call).get("ready") is not None for call in executable.entry.machine.calls}
    assert found == {"conv": False}


@pytest.mark.skipif(HARDWARE, reason="stands in for hardware")
def test_another_route_looks_at_calls_again(folder, monkeypatch) -> None:
    function, values = LINEAR["factors"]
    f = nf.jit(function)
    wanted = [np.asarray(r) for r in f(*copies(values))]  # by the host
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "own")
    for made, want in zip(forgotten(f)(*copies(values)), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(made), want, rtol=1e-12, atol=1e-12)
    assert origins() == ["loaded"]


def test_a_limit_of_temporaries_plans_nothing_the_second_time(folder: Path, monkeypatch) -> None:
    f = nf.jit(nf.vmap(nf.grad(loss), in_dims=(None, 0)), max_bytes=2000)
    values = (X[0], np.linspace(0, 1, 600).reshape(50, 4, 3))
    wanted = f(*copies(values))
    monkeypatch.setattr(compiled, "lowered_for", lambda program: pytest.fail("it was planned"))
    same(forgotten(f)(*copies(values)), wanted)
    assert origins() == ["loaded"]


def test_workers_pickle_the_graph_and_find_the_program(folder: Path, monkeypatch) -> None:
    made = nf.jit(nf.grad(loss)).lower(*copies((X[0], X))).compile()
    wanted = np.asarray(made(*copies((X[0], X))))
    data = pickle.dumps(made)
    nf.clear_cache()
    monkeypatch.setattr(compiled, "lowered_for", lambda program: pytest.fail("it was planned"))
    again = pickle.loads(data)
    np.testing.assert_array_equal(np.asarray(again(*copies((X[0], X)))), wanted)
    assert again.executable.origin.how == "loaded"


def test_arguments_of_the_host(folder: Path) -> None:
    f = nf.jit(nf.grad(loss), target="cuda")
    wanted = f(X[0], X)
    again = forgotten(f)
    np.testing.assert_array_equal(again(X[0], X), wanted)
    assert origins() == ["loaded"]
    nf.clear_cache()
    forgotten(f)(nf.to_device(X[0]), X)  # another program: its results stay there
    assert origins() == ["compiled"]


def test_errors_name_the_lines_of_today(folder: Path) -> None:
    def taken(x, i):
        return x[i]

    f = nf.jit(taken)
    f(*copies((X, np.array([1]))))

    def taken(x, i):  # the same at another line
        return x[i]

    moved = nf.jit(taken)
    nf.clear_cache()
    with pytest.raises(IndexError, match=f"line {taken.__code__.co_firstlineno + 1}, in"):
        np.asarray(moved(*copies((X, np.array([9])))))
    assert origins() == ["loaded"]


def test_functions_that_are_called_are_those_of_the_process(folder: Path) -> None:
    def calling(function):
        return nf.jit(lambda x: nf.pure_callback(lambda a: function(a), nf.spec(3), x))

    x = nf.to_device(np.ones(3))
    np.testing.assert_array_equal(np.asarray(calling(np.sin)(x)), np.sin(np.ones(3)))
    nf.clear_cache()
    np.testing.assert_array_equal(np.asarray(calling(np.cos)(x)), np.cos(np.ones(3)))
    assert origins() == ["loaded"]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "of another format"])
def test_damage(folder: Path, damage: str) -> None:
    f, x = nf.jit(lambda x: np.cos(x) * 2), nf.to_device(X)
    wanted = np.asarray(f(x))
    (key,) = (e.origin.key for v in CACHE.entries.values() for e in v.executables)
    assert key is not None
    (file,) = [p for p in folder.glob("*.nufunc") if p.stem == key]
    data = bytearray(file.read_bytes())
    if damage == "of another format":  # whole, but not what it should be
        DISK.put(key, b"nufunc device program 1\n" + bytes(30), "no program")
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    with pytest.warns(nf.CacheWarning, match="damaged"):
        np.testing.assert_array_equal(np.asarray(forgotten(f)(x)), wanted)
    assert origins() == ["compiled"]
    np.testing.assert_array_equal(np.asarray(forgotten(f)(x)), wanted)
    assert origins() == ["loaded"]


def test_bytes_that_are_no_program() -> None:
    steps = compiled.lowered_for(nf.jit(np.sin, target="cuda").program_of((X,), {})[0]).steps
    data = _packed(steps)
    found = unpack(data, _lines(steps), ())
    assert found.program == steps
    assert found.placed == {0}
    assert found.names == {steps.kernels[0]: "name"}
    other = [data.replace(b"Launch", b"eval"), data.replace(b'"kernel"', b'"object"')]
    for wrong in (b"", data[:-40], data[:100], *other):
        with pytest.raises(ObjectError):
            unpack(wrong, _lines(steps), ())


def _lines(steps):
    return [step.loc for step in steps.walk() if getattr(step, "loc", None) is not None]


def _packed(steps) -> bytes:
    return Portable(steps, frozenset({0}), {steps.kernels[0]: "name"}).pack(_lines(steps), ())


def test_what_a_program_does_not_name_is_not_stored(folder: Path, monkeypatch) -> None:
    f = nf.jit(lambda x: np.linalg.solve(x, x + 1))
    steps = compiled.lowered_for(nf.jit(f, target="cuda").program_of((X[:3],), {})[0]).steps
    with pytest.raises(UnstorableError, match="at a place"):
        Portable(steps, frozenset(), {}).pack((), ())
    pack = Portable.pack
    monkeypatch.setattr(Portable, "pack", lambda self, locations, hosts: pack(self, (), ()))
    x = nf.to_device(X[:3] + np.eye(3))
    f(x)
    assert "at a place" in str(nf.explain(f, x))


def test_other_devices_and_versions_have_other_programs(folder: Path, monkeypatch) -> None:
    f, x = nf.jit(lambda x: np.cos(x) * 2), nf.to_device(X)
    f(x)
    forgotten(f)(x)
    assert origins() == ["loaded"]
    driver = devices.device_of(0).driver
    if not HARDWARE:
        with monkeypatch.context() as there:
            there.setattr(type(driver), "capability", (9, 0))
            forgotten(f)(x)
            assert origins() == ["compiled"]
    versions = stored.device_versions()
    monkeypatch.setattr(stored, "device_versions", lambda: (*versions, "another toolkit"))
    forgotten(f)(x)
    assert origins() == ["compiled"]


def test_sources_of_devices_are_part_of_their_key_alone(monkeypatch) -> None:
    assert stored._sources(True) != stored._sources(False)
    files = {entry.path for entry in stored._source_files(True)} - {e.path for e in stored._source_files(False)}
    assert {Path(path).name for path in files} >= {"plan.py", "portable.py", "writer.py"}


def test_edited_sources_are_not_what_runs(folder: Path, monkeypatch) -> None:
    f, x = nf.jit(lambda x: x + 1), nf.to_device(X)
    for question in ("device_edited", "hashed_device_edited"):
        monkeypatch.setattr(stored, question, lambda: True)
        forgotten(f)(x)
        assert origins() == ["compiled"]
        assert "edited" in str(nf.explain(f, x))
        assert not list(folder.glob("*.nufunc"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_only_be_read(folder: Path) -> None:
    f, x = nf.jit(lambda x: x + 1), nf.to_device(X)
    f(x)
    folder.chmod(0o500)
    try:
        forgotten(f)(x)
        assert origins() == ["loaded"]
    finally:
        folder.chmod(0o700)


def test_a_folder_that_is_not_written_to(folder: Path, monkeypatch) -> None:
    f, g, x = nf.jit(lambda x: x + 1), nf.jit(lambda x: x + 2), nf.to_device(X)
    f(x)

    def refused(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disk_cache, "_write", refused)
    forgotten(f)(x)
    assert origins() == ["loaded"]
    nf.clear_cache()
    with pytest.warns(nf.CacheWarning, match="cannot be written"):
        np.testing.assert_array_equal(np.asarray(g(x)), X + 2)
    assert origins() == ["compiled"]


def test_profiles_and_dumps_plan_anew(folder: Path) -> None:
    f, x = nf.jit(lambda x: np.cos(x) * 2), nf.to_device(X)
    f(x)
    again = forgotten(f)
    again(x)
    assert origins() == ["loaded"]
    assert "loop_0" in nf.dump(again, x, stage="device")
    assert nf.profile(again, x, seconds=0.0).rows[0].kernel.name == "cos+mul"
    assert again.lower(x).cost().num_kernels == 1


SECOND_PROCESS = """
import sys
import numpy as np
import nufunc as nf
from nufunc.runtime.cache import CACHE

def loss(w, x):
    return np.sum(np.tanh(x * w) ** 2)

w, x = nf.to_device(np.linspace(0, 1, 3)), nf.to_device(np.ones((4, 3)))
gradient = nf.grad(loss)(w, x)
print(" ".join(e.origin.how for v in CACHE.entries.values() for e in v.executables))
names = "numba llvmlite scipy.special nufunc.passes.fuse nufunc.codegen.cuda.plan nufunc.codegen.cuda.libraries"
names += " nufunc.codegen.cuda.writer nufunc.codegen.cuda.compile nufunc.codegen.cuda.lowering cuda.bindings.nvvm"
print(" ".join(sorted(set(names.split()) & imported_before_kernels)))
print(np.asarray(gradient).tobytes().hex())
"""
BEFORE_KERNELS = """
import sys
from nufunc.runtime.cuda import simulated
launch, imported_before_kernels = simulated.SimulatedDriver.launch, set()
def launched(self, *args):  # the simulator imports what it runs kernels with
    imported_before_kernels.update(sys.modules)
    launch(self, *args)
simulated.SimulatedDriver.launch = launched
"""


@pytest.mark.skipif(HARDWARE, reason="looks at the simulator")
def test_a_second_process_plans_and_compiles_nothing(tmp_path: Path) -> None:
    settings = {**os.environ, "NUFUNC_CACHE": "1", "NUFUNC_CACHE_DIR": str(tmp_path / "cache")}
    code = "from nufunc.runtime import stored\nstored.device_edited = stored.hashed_device_edited = lambda: False\n"
    command = [sys.executable, "-W", "error", "-c", code + textwrap.dedent(BEFORE_KERNELS + SECOND_PROCESS)]
    said = []
    for _ in range(2):
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    assert said[0][0] == "compiled"
    assert "nufunc.codegen.cuda.plan" in said[0][1]
    assert said[1][:2] == ["loaded", ""]
    assert said[0][2] == said[1][2]


def test_machine_code_of_kernels_is_found_by_its_name(folder: Path, monkeypatch) -> None:
    """Behind the protocol of NVIDIA's driver: with what a stand-in of the compiler has kept."""
    try:
        compiler.nvvm_version()
    except compiler.CompilerMissingError as missing:
        pytest.skip(str(missing))
    with fake_cuda.installed(monkeypatch, fake_cuda.FakeCuda()) as made:
        monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "own")
        asked: list[int] = []

        def compile_(kernels, capability, store=None):
            asked.append(len(kernels))
            found = [made.compiled(k, capability) for k in kernels]
            for kernel, code in zip(kernels, found, strict=True):
                codes.keep(compiler.code_key(kernel, capability), code, store)
            return found

        monkeypatch.setattr(compiler, "compiled_together", compile_)
        monkeypatch.setattr(compiler, "compiled", lambda k, c, store=None: compile_([k], c, store)[0])
        f = nf.jit(lambda x: np.tanh(x @ x.T).sum())
        wanted = np.asarray(f(nf.to_device(X)))
        assert asked
        assert origins() == ["compiled"]

        def later(*removed: str) -> list[str]:
            """What another process does, with some files gone."""
            codes.CODES.clear()
            driver = devices.device_of(0).driver
            driver._functions.clear()
            driver._kernels = kept.Kernels(driver.capability)
            asked.clear()
            for entry in DISK.entries():
                if any(words in entry.about for words in removed):
                    DISK.remove([entry.key])
            np.testing.assert_array_equal(np.asarray(forgotten(f)(nf.to_device(X))), wanted)
            np.testing.assert_array_equal(np.asarray(nf.to_device(X)[::2].copy()), X[::2])  # a kernel by itself
            return origins()

        later()
        assert later() == ["loaded"]
        assert not asked  # nothing was compiled
        assert later("a kernel for CUDA") == ["loaded"]
        assert asked  # from the texts that the program holds
        assert later() == ["loaded"]
        assert not asked
    codes.CODES.clear()



"""The cache on disk: what is found there computes the same, and nothing that is wrong there is ever run."""

import importlib
import os
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nufunc as nf
from nufunc.cache import main
from nufunc.codegen import loading, objects
from nufunc.runtime import disk_cache, stored
from nufunc.runtime.cache import CACHE
from nufunc.runtime.disk_cache import DISK

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="there is no cache on disk on this system")
RACE = Path(__file__).with_name("cache_race.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, switched on."""
    stored.environment()  # which is worked out once in a process, and would leave a file
    monkeypatch.setenv("NUFUNC_CACHE", "1")
    monkeypatch.setenv("NUFUNC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(stored, "_edited", lambda: False)
    monkeypatch.setattr(stored, "_hashed_edited", lambda: False)
    monkeypatch.setattr(disk_cache, "_warned", set())
    nf.clear_cache()
    yield tmp_path / "cache"
    nf.clear_cache()


def run(code: str, folder: Path, **environment: str) -> list[str]:
    """The lines that a process of its own prints."""
    settings = {**os.environ, "NUFUNC_CACHE": "1", "NUFUNC_CACHE_DIR": str(folder), **environment}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def origins() -> list[str]:
    """How the machine code of all compilations of this process came to be."""
    return [e.origin.how for v in CACHE.entries.values() for e in v.executables]


def forgotten(function: Any) -> Any:
    """The function as a later process would see it."""
    nf.clear_cache()
    return type(function)(function.transforms, function.func)


def twice(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """The results compiled, and loaded."""
    first = function(*args)
    assert "loaded" not in origins()
    second = forgotten(function)(*args)
    assert origins()
    assert set(origins()) == {"loaded"}
    return first, second


# -- what is loaded


def while_norm(x: np.ndarray) -> Any:
    return nf.while_loop(lambda s: np.sum(s * s) > 1.0, lambda s: s * 0.7, x)


def in_place(x: np.ndarray) -> np.ndarray:
    x[1:] += x[:-1]
    return x * 2


PROGRAMS: dict[str, Callable[..., Any]] = {
    "gradient": nf.grad(lambda x: np.sum(np.tanh(x) * np.exp(-x * x))),
    "loop of unknown length": nf.grad(lambda x: np.sum(while_norm(x))),
    "lapack": nf.jit(lambda x: np.linalg.solve(np.outer(x, x) + 3 * np.eye(6), x)),
    "sort": nf.jit(lambda x: (np.sort(x), np.argsort(x))),
    "constant": nf.jit(lambda x: x * np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])),
    "complex": nf.jit(lambda x: np.exp(1j * x)),
    "scan": nf.jit(lambda x: nf.scan(lambda c, a: (c + a, c * a), 0.0, x)),
    "in place": nf.jit(in_place),
    "random": nf.jit(lambda x: x + nf.random.normal(nf.random.key(3), (6,))),
    "lanes": nf.vmap(lambda x: nf.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + x, s[1] + 1), (0.0, 0))[1]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_loaded_code_computes_the_same(folder: Path, name: str) -> None:
    x = np.linspace(0.5, 2.0, 6)
    y = x.copy()
    first = PROGRAMS[name](x)
    second = forgotten(PROGRAMS[name])(y)
    assert set(origins()) == {"loaded"}
    for a, b in zip(nf.tree.leaves(first), nf.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(x, y)


def test_parallel_code_and_large_results(folder: Path) -> None:
    f = nf.jit(lambda x: (np.sin(x), x @ x.T))
    x = np.random.default_rng(0).standard_normal((400, 400))
    (sine, product), (again, product_again) = twice(f, x)
    np.testing.assert_allclose(sine, np.sin(x), rtol=1e-14)
    np.testing.assert_allclose(product, x @ x.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(sine, again)
    np.testing.assert_array_equal(product, product_again)


def test_out_and_donation(folder: Path) -> None:
    f = nf.jit(lambda x, y: x * 3 + y, donate_argnums=0)
    for _ in range(2):
        x = np.arange(4.0)
        np.testing.assert_array_equal(f(x, np.ones(4)), np.arange(4.0) * 3 + 1)
        np.testing.assert_array_equal(x, np.arange(4.0) * 3 + 1)  # in its memory
        g, out = nf.jit(lambda x: x + 1), np.empty(3)
        assert g(np.ones(3), out=out) is out
        np.testing.assert_array_equal(out, [2.0, 2.0, 2.0])
        nf.clear_cache()
    assert nf.cache_info().loaded > 0


def test_lowered_finds_it_and_texts_are_made_anew(folder: Path) -> None:
    f = nf.jit(lambda x: np.sin(x) + 1)
    f(np.ones(3))
    compiled = forgotten(f).lower(np.ones(3)).compile()
    assert compiled.executable.origin.how == "loaded"
    assert "define i32" in compiled.as_text("llvm")
    assert "ret" in compiled.as_text("asm")
    assert "for" in compiled.executable.entry.loops()
    assert compiled.cost().transcendentals == 3


SECOND_PROCESS = """
    import sys
    import numpy as np, nufunc as nf
    from nufunc.runtime.cache import CACHE
    f = nf.jit(nf.grad(lambda x: np.sum(np.sin(x) * x)))
    g = nf.jit(lambda x: np.tanh(x) * x)
    print(f(np.ones(3)).tolist(), g(np.linspace(0, 1, 200_000)).sum())
    print(*(e.origin.how for v in CACHE.entries.values() for e in v.executables))
    print("numba" in sys.modules, "llvmlite.binding" in sys.modules)
"""
WITHOUT_LLVM = sys.platform == "linux" and os.uname().machine == "x86_64"


def test_a_second_process_needs_neither_numba_nor_llvm(tmp_path: Path) -> None:
    masks = """
    print(nf.get_num_threads())
    import numba
    numba.set_num_threads(2)
    print(nf.get_num_threads())
    nf.set_num_threads(3)
    print(nf.get_num_threads(), numba.get_num_threads())
    print(f(np.ones(3)).tolist(), g(np.linspace(0, 1, 200_000)).sum())
    """
    first = run(SECOND_PROCESS, tmp_path, NUMBA_NUM_THREADS="4")
    second = run(SECOND_PROCESS + masks, tmp_path, NUMBA_NUM_THREADS="4")
    assert first[1:] == ["compiled compiled", "True True"]
    assert second[1:3] == ["loaded loaded", f"False {not WITHOUT_LLVM}"]
    assert second[3:6] == ["4", "2", "3 3"]
    assert first[0] == second[0] == second[6]


def test_a_limit_of_temporaries_needs_no_numba_the_second_time(tmp_path: Path) -> None:
    limited = """
        import sys
        import numpy as np, nufunc as nf
        from nufunc.runtime.cache import CACHE
        jacobian = nf.jacrev(lambda x: np.cumsum(np.sin(np.outer(x, x)), axis=1).sum(1))
        x = np.linspace(0, 1, 40)
        f = nf.jit(jacobian, max_bytes=100_000)
        print(f(x).sum())
        print(*(e.origin.how for v in CACHE.entries.values() for e in v.executables), "numba" in sys.modules)
    """
    first, second = run(limited, tmp_path), run(limited, tmp_path)
    assert first[1] == "compiled True"
    assert second == [first[0], "loaded False"]


def test_what_is_imported_is_frozen_where_that_is_safe(tmp_path: Path) -> None:
    """A file in a cycle is written to at the end of the process, which frozen objects would not be."""
    assert int(run("import nufunc, gc; print(gc.get_freeze_count())", tmp_path)[0]) > 10_000
    inside = """
        def main():
            import nufunc, gc
            print(gc.get_freeze_count())
        main()
    """
    assert run(inside, tmp_path) == ["0"]
    mine = """
        class Data:
            def __init__(self):
                self.itself = self
        data = Data()
        import nufunc, gc
        print(gc.get_freeze_count())
    """
    assert run(mine, tmp_path) == ["0"]
    generator = "waiting = (x for x in 'abc'); next(waiting); import nufunc, gc; print(gc.get_freeze_count())"
    assert run(generator, tmp_path) == ["0"]
    before = f"""
        class Log:
            def __init__(self):
                self.itself, self.file = self, open({str(tmp_path / "log")!r}, "w")
                self.file.write("written")
        log = Log()
        import nufunc, gc
        print(gc.get_freeze_count())
    """
    settings = {**os.environ, "NUFUNC_CACHE": "0"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(before)], env=settings, capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
    assert (tmp_path / "log").read_text() == "written"


# -- keys


def key_of(function: Any, *args: Any) -> str:
    address = stored.address_of(function.program_of(args, {})[0])
    assert isinstance(address, stored.Address)
    return address.key


def test_the_key_is_of_the_computation() -> None:
    x = np.ones(3)
    base = nf.jit(lambda x: np.sin(x) * 2)
    assert key_of(base, x) == key_of(nf.jit(
        lambda y: np.sin(y) * 2
    ), x)  # fmt: skip
    others = [
        key_of(nf.jit(lambda x: np.sin(x) * 2, fastmath=True), x),
        key_of(nf.jit(lambda x: np.sin(x) * 2, donate_argnums=0), x),
        key_of(nf.jit(lambda x: np.sin(x) * 3), x),
        key_of(nf.jit(lambda x: np.sin(x) * np.array([1.0, 2.0, 3.0])), x),
        key_of(nf.jit(lambda x: np.sin(x) * np.array([1.0, 2.0, 4.0])), x),
        key_of(base, x.astype(np.float32)),
        key_of(base, np.ones(4)),
        key_of(base, 1.0),
        key_of(base, np.float64(1.0)),
    ]
    assert len({*others, key_of(base, x)}) == len(others) + 1


def test_keys_are_the_same_in_all_processes(tmp_path: Path) -> None:
    code = """
    import numpy as np, nufunc as nf
    from nufunc.runtime import stored
    def net(p, x): return np.sum(np.tanh(x @ p["a"] + p["b"]) @ p["c"])
    def step(u): return nf.fori_loop(0, 5, lambda i, u: u + 0.1 * np.roll(u, 1), u)
    p = {"a": np.ones((3, 4)), "b": np.ones(4), "c": np.ones(4)}
    for f, args in ((nf.grad(net), (p, np.ones((2, 3)))), (nf.hessian(lambda x: np.sum(x**3 * x[0])), (np.ones(4),)),
                    (nf.vmap(nf.grad(lambda x: np.sum(step(x)))), (np.ones((3, 5)),))):
        print(stored.address_of(f.program_of(args, {})[0]).key)
    """
    one, other = (run(code, tmp_path, PYTHONHASHSEED=seed) for seed in "12")
    assert one == other
    assert len(set(one)) == 3


def test_another_processor_has_other_code(tmp_path: Path) -> None:
    host = run(SECOND_PROCESS, tmp_path)
    plain = run(SECOND_PROCESS, tmp_path, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert plain[1] == "compiled compiled"
    assert host[0].split("] ")[0] == plain[0].split("] ")[0]


def test_edited_sources_are_not_what_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = nf.jit(lambda x: x + 1)
    for question in ("_edited", "_hashed_edited"):  # when code is stored, and when the sources' hash is made
        monkeypatch.setattr(stored, question, lambda: True)
        np.testing.assert_array_equal(forgotten(f)(np.ones(2)), [2.0, 2.0])
        assert origins() == ["compiled"]
        assert "edited" in str(nf.explain(f, np.ones(2)))
        assert not list(folder.glob("*.nufunc"))


def test_source_files_are_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored._sources()
    package = type(sys)("made_up")
    package.__path__ = [str(tmp_path)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up", package)
    monkeypatch.setattr(stored, "_SOURCES", (*stored._SOURCES, "made_up"))
    (tmp_path / "a.py").write_text("x = 1\n")
    first = stored._sources()
    (tmp_path / "a.py").write_text("x = 2\n")
    assert len({before, first, stored._sources()}) == 3
    os.utime(tmp_path / "a.py", (0, 0))
    monkeypatch.setattr(stored, "_SOURCES", ("made_up",))
    assert not stored._edited()
    os.utime(tmp_path / "a.py")
    assert stored._edited()


def made(text: str, file: str) -> Any:
    """The function f of a text, as if it stood in a file."""
    scope: dict[str, Any] = {"np": np, "nf": nf}
    exec(compile(textwrap.dedent(text), file, "exec"), scope)
    return nf.jit(scope["f"])


def test_errors_name_the_lines_of_today(folder: Path) -> None:
    text = """
    def f(x, i, j):
        a = x[i]
        return a * x[j]
    """
    x = np.arange(3.0)
    first = made(text, "first.py")
    assert first(x, np.array(1), np.array(2)) == 2.0
    nf.clear_cache()
    moved = made("\n\n\n" + text, "moved.py")
    assert moved(x, np.array(1), np.array(2)) == 2.0
    assert origins() == ["loaded"]
    for i, j, line in ((7, 0, 6), (0, 7, 7)):
        with pytest.raises(nf.BoundsError, match=rf'File "moved\.py", line {line}, in f'):
            moved(x, np.array(i), np.array(j))
    nf.clear_cache()
    joined = made("def f(x, i, j):\n    return x[i] * x[j]\n", "joined.py")
    assert joined(x, np.array(1), np.array(2)) == 2.0
    assert origins() == ["compiled"]  # two places in one line
    with pytest.raises(nf.BoundsError, match=r'File "joined\.py", line 2, in f'):
        joined(x, np.array(7), np.array(0))


def test_what_calls_python_calls_the_functions_of_today(folder: Path) -> None:
    def calling(first: Callable[..., Any], second: Callable[..., Any]) -> Any:
        def f(x: Any) -> Any:
            y = nf.pure_callback(lambda x: first(x), nf.spec(3), x)
            return nf.pure_callback(lambda x: second(x), nf.spec(3), y) + nf.pure_callback(np.sin, nf.spec(3), x)

        return nf.jit(f)

    def failing(x: Any) -> Any:
        raise KeyError("today")

    x = np.linspace(0.0, 1.0, 3)
    np.testing.assert_array_equal(calling(np.cos, np.exp)(x), np.exp(np.cos(x)) + np.sin(x))
    nf.clear_cache()
    again = calling(np.tan, np.sqrt)
    np.testing.assert_array_equal(again(x), np.sqrt(np.tan(x)) + np.sin(x))
    assert origins() == ["loaded"]
    assert "loaded" in str(nf.explain(again, x))
    nf.clear_cache()
    with pytest.raises(KeyError, match="today"):
        calling(np.cos, failing)(x)
    assert origins() == ["loaded"]


def test_the_same_function_called_twice_is_another_program(folder: Path) -> None:
    def f(x: Any, *functions: Callable[..., Any]) -> Any:
        return sum(nf.pure_callback(g, nf.spec(3), x) for g in functions)

    def double(x: Any) -> Any:
        return 2 * x

    twins = [type(double)(double.__code__, globals()) for _ in range(2)]
    for functions in ((double, double), tuple(twins)):
        nf.clear_cache()
        np.testing.assert_array_equal(nf.jit(lambda x, fs=functions: f(x, *fs))(np.ones(3)), np.full(3, 4.0))


def test_effects_and_vectorized_callbacks_are_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: Any) -> Any:
        nf.debug.print("x = {}", x)
        return nf.pure_callback(lambda x: x.sum(axis=-1), nf.spec(()), x, vectorized=True)

    for how in ("compiled", "loaded"):
        nf.clear_cache()
        np.testing.assert_array_equal(nf.vmap(f)(np.ones((2, 3))), [3.0, 3.0])
        assert origins() == [how]
        assert capsys.readouterr().out.count("x = [1. 1. 1.]") == 2


# -- files that are not as they were written


def only_file(folder: Path) -> Path:
    (file,) = (f for f in folder.glob("*.nufunc") if b"library" not in f.read_bytes()[:400])
    return file


def flipped(place: float) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        at = int(place * (len(data) - 1))
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    **{f"a bit at {p}": flipped(p) for p in (0.0, 0.003, 0.006, 0.01, 0.02, 0.05, 0.3, 0.6, 1.0)},
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "one byte less": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "another program": lambda data: disk_cache._formatted("0" * 64, b"", ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_compiled_again(folder: Path, damage: str) -> None:
    f = nf.jit(lambda x: np.cosh(x) + 1)
    want = f(np.ones(3))
    file = only_file(folder)
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    f = forgotten(f)
    with pytest.warns(nf.CacheWarning, match="damaged") as caught:
        np.testing.assert_array_equal(f(np.ones(3)), want)
    assert len(caught) == 1
    assert origins() == ["compiled"]
    f = forgotten(f)
    np.testing.assert_array_equal(f(np.ones(3)), want)  # it has been written again
    assert origins() == ["loaded"]
    assert file.read_bytes() == whole


def test_what_is_whole_but_no_code_is_compiled_again(folder: Path) -> None:
    f = nf.jit(lambda x: np.cosh(x) + 2)
    want = f(np.ones(3))
    file = only_file(folder)
    key = file.name.removesuffix(".nufunc")
    value = objects.unpack(disk_cache._parsed(file.read_bytes(), key)[1])
    broken = [b"", b"nonsense", value.pack()[:-5]]
    elsewhere = objects.ObjectCode(value.target, value.prefix, value.spec, ("no_such_routine",), {}, value.code)
    for content in (*broken, elsewhere.pack()):
        file.write_bytes(disk_cache._formatted(key, content, "f"))
        file.chmod(0o600)
        f = forgotten(f)
        disk_cache._warned.clear()
        with pytest.warns(nf.CacheWarning, match="damaged"):
            np.testing.assert_array_equal(f(np.ones(3)), want)
        assert origins() == ["compiled"]


def test_the_table_of_libraries_names_their_prefixes() -> None:
    for prefix, name in loading.LIBRARIES.items():
        assert prefix == importlib.import_module(f"nufunc.codegen.{name}").PREFIX


def test_object_code_is_a_value(folder: Path) -> None:
    f = nf.jit(lambda x, i: np.linalg.inv(x)[i] * np.array([1.0, 2.0, 3.0]), donate_argnums=0)
    entry = f.lower(np.eye(3), np.array([0])).compile().executable.entry
    file = only_file(folder)
    value = objects.unpack(disk_cache._parsed(file.read_bytes(), file.name.removesuffix(".nufunc"))[1])
    assert value.spec == entry.spec
    assert value.code == entry.executable.object_code
    assert [e for e in value.externs if isinstance(e, str)] == [e for e in entry.lowered.externs if isinstance(e, str)]
    assert objects.unpack(value.pack()).pack() == value.pack()
    for length in range(0, len(value.pack()), 97):
        with pytest.raises(objects.ObjectError):
            objects.unpack(value.pack()[:length])


# -- folders


def test_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUFUNC_CACHE", "0")
    f = nf.jit(lambda x: x + 1)
    f(np.ones(2))
    assert not folder.exists()
    assert "switched off" in str(nf.explain(f, np.ones(2)))


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_folder_that_others_can_write_to_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    f = nf.jit(lambda x: x + 1)
    with pytest.warns(nf.CacheWarning, match="can be written to by others"):
        np.testing.assert_array_equal(f(np.ones(2)), [2.0, 2.0])
    np.testing.assert_array_equal(f(np.ones(3)), [2.0, 2.0, 2.0])  # warns no more
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_refused(folder: Path) -> None:
    f = nf.jit(lambda x: x + 1)
    f(np.ones(2))
    os.chown(only_file(folder), 12345, -1)
    f = forgotten(f)
    with pytest.warns(nf.CacheWarning, match="belongs to another user"):
        np.testing.assert_array_equal(f(np.ones(2)), [2.0, 2.0])
    assert origins() == ["compiled"]
    os.chown(folder, 12345, -1)
    f = forgotten(f)
    with pytest.warns(nf.CacheWarning, match="belongs to another user"):
        np.testing.assert_array_equal(f(np.ones(2)), [2.0, 2.0])


def test_a_file_that_others_can_write_to_is_not_run(folder: Path) -> None:
    f = nf.jit(lambda x: x + 1)
    f(np.ones(2))
    only_file(folder).chmod(0o666)
    f = forgotten(f)
    with pytest.warns(nf.CacheWarning, match="can be written to by others"):
        np.testing.assert_array_equal(f(np.ones(2)), [2.0, 2.0])
    assert origins() == ["compiled"]


def test_a_link_is_not_followed(folder: Path) -> None:
    f = nf.jit(lambda x: x + 1)
    f(np.ones(2))
    file = only_file(folder)
    os.rename(file, folder / "elsewhere")
    file.symlink_to("elsewhere")
    f = forgotten(f)
    with pytest.warns(nf.CacheWarning, match="cannot be read"):
        np.testing.assert_array_equal(f(np.ones(2)), [2.0, 2.0])
    assert origins() == ["compiled"]


def test_what_is_no_file_is_neither_read_nor_waited_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    f = nf.jit(lambda x: np.sin(x) * 3)
    f(np.ones(3))
    file = only_file(folder)
    for make in (Path.mkdir, os.mkfifo):
        file.unlink()
        make(file)
        disk_cache._warned.clear()
        with pytest.warns(nf.CacheWarning) as caught:
            np.testing.assert_array_equal(forgotten(f)(np.ones(3)), 3 * np.sin(np.ones(3)))
        assert "is no plain file" in str(caught[0].message)
        if make is Path.mkdir:
            assert main(["verify", "--remove"]) == 1
            assert "not removed" in capsys.readouterr().err
            file.rmdir()
            file.touch()


def test_a_folder_that_can_only_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = nf.jit(lambda x: x + 1)
    f(np.ones(2))
    f = forgotten(f)

    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disk_cache, "_write", refuse)  # root may write anywhere
    monkeypatch.setattr(os, "utime", refuse)
    f(np.ones(2))
    assert origins() == ["loaded"]
    with pytest.warns(nf.CacheWarning, match="cannot be written to"):
        f(np.ones(3))
    f(np.ones(4))  # warns no more
    assert "Permission denied" in str(nf.explain(f, np.ones(4)))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("NUFUNC_CACHE_DIR", str(folder / "deeper"))
    with pytest.warns(nf.CacheWarning, match="cannot be opened"):
        assert nf.jit(lambda x: x + 1)(1.0) == 2.0


def test_a_full_disk(tmp_path: Path) -> None:
    code = """
    import resource, warnings
    import numpy as np, nufunc as nf
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        print(nf.jit(lambda x: x * 3)(np.ones(2)).tolist(), nf.jit(lambda x: x * 4)(np.ones(2)).tolist())
    print(*(w.category.__name__ for w in caught if "cache" in str(w.message)))
    """
    assert run(code, tmp_path) == ["[3.0, 3.0] [4.0, 4.0]", "CacheWarning"]
    assert all(file.suffix == ".nufunc" and file.stat().st_size < 1000 for file in tmp_path.iterdir())


# -- eviction


def test_what_was_not_used_for_longest_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUFUNC_CACHE_SIZE", "100K")
    keys = [f"{k:064x}" for k in range(30)]
    now = time.time()
    for k, key in enumerate(keys):
        assert DISK.put(key, bytes(5000), "x") is None
        os.utime(folder / f"{key}.nufunc", (now - 10_000 + k, now - 10_000 + k))
        assert DISK.get(keys[0]) is not None  # which makes it the last used
    left = {s.key for s in DISK.entries()}
    assert sum(s.size for s in DISK.entries()) <= 100 * 1024
    assert keys[0] in left
    assert keys[-1] in left
    assert keys[1] not in left
    reason = DISK.put("f" * 64, bytes(50_000), "x")
    assert reason is not None
    assert "more than a quarter" in reason


def test_what_killed_processes_left_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DISK.put("0" * 64, b"x", "x")
    for name, age in (("old", 10_000), ("new", 0)):
        file = folder / f".writing-{name.encode().hex()}"
        file.write_bytes(b"part")
        os.utime(file, (time.time() - age, time.time() - age))
    other = folder / "notes.txt"
    other.write_text("mine")
    disk_cache.DiskCache().put("1" * 64, b"x", "x")  # the first of a process cleans up
    assert sorted(p.name for p in folder.glob(".writing-*")) == [".writing-" + b"new".hex()]
    DISK.clear()
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_a_size_that_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, size in (("", 1 << 30), ("5", 5), ("2 K", 2048), ("3mb", 3 << 20), ("1G", 1 << 30)):
        monkeypatch.setenv("NUFUNC_CACHE_SIZE", text)
        assert disk_cache.size_limit() == size
    monkeypatch.setenv("NUFUNC_CACHE_SIZE", "a lot")
    with pytest.warns(nf.CacheWarning, match="NUFUNC_CACHE_SIZE"):
        assert disk_cache.size_limit() == 1 << 30


# -- many processes


def test_processes_that_race_and_are_killed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    settings = {**os.environ, "NUFUNC_CACHE": "1", "NUFUNC_CACHE_DIR": str(folder)}
    command = [sys.executable, "-W", "error", str(RACE)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "ok"


# -- the command line


def test_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str, status: int = 0) -> str:
        assert main(arguments) == status
        return capsys.readouterr().out

    f = nf.jit(lambda x: np.cosh(x) * 5)
    f(np.ones((2, 3)))
    assert str(folder) in printed("info")
    assert "files   1" in printed("info")
    assert "(f64[2,3]) -> f64[2,3]" in printed("list")
    assert "1 files, 0 damaged" in printed("verify")
    file = only_file(folder)
    file.write_bytes(flipped(0.7)(file.read_bytes()))
    assert "checksum" in printed("verify", status=1)
    assert "removed 1" in printed("verify", "--remove")
    assert "files   0" in printed("info")
    f(np.ones(4))
    f = forgotten(f)
    f(np.ones(5))
    assert "removed 2 files" in printed("clear")
    folder.chmod(0o777)
    assert main(["info"]) == 1
    assert "written to by others" in capsys.readouterr().err


# -- explain


def test_explain(folder: Path) -> None:
    scale = 2

    def f(x, y=1.0):
        return np.sum(np.sin(x) * scale * y)

    g = nf.grad(f)
    nothing = nf.explain(g, np.ones(3))
    assert (nothing.found, nothing.reasons) == ("nowhere", ("it has not been compiled in this process",))
    before = nf.cache_info()
    g(np.ones(3))
    there = nf.explain(g, np.ones(3))
    assert (there.found, there.reasons, there.unstored) == ("memory", (), None)
    assert there.origin is not None
    assert there.origin.how == "compiled"
    assert nf.cache_info().compiles == before.compiles + 1
    assert nf.explain(g, np.ones(4)).reasons == ("argument 0 ('x') is f64[4], and was f64[3]",)
    assert nf.explain(g, np.ones(3, np.float32)).reasons == ("argument 0 ('x') is f32[3], and was f64[3]",)
    assert "its arguments are" in nf.explain(g, np.ones(3), y=2.0).reasons[0]
    assert nf.explain(nf.vmap(g), np.ones((2, 3))).reasons[0] == "it is vmap of grad, and was grad"
    assert nf.explain(nf.grad(f, argnums=(0,)), np.ones(3)).reasons == ("grad: argnums is (0,), and was 0",)
    scale = 3
    assert nf.explain(g, np.ones(3)).reasons == ("closure variable 'scale' has changed (value): it was 2 and is 3",)
    scale = 2
    g = forgotten(g)
    on_disk = nf.explain(g, np.ones(3))
    assert (on_disk.found, on_disk.key) == ("disk", there.key)
    assert "found on disk" in str(on_disk)
    DISK.clear()
    assert "nothing is stored under its key" in str(nf.explain(g, np.ones(3)))


def test_explain_captured_arrays_and_options(folder: Path) -> None:
    w = np.ones(3)
    f = nf.jit(lambda x: x * w)
    f(np.ones(3))
    w = np.ones(3, np.float32)
    assert nf.explain(f, np.ones(3)).reasons == ("closure variable 'w' was f64[3] and is f32[3]",)
    g = nf.jit(np.sin)
    assert nf.explain(g, np.ones(2)).found == "nowhere"

    def h(x):
        return x + 1

    nf.jit(h)(np.ones(2))
    assert nf.explain(nf.jit(h, fastmath=True), np.ones(2)).reasons == ("jit: fastmath is True, and was False",)


def test_no_warning_where_all_is_well(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nf.jit(lambda x: x - 1)(np.ones(2))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert only_file(folder).stat().st_mode & 0o777 == 0o600

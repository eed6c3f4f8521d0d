"""The rooms import only downwards, `import nufunc` stays cheap, and the packaging names every room."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ir", "passes", "tracer", "codegen", "runtime", "api")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]

# What each room may import beside the standard library: rooms of this package, and other packages.
ALLOWED_ROOMS = {
    "ir": {"ir"},
    "passes": {"ir", "passes"},
    "tracer": {"ir", "tracer"},
    "codegen": {"ir", "codegen"},
    "runtime": {"ir", "passes", "tracer", "codegen", "runtime"},
    "api": {"ir", "passes", "tracer", "codegen", "runtime", "api"},
}
ALLOWED_PACKAGES = {
    "ir": {"numpy"},
    "passes": {"numpy", "opt_einsum"},
    "tracer": {"numpy", "optree", "scipy.special"},
    "codegen": {"numpy", "numba", "llvmlite", "scipy"},
    "runtime": {"numpy", "numba", "llvmlite", "optree", "scipy", "platformdirs"},
    "api": {"numpy", "optree", "opt_einsum", "scipy"},
}
# Single files that talk to a package which is installed only where it is wanted: imported inside functions.
ALLOWED_IN = {
    "ir/prims/scipy_special.py": {"scipy.special"}, "api/nn/torch_program.py": {"torch"},
    "api/nn/tensors.py": {"torch"}, "api/nn/files.py": {"safetensors"}, "runtime/cuda/hardware.py": {"cuda.bindings"},
    "ir/types.py": {"ml_dtypes"}, "ir/promotion.py": {"ml_dtypes"},
}  # fmt: skip
HEAVY = (
    "nufunc.nn", "nufunc.optim", "torch", "numba", "llvmlite", "scipy.linalg", "opt_einsum", "numpy.f2py",
    "numpy.testing", "unittest", "ml_dtypes",
)  # fmt: skip


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The dotted names that a file imports, at any depth, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            if node.module == "nufunc":
                yield from ((f"nufunc.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module or "", node.lineno


def room_of(name: str) -> str:
    """The room of a dotted name below nufunc; the package itself is the room api."""
    part = name.split(".")[1] if "." in name else "api"
    return part if part in ROOMS else "api"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_where_the_design_lets_them(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    packages = ALLOWED_PACKAGES[room] | ALLOWED_IN.get(path.relative_to(ROOT).as_posix(), set())
    for name, line in imported(ast.parse(path.read_text())):
        top = name.split(".")[0]
        assert top not in ROOMS, f"{path}:{line}: import nufunc.{name}, not {name}"
        if top == "nufunc":
            assert room_of(name) in ALLOWED_ROOMS[room], f"{path}:{line}: {room} may not import {name}"
        elif top not in sys.stdlib_module_names:
            allowed = any(name == a or name.startswith(a + ".") for a in packages)
            assert allowed, f"{path}:{line}: {room} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_line_says_what_the_file_owns(path: Path) -> None:
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{path} has no docstring"
    assert text.startswith(('"""', 'r"""')), f"{path} does not begin with its docstring"
    assert len(docstring.splitlines()[0]) > 15, f"{path}: the first line says too little"


def test_one_file_touches_the_private_names_of_numba() -> None:
    """`numba.core` and its like are named in one file, where the version range is pinned."""
    touching = {
        str(path.relative_to(ROOT))
        for path in FILES
        for name, _ in imported(ast.parse(path.read_text()))
        if name.startswith(("numba.core", "numba.np", "numba.cpython", "numba.parfors"))
    }
    assert len(touching) <= 1, touching


def test_the_package_list_names_every_folder() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in FILES}
    assert settings["package-dir"] == {
        "nufunc" if folder == "api" else "nufunc." + folder.removeprefix("api/").replace("/", "."): folder
        for folder in folders
    }
    assert sorted(settings["packages"]) == sorted(settings["package-dir"])
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)


def test_the_package_says_that_it_is_typed() -> None:
    import nufunc

    assert (Path(nufunc.__file__).parent / "py.typed").exists()


def test_import_is_cheap() -> None:
    """What only compiling needs is not loaded; nor is what NumPy itself loads when first asked for."""
    code = (
        "import sys, numpy\nbefore = set(sys.modules)\nimport nufunc\n"
        f"print(set({HEAVY!r}) & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_import_starts_no_thread_and_no_process() -> None:
    """A fork after `import nufunc` is safe."""
    code = (
        "import nufunc, multiprocessing, threading\n"
        "print(threading.active_count(), len(multiprocessing.active_children()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]


def test_no_script_hides_a_package_that_scripts_need() -> None:
    """A file `cuda.py` beside a script is found before NVIDIA's package `cuda`, which is a namespace."""
    taken = {"cuda", "jax", "torch", "nvmath", "cupy", "numba", "numpy", "scipy", "pytest"}
    folders = ("benchmarks", "tests", "examples")
    names = {path.stem for folder in folders for path in (ROOT / folder).glob("*") if path.suffix in ("", ".py")}
    assert not taken & names

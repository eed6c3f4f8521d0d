"""The examples in the docstrings of every module of the package, run as written."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import numpy as np
import pytest

import nufunc

# An editable install keeps the rooms outside the folder of the package, where walk_packages does not look.
ROOMS = ("ir", "passes", "tracer", "codegen", "runtime")
TRANSFORMS = """vmap grad grad_and_value value_and_grad vjp jvp linearize jacrev jacfwd hessian hvp
functionalize jit transform""".split()
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def modules() -> Iterator[str]:
    for package in ("nufunc", *(f"nufunc.{room}" for room in ROOMS)):
        yield package
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
            yield found.name


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_doctests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUFUNC_CUDA_SIMULATOR", "1")
    module = importlib.import_module(name)
    # the examples are a user's code: functions written in them must not count as the package's own
    names = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    scope = {**names, "nf": nufunc, "np": np, "__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for test in doctest.DocTestFinder().find(module, name, globs=scope):
        runner.run(test)
    failed = runner.summarize(verbose=False).failed
    assert failed == 0, f"{failed} examples of {name} fail, see the captured output"


@pytest.mark.parametrize("name", TRANSFORMS)
def test_public_functions_have_examples(name: str) -> None:
    """Each transform shows itself at work in its own docstring."""
    assert ">>>" in (getattr(nufunc, name).__doc__ or "")

"""Staged code is Python where conditions are concrete: the standard library, staged, still passes its own tests."""

import importlib
import io
import sysconfig
import types
import unittest
from collections.abc import Iterator
from pathlib import Path

import pytest

from nufunc.tracer import staging, staging_run
from nufunc.tracer.staging_source import CannotStageError

pytestmark = pytest.mark.slow


def functions(code: types.CodeType) -> Iterator[types.CodeType]:
    """All functions in a module's code; comprehensions and class bodies are none."""
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            if const.co_flags & 2 and (const.co_name == "<lambda>" or not const.co_name.startswith("<")):
                yield const
            yield from functions(const)


@pytest.mark.parametrize("letter", "abcdefghi")
def test_every_function_of_the_standard_library_is_rewritten(letter):
    count, refused = 0, []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob(f"{letter}*.py")):
        for code in functions(compile(path.read_bytes(), str(path), "exec")):
            try:
                assert staging._staged_code(code).co_argcount == code.co_argcount
                count += 1
            except CannotStageError as reason:
                refused.append((path.name, code.co_name, str(reason)))
    assert [r for r in refused if "generator" not in r[2]] == []
    assert count > 20


def members(namespace: types.MappingProxyType | dict, module: str, seen: set) -> Iterator[types.FunctionType]:
    for value in list(namespace.values()):
        value = getattr(value, "__func__", value)
        if isinstance(value, types.FunctionType) and value.__module__ == module:
            yield value
        elif isinstance(value, type) and value.__module__ == module and value not in seen:
            seen.add(value)
            yield from members(vars(value), module, seen)


@pytest.mark.parametrize("name", ["fractions", "shlex", "string", "textwrap"])
def test_staged_modules_pass_their_own_tests(name, monkeypatch):
    pytest.importorskip(f"test.test_{name}")
    module = importlib.import_module(name)
    monkeypatch.setitem(vars(module), staging.HELPERS, staging_run)
    staged = 0
    for function in members(vars(module), name, set()):
        try:
            code = staging._staged_code(function.__code__)
        except CannotStageError:
            continue
        if code.co_freevars == function.__code__.co_freevars:
            monkeypatch.setattr(function, "__code__", code)
            staged += 1
    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.test_{name}")
    result = unittest.TextTestRunner(stream=io.StringIO(), verbosity=0).run(suite)
    assert staged > 10
    assert result.testsRun > 10
    assert result.wasSuccessful(), result.failures + result.errors

"""The source of a code object: the syntax tree of the function that it was compiled from, and compiling such a tree
in its place.
"""

from __future__ import annotations
import __future__

import ast
import functools
import linecache
from copy import deepcopy
from types import CodeType
from typing import NamedTuple

FunctionNode = ast.FunctionDef | ast.Lambda
_FUTURES = functools.reduce(
    lambda bits, name: bits | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0
)


class CannotStageError(Exception):
    """Why a function cannot be staged."""


class Source(NamedTuple):
    """A function's syntax tree, without decorators and defaults, and the class around it, which mangles names."""

    node: FunctionNode
    class_name: str | None
    imported: tuple[str, ...]  # the names that the module imports: the compiler loads their attributes in another way


def function_source(code: CodeType) -> Source:
    """The syntax tree that a code object was compiled from; compiling it gives the same code again."""
    if code.co_flags & 0x2A0:  # generator, coroutine, asynchronous generator
        raise CannotStageError("it is a generator or a coroutine")
    found = _candidates(code)
    if not found:
        raise CannotStageError(f"no function {code.co_name!r} was found at line {code.co_firstlineno} of its source")
    compiled = [compiled_like(source.node, source, code) for source in found]
    same = [s for s, c in zip(found, compiled) if _same_code(c, code)]
    exact = [s for s in same if list(compiled_like(s.node, s, code).co_positions()) == list(code.co_positions())]
    if exact:
        return exact[0]
    if len({ast.dump(s.node) for s in same}) == 1:
        return same[0]
    if same:
        raise CannotStageError(
            "several functions of its kind stand in one line of its source; give them lines of their own"
        )
    if len(found) == 1 and any(isinstance(n, ast.Assert) for n in ast.walk(found[0].node)):
        return found[0]  # test runners compile assertions in their own way
    raise CannotStageError(
        "its source is not what it was compiled from: the file has changed, or the code was made in another way"
    )


def _candidates(code: CodeType) -> list[Source]:
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    if not lines:
        raise CannotStageError(f"its source ({code.co_filename}) is not available")
    try:
        functions, imported = _parsed("".join(lines))
    except SyntaxError:
        raise CannotStageError(f"its source ({code.co_filename}) cannot be parsed") from None
    return [
        Source(_bare(node), class_name, imported)
        for node, class_name in functions
        if _name(node) == code.co_name and _first_line(node) == code.co_firstlineno
    ]


def _name(node: FunctionNode) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


@functools.lru_cache(maxsize=16)
def _parsed(text: str) -> tuple[list[tuple[FunctionNode, str | None]], tuple[str, ...]]:
    """All functions of a module, each with the name of the innermost class around it, and the names it imports."""
    found: list[tuple[FunctionNode, str | None]] = []
    imported: list[str] = []

    def walk(node: ast.AST, class_name: str | None, outermost: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.Lambda):
                found.append((child, class_name))
            if outermost and isinstance(child, ast.Import | ast.ImportFrom):
                imported.extend(alias.asname or alias.name.partition(".")[0] for alias in child.names)
            scope = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef)
            walk(child, child.name if isinstance(child, ast.ClassDef) else class_name, outermost and not scope)

    walk(ast.parse(text), None, True)
    return found, tuple(dict.fromkeys(name for name in imported if name != "*"))


def _first_line(node: FunctionNode) -> int:
    decorators = getattr(node, "decorator_list", ())
    return decorators[0].lineno if decorators else node.lineno


def _bare(node: FunctionNode) -> FunctionNode:
    """A copy with nothing that the surroundings evaluate: decorators, defaults, annotations."""
    new = deepcopy(node)
    new.args.defaults, new.args.kw_defaults = [], [None] * len(new.args.kwonlyargs)
    for arg in (*new.args.posonlyargs, *new.args.args, *new.args.kwonlyargs, new.args.vararg, new.args.kwarg):
        if arg is not None:
            arg.annotation = None
    if isinstance(new, ast.FunctionDef):
        new.decorator_list, new.returns = [], None
        if hasattr(new, "type_params"):
            new.type_params = []
    return new


def compiled_like(node: FunctionNode, source: Source, code: CodeType) -> CodeType:
    """The code of a function, compiled where `code` was: with its free variables, its class and its file."""
    first: int = code.co_firstlineno
    inner: ast.stmt = node if isinstance(node, ast.FunctionDef) else ast.Expr(node)
    if source.class_name is not None:
        inner = ast.ClassDef(source.class_name, bases=[], keywords=[], body=[inner], decorator_list=[])
        if "type_params" in ast.ClassDef._fields:
            inner.type_params = []  # type: ignore[attr-defined]
    arguments = ast.arguments([], [ast.arg(name) for name in code.co_freevars], None, [], [], None, [])
    bound = getattr(inner, "name", None)  # the name that the definition binds here is a global one elsewhere
    declared: list[ast.stmt] = [ast.Global([bound])] if bound and bound not in code.co_freevars else []
    scope = ast.FunctionDef("@scope", arguments, [*declared, inner], [])
    if "type_params" in ast.FunctionDef._fields:
        scope.type_params = []  # type: ignore[attr-defined]
    imports = [ast.Import([ast.alias("module", name)]) for name in source.imported]
    for made in (inner, scope, *declared, *imports):
        if not hasattr(made, "lineno"):
            made.lineno = made.end_lineno = first
            made.col_offset = made.end_col_offset = 0
    module = ast.fix_missing_locations(ast.Module([*imports, scope], []))
    flags = code.co_flags & _FUTURES
    try:
        compiled = compile(module, code.co_filename, "exec", flags=flags, dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise CannotStageError(f"its source could not be compiled ({error})") from None
    return _find(compiled, code.co_name)


def _find(code: CodeType, name: str) -> CodeType:
    """The function inside the wrapper: the first that is neither the wrapper nor the class."""
    for const in code.co_consts:
        if isinstance(const, CodeType):
            return const if const.co_name == name and _is_function(const) else _find(const, name)
    raise CannotStageError("its source could not be compiled")


def _is_function(code: CodeType) -> bool:
    return bool(code.co_flags & 0x2)  # CO_NEWLOCALS, which class bodies lack


def _same_code(left: CodeType, right: CodeType) -> bool:
    """Whether two code objects do the same, wherever they stand."""
    names = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount", "co_kwonlyargcount")
    if any(getattr(left, name) != getattr(right, name) for name in names):
        return False
    return len(left.co_consts) == len(right.co_consts) and all(map(_same_const, left.co_consts, right.co_consts))


def _same_const(left: object, right: object) -> bool:
    if isinstance(left, CodeType) and isinstance(right, CodeType):
        return _same_code(left, right)
    if isinstance(left, frozenset) or isinstance(right, frozenset):
        return left == right
    if isinstance(left, str) and isinstance(right, str) and ".<locals>." in right:
        return right.endswith(left.removeprefix("@scope.<locals>."))  # the name of a class, which its body stores
    return repr(left) == repr(right)

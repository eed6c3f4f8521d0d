"""What staging must know of statements before it rewrites them: the names that they bind, the jumps that leave them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Bound:
    """The names that statements bind, delete or declare in their own scope, in order; `made` ones are staging's."""

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        self.names: dict[str, None] = {}
        self.globals: set[str] = set()
        self.nonlocals: set[str] = set()
        for node in nodes:
            self._visit(node)

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            self.names[node.id] = None
        elif isinstance(node, _SCOPES):
            self._scope(node)
            return
        elif isinstance(node, _COMPREHENSIONS):
            self._walrus(node)
            return
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            self.names[node.name] = None
        elif isinstance(node, ast.MatchMapping) and node.rest:
            self.names[node.rest] = None
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.names.update((alias.asname or alias.name.partition(".")[0], None) for alias in node.names)
        elif isinstance(node, ast.Global):
            self.globals.update(node.names)
        elif isinstance(node, ast.Nonlocal):
            self.nonlocals.update(node.names)
        for child in ast.iter_child_nodes(node):
            self._visit(child)

    def _scope(self, node: ast.AST) -> None:
        made = getattr(node, "staged_names", None)
        if made is not None:  # a function that staging made: it binds names of the function around it
            self.names.update(dict.fromkeys(made))
            return
        if not isinstance(node, ast.Lambda):
            self.names[node.name] = None  # type: ignore[attr-defined]
            for child in (*node.decorator_list, *getattr(node, "bases", ()), *getattr(node, "keywords", ())):  # type: ignore[attr-defined]
                self._visit(child)
        if hasattr(node, "args"):
            for child in (*node.args.defaults, *node.args.kw_defaults):
                if child is not None:
                    self._visit(child)

    def _walrus(self, node: ast.AST) -> None:
        """`:=` in a comprehension binds a name around it; its other targets are its own."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.NamedExpr):
                self.names[child.target.id] = None
            if not isinstance(child, _SCOPES):
                self._walrus(child)


def binds_inside(node: ast.expr) -> bool:
    """Whether evaluating an expression binds a name (`:=`), so that it cannot move into a function of its own."""
    return bool(Bound([node]).names) or any(
        isinstance(n, ast.Await | ast.Yield | ast.YieldFrom) for n in ast.walk(node)
    )


def jumps(statements: Sequence[ast.AST]) -> set[str]:
    """Which of return, break and continue may leave these statements."""
    found: set[str] = set()
    for node in statements:
        if isinstance(node, ast.Return):
            found.add("return")
        elif isinstance(node, ast.Break | ast.Continue):
            found.add(type(node).__name__.lower())
        elif isinstance(node, ast.While | ast.For | ast.AsyncFor):
            found |= jumps(node.body) & {"return"}
            found |= jumps(node.orelse)
        elif not isinstance(node, _SCOPES):
            found |= jumps([n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.expr)])
    return found


def always_jumps(statements: Sequence[ast.stmt]) -> bool:
    """Whether control never comes to the end of these statements."""
    for node in statements:
        if isinstance(node, ast.Return | ast.Break | ast.Continue | ast.Raise):
            return True
        if isinstance(node, ast.If) and always_jumps(node.body) and always_jumps(node.orelse):
            return True
    return False


def is_generator(node: ast.AST) -> bool:
    """Whether a function yields or awaits."""
    inner = [n for n in ast.iter_child_nodes(node) if not isinstance(n, _SCOPES)]
    return any(isinstance(n, ast.Yield | ast.YieldFrom | ast.Await) or is_generator(n) for n in inner)

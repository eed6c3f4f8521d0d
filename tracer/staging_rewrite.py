"""The rewriting of a function's syntax tree such that its control flow asks helpers, which stage it where it is traced.

    if c: A                     def @then(): nonlocal names; A
    else: B                     def @else(): nonlocal names; B
                                helpers.if_(c, @then, @else, names)
    while c: A                  helpers.while_(@test, @body, names, flags)
    for t in xs: A              helpers.for_(xs, @body, names, flags)
    a and b, a if c else b      helpers.and_(a, lambda: b), helpers.ifexp(c, lambda: a, lambda: b)

The variables that a body binds are cells of the user's function, through which the helpers see and set them. A
`break`, `continue` or early `return` sets a flag; what follows it runs guarded by the flag, or in the other branch
of the `if` that always jumps. Names that begin with @ are staging's. Every new node has the position of the one in
whose place it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from nufunc.tracer.staging import HELPERS
from nufunc.tracer.staging_names import Bound, always_jumps, binds_inside, is_generator, jumps
from nufunc.tracer.staging_source import CannotStageError, FunctionNode, Source

_ITERABLES = {"range": "range_", "enumerate": "enumerate_", "zip": "zip_"}
RETURNED, VALUE, ITEM = "@returned", "@value", "@item"


def rewrite(source: Source) -> FunctionNode:
    """The function with its control flow asking helpers."""
    rewriter = _Rewriter(source.class_name)
    return rewriter.function(source.node, frozenset())


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _store(name: str, value: ast.expr) -> ast.Assign:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _call(helper: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Attribute(_load(HELPERS), helper, ast.Load()), list(args), [])


def _thunk(value: ast.expr) -> ast.Lambda:
    return ast.Lambda(ast.arguments([], [], None, [], [], None, []), value)


def _names(names: Sequence[str]) -> ast.Constant:
    return ast.Constant(tuple(names))  # type: ignore[arg-type]  # the compiler takes tuples of constants


def _placed(new: Any, old: ast.AST) -> Any:
    """`new` with positions for all nodes that have none: the start of `old`. (The compiler gives a call of an attribute
    the line where the attribute ends.)
    """
    pending = [new]
    while pending:
        node = pending.pop()
        if "lineno" in node._attributes and not hasattr(node, "lineno"):
            node.lineno = node.end_lineno = old.lineno  # type: ignore[attr-defined]
            node.col_offset = node.end_col_offset = old.col_offset  # type: ignore[attr-defined]
        pending.extend(ast.iter_child_nodes(node))
    return new


class _Loop:
    """The flags of the loop that is being rewritten."""

    def __init__(self, number: int) -> None:
        self.flags = {"break": f"@break{number}", "continue": f"@continue{number}"}


class _Scope:
    """The user's function that is being rewritten."""

    def __init__(self, node: FunctionNode, checked: frozenset[str]) -> None:
        body = node.body if isinstance(node, ast.FunctionDef) else []
        bound = Bound(body)
        self.globals = bound.globals
        parameters = [*node.args.posonlyargs, *node.args.args]
        self.first = parameters[0].arg if parameters else None
        compound = [s for s in body if not isinstance(s, ast.Return)]
        self.returns = "return" in jumps(compound)
        changed = [n for s in body for n in _changing(s)]
        # Names that a staged statement binds may come to have no value: reading them asks.
        self.checked = checked | Bound(changed).names.keys()
        self.loops: list[_Loop] = []
        self.count = 0


def _changing(node: ast.AST) -> list[ast.AST]:
    """The outermost statements in which a name may be bound conditionally."""
    if isinstance(node, ast.If | ast.While | ast.For):
        return [node]
    if isinstance(node, ast.expr | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return []
    return [found for child in ast.iter_child_nodes(node) for found in _changing(child)]


class _Rewriter(ast.NodeTransformer):
    def __init__(self, class_name: str | None) -> None:
        self.class_name = class_name
        self.scope: _Scope

    # -- functions

    def function(self, node: Any, checked: frozenset[str]) -> Any:
        """A user function, or lambda, in a scope of its own."""
        if is_generator(node):
            return node
        outer = getattr(self, "scope", None)
        self.scope = _Scope(node, checked)
        if isinstance(node, ast.Lambda):
            node.body = self.visit(node.body)
        else:
            node.body = self.function_body(node)
        if outer is not None:
            self.scope = outer
        return node

    def function_body(self, node: ast.FunctionDef) -> list[ast.stmt]:
        scope = self.scope
        body = list(node.body)
        head: list[ast.stmt] = []
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            head.append(body.pop(0))  # the docstring
        own = list(Bound(body).names)
        last = body[-1] if body else node
        if scope.returns:
            if not always_jumps(body):
                body.append(_placed(ast.Return(None), last))
            body = self.block(body)
            start = _placed(_store(RETURNED, ast.Constant(False)), node)
            end = _placed(ast.Return(_call("value", _load(VALUE), ast.Constant(VALUE))), last)
            body = [start, *body, end]
            own.append(VALUE)
        else:
            body = self.block(body)
        bound = Bound(node.body)
        parameters = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        flags = [n for n in Bound(body).names if n.startswith("@")]
        local = [n for n in dict.fromkeys((*own, *flags)) if n not in bound.globals | bound.nonlocals | parameters]
        declared = [s for s in body if isinstance(s, ast.Global | ast.Nonlocal)]
        body = [s for s in body if not isinstance(s, ast.Global | ast.Nonlocal)]
        if local:  # all bindings may have moved into functions that declare the names nonlocal
            targets: list[ast.expr] = [ast.Name(name, ast.Store()) for name in local]
            never = ast.If(ast.Constant(False), [ast.Assign(targets, ast.Constant(None))], [])
            head.append(_placed(never, node))
        return [*head, *declared, *body] or [_placed(ast.Pass(), node)]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        self._defaults(node.args)
        return self.function(node, self.scope.checked)

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        self._defaults(node.args)
        return self.function(node, self.scope.checked)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        """Methods are rewritten; statements of the class body run as they are."""
        node.bases = [self.visit(b) for b in node.bases]
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        outer, self.class_name = self.class_name, node.name
        node.body = [self.visit(s) if isinstance(s, ast.FunctionDef) else s for s in node.body]
        self.class_name = outer
        return node

    def _defaults(self, args: ast.arguments) -> None:
        args.defaults = [self.visit(d) for d in args.defaults]
        args.kw_defaults = [d if d is None else self.visit(d) for d in args.kw_defaults]

    # -- statements

    def block(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Statements in order, those after a possible jump guarded."""
        out: list[ast.stmt] = []
        for k, node in enumerate(statements):
            rest = list(statements[k + 1 :])
            if isinstance(node, ast.Break | ast.Continue) or (isinstance(node, ast.Return) and self.scope.returns):
                return [*out, *self.jump(node)]
            found = jumps([node]) if not isinstance(node, ast.Return) else set()
            if isinstance(node, ast.If) and found and rest:
                first, second = always_jumps(node.body), always_jumps(node.orelse)
                if first and second:
                    return [*out, *self.statement(node)]
                if first != second:
                    grown = (node.body, [*node.orelse, *rest]) if first else ([*node.body, *rest], node.orelse)
                    return [*out, *self.statement(_placed(ast.If(node.test, *grown), node))]
            out += self.statement(node)
            if found and rest:
                return [*out, *self.guard(self.flags(found), rest)]
        return out

    def flags(self, found: set[str]) -> list[str]:
        """The flags that these jumps set."""
        loop = self.scope.loops[-1].flags if self.scope.loops else {}
        return [RETURNED] * ("return" in found) + [loop[kind] for kind in ("break", "continue") if kind in found]

    def guard(self, flags: list[str], rest: list[ast.stmt]) -> list[ast.stmt]:
        """The statements, unless one of the flags is set."""
        if not flags:
            return self.block(rest)
        body = [*(_placed(_store(flag, ast.Constant(False)), rest[0]) for flag in flags), *self.block(rest)]
        names = self._bound(body)
        if RETURNED in flags and VALUE not in names:
            names.append(VALUE)
        made = self.make("@guarded", body, names, rest[0])
        call = ast.Expr(_call("guard", _names(flags), _load(made.name), _names(self.mangled(names))))
        return [made, _placed(call, rest[0])]

    def jump(self, node: ast.stmt) -> list[ast.stmt]:
        if isinstance(node, ast.Return):
            value = ast.Constant(None) if node.value is None else self.visit(node.value)
            new = [_store(VALUE, value), _store(RETURNED, ast.Constant(True))]
        else:
            kind = "break" if isinstance(node, ast.Break) else "continue"
            new = [_store(self.scope.loops[-1].flags[kind], ast.Constant(True))]
        return [_placed(s, node) for s in new]

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        """One statement as those that take its place."""
        if isinstance(node, ast.If):
            return self.staged_if(node)
        if isinstance(node, ast.While):
            return self.staged_while(node)
        if isinstance(node, ast.For):
            return self.staged_for(node)
        if isinstance(node, ast.Try) or type(node).__name__ == "TryStar":
            return [self.tried(node)]
        if isinstance(node, ast.With):
            node.items = [self.visit(item) for item in node.items]
            node.body = self.block(node.body)
            return [node]
        if isinstance(node, ast.Match):
            node.subject = self.visit(node.subject)
            for case in node.cases:
                case.body = self.block(case.body)
            return [node]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            return [self.unannotated(node)]
        if (
            isinstance(node, ast.AugAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id in self.scope.checked
        ):
            asked = _placed(ast.Expr(self.visit(_placed(_load(node.target.id), node.target))), node)
            return [asked, self.visit(node)]
        return [self.visit(node)]

    def unannotated(self, node: ast.AnnAssign) -> ast.stmt:
        """A name that is declared nonlocal cannot be annotated; in a function the annotation is not evaluated."""
        new: ast.stmt = ast.Pass() if node.value is None else ast.Assign([node.target], self.visit(node.value))
        return _placed(new, node)

    def tried(self, node: Any) -> ast.stmt:
        if jumps(node.finalbody):
            raise CannotStageError(f"line {node.finalbody[0].lineno}: a jump out of `finally` is not supported")
        found = jumps(node.body)
        node.body = self.block(node.body)
        for handler in node.handlers:
            handler.body = self.block(handler.body)
        if node.orelse:
            node.orelse = self.guard(self.flags(found), node.orelse)
        node.finalbody = self.block(node.finalbody)
        return node

    def staged_if(self, node: ast.If) -> list[ast.stmt]:
        test = self.test(node.test)
        bodies = [self.block(node.body), self.block(node.orelse)]
        names = list(dict.fromkeys(n for body in bodies for n in self._bound(body)))
        made = [self.make("@then", bodies[0], names, node)]
        if bodies[1]:
            made.append(self.make("@else", bodies[1], names, node.orelse[0]))
        functions = [_load(f.name) for f in made] + [ast.Constant(None)] * (2 - len(made))
        call = _call("if_", test, *functions, _names(self.mangled(names)))
        return [*made, _placed(ast.Expr(call), node)]

    def staged_while(self, node: ast.While) -> list[ast.stmt]:
        test: list[ast.stmt] = [_placed(ast.Return(self.test(node.test)), node.test)]
        body, start, stop = self.loop_body(node, [])
        names = list(dict.fromkeys((*self._bound(test), *self._bound(body))))
        made = [self.make("@test", test, self._bound(test), node.test), self.make("@body", body, names, node)]
        call = _call("while_", *(_load(f.name) for f in made), _names(self.mangled(names)), _names(stop))
        return [*start, *made, _placed(ast.Expr(call), node), *self.loop_else(node, stop)]

    def staged_for(self, node: ast.For) -> list[ast.stmt]:
        items = self.visit(self.iterable(node.iter))
        take = _placed(ast.Assign([self.visit(node.target)], _load(ITEM)), node.target)
        body, start, stop = self.loop_body(node, [take])
        names = self._bound(body)
        made = self.make("@body", body, names, node, [ITEM])
        call = _call("for_", items, _load(made.name), _names(self.mangled(names)), _names(stop))
        return [*start, made, _placed(ast.Expr(call), node), *self.loop_else(node, stop)]

    def iterable(self, node: ast.expr) -> ast.expr:
        """What a for statement runs over, made by a helper if it is a call of range, enumerate or zip."""
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ITERABLES):
            return node
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            return node
        return _placed(_call(_ITERABLES[node.func.id], node.func, *map(self.iterable, node.args)), node)

    def loop_body(self, node: Any, head: list[ast.stmt]) -> tuple[list[ast.stmt], list[ast.stmt], list[str]]:
        """The body, the statements before the loop, and the flags that end the loop."""
        self.scope.count += 1
        loop = _Loop(self.scope.count)
        found = jumps(node.body)
        self.scope.loops.append(loop)
        body = [*head, *self.block(node.body)]
        self.scope.loops.pop()
        if "continue" in found:
            body.insert(0, _placed(_store(loop.flags["continue"], ast.Constant(False)), node))
        start, stop = [], []
        if "break" in found:
            start.append(_placed(_store(loop.flags["break"], ast.Constant(False)), node))
            stop.append(loop.flags["break"])
        return body, start, [*stop, *([RETURNED] if "return" in found else [])]

    def loop_else(self, node: Any, stop: list[str]) -> list[ast.stmt]:
        return self.guard(stop, node.orelse) if node.orelse else []

    def make(
        self, kind: str, body: list[ast.stmt], names: list[str], place: ast.AST, parameters: Sequence[str] = ()
    ) -> ast.FunctionDef:
        """A function of staging's around statements of the user's, which binds the user's variables."""
        self.scope.count += 1
        bound = Bound(body).names
        outer = [n for n in names if n in bound and n not in self.scope.globals]
        declared: list[ast.stmt] = [ast.Nonlocal(outer)] if outer else []
        known = [n for n in sorted(self.scope.globals) if n in bound]
        if known:
            declared.append(ast.Global(known))
        arguments = ast.arguments([], [ast.arg(p) for p in parameters], None, [], [], None, [])
        made = ast.FunctionDef(f"{kind}{self.scope.count}", arguments, [*declared, *(body or [ast.Pass()])], [])
        if "type_params" in ast.FunctionDef._fields:
            made.type_params = []  # type: ignore[attr-defined]
        made.staged_names = outer  # type: ignore[attr-defined]
        return _placed(made, place)

    def _bound(self, body: Sequence[ast.AST]) -> list[str]:
        """The variables of the user's function that rewritten statements bind."""
        return [n for n in Bound(body).names if n not in self.scope.globals]

    def mangled(self, names: Sequence[str]) -> list[str]:
        """Names as the compiler stores them: those that are private to a class carry its name."""
        cls = (self.class_name or "").lstrip("_")
        private = [bool(cls) and n.startswith("__") and not n.endswith("__") for n in names]
        return [f"_{cls}{n}" if p else n for n, p in zip(names, private, strict=True)]

    # -- expressions

    def test(self, node: ast.expr) -> ast.expr:
        """An expression of which only the truth matters."""
        if isinstance(node, ast.BoolOp) and not any(map(binds_inside, node.values[1:])):
            first, *others = [self.test(v) for v in node.values]
            helper = "both" if isinstance(node.op, ast.And) else "either"
            return _placed(_call(helper, first, *map(_thunk, others)), node)
        return self.visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        if any(map(binds_inside, node.values[1:])):
            return self.generic_visit(node)
        first, *others = [self.visit(v) for v in node.values]
        helper = "and_" if isinstance(node.op, ast.And) else "or_"
        return _placed(_call(helper, first, *map(_thunk, others)), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            return _placed(_call("not_", self.test(node.operand)), node)
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        if binds_inside(node.body) or binds_inside(node.orelse):
            return self.generic_visit(node)
        parts = _thunk(self.visit(node.body)), _thunk(self.visit(node.orelse))
        return _placed(_call("ifexp", self.test(node.test), *parts), node)

    def visit_Compare(self, node: ast.Compare) -> Any:
        if len(node.ops) == 1 or any(map(binds_inside, node.comparators[1:])):
            return self.generic_visit(node)
        first, second, *others = [self.visit(v) for v in (node.left, *node.comparators)]
        kinds: list[ast.expr] = [ast.Constant(type(op).__name__) for op in node.ops]
        links = [x for kind, other in zip(kinds[1:], others, strict=True) for x in (kind, _thunk(other))]
        return _placed(_call("chain", first, kinds[0], second, *links), node)

    def visit_Name(self, node: ast.Name) -> Any:
        if isinstance(node.ctx, ast.Load) and node.id in self.scope.checked:
            return _placed(_call("value", node, ast.Constant(node.id)), node)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args and self.scope.first:
            node.args = [_placed(_load("__class__"), node), _placed(_load(self.scope.first), node)]
        elif isinstance(node.func, ast.Name) and node.func.id == "print":
            return _placed(ast.Call(_call("print_", node.func).func, [node.func, *node.args], node.keywords), node)
        return node

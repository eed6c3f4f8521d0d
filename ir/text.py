"""The text form of graphs: a canonical printer, a parser, and the hash of a graph.

Grammar (blanks and line ends separate words; `#` starts a comment that ends with the line):

    graph   := "graph" "@" NAME "(" [param {"," param}] ")" {NAME "=" attr} "{" {const | node} "return" [values] "}"
    param   := VALUE ":" type
    const   := "const" VALUE ":" type "=" "[" [number {"," number}] "]"
    node    := [VALUE ":" type {"," VALUE ":" type} "="] PRIM ["{" [NAME "=" attr {"," NAME "=" attr}] "}"]
               "(" [values] ")" ["[" graph {"," graph} "]"] ["loc" "(" STRING ":" INT ["," STRING] ")"]
    values  := VALUE {"," VALUE}          VALUE := "%" NAME
    type    := DTYPE "[" [INT {"," INT}] "]"
    attr    := INT | FLOAT | COMPLEX | STRING | "true" | "false" | "none" | DTYPE | "(" [attr {"," attr}] [","] ")"

After the parameters stand `stage=...` and, where there are any, `updates=(...)`. Floats are written by repr (`inf`, `nan` and
`-inf` included), complex numbers as `complex(re, im)`. Values are numbered in the order in which they are defined, so equal
graphs print equally; `hints=True` keeps the names of parameters, `locs=False` leaves the user's lines out.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import Location, ParseError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import DTYPES_BY_NAME, ArrayType, dtype_name


def print_graph(graph: Graph, *, locs: bool = True) -> str:
    """The canonical text of a graph."""
    return Printer(graph, locs=locs).text()


def graph_hash(graph: Graph) -> str:
    """A hash of what the graph computes: its text without the user's lines."""
    return hashlib.sha256(print_graph(graph, locs=False).encode()).hexdigest()


class Printer:
    """Prints one graph; nested regions share the numbering, so that every name is unique in the text."""

    def __init__(self, graph: Graph, *, locs: bool = True, names: dict[Value, str] | None = None) -> None:
        self.graph = graph
        self.locs = locs
        self.names: dict[Value, str] = {} if names is None else names
        self._name([*graph.params, *(v for v, _ in graph.consts)])
        for node in graph.nodes:
            self._name(node.results)

    def _name(self, values: Sequence[Value]) -> None:
        for value in values:
            self.names.setdefault(value, f"%{len(self.names)}")

    def text(self, indent: str = "") -> str:
        """The whole graph, every line but the first indented."""
        g = self.graph
        params = ", ".join(self._typed(p) for p in g.params)
        head = f"graph @{g.name}({params}) stage={g.stage}"
        if g.updates:
            head += f" updates={attr_text(g.updates)}"
        inner = indent + "  "
        lines = [f"{head} {{"]
        for value, array in g.consts:
            items = ", ".join(attr_text(v) for v in array.ravel().tolist())
            lines.append(f"{inner}const {self._typed(value)} = [{items}]")
        lines += [inner + self.node_line(node, inner) for node in g.nodes]
        lines.append(f"{inner}return {', '.join(self.names[o] for o in g.outputs)}".rstrip())
        lines.append(f"{indent}}}")
        return "\n".join(lines)

    def node_line(self, node: Node, indent: str = "") -> str:
        """One node; its regions follow on further lines."""
        line = ", ".join(self._typed(r) for r in node.results) + (" = " if node.results else "")
        line += node.prim
        if node.attrs:
            line += "{" + ", ".join(f"{k}={attr_text(v)}" for k, v in sorted(node.attrs.items())) + "}"
        line += "(" + ", ".join(self.names.get(o, "%?") for o in node.operands) + ")"
        if node.regions:
            parts = [Printer(r, locs=self.locs, names=self.names).text(indent + "  ") for r in node.regions]
            line += " [" + f",\n{indent}  ".join(parts) + "]"
        if self.locs and node.loc is not None:
            line += f" loc({_quote(node.loc.file)}:{node.loc.line}"
            line += f", {_quote(node.loc.function)})" if node.loc.function else ")"
        return line

    def _typed(self, value: Value) -> str:
        return f"{self.names[value]}: {value.type}"


def attr_text(value: Any) -> str:
    """An attribute as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, complex):
        return f"complex({value.real!r}, {value.imag!r})"
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, np.dtype):
        return dtype_name(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(attr_text(v) for v in value) + ("," if len(value) == 1 else "") + ")"
    raise TypeError(f"attribute {value!r} has no text form")


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


_TOKEN = re.compile(
    r"""\s*(?:\#[^\n]*\n\s*)*(?:
    (?P<string>"(?:[^"\\]|\\.)*")|(?P<value>%[\w.]+)|(?P<number>-?(?:inf\b|nan\b|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))
    |(?P<word>@?[A-Za-z_<][\w.<>$-]*)|(?P<mark>[][(){},:=])|(?P<end>\Z))""",
    re.VERBOSE,
)


def parse_graph(text: str) -> Graph:
    """The graph that `text` describes; ParseError, with the line, if it describes none."""
    parser = _Parser(text)
    graph = parser.graph({})
    parser.take("end", "")
    return graph


def parse_attrs(text: str) -> dict[str, Any]:
    """Attributes in braces: `{size=8, in_dims=(0, none)}`."""
    parser = _Parser(text)
    parser.take("mark", "{")
    attrs = dict(parser.many(parser.named_attr, "}"))
    parser.take("end", "")
    return attrs


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.kind = self.token = ""
        self.advance()

    def fail(self, wanted: str) -> ParseError:
        line = self.text.count("\n", 0, self.pos) + 1
        return ParseError(f"line {line}: expected {wanted}, found {self.token or 'the end'!r}")

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.pos)
        if match is None:
            self.token = self.text[self.pos : self.pos + 10]
            raise self.fail("a word")
        self.kind = match.lastgroup or "end"
        self.token = match.group(self.kind)
        self.pos = match.end()

    def take(self, kind: str, token: str | None = None) -> str:
        if self.kind != kind or (token is not None and self.token != token):
            raise self.fail(token or kind)
        taken = self.token
        if kind != "end":
            self.advance()
        return taken

    def accept(self, token: str) -> bool:
        if self.kind in ("mark", "word") and self.token == token:
            self.advance()
            return True
        return False

    def many(self, item: Any, close: str) -> list[Any]:
        """Items separated by commas up to the closing mark (a comma may stand before it)."""
        items = []
        while not self.accept(close):
            items.append(item())
            if not self.accept(","):
                self.take("mark", close)
                break
        return items

    def graph(self, env: dict[str, Value]) -> Graph:
        self.take("word", "graph")
        name = self.take("word").removeprefix("@")
        self.take("mark", "(")
        params = self.many(lambda: self.typed(env), ")")
        fields: dict[str, Any] = {}
        while not self.accept("{"):
            key = self.take("word")
            self.take("mark", "=")
            fields[key] = self.take("word") if key == "stage" else self.attr()
        consts, nodes = [], []
        while not self.accept("return"):
            if self.accept("const"):
                consts.append(self.const(env))
            else:
                nodes.append(self.node(env))
        outputs = self.many(lambda: self.value(env), "}")
        return Graph(params, nodes, outputs, consts=consts, name=name, **fields)

    def typed(self, env: dict[str, Value]) -> Value:
        name = self.take("value")
        if name in env:
            raise ParseError(f"{name} is defined twice")
        self.take("mark", ":")
        env[name] = Value(self.type())
        return env[name]

    def type(self) -> ArrayType:
        dtype = self.dtype(self.take("word"))
        self.take("mark", "[")
        return ArrayType(tuple(self.many(lambda: int(self.take("number")), "]")), dtype)

    def dtype(self, name: str) -> np.dtype:
        if name not in DTYPES_BY_NAME:
            raise ParseError(f"{name!r} is not a dtype")
        return DTYPES_BY_NAME[name]

    def value(self, env: dict[str, Value]) -> Value:
        name = self.take("value")
        if name not in env:
            raise ParseError(f"{name} is used but not defined")
        return env[name]

    def const(self, env: dict[str, Value]) -> tuple[Value, np.ndarray]:
        value = self.typed(env)
        self.take("mark", "=")
        self.take("mark", "[")
        items = self.many(self.attr, "]")
        return value, np.array(items, dtype=value.dtype).reshape(value.shape)

    def node(self, env: dict[str, Value]) -> Node:
        results: list[Value] = []
        if self.kind == "value":
            # results are named before the node's regions are read, as the printer numbers them
            while True:
                results.append(self.typed(env))
                if self.accept("="):
                    break
                self.take("mark", ",")
        prim = self.take("word")
        attrs: dict[str, Any] = {}
        if self.accept("{"):
            attrs = dict(self.many(self.named_attr, "}"))
        self.take("mark", "(")
        operands = self.many(lambda: self.value(env), ")")
        regions = self.many(lambda: self.graph(env), "]") if self.accept("[") else []
        return Node(prim, operands, attrs, regions, results, self.loc() if self.accept("loc") else None)

    def loc(self) -> Location:
        self.take("mark", "(")
        file = self.string()
        self.take("mark", ":")
        line = int(self.take("number"))
        function = self.string() if self.accept(",") else ""
        self.take("mark", ")")
        return Location(file, line, function)

    def named_attr(self) -> tuple[str, Any]:
        name = self.take("word")
        self.take("mark", "=")
        return name, self.attr()

    def string(self) -> str:
        return str(ast.literal_eval(self.take("string")))

    def attr(self) -> Any:
        if self.kind == "string":
            return self.string()
        if self.kind == "number":
            token = self.take("number")
            return int(token) if re.fullmatch(r"-?\d+", token) else float(token)
        if self.accept("("):
            return tuple(self.many(self.attr, ")"))
        word = self.take("word")
        if word == "complex":
            self.take("mark", "(")
            return complex(*self.many(self.attr, ")"))
        if word in ("true", "false", "none"):
            return {"true": True, "false": False, "none": None}[word]
        return self.dtype(word)

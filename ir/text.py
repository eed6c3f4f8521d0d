"""The text form of graphs: a canonical printer, a parser, and the hash of a graph.

Grammar (blanks and line ends separate words; `#` starts a comment that ends with the line):

    graph   := "graph" "@" NAME "(" [param {"," param}] ")" {field} "{" {const | node} "return" [values] "}"
    field   := "stage" "=" NAME | "updates" "=" attr
    param   := VALUE ":" type
    const   := "const" VALUE ":" type "=" "[" [attr {"," attr}] "]"
    node    := [VALUE ":" type {"," VALUE ":" type} "="] PRIM ["{" [NAME "=" attr {"," NAME "=" attr}] "}"]
               "(" [values] ")" ["[" graph {"," graph} "]"] ["loc" "(" STRING ":" INT ["," STRING] ")"]
    values  := VALUE {"," VALUE}          VALUE := "%" NAME
    type    := (DTYPE | "tape" "(" type ")") "[" [INT {"," INT}] "]"
    attr    := INT | FLOAT | COMPLEX | STRING | "true" | "false" | "none" | DTYPE
             | "(" [attr {"," attr}] [","] ")"

Floats are written by repr (`inf`, `nan` and `-inf` included), complex numbers as `complex(re, im)`, strings
as in JSON; the rule of a custom call and the function of a callback are written as `@name` and cannot be read again;
a graph whose name is no word is written `@"..."`. A constant lists its elements in C order. Names of values are
unique in the whole text, regions included. The printer numbers values in the order in which they are defined, so
equal graphs print equally; `locs=False` leaves the user's lines out.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from nufunc.ir.errors import Location, ParseError, VerifyError
from nufunc.ir.graph import STAGES, Graph, Node, Value
from nufunc.ir.prims.custom import Rule
from nufunc.ir.prims.host import Host
from nufunc.ir.types import DTYPES_BY_NAME, HANDLE, ArrayType, dtype_name, dtype_named, kind_of, tape_of

_T = TypeVar("_T")
_NAME = r"[A-Za-z_<][\w.<>$-]*"


def print_graph(graph: Graph, *, locs: bool = True) -> str:
    """The canonical text of a graph."""
    return Printer(graph, locs=locs).text()


def graph_hash(graph: Graph) -> str:
    """A hash of what the graph computes: its text without the user's lines, constants by their bytes."""
    return hashlib.sha256(Printer(graph, locs=False, digests=True).text().encode()).hexdigest()


class Printer:
    """Prints one graph. Regions share the counter of names, but not the names: one region may occur twice.

    `digests` writes a hash in place of a constant's elements; `lenient` shows attributes without a text form.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        locs: bool = True,
        digests: bool = False,
        lenient: bool = False,
        outer: Printer | None = None,
    ) -> None:
        self.graph = graph
        self.locs, self.digests, self.lenient = locs, digests, lenient
        self.outer = outer
        self.counter: Iterator[int] = itertools.count() if outer is None else outer.counter
        self.names: dict[Value, str] = {}
        self._name([*graph.params, *(v for v, _ in graph.consts)])
        for node in graph.nodes:
            self._name(node.results)

    def _name(self, values: Sequence[Value]) -> None:
        for value in values:
            if value not in self.names:
                self.names[value] = f"%{next(self.counter)}"

    def name_of(self, value: Value) -> str:
        """The name of a value; `%?` for one that is not defined here or around."""
        if value in self.names:
            return self.names[value]
        return "%?" if self.outer is None else self.outer.name_of(value)

    def text(self, indent: str = "") -> str:
        """The whole graph, every line but the first indented."""
        g = self.graph
        params = ", ".join(self._typed(p) for p in g.params)
        plain = g.name.isascii() and g.name.isidentifier()
        name = g.name if plain or re.fullmatch(_NAME, g.name, re.ASCII) else _quote(g.name)
        head = f"graph @{name}({params}) stage={g.stage}"
        if g.updates:
            head += f" updates={attr_text(g.updates)}"
        inner = indent + "  "
        lines = [f"{head} {{"]
        lines += [
            f"{inner}const {self._typed(value)} = [{self._elements(array)}]" for value, array in g.consts
        ]
        lines += [inner + self.node_line(node, inner) for node in g.nodes]
        lines.append(f"{inner}return {', '.join(map(self.name_of, g.outputs))}".rstrip())
        lines.append(f"{indent}}}")
        return "\n".join(lines)

    def node_line(self, node: Node, indent: str = "") -> str:
        """One node; its regions follow on further lines."""
        line = self.node_head(node)
        if node.regions:
            parts = [
                Printer(r, locs=self.locs, digests=self.digests, lenient=self.lenient, outer=self).text(
                    indent + "  "
                )
                for r in node.regions
            ]
            line += " [" + f",\n{indent}  ".join(parts) + "]"
        if self.locs and node.loc is not None:
            line += f" loc({_quote(node.loc.file)}:{node.loc.line}"
            line += f", {_quote(node.loc.function)})" if node.loc.function else ")"
        return line

    def node_head(self, node: Node) -> str:
        """One node without its regions and its line."""
        line = ", ".join(map(self._typed, node.results)) + (" = " if node.results else "") + node.prim
        if node.attrs:
            text = _any_text if self.lenient else attr_text
            line += "{" + ", ".join([f"{k}={text(v)}" for k, v in sorted(node.attrs.items())]) + "}"
        return f"{line}({', '.join(map(self.name_of, node.operands))})"

    def _typed(self, value: Value) -> str:
        return f"{self.name_of(value)}: {value.type}"

    def _elements(self, array: np.ndarray) -> str:
        if self.digests:
            return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        text = repr if kind_of(array.dtype) in "iu" else attr_text
        return ", ".join(map(text, array.ravel().tolist()))


def attr_text(value: Any) -> str:
    """An attribute as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        # x86 makes NaNs with the sign bit set, which repr does not show
        return "-nan" if math.isnan(value) and math.copysign(1, value) < 0 else float.__repr__(value)
    if isinstance(value, complex):
        return f"complex({attr_text(value.real)}, {attr_text(value.imag)})"
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, np.dtype):
        return dtype_name(value)
    if isinstance(value, Rule | Host):
        return f"@{value.name}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(attr_text, value)) + ("," if len(value) == 1 else "") + ")"
    raise VerifyError(f"attribute {value!r} has no text form")


def _any_text(value: Any) -> str:
    try:
        return attr_text(value)
    except VerifyError:
        return repr(value)


def _quote(text: str) -> str:
    import json  # few programs print strings, and to import it takes longer than to print a graph

    return json.dumps(text, ensure_ascii=not text.isprintable())


_TOKEN = (
    r"""\s*(?:\#[^\n]*\s*)*(?:
    (?P<string>@?"(?:[^"\\\n]|\\.)*")|(?P<value>%[\w.]+)
    |(?P<number>-?(?:inf\b|nan\b|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))
    |(?P<word>@?[A-Za-z_<][\w.<>$-]*)|(?P<mark>[][(){},:=])|(?P<end>\Z))"""
)
_ELEMENT_TYPES: dict[str, set[type]] = {
    "b": {bool}, "i": {int}, "u": {int}, "f": {int, float}, "c": {int, float, complex},
}  # fmt: skip


def parse_graph(text: str) -> Graph:
    """The graph that `text` describes; ParseError, with the line, if it describes none."""
    parser = _Parser(text)
    graph = parser.graph({})
    parser.take("end")
    return graph


def parse_attrs(text: str) -> dict[str, Any]:
    """Attributes in braces: `{size=8, in_dims=(0, none)}`."""
    parser = _Parser(text)
    parser.take("mark", "{")
    attrs = parser.attrs()
    parser.take("end")
    return attrs


class _Parser:
    """Recursive descent with one token of look-ahead: `kind` and `token`, which starts at `start`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.match = re.compile(_TOKEN, re.VERBOSE | re.ASCII).match
        self.start = self.end = self.taken = 0
        self.kind = self.token = ""
        self.advance()

    def error(self, message: str, position: int | None = None) -> ParseError:
        """An error at a position: by default where the token that was taken last starts."""
        line = self.text.count("\n", 0, self.taken if position is None else position) + 1
        return ParseError(f"line {line}: {message}")

    def expected(self, wanted: str) -> ParseError:
        return self.error(f"expected {wanted}, found {self.token or 'the end of the text'!r}", self.start)

    def advance(self) -> None:
        match = self.match(self.text, self.end)
        if match is None:
            rest = self.text[self.end :].lstrip()
            self.start, self.token = len(self.text) - len(rest), rest.split("\n")[0][:20]
            raise self.expected("a word, a value, a number or a string")
        self.kind = match.lastgroup or "end"
        self.taken, (self.start, self.end) = self.start, match.span(self.kind)
        self.token = match[self.kind]

    def take(self, kind: str, token: str | None = None) -> str:
        if self.kind != kind or (token is not None and self.token != token):
            raise self.expected(repr(token) if token else f"the {kind}" if kind == "end" else f"a {kind}")
        taken = self.token
        if kind != "end":
            self.advance()
        return taken

    def accept(self, token: str) -> bool:
        if self.token == token and self.kind in ("mark", "word"):
            self.advance()
            return True
        return False

    def many(self, item: Callable[[], _T], close: str) -> list[_T]:
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
        if not self.token.startswith("@"):
            raise self.expected("the graph's name, @...")
        name = self.string() if self.kind == "string" else self.take("word")[1:]
        self.take("mark", "(")
        params = self.many(lambda: self.typed(env), ")")
        fields: dict[str, Any] = {}
        while not self.accept("{"):
            key, value = self.field()
            if key in fields:
                raise self.error(f"{key} is given twice")
            fields[key] = value
        consts, nodes = [], []
        while not self.accept("return"):
            if self.accept("const"):
                consts.append(self.const(env))
            else:
                nodes.append(self.node(env))
        outputs = self.many(lambda: self.value(env), "}")
        return Graph(params, nodes, outputs, consts=consts, name=name, **fields)

    def field(self) -> tuple[str, Any]:
        key = self.take("word")
        if key not in ("stage", "updates"):
            raise self.error(f"a graph has stage and updates, not {key!r}")
        self.take("mark", "=")
        if key == "stage":
            stage = self.take("word")
            if stage not in STAGES:
                raise self.error(f"the stages are {', '.join(STAGES)}, not {stage!r}")
            return key, stage
        updates = self.attr()
        if not isinstance(updates, tuple) or any(type(k) is not int for k in updates):
            raise self.error(f"updates are a tuple of ints, not {attr_text(updates)}")
        return key, updates

    def typed(self, env: dict[str, Value]) -> Value:
        name = self.take("value")
        if name in env:
            raise self.error(f"{name} is defined twice (names are unique in the whole text)")
        self.take("mark", ":")
        value = env[name] = Value(self.type())
        return value

    def type(self) -> ArrayType:
        item = None
        if self.accept("tape"):
            self.take("mark", "(")
            item = self.type()
            self.take("mark", ")")
        dtype = HANDLE if item is not None else self.dtype()
        self.take("mark", "[")
        shape = tuple(self.many(self.extent, "]"))
        return ArrayType(shape, dtype) if item is None else tape_of(item, shape)

    def extent(self) -> int:
        token = self.take("number")
        if not token.isdigit():
            raise self.error(f"expected an extent, found {token}")
        return int(token)

    def dtype(self) -> np.dtype:
        name = self.take("word")
        dtype = dtype_named(name)
        if dtype is None:
            raise self.error(f"{name!r} is not a dtype")
        return dtype

    def value(self, env: dict[str, Value]) -> Value:
        name = self.take("value")
        if name not in env:
            raise self.error(f"{name} is used but not defined")
        return env[name]

    def const(self, env: dict[str, Value]) -> tuple[Value, np.ndarray]:
        value = self.typed(env)
        self.take("mark", "=")
        self.take("mark", "[")
        line = self.start
        items = self.many(self.attr, "]")
        if not set(map(type, items)) <= _ELEMENT_TYPES[kind_of(value.dtype)]:
            raise self.error(f"the elements of a constant of {value.type} are of another kind", line)
        try:
            array = np.array(items, dtype=value.dtype).reshape(value.shape)
        except (ValueError, OverflowError) as error:
            raise self.error(f"a constant of {value.type}: {error}", line) from None
        array.flags.writeable = False
        return value, array

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
        attrs = self.attrs() if self.accept("{") else {}
        self.take("mark", "(")
        operands = self.many(lambda: self.value(env), ")")
        regions = self.many(lambda: self.graph(env), "]") if self.accept("[") else []
        return Node(prim, operands, attrs, regions, results, self.loc() if self.accept("loc") else None)

    def loc(self) -> Location:
        self.take("mark", "(")
        file = self.string()
        self.take("mark", ":")
        line = self.extent()
        function = self.string() if self.accept(",") else ""
        self.take("mark", ")")
        return Location(file, line, function)

    def attrs(self) -> dict[str, Any]:
        """Named attributes up to the closing brace."""
        found: dict[str, Any] = {}

        def item() -> None:
            name = self.take("word")
            if name in found:
                raise self.error(f"attribute {name} is given twice")
            self.take("mark", "=")
            found[name] = self.attr()

        self.many(item, "}")
        return found

    def string(self) -> str:
        token = self.take("string").removeprefix("@")
        try:
            import json

            return str(json.loads(token, strict=False))
        except ValueError as error:
            raise self.error(f"the string {token}: {error}") from None

    def attr(self) -> Any:
        if self.kind == "string":
            return self.string()
        if self.kind == "number":
            token = self.take("number")
            return int(token) if token.lstrip("-").isdigit() else float(token)
        if self.accept("("):
            return tuple(self.many(self.attr, ")"))
        if self.kind == "word" and (self.token in DTYPES_BY_NAME or self.token == "bf16"):
            return self.dtype()
        word = self.take("word")
        if word.startswith("@"):
            raise self.error(f"{word} is code, which text does not hold")
        if word == "complex":
            return self.complex()
        if word in ("true", "false", "none"):
            return {"true": True, "false": False, "none": None}[word]
        raise self.error(f"{word!r} is neither an attribute's value nor a dtype")

    def complex(self) -> complex:
        self.take("mark", "(")
        parts = self.many(self.attr, ")")
        if len(parts) != 2 or not {type(p) for p in parts} <= {int, float}:
            raise self.error("complex(re, im) takes two numbers")
        return complex(*parts)

"""Derivatives of every form beside JAX, and beside torch where JAX has none: the form's own text is run with their
namespaces in place of NumPy's, for JAX with its writes and methods of ufuncs put in JAX's words.
"""

from __future__ import annotations

import ast
import builtins
import functools
import math
import re
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy_forms
from numpy_forms import Form

from nufunc.ir import interpret
from nufunc.ir.errors import UnsupportedError
from nufunc.passes.jvp import jvp
from nufunc.passes.transpose import vjp

TOLERANCE = 1e-7
_REPEATED = "torch counts a value once for each repeated index that it is stored at"
# Where a neighbour's derivative is another one, and why ours stays.
EXCEPTIONS = (
    (r"np\.(absolute|fabs|abs)\((f|-zero)\)", "abs at zero is flat: docs/derivatives.md"),
    (r"np\.\w+\(f(, (fr|2|-1, 1))?\)", "infinities, ties and numbers below the normal ones, which JAX takes for zero"),
    (r"np\.arccosh\(z\)", "JAX takes the other branch of the root; central differences agree with ours"),
    (r"np\.sign\(z\)", "JAX takes z / |z| for a constant; central differences agree with ours"),
    (r"(.*)\br\[.*(idx|idy|-1\]\]).*\] [-+*/]?= ", _REPEATED),
    (r"(.*)np\.put\(r, idx, s\)", _REPEATED),
    (r"np\.(var|std)\(x, axis=1, where=bt3", "rows of which nothing is left: JAX gives NaN"),
    (r"np\.histogram2d\(", "torch takes edges for constants"),
    (r"np\.linalg\.svd\((x|c)\)", "vectors of the null space are free; central differences agree with ours"),
    (r"np\.linalg\.lstsq\(x, t\)", "torch takes singular values for constants; central differences agree with ours"),
    (r"math\.", "torch takes math's functions for constants"),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of a comparison: compared, differs, values (of another function), lacks, refuses; none: no question."""

    kind: str
    said: str = ""


@dataclass(frozen=True)
class Slopes:
    """A neighbour's results, tangents (where it has a forward mode) and cotangents; nothing is conjugated."""

    results: list[np.ndarray]
    tangents: list[np.ndarray] | None
    gradients: list[np.ndarray]


def _run(source: str, np_: Any, scope: dict[str, Any], arrays: list[Any]) -> list[Any]:
    names = {"max": builtins.max, "min": builtins.min, "sum": builtins.sum, "math": math, **scope}
    exec(compile(source, f"<{source}>", "exec"), names)
    return numpy_forms.leaves(names["call"](np_, *arrays))


# -- JAX


class _Functional(ast.NodeTransformer):
    """Writes as JAX has them, methods of any function of two operands, and lists of numbers as arrays."""

    writers = ("put", "place", "fill_diagonal", "put_along_axis")

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        target = node.targets[0]
        if not isinstance(target, ast.Subscript):
            return node
        return self._stored(target, node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.target, ast.Subscript):
            return node
        old = ast.Subscript(node.target.value, node.target.slice, ast.Load())
        return self._stored(node.target, ast.BinOp(old, node.op, node.value))

    def _stored(self, target: ast.Subscript, value: ast.expr) -> ast.AST:
        name = ast.unparse(target.value)
        return ast.parse(f"{name} = {name}.at[{ast.unparse(target.slice)}].set({ast.unparse(value)})").body[0]

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        self.generic_visit(node)
        call = node.value
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            return node
        if call.func.attr == "at" or call.func.attr in self.writers:
            call.keywords.append(ast.keyword("inplace", ast.Constant(False)))
            return ast.Assign([ast.Name(ast.unparse(call.args[0]), ast.Store())], call)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        methods = ("reduce", "accumulate", "at", "outer", "reduceat")
        inner = node.value
        if node.attr in methods and isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == "np":
            node.value = ast.Call(ast.Name("ufunc", ast.Load()), [inner], [])
        return node

    def visit_List(self, node: ast.List) -> ast.AST:
        self.generic_visit(node)
        try:
            numbers = np.asarray(ast.literal_eval(node))
        except (ValueError, SyntaxError):
            return node
        return ast.parse(f"np.array({ast.unparse(node)})", mode="eval").body if numbers.dtype.kind in "biuf" else node


@functools.cache
def _jax() -> tuple[Any, dict[str, Any]]:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    import jax.scipy.fft
    import jax.scipy.linalg
    import jax.scipy.special

    def ufunc(function: Any) -> Any:
        if isinstance(function, jnp.ufunc):
            return function
        made = jnp.frompyfunc(lambda x, y: function(x, y), 2, 1)
        return made

    scope = {"special": jax.scipy.special, "linalg": jax.scipy.linalg, "fft": jax.scipy.fft, "ufunc": ufunc}
    return jnp, scope


def jax_slopes(form: Form, active: list[bool], tangents: list[Any], cotangents: Callable[[Any], Any]) -> Slopes:
    jnp, scope = _jax()
    import jax

    tree = ast.parse(numpy_forms._source(form.code, form.names))
    sources = [ast.unparse(tree), ast.unparse(ast.fix_missing_locations(_Functional().visit(tree)))]
    fixed = [jnp.asarray(numpy_forms._native(a)) for a in form.args]

    def function(source: str, *varied: Any) -> list[Any]:
        rest = iter(varied)
        arrays = [next(rest) if on else a for a, on in zip(fixed, active)]
        return [jnp.asarray(r) for r in _run(source, jnp, scope, arrays)]

    primals = [a for a, on in zip(fixed, active) if on]
    seeds = [jnp.asarray(t) for t in tangents]
    try:
        results, along = jax.jvp(functools.partial(function, sources[0]), primals, seeds)
        chosen = sources[0]
    except Exception:  # noqa: BLE001 - in JAX's words, then
        chosen = sources[1]
        results, along = jax.jvp(functools.partial(function, chosen), primals, seeds)
    _, pull = jax.vjp(functools.partial(function, chosen), *primals)
    smooth = [k for k, r in enumerate(results) if r.dtype.kind in "fc"]
    rest = iter(cotangents([np.asarray(r) for r in results]))
    seeds = [
        jnp.asarray(c, r.dtype) if k in smooth else np.zeros(r.shape, jax.dtypes.float0)
        for k, (r, c) in enumerate(zip(results, rest))
    ]
    gradients = [np.asarray(g) for g in pull(seeds)]
    return Slopes([np.asarray(r) for r in results], [np.asarray(t) for t in along], gradients)


# -- torch, through its own reading of NumPy's namespace


@functools.cache
def _torch() -> tuple[Any, dict[str, Any]]:
    import torch
    import torch._numpy as tnp

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(plain(v) for v in value)
        return value.tensor if isinstance(value, tnp.ndarray) else value

    def boxed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(boxed(v) for v in value)
        return tnp.ndarray(value) if isinstance(value, torch.Tensor) else value

    def wrapped(module: Any) -> Any:
        def of(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kw: boxed(function(*map(plain, args), **{k: plain(v) for k, v in kw.items()}))

        return types.SimpleNamespace(**{name: of(f) for name, f in vars(module).items() if callable(f)})

    return tnp, {"special": wrapped(torch.special), "linalg": wrapped(torch.linalg), "fft": wrapped(torch.fft)}


def torch_slopes(form: Form, active: list[bool], tangents: list[Any], cotangents: Callable[[Any], Any]) -> Slopes:
    tnp, scope = _torch()
    import torch

    def numpy(t: Any) -> np.ndarray:
        return np.asarray(t.detach().resolve_conj().resolve_neg().numpy())

    tensors = [torch.from_numpy(np.array(numpy_forms._native(a), copy=True, order="C")) for a in form.args]
    varied = [t.requires_grad_() for t, on in zip(tensors, active) if on]
    source = numpy_forms._source(form.code, form.names)
    results = []
    for r in _run(source, tnp, scope, [tnp.ndarray(t) for t in tensors]):
        r = r.tensor if isinstance(r, tnp.ndarray) else r
        results.append(r if isinstance(r, torch.Tensor) else torch.as_tensor(r))
    given = cotangents([numpy(r) for r in results])
    pairs = [(r, torch.from_numpy(np.asarray(c).conj())) for r, c in zip(results, given) if r.requires_grad]
    found: Any = [None] * len(varied)
    if pairs:
        found = torch.autograd.grad([r for r, _ in pairs], varied, [c for _, c in pairs], allow_unused=True)
    gradients = [
        np.zeros(tuple(v.shape), numpy(v).dtype) if g is None else numpy(g).conj() for g, v in zip(found, varied)
    ]
    return Slopes([numpy(r) for r in results], None, gradients)


# -- comparison


def asked(form: Form) -> bool:
    """Whether there is a derivative to compare."""
    return not (form.refuses or {"nan", "constant"} & form.tags) and any(numpy_forms._active(form.args))


def beside(form: Form, neighbour: Callable[..., Slopes]) -> Outcome:
    """The form's jvp and vjp beside a neighbour's, at results that are finite."""
    if not asked(form):
        return Outcome("none")
    active = numpy_forms._active(form.args)
    operands = [numpy_forms._native(a) for a in form.args]
    varied = [a for a, on in zip(operands, active) if on]
    rng = np.random.default_rng(8)
    base = [np.asarray(r) for r in numpy_forms.expected(form, form.args)]
    graph, which = numpy_forms._pure(form, form.args)
    mine = [k for k in which if base[k].dtype.kind in "fc"]
    if not mine:
        return Outcome("none")
    tangents = [numpy_forms._direction(a, rng) for a in varied]
    try:
        forward = interpret.run(jvp(graph, active), [*operands, *tangents])[len(which) :]
    except UnsupportedError:
        return Outcome("none")
    seeds: list[np.ndarray] = []

    def cotangents(results: list[np.ndarray]) -> list[np.ndarray]:
        """One per result: zero where it is not finite, and where the neighbour has whole numbers for floats."""
        for k, r in enumerate(results):
            seed = np.where(np.isfinite(r), numpy_forms._direction(r, rng), 0).astype(r.dtype)
            seeds.append(seed if k < len(base) and {base[k].dtype.kind, r.dtype.kind} <= set("fc") else 0 * seed)
        return seeds

    try:
        slopes = neighbour(form, active, tangents, cotangents)
    except (AttributeError, ImportError) as error:
        return Outcome("lacks", numpy_forms._said(error))
    except Exception as error:  # noqa: BLE001 - a neighbour's refusal, of any kind, is counted
        return Outcome("refuses", numpy_forms._said(error))
    if wrong := _other_values(slopes.results, base):
        return Outcome("values", wrong)
    rtol = 1e-3 if any(_single(a) for a in (*operands, *(base[k] for k in mine))) else TOLERANCE
    own = [seeds[k].astype(base[k].dtype.newbyteorder("=")) for k in mine]
    gradients = interpret.run(vjp(graph, active), [*operands, *own])[-sum(active) :]
    for k, along in zip(mine, forward):
        if slopes.tangents is not None and slopes.results[k].dtype.kind in "fc":
            seen = np.isfinite(slopes.results[k])
            if not _close(np.asarray(along)[seen], slopes.tangents[k][seen], rtol):
                return Outcome("differs", f"jvp {_short(along)}, not {_short(slopes.tangents[k])}")
    for a, mine_, other in zip(varied, gradients, slopes.gradients):
        if not _close(_class(a, mine_), _class(a, other), rtol):
            return Outcome("differs", f"vjp {_short(mine_)}, not {_short(other)}")
    return Outcome("compared")


def _single(a: np.ndarray) -> bool:
    return a.dtype.kind in "fc" and a.dtype.itemsize <= 4 * (1 + (a.dtype.kind == "c"))


def _short(a: Any) -> str:
    return numpy_forms._short(np.asarray(a))


def _class(a: np.ndarray, gradient: Any) -> np.ndarray:
    """Gradients of a Hermitian matrix that agree on Hermitian directions are one."""
    gradient = np.asarray(gradient)
    if a.ndim >= 2 and a.shape[-1] == a.shape[-2] and np.allclose(a, np.conj(np.swapaxes(a, -1, -2))):
        return gradient + np.conj(np.swapaxes(gradient, -1, -2))
    return gradient


def _close(own: np.ndarray, other: np.ndarray, rtol: float) -> bool:
    return own.shape == other.shape and np.allclose(own, other, rtol=rtol, atol=rtol, equal_nan=True)


def _other_values(results: list[np.ndarray], base: list[np.ndarray]) -> str:
    """Where the neighbour's function is another one: another number of results, shapes or values."""
    if len(results) != len(base):
        return f"{len(results)} results, not {len(base)}"
    for r, w in zip(results, base):
        if r.shape != w.shape:
            return f"shape {r.shape}, not {w.shape}"
        rtol = 1e-3 if w.dtype.itemsize <= 4 else 1e-6
        if w.dtype.kind in "fc" and not _close(r, w, rtol):
            return f"values {_short(r)}, not {_short(w)}"
    return ""


def expected_to_differ(form: Form) -> str:
    """Why a neighbour's derivative of the form is known to be another one, or nothing."""
    return next((why for pattern, why in EXCEPTIONS if re.match(pattern, form.code)), "")


def neighbours(form: Form) -> tuple[str, Outcome]:
    """Beside JAX, or torch where JAX has no such derivative: whose, and what came of it."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        first = beside(form, jax_slopes)
        if first.kind in ("compared", "differs", "none"):
            return "JAX", first
        second = beside(form, torch_slopes)
    return ("torch", second) if second.kind in ("compared", "differs") else ("JAX", first)

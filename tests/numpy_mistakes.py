"""Every form with something wrong or other in it: other shapes and dtypes of each operand, other constants, keywords
that are not there, arguments too many and too few. NumPy says what each is worth: a value, or which error.
"""

from __future__ import annotations

import ast
import copy
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy_forms
from numpy_forms import Form

from nufunc.ir.errors import NufuncError

SHAPES = {
    "longer": lambda a: np.concatenate([a, a[:1]]) if a.ndim else np.stack([a, a]),
    "flatter": lambda a: a[0] if a.ndim else a[None],
    "deeper": lambda a: a[None],
}
DTYPES = {"bool": bool, "int": np.int64, "complex": np.complex128, "single": np.float32, "uint8": np.uint8}

_UNUSED = (
    "initial|where|order|axis|axes|keepdims|signature|dtype|out|append|prepend|correction|copy|sig|lower|trans|sorter"
)
_CLEAR = "accepted where it is clear what is meant"
# What may differ, by "kind: program | change", and why.
EXCEPTIONS = (
    (r"value: .*(argsort|partition)", "equal elements stay in order here"),
    (r"value: .*(polymul|polydiv|poly1d|np\.poly\()", "leading zeros and conjugate pairs depend on the data"),
    (r"value: .*(lstsq|matrix_rank|cond|pinv)\(", "the rank depends on the data, and on rounding"),
    (r"value: .*(eig|sqrtm|logm|schur|hessenberg|svd)\w*\(", "vectors of equal values; dtypes that depend on the data"),
    (r"value: np\.(arctan2|power|float_power)\.reduce", "NumPy reduces these wrongly where it uses AVX-512"),
    (r"value: .*(interp|searchsorted)\(", "points in no order"),
    (r"value: (max|min)\(", "the dtype of Python's max and min depends on the data"),
    (r"value: np\.cov\(.*complex", "NumPy drops imaginary parts with a warning"),
    (r"value: special\.logsumexp\(.*complex", "the dtype of a complex sum depends on the data"),
    (r"value: linalg\.(cosh|sinh|tanh)m\(.*uint8", "SciPy negates in uint8"),
    (r"accepted: .*(vectorize|frompyfunc)", "functions of elements are traced, not called"),
    (r"accepted: .*(digitize|histogram)", "whether edges increase depends on the data"),
    (rf"accepted: .*({_UNUSED})=(None|'bogus')", "None or a word for a parameter that is not looked at"),
    (r"accepted: .*'(more|bogus)'", "a word for a parameter that is not looked at"),
    (r"accepted: np\.poly\w*\(|accepted: linalg\.(hankel|toeplitz)", "0-d coefficients"),
    (r"accepted: .*fftshift\(.*flatter", "0-d arrays have nothing to shift"),
    (r"accepted: .*\.flat\[.* \| s ", "more values than there are places"),
    (r"accepted: .*-1\.0.* \| . uint8", "a float that NumPy converts by way of an int"),
    (r"value: .*(vectorize|frompyfunc)\(.*uint8", "NumPy calls the function with Python's ints"),
    (r"value: np\.roots\(", "the dtype depends on the data"),
    (r"accepted: (linalg\.(cosh|sinh|tanh)m|special\.diric)\(.*bool", "bools count as numbers"),
    (r"accepted: np\.(ediff1d|put_along_axis|kaiser|round|require)|accepted: round\(", _CLEAR),
    (r"accepted: r = x\.copy\(\); (r\[np\.eye|np\.put_along)", _CLEAR),
    (r"accepted: (np\.array\(x, ndmin=1\.5|special\.multigammaln)", _CLEAR),
    (r"ugly: math\.", "Python's math takes complex scalars of NumPy with a warning"),
    (r"ugly: np\.select\(.*default=None", "objects"),
)  # fmt: skip


def operand_changes(form: Form) -> Iterator[tuple[str, Form, list[np.ndarray]]]:
    """The form with one of its operands of another shape or dtype."""
    for k, name in enumerate(form.names):
        for what, change in SHAPES.items():
            arrays = list(form.args)
            if arrays[k].size:
                arrays[k] = change(arrays[k])
                yield f"{form.code} | {name} {what}", form, arrays
        for what, dtype in DTYPES.items():
            arrays = list(form.args)
            if arrays[k].dtype != dtype and np.isfinite(arrays[k]).all():
                arrays[k] = arrays[k].real.astype(dtype)
                yield f"{form.code} | {name} {what}", form, arrays


class _Change(ast.NodeTransformer):
    """One change at the n-th place where there is something to change."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def _here(self) -> bool:
        self.seen += 1
        return self.seen - 1 == self.at

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if self._here():
            node.keywords.append(ast.keyword("bogus", ast.Constant(1)))
        if self._here():
            node.args.append(ast.Constant("more"))
        if node.args and self._here():
            node.args.pop()
        for keyword in node.keywords:
            if keyword.arg and self._here():
                keyword.value = ast.Constant("bogus")
            if keyword.arg and self._here():
                keyword.value = ast.Constant(None)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool) or node.value is None:
            return node
        if isinstance(node.value, int):
            for value in (9, -9, 1.5):
                if self._here():
                    return ast.Constant(value)
        if isinstance(node.value, str) and self._here():
            return ast.Constant("bogus")
        return node


def code_changes(form: Form) -> Iterator[tuple[str, Form, tuple[np.ndarray, ...]]]:
    """The form with one constant, keyword or argument changed."""
    tree = ast.parse("\n".join(numpy_forms._split(form.code)))
    at = 0
    while True:
        change = _Change(at)
        found = change.visit(copy.deepcopy(tree))
        if change.seen <= at:
            return
        code = "; ".join(ast.unparse(ast.fix_missing_locations(found)).splitlines())
        yield code, replace(form, code=code), form.args
        at += 1


def verdict(form: Form, arrays: Any) -> tuple[str, str]:
    """How the form differs from NumPy on these arrays, "" where it does not: another value, accepted where NumPy
    refuses, an error of another class, or, of what NumPy has, one that does not say what is not supported (ugly).
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            wanted, error = numpy_forms.expected(form, arrays), None
        except Exception as raised:  # noqa: BLE001 - NumPy's own, of any kind
            wanted, error = [], raised
        try:
            graph, flat = numpy_forms.traced(form, arrays)
            actual = numpy_forms.values(graph, flat, arrays)
        except Exception as raised:  # noqa: BLE001 - looked at here
            if error is None:
                return ("", "") if isinstance(raised, NufuncError) else ("ugly", numpy_forms._said(raised))
            same = isinstance(raised, _family(error))
            return "" if same else "class", f"{numpy_forms._said(raised)} instead of {numpy_forms._said(error)}"
    if error is not None:
        return "accepted", f"instead of {numpy_forms._said(error)}"
    if "nan" in form.tags:
        return "", ""
    wrong = numpy_forms.compare(actual, wanted, max(1e-5, numpy_forms.tolerance(form, arrays)), signs=False)
    return "value" if wrong else "", wrong


def _family(error: BaseException) -> tuple[type, ...]:
    """The built-in class that a program which catches this error would name."""
    families = (np.linalg.LinAlgError, np.exceptions.AxisError, IndexError, OverflowError, ZeroDivisionError, KeyError,
                ValueError, TypeError, AttributeError, NotImplementedError)  # fmt: skip
    return next(((kind,) for kind in families if isinstance(error, kind)), (type(error),))


def mistakes(form: Form) -> tuple[Counter[str], list[str]]:
    """How many changes of the form there are by kind of difference, and what differs without a known reason."""
    counts: Counter[str] = Counter()
    wrong = []
    if form.refuses:
        return counts, wrong
    for changes in (operand_changes, code_changes):
        for name, changed, arrays in changes(form):
            kind, said = verdict(changed, arrays)
            counts[kind] += 1
            if kind in ("value", "accepted", "ugly") and not known(kind, name, form.code):
                wrong.append(f"{kind}: {name}  ::  {said}")
    return counts, wrong


def known(kind: str, name: str, code: str) -> bool:
    """Whether the difference has a reason among the exceptions."""
    return any(re.match(pattern, f"{kind}: {text}") for pattern, _ in EXCEPTIONS for text in (name, code))

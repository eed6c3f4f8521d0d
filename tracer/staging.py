"""Staging on demand: which user functions run with their own control flow staged, and who asks for it.

A function runs as it is until Python asks a traced value for its truth, or for the count of a `range`, in an
`if`, `while`, `for`, `and`, `or`, `not`, a chained comparison or a ternary of it. Then its source is rewritten
(`staging_rewrite`) so that such statements ask helpers (`staging_run`), the whole trace is abandoned by `Restage`, and
starts again with the staged code in the place of the function's own. Functions that never ask cost nothing, and
in staged code a concrete condition still is plain Python. NUFUNC_STAGING=0 switches it off.
"""

from __future__ import annotations

import dis
import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

from nufunc.tracer.staging_source import CannotStageError, compiled_like, function_source

HELPERS = "__nufunc_staging__"  # the name under which staged code finds `staging_run`


class Restage(BaseException):
    """The trace is to start again: a function that it came across runs staged from now on."""


class _Staged:
    """The staged form of one code object, or why there is none."""

    __slots__ = ("asked", "code", "original", "reason", "running")

    def __init__(self, original: CodeType) -> None:
        self.original = original
        self.code: CodeType | None = None
        self.reason = ""
        self.asked = 0
        try:
            self.code = _staged_code(original)
        except CannotStageError as error:
            self.reason = str(error)
        self.running = {id(c) for c in nested(self.code)} if self.code is not None else set()


class _Requests(threading.local):
    count = 0


_REQUESTS = _Requests()


def requests() -> int:
    """How often this thread has raised `Restage`: user code may have swallowed it."""
    return _REQUESTS.count


_STAGED: dict[int, _Staged] = {}  # by id of the original code, which the entry keeps alive
_RUNNING: set[int] = set()  # ids of all code objects made by staging


def enabled() -> bool:
    """Whether Python's control flow on traced values is staged; NUFUNC_STAGING=0 switches it off."""
    return os.environ.get("NUFUNC_STAGING", "1") not in ("0", "off", "false")


def replacement(code: CodeType) -> CodeType:
    """The code that a user function of this code runs while it is traced: staged where that was asked for."""
    staged = _STAGED.get(id(code))
    return code if staged is None or staged.code is None or not enabled() else staged.code


def nested(code: CodeType) -> list[CodeType]:
    """A code object and all those of functions defined inside."""
    inner = [c for const in code.co_consts if isinstance(const, CodeType) for c in nested(const)]
    return [code, *inner]


def ask(what: str) -> str:
    """Called where a traced value has no truth ("truth") or is no index ("index"): raises `Restage` if staging the
    function that asks can help, else says why it cannot, for the message of the error.
    """
    frame = sys._getframe(2)
    from nufunc.tracer.view import GlobalsView, active_session

    session = active_session()
    if session is None or type(frame.f_globals) is not GlobalsView:
        return ""
    if id(frame.f_code) in _RUNNING:
        return "" if what == "index" else _unstaged_use(frame)
    if not _is_statement(frame, what):
        return ""
    if not enabled():
        return "staging of Python's control flow is switched off by NUFUNC_STAGING"
    for code in session.running_codes():
        if any(c is frame.f_code for c in nested(code)):
            staged = _STAGED.get(id(code))
            if staged is None:
                staged = _STAGED[id(code)] = _Staged(code)
                _RUNNING.update(staged.running)
            staged.asked += 1
            if staged.code is not None and staged.asked < 100:  # more than once where another thread has just made it
                _REQUESTS.count += 1
                raise Restage
            return f"Python's own control flow could not be staged, since {staged.reason or 'it keeps asking'}"
    return ""


def _is_statement(frame: FrameType, what: str) -> bool:
    """Whether the instruction that asks belongs to a statement or an operator that staging rewrites."""
    opname = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    if what == "index":
        return "CALL" in opname and "range" in frame.f_code.co_names
    return "JUMP" in opname or opname in ("UNARY_NOT", "TO_BOOL", "COMPARE_OP")


def _unstaged_use(frame: FrameType) -> str:
    if frame.f_code.co_name in ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"):
        return "the condition of a comprehension decides how many items there are, which must be static"
    return (
        "assert, match, `in`, operands that bind a name (:=), the conditions of comprehensions and statements of class "
        "bodies are not staged"
    )


def _staged_code(code: CodeType) -> CodeType:
    from nufunc.tracer.staging_rewrite import rewrite

    source = function_source(code)
    return renamed(compiled_like(rewrite(source), source, code), code.co_name, code.co_qualname)


def renamed(code: CodeType, name: str, qualname: str) -> CodeType:
    """The code with the functions that staging made named like the user's function around them."""
    consts = []
    for const in code.co_consts:
        if isinstance(const, CodeType):
            made = const.co_name.startswith("@")
            inner = name if made else const.co_name
            const = renamed(const, inner, qualname if made else f"{qualname}.<locals>.{inner}")
        elif isinstance(const, str) and const == code.co_qualname:
            const = qualname  # the body of a class stores the name of the class
        consts.append(const)
    return code.replace(co_consts=tuple(consts), co_name=name, co_qualname=qualname)


def helpers() -> Any:
    """The module whose functions staged code calls."""
    from nufunc.tracer import staging_run

    return staging_run

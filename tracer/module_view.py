"""ModuleView: the stand-in of a module that traced code reaches, whose attributes are handed out on first use."""

from __future__ import annotations

from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from nufunc.ir.errors import MutationError
from nufunc.tracer.captures import Path
from nufunc.tracer.containers import LOST
from nufunc.tracer.unseen import is_dunder
from nufunc.tracer.usercode import is_own, is_user_class, is_user_code, is_user_module, user_location

if TYPE_CHECKING:
    from nufunc.tracer.view import Session


class ModuleView(ModuleType):
    """The stand-in of a module: attributes are handed out as stand-ins, on first use."""

    def __init__(self, session: Session, module: ModuleType, path: Path) -> None:
        super().__init__(module.__name__, module.__doc__)
        vars(self)["__nufunc_view__"] = (session, module, path)

    def __getattr__(self, name: str) -> Any:
        session, module, path = vars(self)["__nufunc_view__"]
        try:
            value = getattr(module, name)
        except AttributeError:
            session.captures.guard(path, "no attr", name)
            raise
        if is_dunder(name) or (is_own(module.__name__) and not _looked_into(module, value)):
            return value
        standin = vars(self)[name] = session.hand_out(value, path.attr(name))
        return standin

    def __setattr__(self, name: str, value: object) -> None:
        raise MutationError(
            f"attribute {name!r} of module {self.__name__!r} is assigned {LOST}", user_location()
        )

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __dir__(self) -> list[str]:
        return dir(vars(self)["__nufunc_view__"][1])


def _looked_into(module: ModuleType, value: object) -> bool:
    """Whether an attribute of one of nufunc's own modules is, or may hold, plain NumPy code to trace."""
    if isinstance(value, FunctionType):
        return is_user_code(value)
    if isinstance(value, type):
        return is_user_class(value)
    return isinstance(value, ModuleType) or is_user_module(module)

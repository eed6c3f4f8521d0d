"""User frames: the file:line of errors and of traced nodes (`usercode` decides which code is the user's)."""

from __future__ import annotations

from nufunc.tracer.usercode import user_location

__all__ = ["user_location"]

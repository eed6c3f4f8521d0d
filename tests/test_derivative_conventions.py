"""docs/derivatives.md says what derivatives are where a choice has to be made; here each row of its tables is run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.special

import nufunc as nf

PAGE = Path(__file__).parent.parent / "docs" / "derivatives.md"
NUMBERS: dict[str, Any] = {"inf": np.inf, "nan": np.nan, "np": np}


class Row(NamedTuple):
    expression: str
    point: Any
    derivative: Any
    jax: str
    torch: str


def _number(text: str) -> Any:
    value = np.asarray(eval(text, dict(NUMBERS)))
    return value.astype(float) if value.dtype.kind in "iu" else value


def rows() -> list[Row]:
    """The rows of all tables: expression, point, derivative, and what the two others say."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split(" | ")]
        if not line.startswith("| `") or len(cells) != 5:
            continue
        bare = [c.strip().strip("`") for c in cells]
        found.append(Row(bare[0], _number(bare[1]), _number(bare[2]), bare[3].rstrip("| "), bare[4].rstrip("| ")))
    return found


ROWS = rows()
IDS = [f"{row.expression} at {np.asarray(row.point).tolist()}" for row in ROWS]


def function(expression: str, namespace: Any, special: Any) -> Any:
    return eval(f"lambda x: np.sum({expression})", {"np": namespace, "special": special})


def assert_same(actual: Any, wanted: Any) -> None:
    wanted = np.broadcast_to(wanted, np.shape(actual))
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=1e-7, atol=1e-12)


def test_the_page_has_its_rows() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(lines) == len(ROWS) > 90


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_derivative(row: Row) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(nf.grad(function(row.expression, np, scipy.special))(row.point), row.derivative)


SMOOTH = [row for row in ROWS if np.isfinite(row.derivative).all() and row.point.dtype.kind == "f"]


@pytest.mark.parametrize("row", SMOOTH[::6], ids=repr)
def test_forward_mode_says_the_same(row: Row) -> None:
    assert_same(nf.jacfwd(function(row.expression, np, scipy.special))(row.point), row.derivative)


@pytest.mark.parametrize("row", [r for r in SMOOTH if "where" in r.expression][::3], ids=repr)
def test_second_derivatives_are_finite_too(row: Row) -> None:
    """The branch not taken does not come back one order higher."""
    assert np.isfinite(nf.hessian(function(row.expression, np, scipy.special))(row.point)).all()


def test_holomorphic_functions_have_their_complex_derivative() -> None:
    z = np.array(1 + 2j)
    assert_same(nf.grad(lambda z: z * z, holomorphic=True)(z), 2 + 4j)
    value, tangent = nf.jvp(lambda z: z * z, (z,), (np.array(1j),))
    assert_same([value, tangent], [-3 + 4j, 1j * (2 + 4j)])


def test_integer_arguments_are_refused() -> None:
    with pytest.raises(nf.NufuncError, match="int64"):
        nf.grad(lambda i: i * 2.0)(np.array(3))


def test_orders_have_no_derivative() -> None:
    with pytest.raises(nf.NufuncError, match="jv is not differentiable in its argument 0"):
        nf.grad(lambda v: scipy.special.jv(v, 2.0))(np.array(1.5))


def _others(text: str, own: Any) -> Any:
    return own if text == "=" else _number(text)


@pytest.mark.slow
@pytest.mark.parametrize("row", [r for r in ROWS if r.jax != "-"], ids=repr)
def test_jax_says_what_the_page_says_of_it(row: Row) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    text = re.sub(r"np\.(array|arange|ones|eye)\(", r"host.\1(", row.expression).replace("(int)", "('int64')")
    call = eval(f"lambda x: np.sum({text})", {"np": jax.numpy, "special": jax.scipy.special, "host": np})
    assert_same(jax.grad(call)(jax.numpy.asarray(row.point)), _others(row.jax, row.derivative))

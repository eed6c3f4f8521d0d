"""Passes from the command line: `python -m nufunc.passes PIPELINE FILE`, as a person calls it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nufunc.ir.text import parse_graph, print_graph
from nufunc.ir.verify import verify
from nufunc.passes.__main__ import PASSES, main

SQUARE = """graph @f(%x: f64[3]) stage=pure {
  %y: f64[3] = mul(%x, %x)
  return %y
}
"""
WRITES = """graph @f(%x: f64[3], %y: f64[3]) stage=traced {
  write(%x, %y)
  %z: f64[3] = sin(%x)
  return %z
}
"""


def passes(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "nufunc.passes", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


def test_a_pass_on_a_file(tmp_path: Path) -> None:
    file = tmp_path / "square.ir"
    file.write_text(SQUARE)
    done = passes("vmap{size=8}", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("graph @f.vmap(%0: f64[8,3]) stage=pure {\n  %1: f64[8,3] = mul(%0, %0)\n  return %1\n}\n")


def test_a_pipeline_on_standard_input() -> None:
    done = passes("functionalize; jvp{which=(true, false)} ; simplify", "-", stdin=WRITES)
    assert (done.returncode, done.stderr) == (0, "")
    graph = verify(parse_graph(done.stdout))
    assert [str(p.type) for p in graph.params] == ["f64[3]"] * 3


def test_the_list_names_every_pass() -> None:
    done = passes("--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(PASSES)


# -- the rest without a new process


def run(capsys: pytest.CaptureFixture, tmp_path: Path, pipeline: str, text: str = SQUARE) -> tuple[int, str, str]:
    file = tmp_path / "graph.ir"
    file.write_text(text)
    status = main([pipeline, str(file)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


ERRORS = [
    ("fly", SQUARE, "error: unknown pass 'fly'; the passes are functionalize, simplify, jvp"),
    ("vmap", SQUARE, "error: pass vmap does not take these attributes: missing a required argument: 'size'"),
    ("vmap{count=3}", SQUARE, "error: pass vmap does not take these attributes:"),
    ("vmap{size=3", SQUARE, "error: line 1: expected '}', found 'the end of the text'"),
    ("vmap{size=3, in_dims=(5,)}", SQUARE, "error: in_dim 5 is outside"),
    ("simplify", "graph @f( {", "error: line 1: expected a value, found '{'"),
    ("simplify", SQUARE.replace("mul", "mull"), "error: @f: there is no primitive 'mull' (after pass reading)"),
    ("simplify", WRITES, "error: transforms work on pure graphs, but @f is traced: functionalize it first"),
    ("vmap{size=2}", WRITES, "error: transforms work on pure graphs, but @f is traced: functionalize it first"),
]


@pytest.mark.parametrize(("pipeline", "text", "message"), ERRORS, ids=range(len(ERRORS)))
def test_mistakes_are_reported_without_a_traceback(capsys, tmp_path, pipeline: str, text: str, message: str) -> None:
    status, out, err = run(capsys, tmp_path, pipeline, text)
    assert (status, out) == (1, "")
    assert err.startswith(message)


def test_a_missing_file(capsys) -> None:
    assert main(["simplify", "/no/such/file.ir"]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "pipeline",
    ["functionalize", "simplify", "jvp", "primal", "linearize", "vjp", "vmap{size=2}", "fuse",
     "linearize; transpose{residuals=1}",
     "vmap{size=2, in_dims=(none,), out_dims=(1,)}; vjp{which=(true,)}; simplify; fuse", "", " ; "],
)  # fmt: skip
def test_every_pass_runs_and_its_output_is_input_again(capsys, tmp_path, pipeline: str) -> None:
    status, out, err = run(capsys, tmp_path, pipeline)
    assert (status, err) == (0, "")
    assert print_graph(verify(parse_graph(out))) + "\n" == out

"""The report: what the page holds, and that a browser shows it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import nufunc as nf

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def layer(w, x):
    return np.tanh(x @ w)


def loss(w, x):
    return np.sum(np.sort(layer(w, x), axis=0) ** 2)  # </script> in a comment does no harm


W, X = np.linspace(-1, 1, 1200).reshape(40, 30), np.linspace(0, 1, 8000).reshape(200, 40)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page <1>.html"
    profile = nf.report(nf.grad(loss), W, X, path=path, seconds=0.02)
    return path, profile


def test_the_data_of_the_page(page):
    path, profile = page
    text = path.read_text(encoding="utf-8")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing is loaded
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1].replace("<\\/", "</"))
    assert [k["name"] for k in data["kernels"]] == [row.kernel.name for row in profile.rows]
    assert sum(k["seconds"] for k in data["kernels"]) <= data["clocked"]
    names = [stage["name"] for stage in data["stages"]]
    for name in ("traced", "transposed", "whole", "simplified", "grouped", "loops", "llvm", "asm"):
        assert name in names
    (file,) = data["files"]
    assert file["path"] == __file__
    shown = dict(file["lines"])
    first = loss.__code__.co_firstlineno
    assert shown[first + 1].endswith("# </script> in a comment does no harm")
    lines = {line for kernel in data["kernels"] for _, line in kernel["lines"]}
    assert lines <= {first + 1, layer.__code__.co_firstlineno + 1}
    memory = data["memory"]
    assert memory["blocks"]
    for one in memory["blocks"]:  # no two arrays that live at a time share memory, unless one is written over the other
        assert one["offset"] + one["size"] <= memory["size"]
        assert 0 <= one["first"] <= one["last"] <= memory["steps"]
    assert data["machine"]["bandwidth"] > 1e8
    assert data["machine"]["flops"] > 1e8


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it(page, tmp_path):
    path, profile = page
    text = path.read_text(encoding="utf-8")
    click = "<script>document.querySelector('#kernels tbody tr').click()</script></body>"
    copy = tmp_path / "clicked.html"
    copy.write_text(text.replace("</body>", click), encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", copy.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    rows = re.search(r"<tbody>(.*?)</tbody>", dom, re.DOTALL)[1]
    assert rows.count("<tr ") == len(profile.rows)
    assert rows.count("chosen") >= 1
    assert re.search(r'class="row chosen"[^>]*>.*?return np', dom, re.DOTALL)  # the user's line is marked
    assert re.search(r'class="text chosen"', dom)  # and so is the node
    assert dom.count("<circle") >= 1
    assert dom.count("<rect") >= 1
    assert dom.count("<option") >= 16

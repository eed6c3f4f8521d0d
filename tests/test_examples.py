"""Every example runs in a process of its own and prints the figures that it promises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

PROMISES = {
    "whirlwind_tour.py": r"vmap\(grad\) .*\(64, 5\)",
    "digits.py": r"accuracy on 360 unseen images: (9[5-9]|100)\.\d%",
    "rosenbrock.py": r"steps: [67] from the classical point",
    "lennard_jones.py": r"relaxed: -44\.32680\d to -44\.32680\d",
    "ensemble.py": r"accuracy of the vote on 360 unseen images: (6[5-9]|[7-9]\d|100)\.\d%",
    "per_sample_gradients.py": r"accuracy on 360 unseen images: (7[5-9]|[89]\d|100)\.\d%",
    "maml.py": r"five steps leave [1-8]?\d\.\d% of the error",
    "ntk.py": r"kernels of shape \(20, 5, 3, 3\) agree to \d\.\de-1\d",
    "transformer.py": r"loss on text never seen: 2\.[0-8]\d\d nats",
    "device.py": r"device and CPU differ by \d\.\de-1\d",
    "vae.py": r"lower bound of 360 unseen images: -2[456]\.\d\d nats",
}
# those with a --quick flag, and a picture
QUICK = {"ensemble.py", "per_sample_gradients.py", "maml.py", "ntk.py", "transformer.py", "vae.py"}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", PROMISES)
def test_example(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", EXAMPLES / name, *["--quick"] * (name in QUICK)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(PROMISES[name], done.stdout), done.stdout
    if name in {"digits.py", *QUICK}:
        assert (tmp_path / name).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    if name == "digits.py":
        assert len(re.findall(r"^  image ", done.stdout, re.MULTILINE)) == 10

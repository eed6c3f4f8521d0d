"""torch.compile (inductor) of the functions of run_torch. The interface is that of serve.py.

Loops in time are left out: unrolled they take minutes to compile, and `grad` does not pass through PyTorch's
own scan.
"""

import torch
from neighbours import run_torch

PACKAGES = ("torch",)
LOOPS = ("rk4_value", "rk4_grad", "heat_value", "heat_grad", "rnn")
SKIP = run_torch.SKIP | dict.fromkeys(LOOPS, "unrolled loop: minutes to compile")
NOTES: dict[str, str] = {}
FUNCTIONS = {kind: func for kind, func in run_torch.FUNCTIONS.items() if kind not in SKIP}


def over_numpy(kind, args):
    torch._dynamo.reset()
    return run_torch.converted(torch.compile(FUNCTIONS[kind], fullgraph=True, dynamic=False))


def on_device(kind, args):
    torch._dynamo.reset()
    return run_torch.placed(torch.compile(FUNCTIONS[kind], fullgraph=True, dynamic=False))


def warm_up():
    torch.compile(torch.func.grad(lambda x: torch.sqrt(x).sum()), fullgraph=True, dynamic=False)(torch.ones(7))

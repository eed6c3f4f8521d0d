"""Writes nn_vectors.npz, what torch computes for every row of nn_cases: to be run, with torch, after a new row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nn_cases import CASES, Case, arrays, call_of, cotangents, differentiated, digest, leaves, state_of


def torch_results(case: Case, mode: str) -> tuple[dict[str, Any], list[tuple[str, np.ndarray]]]:
    """What torch says of a layer (text, shapes of state), and its outputs, gradients and buffers in float64."""
    made = [torch.from_numpy(a).requires_grad_(d) for a, d in zip(arrays(case), differentiated(case), strict=True)]
    args, kwargs = call_of(case, made)
    about: dict[str, Any] = {}
    module = None
    if case.layer:
        module = getattr(torch.nn, case.name)(*case.args, **case.options)
        about = {"repr": repr(module), "state": {k: list(v.shape) for k, v in module.state_dict().items()}}
        module = module.double()
        state = state_of(case, {k: tuple(v) for k, v in about["state"].items()})
        module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
        getattr(module, mode)()
        result = module(*args, **kwargs)
    else:
        result = getattr(torch.nn.functional, case.name)(*args, **kwargs)
    outs = leaves(result)
    found = [(f"out{k}", y.detach().numpy()) for k, y in enumerate(outs)]
    if any(y.requires_grad for y in outs):
        weights = cotangents(case, [tuple(y.shape) for y in outs])
        sum((y * torch.from_numpy(w)).sum() for y, w in zip(outs, weights, strict=True)).backward()
        if module is not None:
            found += [(f"grad {k}", p.grad.numpy()) for k, p in module.named_parameters()]
        found += [(f"grad input{k}", x.grad.numpy()) for k, x in enumerate(made) if x.requires_grad]
    if module is not None and mode == "train":
        found += [(f"buffer {k}", b.numpy()) for k, b in module.named_buffers()]
    return about, found


def packed(about: dict[str, Any], found: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """A row as it is stored."""
    return {**about, "arrays": [[name, list(a.shape), digest(a)] for name, a in found]}


def main() -> None:
    rows = {f"{case.id} {mode}": packed(*torch_results(case, mode)) for case in CASES for mode in case.modes}
    assert len(rows) == sum(len(case.modes) for case in CASES), "two cases have one name"
    values = [x for row in rows.values() for a in row["arrays"] for x in a.pop()]
    text = json.dumps({"torch": torch.__version__, "rows": rows}, separators=(",", ":"))
    index = np.frombuffer(text.encode(), np.uint8)
    np.savez_compressed(Path(__file__).with_name("nn_vectors.npz"), index=index, values=np.array(values))


if __name__ == "__main__":
    main()

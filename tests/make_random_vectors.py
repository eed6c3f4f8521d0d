"""Writes tests/random_vectors.json: what jax.random gives, for machines on which JAX is not installed.

Run it with JAX 0.5 or later (keys are partitionable by default from there on). Floats are stored as hexadecimal text,
so that they are exact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from random_cases import CASES, SEEDS

PATH = Path(__file__).with_name("random_vectors.json")


def encoded(x: Any) -> dict[str, Any]:
    array = np.asarray(x)
    values = [v.hex() if array.dtype.kind == "f" else v for v in array.ravel().tolist()]
    return {"dtype": array.dtype.name, "shape": array.shape, "values": values}


def main() -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    assert jax.config.jax_threefry_partitionable
    rows = []
    for seed in SEEDS:
        for case in CASES:
            key = jax.random.key(seed)
            drawn = case.draw(jax.random, key)
            stored = jax.random.key_data(drawn) if case.keys else drawn
            rows.append({"seed": seed, "case": case.name, **encoded(stored)})
        rows.append({"seed": seed, "case": "key", **encoded(jax.random.key_data(jax.random.key(seed)))})
    text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    PATH.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()

"""Every layer and function of nf.nn against torch: outputs, gradients, buffers, text, state; under vmap against loops.

torch's numbers stand in nn_vectors.npz, made by make_nn_vectors.py; where torch is installed a slow test compares them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from nn_cases import CASES, Case, arrays, call_of, cotangents, differentiated, digest, leaves, state_of

import nufunc as nf


def stored():
    with np.load(Path(__file__).with_name("nn_vectors.npz")) as data:
        rows = json.loads(data["index"].tobytes())["rows"]
        values = iter(data["values"].tolist())
    for row in rows.values():
        for name_and_shape in row["arrays"]:
            size = int(np.prod(name_and_shape[1]))
            name_and_shape.append([next(values) for _ in range(2 + min(size, 4))])
    assert next(values, None) is None
    return rows


ROWS = stored()
MODES = [pytest.param(case, mode, id=f"{case.id}-{mode}") for case in CASES for mode in case.modes]
FIRST = list({case.name: case for case in reversed(CASES) if case.layer}.values())[::-1]


def made(case: Case, mode: str = "eval"):
    """The layer with the case's state, in float64."""
    module = getattr(nf.nn, case.name)(*case.args, **case.options)
    state = state_of(case, {k: np.shape(v) for k, v in module.state_dict().items()})
    module.double().load_state_dict(state)
    return getattr(module, mode)()


def compare(found, expected, what, rtol):
    assert [name for name, _ in found] == [name for name, _, _ in expected], what
    for (name, array), (_, shape, values) in zip(found, expected, strict=True):
        assert list(np.shape(array)) == shape, f"{what}: {name}"
        scale = max(1.0, float(np.max(np.abs(array), initial=0.0)))
        size = max(1.0, float(np.size(array))) ** 0.5
        where = f"{what}: {name}"
        np.testing.assert_allclose(digest(array), values, rtol=rtol, atol=1e-11 * scale * size, err_msg=where)


def results(case: Case, mode: str):
    """The arrays that torch's side stores, computed eagerly and compiled."""
    values, chosen = arrays(case), differentiated(case)
    module = made(case, mode) if case.layer else None
    function = getattr(nf.nn.functional, case.name) if module is None else None
    params = {} if module is None else dict(module.named_parameters())
    buffers = {} if module is None else {k: v.copy() for k, v in module.named_buffers()}

    def outputs(params, buffers, values):
        args, named = call_of(case, values)
        if function is not None:
            return leaves(function(*args, **named))
        return leaves(nf.functional_call(module, (params, buffers), args, named))

    args, named = call_of(case, values)
    eager = leaves(function(*args, **named) if module is None else module(*args, **named))
    float_outputs = any(np.asarray(y).dtype.kind == "f" for y in eager)
    weights = cotangents(case, [np.shape(y) for y in eager])

    if not float_outputs or not (params or any(chosen)):
        found = nf.jit(lambda values: outputs(params, buffers, values))(values)
        return eager, [(f"out{k}", y) for k, y in enumerate(found)]

    def loss(params, given, buffers):
        items = iter(given)
        found = outputs(params, buffers, [next(items) if d else v for v, d in zip(values, chosen, strict=True)])
        return sum((y * w).sum() for y, w in zip(found, weights, strict=True)), found

    given = [v for v, d in zip(values, chosen, strict=True) if d]
    argnums = (0, 1) if params and given else 0 if params else 1
    gradients, found = nf.grad(loss, argnums, has_aux=True)(params, given, buffers)
    by_params, by_inputs = gradients if params and given else (gradients, []) if params else ({}, gradients)
    listed = [(f"out{k}", y) for k, y in enumerate(found)]
    listed += [(f"grad {k}", by_params[k]) for k in params]
    where = [k for k, d in enumerate(chosen) if d]
    listed += [(f"grad input{k}", g) for k, g in zip(where, by_inputs, strict=True)]
    if module is not None and mode == "train":
        listed += [(f"buffer {k}", v) for k, v in buffers.items()]
        for name, b in module.named_buffers():  # the eager call updated the module's own
            np.testing.assert_allclose(b, buffers[name], rtol=1e-12)
    return eager, listed


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_values_and_gradients_are_torchs(case, mode):
    expected = ROWS[f"{case.id} {mode}"]
    eager, found = results(case, mode)
    compare(found, expected["arrays"], case.id, case.rtol)
    for k, y in enumerate(eager):
        np.testing.assert_allclose(y, found[k][1], rtol=1e-10, atol=1e-12 * max(1.0, float(np.max(np.abs(y)))))


@pytest.mark.parametrize("case", [case for case in CASES if case.layer], ids=lambda case: case.id)
def test_text_names_and_shapes_are_torchs(case):
    expected = ROWS[f"{case.id} {case.modes[0]}"]
    module = getattr(nf.nn, case.name)(*case.args, **case.options)
    assert repr(module) == expected["repr"]
    assert {k: list(v.shape) for k, v in module.state_dict().items()} == expected["state"]
    assert list(module.state_dict()) == list(expected["state"])
    assert all(p.dtype == np.float32 for p in module.parameters())
    args, named = call_of(case, [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays(case)])
    assert {y.dtype for y in leaves(module(*args, **named))} == {np.dtype(np.float32)}


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.name)
def test_vmap_over_stacked_state_is_a_loop(case):
    """Lanes with parameters, buffers and inputs of their own, buffers updated in place in each."""
    module = made(case, case.modes[0])
    rng = np.random.default_rng(5)
    stack = lambda a: np.stack([a, a * 0.5, a * 1.25]) if a.dtype.kind == "f" else np.stack([a, a, a])
    params = {k: stack(v) for k, v in module.named_parameters()}
    buffers = {k: stack(v) for k, v in module.named_buffers()}
    inputs = [stack(a) + (rng.normal(size=(3, *a.shape)) if a.dtype.kind == "f" else 0) for a in arrays(case)]

    def call(params, buffers, inputs):
        args, named = call_of(case, inputs)
        return leaves(nf.functional_call(module, (params, buffers), args, named))

    pick = lambda arrays, i: {k: v[i, ...].copy() for k, v in arrays.items()}
    lanes = [(pick(params, i), pick(buffers, i), [x[i] for x in inputs]) for i in range(3)]
    expected = [call(*lane) for lane in lanes]
    found = nf.vmap(call)(params, buffers, inputs)
    for k, y in enumerate(found):
        np.testing.assert_allclose(y, np.stack([one[k] for one in expected]), rtol=1e-9, atol=1e-11)
    for name, b in buffers.items():
        np.testing.assert_allclose(b, np.stack([lane[1][name] for lane in lanes]), rtol=1e-9)


def test_every_layer_is_in_the_table():
    layers = {
        name for name, value in vars(nf.nn).items()
        if isinstance(value, type) and issubclass(value, nf.nn.Module) and not name.endswith("Loss")
    }  # fmt: skip
    elsewhere = {
        "Module", "Sequential", "ModuleList", "ModuleDict", "TransformerEncoder", "AlphaDropout", "Dropout",
        "Dropout1d", "Dropout2d", "Dropout3d",
    }  # fmt: skip
    assert layers - elsewhere == {case.name for case in CASES if case.layer}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "mode"), MODES)
def test_the_stored_numbers_are_torchs_own(case, mode):
    pytest.importorskip("torch")
    from make_nn_vectors import torch_results

    about, found = torch_results(case, mode)
    row = ROWS[f"{case.id} {mode}"]
    assert about == {k: v for k, v in row.items() if k != "arrays"}
    compare(found, row["arrays"], case.id, case.rtol)

"""functional_call and its family with torch's checks, ensembles against loops, batch norm four ways, rearrange."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest

import nufunc as nf
from nufunc import nn

RNG = np.random.default_rng(3)
X = RNG.normal(size=(6, 3))


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.hidden = nn.Linear(3, width, dtype=np.float64)
        self.norm = nn.BatchNorm1d(width, dtype=np.float64)
        self.out = nn.Linear(width, 2, dtype=np.float64)

    def forward(self, x, scale=1.0):
        return self.out(np.tanh(self.norm(self.hidden(x)))) * scale


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def states(model):
    return dict(model.named_parameters()), {k: v.copy() for k, v in model.named_buffers()}


def close(found, expected, rtol=1e-9):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)


# -- functional_call


def test_values_take_the_place_of_the_models_own():
    model, other = Net().eval(), Net().eval()
    params, buffers = states(other)
    before = {k: v.copy() for k, v in model.state_dict().items()}
    close(nf.functional_call(model, (params, buffers), X), other(X))
    close(nf.functional_call(model, [{**params, **buffers}], (X,)), other(X))
    close(nf.functional_call(model, {**params, **buffers}, (X,), {"scale": 2.0}), 2 * other(X))
    close(nf.functional_call(model, {**params, **buffers}, kwargs={"x": X}), other(X))
    mixed = copy.deepcopy(model)
    mixed.hidden.weight[...] = params["hidden.weight"]
    close(nf.functional_call(model, {"hidden.weight": params["hidden.weight"]}, X), mixed(X))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_running_statistics_are_updated_in_the_given_arrays():
    model = Net()
    params, buffers = states(model)
    nf.functional_call(model, (params, buffers), X)
    h = X @ params["hidden.weight"].T + params["hidden.bias"]
    close(buffers["norm.running_mean"], 0.1 * h.mean(0))
    close(buffers["norm.running_var"], 0.9 + 0.1 * h.var(0, ddof=1))
    assert buffers["norm.num_batches_tracked"] == 1
    assert model.norm.num_batches_tracked == 0


def test_tied_names_share_a_value():
    model, w, x = Tied(), RNG.normal(size=(3, 3)), X
    close(nf.functional_call(model, {"a.weight": w}, x), x @ w.T @ w.T)
    close(nf.functional_call(model, {"b.weight": w}, x), x @ w.T @ w.T)
    close(nf.functional_call(model, {"a.weight": w, "b.weight": w}, x), x @ w.T @ w.T)
    own = model.a.weight
    close(nf.functional_call(model, {"a.weight": w}, x, tie_weights=False), x @ w.T @ own.T)
    close(nf.functional_call(model, {"a.weight": w, "b.weight": 2 * w}, x, tie_weights=False), 2 * x @ w.T @ w.T)
    assert nf.functional_call(model, {"a.weight": w}, x, strict=True).shape == (6, 3)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda m: nf.functional_call(m, ({"out.bias": np.ones(2)}, {"out.bias": np.ones(2)}), X), ValueError,
            r"\['out.bias'\] appeared in multiple dictionaries; behavior of functional call is ambiguous",
        ),
        (
            lambda m: nf.functional_call(m, 3, X), ValueError,
            "Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got int",
        ),
        (
            lambda m: nf.functional_call(m, ({}, 3), X), ValueError,
            "a list/tuple of dicts, but got tuple of dict, int",
        ),
        (
            lambda m: nf.functional_call(Tied(), {"a.weight": np.ones((3, 3)), "b.weight": np.zeros((3, 3))}, X),
            ValueError, r"got multiple values for keys \['a.weight', 'b.weight'\], which are tied. Consider using tie",
        ),
        (
            lambda m: nf.functional_call(m, {"extra": X, **dict(m.named_parameters())}, X, strict=True), ValueError,
            r"Error\(s\) in reparametrizing for Net:\n\tUnexpected key\(s\): 'extra'.\n\tMissing key\(s\): 'norm.num_b",
        ),
        (lambda m: nf.functional_call(len, {}, X), TypeError, "functional_call: expected an nf.nn.Module, got builtin"),
        (
            lambda m: nf.functional_call(m, {"hidden.bias": np.ones(5)}, X), ValueError,
            "could not be broadcast together",
        ),
        (lambda m: nf.stack_module_state([]), ValueError, "stack_module_state: Expected at least one model, got 0"),
        (lambda m: nf.stack_module_state([m, Net().eval()]), ValueError, "to have the same training/eval mode"),
        (lambda m: nf.stack_module_state([m, Tied()]), ValueError, "Expected all models to be of the same class"),
        (
            lambda m: nf.stack_module_state([m, Net().requires_grad_(False)]), ValueError,
            "Expected the parameters of all models to have the same requires_grad",
        ),
        (
            lambda m: nf.stack_module_state([m, Net(5)]), ValueError,
            r"all models must have 'hidden.weight' of one shape, got \[\(4, 3\), \(5, 3\)\]",
        ),
        (lambda m: nf.stack_module_state([3]), TypeError, "expected an nf.nn.Module, got int"),
        (lambda m: nf.combine_state_for_ensemble([]), ValueError, "Expected at least one model, got 0"),
        (lambda m: nf.combine_state_for_ensemble([m, Tied()]), ValueError, "to be of the same class"),
        (lambda m: nf.combine_state_for_ensemble([m, Net().eval()]), ValueError, "the same training/eval mode"),
        (
            lambda m: nf.make_functional(m), ValueError,
            r"`model` has buffers. Please use make_functional_with_buffers\(model\) instead",
        ),
        (lambda m: nf.make_functional(3), TypeError, "make_functional: expected an nf.nn.Module, got int"),
        (
            lambda m: nf.make_functional(Tied())[0]((), X), ValueError,
            "expected 1 arrays of state, as the model had, got 0",
        ),
        (lambda m: nf.replace_all_batch_norm_modules_(3), TypeError, "expected an nf.nn.Module, got int"),
    ],
)  # fmt: skip
def test_errors(call, kind, words):
    with pytest.raises(kind, match=words):
        call(Net())


def test_names_that_the_model_lacks_are_ignored_unless_strict():
    """As in torch."""
    model = Net().eval()
    close(nf.functional_call(model, {"missing": X}, X), model(X))


def test_errors_name_the_users_line_in_traced_code():
    model = Net()
    with pytest.raises(nf.ArgumentError, match="multiple dictionaries") as caught:
        nf.jit(lambda p, x: nf.functional_call(model, (p, p), x))(dict(model.named_parameters()), X)
    assert "test_modules.py" in str(caught.value)


# -- ensembles


def test_ensembles_train_as_a_loop_over_models():
    models = [Net() for _ in range(3)]
    y = RNG.normal(size=(6, 2))
    params, buffers = nf.stack_module_state(models)
    assert params["hidden.weight"].shape == (3, 4, 3)
    assert buffers["norm.num_batches_tracked"].shape == (3,)
    base = models[0]

    def step(params, buffers, x):
        loss = lambda p: nn.functional.mse_loss(nf.functional_call(base, (p, buffers), x), y)
        value, grads = nf.value_and_grad(loss)(params)
        return nf.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    many = nf.vmap(step, in_dims=(0, 0, None))
    alone = [states(model) for model in models]
    for _ in range(3):
        params, values = many(params, buffers, X)
        expected = []
        for k, (p, b) in enumerate(alone):
            p, value = step(p, b, X)
            alone[k] = (p, b)
            expected.append(value)
        close(values, expected)
    for k, (p, b) in enumerate(alone):
        for name in p:
            close(params[name][k], p[name], 1e-7)
        for name in b:
            close(buffers[name][k], b[name], 1e-7)
    assert not models[0].norm.num_batches_tracked


def test_per_sample_gradients_are_those_of_single_samples():
    model = nn.Sequential(nn.Linear(3, 4, dtype=np.float64), nn.Tanh(), nn.Linear(4, 2, dtype=np.float64))
    params, labels = dict(model.named_parameters()), np.array([0, 1, 1, 0, 1, 0])

    def loss(params, x, label):
        return nn.functional.cross_entropy(nf.functional_call(model, params, x), label)

    found = nf.vmap(nf.grad(loss), in_dims=(None, 0, 0))(params, X, labels)
    whole = nf.grad(lambda p: nn.functional.cross_entropy(nf.functional_call(model, p, X), labels, reduction="sum"))
    total = whole(params)
    for name, g in found.items():
        assert g.shape == (6, *params[name].shape)
        close(g.sum(0), total[name])
        close(g[2], nf.grad(loss)(params, X[2], labels[2])[name])


# -- the legacy family


def test_make_functional():
    model = Tied()
    f, params = nf.make_functional(model)
    assert [p.shape for p in params] == [(3, 3)]
    w = RNG.normal(size=(3, 3))
    close(f((w,), X), X @ w.T @ w.T)
    (gradient,) = nf.grad(lambda p, x: f(p, x).sum())((w,), X)
    assert gradient.shape == (3, 3)
    model.a.weight[...] = 0  # f has a copy
    close(f((w,), X), X @ w.T @ w.T)
    close(nf.jit(f)((w,), X), X @ w.T @ w.T)


def test_make_functional_with_buffers():
    model = Net()
    f, params, buffers = nf.make_functional_with_buffers(model)
    assert len(params) == 6
    assert len(buffers) == 3
    expected = copy.deepcopy(model)(X)
    own = tuple(b.copy() for b in buffers)
    close(f(params, own, X), expected)
    assert own[2] == 1
    close(f(params, own, X, scale=2.0), 2 * expected)


def test_combine_state_for_ensemble():
    models = [Net().eval() for _ in range(3)]
    f, params, buffers = nf.combine_state_for_ensemble(models)
    found = nf.vmap(f, in_dims=(0, 0, None))(params, buffers, X)
    close(found, np.stack([model(X) for model in models]))


# -- batch norm under vmap, four ways: one example per lane, (2, 4, 5) each, in a batch of one


IMAGES = RNG.normal(size=(3, 2, 4, 5))


def build(norm):
    nn.init.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, dtype=np.float64), norm, nn.ReLU())


def per_example(model):
    """Gradients of each example's loss: (a list of trees, the same by vmap)."""
    params = dict(model.named_parameters())
    loss = lambda p, x: (nf.functional_call(model, p, x[None]) ** 2).sum()
    looped = [nf.grad(loss)(params, x) for x in IMAGES]
    return looped, nf.vmap(nf.grad(loss), in_dims=(None, 0))(params, IMAGES)


def check_per_example(model):
    looped, mapped = per_example(model)
    for name, g in mapped.items():
        close(g, np.stack([one[name] for one in looped]))
        assert name == "0.bias" or np.abs(g).max() > 1e-3


def test_batch_norm_as_it_is_cannot_be_mapped():
    model = build(nn.BatchNorm2d(4, dtype=np.float64))
    with pytest.raises(nf.MutationError, match="which all lanes share"):
        nf.vmap(lambda x: model(x[None]))(IMAGES)


def test_group_norm_instead():
    check_per_example(build(nn.GroupNorm(2, 4, dtype=np.float64)))


def test_batch_norm_without_running_statistics():
    check_per_example(build(nn.BatchNorm2d(4, track_running_stats=False, dtype=np.float64)))


def test_batch_norm_replaced():
    model = build(nn.BatchNorm2d(4, dtype=np.float64))
    assert nf.replace_all_batch_norm_modules_(model) is model
    norm = model[1]
    assert not norm.track_running_stats
    assert (norm.running_mean, norm.running_var, norm.num_batches_tracked) == (None, None, None)
    assert list(norm.state_dict()) == ["weight", "bias"]
    check_per_example(model)
    alone = nn.BatchNorm1d(3)
    assert nf.replace_all_batch_norm_modules_(alone) is alone
    assert dict(alone.named_buffers()) == {}
    other = nn.InstanceNorm1d(3, track_running_stats=True)
    nf.replace_all_batch_norm_modules_(nn.Sequential(other))
    assert other.track_running_stats  # torch's function, too, knows batch norm only


def test_batch_norm_in_eval_mode():
    model = build(nn.BatchNorm2d(4, dtype=np.float64)).eval()
    model[1].running_mean[...] = [0.1, 0.2, 0.3, 0.4]
    check_per_example(model)


# -- rearrange


A = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("pattern", "lengths", "expected"),
    [
        ("a b c -> c a b", {}, A.transpose(2, 0, 1)),
        ("a b c -> (a b) c", {}, A.reshape(6, 4)),
        ("a b c -> (b a) c", {}, A.transpose(1, 0, 2).reshape(6, 4)),
        ("a b c -> (c b a)", {}, A.transpose(2, 1, 0).reshape(24)),
        ("a b (c d) -> a b c d", {"c": 2}, A.reshape(2, 3, 2, 2)),
        ("a b (c d) -> (a c) (b d)", {"d": 2}, A.reshape(2, 3, 2, 2).transpose(0, 2, 1, 3).reshape(4, 6)),
        ("... c -> c ...", {}, np.moveaxis(A, -1, 0)),
        ("a ... -> ... a", {}, np.moveaxis(A, 0, -1)),
        ("a ... -> a (...)", {}, A.reshape(2, 12)),
        ("... -> (...)", {}, A.reshape(24)),
        ("a b c ... -> ... c b a", {}, A.transpose(2, 1, 0)),
        ("a b c -> a 1 b c 1", {}, A.reshape(2, 1, 3, 4, 1)),
        ("  a  b c->a   b  c ", {}, A),
        ("a b (c 1) -> a b c", {}, A),
        ("a_1 B2 c -> c B2 a_1", {}, A.transpose(2, 1, 0)),
    ],
)
def test_rearrange(pattern, lengths, expected):
    np.testing.assert_array_equal(nf.rearrange(A, pattern, **lengths), expected)
    np.testing.assert_array_equal(nf.jit(lambda x: nf.rearrange(x, pattern, **lengths))(A), expected)


def test_rearrange_in_transforms():
    close(nf.vmap(lambda x: nf.rearrange(x, "a b -> (b a)"))(A), A.transpose(0, 2, 1).reshape(2, 12))
    w = RNG.normal(size=(4, 6))
    close(nf.grad(lambda x: (nf.rearrange(x, "a b c -> c (a b)") * w).sum())(A), w.T.reshape(2, 3, 4))
    np.testing.assert_array_equal(nf.rearrange(A[:, :1], "a 1 c -> c a"), A[:, 0].T)


@pytest.mark.parametrize(
    ("pattern", "lengths", "words"),
    [
        ("a b c", {}, "must be 'left -> right'"),
        ("a b c -> a -> b", {}, "must be 'left -> right'"),
        ("a b -> b a", {}, "has 2 axes on the left, the array 3"),
        ("a b c -> a b", {}, "must have the same names, each once"),
        ("a b c -> a b c d", {}, "must have the same names"),
        ("a a c -> a c", {}, "must have the same names|axis of length"),
        ("a b c -> a b (c", {}, "parentheses .* do not pair up"),
        ("a b c -> a b c)", {}, "parentheses .* do not pair up"),
        ("a ((b) c) d -> a b c d", {}, "parentheses .* do not pair up"),
        ("a b (c d) -> a b c d", {}, r"give the length of all but one of \['c', 'd'\]"),
        ("a b (c d) -> a b c d", {"c": 3}, "an axis of length 4 cannot be c d with {'c': 3}"),
        ("a b (c d) -> a b c d", {"c": 2, "d": 3}, "an axis of length 4 cannot be c d"),
        ("a b c -> c b a", {"a": 5}, "an axis of length 2 cannot be a with {'a': 5}"),
        ("a b c -> c b a", {"e": 5}, r"\['e'\] are no axes of"),
        ("a b c -> c b a ...", {}, "'...' on the right alone"),
        ("a (b ...) -> a b ...", {}, "'...' on the left stands alone"),
        ("a ... ... -> a ...", {}, "'...' on the left stands alone|has .* axes on the left"),
        ("a b 1 -> a b", {}, "an axis of length 4 cannot be 1"),
        ("a b 4 -> a b", {}, "is no axis"),
        ("a b c! -> a b", {}, "is no axis"),
        (3, {}, "must be 'left -> right', got 3"),
    ],
)
def test_rearrange_errors(pattern, lengths, words):
    with pytest.raises(ValueError, match=words):
        nf.rearrange(A, pattern, **lengths)


# -- trees as vectors


def test_ravel():
    tree = {"w": np.arange(4.0).reshape(2, 2), "b": (np.float32([5]), np.array(7.0)), "n": None}
    vector, unravel = nf.tree.ravel(tree)
    np.testing.assert_array_equal(vector, [5, 7, 0, 1, 2, 3])
    assert vector.dtype == np.float64
    back = unravel(vector + 1)
    np.testing.assert_array_equal(back["w"], tree["w"] + 1)
    assert back["b"][0].dtype == np.float32
    assert back["b"][1].shape == ()
    assert back["n"] is None
    with pytest.raises(nf.ShapeError, match=r"a vector of 6 elements, got shape \(5,\)"):
        unravel(np.zeros(5))
    empty, unravel = nf.tree.ravel({})
    assert empty.shape == (0,)
    assert unravel(empty) == {}


def test_ravel_with_complex_and_in_traced_code():
    tree = {"c": np.array([1 + 2j]), "r": np.array([3.0])}
    vector, unravel = nf.tree.ravel(tree)
    assert vector.dtype == np.complex128
    back = unravel(vector)
    np.testing.assert_array_equal(back["c"], tree["c"])
    assert back["r"].dtype == np.float64
    np.testing.assert_array_equal(back["r"], tree["r"])
    tree = {"a": np.ones((2, 2)), "b": np.arange(3.0)}
    norm = nf.jit(lambda t: nf.tree.ravel(t)[0] @ nf.tree.ravel(t)[0])
    assert norm(tree) == 4 + 5
    vector, unravel = nf.tree.ravel(tree)
    gradient = nf.grad(lambda v: (unravel(v)["a"] * 3).sum() + (unravel(v)["b"] ** 2).sum())(vector)
    np.testing.assert_array_equal(gradient, [3, 3, 3, 3, 0, 2, 4])


def test_models_under_scipys_optimizers():
    from scipy.optimize import minimize

    nn.init.manual_seed(1)
    model = nn.Linear(3, 1, dtype=np.float64)
    target = X @ [1.0, -2.0, 0.5] + 3
    start, unravel = nf.tree.ravel(dict(model.named_parameters()))
    loss = nf.value_and_grad(lambda v: ((nf.functional_call(model, unravel(v), X)[:, 0] - target) ** 2).mean())
    best = minimize(loss, start, jac=True, method="BFGS")
    model.load_state_dict(unravel(best.x))
    close(model.weight[0], [1, -2, 0.5], 1e-4)
    close(model.bias, [3], 1e-4)


def test_the_page_runs_as_it_is_written(capsys):
    text = (Path(__file__).parent.parent / "docs" / "modules.md").read_text()
    blocks = re.findall(r"(<!-- needs torch -->\n)?```python\n(.*?)```", text, re.S)
    assert len(blocks) == 8
    source = "\n".join(code for needs_torch, code in blocks if not needs_torch)
    file = Path(__file__).with_name("page_modules.py")  # a name: functions of the page are the user's
    exec(compile(source, str(file), "exec"), {"__name__": "page_modules"})
    assert capsys.readouterr().out.split("\n")[:2] == ["(16, 8, 3)", "(5, 16, 2)"]


def test_weights_that_are_tied_after_compiling_are_noticed():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)

        def forward(self, x):
            return self.second(self.first(x))

    net, x = Two(), np.arange(3.0)
    given = {"first.weight": np.full((3, 3), 0.5)}
    compiled = nf.jit(lambda given, x: nf.functional_call(net, given, x))
    apart = compiled(given, x)
    np.testing.assert_allclose(apart, net.second(given["first.weight"] @ x), rtol=1e-6)
    net.second.weight = net.first.weight
    tied = compiled(given, x)
    np.testing.assert_allclose(tied, given["first.weight"] @ given["first.weight"] @ x)
    net.second.weight = net.first.weight.copy()
    np.testing.assert_allclose(compiled(given, x), net.second(given["first.weight"] @ x), rtol=1e-6)
    before = nf.cache_info().compiles
    compiled(given, x)
    net.second.weight = net.second.weight * 2
    compiled(given, x)
    assert nf.cache_info().compiles == before


def test_batch_norm_under_per_sample_vmap_names_the_way_out():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    params = dict(net.named_parameters())
    images = np.random.default_rng(0).random((5, 3, 6, 6), np.float32)
    loss = lambda params, x: nf.functional_call(net, params, x[None]).sum()
    with pytest.raises(nf.MutationError, match="replace_all_batch_norm_modules_"):
        nf.vmap(nf.grad(loss), in_dims=(None, 0))(params, images)

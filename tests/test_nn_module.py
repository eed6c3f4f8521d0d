"""Module: registration, names, state, trees, and what traced code sees of a model that is captured or passed."""

import copy
import pickle

import numpy as np
import pytest

import nufunc as nf
from nufunc import nn

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def compiles():
    return nf.cache_info().compiles


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(3, 4)
        self.act = nn.LeakyReLU(0.1)
        self.out = nn.Linear(4, 2, bias=False)
        self.register_buffer("shift", np.ones(2, np.float32))
        self.register_buffer("cache", np.zeros(2, np.float32), persistent=False)
        self.scale = 2.0

    def forward(self, x):
        return self.out(self.act(self.hidden(x))) * self.scale + self.shift


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(np.tanh(self.a(x)))


def by_hand(net, x):
    h = x @ net.hidden.weight.T + net.hidden.bias
    return np.where(h > 0, h, net.act.negative_slope * h) @ net.out.weight.T * net.scale + net.shift


def close(found, expected, rtol=1e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-6)


# -- registration and names


def test_what_is_assigned_is_registered_by_its_kind():
    net = Net()
    assert [k for k, _ in net.named_parameters()] == ["hidden.weight", "hidden.bias", "out.weight"]
    assert [k for k, _ in net.named_buffers()] == ["shift", "cache"]
    assert [k for k, _ in net.named_modules()] == ["", "hidden", "act", "out"]
    assert [k for k, _ in net.named_children()] == ["hidden", "act", "out"]
    assert list(net.children()) == [net.hidden, net.act, net.out]
    assert isinstance(net.hidden.weight, np.ndarray)
    assert [k for k, _ in net.named_parameters(recurse=False)] == []
    assert next(k for k, _ in net.named_parameters(prefix="m")) == "m.hidden.weight"
    assert sum(p.size for p in net.parameters()) == 3 * 4 + 4 + 4 * 2
    assert net.get_parameter("hidden.weight") is net.hidden.weight
    assert net.get_buffer("shift") is net.shift
    assert net.get_submodule("hidden") is net.hidden


def test_names_can_change_kind_and_be_deleted():
    net = Net()
    net.act = nn.Tanh()
    assert isinstance(net.act, nn.Tanh)
    del net.cache
    assert [k for k, _ in net.named_buffers()] == ["shift"]
    net.shift = nn.Parameter(np.ones(2))
    assert [k for k, _ in net.named_buffers()] == []
    assert "shift" in dict(net.named_parameters())
    net.shift = None
    assert "shift" not in dict(net.named_parameters())
    assert "shift" not in net.state_dict()


@pytest.mark.parametrize(
    ("mistake", "kind", "words"),
    [
        (lambda n: setattr(n.hidden, "weight", 3.0), TypeError, "cannot assign float as parameter 'weight' of Linear"),
        (lambda n: setattr(n, "shift", [1]), TypeError, "cannot assign list as buffer 'shift' of Net"),
        (lambda n: setattr(n, "act", 3), TypeError, "cannot assign int as child module 'act' of Net"),
        (lambda n: n.register_buffer("a.b", np.ones(2)), ValueError, r"have no '\.', got 'a.b'"),
        (lambda n: n.register_buffer("a", 3), TypeError, "'a' must be an array or None, got int"),
        (lambda n: n.register_parameter("a", np.ones(2)), TypeError, "'a' must be a Parameter or None, got ndarray"),
        (lambda n: n.add_module("a", np.ones(2)), TypeError, "'a' must be a Module or None, got ndarray"),
        (lambda n: n.get_submodule("hidden.x"), AttributeError, "Linear has no module 'x'"),
        (lambda n: n.get_parameter("hidden.x"), AttributeError, "Linear has no parameter 'x'"),
        (lambda n: n.to("cuda"), ValueError, "expected a dtype, got 'cuda'.*no devices"),
        (lambda n: n.to(np.int64), ValueError, "expected a floating-point or complex dtype, got int64"),
        (lambda n: n.missing, AttributeError, "no attribute 'missing'"),
        (lambda n: nn.Module()(X), NotImplementedError, "Module defines no forward"),
    ],
)  # fmt: skip
def test_mistakes_are_named(mistake, kind, words):
    with pytest.raises(kind, match=words):
        mistake(Net())


def test_parts_before_init_are_an_error():
    class Early(nn.Module):
        def __init__(self):
            self.w = nn.Parameter(np.ones(2))

    with pytest.raises(nf.ArgumentError, match=r"Early: call super\(\).__init__\(\) before"):
        Early()


def test_lists_and_dicts_of_modules():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
            self.heads = nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 2)})

        def forward(self, x, head):
            for layer in self.layers:
                x = np.tanh(layer(x))
            return self.heads[head](x)

    net = Blocks()
    names = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "heads.a.weight", "heads.a.bias"]
    assert list(net.state_dict())[:6] == names
    assert len(net.layers) == 2
    assert net.layers[-1] is net.layers[1]
    assert list(net.heads) == ["a", "b"]
    assert "b" in net.heads
    for head, width in (("a", 1), ("b", 2)):
        found = nf.jit(lambda x, head=head: net(x, head))(X)
        assert found.shape == (5, width)
        close(found, net(X, head))
    net.layers.append(nn.Linear(3, 3))
    close(nf.jit(lambda x: net(x, "a"))(X), net(X, "a"))
    net.layers[0] = nn.Identity()
    close(nf.jit(lambda x: net(x, "a"))(X), net(X, "a"))
    stack = nn.Sequential({"first": nn.Linear(3, 4), "second": nn.Tanh()})
    assert list(stack.state_dict()) == ["first.weight", "first.bias"]
    assert isinstance(stack[:1], nn.Sequential)
    assert stack[1] is stack.second
    with pytest.raises(TypeError, match="keys are strings, got int"):
        net.heads[3] = nn.Tanh()
    with pytest.raises(KeyError):
        net.heads["c"]


def test_text_is_torchs():
    net = nn.Sequential(
        nn.Linear(3, 4), nn.ModuleList([nn.Tanh(), nn.Tanh(), nn.ReLU()]), nn.ModuleDict({"a": nn.Dropout(0.1)})
    )
    assert repr(net) == "\n".join([
        "Sequential(",
        "  (0): Linear(in_features=3, out_features=4, bias=True)",
        "  (1): ModuleList(",
        "    (0-1): 2 x Tanh()",
        "    (2): ReLU()",
        "  )",
        "  (2): ModuleDict(",
        "    (a): Dropout(p=0.1, inplace=False)",
        "  )",
        ")",
    ])
    assert repr(nn.Sequential()) == "Sequential()"
    assert repr(nn.ModuleList()) == "ModuleList()"


# -- state


def test_state_dict_holds_the_arrays_themselves():
    net = Net()
    state = net.state_dict()
    assert list(state) == ["shift", "hidden.weight", "hidden.bias", "out.weight"]
    assert state["hidden.weight"] is net.hidden.weight
    other = Net()
    weight = other.hidden.weight
    missing, unexpected = other.load_state_dict({k: v.astype(np.float64) for k, v in state.items()})
    assert (missing, unexpected) == ([], [])
    assert other.hidden.weight is weight
    assert weight.dtype == np.float32
    close(other(X), net(X), 1e-7)


def test_loading_is_strict_and_changes_nothing_when_it_fails():
    net = Net()
    before = {k: v.copy() for k, v in net.state_dict().items()}
    state = {"hidden.weight": np.zeros((4, 3)), "hidden.bias": np.zeros(5), "shift": np.zeros(2), "extra": np.zeros(1)}
    with pytest.raises(nf.ArgumentError) as caught:
        net.load_state_dict(state)
    text = str(caught.value)
    assert text.startswith("Error(s) in loading state_dict for Net:")
    assert 'Missing key(s) in state_dict: "out.weight".' in text
    assert 'Unexpected key(s) in state_dict: "extra".' in text
    assert "size mismatch for hidden.bias: copying an array of shape (5,) from state_dict" in text
    with pytest.raises(nf.ArgumentError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    del state["hidden.bias"]
    assert net.load_state_dict(state, strict=False) == (["hidden.bias", "out.weight"], ["extra"])
    assert not net.hidden.weight.any()
    with pytest.raises(TypeError, match="expected a dict of arrays, got list"):
        net.load_state_dict([1])


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_files_keep_names_dtypes_and_shapes(tmp_path, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    state = {
        "a.weight": X.T, "file": np.arange(3), "count": np.array(3), "half": np.ones(2, np.float16), "flags": X > 0,
    }  # fmt: skip
    path = tmp_path / f"state.{ending}"
    nn.save(state, path)
    nn.save(state, path)
    found = nn.load(path)
    assert set(found) == set(state)
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
    net, other = Net(), Net()
    nn.save(net, str(path))
    other.load_state_dict(nn.load(str(path)))
    close(other(X), net(X), 1e-7)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_files_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(nf.ArgumentError, match=r"must end in .npz or .safetensors, got 'a.pt'"):
        nn.save(Net(), tmp_path / "a.pt")
    with pytest.raises(nf.ArgumentError, match="load: the name must end"):
        nn.load(tmp_path / "a.pt")
    with pytest.raises(TypeError, match="expected a module or a dict of arrays, got list"):
        nn.save([1], tmp_path / "a.npz")
    with pytest.raises(TypeError, match="'a' must be the name of an array of numbers"):
        nn.save({"a": object()}, tmp_path / "a.npz")
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(nf.UnsupportedError, match=r"need the package safetensors: pip install 'nufunc\[nn\]'"):
        nn.save(Net(), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_ties_count_once_and_stay():
    net = Tied()
    assert [k for k, _ in net.named_parameters()] == ["a.weight"]
    assert [k for k, _ in net.named_parameters(remove_duplicate=False)] == ["a.weight", "b.weight"]
    assert list(net.state_dict()) == ["a.weight", "b.weight"]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), copy.deepcopy(net).double()):
        assert other.a.weight is other.b.weight
        assert other.a.weight is not net.a.weight
    gradient = nf.grad(lambda p: nf.functional_call(net, p, X).sum())(dict(net.named_parameters()))
    w = net.a.weight.astype(np.float64)
    step = np.zeros_like(w)
    for i in range(3):
        for j in range(3):
            d = np.zeros_like(w)
            d[i, j] = 1e-6
            value = lambda w: (np.tanh(X.astype(np.float64) @ w.T) @ w.T).sum()
            step[i, j] = (value(w + d) - value(w - d)) / 2e-6
    close(gradient["a.weight"], step, 1e-4)


def test_freezing():
    net = Net()
    net.hidden.requires_grad_(False)
    assert [k for k, _ in net.named_parameters(trainable=True)] == ["out.weight"]
    assert [k for k, _ in net.named_parameters(trainable=False)] == ["hidden.weight", "hidden.bias"]
    assert copy.deepcopy(net).named_parameters(trainable=True).__next__()[0] == "out.weight"
    params = dict(net.named_parameters(trainable=True))
    gradient = nf.grad(lambda p: nf.functional_call(net, p, X).sum())(params)
    assert list(gradient) == ["out.weight"]
    net.requires_grad_(True)
    assert len(dict(net.named_parameters(trainable=True))) == 3


def test_modes_conversions_and_apply():
    net = Net()
    assert net.train(False) is net
    assert not any(m.training for m in net.modules())
    assert net.train() is net
    assert all(m.training for m in net.modules())
    seen = []
    assert net.apply(lambda m: seen.append(type(m).__name__)) is net
    assert seen == ["Linear", "LeakyReLU", "Linear", "Net"]
    assert net.to(np.float64) is net
    assert {a.dtype for a in (*net.parameters(), *net.buffers())} == {np.dtype(np.float64)}
    counted = nn.BatchNorm1d(2).double()
    assert counted.num_batches_tracked.dtype == np.int64


def test_copies_and_pickles_compute_the_same():
    net = Net().eval()
    for other in (copy.deepcopy(net), copy.copy(net), pickle.loads(pickle.dumps(net))):
        close(other(X), net(X), 1e-7)
        assert repr(other) == repr(net)
        assert not other.training
    deep = copy.deepcopy(net)
    deep.hidden.weight[...] = 0
    assert net.hidden.weight.any()


# -- modules are trees


def test_modules_are_trees():
    net = Net()
    leaves = nf.tree.leaves(net)
    assert {id(a) for a in leaves} == {id(a) for a in (*net.parameters(), *net.buffers())}
    doubled = nf.tree.map(lambda a: 2 * a, net)
    assert isinstance(doubled, Net)
    np.testing.assert_array_equal(doubled.hidden.bias, 2 * net.hidden.bias)
    assert nf.tree.structure(net) == nf.tree.structure(Net())
    frozen = Net().eval()
    assert nf.tree.structure(net) != nf.tree.structure(frozen)
    vector, unravel = nf.tree.ravel(net)
    close(unravel(vector)(X), net(X), 1e-7)


def test_gradients_and_steps_of_modules():
    net = Net()
    loss = lambda net, x: (net(x) ** 2).mean()
    gradient = nf.grad(loss)(net, X)
    assert isinstance(gradient, Net)
    step = 1e-2
    moved = copy.deepcopy(net).double()
    wide = X.astype(np.float64)
    moved.hidden.bias[1] += step
    up = (by_hand(moved, wide) ** 2).mean()
    moved.hidden.bias[1] -= 2 * step
    down = (by_hand(moved, wide) ** 2).mean()
    np.testing.assert_allclose(gradient.hidden.bias[1], (up - down) / (2 * step), rtol=1e-3)

    @nf.jit
    def train(net, x):
        return nf.tree.map(lambda p, g: p - np.float32(0.05) * g, net, nf.grad(loss)(net, x))

    before = compiles()
    trained = train(train(train(net, X), X), X)
    assert compiles() == before + 1
    assert isinstance(trained, Net)
    assert loss(trained, X) < loss(net, X)
    with pytest.raises(nf.DTypeError, match=r"num_batches_tracked.*is int64"):
        nf.grad(lambda m: m(X).sum())(nn.BatchNorm1d(3))


def test_stacked_modules_are_mapped():
    nets = [Net() for _ in range(3)]
    stacked = nf.tree.map(lambda *a: np.stack(a), *nets)
    found = nf.vmap(lambda net, x: net(x), in_dims=(0, None))(stacked, X)
    close(found, np.stack([by_hand(net, X) for net in nets]))


# -- captured and passed


def test_updates_are_seen_at_the_next_call():
    net = Net()
    captured, passed = nf.jit(lambda x: net(x)), nf.jit(lambda net, x: net(x))
    whole = nf.jit(net)
    calls = lambda: (captured(X), passed(net, X), whole(X))
    calls()
    before = compiles()
    changes = [
        lambda: net.hidden.weight.__imul__(2),
        lambda: setattr(net.out, "weight", np.ones((2, 4), np.float32)),
        lambda: setattr(net, "scale", 5.0),
        lambda: net.load_state_dict(Net().state_dict()),
    ]
    for change in changes[:2]:
        change()
        for found in calls():
            close(found, by_hand(net, X))
    net.scale = 5.0
    close(captured(X), by_hand(net, X))
    close(whole(X), by_hand(net, X))
    changes[3]()
    close(captured(X), by_hand(net, X))
    assert compiles() == before
    close(passed(net, X), by_hand(net, X))  # in an argument the number is part of the structure
    net.act.negative_slope = 0.7  # in __constants__
    close(captured(X), by_hand(net, X))
    assert compiles() == before + 2
    net.act.negative_slope = 0.1
    close(captured(X), by_hand(net, X))
    assert compiles() == before + 2


def test_modes_are_guarded():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    captured = nf.jit(lambda x: net(x))
    first = captured(X)
    close(first.mean(0), np.zeros(3))
    net.eval()
    close(captured(X), net(X))
    assert abs(captured(X).mean(0)).max() > 1e-3
    net.train()
    close(captured(X), first)


def running(count):
    """Running mean and variance after so many batches X."""
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(count):
        mean, var = 0.9 * mean + 0.1 * X.mean(0), 0.9 * var + 0.1 * X.var(0, ddof=1)
    return mean, var, count


def check_running(m, count):
    mean, var, batches = running(count)
    close(m.running_mean, mean)
    close(m.running_var, var)
    assert m.num_batches_tracked == batches


def test_buffers_updated_in_place_in_compiled_code():
    m = nn.BatchNorm1d(3)
    captured, passed = nf.jit(lambda x: m(x)), nf.jit(lambda m, x: m(x))
    captured(X)
    captured(X)
    check_running(m, 2)
    passed(m, X)
    check_running(m, 3)
    nf.grad(lambda x: (m(x) ** 3).sum())(X)
    check_running(m, 4)
    params, buffers = dict(m.named_parameters()), {k: v.copy() for k, v in nn.BatchNorm1d(3).named_buffers()}
    call = nf.jit(lambda p, b, x: nf.functional_call(m, (p, b), x))
    call(params, buffers, X)
    call(params, buffers, X)
    check_running(m, 4)
    mean, var, count = running(2)
    close(buffers["running_mean"], mean)
    close(buffers["running_var"], var)
    assert buffers["num_batches_tracked"] == count


def test_lanes_may_not_share_what_they_update():
    m = nn.BatchNorm1d(3)
    with pytest.raises(nf.MutationError, match="which all lanes share"):
        nf.vmap(lambda x: m(x))(np.stack([X, X]))
    assert m.num_batches_tracked == 0
    m.eval()
    close(nf.vmap(lambda x: m(x))(np.stack([X, X]))[1], m(X))


class Averages(nn.Module):
    """State by assignment, as models are often written."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", np.zeros(3))
        self.register_buffer("count", np.zeros((), np.int64))

    def forward(self, x):
        self.mean = 0.5 * self.mean + 0.5 * x
        self.count = self.count + 1
        return x - self.mean


def test_assigned_buffers_go_into_the_arrays_that_are_given():
    m, x = Averages(), np.ones(3)
    call = lambda b, x: nf.functional_call(m, b, x)
    buffers = {"mean": np.zeros(3), "count": np.array(0)}
    close(call(buffers, x), 0.5 * x)
    close(nf.jit(call)(buffers, x), 0.25 * x)
    close(buffers["mean"], 0.75 * x)
    assert buffers["count"] == 2
    lanes = {"mean": np.zeros((2, 3)), "count": np.zeros(2, np.int64)}
    nf.vmap(call)(lanes, np.stack([x, 2 * x]))
    close(lanes["mean"], [0.5 * x, x])
    np.testing.assert_array_equal(lanes["count"], [1, 1])
    assert m.count == 0
    with pytest.raises(nf.ArgumentError, match="buffer 'count' is updated, but is a NumPy scalar"):
        call({"count": np.int64(0)}, x)
    with pytest.raises(nf.MutationError, match="attribute 'mean' of a captured Averages"):
        nf.jit(lambda x: m(x))(x)
    with pytest.raises(nf.MutationError, match="changes a Averages that it got as an argument"):
        nf.jit(lambda m, x: m(x))(m, x)


def test_side_effects_of_forward_are_refused_where_they_would_be_lost():
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.seen = []

        def forward(self, x):
            y = self.layer(x)
            if self.training:
                self.seen.append(y)
            else:
                self.last = y
            return y

    m = Watched()
    m(X)
    assert len(m.seen) == 1
    with pytest.raises(nf.MutationError, match=r"captured list \(m.seen\) is changed \(append\)"):
        nf.jit(lambda x: m(x))(X)
    m.eval()
    with pytest.raises(nf.MutationError, match="attribute 'last' of a captured Watched"):
        nf.jit(lambda x: m(x))(X)
    params = dict(m.named_parameters())
    with pytest.raises(nf.MutationError, match="forward assigns 'last' of Watched, which would be lost"):
        nf.jit(lambda p, x: nf.functional_call(m, p, x))(params, X)
    y = nf.functional_call(m, params, X)
    np.testing.assert_array_equal(m.last, y)


def test_models_inside_other_objects():
    class Trainer:
        def __init__(self, model):
            self.model, self.others = model, [model, nn.Linear(3, 2)]

        def loss(self, x):
            return (self.model(x) ** 2).sum() + self.others[1](x).sum()

    trainer = Trainer(Net())
    call = nf.jit(trainer.loss)
    expected = lambda: (by_hand(trainer.model, X) ** 2).sum() + trainer.others[1](X).sum()
    close(call(X), expected())
    trainer.model.hidden.bias += 1
    trainer.others[1].bias += 1
    close(call(X), expected())
    close(nf.jit(lambda x: trainer.loss(x))(X), expected())


def test_modules_made_in_traced_functions():
    class Doubled(nn.Module):
        def __init__(self, w):
            super().__init__()
            self.w = nn.Parameter(w)

        def forward(self, x):
            return 2 * self.w * x

    gradient = nf.grad(lambda w, x: Doubled(w)(x).sum())(np.ones(3), np.arange(3.0))
    np.testing.assert_array_equal(gradient, 2 * np.arange(3.0))
    with pytest.raises(nf.NufuncError, match="cannot be looked up again"):
        nf.jit(lambda x: nn.Linear(3, 2)(x))(X)


def test_models_of_installed_packages_are_traced(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "vendor_model.py").write_text(
        "import numpy as np\nfrom nufunc import nn\n__nufunc_traceable__ = True\n"
        "class Vendor(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(3, 2)\n"
        "    def forward(self, x):\n        return np.tanh(self.layer(x))\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    model = __import__("vendor_model").Vendor()
    params = dict(model.named_parameters())
    close(nf.jit(lambda p, x: nf.functional_call(model, p, x))(params, X), model(X))
    call = nf.jit(lambda x: model(x))
    call(X)
    model.layer.bias += 1
    close(call(X), np.tanh(X @ model.layer.weight.T + model.layer.bias))


# -- initial values


@pytest.mark.parametrize(
    ("layer", "name", "bound"),
    [
        (lambda: nn.Linear(400, 50), "weight", 1 / 20),
        (lambda: nn.Linear(400, 500), "bias", 1 / 20),
        (lambda: nn.Conv2d(16, 64, 5), "weight", 1 / 20),
        (lambda: nn.Conv2d(16, 640, 5), "bias", 1 / 20),
        (lambda: nn.ConvTranspose2d(64, 16, 5), "weight", 1 / 20),
        (lambda: nn.Bilinear(100, 40, 5), "weight", 1 / 10),
        (lambda: nn.LSTM(30, 100), "weight_ih_l0", 1 / 10),
        (lambda: nn.GRUCell(30, 100), "weight_hh", 1 / 10),
        (lambda: nn.MultiheadAttention(120, 4), "in_proj_weight", (6 / 480) ** 0.5),
    ],
)
def test_initial_values_are_uniform_within_torchs_bounds(layer, name, bound):
    nn.init.manual_seed(0)
    values = layer().get_parameter(name)
    assert abs(values).max() <= bound
    assert abs(values).max() > 0.95 * bound
    np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.05)


def test_other_initial_values():
    nn.init.manual_seed(0)
    rows = nn.Embedding(100, 50, padding_idx=3).weight
    np.testing.assert_allclose(np.delete(rows, 3, 0).std(), 1, rtol=0.05)
    assert not rows[3].any()
    attention = nn.MultiheadAttention(8, 2)
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()
    norm = nn.BatchNorm2d(3)
    assert (norm.weight == 1).all()
    assert (norm.running_var == 1).all()
    assert not norm.bias.any()
    q = nn.init.orthogonal((20, 30))
    np.testing.assert_allclose(q @ q.T, np.eye(20), atol=1e-6)
    np.testing.assert_allclose(nn.init.kaiming_normal((200, 100), nonlinearity="relu").std(), 0.02**0.5, rtol=0.05)
    np.testing.assert_allclose(nn.init.xavier_normal((200, 100)).std(), (2 / 300) ** 0.5, rtol=0.05)


def test_the_default_dtype():
    assert nn.Linear(2, 2, dtype=np.float64).weight.dtype == np.float64
    nn.init.set_default_dtype(np.float64)
    try:
        assert nn.Linear(2, 2).weight.dtype == np.float64
    finally:
        nn.init.set_default_dtype(np.float32)
    assert nn.Linear(2, 2).weight.dtype == np.float32


# -- hooks


def test_forward_hooks_see_and_replace_arguments_and_results():
    layer, x = nf.nn.Linear(3, 2), np.arange(3.0, dtype=np.float32)
    plain, seen = layer(x), []
    before = layer.register_forward_pre_hook(lambda module, args: seen.append(("before", module, args)))
    after = layer.register_forward_hook(lambda module, args, result: seen.append(("after", module, result)))
    np.testing.assert_array_equal(layer(x), plain)
    assert [s[0] for s in seen] == ["before", "after"]
    assert seen[0][1] is layer
    assert seen[0][2][0] is x
    before.remove()
    after.remove()
    layer.register_forward_pre_hook(lambda module, args: 2 * args[0])
    np.testing.assert_allclose(layer(x), layer.forward(2 * x))
    with layer.register_forward_hook(lambda module, args, kwargs, result: -result, with_kwargs=True):
        layer.register_forward_hook(lambda module, args, result: result + 1, prepend=True)
        np.testing.assert_allclose(layer(x), -(layer.forward(2 * x) + 1))
    np.testing.assert_allclose(layer(x), layer.forward(2 * x) + 1)


def test_forward_hooks_are_traced():
    net = nf.nn.Sequential(nf.nn.Linear(3, 4), nf.nn.Tanh(), nf.nn.Linear(4, 2)).double().eval()
    x = np.arange(3.0)
    compiled = nf.jit(lambda x: net(x))
    plain = compiled(x)
    handle = net[0].register_forward_hook(lambda module, args, result: 2 * result)
    doubled = compiled(x)
    np.testing.assert_allclose(doubled, net(x), rtol=1e-12)
    assert not np.allclose(doubled, plain)
    params = dict(net.named_parameters())
    loss = lambda params: nf.functional_call(net, params, x).sum()
    step = 1e-6 * params["0.bias"]
    found = nf.grad(loss)(params)["0.bias"] @ step
    moved = loss({**params, "0.bias": params["0.bias"] + step}) - loss({**params, "0.bias": params["0.bias"] - step})
    np.testing.assert_allclose(found, moved / 2, rtol=1e-5)
    handle.remove()
    np.testing.assert_allclose(compiled(x), plain)


def test_there_are_no_backward_hooks():
    layer = nf.nn.Linear(3, 2)
    for register in (layer.register_full_backward_hook, layer.register_backward_hook):
        with pytest.raises(NotImplementedError, match="custom_vjp"):
            register(lambda *args: None)

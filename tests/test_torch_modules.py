"""functional_call and from_torch on torch.nn.Module: values, gradients, running statistics, and what is refused."""

import copy

import numpy as np
import pytest

import nufunc as nf

torch = pytest.importorskip("torch")
tnn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore")


class Block(tnn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1 = tnn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = tnn.BatchNorm2d(outer), tnn.BatchNorm2d(outer)
        self.conv2 = tnn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.short = None
        if stride != 1 or inner != outer:
            self.short = tnn.Sequential(tnn.Conv2d(inner, outer, 1, stride, bias=False), tnn.BatchNorm2d(outer))

    def forward(self, x):
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + (x if self.short is None else self.short(x)))


class ResNet(tnn.Module):
    """Of the shape of ResNet-18, narrower: a stem, stages of two blocks, a pool and a classifier."""

    def __init__(self, widths=(8, 16)):
        super().__init__()
        self.stem, self.norm = tnn.Conv2d(3, 8, 7, 2, 3, bias=False), tnn.BatchNorm2d(8)
        self.pool = tnn.MaxPool2d(3, 2, 1)
        sides = [8, *widths]
        blocks = [
            block for k, (a, b) in enumerate(zip(sides, widths, strict=False))
            for block in (Block(a, b, 1 if k == 0 else 2), Block(b, b, 1))
        ]  # fmt: skip
        self.blocks, self.mean = tnn.Sequential(*blocks), tnn.AdaptiveAvgPool2d(1)
        self.head = tnn.Linear(widths[-1], 10)

    def forward(self, x):
        y = self.blocks(self.pool(torch.relu(self.norm(self.stem(x)))))
        return self.head(torch.flatten(self.mean(y), 1))


class Tagger(tnn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = tnn.Embedding(20, 8), tnn.LSTM(8, 16, 2, batch_first=True)
        self.head = tnn.Linear(16, 5)

    def forward(self, tokens):
        y, _ = self.lstm(self.embed(tokens))
        return self.head(y[:, -1])


def perceptron():
    return tnn.Sequential(tnn.Linear(4, 8), tnn.Tanh(), tnn.Linear(8, 2), tnn.GELU()), torch.randn(3, 4)


def encoder():
    layer = tnn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
    return tnn.TransformerEncoder(layer, 2), torch.randn(2, 5, 16)


NETS = {
    "mlp": perceptron,
    "resnet": lambda: (ResNet(), torch.randn(2, 3, 32, 32)),
    "lstm": lambda: (Tagger(), torch.randint(0, 20, (2, 7))),
    "encoder": encoder,
}


def numpy_state(model):
    params = {k: v.detach().numpy().copy() for k, v in model.named_parameters()}
    return params, {k: v.numpy().copy() for k, v in model.named_buffers()}


def close(found, expected, rtol=1e-4, atol=1e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NETS)
def test_nets_agree_with_torch(name, mode):
    torch.manual_seed(0)
    model, x = NETS[name]()
    getattr(model, mode)()
    theirs = copy.deepcopy(model)
    params, buffers = numpy_state(model)
    expected = theirs(x)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    w, inputs = weights.numpy(), x.numpy()

    def loss(params, buffers):
        y = nf.functional_call(model, (params, buffers), inputs)
        return (y * w).sum(), y

    gradient, y = nf.grad(loss, has_aux=True)(params, buffers)
    close(y, expected.detach())
    for key, p in theirs.named_parameters():
        scale = float(p.grad.abs().max()) + 1e-6
        close(gradient[key] / scale, p.grad / scale, 1e-3, 2e-4)
    for key, b in theirs.named_buffers():
        close(buffers[key], b, 1e-5)
    for key, b in model.named_buffers():  # the module itself is untouched
        assert key.endswith("var") == bool((b == 1).all() and b.ndim)
    close(nf.functional_call(model, params, inputs), model(x).detach())


def test_modes_are_guarded():
    model = tnn.Sequential(tnn.Linear(3, 3), tnn.BatchNorm1d(3))
    x = torch.randn(5, 3)
    params, buffers = numpy_state(model)
    call = nf.jit(lambda p, x: nf.functional_call(model, (p, {k: v.copy() for k, v in buffers.items()}), x))
    first = call(params, x.numpy())
    close(first, copy.deepcopy(model)(x).detach())
    model.eval()
    close(call(params, x.numpy()), model(x).detach())
    assert np.abs(call(params, x.numpy()) - first).max() > 1e-3


def test_per_sample_gradients_of_a_torch_module():
    model = tnn.Sequential(tnn.Linear(3, 4), tnn.Tanh(), tnn.Linear(4, 2))
    x, labels = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    params, _ = numpy_state(model)
    one = lambda p, x, y: nf.nn.functional.cross_entropy(nf.functional_call(model, p, x), y)
    found = nf.vmap(nf.grad(one), in_dims=(None, 0, 0))(params, x.numpy(), labels.numpy())
    for k in range(5):
        model.zero_grad()
        tnn.functional.cross_entropy(model(x[k]), labels[k]).backward()
        for name, p in model.named_parameters():
            close(found[name][k], p.grad)


def test_from_torch_is_a_module_that_shares_memory():
    model = tnn.Sequential(tnn.Linear(3, 4), tnn.ReLU())
    ours = nf.nn.from_torch(model, np.zeros((5, 3), np.float32))
    assert list(ours.state_dict()) == list(model.state_dict())
    x = torch.randn(5, 3)
    with torch.no_grad():
        model[0].weight.mul_(2)
    close(ours(x.numpy()), model(x).detach())
    close(nf.jit(lambda x: ours(x))(x.numpy()), model(x).detach())
    assert "from torch's Sequential" in repr(ours)


def test_torchs_state_loads_as_it_is():
    theirs = tnn.Sequential(tnn.Conv2d(3, 4, 3), tnn.BatchNorm2d(4), tnn.Flatten(), tnn.LazyLinear(2))
    x = torch.randn(2, 3, 6, 6)
    theirs(x)
    ours = nf.nn.Sequential(nf.nn.Conv2d(3, 4, 3), nf.nn.BatchNorm2d(4), nf.nn.Flatten(), nf.nn.Linear(64, 2))
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    close(ours.eval()(x.numpy()), theirs.eval()(x).detach())


@pytest.mark.parametrize(
    ("forward", "x"),
    [
        (lambda m, x: (lambda y: (torch.relu_(y), y)[1])(x * 2), torch.randn(3, 4)),
        (lambda m, x: (lambda y: (tnn.functional.hardtanh_(y), y + y)[1])(x * 2), torch.randn(3, 4)),
        (lambda m, x: m.silu(m.leaky(x * 3)), torch.randn(3, 4)),
        (lambda m, x: x[:, :2].add_(1) * 0 + x[:, :2], torch.randn(3, 4)),
        (lambda m, x: x + torch.arange(4.0) + torch.arange(1, 5), torch.randn(3, 4)),
        (lambda m, x: x / torch.linalg.vector_norm(x, ord=3, dim=1, keepdim=True), torch.randn(3, 4)),
        (lambda m, x: tnn.functional.avg_pool2d(x, 2, padding=1, count_include_pad=False), torch.randn(1, 2, 4, 4)),
        (lambda m, x: m.embed(x), torch.tensor([[0, 2], [1, 2]])),
    ],
)
def test_single_operations(forward, x):
    class One(tnn.Module):
        def __init__(self):
            super().__init__()
            self.silu, self.leaky = tnn.SiLU(inplace=True), tnn.LeakyReLU(0.2, inplace=True)
            self.embed = tnn.Embedding(4, 3, padding_idx=2)

        def forward(self, x):
            return forward(self, x)

    model = One()
    params, _ = numpy_state(model)
    expected = model(x.clone())
    w = torch.randn_like(expected)
    weights, inputs = w.numpy(), x.numpy().copy()
    loss = lambda p: (nf.functional_call(model, p, inputs) * weights).sum()
    close(nf.jit(lambda p, x: nf.functional_call(model, p, x))(params, x.numpy().copy()), expected.detach())
    if expected.requires_grad:
        (expected * w).sum().backward()
        close(nf.grad(loss)(params)["embed.weight"], model.embed.weight.grad)


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda x: torch.linalg.vector_norm(x, ord=float("inf")), "vector norm of order inf"),
        (lambda x: tnn.functional.scaled_dot_product_attention(x, x, x, enable_gqa=True), "with enable_gqa"),
    ],
)
def test_options_that_are_not_supported_are_named(forward, words):
    class One(tnn.Module):
        def forward(self, x):
            return forward(x)

    with pytest.raises(nf.UnsupportedError, match=words):
        nf.functional_call(One(), {}, np.ones((1, 2, 4, 4), np.float32))


def test_operations_that_are_not_known_are_named():
    class Odd(tnn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(nf.UnsupportedError, match="bessel_j0"):
        nf.functional_call(Odd(), {}, np.ones(3, np.float32))


def test_other_mistakes():
    with pytest.raises(nf.ArgumentTypeError, match=r"from_torch: expected a torch.nn.Module, got int"):
        nf.nn.from_torch(3)
    model = tnn.Linear(3, 2)
    with pytest.raises(nf.ArgumentError, match="Missing key"):
        nf.functional_call(model, {"weight": np.ones((2, 3), np.float32)}, np.ones((1, 3), np.float32), strict=True)
    ours = nf.nn.from_torch(model, np.zeros((1, 3), np.float32))
    with pytest.raises(nf.ArgumentTypeError, match="exported for arguments of the structure"):
        ours(np.zeros((1, 3), np.float32), 2)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (tnn.ConvTranspose1d(2, 3, 3, stride=2), (1, 2, 8)),
        (tnn.ConvTranspose3d(2, 3, 3, stride=2, padding=1, output_padding=1), (1, 2, 4, 4, 4)),
        (tnn.Conv3d(2, 3, 3, padding="same"), (1, 2, 4, 4, 4)),
        (tnn.MaxPool1d(3, 2, 1), (1, 2, 8)),
        (tnn.MaxPool3d(2, ceil_mode=True), (1, 2, 5, 5, 5)),
        (tnn.AvgPool1d(3, 2, 1), (1, 2, 8)),
        (tnn.AvgPool2d(3, divisor_override=4), (1, 2, 8, 8)),
        (tnn.AvgPool3d(2), (1, 2, 4, 4, 4)),
        (tnn.AdaptiveAvgPool3d(2), (1, 2, 5, 4, 6)),
        (tnn.AdaptiveMaxPool1d(3), (1, 2, 8)),
        (tnn.AdaptiveMaxPool2d((3, 2)), (1, 2, 8, 7)),
        (tnn.AdaptiveMaxPool3d(2), (1, 2, 5, 4, 6)),
        (tnn.LPPool2d(2, 2), (1, 2, 8, 8)),
        (tnn.Upsample(scale_factor=2), (1, 2, 4, 5)),
        (tnn.Upsample(size=7, mode="linear"), (1, 2, 4)),
        (tnn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (1, 2, 4, 5)),
        (tnn.Upsample(size=(7, 3), mode="bicubic"), (1, 2, 4, 5)),
        (tnn.Upsample(size=(5, 3), mode="nearest-exact"), (1, 2, 4, 5)),
        (tnn.Upsample(scale_factor=2, mode="trilinear"), (1, 2, 3, 4, 3)),
    ],
    ids=str,
)
def test_layers_over_spatial_axes(layer, shape):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).requires_grad_()
    layer = copy.deepcopy(layer).double().eval()
    weights = {k: p.detach().numpy() for k, p in layer.named_parameters()}
    y = layer(x)
    (y**2).sum().backward()
    call = lambda x: (nf.functional_call(layer, weights, x) ** 2).sum()
    value, gradient = nf.value_and_grad(call)(x.detach().numpy())
    np.testing.assert_allclose(value, float((y**2).sum()), rtol=1e-10)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-9, atol=1e-10)

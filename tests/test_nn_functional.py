"""Losses as modules, dropout and its randomness under vmap, encoders, and what the functions of nf.nn refuse."""

import itertools

import numpy as np
import pytest

import nufunc as nf
from nufunc import nn

F = nn.functional
RNG = np.random.default_rng(1)
X = RNG.normal(size=(6, 4))
LABELS = np.array([0, 3, 1, 1, 2, 0])
ONES = np.ones(4000)


# -- losses


@pytest.mark.parametrize(
    ("module", "expected", "inputs"),
    [
        (nn.MSELoss("sum"), F.mse_loss, (X, X[::-1])),
        (nn.L1Loss(), F.l1_loss, (X, X[::-1])),
        (nn.HuberLoss(delta=0.4), F.huber_loss, (X, X[::-1])),
        (nn.SmoothL1Loss(beta=0.4), F.smooth_l1_loss, (X, X[::-1])),
        (nn.CrossEntropyLoss(np.arange(1.0, 5), 1, label_smoothing=0.3), F.cross_entropy, (X, LABELS)),
        (nn.NLLLoss(np.arange(1.0, 5), 1, "none"), F.nll_loss, (X, LABELS)),
        (nn.BCELoss(reduction="none"), F.binary_cross_entropy, (abs(X) / 5, abs(X[::-1]) / 5)),
        (nn.BCEWithLogitsLoss(pos_weight=np.arange(1.0, 5)), F.binary_cross_entropy_with_logits, (X, abs(X[::-1]) / 5)),
        (nn.KLDivLoss("batchmean", log_target=True), F.kl_div, (X, X[::-1])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_losses_as_modules_are_their_functions(module, expected, inputs):
    names = ("reduction", "delta", "beta", "ignore_index", "label_smoothing", "log_target")
    options = {k: getattr(module, k) for k in names if hasattr(module, k)}
    options |= {k: v for k, v in module.named_buffers() if v is not None}
    value = expected(*inputs, **options)
    np.testing.assert_allclose(module(*inputs), value)
    np.testing.assert_allclose(nf.jit(lambda *a: module(*a))(*inputs), value, rtol=1e-12)


def test_a_class_weight_is_state_without_parameters():
    loss = nn.CrossEntropyLoss(np.ones(4))
    assert list(loss.state_dict()) == ["weight"]
    assert list(loss.parameters()) == []
    assert repr(loss) == "CrossEntropyLoss()"


def test_extreme_logits_have_finite_losses_and_gradients():
    logits = np.array([[1e30, -1e30, 0.0], [-800.0, 800.0, 799.0]])
    labels = np.array([1, 2])
    value, gradient = nf.value_and_grad(lambda z: F.cross_entropy(z, labels))(logits)
    np.testing.assert_allclose(value, 1e30, rtol=1e-12)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0], [0.5, -0.5, 0])
    gradient = nf.grad(lambda z: F.binary_cross_entropy_with_logits(z, np.array([0.0, 1.0])))(np.array([800.0, -800.0]))
    np.testing.assert_allclose(gradient, [0.5, -0.5])


def test_second_derivatives_of_losses():
    p, t = np.array([0.2, 0.7]), np.array([1.0, 0.0])
    second = nf.hessian(lambda p: F.binary_cross_entropy(p, t, reduction="sum"))(p)
    np.testing.assert_allclose(second, np.diag([1 / 0.2**2, 1 / 0.3**2]))
    s = np.exp(X[0]) / np.exp(X[0]).sum()
    second = nf.hessian(lambda z: F.cross_entropy(z, np.array(2)))(X[0])
    np.testing.assert_allclose(second, np.diag(s) - np.outer(s, s), rtol=1e-9, atol=1e-12)


def test_every_label_ignored_is_nan_as_in_torch():
    with np.errstate(invalid="ignore"):
        assert np.isnan(F.cross_entropy(X, np.full(6, -100)))
    assert F.cross_entropy(X, np.full(6, -100), reduction="sum") == 0


# -- dropout


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_drops_and_scales(traced, p):
    layer = nn.Dropout(p)
    call = nf.jit(lambda x: layer(x)) if traced else layer
    y = call(ONES)
    assert abs((y == 0).mean() - p) < 0.04
    if p < 1:
        np.testing.assert_allclose(y[y != 0], 1 / (1 - p))
    if 0 < p < 1:
        assert (call(ONES) != y).any()
    layer.eval()
    np.testing.assert_array_equal(call(ONES), ONES)


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [(nn.Dropout1d(), (50, 4, 7), 1), (nn.Dropout2d(), (50, 4, 5, 6), 2), (nn.Dropout3d(), (50, 4, 2, 3, 4), 3)],
)
def test_channels_are_dropped_whole(layer, shape, axes):
    y = nf.jit(lambda x: layer(x))(np.ones(shape))
    flat = y.reshape(*shape[: len(shape) - axes], -1)
    assert (flat == flat[..., :1]).all()
    assert 0.3 < (flat[..., 0] == 0).mean() < 0.7


def test_gradients_see_the_numbers_of_the_same_call():
    layer = nn.Dropout(0.4)
    gradient, y = nf.grad(lambda x: (lambda y: (y.sum(), y))(layer(x)), has_aux=True)(ONES)
    np.testing.assert_allclose(gradient, y)


@pytest.mark.parametrize("traced", [False, True])
def test_alpha_dropout_keeps_mean_and_variance(traced):
    x = RNG.normal(size=40000)
    layer = nn.AlphaDropout(0.3)
    y = (nf.jit(lambda x: layer(x)) if traced else layer)(x)
    assert abs(y.mean()) < 0.03
    assert abs(y.var() - 1) < 0.05
    low = np.unique(np.round(y, 9))
    a = (0.7 * (1 + 0.3 * 1.7580993408473766**2)) ** -0.5
    assert np.round(-1.7580993408473766 * a * 0.7, 9) in low[:100000]
    assert nn.AlphaDropout(0.3).eval()(x) is x


def test_randomness_under_vmap():
    layer, batch = nn.Dropout(0.5), np.ones((8, 200))
    call = lambda x: layer(x)
    with pytest.raises(nf.RandomnessError):
        nf.vmap(call)(batch)
    same = nf.vmap(call, randomness="same")(batch)
    assert (same == same[0]).all()
    different = nf.vmap(call, randomness="different")(batch)
    assert all((different[k] != different[0]).any() for k in range(1, 8))
    layer.eval()
    np.testing.assert_array_equal(nf.vmap(call)(batch), batch)


def test_dropout_inside_models_trains():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    stack = nn.TransformerEncoder(layer, 2)
    lstm = nn.LSTM(8, 4, 2, dropout=0.5, batch_first=True)
    x = RNG.normal(size=(2, 5, 8)).astype(np.float32)
    for model in (lambda x: stack(x), lambda x: lstm(x)[0]):
        call = nf.jit(model)
        first = call(x)
        assert np.isfinite(first).all()
        assert (call(x) != first).any()
    stack.eval()
    np.testing.assert_array_equal(nf.jit(lambda x: stack(x))(x), nf.jit(lambda x: stack(x))(x))


# -- encoders


def test_an_encoder_is_its_layers_in_a_row():
    norm = nn.LayerNorm(8)
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, norm).eval()
    stack.layers[1].linear1.weight *= 2
    x = RNG.normal(size=(5, 3, 8)).astype(np.float32)
    mask = np.triu(np.ones((5, 5), bool), 1)
    expected = norm(stack.layers[1](stack.layers[0](x, mask), mask))
    np.testing.assert_allclose(nf.jit(lambda x, m: stack(x, m))(x, mask), expected, rtol=1e-4, atol=1e-5)
    names = list(stack.state_dict())
    assert names[0] == "layers.0.self_attn.in_proj_weight"
    assert names[-2:] == ["norm.weight", "norm.bias"]


def test_a_row_that_sees_nothing_is_nan_in_torch_and_here():
    q = RNG.normal(size=(3, 4))
    with np.errstate(invalid="ignore"):
        y = F.scaled_dot_product_attention(q, q, q, np.array([[True] * 3, [False] * 3, [True] * 3]))
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


# -- errors


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: F.mse_loss(X, X[0]), ValueError, r"must have one shape, got \(6, 4\) and \(4,\)"),
        (lambda: F.mse_loss(X, X, "median"), ValueError, "'mean', 'sum' or 'none', got 'median'"),
        (lambda: F.nll_loss(X, LABELS[:3]), ValueError, r"the target must have shape \(6,\), got \(3,\)"),
        (lambda: F.cross_entropy(X, LABELS[:3]), ValueError, r"the target must have shape \(6,\), got \(3,\)"),
        (lambda: F.dropout(X, 1.5), ValueError, "between 0 and 1, but got 1.5"),
        (lambda: nn.Dropout(-0.1), ValueError, "between 0 and 1, but got -0.1"),
        (lambda: F.pad(X, (1, 2, 3)), ValueError, "expected a pair for each"),
        (lambda: F.pad(X, (1, 2), mode="mirror"), ValueError, "mode must be constant, reflect"),
        (lambda: F.interpolate(X[None], size=3, scale_factor=2), ValueError, "give size or scale_factor"),
        (lambda: F.interpolate(np.ones((1, 1, 2)), 3, mode="bicubic"), ValueError, "takes 4 axes, got shape"),
        (lambda: F.interpolate(np.ones((1, 1, 2)), 3, mode="sinc"), ValueError, "mode 'sinc' is not supported"),
        (lambda: F.interpolate(np.ones((1, 1, 2)), 3, align_corners=True), ValueError, "takes no align_corners"),
        (lambda: F.max_pool2d(np.ones((1, 4, 4)), 2, padding=2), ValueError, "more than half of the kernel"),
        (lambda: F.conv1d(X, np.ones((2, 5, 3))), ValueError, "takes 5 channels, got 6"),
        (lambda: F.conv1d(X, np.ones((2, 6, 5))), ValueError, "larger than the padded input"),
        (lambda: F.conv2d(X, np.ones((2, 6, 5))), ValueError, "a weight of 4, got shapes"),
        (lambda: nn.Conv1d(6, 2, 3, stride=2, padding="same")(X), ValueError, "not supported for strided"),
        (lambda: nn.Conv1d(6, 2, 3, padding_mode="mirror"), ValueError, "'mirror' is not known"),
        (lambda: nn.Conv1d(6, 2, 3, groups=4), ValueError, "groups"),
        (lambda: nn.ConvTranspose1d(6, 2, 3, padding_mode="reflect"), ValueError, "padding_mode must be 'zeros'"),
        (lambda: nn.BatchNorm1d(4)(X[:1]), ValueError, "expected more than 1 value per channel when training"),
        (lambda: nn.BatchNorm1d(5)(X), ValueError, "expected 5 channels on axis 1"),
        (lambda: nn.BatchNorm2d(4)(X), ValueError, "BatchNorm2d: expected 4D input, got 2D"),
        (lambda: nn.InstanceNorm2d(4)(X), ValueError, "expected 3D or 4D input, got 2D"),
        (lambda: nn.LayerNorm(5)(X), ValueError, r"last axes are \(5,\), got \(6, 4\)"),
        (lambda: nn.GroupNorm(3, 4), ValueError, "4 channels are no 3 groups"),
        (lambda: nn.Embedding(4, 2, padding_idx=4), ValueError, "padding_idx 4 is outside the 4 rows"),
        (lambda: nn.LSTM(3, 2)(X), ValueError, r"expected \(L, N, 3\), or without N, got shape \(6, 4\)"),
        (lambda: nn.GRUCell(3, 2)(X), ValueError, r"expected input of 3 features, got shape \(6, 4\)"),
        (lambda: nn.RNN(3, 2, nonlinearity="sin"), ValueError, "'tanh' or 'relu', got 'sin'"),
        (lambda: nn.MultiheadAttention(5, 2), ValueError, "embed_dim 5 must be divisible by num_heads 2"),
        (lambda: nn.TransformerEncoderLayer(4, 2, activation="sin"), ValueError, "must be 'relu' or 'gelu'"),
        (lambda: nn.PixelShuffle(2)(np.ones((3, 2, 2))), ValueError, "3 channels are no multiple of 4"),
        (lambda: F.embedding(np.array([4]), X[:4]), IndexError, "out of bounds"),
        (lambda: nn.Linear(3, 2)(X), ValueError, "shape|dimension"),
    ],
)  # fmt: skip
def test_errors(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_labels_out_of_range_are_an_error_when_compiled():
    """As an index of NumPy would be."""
    with pytest.raises(IndexError):
        F.cross_entropy(X, np.full(6, 4))
    with pytest.raises(IndexError):
        nf.jit(lambda x, y: F.cross_entropy(x, y))(X, np.full(6, 4))


# -- ctc_loss


def collapsed(path, blank):
    """What an alignment says: repetitions as one, without blanks."""
    kept = [c for c, before in zip(path, (None, *path[:-1])) if c != before]
    return [c for c in kept if c != blank]


def enumerated_ctc(logits, target, length, blank):
    """-log of the probability of a target, over all alignments, and its gradient in the logits (T, C)."""
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total, counts = 0.0, np.zeros_like(logits)
    for path in itertools.product(range(logits.shape[1]), repeat=length):
        if collapsed(path, blank) == list(target):
            p = np.exp(sum(logs[t, c] for t, c in enumerate(path)))
            total += p
            for t, c in enumerate(path):
                counts[t, c] += p
    gradient = np.exp(logs) - counts / total
    gradient[length:] = 0
    return -np.log(total), gradient


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_loss_and_its_gradient_are_sums_over_alignments(blank):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(5, 3, 3))
    others = [c for c in range(3) if c != blank]
    targets = [[others[0], others[0]], [others[1]], []]
    padded = np.array([t + [blank] * (2 - len(t)) for t in targets])
    lengths, wanted = np.array([5, 3, 4]), np.array([2, 1, 0])

    def loss(logits, targets, reduction):
        logs = F.log_softmax(logits, -1)
        return F.ctc_loss(logs, targets, lengths, wanted, blank=blank, reduction=reduction)

    expected = [enumerated_ctc(logits[:, n], targets[n], lengths[n], blank) for n in range(3)]
    np.testing.assert_allclose(loss(logits, padded, "none"), [e[0] for e in expected], rtol=1e-12)
    gradient = nf.grad(loss)(logits, padded, "sum")
    np.testing.assert_allclose(gradient, np.stack([e[1] for e in expected], 1), rtol=1e-10, atol=1e-13)
    flat = np.array([c for t in targets for c in t])
    np.testing.assert_allclose(loss(logits, flat, "sum"), sum(e[0] for e in expected), rtol=1e-12)
    mean = np.mean([e[0] / max(len(t), 1) for e, t in zip(expected, targets)])
    np.testing.assert_allclose(loss(logits, padded, "mean"), mean, rtol=1e-12)
    one = F.ctc_loss(F.log_softmax(logits[:, 0], -1), padded[0], 5, 2, blank=blank, reduction="none")
    np.testing.assert_allclose(one, expected[0][0], rtol=1e-12)


def test_ctc_loss_of_a_target_that_is_too_long():
    logits = np.random.default_rng(0).normal(size=(2, 2, 3))
    targets, lengths, wanted = np.array([[1, 1], [1, 2]]), np.array([2, 2]), np.array([2, 2])

    def loss(logits, zero):
        logs = F.log_softmax(logits, -1)
        return F.ctc_loss(logs, targets, lengths, wanted, reduction="none", zero_infinity=zero)

    assert np.isinf(loss(logits, False)[0])
    assert loss(logits, True)[0] == 0
    gradient = nf.grad(lambda x: loss(x, True).sum())(logits)
    assert (gradient[:, 0] == 0).all()
    assert np.isfinite(gradient).all()
    assert (gradient[:, 1] != 0).any()


def test_ctc_loss_says_what_is_wrong():
    logs = np.zeros((4, 2, 3))
    with pytest.raises(ValueError, match="blank must be one of the 3 classes"):
        F.ctc_loss(logs, np.ones((2, 2), int), [4, 4], [1, 1], blank=3)
    with pytest.raises(ValueError, match="target_lengths must be 2 integers"):
        F.ctc_loss(logs, np.ones((2, 2), int), [4, 4], [1, 1, 1])


@pytest.mark.parametrize("call", [F.cross_entropy, nf.jit(F.cross_entropy)])
def test_cross_entropy_of_labels_that_are_floats(call):
    with pytest.raises(TypeError, match=r"the target must be classes, integers of shape \(6,\), got float64"):
        call(X, LABELS.astype(float))

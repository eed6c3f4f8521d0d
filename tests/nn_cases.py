"""Layers and functions of nf.nn that are compared with torch: one table, and what both sides need to run a row."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# -- arrays of a case, made by NumPy from the case's name


@dataclass(frozen=True)
class Normal:
    """Normal numbers, differentiated unless fixed."""

    shape: tuple[int, ...]
    scale: float = 1.0
    fixed: bool = False

    def make(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(rng.normal(size=self.shape) * self.scale)


@dataclass(frozen=True)
class Uniform:
    """Numbers between 0 and 1, differentiated unless fixed."""

    shape: tuple[int, ...]
    fixed: bool = False

    def make(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(rng.uniform(0.05, 0.95, size=self.shape))


@dataclass(frozen=True)
class Simplex:
    """Probabilities along axis 1."""

    shape: tuple[int, ...]
    fixed: bool = False

    def make(self, rng: np.random.Generator) -> np.ndarray:
        values = rng.uniform(0.1, 1, size=self.shape)
        return values / values.sum(1, keepdims=True)


@dataclass(frozen=True)
class Ints:
    """Integers from 0 to high - 1."""

    high: int
    shape: tuple[int, ...]
    fixed: bool = True

    def make(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(rng.integers(0, self.high, self.shape))


class Given:
    """An array that is written out."""

    def __init__(self, values: Any, fixed: bool = True) -> None:
        self.values, self.fixed = np.asarray(values), fixed

    def make(self, rng: np.random.Generator) -> np.ndarray:
        return self.values.copy()


def t(*shape: int, scale: float = 1.0) -> Normal:
    return Normal(shape, scale)


def c(*shape: int) -> Normal:
    return Normal(shape, fixed=True)


@dataclass(frozen=True)
class Case:
    """A layer made with args and options and called with inputs and named, or (no layer) a function called so."""

    name: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)  # named arguments of the call that are no arrays
    layer: bool = True
    modes: tuple[str, ...] = ("eval",)

    @property
    def rtol(self) -> float:
        """torch knows 1/6 of Hardsigmoid, and the smallest divisor of binary_cross_entropy, in float32 only."""
        return {"Hardsigmoid": 1e-7, "binary_cross_entropy": 1e-8}.get(self.name, 1e-9)

    @property
    def id(self) -> str:
        words = [*map(str, self.args), *(f"{k}={v}" for k, v in {**self.options, **self.plain}.items())]
        words += [*self.named, "x".join(str(list(s.shape)) for s in leaves(self.inputs) if hasattr(s, "shape"))]
        return f"{self.name}({', '.join(words)})".replace(" ", "")


def leaves(tree: Any) -> list[Any]:
    """What a nest of tuples, lists and dicts holds, in order, without None."""
    if tree is None:
        return []
    if isinstance(tree, tuple | list | dict):
        return [x for item in (tree.values() if isinstance(tree, dict) else tree) for x in leaves(item)]
    return [tree]


def refilled(tree: Any, items: Iterator[Any]) -> Any:
    """The nest with other leaves."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {k: refilled(v, items) for k, v in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)([refilled(item, items) for item in tree])
    return next(items)


def generator(case: Case, what: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{case.id} {what}".encode()))


def arrays(case: Case) -> list[np.ndarray]:
    """The arrays of (inputs, named)."""
    rng = generator(case, "inputs")
    return [spec.make(rng) for spec in leaves((case.inputs, case.named))]


def differentiated(case: Case) -> list[bool]:
    """Which of the arrays are."""
    return [not spec.fixed for spec in leaves((case.inputs, case.named))]


def call_of(case: Case, values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the call, with values for its arrays."""
    args, named = refilled((case.inputs, case.named), iter(values))
    return args, {**named, **case.plain}


def state_of(case: Case, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Values for a state dictionary."""
    rng = generator(case, "state")
    made = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            made[name] = np.array(3)
        elif name.endswith("running_var"):
            made[name] = rng.uniform(0.5, 2, shape)
        else:
            made[name] = rng.normal(size=shape) * 0.5
    return made


def cotangents(case: Case, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """The weights of the outputs in the sum whose gradient is compared."""
    rng = generator(case, "cotangents")
    return [np.asarray(rng.normal(size=shape)) for shape in shapes]


ENTRIES = 4


def digest(array: Any) -> list[float]:
    """Two random sums over an array, in which each element counts, and its first entries."""
    flat = np.asarray(array, np.float64).reshape(-1)
    rng = np.random.default_rng(flat.size)
    return [*(float(rng.normal(size=flat.size) @ flat) for _ in range(2)), *flat[:ENTRIES].tolist()]


# -- the table of layers

CASES: list[Case] = []
BOTH = ("train", "eval")


def layer(name: str, args: tuple[Any, ...], options: dict[str, Any], *inputs: Any, **named: Any) -> None:
    modes = named.pop("modes", BOTH if "BatchNorm" in name or "InstanceNorm" in name else ("eval",))
    plain = named.pop("plain", {})
    CASES.append(Case(name, args, options, inputs, named, plain, True, modes))


def function(name: str, *inputs: Any, plain: dict[str, Any] | None = None, **named: Any) -> None:
    CASES.append(Case(name, (), {}, inputs, named, plain or {}, False))


layer("Identity", (5,), {}, t(2, 3))
layer("Linear", (5, 3), {}, t(4, 5))
layer("Linear", (5, 3), {"bias": False}, t(5))
layer("Bilinear", (3, 4, 5), {}, t(6, 3), t(6, 4))
for _name in """ReLU ReLU6 Hardtanh LeakyReLU PReLU ELU SELU CELU GELU Sigmoid LogSigmoid Tanh SiLU Mish Softplus
Softsign Tanhshrink Hardshrink Softshrink Hardsigmoid Hardswish""".split():
    layer(_name, (), {}, t(3, 4, scale=3))
layer("GELU", ("tanh",), {}, t(3, 4, scale=3))
layer("Softplus", (), {"beta": 2.0, "threshold": 1.0}, t(3, 4, scale=3))
layer("PReLU", (4,), {}, t(3, 4, 2))
layer("Threshold", (0.1, 20), {}, t(3, 4))
for _name in "Softmax Softmin LogSoftmax GLU".split():
    layer(_name, (1,), {}, t(3, 4))

for _options in (
    {}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2}, {"bias": False},
    {"padding": 1, "padding_mode": "reflect"}, {"padding": 1, "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "replicate"}, {"padding": "same"},
):  # fmt: skip
    layer("Conv1d", (4, 6, 3), _options, t(2, 4, 9))
    layer("Conv2d", (4, 6, 3), _options, t(2, 4, 7, 6))
for _options in ({}, {"stride": 2, "padding": 1, "groups": 2}, {"dilation": 2, "bias": False}):
    layer("Conv3d", (4, 6, 2), _options, t(2, 4, 5, 4, 3))
layer("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0)}, t(4, 7, 6))
for _options in (
    {}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2},
    {"stride": 2, "output_padding": 1, "padding": 1}, {"padding": 3},
):  # fmt: skip
    layer("ConvTranspose1d", (4, 6, 3), _options, t(2, 4, 9))
    layer("ConvTranspose2d", (4, 6, 3), _options, t(2, 4, 6, 5))
for _options in ({}, {"stride": 2, "output_padding": 1, "padding": 1, "groups": 2}):
    layer("ConvTranspose3d", (4, 6, 2), _options, t(2, 4, 3, 4, 2))

for _options in ({}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}):
    layer("BatchNorm1d", (4,), _options, t(5, 4))
    layer("BatchNorm2d", (4,), _options, t(5, 4, 3, 2))
layer("BatchNorm1d", (4,), {}, t(5, 4, 3))
layer("BatchNorm3d", (4,), {"momentum": 0.3, "eps": 1e-3}, t(5, 4, 3, 2, 2))
for _options in ({}, {"affine": True}, {"affine": True, "track_running_stats": True}):
    layer("InstanceNorm1d", (4,), _options, t(5, 4, 3))
    layer("InstanceNorm2d", (4,), _options, t(4, 3, 2))
layer("InstanceNorm3d", (4,), {"affine": True}, t(5, 4, 3, 2, 2))
layer("LayerNorm", (4,), {}, t(3, 4))
layer("LayerNorm", ((3, 4),), {"bias": False}, t(2, 3, 4))
layer("LayerNorm", (4,), {"elementwise_affine": False}, t(3, 4))
layer("RMSNorm", (4,), {}, t(3, 4))
layer("RMSNorm", ((3, 4),), {"eps": 1e-3}, t(2, 3, 4))
layer("GroupNorm", (2, 4), {}, t(3, 4, 5))
layer("GroupNorm", (4, 4), {"affine": False}, t(3, 4))
layer("Embedding", (7, 3), {}, Ints(7, (2, 5)))
layer("Embedding", (7, 3), {"padding_idx": 2}, Ints(7, (2, 5)))

for _k in (1, 2, 3):
    _s = (9, 8, 7)[:_k] if _k < 3 else (5, 4, 6)
    for _options in ({}, {"stride": 1}, {"padding": 1, "ceil_mode": True, "stride": 2}):
        layer(f"MaxPool{_k}d", (3,), _options, t(2, 4, *_s))
        layer(f"AvgPool{_k}d", (3,), _options, t(2, 4, *_s))
    layer(f"AdaptiveAvgPool{_k}d", (3,), {}, t(2, 4, *_s))
    layer(f"AdaptiveMaxPool{_k}d", (3,), {}, t(2, 4, *_s))
    layer(f"AdaptiveAvgPool{_k}d", (1,), {}, t(4, *_s))
layer("AvgPool2d", (3,), {"padding": 1, "count_include_pad": False}, t(2, 4, 8, 7))
layer("AvgPool2d", (3,), {"ceil_mode": True}, t(2, 4, 8, 7))
layer("MaxPool2d", (3,), {"ceil_mode": True}, t(4, 8, 7))
layer("MaxPool2d", (3,), {"dilation": 2}, t(2, 4, 8, 7))
layer("MaxPool2d", ((3, 2),), {"stride": (2, 1), "padding": (1, 0)}, t(2, 4, 8, 7))
layer("AdaptiveAvgPool2d", ((3, None),), {}, t(2, 4, 8, 7))
layer("AvgPool2d", (3,), {"divisor_override": 4}, t(2, 4, 8, 7))
for _k in (1, 2, 3):
    layer(f"LPPool{_k}d", (2.0, 2), {}, Uniform((2, 3, *(7, 6, 5)[:_k])))
layer("LPPool2d", (3.0, 3), {"stride": 2, "ceil_mode": True}, Uniform((2, 3, 6, 6)))
_ties = Given(np.arange(64.0).reshape(1, 8, 8) * 5 % 7 // 3, fixed=False)  # of equal maxima the first one counts
layer("MaxPool2d", (3,), {"stride": 1, "padding": 1}, _ties)
layer("MaxPool2d", (6,), {"stride": 2}, _ties)
layer("AdaptiveMaxPool2d", ((3, 2),), {}, _ties)
layer("AdaptiveMaxPool2d", (1,), {}, _ties)

layer("Flatten", (), {}, t(2, 3, 4))
layer("Unflatten", (1, (2, 3)), {}, t(2, 6))
layer("PixelShuffle", (2,), {}, t(2, 8, 3, 4))
for _options in (
    {"scale_factor": 2}, {"size": (7, 3)}, {"scale_factor": 2, "mode": "bilinear"},
    {"size": (7, 9), "mode": "bilinear", "align_corners": True}, {"scale_factor": 1.7, "mode": "bilinear"},
    {"scale_factor": 1.5}, {"scale_factor": 0.6, "mode": "bilinear"}, {"scale_factor": (2.0, 0.5), "mode": "bilinear"},
):  # fmt: skip
    layer("Upsample", (), _options, t(2, 3, 4, 5))
for _options in (
    {"scale_factor": 2}, {"size": (7, 9), "align_corners": True}, {"scale_factor": 0.7},
    {"scale_factor": 1.7, "recompute_scale_factor": True},
):  # fmt: skip
    layer("Upsample", (), {"mode": "bicubic", **_options}, t(2, 3, 4, 5))
layer("Upsample", (), {"scale_factor": 2.5, "mode": "nearest-exact"}, t(2, 3, 4, 5))
layer("Upsample", (), {"size": (3, 7), "mode": "nearest-exact"}, t(2, 3, 4, 5))
layer("Upsample", (), {"size": (3, 7), "mode": "area"}, t(2, 3, 4, 5))
layer("Upsample", (), {"scale_factor": 2, "mode": "trilinear", "align_corners": True}, t(1, 2, 2, 3, 4))
layer("Upsample", (), {"size": 7, "mode": "linear"}, t(2, 3, 4))
layer("Upsample", (), {"size": (3, 4, 3), "mode": "trilinear"}, t(1, 2, 2, 3, 4))

for _name in "RNN GRU LSTM".split():
    _state = (t(2, 4), t(2, 4)) if _name == "LSTM" else t(2, 4)
    layer(f"{_name}Cell", (3, 4), {}, t(2, 3))
    layer(f"{_name}Cell", (3, 4), {"bias": False}, t(2, 3), _state)
    for _options in ({}, {"bidirectional": True, "batch_first": True}, {"num_layers": 2, "bidirectional": True}):
        layer(_name, (3, 4), _options, t(5, 2, 3))
    layer(_name, (3, 4), {"bias": False}, t(5, 3))
    _state = (t(2, 3, 4), t(2, 3, 4)) if _name == "LSTM" else t(2, 3, 4)
    layer(_name, (3, 4), {"num_layers": 2}, t(5, 3, 3), _state)
layer("RNN", (3, 4), {"nonlinearity": "relu"}, t(5, 2, 3))
layer("RNNCell", (3, 4), {"nonlinearity": "relu"}, t(2, 3))

_causal = np.triu(np.ones((5, 5), bool), 1)
_padding = np.array([[False] * 5, [False, False, False, True, True]])
layer("MultiheadAttention", (8, 2), {}, t(5, 2, 8), t(6, 2, 8), t(6, 2, 8))
layer("MultiheadAttention", (8, 2), {"batch_first": True, "bias": False}, t(2, 5, 8), t(2, 5, 8), t(2, 5, 8))
layer("MultiheadAttention", (8, 2), {"kdim": 3, "vdim": 4}, t(5, 2, 8), t(6, 2, 3), t(6, 2, 4))
layer("MultiheadAttention", (8, 2), {}, t(5, 8), t(6, 8), t(6, 8))
_self = (t(5, 2, 8), t(5, 2, 8), t(5, 2, 8))
layer("MultiheadAttention", (8, 2), {}, *_self, attn_mask=Given(_causal), key_padding_mask=Given(_padding))
layer("MultiheadAttention", (8, 2), {}, *_self, attn_mask=c(5, 5), plain={"average_attn_weights": False})
layer("MultiheadAttention", (8, 2), {}, *_self, attn_mask=c(4, 5, 5), plain={"need_weights": False})
layer(
    "MultiheadAttention", (8, 2), {}, *_self, attn_mask=Given(_causal), plain={"is_causal": True, "need_weights": False}
)
for _options in ({"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "add_zero_attn": True}):
    layer("MultiheadAttention", (8, 2), _options, *_self)
    layer(
        "MultiheadAttention", (8, 2), _options, *_self, attn_mask=c(5, 5), key_padding_mask=Given(_padding * -9.0),
        plain={"average_attn_weights": False},
    )  # fmt: skip
for _options in ({}, {"norm_first": True}, {"activation": "gelu", "batch_first": True}, {"bias": False}):
    layer("TransformerEncoderLayer", (8, 2, 16, 0.0), _options, t(5, 2, 8), modes=BOTH[:1])
layer(
    "TransformerEncoderLayer", (8, 2, 16, 0.0), {}, t(5, 2, 8),
    src_mask=Given(_causal), src_key_padding_mask=Given(_padding), modes=BOTH[:1],
)  # fmt: skip

# -- losses

for _reduction in ("mean", "sum", "none"):
    _plain = {"reduction": _reduction}
    for _name in "mse_loss l1_loss smooth_l1_loss huber_loss".split():
        function(_name, t(3, 4), t(3, 4), plain=_plain)
    function("smooth_l1_loss", t(3, 4), t(3, 4), plain={**_plain, "beta": 0.3})
    function("huber_loss", t(3, 4), t(3, 4), plain={**_plain, "delta": 0.3})
    for _extra in ({}, {"ignore_index": 1}):
        for _weight in ({}, {"weight": Uniform((4,), fixed=True)}):
            function("nll_loss", t(6, 4), Ints(4, (6,)), plain={**_plain, **_extra}, **_weight)
            function("cross_entropy", t(6, 4), Ints(4, (6,)), plain={**_plain, **_extra}, **_weight)
            _smooth = {**_plain, **_extra, "label_smoothing": 0.2}
            function("cross_entropy", t(2, 4, 3), Ints(4, (2, 3)), plain=_smooth, **_weight)
    for _weight in ({}, {"weight": Uniform((4,), fixed=True)}):
        _smooth = {**_plain, "label_smoothing": 0.2}
        function("cross_entropy", t(6, 4), Simplex((6, 4)), plain=_smooth, **_weight)
        function("cross_entropy", t(2, 4, 3), Simplex((2, 4, 3)), plain=_plain, **_weight)
    function("cross_entropy", t(4), Ints(4, ()), plain=_plain)
    function("binary_cross_entropy", Uniform((3, 4)), Uniform((3, 4), fixed=True), plain=_plain)
    function(
        "binary_cross_entropy", Uniform((3, 4)), Uniform((3, 4), fixed=True), plain=_plain, weight=Uniform((4,), True)
    )
    function("binary_cross_entropy_with_logits", t(3, 4), Uniform((3, 4), fixed=True), plain=_plain)
    function(
        "binary_cross_entropy_with_logits", t(3, 4), Uniform((3, 4), fixed=True), plain=_plain,
        weight=Uniform((4,), True), pos_weight=Uniform((4,), True),
    )  # fmt: skip
_logs = Given(np.log(Simplex((7, 5, 3)).make(np.random.default_rng(0))).swapaxes(1, 2))  # (T, N, C)
_targets, _short = Given([[1, 2, 2, 4], [3, 3, 0, 0], [1, 1, 1, 1]]), Given([7, 5, 4])
for _reduction in ("mean", "sum", "none"):
    _plain = {"reduction": _reduction, "zero_infinity": True}
    function("ctc_loss", _logs, _targets, _short, Given([4, 2, 4]), plain=_plain)
    function("ctc_loss", _logs, Given([0, 2, 2, 4, 3]), Given([7, 7, 7]), Given([3, 0, 2]),
             plain={"reduction": _reduction, "blank": 1})  # fmt: skip
function("ctc_loss", _logs, _targets, _short, Given([4, 2, 2]), plain={"reduction": "none"})
for _reduction in ("mean", "sum", "none", "batchmean"):
    function("kl_div", t(3, 4), Simplex((3, 4), fixed=True), plain={"reduction": _reduction})
    function("kl_div", t(3, 4), c(3, 4), plain={"reduction": _reduction, "log_target": True})
function("kl_div", t(2, 3), Given([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]), plain={"reduction": "sum"})
function("cross_entropy", t(6, 4, scale=1e4), Ints(4, (6,)))
function("cross_entropy", t(6, 4, scale=1e4), Ints(4, (6,)), plain={"label_smoothing": 0.1})
function("binary_cross_entropy_with_logits", t(3, 4, scale=1e4), Uniform((3, 4), fixed=True))
_ends = Given([0.0, 1.0, 0.0, 1.0, 0.0], fixed=False)
function("binary_cross_entropy", _ends, Given([0.0, 1.0, 1.0, 0.0, 0.5]), plain={"reduction": "none"})
function("cosine_similarity", t(3, 4), t(3, 4))
function("cosine_similarity", t(3, 4, 2), t(3, 4, 2), plain={"dim": -1})

# -- other functions

for _plain in ({"mode": "constant", "value": 2.5}, {"mode": "reflect"}, {"mode": "replicate"}, {"mode": "circular"}):
    function("pad", t(2, 3, 4, 5), plain={"pad": (1, 2, 2, 0), **_plain})
function("pad", t(2, 5), plain={"pad": (-1, 2)})
function("pad", t(3, 5), plain={"pad": (-1, -2, 1, 1)})
for _plain in (
    {"scale_factor": 2}, {"size": 3}, {"size": (5, 8), "mode": "bilinear"},
    {"size": (1, 3), "mode": "bilinear", "align_corners": True},
):  # fmt: skip
    function("interpolate", t(2, 3, 4, 5), plain=_plain)
function("interpolate", t(1, 2, 5), plain={"scale_factor": 2, "mode": "linear", "align_corners": True})
function("glu", t(3, 4), plain={"dim": 1})
function("glu", t(4, 3), plain={"dim": 0})
function("one_hot", Ints(4, (2, 3)), plain={"num_classes": 5})
function("softmax", t(2, 3, 4, scale=1e3), plain={"dim": 1})
function("log_softmax", t(2, 3, 4, scale=1e3), plain={"dim": 1})
function("logsigmoid", t(3, 4, scale=1e3))
function("softplus", t(3, 4, scale=1e3))
_qkv = (t(2, 3, 5, 4), t(2, 3, 6, 4), t(2, 3, 6, 7))
function("scaled_dot_product_attention", *_qkv)
function("scaled_dot_product_attention", *_qkv, plain={"is_causal": True})
function("scaled_dot_product_attention", *_qkv, plain={"scale": 0.3}, attn_mask=t(5, 6))
function("scaled_dot_product_attention", *_qkv, attn_mask=Given(np.arange(30).reshape(5, 6) % 4 > 0))
function("layer_norm", t(2, 3, 4), plain={"normalized_shape": (3, 4)})
function("rms_norm", t(2, 3, 4), plain={"normalized_shape": (4,), "eps": 1e-3}, weight=t(4))
function("group_norm", t(2, 4, 3), plain={"num_groups": 2}, weight=t(4), bias=t(4))
function("embedding", Ints(5, (2, 3)), t(5, 4))
function("conv2d", t(2, 4, 7, 6), t(6, 2, 3, 2), t(6), plain={"stride": (2, 1), "padding": (1, 0), "groups": 2})
function("conv1d", t(4, 9), t(6, 4, 3), plain={"padding": "same", "dilation": 2})
function("conv_transpose2d", t(2, 4, 5, 4), t(4, 3, 3, 2), t(6), plain={"stride": 2, "groups": 2})
function("max_pool2d", t(2, 3, 8, 7), plain={"kernel_size": 3, "stride": 2})
function("avg_pool2d", t(2, 3, 8, 7), plain={"kernel_size": (3, 2), "count_include_pad": False, "padding": 1})
function("pixel_shuffle", t(2, 8, 3, 4), plain={"upscale_factor": 2})

"""A variational autoencoder of the digits: eight numbers for an image, and new images from random numbers.

The encoder gives mean and variance of a normal distribution over eight latent numbers, the decoder makes an image
from a draw of it (Kingma and Welling 2014). The noise comes from `np.random.default_rng` inside the compiled step:
NumPy draws it anew at each call, and the gradient goes through the draw's mean and variance. The evidence lower bound
of 360 unseen images rises above -24.3 nats per image (-26.5 with --quick), the pixels being taken as probabilities of
ink. The mean image alone gives -27.0, and each image as its own prediction -13.7: no model of such pixels can do
better.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from tqdm import trange

import nufunc as nf

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend that needs no screen

LATENT, BATCH = 8, 64
noise = np.random.default_rng(2)


class VAE(nf.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nf.nn.Sequential(nf.nn.Linear(64, 128), nf.nn.SiLU(), nf.nn.Linear(128, 2 * LATENT))
        self.decoder = nf.nn.Sequential(nf.nn.Linear(LATENT, 128), nf.nn.SiLU(), nf.nn.Linear(128, 64))

    def forward(self, images):
        """(logits of the pixels, means, logarithms of the variances), for one draw of each image's latent numbers."""
        mean, log_variance = np.split(self.encoder(images), 2, axis=-1)
        drawn = mean + np.exp(log_variance / 2) * noise.standard_normal(mean.shape, np.float32)
        return self.decoder(drawn), mean, log_variance


nf.nn.init.manual_seed(0)
net = VAE()


def negative_bound(params, images):
    """Minus the evidence lower bound, nats per image: cross entropy of the pixels and divergence from the prior."""
    logits, mean, log_variance = nf.functional_call(net, params, images)
    pixels = nf.nn.functional.binary_cross_entropy_with_logits(logits, images, reduction="none").sum(axis=-1)
    divergence = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=-1)
    return (pixels + divergence).mean()


def make_step(optimizer):
    @nf.jit
    def step(params, state, images):
        value, gradient = nf.value_and_grad(negative_bound)(params, images)
        params, state = optimizer.update(gradient, state, params)
        return params, state, value

    return step


def ink(logits):
    return nf.nn.functional.sigmoid(logits)


def draw(path, history, images, rng, params):
    """The loss, images beside what comes back, and new images."""
    net.load_state_dict(params)
    logits, _, _ = net(images[:10])
    new = ink(net.decoder(rng.standard_normal((30, LATENT), np.float32)))
    figure = plt.figure(figsize=(10, 4), layout="constrained")
    grid = figure.add_gridspec(5, 16)
    curve = figure.add_subplot(grid[:, :6])
    curve.plot(history, linewidth=0.6)
    curve.set(xlabel="step", ylabel="minus the bound, nats per image")
    rows = [images[:10], ink(logits), *np.split(new, 3)]
    for r, (row, title) in enumerate(zip(rows, ["unseen", "back", "new", "", ""])):
        for c, picture in enumerate(row):
            axes = figure.add_subplot(grid[r, 6 + c])
            axes.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[], ylabel=title if c == 0 else "")
    figure.savefig(path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="the folder for vae.png")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args()
    steps = 400 if options.quick else 8_000

    rng = np.random.default_rng(0)
    pixels = (load_digits().data / 16).astype(np.float32)
    order = rng.permutation(len(pixels))
    unseen, seen = pixels[order[:360]], pixels[order[360:]]
    average = np.clip(seen.mean(axis=0), 1e-3, 1 - 1e-3)
    plain = float((unseen * np.log(average) + (1 - unseen) * np.log(1 - average)).sum(axis=1).mean())
    own = np.clip(unseen, 1e-7, 1 - 1e-7)
    best = float((unseen * np.log(own) + (1 - unseen) * np.log(1 - own)).sum(axis=1).mean())
    print(f"by the mean image alone: {plain:.2f} nats per image, by each image itself: {best:.2f}")

    params = dict(net.named_parameters())
    optimizer = nf.optim.adam(nf.optim.cosine(2e-3, steps))
    step = make_step(optimizer)
    state, history = optimizer.init(params), []
    with trange(steps, desc="training", unit="step") as progress:
        for k in progress:
            params, state, value = step(params, state, seen[rng.integers(len(seen), size=BATCH)])
            history.append(float(value))
            if k % 200 == 199:
                progress.set_postfix(loss=f"{np.mean(history[-200:]):.2f}")

    bound = -float(np.mean([nf.jit(negative_bound)(params, unseen) for _ in range(20)]))
    print(f"evidence lower bound of {len(unseen)} unseen images: {bound:.2f} nats per image")
    assert bound > (-26.5 if options.quick else -24.3), bound

    options.out.mkdir(parents=True, exist_ok=True)
    draw(options.out / "vae.png", history, unseen, rng, params)
    print(f"picture: {options.out / 'vae.png'}")


if __name__ == "__main__":
    main()

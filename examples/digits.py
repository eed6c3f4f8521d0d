"""Train a small network on real handwritten digits, then find the training images that pull it hardest.

The network, its loss and the optimiser are plain NumPy. `nf.value_and_grad` compiles the gradient of the
loss over a minibatch; `nf.vmap(nf.grad(...))` gives one gradient for each training image, whose length says
how strongly that image pulls the weights. The hardest pullers are the images a person would hesitate over,
too.
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from tqdm import trange

import nufunc as nf

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend that needs no screen

HIDDEN, CLASSES = 64, 10
BATCH, EPOCHS = 64, 40
LEARNING_RATE, MOMENTUM = 0.1, 0.9


def initial_parameters(rng: np.random.Generator, inputs: int) -> dict[str, np.ndarray]:
    return {
        "w1": rng.standard_normal((inputs, HIDDEN)) / np.sqrt(inputs),
        "b1": np.zeros(HIDDEN),
        "w2": rng.standard_normal((HIDDEN, CLASSES)) / np.sqrt(HIDDEN),
        "b2": np.zeros(CLASSES),
    }


def logits(params, images):
    hidden = np.tanh(images @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def loss(params, images, labels):
    """Mean cross entropy of a batch."""
    scores = logits(params, images)
    scores = scores - scores.max(axis=-1, keepdims=True)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return -log_probabilities[np.arange(len(labels)), labels].mean()


def image_loss(params, image, label):
    """Cross entropy of one image."""
    return loss(params, image[None], label[None])


def train(rng, params, images, labels) -> list[float]:
    """Gradient descent with momentum; changes params in place, returns the loss of each epoch."""
    loss_and_gradient = nf.value_and_grad(loss)
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    history = []
    with trange(EPOCHS, desc="training", unit="epoch") as epochs:
        for epoch in epochs:
            rate = 0.5 * LEARNING_RATE * (1 + np.cos(np.pi * epoch / EPOCHS))
            order = rng.permutation(len(images))
            losses = []
            for start in range(0, len(images) - BATCH + 1, BATCH):
                chosen = order[start : start + BATCH]
                value, gradient = loss_and_gradient(params, images[chosen], labels[chosen])
                for name in params:
                    velocity[name] *= MOMENTUM
                    velocity[name] -= rate * gradient[name]
                    params[name] += velocity[name]
                losses.append(float(value))
            history.append(float(np.mean(losses)))
            epochs.set_postfix(loss=f"{history[-1]:.4f}")
    return history


def pulls(params, images, labels) -> np.ndarray:
    """The length of each image's own gradient."""
    gradients = nf.vmap(nf.grad(image_loss), in_dims=(None, 0, 0))(params, images, labels)
    squares = sum((g.reshape(len(images), -1) ** 2).sum(axis=1) for g in gradients.values())
    return np.sqrt(squares)


def draw(path: Path, history, images, labels, predictions, strengths, hardest) -> None:
    figure = plt.figure(figsize=(10, 4.5), layout="constrained")
    grid = figure.add_gridspec(2, 8)
    curve = figure.add_subplot(grid[:, :3])
    curve.semilogy(history)
    curve.set(xlabel="epoch", ylabel="training loss")
    for place, index in enumerate(hardest):
        axes = figure.add_subplot(grid[place // 5, 3 + place % 5])
        axes.imshow(images[index].reshape(8, 8), cmap="gray_r")
        seen = f"a {labels[index]}, seen as {predictions[index]}"
        axes.set_title(f"{seen}\npull {strengths[index]:.2f}", fontsize=7)
        axes.set_axis_off()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="the folder for digits.png")
    out = parser.parse_args().out

    rng = np.random.default_rng(0)
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels / 16.0
    order = rng.permutation(len(pixels))
    held_out, used = order[:360], order[360:]
    images, targets = pixels[used], labels[used]

    params = initial_parameters(rng, pixels.shape[1])
    started = time.perf_counter()
    history = train(rng, params, images, targets)
    print(f"trained on {len(images)} images in {time.perf_counter() - started:.1f} s, loss {history[-1]:.4f}")

    accuracy = float(np.mean(logits(params, pixels[held_out]).argmax(axis=1) == labels[held_out]))
    print(f"accuracy on {len(held_out)} unseen images: {accuracy:.1%}")
    assert accuracy >= 0.95, accuracy
    assert history[-1] < 0.1 * history[0]

    strengths = pulls(params, images, targets)
    hardest = np.argsort(strengths)[::-1][:10]
    predictions = logits(params, images).argmax(axis=1)
    print("the training images that pull the model most:")
    for index in hardest:
        seen = f"a {targets[index]}, seen as {predictions[index]}"
        print(f"  image {used[index]:4d}: {seen}, pull {strengths[index]:.3f}")
    assert strengths.shape == (len(images),)
    assert strengths[hardest].min() > 5 * np.median(strengths)

    out.mkdir(parents=True, exist_ok=True)
    draw(out / "digits.png", history, images, targets, predictions, strengths, hardest)
    print(f"picture: {out / 'digits.png'}")


if __name__ == "__main__":
    main()

"""Train ten networks at once, each on its own resampling of the digits, and let them vote.

`nf.stack_module_state` stacks the parameters of ten MLPs, and `nf.vmap` of the training step of one network trains
all ten in one compiled call. The first network is then trained alone on the same batches and must end at the same
numbers. On 360 images that none has seen, the vote is right for at least 96 % (65 % with --quick), and no less often
than the average member.
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

MODELS, BATCH = 10, 64


class MLP(nf.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden1 = nf.nn.Linear(64, 64)
        self.hidden2 = nf.nn.Linear(64, 64)
        self.out = nf.nn.Linear(64, 10)

    def forward(self, x):
        x = np.tanh(self.hidden1(x))
        x = np.tanh(self.hidden2(x))
        return self.out(x)


net = MLP()  # the structure; parameters are passed in its place
optimizer = nf.optim.adam(2e-3)


def loss(params, images, labels):
    return nf.nn.functional.cross_entropy(nf.functional_call(net, params, images), labels)


def step(params, state, images, labels):
    """One step of one network."""
    value, gradient = nf.value_and_grad(loss)(params, images, labels)
    params, state = optimizer.update(gradient, state, params)
    return params, state, value


def train(step, params, state, batches, images, labels, title):
    """Run over the batches: arrays of image numbers. Gives the parameters and the loss of every step."""
    history = []
    with trange(len(batches), desc=title, unit="step") as steps:
        for k in steps:
            params, state, value = step(params, state, images[batches[k]], labels[batches[k]])
            history.append(value)
            if k % 20 == 0:
                steps.set_postfix(loss=f"{np.mean(value):.4f}")
    return params, np.array(history)


def draw(path, history, accuracies, vote):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.semilogy(history, linewidth=0.6)
    left.set(xlabel="step", ylabel="training loss", title=f"{MODELS} networks, one compiled step")
    right.bar(range(MODELS), 100 * accuracies)
    right.axhline(100 * vote, color="black", label=f"vote: {vote:.1%}")
    right.set(xlabel="network", ylabel="accuracy on unseen images, %", ylim=(100 * accuracies.min() - 2, 100))
    right.legend()
    figure.savefig(path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="the folder for ensemble.png")
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    options = parser.parse_args()
    steps = 30 if options.quick else 600

    rng = np.random.default_rng(0)
    nf.nn.init.manual_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    images, labels = (pixels / 16).astype(np.float32), digits
    order = rng.permutation(len(images))
    unseen, seen = order[:360], order[360:]

    models = [MLP() for _ in range(MODELS)]
    params, _ = nf.stack_module_state(models)
    # each network draws its batches from a resampling of the training images (bagging)
    bags = rng.choice(seen, (MODELS, len(seen)))
    batches = np.stack([rng.choice(bag, (steps, BATCH)) for bag in bags], axis=1)

    started = time.perf_counter()
    trained, history = train(
        nf.vmap(step), params, nf.vmap(optimizer.init)(params), batches, images, labels, "ten at once"
    )
    together = time.perf_counter() - started
    started = time.perf_counter()
    own = dict(models[0].named_parameters())
    first, alone = train(nf.jit(step), own, optimizer.init(own), batches[:, 0], images, labels, "one alone")
    single = time.perf_counter() - started
    print(f"ten together: {together:.1f} s, one alone: {single:.1f} s, compilations included")
    difference = max(np.abs(first[name] - trained[name][0]).max() for name in first)
    print(f"largest difference between the first of ten and the one alone: {difference:.1e}")
    assert difference < 1e-3
    assert np.abs(alone - history[:, 0]).max() < 1e-3

    def predict(params, images):
        return nf.nn.functional.softmax(nf.functional_call(net, params, images), -1)

    probabilities = nf.vmap(predict, in_dims=(0, None))(trained, images[unseen])
    accuracies = (probabilities.argmax(axis=-1) == labels[unseen]).mean(axis=1)
    vote = float((probabilities.mean(axis=0).argmax(axis=-1) == labels[unseen]).mean())
    print("each network:", " ".join(f"{accuracy:.1%}" for accuracy in accuracies))
    print(f"accuracy of the vote on {len(unseen)} unseen images: {vote:.1%}")
    print(f"mean of the networks: {accuracies.mean():.1%}")
    assert vote >= (0.65 if options.quick else 0.96), vote
    assert vote >= accuracies.mean()

    options.out.mkdir(parents=True, exist_ok=True)
    draw(options.out / "ensemble.png", history, accuracies, vote)
    print(f"picture: {options.out / 'ensemble.png'}")


if __name__ == "__main__":
    main()

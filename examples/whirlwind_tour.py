"""A tour of the transforms on plain NumPy code: each one with a result that can be checked by hand."""

import numpy as np

import nufunc as nf


def gradients() -> None:
    """The slope of a function, and the slope of its slope."""
    x = np.array(0.7)
    slope = nf.grad(np.sin)(x)
    curvature = nf.grad(nf.grad(np.sin))(x)
    assert np.allclose(slope, np.cos(x))
    assert np.allclose(curvature, -np.sin(x))
    print(f"grad          sin'(0.7) = {slope:.6f}, sin''(0.7) = {curvature:.6f}")


def batching(rng: np.random.Generator) -> None:
    """A model written for one example, run on a batch of them."""
    weights = rng.standard_normal(5)

    def model(features):
        return np.maximum(np.dot(features, weights), 0.0)

    examples = rng.standard_normal((64, 5))
    outputs = nf.vmap(model)(examples)
    assert outputs.shape == (64,)
    assert np.allclose(outputs, [model(example) for example in examples])
    print(f"vmap          a model of one example gave {outputs.shape[0]} outputs")


def per_sample_gradients(rng: np.random.Generator) -> None:
    """One gradient for each example of a batch, from a loss written for one example."""

    def loss(weights, example, target):
        prediction = np.maximum(np.dot(example, weights), 0.0)
        return (prediction - target) ** 2

    weights = rng.standard_normal(5)
    examples, targets = rng.standard_normal((64, 5)), rng.standard_normal(64)
    gradients = nf.vmap(nf.grad(loss), in_dims=(None, 0, 0))(weights, examples, targets)

    predictions = np.maximum(examples @ weights, 0.0)
    by_hand = (2 * (predictions - targets) * (predictions > 0))[:, None] * examples
    assert gradients.shape == (64, 5)
    assert np.allclose(gradients, by_hand)
    print(f"vmap(grad)    per-sample gradients of shape {gradients.shape}")


def products(rng: np.random.Generator) -> None:
    """Products of a cotangent or a tangent with the Jacobian, without building the Jacobian."""
    x = rng.standard_normal(5)
    output, pull_back = nf.vjp(np.sin, x)
    cotangent = np.ones(5)
    (from_output,) = pull_back(cotangent)
    assert np.allclose(output, np.sin(x))
    assert np.allclose(from_output, cotangent * np.cos(x))

    y = rng.standard_normal(5)
    product, tangent = nf.jvp(lambda x, y: x * y, (x, y), (np.ones(5), np.ones(5)))
    assert np.allclose(product, x * y)
    assert np.allclose(tangent, x + y)
    print("vjp and jvp   agree with the product rule")


def jacobians(rng: np.random.Generator) -> None:
    """Whole Jacobians, row by row or column by column, and a batch of them."""
    x = rng.standard_normal(5)
    expected = np.diag(np.cos(x))
    assert np.allclose(nf.jacrev(np.sin)(x), expected)
    assert np.allclose(nf.jacfwd(np.sin)(x), expected)

    batch = rng.standard_normal((64, 5))
    batched = nf.vmap(nf.jacrev(np.sin))(batch)
    assert batched.shape == (64, 5, 5)
    assert np.allclose(batched[3], np.diag(np.cos(batch[3])))
    print(f"jacrev        one Jacobian {expected.shape}, a batch of them {batched.shape}")


def hessians(rng: np.random.Generator) -> None:
    """Second derivatives in three ways that must agree."""

    def f(x):
        return np.sum(np.sin(x) * x**2)

    x = rng.standard_normal(5)
    expected = np.diag((2 - x**2) * np.sin(x) + 4 * x * np.cos(x))
    for name, second in (
        ("jacrev(jacrev)", nf.jacrev(nf.jacrev(f))),
        ("jacfwd(jacrev)", nf.jacfwd(nf.jacrev(f))),
        ("hessian", nf.hessian(f)),
    ):
        assert np.allclose(second(x), expected), name
    print(f"hessian       {expected.shape}, the same by jacrev(jacrev), jacfwd(jacrev) and hessian")


def main() -> None:
    rng = np.random.default_rng(0)
    gradients()
    batching(rng)
    per_sample_gradients(rng)
    products(rng)
    jacobians(rng)
    hessians(rng)


if __name__ == "__main__":
    main()

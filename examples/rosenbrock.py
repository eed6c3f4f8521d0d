"""Newton's method on Rosenbrock's valley, from a hundred starting points at once.

One step is written for one point. The decorator states what happens to it: vectorised over points, compiled.
"""

import numpy as np

import nufunc as nf


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


@nf.transform(nf.vmap(in_dims=0), target="cpu")
def newton_step(x):
    """The next point, and the length of the gradient at this one."""
    gradient = nf.grad(rosenbrock)(x)
    step = np.linalg.solve(nf.hessian(rosenbrock)(x), gradient)
    return x - step, np.sqrt(np.sum(gradient**2))


def main() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-2.0, 2.0, (100, 2))
    points[0] = -1.2, 1.0  # the classical starting point
    taken = np.zeros(len(points), dtype=int)
    for step in range(1, 51):
        points, slopes = newton_step(points)
        taken[slopes > 1e-8] = step
        if slopes.max() <= 1e-8:
            break
    distance = np.abs(points - 1.0).max()
    print(f"{len(points)} starting points reached (1, 1) within {distance:.1e}")
    median = np.median(taken)
    print(f"steps: {taken[0]} from the classical point, {median:.0f} at the median, {taken.max()} at most")
    assert distance < 1e-8
    assert taken[0] <= 7


if __name__ == "__main__":
    main()

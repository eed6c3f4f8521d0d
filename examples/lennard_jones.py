"""A cluster of thirteen atoms: energies, forces and stiffness from one formula of the energy.

Forces are minus the gradient of the energy; the Jacobian of the forces, for a batch of shaken clusters at
once, gives Newton steps that relax every one of them into the icosahedron, whose energy of -44.326801 well
depths is known as the lowest that thirteen atoms can have.
"""

import numpy as np

import nufunc as nf

LOWEST_ENERGY = -44.326801  # of 13 atoms, in units of the depth of the pair potential


def pair_energy(distance):
    """Lennard-Jones potential with depth 1 and diameter 1."""
    attraction = distance**-6
    return 4.0 * (attraction**2 - attraction)


def energy(positions):
    """The energy of atoms at positions of shape (atoms, 3)."""
    first, second = np.triu_indices(len(positions), 1)
    offsets = positions[first] - positions[second]
    return np.sum(pair_energy(np.sqrt(np.sum(offsets**2, axis=-1))))


def forces(positions):
    return -nf.grad(energy)(positions)


def icosahedron() -> np.ndarray:
    """A centre and twelve corners, at about the distance at which two atoms are at rest."""
    golden = (1.0 + np.sqrt(5.0)) / 2.0
    corners = [(0.0, a, b * golden) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]
    points = np.array([np.roll(corner, turn) for corner in corners for turn in range(3)])
    points *= 2.0 ** (1 / 6) / np.linalg.norm(points[0])
    return np.concatenate([np.zeros((1, 3)), points])


def relax(clusters: np.ndarray, steps: int = 60) -> np.ndarray:
    """Newton steps for every cluster, held back where the energy is not yet convex."""
    batch, atoms, _ = clusters.shape
    batched_forces = nf.vmap(forces)
    batched_jacobians = nf.vmap(nf.jacrev(forces))
    for _ in range(steps):
        stiffness = -batched_jacobians(clusters).reshape(batch, 3 * atoms, 3 * atoms)
        stiffness = (stiffness + stiffness.transpose(0, 2, 1)) / 2
        lowest = np.linalg.eigvalsh(stiffness)[:, 0]
        damping = np.maximum(0.0, -1.5 * lowest) + 1e-3
        held = stiffness + damping[:, None, None] * np.eye(3 * atoms)
        move = np.linalg.solve(held, batched_forces(clusters).reshape(batch, 3 * atoms, 1))
        move = move.reshape(clusters.shape)
        longest = np.abs(move).max(axis=(1, 2), keepdims=True)
        clusters = clusters + move * np.minimum(1.0, 0.1 / np.maximum(longest, 1e-12))
    return clusters


def main() -> None:
    rest = 2.0 ** (1 / 6)
    pair = np.array([[0.0, 0.0, 0.0], [rest, 0.0, 0.0]])
    print(f"two atoms at rest: energy {nf.jit(energy)(pair):.6f}, force {np.abs(forces(pair)).max():.1e}")
    assert np.allclose(nf.jit(energy)(pair), -1.0)
    assert np.allclose(forces(pair), 0.0, atol=1e-12)

    rng = np.random.default_rng(0)
    clusters = icosahedron() + 0.05 * rng.standard_normal((8, 13, 3))
    shaken = nf.vmap(energy)(clusters)
    pushes = nf.vmap(forces)(clusters)
    assert np.allclose(pushes.sum(axis=1), 0.0, atol=1e-8), "the forces on a free cluster add up to nothing"

    relaxed = relax(clusters)
    energies = nf.vmap(energy)(relaxed)
    print(f"eight shaken clusters: energies from {shaken.min():.2f} to {shaken.max():.2f}")
    print(f"relaxed: {energies.min():.6f} to {energies.max():.6f}, known lowest {LOWEST_ENERGY}")
    assert np.allclose(energies, LOWEST_ENERGY, atol=2e-6)

    stiffness = -nf.jacrev(forces)(relaxed[0]).reshape(39, 39)
    modes = np.linalg.eigvalsh((stiffness + stiffness.T) / 2)
    free = int(np.sum(np.abs(modes) < 1e-4))
    print(f"{free} free motions, {np.sum(modes > 1e-4)} vibrations, the stiffest {modes[-1]:.1f}")
    assert free == 6, "three shifts and three turns cost no energy"
    assert np.all(modes[6:] > 1.0)


if __name__ == "__main__":
    main()

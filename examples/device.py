"""Orbits around a mass, integrated on a CUDA device: every orbit is a thread, and arrays stay on the device.

The same plain NumPy function runs on the CPU and, given arrays of a device, there; so does its derivative. The loop of
Runge-Kutta steps runs inside one kernel. `nf.jvp` tells how each orbit's end moves with its starting speed, and the
energy that is lost on the way says how good the steps are. Without a device a simulated one of host memory is used,
with fewer orbits.
"""

import os

import numpy as np

import nufunc as nf

STEPS, DT = 100, 0.05


def motion(state):
    x, y, u, v = state
    pull = (x * x + y * y) ** -1.5
    return np.stack([u, v, -x * pull, -y * pull])


def step(state, _):
    k1 = motion(state)
    k2 = motion(state + DT / 2 * k1)
    k3 = motion(state + DT / 2 * k2)
    k4 = motion(state + DT * k3)
    return state + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None


def orbit(speed):
    """The state (x, y, u, v) after STEPS steps, from (1, 0) upwards at this speed."""
    zero = 0.0 * speed
    return nf.scan(step, np.stack([zero + 1.0, zero, zero, speed]), None, length=STEPS)[0]


def energy(state):
    x, y, u, v = state
    return (u * u + v * v) / 2 - (x * x + y * y) ** -0.5


def ends_and_slopes(speeds):
    """Of all orbits the ends, and how these move with the speed."""
    return nf.vmap(lambda s: nf.jvp(orbit, (s,), (1.0 + 0.0 * s,)))(speeds)


def main() -> None:
    if not nf.devices():
        os.environ["NUFUNC_CUDA_SIMULATOR"] = "1"
    device = nf.device("cuda:0")
    count = 32 if device.driver.simulated else 1_000_000
    speeds = np.linspace(0.7, 1.2, count)

    on_device = nf.to_device(speeds)
    ends, slopes = ends_and_slopes(on_device)
    losses = nf.vmap(lambda s, end: energy(end) - (s * s / 2 - 1))(on_device, ends)
    print(f"{count:,} orbits on {device}, which is {device.name}")
    print(nf.dump(ends_and_slopes, on_device, stage="device"))
    print(f"largest error of the energy: {np.abs(np.asarray(losses)).max():.1e}")

    some = slice(None, None, max(count // 32, 1))
    expected = ends_and_slopes(speeds[some])
    apart = [np.abs(np.asarray(a)[some] - b).max() for a, b in zip((ends, slopes), expected, strict=True)]
    print(f"device and CPU differ by {max(apart):.1e}")
    assert max(apart) < 1e-8


if __name__ == "__main__":
    main()

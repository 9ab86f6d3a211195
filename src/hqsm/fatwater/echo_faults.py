"""Echoes that no tissue could have given: in another order than their times, of another gain, or copies of each other.

**Order.** Tissue decays. Fat may make a voxel's last echo brighter than its first, but not nearly every voxel's of a body.

**Gain.** With the columns of W, F and of the complex field projected out, an echo k that is 1 + g times as bright as its tissue made
it leaves in each voxel

    r = P y = g P e_k y_k / (1 + g),

e_k the k-th axis. One such number over the whole body is fitted for each echo in turn, by least squares. A faulty gain is large and
explains most of what is left; what flow, the spectrum and eddy currents leave no one number explains. Three echoes leave nothing.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from hqsm.arrays import AnyArray, Mask
from hqsm.fatwater.first_echo import LEAST_ECHOES, mimicked, without
from hqsm.fatwater.fit import Fit
from hqsm.fatwater.tissue import Tissue

_BRIGHT_SNR = 15.0
_LEAST_VOXELS, _MOST_VOXELS = 100, 4000
_LEAST_DECAYING = 0.2
"""0.68 and more of bright voxels decay in real scans, oils included; of echoes in reverse order 0.1 and less."""
_LEAST_GAIN, _LEAST_EXPLAINED = 0.1, 0.3
"""Of sound scans 0.03 and 0.1 (phase against the convention: 0.35 and 0.15); of one echo 1.3 times as bright 0.2 and 0.39 and more."""


def order_code(signal: AnyArray, usable: Mask, noise_sd: float) -> tuple[str, ...]:
    """``ECHO_ORDER`` where hardly a bright voxel's last echo is darker than its first, of a signal (x, y, z, echo) without a fit of fat."""
    first, last = np.abs(signal[usable][:, [0, -1]]).T
    bright = np.maximum(first, last) > _BRIGHT_SNR * noise_sd
    return _grows((first > last)[bright])


def echo_faults(tissue: Tissue, fit: Fit) -> tuple[str, ...]:
    """``ECHO_ORDER`` where hardly a bright voxel's R2* is above 0, else ``ECHO_GAIN`` where one echo has another gain than the others."""
    voxels = np.flatnonzero(np.isfinite(fit.residual) & (tissue.powers[1] > (_BRIGHT_SNR * tissue.noise_sd) ** 2))
    voxels = voxels[np.linspace(0, voxels.size - 1, min(voxels.size, _MOST_VOXELS)).astype(np.int64)]
    grows = _grows(fit.nonlinear[voxels, 1] > 0)
    t = tissue.echo_times_s
    if grows or t.size < LEAST_ECHOES or voxels.size < _LEAST_VOXELS:
        return grows
    signal = tissue.signal[voxels]
    basis, rest = mimicked(signal, fit.nonlinear[voxels], fit.linear[voxels], t, tissue.fat)
    for k in range(t.size):
        one = np.zeros(signal.shape, complex)
        one[:, k] = signal[:, k]
        with np.errstate(invalid="ignore"):
            direction = without(one, basis)
        known = np.isfinite(direction).all(axis=1) & np.isfinite(rest).all(axis=1)
        product, size2 = float(np.vdot(direction[known], rest[known]).real), float(np.sum(np.abs(direction[known]) ** 2))
        explained = product**2 / (size2 * float(np.sum(np.abs(rest[known]) ** 2)) + 1e-30)
        if abs(product) > _LEAST_GAIN * size2 and explained > _LEAST_EXPLAINED:
            return ("ECHO_GAIN",)
    return ()


def copied_echoes(signal: AnyArray) -> tuple[int, ...]:
    """The first two echoes of a signal (x, y, z, echo) whose images are the same, noise and all; none where no two are."""
    for k, other in combinations(range(signal.shape[3]), 2):
        one, two = signal[..., k], signal[..., other]
        # a hundredth of the voxels tells of nearly every pair
        if np.array_equal(one[::5, ::5, ::4], two[::5, ::5, ::4], equal_nan=True) and np.array_equal(one, two, equal_nan=True):
            return k, other
    return ()


def _grows(decays: Mask) -> tuple[str, ...]:
    return ("ECHO_ORDER",) if decays.size > _LEAST_VOXELS and decays.mean() < _LEAST_DECAYING else ()

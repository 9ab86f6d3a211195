"""Phase that eddy currents add to the first echo: found by what the other echoes predict, and taken out.

Mixed fitting (Hernando et al., MRM 2012;67:638) gives up the phase of the first echo because eddy currents bend it. They
bend it smoothly, though: a polynomial of second order over the volume, fitted to the first echo's phase against the one
that the fit of all later echoes predicts, is what has to be given up, and the rest of that phase is as good as any other.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import ComplexArray, FloatArray, IntArray
from hqsm.fatwater.free_fit import fit_free
from hqsm.fatwater.tissue import Echoes, Tissue
from hqsm.robust import scaled_mad

_LEAST_ECHOES = 5
"""With the first left out, water, fat, R2* and field need three complex echoes, and more to be known well."""
_LEAST_VOXELS = 400
_MOST_VOXELS = 16000
_MOST_R2STAR_PER_S = 150.0
"""And more water than fat, where the prediction depends little on fat's spectrum."""
_LEAST_SNR = 15.0
_LEAST_PHASE_RAD = 0.05
"""Smaller ones do no harm: 0.05 rad at the first of six echoes move a fat fraction by less than a point."""
_LEAST_ERRORS = 8.0
_N_REWEIGHTED = 6


def first_echo_phase(tissue: Tissue, field_hz: FloatArray, r2star_per_s: FloatArray, linear: ComplexArray) -> FloatArray | None:
    """(voxel,) phase of the first echo [rad] that neither water, fat, field nor decay explain; None where there is none.

    ``field_hz``, ``r2star_per_s`` and ``linear`` (voxel, 2), water and fat, are from the fit of all echoes.
    """
    voxels, index, t, fat, noise_sd = tissue.signal, tissue.index, tissue.echo_times_s, tissue.fat, tissue.noise_sd
    if t.size < _LEAST_ECHOES:
        return None
    with np.errstate(invalid="ignore"):
        chosen = np.flatnonzero(np.isfinite(field_hz) & (r2star_per_s < _MOST_R2STAR_PER_S))
    chosen = chosen[np.linspace(0, chosen.size - 1, min(chosen.size, _MOST_VOXELS)).astype(np.int64)]
    lean = np.abs(linear[chosen, 1]) < np.abs(linear[chosen, 0])
    chosen = chosen[lean & (np.abs(voxels[chosen, 0]) > _LEAST_SNR * noise_sd)]
    if chosen.size < _LEAST_VOXELS:
        return None
    some = np.ascontiguousarray(voxels[chosen])
    numbers = np.arange(chosen.size)
    others = Echoes(np.ascontiguousarray(some[:, 1:]), t[1:], fat[1:], noise_sd)
    later, nonlinear, _, residual, _ = fit_free(numbers, others, field_hz[chosen], r2star_per_s[chosen], True)
    growth = np.exp((2j * np.pi * nonlinear[:, 0] - nonlinear[:, 1]) * t[0])
    predicted = (later[:, 0] + later[:, 1] * fat[0]) * growth
    off = np.angle(some[:, 0] * predicted.conj())
    known = np.isfinite(residual) & np.isfinite(off)
    if not known.any():
        return None
    terms = _terms(_places(tissue, chosen), index.shape)
    phase, error = _smooth(terms[known], off[known])
    size = float(np.sqrt(np.mean((terms @ phase) ** 2)))
    if size < max(_LEAST_PHASE_RAD, _LEAST_ERRORS * error):
        return None
    smooth: FloatArray = _terms(_places(tissue, np.arange(voxels.shape[0])), index.shape) @ phase
    return smooth


def without_phase_of_first(signal: ComplexArray, phase_rad: FloatArray) -> ComplexArray:
    """(voxel, echo) the signal with the (voxel,) phase of the first echo taken off."""
    turned = signal.copy()
    turned[:, 0] *= np.exp(-1j * phase_rad)
    return turned


def _places(tissue: Tissue, which: IntArray) -> IntArray:
    """(which, 3) where those voxels lie."""
    return np.stack(np.unravel_index(tissue.places[which], tissue.index.shape), axis=1)


def _terms(places: IntArray, shape: tuple[int, ...]) -> FloatArray:
    """(voxel, 10) polynomials up to second order of the place, from -1 to 1 along the longest axis."""
    x, y, z = ((places - (np.array(shape) - 1) / 2) / (max(shape) / 2)).T
    return np.stack([np.ones(x.size), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)


def _smooth(terms: FloatArray, off: FloatArray) -> tuple[FloatArray, float]:
    """Coefficients (Tukey's weights: swapped voxels and flow are outliers) and the standard error of the fitted phase [rad]."""
    weight: FloatArray = np.ones(off.size)
    coefficients: FloatArray = np.zeros(terms.shape[1])
    scale = 1.0
    ridge = 1e-6 * off.size * np.eye(terms.shape[1])  # of few slices nothing across them is known
    for _ in range(_N_REWEIGHTED):
        normal = (terms * weight[:, None]).T @ terms + ridge
        coefficients = np.linalg.solve(normal, (terms * weight[:, None]).T @ off)
        left = off - terms @ coefficients
        scale = scaled_mad(left) + 1e-9
        weight = np.maximum(1 - (left / (4.685 * scale)) ** 2, 0) ** 2
    return coefficients, scale * float(np.sqrt(terms.shape[1] / off.size))

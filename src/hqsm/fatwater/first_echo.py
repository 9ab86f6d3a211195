"""Phase that eddy currents add to the first echo: found by what the echoes leave of it over the whole volume, and taken out.

Mixed fitting (Hernando et al., MRM 2012;67:638) gives up the phase of the first echo because eddy currents bend it. They
bend it smoothly, though: a polynomial of second order over the volume is what has to be given up, and the rest of that phase is
as good as any other. With the columns of W, F and of the complex field projected out, y = (the first echo's phase turned by phi)
leaves in each voxel

    r = P y,    dr / dphi = i P e_1 y_1,

and the polynomial is fitted to that by least squares (Gauss-Newton, the voxels fitted anew with the phase so far taken off).
Four echoes leave each voxel one complex number more than it has unknowns, three none.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import ComplexArray, FloatArray, IntArray
from hqsm.fatwater.free_fit import fit_free
from hqsm.fatwater.tissue import Echoes, Tissue
from hqsm.robust import scaled_mad, tukey_weights

LEAST_ECHOES = 4
"""Three complex echoes hold as many numbers as water, fat, R2* and field."""
_LEAST_VOXELS = 400
_MOST_VOXELS = 16000
_MOST_R2STAR_PER_S = 150.0
"""And more water than fat, where the prediction depends little on fat's spectrum."""
_LEAST_SNR = 15.0
_LEAST_PHASE_RAD = 0.05
"""Smaller ones do no harm: 0.05 rad at the first of six echoes move a fat fraction by less than a point."""
_LEAST_ERRORS = 8.0
_N_REWEIGHTED = 6
_MOST_ROUNDS, _HARDLY_RAD = 6, 0.003


def first_echo_phase(tissue: Tissue, field_hz: FloatArray, r2star_per_s: FloatArray, linear: ComplexArray) -> FloatArray | None:
    """(voxel,) phase of the first echo [rad] that neither water, fat, field nor decay explain; None where there is none.

    ``field_hz``, ``r2star_per_s`` and ``linear`` (voxel, 2), water and fat, are from the fit of all echoes.
    """
    voxels, t, fat, noise_sd = tissue.signal, tissue.echo_times_s, tissue.fat, tissue.noise_sd
    with np.errstate(invalid="ignore"):
        chosen = np.flatnonzero(np.isfinite(field_hz) & (r2star_per_s < _MOST_R2STAR_PER_S))
    chosen = chosen[np.linspace(0, chosen.size - 1, min(chosen.size, _MOST_VOXELS)).astype(np.int64)]
    lean = np.abs(linear[chosen, 1]) < np.abs(linear[chosen, 0])
    chosen = chosen[lean & (np.abs(voxels[chosen, 0]) > _LEAST_SNR * noise_sd)]
    if chosen.size < _LEAST_VOXELS:
        return None
    some = np.ascontiguousarray(voxels[chosen])
    terms = polynomials(tissue, chosen)
    start_hz, start_r2star = field_hz[chosen], r2star_per_s[chosen]
    nonlinear, both = np.stack([start_hz, start_r2star], axis=1), linear[chosen]
    phase, error = np.zeros(terms.shape[1]), 0.0
    for _ in range(_MOST_ROUNDS):
        turned = without_phase_of_first(some, terms @ phase)
        if phase.any():
            both, nonlinear, *_ = fit_free(np.arange(chosen.size), Echoes(turned, t, fat, noise_sd), start_hz, start_r2star, True)
        more, error = phase_step(turned, nonlinear, both, t, fat, terms)
        phase = phase + more
        if _rms(terms @ phase) < max(_LEAST_PHASE_RAD, _LEAST_ERRORS * error):
            return None
        if _rms(terms @ more) < _HARDLY_RAD:
            break
    smooth: FloatArray = polynomials(tissue, np.arange(voxels.shape[0])) @ phase
    return smooth


def without_phase_of_first(signal: ComplexArray, phase_rad: FloatArray) -> ComplexArray:
    """(voxel, echo) the signal with the (voxel,) phase of the first echo taken off."""
    turned = signal.copy()
    turned[:, 0] *= np.exp(-1j * phase_rad)
    return turned


def phase_step(
    signal: ComplexArray, nonlinear: FloatArray, linear: ComplexArray, t: FloatArray, fat: ComplexArray, terms: FloatArray
) -> tuple[FloatArray, float]:
    """Step of a smooth phase of the first echo, (term,) coefficients [rad], and the standard error of that phase [rad].

    ``terms`` (voxel, term); ``nonlinear`` and ``linear`` are the fit of the ``signal`` (voxel, echo).
    """
    left, per_rad = _left(signal, nonlinear, linear, t, fat)
    return _smooth(terms, left, per_rad)


def _left(
    signal: ComplexArray, nonlinear: FloatArray, linear: ComplexArray, t: FloatArray, fat: ComplexArray
) -> tuple[FloatArray, FloatArray]:
    """What of a phase of the first echo (voxel,) each voxel's fit leaves, in the signal's units, and by how much of it for each rad.

    Both along the direction i P e_1 y_1; NaN where there is no fit.
    """
    turn = np.zeros(signal.shape, complex)
    turn[:, 0] = 1j * signal[:, 0]
    basis, rest = mimicked(signal, nonlinear, linear, t, fat)
    with np.errstate(invalid="ignore", divide="ignore"):
        turn = without(turn, basis)
        per_rad = np.sqrt(_product(turn, turn).real[:, 0])
        return _product(turn, rest).real[:, 0] / per_rad, per_rad


def mimicked(
    signal: ComplexArray, nonlinear: FloatArray, linear: ComplexArray, t: FloatArray, fat: ComplexArray
) -> tuple[list[ComplexArray], ComplexArray]:
    """Orthonormal (voxel, echo) each of what water, fat, field and decay can mimic, and what they leave of the signal (voxel, echo)."""
    growth = np.exp((2j * np.pi * nonlinear[:, :1] - nonlinear[:, 1:]) * t)
    model = (linear[:, :1] + linear[:, 1:] * fat) * growth
    with np.errstate(invalid="ignore", divide="ignore"):
        basis: list[ComplexArray] = []
        for column in (growth, growth * fat, model * t):
            basis.append(without(column, basis))
            basis[-1] /= np.sqrt(_product(basis[-1], basis[-1]))
        return basis, without(signal - model, basis)


def _product(one: ComplexArray, other: ComplexArray) -> ComplexArray:
    """(voxel, 1) inner products over the echoes."""
    product: ComplexArray = np.einsum("ve,ve->v", one.conj(), other)[:, None]
    return product


def without(column: ComplexArray, basis: list[ComplexArray]) -> ComplexArray:
    """What of a (voxel, echo) column the orthonormal ones of the ``basis`` cannot mimic."""
    for direction in basis:
        column = column - _product(direction, column) * direction
    return column


def polynomials(tissue: Tissue, which: IntArray) -> FloatArray:
    """(which, 10) polynomials up to second order of the place, from -1 to 1 along the longest axis of the volume."""
    shape = tissue.index.shape
    places = np.stack(np.unravel_index(tissue.places[which], shape), axis=1)
    x, y, z = ((places - (np.array(shape) - 1) / 2) / (max(shape) / 2)).T
    return np.stack([np.ones(x.size), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)


def _rms(phase_rad: FloatArray) -> float:
    return float(np.sqrt(np.mean(phase_rad**2)))


def _smooth(terms: FloatArray, left: FloatArray, per_rad: FloatArray) -> tuple[FloatArray, float]:
    """Coefficients (Tukey's weights: swapped voxels and flow are outliers) and the standard error of the fitted phase [rad]."""
    known = np.isfinite(left) & np.isfinite(per_rad)
    if known.sum() <= terms.shape[1]:
        return np.zeros(terms.shape[1]), np.inf
    scaled, left = terms[known] * per_rad[known, None], left[known]
    weight: FloatArray = np.ones(left.size)
    coefficients: FloatArray = np.zeros(terms.shape[1])
    error = np.inf
    for _ in range(_N_REWEIGHTED):
        normal = (scaled * weight[:, None]).T @ scaled
        normal += 1e-6 * np.trace(normal) * np.eye(terms.shape[1])  # of few slices nothing across them is known
        inverse = np.linalg.inv(normal)
        coefficients = inverse @ ((scaled * weight[:, None]).T @ left)
        off = left - scaled @ coefficients
        scale = scaled_mad(off) + 1e-9
        weight = tukey_weights(off, scale)
        error = scale * np.sqrt(float(np.vdot(inverse, terms.T @ terms)) / terms.shape[0])  # root mean square over the voxels
    return coefficients, error

"""The field that the body makes by its own shape: what an island's field is likely to be when nothing that touches it tells.

Air is 9.4 ppm more paramagnetic than tissue, and a crude map of where tissue is, taken from the brightness of the blocks,
gives by convolution with the dipole the larger part of the field that remains after shimming. Its scale, that of the dark
inside of the body (lung, gas), and a shim of second order are fitted to the blocks whose field is firm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hqsm import fourier
from hqsm.arrays import FloatArray, IntArray, Mask
from hqsm.dipole import DipoleOperator
from hqsm.fatwater.blocks import Blocks
from hqsm.robust import scaled_mad, tukey_weights
from hqsm.units import proton_frequency_hz

TISSUE_PPM, LUNG_PPM = (-9.4, 1.0), (-2.4, 1.5)
"""Susceptibility against air and its SD among bodies: water and fat; lung, of which a quarter to a third is tissue."""
IRON_PPM_AT_1000_PER_S = (3.0, 2.0)
"""At 1.5 T: 0.1 to 0.3 ppm for each mg/g, of which R2* grows by 38 1/s."""
_REACH_MM = 150.0
"""What lies beyond the volume is taken to go on as its edge does: a body has no end where the slices have one."""
_SHIM_MM = 150.0
_N_REWEIGHTED = 6
_INDEPENDENT = 400.0
"""Errors of the prediction are alike over centimetres: so many blocks' worth is all that the fit is told of them."""
_SPREAD_HZ_AT_1T5 = 50.0
_LEAST_BLOCKS, _MOST_BLOCKS = 50, 10000


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """(block,) predicted field [Hz], and by how much trusted blocks depart from theirs (robust SD) [Hz]."""

    field_hz: FloatArray
    spread_hz: float


def predicted_field(
    blocks: Blocks,
    share: FloatArray,
    r2star_per_s: FloatArray,
    field_hz: FloatArray,
    firm: Mask,
    b0_direction: FloatArray,
    field_strength_tesla: float,
) -> Prediction | None:
    """Field of the blocks' tissue, fitted to the ``firm`` ones; None where these are too few.

    Parameters
    ----------
    blocks
        With their places.
    share
        (block,) how much of each is tissue, 0 to 1.
    r2star_per_s
        (block,) its decay, which tells iron.
    field_hz, firm
        (block,) field, and whether it is known.
    """
    if firm.sum() < _LEAST_BLOCKS:
        return None
    there = blocks.index >= 0
    tissue = np.zeros(blocks.index.shape, np.float32)
    tissue[there] = share
    body = np.stack([ndimage.binary_fill_holes(plane > 0.5) for plane in np.moveaxis(tissue, 2, 0)], axis=2)
    dark = (body * (1 - tissue)).astype(np.float32)
    iron = np.zeros_like(tissue)
    iron[there] = share * np.clip(r2star_per_s, 0, 2000) * (1.5 / field_strength_tesla) * 1e-3
    hz_per_ppm = proton_frequency_hz(field_strength_tesla) * 1e-6
    columns = [hz_per_ppm * field[there] for field in fields_of((tissue, dark, iron), blocks.size_mm, b0_direction)]
    columns += shim(np.argwhere(there), np.array(blocks.index.shape), blocks.size_mm)
    terms = np.stack(columns, axis=1).astype(np.float64)
    spread = _SPREAD_HZ_AT_1T5 * field_strength_tesla / 1.5
    coefficients, spread_hz = _fitted(terms, field_hz, firm, spread)
    return Prediction(field_hz=terms @ coefficients, spread_hz=max(spread_hz, 0.5 * spread))


def fields_of(sources: tuple[FloatArray, ...], size_mm: FloatArray, b0_direction: FloatArray) -> list[FloatArray]:
    """Relative fields of maps of unit susceptibility that go on beyond their edges as they are there."""
    n = np.array(sources[0].shape)
    wanted = n + np.maximum(np.ceil(_REACH_MM / size_mm).astype(int), n // 2)
    shape = fourier.fast_shape((int(wanted[0]), int(wanted[1]), int(wanted[2])))
    before = (np.array(shape) - n) // 2
    around = [(int(a), int(outer - a - inner)) for a, outer, inner in zip(before, shape, n, strict=True)]
    inside = tuple(slice(a, a + inner) for a, inner in zip(before, n, strict=True))
    dipole = DipoleOperator(shape, size_mm, b0_direction)
    return [dipole(np.pad(source, around, mode="edge"))[inside] for source in sources]


def shim(places: IntArray, shape: IntArray, size_mm: FloatArray) -> list[FloatArray]:
    """Harmonic polynomials up to second order at some ``places`` (place, 3) of a volume."""
    x, y, z = ((places - (shape - 1) / 2) * size_mm / _SHIM_MM).T
    return [np.ones(x.size), x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y]


def _fitted(terms: FloatArray, field_hz: FloatArray, firm: Mask, spread_hz: float) -> tuple[FloatArray, float]:
    """Coefficients by least squares with Tukey's weights (swapped pieces are outliers), and what is left (robust SD) [Hz]."""
    firm_ones = np.flatnonzero(firm)
    # an odd step goes through all slices
    some = firm_ones[:: 2 * (firm_ones.size // (2 * _MOST_BLOCKS)) + 1]
    known, target = terms[some], field_hz[some]
    sources = (TISSUE_PPM, LUNG_PPM, IRON_PPM_AT_1000_PER_S)
    n_shim = terms.shape[1] - len(sources)
    mean = np.array([*(ppm for ppm, _ in sources), *np.zeros(n_shim)])
    precision = np.diag(np.array([*(sd for _, sd in sources), *np.full(n_shim, 1e4)]) ** -2.0) * spread_hz**2
    weight: FloatArray = np.ones(target.size)
    coefficients, left_hz = mean, np.inf
    for _ in range(_N_REWEIGHTED):
        weighted = known * (weight * _INDEPENDENT / weight.sum())[:, None]
        coefficients = mean + np.linalg.solve(weighted.T @ known + precision, weighted.T @ (target - known @ mean))
        left = target - known @ coefficients
        left_hz = scaled_mad(left) + 1e-6
        weight = tukey_weights(left, left_hz)
    return coefficients, left_hz

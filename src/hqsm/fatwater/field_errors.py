"""Standard error of a field that its neighbours helped to find, from how far voxels depart from what their neighbours foresaw.

The field's prior must hold at an organ's surface and beside iron that changes from voxel to voxel, and there it is too narrow; in
uniform tissue, where the field is harmonic and a plane through the neighbours foresees it well, it is several times too
wide. Which of the two it is nobody knows beforehand, but voxels that know their own field tell: of an estimate with information d of
its own and p of the prior, the departure from the prior's mean has the variance (d / (d + p))^2 (1 / d + v), v being the variance that the
prior really has. With v so found around each voxel, the variance of the estimate is (d + p^2 v) / (d + p)^2, be it less or more
than the 1 / (d + p) of a prior that is off as it claims: variance components, by the method of moments.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.neighbourhood import own_weight
from hqsm.fatwater.nodes import around
from hqsm.fatwater.tissue import Tissue

_LARGEST_DEPARTURE2 = 16.0
"""Squared departures, in variances that are claimed for them, beyond which they count as this: other minima of the fit."""
_OWN_SHARE = 0.6
"""Of a voxel's own weight in the Gaussian around it: its noise that is in its neighbours' plane, through the neighbours' own priors."""
_ENOUGH_VOXELS, _ENOUGH_VOXELS_IN_ALL = 4.0, 5.0
"""Fully informative voxels that a wider neighbourhood, and the prior's own claim, counts as."""
_LEAST_RATIO = 0.02
_STEEP_HZ_PER_MM_AT_1T5 = 2.0
_BEND_MM = 2.0
"""Beside lung and gas the field is steep, and bends: a plane is off by its gradient beyond the steepest of other places times this."""


def field_errors(
    departure_hz: FloatArray,
    claimed_hz: FloatArray,
    precision: FloatArray,
    plane_hz2: FloatArray,
    field_hz: FloatArray,
    field_se_hz: FloatArray,
    which: IntArray,
    blocks: Blocks,
    tissue: Tissue,
) -> FloatArray:
    """(n,) standard error of the field [Hz] of the voxels ``which``; as claimed where there is no prior.

    Parameters
    ----------
    departure_hz, claimed_hz
        (n,) estimate less the prior's mean, NaN where there is none, and its standard error were the prior off as it claims.
    precision, plane_hz2
        (n,) inverse variance of the prior [1/Hz2], and the part of that variance that is the error of the plane through the neighbours.
    field_hz, field_se_hz
        (voxel,) of all voxels.
    which
        (n,) numbers of the voxels that have a prior.
    """
    share, steep_hz_per_mm = _OWN_SHARE * own_weight(tissue.voxel_size_mm), _STEEP_HZ_PER_MM_AT_1T5 * tissue.field_strength_tesla / 1.5
    variance = claimed_hz**2
    with np.errstate(invalid="ignore", divide="ignore"):
        of_prior = np.where(precision > 0, 1 / precision, np.inf)
        own = 1 / variance - precision
        known = np.isfinite(departure_hz) & np.isfinite(of_prior) & (own > 0)
    if not known.any():
        return claimed_hz.copy()
    own, of_prior, variance = own[known], of_prior[known], variance[known]
    block = blocks.of_voxel[which[known]]
    steep = _steepness_hz_per_mm(field_hz, field_se_hz, blocks)[block]
    bent = (_BEND_MM * np.maximum(steep - steep_hz_per_mm, 0)) ** 2
    rest = np.maximum(of_prior - plane_hz2[known], 1e-3 * of_prior)
    kept2 = (own * variance) ** 2  # share of an error of the prior's mean that a departure shows
    ratio = _ratio(departure_hz[known] ** 2, kept2, 1 / own, of_prior, bent, rest, block, blocks, share)
    trusted2 = (variance / of_prior) ** 2
    errors: FloatArray = claimed_hz.copy()
    errors[known] = np.sqrt(own * variance**2 + trusted2 * (bent + ratio * rest + share * of_prior))
    return errors


def _ratio(
    squared: FloatArray,
    kept2: FloatArray,
    noise: FloatArray,
    of_prior: FloatArray,
    bent: FloatArray,
    rest: FloatArray,
    block: IntArray,
    blocks: Blocks,
    share: float,
) -> FloatArray:
    """(n,) what the prior is really off by around each voxel, squared, over ``rest``, from ``squared`` departures [Hz2]."""
    expected = kept2 * (noise + of_prior + bent)
    more = np.minimum(squared, _LARGEST_DEPARTURE2 * expected) - kept2 * ((1 - share) * noise + bent)
    # of equal weight where voxels know their field as well as the prior, none where they do not
    weight = kept2 * np.median(of_prior) / (expected**2 + (kept2 * noise) ** 2)
    sums = np.bincount(block, weight * more, blocks.n_voxels.size) + 1j * np.bincount(block, weight * kept2 * rest, blocks.n_voxels.size)
    in_all = sums.sum() + _ENOUGH_VOXELS_IN_ALL * (1 + 1j)
    near = 27 * around(sums, blocks.index)
    ratio: AnyArray = np.full(sums.size, max(in_all.real / in_all.imag, _LEAST_RATIO))
    for those in (27 * around(near, blocks.index), near):
        ratio = np.maximum((those.real + _ENOUGH_VOXELS * ratio) / (those.imag + _ENOUGH_VOXELS), _LEAST_RATIO)
    of_voxels: FloatArray = ratio[block]
    return of_voxels


def _steepness_hz_per_mm(field_hz: FloatArray, se_hz: FloatArray, blocks: Blocks) -> FloatArray:
    """(block,) the field's gradient between a block and those beside it, along each axis the steeper side."""
    n_blocks, there = blocks.n_voxels.size, blocks.index >= 0
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(np.isfinite(field_hz) & np.isfinite(se_hz), 1 / np.maximum(se_hz, 1.0) ** 2, 0)
        mean = np.bincount(blocks.of_voxel, weight * np.where(weight > 0, field_hz, 0), n_blocks) / np.bincount(
            blocks.of_voxel, weight, n_blocks
        )
    field = np.full(blocks.index.shape, np.nan)
    field[there] = mean[blocks.index[there]]
    squared = np.zeros(field.shape)
    for axis, size_mm in enumerate(blocks.size_mm):
        step = np.nan_to_num(np.abs(np.diff(field, axis=axis)) / size_mm)
        nothing = np.zeros_like(np.take(field, [0], axis=axis))
        squared += np.maximum(np.concatenate([nothing, step], axis), np.concatenate([step, nothing], axis)) ** 2
    steep: FloatArray = np.zeros(n_blocks)
    steep[blocks.index[there]] = np.sqrt(squared[there])
    return steep

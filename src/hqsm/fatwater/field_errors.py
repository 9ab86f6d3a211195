"""Standard error of a field that its neighbours helped to find, from how far voxels depart from what their neighbours foresaw.

The field's prior must hold at an organ's surface and beside iron that changes from voxel to voxel, and there it is too narrow; in
uniform tissue, where the field is harmonic and a plane through the neighbours foresees it well, it is several times too
wide. Which of the two it is nobody knows beforehand, but voxels that know their own field tell: of an estimate with information d of
its own and p of the prior, the departure from the prior's mean has the variance (d / (d + p))^2 (1 / d + v), v being the variance that the
prior really has. With v so found, the variance of the estimate is (d + p^2 v) / (d + p)^2, be it less or more than the 1 / (d + p) of a
prior that is off as it claims: variance components, by the method of moments.

v has three parts. Noise of the neighbours comes through the plane: it is worked out, because voxels that know their own field lie
among others that do and hardly show it. What the plane cannot follow, and what iron that steps adds to it, are each a share of
what the prior claims for it: two shares for the volume by least squares, the first then around each voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from hqsm.arrays import AnyArray, FloatArray, IntArray
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.neighbourhood import SPREAD_FLOOR_HZ_AT_1T5, own_weight
from hqsm.fatwater.nodes import around
from hqsm.fatwater.tissue import Tissue

_LARGEST_DEPARTURE2 = 16.0
"""Squared departures, in variances that are claimed for them, beyond which they count as this: other minima of the fit."""
_LEFT_OF_NOISE = 2.0**-1.5
"""Neighbours' errors are a Gaussian sum already; one more of the same width is wider by the root of two along each axis."""
_ENOUGH_VOXELS = 10.0
"""Fully informative voxels that a wider neighbourhood counts as."""
_INFORMATION_OF_CLAIM = np.array([1.0, 10.0])
"""What the claim itself counts for; an informative voxel is 0.2."""
_NOISE_KNOWN = 10.0
"""Ratio of a voxel's own noise to the prior's claim from which it says the less, the noise being known no better than the model of it."""
_LEAST_RATIO, _LEAST_REST = 0.02, 0.05
_STEEP_HZ_PER_MM_AT_1T5 = 2.0
_BEND_MM = 2.0
"""Beside lung and gas the field is steep, and bends: a plane is off by its gradient beyond the steepest of other places times this."""
_ONE_SIDED_HZ_AT_1T5 = 90.0
"""What a plane is off by there, where the dark does not show how steep: this, by the share of the 27 blocks that is no tissue."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Departures:
    """How far the estimates of n voxels depart from what their neighbours foresaw, and how far that is claimed to be off.

    Attributes
    ----------
    departure_hz
        (n,) estimate less the prior's mean, NaN where there is none.
    precision
        (n,) inverse variance that the prior claims [1/Hz2].
    plane_hz2, iron_hz2
        (n,) parts of that variance: error of the plane through the neighbours, and what iron that steps may add.
    """

    departure_hz: FloatArray
    precision: FloatArray
    plane_hz2: FloatArray
    iron_hz2: FloatArray


def field_errors(
    claimed_hz: FloatArray,
    departures: Departures,
    which: IntArray,
    field_hz: FloatArray,
    field_se_hz: FloatArray,
    to_darker_hz: FloatArray,
    blocks: Blocks,
    tissue_share: FloatArray,
    tissue: Tissue,
) -> FloatArray:
    """(n,) standard error of the field [Hz] of the voxels ``which``; as claimed where there is no prior.

    Parameters
    ----------
    claimed_hz
        (n,) standard error were the prior off as it claims.
    which
        (n,) numbers of the voxels that have a prior.
    field_hz, field_se_hz
        (voxel,) of all voxels.
    to_darker_hz
        (voxel,) by how much the fields of darker neighbours may depart from a voxel's: it says less of them.
    tissue_share
        (block,) how much of each is tissue, 0 to 1.
    """
    variance = claimed_hz**2
    with np.errstate(invalid="ignore", divide="ignore"):
        of_prior = np.where(departures.precision > 0, 1 / departures.precision, np.inf)
        own = 1 / variance - departures.precision
        known = np.isfinite(departures.departure_hz) & np.isfinite(of_prior) & (own > 0)
    if not known.any():
        return claimed_hz.copy()
    noise = _noise_of_neighbours(np.where(known, own, 0), claimed_hz, which, field_se_hz, to_darker_hz, blocks, tissue)
    block = blocks.of_voxel[which[known]]
    steep_hz_per_mm = _STEEP_HZ_PER_MM_AT_1T5 * tissue.field_strength_tesla / 1.5
    steep = _steepness_hz_per_mm(field_hz, field_se_hz, blocks)
    own, of_prior, variance = own[known], of_prior[known], variance[known]
    given = (noise + (_BEND_MM * np.maximum(steep - steep_hz_per_mm, 0)) ** 2)[block]
    iron = np.minimum(departures.iron_hz2[known], of_prior)
    rest = np.maximum(of_prior - iron - departures.plane_hz2[known], _LEAST_REST * of_prior)
    kept2 = (own * variance) ** 2  # share of an error of the prior's mean that a departure shows
    off = _found(departures.departure_hz[known] ** 2, kept2, 1 / own, of_prior, given, rest, iron, block, blocks)
    # not among what departures are compared with: where it is too much, the other parts would come out too small, everywhere
    one_sided_hz = _ONE_SIDED_HZ_AT_1T5 * tissue.field_strength_tesla / 1.5 * _no_tissue_around(tissue_share, blocks)
    errors: FloatArray = claimed_hz.copy()
    errors[known] = np.sqrt(own * variance**2 + (variance / of_prior) ** 2 * (given + off + one_sided_hz[block] ** 2))
    return errors


def on_another_field(field_hz: FloatArray, blocks: Blocks, step_hz: float) -> FloatArray:
    """(block,) probability that it is on another field than the true one, of those in the noise from the third echo on; others 0.

    Of two neighbours whose mean fields lie further than ``step_hz`` apart one is. With a probability p for each, a share
    q = 2 p (1 - p) of the faces steps: those of the 27 blocks around, between two such blocks.
    """
    n_blocks, there = blocks.n_voxels.size, blocks.index >= 0
    if not blocks.dark.any():
        return np.zeros(n_blocks)
    known = np.isfinite(field_hz)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(blocks.of_voxel, np.where(known, field_hz, 0), n_blocks) / np.bincount(blocks.of_voxel, known, n_blocks)
    field = np.full(blocks.index.shape, np.nan)
    field[there] = np.where(blocks.dark, mean, np.nan)
    steps_and_faces = np.zeros(field.shape, np.complex64)
    for axis in range(3):
        away_hz = np.abs(np.diff(field, axis=axis))
        face = (away_hz > step_hz) + 1j * np.isfinite(away_hz)
        along = np.moveaxis(steps_and_faces, axis, 0)
        along[1:] += np.moveaxis(face, axis, 0)
        along[:-1] += np.moveaxis(face, axis, 0)
    mean_around = around(steps_and_faces[there], blocks.index)
    stepping = mean_around.real / np.maximum(mean_around.imag, 1e-9)
    probability: FloatArray = np.where(blocks.dark, (1 - np.sqrt(np.maximum(1 - 2 * stepping, 0))) / 2, 0)
    return probability


def _noise_of_neighbours(
    own: FloatArray,
    claimed_hz: FloatArray,
    which: IntArray,
    se_hz: FloatArray,
    to_darker_hz: FloatArray,
    blocks: Blocks,
    tissue: Tissue,
) -> FloatArray:
    """(block,) variance [Hz2] that the noise of the voxels around gives a prior's mean.

    The planes are fitted twice. First through fields that voxels found by themselves, with weights by their information; what a voxel
    then knows is its own and that; and these errors, common to a neighbourhood, are averaged by the second planes' weights.
    Noise of SD s in each part turns a phasor of length 1 by a variance of s^2 (1 + s^2): the second matters where there is iron.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        information = np.where(np.isfinite(se_hz) & (se_hz > 0), 1 / se_hz**2, 0)
    in_the_end = information.copy()
    information[which] = own
    in_the_end[which] = np.where(own > 0, 1 / claimed_hz**2, 0)
    departs_hz2 = to_darker_hz**2 + (SPREAD_FLOOR_HZ_AT_1T5 * tissue.field_strength_tesla / 1.5) ** 2
    n_around = np.maximum(around(blocks.n_voxels + 0j, blocks.index).real, 1e-9)

    def means(weight: FloatArray, value: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(block,) of the weight and of weight times value, over the voxels of the 27 blocks."""
        sums = np.bincount(blocks.of_voxel, weight, blocks.n_voxels.size) + 1j * np.bincount(
            blocks.of_voxel, weight * value, blocks.n_voxels.size
        )
        both = around(sums, blocks.index) / n_around
        return both.real, both.imag

    rad_per_hz = 2 * np.pi * float(np.diff(tissue.echo_times_s).min())
    with np.errstate(divide="ignore"):
        more = np.where(information > 0, 1 + rad_per_hz**2 / information, 1)
    weight, of_noise = means(information / (1 + information * departs_hz2), more / (1 + information * departs_hz2))
    with np.errstate(invalid="ignore", divide="ignore"):
        first = np.nan_to_num(weight**2 / (own_weight(tissue.voxel_size_mm) * of_noise))[blocks.of_voxel]
        of_errors = 1 / np.maximum(information / more + first, 1e-6)
        weight, of_error = means(in_the_end / (1 + in_the_end * departs_hz2), of_errors)
        noise: FloatArray = np.nan_to_num(_LEFT_OF_NOISE * of_error / weight)
    return noise


def _found(
    squared: FloatArray,
    kept2: FloatArray,
    noise: FloatArray,
    of_prior: FloatArray,
    given: FloatArray,
    rest: FloatArray,
    iron: FloatArray,
    block: IntArray,
    blocks: Blocks,
) -> FloatArray:
    """(n,) variance [Hz2] by which the prior is off beyond what is ``given``, from ``squared`` departures [Hz2].

    One share of ``rest``, which differs from place to place, and one of ``iron``.
    """
    expected = kept2 * (noise + of_prior + given)
    more = np.minimum(squared, _LARGEST_DEPARTURE2 * expected) - kept2 * (noise + given)
    # of equal weight where voxels know their field as well as the prior, none where they do not: noise is known to a share only
    weight = 1 / ((expected**2 + (kept2 * noise) ** 2) * (1 + (noise / (_NOISE_KNOWN * of_prior)) ** 2))
    columns = np.sqrt(weight) * kept2 * np.stack([rest, iron])
    information, moments = columns @ columns.T + np.diag(_INFORMATION_OF_CLAIM), columns @ (np.sqrt(weight) * more) + _INFORMATION_OF_CLAIM
    (in_all, of_iron), _ = nnls(information, moments)
    more, weight = more - kept2 * of_iron * iron, weight * kept2 * np.median(of_prior)
    sums = np.bincount(block, weight * more, blocks.n_voxels.size) + 1j * np.bincount(block, weight * kept2 * rest, blocks.n_voxels.size)
    near = 27 * around(sums, blocks.index)
    ratio: AnyArray = np.full(sums.size, max(in_all, _LEAST_RATIO))
    for those in (27 * around(near, blocks.index), near):
        ratio = np.maximum((those.real + _ENOUGH_VOXELS * ratio) / (those.imag + _ENOUGH_VOXELS), _LEAST_RATIO)
    off: FloatArray = ratio[block] * rest + of_iron * iron
    return off


def _no_tissue_around(tissue_share: FloatArray, blocks: Blocks) -> FloatArray:
    """(block,) share of the 3 x 3 x 3 blocks around each that is lung, gas or air; what lies beyond the volume is not counted."""
    there = blocks.index.ravel() >= 0
    tissue_and_all = np.full(there.size, 1j)
    tissue_and_all[there] += tissue_share
    mean = around(tissue_and_all, np.arange(there.size).reshape(blocks.index.shape))[there]
    none: FloatArray = 1 - mean.real / mean.imag
    return none


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

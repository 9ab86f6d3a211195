"""Whether the phase runs with the convention: told by the body's own shape, and by the side on which fat lies of water.

**Shape.** Air is 9.4 ppm more paramagnetic than tissue: shim taken off, the field inside a body, and around its lungs and gas, is
known in sign and nearly in size before it is measured; a phase that runs backwards gives its negative. That needs neither fat nor
a third echo. With m the field of the expected susceptibilities and S the covariance of what is left (shim, the skin's fat,
the susceptibilities' own spread, sources nobody knows) the field y speaks for the convention with

    z = m' S^-1 y / sqrt(E),    E = m' S^-1 m,

standard deviations, where sqrt(E) are to be expected. A body without that field's long waves, of either sign, has none that a body could
have: what nobody knows of only adds to them. A phase filter, which lets short ones pass, took them out.

**Fat.** Water and fat of one field and one phase explain a block better than they explain its conjugate where it holds both. With d
the difference of the two misfits, z = sum(d) / sqrt(sum(d^2)): where there is no fat, d is as often below zero as above.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from hqsm.arrays import ComplexArray, FloatArray, Mask
from hqsm.coarse_grid import CoarseGrid
from hqsm.data import WaterFat
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.candidates import candidates
from hqsm.fatwater.costs import worth
from hqsm.fatwater.predicted import IRON_PPM_AT_1000_PER_S, LUNG_PPM, TISSUE_PPM, fields_of, shim
from hqsm.fatwater.tissue import Tissue
from hqsm.robust import scaled_mad, tukey_weights
from hqsm.units import proton_frequency_hz

_LEAST_OF_SHAPE, _FROM_OTHER_SIGN = 2.0, 6.0
"""Standard deviations from neither sign, and from what the other sign lets expect, at which the shape decides."""
_LEAST_OF_FAT = 6.0
_CERTAIN_SHAPE, _LEAST_SHARE = 4.0, 0.6
"""Standard deviations expected from which on a field is missed, and the share of its long waves' RMS that it then falls short of."""
_LONG_WAVES_MM = 20.0
"""SD of the Gaussian that leaves them."""
_COARSE_MM, _INDEPENDENT_MM = 10.0, 40.0
"""Voxels of the field that is compared, and how far apart what nobody knows of it is independent."""
_WHOLE = 0.9
_LEAST_COARSE = 40
_LEAST_SPREAD_HZ_AT_1T5 = 10.0
_SHIM_HZ = 1e4
_LAYER_MM, _N_LAYERS = 10.0, 3
"""How deep below the skin fat lies, and in how many layers."""
_N_REWEIGHTED = 6
_N_BLOCKS = 4000
_NOTHING_SAID = 0.0, 0.0, 1.0


def sign_codes(maps: WaterFat, fat: float) -> tuple[str, ...]:
    """``PHASE_SIGN`` where the phase runs against the convention, ``SIGN_NOT_CHECKED`` where nothing tells, or the two contradict.

    ``PHASE_FILTERED`` where the shape would tell for certain, and the field of neither sign is there.
    """
    shape, expected, share = shape_says(maps)
    filtered = expected > _CERTAIN_SHAPE and share < _LEAST_SHARE
    votes = {np.sign(shape)} if abs(shape) > _LEAST_OF_SHAPE and abs(shape) + expected > _FROM_OTHER_SIGN else set()
    votes |= {np.sign(fat)} if abs(fat) > _LEAST_OF_FAT else set()
    missing = ("PHASE_FILTERED",) if filtered else ()
    if len(votes) != 1:
        return ("SIGN_NOT_CHECKED", *missing)
    return ("PHASE_SIGN", *missing) if -1 in votes else missing


def fat_says(blocks: Blocks, conjugate: ComplexArray | None, tissue: Tissue, typical_misfit: float) -> float:
    """By how many standard deviations water and fat say that the phase runs with the convention.

    ``conjugate`` is what the blocks' products (block, pair) are of the conjugate echoes, each with the phase of its first echo taken off;
    None where it has none.
    """
    sample = np.unique(np.linspace(0, blocks.n_voxels.size - 1, min(_N_BLOCKS, blocks.n_voxels.size)).astype(int))
    misfits = []
    ours = blocks.products[sample]
    for products in (ours, ours.conj() if conjugate is None else conjugate[sample]):
        some = replace(blocks, products=products)
        found = candidates(some, tissue.echo_times_s, tissue.fat, tissue.field_strength_tesla, with_fat=True, one_phase=True)
        misfits.append(found.misfit[:, 0].astype(np.float64))
    # blocks that neither sign explains (lung, flow) say little
    difference = (misfits[1] - misfits[0]) * worth(np.minimum(*misfits), blocks.n_voxels[sample], tissue.echo_times_s.size, typical_misfit)
    size = float(np.sqrt(np.sum(difference**2)))
    return float(difference.sum()) / size if size > 0 else 0.0


def shape_says(maps: WaterFat) -> tuple[float, float, float]:
    """By how many standard deviations the field's pattern says that the phase runs with the convention, and how many it should be.

    Third the RMS of the field's long waves over that of the expected one's, with what shim and the skin's fat may make taken off both;
    where nothing is known of the body 0, 0 and 1.
    """
    coarse = CoarseGrid(maps.grid, _COARSE_MM)
    bright = np.nan_to_num(np.abs(maps.water)) + np.nan_to_num(np.abs(maps.fat))
    known = np.isfinite(maps.field_hz) & (bright > 0)
    if not known.any():
        return _NOTHING_SAID
    known_share = coarse.mean(known)
    tissue = coarse.mean(np.minimum(2 * np.where(known, bright, 0) / np.median(bright[known]), 1))
    iron = coarse.mean(np.where(known, np.clip(np.nan_to_num(maps.r2star_per_s), 0, 2000), 0)) * 1e-3 * 1.5 / maps.field_strength_tesla
    body = np.stack([ndimage.binary_fill_holes(plane > 0.5) for plane in np.moveaxis(tissue, 2, 0)], axis=2)
    there = (known_share > _WHOLE) & (tissue > _WHOLE)
    if there.sum() < _LEAST_COARSE:
        return _NOTHING_SAID
    measured_hz = coarse.mean(np.where(known, maps.field_hz, 0))[there].astype(np.float64) / known_share[there]
    hz_per_ppm = proton_frequency_hz(maps.field_strength_tesla) * 1e-6
    sources = (tissue, (body * (1 - tissue)).astype(np.float32), iron)
    size_mm = coarse.grid.voxel_size_mm
    fields = hz_per_ppm * np.stack([field[there] for field in fields_of(sources, size_mm, coarse.grid.b0_direction)], axis=1).astype(float)
    smooth = np.stack(shim(np.argwhere(there), np.array(tissue.shape), size_mm), axis=1)
    # where fat is not told from water, or taken for it, the field is off by what lies between them, all along the skin
    depth_mm = ndimage.distance_transform_edt(body, sampling=size_mm)[there]
    layers = [(depth_mm > inner - _LAYER_MM) & (depth_mm <= inner) for inner in _LAYER_MM * np.arange(1, _N_LAYERS + 1)]
    smooth = np.concatenate([smooth, np.stack(layers, axis=1)], axis=1)
    mean_ppm, spread_ppm = np.array([TISSUE_PPM, LUNG_PPM, IRON_PPM_AT_1000_PER_S]).T
    weight = _weights(np.concatenate([fields, smooth], axis=1), measured_hz, _LEAST_SPREAD_HZ_AT_1T5 * maps.field_strength_tesla / 1.5)
    weight *= min(1.0, float(np.prod(size_mm)) / _INDEPENDENT_MM**3)
    expected_hz = fields @ mean_ppm
    # S^-1 m by Woodbury: S = 1 / weight + free free'
    free = np.concatenate([fields * spread_ppm, _SHIM_HZ * smooth], axis=1)
    weighted = free * weight[:, None]
    inner = np.eye(free.shape[1]) + weighted.T @ free
    filtered = weight * expected_hz - weighted @ np.linalg.solve(inner, weighted.T @ expected_hz)
    expected = float(np.sqrt(max(filtered @ expected_hz, 0.0)))
    if not expected > 0:
        return _NOTHING_SAID
    measured_left, expected_left = _beside(smooth, measured_hz, weight), _beside(smooth, expected_hz, weight)
    # of all voxels: in a real abdomen much of its field goes for outliers (two echoes, swaps); but no failed fit counts for more than air
    measured_left = np.clip(measured_left, -np.abs(expected_left).max(), np.abs(expected_left).max())
    measured_rms, expected_rms = (_rms_of_long_waves(left, there, size_mm) for left in (measured_left, expected_left))
    share = measured_rms / max(expected_rms, 1e-9)
    return float(filtered @ measured_hz) / expected, expected, share


def _beside(terms: FloatArray, field_hz: FloatArray, weight: FloatArray) -> FloatArray:
    """(voxel,) what terms (voxel, term) leave of a field (voxel,)."""
    root = np.sqrt(weight)
    left: FloatArray = field_hz - terms @ np.linalg.lstsq(terms * root[:, None], field_hz * root, rcond=None)[0]
    return left


def _rms_of_long_waves(field_hz: FloatArray, there: Mask, size_mm: FloatArray) -> float:
    """RMS of Gaussian means of a field (voxel,) over the voxels where it is known."""
    volume = np.zeros(there.shape)
    volume[there] = field_hz
    sigma = _LONG_WAVES_MM / size_mm
    total, known = (ndimage.gaussian_filter(each, sigma)[there] for each in (volume, there.astype(float)))
    return float(np.sqrt(np.mean((total / known) ** 2)))


def _weights(terms: FloatArray, measured_hz: FloatArray, least_spread_hz: float) -> FloatArray:
    """(voxel,) inverse variance of what the terms, of whatever sign, leave; Tukey's: fat taken for water is an outlier."""
    weight: FloatArray = np.ones(measured_hz.size)
    spread_hz = np.inf
    for _ in range(_N_REWEIGHTED):
        weighted = terms * weight[:, None]
        coefficients = np.linalg.lstsq(weighted.T @ terms, weighted.T @ measured_hz, rcond=None)[0]
        left = measured_hz - terms @ coefficients
        spread_hz = max(scaled_mad(left), least_spread_hz)
        weight = tukey_weights(left, spread_hz)
    return weight / spread_hz**2

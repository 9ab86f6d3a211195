"""Where the diaphragm was in each repetition, from the images alone.

Two layers share the picture: wall, spine and great vessels stay, liver, lung base and bowel move along the body. A
template is shifted head-foot by every candidate displacement and fitted to each repetition,

    d_r = argmin_d  min_c  sum_x w(x) (I_r(x) - (c0 + c1 x + c2 y + c3 z) T(x - d e_z))^2,

with a gain that may vary linearly in space (variable projection of c), so that a change of intensity is no motion.
The weight w is the evidence that a voxel belongs to the moving layer: at first its variance over the repetitions, then
how much better the shifted template explains it than the still one. Structures that do not move get no weight and
cannot pull the displacement to zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray
from hqsm.data import RepeatedMultiEcho, VoxelGrid
from hqsm.gating.shift import shift_along_body

_SEARCH_MM = 30.0
"""Largest displacement between two repetitions that is looked for; deep inspiration moves the dome by about 40 mm."""
_STEP_MM = 1.0
_FEWEST_SLICES = 4
_REFINEMENTS = 2
_MOST_VOXELS = 20_000
_LOCAL_MM = 8.0
"""Radius (SD) over which the evidence for the moving layer is gathered: a bile duct is too small to decide alone."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageMotion:
    """What the images say about each repetition.

    Attributes
    ----------
    displacement_mm
        (repetition,) head-foot displacement of the moving organs, positive towards the head, median 0: images know
        differences, not an absolute position. 0 where nothing moves; NaN where nothing can be followed (fewer than
        four slices along the body, or no signal).
    misfit
        (repetition,) share of the energy of the moving layer that the template at this displacement leaves unexplained:
        a cough or a swallow blurs and ghosts, which no displacement explains.
    """

    displacement_mm: FloatArray
    misfit: FloatArray


def motion_from_images(repeated: RepeatedMultiEcho) -> ImageMotion:
    """Displacement and misfit of each repetition, from the first echo's magnitude (least loss over iron and lung)."""
    return follow(first_echo_magnitudes(repeated), repeated.grid)


def first_echo_magnitudes(repeated: RepeatedMultiEcho) -> FloatArray:
    """(repetition, x, y, z) float32 magnitude of the first echo, one repetition at a time."""
    stack = np.empty((repeated.n_repetitions, *repeated.grid.shape), np.float32)
    for r in range(repeated.n_repetitions):
        np.abs(repeated.signal[..., 0, r], out=stack[r])
    return stack


def follow(magnitudes: FloatArray, grid: VoxelGrid) -> ImageMotion:
    """Displacement and misfit of ``magnitudes`` (repetition, x, y, z), as :func:`motion_from_images`."""
    n = magnitudes.shape[0]
    axis = int(np.argmax(np.abs(grid.b0_direction)))
    unknown = ImageMotion(displacement_mm=np.full(n, np.nan), misfit=np.full(n, np.nan))
    if n < 2 or grid.shape[axis] < _FEWEST_SLICES or not magnitudes.any():
        return unknown
    smooth = _smoothed(magnitudes, axis)
    smooth /= _gains(smooth)[:, None, None, None]
    weight = smooth.var(axis=0)
    nothing_moves = ImageMotion(displacement_mm=np.zeros(n), misfit=np.zeros(n))
    if not weight.max() > 0:
        return nothing_moves
    template = smooth[_medoid(smooth, weight)]
    candidates_mm = np.arange(-_SEARCH_MM, _SEARCH_MM + 1, 2 * _STEP_MM)
    displacement_mm, misfit = _best_shifts_mm(smooth, template, weight, candidates_mm, grid)
    for _ in range(_REFINEMENTS):
        template, weight = _template_and_mobility(smooth, displacement_mm, grid)
        if not weight.max() > 0:
            return nothing_moves
        candidates_mm = np.arange(displacement_mm.min() - 3 * _STEP_MM, displacement_mm.max() + 3 * _STEP_MM, _STEP_MM)
        displacement_mm, misfit = _best_shifts_mm(smooth, template, weight, candidates_mm, grid)
    # rounded: the last bits depend on how many threads summed them
    return ImageMotion(displacement_mm=np.round(displacement_mm - np.median(displacement_mm), 3), misfit=np.round(misfit, 6))


def _smoothed(magnitudes: FloatArray, axis: int) -> FloatArray:
    """Slightly smoothed, so that the spline can carry a shift by part of a voxel: more across than along the body."""
    out = np.empty_like(magnitudes)
    sigma = [0.6 if k == axis else 1.0 for k in range(3)]
    for r in range(magnitudes.shape[0]):
        ndimage.gaussian_filter(magnitudes[r], sigma, output=out[r], mode="nearest")
    return out


def _gains(stack: FloatArray) -> FloatArray:
    """(repetition,) brightness of each repetition: median ratio to the mean image over its brighter half."""
    mean = stack.mean(axis=0)
    bright = mean > 0.5 * np.percentile(mean, 90)
    return np.array([float(np.median(volume[bright] / mean[bright])) for volume in stack], np.float32)


def _medoid(stack: FloatArray, weight: FloatArray) -> int:
    """The repetition nearest to all others."""
    flat = stack.reshape(stack.shape[0], -1)
    chosen = np.argsort(weight.ravel())[-_MOST_VOXELS:]
    flat = flat[:, chosen]
    distance = [float(np.abs(flat - one).mean(axis=1).sum()) for one in flat]
    return int(np.argmin(distance))


def _best_shifts_mm(
    stack: FloatArray, template: FloatArray, weight: FloatArray, candidates_mm: FloatArray, grid: VoxelGrid
) -> tuple[FloatArray, FloatArray]:
    """(repetition,) the candidate whose shifted template fits best, refined by a parabola, and what it leaves unexplained."""
    chosen = np.argsort(weight.ravel())[-_MOST_VOXELS:]
    chosen = chosen[weight.ravel()[chosen] > 0]
    root_weight = np.sqrt(weight.ravel()[chosen] / weight.max()).astype(np.float32)
    data = stack.reshape(stack.shape[0], -1)[:, chosen].T * root_weight[:, None]
    index = np.stack(np.unravel_index(chosen, grid.shape), axis=1)
    last = np.array(grid.shape) - 1
    gain_basis = np.concatenate([np.ones((chosen.size, 1)), 2 * index / last - 1], axis=1).astype(np.float32)
    energy = np.empty((candidates_mm.size, stack.shape[0]))
    for k, candidate_mm in enumerate(candidates_mm):
        shifted = shift_along_body(template, float(candidate_mm), grid).ravel()[chosen]
        source = index - candidate_mm * grid.b0_direction / grid.voxel_size_mm
        inside = ((source >= 0) & (source <= last)).all(axis=1)  # what came in over the slab's edge is not known
        design = gain_basis * (shifted * root_weight * inside)[:, None]
        known = data * inside[:, None]
        projections = design.T @ known
        explained = (projections * np.linalg.lstsq(design.T @ design, projections, rcond=None)[0]).sum(axis=0)
        energy[k] = 1 - explained / np.maximum((known**2).sum(axis=0), 1e-30)
    best = energy.argmin(axis=0)
    out = candidates_mm[best].astype(np.float64)
    for r, k in enumerate(best):
        if 0 < k < candidates_mm.size - 1:
            before, here, after = energy[k - 1 : k + 2, r]
            curvature = before - 2 * here + after
            if curvature > 0:
                out[r] += 0.5 * (before - after) / curvature * (candidates_mm[1] - candidates_mm[0])
    return out, energy.min(axis=0)


def _template_and_mobility(stack: FloatArray, displacement_mm: FloatArray, grid: VoxelGrid) -> tuple[FloatArray, FloatArray]:
    """Mean of the repetitions moved back, and the evidence of each voxel for the moving layer."""
    template = np.zeros(stack.shape[1:], np.float32)
    for volume, d in zip(stack, displacement_mm, strict=True):
        template += shift_along_body(volume, -float(d), grid)
    template /= stack.shape[0]
    still = stack.mean(axis=0)
    error_still = np.zeros_like(template)
    error_moved = np.zeros_like(template)
    for volume, d in zip(stack, displacement_mm, strict=True):
        error_still += (volume - still) ** 2
        error_moved += (volume - shift_along_body(template, float(d), grid)) ** 2
    sigma = _LOCAL_MM / grid.voxel_size_mm
    error_still = ndimage.gaussian_filter(error_still, sigma, mode="nearest")
    error_moved = ndimage.gaussian_filter(error_moved, sigma, mode="nearest")
    return template, np.maximum(error_still - error_moved, 0)

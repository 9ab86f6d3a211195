"""On which side of an organ's surface a voxel lies, by what is inside and what is outside near that place.

A liver without iron differs from the muscle of the flank by less than brightness differs across an abdomen. Beside each
other they differ by many times the noise, in brightness, fat and decay taken together. So every place has its own
levels inside and outside, and between them decides Fisher's linear discriminant (Ann Eugen 1936;7:179). A mask that holds
the wall down to the fat under the skin has no muscle outside it near that place: the wall is looked for along all of that fat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray, Mask
from hqsm.coarse_grid import CoarseGrid
from hqsm.data import VoxelGrid
from hqsm.liver.geometry import depth_mm, dilated, filled, largest_piece, opened
from hqsm.robust import MAD_TO_SD

_INSIDE_MM, _GAP_MM, _REACH_MM = 10.0, 5.0, 25.0
"""A level inside is that of what is deeper, one outside that of what is farther; a mask may be wrong between them."""
_NEAR_MM, _FAR_MM, _FAR_SHARE = 15.0, 50.0, 0.01
"""SD of the Gaussian neighbourhoods of a level; the wide one counts so little that it decides where the other is empty."""
_COARSE_MM = 8.0
_WALL_MM, _ZONE_MM, _SKIN_MM = 12.0, 25.0, 35.0
"""The wall is what lies as near to the fat under the skin; it is another side for what lies within the second of it."""
_FEWEST_VOXELS = 200
_LEAST_SD = 0.01
"""No voxel is known better: logarithms and fat fractions of one per cent."""
FAT, FAT_IN_PART = 0.5, 0.4
"""Fractions from which on a voxel is fat, and from which on it is no lean tissue."""
_INWARD_MM, _OUTWARD_MM, _NECK_MM = 16.0, 8.0, 5.0
"""How far the surface may move, inwards by as much as the wall of the flank is thick, and what is too thin for an organ."""
_ROUNDS = 2
_MOST_LIKELIHOOD, _PRIOR, _SURELY = 6.0, 1.0, 20.0
"""Logarithms of odds: of one voxel at most, of the first mask, of what must not change sides."""
_VOTES, _VOTE_MM = 6.0, 3.0
"""What a neighbourhood of one mind adds to them, and its SD."""
_SWEEPS = 6
_CROSS = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sides:
    """Both (x, y, z); where nothing is known of a voxel or its surroundings 0.5 and 0.

    Attributes
    ----------
    share
        Where a voxel lies between the level outside (0) and that of the organ (1); not cut off there.
    separation
        Distance of the two levels in standard deviations of single voxels.
    """

    share: FloatArray
    separation: FloatArray

    @property
    def likelihood(self) -> FloatArray:
        """(x, y, z) logarithm of P(voxel | organ) / P(voxel | its other side)."""
        ratio: FloatArray = (self.share - 0.5) * self.separation**2
        return ratio


def between_levels(
    organ: Mask, brightness: FloatArray, log_decay: FloatArray, pdff: FloatArray, tissue: Mask, body: Mask, grid: VoxelGrid
) -> Mask:
    """The organ with its surface where voxels change sides; itself where fat is not known.

    Voxels beside fat are fat in part, which tells nothing of the rest, and the edge there is a clear one: they follow the
    first mask and their neighbours.

    Parameters
    ----------
    organ
        (x, y, z) a mask, most of which is right.
    brightness, log_decay, pdff
        (x, y, z) see :class:`hqsm.liver.organ.Features`.
    tissue, body
        (x, y, z) what may be the organ, and where there is signal.
    """
    known = np.isfinite(pdff)
    if not organ.any() or float(known[organ].mean()) < 0.5:
        return organ
    values = np.stack([brightness, log_decay, np.nan_to_num(pdff)])
    lean = tissue & known & (np.nan_to_num(pdff) < FAT_IN_PART)
    fat = body & (np.nan_to_num(pdff) > FAT)
    beside_fat = ndimage.binary_dilation(fat, _CROSS)
    skin_fat = fat_under_skin(pdff, body, grid)
    for _ in range(_ROUNDS):
        likelihood = np.clip(sides(values, organ, lean, skin_fat, grid).likelihood, -_MOST_LIKELIHOOD, _MOST_LIKELIHOOD)
        odds = np.where(beside_fat, 0, likelihood) + np.where(organ, _PRIOR, -_PRIOR).astype(np.float32)
        inside = depth_mm(organ, grid) > _INWARD_MM
        around = dilated(organ, grid, _OUTWARD_MM) & tissue
        odds[~around], odds[inside] = -_SURELY, _SURELY
        found = around & _of_one_mind(odds, tissue | inside, grid)
        ball = largest_piece(opened(filled(found | inside), grid, _NECK_MM))
        organ = filled(ball | (dilated(ball, grid, _NECK_MM) & found))
    return organ


def _of_one_mind(odds: FloatArray, tissue: Mask, grid: VoxelGrid) -> Mask:
    """Where the organ is likelier once neighbours in ``tissue`` have voted: mean field of an Ising model."""
    sigma = _VOTE_MM / grid.voxel_size_mm
    voters = np.maximum(ndimage.gaussian_filter(tissue.astype(np.float32), sigma), 0.05)
    share = 1 / (1 + np.exp(-odds))
    for _ in range(_SWEEPS):
        vote = ndimage.gaussian_filter(np.where(tissue, share, 0), sigma) / voters - 0.5
        share = 1 / (1 + np.exp(-(odds + _VOTES * vote)))
    return np.asarray(share > 0.5)


def sides(values: FloatArray, organ: Mask, lean: Mask, skin_fat: Mask, grid: VoxelGrid) -> Sides:
    """Both sides of an organ's surface at every place.

    Parameters
    ----------
    values
        (n, x, y, z) what tells tissues apart, finite in ``lean``: logarithm of brightness, of decay, fat fraction ...
    organ
        (x, y, z) a mask of it, most of which is right.
    lean
        (x, y, z) tissue that is neither fat, lung nor gas.
    skin_fat
        (x, y, z) fat under the skin; empty where it is not known.
    """
    unknown = Sides(share=np.full(organ.shape, 0.5, np.float32), separation=np.zeros(organ.shape, np.float32))
    inside = organ & lean & (depth_mm(organ, grid) > _INSIDE_MM)
    if inside.sum() < _FEWEST_VOXELS:
        return unknown
    away_mm = ndimage.distance_transform_edt(~organ, sampling=grid.voxel_size_mm)
    others = [(lean & (away_mm > _GAP_MM) & (away_mm < _REACH_MM), lean)]
    if skin_fat.any():
        from_fat_mm = ndimage.distance_transform_edt(~skin_fat, sampling=grid.voxel_size_mm)
        # the voxels beside fat are fat in part
        wall = (from_fat_mm > float(grid.voxel_size_mm[:2].max())) & (from_fat_mm < _WALL_MM)
        others.append((lean & (away_mm > _GAP_MM) & wall, lean & (from_fat_mm < _ZONE_MM)))
    larger = CoarseGrid(grid, _COARSE_MM)
    here = _levels(values, inside, larger)
    noise = _covariance(values, here, inside)
    share, separation, least = unknown.share, unknown.separation, np.full(organ.shape, np.inf, np.float32)
    for other, where in others:
        if other.sum() < _FEWEST_VOXELS:
            continue
        there = _levels(values, other, larger)
        inverse = np.linalg.inv(0.5 * (noise + _covariance(values, there, other))).astype(np.float32)
        step = here - there
        direction = np.tensordot(inverse, step, axes=1)
        squared = np.maximum((direction * step).sum(axis=0), 1e-6)
        way = (direction * (values - there)).sum(axis=0) / squared
        likelihood = (way - 0.5) * squared
        likelier = where & (likelihood < least)
        share[likelier], separation[likelier], least[likelier] = way[likelier], np.sqrt(squared[likelier]), likelihood[likelier]
    return Sides(share=share, separation=separation)


def fat_under_skin(pdff: FloatArray, body: Mask, grid: VoxelGrid) -> Mask:
    """Voxels of mostly fat (``pdff`` 0..1, NaN where unknown) within 35 mm of the body's outline in the axial plane."""
    return np.asarray(body & (np.nan_to_num(pdff) > FAT) & _near_outline(body, grid))


def _near_outline(body: Mask, grid: VoxelGrid) -> Mask:
    outside = ~ndimage.binary_fill_holes(body.any(axis=2))
    from_air_mm = ndimage.distance_transform_edt(~outside, sampling=grid.voxel_size_mm[:2])[:, :, None]
    return np.asarray(from_air_mm < _SKIN_MM)


def _levels(values: FloatArray, where: Mask, larger: CoarseGrid) -> FloatArray:
    """(n, x, y, z) mean of each value over the neighbourhood's voxels in ``where``."""
    held = [larger.sum(where), *(larger.sum(np.where(where, value, 0)) for value in values)]
    size_mm = larger.grid.voxel_size_mm
    blurred = [
        ndimage.gaussian_filter(part, _NEAR_MM / size_mm) + _FAR_SHARE * ndimage.gaussian_filter(part, _FAR_MM / size_mm) for part in held
    ]
    weight = np.maximum(blurred[0], 1e-9)
    # far from all of it the mean of all is as good as any
    overall = [float(value[where].mean()) for value in values]
    means = [np.where(blurred[0] > 1e-6, part / weight, mean) for part, mean in zip(blurred[1:], overall, strict=True)]
    return np.stack([larger.interpolated(mean) for mean in means])


def _covariance(values: FloatArray, levels: FloatArray, where: Mask) -> FloatArray:
    """(n, n) covariance of single voxels about their levels, of the middle of their distribution."""
    apart = (values - levels)[:, where]
    apart -= np.median(apart, axis=1, keepdims=True)
    sd = np.maximum(MAD_TO_SD * np.median(np.abs(apart), axis=1), _LEAST_SD)
    scaled = np.clip(apart / sd[:, None], -3, 3)
    moments = scaled @ scaled.T / scaled.shape[1]
    spread = np.sqrt(np.maximum(np.diag(moments), _LEAST_SD**2))
    correlation = moments / np.outer(spread, spread)
    np.fill_diagonal(correlation, 1)
    return np.asarray(correlation * np.outer(sd, sd))

"""How much of each voxel is iron-loaded liver, from R2* near the edge of a mask that may be a voxel off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray, Mask, box_around
from hqsm.data import VoxelGrid, WaterFat
from hqsm.fit_models import WITHOUT_FAT
from hqsm.liver.sides import FAT, FAT_IN_PART, fat_under_skin, sides

REACH_VOXELS = 2
"""How far from a mask's edge the data decide what is liver."""
_NO_CONTRAST, _FULL_CONTRAST = 8.0, 35.0
"""R2* of liver less that of its surroundings [1/s]: below the first the mask decides alone, beyond the second the data do. Noise of
a voxel there is 5 to 10 1/s at 1.5 T and 10 to 16 at 3 T, but means over neighbours are asked."""
_NOISE_SHARE = 0.25
_HALF_LIVER, _ALL_OF_THE_WAY = (0.57, 0.39), 0.7
"""Where on the way of R2* a voxel that is half liver lies, with little and with much iron, and the way between no and all liver. Two
fields beat in it, which is decay; of much iron its brighter half is seen. Of eight visits with 0.5 to 6 ppm."""
_LITTLE_TO_MUCH_PER_S_AT_1T5 = (170.0, 480.0)
_NO_SEPARATION, _FULL_SEPARATION = 2.0, 5.0
"""Distance in standard deviations between what is inside and outside near a place (brightness, fat and R2* together), for the same."""
_LEAST_TOLD, _MOVES_VOXELS = 0.05, np.linspace(-1.5, 1.5, 31)
"""Share of the mask's edge that the levels must tell for the rest of it to follow, and how far. A twentieth finds a mask that is a
voxel off (docs/susceptibility_accuracy.md); where three tenths were asked for, one just short of it was left as large as it was."""
_PURE_FAT_PERCENT, _FAINT = 85.0, 0.4
_STRONG_CONTRAST = 140.0
_OF_THE_LIVER = 0.6
"""Where R2* stands out by so much more [1/s], what touches the mask with this share of its contrast is liver that the mask has missed."""
_CUT_ACROSS, _LIKE_THE_LIVER = 1.0, (0.75, 1.3)
"""Least contact of such a part over its volume to 2/3 (half a ball cut off: 1.9; a ball that dips into the mask's surroundings: 0.3 to
0.5), and its own contrast over the liver's."""
_CROSS = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class LiverShare:
    """What is liver, and who says so.

    Attributes
    ----------
    share
        (x, y, z) share of each voxel that is liver, 0..1.
    hole
        (x, y, z) share of each voxel that the mask counts as liver and that is a vessel, or a lesion without iron.
    seen
        How far R2* decides at the mask's edge: 1 where it tells the liver from its surroundings, 0 where the mask decides alone.
    """

    share: FloatArray
    hole: FloatArray
    seen: float


def liver_share(maps: WaterFat, body: Mask, liver: Mask, not_tissue: Mask, slower: Mask) -> LiverShare:
    """How much of each voxel is liver.

    Farther than two voxels from the mask's edge the mask is right, but for what decays more slowly than the liver around
    it (``slower``: vessels and lesions without iron, :func:`hqsm.liver.vessels.vessels`). There and near the edge a voxel is
    liver in the share of the way that its R2* has from that of the surroundings to that of the liver: iron that raises the
    susceptibility raises R2*. The mask decides where R2* does not tell them apart, and there little depends on it. Of much
    iron, what touches the mask and is like it is liver as well.

    A mask whose surface lies more than half a voxel off what is found is moved there and the same is asked of it: what is
    inside, what surrounds it and how far the data decide are counted from its edge.
    """
    found, off_voxels = _found_around(maps, body, liver, not_tissue, slower)
    voxels = round(off_voxels)
    if voxels == 0:
        return found
    nearer = moved(liver, voxels) & body
    return _found_around(maps, body, nearer, not_tissue, slower)[0] if nearer.any() else found


def _found_around(maps: WaterFat, body: Mask, liver: Mask, not_tissue: Mask, slower: Mask) -> tuple[LiverShare, float]:
    """The share by what is near the edge of this mask, and by how many voxels its surface lies outside of the mask's."""
    drawn = liver.astype(np.float32)
    core, around = moved(liver, -REACH_VOXELS), moved(liver, REACH_VOXELS) & body
    near_edge = around & ~core & ~not_tissue
    r2star = np.minimum(r2star_or_limit(maps, without_fat(maps)), maps.r2star_limit_per_s)
    ring = moved(liver, 2 * REACH_VOXELS) & ~around & body & ~not_tissue & np.isfinite(maps.r2star_per_s)
    inner = core if core.any() else liver
    if not ring.any() or not np.isfinite(r2star[inner]).any():
        return LiverShare(share=drawn, hole=np.zeros_like(drawn), seen=0.0), 0.0
    level, surroundings = float(np.nanmedian(r2star[inner])), float(np.median(r2star[ring]))
    trust = np.float32(np.clip((level - surroundings - _NO_CONTRAST) / (_FULL_CONTRAST - _NO_CONTRAST), 0, 1))
    if trust < 1:
        drawn = _by_levels(maps, body, liver, near_edge, drawn)
    if trust == 0:
        return LiverShare(share=drawn, hole=np.zeros_like(drawn), seen=0.0), _lies_off(_depth(liver)[near_edge], drawn[near_edge])
    known = np.isfinite(r2star)
    near = mean_of_known(np.where(known, r2star, 0), known)
    way = (near - surroundings) / (level - surroundings)
    band = near_edge
    if level - surroundings > _STRONG_CONTRAST:
        alike = ndimage.binary_opening(known & (way > _OF_THE_LIVER) & body & ~not_tissue, _CROSS)
        band = near_edge | _missed(ndimage.binary_propagation(around & alike, _CROSS, mask=alike) & ~core, around, way, maps.grid)
    seen = _by_way(way, (level - surroundings) * 1.5 / maps.field_strength_tesla)
    organ = np.where(band & known, trust * seen + (1 - trust) * drawn, drawn)
    # in a hole that the mask of vessels has found no noise is to be cut off
    share = np.where(slower & liver & known, np.minimum(organ, 1 - trust * (1 - np.clip(way, 0, 1))), organ)
    off_voxels = _lies_off(_depth(liver)[near_edge], organ[near_edge])
    return LiverShare(share=np.asarray(share, np.float32), hole=np.asarray(organ - share, np.float32), seen=float(trust)), off_voxels


def _by_way(way: FloatArray, contrast_per_s_at_1t5: float) -> FloatArray:
    """Share of liver by the place of a voxel's R2* between surroundings and liver, whose R2* differs by the contrast."""
    half = float(np.interp(contrast_per_s_at_1t5, _LITTLE_TO_MUCH_PER_S_AT_1T5, _HALF_LIVER))
    share: FloatArray = np.clip((way - half) / _ALL_OF_THE_WAY + 0.5, 0, 1)
    return share


def _missed(joined: Mask, around: Mask, way: FloatArray, grid: VoxelGrid) -> Mask:
    """What of ``joined`` is a part of the liver that the mask ends before, and no other organ with iron that touches it.

    A mask that ends too early has cut the liver across; a spleen touches it. And iron of one organ is of one kind.
    """
    labels, n = ndimage.label(joined & ~around, _CROSS)
    touching = ndimage.binary_dilation(around, _CROSS)
    size_mm = 1e3 * grid.voxel_volume_ml
    parts = np.zeros_like(joined)
    for label in range(1, n + 1):
        piece = labels == label
        volume_mm3 = float(piece.sum()) * size_mm
        contact_mm2 = float((piece & touching).sum()) * size_mm ** (2 / 3)
        if contact_mm2 > _CUT_ACROSS * volume_mm3 ** (2 / 3) and _LIKE_THE_LIVER[0] < float(np.median(way[piece])) < _LIKE_THE_LIVER[1]:
            parts |= piece
    return parts


def _by_levels(maps: WaterFat, body: Mask, liver: Mask, band: Mask, drawn: FloatArray) -> FloatArray:
    """The share of liver in ``band`` by the levels of brightness, fat and R2* on either side of the mask's edge, near each place.

    Where they are too near each other, or a voxel holds fat, it is as it was drawn, moved with the rest.
    """
    pdff = maps.pdff_percent
    fitted = body & (maps.model > 0) & np.isfinite(pdff) & np.isfinite(maps.r2star_per_s) & (maps.amplitude > 0)
    fat = fitted & (np.nan_to_num(pdff) > 100 * FAT)
    lean = fitted & ~fat
    if not (lean & liver).any():
        return drawn
    bright = float(np.median(maps.amplitude[lean & liver]))
    lean &= (np.nan_to_num(pdff) < 100 * FAT_IN_PART) & (maps.amplitude > _FAINT * bright)
    values = [np.where(lean, v, 0) for v in (np.log(np.maximum(maps.amplitude, 1e-3 * bright)), 0.01 * pdff, 0.01 * maps.r2star_per_s)]
    found = sides(np.stack([mean_of_known(v, lean) for v in values]), liver, lean, fat_under_skin(0.01 * pdff, body, maps.grid), maps.grid)
    trust = np.clip((found.separation - _NO_SEPARATION) / (_FULL_SEPARATION - _NO_SEPARATION), 0, 1)
    told = band & lean & ~ndimage.binary_dilation(fat, _CROSS)
    drawn = _moved_to_what_is_told(liver, drawn, _without_noise(found.share), np.where(told, trust, 0), band)
    own = float(np.median(pdff[lean & liver]))
    rest = np.where(band & fitted, np.minimum(drawn, _without_noise(not_fat(pdff, own))), drawn)
    return np.where(told, trust * _without_noise(found.share) + (1 - trust) * drawn, rest).astype(np.float32)


def not_fat(pdff_percent: FloatArray, own_percent: float) -> FloatArray:
    """Share of each voxel that is no fat tissue, where the liver has a fat fraction of its own."""
    share: FloatArray = np.clip((_PURE_FAT_PERCENT - pdff_percent) / (_PURE_FAT_PERCENT - own_percent), 0, 1)
    return share


def _moved_to_what_is_told(liver: Mask, drawn: FloatArray, told: FloatArray, trust: FloatArray, band: Mask) -> FloatArray:
    """The drawn share, its surface moved everywhere by as much as it lies off, on average, where the levels tell.

    ``told`` is the share by them and ``trust`` (0..1) how far they are believed. A mask that is a voxel too large is so all around.
    """
    if trust.sum() < _LEAST_TOLD * band.sum():
        return drawn
    depth, where = _depth(liver), trust > 0
    return _share_at(depth + _lies_off(depth[where], told[where], trust[where]))


def _lies_off(depth_voxels: FloatArray, told: FloatArray, trust: FloatArray | float = 1.0) -> float:
    """How far outside of a surface the one lies that fits the told shares of voxels at such depths below it [voxels]."""
    if not told.size:
        return 0.0
    misfits = [float(np.sum(trust * (_share_at(depth_voxels + d) - told) ** 2)) for d in _MOVES_VOXELS]
    return float(_MOVES_VOXELS[int(np.argmin(misfits))])


def _depth(mask: Mask) -> FloatArray:
    """Depth of voxels' middles below a mask's surface [voxels], negative outside; told in reach of the mask, where it is asked for."""
    reach = 2 * REACH_VOXELS
    box = tuple(slice(max(0, found.start - reach), found.stop + reach) for found in box_around(mask))
    depth = np.full(mask.shape, -np.inf, np.float32)
    inside = mask[box]
    depth[box] = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return depth - np.float32(0.5) * np.sign(depth)


def _share_at(depth_voxels: FloatArray) -> FloatArray:
    """Share of a voxel whose middle lies so deep below a surface."""
    share: FloatArray = np.clip(0.5 + depth_voxels, 0, 1).astype(np.float32)
    return share


def _without_noise(way: FloatArray) -> FloatArray:
    """Share of liver by a voxel's place between two levels.

    Noise that is cut off at 0 and 1 alone would make liver of all that surrounds it and take some of what is inside.
    """
    share: FloatArray = np.clip((way - _NOISE_SHARE) / (1 - 2 * _NOISE_SHARE), 0, 1)
    return share


def without_fat(maps: WaterFat) -> Mask:
    """Voxels (x, y, z) that decay too fast for a fit with fat, or for any."""
    return np.asarray(maps.censored | np.isin(maps.model, WITHOUT_FAT))


def r2star_or_limit(maps: WaterFat, fast: Mask) -> FloatArray:
    """R2* [1/s] (x, y, z), where it has no value but is known to be ``fast`` what the echoes can measure at most, else NaN."""
    return np.where(np.isfinite(maps.r2star_per_s), maps.r2star_per_s, np.where(fast, maps.r2star_limit_per_s, np.nan))


def mean_of_known(values: FloatArray, known: Mask) -> FloatArray:
    """Mean over a voxel and, by half, its neighbours, of what is known: R2* of one voxel is noisy."""
    kernel = np.zeros((3, 3, 3), np.float32)
    kernel[_CROSS] = 0.25
    kernel[1, 1, 1] = 1
    weight = ndimage.convolve(known.astype(np.float32), kernel, mode="nearest")
    total = ndimage.convolve(values.astype(np.float32), kernel, mode="nearest")
    return np.asarray(total / np.maximum(weight, 1e-6))


def moved(mask: Mask, voxels: int) -> Mask:
    """Dilated, or eroded for negative ``voxels``; beyond the images the organ goes on."""
    reach = abs(voxels)
    padded = np.pad(mask, reach, mode="edge")
    change = ndimage.binary_dilation if voxels > 0 else ndimage.binary_erosion
    return np.asarray(change(padded, _CROSS, reach)[reach:-reach, reach:-reach, reach:-reach])

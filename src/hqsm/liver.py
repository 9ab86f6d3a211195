"""Liver, vessels and reference tissues from the maps, or from a reader's labels where there are any."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import AnyArray, FloatArray, IntArray, Mask
from hqsm.config.liver import LiverParams
from hqsm.data import MultiEcho, Regions, VoxelGrid, WaterFat

_REFERENCES = ("fat", "aorta", "muscle", "medium")


def find_regions(
    echoes: MultiEcho, maps: WaterFat, reader_labels: dict[str, Mask] | None, params: LiverParams, *, specimen: str
) -> Regions:
    """Body, liver, vessels and reference tissues.

    A reader's labels decide where they exist (``liver``, ``vessel``, ``reference-fat`` ...); the rest is found from
    the maps. Without a plausible liver the mask is empty and the code ``MASK_NEEDS_READER`` says so.

    Parameters
    ----------
    echoes
        Gated echoes; the first one shows lung and gas as dark.
    maps
        Fat-water maps on the same grid.
    reader_labels
        Masks by name, or None.
    specimen
        ``in_vivo`` or ``in_vitro`` (a block of liver in a medium).
    """
    body = _body(maps)
    references: dict[str, Mask] = {}
    labels = reader_labels or {}
    codes: list[str] = []
    if "liver" in labels:
        whole, source = labels["liver"] & body, "reader"
    else:
        whole, source = (_block(maps, body) if specimen == "in_vitro" else _liver(echoes, maps, body)), "automatic"
        codes.append("MASK_AUTOMATIC")
        volume_ml = float(whole.sum()) * maps.grid.voxel_volume_ml
        smallest = 20.0 if specimen == "in_vitro" else params.smallest_volume_ml
        if not smallest <= volume_ml <= params.largest_volume_ml:
            codes.append("MASK_NEEDS_READER")
            whole = np.zeros_like(whole)
    vessel = labels["vessel"] & whole if "vessel" in labels else _vessels(maps, whole)
    core = _eroded(whole, maps.grid, params.edge_mm) & ~vessel & (maps.model > 0)
    if specimen == "in_vitro":
        references["medium"] = _eroded(body, maps.grid, 8.0) & ~_dilated(whole, maps.grid, 8.0)
    else:
        references.update(_reference_tissues(maps, body, whole))
    for name in _REFERENCES:
        if f"reference-{name}" in labels:
            references[name] = labels[f"reference-{name}"] & body
    references = {name: mask for name, mask in references.items() if mask.sum() >= 20}
    return Regions(
        body=body,
        liver=core,
        liver_whole=whole,
        vessel=vessel,
        references=references,
        mask_source=source,
        grid=maps.grid,
        codes=tuple(codes),
    )


def _body(maps: WaterFat) -> Mask:
    """The largest connected piece of fitted voxels; enclosed lung and gas stay out of it."""
    fitted = (maps.model > 0) & np.isfinite(maps.field_hz)
    labels, n = ndimage.label(ndimage.binary_opening(fitted))
    if n == 0:
        return np.asarray(fitted)
    largest = labels == 1 + int(np.argmax(ndimage.sum_labels(fitted, labels, range(1, n + 1))))
    return np.asarray(ndimage.binary_dilation(largest) & fitted)


def _ball(grid: VoxelGrid, radius_mm: float) -> AnyArray:
    """Structuring element: every voxel whose centre lies within ``radius_mm``."""
    reach = [int(radius_mm // d) for d in grid.voxel_size_mm]
    axes = np.meshgrid(*(np.arange(-r, r + 1) * d for r, d in zip(reach, grid.voxel_size_mm, strict=True)), indexing="ij")
    return np.asarray(sum(a**2 for a in axes) <= radius_mm**2 + 1e-6)


def _eroded(mask: Mask, grid: VoxelGrid, radius_mm: float) -> Mask:
    """Voxels deeper than ``radius_mm``; beyond the slab's ends the organ goes on."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"), sampling=grid.voxel_size_mm)
    return np.asarray(distance[1:-1, 1:-1, 1:-1] > radius_mm) & mask


def _dilated(mask: Mask, grid: VoxelGrid, radius_mm: float) -> Mask:
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=grid.voxel_size_mm) <= radius_mm)


def _world(grid: VoxelGrid) -> tuple[FloatArray, FloatArray, FloatArray]:
    """World coordinates [mm] of every voxel: x to the right, y to the front, z to the head."""
    i, j, k = np.indices(grid.shape, dtype=np.float32)
    a = grid.affine_mm
    x, y, z = (a[r, 0] * i + a[r, 1] * j + a[r, 2] * k + a[r, 3] for r in range(3))
    return x, y, z


def _smoothed(volume: FloatArray, valid: Mask, grid: VoxelGrid, sigma_mm: float) -> FloatArray:
    """Gaussian mean of the valid voxels; NaN where there are none near."""
    sigma = sigma_mm / grid.voxel_size_mm
    weight = ndimage.gaussian_filter(valid.astype(np.float32), sigma)
    value = ndimage.gaussian_filter(np.where(valid, volume, 0).astype(np.float32), sigma)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: FloatArray = np.where(weight > 0.05, value / weight, np.nan)
    return mean


def _liver(echoes: MultiEcho, maps: WaterFat, body: Mask) -> Mask:
    """The large homogeneous organ of water on the patient's right, whatever its R2*.

    In severe iron the liver is dark: so it is grown in R2* and in signal at TE = 0, not in the images' brightness.
    """
    grid = maps.grid
    if not np.isfinite(maps.pdff_percent).any():
        return np.zeros(grid.shape, bool)  # without a fat fraction liver cannot be told from fat
    amplitude = np.abs(np.nan_to_num(maps.water) + np.nan_to_num(maps.fat))
    typical = float(np.median(amplitude[body]))
    r2star = np.nan_to_num(maps.r2star_per_s, nan=maps.r2star_limit_per_s)
    pdff = np.nan_to_num(maps.pdff_percent, nan=0.0)
    soft = body & (pdff < 45) & (amplitude > 0.4 * typical)
    x, _, _ = _world(grid)
    right = x - float(np.median(x[body]))
    smooth = _smoothed(np.log(np.clip(r2star, 10, None)), soft, grid, 4.0)
    spread = np.sqrt(np.maximum(_smoothed(np.log(np.clip(r2star, 10, None)) ** 2, soft, grid, 4.0) - smooth**2, 0))
    # the seed: deepest inside soft tissue on the right, in a homogeneous place
    depth = ndimage.distance_transform_edt(soft & (right > 15) & (spread < 0.6), sampling=grid.voxel_size_mm)
    if depth.max() < 12:
        return np.zeros(grid.shape, bool)
    core = depth > 0.6 * depth.max()
    labels, _ = ndimage.label(core)
    seed = np.unravel_index(int(np.argmax(depth)), depth.shape)
    core = labels == labels[seed]
    level = float(np.median(smooth[core]))
    width = max(0.25, 3 * 1.4826 * float(np.median(np.abs(smooth[core] - level))))
    amplitude_level = float(np.median(amplitude[core]))
    # tissue with ordinary R2* is everywhere; the fainter the contrast, the more shape has to decide
    alike = soft & (np.abs(smooth - level) < width) & (np.abs(amplitude / amplitude_level - 1) < 0.45)
    opened = ndimage.binary_opening(ndimage.binary_fill_holes(alike), structure=_ball(grid, 8.0))
    opened = np.asarray(opened) & (right > -75)
    labels, _ = ndimage.label(opened)
    inside = np.unique(labels[core & opened])
    grown = np.isin(labels, inside[inside > 0])
    if not grown.any():
        return np.zeros(grid.shape, bool)
    closed = ndimage.binary_closing(np.pad(grown, 3), structure=_ball(grid, 8.0))[3:-3, 3:-3, 3:-3]
    return np.asarray(ndimage.binary_fill_holes(closed) & body)


def _block(maps: WaterFat, body: Mask) -> Mask:
    """An explanted block in its medium: what decays faster than the medium by far, in one piece."""
    inner = _eroded(body, maps.grid, 4.0)
    r2star = np.nan_to_num(maps.r2star_per_s, nan=maps.r2star_limit_per_s)
    if not inner.any():
        return inner
    medium = float(np.percentile(r2star[inner], 20))
    high = float(np.percentile(r2star[inner], 95))
    block = ndimage.binary_opening(inner & (r2star > 0.5 * (medium + high)), structure=_ball(maps.grid, 4.0))
    labels, n = ndimage.label(block)
    if n == 0:
        return np.zeros_like(body)
    largest = labels == 1 + int(np.argmax(ndimage.sum_labels(block, labels, range(1, n + 1))))
    return np.asarray(ndimage.binary_fill_holes(largest))


def _vessels(maps: WaterFat, liver: Mask) -> Mask:
    """Voxels whose R2* is far below that of the liver around them."""
    if not liver.any():
        return liver
    r2star = np.nan_to_num(maps.r2star_per_s, nan=maps.r2star_limit_per_s)
    local = _smoothed(r2star, liver, maps.grid, 12.0)
    with np.errstate(invalid="ignore"):
        low = liver & (_smoothed(r2star, liver, maps.grid, 2.0) < 0.7 * local)
    return np.asarray(low)


def _reference_tissues(maps: WaterFat, body: Mask, liver: Mask) -> dict[str, Mask]:
    """Subcutaneous fat below the skin and muscle beside the spine."""
    grid = maps.grid
    pdff = np.nan_to_num(maps.pdff_percent, nan=-1)
    outside = ~ndimage.binary_fill_holes(body.any(axis=2))
    depth_mm = ndimage.distance_transform_edt(~outside, sampling=grid.voxel_size_mm[:2])[:, :, None]
    fat = body & (pdff > 70) & (depth_mm < 25)
    x, y, _ = _world(grid)
    left_right = x - float(np.median(x[body]))
    back = float(np.percentile(y[body], 3))
    r2star = np.nan_to_num(maps.r2star_per_s, nan=1e3)
    lean = body & (pdff > -15) & (pdff < 15) & (r2star < 90 * maps.field_strength_tesla / 1.5) & (maps.model > 0)
    beside_spine = (np.abs(left_right) > 22) & (np.abs(left_right) < 70) & (y > back + 12) & (y < back + 60)
    muscle = _eroded(np.asarray(lean & beside_spine & ~_dilated(liver, grid, 10.0)), grid, 3.0)
    labels: IntArray
    labels, n = ndimage.label(muscle)
    if n:
        sizes = ndimage.sum_labels(muscle, labels, range(1, n + 1))
        muscle = np.isin(labels, 1 + np.flatnonzero(sizes >= 15))
    return {"fat": np.asarray(_eroded(np.asarray(fat), grid, 2.0)), "muscle": np.asarray(muscle)}

"""Liver, vessels and reference tissues from the maps, or from readers' masks where there are any."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray, Mask
from hqsm.config.liver import LiverParams
from hqsm.data import MultiEcho, Regions, VoxelGrid, WaterFat
from hqsm.gating.noise import noise_sd_from_background
from hqsm.liver.geometry import depth_mm, dilated, eroded, filled, largest_piece, opened, smoothed
from hqsm.liver.organ import features, find_organ
from hqsm.liver.plausibility import not_a_body, not_a_liver
from hqsm.liver.references import FEWEST_VOXELS, REFERENCES, medium, reference_tissues
from hqsm.liver.vessels import near_gas, vessels
from hqsm.robust import median_and_scaled_mad

Labels = Mapping[str, Mask]
"""Masks of one reader by name, see docs/masks.md: ``liver``, ``liver-roi``, ``right-lobe``, ``segment-5``, ``reference-fat`` ..."""
REPEAT_MARK = "."
"""A reader's second reading of the same scan is named ``A.2``: it counts for repeatability, not for the study's value."""
_NEIGHBOURHOOD_MM = 4.0
_LEAST_POWER = 3.0
"""Signal power over noise variance: noise alone scatters by 0.5 over a neighbourhood of 15 voxels."""
_WALL_MM, _BLOCK_BLUR_MM = 4.0, 3.0
_STANDS_OUT = 3.0
"""Distance between a block's decay and its medium's, in spreads of their means over 3 mm: 4.5 to 9 where the block has 0.12 ppm at
3 T, 12 and more beyond 0.4 ppm, 2 where there is none."""
RIGHT_LOBE = tuple(f"segment-{n}" for n in (5, 6, 7, 8))


def find_regions(echoes: MultiEcho, maps: WaterFat, readings: Mapping[str, Labels], params: LiverParams, *, specimen: str) -> Regions:
    """Body, liver, vessels and reference tissues.

    Readers' masks decide where they exist; the rest is found from the maps. Without a plausible liver the mask is empty,
    the code ``MASK_NEEDS_READER`` says so and ``Regions.reason`` why; ``MASK_EMPTY`` says that of a mask, or of what readers agree on,
    nothing is left to measure.

    Parameters
    ----------
    echoes
        Gated echoes.
    maps
        Fat-water maps on the same grid.
    readings
        Labels by reader; empty without readers.
    specimen
        ``in_vivo`` or ``in_vitro`` (a block of liver in a medium).
    """
    grid = maps.grid
    body = find_body(maps)
    codes: list[str] = []
    reason = ""
    # a liver with very much iron is a hole in what can be fitted: what a reader drew there is liver, and counted as not fitted
    trunk = filled(body)
    drawn = {name: _whole(labels) & trunk for name, labels in readings.items()}
    drawn = {name: mask for name, mask in drawn.items() if mask.any()}
    first = {name: mask for name, mask in drawn.items() if REPEAT_MARK not in name} or drawn
    if drawn:
        whole, source = consensus(list(first.values())), "reader"
        if not any("liver" in readings[name] or _segments(readings[name]) for name in first):
            # spots in the liver say nothing of the organ that the susceptibility model wants
            organ, why = _automatic(echoes, maps, body, params, specimen)
            whole = whole | organ if not why else whole
    else:
        source = "automatic"
        codes.append("MASK_AUTOMATIC")
        whole, reason = _automatic(echoes, maps, body, params, specimen)
        if reason:
            codes.append("MASK_NEEDS_READER")
    whole_organs = [name for name in drawn if "liver" in readings[name] or _segments(readings[name])]
    marked = [labels["vessel"] for labels in readings.values() if "vessel" in labels]
    vessel = consensus(marked) & whole if marked else vessels(maps, whole)
    fitted = np.asarray(maps.model > 0)

    def usable(mask: Mask, *, spots: bool) -> Mask:
        return (mask if spots else eroded(mask, grid, params.edge_mm)) & ~vessel & fitted

    cores = {name: usable(drawn[name], spots=name not in whole_organs) for name in drawn}
    core = consensus([cores[name] for name in first]) if cores else usable(whole, spots=False)
    lost = [name for name, labels in readings.items() if _whole(labels).any() and not (name in cores and cores[name].any())]
    if lost or not (core.any() or reason):
        codes.append("MASK_EMPTY")
    gas = near_gas(echoes, body, whole, grid, params.gas_distance_mm) if specimen == "in_vivo" else np.zeros_like(whole)
    references: dict[str, Mask] = {}
    if specimen == "in_vitro":
        references["medium"] = medium(body, whole, grid)
    elif not not_a_body(maps, body):  # a bottle has no muscle, whatever lies where muscle would be
        references = reference_tissues(maps, body, whole)
    for name in REFERENCES:
        given = [labels[f"reference-{name}"] for labels in readings.values() if f"reference-{name}" in labels]
        if given:
            references[name] = consensus(given) & body
    return Regions(
        body=body,
        liver=core,
        liver_whole=whole,
        vessel=vessel,
        references={name: mask for name, mask in references.items() if mask.sum() >= FEWEST_VOXELS},
        mask_source=source,
        grid=grid,
        codes=tuple(codes),
        near_gas=gas,
        readings=cores,
        parts=_parts(readings, core, vessel, fitted),
        overlaps={f"{a}~{b}": dice(drawn[a], drawn[b]) for a, b in combinations(whole_organs, 2)},
        shares=_shares(maps, whole, core, vessel, gas, grid, params),
        reason=reason,
    )


def find_body(maps: WaterFat) -> Mask:
    """The largest connected piece of voxels with signal; enclosed gas stays out of it."""
    fitted = np.asarray(maps.model > 0)
    # a voxel-wide opening cuts the body from ghosts; thin slabs have no room for it along their short axis
    cut = np.asarray(ndimage.binary_opening(fitted, structure=np.ones((3, 3, 1), bool)))
    if not cut.any():
        return fitted
    return np.asarray(ndimage.binary_dilation(largest_piece(cut)) & fitted)


def above_the_noise(first_echo: FloatArray, noise_sd: float, grid: VoxelGrid) -> Mask:
    """Where neighbourhoods of the first echo's magnitude are brighter than noise, though single voxels may not be.

    The mean power of a neighbourhood of 8 mm less that of noise, ``2 SD^2``: a liver with very much iron is found by it.
    """
    everywhere = np.ones(first_echo.shape, bool)
    power = smoothed((first_echo / np.float32(noise_sd)) ** 2, everywhere, grid, _NEIGHBOURHOOD_MM) - 2
    return opened(np.asarray(power > _LEAST_POWER), grid, _NEIGHBOURHOOD_MM)


def consensus(masks: list[Mask]) -> Mask:
    """Voxels that at least half of the readers drew."""
    return np.asarray(2 * np.sum(masks, axis=0, dtype=np.int16) >= len(masks))


def dice(a: Mask, b: Mask) -> float:
    """Twice the common volume over the sum of both; NaN where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def _segments(labels: Labels) -> list[str]:
    return [name for name in labels if name.startswith("segment-") or name == "right-lobe"]


def _whole(labels: Labels) -> Mask:
    """One reader's liver: the label of that name, else the union of its parts, else the spots drawn in it."""
    if "liver" in labels:
        return labels["liver"]
    parts = [labels[name] for name in _segments(labels)] or [labels["liver-roi"]] if "liver-roi" in labels or _segments(labels) else []
    if not parts:
        return np.zeros_like(next(iter(labels.values())))
    return np.asarray(np.any(parts, axis=0))


def _automatic(echoes: MultiEcho, maps: WaterFat, body: Mask, params: LiverParams, specimen: str) -> tuple[Mask, str]:
    """The automatic mask, or an empty one and why there is none."""
    empty = np.zeros(maps.grid.shape, bool)
    if specimen == "in_vitro":
        block = _block(maps, body)
        if not block.any():
            return empty, "nothing decays faster than the medium"
        volume_ml = float(block.sum()) * maps.grid.voxel_volume_ml
        return (block, "") if 20.0 <= volume_ml <= params.largest_volume_ml else (empty, f"the block has {volume_ml:.0f} mL")
    reason = not_a_body(maps, body)
    if reason:
        return empty, reason
    noise_sd = echoes.noise_sd if np.isfinite(echoes.noise_sd) and echoes.noise_sd > 0 else noise_sd_from_background(echoes.signal)
    first = np.abs(echoes.signal[..., 0])
    if not noise_sd > 0:
        noise_sd = 1e-3 * float(first.max())
    # with very much iron most of the liver is too dark for a fit: then it is looked for in what neighbourhoods show
    for searched in (body, body | above_the_noise(first, noise_sd, maps.grid)):
        organ = find_organ(features(echoes, maps, searched, noise_sd), searched, maps.grid)
        reason = not_a_liver(organ, searched, first, noise_sd, maps.grid, params)
        if not reason:
            return organ, ""
    return empty, reason


def _block(maps: WaterFat, body: Mask) -> Mask:
    """An explanted block in its medium: what decays faster than the medium by far, in one piece; empty where nothing does.

    Means over a neighbourhood: of little iron a single voxel tells nothing. At the container's wall the field makes the
    medium decay as well, so that levels and the block's core are looked for away from it.
    """
    grid = maps.grid
    r2star = np.minimum(np.nan_to_num(maps.r2star_per_s, nan=maps.r2star_limit_per_s), maps.r2star_limit_per_s)
    inner, core = (eroded(body, grid, away_mm) & (maps.model > 0) for away_mm in (_WALL_MM, 2 * _WALL_MM))
    if not core.any():
        return core
    near = smoothed(r2star, core, grid, _BLOCK_BLUR_MM)
    halfway = float(np.percentile(near[core], [20, 95]).mean())
    found = filled(largest_piece(opened(np.asarray(core & (near > halfway)), grid, _WALL_MM)))
    if not _stands_out(near, eroded(found, grid, _WALL_MM), core & ~dilated(found, grid, _WALL_MM)):
        return np.zeros_like(body)
    # a block that touches the wall goes on there
    at_wall = inner & ~core & dilated(found, grid, _WALL_MM) & (smoothed(r2star, inner, grid, _BLOCK_BLUR_MM) > halfway)
    return np.asarray(found | at_wall)


def _stands_out(values: FloatArray, inside: Mask, outside: Mask) -> bool:
    """Whether the levels of both sides differ by more than each side varies."""
    if min(inside.sum(), outside.sum()) < FEWEST_VOXELS:
        return False
    (high, high_spread), (low, low_spread) = (median_and_scaled_mad(values[side]) for side in (inside, outside))
    return high - low > _STANDS_OUT * float(np.hypot(high_spread, low_spread))


def _parts(readings: Mapping[str, Labels], core: Mask, vessel: Mask, fitted: Mask) -> dict[str, Mask]:
    """Segments and right lobe that readers named; a part drawn by several is their consensus, without edge and vessels."""
    names = sorted({name for labels in readings.values() for name in _segments(labels)})
    parts = {name: consensus([labels[name] for labels in readings.values() if name in labels]) for name in names}
    lobe = [parts[name] for name in RIGHT_LOBE if name in parts]
    if lobe and "right-lobe" not in parts:
        parts["right-lobe"] = np.asarray(np.any(lobe, axis=0))
    return {name: mask & core & ~vessel & fitted for name, mask in parts.items()}


def _shares(maps: WaterFat, whole: Mask, core: Mask, vessel: Mask, gas: Mask, grid: VoxelGrid, params: LiverParams) -> dict[str, float]:
    """Share of the whole liver that is left out, by cause; a voxel may have several."""
    n = float(whole.sum())
    if n == 0:
        return {}
    edge, unknown = whole & (depth_mm(whole, grid) <= params.edge_mm), np.zeros_like(whole)
    causes = {
        "edge": edge,
        "vessel": vessel & whole,
        "near_gas": gas & core,
        "not_fitted": whole & (maps.model == 0),
        "not_converged": whole & (unknown if maps.convergence is None else maps.convergence > 1),
        "censored": whole & maps.censored,
        "large_residual": whole & (maps.residual > params.largest_residual),
    }
    return {name: float(mask.sum()) / n for name, mask in causes.items()}


__all__ = ["above_the_noise", "consensus", "dice", "find_body", "find_regions"]

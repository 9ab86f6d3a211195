"""What is expected of the sources of the field before it is looked at: air, gas, lungs, iron, bone, and their surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray, Mask
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Regions, VoxelGrid, WaterFat
from hqsm.fit_models import TWO_ECHOES, WITH_FAT
from hqsm.inversion.source_model import Beyond, Dome, Organ, Smooth, SourcePrior
from hqsm.liver.references.trunk import shows_the_back, trunk_position_mm
from hqsm.liver.sides import FAT_IN_PART
from hqsm.liver_share import REACH_VOXELS, liver_share, moved, not_fat, without_fat
from hqsm.other_iron import iron_elsewhere
from hqsm.units import proton_frequency_hz

AIR_PPM = 9.4
"""Air against water-like tissue: 0.36 - (-9.05) ppm (Schenck, Med Phys 1996;23:815)."""
_LUNG_PPM = 7.0
"""Lung at end-expiration, a quarter tissue and the rest air: between 6 and 8 ppm (docs/susceptibility.md)."""
_LUNG_SD_PPM = 2.0
_FAT_PPM, _FAT_SD_PPM = 0.6, 0.4
"""Fat against water-like tissue; published values spread from 0.2 to 1.2 ppm (docs/susceptibility.md)."""
_LIVER_SD_PPM = 5.0
_LIVER_HALF_LENGTH_MM, _SPLEEN_HALF_LENGTH_MM = 80.0, 55.0
"""How a liver whose own field says nothing goes on where the slab cuts it, lung in the place that it leaves, and a spleen beside it. Livers
that show their own field are known better than where they end: they would be 0.05 ppm lower, and scatter as much
(docs/susceptibility_accuracy.md)."""
_HOLE_SD_PPM = 0.5
"""Of the common level of what lies in the liver without iron: blood is 0.1 to 0.4 ppm from its oxygen."""
_VOXEL_SHARE = 0.2
"""How far a voxel of the liver by itself differs from the organ, over its level; without iron three times as far as other tissue."""
_AIR_SD_PPM = 0.02
_INSIDE_GAS = (0.3, 1.5, 60.0)
"""Deviations in lung and gas: of single voxels [ppm], shared [ppm], over what distance [mm]."""
_SURFACE = (0.6, 1.2, 40.0)
_UNKNOWN_SURFACE_SD_PPM = 1.5
_SPINE = (0.12, 0.3, 20.0)
"""Bone, -0.5 to -2.5 ppm, beside the reference tissues, and the vena cava before it, 0.1 to 0.4 ppm beside the liver: neither is told
from muscle by its signal. Shared deviations of 0.4 ppm and more would believe a region where water and fat are swapped."""
_TISSUE_SMOOTH = (0.015, 50.0)
_LIVER_EDGE_MM = 40.0
_LEAST_LIVER_EDGE_PPM = 0.05
_LIVER_EDGE_SHARE = 0.6
"""A mask's outermost voxels differ from the liver by so much of what R2* says of it."""
_MOSTLY_FAT, _SOME_FAT, _SKIN_VOXELS = 0.3, 0.1, 4
_KNOWN_FAT_SE_PERCENT = 15.0
_UNEVEN_SHARE, _UNEVEN_MM = 0.1, 30.0
"""How uneven iron lies in the liver, over its level, and over what distance. Without it the level would be that of the liver's
surface, where the field tells most, and not that of the whole."""
_DARK_UNEVEN_SHARE = 0.03
"""The same of a liver whose own field counts little: what shows outside does not tell uneven iron from more of it, and uneven iron
would be taken for what nothing contradicts."""
_SMALLEST_POCKET_ML = 2.0
_SMALLEST_LUNG_ML = 60.0
_NEAR_MM = 8.0
_STRONG_R2STAR_PER_S_AT_1T5 = 80.0
_TISSUE_R2STAR_PER_S_AT_1T5 = 30.0
"""Of what lies around the liver."""
_TRUSTED_R2STAR_PER_S_AT_1T5 = 300.0
"""Of a surface's voxel; beyond it the field varies so much inside the voxel that its signal does not tell how much is tissue."""
_ONE_VOXEL_FROM_A_SURFACE = 0.032
"""Error of the modelled field one (largest) voxel edge from a surface, over its step of susceptibility: 0.3 ppm from one of air."""
_BESIDE_LEFT_OUT = 4.0
"""So many times as much where the liver's own field is left out: it is then read from what lies next to surfaces, where the error is in
one sense all along them."""
_PPM_S_AT_1T5, _PPM_S_AT_3T, _NO_IRON_PPM = 0.0107, 0.0055, 0.05
"""Susceptibility over R2*: 0.41 ppm per mg/g (Curie) times 0.026 and 0.0135 mg/g per 1/s (Hernando 2023). A width, not a
value; its own numbers, so that another calibration does not change a susceptibility map."""
_MIXED = 1.0
"""Error of the fitted field in a voxel that the liver's surface cuts, over the liver's susceptibility. One decay and one field
are fitted to two tissues and the brighter one is seen at late echoes: off by 0.1 of the liver's susceptibility, but along
the whole surface in one sense, so that ten times that keeps the liver from answering for it (docs/susceptibility.md)."""
_MIXED_HOLE = 0.1
"""The same where a vessel or a lesion without iron is cut: as it is measured, as its surface lies all around it."""
_DARK_SHARE = 0.1
_TORN_PPM, _MOST_TORN = 1.7, 0.01
"""Half of the shift between water and fat, and the share of neighbours that may differ by more: none in livers whose field is
right to 1 ppm everywhere, a tenth where a quarter of the liver is wrong by the shift of fat."""
_EARLY_S = 1.2e-3
_BONE_SD_PPM = 1.0
_CROSS = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Expectation:
    """What the inversion is told besides the field.

    Attributes
    ----------
    prior
        Expected sources.
    without_data
        Gas and lung, and the voxels that a surface of air, gas or lung cuts through: these show the field of their tissue side.
    liver_is_dark
        Whether the liver's decay is so fast that much of it was fitted without fat: its own field is uncertain, and its
        susceptibility much what its surroundings show.
    liver_is_left_out
        Whether it is torn and left out as well: its susceptibility is wholly what its surroundings show.
    liver_edge_seen
        How far R2* tells the liver from what surrounds it, 0..1; where it does not, the mask decides alone.
    field_error_ppm
        (x, y, z) error of the modelled field near surfaces: voxels say how much air they hold, not where in them it lies.
    """

    prior: SourcePrior
    without_data: Mask
    liver_is_dark: bool
    liver_is_left_out: bool
    liver_edge_seen: float
    field_error_ppm: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Air:
    """Where there is air: ``mean_ppm``, the share of a voxel that is ``tissue``, and, as masks, its insides and the voxels that it cuts."""

    mean_ppm: FloatArray
    tissue: FloatArray
    outside: Mask
    pockets: Mask
    surface: Mask
    lungs: tuple[Organ, ...]


def expected_sources(maps: WaterFat, regions: Regions, params: SusceptibilityParams, *, specimen: str) -> Expectation:
    """Expected sources of one visit, from its signal, R2* and fat fraction and its regions.

    A voxel that the surface of the body, a lung or gas cuts through is air or lung in the share of signal that it lacks. R2*
    says how strong the liver may be, not how strong it is: it is the width of what is expected.
    """
    body, grid = regions.body, maps.grid
    torn = _liver_is_torn(maps, regions)
    dark = torn or _liver_is_unfitted(maps, regions)
    air = _find_air(maps, regions, liver_is_dark=dark)
    tissue = body & ~air.surface & ~air.pockets
    iron = np.nan_to_num(maps.r2star_per_s) / (_STRONG_R2STAR_PER_S_AT_1T5 * maps.field_strength_tesla / 1.5)
    sd = (params.tissue_sd_ppm * np.clip(iron, 1, 4)).astype(np.float32)
    found = liver_share(maps, body, regions.liver_whole, air.surface | air.pockets, regions.vessel)
    share, hole = found.share, found.hole
    # a lung's surface lies on the liver's dome: a voxel that it cuts is liver in what of it is neither air nor fat
    share[air.surface] *= (air.tissue * _lean(maps, regions.liver))[air.surface]
    share[air.pockets] = hole[air.surface | air.pockets] = 0
    organ = share + hole
    organ_edge = _surface(organ > 0.5)
    iron_ppm = _liver_ppm(maps, regions)
    liver_zone = ndimage.binary_dilation(share > 0.3, iterations=2) & body
    sd[liver_zone] = np.maximum(sd[liver_zone], 3 * params.tissue_sd_ppm)
    uneven_share = _DARK_UNEVEN_SHARE if dark else _UNEVEN_SHARE
    sd = np.maximum(sd, np.where(share > 0.5, np.float32(_VOXEL_SHARE * iron_ppm), 0))
    mean = air.mean_ppm.copy()
    sd[air.pockets] = _INSIDE_GAS[0]
    sd[air.outside] = _AIR_SD_PPM
    sd[air.surface] = _SURFACE[0]
    untold = air.surface & body & ~_tells_its_tissue(maps)
    sd[untold] = _UNKNOWN_SURFACE_SD_PPM
    smooth = [_shared(air.surface, _SURFACE[1], _SURFACE[2]), _shared(air.pockets, _INSIDE_GAS[1], _INSIDE_GAS[2])]
    smooth.append(_shared(tissue, *_TISSUE_SMOOTH))

    organs = []
    if regions.liver_whole.any():
        organs.append(Organ(share=share, level_sd_ppm=_LIVER_SD_PPM, half_length_mm=torn * _LIVER_HALF_LENGTH_MM, may_hold_lesions=True))
        if hole.any():
            organs.append(Organ(share=hole, level_sd_ppm=_HOLE_SD_PPM, may_hold_lesions=True))
        liver_edge = organ_edge & tissue
        edge_sd = _LEAST_LIVER_EDGE_PPM + _LIVER_EDGE_SHARE * iron_ppm
        sd[liver_edge] = np.maximum(sd[liver_edge], edge_sd)
        smooth.append(_shared(liver_edge, edge_sd, _LIVER_EDGE_MM))
        smooth.append(Smooth(sd_ppm=share * np.float32(uneven_share * iron_ppm), spacing_mm=_UNEVEN_MM))
    organs += air.lungs
    spine = _spine(body, grid) if specimen == "in_vivo" else np.zeros_like(body)
    sd[spine] = np.maximum(sd[spine], _SPINE[0])
    smooth.append(_shared(spine & tissue, _SPINE[1], _SPINE[2]))
    marrow = _marrow(maps, spine & tissue)
    if marrow.any():
        organs.append(Organ(share=marrow.astype(np.float32), level_sd_ppm=_BONE_SD_PPM, goes_on=True))
    for fat in _fats(maps, body & ~air.pockets, air.outside):
        fat *= np.clip(1 - air.mean_ppm / AIR_PPM, 0, 1)
        fat[marrow] = 0
        mean += _FAT_PPM * fat
        organs.append(Organ(share=fat, level_sd_ppm=_FAT_SD_PPM))
    tissue_per_s = _TISSUE_R2STAR_PER_S_AT_1T5 * maps.field_strength_tesla / 1.5
    elsewhere = tissue & ~moved(liver_zone, 1) & ~spine
    for part, excess_per_s in iron_elsewhere(maps, elsewhere, tissue_per_s):
        organs.append(Organ(share=part, level_sd_ppm=_ppm_per_r2star(maps) * excess_per_s, half_length_mm=torn * _SPLEEN_HALF_LENGTH_MM))
    contrast_ppm = _liver_ppm(maps, regions, above_per_s=tissue_per_s)
    without_data = air.surface | air.pockets
    near_surface2 = _near_surface(air.surface, grid, AIR_PPM) ** 2 + _near_surface(organ_edge, grid, contrast_ppm) ** 2
    field_error2 = (
        near_surface2 * (_BESIDE_LEFT_OUT**2 if torn else 1)
        + (_MIXED * contrast_ppm * _mixed(organ)) ** 2
        + (_MIXED_HOLE * contrast_ppm * _mixed(hole)) ** 2
    )
    if torn:
        without_data |= ndimage.binary_dilation(regions.liver_whole, _CROSS)
    return Expectation(
        prior=SourcePrior(
            mean_ppm=mean,
            sd_ppm=sd,
            organs=tuple(organs),
            smooth=tuple(smooth),
            dome=_dome(organ, air.lungs) if torn else None,
            beyond=Beyond(padding_mm=params.padding_mm),
        ),
        without_data=without_data,
        liver_is_dark=dark,
        liver_is_left_out=torn,
        liver_edge_seen=found.seen,
        field_error_ppm=np.sqrt(field_error2),
    )


def _dome(liver: FloatArray, lungs: tuple[Organ, ...]) -> Dome | None:
    """What lies above the liver where the slab cuts it below the diaphragm."""
    if not lungs or not liver.any():
        return None
    lung = np.sum([each.share for each in lungs], axis=0)
    return Dome(organ=liver, lung=lung, lung_ppm=_LUNG_PPM, half_length_mm=_LIVER_HALF_LENGTH_MM)


def _find_air(maps: WaterFat, regions: Regions, *, liver_is_dark: bool) -> _Air:
    """Air around the body, gas and lungs in it, and their surfaces."""
    body = regions.body
    amplitude = _early_magnitude(maps)
    bright = float(np.median(amplitude[body & (amplitude > 0)])) if (body & (amplitude > 0)).any() else 1.0
    outside = _connected_to_border(~body)
    faint = _faint(regions, amplitude, bright, liver_is_dark=liver_is_dark) & ~outside
    tissue = _tissue_fraction(amplitude, body & ~faint, maps.grid.voxel_size_mm)
    mean, air = np.zeros(body.shape, np.float32), np.zeros(body.shape, np.float32)
    mean[faint] = 0.5 * AIR_PPM
    pockets, surfaces, lungs = np.zeros_like(body), np.zeros_like(body), []
    for pocket, lung in _pockets(faint, maps.grid.voxel_volume_ml):
        surface = _surface(pocket)
        core = pocket & ~surface
        # lung gives some signal of its own
        own = min(float(np.median(tissue[core])), 0.5) if core.any() else 0.0
        share = np.where(surface, np.clip((1 - tissue) / (1 - own), 0, 1), pocket).astype(np.float32)
        air[pocket | surface] = share[pocket | surface]
        mean[pocket | surface] = (_LUNG_PPM if lung else AIR_PPM) * share[pocket | surface]
        pockets |= pocket
        surfaces |= surface
        if lung:
            lungs.append(Organ(share=share, level_sd_ppm=_LUNG_SD_PPM, goes_on=True))
    skin = _surface(outside)
    mean[outside] = AIR_PPM
    air[skin] = (1 - tissue)[skin]
    mean[skin] = AIR_PPM * air[skin]
    surfaces |= skin
    small = faint & ~pockets & ~surfaces
    return _Air(
        mean_ppm=mean,
        tissue=1 - air,
        outside=outside & ~surfaces,
        pockets=(pockets | small) & ~surfaces,
        surface=surfaces,
        lungs=tuple(lungs),
    )


def _faint(regions: Regions, early: FloatArray, bright: float, *, liver_is_dark: bool) -> Mask:
    """What gives so little signal early that it is lung or gas.

    Iron does so too: deep in the liver nothing counts, and near its edge, where the mask may be a voxel off, only what is
    fainter than half of the liver. In a dark liver nothing is known but the mask.
    """
    body, liver = regions.body, regions.liver_whole
    limit = np.full(body.shape, 0.35 * bright, np.float32)
    core = liver if liver_is_dark else moved(liver, -REACH_VOXELS)
    if core.any() and core is not liver:
        limit[moved(liver, REACH_VOXELS)] = min(0.35 * bright, 0.5 * float(np.median(early[core])))
    return np.asarray((~body | (early < limit)) & ~core)


def _tells_its_tissue(maps: WaterFat) -> Mask:
    """Voxels whose signal at TE = 0 is known well enough to say how much of them is tissue."""
    limit = _TRUSTED_R2STAR_PER_S_AT_1T5 * maps.field_strength_tesla / 1.5
    return np.asarray(_fat_is_known(maps) & (np.nan_to_num(maps.r2star_per_s, nan=np.inf) < limit) | (maps.model == TWO_ECHOES))


def _fat_is_known(maps: WaterFat) -> Mask:
    """Voxels whose fat fraction says what they are, whether it was fitted freely or with the neighbourhood's prior."""
    return np.isin(maps.model, WITH_FAT) & np.isfinite(maps.pdff_percent) & (maps.pdff_se_percent < _KNOWN_FAT_SE_PERCENT)


def _lean(maps: WaterFat, liver: Mask) -> FloatArray:
    """Share of each voxel that is no fat tissue; all of it where its fat fraction is not known."""
    known = _fat_is_known(maps)
    own = float(np.median(maps.pdff_percent[liver & known])) if (liver & known).any() else 0.0
    return np.where(known, not_fat(np.nan_to_num(maps.pdff_percent), min(own, 100 * FAT_IN_PART)), 1).astype(np.float32)


def _liver_is_unfitted(maps: WaterFat, regions: Regions) -> bool:
    """Whether the decay is too fast in a good part of the liver for its field to be told from noise.

    A rule on the organ: voxels that were fitted by chance among those that were not are no better than they.
    """
    liver = regions.liver_whole
    if not liver.any():
        return False
    return bool(np.mean(without_fat(maps)[liver]) > _DARK_SHARE)


def _liver_is_torn(maps: WaterFat, regions: Regions) -> bool:
    """Whether the fit took decay for fat in places of the liver."""
    return _torn_share(maps, moved(regions.liver_whole, -REACH_VOXELS)) > _MOST_TORN


def _torn_share(maps: WaterFat, deep: Mask) -> float:
    """Share of neighbours deep in the liver whose fields differ by more than half of the shift of fat.

    No source deep in an organ makes such a step from voxel to voxel; a fit that takes fast decay for fat in places does.
    """
    step_ppm = np.float32(_TORN_PPM * proton_frequency_hz(maps.field_strength_tesla) * 1e-6)
    known = deep & np.isfinite(maps.field_hz)
    field_hz = np.where(known, maps.field_hz, 0)
    torn, pairs = 0, 0
    for axis in range(3):
        both = known[_from(axis)] & known[_to(axis)]
        steps = np.abs(field_hz[_from(axis)] - field_hz[_to(axis)])[both]
        torn += int(np.sum(steps > step_ppm))
        pairs += steps.size
    return torn / max(pairs, 1)


def _from(axis: int) -> tuple[slice, ...]:
    return tuple(slice(1, None) if a == axis else slice(None) for a in range(3))


def _to(axis: int) -> tuple[slice, ...]:
    return tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))


def _liver_ppm(maps: WaterFat, regions: Regions, above_per_s: float = 0.0) -> float:
    """About what R2* above some level says of the liver's susceptibility, for a width at its edge; 0 where it is unknown."""
    known = regions.liver & np.isfinite(maps.r2star_per_s)
    lower = maps.r2star_limit_per_s if regions.liver.any() and np.mean(maps.censored[regions.liver]) > 0.5 else 0.0
    if not known.any() and not lower:
        return 0.0
    r2star = max(lower, float(np.median(maps.r2star_per_s[known])) if known.any() else 0.0)
    return max(_ppm_per_r2star(maps) * (r2star - above_per_s) - _NO_IRON_PPM, 0.0)


def _ppm_per_r2star(maps: WaterFat) -> float:
    return _PPM_S_AT_1T5 if maps.field_strength_tesla < 2.2 else _PPM_S_AT_3T


def _spine(body: Mask, grid: VoxelGrid) -> Mask:
    """Where the spine is, by the outline of the trunk."""
    if not shows_the_back(body, grid):
        return np.zeros_like(body)
    right_mm, front_mm, scale = trunk_position_mm(body, grid)
    depth_mm = float(np.percentile(front_mm[body], 99))
    where = (np.abs(right_mm) < 40 * scale) & (front_mm > 0.06 * depth_mm) & (front_mm < 0.42 * depth_mm)
    return np.asarray(where & body)


def _marrow(maps: WaterFat, spine: Mask) -> Mask:
    """Vertebrae: between spine's muscles and fat, neither lean nor pure fat."""
    pdff = np.nan_to_num(maps.pdff_percent)
    return np.asarray(ndimage.binary_opening((pdff > 15) & (pdff < 75) & spine & _fat_is_known(maps)))


def _early_magnitude(maps: WaterFat) -> FloatArray:
    """Magnitude at an early echo, from the maps: a wrong fit of lung or of an edge extrapolates to TE = 0, not to there."""
    decay = np.exp(-np.clip(np.nan_to_num(maps.r2star_per_s, nan=maps.r2star_limit_per_s), 0, None) * _EARLY_S)
    return np.asarray(maps.amplitude * decay, np.float32)


def _fats(maps: WaterFat, where: Mask, outside: Mask) -> list[FloatArray]:
    """Fat under the skin and fat within, each by its fraction, where it is not a lone voxel: their levels differ.

    What is fat in part counts in part: left out, it would be looked for in the organs that it surrounds.
    """
    share = np.clip(np.nan_to_num(maps.pdff_percent) / 100, 0, 1).astype(np.float32)
    share[~where | ~_fat_is_known(maps)] = 0
    pure = ndimage.binary_opening(share > _MOSTLY_FAT)
    at_skin = ndimage.binary_dilation(outside, _CROSS, iterations=_SKIN_VOXELS)
    under_skin = ndimage.binary_propagation(pure & at_skin, _CROSS, mask=pure)
    found = ndimage.binary_dilation(pure, _CROSS) & (share > _SOME_FAT)
    outer = found & ndimage.binary_dilation(under_skin, _CROSS)
    return [np.where(part, share, 0).astype(np.float32) for part in (outer, found & ~outer) if part.any()]


def _shared(mask: Mask, sd_ppm: float, spacing_mm: float) -> Smooth:
    return Smooth(sd_ppm=mask * np.float32(sd_ppm), spacing_mm=spacing_mm)


def _near_surface(surface: Mask, grid: VoxelGrid, step_ppm: float) -> FloatArray:
    """Error of the modelled field [ppm] near a surface with such a step: a source misplaced in a voxel, whose field falls with distance."""
    if step_ppm == 0 or not surface.any():
        return np.zeros(surface.shape, np.float32)
    distance = ndimage.distance_transform_edt(~surface, sampling=grid.voxel_size_mm / grid.voxel_size_mm.max())
    error: FloatArray = (_ONE_VOXEL_FROM_A_SURFACE * step_ppm / np.maximum(distance, 0.3) ** 2).astype(np.float32)
    return error


def _mixed(share: FloatArray) -> FloatArray:
    """Largest difference of the liver's share between a voxel and its neighbours, 0..1."""
    highest = ndimage.maximum_filter(share, footprint=_CROSS, mode="nearest")
    lowest = ndimage.minimum_filter(share, footprint=_CROSS, mode="nearest")
    return np.asarray(highest - lowest, np.float32)


def _surface(mask: Mask) -> Mask:
    """Voxels on either side of a mask's surface; it cuts through them."""
    return np.asarray((ndimage.binary_dilation(mask, _CROSS) & ~mask) | (ndimage.binary_dilation(~mask, _CROSS) & mask))


def _pockets(faint: Mask, voxel_volume_ml: float) -> list[tuple[Mask, bool]]:
    """Connected pieces of what gives no signal inside the body, and whether each is large enough to be a lung.

    What is smaller than 2 mL is left out: at that size gas, cortical bone and a vessel's flow void look alike.
    """
    labels, n = ndimage.label(faint)
    volumes_ml = np.bincount(labels.ravel(), minlength=n + 1) * voxel_volume_ml
    large = [k for k in range(1, n + 1) if volumes_ml[k] > _SMALLEST_POCKET_ML]
    return [(np.asarray(labels == k), bool(volumes_ml[k] > _SMALLEST_LUNG_ML)) for k in large]


def _tissue_fraction(amplitude: FloatArray, seen: Mask, voxel_size_mm: FloatArray) -> FloatArray:
    """Share of each voxel that is tissue, 0..1: its early signal over that of the whole tissue voxels near it."""
    whole = ndimage.binary_erosion(seen)
    if not whole.any():
        return seen.astype(np.float32)
    sigma = _NEAR_MM / voxel_size_mm
    near = ndimage.gaussian_filter(np.where(whole, amplitude, 0), sigma)
    share = ndimage.gaussian_filter(whole.astype(np.float32), sigma)
    typical = np.where(share > 0.02, near / np.maximum(share, 0.02), float(np.median(amplitude[whole])))
    fraction: FloatArray = np.clip(amplitude / np.maximum(typical, 1e-6), 0, 1)
    return fraction


def _connected_to_border(outside: Mask) -> Mask:
    """The part of ``outside`` that reaches the in-plane border of the images: air around the body."""
    labels, _ = ndimage.label(outside)
    touching = np.unique(np.concatenate([labels[0].ravel(), labels[-1].ravel(), labels[:, 0].ravel(), labels[:, -1].ravel()]))
    return np.isin(labels, touching[touching > 0])

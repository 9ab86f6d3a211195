"""Hepatic QSM: the study's susceptibility map, referenced, from the fat-water field map of the whole body."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm import two_step
from hqsm.arrays import FloatArray, Mask
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Regions, Solution, Susceptibility, TotalField, WaterFat
from hqsm.errors import ProcessingError
from hqsm.inversion import tfi, total_field
from hqsm.units import hz_to_ppm

AIR_PPM = 9.4
"""Air against water-like tissue: 0.36 - (-9.05) ppm (Schenck, Med Phys 1996;23:815)."""
_FAT_SD_PPM = 0.6
_LIVER_SD_PPM = 5.0
_LUNG_PPM = 7.0
"""Lung at end-expiration, a quarter tissue and the rest air: between 6 and 8 ppm (docs/susceptibility.md)."""
_LUNG_SD_PPM = 2.0
_INSIDE_GAS_SD_PPM = 0.7
_SURFACE_SD_PPM = 1.0
_SMALLEST_POCKET_ML = 2.0
_SMALLEST_LUNG_ML = 60.0
_NEAR_MM = 8.0
_STRONG_R2STAR_PER_S_AT_1T5 = 80.0
_EDGE_ECHO_TIME_S = 4.6e-3
_FALLBACKS = ("muscle", "aorta", "fat")


def estimate(maps: WaterFat, regions: Regions, params: SusceptibilityParams, *, specimen: str) -> Susceptibility:
    """Susceptibility [ppm] relative to the reference tissue; NaN outside the body.

    Parameters
    ----------
    maps
        Fat-water maps: field [Hz] with its standard error, R2*, PDFF, water and fat.
    regions
        Body, whole liver and reference tissues on the same grid.
    params
        Method, reference tissue, numerical settings.
    specimen
        ``in_vivo``, or ``in_vitro`` for an explant in its medium (which is then the reference).

    Raises
    ------
    ProcessingError
        Without a body, or without a single voxel whose field is known.
    """
    total, noise_ppm = total_field_of(maps, regions, params)
    codes: list[str] = []
    valid = regions.body
    if params.method == "total-field":
        prior = source_prior(maps, regions, params)
        chi, solution = total_field.invert(
            total,
            noise_ppm,
            prior,
            padding_mm=params.padding_mm,
            end_sd_ppm=2.0,
            shim_sd_ppm=2.0,
            tolerance=params.tolerance,
            max_iterations=params.max_iterations,
        )
        methods = {"inversion": "total-field"}
        solutions = {"inversion": solution}
    elif params.method == "tfi":
        solution = tfi.invert(total, magnitude_image(maps), maps.r2star_per_s, params.tfi, padding_mm=params.padding_mm)
        chi = solution.x
        methods = {"inversion": "tfi"}
        solutions = {"inversion": solution}
    else:
        chi, known, solutions = two_step.invert(total, magnitude_image(maps), params)
        valid = regions.body & known
        methods = dict(zip(("background_field", "inversion"), params.method.split("+"), strict=True))
    if not all(solution.converged for solution in solutions.values()):
        codes.append("CHI_NOT_CONVERGED")
    levels = {name: _level(chi, mask & valid) for name, mask in regions.references.items()}
    levels = {name: level for name, level in levels.items() if np.isfinite(level)}
    wanted = "medium" if specimen == "in_vitro" else params.reference
    order = (wanted, *(name for name in _FALLBACKS if name != wanted))
    name = next((candidate for candidate in order if candidate in levels), "none")
    if name == "none":
        codes.append("CHI_REFERENCE_MISSING")
    elif name != wanted:
        codes.append("CHI_REFERENCE_FALLBACK")
    reference_ppm = levels.get(name, 0.0)
    return Susceptibility(
        chi_ppm=np.where(valid, chi - np.float32(reference_ppm), np.nan).astype(np.float32),
        reference_name=name,
        reference_chi_ppm=float(reference_ppm),
        all_references_ppm=levels,
        methods=methods,
        solutions={stage: _summary(solution) for stage, solution in solutions.items()},
        grid=maps.grid,
        codes=tuple(codes),
    )


def total_field_of(maps: WaterFat, regions: Regions, params: SusceptibilityParams) -> tuple[TotalField, FloatArray]:
    """The measured field [ppm] with the voxels that can be trusted, and its standard error [ppm]."""
    known = regions.body & np.isfinite(maps.field_hz) & np.isfinite(maps.field_se_hz)
    if not known.any():
        raise ProcessingError(
            "No voxel of the body has a known field.",
            remedy="Look at the field map on the QC page.",
            code="CHI_NO_FIELD",
        )
    field_ppm = hz_to_ppm(np.where(known, maps.field_hz, 0).astype(np.float32), maps.field_strength_tesla)
    se_ppm = hz_to_ppm(np.where(known, maps.field_se_hz, 0).astype(np.float32), maps.field_strength_tesla)
    noise_ppm = np.sqrt(se_ppm**2 + np.float32(params.model_error_ppm) ** 2)
    # a field that the fit itself is unsure about by more than a ppm is no measurement
    known &= se_ppm < 1.0
    weight = np.where(known, 1 / noise_ppm, 0)
    weight = weight / np.median(weight[known])
    total = TotalField(field_ppm=field_ppm, weight=weight.astype(np.float32), mask=known, grid=maps.grid)
    return total, noise_ppm.astype(np.float32)


def magnitude_image(maps: WaterFat) -> FloatArray:
    """Magnitude of an echo at 4.6 ms (x, y, z), from the maps: iron darkens it, so that it has the liver's edges."""
    decay = np.exp(-np.nan_to_num(maps.r2star_per_s) * _EDGE_ECHO_TIME_S)
    at_zero = np.nan_to_num(np.abs(maps.water + np.nan_to_num(maps.fat)))
    return np.asarray(at_zero * decay, np.float32)


def source_prior(maps: WaterFat, regions: Regions, params: SusceptibilityParams) -> total_field.SourcePrior:
    """What may be strong and where: air, gas and lung without signal; iron by R2*; liver, lungs and fat as organs.

    A voxel that the surface of the body, a lung or gas cuts through is air or lung in the share of signal that it lacks: they
    are thousands, so that a mean that is off on one side pulls on every organ. (A lung whose first voxels over the dome of
    the liver counted as tissue cost 0.4 ppm of every liver.)
    """
    body = regions.body
    amplitude = np.nan_to_num(np.abs(maps.water + np.nan_to_num(maps.fat))).astype(np.float32)
    bright = float(np.median(amplitude[body & (amplitude > 0)])) if (body & (amplitude > 0)).any() else 1.0
    iron = np.nan_to_num(maps.r2star_per_s) / (_STRONG_R2STAR_PER_S_AT_1T5 * maps.field_strength_tesla / 1.5)
    liver_zone = ndimage.binary_dilation(regions.liver_whole, iterations=2) & body
    outer = _connected_to_border(~body)
    # lung and gas give little signal, but so does iron: only what is faint at TE = 0 and not liver counts
    faint = (~body | (amplitude < 0.35 * bright)) & ~regions.liver_whole & ~outer
    mean = np.where(outer, AIR_PPM, np.where(faint, 0.5 * AIR_PPM, 0.0)).astype(np.float32)
    sd = np.full(body.shape, params.tissue_sd_ppm, np.float32)
    sd = np.maximum(sd, params.tissue_sd_ppm * np.clip(iron, 0, 4))
    sd[liver_zone] = np.maximum(sd[liver_zone], 3 * params.tissue_sd_ppm)
    sd[faint] = 0.5 * AIR_PPM
    organs = []
    if regions.liver_whole.any():
        organs.append(total_field.Organ(share=regions.liver_whole.astype(np.float32), level_sd_ppm=_LIVER_SD_PPM))
    tissue = _tissue_fraction(amplitude, body & ~faint, maps.grid.voxel_size_mm)
    for pocket, lung in _pockets(faint, maps.grid.voxel_volume_ml):
        level_ppm = _LUNG_PPM if lung else AIR_PPM
        surface = _surface(pocket)
        core = pocket & ~surface
        # lung gives some signal of its own
        own = min(float(np.median(tissue[core])), 0.5) if core.any() else 0.0
        share = np.where(surface, np.clip((1 - tissue) / (1 - own), 0, 1), pocket).astype(np.float32)
        mean[pocket | surface] = level_ppm * share[pocket | surface]
        sd[pocket] = _INSIDE_GAS_SD_PPM
        sd[surface] = _SURFACE_SD_PPM
        if lung:
            organs.append(total_field.Organ(share=share, level_sd_ppm=_LUNG_SD_PPM, goes_on=True))
    surface = _surface(outer)
    sd[outer] = 0.2
    mean[surface] = (AIR_PPM * (1 - tissue))[surface]
    sd[surface] = _SURFACE_SD_PPM
    fat_share = np.clip(np.nan_to_num(maps.pdff_percent) / 100, 0, 1).astype(np.float32) * (body & ~faint)
    fat_share[fat_share < 0.3] = 0
    if fat_share.any():
        organs.append(total_field.Organ(share=fat_share, level_sd_ppm=_FAT_SD_PPM))
    return total_field.SourcePrior(mean_ppm=mean, sd_ppm=sd, organs=tuple(organs))


def _surface(mask: Mask) -> Mask:
    """Voxels on either side of a mask's surface; it cuts through them."""
    cross = ndimage.generate_binary_structure(3, 1)
    return np.asarray((ndimage.binary_dilation(mask, cross) & ~mask) | (ndimage.binary_dilation(~mask, cross) & mask))


def _pockets(faint: Mask, voxel_volume_ml: float) -> list[tuple[Mask, bool]]:
    """Connected pieces of what gives no signal inside the body, and whether each is large enough to be a lung.

    What is smaller than 2 mL is left out: at that size gas, cortical bone and a vessel's flow void look alike.
    """
    labels, n = ndimage.label(faint)
    volumes_ml = np.bincount(labels.ravel(), minlength=n + 1) * voxel_volume_ml
    large = [k for k in range(1, n + 1) if volumes_ml[k] > _SMALLEST_POCKET_ML]
    return [(np.asarray(labels == k), bool(volumes_ml[k] > _SMALLEST_LUNG_ML)) for k in large]


def _tissue_fraction(amplitude: FloatArray, seen: Mask, voxel_size_mm: FloatArray) -> FloatArray:
    """Share of each voxel that is tissue, 0..1: its signal at TE = 0 over that of the whole tissue voxels near it."""
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


def _level(chi: FloatArray, mask: Mask) -> float:
    values = chi[mask & np.isfinite(chi)]
    return float(np.median(values)) if values.size >= 20 else float("nan")


def _summary(solution: Solution) -> tuple[int, float, bool]:
    return solution.n_iterations, solution.relative_residual, solution.converged

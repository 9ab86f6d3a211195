"""Hepatic QSM: the study's susceptibility map, referenced, from the fat-water field map of the whole body."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray, Mask
from hqsm.background_field.pdf import remove_background
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Regions, Solution, Susceptibility, TotalField, WaterFat
from hqsm.errors import ProcessingError
from hqsm.inversion import tikhonov, total_field
from hqsm.units import hz_to_ppm

AIR_PPM = 9.4
"""Air against water-like tissue: 0.36 - (-9.05) ppm (Schenck, Med Phys 1996;23:815)."""
_FAT_SD_PPM = 0.6
_LIVER_SD_PPM = 5.0
_GAS_SD_PPM = 4.0
_STRONG_R2STAR_PER_S_AT_1T5 = 80.0
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
        solutions = {"inversion": _summary(solution)}
    else:
        padding = int(np.ceil(params.padding_mm / float(total.grid.voxel_size_mm.min())))
        local, solution = remove_background(total, padding_voxels=padding, tolerance=params.tolerance, max_iterations=params.max_iterations)
        chi = tikhonov.invert(local, regularisation=params.regularisation, padding_voxels=padding)
        methods = {"background_field": "pdf", "inversion": "tikhonov"}
        solutions = {"background_field": _summary(solution)}
    if not solution.converged:
        codes.append("CHI_NOT_CONVERGED")
    levels = {name: _level(chi, mask & regions.body) for name, mask in regions.references.items()}
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
        chi_ppm=np.where(regions.body, chi - np.float32(reference_ppm), np.nan).astype(np.float32),
        reference_name=name,
        reference_chi_ppm=float(reference_ppm),
        all_references_ppm=levels,
        methods=methods,
        solutions=solutions,
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


def source_prior(maps: WaterFat, regions: Regions, params: SusceptibilityParams) -> total_field.SourcePrior:
    """What may be strong and where: air, gas and lung without signal; iron by R2*; the liver and fat as organs."""
    body = regions.body
    amplitude = np.nan_to_num(np.abs(maps.water + np.nan_to_num(maps.fat)))
    bright = float(np.median(amplitude[body & (amplitude > 0)])) if (body & (amplitude > 0)).any() else 1.0
    iron = np.nan_to_num(maps.r2star_per_s) / (_STRONG_R2STAR_PER_S_AT_1T5 * maps.field_strength_tesla / 1.5)
    liver_zone = ndimage.binary_dilation(regions.liver_whole, iterations=2) & body
    # lung and gas give little signal, but so does iron: only what is faint at TE = 0 and not liver counts
    faint = (~body | (amplitude < 0.35 * bright)) & ~liver_zone
    outer = _connected_to_border(~body)
    mean = np.where(outer, AIR_PPM, np.where(faint, 0.7 * AIR_PPM, 0.0)).astype(np.float32)
    sd = np.full(body.shape, params.tissue_sd_ppm, np.float32)
    sd = np.maximum(sd, params.tissue_sd_ppm * np.clip(iron, 0, 4))
    sd[liver_zone] = np.maximum(sd[liver_zone], 3 * params.tissue_sd_ppm)
    sd[faint] = _GAS_SD_PPM
    sd[outer] = 0.2
    rim = ndimage.binary_dilation(outer, iterations=1) & ~outer
    sd[rim] = np.maximum(sd[rim], 1.0)  # voxels that the skin cuts through are part air
    organs = []
    if regions.liver_whole.any():
        organs.append(total_field.organ(regions.liver_whole, _LIVER_SD_PPM))
    fat_share = np.clip(np.nan_to_num(maps.pdff_percent) / 100, 0, 1) * (body & ~faint)
    fat_share[fat_share < 0.3] = 0
    if fat_share.any():
        organs.append((fat_share.astype(np.float32), _FAT_SD_PPM))
    return total_field.SourcePrior(mean_ppm=mean, sd_ppm=sd, organs=tuple(organs))


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

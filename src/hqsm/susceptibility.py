"""Hepatic QSM: the study's susceptibility map, referenced, from the fat-water field map of the whole body."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hqsm import two_step
from hqsm.arrays import FloatArray, Mask
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Regions, Solution, Susceptibility, TotalField, WaterFat
from hqsm.errors import ProcessingError
from hqsm.expected_sources import expected_sources
from hqsm.finite_maps import finite
from hqsm.inversion import tfi, total_field
from hqsm.units import hz_to_ppm

_EDGE_ECHO_TIME_S = 4.6e-3
_LIVER_ERROR = 0.01
"""Of the liver's susceptibility, by its mask, edge and vessels. All that is added to the posterior's own error is by the likelihood of
simulated visits that hold still and that breathe, and a quarter to a half more, as real anatomy is less regular
(docs/susceptibility_accuracy.md)."""
_LEFT_OUT_ERROR = 0.05
"""The same where the liver's own field was left out: its iron's unevenness alone, which does not show outside, makes 1.3 to 3.7 %."""
_MODEL_ERROR_PPM = {"in_vivo": 0.015, "in_vitro": 0.01}
"""What the model lacks: the fitted field of muscle at low signal, what lies between nodes."""
_UNSEEN_EDGE_PPM = 0.025
"""What an automatic mask may cost that neither R2* nor a reader confirms: muscle looks like a liver without iron (measured there too)."""
_SEEN = 0.5
_DOUBT_PPM = {
    "CHI_LIVER_CUT": 0.02,
    "CHI_BODY_CUT": 0.05,
    "CHI_FIELD_INCONSISTENT": 0.05,
    "CHI_NOT_CONVERGED": 0.05,
    "CHI_MAPS_NOT_FINITE": 0.05,
}
"""Added to the standard error for each code; of all but the first too few visits are simulated to measure it."""
_LIVER_CUT_SHARE = 0.4
"""Section of the liver at an end of the slab over its largest one, beyond which much of it lies outside."""
_ASSUMED_ERROR = {"tfi": (0.05, 0.3), "two steps": (3.5, 0.25)}
"""What published methods err by, over what they find and in ppm: they do not say themselves, and what is lost is not noise. By simulated
visits, of which methods in two steps leave an eighth to a half of the liver's susceptibility (docs/susceptibility.md)."""
_MANY_OUTLIERS = 0.02
_FEW_BORDER_VOXELS = 30
_REGIONAL_PPM, _REGIONAL_SHARE = 0.3, 0.1
"""What the estimate by regions, on larger voxels, may differ by."""
_LEAST_OF_A_REFERENCE = 20
"""Voxels; a tissue of fewer is no reference."""
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
        Without a body, without a single voxel whose signal, decay and field are known, or where the field is the same in all of them.
    """
    maps, lacking_numbers = finite(maps, regions.body)
    total, noise_ppm = total_field_of(maps, regions, params)
    codes = ["CHI_MAPS_NOT_FINITE"] if lacking_numbers else []
    valid = regions.body
    if _cut_by_the_images(regions.body):
        codes.append("CHI_BODY_CUT")
    if _liver_is_cut(regions.liver_whole):
        codes.append("CHI_LIVER_CUT")
    posterior, mask_ppm, liver_error, model_error_ppm = None, 0.0, _LIVER_ERROR, _MODEL_ERROR_PPM[specimen]
    if params.method in ("total-field", "regional"):
        expected = expected_sources(maps, regions, params, specimen=specimen)
        inversion = total_field.Inversion(
            replace(total, mask=total.mask & ~expected.without_data), np.hypot(noise_ppm, expected.field_error_ppm), expected.prior
        )
        if regions.mask_source == "automatic" and specimen == "in_vivo":  # a block is found by its decay, or not at all
            mask_ppm = _UNSEEN_EDGE_PPM * (1 - expected.liver_edge_seen)
            if expected.liver_edge_seen < _SEEN:
                codes.append("CHI_MASK_UNCONFIRMED")
        if expected.liver_is_left_out:
            liver_error = float(np.hypot(liver_error, _LEFT_OUT_ERROR))
        if expected.liver_is_dark:
            codes.append("CHI_LIVER_DARK")
        del expected  # its volumes are a fifth of all memory
        posterior = inversion.posterior(tolerance=params.tolerance, max_iterations=params.max_iterations)
        if posterior.outlier_share > _MANY_OUTLIERS:
            codes.append("CHI_FIELD_INCONSISTENT")
        chi, solution = posterior.chi_ppm, posterior.solution
        if params.method == "regional":
            chi, solution = posterior.regional_ppm, Solution.closed_form(posterior.regional_ppm)
        methods = {"inversion": str(params.method)}
        solutions = {"inversion": solution}
    elif params.method == "tfi":
        strong = tfi.strong_zone(maps, regions.liver_whole, params.tfi)
        solution = tfi.invert(total, magnitude_image(maps), strong, params.tfi, padding_mm=params.padding_mm)
        chi = solution.x
        methods = {"inversion": "tfi"}
        solutions = {"inversion": solution}
    else:
        chi, known, solutions = two_step.invert(total, magnitude_image(maps), params)
        valid = regions.body & known
        methods = dict(zip(("background_field", "inversion"), params.method.split("+"), strict=True))
    if posterior is None:
        codes.append("CHI_ERROR_ASSUMED")
        liver_error, model_error_ppm = _ASSUMED_ERROR["tfi" if params.method == "tfi" else "two steps"]
    # by regions too, what is left out of the data and the standard error come from the iteration
    iterations = [*solutions.values(), *([posterior.solution] if posterior else [])]
    if not all(solution.converged for solution in iterations):
        codes.append("CHI_NOT_CONVERGED")
    levels = {name: _level(chi, mask & valid) for name, mask in regions.references.items()}
    levels = {name: level for name, level in levels.items() if np.isfinite(level)}
    name, reference_codes = _chosen_reference(levels, params, specimen)
    reference_ppm = levels.get(name, 0.0)
    doubts_ppm2 = sum(_DOUBT_PPM.get(code, 0.0) ** 2 for code in codes)
    lacking_ppm = float(np.sqrt(model_error_ppm**2 + doubts_ppm2 + mask_ppm**2))
    opinion = _second_opinion(posterior, np.where(valid, chi, np.nan), regions, name, lacking_ppm, liver_error)
    return Susceptibility(
        chi_ppm=np.where(valid, chi - np.float32(reference_ppm), np.nan).astype(np.float32),
        reference_name=name,
        reference_chi_ppm=float(reference_ppm),
        all_references_ppm=levels,
        methods=methods,
        solutions={stage: _summary(solution) for stage, solution in solutions.items()},
        grid=maps.grid,
        codes=(*codes, *reference_codes, *_disagreement(opinion)),
        liver_se_ppm=opinion.get("liver_se_ppm", float("nan")),
        liver_regional_ppm=opinion.get("liver_regional_ppm", float("nan")),
    )


def _chosen_reference(levels: dict[str, float], params: SusceptibilityParams, specimen: str) -> tuple[str, list[str]]:
    """The reference tissue that is used, and the codes that say if it is not the wanted one."""
    wanted = "medium" if specimen == "in_vitro" else params.reference
    order = (wanted, *(name for name in _FALLBACKS if name != wanted))
    name = next((candidate for candidate in order if candidate in levels), "none")
    if name == "none":
        return name, ["CHI_REFERENCE_MISSING"]
    return name, [] if name == wanted else ["CHI_REFERENCE_FALLBACK"]


def _second_opinion(
    posterior: total_field.Posterior | None, chi: FloatArray, regions: Regions, reference: str, lacking_ppm: float, lacking_share: float
) -> dict[str, float]:
    """Standard error of liver minus reference, and the same difference by regions alone.

    ``lacking_ppm`` and ``lacking_share`` (of the difference) are errors that the posterior does not know of; without one they are all.
    """
    liver = regions.liver_for_susceptibility
    if not liver.any() or reference == "none":
        return {}
    tissue = regions.references[reference]
    # a reader's spots may be few: what is given as the liver's value has its interval
    difference = _level(chi, liver, least=1) - _level(chi, tissue)
    lacking = float(np.hypot(lacking_share * difference, lacking_ppm))
    if posterior is None:
        return {"liver_se_ppm": lacking}
    weights = liver / np.float32(liver.sum()) - tissue / np.float32(tissue.sum())
    error = np.hypot(posterior.standard_deviation_ppm(weights, beside_ppm=lacking), lacking)
    regional = _level(posterior.regional_ppm, liver, least=1) - _level(posterior.regional_ppm, tissue)
    opinion = {"liver_se_ppm": float(error), "liver_regional_ppm": float(regional), "liver_ppm": float(difference)}
    if _disagreement(opinion):  # a field that is wrong in one sense all over the liver: nothing else of the error knows of it
        opinion["liver_se_ppm"] = float(np.hypot(error, regional - difference))
    return opinion


def _disagreement(opinion: dict[str, float]) -> list[str]:
    """The code of a liver whose two estimates differ by more than the coarser one's accuracy."""
    if not np.isfinite(opinion.get("liver_regional_ppm", np.nan)):
        return []
    difference = abs(opinion["liver_regional_ppm"] - opinion["liver_ppm"])
    return ["CHI_ESTIMATES_DIFFER"] if difference > _REGIONAL_PPM + _REGIONAL_SHARE * abs(opinion["liver_ppm"]) else []


def total_field_of(maps: WaterFat, regions: Regions, params: SusceptibilityParams) -> tuple[TotalField, FloatArray]:
    """The measured field [ppm] with the voxels that can be trusted, and its standard error [ppm]."""
    known = regions.body & np.isfinite(maps.field_hz) & np.isfinite(maps.field_se_hz)
    if not known.any():
        said = f" (of the fit: {', '.join(maps.codes)})" if maps.codes else ""
        raise ProcessingError(
            f"No voxel of the body has a known field{said}.",
            remedy="Look at the field map on the QC page, and at what the fit's codes say of the echoes.",
            code="CHI_NO_FIELD",
        )
    if np.ptp(maps.field_hz[known]) == 0:
        raise ProcessingError(
            "The field map has one value in all of the body: it holds no field.",
            remedy="Look at the phase images: they may be empty, or of another scan.",
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
    return np.asarray(maps.amplitude * decay, np.float32)


def _cut_by_the_images(body: Mask) -> bool:
    """Whether the body reaches the images' in-plane border in more than a few voxels."""
    return bool(sum(side.sum() for side in (body[0], body[-1], body[:, 0], body[:, -1])) > _FEW_BORDER_VOXELS)


def _liver_is_cut(liver: Mask) -> bool:
    """Whether a good part of the liver's section lies at an end of the slab, so that the organ goes on beyond it."""
    sections = liver.sum(axis=(0, 1))
    return bool(max(sections[0], sections[-1]) > _LIVER_CUT_SHARE * sections.max()) if liver.any() else False


def _level(chi: FloatArray, mask: Mask, least: int = _LEAST_OF_A_REFERENCE) -> float:
    values = chi[mask & np.isfinite(chi)]
    return float(np.median(values)) if values.size >= least else float("nan")


def _summary(solution: Solution) -> tuple[int, float, bool]:
    return solution.n_iterations, solution.relative_residual, solution.converged

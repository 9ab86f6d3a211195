"""Edge: the maps, masks and facts of one visit, written with the sidecars that say how they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.bids import sources, write_json, write_map
from hqsm.data import AcquisitionInfo, GatingReport, MultiEcho, Regions, Susceptibility, WaterFat
from hqsm.table_cells import MISSING, format_value

Facts = dict[str, Any]


def provenance_of(job: Any) -> Facts:
    """What every sidecar says about its making: sources, parameters, digest of the code."""
    parameters = {name: value for name, value in job.params.items() if name not in {"code", "data", "masks"}}
    return {
        "Sources": sources(job.wildcards.participant, job.wildcards.session),
        "Parameters": parameters,
        "CodeDigest": job.params.code,
    }


def acquisition_facts(echoes: MultiEcho, info: AcquisitionInfo) -> Facts:
    """Facts of the acquisition for the visit's row and page."""
    return {
        "convention": info.convention,
        "manufacturer": info.manufacturer,
        "model": info.model,
        "software": info.software,
        "acquisition_date": info.acquisition_date,
        "flip_angle_degrees": info.flip_angle_degrees,
        "repetition_time_s": info.repetition_time_s,
        "n_files": info.n_files,
        "set_aside": [f"{item.name} ({item.kind}: {item.reason})" for item in info.set_aside],
        "notes": list(info.notes),
        "echo_times_s": echoes.echo_times_s.tolist(),
        "field_strength_tesla": echoes.field_strength_tesla,
        "noise_sd": echoes.noise_sd,
        "shape": list(echoes.grid.shape),
        "voxel_size_mm": echoes.grid.voxel_size_mm.round(6).tolist(),
        "images_sha256": _images_digest(info),
    }


def _images_digest(info: AcquisitionInfo) -> str:
    """Digest of the pixels of every image, whatever the images are called; empty where nobody has listed them."""
    pixels = sorted(digest for _, digest in info.manifest)
    return hashlib.sha256("".join(pixels).encode()).hexdigest() if pixels else ""


def write_manifest(path: Path, info: AcquisitionInfo) -> None:
    """Write the images that a visit's results come from: hash of the UID, hash of the pixels; no name, no date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["sop_instance_uid_sha256\tpixels_sha256", *("\t".join(entry) for entry in info.manifest)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_gating(path: Path, report: GatingReport) -> Facts:
    """Write ``*_desc-gating.tsv`` (one row per repetition) and its sidecar; return the sidecar's numbers and the rows."""
    rows = []
    for k in range(report.n_repetitions):
        others = {
            "second_displacement_mm": report.second_displacement_mm,
            "misfit": report.misfit,
            "window_centre_mm": report.window_centre_mm,
        }
        rows.append(
            {
                "repetition": str(k + 1),
                "displacement_mm": format_value(float(report.displacement_mm[k])),
                "accepted": str(int(report.accepted[k])),
                "reason": report.reasons[k] or MISSING,
                **{name: format_value(float(values[k])) if values.size else MISSING for name, values in others.items()},
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(line) for line in (rows[0], *[row.values() for row in rows])) + "\n", encoding="utf-8")
    facts: Facts = {
        "source": report.source,
        "n_repetitions": report.n_repetitions,
        "n_accepted": report.n_accepted,
        "efficiency": _none_for_nan(report.efficiency),
        "window_mm": _none_for_nan(report.window_mm),
        "end_expiration_mm": _none_for_nan(report.end_expiration_mm),
        "residual_sd_mm": _none_for_nan(report.residual_sd_mm),
        "drift_mm": _none_for_nan(report.drift_mm),
        "followed": report.followed,
        "second_source": report.second_source or None,
        "disagreement_mm": _none_for_nan(report.disagreement_mm),
        "notes": list(report.notes),
    }
    columns = {
        "repetition": {"Description": "Repetition in order of acquisition, from 1"},
        "displacement_mm": {"Description": "Superior-inferior position of the diaphragm", "Units": "mm"},
        "accepted": {"Description": "1 if the repetition was combined, else 0"},
        "reason": {"Description": "Why a repetition was not combined"},
        "second_displacement_mm": {"Description": "The same by the second source, on its own origin", "Units": "mm"},
        "misfit": {"Description": "Share of the moving organs' image that the other repetitions do not explain"},
        "window_centre_mm": {"Description": "Centre of the acceptance window: end-expiration, drifting where it follows", "Units": "mm"},
    }
    write_json(path.with_suffix(".json"), {**columns, "Gating": facts, "Codes": list(report.codes)})
    return {**facts, "repetitions": rows}


def write_water_fat_maps(output: Any, fit: WaterFat, provenance: Mapping[str, Any]) -> None:
    """Write R2*, T2*, PDFF and the field map in the units of the contract, NaN where there is no valid estimate, with their standard
    errors, the lower bound of censored R2*, how each voxel was fitted and how firmly its first field stands.
    """
    t2star_s, t2star_se_s = np.full((2, *fit.grid.shape), np.nan, np.float32)
    decays = np.isfinite(fit.r2star_per_s) & (fit.r2star_per_s > 0)
    t2star_s[decays] = 1 / fit.r2star_per_s[decays]
    t2star_se_s[decays] = fit.r2star_se_per_s[decays] * t2star_s[decays] ** 2
    unknown = np.full(fit.grid.shape, np.nan, np.float32)
    for path, volume, units, meaning in (
        (output.r2star, fit.r2star_per_s, "1/s", "Confounder-corrected R2*; NaN where not measurable or censored"),
        (output.t2star, t2star_s, "s", "1/R2* where R2* is positive"),
        (output.pdff, fit.pdff_percent, "percent", "Proton density fat fraction, noise-bias corrected"),
        (output.field, fit.field_hz, "Hz", "Off-resonance of water, positive where the local field exceeds B0"),
        (output.r2star_se, fit.r2star_se_per_s, "1/s", "Standard error of R2*"),
        (output.t2star_se, t2star_se_s, "s", "Standard error of T2*: that of R2* times T2* squared"),
        (output.pdff_se, fit.pdff_se_percent, "percent", "Standard error of the fat fraction"),
        (output.field_se, fit.field_se_hz, "Hz", "Standard error of the field"),
        (output.r2star_bound, fit.r2star_bound_per_s, "1/s", "What R2* is at least where it is censored; NaN elsewhere"),
        (output.residual, fit.residual, "1", "Norm of the fit residual over norm of the signal"),
        (
            output.swap_margin,
            unknown if fit.swap_margin is None else fit.swap_margin,
            "1",
            "How much worse the other choice of water and fat would be, in log-likelihood per block of 5 mm; NaN where none was made",
        ),
        (
            output.field_difference,
            unknown if fit.field_difference_hz is None else fit.field_difference_hz,
            "Hz",
            "First field of the chosen method (graph or in-phase) less that of the other one; NaN where the echo times allow only one",
        ),
    ):
        sidecar = {**provenance, "Units": units, "Description": meaning}
        # of tissue of the volume's median brightness; each place's own bound is a map
        sidecar["R2starLimitPerSecond"] = fit.r2star_limit_per_s
        write_map(Path(path), volume, fit.grid, sidecar)
    nothing = np.zeros(fit.grid.shape, np.uint8)
    for path, labels, meaning, levels in (
        (output.model, fit.model, "Order of the model that was fitted", FIT_ORDERS),
        (output.convergence, nothing if fit.convergence is None else fit.convergence, "Whether the fit converged", CONVERGENCE),
    ):
        sidecar = {**provenance, "Description": meaning, "Levels": {str(number): text for number, text in levels.items()}}
        write_map(Path(path), labels, fit.grid, sidecar)


FIT_ORDERS = {
    0: "no fit",
    1: "water and fat, complex and independent",
    2: "water and fat of one phase, field and R2* with priors",
    3: "no fat: R2* and field only",
    4: "two echoes: field, and an R2* that fat confounds",
}
CONVERGENCE = {
    0: "no usable signal, or nothing that is fitted by steps (two echoes, magnitude alone)",
    1: "converged",
    2: "ended more than a tenth of a standard error away",
    3: "no fit was reached, no number is given",
}


def write_masks(output: Any, regions: Regions, provenance: Mapping[str, Any]) -> None:
    """Write the body, liver and vessel masks (0/1)."""
    for path, mask, meaning in (
        (output.body, regions.body, "Voxels with usable signal"),
        (output.liver, regions.liver, "Voxels that the liver values are read from: no vessels, no edge"),
        (output.vessel, regions.vessel, "Hepatic vessels"),
    ):
        kind = {"Type": "ROI", "MaskSource": regions.mask_source, "Description": meaning}
        write_map(Path(path), mask, regions.grid, {**provenance, **kind})


def write_susceptibility(output: Any, chi: Susceptibility, provenance: Mapping[str, Any]) -> None:
    """Write the susceptibility map with its reference, methods and convergence."""
    sidecar = {
        **provenance,
        "Units": "ppm",
        "Description": "Magnetic susceptibility, paramagnetic positive, relative to the reference tissue",
        "ReferenceTissue": chi.reference_name,
        "ReferenceSusceptibilityPpm": _none_for_nan(chi.reference_chi_ppm),
        "AllReferencesPpm": {k: _none_for_nan(v) for k, v in chi.all_references_ppm.items()},
        "Methods": chi.methods,
        "Convergence": _convergence(chi),
    }
    write_map(Path(output.chi), chi.chi_ppm, chi.grid, sidecar)


def susceptibility_facts(chi: Susceptibility, job: Any) -> Facts:
    """Facts of the susceptibility map for the visit's row and page; ``digest`` names code and parameters."""
    recipe = json.dumps([job.params.code, job.params.susceptibility], sort_keys=True)
    return {
        "codes": list(chi.codes),
        "reference_name": chi.reference_name,
        "reference_chi_ppm": chi.reference_chi_ppm,
        "all_references_ppm": chi.all_references_ppm,
        "methods": chi.methods,
        "convergence": _convergence(chi),
        "digest": hashlib.sha256(recipe.encode()).hexdigest()[:12],
    }


def _convergence(chi: Susceptibility) -> Facts:
    return {
        stage: {"iterations": int(n), "relative_residual": float(residual), "converged": bool(converged)}
        for stage, (n, residual, converged) in chi.solutions.items()
    }


def _none_for_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

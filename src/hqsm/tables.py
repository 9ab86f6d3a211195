"""Edge: the tables of the output contract, each with a data dictionary beside it.

A table is tab-separated text, UTF-8, ``n/a`` for a missing value (as BIDS writes it), nine significant digits.
The columns listed here are a contract: other tools rely on their names, units and order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hqsm.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MISSING = "n/a"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its name, what it means, its unit, and how it is read back."""

    name: str
    meaning: str
    unit: str = ""
    kind: str = "text"
    """``text``, ``number`` or ``integer``."""


def _columns(*rows: tuple[str, str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(name=name, kind=kind, unit=unit, meaning=meaning) for name, kind, unit, meaning in rows)


_ID = (
    ("participant_id", "text", "", "Blind identifier of the participant, with its prefix sub-"),
    ("session_id", "text", "", "Label of the visit, with its prefix ses-"),
)

_INTERVAL = (
    ("participant_id", "text", "", "Blind identifier of the participant, with its prefix sub-"),
    ("start_session", "text", "", "First visit of the interval"),
    ("end_session", "text", "", "Second visit of the interval"),
)

_AGREEMENT = (
    ("quantity", "text", "", "What was estimated; differences are MRI minus chemistry, second minus first"),
    ("estimate", "number", "", "Estimate, in the unit of the measurement"),
    ("std_error", "number", "", "Standard error"),
    ("ci_lo", "number", "", "Lower end of the confidence interval"),
    ("ci_hi", "number", "", "Upper end of the confidence interval"),
    ("statistic", "number", "", "Test statistic"),
    ("p_value", "number", "", "Two-sided p"),
    ("n", "integer", "", "Pairs"),
    ("note", "text", "", "What to keep in mind"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "visits": _columns(
        *_ID,
        ("status", "text", "", "ok, warning, rejected or excluded"),
        ("reason", "text", "", "Why it is not ok, in plain words"),
        ("decision", "text", "", "Manual decision about it: what, by whom, when and why"),
        ("codes", "text", "", "Quality codes, separated by spaces"),
        ("stage", "text", "", "Stage at which a rejected visit stopped"),
        ("group", "text", "", "Study group from the records"),
        ("visit_type", "text", "", "Type of the visit from the records"),
        ("acq_date", "text", "", "Date of acquisition in the (date-shifted) image header, YYYY-MM-DD"),
        ("convention", "text", "", "Vendor convention by which the DICOM was read"),
        ("n_files", "integer", "", "Files in the visit folder"),
        ("n_echoes", "integer", "", "Echoes of the acquisition"),
        ("n_repetitions", "integer", "", "Repetitions of the acquisition"),
        ("n_accepted", "integer", "", "Repetitions that were combined"),
        ("set_aside", "text", "", "Series in the folder that were not used, by name"),
        ("readout", "text", "", "unipolar, bipolar (corrected) or not-checked"),
        ("protocol_deviations", "text", "", "What differs from the protocol of the configuration"),
        ("changes_since_last_visit", "text", "", "Scanner, software and protocol that differ from the participant's visit before"),
    ),
    "lic": _columns(
        *_ID,
        ("group", "text", "", "Study group: thalassemia, transplant or healthy"),
        ("specimen", "text", "", "in_vivo, or in_vitro for an explanted liver"),
        ("acq_date", "text", "", "Date of acquisition in the (date-shifted) image header, YYYY-MM-DD"),
        ("field_strength_t", "number", "T", "Field strength"),
        ("chi_liver_ppm", "number", "ppm", "Susceptibility of the liver in the unreferenced map (median)"),
        ("chi_reference_ppm", "number", "ppm", "Susceptibility of the reference tissue in the unreferenced map"),
        ("chi_hqsm_ppm", "number", "ppm", "Liver minus reference: the hQSM susceptibility"),
        ("lic_hqsm_mg_g", "number", "mg/g", "Liver iron per gram dry weight by hQSM"),
        ("lic_hqsm_lo", "number", "mg/g", "Lower end of its 95 % interval, calibration uncertainty included"),
        ("lic_hqsm_hi", "number", "mg/g", "Upper end of its 95 % interval, calibration uncertainty included"),
        ("r2star_per_s", "number", "1/s", "Confounder-corrected R2* of the liver (median)"),
        ("lic_r2star_mg_g", "number", "mg/g", "Liver iron per gram dry weight by R2*"),
        ("lic_r2star_lo", "number", "mg/g", "Lower end of its 95 % interval, calibration uncertainty included"),
        ("lic_r2star_hi", "number", "mg/g", "Upper end of its 95 % interval, calibration uncertainty included"),
        ("pdff_percent", "number", "%", "Proton density fat fraction of the liver (median)"),
        ("liver_volume_ml", "number", "mL", "Volume of the whole liver mask, vessels and edge included"),
        ("n_voxels", "integer", "", "Voxels that the liver values were read from"),
        ("gating_source", "text", "", "Where the respiratory position came from"),
        ("gating_efficiency", "number", "", "Accepted share of the repetitions, 0 to 1"),
        ("n_repetitions", "integer", "", "Repetitions that were acquired"),
        ("n_accepted", "integer", "", "Repetitions that were combined"),
        ("mask_source", "text", "", "reader or automatic"),
        ("calibration_hqsm", "text", "", "Calibration from susceptibility to LIC"),
        ("calibration_r2star", "text", "", "Calibration from R2* to LIC"),
        ("qc_status", "text", "", "ok, warning, rejected or excluded"),
        ("qc_codes", "text", "", "Quality codes, separated by spaces"),
        ("reference_tissue", "text", "", "Tissue that the susceptibility is relative to"),
        ("chi_iqr_ppm", "number", "ppm", "Interquartile range of susceptibility in the liver"),
        ("chi_se_ppm", "number", "ppm", "Standard error of chi_hqsm_ppm: noise, null space, masks, model"),
        ("chi_regional_ppm", "number", "ppm", "Liver minus reference by regions alone: a second opinion from the same data"),
        ("r2star_iqr_per_s", "number", "1/s", "Interquartile range of R2* in the liver"),
        ("reconstruction_digest", "text", "", "Digest of code and parameters that made the susceptibility map"),
        ("gating_window_mm", "number", "mm", "Full width of the acceptance window around end-expiration"),
        ("gating_residual_sd_mm", "number", "mm", "SD of the displacement of the combined repetitions"),
        ("gating_drift_mm", "number", "mm", "Drift of the end-expiratory level over the scan"),
    ),
    "exposure": _columns(
        *_INTERVAL,
        ("start_date", "text", "", "Date of the first visit in the records"),
        ("end_date", "text", "", "Date of the second visit in the records"),
        ("days", "integer", "d", "Days between the two visits"),
        ("n_transfusions", "integer", "", "Transfusions in the interval"),
        ("n_hct_imputed", "integer", "", "Transfusions whose haematocrit was assumed"),
        ("iron_in_mg", "number", "mg", "Transfused iron, removed iron subtracted"),
        ("iron_in_mg_per_kg_per_year", "number", "mg/kg/year", "The same per mean body weight and year"),
        ("chelator_mg", "number", "mg", "Chelator, Jadenu-equivalent"),
        ("chelator_g_per_kg_per_year", "number", "g/kg/year", "The same per body weight of the day and year"),
        ("mean_weight_kg", "number", "kg", "Mean body weight over the interval"),
        ("adherence", "number", "", "Mean adherence, 0 to 1"),
        ("flags", "text", "", "hct_imputed, adherence_assumed, adherence_implausible, weight_distant, no_transfusion, no_chelator"),
        ("included", "integer", "", "1 if the exposure can be used"),
        ("reason", "text", "", "Why it cannot"),
        ("chelator_adherence_g_per_kg_per_year", "number", "g/kg/year", "Chelator that was taken: prescribed times adherence"),
        ("age_years", "number", "a", "Age at the first visit, from the year of birth"),
        ("splenectomy", "integer", "", "1 if the spleen was removed"),
    ),
    "annual_change": _columns(
        *_INTERVAL,
        ("days", "integer", "d", "Days between the two visits"),
        ("delta_lic_hqsm_mg_g_per_year", "number", "mg/g/year", "Annual change of LIC by hQSM"),
        ("delta_lic_r2star_mg_g_per_year", "number", "mg/g/year", "Annual change of LIC by R2*"),
        ("iron_in_mg", "number", "mg", "Transfused iron, removed iron subtracted"),
        ("iron_in_mg_per_kg_per_year", "number", "mg/kg/year", "The same per mean body weight and year"),
        ("chelator_mg", "number", "mg", "Chelator, Jadenu-equivalent"),
        ("chelator_g_per_kg_per_year", "number", "g/kg/year", "The same per body weight of the day and year"),
        ("mean_weight_kg", "number", "kg", "Mean body weight over the interval"),
        ("included", "integer", "", "1 if the interval enters the regression"),
        ("reason", "text", "", "Why it does not"),
        ("flags", "text", "", "Those of exposure.tsv; dates_disagree, reconstruction_differs, field_strength_differs"),
        ("chelator_adherence_g_per_kg_per_year", "number", "g/kg/year", "Chelator that was taken: prescribed times adherence"),
        ("start_lic_hqsm_mg_g", "number", "mg/g", "LIC by hQSM at the first visit"),
        ("start_lic_r2star_mg_g", "number", "mg/g", "LIC by R2* at the first visit"),
        ("age_years", "number", "a", "Age at the first visit, from the year of birth"),
        ("splenectomy", "integer", "", "1 if the spleen was removed"),
    ),
    "regression": _columns(
        ("analysis", "text", "", "primary, or a sensitivity analysis"),
        ("method", "text", "", "hqsm or r2star"),
        ("term", "text", "", "intercept, iron_in, chelator, or the covariate of a sensitivity analysis"),
        ("estimate", "number", "", "Intercept [mg/g/year], iron_in [(mg/g)/(mg/kg)], chelator [(mg/g)/(g/kg)]"),
        ("std_error", "number", "", "CR2 cluster-robust standard error in the estimate's unit; of the REML fit for random_intercept"),
        ("df", "number", "", "Satterthwaite degrees of freedom"),
        ("ci_lo", "number", "", "Lower end of the confidence interval"),
        ("ci_hi", "number", "", "Upper end of the confidence interval"),
        ("p_value", "number", "", "Two-sided p"),
        ("n_intervals", "integer", "", "Intervals in the fit"),
        ("n_subjects", "integer", "", "Participants in the fit"),
        ("r_squared", "number", "", "Coefficient of determination"),
        ("rmse", "number", "mg/g/year", "Root mean square residual"),
        ("note", "text", "", "Why there is no estimate, or what to keep in mind"),
        ("residual_sd", "number", "mg/g/year", "SD of the residuals over their degrees of freedom"),
        ("physics_value", "number", "", "Expected by physics: 1/10.6 for iron; for the chelator at an efficiency of 1"),
        ("efficiency", "number", "", "Share of the chelator's capacity that its slope implies"),
        ("efficiency_lo", "number", "", "Lower end of its confidence interval"),
        ("efficiency_hi", "number", "", "Upper end of its confidence interval"),
    ),
    "method_comparison": _columns(
        ("analysis", "text", "", "primary, leave_one_participant_out or first_interval"),
        ("quantity", "text", "", "What is compared; hQSM minus R2*"),
        ("estimate", "number", "", "Estimate, in the unit that the quantity names, else without one"),
        ("ci_lo", "number", "", "Lower end of the confidence interval"),
        ("ci_hi", "number", "", "Upper end of the confidence interval"),
        ("statistic", "number", "", "Test statistic"),
        ("p_value", "number", "", "Two-sided p"),
        ("n_intervals", "integer", "", "Intervals with both methods"),
        ("n_subjects", "integer", "", "Participants"),
        ("note", "text", "", "What to keep in mind"),
        ("std_error", "number", "", "Leave-one-participant-out jackknife standard error"),
    ),
    "influence": _columns(
        *_INTERVAL,
        ("method", "text", "", "hqsm or r2star"),
        ("residual", "number", "mg/g/year", "Residual of the primary regression"),
        ("leverage", "number", "", "Diagonal of the hat matrix"),
        ("studentised_residual", "number", "", "Externally studentised residual"),
        ("cooks_distance", "number", "", "Cook's distance"),
        ("dffits", "number", "", "DFFITS"),
        ("predicted_without_participant", "number", "mg/g/year", "Predicted from the other participants"),
        ("iron_in_without_participant", "number", "", "Slope of iron in without this participant"),
        ("chelator_without_participant", "number", "", "Slope of the chelator without this participant"),
    ),
    "explants": _columns(
        *_ID,
        ("setting", "text", "", "in_vivo or in_vitro"),
        ("method", "text", "", "hqsm or r2star"),
        ("lic_mg_g", "number", "mg/g", "LIC by MRI, dry weight"),
        ("lic_lo_mg_g", "number", "mg/g", "Lower end of its 95 % interval, calibration uncertainty included"),
        ("lic_hi_mg_g", "number", "mg/g", "Upper end of its 95 % interval, calibration uncertainty included"),
        ("lic_chemistry_mg_g", "number", "mg/g", "Chemical LIC, fresh dry weight, mean of the replicates"),
        ("lic_chemistry_sd_mg_g", "number", "mg/g", "SD of the replicates"),
        ("n_replicates", "integer", "", "Replicates"),
        ("error_mg_g", "number", "mg/g", "MRI minus chemistry"),
        ("fibrosis_stage", "number", "", "Fibrosis stage (METAVIR), mean of the readings"),
        ("steatosis_pct", "number", "%", "Steatosis, mean of the readings"),
        ("inflammation_grade", "number", "", "Necroinflammatory grade, mean of the readings"),
        ("n_below_lod", "integer", "", "Replicates below the limit of detection, counted as the limit over root two"),
    ),
    "explant_agreement": _columns(
        ("setting", "text", "", "in_vivo or in_vitro against chemistry; in_vitro_against_in_vivo"),
        ("method", "text", "", "hqsm, r2star, or hqsm_minus_r2star"),
        *_AGREEMENT,
    ),
    "reader_agreement": _columns(
        ("measure", "text", "", "What was read, with its unit; mask: the masks themselves"),
        ("comparison", "text", "", "all, or second reader minus first"),
        *_AGREEMENT,
    ),
    "histology_effects": _columns(
        ("confounder", "text", "", "fibrosis, steatosis or necroinflammation"),
        ("setting", "text", "", "in_vivo or in_vitro"),
        ("method", "text", "", "r2star or hqsm"),
        ("effect", "number", "mg/g", "Slope of the LIC error per step of the score (steatosis: per 10 points)"),
        ("ci_lo", "number", "mg/g", "Lower end of the confidence interval"),
        ("ci_hi", "number", "mg/g", "Upper end of the confidence interval"),
        ("p_value", "number", "", "Two-sided p"),
        ("p_holm", "number", "", "p adjusted over the 12 outcomes"),
        ("n", "integer", "", "Specimens"),
        ("equivalence_p", "number", "", "p of two one-sided tests against the configured margin"),
        ("note", "text", "", "Why there is no estimate"),
    ),
    "repeatability": _columns(
        ("quantity", "text", "", "Column of lic.tsv"),
        ("n_pairs", "integer", "", "Repeat scans"),
        ("within_subject_sd", "number", "", "Within-subject SD, in the quantity's unit"),
        ("repeatability_coefficient", "number", "", "2.77 times the within-subject SD, in the quantity's unit"),
        ("within_subject_cv_percent", "number", "%", "Within-subject coefficient of variation (root mean square)"),
        ("mean_difference", "number", "", "Last minus first, in the quantity's unit"),
        ("note", "text", "", "Why there is no estimate"),
        ("comparison", "text", "", "repeat (same scanner), cross_field, or cross_scanner (another vendor, same field)"),
        ("within_subject_sd_lo", "number", "", "Lower end of the confidence interval of the SD"),
        ("within_subject_sd_hi", "number", "", "Upper end of the confidence interval of the SD"),
        ("minimum_detectable_change", "number", "", "Smallest change between two scans beyond their scatter, 95 %, in the quantity's unit"),
        ("icc", "number", "", "One-way intraclass correlation"),
        ("icc_lo", "number", "", "Lower end of its confidence interval"),
        ("icc_hi", "number", "", "Upper end of its confidence interval"),
        ("ccc", "number", "", "Concordance correlation coefficient of first and last"),
        ("ccc_lo", "number", "", "Lower end of its confidence interval"),
        ("ccc_hi", "number", "", "Upper end of its confidence interval"),
        ("limit_lo", "number", "", "Lower limit of agreement, last minus first"),
        ("limit_hi", "number", "", "Upper limit of agreement, last minus first"),
    ),
    "baseline": _columns(
        ("field_strength_t", "number", "T", "Field strength"),
        ("quantity", "text", "", "Column of lic.tsv"),
        ("n_participants", "integer", "", "Healthy participants"),
        ("mean", "number", "", "Mean over participants, in the quantity's unit"),
        ("sd", "number", "", "SD between participants"),
        ("ci_lo", "number", "", "Lower end of the confidence interval of the mean"),
        ("ci_hi", "number", "", "Upper end of the confidence interval of the mean"),
    ),
    "power": _columns(
        ("method", "text", "", "hqsm, r2star, or their difference"),
        ("quantity", "text", "", "Term of the regression, or what is compared"),
        ("truth", "number", "", "Value that the simulation put in"),
        ("mean_estimate", "number", "", "Mean of the estimates"),
        ("sd_estimate", "number", "", "SD of the estimates"),
        ("ci_width", "number", "", "Median width of the confidence interval"),
        ("coverage", "number", "", "Share of intervals that contain the truth; of a difference, the mean estimate"),
        ("power", "number", "", "Share of intervals that exclude zero"),
        ("n_intervals", "number", "", "Mean number of annual intervals"),
        ("n_simulations", "integer", "", "Studies that were simulated"),
    ),
    "calibration": _columns(
        ("quantity", "text", "", "slope_mg_g_per_ppm or intercept_mg_g"),
        ("estimate", "number", "", "Estimate, in the unit of its name"),
        ("std_error", "number", "", "Standard error"),
        ("ci_lo", "number", "", "Lower end of the confidence interval"),
        ("ci_hi", "number", "", "Upper end of the confidence interval"),
        ("n", "integer", "", "Specimens or intervals"),
        ("reference_tissue", "text", "", "Tissue that the susceptibility is relative to"),
        ("reconstruction_digest", "text", "", "Digest of code and parameters of the susceptibility maps"),
        ("source", "text", "", "What it was estimated from"),
    ),
    "susceptibility_methods": _columns(
        *_ID,
        ("method", "text", "", "Method, as susceptibility.method of config.yaml"),
        ("chi_hqsm_ppm", "number", "ppm", "Liver minus reference tissue (median)"),
        ("chi_iqr_ppm", "number", "ppm", "Interquartile range of susceptibility in the liver"),
        ("n_voxels", "integer", "", "Voxels that the liver values were read from"),
        ("reference_tissue", "text", "", "Tissue that the susceptibility is relative to"),
        ("chi_minus_muscle_ppm", "number", "ppm", "Liver minus muscle"),
        ("chi_minus_aorta_ppm", "number", "ppm", "Liver minus aorta"),
        ("chi_minus_fat_ppm", "number", "ppm", "Liver minus subcutaneous fat"),
        ("iterations", "text", "", "Iterations of each stage, background removal first; 0: closed form"),
        ("converged", "integer", "", "1 where every stage reached its tolerance"),
        ("cpu_s", "number", "s", "Processor time"),
        ("qc_codes", "text", "", "Quality codes, separated by spaces"),
    ),
    "liver_regions": _columns(
        *_ID,
        ("region", "text", "", "liver, a part of it that readers named, or reference-<tissue>"),
        ("reader", "text", "", "Reader whose mask it is; study: the study's value (mean of the readers' medians, or the automatic mask)"),
        ("quantity", "text", "", "Map and its unit; left_out_<cause>: share of the whole liver that is not read"),
        ("median", "number", "", "Median inside Tukey's fences, in the quantity's unit"),
        ("trimmed_mean", "number", "", "Mean inside Tukey's fences, in the quantity's unit"),
        ("iqr", "number", "", "Interquartile range, in the quantity's unit"),
        ("std_error", "number", "", "Standard error of the median from noise and texture, in the quantity's unit"),
        ("n_voxels", "integer", "", "Voxels inside the fences; of left_out, voxels of the whole liver"),
        ("excluded_share", "number", "", "Share of the voxels without a value or beyond the fences; of left_out, the share by cause"),
    ),
    "readers": _columns(
        *_ID,
        ("kind", "text", "", "between two readers, or within one who read the scan twice"),
        ("reader_a", "text", "", "First reader"),
        ("reader_b", "text", "", "Second reader"),
        ("quantity", "text", "", "What was read"),
        ("value_a", "number", "", "Value of the first reader"),
        ("value_b", "number", "", "Value of the second reader"),
        ("difference", "number", "", "Second minus first, in the quantity's unit"),
        ("dice", "number", "", "Overlap of what both drew, 0 to 1; n/a for spots"),
        ("adjudicate", "integer", "", "1 if a third reader has to decide, else 0"),
        ("reason", "text", "", "Why"),
    ),
    "exclusions": _columns(
        ("what", "text", "", "visit, interval, visit of no interval, or record"),
        ("participant_id", "text", "", "Blind identifier of the participant, with its prefix sub-"),
        ("item", "text", "", "Session, interval or line"),
        ("code", "text", "", "Code of the reason"),
        ("reason", "text", "", "Why it was left out"),
    ),
}


def format_value(value: Any) -> str:
    """One cell: nine significant digits, no line breaks or tabs, ``n/a`` for nothing."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(int(value))
    if hasattr(value, "item"):
        value = value.item()
        return format_value(value)
    if isinstance(value, float):
        return MISSING if math.isnan(value) else f"{value:.9g}"
    text = " ".join(str(value).split())
    return text if text and text not in {"nan", "NaN", "<NA>", "NaT"} else MISSING


def neutralised(text: str) -> str:
    """A text cell that no spreadsheet program takes for a formula (CWE-1236): an apostrophe goes before = + - @."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def write_rows(path: Path, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table of the contract and its data dictionary.

    Raises
    ------
    KeyError
        If a row has a column that the contract does not describe: every column needs its meaning.
    """
    columns = TABLES[table]
    names = [column.name for column in columns]
    for row in rows:
        unknown = row.keys() - set(names)
        if unknown:
            raise KeyError(f"{table}.tsv has no column {sorted(unknown)}: describe it in hqsm.tables")
    lines = ["\t".join(names)]
    for row in rows:
        cells = [(format_value(row.get(column.name)), column.kind) for column in columns]
        lines.append("\t".join(neutralised(text) if kind == "text" else text for text, kind in cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    dictionary = {c.name: {"Description": c.meaning, **({"Units": c.unit} if c.unit else {})} for c in columns}
    path.with_suffix(".json").write_text(json.dumps(dictionary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_frame(path: Path, table: str, frame: pd.DataFrame) -> None:
    """Write a data frame as a table of the contract; see :func:`write_rows`."""
    rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict(orient="records")]
    write_rows(path, table, rows)


def read_frame(path: Path, table: str, *, complete: bool = True) -> pd.DataFrame:
    """Read a table of the contract back; identifiers stay text, numbers become float64, ``n/a`` NaN or empty text.

    Raises
    ------
    InputError
        ``TABLE_MISSING``; ``TABLE_COLUMN`` if a column is not there, unless ``complete`` is False (tables of another version).
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.", remedy="Run the workflow first.", code="TABLE_MISSING") from error
    for column in TABLES[table]:
        if column.name not in frame and not complete:
            continue
        if column.name not in frame:
            raise InputError(f"{path.name} has no column {column.name}.", remedy="Run the workflow again.", code="TABLE_COLUMN")
        text = frame[column.name].replace(MISSING, "")
        frame[column.name] = text if column.kind == "text" else pd.to_numeric(text, errors="coerce").astype("float64")
    return frame

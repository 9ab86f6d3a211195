"""Explants: MRI against chemistry, and whether fibrosis, steatosis and inflammation disturb it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hqsm.arrays import FloatArray
from hqsm.config.records import RecordsParams
from hqsm.config.statistics import StatisticsParams
from hqsm.units import ug_per_g_to_mg_per_g, umol_per_g_to_mg_per_g

Row = dict[str, Any]
CONFOUNDERS = {"fibrosis": "fibrosis_stage", "steatosis": "steatosis_pct", "necroinflammation": "inflammation_grade"}
SETTINGS = ("in_vivo", "in_vitro")
METHODS = ("r2star", "hqsm")


def dry_iron_mg_g(value: float, unit: str, basis: str, prep: str, params: RecordsParams) -> float:
    """Iron per gram of fresh dry weight [mg/g] from any unit, wet or dry, fresh or paraffin."""
    in_mg = {"mg/g": value, "ug/g": ug_per_g_to_mg_per_g(value), "umol/g": umol_per_g_to_mg_per_g(value)}[unit]
    if basis == "wet":
        return in_mg * params.wet_to_dry
    if prep == "paraffin":
        return in_mg / params.wet_to_paraffin_dry * params.wet_to_dry
    return in_mg


@dataclass(frozen=True, kw_only=True)
class Chemistry:
    """Chemical LIC of one participant's liver [mg/g fresh dry weight]: mean of its specimens' means, SD of all replicates."""

    mean_mg_g: float
    sd_mg_g: float
    n_specimens: int
    n_replicates: int
    n_below_lod: int


def chemistry_by_participant(chemistry: pd.DataFrame, params: RecordsParams) -> dict[str, Chemistry]:
    """Replicates averaged in each specimen, then its specimens: MRI has one value of the liver, whichever piece was cut most often.

    Below the limit of detection counts LOD/sqrt 2, or nothing without it; exclusion codes leave a row out.
    """
    values: dict[str, dict[str, list[float]]] = {}
    below: dict[str, int] = {}
    for row in chemistry.to_dict(orient="records"):
        censored = str(row["below_lod"]) == "y"
        raw = row["lod"] / np.sqrt(2) if censored else row["fe_value"]
        if np.isfinite(raw) and row["fe_unit"] and row["basis"] and row["prep"] and not row.get("exclusion_code"):
            who = str(row["participant_id"])
            dry = dry_iron_mg_g(float(raw), row["fe_unit"], row["basis"], row["prep"], params)
            values.setdefault(who, {}).setdefault(str(row["specimen_id"]), []).append(dry)
            below[who] = below.get(who, 0) + censored
    found = {}
    for who, specimens in values.items():
        replicates = [value for of_one in specimens.values() for value in of_one]
        found[who] = Chemistry(
            mean_mg_g=float(np.mean([np.mean(of_one) for of_one in specimens.values()])),
            sd_mg_g=float(np.std(replicates, ddof=1)) if len(replicates) > 1 else float("nan"),
            n_specimens=len(specimens),
            n_replicates=len(replicates),
            n_below_lod=below[who],
        )
    return found


def metavir_stage(stage: float, scale: str) -> float:
    """Fibrosis on the METAVIR scale 0-4; Ishak 0-6 becomes 0, 1, 1, 2, 3, 4, 4 (Goodman, J Hepatol 2007;47:598)."""
    if scale != "ishak" or not np.isfinite(stage):
        return stage
    return float((0, 1, 1, 2, 3, 4, 4)[round(stage)])


def scores_by_participant(histology: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean of the readings of each score: METAVIR fibrosis, percent steatosis, necroinflammatory grade."""
    found: dict[str, dict[str, float]] = {}
    for who, rows in histology.groupby("participant_id"):
        stages = [metavir_stage(s, k) for s, k in zip(rows["fibrosis_stage"], rows["fibrosis_scale"], strict=True)]
        table = rows.assign(fibrosis_stage=stages)
        found[str(who)] = {c: float(table[c].mean()) if np.isfinite(table[c]).any() else float("nan") for c in CONFOUNDERS.values()}
    return found


def explantation_dates(chemistry: pd.DataFrame, visits: pd.DataFrame) -> dict[str, str]:
    """Day of each participant's explantation as the chemistry has it, else that of the visit of type ``explant``; absent where unknown."""
    of_visits = visits[visits["visit_type"] == "explant"].rename(columns={"visit_date": "explant_date"})
    dates = pd.concat([frame[["participant_id", "explant_date"]] for frame in (of_visits, chemistry)])
    return {str(who): str(when) for who, when in dates[dates["explant_date"] != ""].itertuples(index=False)}


def _last_scan(scans: pd.DataFrame, dates: Mapping[tuple[str, str], str], until: str) -> Row | None:
    """The last of one participant's scans by the records' ``dates``; one that is known to be later than ``until`` is another liver's."""
    dated = [(dates.get((row["participant_id"], row["session_id"]), ""), row) for row in scans.to_dict(orient="records")]
    before = [(when, row) for when, row in dated if not (when and until and when > until)]
    found = max(before, key=lambda scan: (scan[0], scan[1]["session_id"]), default=None)
    return {str(key): value for key, value in found[1].items()} if found else None


def explant_rows(
    lic: pd.DataFrame, chemistry: pd.DataFrame, histology: pd.DataFrame, visits: pd.DataFrame, params: RecordsParams
) -> list[Row]:
    """Rows of explants.tsv: one per explanted liver, method and setting.

    In vivo it is the last scan up to the day of the explantation by the dates of ``visits`` (the records' table): a later one
    shows the graft.
    """
    reference, scores = chemistry_by_participant(chemistry, params), scores_by_participant(histology)
    dates = {(row["participant_id"], row["session_id"]): row["visit_date"] for row in visits.to_dict(orient="records")}
    explanted = explantation_dates(chemistry, visits)
    nothing = Chemistry(mean_mg_g=float("nan"), sd_mg_g=float("nan"), n_specimens=0, n_replicates=0, n_below_lod=0)
    rows = []
    usable = lic[lic["qc_status"].isin(["ok", "warning"])]
    for who in sorted(set(reference) | set(scores)):
        found = reference.get(who, nothing)
        for setting in SETTINGS:
            scans = usable[(usable["participant_id"] == who) & (usable["specimen"] == setting)]
            visit = _last_scan(scans, dates, explanted.get(who, "") if setting == "in_vivo" else "")
            for method in METHODS:
                names = (f"lic_{method}_{end}" for end in ("mg_g", "lo", "hi"))
                value, low, high = (float(visit[name]) if visit is not None else float("nan") for name in names)
                rows.append(
                    {
                        "participant_id": who,
                        "session_id": str(visit["session_id"]) if visit is not None else "",
                        "setting": setting,
                        "method": method,
                        "lic_mg_g": value,
                        "lic_lo_mg_g": low,
                        "lic_hi_mg_g": high,
                        "lic_chemistry_mg_g": found.mean_mg_g,
                        "lic_chemistry_sd_mg_g": found.sd_mg_g,
                        "n_specimens": found.n_specimens,
                        "n_replicates": found.n_replicates,
                        "n_below_lod": found.n_below_lod,
                        "error_mg_g": value - found.mean_mg_g,
                        **scores.get(who, {}),
                    }
                )
    return rows


def effect_rows(explants: Iterable[Row], params: StatisticsParams) -> list[Row]:
    """Rows of histology_effects.tsv, the 12 registered outcomes.

    Effect: slope of the LIC error (MRI minus chemistry) on the score, adjusted for chemical LIC, by OLS; Holm over the
    outcomes that could be estimated; equivalence by two one-sided tests against the configured margin per step
    (steatosis: per 10 points).
    """
    frame = pd.DataFrame(list(explants))
    rows = []
    for confounder, column in CONFOUNDERS.items():
        for setting in SETTINGS:
            for method in METHODS:
                row: Row = {"confounder": confounder, "setting": setting, "method": method, "n": 0}
                rows.append(row)
                if frame.empty or column not in frame:
                    row["note"] = "no explants"
                    continue
                part = frame[(frame["setting"] == setting) & (frame["method"] == method)]
                data = part[["error_mg_g", column, "lic_chemistry_mg_g"]].to_numpy(float)
                data = data[np.isfinite(data).all(axis=1)]
                row["n"] = len(data)
                step = data[:, 1] / (10 if confounder == "steatosis" else 1)
                design = np.stack([np.ones(len(data)), step, data[:, 2]], axis=1)
                if len(data) < 5 or np.linalg.matrix_rank(design) < 3:
                    row["note"] = "too few specimens, or scores that do not vary"
                    continue
                row |= _effect(design, data[:, 0], params)
    tested = [row for row in rows if "p_value" in row]
    adjusted = holm(np.array([row["p_value"] for row in tested]))
    for row, p in zip(tested, adjusted, strict=True):
        row["p_holm"] = float(p)
    return rows


def _effect(design: FloatArray, error: FloatArray, params: StatisticsParams) -> Row:
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ error
    df = len(error) - 3
    residual = error - design @ beta
    se = float(np.sqrt(residual @ residual / df * inverse[1, 1]))
    half = stats.t.ppf(0.5 + params.confidence_level / 2, df) * se
    margin = params.equivalence_margin_mg_g
    with np.errstate(divide="ignore"):
        p_lower = stats.t.sf((beta[1] + margin) / se, df)
        p_upper = stats.t.cdf((beta[1] - margin) / se, df)
    return {
        "effect": float(beta[1]),
        "ci_lo": float(beta[1] - half),
        "ci_hi": float(beta[1] + half),
        "p_value": float(2 * stats.t.sf(abs(beta[1] / se), df)),
        "equivalence_p": float(max(p_lower, p_upper)),
    }


def holm(p_values: FloatArray) -> FloatArray:
    """Holm's adjustment, in the order given."""
    n = p_values.size
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate((n - np.arange(n)) * p_values[order])
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted

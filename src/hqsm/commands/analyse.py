"""Run the study's statistics on a table alone: `annual`, `explants` or `readers`.

annual    columns subject,interval,fe_in_mgkg,dfx_gkg,dlic_qsm,dlic_r2s  (or an annual_change.tsv of the workflow)
explants  columns id,lic_chem,lic_hqsm,lic_r2s and any of fibrosis,steatosis,inflammation,setting,
          lic_chem_sd,n_replicates  (or an explants.tsv of the workflow)
readers   column scan, then one column for each reader

Comma- or tab-separated. Writes tidy TSV tables, each with its data dictionary, and one JSON with every number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from hqsm.config.statistics import StatisticsParams

Tables = dict[str, list[dict[str, Any]]]

ANNUAL_COLUMNS = {
    "subject": "participant_id",
    "fe_in_mgkg": "iron_in_mg_per_kg_per_year",
    "dfx_gkg": "chelator_g_per_kg_per_year",
    "dlic_qsm": "delta_lic_hqsm_mg_g_per_year",
    "dlic_r2s": "delta_lic_r2star_mg_g_per_year",
}
EXPLANT_COLUMNS = {"fibrosis": "fibrosis_stage", "steatosis": "steatosis_pct", "inflammation": "inflammation_grade"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", choices=("annual", "explants", "readers"), help="which analysis")
    parser.add_argument("table", type=Path, help="table to analyse, CSV or TSV")
    parser.add_argument("--out", type=Path, help="folder for the results (default: <table>-<what> beside the table)")
    parser.add_argument("--config", type=Path, help="config.yaml whose block `statistics` is used")


def run(options: argparse.Namespace) -> int:
    """Analyse, write, print the headline."""
    from hqsm.stage import write_json
    from hqsm.study_config import read_config
    from hqsm.tables import write_rows

    params = read_config(options.config).statistics
    tables = ANALYSES[options.what](_read_table(options.table), params)
    out = options.out or options.table.with_name(f"{options.table.stem}-{options.what}")
    for name, rows in tables.items():
        write_rows(out / f"{name}.tsv", name, rows)
    write_json(out / f"{options.what}.json", {"analysis": options.what, "tables": tables})
    sys.stdout.write(_headline(tables) + f"\nwritten: {out}\n")
    return 0


def annual(table: pd.DataFrame, params: StatisticsParams) -> Tables:
    """Regression, comparison of the methods, influence."""
    import numpy as np

    from hqsm.statistics.comparison import comparison_rows
    from hqsm.statistics.regression import influence_rows, regression_rows

    frame = table.rename(columns=ANNUAL_COLUMNS)
    _need(frame, tuple(ANNUAL_COLUMNS.values()), {new: old for old, new in ANNUAL_COLUMNS.items()})
    numbers = (
        *(name for name in ANNUAL_COLUMNS.values() if name != "participant_id"),
        "chelator_adherence_g_per_kg_per_year",
        "start_lic_hqsm_mg_g",
        "start_lic_r2star_mg_g",
        "age_years",
        "splenectomy",
    )
    for name in numbers:
        frame[name] = _numbers(frame, name)
    if "start_session" not in frame:
        frame["start_session"] = frame["interval"].str.zfill(4) if "interval" in frame else [f"{k:04d}" for k in range(len(frame))]
        frame = frame.sort_values(["participant_id", "start_session"], kind="stable", ignore_index=True)
    if "end_session" not in frame:
        frame["end_session"] = ""
    frame["flags"] = frame.get("flags", "")
    given = np.isfinite(frame[list(numbers[:2])].to_numpy(float)).all(axis=1)
    frame["included"] = (_numbers(frame, "included") == 1).astype(int) if "included" in frame else given.astype(int)
    # an analysis whose column a plain table lacks is left out, not reported as empty
    lacking = {name for name, column in _NEEDS.items() if not np.isfinite(frame[column].to_numpy(float)).any()}
    if "flags" not in table:
        lacking.add("measured_haematocrit")
    chosen = _with(params, sensitivity_analyses=tuple(a for a in params.sensitivity_analyses if a not in lacking))
    return {
        "regression": regression_rows(frame, chosen),
        "method_comparison": comparison_rows(frame, chosen),
        "influence": influence_rows(frame, chosen),
    }


_NEEDS = {
    "adherence_corrected": "chelator_adherence_g_per_kg_per_year",
    "baseline_lic": "start_lic_hqsm_mg_g",
    "age": "age_years",
    "splenectomy": "splenectomy",
}


def explants(table: pd.DataFrame, params: StatisticsParams) -> Tables:
    """Agreement with chemistry, and the effects of histology on the error."""
    from hqsm.statistics.effects import METHODS, effect_rows
    from hqsm.statistics.method_agreement import explant_agreement_rows

    columns = {"r2star": "lic_r2s", "hqsm": "lic_hqsm"}
    if "lic_chemistry_mg_g" in table:
        rows = table.to_dict(orient="records")
        for name in table.columns:
            if name not in {"participant_id", "session_id", "setting", "method"}:
                for row, value in zip(rows, _numbers(table, name), strict=True):
                    row[name] = value
    else:
        _need(table, ("id", "lic_chem", *columns.values()), {})
        rows = []
        numbers = {name: _numbers(table, name) for name in ("lic_chem", "lic_chem_sd", "n_replicates", *columns.values(), *EXPLANT_COLUMNS)}
        for k in range(len(table)):
            for method in METHODS:
                lic, chemistry = float(numbers[columns[method]][k]), float(numbers["lic_chem"][k])
                rows.append(
                    {
                        "participant_id": str(table["id"].iloc[k]),
                        "setting": str(table["setting"].iloc[k]) if "setting" in table else "in_vivo",
                        "method": method,
                        "lic_mg_g": lic,
                        "lic_chemistry_mg_g": chemistry,
                        "lic_chemistry_sd_mg_g": float(numbers["lic_chem_sd"][k]),
                        "n_replicates": float(numbers["n_replicates"][k]),
                        "error_mg_g": lic - chemistry,
                        **{new: float(numbers[old][k]) for old, new in EXPLANT_COLUMNS.items()},
                    }
                )
    plain = [{str(key): value for key, value in row.items()} for row in rows]
    return {"explant_agreement": explant_agreement_rows(plain, {}, params), "histology_effects": effect_rows(plain, params)}


def readers(table: pd.DataFrame, params: StatisticsParams) -> Tables:
    """Agreement of the readers."""
    import numpy as np

    from hqsm.errors import InputError
    from hqsm.statistics.method_agreement import reader_agreement_rows

    _need(table, ("scan",), {})
    names = [name for name in table.columns if name != "scan"]
    if len(names) < 2:
        raise InputError("The table has fewer than two readers.", remedy="Give one column for each reader.", code="TABLE_COLUMN")
    return {"reader_agreement": reader_agreement_rows(np.column_stack([_numbers(table, name) for name in names]), names, params)}


ANALYSES: dict[str, Callable[[pd.DataFrame, StatisticsParams], Tables]] = {"annual": annual, "explants": explants, "readers": readers}


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    from hqsm.errors import InputError

    try:
        header = path.read_text(encoding="utf-8-sig").split("\n", 1)[0]
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.", remedy="Name a CSV or TSV table.", code="TABLE_MISSING") from error
    separator = max("\t;,", key=header.count)
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def _numbers(table: pd.DataFrame, name: str) -> Any:
    """A column as numbers; NaN where it is empty or absent. A word that is no number is refused with its line."""
    import numpy as np
    import pandas as pd

    from hqsm.errors import InputError

    if name not in table:
        return np.full(len(table), np.nan)
    if pd.api.types.is_numeric_dtype(table[name]):
        return table[name].to_numpy(float)
    text = table[name].str.strip()
    text = text.mask(text.str.lower().isin(["", "n/a", "na", "nan"]))
    values = pd.to_numeric(text, errors="coerce").to_numpy(float)
    wrong = np.flatnonzero(np.isnan(values) & text.notna().to_numpy())
    if wrong.size:
        called = {new: old for old, new in ANNUAL_COLUMNS.items()}.get(name, name)
        raise InputError(f"Line {wrong[0] + 2}, column {called}: not a number.", remedy="Correct or empty the cell.", code="NUMBER_FORMAT")
    return values


def _need(table: pd.DataFrame, columns: tuple[str, ...], called: dict[str, str]) -> None:
    from hqsm.errors import InputError

    lacking = [called.get(name, name) for name in columns if name not in table]
    if lacking:
        raise InputError(f"The table has no column {', '.join(lacking)}.", remedy="See `hqsm analyse --help`.", code="TABLE_COLUMN")


def _with(params: StatisticsParams, **changes: Any) -> StatisticsParams:
    from dataclasses import replace

    return replace(params, **changes)


def _headline(tables: Tables) -> str:
    """The first rows of each table for a terminal."""
    lines = []
    for name, rows in tables.items():
        if name == "influence":
            continue
        lines.append(name)
        for row in rows[:12]:
            label = " ".join(
                str(row[key]) for key in ("analysis", "setting", "comparison", "method", "confounder", "term", "quantity") if key in row
            )
            value = row.get("estimate", row.get("effect"))
            text = f"{value:.5g}" if isinstance(value, float) and value == value else "-"
            if "ci_lo" in row:
                text += f"  ({row['ci_lo']:.5g} to {row['ci_hi']:.5g})"
            lines.append(f"  {label:<58} {text}  {row.get('note', '')}".rstrip())
        if len(rows) > 12:
            lines.append(f"  ... {len(rows) - 12} more rows")
    return "\n".join(lines)

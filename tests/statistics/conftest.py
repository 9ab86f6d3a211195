from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parent / "oracles"


@pytest.fixture(scope="session")
def oracles() -> dict[str, Any]:
    """Values that R computed (4.2.2; clubSandwich, lme4, lmerTest, pbkrtest, psych, cocor): key to values."""
    raw = json.loads((FOLDER / "statistics.json").read_text(encoding="utf-8"))
    return {key: value if isinstance(value, dict) else np.ravel(value) for key, value in raw.items()}


@pytest.fixture(scope="session")
def synthetic() -> pd.DataFrame:
    """44 simulated intervals of 20 participants."""
    return pd.read_csv(FOLDER / "annual_synth.csv")


@pytest.fixture(scope="session")
def synthetic_design(synthetic: pd.DataFrame) -> np.ndarray:
    return np.stack([np.ones(len(synthetic)), synthetic["fe_in_mgkg"], synthetic["dfx_gkg"]], axis=1)


@pytest.fixture(scope="session")
def annual_change(synthetic: pd.DataFrame) -> pd.DataFrame:
    """The same as annual_change.tsv has it."""
    n = len(synthetic)
    return pd.DataFrame(
        {
            "participant_id": synthetic["subject"],
            "start_session": [f"ses-{k:02d}" for k in synthetic["interval"]],
            "end_session": [f"ses-{k + 1:02d}" for k in synthetic["interval"]],
            "iron_in_mg_per_kg_per_year": synthetic["fe_in_mgkg"],
            "chelator_g_per_kg_per_year": synthetic["dfx_gkg"],
            "chelator_adherence_g_per_kg_per_year": 0.9 * synthetic["dfx_gkg"],
            "delta_lic_hqsm_mg_g_per_year": synthetic["dlic_qsm"],
            "delta_lic_r2star_mg_g_per_year": synthetic["dlic_r2s"],
            "start_lic_hqsm_mg_g": 5 + np.arange(n) % 7,
            "start_lic_r2star_mg_g": 5 + np.arange(n) % 5,
            "age_years": 10.5 + np.arange(n) % 11,
            "splenectomy": (np.arange(n) % 2).astype(float),
            "flags": ["hct_imputed" if k % 4 == 0 else "" for k in range(n)],
            "included": 1,
            "reason": "",
        }
    )

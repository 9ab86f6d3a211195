"""Water-fat maps of noiseless muscle, of which a test says what is otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from hqsm.data import VoxelGrid, WaterFat


def water_fat_maps(grid: VoxelGrid, **given: Any) -> WaterFat:
    """Muscle at 1.5 T throughout ``grid``: water 100, no fat, R2* 30 1/s, no field, standard errors of 1; ``given`` replaces maps."""
    ones = np.ones(grid.shape, np.float32)
    muscle = {
        "water": (100 * ones).astype(np.complex64),
        "fat": (0 * ones).astype(np.complex64),
        "pdff_percent": 0 * ones,
        "r2star_per_s": 30 * ones,
        "field_hz": 0 * ones,
        "pdff_se_percent": ones,
        "r2star_se_per_s": ones,
        "field_se_hz": ones,
        "residual": 0.02 * ones,
        "model": ones.astype(np.uint8),
        "censored": ones < 0,
        "r2star_limit_per_s": 1000.0,
        "field_strength_tesla": 1.5,
    }
    return WaterFat(grid=grid, **muscle | given)

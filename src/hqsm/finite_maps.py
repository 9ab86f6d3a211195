"""Maps without numbers where a voxel was fitted: what is no number must be taken neither for gas nor for iron nor for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from hqsm.arrays import Mask
from hqsm.data import WaterFat
from hqsm.errors import ProcessingError
from hqsm.fit_models import NOT_FITTED, WITH_FAT

_MOST_WITHOUT_R2STAR, _MOST_WITHOUT_FIELD, _MOST_WITHOUT_FAT = 0.02, 0.1, 0.5
"""Shares of the fitted body. A fit leaves 0.006, 0.035 and 0.12 of it unknown at most (77 simulated visits; R2* beside ``censored``)."""


def finite(maps: WaterFat, body: Mask) -> tuple[WaterFat, bool]:
    """The maps with numbers where a fit must have them, and whether some were lacking, or too many.

    A voxel without a signal or a decay has no field either (it is no datum), and the nearest other one's water, fat and R2*: it is
    tissue of which nothing is known. An infinite fat fraction is an unknown one. Maps that lack nothing are returned as they are.

    Raises
    ------
    ProcessingError
        ``CHI_NO_SIGNAL``: no voxel of the body has both.
    """
    fitted = body & (maps.model != NOT_FITTED)
    no_signal = fitted & ~(np.isfinite(maps.water) & ~np.isinf(maps.fat))
    no_decay = fitted & ~np.isfinite(maps.r2star_per_s) & ~maps.censored
    no_fat = fitted & ~(np.isfinite(maps.pdff_percent) & np.isfinite(maps.pdff_se_percent)) & np.isin(maps.model, WITH_FAT)
    no_field = fitted & ~(np.isfinite(maps.field_hz) & np.isfinite(maps.field_se_hz))
    n = max(int(fitted.sum()), 1)
    broken = no_signal | (fitted & np.isinf(maps.r2star_per_s))
    if no_decay.sum() > _MOST_WITHOUT_R2STAR * n:
        broken |= no_decay
    infinite = fitted & (np.isinf(maps.pdff_percent) | np.isinf(maps.field_hz))
    lacking = bool(broken.any() or infinite.any() or no_fat.sum() > _MOST_WITHOUT_FAT * n or no_field.sum() > _MOST_WITHOUT_FIELD * n)
    if not lacking:
        return maps, False
    whole = fitted & ~broken
    if broken.any() and not whole.any():
        raise ProcessingError(
            "No voxel of the body has a finite signal with a known decay.",
            remedy="Look at the images and the fat-water maps on the QC page.",
            code="CHI_NO_SIGNAL",
        )
    nearest = tuple(ndimage.distance_transform_edt(~whole, sampling=maps.grid.voxel_size_mm, return_distances=False, return_indices=True))
    filled = {name: np.where(broken, getattr(maps, name)[nearest], getattr(maps, name)) for name in ("water", "fat", "r2star_per_s")}
    pdff = np.where(broken | infinite, np.float32(np.nan), maps.pdff_percent)
    return replace(maps, **filled, pdff_percent=pdff, field_hz=np.where(broken, np.float32(np.nan), maps.field_hz)), True

"""Robust statistics of a map in a region, with a standard error that knows noise from texture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hqsm.arrays import FloatArray, Mask
from hqsm.data import RoiStatistics

MEDIAN_EFFICIENCY = 1.2533141373155001
"""sqrt(pi / 2): standard error of the median of normal values over that of their mean."""
CORRELATED_VOXELS = 27
"""Texture is smooth: a cube of three voxels on a side counts as one observation of it."""


def roi_statistics(values: FloatArray, mask: Mask, standard_errors: FloatArray | None = None) -> RoiStatistics:
    """Median inside Tukey's fences (1.5 IQR beyond the quartiles), spread, and a standard error of the median.

    Parameters
    ----------
    values
        Map, (x, y, z).
    mask
        Region, of the same shape.
    standard_errors
        Standard error of each voxel, in the map's unit; None where it is not known.

    Notes
    -----
    The variance inside the fences is noise, independent from voxel to voxel, and texture, which neighbours share::

        SE^2 = pi/2 * (noise^2 / n + (SD^2 - noise^2) / (n / 27))

    with noise^2 the median of the voxels' squared errors, at most SD^2. Without errors all of it counts as texture.
    """
    inside = values[mask]
    finite = np.isfinite(inside)
    valid = inside[finite].astype(np.float64)
    if valid.size == 0:
        return RoiStatistics(median=np.nan, iqr=np.nan, standard_error=np.nan, n_voxels=0, excluded_share=1.0)
    q1, q3 = np.percentile(valid, [25, 75])
    within = (valid >= q1 - 1.5 * (q3 - q1)) & (valid <= q3 + 1.5 * (q3 - q1))
    kept = valid[within]
    error = float("nan")
    if kept.size > 1:
        variance = float(kept.var(ddof=1))
        noise = 0.0
        if standard_errors is not None:
            errors = standard_errors[mask][finite][within]
            errors = errors[np.isfinite(errors)]
            noise = min(variance, float(np.median(errors.astype(np.float64) ** 2))) if errors.size else 0.0
        texture = (variance - noise) / max(kept.size / CORRELATED_VOXELS, 1)
        error = MEDIAN_EFFICIENCY * float(np.sqrt(noise / kept.size + texture))
    return RoiStatistics(
        median=float(np.median(kept)),
        iqr=float(q3 - q1),
        standard_error=error,
        n_voxels=int(kept.size),
        excluded_share=float(1 - kept.size / inside.size),
        trimmed_mean=float(kept.mean()),
    )


def mean_of_readers(readings: Sequence[RoiStatistics]) -> RoiStatistics:
    """The study's value where several read: the mean of their medians, pre-specified.

    Its standard error has the mean of theirs (they saw the same noise) and the scatter between them over their number.
    Readers without a value do not count.
    """
    usable = [reading for reading in readings if np.isfinite(reading.median)]
    if len(usable) <= 1:
        return usable[0] if usable else readings[0]
    medians = np.array([reading.median for reading in usable])
    within = float(np.mean([reading.standard_error**2 for reading in usable]))
    return RoiStatistics(
        median=float(medians.mean()),
        iqr=float(np.mean([reading.iqr for reading in usable])),
        standard_error=float(np.sqrt(within + medians.var(ddof=1) / medians.size)),
        n_voxels=round(float(np.mean([reading.n_voxels for reading in usable]))),
        excluded_share=float(np.mean([reading.excluded_share for reading in usable])),
        trimmed_mean=float(np.mean([reading.trimmed_mean for reading in usable])),
    )

"""Respiratory position of each repetition from a file beside the images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from hqsm.data import NavigatorTrace
from hqsm.errors import InputError


def read_navigator_csv(path: Path, n_repetitions: int) -> NavigatorTrace:
    """Read ``repetition,displacement_mm`` with one row per repetition, from 1.

    Raises
    ------
    InputError
        For a missing column, a row that is not a number, a repetition that is missing, given twice or unknown.
    """
    displacement_mm = np.full(n_repetitions, np.nan)
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        if not {"repetition", "displacement_mm"} <= set(reader.fieldnames or ()):
            raise InputError(
                "navigator.csv has not the columns repetition,displacement_mm.",
                remedy="Write them as its first line.",
                code="NAVIGATOR_COLUMNS",
            )
        for line, row in enumerate(reader, start=2):
            try:
                repetition, value = int(row["repetition"]), float(row["displacement_mm"])
            except (TypeError, ValueError):
                raise InputError(f"navigator.csv line {line} is not two numbers.", remedy="Correct it.", code="NAVIGATOR_NUMBER") from None
            if not 1 <= repetition <= n_repetitions:
                raise InputError(
                    f"navigator.csv line {line} names repetition {repetition}, the images have {n_repetitions}.",
                    remedy="Give one row per repetition of the images.",
                    code="NAVIGATOR_LENGTH",
                )
            if np.isfinite(displacement_mm[repetition - 1]):
                raise InputError(f"navigator.csv gives repetition {repetition} twice.", remedy="Keep one.", code="NAVIGATOR_TWICE")
            displacement_mm[repetition - 1] = value
    missing = np.flatnonzero(np.isnan(displacement_mm)) + 1
    if missing.size:
        raise InputError(
            f"navigator.csv has no row for repetition {', '.join(map(str, missing))}.",
            remedy="Give one row per repetition of the images.",
            code="NAVIGATOR_LENGTH",
        )
    return NavigatorTrace(displacement_mm=displacement_mm, source="navigator.csv")

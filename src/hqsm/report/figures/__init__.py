"""The study report's figures, one module each; :data:`FIGURES` is their order on the page."""

from __future__ import annotations

from collections.abc import Callable

from hqsm.report.figures import (
    added_variable,
    agreement,
    explants,
    flow,
    forest,
    histology,
    prediction,
    readers,
    repeatability,
    trajectories,
)
from hqsm.report.figures.base import ReportData, StudyFigure

FIGURES: tuple[Callable[[ReportData], StudyFigure | None], ...] = (
    flow.draw,
    trajectories.draw,
    added_variable.draw,
    prediction.draw,
    forest.draw,
    agreement.draw,
    explants.draw,
    histology.draw,
    repeatability.draw,
    readers.draw,
)

"""Parameters of the pages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class ReportParams:
    """How pages look."""

    n_slices: Annotated[int, Field(ge=1, le=12)] = 5
    """Slices shown of every map on a visit's QC page."""
    viewer: bool = True
    """Make an interactive viewer beside every QC page (a page of a few MB that needs WebGL 2)."""

"""Parameters of navigator gating."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class GatingParams:
    """Which repetitions are combined."""

    window_mm: Annotated[float, Field(gt=0, le=20)] = 5.0
    """Full width of the acceptance window around end-expiration."""
    widest_window_mm: Annotated[float, Field(gt=0, le=20)] = 8.0
    """The window is widened in steps of 1 mm up to this width to reach ``wanted_efficiency``."""
    wanted_efficiency: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of the repetitions below which the window is widened."""
    minimum_accepted: Annotated[int, Field(ge=1)] = 1
    """A visit with fewer accepted repetitions is rejected."""

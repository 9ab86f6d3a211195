"""Parameters of navigator gating."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class GatingParams:
    """Which repetitions are combined."""

    window_mm: Annotated[float, Field(ge=0.5, le=20)] = 5.0
    """Full width of the acceptance window around end-expiration."""
    widest_window_mm: Annotated[float, Field(ge=0.5, le=20)] = 8.0
    """The window is widened up to this width to reach ``wanted_efficiency``."""
    window_step_mm: Annotated[float, Field(gt=0, le=5)] = 1.0
    """Steps in which the window is widened."""
    wanted_efficiency: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of the repetitions below which the window is widened, and below which the visit is a warning."""
    minimum_accepted: Annotated[int, Field(ge=1)] = 1
    """A visit with fewer accepted repetitions is rejected."""
    minimum_efficiency: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A visit with a smaller accepted share of its repetitions is rejected; 0 leaves it to ``minimum_accepted``."""
    follow: Literal["none", "drift", "all"] = "none"
    """What accepted repetitions are shifted by before they are combined: nothing (the window keeps one position), the drift
    of the end-expiratory level where there is one (the window follows it), or all of their residual displacement
    (gate-and-follow). Interpolation across thick slices costs more at the dome than the window's blur."""
    smallest_drift_mm: Annotated[float, Field(gt=0, le=20)] = 2.0
    """A drift of the end-expiratory level over the scan below this is none."""
    disagreement_mm: Annotated[float, Field(gt=0, le=20)] = 3.0
    """Two sources of the displacement whose RMS difference is larger are flagged."""
    outlier_sd: Annotated[float, Field(gt=0)] = 4.0
    """A repetition whose image is that many robust standard deviations less like the others is an outlier."""
    bellows_excursion_mm: Annotated[float, Field(gt=0, le=60)] = 15.0
    """Diaphragm excursion that the 5th to 95th percentile of a bellows signal is taken for where the images cannot say."""
    bellows_window_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Duration from a repetition's AcquisitionTime over which a bellows signal is averaged."""
    displacement_element: Annotated[str, Field(pattern=r"^$|^[0-9A-Fa-f]{4},([0-9A-Fa-f]{4}|xx[0-9A-Fa-f]{2} .+)$")] = ""
    """DICOM element that holds each repetition's displacement: ``GGGG,EEEE``, or ``GGGG,xxEE CREATOR`` for a private one."""
    displacement_element_mm_per_unit: float = 1.0
    """What the element's value is multiplied by to be mm towards the head."""

    def __post_init__(self) -> None:
        if self.window_mm > self.widest_window_mm:
            raise ValueError(f"window_mm ({self.window_mm:g}) is wider than widest_window_mm ({self.widest_window_mm:g})")

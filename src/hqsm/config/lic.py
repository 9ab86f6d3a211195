"""Parameters of liver iron concentration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class LicParams:
    """Which calibrations turn R2* and susceptibility into LIC."""

    r2star_calibration: Literal["hernando2023", "wood2005", "hankins2009", "henninger2015", "dassignies2018"] = "hernando2023"
    """Calibration from R2*; it must exist for the field strength of the scan."""
    hqsm_calibration: Literal["physical", "buelo2025", "lin2018", "tipirneni2021", "own"] = "physical"
    """Calibration from susceptibility; ``own`` takes the slope and intercept below."""
    own_slope_mg_g_per_ppm: Annotated[float, Field(gt=0)] = 2.44
    """Slope of the study's own calibration."""
    own_intercept_mg_g: float = 0.0
    """Intercept of the study's own calibration."""
    own_slope_relative_sd: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Relative uncertainty (1 SD) of that slope."""
    own_centre_ppm: float = 0.0
    """Susceptibility at which that line's value errs independently of its slope: about the mean of what it was made from."""
    own_centre_sd_mg_g: Annotated[float, Field(ge=0)] = 0.0
    """Uncertainty (1 SD) of the line's value there."""
    own_reference_tissue: str = ""
    """Reference tissue of the maps that it was made with; a LIC with another is not reported. Empty: not known."""
    own_reconstruction_digest: str = ""
    """Digest of the reconstruction that it was made with; a LIC of another is flagged. Empty: not known."""
    own_source: str = "configuration of the study"
    """What it was made from."""
    largest_censored_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Above this share of liver voxels with R2* beyond the measurable, LIC by R2* is censored."""
    physical_scale_sd: Annotated[float, Field(ge=0, lt=1)] = 0.20
    """Relative uncertainty (1 SD) of the physical scale: susceptibility of iron (1.3 to 1.6 ppm per mg/mL), density, wet-to-dry ratio."""
    iron_free_liver_ppm: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Liver without iron over muscle and water, for the physical scale: from the study's healthy controls, where it has fitted it."""
    iron_free_liver_sd_ppm: Annotated[float, Field(ge=0)] = 0.1
    """Its uncertainty (1 SD): published are 0 to +0.2 ppm over water (Schenck, Med Phys 1996;23:815; muscle is at 0 to +0.05)."""
    lowest_plausible_mg_g: Annotated[float, Field(le=0)] = -3.0
    """A liver iron below this is no measurement error but a wrong mask, reference or field: it is not reported."""

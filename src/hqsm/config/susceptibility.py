"""Parameters of susceptibility estimation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class SusceptibilityParams:
    """From the total field to the referenced susceptibility map."""

    method: Literal["total-field", "pdf-tikhonov"] = "total-field"
    """``total-field``: all sources at once, body and surroundings. ``pdf-tikhonov``: background removed first."""
    reference: Literal["muscle", "fat", "aorta"] = "muscle"
    """Tissue whose susceptibility is zero (explants: always the medium around them)."""
    max_iterations: Annotated[int, Field(ge=1, le=2000)] = 400
    """Conjugate-gradient iterations at most."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Relative residual of the normal equations at which the iteration has arrived."""
    tissue_sd_ppm: Annotated[float, Field(gt=0)] = 0.12
    """Prior standard deviation of a voxel's susceptibility in ordinary tissue (total-field)."""
    model_error_ppm: Annotated[float, Field(gt=0)] = 0.03
    """Error of the measured field beyond its noise (both methods)."""
    padding_mm: Annotated[float, Field(ge=0)] = 60.0
    """How far the model extends beyond the images."""
    regularisation: Annotated[float, Field(gt=0)] = 0.05
    """Tikhonov weight (pdf-tikhonov)."""

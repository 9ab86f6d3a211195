"""Parameters of fat-water separation and R2*."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class FatWaterParams:
    """Fat-water separation with joint R2* and field map."""

    spectrum: Literal["hamilton-liver-6", "hamilton-liver-9", "ren-marrow-9", "ren-subcutaneous-9", "bydder", "bydder-2.5", "philips-7"] = (
        "hamilton-liver-6"
    )
    """Fat spectrum; bydder: that of the double bonds below, bydder-2.5: of 2.5 whatever they are."""
    double_bonds: Annotated[float, Field(ge=0, le=8)] = 2.5
    """Double bonds in a molecule of triglyceride, for the spectrum bydder; its chain length and methylene-interrupted bonds follow."""
    signal_threshold: Annotated[float, Field(gt=0, le=50)] = 5.0
    """Voxels whose strongest echo is below this multiple of the noise are not fitted."""
    field_smoothness: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Weight of field continuity between neighbours against the voxel's own misfit."""
    field_initialisation: Literal["graph", "in-phase"] = "graph"
    """How the first field is found: best fields chosen by continuity, or unwrapped phase of in-phase echoes."""
    pdff_se_for_constraint_percent: Annotated[float, Field(gt=0)] = 4.0
    """Above this standard error of the fat fraction, fat and water share one phase and the field a local prior."""
    common_phase: bool = False
    """Fat and water share one phase in every voxel, as at excitation they do, not only in the uncertain ones."""
    pdff_se_for_no_fat_percent: Annotated[float, Field(gt=0)] = 25.0
    """Above this standard error even so, fat is given up: R2* and field only."""
    r2star_estimator: Literal["complex", "arlo", "log-linear", "plain", "truncated", "noise-floor"] = "complex"
    """Where R2* comes from: the complex water-fat fit, or a fat-free estimate from the magnitude alone."""
    coils_in_magnitude: Annotated[int, Field(ge=1, le=64)] = 1
    """Coils whose sum of squares the magnitude is, for the noise floor: 1 is Rician, more non-central chi."""
    t1_correction: bool = False
    """Correct the fat fraction for the T1 of water and fat by the flip angle and repetition time of the images."""
    water_shift_of_explants: bool = True
    """Estimate where water resonates in an explant from its own echoes, where they know it better than the given temperature."""

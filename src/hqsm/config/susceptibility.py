"""Parameters of susceptibility estimation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters

Method = Literal[
    "total-field",
    "regional",
    "tfi",
    "pdf+tkd",
    "pdf+tikhonov",
    "pdf+medi",
    "lbv+tkd",
    "lbv+tikhonov",
    "lbv+medi",
    "v-sharp+tkd",
    "v-sharp+tikhonov",
    "v-sharp+medi",
]
"""How susceptibility is estimated: from the total field (ours; ``tfi`` as published), or ``background removal+inversion`` as published."""


@parameters
class PdfParams:
    """Projection onto dipole fields (Liu et al., NMR Biomed 2011;24:1129)."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    """Relative residual of the normal equations at which the iteration has arrived."""
    max_iterations: Annotated[int, Field(ge=1, le=2000)] = 200
    """Conjugate-gradient iterations at most."""


@parameters
class LbvParams:
    """Laplacian boundary value (Zhou et al., NMR Biomed 2014;27:312)."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Relative residual of Laplace's equation at which the iteration has arrived."""
    max_iterations: Annotated[int, Field(ge=1, le=5000)] = 1000
    """Conjugate-gradient iterations at most."""


@parameters
class VSharpParams:
    """Variable-kernel SHARP (Li et al., NeuroImage 2011;55:1645)."""

    largest_radius_mm: Annotated[float, Field(gt=0)] = 18.0
    """Radius of the largest sphere, used deep inside the body."""
    radius_step_mm: Annotated[float, Field(gt=0)] = 2.0
    """By how much each next sphere is smaller; the smallest is as large as the largest voxel edge."""
    truncation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Frequencies at which the largest sphere's kernel is below this are not divided by it."""


@parameters
class TkdParams:
    """Truncated k-space division (Shmueli et al., MRM 2009;62:1510)."""

    threshold: Annotated[float, Field(gt=0, lt=0.67)] = 0.15
    """Where the dipole kernel is smaller than this, this is divided by."""


@parameters
class TikhonovParams:
    """Closed-form Tikhonov inversion (Bilgic et al., MRM 2014;72:1444)."""

    regularisation: Annotated[float, Field(gt=0)] = 0.05
    """Weight of the map's norm against the kernel."""


@parameters
class MediParams:
    """Morphology-enabled dipole inversion (Liu et al., MRM 2012;69:467), with model error reduction (MERIT)."""

    data_weight: Annotated[float, Field(gt=0)] = 1000.0
    """Weight of the data against the gradients' norm (lambda of the toolbox)."""
    radians_per_ppm: Annotated[float, Field(gt=0)] = 0.92
    """Phase that 1 ppm counts as: 2.3 ms at 1.5 T. Held fixed, so that echo spacing and field do not change the weight."""
    edge_share: Annotated[float, Field(gt=0, lt=3)] = 0.9
    """Gradient components taken for edges, over the number of voxels in the body (three components each)."""
    merit_sd: Annotated[float, Field(gt=0)] = 6.0
    """Residuals beyond so many standard deviations lose weight (MERIT)."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Relative step of the outer iteration at which it has arrived."""
    max_iterations: Annotated[int, Field(ge=1, le=100)] = 10
    """Outer (Gauss-Newton) iterations at most."""
    inner_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Relative residual of each step's conjugate gradients."""
    max_inner_iterations: Annotated[int, Field(ge=1, le=1000)] = 100
    """Conjugate-gradient iterations of each step at most."""


@parameters
class TfiParams:
    """Preconditioned total-field inversion (Liu et al., MRM 2017;78:303)."""

    preconditioner: Annotated[float, Field(ge=1)] = 30.0
    """How much stronger sources may be outside the body, and in the zone around liver and iron, than elsewhere (P)."""
    strong_r2star_per_s: Annotated[float, Field(gt=0)] = 100.0
    """R2* at 1.5 T, in proportion to the field at others, above which tissue may be a strong source."""
    zone_margin_mm: Annotated[float, Field(ge=0)] = 8.0
    """How far beyond the liver's mask and such tissue sources may be as strong."""
    data_weight: Annotated[float, Field(gt=0)] = 1000.0
    """Weight of the data, whose own weights have mean 1, against the gradients' norm [1/(ppm mm)]."""
    least_gradient_ppm_per_mm: Annotated[float, Field(gt=0)] = 1e-3
    """Gradients of the map below this are as good as none: the norm is round there, and has a derivative."""
    edge_share: Annotated[float, Field(gt=0, lt=3)] = 0.9
    """Gradient components taken for edges, over the number of voxels in the body (three components each)."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Relative step of the outer iteration, in the body, at which it has arrived."""
    max_iterations: Annotated[int, Field(ge=1, le=200)] = 25
    """Outer iterations at most."""
    inner_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Relative residual of each step's conjugate gradients."""
    max_inner_iterations: Annotated[int, Field(ge=1, le=1000)] = 10
    """Conjugate-gradient iterations of each step at most."""


@parameters
class SusceptibilityParams:
    """From the total field to the referenced susceptibility map."""

    method: Method = "total-field"
    """``total-field`` (ours), ``tfi`` (published): all sources at once, body and surroundings. ``pdf+medi`` ...: in two steps."""
    reference: Literal["muscle", "fat", "aorta"] = "muscle"
    """Tissue whose susceptibility is zero (explants: always the medium around them)."""
    max_iterations: Annotated[int, Field(ge=1, le=2000)] = 400
    """Conjugate-gradient iterations at most (total-field)."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 3e-5
    """Relative residual of the normal equations at which the iteration has arrived (total-field)."""
    tissue_sd_ppm: Annotated[float, Field(gt=0)] = 0.12
    """Prior standard deviation of a voxel's susceptibility in ordinary tissue (total-field)."""
    model_error_ppm: Annotated[float, Field(gt=0)] = 0.03
    """Error of the measured field beyond its noise (all methods)."""
    padding_mm: Annotated[float, Field(ge=0)] = 60.0
    """How far the model extends beyond the images (all methods)."""
    tfi: TfiParams = TfiParams()
    pdf: PdfParams = PdfParams()
    lbv: LbvParams = LbvParams()
    v_sharp: VSharpParams = VSharpParams()
    tkd: TkdParams = TkdParams()
    tikhonov: TikhonovParams = TikhonovParams()
    medi: MediParams = MediParams()

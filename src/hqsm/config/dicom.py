"""Parameters of the DICOM reader."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters

ConventionName = Literal[
    "siemens-classic", "siemens-xa", "ge", "philips-classic", "philips-enhanced", "canon", "united-imaging", "vendor-neutral"
]


@parameters
class DicomParams:
    """How raw DICOM is read."""

    largest_file_mb: Annotated[float, Field(gt=0, le=16000)] = 512.0
    """Files larger than this are left aside, and none is inflated or decoded to more [MB]."""
    repeated_series: Literal["last", "repetitions"] = "last"
    """A protocol run more than once: take the last complete run, or take the runs as repetitions of one scan."""
    keep_repetitions: bool = False
    """Also write every repetition, ungated, into results/bids (acq-ungated, one run per repetition)."""
    smallest_odd_even_phase_rad: Annotated[float, Field(ge=0, le=4)] = 0.05
    """Phase that alternates between odd and even echoes (bipolar readouts) is removed above this RMS [rad]; 4 never does."""
    reverse_phase_of: tuple[ConventionName, ...] = ()
    """Conventions whose phase runs the other way than assumed (seen as water and fat exchanged everywhere)."""

"""Parameters of the protocol check: what an acquisition of this study should look like."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class ExpectedProtocol:
    """An expected acquisition; what is left out is not compared."""

    participants: str = ""
    """Regular expression at the start of the participants' labels of a site (without sub-); empty: everybody."""
    sessions: str = ""
    """The same of the sessions' labels (without ses-), for explants scanned by a protocol of their own."""
    manufacturer: str = ""
    """Word in the manufacturer's name."""
    field_strength_tesla: Annotated[float, Field(gt=0, le=12)] | None = None
    """Nominal field strength [T]; compared within 5 %."""
    echo_times_ms: tuple[Annotated[float, Field(gt=0, lt=500)], ...] = ()
    """Echo times [ms], compared within ``echo_time_tolerance_ms``."""
    repetition_time_ms: Annotated[float, Field(gt=0)] | None = None
    """Repetition time [ms]; compared within 5 %."""
    flip_angle_degrees: Annotated[float, Field(gt=0, le=180)] | None = None
    """Flip angle [degrees]; compared within 0.5 degrees."""
    matrix: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """Columns and rows of an image."""
    voxel_size_mm: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """Distance of voxels along column, row and slice [mm]; compared within 2 %."""
    readout: Literal["any", "unipolar", "bipolar"] = "any"
    """Polarity of the readout gradients of successive echoes."""
    least_repetitions: Annotated[int, Field(ge=1)] = 1
    """Fewest repetitions of the whole volume."""


@parameters
class ProtocolParams:
    """What every visit's acquisition is compared with."""

    expected: ExpectedProtocol = ExpectedProtocol()
    """The protocol of every visit that no site below claims."""
    sites: dict[str, ExpectedProtocol] = Field(default_factory=dict)
    """Protocols by site (or scanner); the first whose patterns match a visit is used."""
    echo_time_tolerance_ms: Annotated[float, Field(ge=0, le=5)] = 0.05
    """Largest difference of an echo time that is none [ms]."""

"""Parameters of the intake of hospital exports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class PrivateElementParams:
    """One more private element that is kept: a site's own navigator element, for example."""

    creator: str
    """Private creator, exactly as the header has it."""
    group: Annotated[int, Field(ge=0x0009, le=0xFFFF)]
    """Group, an odd number; YAML understands 0x0019."""
    element: Annotated[int, Field(ge=0, le=0xFF)]
    """Last two hexadecimal digits of the element."""
    vr: Literal["DS", "IS", "SS", "US", "SL", "UL", "FL", "FD"]
    """Numeric value representation: only numbers are kept."""


@parameters
class IntakeParams:
    """How exports are taken in."""

    largest_file_mb: Annotated[float, Field(gt=0)] = 512.0
    """Files larger than this, packed or inflated, are skipped [MB]."""
    most_files: Annotated[int, Field(gt=0)] = 200_000
    """Files that an archive may hold."""
    private_elements: tuple[PrivateElementParams, ...] = ()
    """Private elements that are kept beside those of the vendors' conventions."""

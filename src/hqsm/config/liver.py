"""Parameters of liver, vessel and reference regions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class LiverParams:
    """Where the liver values are read from."""

    edge_mm: Annotated[float, Field(ge=0, le=30)] = 6.0
    """The liver's edge is left out to this depth."""
    smallest_volume_ml: Annotated[float, Field(gt=0)] = 250.0
    """An automatic mask smaller than this needs a reader."""
    largest_volume_ml: Annotated[float, Field(gt=0)] = 4000.0
    """An automatic mask larger than this needs a reader."""

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
    gas_distance_mm: Annotated[float, Field(ge=0, le=40)] = 15.0
    """Susceptibility is not read from the liver within this distance of lung or gas."""
    largest_residual: Annotated[float, Field(gt=0, le=1)] = 0.35
    """A voxel whose fit leaves more than this share of its signal is counted as not fitted well."""
    resample_reader_masks: bool = False
    """Take readers' masks on another grid by the nearest voxel; else they are refused."""
    adjudicate_below_dice: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Two readers whose masks overlap by less are adjudicated (whole organs; spots are not compared)."""
    adjudicate_above_r2star_percent: Annotated[float, Field(gt=0)] = 10.0
    """Two readers whose R2* differs by more are adjudicated."""
    adjudicate_above_chi_ppm: Annotated[float, Field(gt=0)] = 0.15
    """Two readers whose susceptibility differs by more are adjudicated."""

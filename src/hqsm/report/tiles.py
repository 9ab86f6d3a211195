"""Pictures of one size side by side in one drawing area: making areas and their axes takes longer than drawing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hqsm.arrays import AnyArray


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Where each picture lies, in voxels from the upper left corner of the first.

    Attributes
    ----------
    height, width
        Rows and columns of a picture.
    number
        How many there are.
    """

    height: int
    width: int
    number: int

    @property
    def columns(self) -> float:
        """Width of all of them with what lies between."""
        return self.start(self.number - 1) + self.width

    def start(self, n: int) -> float:
        """Left border of the nth picture, from 0."""
        return 1.02 * n * self.width

    def extent(self, n: int) -> tuple[float, float, float, float]:
        """Left, right, lower and upper border of the nth picture."""
        return self.start(n), self.start(n) + self.width, self.height, 0.0

    def outlines(self, ax: Any, masks: AnyArray) -> list[Any]:
        """The outlines of masks (row, column, picture) as paths; they are the same in every map and are followed once."""
        rows, columns = np.arange(self.height) + 0.5, np.arange(self.width) + 0.5
        found: list[Any] = []
        for n in range(self.number):
            if masks[:, :, n].any() and not masks[:, :, n].all():
                drawn = ax.contour(columns + self.start(n), rows, masks[:, :, n], levels=[0.5])
                found += drawn.get_paths()
                drawn.remove()
        return found

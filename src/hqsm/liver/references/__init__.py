"""Reference tissues: subcutaneous fat, paraspinal muscle, aorta, one method a file; and the medium around an explant."""

from __future__ import annotations

from hqsm.arrays import Mask
from hqsm.data import VoxelGrid, WaterFat
from hqsm.liver.geometry import dilated, eroded
from hqsm.liver.references.aorta import aorta
from hqsm.liver.references.muscle import paraspinal_muscle
from hqsm.liver.references.subcutaneous_fat import subcutaneous_fat
from hqsm.liver.references.trunk import FEWEST_VOXELS, shows_the_back

REFERENCES = ("fat", "aorta", "muscle", "medium")
_FROM_WALL_AND_BLOCK_MM = 8.0


def reference_tissues(maps: WaterFat, body: Mask, liver: Mask) -> dict[str, Mask]:
    """Subcutaneous fat below the skin, muscle beside the spine and the aorta before it; what is not found is empty."""
    fat = subcutaneous_fat(maps, body)
    if not shows_the_back(body, maps.grid):
        return {"fat": fat}
    muscle = paraspinal_muscle(maps, body, liver)
    return {"fat": fat, "muscle": muscle, "aorta": aorta(maps, body, liver, muscle)}


def medium(body: Mask, block: Mask, grid: VoxelGrid) -> Mask:
    """What surrounds an explant in its container, away from both."""
    return eroded(body, grid, _FROM_WALL_AND_BLOCK_MM) & ~dilated(block, grid, _FROM_WALL_AND_BLOCK_MM)


__all__ = ["FEWEST_VOXELS", "REFERENCES", "medium", "reference_tissues"]

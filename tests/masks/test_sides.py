"""Where a liver without iron ends that touches the wall of the flank, from the levels on either side of its surface."""

import numpy as np
from scipy import ndimage

from hqsm.data import VoxelGrid
from hqsm.liver import dice
from hqsm.liver.geometry import dilated
from hqsm.liver.sides import between_levels, fat_under_skin, sides

GRID = VoxelGrid(shape=(64, 48, 24), affine_mm=np.diag([3.2, 3.2, 5.0, 1.0]))
STEP = 0.09
"""Logarithm of the brightness of liver over that of muscle."""
SLOPE = 0.06
"""What is left of the coil's sensitivity from the middle of the body to its side."""


def flank(step: float = STEP, *, bowel: float = 0.0) -> dict[str, np.ndarray]:
    """A liver beside bowel, in a wall of muscle, in fat, in air; brightness over that of muscle, by their decay all are alike."""
    i, j, _ = np.indices(GRID.shape)
    radius = np.hypot((i - 32) / 30, (j - 24) / 22)
    body, lean = radius < 1, radius < 0.8
    wall = lean & (radius > 0.64)
    liver = (radius <= 0.64) & (i > 26) & (j > 10) & (np.indices(GRID.shape)[2] < 20)
    rng = np.random.default_rng(2)
    brightness = SLOPE * (i - 32) / 32 + step * liver + bowel * (lean & ~wall & ~liver) + 0.03 * rng.standard_normal(GRID.shape)
    pdff = np.where(lean, 0.03, 0.92) + 0.01 * rng.standard_normal(GRID.shape)
    decay = np.log(45) + 0.08 * rng.standard_normal(GRID.shape)
    features = {"brightness": brightness, "log_decay": decay, "pdff": np.where(body, pdff, np.nan)}
    return {**{k: v.astype(np.float32) for k, v in features.items()}, "tissue": lean, "body": body, "wall": wall, "liver": liver}


def redrawn(scene: dict[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
    names = ("brightness", "log_decay", "pdff", "tissue", "body")
    return between_levels(mask, *(scene[name] for name in names), GRID)


def test_a_mask_that_holds_the_wall_down_to_the_fat_ends_before_the_wall() -> None:
    scene = flank()
    liver, wall = scene["liver"], scene["wall"]
    first = liver | (wall & dilated(liver, GRID, 14.0))
    assert dice(first, liver) < 0.88
    found = redrawn(scene, first)
    assert dice(found, liver) > 0.95
    assert (found & wall).sum() < 0.15 * (first & wall).sum()


def test_where_bowel_is_all_that_lies_outside_the_wall_is_known_from_elsewhere_under_the_skin() -> None:
    scene = flank(bowel=0.24)
    liver, wall = scene["liver"], scene["wall"]
    first = liver | (wall & (np.indices(GRID.shape)[0] > 20))
    assert dice(first, liver) < 0.76
    found = redrawn(scene, first)
    assert dice(found, liver) > 0.85
    assert (found & wall).sum() < 0.5 * (first & wall).sum()


def test_a_mask_that_ends_too_early_grows_to_where_the_level_changes() -> None:
    scene = flank()
    small = ndimage.binary_erosion(scene["liver"], np.ones((3, 3, 1), bool), 2)
    assert dice(small, scene["liver"]) < 0.85
    assert dice(redrawn(scene, small), scene["liver"]) > 0.95


def test_without_a_step_or_without_fat_fractions_the_mask_stays_as_it_was() -> None:
    scene = flank(step=0.0)
    liver = scene["liver"]
    assert dice(redrawn(scene, liver), liver) > 0.97
    unknown = {**flank(), "pdff": np.full(GRID.shape, np.nan, np.float32)}
    first = liver | (scene["wall"] & dilated(liver, GRID, 14.0))
    np.testing.assert_array_equal(redrawn(unknown, first), first)


def test_the_distance_of_two_levels_is_that_of_their_means_in_standard_deviations() -> None:
    scene = flank()
    liver = scene["liver"]
    values = np.stack([scene["brightness"] - SLOPE * (np.indices(GRID.shape)[0] - 32) / 32])
    found = sides(values, liver, scene["tissue"], fat_under_skin(scene["pdff"], scene["body"], GRID), GRID)
    edge = ndimage.binary_dilation(liver) & scene["tissue"] & ~ndimage.binary_erosion(liver)
    assert abs(float(np.median(found.separation[edge])) - STEP / 0.03) < 0.3
    assert abs(float(found.share[edge & liver].mean()) - 1) < 0.1
    assert abs(float(found.share[edge & ~liver].mean())) < 0.1

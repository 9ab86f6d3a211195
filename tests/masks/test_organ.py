"""What tells the liver from what lies beside it: its features, and what is learned from which part of it."""

import numpy as np

from hqsm.data import VoxelGrid
from hqsm.liver import find_body
from hqsm.liver.organ import Features, features, log_likelihood_ratio
from hqsm.liver.pieces import find_edges
from hqsm.phantom.tissue import LABELS
from masks.conftest import simulated_visit, true_liver


def test_fat_that_opposes_water_does_not_darken_the_coil_beside_it() -> None:
    """Liver has 100 of water and muscle 90; under the skin, where fat is dark in the first echo of 3 T, muscle must not look brighter."""
    echoes, maps, truth = simulated_visit(0.5, 4.0, 3.0, 14)
    brightness = features(echoes, maps, find_body(maps), float(echoes.noise_sd)).brightness
    step = np.median(brightness[true_liver(truth)]) - np.median(brightness[truth == LABELS["muscle"]])
    assert 0.04 < step < np.log(100 / 90)


def test_what_has_leaked_into_the_organ_is_not_learned() -> None:
    """Bowel with a third less fat and twice the liver's volume, all of it in the mask, beside tissue of all fat fractions."""
    grid = VoxelGrid(shape=(60, 30, 20), affine_mm=np.diag([3.0, 3.0, 5.0, 1.0]))
    i = np.indices(grid.shape)[0]
    core, liver, bowel = i < 5, i < 15, (i >= 15) & (i < 45)
    rng = np.random.default_rng(4)
    level = np.where(liver, 0.045, np.where(bowel, 0.030, rng.uniform(0.0, 0.1, grid.shape)))
    flat = np.zeros(grid.shape, np.float32)
    found = Features(
        brightness=(0.02 * rng.standard_normal(grid.shape)).astype(np.float32),
        log_decay=(4.0 + 0.08 * rng.standard_normal(grid.shape)).astype(np.float32),
        pdff=(level + 0.008 * rng.standard_normal(grid.shape)).astype(np.float32),
        tissue=np.ones(grid.shape, bool),
        edges=find_edges(np.stack([flat + 1, flat + 1], axis=3), 0.01, grid),
    )
    ratio = log_likelihood_ratio(found, core, liver | bowel)
    assert np.median(ratio[bowel]) < 0 < np.median(ratio[liver])

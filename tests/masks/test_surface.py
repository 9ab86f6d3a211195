"""An organ's surface is the cheapest one along edges: a leak ends at the line that it crossed."""

import numpy as np

from hqsm.data import VoxelGrid
from hqsm.liver.pieces import snapped
from hqsm.liver.surface import along_edges, minimal_cut
from masks.test_pieces import GRID, LIVER, block, images

MUSCLE = block((34, 2, 8), (44, 38, 24))


def test_a_leak_that_ends_in_the_midst_of_a_muscle_is_cut_at_the_line_before_it() -> None:
    edges, log_decay = images(MUSCLE, line=0.6)
    leak = block((34, 10, 8), (44, 26, 24))
    nothing, body = np.zeros(GRID.shape, np.float32), np.ones(GRID.shape, bool)
    kept = snapped(along_edges(LIVER | leak, nothing, edges, log_decay, body, GRID), edges, body, GRID)
    assert (kept & leak).sum() < 0.2 * leak.sum()  # the line's own rim
    assert (kept & LIVER).sum() > 0.97 * LIVER.sum()


def test_what_is_known_beyond_doubt_outweighs_a_line() -> None:
    edges, log_decay = images(MUSCLE, line=0.6)
    sure = np.where(LIVER | MUSCLE, 8.0, -8.0).astype(np.float32)
    kept = along_edges(LIVER | MUSCLE, sure, edges, log_decay, np.ones(GRID.shape, bool), GRID)
    assert (kept & MUSCLE).sum() > 0.9 * MUSCLE.sum()


def test_an_organ_without_an_inside_is_left_as_it_is() -> None:
    edges, log_decay = images(SPECK := block((36, 10, 10), (38, 12, 12)))
    assert (along_edges(SPECK, np.zeros(GRID.shape, np.float32), edges, log_decay, np.ones(GRID.shape, bool), GRID) == SPECK).all()


def test_the_cut_is_the_cheapest_of_all() -> None:
    """Against every subset of a row of voxels: costs in mm2 of their faces, in mm3 of their volume."""
    grid = VoxelGrid(shape=(7, 1, 1), affine_mm=np.diag([2.0, 3.0, 4.0, 1.0]))
    rng = np.random.default_rng(11)
    core = np.zeros(grid.shape, bool)
    core[0] = True
    for _ in range(40):
        cost = rng.uniform(0.05, 1, grid.shape).astype(np.float32)
        balance = rng.normal(0, 6, grid.shape)
        balance[-1] = -np.inf
        found = minimal_cut(core, np.ones(grid.shape, bool), balance, cost, grid)
        face_mm2 = 12.0 * np.minimum(cost[:-1, 0, 0], cost[1:, 0, 0])

        def price(inside: np.ndarray, balance: np.ndarray = balance, face_mm2: np.ndarray = face_mm2) -> float:
            """Of the surface, and of voxels on the side that they speak against."""
            moved = np.where(inside, np.maximum(-balance[:, 0, 0], 0), np.maximum(balance[:, 0, 0], 0))[1:]
            return float(moved.sum() + face_mm2[inside[1:] != inside[:-1]].sum())

        every = [np.array([True, *(bool(n >> bit & 1) for bit in range(5)), False]) for n in range(32)]
        assert price(found[:, 0, 0]) <= min(map(price, every)) + 0.5  # capacities are rounded

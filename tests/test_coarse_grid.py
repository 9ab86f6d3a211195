"""Larger voxels whose edges need not be a multiple of the finer ones."""

from __future__ import annotations

import numpy as np
import pytest

from hqsm.coarse_grid import CoarseGrid
from hqsm.data import VoxelGrid


def grid_of(shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> VoxelGrid:
    affine = np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = (-7.0, 11.0, 3.0)
    return VoxelGrid(shape=shape, affine_mm=affine)


CASES = [((24, 20, 12), (1.5, 1.5, 4.0)), ((31, 29, 20), (2.2, 1.8, 2.7)), ((40, 33, 17), (1.1, 1.3, 1.7))]


@pytest.mark.parametrize(("shape", "voxel_mm"), CASES)
def test_the_larger_voxels_fill_the_same_box_and_none_is_smaller_than_asked_for_by_more_than_rounding(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]
) -> None:
    fine = grid_of(shape, voxel_mm)
    larger = CoarseGrid(fine, 3.0).grid
    np.testing.assert_allclose(np.array(larger.shape) * larger.voxel_size_mm, np.array(shape) * voxel_mm)
    corners = [g.affine_mm[:3, :3] @ np.full(3, -0.5) + g.affine_mm[:3, 3] for g in (fine, larger)]
    np.testing.assert_allclose(corners[0], corners[1])
    assert larger.voxel_size_mm.min() > 2.6
    np.testing.assert_allclose(larger.b0_direction, fine.b0_direction)


@pytest.mark.parametrize(("shape", "voxel_mm"), CASES)
def test_means_keep_constants_and_lines_and_sums_keep_the_total(shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> None:
    fine = grid_of(shape, voxel_mm)
    coarse = CoarseGrid(fine, 3.0)
    rng = np.random.default_rng(1)
    volume = rng.standard_normal(shape)
    np.testing.assert_allclose(coarse.mean(np.ones(shape)), 1, rtol=1e-5)
    assert coarse.sum(volume).sum() == pytest.approx(volume.sum(), rel=1e-3, abs=1e-2)
    # the mean of a coordinate over a box is that of the box's centre
    for axis in range(3):
        x = np.moveaxis(np.broadcast_to(np.arange(shape[axis]) * voxel_mm[axis], (*np.delete(shape, axis), shape[axis])), -1, axis)
        step = coarse.grid.voxel_size_mm[axis]
        expected = (np.arange(coarse.grid.shape[axis]) + 0.5) * step - voxel_mm[axis] / 2
        along = np.moveaxis(coarse.mean(x), axis, -1)[0, 0]
        # a voxel is one value, so that a shared one counts with its own centre
        np.testing.assert_allclose(along, expected, atol=0.5 * voxel_mm[axis] * 0.51)
        back = np.moveaxis(coarse.interpolated(np.moveaxis(np.broadcast_to(expected, coarse_shape(coarse, axis)), -1, axis)), axis, -1)[
            0, 0
        ]
        within = slice(2, -2)
        np.testing.assert_allclose(back[within], (np.arange(shape[axis]) * voxel_mm[axis])[within], atol=1e-3)


def coarse_shape(coarse: CoarseGrid, axis: int) -> tuple[int, ...]:
    shape = coarse.grid.shape
    return (*(n for a, n in enumerate(shape) if a != axis), shape[axis])


def test_the_sum_of_weights_times_the_mean_is_the_same_on_either_grid_for_what_is_even_in_a_larger_voxel() -> None:
    fine = grid_of((24, 20, 12), (1.5, 1.5, 3.0))
    coarse = CoarseGrid(fine, 3.0)
    rng = np.random.default_rng(2)
    chi, weights = rng.standard_normal(coarse.grid.shape), rng.random(fine.shape)
    assert np.vdot(coarse.sum(weights), chi) == pytest.approx(np.vdot(weights, coarse.nearest(chi)), rel=1e-4)


def test_voxels_that_are_large_enough_stay_as_they_are() -> None:
    coarse = CoarseGrid(grid_of((12, 10, 8), (3.2, 3.0, 6.0)), 3.0)
    volume = np.random.default_rng(3).standard_normal((12, 10, 8)).astype(np.float32)
    assert coarse.is_same
    assert coarse.mean(volume) is volume

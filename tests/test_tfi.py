"""Published total-field inversion: a sphere in closed form, the minimum of its cost, laws."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.susceptibility import TfiParams
from hqsm.data import TotalField, VoxelGrid
from hqsm.dipole import dipole_kernel
from hqsm.inversion import edges, tfi
from spheres import gradient_cost, sphere


def total_of(field_ppm: np.ndarray, grid: VoxelGrid, mask: np.ndarray | None = None) -> TotalField:
    inside = np.ones(grid.shape, bool) if mask is None else mask
    return TotalField(field_ppm=np.where(inside, field_ppm, 0).astype(np.float32), weight=inside.astype(np.float32), mask=inside, grid=grid)


@pytest.mark.parametrize("kind", ["axial", "oblique", "coronal"])
def test_a_sphere_of_iron_in_a_body_in_air_is_found_where_r2star_shows_it(kind: str) -> None:
    """Closed form of both: the air is a sphere of tissue against it, the iron a sphere in that. Without it a fifth and more is lost."""
    grid = make_grid(kind, (30, 30, 18))
    body_share, air_field = sphere(grid, 26.0, -9.4)
    share, field = sphere(grid, 12.0, 1.0, (-10.0, 0.0, 0.0))
    body = body_share > 0.99
    found = {}
    for iron_per_s in (200.0, 30.0):
        r2star = np.where(share > 0.1, iron_per_s, 30.0)
        solution = tfi.invert(total_of(field + air_field, grid, body), 100.0 - 50.0 * share, r2star, TfiParams(), padding_mm=20.0)
        found[iron_per_s] = float(np.median(solution.x[share > 0.99]) - np.median(solution.x[body & (share == 0)]))
    assert found[200.0] == pytest.approx(1.0, abs=0.1)
    assert found[30.0] < 0.8 * found[200.0]


def test_at_convergence_the_map_is_the_minimum_of_the_cost_whatever_the_preconditioner() -> None:
    grid = make_grid("oblique", (16, 18, 10))
    rng = np.random.default_rng(3)
    share, field = sphere(grid, 8.0, 1.0, (3.0, -2.0, 4.0))
    magnitude = 100 - 40 * share
    total = total_of(field + 0.02 * rng.standard_normal(grid.shape), grid)
    params = TfiParams(tolerance=1e-4, max_iterations=150, inner_tolerance=1e-4, max_inner_iterations=300, preconditioner=3.0)
    solution = tfi.invert(total, magnitude, 200 * share, params, padding_mm=0.0)
    kernel = dipole_kernel(grid.shape, grid.voxel_size_mm, grid.b0_direction).astype(float)
    smooth = edges.gradient_mask(magnitude, total.mask, grid.voxel_size_mm, params.edge_share)

    def cost(chi: np.ndarray) -> float:
        predicted = np.fft.irfftn(np.fft.rfftn(chi) * kernel, s=grid.shape, axes=(0, 1, 2))
        data = params.data_weight * np.sum((predicted - total.field_ppm) ** 2)
        return float(data) + gradient_cost(chi, smooth, grid.voxel_size_mm)

    lowest = cost(solution.x)
    assert lowest < 0.3 * cost(np.zeros(grid.shape))
    for _ in range(5):
        direction = 0.01 * rng.standard_normal(grid.shape)
        assert min(cost(solution.x + direction), cost(solution.x - direction)) > lowest
    for factor in (0.98, 1.02):
        assert cost(factor * solution.x) > lowest


def test_turning_grid_and_b0_together_turns_the_map() -> None:
    grid = make_grid("axial", (24, 20, 16))
    turned = VoxelGrid(shape=(24, 16, 20), affine_mm=grid.affine_mm @ np.eye(4)[:, [0, 2, 1, 3]])
    share, field = sphere(grid, 8.0, 1.0, (3.0, -2.0, 4.0))
    body = sphere(grid, 15.0, 0.0)[0] > 0.5

    def mapped(where: VoxelGrid, *volumes: np.ndarray) -> np.ndarray:
        f, s, b = volumes
        return np.asarray(tfi.invert(total_of(f, where, b), 100 - 50 * s, 200 * s, TfiParams(), padding_mm=10.0).x)

    other = mapped(turned, *(np.swapaxes(v, 1, 2) for v in (field, share, body)))
    difference = np.abs(np.swapaxes(other, 1, 2) - mapped(grid, field, share, body))[body]
    assert np.percentile(difference, 99) < 0.01

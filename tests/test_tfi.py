"""Published total-field inversion: a sphere in closed form, the minimum of its cost, laws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.susceptibility import TfiParams
from hqsm.data import TotalField, VoxelGrid
from hqsm.dipole import dipole_kernel
from hqsm.inversion import edges, tfi
from hqsm.liver.geometry import dilated
from spheres import gradient_cost, sphere
from water_fat_maps import water_fat_maps


def total_of(field_ppm: np.ndarray, grid: VoxelGrid, mask: np.ndarray | None = None) -> TotalField:
    inside = np.ones(grid.shape, bool) if mask is None else mask
    return TotalField(field_ppm=np.where(inside, field_ppm, 0).astype(np.float32), weight=inside.astype(np.float32), mask=inside, grid=grid)


@pytest.mark.parametrize("kind", ["axial", "oblique", "coronal"])
def test_a_sphere_of_iron_in_a_body_in_air_is_found_where_it_may_be(kind: str) -> None:
    """Closed form of both: the air is a sphere of tissue against it, the iron a sphere in that. Without it a fifth and more is lost."""
    grid = make_grid(kind, (30, 30, 18))
    body_share, air_field = sphere(grid, 26.0, -9.4)
    share, field = sphere(grid, 12.0, 1.0, (-10.0, 0.0, 0.0))
    body = body_share > 0.99
    found = {}
    for zone, strong in {"generous": dilated(share > 0.1, grid, 8.0), "none": np.zeros_like(body)}.items():
        solution = tfi.invert(total_of(field + air_field, grid, body), 100.0 - 50.0 * share, strong, TfiParams(), padding_mm=20.0)
        found[zone] = float(np.median(solution.x[share > 0.99]) - np.median(solution.x[body & (share == 0)]))
    assert found["generous"] == pytest.approx(1.0, abs=0.1)
    assert found["none"] < 0.8 * found["generous"]


def test_at_convergence_the_map_is_the_minimum_of_the_cost_whatever_the_preconditioner() -> None:
    grid = make_grid("oblique", (16, 18, 10))
    rng = np.random.default_rng(3)
    share, field = sphere(grid, 8.0, 1.0, (3.0, -2.0, 4.0))
    magnitude = 100 - 40 * share
    total = total_of(field + 0.02 * rng.standard_normal(grid.shape), grid)
    # in any unit: what counts is each over their mean
    total = replace(total, weight=rng.uniform(0.4, 4.0, grid.shape).astype(np.float32))
    params = TfiParams(tolerance=1e-4, max_iterations=150, inner_tolerance=1e-4, max_inner_iterations=300, preconditioner=3.0)
    solution = tfi.invert(total, magnitude, share > 0.5, params, padding_mm=0.0)
    kernel = dipole_kernel(grid.shape, grid.voxel_size_mm, grid.b0_direction).astype(float)
    smooth = edges.gradient_mask(magnitude, total.mask, grid.voxel_size_mm, params.edge_share)

    def cost(chi: np.ndarray) -> float:
        predicted = np.fft.irfftn(np.fft.rfftn(chi) * kernel, s=grid.shape, axes=(0, 1, 2))
        data = params.data_weight * np.sum((total.weight / total.weight.mean() * (predicted - total.field_ppm)) ** 2)
        return float(data) + gradient_cost(chi, smooth, grid.voxel_size_mm)

    lowest = cost(solution.x)
    assert lowest < 0.3 * cost(np.zeros(grid.shape))
    for _ in range(5):
        direction = 0.01 * rng.standard_normal(grid.shape)
        assert min(cost(solution.x + direction), cost(solution.x - direction)) > lowest
    for factor in (0.98, 1.02):
        assert cost(factor * solution.x) > lowest
    # the square of the weights counts, no other power
    other = tfi.invert(replace(total, weight=total.weight**2), magnitude, share > 0.5, params, padding_mm=0.0)
    assert cost(other.x) > 1.001 * lowest


_GRID = make_grid("oblique", (24, 20, 16))  # voxels of 2 x 2 x 4 mm
_SHARE, _FIELD = sphere(_GRID, 8.0, 1.0, (3.0, -2.0, 4.0))
_BODY = sphere(_GRID, 15.0, 0.0)[0] > 0.5


def mapped(grid: VoxelGrid, params: TfiParams, padding_mm: float, of: Callable[[np.ndarray], np.ndarray] = lambda v: v) -> np.ndarray:
    """The map of a ball in a body, its volumes changed by ``of``, turned back."""
    total = total_of(of(_FIELD), grid, of(_BODY))
    return of(tfi.invert(total, of(100 - 50 * _SHARE), of(_SHARE > 0), params, padding_mm=padding_mm).x)


def test_turning_grid_and_b0_together_turns_the_map() -> None:
    turned = VoxelGrid(shape=(24, 16, 20), affine_mm=_GRID.affine_mm @ np.eye(4)[:, [0, 2, 1, 3]])
    other = mapped(turned, TfiParams(), 10.0, lambda v: np.swapaxes(v, 1, 2))
    np.testing.assert_allclose(other[_BODY], mapped(_GRID, TfiParams(), 10.0)[_BODY], rtol=0, atol=1e-3)


def test_twice_the_field_is_twice_the_map() -> None:
    """In half the unit of ppm, with the settings that have it."""
    once, params = mapped(_GRID, TfiParams(), 10.0), TfiParams()
    half = replace(params, data_weight=params.data_weight / 2, least_gradient_ppm_per_mm=2 * params.least_gradient_ppm_per_mm)
    total = total_of(2 * _FIELD, _GRID, _BODY)
    twice = tfi.invert(total, 100 - 50 * _SHARE, _SHARE > 0, half, padding_mm=10.0).x
    np.testing.assert_allclose(twice, 2 * once, rtol=0, atol=1e-4)


def test_the_map_does_not_depend_on_the_size_of_the_world() -> None:
    """In half the unit of mm, with the settings that have it."""
    params = TfiParams()
    half = replace(params, data_weight=params.data_weight / 2, least_gradient_ppm_per_mm=params.least_gradient_ppm_per_mm / 2)
    double = VoxelGrid(shape=_GRID.shape, affine_mm=_GRID.affine_mm @ np.diag([2.0, 2.0, 2.0, 1.0]))
    np.testing.assert_allclose(mapped(double, half, 20.0), mapped(_GRID, params, 10.0), rtol=0, atol=1e-4)


def test_sources_may_be_strong_at_liver_and_iron_and_near_them_and_not_where_a_single_voxel_is_noisy() -> None:
    grid = VoxelGrid(shape=(30, 12, 12), affine_mm=np.diag([2.0, 4.0, 6.0, 1.0]))
    r2star = np.full(grid.shape, 80.0, np.float32)
    r2star[3, 5, 5] = 120.0  # noise: 96 with its neighbours
    r2star[14:17, 4:8, 4:8] = 180.0  # iron
    liver = np.zeros(grid.shape, bool)
    liver[25, 5, 5] = True  # whose iron R2* does not show
    model = np.ones(grid.shape, np.uint8)
    for tesla, censored, iron in ((1.5, False, True), (3.0, False, False), (3.0, True, True)):
        maps = water_fat_maps(grid, r2star_per_s=r2star, model=model, field_strength_tesla=tesla)
        if censored:  # so dark that nothing was fitted
            maps = replace(maps, r2star_per_s=np.where(r2star == 180, np.nan, r2star), censored=r2star == 180, r2star_limit_per_s=900.0)
        along = tfi.strong_zone(maps, liver, TfiParams(zone_margin_mm=4.0))[:, 5, 5]
        expected = np.zeros(30, bool)
        expected[23:28], expected[12:19] = True, iron  # 4 mm are two voxels along x
        np.testing.assert_array_equal(along, expected)

"""Total-field inversion: laws of its model, and the closed form of a sphere."""

import numpy as np
import pytest

from conftest import make_grid
from hqsm.data import TotalField
from hqsm.inversion import total_field
from hqsm.inversion.total_field import Organ, SourcePrior, shim_fields
from spheres import sphere


@pytest.mark.parametrize(("shape", "voxel_size_mm"), [((24, 24, 24), (2, 2, 2)), ((40, 30, 12), (2.5, 2.5, 7.0))])
def test_what_a_shim_makes_obeys_laplaces_equation(shape: tuple[int, int, int], voxel_size_mm: tuple[float, float, float]) -> None:
    """Third-order polynomials have exact second differences, so that the sum of them is zero to rounding."""
    fields = shim_fields(shape, np.array(voxel_size_mm))
    assert len(fields) == 16
    flat = np.array([field.ravel() for field in fields])
    assert np.linalg.matrix_rank(flat.astype(float), tol=1e-3) == 16
    for field in fields:
        f = field.astype(np.float64)
        assert 0.2 < np.abs(f).max() < 6
        second = [
            np.diff(f, 2, axis=0)[:, 1:-1, 1:-1] / voxel_size_mm[0] ** 2,
            np.diff(f, 2, axis=1)[1:-1, :, 1:-1] / voxel_size_mm[1] ** 2,
            np.diff(f, 2, axis=2)[1:-1, 1:-1, :] / voxel_size_mm[2] ** 2,
        ]
        curvature = max(float(np.abs(part).max()) for part in second)
        assert np.abs(sum(second)).max() < 1e-2 * max(curvature, 1e-3)


@pytest.mark.parametrize("kind", ["axial", "oblique", "coronal"])
@pytest.mark.parametrize("chi_ppm", [-1.0, 2.0])
def test_a_sphere_in_a_box_of_water_has_its_susceptibility_whatever_shim_lies_over_it(kind: str, chi_ppm: float) -> None:
    grid = make_grid(kind, (44, 44, 26))
    share, field = sphere(grid, 16.0, chi_ppm)
    shims = shim_fields(grid.shape, grid.voxel_size_mm)
    field = field + 0.3 * shims[8] - 0.2 * shims[4] + 0.1 * shims[2]
    rng = np.random.default_rng(1)
    mask = np.ones(grid.shape, bool)
    noise = np.full(grid.shape, 0.02, np.float32)
    total = TotalField(
        field_ppm=(field + 0.02 * rng.standard_normal(grid.shape)).astype(np.float32),
        weight=np.ones(grid.shape, np.float32),
        mask=mask,
        grid=grid,
    )
    prior = SourcePrior(
        mean_ppm=np.zeros(grid.shape, np.float32),
        sd_ppm=np.full(grid.shape, 0.1, np.float32),
        organs=(Organ(share=share.astype(np.float32), level_sd_ppm=5.0),),
    )
    chi, solution = total_field.invert(
        total, noise, prior, padding_mm=30.0, end_sd_ppm=0.1, shim_sd_ppm=2.0, tolerance=1e-4, max_iterations=400
    )
    assert solution.converged
    assert np.median(chi[share > 0.99]) - np.median(chi[share == 0]) == pytest.approx(chi_ppm, rel=0.03)

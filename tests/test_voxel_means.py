"""The dipole between means over voxels, against spheres in closed form and a sum over aliases written out."""

import numpy as np
import pytest

from conftest import make_grid
from hqsm.data import TotalField
from hqsm.dipole import DipoleOperator
from hqsm.inversion.reduced import Reduced
from hqsm.inversion.source_model import Beyond, SourceModel, SourcePrior
from hqsm.inversion.voxel_means import VoxelMeanDipole, voxel_mean_kernel
from spheres import sphere


def errors_around_a_sphere(operator: type[DipoleOperator], kind: str, radius_mm: float) -> np.ndarray:
    """Modelled less true voxel means of the field [ppm], 5 to 16 mm from a sphere of 1 ppm."""
    shape = {"oblique": (44, 44, 24), "anisotropic": (44, 44, 16)}[kind]
    grid = make_grid(kind, shape)
    share, field = sphere(grid, radius_mm, 1.0, (0.7, -0.4, 0.9))
    larger = (3 * shape[0], 3 * shape[1], 3 * shape[2])  # its periodic images are far away
    inside = tuple(slice(0, n) for n in shape)
    modelled = operator(larger, grid.voxel_size_mm, grid.b0_direction).between(share.astype(np.float32), source=inside, target=inside)
    at = np.indices(shape).reshape(3, -1)
    world = grid.affine_mm[:3, :3] @ at + grid.affine_mm[:3, 3:] - np.array([[0.7], [-0.4], [0.9]])
    away_mm = np.linalg.norm(world, axis=0).reshape(shape) - radius_mm
    near = (away_mm > 5) & (away_mm < 16)
    difference = (modelled - field)[near]
    return np.asarray(difference - difference.mean())  # the mean over a periodic volume is free


def test_around_a_sphere_in_an_oblique_slab_the_field_errs_a_third_as_much_as_by_the_continuous_kernel() -> None:
    errors = {o: float(np.sqrt(np.mean(errors_around_a_sphere(o, "oblique", 20.0) ** 2))) for o in (DipoleOperator, VoxelMeanDipole)}
    assert errors[VoxelMeanDipole] < 0.35 * errors[DipoleOperator]
    assert errors[VoxelMeanDipole] < 0.0012


def test_around_a_sphere_in_an_axial_slab_it_errs_hardly_more() -> None:
    errors = {o: float(np.sqrt(np.mean(errors_around_a_sphere(o, "anisotropic", 20.0) ** 2))) for o in (DipoleOperator, VoxelMeanDipole)}
    assert errors[VoxelMeanDipole] < 1.2 * errors[DipoleOperator]


def test_the_kernel_is_the_mean_over_aliases_by_what_voxels_keep_of_their_power() -> None:
    shape, size = (8, 10, 12), np.array([2.0, 2.0, 5.0])
    b0 = np.array([0.1, np.sin(0.4), np.cos(0.4)])
    b0 /= np.linalg.norm(b0)
    kernel = voxel_mean_kernel(shape, size, b0)
    assert kernel[0, 0, 0] == 0
    frequencies = [np.fft.fftfreq(n, d) for n, d in zip(shape, size, strict=True)]
    for place in ((1, 0, 0), (0, 0, 6), (4, 5, 6), (3, 2, 1), (5, 9, 4)):
        near, far = (np.zeros(2) for _ in range(2))
        at = np.array([f[n] for f, n in zip(frequencies, place, strict=True)])
        for alias in np.ndindex(7, 7, 7):
            k = at + (np.array(alias) - 3) / size
            weight = np.prod(np.sinc(k * size) ** 2)
            part = np.array([weight * (1 / 3 - (k @ b0) ** 2 / (k @ k)), weight])
            far += part
            near += part * np.all(np.abs(k) <= 1 / size)
        assert kernel[place] == pytest.approx(near[0] / near[1], abs=1e-5)
        assert kernel[place] == pytest.approx(far[0] / far[1], abs=0.06)


def test_long_waves_have_the_field_that_they_have_without_voxels_but_for_the_square_of_voxel_over_wave() -> None:
    grid = make_grid("oblique", (32, 32, 16))
    at = np.indices(grid.shape)
    wave = np.cos(2 * np.pi * (at[0] / 32 + at[2] / 16)).astype(np.float32)
    fields = [o(grid.shape, grid.voxel_size_mm, grid.b0_direction)(wave) for o in (VoxelMeanDipole, DipoleOperator)]
    np.testing.assert_allclose(fields[0], fields[1], atol=0.5 * (1 / 32**2 + 1 / 16**2))


def test_it_is_its_own_adjoint_on_an_oblique_grid() -> None:
    rng = np.random.default_rng(0)
    grid = make_grid("oblique", (16, 18, 10))
    operator = VoxelMeanDipole(grid.shape, grid.voxel_size_mm, grid.b0_direction)
    a, b = rng.standard_normal((2, *grid.shape)).astype(np.float32)
    assert np.vdot(operator(a), b) == pytest.approx(np.vdot(a, operator(b)), rel=1e-4)


def test_the_source_model_and_its_reduced_problem_take_voxels_for_means() -> None:
    grid = make_grid("oblique", (20, 16, 10))
    ones = np.ones(grid.shape, np.float32)
    total = TotalField(field_ppm=0 * ones, weight=ones, mask=ones > 0, grid=grid)
    prior = SourcePrior(mean_ppm=0 * ones, sd_ppm=0.1 * ones, beyond=Beyond(padding_mm=10.0, smooth_sd_ppm=0.1))
    model = SourceModel(total, 0.1 * ones, prior)
    for dipole in (model.dipole, Reduced(model)._dipole):
        assert isinstance(dipole, VoxelMeanDipole)

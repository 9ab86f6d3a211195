"""Both estimates of the total-field inversion: units, size of the world, B0 in another axis of the voxels."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from hqsm.data import TotalField, VoxelGrid
from hqsm.inversion import reduced, source_model, total_field
from hqsm.inversion.source_model import Beyond, Organ, Smooth, SourcePrior
from spheres import sphere

Problem = tuple[TotalField, np.ndarray, SourcePrior]


LARGE_MM, SMALL_MM = 5.0, 2.0
"""Voxels that are solved for as they are, and such as are joined first and then refined."""


def problem(voxel_mm: float) -> Problem:
    """A ball of iron and one of fat in tissue in air, with noise, a swap and surfaces that are not known; no two axes alike."""
    shape = (22, 18, 14)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = -voxel_mm * (np.array(shape) - 1) / 2
    grid = VoxelGrid(shape=shape, affine_mm=affine)
    body, of_air = sphere(grid, 8.5 * voxel_mm, -9.4)
    iron, of_iron = sphere(grid, 4.0 * voxel_mm, 3.0, (-1.5 * voxel_mm, voxel_mm, 0.0))
    fat, of_fat = sphere(grid, 2.0 * voxel_mm, 0.6, (5.0 * voxel_mm, 0.0, voxel_mm))
    field = of_air + of_iron + of_fat + 0.02 * np.random.default_rng(7).standard_normal(shape)
    mask = body > 0.99
    field[12:15, 13:15, 5:8] += 3.4
    total = TotalField(field_ppm=np.where(mask, field, 0).astype(np.float32), weight=mask.astype(np.float32), mask=mask, grid=grid)
    surface = (body > 0.01) & ~mask
    prior = SourcePrior(
        mean_ppm=(9.4 * (1 - body)).astype(np.float32),
        sd_ppm=np.where(surface, 1.0, 0.05 + 0.15 * (iron > 0)).astype(np.float32),
        organs=(
            Organ(share=iron.astype(np.float32), level_sd_ppm=5.0, may_hold_lesions=True),
            Organ(share=fat.astype(np.float32), level_sd_ppm=1.0),
        ),
        smooth=(Smooth(sd_ppm=(0.3 * mask).astype(np.float32), spacing_mm=4 * voxel_mm),),
        beyond=Beyond(
            padding_mm=4 * voxel_mm, spacing_mm=6 * voxel_mm, near_mm=2 * voxel_mm, sd_ppm=0.1, smooth_sd_ppm=0.5, near_sd_ppm=0.3
        ),
    )
    return total, np.where(iron > 0.01, 0.04, 0.02).astype(np.float32), prior


def maps_ppm(given: Problem) -> dict[str, np.ndarray]:
    posterior = total_field.Inversion(*given).posterior(tolerance=1e-6, max_iterations=400)
    assert posterior.solution.converged
    assert 0 < posterior.outlier_share < 0.05
    return {"total-field": posterior.chi_ppm, "regional": posterior.regional_ppm}


def changed(part: Any, factor: float, ends: str) -> Any:
    """A part of the prior with every number whose name ends so times ``factor``."""
    return replace(part, **{name: np.float32(factor) * value for name, value in vars(part).items() if name.endswith(ends)})


def with_every(prior: SourcePrior, factor: float, ends: str) -> SourcePrior:
    return replace(
        cast(SourcePrior, changed(prior, factor, ends)),
        organs=tuple(changed(organ, factor, ends) for organ in prior.organs),
        smooth=tuple(changed(part, factor, ends) for part in prior.smooth),
        beyond=changed(prior.beyond, factor, ends),
    )


@pytest.mark.parametrize("voxel_mm", [LARGE_MM, SMALL_MM])
def test_twice_field_noise_and_expectation_are_twice_the_maps(monkeypatch: pytest.MonkeyPatch, voxel_mm: float) -> None:
    """In half the unit, with what the code itself knows in ppm."""
    total, noise, prior = problem(voxel_mm)
    once = maps_ppm((total, noise, prior))
    for module, name in ((source_model, "SURELY_AIR_PPM"), (total_field, "SURELY_AIR_PPM"), (reduced, "_LEAST_SD_PPM")):
        monkeypatch.setattr(module, name, 2 * getattr(module, name))
    twice = maps_ppm((replace(total, field_ppm=2 * total.field_ppm), 2 * noise, with_every(prior, 2.0, "_ppm")))
    for method, chi in once.items():
        np.testing.assert_allclose(twice[method], 2 * chi, rtol=0, atol=1e-5, err_msg=method)


_IN_MM = ((total_field, "_COARSE_MM"), (total_field, "_LOCAL_MM"), (total_field, "_LESION_BLUR_MM"), (reduced, "_SIZES_MM"),
          (source_model, "_TOGETHER_MM"), (source_model, "_APART_MM"))  # fmt: skip


@pytest.mark.parametrize("voxel_mm", [LARGE_MM, SMALL_MM])
def test_the_maps_do_not_depend_on_the_size_of_the_world(monkeypatch: pytest.MonkeyPatch, voxel_mm: float) -> None:
    """With what the code itself knows in mm."""
    total, noise, prior = problem(voxel_mm)
    double = VoxelGrid(shape=total.grid.shape, affine_mm=total.grid.affine_mm @ np.diag([2.0, 2.0, 2.0, 1.0]))
    once = maps_ppm((total, noise, prior))
    for module, name in _IN_MM:
        monkeypatch.setattr(module, name, 2 * np.array(getattr(module, name)))
    other = maps_ppm((replace(total, grid=double), noise, with_every(prior, 2.0, "_mm")))
    for method, chi in once.items():
        np.testing.assert_allclose(other[method], chi, rtol=0, atol=1e-4, err_msg=method)


@pytest.mark.parametrize("voxel_mm", [LARGE_MM, SMALL_MM])
@pytest.mark.parametrize("order", [(0, 2, 1), (2, 1, 0)])
def test_turning_grid_and_b0_together_turns_the_maps(order: tuple[int, int, int], voxel_mm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are data: surfaces are nearly free. The reduced problem, which joins voxels in plane alone, joins none."""
    monkeypatch.setattr(reduced, "_SIZES_MM", (voxel_mm,))
    total, noise, prior = problem(voxel_mm)
    shape = tuple(total.grid.shape[axis] for axis in order)
    turned = VoxelGrid(shape=(shape[0], shape[1], shape[2]), affine_mm=total.grid.affine_mm[:, [*order, 3]])

    def of(part: Any) -> Any:
        return replace(part, **{name: of_volume(value) for name, value in vars(part).items() if isinstance(value, np.ndarray)})

    def of_volume(volume: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.transpose(volume, order))

    turned_prior = replace(of(prior), organs=tuple(map(of, prior.organs)), smooth=tuple(map(of, prior.smooth)))
    once = maps_ppm((total, noise, prior))
    other = maps_ppm((replace(of(total), grid=turned), of_volume(noise), turned_prior))
    # single precision: 0.0024 and 0.0011 ppm
    for method, chi in once.items():
        there = np.transpose(other[method], np.argsort(order))
        np.testing.assert_allclose(there[total.mask], chi[total.mask], rtol=0, atol=0.006, err_msg=method)

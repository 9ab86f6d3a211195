"""Background field removal: closed forms, laws, and naive twins of PDF, LBV and V-SHARP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from conftest import make_grid
from hqsm.background_field import lbv, pdf, vsharp
from hqsm.config.susceptibility import LbvParams, PdfParams, VSharpParams
from hqsm.data import LocalField, TotalField, VoxelGrid
from hqsm.dipole import dipole_kernel
from spheres import sphere

SHAPES = {"axial": (48, 48, 48), "anisotropic": (48, 48, 20), "oblique": (48, 48, 28), "coronal": (48, 48, 24)}
METHODS = ("pdf", "lbv", "v-sharp")


def remove(method: str, total: TotalField, *, scale: float = 1.0) -> LocalField:
    """The local field; ``scale`` multiplies the lengths in the settings."""
    if method == "pdf":
        return pdf.remove_background(total, PdfParams(), padding_mm=24.0 * scale)[0]
    if method == "lbv":
        return lbv.remove_background(total, LbvParams(tolerance=1e-6))[0]
    return vsharp.remove_background(total, VSharpParams(largest_radius_mm=10.0 * scale, radius_step_mm=2.0 * scale))[0]


def total_of(field_ppm: np.ndarray, mask: np.ndarray, grid: VoxelGrid) -> TotalField:
    return TotalField(field_ppm=np.where(mask, field_ppm, 0).astype(np.float32), weight=mask.astype(np.float32), mask=mask, grid=grid)


def ball(grid: VoxelGrid, radius_mm: float) -> np.ndarray:
    return sphere(grid, radius_mm, 0.0)[0] > 0.99


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["axial", "anisotropic", "oblique", "coronal"])
def test_the_field_of_a_sphere_outside_the_body_is_removed(method: str, kind: str) -> None:
    grid = make_grid(kind, SHAPES[kind])
    body = ball(grid, 34.0)
    _, outside = sphere(grid, 10.0, 9.4, centre_mm=(0.0, 0.0, 52.0))
    local = remove(method, total_of(outside, body, grid))
    deep = local.mask & ndimage.binary_erosion(body, iterations=3)
    assert deep.sum() > 500
    assert rms(local.field_ppm[deep]) < 0.06 * rms(outside[deep])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["axial", "oblique", "coronal"])
def test_a_small_source_deep_in_the_body_keeps_its_field(method: str, kind: str) -> None:
    grid = make_grid(kind, SHAPES[kind])
    body = ball(grid, 38.0)
    share, own = sphere(grid, 6.0, 1.0)
    _, outside = sphere(grid, 10.0, 9.4, centre_mm=(0.0, 0.0, 60.0))
    local = remove(method, total_of(own + outside, body, grid))
    near = local.mask & ndimage.binary_dilation(share > 0.5, iterations=2)
    slope = float(np.sum(local.field_ppm[near] * own[near]) / np.sum(own[near] ** 2))
    assert slope == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_the_local_field_is_zero_outside_its_mask_which_lies_in_the_body(method: str) -> None:
    grid = make_grid("anisotropic")
    body = ball(grid, 18.0)
    local = remove(method, total_of(np.random.default_rng(0).standard_normal(grid.shape), body, grid))
    assert local.mask.any()
    assert not (local.mask & ~body).any()
    assert not local.field_ppm[~local.mask].any()
    assert not local.weight[~local.mask].any()
    if method != "pdf":
        assert local.mask.sum() < body.sum()


@pytest.mark.parametrize("method", METHODS)
def test_twice_the_field_is_twice_the_local_field(method: str) -> None:
    grid = make_grid("oblique")
    body = ball(grid, 18.0)
    field = np.random.default_rng(1).standard_normal(grid.shape)
    once, twice = (remove(method, total_of(factor * field, body, grid)).field_ppm for factor in (1, 2))
    np.testing.assert_allclose(twice, 2 * once, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_body_twice_as_large_in_the_same_voxels_has_the_same_local_field(method: str) -> None:
    grid = make_grid("oblique")
    double = VoxelGrid(shape=grid.shape, affine_mm=grid.affine_mm @ np.diag([2.0, 2.0, 2.0, 1.0]))
    body = ball(grid, 18.0)
    field = np.random.default_rng(2).standard_normal(grid.shape)
    local, doubled = remove(method, total_of(field, body, grid)), remove(method, total_of(field, body, double), scale=2.0)
    np.testing.assert_allclose(doubled.field_ppm, local.field_ppm, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_turning_body_and_b0_together_turns_the_local_field(method: str) -> None:
    """Voxel axes (x, y, z) of an axial grid become (x, z, -y), with B0 in the middle axis."""
    grid = make_grid("axial", (24, 20, 16))
    turned = VoxelGrid(shape=(24, 16, 20), affine_mm=grid.affine_mm @ _swap_last_two_axes())
    body = ball(grid, 15.0)
    field = sphere(grid, 5.0, 1.0, (3.0, -2.0, 4.0))[1] + sphere(grid, 8.0, 9.4, (10.0, 12.0, 20.0))[1]
    local = remove(method, total_of(field, body, grid)).field_ppm
    other = remove(method, total_of(np.swapaxes(field, 1, 2), np.swapaxes(body, 1, 2), turned)).field_ppm
    np.testing.assert_allclose(np.swapaxes(other, 1, 2), local, atol=2e-3)


def _swap_last_two_axes() -> np.ndarray:
    return np.eye(4)[:, [0, 2, 1, 3]]


@pytest.mark.parametrize("method", ["lbv", "v-sharp"])
def test_a_constant_and_a_gradient_are_background(method: str) -> None:
    grid = make_grid("anisotropic", (32, 32, 12))
    body = ball(grid, 26.0)
    x, y, z = np.indices(grid.shape)
    local = remove(method, total_of(0.7 + 0.05 * x - 0.02 * y + 0.1 * z, body, grid))
    assert rms(local.field_ppm[local.mask]) < 2e-3


def test_lbv_is_laplaces_equation_solved_directly() -> None:
    grid = make_grid("anisotropic", (9, 8, 7))
    rng = np.random.default_rng(4)
    body = ndimage.binary_dilation(rng.random(grid.shape) > 0.7, iterations=1)
    field = rng.standard_normal(grid.shape)
    local, solution = lbv.remove_background(total_of(field, body, grid), LbvParams(tolerance=1e-7))
    assert solution.converged
    size = grid.voxel_size_mm
    matrix, right = np.eye(body.size), np.where(body, field, 0).ravel().copy()
    steps = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    inner = []
    for voxel in np.argwhere(body):
        around = [tuple(voxel + sign * np.array(step)) for step in steps for sign in (1, -1)]
        if all(0 <= i < n for there in around for i, n in zip(there, grid.shape, strict=True)) and all(body[there] for there in around):
            row = np.ravel_multi_index(tuple(voxel), grid.shape)
            inner.append(row)
            matrix[row], right[row] = 0, 0
            for there, h in zip(around, np.repeat(size, 2), strict=True):
                matrix[row, np.ravel_multi_index(there, grid.shape)] += 1 / h**2
                matrix[row, row] -= 1 / h**2
    expected = np.zeros(body.size)
    expected[inner] = (np.where(body, field, 0).ravel() - np.linalg.solve(matrix, right))[inner]
    assert len(inner) > 20
    np.testing.assert_allclose(local.field_ppm.ravel(), expected, atol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_pdf_is_the_least_squares_projection_onto_outside_dipoles(weighted: bool) -> None:
    grid = make_grid("oblique", (8, 8, 6))
    rng = np.random.default_rng(5)
    body = rng.random(grid.shape) > 0.05
    total = total_of(rng.standard_normal(grid.shape), body, grid)
    if weighted:
        total = replace(total, weight=(body * rng.uniform(0.2, 2.0, grid.shape)).astype(np.float32))
    local, _ = pdf.remove_background(total, PdfParams(tolerance=1e-6, max_iterations=2000), padding_mm=0.0)
    kernel = np.concatenate([column(grid, voxel) for voxel in np.flatnonzero(~body)], axis=1)
    weight = total.weight[body].astype(float)
    coefficients = np.linalg.lstsq(weight[:, None] * kernel[body.ravel()], weight * total.field_ppm[body], rcond=None)[0]
    expected = total.field_ppm[body] - kernel[body.ravel()] @ coefficients
    np.testing.assert_allclose(local.field_ppm[body], expected, atol=1e-4)
    assert np.abs(expected - total.field_ppm[body]).max() > 0.1


def column(grid: VoxelGrid, voxel: int) -> np.ndarray:
    """The periodic field of one voxel, by a plain double-precision transform."""
    impulse = np.zeros(grid.shape)
    impulse.flat[voxel] = 1
    half = dipole_kernel(grid.shape, grid.voxel_size_mm, grid.b0_direction)
    return np.fft.irfftn(np.fft.rfftn(impulse) * half, s=grid.shape, axes=(0, 1, 2)).reshape(-1, 1)


def test_v_sharp_is_the_field_minus_its_mean_over_spheres_deconvolved() -> None:
    """A twin that adds up neighbours voxel by voxel; two radii."""
    grid = make_grid("axial", (14, 14, 14))
    body = ball(grid, 12.0)
    field = np.where(body, np.random.default_rng(6).standard_normal(grid.shape), 0)
    params = VSharpParams(largest_radius_mm=4.0, radius_step_mm=2.0, truncation=0.05)
    local, solution = vsharp.remove_background(total_of(field, body, grid), params)
    assert solution.converged
    assert solution.n_iterations == 0
    assert vsharp.radii_mm(grid.voxel_size_mm, params) == [4.0, 2.0]
    padded_shape = (18, 18, 18)
    balls = {}
    for radius in (4.0, 2.0):
        offsets = np.argwhere(np.ones((5, 5, 5))) - 2
        balls[radius] = offsets[np.linalg.norm(offsets * 2.0, axis=1) <= radius + 1e-6]
    passed, reached = np.zeros(padded_shape), np.zeros(padded_shape, bool)
    for radius in (4.0, 2.0):
        for voxel in np.argwhere(body):
            around = tuple((voxel + balls[radius]).T)
            inside = all(((a >= 0) & (a < 14)).all() for a in around)
            if inside and body[around].all() and not reached[tuple(voxel)]:
                passed[tuple(voxel)] = field[tuple(voxel)] - field[around].mean()
                reached[tuple(voxel)] = True
    kernel = np.zeros(padded_shape)
    kernel[tuple(balls[4.0].T)] = -1 / len(balls[4.0])
    kernel[0, 0, 0] += 1
    spectrum = np.fft.fftn(kernel)
    keep = np.abs(spectrum) > 0.05
    expected = np.fft.ifftn(np.where(keep, np.fft.fftn(passed) / np.where(keep, spectrum, 1), 0)).real[:14, :14, :14]
    np.testing.assert_array_equal(local.mask, reached[:14, :14, :14])
    np.testing.assert_allclose(local.field_ppm[local.mask], expected[local.mask], atol=1e-3)

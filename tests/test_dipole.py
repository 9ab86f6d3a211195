import numpy as np
import pytest

from conftest import make_grid
from hqsm import fourier
from hqsm.data import VoxelGrid
from hqsm.dipole import DipoleOperator, dipole_kernel, forward_field_ppm


def sphere(grid: VoxelGrid, radius_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance from the centre, cosine to B0, and the sphere's mask, from the affine alone."""
    ijk = np.indices(grid.shape).reshape(3, -1)
    centre = (np.array(grid.shape)[:, None] - 1) / 2
    world = grid.affine_mm[:3, :3] @ (ijk - centre)
    r = np.linalg.norm(world, axis=0).reshape(grid.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = world[2].reshape(grid.shape) / r
    return r, cosine, r <= radius_mm


@pytest.mark.parametrize("kind", ["axial", "anisotropic", "oblique", "coronal"])
def test_field_of_a_sphere_is_zero_inside_and_a_dipole_outside(kind: str) -> None:
    shape = {"axial": (64, 64, 64), "anisotropic": (64, 64, 26), "oblique": (64, 64, 36), "coronal": (64, 64, 30)}[kind]
    grid = make_grid(kind, shape)
    radius = 24.0
    r, cosine, mask = sphere(grid, radius)
    field = forward_field_ppm(mask.astype(np.float32), grid.voxel_size_mm, grid.b0_direction)
    volume = mask.sum() * np.prod(grid.voxel_size_mm)
    outside = (r > radius + 8) & (r < 45)
    # Jackson: chi/3 * (a/r)^3 * (3 cos^2 - 1), a^3 from the voxelised volume
    expected = volume / (4 * np.pi) * (3 * cosine**2 - 1) / np.where(outside, r, 1) ** 3
    peak = np.abs(expected[outside]).max()
    assert np.sqrt(np.mean((field - expected)[outside] ** 2)) < 0.06 * peak
    assert abs(field[r < radius - 10].mean()) < 0.01


def test_kernel_gives_a_real_field_for_a_tilted_b0_on_an_even_grid() -> None:
    shape, size = (8, 10, 12), np.array([2.0, 2.0, 5.0])
    b0 = np.array([0.1, np.sin(0.4), np.cos(0.4)])
    b0 /= np.linalg.norm(b0)
    half = dipole_kernel(shape, size, b0)
    k = np.meshgrid(*(np.fft.fftfreq(n, d) for n, d in zip(shape, size, strict=True)), indexing="ij")
    k2 = sum(c**2 for c in k)
    k2[0, 0, 0] = 1
    full = 1 / 3 - (sum(c * b for c, b in zip(k, b0, strict=True))) ** 2 / k2
    full[0, 0, 0] = 0
    mirrored = np.roll(np.flip(full), 1, axis=(0, 1, 2))
    np.testing.assert_allclose(half, ((full + mirrored) / 2)[:, :, : shape[2] // 2 + 1], atol=1e-6)


def test_dipole_operator_is_its_own_adjoint() -> None:
    rng = np.random.default_rng(0)
    grid = make_grid("oblique", (16, 18, 10))
    operator = DipoleOperator(grid.shape, grid.voxel_size_mm, grid.b0_direction)
    a, b = rng.standard_normal((2, *grid.shape)).astype(np.float32)
    assert np.vdot(operator(a), b) == pytest.approx(np.vdot(a, operator(b)), rel=1e-4)


def test_the_field_of_a_part_of_the_grid_at_another_is_that_of_the_whole_grid() -> None:
    rng = np.random.default_rng(5)
    grid = make_grid("oblique", (16, 18, 10))
    operator = DipoleOperator(grid.shape, grid.voxel_size_mm, grid.b0_direction)
    source, target = (slice(3, 9), slice(0, 5), slice(4, 10)), (slice(1, 16), slice(7, 12), slice(2, 3))
    part = rng.standard_normal((6, 5, 6)).astype(np.float32)
    whole = np.zeros(grid.shape, np.float32)
    whole[source] = part
    np.testing.assert_allclose(operator.between(part, source=source, target=target), operator(whole)[target], atol=1e-6)
    np.testing.assert_allclose(operator.between(part, source=source), operator(whole), atol=1e-6)
    np.testing.assert_allclose(operator.between(whole, target=target), operator(whole)[target], atol=1e-6)


def test_turning_the_grid_turns_the_field() -> None:
    rng = np.random.default_rng(1)
    chi = rng.standard_normal((16, 16, 16)).astype(np.float32)
    size = np.full(3, 2.0)
    along_z = DipoleOperator(chi.shape, size, np.array([0.0, 0.0, 1.0]))(chi)
    along_x = DipoleOperator(chi.shape, size, np.array([1.0, 0.0, 0.0]))(np.transpose(chi, (2, 1, 0)))
    np.testing.assert_allclose(np.transpose(along_x, (2, 1, 0)), along_z, atol=1e-4)


def test_an_odd_grid_is_refused_because_the_kernel_assumes_even_ones() -> None:
    with pytest.raises(ValueError, match="even"):
        dipole_kernel((7, 8, 8), np.ones(3), np.array([0, 0, 1.0]))
    assert all(n % 2 == 0 for n in fourier.fast_shape((7, 11, 13)))

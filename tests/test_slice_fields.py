"""Fields of many sources at joined slices: those of the dipole on the whole volume."""

import numpy as np
import pytest

from conftest import make_grid
from hqsm.inversion.slice_fields import SliceFields, Source
from hqsm.inversion.voxel_means import VoxelMeanDipole


@pytest.mark.parametrize("kind", ["axial", "oblique", "coronal"])
@pytest.mark.parametrize("shape", [(12, 10, 18), (10, 2, 8)])
def test_they_are_what_the_dipole_makes_of_the_whole_volume(kind: str, shape: tuple[int, int, int]) -> None:
    grid = make_grid(kind, shape)
    rng = np.random.default_rng(1)
    joined = np.zeros((shape[2], 3), np.float32)
    joined[1, 0], joined[3:5, 1], joined[-1, 2] = 1, 0.5, 1
    target = (slice(2, 9), slice(0, 2))
    boxes = [(slice(k, k + 4), slice(k % 2, k % 2 + 1), slice(3, 7)) for k in range(3)]
    sources = [Source(k, box, rng.standard_normal((4, 1, 4)).astype(np.float32)) for k, box in enumerate(boxes)]
    fields_of = SliceFields(shape, grid.voxel_size_mm, grid.b0_direction, target)
    found = fields_of.of(sources, fields_of.to(joined))
    assert found.dtype == np.float32
    dipole = VoxelMeanDipole(shape, grid.voxel_size_mm, grid.b0_direction)
    for k, source in enumerate(sources):
        whole = np.zeros(shape, np.float32)
        whole[source.box] = source.part
        expected = (dipole(whole) @ joined)[target]
        assert np.abs(expected).max() > 0.05
        np.testing.assert_allclose(found[:, :, k], expected, atol=1e-6)

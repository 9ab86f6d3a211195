"""The source model's parts by hand: weights, nodes, what lies beyond the images, and data on larger voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hqsm.coarse_grid import CoarseGrid
from hqsm.data import Solution, TotalField, VoxelGrid
from hqsm.inversion import total_field
from hqsm.inversion.source_model import Beyond, SourceModel, SourcePrior, _hats

_SHAPE = (12, 10, 8)
_GRID = VoxelGrid(shape=_SHAPE, affine_mm=np.diag([4.0, 5.0, 6.0, 1.0]))


def model_of(mean_ppm: np.ndarray, *, mask: np.ndarray | None = None, noise_ppm: float = 0.25) -> SourceModel:
    ones = np.ones(_SHAPE, np.float32)
    total = TotalField(field_ppm=0 * ones, weight=ones, mask=ones > 0 if mask is None else mask, grid=_GRID)
    prior = SourcePrior(mean_ppm=mean_ppm.astype(np.float32), sd_ppm=0.12 * ones, beyond=Beyond(padding_mm=24.0))
    return SourceModel(total, noise_ppm * ones, prior)


def test_a_datum_weighs_by_its_inverse_variance_and_none_where_there_is_none() -> None:
    mask = np.ones(_SHAPE, bool)
    mask[3] = False
    weight2 = model_of(np.zeros(_SHAPE), mask=mask).weight2
    assert (weight2[mask] == 16).all()
    assert not weight2[3].any()


def test_beyond_the_images_tissue_is_of_unknown_kind_and_air_goes_on_as_air() -> None:
    mean = np.zeros(_SHAPE)
    mean[:4] = 9.4
    model = model_of(mean)
    x, y, z = model.inside
    np.testing.assert_allclose(model.sd_ppm[model.inside], 0.12)
    # two slices of 6 mm are near the images
    np.testing.assert_allclose(model.sd_ppm[x.start + 6, y.start + 5, z.stop : z.stop + 4], [2.5, 2.5, 0.3, 0.3])
    np.testing.assert_allclose(model.sd_ppm[x.start + 6, y.start + 5, z.start - 4 : z.start], [0.3, 0.3, 2.5, 2.5])
    for end in (z.start - 1, z.stop):
        np.testing.assert_allclose(model.sd_ppm[x.start + 1, y.start + 5, end], 0.12)
        assert model.mean_ppm[x.start + 1, y.start + 5, end] == np.float32(9.4)
    (beyond,) = model.nodes
    shared = np.zeros(model.shape, np.float32)
    shared[beyond.box] = beyond.sd_ppm
    assert shared[x.start + 6, y.start + 5, z.stop] == 5
    assert shared[x.start + 1, y.start + 5, z.stop] == 0
    assert not shared[model.inside].any()


def test_nodes_lie_evenly_about_the_middle_and_their_weights_are_shares() -> None:
    hats = _hats(10, 3.0, 10.0)
    assert hats.shape == (10, 4)
    np.testing.assert_allclose(hats.sum(axis=1), 1)
    np.testing.assert_allclose(hats, hats[::-1, ::-1], atol=1e-6)
    # a voxel's middle, 1.5 mm from the end, is 0.15 of the way to the next node
    np.testing.assert_allclose(hats[0], [0.85, 0.15, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hats @ np.arange(4), (np.arange(10) + 0.5) * 0.3, rtol=1e-5)


def test_on_larger_voxels_data_are_meant_where_they_are_most_and_their_noise_is_not_averaged() -> None:
    """Four voxels each: of the first all have data, of the second three, of the third half, of the last none."""
    grid = VoxelGrid(shape=(8, 4, 4), affine_mm=np.diag([1.5, 1.5, 3.0, 1.0]))
    field, noise, mask = np.ones(grid.shape, np.float32), np.full(grid.shape, 0.1, np.float32), np.ones(grid.shape, bool)
    field[0::2], field[1::2] = 2.0, 4.0
    noise[1::2] = 0.7
    mask[3, 0::2], mask[4], mask[6:8] = False, False, False
    field[~mask] = 100.0
    total = TotalField(field_ppm=field, weight=mask.astype(np.float32), mask=mask, grid=grid)
    prior = SourcePrior(mean_ppm=field, sd_ppm=noise)
    larger = CoarseGrid(grid, 3.0)
    coarse, coarse_noise, coarse_prior = total_field._on_larger_voxels(total, noise, prior, larger)
    assert coarse.grid.shape == (4, 2, 4)
    np.testing.assert_array_equal(coarse.mask[:, 0, 0], [True, True, False, False])
    np.testing.assert_allclose(coarse.field_ppm[:2, 0, 0], [3, 8 / 3], rtol=1e-5)
    np.testing.assert_allclose(coarse_noise[:2, 0, 0], [np.sqrt((0.1**2 + 0.7**2) / 2), np.sqrt((2 * 0.1**2 + 0.7**2) / 3)], rtol=1e-5)
    np.testing.assert_allclose(coarse_prior.sd_ppm[0], 0.4, rtol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_eight_errors_from_the_model_to_either_side_is_left_out(sign: int) -> None:
    ones = np.ones(_SHAPE, np.float32)
    field = 0 * ones
    field[6, 5, 4] = sign * 0.9
    field[3, 5, 4] = sign * 0.7
    total = TotalField(field_ppm=field, weight=ones, mask=ones > 0, grid=_GRID)
    prior = SourcePrior(mean_ppm=0 * ones, sd_ppm=1e-4 * ones, beyond=Beyond(padding_mm=12.0, sd_ppm=1e-4, smooth_sd_ppm=1e-4))
    problem = total_field._Problem(total, 0.1 * ones, SourceModel(total, 0.1 * ones, prior))
    share = problem.leave_out_outliers(np.zeros(problem.model.n_unknowns, np.float32))
    assert share == pytest.approx(1 / ones.size)
    assert problem.model.weight2[6, 5, 4] == 0
    assert problem.model.weight2[3, 5, 4] == pytest.approx(100)


def test_a_variance_is_found_to_a_share_of_itself_and_the_variance_that_it_is_joined_with(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = np.ones(_SHAPE, np.float32)
    total = TotalField(field_ppm=0 * ones, weight=ones, mask=ones > 0, grid=_GRID)
    prior = SourcePrior(mean_ppm=0 * ones, sd_ppm=0.1 * ones, beyond=Beyond(padding_mm=12.0))
    posterior = total_field.Inversion(total, 0.1 * ones, prior).posterior(tolerance=1e-2, max_iterations=20)
    asked: dict[str, Any] = {}

    def solved(apply: object, right_hand_side: np.ndarray, **given: Any) -> Solution:
        asked.update(given)
        return Solution(x=0.25 * right_hand_side, n_iterations=1, relative_residual=0.0, converged=True)

    monkeypatch.setattr(total_field, "conjugate_gradient", solved)
    weights = np.zeros(_SHAPE, np.float32)
    weights[6, 5, 4] = 2
    # an eye for the inverse: a quarter of the square of 2 times the voxel's 0.1 ppm
    assert posterior.standard_deviation_ppm(weights, beside_ppm=0.3) == pytest.approx(0.5 * 2 * 0.1)
    assert asked["energy_beside"] == pytest.approx(0.09)

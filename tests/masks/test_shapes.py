"""Shapes in millimetres, reference tissues, vessels and shares, on bodies drawn by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hqsm.config.liver import LiverParams
from hqsm.data import MultiEcho, Regions, VoxelGrid, WaterFat
from hqsm.liver import _shares, consensus, find_body
from hqsm.liver.geometry import closed, depth_mm, dilated, eroded, solidity
from hqsm.liver.plausibility import not_a_body
from hqsm.liver.references import medium, reference_tissues
from hqsm.liver.vessels import near_gas, vessels
from water_fat_maps import water_fat_maps


def grid_of(shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> VoxelGrid:
    affine = np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = -np.array(voxel_mm) * (np.array(shape) - 1) / 2
    return VoxelGrid(shape=shape, affine_mm=affine)


def test_what_lies_at_the_radius_is_eroded_and_reached() -> None:
    grid = grid_of((20, 20, 12), (2.0, 3.0, 6.0))
    mask = np.zeros(grid.shape, bool)
    mask[5:15, 5:15, 3:9] = True
    thinner, thicker = np.zeros_like(mask), np.zeros_like(mask)
    thinner[8:12, 7:13, 4:8] = True  # 6 mm off each side
    np.testing.assert_array_equal(eroded(mask, grid, 6.0), thinner)
    point = np.zeros_like(mask)
    point[10, 10, 6] = True
    thicker[7:14, 10, 6] = thicker[10, 8:13, 6] = thicker[10, 10, 5:8] = True
    reached = dilated(point, grid, 6.0)
    assert reached[thicker].all()
    x, y, z = (np.abs(i - c) * d for i, c, d in zip(np.indices(grid.shape), (10, 10, 6), (2, 3, 6), strict=True))
    np.testing.assert_array_equal(reached, np.sqrt(x**2 + y**2 + z**2) <= 6 + 1e-9)


def test_an_organ_that_the_images_cut_is_deep_there_unless_their_end_is_an_edge() -> None:
    grid = grid_of((11, 11, 6), (2.0, 2.0, 5.0))
    mask = np.zeros(grid.shape, bool)
    mask[1:10, 1:10] = True
    assert depth_mm(mask, grid)[5, 5, 0] == pytest.approx(10)
    assert depth_mm(mask, grid, open_ends=False)[5, 5, 0] == pytest.approx(5)


def test_a_cleft_that_a_ball_cannot_enter_is_closed() -> None:
    grid = grid_of((24, 24, 16), (2.0, 2.0, 3.0))
    mask = np.zeros(grid.shape, bool)
    mask[4:20, 4:20, 3:13] = True
    cleft, bay = mask.copy(), mask.copy()
    cleft[11:13, 12:20], bay[6:18, 12:20] = False, False
    inner = np.s_[:, :, 5:11]  # the cleft's ends are corners, which a ball does enter
    np.testing.assert_array_equal(closed(cleft, grid, 5.0)[inner], mask[inner])
    assert not closed(bay, grid, 5.0)[12, 17, 8]


def test_an_angle_fills_six_sevenths_of_its_hull_and_a_box_all_of_it() -> None:
    grid = grid_of((24, 24, 24), (2.0, 2.0, 2.0))
    box = np.zeros(grid.shape, bool)
    box[2:22, 2:22, 2:22] = True
    angle = box.copy()
    angle[12:, 12:] = False
    assert solidity(box, grid) == pytest.approx(1, abs=0.02)
    assert solidity(angle, grid) == pytest.approx(0.75 / 0.875, abs=0.02)


def test_half_of_two_readers_is_one() -> None:
    a, b = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    np.testing.assert_array_equal(consensus([a, b]), [True, True, True, False])
    np.testing.assert_array_equal(consensus([a, b, b & ~b]), [False, True, False, False])


def test_the_medium_lies_eight_millimetres_from_block_and_wall() -> None:
    grid = grid_of((40, 40, 20), (2.0, 2.0, 4.0))
    body, block = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    body[2:38, 2:38], block[14:26, 14:26, 6:14] = True, True
    found = medium(body, block, grid)
    assert not found[2:6].any()
    assert found[6, 20, 10]
    assert found[9, 20, 10]
    assert not found[10, 20, 10]  # 8 mm before the block
    assert found[20, 20, 2]
    assert not found[20, 20, 4]


def trunk() -> tuple[WaterFat, np.ndarray, np.ndarray]:
    """A trunk of 320 by 200 mm with 16 mm of fat under the skin and fat within, the aorta left of the midline and a vein right of it."""
    shape = (88, 58, 16)
    grid = grid_of(shape, (4.0, 4.0, 6.0))
    x, y = ((np.arange(n) - (n - 1) / 2) * 4.0 for n in shape[:2])
    x, y = np.meshgrid(x, y, indexing="ij")
    body = np.hypot(x / 160, y / 100) < 1
    lean = np.hypot(x / 144, y / 84) < 1
    pdff = np.where(lean, 2.0, 90.0)
    pdff[(np.abs(x) < 30) & (np.abs(y - 30) < 25)] = 90.0
    r2star = np.full(x.shape, 30.0)
    for middle_mm in (-16.0, 24.0):
        r2star[np.hypot(x - middle_mm, y + 30) < 11] = 12.0

    def volume(values: np.ndarray, dtype: type = np.float32) -> np.ndarray:
        return np.repeat(values[:, :, None], shape[2], axis=2).astype(dtype)

    ones = np.ones(shape, np.float32)
    maps = water_fat_maps(
        grid,
        water=ones.astype(np.complex64),
        fat=ones.astype(np.complex64),
        pdff_percent=volume(pdff),
        r2star_per_s=volume(r2star),
        field_hz=ones,
        residual=0 * ones,
        model=volume(body, np.uint8),
    )
    liver = (x > 50) & (y > -40) & (y < 40) & lean
    return maps, volume(body, bool), volume(liver, bool)


def test_of_bodies_that_do_not_touch_the_largest_is_the_body() -> None:
    maps, body, _ = trunk()
    arm, line = np.zeros_like(body), np.zeros_like(body)
    arm[:6, :6], line[6:32, 5] = True, True  # a ghost's line, a voxel wide, leads from the arm to the skin
    for what in (arm, arm | line):
        found = find_body(replace(maps, model=(body | what).astype(np.uint8)))
        assert not (found & arm).any()
        assert (found & body).sum() > 0.99 * body.sum()


def test_reference_tissues_lie_under_the_skin_beside_the_spine_and_left_of_the_midline() -> None:
    maps, body, liver = trunk()
    found = reference_tissues(maps, body, liver)
    x, y = (np.broadcast_to(((np.arange(n) - (n - 1) / 2) * 4.0).reshape(s), body.shape) for n, s in ((88, (-1, 1, 1)), (58, (1, -1, 1))))
    radius = np.hypot(x / 160, y / 100)
    fat, muscle, aorta = (found[name] for name in ("fat", "muscle", "aorta"))
    assert fat.sum() > 500
    assert radius[fat].min() > 0.85
    # the skin's own voxels are air in part
    assert all(np.roll(body, step, axis=axis)[fat].all() for step in (1, -1) for axis in (0, 1))
    assert aorta.sum() > 50
    assert np.hypot(x + 16, y + 30)[aorta].max() < 11
    assert muscle.sum() > 200
    assert y[muscle].min() > -84
    assert y[muscle].max() < -100 + 0.21 * 200 + 4
    assert np.abs(x[muscle]).min() >= 15
    assert np.abs(x[muscle]).max() <= 65
    assert not (muscle & liver).any()
    # the vein alone is not taken for the aorta
    vein = np.where(np.hypot(x + 16, y + 30) < 11, 30.0, maps.r2star_per_s).astype(np.float32)
    assert not reference_tissues(replace(maps, r2star_per_s=vein), body, liver)["aorta"].any()


def liver_with_a_vein(noise: float) -> tuple[WaterFat, np.ndarray, np.ndarray]:
    maps, _, liver = trunk()
    rng = np.random.default_rng(4)
    i, j, _ = np.indices(liver.shape)
    vein = (np.abs(i - 66) < 2) & (np.abs(j - 29) < 2) & liver
    r2star = np.where(liver, np.where(vein, 60.0, 300.0), 30.0) * (1 + noise * rng.standard_normal(liver.shape))
    return replace(maps, r2star_per_s=r2star.astype(np.float32)), liver, vein


def test_a_vein_is_what_decays_slowly_and_neither_noise_nor_unmeasured_voxels_are() -> None:
    maps, liver, vein = liver_with_a_vein(0.05)
    found = vessels(maps, liver)
    assert found[vein].mean() > 0.9
    assert found.sum() < 4 * vein.sum()
    gone = liver & ~vein & (np.random.default_rng(5).random(liver.shape) < 0.1)
    unmeasured = replace(maps, r2star_per_s=np.where(gone, np.nan, maps.r2star_per_s).astype(np.float32), r2star_limit_per_s=400.0)
    assert vessels(unmeasured, liver)[vein].mean() > 0.9
    noisy, _, _ = liver_with_a_vein(0.6)
    plain = replace(noisy, r2star_per_s=np.where(vein, 300, noisy.r2star_per_s).astype(np.float32))
    assert vessels(plain, liver).sum() < 0.04 * liver.sum()


@pytest.mark.parametrize(("signal", "is_gas"), [(0.2, True), (0.4, False)])
def test_lung_with_a_fifth_of_the_tissues_signal_is_gas_to_the_liver(signal: float, is_gas: bool) -> None:
    maps, body, liver = trunk()
    lung = np.zeros_like(body)
    lung[60:80, 20:40, 12:] = True
    liver = liver & ~lung
    first = np.where(body, np.where(lung, signal, 1.0), 0.0)
    echoes = MultiEcho(
        signal=first[..., None].astype(np.complex64), echo_times_s=np.array([1e-3]), field_strength_tesla=1.5, grid=maps.grid
    )
    near = near_gas(echoes, body, liver, maps.grid, 10.0)
    assert near[70, 30, 11] == is_gas  # 6 mm below
    assert not near[70, 30, 10]  # 12 mm
    assert not near_gas(echoes, body, liver, maps.grid, 0.0).any()


def test_each_cause_has_its_share_of_the_whole_liver() -> None:
    maps, _, liver = trunk()
    n = liver.sum()
    places = np.argwhere(liver)
    core, gas, vessel, censored = (np.zeros_like(liver) for _ in range(4))
    for mask, some in ((core, places[::2]), (gas, places[::5]), (vessel, places[1::4]), (censored, places[::8])):
        mask[tuple(some.T)] = True
    gas |= ~liver & (np.indices(liver.shape)[0] > 60)
    residual, model = np.zeros(liver.shape, np.float32), np.ones(liver.shape, np.uint8)
    residual[tuple(places[::20].T)], model[tuple(places[::10].T)] = 0.4, 0
    convergence = np.ones(liver.shape, np.uint8)
    convergence[tuple(places[::25].T)], convergence[tuple(places[1::50].T)] = 2, 3
    fitted = replace(maps, censored=censored, residual=residual, model=model, convergence=convergence)
    shares = _shares(fitted, liver, core, vessel, gas, maps.grid, LiverParams())
    assert shares["not_converged"] == pytest.approx(0.06, abs=0.001)
    assert shares["near_gas"] == pytest.approx((gas & core & liver).sum() / n)
    assert shares["near_gas"] == pytest.approx(0.1, abs=0.001)
    assert shares["vessel"] == pytest.approx(0.25, abs=0.001)
    assert shares["censored"] == pytest.approx(0.125, abs=0.001)
    assert shares["large_residual"] == pytest.approx(0.05, abs=0.001)
    assert shares["not_fitted"] == pytest.approx(0.1, abs=0.001)
    assert shares["edge"] == pytest.approx((liver & ~eroded(liver, maps.grid, 6.0)).sum() / n)
    assert 0.1 < shares["edge"] < 0.4


@pytest.mark.parametrize(("near_share", "away"), [(0.65, True), (0.75, False)])
def test_a_liver_most_of_which_lies_near_gas_is_read_as_a_whole(near_share: float, away: bool) -> None:
    maps, body, liver = trunk()
    nothing, near = np.zeros_like(liver), np.zeros_like(liver)
    places = np.argwhere(liver)
    near[tuple(places[: round(near_share * len(places))].T)] = True
    regions = Regions(
        body=body, liver=liver, liver_whole=liver, vessel=nothing, references={}, mask_source="reader", grid=maps.grid, near_gas=near
    )
    np.testing.assert_array_equal(regions.liver_for_susceptibility, liver & ~near if away else liver)


@pytest.mark.parametrize(("scale", "narrow"), [(0.45, True), (0.52, False)])
def test_a_trunk_is_at_least_as_wide_as_a_childs(scale: float, narrow: bool) -> None:
    """320 mm with fat under the skin, made 144 and 166 mm."""
    maps, body, _ = trunk()
    smaller = VoxelGrid(shape=body.shape, affine_mm=maps.grid.affine_mm @ np.diag([scale, scale, scale, 1.0]))
    assert bool(not_a_body(replace(maps, grid=smaller), body)) == narrow

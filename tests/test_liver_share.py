"""How much of a voxel is liver: shares worked out by hand, beside fat above all, and iron that is not the liver's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hqsm.arrays import Mask
from hqsm.data import VoxelGrid, WaterFat
from hqsm.liver_share import (
    LiverShare,
    _depth,
    _lies_off,
    _moved_to_what_is_told,
    liver_share,
    mean_of_known,
    moved,
    without_fat,
)
from hqsm.other_iron import iron_elsewhere
from water_fat_maps import water_fat_maps

_SHAPE = (40, 36, 24)


def boxes(liver_r2star_per_s: float) -> tuple[WaterFat, Mask]:
    """A box of liver in muscle, on voxels of 3 x 3 x 4 mm; nothing is noisy."""
    liver = np.zeros(_SHAPE, bool)
    liver[12:28, 10:26, 6:18] = True
    grid = VoxelGrid(shape=_SHAPE, affine_mm=np.diag([3.0, 3.0, 4.0, 1.0]))
    maps = water_fat_maps(grid, r2star_per_s=np.where(liver, liver_r2star_per_s, 30).astype(np.float32))
    return maps, liver


def share_of(maps: WaterFat, liver: Mask, *, not_tissue: Mask | None = None, slower: Mask | None = None) -> LiverShare:
    nothing = np.zeros(_SHAPE, bool)
    return liver_share(maps, ~nothing, liver, nothing if not_tissue is None else not_tissue, nothing if slower is None else slower)


def test_a_voxel_of_the_liver_beside_fat_that_is_fat_in_part_is_liver_in_the_rest() -> None:
    """No iron. Muscle holds more fat than the liver, so that levels would take a voxel that is fat in part for muscle."""
    maps, liver = boxes(30.0)
    rng = np.random.default_rng(1)
    water = np.where(liver, 100, 70) * (1 + 0.03 * rng.standard_normal(_SHAPE))
    pdff = np.where(liver, 0, 5) + 1.0 * rng.standard_normal(_SHAPE)
    pdff[28:, 10:26, 6:18], water[28:, 10:26, 6:18] = 92, 110
    pdff[27, 10:26, 6:18], water[27, 10:26, 6:18] = 30, 100
    maps = replace(maps, water=water.astype(np.complex64), pdff_percent=pdff.astype(np.float32))
    beside_fat, beside_muscle, fat = (np.zeros(_SHAPE, bool) for _ in range(3))
    beside_fat[27, 13:23, 9:15], beside_muscle[12, 13:23, 9:15], fat[28, 13:23, 9:15] = True, True, True
    larger = liver.copy()
    larger[28, 10:26, 6:18] = True
    for drawn in (liver, larger):
        share = share_of(maps, drawn).share
        # 0.647 of the way from pure fat, 85 %, to the liver's none, of which the middle half counts
        assert share[beside_fat].mean() == pytest.approx((55 / 85 - 0.25) / 0.5, abs=0.03)
        assert share[beside_muscle].mean() > 0.97
        assert share[fat].mean() < 0.05


def test_noise_between_two_levels_makes_no_liver_of_muscle() -> None:
    maps, liver = boxes(30.0)
    water = np.where(liver, 100, 70) * np.exp(0.08 * np.random.default_rng(2).standard_normal(_SHAPE))
    share = share_of(replace(maps, water=water.astype(np.complex64)), liver).share
    # voxels in the reach of the mask's edge but one away from it
    outside, inside = moved(liver, 2) & ~moved(liver, 1), liver & ~moved(liver, -2) & moved(liver, -1)
    assert share[outside].mean() < 0.01
    assert share[inside].mean() > 0.99


def test_a_mean_of_what_is_known_counts_a_voxel_fully_and_its_neighbours_by_a_quarter_each() -> None:
    values, known = np.zeros((7, 7, 7), np.float32), np.ones((7, 7, 7), bool)
    values[3, 3, 3] = 1
    mean = mean_of_known(values, known)
    assert mean[3, 3, 3] == pytest.approx(1 / 2.5)
    assert mean[2, 3, 3] == pytest.approx(0.25 / 2.5)
    assert mean[2, 2, 3] == 0
    known[4, 3, 3] = False
    assert mean_of_known(values, known)[3, 3, 3] == pytest.approx(1 / 2.25)


def test_beyond_the_images_the_liver_goes_on() -> None:
    mask = np.zeros((9, 9, 6), bool)
    mask[2:7, 2:7] = True
    expected = np.zeros_like(mask)
    expected[3:6, 3:6] = True
    np.testing.assert_array_equal(moved(mask, -1), expected)


@pytest.mark.parametrize(("contrast_per_s", "seen"), [(8.0, 0.0), (21.5, 0.5), (35.0, 1.0)])
def test_r2star_decides_in_the_share_of_the_way_from_8_to_35_per_s_of_contrast(contrast_per_s: float, seen: float) -> None:
    maps, liver = boxes(30.0 + contrast_per_s)
    hole = np.zeros(_SHAPE, bool)
    hole[17:23, 15:21, 9:15] = True
    maps = replace(maps, r2star_per_s=np.where(hole, 30, maps.r2star_per_s).astype(np.float32))
    found = share_of(maps, liver, slower=hole)
    assert found.seen == pytest.approx(seen, abs=1e-3)
    assert found.hole[20, 18, 12] == pytest.approx(seen, abs=1e-3)
    assert found.share[20, 18, 12] == pytest.approx(1 - seen, abs=1e-3)


def test_lung_and_gas_are_not_the_surroundings_that_the_liver_is_told_from() -> None:
    maps, liver = boxes(130.0)
    lung = np.zeros(_SHAPE, bool)
    lung[:, :, 18:] = lung[:, 27:] = lung[29:] = True
    loud = replace(maps, r2star_per_s=np.where(lung, 400, maps.r2star_per_s).astype(np.float32))
    found = share_of(loud, liver, not_tissue=lung)
    assert found.seen == 1
    assert found.share[12, 18, 12] > 0.9


def test_iron_that_is_too_much_to_measure_is_liver_where_the_mask_has_missed_it() -> None:
    maps, liver = boxes(300.0)
    rim = liver & ~moved(liver, -1)
    gone = replace(maps, censored=rim, r2star_per_s=np.where(rim, np.nan, maps.r2star_per_s).astype(np.float32))
    share = share_of(gone, moved(liver, -1)).share
    for face in ((12, 18, 12), (27, 18, 12), (20, 10, 12), (20, 18, 17)):
        assert rim[face]
        assert share[face] > 0.95


def test_one_voxel_beyond_what_can_be_measured_counts_as_what_can() -> None:
    maps, liver = boxes(300.0)
    r2star = maps.r2star_per_s.copy()
    r2star[9, 18, 12] = 1e5
    # 0.25 / 2.5 of (1,000 - 30) over 270 of contrast
    expected = ((0.1 * 970 / 270) - np.interp(270, [170, 480], [0.57, 0.39])) / 0.7 + 0.5
    assert share_of(replace(maps, r2star_per_s=r2star), liver).share[10, 17, 12] == 0
    assert share_of(replace(maps, r2star_per_s=r2star), liver).share[10, 18, 12] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("side", "found"), [(6, False), (9, True)])
def test_iron_of_less_than_fifteen_millilitres_is_no_organ(side: int, found: bool) -> None:
    """Boxes of 8 and 26 mL, whose corners do not count."""
    maps, _ = boxes(30.0)
    spleen = np.zeros(_SHAPE, bool)
    spleen[4 : 4 + side, 4 : 4 + side, 4 : 4 + side] = True
    r2star = np.where(spleen, 130, 30).astype(np.float32)
    organs = iron_elsewhere(replace(maps, r2star_per_s=r2star), np.ones(_SHAPE, bool), 30.0)
    assert len(organs) == found


def test_iron_elsewhere_that_is_too_much_to_measure_is_at_least_that_much() -> None:
    maps, spleen = boxes(30.0)
    gone = replace(maps, censored=spleen, r2star_per_s=np.where(spleen, np.nan, 30).astype(np.float32))
    ((share, excess_per_s),) = iron_elsewhere(gone, np.ones(_SHAPE, bool), 30.0)
    assert excess_per_s == pytest.approx(970.0)
    assert share[20, 18, 12] == 1
    assert share[2, 2, 2] == 0


@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_what_the_mask_has_missed_does_not_depend_on_the_size_of_the_world(scale: float) -> None:
    """Half of a liver that the mask has cut off is liver, and a spleen that touches it with its tip is none, in millimetres or metres."""
    maps, liver = boxes(300.0)
    spleen = np.zeros(_SHAPE, bool)
    spleen[14:26, 28:34, 7:17] = True
    spleen[19:21, 26:28, 11:13] = True
    maps = replace(maps, r2star_per_s=np.where(spleen, 300, maps.r2star_per_s).astype(np.float32))
    cut = liver.copy()
    cut[:20] = False
    here = share_of(maps, cut).share
    assert here[14:26, 12:24, 8:16].min() > 0.95
    assert here[spleen].mean() < 0.1
    larger = VoxelGrid(shape=_SHAPE, affine_mm=maps.grid.affine_mm @ np.diag([scale, scale, scale, 1.0]))
    np.testing.assert_array_equal(share_of(replace(maps, grid=larger), cut).share, here)


@pytest.mark.parametrize(("told_share", "follows"), [(0.03, False), (0.08, True)])
def test_the_rest_of_the_edge_follows_what_is_told_of_a_twentieth_of_it(told_share: float, follows: bool) -> None:
    _, liver = boxes(30.0)
    band = moved(liver, 2) & ~moved(liver, -2)
    smaller = moved(liver, -1).astype(np.float32)
    trust = np.where(band & (np.random.default_rng(3).random(_SHAPE) < told_share), 1, 0).astype(np.float32)
    found = _moved_to_what_is_told(liver, liver.astype(np.float32), smaller, trust, band)
    face = (slice(12, 13), slice(14, 22), slice(9, 15))
    assert found[face].mean() == pytest.approx(0 if follows else 1, abs=0.1)


@pytest.mark.parametrize("contrast_per_s", [0.0, 25.0, 60.0])
@pytest.mark.parametrize("voxels", [-1, 1])
def test_a_mask_one_voxel_off_leaves_the_share_that_the_right_one_gives(contrast_per_s: float, voxels: int) -> None:
    """R2* as noisy as at 3 T makes liver of a part of what lies in reach of the mask, and a larger mask reaches farther."""
    maps, box = boxes(30.0)
    # rounded, so that a voxel more and one less is the same mask again
    liver = moved(moved(box, -3), 3)
    rng = np.random.default_rng(4)
    r2star = np.where(liver, 30 + contrast_per_s, 30) + 20 * rng.standard_normal(_SHAPE)
    water = np.where(liver, 100, 80) * np.exp(0.05 * rng.standard_normal(_SHAPE))
    noisy = replace(maps, r2star_per_s=r2star.astype(np.float32), water=water.astype(np.complex64))
    right, off = (share_of(noisy, mask).share for mask in (liver, moved(liver, voxels)))
    np.testing.assert_array_equal(off, right)


def test_a_mask_that_is_a_voxel_off_on_one_face_alone_is_not_moved() -> None:
    maps, liver = boxes(90.0)
    noisy = replace(maps, r2star_per_s=(maps.r2star_per_s + 20 * np.random.default_rng(5).standard_normal(_SHAPE)).astype(np.float32))
    one_face = liver.copy()
    one_face[28, 10:26, 6:18] = True
    right, off = (share_of(noisy, mask).share for mask in (liver, one_face))
    other_faces = np.ones(_SHAPE, bool)
    other_faces[24:] = False
    np.testing.assert_allclose(off[other_faces], right[other_faces], atol=0.02)


@pytest.mark.parametrize("off_voxels", [-1.0, -0.4, 0.0, 0.7])
def test_how_far_a_surface_lies_off_is_found_from_the_shares_near_it(off_voxels: float) -> None:
    """Shares of a flat surface, by hand: half of the voxel whose middle it goes through."""
    _, liver = boxes(30.0)
    depth = _depth(liver)
    assert (depth[12, 18, 12], depth[11, 18, 12], depth[14, 18, 12]) == (0.5, -0.5, 2.5)
    near_edge = np.abs(depth) < 2
    told = np.clip(0.5 + depth + off_voxels, 0, 1)[near_edge]
    assert _lies_off(depth[near_edge], told) == pytest.approx(off_voxels, abs=1e-6)
    assert _lies_off(depth[near_edge][:0], told[:0]) == 0


def test_a_mask_too_thin_to_be_moved_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hqsm.liver_share._lies_off", lambda *_: -1.0)
    maps, liver = boxes(90.0)
    liver[14:] = False
    assert share_of(maps, liver).share.sum() > 0.5 * liver.sum()


def test_what_decays_too_fast_for_fat_is_told_by_the_fits_model_or_because_it_is_censored() -> None:
    dark = without_fat(water_fat_maps(_GRID, model=_BY_MODEL, censored=_BY_MODEL == 4))
    assert [bool(dark[number == _BY_MODEL].all()) for number in range(5)] == [True, False, False, True, True]
    assert [bool(dark[number == _BY_MODEL].any()) for number in range(5)] == [True, False, False, True, True]


_GRID = VoxelGrid(shape=(5, 4, 2), affine_mm=np.diag([2.0, 2.0, 4.0, 1.0]))
_BY_MODEL = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None], (5, 4, 2)).copy()

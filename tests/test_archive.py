"""What one stage writes, the next reads: the same nouns, from the same bytes each time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hqsm.archive import load_noun, save_noun
from hqsm.data import Regions, VoxelGrid, WaterFat
from hqsm.errors import InputError
from hqsm.nifti import save_volume

GRID = VoxelGrid(shape=(7, 5, 3), affine_mm=np.diag([1.5, 1.5, 4.0, 1.0]))
DICE = np.random.default_rng(1)


def volume() -> np.ndarray:
    values = DICE.normal(100, 20, GRID.shape).astype(np.float32)
    values[0] = np.nan
    return values


@pytest.fixture
def fit() -> WaterFat:
    names = (
        "pdff_percent",
        "r2star_per_s",
        "field_hz",
        "pdff_se_percent",
        "r2star_se_per_s",
        "field_se_hz",
        "residual",
        "swap_margin",
        "r2star_lower_bound_per_s",
    )
    water = (volume() + 1j * volume()).astype(np.complex64)
    return WaterFat(
        water=water,
        fat=water[::-1].copy(),
        model=DICE.integers(0, 5, GRID.shape).astype(np.uint8),
        censored=DICE.random(GRID.shape) > 0.5,
        r2star_limit_per_s=680.0,
        field_strength_tesla=1.5,
        grid=GRID,
        codes=("A", "B"),
        **{name: volume() for name in names},
    )


def assert_same(one: object, other: object) -> None:
    for entry in dataclasses.fields(one):
        a, b = getattr(one, entry.name), getattr(other, entry.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape, b.flags.c_contiguous) == (b.dtype, b.shape, True), entry.name
            assert np.ascontiguousarray(a).tobytes() == b.tobytes(), entry.name
        elif not isinstance(a, VoxelGrid):
            assert a == b, entry.name


def test_a_fit_is_read_as_it_was_written_and_equal_fits_are_equal_bytes(fit: WaterFat, tmp_path: Path) -> None:
    for name in ("one.npz", "two.npz"):
        save_noun(tmp_path / name, fit)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    found = load_noun(tmp_path / "one.npz", WaterFat)
    assert_same(fit, found)
    assert found.grid.shape == GRID.shape
    np.testing.assert_array_equal(found.grid.affine_mm, GRID.affine_mm)


def test_a_volume_that_is_a_map_already_is_read_from_there(fit: WaterFat, tmp_path: Path) -> None:
    path, image = tmp_path / "work" / "fit.npz", tmp_path / "maps" / "R2starmap.nii.gz"
    save_volume(image, fit.r2star_per_s, GRID)
    save_noun(path, fit, {"r2star_per_s": str(image)})
    moved = tmp_path.rename(tmp_path.with_name("moved"))  # a study may be moved
    assert_same(fit, load_noun(moved / "work" / "fit.npz", WaterFat))
    (moved / "maps" / "R2starmap.nii.gz").unlink()
    with pytest.raises(InputError, match=r"R2starmap.nii.gz was removed.*Remove .*fit.json, too"):
        load_noun(moved / "work" / "fit.npz", WaterFat)


def test_an_archive_that_is_older_than_a_field_holds_its_default(fit: WaterFat, tmp_path: Path) -> None:
    newer = dataclasses.make_dataclass("Newer", [("quality", str, dataclasses.field(default="unknown"))], bases=(WaterFat,), frozen=True)
    save_noun(tmp_path / "fit.npz", fit)
    found = load_noun(tmp_path / "fit.npz", newer)
    assert found.quality == "unknown"
    assert_same(fit, found)


def test_a_map_of_another_precision_is_not_left_to_its_file(fit: WaterFat, tmp_path: Path) -> None:
    fine = dataclasses.replace(fit, r2star_per_s=fit.r2star_per_s.astype(np.float64))
    with pytest.raises(ValueError, match="float64"):
        save_noun(tmp_path / "fit.npz", fine, {"r2star_per_s": "somewhere"})


def test_regions_with_masks_by_name_are_read_as_they_were_written(tmp_path: Path) -> None:
    masks = {name: DICE.random(GRID.shape) > 0.5 for name in ("fat", "aorta")}
    kinds = {entry.name: entry for entry in dataclasses.fields(Regions)}
    given = {name: DICE.random(GRID.shape) > 0.5 for name in ("body", "liver", "liver_whole", "vessel", "near_gas") if name in kinds}
    regions = Regions(**given, references=masks, mask_source="automatic", grid=GRID)
    save_noun(tmp_path / "regions.npz", regions)
    found = load_noun(tmp_path / "regions.npz", Regions)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found.references[name], mask)
    for name, mask in given.items():
        np.testing.assert_array_equal(getattr(found, name), mask)

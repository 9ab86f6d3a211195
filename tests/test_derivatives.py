"""The maps of a visit as they are written: standard errors, bounds, how each voxel was fitted."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from hqsm.data import VoxelGrid
from hqsm.derivatives import write_water_fat_maps
from hqsm.nifti import load_volume
from water_fat_maps import water_fat_maps

GRID = VoxelGrid(shape=(2, 1, 2), affine_mm=np.diag([1.5, 1.5, 4.0, 1.0]))
NAMES = ["r2star", "t2star", "pdff", "field", "r2star_se", "t2star_se", "pdff_se", "field_se"]
NAMES += ["r2star_bound", "residual", "swap_margin", "field_difference", "model", "convergence"]


def of_voxels(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(GRID.shape)


def test_every_map_has_its_standard_error_and_says_how_each_voxel_was_fitted(tmp_path: Path) -> None:
    fit = water_fat_maps(
        GRID,
        r2star_per_s=of_voxels(50, -2, np.nan, 400),
        r2star_se_per_s=of_voxels(2, 3, np.nan, 20),
        pdff_se_percent=of_voxels(1, 2, 3, 4),
        field_se_hz=of_voxels(0.1, 0.2, 0.3, 0.4),
        residual=of_voxels(0.01, 0.02, 0.03, 0.04),
        swap_margin=of_voxels(12, 0.5, -1, np.nan),
        field_difference_hz=of_voxels(0, 1, -218, np.nan),
        model=of_voxels(1, 2, 3, 0).astype(np.uint8),
        convergence=of_voxels(1, 2, 1, 3).astype(np.uint8),
        censored=of_voxels(0, 0, 1, 0) > 0,
        r2star_lower_bound_per_s=of_voxels(np.nan, np.nan, 640, np.nan),
    )
    output = SimpleNamespace(**{name: str(tmp_path / f"{name}.nii.gz") for name in NAMES})
    write_water_fat_maps(output, fit, {"CodeDigest": "abc"})
    found = {name: load_volume(tmp_path / f"{name}.nii.gz")[0] for name in NAMES}
    # an error of 2 at 50 1/s, 4 %, is one of 0.8 ms at 20 ms; at 400 1/s 5 % of 2.5 ms
    np.testing.assert_allclose(found["t2star_se"], of_voxels(0.8e-3, np.nan, np.nan, 0.125e-3), rtol=1e-6)
    for name, field in (
        ("r2star_se", "r2star_se_per_s"),
        ("pdff_se", "pdff_se_percent"),
        ("field_se", "field_se_hz"),
        ("r2star_bound", "r2star_lower_bound_per_s"),
        ("residual", "residual"),
        ("swap_margin", "swap_margin"),
        ("field_difference", "field_difference_hz"),
        ("model", "model"),
        ("convergence", "convergence"),
    ):
        np.testing.assert_array_equal(found[name], getattr(fit, field), err_msg=name)
    sidecars = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in NAMES}
    assert {sidecar["CodeDigest"] for sidecar in sidecars.values()} == {"abc"}
    assert [sidecars[f"{name}_se"]["Units"] for name in ("r2star", "t2star", "pdff", "field")] == ["1/s", "s", "percent", "Hz"]
    assert sidecars["field_difference"]["Units"] == "Hz"
    for name in ("model", "convergence"):
        assert {str(int(number)) for number in np.unique(found[name])} <= set(sidecars[name]["Levels"])


def test_what_no_first_field_was_chosen_for_has_no_margin(tmp_path: Path) -> None:
    output = SimpleNamespace(**{name: str(tmp_path / f"{name}.nii.gz") for name in NAMES})
    write_water_fat_maps(output, water_fat_maps(GRID), {})
    for name in ("swap_margin", "field_difference"):
        assert np.isnan(load_volume(tmp_path / f"{name}.nii.gz")[0]).all()


def test_maps_of_one_limit_have_it_as_the_bound_of_what_is_censored() -> None:
    fit = water_fat_maps(GRID, censored=of_voxels(0, 1, 0, 0) > 0, r2star_limit_per_s=700.0)
    np.testing.assert_array_equal(fit.r2star_bound_per_s, of_voxels(np.nan, 700, np.nan, np.nan))

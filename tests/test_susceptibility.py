"""Reference, standard error, flags and what the inversion is given: the arithmetic around the estimate, by hand."""

from __future__ import annotations

import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hqsm import susceptibility
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Regions, Solution, Susceptibility, VoxelGrid, WaterFat
from hqsm.inversion import total_field
from hqsm.susceptibility import estimate, magnitude_image, total_field_of
from water_fat_maps import water_fat_maps

_SHAPE = (20, 18, 10)
_HZ_PER_PPM = 42.577478518 * 1.5


def visit() -> tuple[WaterFat, Regions]:
    grid = VoxelGrid(shape=_SHAPE, affine_mm=np.diag([4.0, 4.0, 6.0, 1.0]))
    ones = np.ones(_SHAPE, np.float32)
    body, liver, muscle = (np.zeros(_SHAPE, bool) for _ in range(3))
    body[2:-2, 2:-2], liver[10:16, 6:12, 3:7], muscle[4:8, 6:10, 2:8] = True, True, True
    # 0.5 ppm in the middle, and a gradient of the shim: one value everywhere would be no field
    field_ppm = (0.5 + 0.01 * (np.arange(_SHAPE[0]) - 8))[:, None, None] * ones
    maps = water_fat_maps(
        grid, r2star_per_s=50 * ones, field_hz=(_HZ_PER_PPM * field_ppm).astype(np.float32), field_se_hz=0.04 * _HZ_PER_PPM * ones
    )
    nothing = np.zeros(_SHAPE, bool)
    regions = Regions(
        body=body, liver=liver, liver_whole=liver, vessel=nothing, references={"muscle": muscle}, mask_source="reader", grid=grid
    )
    return maps, regions


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What inversion and expectation say, to be set by a test; ``asked`` holds what they were given."""
    _, regions = visit()
    chi = np.full(_SHAPE, 0.1, np.float32)
    chi[regions.liver], chi[regions.references["muscle"]] = 2.3, 0.3
    says = SimpleNamespace(
        chi_ppm=chi,
        regional_ppm=chi.copy(),
        outlier_share=0.0,
        converged=True,
        sd_ppm=0.04,
        without_data=np.zeros(_SHAPE, bool),
        field_error_ppm=np.zeros(_SHAPE, np.float32),
        liver_edge_seen=1.0,
        liver_is_left_out=False,
        liver_is_dark=False,
        asked={},
    )

    def inversion(total: Any, noise_ppm: np.ndarray, prior: np.ndarray) -> SimpleNamespace:
        says.asked |= {"total": total, "noise_ppm": noise_ppm}
        expected = weakref.ref(prior)

        def standard_deviation_ppm(weights: np.ndarray, beside_ppm: float) -> float:
            says.asked |= {"weights": weights, "beside_ppm": beside_ppm}
            return float(says.sd_ppm)

        solution = Solution(x=says.chi_ppm, n_iterations=9, relative_residual=1e-5, converged=says.converged)
        posterior = SimpleNamespace(**{**vars(says), "solution": solution, "standard_deviation_ppm": standard_deviation_ppm})
        del prior

        def solved(**_: object) -> SimpleNamespace:
            says.holds_expected_sources = expected() is not None
            return posterior

        return SimpleNamespace(posterior=solved)

    def expected_sources(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(**{**vars(says), "prior": np.zeros(1)})

    monkeypatch.setattr(total_field, "Inversion", inversion)
    monkeypatch.setattr(susceptibility, "expected_sources", expected_sources)
    return says


def estimated(regions: Regions | None = None, specimen: str = "in_vivo", **params: Any) -> Susceptibility:
    maps, own = visit()
    return estimate(maps, regions or own, SusceptibilityParams(**params), specimen=specimen)


def test_the_reference_tissues_median_is_taken_off_the_map_and_told(given: SimpleNamespace) -> None:
    _, regions = visit()
    given.chi_ppm[4, 6:10, 2:8] = 50.0  # a quarter of the muscle is something else
    chi = estimated()
    assert chi.reference_chi_ppm == pytest.approx(0.3)
    assert chi.chi_ppm[12, 8, 5] == pytest.approx(2.0)
    assert chi.chi_ppm[5, 7, 4] == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(chi.chi_ppm[~regions.body]).all()
    assert chi.codes == ()


@pytest.mark.parametrize(
    ("there", "wanted", "specimen", "name", "code"),
    [
        (("muscle", "fat", "aorta"), "muscle", "in_vivo", "muscle", None),
        (("muscle", "fat", "aorta"), "fat", "in_vivo", "fat", None),
        (("fat", "aorta"), "muscle", "in_vivo", "aorta", "CHI_REFERENCE_FALLBACK"),
        (("muscle", "aorta"), "fat", "in_vivo", "muscle", "CHI_REFERENCE_FALLBACK"),
        (("fat",), "muscle", "in_vivo", "fat", "CHI_REFERENCE_FALLBACK"),
        (("muscle", "medium"), "muscle", "in_vitro", "medium", None),
        ((), "muscle", "in_vivo", "none", "CHI_REFERENCE_MISSING"),
    ],
)
def test_the_wanted_reference_counts_else_muscle_aorta_and_fat_in_this_order_and_it_is_said(
    given: SimpleNamespace, there: tuple[str, ...], wanted: str, specimen: str, name: str, code: str | None
) -> None:
    _, regions = visit()
    masks = {tissue: np.roll(regions.references["muscle"], k, axis=1) for k, tissue in enumerate(there)}
    chi = estimated(replace(regions, references=masks), specimen, reference=wanted)
    assert chi.reference_name == name
    assert [c for c in chi.codes if "REFERENCE" in c] == ([code] if code else [])


def test_fewer_than_twenty_voxels_are_no_reference(given: SimpleNamespace) -> None:
    _, regions = visit()
    few, enough = (np.zeros(_SHAPE, bool) for _ in range(2))
    few[4, 2:16, 3], few[4, 2:7, 4], enough[5, 2:14, 3:5] = True, True, True
    assert few.sum() == 19
    assert estimated(replace(regions, references={"muscle": few, "fat": enough})).reference_name == "fat"


@pytest.mark.parametrize(
    ("specimen", "says", "codes", "parts"),
    [
        ("in_vivo", {}, (), (0.01 * 2, 0.015)),
        ("in_vitro", {}, (), (0.01 * 2, 0.01)),
        ("in_vivo", {"liver_is_left_out": True}, (), (0.01 * 2, 0.05 * 2, 0.015)),
        ("in_vivo", {"converged": False}, ("CHI_NOT_CONVERGED",), (0.01 * 2, 0.015, 0.05)),
        ("in_vivo", {"outlier_share": 0.03}, ("CHI_FIELD_INCONSISTENT",), (0.01 * 2, 0.015, 0.05)),
        (
            "in_vivo",
            {"outlier_share": 0.03, "converged": False},
            ("CHI_FIELD_INCONSISTENT", "CHI_NOT_CONVERGED"),
            (0.01 * 2, 0.015, 0.05, 0.05),
        ),
        ("in_vivo", {"liver_is_dark": True}, ("CHI_LIVER_DARK",), (0.01 * 2, 0.015)),
        ("in_vivo", {"sd_ppm": 0.2}, (), (0.01 * 2, 0.015)),
    ],
)
def test_the_livers_standard_error_joins_the_posteriors_and_what_it_does_not_know(
    given: SimpleNamespace, specimen: str, says: dict[str, Any], codes: tuple[str, ...], parts: tuple[float, ...]
) -> None:
    vars(given).update(says)
    _, regions = visit()
    if specimen == "in_vitro":
        regions = replace(regions, references={"medium": regions.references["muscle"]})
    chi = estimated(regions, specimen)
    assert chi.codes == codes
    lacking = np.sqrt(np.sum(np.square(parts)))
    assert given.asked["beside_ppm"] == pytest.approx(lacking)
    assert chi.liver_se_ppm == pytest.approx(np.hypot(given.sd_ppm, lacking))
    # of the difference: the liver's mean less the reference's
    weights = given.asked["weights"]
    assert weights[regions.liver].sum() == pytest.approx(1)
    assert weights[next(iter(regions.references.values()))].sum() == pytest.approx(-1)
    assert np.abs(weights).sum() == pytest.approx(2)


@pytest.mark.parametrize("converged", [True, False])
def test_the_estimate_by_regions_is_no_iteration_but_is_doubted_where_what_leaves_out_its_outliers_did_not_arrive(
    given: SimpleNamespace, converged: bool
) -> None:
    given.converged = converged
    by = {method: estimated(method=method) for method in ("total-field", "regional")}
    assert by["total-field"].solutions == {"inversion": (9, 1e-5, converged)}
    assert by["regional"].solutions == {"inversion": (0, 0.0, True)}
    for chi in by.values():
        assert ("CHI_NOT_CONVERGED" in chi.codes) == (not converged)


@pytest.mark.parametrize(
    ("source", "specimen", "seen", "unseen_ppm", "doubted"),
    [
        ("automatic", "in_vivo", 0.4, 0.015, True),
        ("automatic", "in_vivo", 0.6, 0.01, False),
        ("reader", "in_vivo", 0.0, 0.0, False),
        ("automatic", "in_vitro", 0.0, 0.0, False),
    ],
)
def test_an_automatic_livers_edge_that_nothing_confirms_costs_what_is_unseen_of_it(
    given: SimpleNamespace, source: str, specimen: str, seen: float, unseen_ppm: float, doubted: bool
) -> None:
    given.liver_edge_seen = seen
    _, regions = visit()
    regions = replace(regions, mask_source=source, references={"medium": regions.references["muscle"], **regions.references})
    chi = estimated(regions, specimen)
    model_ppm = 0.015 if specimen == "in_vivo" else 0.01
    assert given.asked["beside_ppm"] == pytest.approx(np.sqrt(0.02**2 + model_ppm**2 + unseen_ppm**2))
    assert ("CHI_MASK_UNCONFIRMED" in chi.codes) == doubted


@pytest.mark.parametrize(("regional_ppm", "doubted"), [(2.3 + 0.49, False), (2.3 + 0.51, True), (2.3 - 0.51, True)])
def test_two_estimates_that_differ_by_more_than_a_tenth_and_0_3_ppm_are_flagged(
    given: SimpleNamespace, regional_ppm: float, doubted: bool
) -> None:
    _, regions = visit()
    given.regional_ppm[regions.liver] = regional_ppm
    chi = estimated()
    assert chi.liver_regional_ppm == pytest.approx(regional_ppm - 0.3, rel=1e-4)
    assert ("CHI_ESTIMATES_DIFFER" in chi.codes) == doubted
    apart = doubted * (regional_ppm - 2.3)
    assert chi.liver_se_ppm == pytest.approx(np.sqrt(0.04**2 + 0.02**2 + 0.015**2 + apart**2), rel=1e-4)


@pytest.mark.parametrize("side", [(slice(0, 1),), (slice(-1, None),), (slice(None), slice(0, 1)), (slice(None), slice(-1, None))])
def test_a_body_that_reaches_any_border_within_the_slice_is_cut(given: SimpleNamespace, side: tuple[slice, ...]) -> None:
    _, regions = visit()
    body = regions.body.copy()
    body[side] = True
    assert "CHI_BODY_CUT" in estimated(replace(regions, body=body)).codes
    assert given.asked["beside_ppm"] == pytest.approx(np.sqrt(0.02**2 + 0.015**2 + 0.05**2))


@pytest.mark.parametrize(("slices", "cut"), [(slice(0, 6), True), (slice(4, 10), True), (slice(1, 9), False)])
def test_a_liver_that_reaches_either_end_of_the_slab_is_cut(given: SimpleNamespace, slices: slice, cut: bool) -> None:
    _, regions = visit()
    liver = np.zeros(_SHAPE, bool)
    liver[10:16, 6:12, slices] = True
    given.chi_ppm[liver] = 2.3
    assert ("CHI_LIVER_CUT" in estimated(replace(regions, liver=liver, liver_whole=liver)).codes) == cut
    assert given.asked["beside_ppm"] == pytest.approx(np.sqrt(0.02**2 + 0.015**2 + cut * 0.02**2))


def test_the_estimate_by_regions_is_the_map_where_it_is_the_method(given: SimpleNamespace) -> None:
    _, regions = visit()
    given.regional_ppm[regions.liver] = 2.4
    assert estimated(method="regional").chi_ppm[12, 8, 5] == pytest.approx(2.1)


def test_the_volumes_of_what_is_expected_are_let_go_before_it_is_solved(given: SimpleNamespace) -> None:
    estimated()
    assert not given.holds_expected_sources


def test_the_inversion_is_given_ppm_with_noise_model_and_surface_errors_joined_and_no_data_where_there_is_none(
    given: SimpleNamespace,
) -> None:
    given.field_error_ppm[:] = 0.12
    given.without_data[12] = True
    _, regions = visit()
    estimated()
    np.testing.assert_array_equal(given.asked["total"].mask, regions.body & ~given.without_data)
    assert given.asked["total"].field_ppm[8, 8, 5] == pytest.approx(0.5)
    assert given.asked["noise_ppm"][8, 8, 5] == pytest.approx(0.13)  # 0.04, 0.03 and 0.12


def test_a_field_that_is_unsure_by_more_than_a_ppm_is_no_measurement_and_weights_are_inverse_errors_of_median_one() -> None:
    maps, regions = visit()
    se_ppm = np.full(_SHAPE, 0.04, np.float32)
    se_ppm[:9], se_ppm[15] = 0.4, 1.1
    total, noise_ppm = total_field_of(replace(maps, field_se_hz=se_ppm * np.float32(_HZ_PER_PPM)), regions, SusceptibilityParams())
    assert not total.mask[15].any()
    assert not total.weight[15].any()
    assert total.mask[5, 8, 5]
    assert noise_ppm[5, 8, 5] == pytest.approx(np.hypot(0.4, 0.03), rel=1e-4)
    assert total.weight[5, 8, 5] / total.weight[12, 8, 5] == pytest.approx(0.05 / np.hypot(0.4, 0.03), rel=1e-4)
    assert np.median(total.weight[total.mask]) == pytest.approx(1)


def test_edges_are_looked_for_in_an_echo_that_iron_darkens() -> None:
    maps, _ = visit()
    image = magnitude_image(replace(maps, r2star_per_s=np.where(np.arange(20) < 10, 500, np.nan)[:, None, None] * np.ones(_SHAPE)))
    assert image[5, 5, 5] == pytest.approx(100 * np.exp(-500 * 4.6e-3), rel=1e-4)
    assert image[15, 5, 5] == pytest.approx(100)


def test_voxels_that_a_background_method_gives_up_are_nan() -> None:
    chi = estimated(method="lbv+tkd", padding_mm=20.0).chi_ppm
    assert np.isnan(chi[2, 8, 5])
    assert np.isfinite(chi[8, 8, 5])


@pytest.mark.parametrize("method", ["tfi", "v-sharp+tkd"])
def test_a_published_methods_error_is_assumed_and_said_and_wider_where_the_body_is_cut(method: str) -> None:
    """It knows of none itself: without this the interval of its iron was that of the liver's texture."""
    share, ppm = {"tfi": (0.05, 0.3), "v-sharp+tkd": (3.5, 0.25)}[method]
    _, regions = visit()
    cut = regions.body.copy()
    cut[:1] = True
    found = {
        name: estimated(replace(regions, body=body), method=method, padding_mm=20.0)
        for name, body in (("whole", regions.body), ("cut", cut))
    }
    for name, chi in found.items():
        assert "CHI_ERROR_ASSUMED" in chi.codes
        doubts = 0.05**2 * sum(code in chi.codes for code in ("CHI_NOT_CONVERGED", "CHI_BODY_CUT"))
        value = float(np.median(chi.chi_ppm[regions.liver]))
        assert chi.liver_se_ppm == pytest.approx(np.sqrt((share * value) ** 2 + ppm**2 + doubts)), name
        assert ("CHI_BODY_CUT" in chi.codes) == (name == "cut")

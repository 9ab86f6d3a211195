"""What a visit's page draws of the fit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hqsm.config.report import ReportParams
from hqsm.data import Susceptibility
from hqsm.report import visit_page
from hqsm.report.assemble import body_snr
from hqsm.report.visit_page import VisitPage, maps_of, render_visit_page
from report.test_in_a_browser import visit

__all__ = ["visit"]
NAME = "two first fields [Hz]"


def with_two_fields(visit: VisitPage, tesla: float) -> tuple[VisitPage, float]:
    """The visit where the two first fields are a swap apart in one corner of the organ, and how far that is [Hz]."""
    assert visit.fit is not None
    assert visit.regions is not None
    apart_hz = 217.0 * tesla / 1.5
    difference = np.where(visit.regions.body, 0, np.nan).astype(np.float32)
    difference[26:31, 12:18] = apart_hz
    return replace(visit, fit=replace(visit.fit, field_difference_hz=difference, field_strength_tesla=tesla)), apart_hz


@pytest.mark.parametrize("tesla", [1.5, 3.0])
def test_the_page_draws_where_the_two_first_fields_differ(visit: VisitPage, tesla: float, monkeypatch: pytest.MonkeyPatch) -> None:
    disagreeing, apart_hz = with_two_fields(visit, tesla)
    drawn: list[Figure] = []
    kept: Any = visit_page._uri

    def watched(figure: Figure, *rest: Any) -> str:
        rows = {ax.get_ylabel(): ax.images[0] for ax in figure.axes if ax.images and ax.get_ylabel()}
        if NAME in rows:
            image = rows[NAME]
            values = np.ma.filled(np.ma.asarray(image.get_array()), np.nan)
            assert np.nanmax(values) == pytest.approx(apart_hz)
            assert (values == np.float32(apart_hz)).sum() == 5 * 6
            low, high = image.get_clim()
            assert low == -high  # a field that is one swap off either way has the full colour
            assert apart_hz <= high < 1.2 * apart_hz
            drawn.append(figure)
        return str(kept(figure, *rest))

    monkeypatch.setattr(visit_page, "_uri", watched)
    render_visit_page(disagreeing, ReportParams())
    assert len(drawn) == 1


def test_the_viewer_has_the_two_first_fields_too_and_a_visit_of_one_field_has_none(visit: VisitPage) -> None:
    assert visit.fit is not None
    disagreeing, _ = with_two_fields(visit, 1.5)
    assert disagreeing.fit is not None
    assert NAME in [shown.name for shown in maps_of(disagreeing, disagreeing.fit)]
    assert NAME not in [shown.name for shown in maps_of(visit, visit.fit)]


def test_the_signal_to_noise_of_the_index_does_not_follow_the_livers_iron(visit: VisitPage) -> None:
    assert visit.regions is not None
    assert visit.magnitude is not None
    measured = replace(visit, acquisition={**visit.acquisition, "noise_sd": 2.0})
    liver = visit.regions.liver_whole
    dark = replace(measured, magnitude=np.where(liver, 0.2 * visit.magnitude, visit.magnitude))
    assert body_snr(dark) == body_snr(measured) > 0
    dim = replace(measured, magnitude=0.5 * visit.magnitude)
    assert body_snr(dim) == pytest.approx(0.5 * body_snr(measured))
    assert np.isnan(body_snr(replace(visit, acquisition={})))


def test_a_censored_r2star_is_shown_by_its_bound(visit: VisitPage) -> None:
    for iron, shown in (
        ({"r2star_per_s": 214.4}, "214 1/s"),
        ({"r2star_per_s": np.nan, "r2star_lower_bound_per_s": 643.6}, "over 644 1/s"),
    ):
        assert shown in render_visit_page(replace(visit, iron=iron, fit=None, regions=None), ReportParams())


def test_what_hqsm_is_known_not_to_tell_is_listed_for_the_default_method_alone(visit: VisitPage) -> None:
    assert visit.fit is not None
    for method, listed in (("total-field", True), ("tfi", False)):
        chi = Susceptibility(
            chi_ppm=visit.fit.r2star_per_s,
            reference_name="muscle",
            reference_chi_ppm=0.0,
            all_references_ppm={"muscle": 0.0},
            methods={"inversion": method},
            solutions={"inversion": (1, 0.0, True)},
            grid=visit.fit.grid,
        )
        page = render_visit_page(replace(visit, chi=chi), ReportParams(n_slices=1))
        assert ("a lesion keeps a quarter to three fifths" in page) == listed
    assert "known not to tell" not in render_visit_page(visit, ReportParams(n_slices=1))

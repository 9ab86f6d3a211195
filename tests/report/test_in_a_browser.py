"""Every kind of page in a real browser, with the network off."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from hqsm.config.report import ReportParams
from hqsm.data import Regions, VoxelGrid, WaterFat
from hqsm.records.findings import Finding
from hqsm.report import viewer as viewer_module
from hqsm.report.blinded_report import render_blinded_report
from hqsm.report.figures.base import ReportData
from hqsm.report.findings_page import render_findings
from hqsm.report.page import page, table
from hqsm.report.qc_index import render_qc_index
from hqsm.report.study_report import render_study_report
from hqsm.report.viewer import NIIVUE_SHA256, render_viewer
from hqsm.report.visit_page import VisitPage, radiological, render_visit_page, side_labels
from report.browser import PROGRAM, Browser
from report.test_study_report import data, frame_of

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine (apt-get install chromium)")
__all__ = ["data"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def visit() -> VisitPage:
    """A body with one bright organ on the patient's right side, in a grid whose x axis runs to the right (RAS+)."""
    shape = (40, 32, 10)
    grid = VoxelGrid(shape=shape, affine_mm=np.array([[4.0, 0, 0, -80], [0, 4, 0, -64], [0, 0, 6, -30], [0, 0, 0, 1]]))
    x, y, _ = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    body = (x - 20) ** 2 / 18**2 + (y - 16) ** 2 / 14**2 < 1
    organ = body & (x > 24) & (x < 34) & (abs(y - 16) < 8)  # world x is positive: the patient's right
    blank = np.where(body, 0.0, np.nan).astype(np.float32)
    r2star = np.where(organ, 300.0, 40.0).astype(np.float32) + blank
    fit = WaterFat(
        water=(body * (1000.0 + 0j)).astype(np.complex64),
        fat=(body * (30.0 + 0j)).astype(np.complex64),
        pdff_percent=blank + 3,
        r2star_per_s=r2star,
        field_hz=blank + x.astype(np.float32),
        pdff_se_percent=blank + 1,
        r2star_se_per_s=blank + 5,
        field_se_hz=blank + 1,
        residual=blank + 0.02,
        model=body.astype(np.uint8),
        censored=np.zeros(shape, bool),
        r2star_limit_per_s=1000.0,
        field_strength_tesla=1.5,
        grid=grid,
    )
    none = np.zeros(shape, bool)
    regions = Regions(body=body, liver=organ, liver_whole=organ, vessel=none, references={}, mask_source="automatic", grid=grid)
    rows = tuple({"repetition": str(k + 1), "displacement_mm": str(k), "accepted": str(int(k < 3)), "reason": ""} for k in range(5))
    return VisitPage(
        participant_id="sub-01",
        session_id="ses-01",
        failed=None,
        codes=("MASK_AUTOMATIC",),
        magnitude=np.abs(fit.water),
        echo_times_s=(0.0012, 0.0028),
        liver_signal=(900.0, 600.0),
        fit=fit,
        regions=regions,
        gating_rows=rows,
        gating={"end_expiration_mm": 1.0, "window_mm": 4.0, "source": "navigator.csv"},
        acquisition={"manufacturer": "X", "noise_sd": 10.0},
        iron={"lic_hqsm_mg_g": 3.0},
        parameters={"gating": {"window_mm": 5.0}},
        versions={"hqsm": "0"},
        viewer="sub-01_ses-01_viewer.html",
    )


def quiet(browser: Browser) -> None:
    assert [u for u in browser.requests if not u.startswith(("file:", "data:", "blob:"))] == []
    assert browser.complaints == []


def cut_tables(browser: Browser) -> list[str]:
    """First headings of the tables that are wider than their box: part of them is out of sight, and lost in print."""
    wider = "Array.from(document.querySelectorAll('.wide')).filter(e=>e.clientWidth&&e.scrollWidth>e.clientWidth)"
    return list(browser.evaluate(f"{wider}.map(e=>e.querySelector('th').textContent)"))


def pixels(browser: Browser) -> np.ndarray:
    return np.asarray(matplotlib.image.imread(io.BytesIO(browser.screenshot()), format="png"))[..., :3]


def test_the_picture_of_an_asymmetric_body_has_the_right_side_at_the_left(visit: VisitPage) -> None:
    assert visit.fit is not None
    affine = visit.fit.grid.affine_mm
    assert side_labels(affine) == ("R", "L")
    shown = radiological(visit.fit.r2star_per_s > 100, affine)[:, :, 5]
    columns = np.flatnonzero(shown.any(axis=0))
    assert columns.mean() < shown.shape[1] / 2  # the organ is on the patient's right: at the left of the picture
    flipped = affine.copy()
    flipped[0] *= -1  # the same voxels in a grid that runs to the left: the organ is now on the patient's left
    columns = np.flatnonzero(radiological(visit.fit.r2star_per_s > 100, flipped)[:, :, 5].any(axis=0))
    assert columns.mean() > shown.shape[1] / 2


def test_the_viewers_library_is_the_one_that_is_pinned() -> None:
    folder = Path(viewer_module.__file__).parent / "vendor"
    assert hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest() == NIIVUE_SHA256
    assert "BSD 2-Clause" in (folder / "niivue.LICENSE").read_text(encoding="utf-8")


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_qc_page_opens_without_a_request_or_an_error(browser: Browser, visit: VisitPage, tmp_path: Path, width: int) -> None:
    file = tmp_path / "visit.html"
    file.write_text(render_visit_page(visit, ReportParams()), encoding="utf-8")
    assert file.stat().st_size < 5e6
    browser.open(file, width=width)
    quiet(browser)
    assert browser.evaluate("Array.from(document.images).every(i=>i.complete&&i.naturalWidth>50)")
    assert browser.evaluate("document.images.length") == 3
    assert browser.evaluate("document.documentElement.scrollWidth") <= width  # nothing is wider than the screen
    assert pixels(browser).std() > 0.02


@needs_browser
def test_the_report_opens_and_its_tables_sort(browser: Browser, data: object, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_bytes(render_study_report(data)["index.html"])  # type: ignore[arg-type]
    assert file.stat().st_size < 5e6
    for width in (1280, 390):
        browser.open(file, width=width)
        quiet(browser)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.open(file)
    assert cut_tables(browser) == []
    browser.print_as_a4()
    assert cut_tables(browser) == []
    browser.open(file)
    column = "Array.from(document.querySelectorAll('h2#visits + div table tbody tr')).map(r=>parseFloat(r.cells[6].textContent))"
    before = browser.evaluate(column)
    click = "document.querySelectorAll('h2#visits + div table th')[6].click()"
    browser.evaluate(click)
    assert browser.evaluate(column) == sorted(before) != before
    browser.evaluate(click)
    assert browser.evaluate(column) == sorted(before, reverse=True)


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_findings_and_the_blinded_edition_open(browser: Browser, data: ReportData, tmp_path: Path, width: int) -> None:
    finding = Finding(
        file="a<b>.csv", line=2, participant="sub-01", field="x", code="C", severity="error", problem="It is wrong.", remedy="Mend it."
    )
    pages = {
        "findings": render_findings("study", [finding], ["a note"], ["sub-01"]),
        "blinded": render_blinded_report(data.tables["visits"], data.findings, "study", {"hqsm": "0"}),
    }
    for name, text in pages.items():
        file = tmp_path / f"{name}.html"
        file.write_text(text, encoding="utf-8")
        browser.open(file, width=width)
        quiet(browser)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("document.querySelectorAll('tbody tr').length") >= 1
    assert "lic" not in pages["blinded"].lower().replace("public", "").split("<body>")[1].split("<script>")[0]


@needs_browser
def test_a_script_in_a_page_does_not_run(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "x.html"
    file.write_text(
        page("t", "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">" + table(("a",), []), "")
    )
    browser.open(file)
    assert browser.evaluate("document.title") == "t"
    assert browser.complaints


@needs_browser
def test_an_index_of_210_visits_opens_in_two_seconds(browser: Browser, tmp_path: Path) -> None:
    visits = frame_of(
        "visits", [{"participant_id": f"sub-{k:03d}", "session_id": "ses-01", "status": "ok", "acq_date": "2021-01-01"} for k in range(210)]
    )
    lic = frame_of("lic", [{"participant_id": f"sub-{k:03d}", "session_id": "ses-01", "lic_hqsm_mg_g": 1.0 + k} for k in range(210)])
    picture = "data:image/png;base64," + "A" * 8000
    summaries = [
        {"participant_id": f"sub-{k:03d}", "session_id": "ses-01", "thumbnail": picture, "scanner": "SIEMENS MAGNETOM Aera"}
        for k in range(210)
    ]
    file = tmp_path / "index.html"
    file.write_text(render_qc_index(visits, lic, summaries), encoding="utf-8")
    assert file.stat().st_size < 5e6
    browser.open(file)
    quiet(browser)
    timing = browser.evaluate("(t=>t.loadEventStart-t.startTime)(performance.getEntriesByType('navigation')[0])")
    assert timing < 2000
    assert cut_tables(browser) == []
    browser.print_as_a4(landscape=True)
    assert cut_tables(browser) == []
    assert browser.evaluate("document.querySelectorAll('tbody tr').length") == 210


@needs_browser
def test_the_viewer_draws_the_organ_on_the_right_side(browser: Browser, visit: VisitPage, tmp_path: Path) -> None:
    file = tmp_path / "viewer.html"
    file.write_text(render_viewer(visit), encoding="utf-8")
    assert file.stat().st_size < 8e6
    browser.open(file)
    browser.wait("document.body.dataset.ready!==undefined", 60)
    assert browser.evaluate("document.body.dataset.ready") == "1"
    quiet(browser)
    names = browser.evaluate("Array.from(document.querySelectorAll('#map option')).map(o=>o.textContent)")
    assert "R2* [1/s]" in names
    assert browser.evaluate("document.querySelector('#where') !== null")
    browser.evaluate(f"(s=>{{s.value='{names.index('R2* [1/s]')}';s.onchange()}})(document.getElementById('map'))")
    browser.wait("window.hqsmViewer.volumes.some(v=>v.name.startsWith('R2'))", 20)
    browser.evaluate("new Promise(r=>setTimeout(r,800))")
    canvas = pixels(browser)[60:-60]
    assert canvas.std() > 0.05
    # viridis is yellow where R2* is high: on the patient's right, that is at the left of the picture
    yellow = (canvas[..., 0] > 0.45) & (canvas[..., 1] > 0.6) & (canvas[..., 2] < 0.5)
    columns = np.flatnonzero(yellow.sum(axis=0) > 20)
    assert columns.size
    assert columns.mean() < canvas.shape[1] / 2


def test_a_rejected_visit_has_a_page_and_no_viewer() -> None:
    failed = {"stage": "gated_echoes", "reason": "60 of 720 images are missing."}
    rejected = VisitPage(participant_id="sub-01", session_id="ses-02", failed=failed, codes=("DICOM_MISSING",))
    html = render_visit_page(rejected, ReportParams())
    assert "60 of 720 images" in html
    assert "<h2>Acquisition" not in html  # nothing is known of it
    assert render_viewer(rejected) == ""

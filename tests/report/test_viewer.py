"""The viewer knows every colour scale that the page draws with, by a name that its library has."""

import re
from importlib.resources import files

from hqsm.report.viewer import _COLOURS


def test_every_colour_scale_of_the_page_has_a_counterpart_in_the_viewer() -> None:
    package = files("hqsm.report")
    used = set(re.findall(r'colours="([a-z]+)"', package.joinpath("visit_page.py").read_text(encoding="utf-8")))
    library = package.joinpath("vendor", "niivue.umd.js").read_text(encoding="utf-8")
    assert len(used) > 3
    for name in used:
        assert re.search(rf"\b{_COLOURS[name]}\b", library), name

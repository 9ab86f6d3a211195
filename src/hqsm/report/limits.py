"""What a susceptibility is known not to tell, by simulated visits (docs/susceptibility_accuracy.md), for those who read its pages."""

from __future__ import annotations

from hqsm.report.page import render

_LIMITS = (
    "Its accuracy is that of simulated visits: slope against truth 1.01 (20 of 0 to 6 ppm, RMSE 0.04 ppm; 8 explants, 0.02 ppm). Of real "
    "livers only chemistry can tell.",
    "Livers that breathe, in slices of 7 mm: RMSE 0.05 ppm, 0.11 ppm at most (21 of 0.5 to 7.4 ppm).",
    "Without iron in reach of R2* (below 0.5 ppm) 0.02 ppm too low, up to 0.01 ppm by a mask that is a voxel off, and 0.13 ppm once where "
    "an automatic mask held bowel and muscle (CHI_MASK_UNCONFIRMED: outline the liver).",
    "A dark liver (CHI_LIVER_DARK): measured by what surrounds it, within 11 %; a lesion keeps a quarter to three fifths of its contrast "
    "in the map; in others 60 % or more.",
    "In the map, vessels in the liver read 0.3 to 0.8 ppm too high, the stomach 0.1; gas below 2 mL is not modelled.",
    "Aorta and muscle may differ by 0.07 ppm more than they truly do.",
    "A coil whose shading exceeds 10 % over 10 cm hides the edge of a liver without iron.",
)
"""Of the default method, the twelfth and thirteenth draws of 27 November 2026 and what stands beside it there."""


def limits(method: str) -> str:
    """A list to unfold, of the default method; the others lose iron, and their visits' codes say so."""
    if method != "total-field":
        return ""
    listed = "{% for each in limits %}<li>{{ each }}</li>{% endfor %}"
    return render(f"<details><summary>What hQSM is known not to tell</summary><ul>{listed}</ul></details>", limits=_LIMITS)

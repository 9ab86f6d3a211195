"""What the liver's susceptibility must withstand, on simulated visits: one command each; the last line says by how much it is missed.

python benchmarks/qsm/targets.py mask       a mask one voxel larger or smaller
python benchmarks/qsm/targets.py retest     another scan of the same body: noise, phase, 3 degrees of tilt
python benchmarks/qsm/targets.py references muscle, aorta and fat against their true difference
python benchmarks/qsm/targets.py dark       a liver whose own field is left out
python benchmarks/qsm/targets.py lesion     a lesion of 15 mm and -1 ppm in the liver, by its field alone; SD of the map's error
python benchmarks/qsm/targets.py lesion-near-edge   the same 10 mm from the mask's edge
python benchmarks/qsm/targets.py slabs      slices of 3 to 7 mm, tilts to 20 degrees, slabs of 96 to 170 mm, of one body
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import visits
from scipy import ndimage
from verdict import verdict

from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Susceptibility
from hqsm.susceptibility import estimate
from hqsm.units import ppm_to_hz

_LEAST_PPM = 0.4
"""Relative changes of less iron say nothing."""
_NEAR_EDGE_MM = 10.0


def measured(visit: visits.Visit) -> tuple[float, Susceptibility]:
    """The liver [ppm] and its map."""
    chi = estimate(visit.maps, visit.regions, SusceptibilityParams(), specimen=visit.case.specimen)
    return float(np.nanmedian(chi.chi_ppm[visit.regions.liver_for_susceptibility])), chi


def mask(cases: list[visits.Case], cache: Path) -> None:
    changes: dict[int, list[float]] = {1: [], -1: []}
    for case in cases:
        visit = visits.load(case, cache)
        base, _ = measured(visit)
        for voxels, found in changes.items():
            value, _ = measured(visits.with_mask_moved(visit, voxels))
            found.append((value - base) / max(visit.truth.liver_chi_ppm, 1e-6))
            say(f"{case.name:<10} {voxels:+d} voxel: {base:.3f} -> {value:.3f} ppm, {100 * found[-1]:+.1f} %")
    for voxels, found in changes.items():
        size = np.abs(found)
        summary = f"mean {100 * np.mean(found):+.1f} %, largest {100 * size.max():.1f} %"
        met = verdict(100 * size.max(), 0, 3, "%", 1)
        say(f"{voxels:+d} voxel: {summary}, below 3 %: {(size < 0.03).sum()} of {size.size}, {met}")


def retest(cases: list[visits.Case], cache: Path) -> None:
    differences = []
    for case in cases:
        again = replace(case, repeat=1, tilt_degrees=case.tilt_degrees + 3.0, name=case.name + "r")
        (first, _), (second, _) = (measured(visits.load(each, cache)) for each in (case, again))
        differences.append(second - first)
        say(f"{case.name:<10} {first:.3f}  {second:.3f} ppm")
    sd = float(np.sqrt(np.mean(np.square(differences)) / 2))
    say(f"test-retest SD {sd:.3f} ppm, n {len(differences)}, below 0.05 ppm: {verdict(sd, 0, 0.05, 'ppm')}")


def references(cases: list[visits.Case], cache: Path) -> None:
    errors: dict[str, list[float]] = {"aorta": [], "fat": []}
    for case in cases:
        visit = visits.load(case, cache)
        _, chi = measured(visit)
        for name, found in errors.items():
            if {name, "muscle"} <= set(chi.all_references_ppm):
                true = [float(np.median(visit.truth.chi_ppm[visit.regions.references[tissue]])) for tissue in (name, "muscle")]
                got = chi.all_references_ppm[name] - chi.all_references_ppm["muscle"]
                found.append(got - (true[0] - true[1]))
                say(f"{case.name:<10} {name:<6} minus muscle {got:+.3f}, error {found[-1]:+.3f} ppm")
    for name, found in errors.items():
        size = np.abs(found)
        agree = f"within 0.05 ppm: {(size < 0.05).sum()} of {size.size}, {verdict(size.max(initial=0), 0, 0.05, 'ppm')}"
        say(f"{name}: RMS {np.sqrt(np.mean(np.square(found))):.3f} ppm, {agree}")


def dark(cases: list[visits.Case], cache: Path) -> None:
    errors = []
    with mock.patch("hqsm.expected_sources._liver_is_torn", return_value=True):
        for case in cases:
            visit = visits.load(case, cache)
            value, _ = measured(visit)
            errors.append(value / visit.truth.liver_chi_ppm - 1)
            say(f"{case.name:<10} true {visit.truth.liver_chi_ppm:.3f}, from the surroundings {value:.3f} ppm, {100 * errors[-1]:+.1f} %")
    met = verdict(100 * np.abs(errors).max(), 0, 5, "%", 1)
    say(f"mean {100 * np.mean(errors):+.1f} %, RMS {100 * np.sqrt(np.mean(np.square(errors))):.1f} %, "
        f"within 5 %: {(np.abs(errors) < 0.05).sum()} of {len(errors)}, {met}")  # fmt: skip


def lesion(cases: list[visits.Case], cache: Path, depth_mm: float | None = None) -> None:
    kept = []
    for case in cases:
        visit = visits.load(case, cache)
        share, field = sphere_in(visit, depth_mm)
        _, without = measured(visit)
        maps = replace(visit.maps, field_hz=(visit.maps.field_hz + ppm_to_hz(field, case.tesla)).astype(np.float32))
        _, chi = measured(replace(visit, maps=maps))
        change = (chi.chi_ppm - without.chi_ppm)[share > 0.9]
        kept.append(-float(np.nanmean(change)) / float(share[share > 0.9].mean()))
        error = (without.chi_ppm - visit.truth.chi_ppm)[visit.regions.liver_for_susceptibility]
        level = f"{visit.truth.liver_chi_ppm:.2f} ppm, {case.tesla:g} T, slices {case.voxel_mm[2]:g} mm"
        say(f"{case.name:<10} {level}: {100 * kept[-1]:.0f} % of the contrast, SD of the map's error {np.nanstd(error):.3f} ppm")
    say(f"mean {100 * np.mean(kept):.0f} %, least {100 * np.min(kept):.0f} %, 70 %: {verdict(100 * np.min(kept), 70, np.inf, '%', 0)}")


def near_edge(cases: list[visits.Case], cache: Path) -> None:
    lesion(cases, cache, _NEAR_EDGE_MM)


def sphere_in(visit: visits.Visit, depth_mm: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Share of each voxel inside a sphere of 15 mm in the liver, and its field at -1 ppm, in closed form.

    Its centre is so far from the mask's edge (the middle one of such voxels), or the deepest voxel for None.
    """
    grid = visit.maps.grid
    depth = ndimage.distance_transform_edt(visit.regions.liver_for_susceptibility, sampling=grid.voxel_size_mm)
    if depth_mm is None:
        centre = np.array(np.unravel_index(int(np.argmax(depth)), depth.shape))
    else:
        as_deep = np.argwhere(np.abs(depth - depth_mm) < 1)
        centre = as_deep[len(as_deep) // 2]
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    from spheres import sphere  # the tests' closed form, averaged over each voxel

    at = grid.affine_mm[:3, :3] @ centre + grid.affine_mm[:3, 3]
    share, field = sphere(grid, 7.5, -1.0, (at[0], at[1], at[2]))
    return share, field


def slabs(_: list[visits.Case], cache: Path) -> None:
    scans = [(3.0, 150, 5.0), (4.0, 150, 5.0), (5.0, 150, 5.0), (6.0, 150, 5.0), (4.0, 150, -20.0), (4.0, 150, 20.0), (4.0, 170, 5.0)]
    scans += [(4.0, 130, 5.0), (4.0, 110, 5.0), (4.0, 96, 5.0), (7.0, 154, 5.0)]
    errors = []
    for thickness, length, tilt in scans:
        shape = (112, 90, 2 * round(length / thickness / 2))
        case = visits.Case(
            name=f"slab-{thickness:g}-{length}-{tilt:g}", liver_chi_ppm=1.5, anatomy=4242, tilt_degrees=tilt, shape=shape,
            voxel_mm=(3.2, 3.2, thickness),
        )  # fmt: skip
        visit = visits.load(case, cache)
        value, chi = measured(visit)
        errors.append(value - visit.truth.liver_chi_ppm)
        scan = f"slices {thickness:g} mm, slab {length} mm, tilt {tilt:+g}"
        say(f"{scan}: error {errors[-1]:+.3f} of {visit.truth.liver_chi_ppm:.3f} ppm, SE {chi.liver_se_ppm:.3f} {' '.join(chi.codes)}")
    size = np.abs(errors)
    agree = f"within 0.05 ppm: {(size < 0.05).sum()} of {size.size}, {verdict(size.max(), 0, 0.05, 'ppm')}"
    say(f"RMS {np.sqrt(np.mean(size**2)):.3f} ppm, {agree}")


TARGETS: dict[str, Callable[[list[visits.Case], Path], None]] = {
    "mask": mask, "retest": retest, "references": references, "dark": dark, "lesion": lesion,
    "lesion-near-edge": near_edge, "slabs": slabs,
}  # fmt: skip


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def chosen(options: argparse.Namespace) -> Iterator[visits.Case]:
    cases = visits.SETS[options.set]()
    unknown = set(options.only or ()) - {case.name for case in cases}
    if unknown:
        raise SystemExit(f"{', '.join(sorted(unknown))}: not in the set '{options.set}', of {', '.join(case.name for case in cases)}")
    for case in cases:
        if options.only:
            if case.name in options.only:
                yield case
        elif case.liver_chi_ppm >= _LEAST_PPM or options.target in ("retest", "references"):
            yield case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--set", choices=sorted(visits.SETS), default="develop")
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "hqsm-benchmark")
    options = parser.parse_args()
    TARGETS[options.target](list(chosen(options)), options.cache)


if __name__ == "__main__":
    main()

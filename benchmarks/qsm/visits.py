"""Simulated visits for the susceptibility benchmark: from complex echoes through our own fit to maps and regions.

Sets that share no anatomy: `develop` and `judge` are for choosing and repairing, `confirm` for the figures that are reported.
`judge` and `confirm` also have other lungs, fat, bone and spleens, other slices and tilts. Results are cached by the code that made them.
"""

from __future__ import annotations

import csv
import hashlib
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from hqsm.code_digest import code_digest
from hqsm.config.fatwater import FatWaterParams
from hqsm.config.gating import GatingParams
from hqsm.config.liver import LiverParams
from hqsm.data import MultiEcho, Regions, VoxelGrid, WaterFat
from hqsm.fatwater.separation import separate
from hqsm.gating.gate import gate
from hqsm.liver import find_regions
from hqsm.liver.geometry import eroded
from hqsm.liver.references import medium
from hqsm.liver.vessels import vessels
from hqsm.liver_share import moved
from hqsm.phantom.forward import LiverState, ScanProtocol, TruthMaps, simulate_abdomen, simulate_explant

_ECHO_TIMES_S = {1.5: tuple(1.2e-3 + 1.6e-3 * n for n in range(6)), 3.0: tuple(1.0e-3 + 1.0e-3 * n for n in range(6))}
_LEVELS_PPM = (0.0, 0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
LIC_PER_PPM = 3.33 / (1.30 * 1.051)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One visit to simulate; ``liver_chi_ppm`` is what iron adds to the liver, ``repeat`` another noise and phase of the same scan."""

    name: str
    liver_chi_ppm: float
    anatomy: int
    tesla: float = 1.5
    tilt_degrees: float = 5.0
    shape: tuple[int, int, int] = (112, 88, 28)
    voxel_mm: tuple[float, float, float] = (3.2, 3.2, 6.0)
    pdff_percent: float = 3.0
    body_scale: float = 1.0
    heterogeneity: float = 0.04
    other_chi_ppm: tuple[tuple[str, float], ...] = ()
    snr: float = 40.0
    explant: bool = False
    oversampling: tuple[int, int, int] | None = None
    repeat: int = 0

    @property
    def specimen(self) -> str:
        """As an estimate wants it."""
        return "in_vitro" if self.explant else "in_vivo"


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What susceptibility estimation is given, and the truth."""

    case: Case
    maps: WaterFat
    regions: Regions
    truth: TruthMaps

    @property
    def echo_times_s(self) -> tuple[float, ...]:
        """Of the simulated scan."""
        return _ECHO_TIMES_S[self.case.tesla]

    def pickled_input(self) -> bytes:
        """Maps, regions and specimen: what an estimate is given, without the truth."""
        return pickle.dumps((self.maps, self.regions, self.case.specimen))


def develop() -> list[Case]:
    """Visits to work with."""
    cases = []
    for n, chi in enumerate((0.0, 0.25, 0.6, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0)):
        cases.append(
            Case(name=f"d{n}", liver_chi_ppm=chi, anatomy=901 + n % 3, tesla=(1.5, 3.0)[n % 2], tilt_degrees=(5.0, -6.0, 0.0)[n % 3])
        )
    cases.append(Case(name="d-oblique", liver_chi_ppm=1.0, anatomy=904, tilt_degrees=20.0))
    cases.append(Case(name="d-cut", liver_chi_ppm=1.0, anatomy=904, shape=(112, 88, 16)))
    cases.append(Case(name="d-thin", liver_chi_ppm=1.0, anatomy=904, shape=(112, 88, 42), voxel_mm=(3.2, 3.2, 4.0)))
    return cases


def judge() -> list[Case]:
    """Visits of other anatomies; the widths of some priors and of the interval were settled with them."""
    return _drawn("j", 20_260_101, _LEVELS_PPM)


def confirm() -> list[Case]:
    """Visits that nothing was chosen with: drawn anew whenever something was."""
    return _drawn("c", 20_301_071, (*_LEVELS_PPM, 0.2, 1.1))


def _drawn(prefix: str, seed: int, levels_ppm: tuple[float, ...]) -> list[Case]:
    rng = np.random.default_rng(seed)
    cases = []
    for n, chi in enumerate(levels_ppm):
        thickness = float(rng.choice([3.5, 4.5, 6.0]))
        length = float(rng.choice([110.0, 150.0, 170.0]))
        tissue = (
            ("lung", rng.uniform(6.0, 8.2)),
            ("subcutaneous_fat", rng.uniform(0.4, 0.8)),
            ("visceral_fat", rng.uniform(0.3, 0.7)),
            ("vertebra", rng.uniform(-0.8, -0.2)),
            ("spleen", rng.uniform(0.0, 0.5) * chi),
            ("vessel", rng.uniform(0.1, 0.4)),
        )
        cases.append(
            Case(
                name=f"{prefix}{n}",
                liver_chi_ppm=chi,
                anatomy=int(rng.integers(1000, 9000)),
                tesla=float(rng.choice([1.5, 3.0])),
                tilt_degrees=float(rng.uniform(-20, 20)),
                shape=(112, 90, 2 * round(length / thickness / 2)),
                voxel_mm=(3.2, 3.2, thickness),
                pdff_percent=float(rng.uniform(1, 20)),
                body_scale=float(rng.uniform(0.85, 1.0)),
                heterogeneity=float(rng.uniform(0.02, 0.12)),
                other_chi_ppm=tuple((name, float(value)) for name, value in tissue),
                snr=float(rng.uniform(20, 50)),
            )
        )
    return cases


def explants_develop() -> list[Case]:
    """Blocks of liver to work with."""
    scans = ((0.3, 1.5, (2.3, 2.3, 5.4), 0.0), (1.5, 3.0, (2.3, 2.3, 5.4), 0.0), (3.0, 1.5, (2.5, 2.5, 4.0), 10.0),
             (4.5, 3.0, (2.3, 2.3, 5.4), 0.0), (2.0, 1.5, (3.0, 3.0, 4.0), 5.0))  # fmt: skip
    return [_block(f"xd{n}", chi, 351 + n, tesla, voxel_mm, tilt) for n, (chi, tesla, voxel_mm, tilt) in enumerate(scans)]


def explants() -> list[Case]:
    """Blocks of liver in a container at 20 degrees that nothing was chosen with."""
    rng = np.random.default_rng(20_301_072)
    cases = []
    for n, chi in enumerate((0.1, 0.4, 0.8, 1.3, 2.0, 2.5, 3.0, 4.0)):
        voxel_mm = ((2.3, 2.3, 5.4), (2.0, 2.0, 3.0), (3.0, 3.0, 4.0))[int(rng.integers(3))]
        cases.append(_block(f"x{n}", chi, int(rng.integers(1000, 9000)), float(rng.choice([1.5, 3.0])), voxel_mm, rng.uniform(-15, 15)))
    return cases


def _block(name: str, chi_ppm: float, anatomy: int, tesla: float, voxel_mm: tuple[float, float, float], tilt_degrees: float) -> Case:
    slices = 2 * round(75 / voxel_mm[2])
    shape = (2 * round(129 / voxel_mm[0]), 2 * round(101 / voxel_mm[1]), slices)
    return Case(
        name=name,
        liver_chi_ppm=chi_ppm,
        anatomy=anatomy,
        tilt_degrees=tilt_degrees,
        shape=shape,
        voxel_mm=voxel_mm,
        explant=True,
        tesla=tesla,
    )


_TABLE_NAMES = {
    "subcutaneous_fat": "Subcutaneous fat (SF)",
    "visceral_fat": "Visceral fat (VF)",
    "muscle": "Muscle",
    "bowel": "Small intestine (SI)",
    "vessel": "Porta vein (PV)",
    "spleen": "Spleen",
    "kidney": "Right kidney (RK)",
    "aorta": "Aorta",
    "vena_cava": "Inferior vena cava (IVC)",
    "vertebra": "Vertebrae",
    "stomach": "Stomach",
    "heart": "Heart",
}


def tissue_tables(folder: Path) -> list[Case]:
    """The susceptibility of every tissue as in the tables of a published digital abdomen, its healthy and its iron-loaded liver.

    Its label volume is not published in a readable form: the shapes are ours, other ones than in the other sets. Air, gas and lung
    stay as physics has them.
    """
    cases = []
    for n, (name, extra_ppm) in enumerate((("healthy_subject", 0.0), ("iron_overload", 0.0), ("iron_overload", 1.4))):
        rows = csv.DictReader((folder / f"{name}_chi_model.csv").read_text().splitlines())
        table = {row["tissue"].strip(): float(row["susc"]) for row in rows}
        cases.append(
            Case(
                name=f"t{n}",
                liver_chi_ppm=table["Liver"] + extra_ppm,
                anatomy=9101 + n,
                tilt_degrees=8.0 * (n - 1),
                shape=(112, 90, 36),
                voxel_mm=(3.2, 3.2, 4.5),
                other_chi_ppm=tuple((ours, table[theirs]) for ours, theirs in _TABLE_NAMES.items()),
            )
        )
    return cases


def forward_phantom(chi_ppm: float, peer_python: Path, cache: Path) -> Visit:
    """A cylinder in water in air by qsm-forward, with our own fit of its echoes; the masks are its labels without their border."""
    path = cache / f"forward-{chi_ppm:g}.npz"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("forward_phantom.py")
        subprocess.run([str(peer_python), str(script), str(chi_ppm), str(path)], check=True, capture_output=True)
    with np.load(path) as made:
        signal, chi, inner, voxel_mm, tesla = (made[k] for k in ("signal", "chi", "inner", "voxel_mm", "tesla"))
    affine = np.zeros((4, 4))
    affine[[2, 0, 1], [0, 1, 2]] = voxel_mm  # B0 along its first axis
    affine[3, 3] = 1
    grid = VoxelGrid(shape=chi.shape, affine_mm=affine)
    echoes = MultiEcho(signal=signal, echo_times_s=np.array(_ECHO_TIMES_S[1.5]), field_strength_tesla=float(tesla), grid=grid)
    maps = separate(echoes, FatWaterParams(), temperature_celsius=20.0)
    body = chi < 9
    nothing = np.zeros(body.shape, bool)
    regions = Regions(
        body=body,
        liver=ndimage.binary_erosion(inner, iterations=2),
        liver_whole=inner,
        vessel=nothing,
        references={"medium": ndimage.binary_erosion(body & ~inner, iterations=3)},
        mask_source="truth",
        grid=grid,
    )
    truth = TruthMaps(
        chi_ppm=chi.astype(np.float32),
        r2star_per_s=np.where(inner, 30 + 150 * chi_ppm, 30).astype(np.float32),
        pdff_percent=np.zeros(body.shape, np.float32),
        field_hz=np.zeros(body.shape, np.float32),
        labels=np.where(inner, 5, np.where(body, 16, 0)).astype(np.uint8),
        liver_chi_ppm=chi_ppm,
        liver_r2star_per_s=30 + 150 * chi_ppm,
        liver_pdff_percent=0.0,
    )
    case = Case(name=f"f{chi_ppm:g}", liver_chi_ppm=chi_ppm, anatomy=0, tilt_degrees=0.0, explant=True, shape=chi.shape)
    return Visit(case=case, maps=maps, regions=regions, truth=truth)


SETS = {"develop": develop, "judge": judge, "confirm": confirm, "explants-develop": explants_develop, "explants": explants}


def speed() -> list[Case]:
    """Of 160 x 160 x 64 voxels of several sizes: an iron-loaded liver in a body that fits the images."""
    shape, width_mm, cases = (160, 160, 64), 350.0, []
    for voxel_mm in ((1.5, 1.5, 4.0), (2.2, 1.8, 2.7), (2.5, 2.5, 3.5), (3.0, 3.0, 6.0)):
        scale = min(1.0, shape[0] * voxel_mm[0] / width_mm)
        name = "s" + "x".join(f"{d:g}" for d in voxel_mm)
        cases.append(
            Case(name=name, liver_chi_ppm=1.5, anatomy=77, shape=shape, voxel_mm=voxel_mm, body_scale=scale, oversampling=(1, 1, 2))
        )
    return cases


def load(case: Case, cache: Path) -> Visit:
    """The visit of a case, from the cache or made now."""
    modules = ("hqsm.phantom.forward", "hqsm.fatwater.separation", "hqsm.liver", "hqsm.gating.gate")
    digest = code_digest(*modules) + repr(case)
    path = cache / f"{case.name}-{hashlib.sha256(digest.encode()).hexdigest()[:12]}.pkl"
    if path.is_file():
        return pickle.loads(path.read_bytes())
    visit = _make(case)
    cache.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(visit))
    sys.stderr.write(f"simulated {case.name}\n")
    return visit


def with_mask_moved(visit: Visit, voxels: int) -> Visit:
    """The visit with a whole-liver mask that is so many voxels larger, or smaller, in every direction, and what follows from it."""
    regions, maps = visit.regions, visit.maps
    if voxels == 0:
        return visit
    whole = moved(regions.liver_whole, voxels) & regions.body
    vessel = vessels(maps, whole)
    return replace(
        visit,
        regions=replace(
            regions,
            liver_whole=whole,
            liver=eroded(whole, regions.grid, LiverParams().edge_mm) & ~vessel & (maps.model > 0),
            vessel=vessel,
            near_gas=None if regions.near_gas is None else regions.near_gas & whole,
            references={"medium": medium(regions.body, whole, regions.grid)} if visit.case.explant else regions.references,
        ),
    )


def _make(case: Case) -> Visit:
    temperature = 20.0 if case.explant else 37.0
    protocol = ScanProtocol(
        echo_times_s=_ECHO_TIMES_S[case.tesla],
        field_strength_tesla=case.tesla,
        shape=case.shape,
        voxel_size_mm=case.voxel_mm,
        tilt_degrees=case.tilt_degrees,
        snr=case.snr,
        temperature_celsius=temperature,
        oversampling=case.oversampling,
    )
    liver = LiverState(
        lic_mg_g=case.liver_chi_ppm * LIC_PER_PPM,
        pdff_percent=case.pdff_percent,
        body_scale=case.body_scale,
        heterogeneity=case.heterogeneity,
        other_chi_ppm=case.other_chi_ppm,
    )
    scan = (simulate_explant if case.explant else simulate_abdomen)(liver, protocol, 7 + case.anatomy + 100_000 * case.repeat, case.anatomy)
    echoes, _ = gate(scan.echoes, None, GatingParams())
    maps = separate(echoes, FatWaterParams(), temperature_celsius=temperature)
    regions = find_regions(echoes, maps, {}, LiverParams(), specimen=case.specimen)
    return Visit(case=case, maps=maps, regions=regions, truth=scan.truth)

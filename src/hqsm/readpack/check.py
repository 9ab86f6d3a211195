"""What a reader gave back: what is missing, on the wrong grid, outside the body, too small."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import ndimage

from hqsm.arrays import Mask
from hqsm.data import VoxelGrid
from hqsm.errors import InputError
from hqsm.masks import read_file
from hqsm.nifti import load_volume
from hqsm.readpack.make import IMAGE

_MASK_ENDINGS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".dcm", ".csv")
_LARGEST_SHARE_OUTSIDE = 0.05


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing to correct: the case's code (empty for the pack as a whole), a stable code, a sentence."""

    case: str
    code: str
    sentence: str


def mask_files(pack: Path, case: str) -> list[Path]:
    """The mask files of one case; ``<code>.nii.gz``, ``<code>_anything.seg.nrrd`` ..."""
    found = (path for path in sorted((pack / "masks").iterdir()) if path.is_file() and path.name.lower().endswith(_MASK_ENDINGS))
    return [path for path in found if case_of(path) == case]


def case_of(path: Path) -> str:
    """The code at the beginning of a file's name."""
    return path.name.split(".", 1)[0].split("_", 1)[0].upper()


def worklist(pack: Path) -> list[str]:
    """The codes of a pack in their order.

    Raises
    ------
    InputError
        ``PACK_MISSING`` if the folder is no pack.
    """
    path = pack / "worklist.csv"
    if not path.is_file() or not (pack / "masks").is_dir():
        raise InputError(
            f"{pack.name} is not a reader's pack (no worklist.csv or no folder masks).",
            remedy="Name the folder reader-<name> that `readpack make` wrote.",
            code="PACK_MISSING",
        )
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return [row["code"] for row in csv.DictReader(stream)]


def read_case(pack: Path, case: str) -> tuple[dict[str, Mask], VoxelGrid, np.ndarray]:
    """Masks by label of one case, its grid and its image; no masks where nothing was drawn.

    Raises
    ------
    InputError
        As :func:`hqsm.masks.read_file`, and ``MASK_MANY`` for a label that two files draw.
    """
    image, grid = load_volume(pack / IMAGE.format(code=case))
    masks: dict[str, Mask] = {}
    for path in mask_files(pack, case):
        for label, mask in (read_file(path, grid) or {}).items():
            if label in masks:
                raise InputError(f"{label} is drawn in two files of {case}.", remedy="Keep one.", code="MASK_MANY")
            masks[label] = mask
    return masks, grid, image


def check_pack(pack: Path, *, smallest_ml: float = 3.0) -> list[Problem]:
    """Every problem of a pack, in the order of its worklist."""
    cases = worklist(pack)
    problems: list[Problem] = []
    for path in sorted((pack / "masks").iterdir()):
        if path.name.lower().endswith(_MASK_ENDINGS) and case_of(path) not in cases:
            problems.append(Problem(case="", code="PACK_STRANGER", sentence=f"{path.name} does not begin with a code of the worklist."))
    for case in cases:
        try:
            masks, grid, image = read_case(pack, case)
        except InputError as error:
            problems.append(Problem(case=case, code=error.code, sentence=str(error)))
            continue
        problems += _problems_of(case, masks, grid, image, smallest_ml)
    return problems


def _problems_of(case: str, masks: dict[str, Mask], grid: VoxelGrid, image: np.ndarray, smallest_ml: float) -> Iterator[Problem]:
    if not masks:
        yield Problem(case=case, code="PACK_NO_MASK", sentence=f"{case} has no mask yet.")
        return
    of_liver = [name for name in masks if name in {"liver", "liver-roi", "right-lobe"} or name.startswith("segment-")]
    if not of_liver:
        yield Problem(case=case, code="PACK_NO_LIVER", sentence=f"{case} has no label of the liver, only {', '.join(masks)}.")
    inside = body(image)
    for name, mask in masks.items():
        volume_ml = float(mask.sum()) * grid.voxel_volume_ml
        if volume_ml < (smallest_ml if name in of_liver else 0.2):
            yield Problem(case=case, code="PACK_SMALL", sentence=f"{name} of {case} has {volume_ml:.1f} mL: too small to be read.")
        elif float((mask & ~inside).sum()) > _LARGEST_SHARE_OUTSIDE * float(mask.sum()):
            share = 100 * float((mask & ~inside).sum()) / float(mask.sum())
            yield Problem(case=case, code="PACK_OUTSIDE", sentence=f"{share:.0f} % of {name} of {case} lie outside the body.")
    segments = [name for name in masks if name.startswith("segment-")]
    for a, b in combinations(segments, 2):
        common = int((masks[a] & masks[b]).sum())
        if common > 0.02 * min(int(masks[a].sum()), int(masks[b].sum())):
            yield Problem(case=case, code="PACK_OVERLAP", sentence=f"{a} and {b} of {case} overlap by {common} voxels.")


def body(image: np.ndarray) -> Mask:
    """Inside of the body's outline in an anatomical image; dark organs and lungs are inside."""
    bright = image > 0.15 * float(np.percentile(image, 95))
    closed = ndimage.binary_closing(np.pad(bright, 4), iterations=3)[4:-4, 4:-4, 4:-4]
    slices = [ndimage.binary_fill_holes(closed[:, :, k]) for k in range(closed.shape[2])]
    return np.asarray(np.stack(slices, axis=2))

"""Write the packs: one folder per reader, anatomical images under codes, nothing that tells whose or when."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hqsm.data import VoxelGrid
from hqsm.decisions import read_decisions
from hqsm.errors import InputError
from hqsm.nifti import load_volume, save_volume
from hqsm.private_folder import private_folder
from hqsm.readpack.keys import write_key
from hqsm.readpack.plan import Case, assign
from hqsm.report.page import page, render
from hqsm.tables import read_frame

FILE_TIME_S = 946_684_800
"""2000-01-01: the time of every file of a pack."""
IMAGE = "{code}_image.nii.gz"

_INSTRUCTIONS = (
    "Read the cases in the order of worklist.csv. Do not compare cases and do not go back to one that is finished.",
    "Draw on <code>_image.nii.gz and on no other grid; save the mask in the folder masks as <code>.nii.gz (or .seg.nrrd, "
    ".dcm, .csv of spheres), the code being the case's.",
    "Label 1 is the whole liver without the gallbladder. Other labels are optional: name them in <code>.tsv (columns index and "
    "name): segment-1 to segment-8, right-lobe, liver-roi, vessel, reference-fat, reference-aorta, reference-muscle.",
    "For spots instead of the whole liver use the label liver-roi: at least three, in the right lobe, in different slices, "
    "each at least 2 cm across and 1 cm from the capsule, away from vessels, bile ducts, lesions, the dome below the lung and bowel gas.",
    "A liver with much iron is dark: draw its outline where the neighbours end.",
    "If a case cannot be read, leave it out and write its code and the reason into comments.txt; write nothing else about it.",
)


def make_packs(study: Path, readers: Sequence[str], keys: Path, out: Path, *, repeat_share: float, source: random.Random) -> list[Case]:
    """Write ``out/reader-<name>`` for each reader and the key into ``keys``; return the key's lines.

    Scans are those with gated echoes that are in visits.tsv (results of images that were taken away stay) and that no decision excludes.

    Raises
    ------
    InputError
        For a keys folder that is not private, an ``out`` that exists or holds the keys, or a study without results.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out.name} is not empty.", remedy="Name a new folder for the packs.", code="PACK_EXISTS")
    checked = private_folder(keys, study, create=True)
    if out.resolve() == checked or out.resolve() in checked.parents or checked in out.resolve().parents:
        raise InputError("Packs and keys lie in one another.", remedy="Keep the keys where readers cannot reach them.", code="KEYS_PLACE")
    decisions, table = read_decisions(study / "decisions.csv"), study / "results" / "tables" / "visits.tsv"
    visits = read_frame(table, "visits").to_dict(orient="records") if table.is_file() else []
    counted = {(row["participant_id"], row["session_id"]) for row in visits}
    images = {}
    for path in sorted((study / "results" / "bids").glob("sub-*/ses-*/anat/*_echo-1_part-mag_MEGRE.nii.gz")):
        visit = path.parents[2].name, path.parents[1].name
        if visit in counted and (visit not in decisions or decisions[visit].decision != "exclude"):
            images[visit] = path
    cases = assign(list(images), readers, repeat_share, source)
    write_key(checked, cases)
    for reader in readers:
        folder = out / f"reader-{reader}"
        (folder / "masks").mkdir(parents=True)
        mine = [case for case in cases if case.reader == reader]
        for case in mine:
            volume, grid = load_volume(images[case.participant_id, case.session_id])
            # neither brightness nor place in the scanner may tell that two cases are one patient's
            top = float(np.percentile(volume, 99.5)) or 1.0
            scaled = volume / top * source.uniform(900, 1100)
            save_volume(folder / IMAGE.format(code=case.code), scaled.astype(np.float32), centred(grid))
        lines = ["position,code", *(f"{case.position},{case.code}" for case in mine)]
        (folder / "worklist.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        items = render("<ol>{% for item in items %}<li>{{ item }}</li>{% endfor %}</ol>", items=_INSTRUCTIONS)
        html = page("How to read", f"<h1>How to read</h1>{items}", f"Reader {reader}, {len(mine)} cases")
        (folder / "instructions.html").write_text(html, encoding="utf-8")
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (FILE_TIME_S, FILE_TIME_S))
    return cases


def centred(grid: VoxelGrid) -> VoxelGrid:
    """The same voxels with the middle of the volume at the world's origin."""
    affine = np.array(grid.affine_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
    return VoxelGrid(shape=grid.shape, affine_mm=affine)

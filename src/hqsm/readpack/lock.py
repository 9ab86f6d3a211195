"""The lock: returned masks frozen by their hashes, then laid on their scans as the study's readings."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import hqsm
from hqsm.errors import InputError
from hqsm.masks.names import KNOWN
from hqsm.nifti import load_volume, save_volume
from hqsm.private_folder import private_folder
from hqsm.readpack.check import check_pack, mask_files, read_case, worklist
from hqsm.readpack.keys import read_key
from hqsm.readpack.make import IMAGE
from hqsm.readpack.plan import Case

LOCK = Path("locks/readings.lock.json")


def lock_readings(study: Path, packs: Path, keys: Path, *, accept_missing: bool = False) -> dict[str, Any]:
    """Freeze the returned masks, write the lock into the study and the masks into ``rois``; return the lock.

    A second call checks that nothing changed since the first.

    Raises
    ------
    InputError
        ``LOCK_PROBLEMS`` while a pack has problems (missing masks may be accepted), ``LOCK_CHANGED`` if a locked mask was changed,
        added or removed, ``LOCK_ROIS`` if the study has other masks of a reader.
    """
    cases = read_key(private_folder(keys, study, create=False))
    readers = list(dict.fromkeys(case.reader for case in cases))
    hashes = {reader: _hashes(packs / f"reader-{reader}") for reader in readers}
    path = study / LOCK
    if path.is_file():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _refuse_changes(before["masks"], hashes)
        return before
    problems = [problem for reader in readers for problem in check_pack(packs / f"reader-{reader}")]
    if accept_missing:
        problems = [problem for problem in problems if problem.code != "PACK_NO_MASK"]
    if problems:
        raise InputError(
            f"{len(problems)} problems remain, the first: {problems[0].sentence}",
            remedy="Run `hqsm readpack check` on each pack; --accept-missing locks without the cases that were not read.",
            code="LOCK_PROBLEMS",
        )
    _refuse_other_masks(study, readers)
    for case in cases:  # all of them before the first is laid: what a refusal left behind would be taken for another reader's
        _refuse_another_scan(study, packs / f"reader-{case.reader}", case)
    for case in cases:
        _lay_on_scan(study, packs / f"reader-{case.reader}", case)
    for reader in readers:
        for name in hashes[reader]:
            (packs / f"reader-{reader}" / "masks" / name).chmod(0o444)
    lock = {
        "masks": hashes,
        "cases_not_read": sorted(c.code for c in cases if not mask_files(packs / f"reader-{c.reader}", c.code)),
        "version": hqsm.__version__,
        "locked": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return lock


def _hashes(pack: Path) -> dict[str, str]:
    """SHA-256 of every file in the pack's masks, and so of every label's name."""
    worklist(pack)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((pack / "masks").iterdir()) if path.is_file()}


def _refuse_changes(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> None:
    changed = [
        f"reader-{reader}/{name}"
        for reader in before.keys() | now.keys()
        for name in before.get(reader, {}).keys() | now.get(reader, {}).keys()
        if before.get(reader, {}).get(name) != now.get(reader, {}).get(name)
    ]
    if changed:
        raise InputError(
            f"{len(changed)} masks differ from the locked ones: {', '.join(sorted(changed)[:3])}.",
            remedy="Put the locked files back; a reading that is locked does not change.",
            code="LOCK_CHANGED",
        )


def _refuse_other_masks(study: Path, readers: list[str]) -> None:
    for reader in readers:
        found = sorted((study / "rois").glob(f"sub-*/ses-*/*reader-{reader}[!A-Za-z0-9]*"))
        if found:
            raise InputError(
                f"The study already has masks of reader {reader} ({found[0].parent.parent.name}/{found[0].parent.name}).",
                remedy="Move them away, or give the blinded readers other names.",
                code="LOCK_ROIS",
            )


def _lay_on_scan(study: Path, pack: Path, case: Case) -> None:
    """The reading as a label map on the scan's own grid, with the names of its labels; labels that overlap get a file each."""
    masks, _, _ = read_case(pack, case.code)
    if not masks:
        return
    name = f"{case.participant_id}_{case.session_id}"
    _, grid = load_volume(_scan(study, case))
    folder = study / "rois" / case.participant_id / case.session_id
    left = dict(masks)
    layer = 0
    while left:
        layer += 1
        labels = np.zeros(grid.shape, np.uint8)
        names: dict[int, str] = {}
        for label in sorted(left, key=KNOWN.index):
            if not (labels[left[label]] > 0).any():
                names[len(names) + 1] = label
                labels[left.pop(label)] = len(names)
        stem = f"{name}_reader-{case.reader}_reading-{case.reading}_layer-{layer}_dseg"
        save_volume(folder / f"{stem}.nii.gz", labels, grid)
        lines = ["index\tname", *(f"{value}\t{label}" for value, label in names.items())]
        (folder / f"{stem}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _scan(study: Path, case: Case) -> Path:
    folder = study / "results" / "bids" / case.participant_id / case.session_id / "anat"
    return folder / f"{case.participant_id}_{case.session_id}_echo-1_part-mag_MEGRE.nii.gz"


def _refuse_another_scan(study: Path, pack: Path, case: Case) -> None:
    _, grid = load_volume(_scan(study, case))
    _, drawn_on = load_volume(pack / IMAGE.format(code=case.code))
    if grid.shape != drawn_on.shape or not np.allclose(grid.affine_mm[:3, :3], drawn_on.affine_mm[:3, :3], atol=1e-3):
        raise InputError(
            f"The scan of case {case.code} is not the one of the pack any more (its grid changed).",
            remedy="Put the images back from which the packs were made.",
            code="LOCK_GRID",
        )

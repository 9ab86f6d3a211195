"""Edge: readers' masks of one visit from any of their formats, on the scan's grid or refused (docs/masks.md)."""

from __future__ import annotations

import re
from pathlib import Path

from hqsm.arrays import Mask
from hqsm.data import VoxelGrid
from hqsm.errors import InputError
from hqsm.masks.names import known_name
from hqsm.masks.placing import LabelVolume, place

ONE_READER = "reader"
"""Name of a reader whose files do not say it."""


def read_readings(folder: Path, grid: VoxelGrid, *, resample: bool = False) -> dict[str, dict[str, Mask]]:
    """Labels by reader of everything drawn in ``folder``; empty without it.

    A path that contains ``reader-A`` is reader A's, with ``reading-2`` too his second reading of the same scan, which is
    named ``A.2``. One reader may give several files as long as each label comes once.

    Parameters
    ----------
    folder
        ``rois/sub-<P>/ses-<S>``, searched with its folders.
    grid
        The scan's grid; masks are returned on it.
    resample
        Take masks on another grid by the nearest voxel, instead of refusing them.

    Raises
    ------
    InputError
        ``MASK_GRID`` another grid, ``MASK_MANY`` a label drawn twice, ``MASK_LABEL`` no label that is known, ``MASK_FILE`` a file
        that cannot be read, ``MASK_LIBRARY`` a format whose library is not installed.
    """
    found: dict[str, dict[str, Mask]] = {}
    origin: dict[tuple[str, str], str] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if not path.is_file() or path.name.startswith("."):
            continue
        masks = read_file(path, grid, resample=resample)
        if masks is None:
            continue
        reader = reader_of(path.relative_to(folder))
        for label, mask in masks.items():
            if (reader, label) in origin:
                raise InputError(
                    f"{label} of {reader} is drawn in {origin[reader, label]} and in {path.name}.",
                    remedy="Keep the file to be used, or name the readers: reader-A_<name>, reader-B_<name>.",
                    code="MASK_MANY",
                )
            origin[reader, label] = path.name
            found.setdefault(reader, {})[label] = mask
    return found


def reader_of(relative: Path) -> str:
    """The reader's name that a path tells: ``reader-A`` gives A, ``reader-A_reading-2`` gives A.2."""
    text = relative.as_posix()
    reader = re.search(r"reader-([A-Za-z0-9]+)", text)
    reading = re.search(r"reading-([0-9]+)", text)
    name = reader[1] if reader else ONE_READER
    return f"{name}.{int(reading[1])}" if reading and int(reading[1]) > 1 else name


def read_file(path: Path, grid: VoxelGrid, *, resample: bool = False) -> dict[str, Mask] | None:
    """Masks of one file by label; None for a file that is no mask (a note, the labels' names)."""
    name = path.name.lower()
    if name.endswith(".csv"):
        from hqsm.masks.spheres import read_spheres

        return read_spheres(path, grid)
    drawn = _read_contours(path, grid) if name.endswith(".dcm") or not path.suffix else None
    if drawn is None:
        volume = read_volume(path)
        if volume is None:
            return None
        drawn = place(volume, grid, path.name, resample=resample)
    masks: dict[str, Mask] = {}
    strangers = []
    for label, mask in drawn.items():
        known = known_name(label, path.name)
        if known is None:
            strangers.append(label)
        elif known in masks:
            masks[known] = masks[known] | mask
        else:
            masks[known] = mask
    if not masks:
        raise InputError(
            f"{path.name} has no label that is known ({f'{len(strangers)} others' if strangers else 'it is empty'}).",
            remedy="Name them as in docs/masks.md: liver, liver-roi, segment-5, vessel, reference-muscle ...",
            code="MASK_LABEL",
        )
    return masks


def read_volume(path: Path) -> LabelVolume | None:
    """The labelled volume of one file as it is stored; None for a file that holds none."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        from hqsm.masks.nifti_labels import read_nifti_labels

        return read_nifti_labels(path)
    if name.endswith(".nrrd"):
        from hqsm.masks.nrrd_segmentation import read_nrrd_segmentation

        return read_nrrd_segmentation(path)
    if name.endswith(".dcm") or not path.suffix:
        from hqsm.masks.dicom_file import SEGMENTATION, open_dicom, placed
        from hqsm.masks.dicom_seg import read_segments

        dataset = open_dicom(path)
        if dataset is not None and dataset.SOPClassUID == SEGMENTATION:
            return placed(read_segments, dataset, path.name)
    return None


def _read_contours(path: Path, grid: VoxelGrid) -> dict[str, Mask] | None:
    """Masks by written name of a structure set; None for a file that is none."""
    from hqsm.masks.dicom_file import STRUCTURE_SET, open_dicom, placed
    from hqsm.masks.dicom_rtstruct import read_structures

    dataset = open_dicom(path)
    if dataset is None or dataset.SOPClassUID != STRUCTURE_SET:
        return None
    return placed(lambda found: read_structures(found, grid), dataset, path.name)

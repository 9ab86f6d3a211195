"""A DICOM file of a reader: a segmentation, a structure set, or something else that is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hqsm.dicom.guarded import READABLE, read_guarded
from hqsm.errors import InputError

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_LARGEST_MB = 512.0
_Made = TypeVar("_Made")


class Unplaceable(ValueError):
    """What is wrong, in words of ours."""


def open_dicom(path: Path) -> Any:
    """The dataset of a segmentation or structure set; None for a file that is not DICOM or holds something else.

    Raises
    ------
    InputError
        ``MASK_FILE`` if it is damaged or compressed.
    """
    try:
        dataset: Any = read_guarded(path, _LARGEST_MB)
    except InputError as refused:
        if refused.code == "DICOM_NOT":
            return None
        raise InputError(refused.problem, remedy=refused.remedy, code="MASK_FILE") from None
    if str(dataset.get("SOPClassUID", "")) not in {SEGMENTATION, STRUCTURE_SET}:
        return None
    if str(dataset.file_meta.get("TransferSyntaxUID", "")) not in READABLE:
        raise InputError(f"{path.name} is compressed.", remedy="Export it uncompressed.", code="MASK_FILE")
    return dataset


def placed(make: Callable[[Any], _Made], dataset: Any, file: str) -> _Made:
    """What ``make`` reads from the dataset.

    Raises
    ------
    InputError
        ``MASK_FILE`` with the reason, whatever the reading stumbles over.
    """
    try:
        return make(dataset)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        # the message of a foreign error can repeat a value of the header; those raised here say what is wrong
        why = error if type(error) is Unplaceable else type(error).__name__
        raise InputError(f"{file} cannot be placed ({why}).", remedy="Export it again, or as NIfTI.", code="MASK_FILE") from error

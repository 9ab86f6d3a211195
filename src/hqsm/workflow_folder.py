"""Edge: where the Snakefile, its rules and its configuration lie."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

from hqsm.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
"""The repository, where the package runs from its source."""


@cache
def find_workflow() -> Path | None:
    """The repository, else where pip has put the workflow's files with the package; None where neither has them."""
    if (REPOSITORY / "Snakefile").is_file():
        return REPOSITORY
    try:
        installed = metadata.files("hqsm") or []
    except metadata.PackageNotFoundError:
        return None
    places = [Path(str(entry.locate())) for entry in installed if entry.name == "Snakefile"]
    return next((place.resolve().parent for place in places if place.is_file()), None)


def workflow_folder() -> Path:
    """The folder of :func:`find_workflow`.

    Raises
    ------
    InputError
        ``WORKFLOW_MISSING``: the package was copied without the workflow.
    """
    folder = find_workflow()
    if folder is None:
        raise InputError("The workflow's Snakefile was not found.", remedy="Install hqsm again with pip.", code="WORKFLOW_MISSING")
    return folder

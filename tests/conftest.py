"""Fixtures that every test may use."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hqsm.data import VoxelGrid

# numba cannot change its number of threads once they run, and the stages that tests run in this process set it to one
os.environ["NUMBA_NUM_THREADS"] = "1"


FIRST = (
    "fatwater/test_reproducible.py",
    "test_total_field.py",
    "test_difficult_visits.py",
    "test_published_inversions.py",
    "workflow/test_study_run.py",
)
"""Of two processes one begins with what compiles every kernel, the other with what needs none: each compiled them all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole studies go first (with ``--no-loadscope-reorder``): one that was begun last left the other core idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return FIRST.index(name) if name in FIRST else len(FIRST) + (item.path not in slow)

    items.sort(key=place)


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of the real DICOM and NIfTI sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("HQSM_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set HQSM_TEST_DATA to the folder that holds them")
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """The files of a tar archive, below a folder; Python 3.11 has filters from its fourth release on only."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        tar.extractall(folder)


def _rotation_about_x(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def make_grid(kind: str, shape: tuple[int, int, int] = (24, 20, 12)) -> VoxelGrid:
    """A grid of a named kind: axial, anisotropic, oblique, coronal."""
    spacing = {"axial": (2, 2, 2), "anisotropic": (2, 2, 6), "oblique": (2, 2, 4), "coronal": (2, 2, 5)}[kind]
    axes = np.eye(3)
    if kind == "oblique":
        axes = _rotation_about_x(25)
    if kind == "coronal":
        axes = _rotation_about_x(90)
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing, float)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return VoxelGrid(shape=shape, affine_mm=affine)


@pytest.fixture(params=["axial", "anisotropic", "oblique", "coronal"])
def any_grid(request: pytest.FixtureRequest) -> VoxelGrid:
    """Each kind of grid in turn."""
    return make_grid(request.param)

"""An organ is cut where edges bound a piece, and the piece is judged as a whole."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from hqsm.data import VoxelGrid
from hqsm.liver import dice
from hqsm.liver.pieces import Edges, creases, find_edges, joined, runs_into, snapped, without_neighbours

GRID = VoxelGrid(shape=(56, 40, 32), affine_mm=np.diag([3.0, 3.0, 4.0, 1.0]))
NOISE_SD = 1.5


def block(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


LIVER = block((6, 6, 6), (34, 34, 26))
SMALL, LARGE = block((34, 10, 8), (46, 26, 24)), block((34, 8, 8), (50, 34, 26))


def images(
    beside: np.ndarray, *, decay_per_s: float = 60.0, brightness: float = 1.0, line: float = 1.0, gap: bool = False
) -> tuple[Edges, np.ndarray]:
    """First echo and log decay of a liver and what touches it, under a coil that is half as sensitive at the far end.

    ``line`` is the brightness of the voxel layer between them (fat that cancels water); ``gap`` leaves half of it away.
    """
    rng = np.random.default_rng(7)
    signal = np.full(GRID.shape, 20.0)
    signal[LIVER] = 100.0
    signal[beside] = 100.0 * brightness
    layer = beside & block((34, 0, 0), (35, 40, 32))
    if gap:
        layer &= ~block((34, 0, 0), (35, 18, 32))
    signal[layer] *= line
    decay = np.where(beside, decay_per_s, 60.0) * np.exp(0.25 * rng.standard_normal(GRID.shape))
    coil = np.linspace(1.0, 0.5, GRID.shape[0])[:, None, None]
    noise = rng.normal(0, NOISE_SD, (2, *GRID.shape))
    log_decay = ndimage.median_filter(np.log(decay + 15).astype(np.float32), size=3)
    return find_edges((signal * coil + noise[0] + 1j * noise[1])[..., None], NOISE_SD, GRID), log_decay


@pytest.mark.parametrize(
    ("beside", "looks", "stays"),
    [
        pytest.param(SMALL, {"decay_per_s": 35.0, "line": 0.8, "gap": True}, False, id="a kidney whose fat is seen in part"),
        pytest.param(LARGE, {"brightness": 1.5}, False, id="a stomach, brighter across the border"),
        pytest.param(SMALL, {"line": 0.8}, False, id="a muscle behind a rib: alike, but closed off"),
        pytest.param(SMALL, {}, True, id="the same organ"),
        pytest.param(SMALL, {"line": 0.8, "gap": True}, True, id="a part behind a vessel"),
        pytest.param(LARGE, {"line": 0.8}, True, id="a lobe behind a fissure"),
    ],
)
def test_a_piece_that_is_something_else_goes_and_a_part_of_the_organ_stays(beside: np.ndarray, looks: dict[str, Any], stays: bool) -> None:
    edges, log_decay = images(beside, **looks)
    kept = without_neighbours(LIVER | beside, edges, log_decay, GRID)
    assert (kept & LIVER).sum() > 0.97 * LIVER.sum()
    share = (kept & beside).sum() / beside.sum()
    assert share > 0.9 if stays else share < 0.1


def test_a_line_is_a_crease_and_the_slope_of_a_coil_is_none() -> None:
    x = np.indices(GRID.shape)[0] * 3.0
    everywhere = np.ones(GRID.shape, bool)
    slope = (-0.02 * x).astype(np.float32)
    line = slope - 0.5 * np.exp(-((x - 81.0) ** 2) / (2 * 2.0**2)).astype(np.float32)
    inside = np.s_[6:-6]
    assert creases(slope, everywhere, GRID)[inside].max() < 1e-4
    # smoothed by 2.5 mm the line is 3.2 mm wide (SD); its curvature is the second difference over voxels of 3 mm
    depth, variance = 0.5 * 2.0 / np.hypot(2.0, 2.5), 2.0**2 + 2.5**2
    expected = 2 * depth * (1 - np.exp(-(3.0**2) / (2 * variance))) / 3.0**2
    found = creases(line, everywhere, GRID)
    assert found[27].mean() == pytest.approx(expected, rel=0.06)
    assert (found[inside].argmax(axis=0) == 27 - 6).all()
    assert not creases(line, x < 60, GRID)[20:].any()


@pytest.mark.parametrize(("decay_per_s", "stays"), [(48.0, False), (60.0, True)])
def test_behind_a_dark_line_a_little_difference_of_decay_is_another_organ(decay_per_s: float, stays: bool) -> None:
    """Log decays 0.17 apart: too little to tell two pieces that nothing parts, as a lobe and its texture."""
    edges, log_decay = images(LARGE, decay_per_s=decay_per_s, line=0.8)
    assert abs(np.median(log_decay[LARGE]) - np.median(log_decay[LIVER])) < 0.2
    kept = without_neighbours(LIVER | LARGE, edges, log_decay, GRID)
    assert (kept & LIVER).sum() > 0.97 * LIVER.sum()
    share = (kept & LARGE).sum() / LARGE.sum()
    assert share > 0.9 if stays else share < 0.1


@pytest.mark.parametrize(("downward", "stays"), [(True, False), (False, True)])
def test_behind_a_dark_line_what_lies_below_is_another_organ_though_it_decays_alike(*, downward: bool, stays: bool) -> None:
    """A kidney may look like the liver in two echoes; a lobe behind a fissure lies beside or above."""
    edges, log_decay = images(LARGE, line=0.8)
    height_mm = -3.0 if downward else 3.0
    upright = VoxelGrid(shape=GRID.shape, affine_mm=np.array([[0, 3, 0, 0], [0, 0, 4, 0], [height_mm, 0, 0, 0], [0, 0, 0, 1.0]]))
    kept = without_neighbours(LIVER | LARGE, edges, log_decay, upright)
    assert (kept & LIVER).sum() > 0.97 * LIVER.sum()
    share = (kept & LARGE).sum() / LARGE.sum()
    assert share > 0.9 if stays else share < 0.1


def test_two_weakly_bounded_pieces_join_unless_their_decay_differs() -> None:
    labels, whole = np.where(LIVER, 1, np.where(SMALL, 2, 0)), np.ones(GRID.shape, bool)
    gradient = np.full(GRID.shape, 0.01, np.float32)
    alike, unlike = (np.where(SMALL, level, 4.3).astype(np.float32) for level in (4.25, 3.9))
    assert np.unique(joined(labels, gradient, 0.02, alike, GRID, whole)).size == 2
    assert np.unique(joined(labels, gradient, 0.02, unlike, GRID, whole)).size == 3
    assert np.unique(joined(labels, gradient, 0.005, alike, GRID, whole)).size == 3


def test_a_piece_belongs_to_what_it_runs_into_most_openly() -> None:
    """The upper pole of a kidney is too small to be told from the liver, but an edge parts it from that."""
    pole = block((34, 26, 8), (40, 30, 24))
    calm = np.ones(GRID.shape, bool)
    assert not runs_into(SMALL, pole, LIVER | block((40, 26, 8), (44, 30, 24)), calm)
    calm[33] = False
    assert runs_into(SMALL, pole, LIVER, calm)


def test_an_organ_too_thin_to_have_an_inside_is_left_alone() -> None:
    thin = block((6, 6, 6), (10, 34, 9))
    edges, log_decay = images(SMALL)
    np.testing.assert_array_equal(without_neighbours(thin, edges, log_decay, GRID), thin)


def test_the_surface_comes_to_lie_on_the_edge_and_not_beyond_it() -> None:
    edges, _ = images(SMALL)
    organ, everywhere = LIVER | SMALL, np.ones(GRID.shape, bool)
    for start in (ndimage.binary_erosion(organ), ndimage.binary_dilation(organ)):
        found = snapped(start, edges, everywhere, GRID)
        assert dice(found, organ) > 0.97 > dice(start, organ)
    # where it touches what looks like it, it does not grow
    assert (snapped(LIVER, edges, everywhere, GRID) & ndimage.binary_erosion(organ, iterations=3) & SMALL).sum() == 0

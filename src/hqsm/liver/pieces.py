"""An organ's pieces: what edges bound, judged as a whole.

A kidney that touches the liver differs from it by less than a voxel's noise, but not by less than the noise of its mean,
and there is an edge between them nearly everywhere. So the mask is cut into the basins of the first echo's gradient,
basins are joined across weak edges, and each piece that results is compared with the largest one: its decay, its
brightness just across the border (a coil's sensitivity cannot change there), and the border itself. What is left is cut
once more, along dark lines, since two organs of one brightness have no step between them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from hqsm.arrays import ComplexArray, FloatArray, IntArray, Mask
from hqsm.data import VoxelGrid
from hqsm.liver.geometry import closed, depth_mm, dilated, eroded, filled, largest_piece, opened, world_mm
from hqsm.robust import median_and_scaled_mad

_EDGE_MM, _BASIN_MM = 2.5, 9.0
"""Smoothing (SD) before the gradient, and the distance of two basins' lowest places."""
_WEAK = 3.0
"""Gradient in multiples of the organ's own median below which there is no edge."""
_OTHER_DECAY, _OTHER_BRIGHTNESS = 0.2, 0.2
"""Difference of logarithms from the organ's above which a piece is not of its kind."""
_BORDER_MM, _RIM_MM = 14.0, 5.0
_SMALLEST_ML, _FEWEST_VOXELS = 2.0, 8
_SMALLEST_CLOSED_OFF_ML = 10.0
_BELOW_MM = 20.0
"""How far its middle must lie below the organ's for a piece behind a dark line to be a kidney or bowel, whatever its decay: fissures
part lobes that lie beside each other."""
ORDINARY_LOG_DECAY = float(np.log(150.0 + 15.0))
"""Of 150 1/s: an organ that decays faster is dark, its surface's crease lies inside it, and steps and decay part it from all else."""
_PART_OF_ORGAN = 0.25
"""A piece larger than this share of the largest one is a lobe, whatever vessel or fissure bounds it."""
_GAPS = 0.2
_LEAST_BORDER_MM2 = 500.0
"""A border of that size of which less than a fifth is open parts organs; a vessel never closes off a part of its own."""
_BALL_MM = 8.0
_INWARD_MM, _OUTWARD_MM = 4.0, 5.0
_SAME, _OTHER, _SEALED = 0, 1, 2
_Judge = Callable[[Mask, Mask, Mask, FloatArray, float], int]
"""From a piece, what is accepted, what is something else, the edges' strength and its median in the organ to what the piece is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Edges:
    """What bounds organs; all (x, y, z).

    Attributes
    ----------
    log_signal
        Logarithm of the smoothed first echo.
    gradient_per_mm
        Length of its gradient.
    log_early
        Logarithm of the first two echoes' root mean square, not smoothed: fat between organs cancels water in one or the other.
    """

    log_signal: FloatArray
    gradient_per_mm: FloatArray
    log_early: FloatArray


def find_edges(signal: ComplexArray | FloatArray, noise_sd: float, grid: VoxelGrid) -> Edges:
    """Edges of the first two echoes (x, y, z, echo); the logarithm makes them those of ratios, whatever the coil."""
    magnitude = np.abs(signal[..., :2])
    log_first, log_early = (
        np.log(np.maximum(m, noise_sd)).astype(np.float32) for m in (magnitude[..., 0], np.sqrt((magnitude**2).mean(axis=3)))
    )
    log_signal = ndimage.gaussian_filter(log_first, _EDGE_MM / grid.voxel_size_mm)
    return Edges(log_signal=log_signal, gradient_per_mm=gradient_per_mm(log_first, grid), log_early=log_early)


def gradient_per_mm(volume: FloatArray, grid: VoxelGrid) -> FloatArray:
    """Length of the gradient of ``volume`` (x, y, z), smoothed by 2.5 mm (SD) before."""
    smooth = ndimage.gaussian_filter(volume, _EDGE_MM / grid.voxel_size_mm)
    squares = np.zeros_like(smooth)
    for axis, size_mm in enumerate(grid.voxel_size_mm):
        if smooth.shape[axis] > 1:
            squares += np.gradient(smooth, float(size_mm), axis=axis) ** 2
    length: FloatArray = np.sqrt(squares)
    return length


def creases(log_signal: FloatArray, where: Mask, grid: VoxelGrid) -> FloatArray:
    """Largest positive curvature of the smoothed logarithm [1/mm^2] in ``where``, 0 elsewhere.

    Organs of one brightness have no step between them, but a dark line of fat; and a coil's sensitivity, which is a slope
    everywhere, has next to no curvature (largest eigenvalue of the Hessian: Sato et al., Med Image Anal 1998;2:143).
    """
    size_mm = grid.voxel_size_mm
    smooth = ndimage.gaussian_filter(log_signal, max(_EDGE_MM, 0.8 * float(size_mm.min())) / size_mm)
    hessian = np.zeros((int(where.sum()), 3, 3), np.float32)
    for i in range(3):
        if smooth.shape[i] < 3:
            continue
        curvature = ndimage.correlate1d(smooth, np.array([1, -2, 1]) / size_mm[i] ** 2, axis=i, mode="nearest")
        # across the images' ends it is not known; a slope that ends there would be one
        np.moveaxis(curvature, i, 0)[[0, -1]] = 0
        hessian[:, i, i] = curvature[where]
        slope = np.gradient(smooth, float(size_mm[i]), axis=i)
        for j in range(i):
            if smooth.shape[j] >= 3:
                hessian[:, i, j] = hessian[:, j, i] = np.gradient(slope, float(size_mm[j]), axis=j)[where]
    found: FloatArray = np.zeros(smooth.shape, np.float32)
    found[where] = np.maximum(np.linalg.eigvalsh(hessian)[:, 2], 0)
    return found


def without_neighbours(organ: Mask, edges: Edges, log_decay: FloatArray, grid: VoxelGrid) -> Mask:
    """The organ without those of its pieces that are something else; itself where it has no inside to compare with.

    Steps of brightness bound the first pieces, dark lines the second ones.

    Parameters
    ----------
    organ
        (x, y, z) a first mask, most of which is the organ.
    edges
        Of the same images.
    log_decay
        (x, y, z) logarithm of the magnitudes' decay.
    """

    def another_kind(piece: Mask, accepted: Mask, other: Mask, strength: FloatArray, median: float) -> int:
        if runs_into(other, piece, accepted, strength < _WEAK * median) or _is_unlike(piece, accepted, median, edges, log_decay, grid):
            return _OTHER
        return _SEALED if _is_sealed(piece, accepted, strength, median, grid) else _SAME

    def closed_off(piece: Mask, accepted: Mask, other: Mask, strength: FloatArray, median: float) -> int:
        runs = runs_into(other, piece, accepted, strength < _WEAK * median)
        return _OTHER if runs or _is_closed_off(piece, accepted, strength, median, log_decay, grid) else _SAME

    organ = _judged(organ, edges.gradient_per_mm, organ, log_decay, grid, another_kind)
    if not organ.any() or float(np.median(log_decay[organ])) > ORDINARY_LOG_DECAY:
        return organ
    # a crease lies on the darker side of a step: that of the organ's own surface is not to make pieces
    inner = eroded(organ, grid, _RIM_MM)
    return _judged(organ, creases(edges.log_early, dilated(organ, grid, _BALL_MM), grid), inner, log_decay, grid, closed_off)


def _judged(organ: Mask, strength: FloatArray, flooded: Mask, log_decay: FloatArray, grid: VoxelGrid, judge: _Judge) -> Mask:
    """The organ without the pieces that ``judge`` finds to be something else.

    ``strength`` is high at edges; basins are those of it in ``flooded``, and the rest of the organ belongs to the nearest one.
    """
    deep = depth_mm(organ, grid) > 12
    if not deep.any() or not flooded.any():
        return organ
    median = float(np.median(strength[deep]))
    labels = basins(strength, flooded, grid)
    if (flooded != organ).any():
        nearest = ndimage.distance_transform_edt(labels == 0, sampling=grid.voxel_size_mm, return_distances=False, return_indices=True)
        labels = np.where(organ, labels[tuple(nearest)], 0)
    labels = joined(labels, strength, _WEAK * median, log_decay, grid, depth_mm(organ, grid) > _RIM_MM)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if not sizes.any():
        return organ
    main = int(np.argmax(sizes))
    other, sealed = int(labels.max()) + 1, int(labels.max()) + 2
    waiting = set(np.flatnonzero(sizes).tolist()) - {main}
    while waiting:
        borders = interfaces(labels, strength)
        # the piece with most border to what is accepted is judged next; one that touches only what is not is not
        faces = {n: borders.get((min(n, main), max(n, main)), (0, 0.0))[0] for n in waiting}
        number = max(faces, key=lambda n: (faces[n], -n))
        waiting.discard(number)
        piece, accepted = labels == number, labels == main
        if not faces[number]:
            labels[piece] = sealed if (borders.get((number, sealed), (0, 0.0))[0]) else other
        else:
            labels[piece] = {_OTHER: other, _SEALED: sealed, _SAME: main}[judge(piece, accepted, labels == other, strength, median)]
    lobes, n_lobes = ndimage.label(labels == sealed)
    for lobe in range(1, n_lobes + 1):
        # what is alike, closed off and as large as that is a lobe behind a fissure, not a muscle behind a rib
        if (lobes == lobe).sum() > _PART_OF_ORGAN * (labels == main).sum():
            labels[lobes == lobe] = main
    removed = labels >= other
    if not removed.any():
        return organ
    kept = organ & ~removed
    ball = largest_piece(opened(filled(kept), grid, _BALL_MM))
    rest = ball | (dilated(ball, grid, 0.5 * _BALL_MM) & kept)
    return filled(np.asarray(closed(rest, grid, _BALL_MM) & kept)) & ~removed


def snapped(organ: Mask, edges: Edges, within: Mask, grid: VoxelGrid) -> Mask:
    """The organ with its surface on the steepest gradient near it: from 4 mm inside to 5 mm outside, in ``within``.

    What tells organs apart is smoothed, and where a dark organ meets bright ones that takes off its outermost voxels.
    It grows onto the ramp of an edge alone: where it touches something like it, nothing says where it ends.
    """
    inside = eroded(organ, grid, _INWARD_MM)
    if not inside.any():
        return organ
    gradient = edges.gradient_per_mm
    markers = np.where(inside, 1, np.where(dilated(organ, grid, _OUTWARD_MM) & within, 0, 2))
    moved: Mask = np.asarray(watershed(gradient, markers=markers)) == 1  # type: ignore[no-untyped-call]
    ramp = gradient > _WEAK * float(np.median(gradient[inside]))
    return closed(moved & (organ | ramp), grid, _INWARD_MM) & (moved | organ)


def runs_into(other: Mask, piece: Mask, main: Mask, calm: Mask) -> bool:
    """Whether a piece runs into what was found to be something else more openly than into the organ."""
    to_other, to_main = (int((_border(piece, mask, (~calm).astype(np.float32)) == 0).sum()) for mask in (other, main))
    return to_other > to_main


def _is_unlike(piece: Mask, main: Mask, median: float, edges: Edges, log_decay: FloatArray, grid: VoxelGrid) -> bool:
    """Whether a piece's decay, or its brightness across the border, differs from the organ's beyond chance and texture."""
    n = int(piece.sum())
    if n * grid.voxel_volume_ml < _SMALLEST_ML:
        return False
    difference, chance = _difference_of_decay(piece, main, log_decay)
    if difference > max(_OTHER_DECAY, chance):
        return True
    calm = edges.gradient_per_mm < _WEAK * median
    here, there = dilated(main, grid, _BORDER_MM) & piece & calm, dilated(piece, grid, _BORDER_MM) & main & calm
    if min(int(here.sum()), int(there.sum())) <= _FEWEST_VOXELS:
        return False
    return abs(float(np.median(edges.log_signal[here]) - np.median(edges.log_signal[there]))) > _OTHER_BRIGHTNESS


def _is_closed_off(piece: Mask, main: Mask, crease: FloatArray, median: float, log_decay: FloatArray, grid: VoxelGrid) -> bool:
    """Whether a dark line parts a piece from the organ nearly everywhere, and it lies below or its decay differs beyond chance."""
    if piece.sum() * grid.voxel_volume_ml < _SMALLEST_CLOSED_OFF_ML:
        return False
    if float(np.quantile(_border(piece, main, crease), _GAPS)) <= _WEAK * median:
        return False
    difference, chance = _difference_of_decay(piece, main, log_decay)
    height_mm = world_mm(grid)[2]
    return difference > chance or float(height_mm[main].mean() - height_mm[piece].mean()) > _BELOW_MM


def _difference_of_decay(piece: Mask, main: Mask, log_decay: FloatArray) -> tuple[float, float]:
    """Difference between the median decays (logarithm) of a piece and the organ, and what chance and texture explain."""
    inside = log_decay[main]
    middle, spread = median_and_scaled_mad(inside)
    # neighbours share noise and texture over about three voxels each way
    chance = 4 * spread / np.sqrt(piece.sum() / 27)
    return abs(float(np.median(log_decay[piece])) - middle), float(chance)


def _is_sealed(piece: Mask, main: Mask, gradient: FloatArray, median: float, grid: VoxelGrid) -> bool:
    """Whether nearly all of the border between a piece and the organ is an edge."""
    if piece.sum() * grid.voxel_volume_ml < _SMALLEST_ML:
        return False
    border = _border(piece, main, gradient)
    area_mm2 = border.size * (1e3 * grid.voxel_volume_ml) ** (2 / 3)
    return area_mm2 > _LEAST_BORDER_MM2 and float(np.quantile(border, _GAPS)) > _WEAK * median


def _border(a: Mask, b: Mask, gradient: FloatArray) -> FloatArray:
    """Gradient at every face between two masks."""
    found = []
    for axis in range(3):
        one, other, slope = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0), np.moveaxis(gradient, axis, 0)
        larger = np.maximum(slope[:-1], slope[1:])
        found += [larger[one[:-1] & other[1:]], larger[other[:-1] & one[1:]]]
    return np.concatenate(found)


def basins(gradient: FloatArray, mask: Mask, grid: VoxelGrid) -> IntArray:
    """(x, y, z) number of the gradient's basin, from 1; 0 outside ``mask``."""
    smooth = ndimage.gaussian_filter(gradient, 3.0 / grid.voxel_size_mm)
    size = [max(1, 2 * round(_BASIN_MM / float(d) / 2) + 1) for d in grid.voxel_size_mm]
    lowest = (smooth == ndimage.minimum_filter(smooth, size=size)) & mask
    markers, _ = ndimage.label(lowest, structure=np.ones((3, 3, 3)))
    found: IntArray = np.asarray(watershed(gradient, markers=markers, mask=mask))  # type: ignore[no-untyped-call]
    return found


def interfaces(labels: IntArray, gradient: FloatArray) -> dict[tuple[int, int], tuple[int, float]]:
    """Number of faces between every two neighbouring labels, and the mean gradient there."""
    n = int(labels.max()) + 1
    keys, values = [], []
    for axis in range(3):
        there, slope = np.moveaxis(labels, axis, 0), np.moveaxis(gradient, axis, 0)
        a, b = there[:-1], there[1:]
        meet = (a != b) & (a > 0) & (b > 0)
        keys.append(np.minimum(a[meet], b[meet]).astype(np.int64) * n + np.maximum(a[meet], b[meet]))
        values.append(np.maximum(slope[:-1][meet], slope[1:][meet]))
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    faces = np.bincount(place)
    mean = np.bincount(place, weights=np.concatenate(values)) / np.maximum(faces, 1)
    return {(int(pair // n), int(pair % n)): (int(f), float(m)) for pair, f, m in zip(pairs, faces, mean, strict=True)}


def joined(labels: IntArray, gradient: FloatArray, weak_per_mm: float, log_decay: FloatArray, grid: VoxelGrid, inner: Mask) -> IntArray:
    """Labels after the weakest borders have gone, one after the other, up to a mean gradient of ``weak_per_mm``.

    Two pieces of some size whose mean decay differs stay apart, however weak the edge between them. Borders count in
    ``inner`` alone: near the organ's surface its own edge would speak.
    """
    n = int(labels.max()) + 1
    size = np.bincount(labels.ravel(), minlength=n).astype(float)
    decay = np.bincount(labels.ravel(), weights=log_decay.ravel(), minlength=n)
    least = (_SMALLEST_ML + 1) / grid.voxel_volume_ml
    near: dict[int, dict[int, tuple[int, float]]] = {}
    queue: list[tuple[float, int, int, int]] = []
    for (a, b), (faces, mean) in interfaces(np.where(inner, labels, 0), gradient).items():
        near.setdefault(a, {})[b] = near.setdefault(b, {})[a] = (faces, mean * faces)
        queue.append((mean, a, b, faces))
    heapq.heapify(queue)
    parent = np.arange(n)
    while queue:
        mean, a, b, faces = heapq.heappop(queue)
        if mean > weak_per_mm:
            break
        if near.get(a, {}).get(b, (0, 0.0))[0] != faces:  # one of the two has changed since
            continue
        if min(size[a], size[b]) > least and abs(decay[a] / size[a] - decay[b] / size[b]) > _OTHER_DECAY:
            continue
        near[a].pop(b)
        for other, (more, total) in near.pop(b).items():
            if other == a:
                continue
            had, so_far = near[a].get(other, (0, 0.0))
            near[other].pop(b)
            near[a][other] = near[other][a] = (had + more, so_far + total)
            heapq.heappush(queue, ((so_far + total) / (had + more), min(a, other), max(a, other), had + more))
        parent[b] = a
        size[a] += size[b]
        decay[a] += decay[b]
    for label in range(n):
        root = label
        while parent[root] != root:
            root = int(parent[root])
        parent[label] = root
    out: IntArray = parent[labels]
    return out

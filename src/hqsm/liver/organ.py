"""The liver from the echoes and maps alone, whatever its iron: the large homogeneous organ below the right lung.

In severe iron the liver is dark in every image, in a normal one nothing but shape tells it from its neighbours. So an
organ is described by three features that iron and fat change smoothly: brightness of the first echo with the coil's
sensitivity taken out, the decay of the magnitudes, and the fat fraction where it is known. Candidate levels are the
modes of their histogram on the patient's right; each is grown, cut at its necks, and the best-shaped one is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hqsm.arrays import AnyArray, FloatArray, Mask
from hqsm.data import MultiEcho, VoxelGrid, WaterFat
from hqsm.liver.geometry import closed, depth_mm, dilated, filled, opened, piece_at, smoothed, solidity, world_mm
from hqsm.liver.pieces import ORDINARY_LOG_DECAY, Edges, find_edges, snapped, without_neighbours
from hqsm.liver.sides import FAT, between_levels
from hqsm.liver.surface import along_edges
from hqsm.robust import median_and_scaled_mad

_DECAY_OFFSET_PER_S = 15.0
"""Added to the decay before its logarithm: the noise of a decay is about constant below this and relative above it."""
_NECKS_MM = (8.0, 12.0, 16.0)
"""Radius of the ball that must pass from one part of the organ to the next; a larger one where the organ leaks."""
_CLOSING_MM = 8.0
_LEAST_SOLIDITY = 0.7
"""Share of its convex hull below which what was grown has leaked into its neighbours."""
_FAINT = 0.3
"""Signal at TE = 0, as a share of that of soft tissue, below which a voxel is lung or gas."""
_ABOVE_NOISE = 2.2
"""Median magnitude over noise SD of tissue that is dark at every echo; that of noise alone is 1.2."""
_LARGEST_DEEP_FAT_SHARE = 0.75
"""Share of voxels deep in the body that can be fat; above it the separation has swapped water and fat."""
_LEAST_SPREADS = (0.02, 0.03, 0.005)
"""Of brightness, decay and fat fraction in an organ: a tenth to a half of what is seen at an SNR of 20 to 50."""
_BINS = 160
"""Of the histogram of other tissue: narrower than single voxels scatter."""
_SURE_OF_FAT = 2.0
"""Margin of the choice between water and fat [log-likelihood] below which a dark liver may be swapped in part."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """What tells organs apart; all (x, y, z).

    Attributes
    ----------
    brightness
        Logarithm of the first echo over the coil's sensitivity; 0 is soft tissue at TE = 0.
    log_decay
        Logarithm of the magnitudes' decay plus 15 [1/s].
    pdff
        Fat fraction / 100; NaN where it is not known.
    tissue
        Body without fat, lung and gas.
    edges
        Of the first two echoes.
    """

    brightness: FloatArray
    log_decay: FloatArray
    pdff: FloatArray
    tissue: Mask
    edges: Edges


def magnitude_decay_per_s(echoes: MultiEcho, noise_sd: float) -> FloatArray:
    """Decay of the magnitudes [1/s]: weighted straight line through their logarithms.

    From the first echo below 2.5 noise SD on none counts, except the second one, which then gives a lower bound.
    """
    magnitude = np.abs(echoes.signal)
    log_m = np.log(np.maximum(magnitude, 1.25 * noise_sd))
    # later echoes that the noise alone lifts above the threshold would pull the decay down
    seen = np.logical_and.accumulate(magnitude > 2.5 * noise_sd, axis=3)
    weight = np.where(seen, magnitude**2, 0)
    weight[..., :2] = np.maximum(weight[..., :2], (1.25 * noise_sd) ** 2)
    t = echoes.echo_times_s.astype(np.float32)
    total = weight.sum(axis=3)
    t_mean = (weight @ t) / total
    l_mean = (weight * log_m).sum(axis=3) / total
    spread = weight @ (t**2) / total - t_mean**2
    decay: FloatArray = -((weight * log_m) @ t / total - t_mean * l_mean) / np.maximum(spread, 1e-12)
    return np.clip(decay, 0, None).astype(np.float32)


def water_and_fat_swapped(maps: WaterFat, body: Mask) -> bool:
    """Whether most of the body's inside came out as fat: then the fat fraction says nothing."""
    deep = body & (maps.model > 0) & np.isfinite(maps.pdff_percent) & (depth_mm(body, maps.grid) > 40)
    return bool(deep.sum() > 100 and float((maps.pdff_percent[deep] > 50).mean()) > _LARGEST_DEEP_FAT_SHARE)


def features(echoes: MultiEcho, maps: WaterFat, body: Mask, noise_sd: float) -> Features:
    """The features of every voxel; see :class:`Features`."""
    grid = maps.grid
    first = np.abs(echoes.signal[..., 0])
    decay = magnitude_decay_per_s(echoes, noise_sd)
    at_zero = np.log(np.maximum(first, noise_sd)) + np.minimum(decay, 400) * np.float32(echoes.echo_times_s[0])
    pdff = np.where(maps.model > 0, maps.pdff_percent / 100, np.nan)
    pdff = np.clip(pdff, -0.2, 1.2)
    known = np.isfinite(pdff)
    if maps.swap_margin is not None:
        known &= ~((pdff > FAT) & (maps.swap_margin < _SURE_OF_FAT))
    if water_and_fat_swapped(maps, body):
        known[...] = False
    fat = known & (pdff > FAT) & (decay < 300)
    ordinary = body & (decay < 300)
    typical = float(np.median(at_zero[ordinary])) if ordinary.any() else 0.0
    # the receive coil is smooth: what varies over 40 mm in tissue that is neither lung nor iron, nor fat, which may oppose water by then
    ordinary &= (at_zero > typical - 0.9) & ~fat
    coil = smoothed(at_zero, ordinary, grid, 40.0, least_weight=1e-4)
    coil = np.where(np.isfinite(coil), coil, typical)
    brightness = np.log(np.maximum(first, noise_sd)) - coil
    lit = brightness + np.minimum(decay, 400) * np.float32(echoes.echo_times_s[0]) > np.log(_FAINT)
    # what decays beyond measure is dark at every echo: there the first echo alone tells tissue from gas
    dark = decay > 0.5 / float(echoes.echo_times_s[0])
    tissue = body & ~fat & (lit | (dark & (_cleaned(first, grid) > _ABOVE_NOISE * noise_sd)))
    return Features(
        brightness=_cleaned(brightness, grid),
        log_decay=_cleaned(np.log(decay + np.float32(_DECAY_OFFSET_PER_S)), grid),
        pdff=np.where(known, _cleaned(np.where(known, pdff, 0), grid), np.nan).astype(np.float32),
        tissue=np.asarray(ndimage.median_filter(tissue.astype(np.uint8), size=_box(grid, 9.0)) > 0) & body,
        edges=find_edges(echoes.signal, noise_sd, grid),
    )


def _box(grid: VoxelGrid, width_mm: float) -> list[int]:
    return [1 if d > 0.75 * width_mm else max(3, 2 * round(width_mm / d / 2) + 1) for d in grid.voxel_size_mm]


def _cleaned(volume: FloatArray, grid: VoxelGrid) -> FloatArray:
    median: FloatArray = ndimage.median_filter(volume.astype(np.float32), size=_box(grid, 8.0), mode="nearest")
    return median


def find_organ(found: Features, body: Mask, grid: VoxelGrid) -> Mask:
    """The liver, or an empty mask where nothing of its kind lies on the patient's right."""
    x, _, _ = world_mm(grid)
    right_mm = x - float(np.median(x[body]))
    best, best_score = np.zeros(grid.shape, bool), 0.0
    for level in _modes(found, (right_mm > 15) & found.tissue):
        core = _core(found, level, right_mm, grid)
        if core is None:
            continue
        score = _score(core, right_mm, grid)
        if score > best_score:
            best, best_score = core, score
    if best_score <= 0:
        return best
    organ = best
    for neck_mm in _NECKS_MM:
        organ = _refined(found, best, body, right_mm, grid, neck_mm)
        if solidity(organ, grid) >= _LEAST_SOLIDITY:
            break
    organ = without_neighbours(organ, found.edges, found.log_decay, grid)
    organ = along_edges(organ, log_likelihood_ratio(found, best, organ), found.edges, found.log_decay, body, grid)
    organ = snapped(organ, found.edges, found.tissue | organ, grid)
    if not organ.any() or float(np.median(found.log_decay[organ])) > ORDINARY_LOG_DECAY:
        return organ
    return between_levels(organ, found.brightness, found.log_decay, found.pdff, found.tissue, body, grid)


def _modes(found: Features, where: Mask, most: int = 6) -> list[tuple[float, float]]:
    """Peaks of the histogram of brightness and decay, the highest first."""
    if where.sum() < 50:
        return []
    a, b = found.brightness[where], found.log_decay[where]
    edges_a, edges_b = np.arange(-3.0, 1.5, 0.06), np.arange(2.6, 8.2, 0.06)
    counts, _, _ = np.histogram2d(a, b, bins=(edges_a, edges_b))
    counts = ndimage.gaussian_filter(counts, 2.0)
    peaks = (counts == ndimage.maximum_filter(counts, size=7)) & (counts > 0.02 * counts.max())
    order = np.argsort(counts[peaks])[::-1][:most]
    places = np.argwhere(peaks)[order]
    return [(float(edges_a[i] + 0.03), float(edges_b[j] + 0.03)) for i, j in places]


def _core(found: Features, level: tuple[float, float], right_mm: FloatArray, grid: VoxelGrid) -> Mask | None:
    """The piece around the deepest place on the right of what is like ``level``, with two rounds of learning its width."""
    centre, width = np.array(level), np.array([0.25, 0.25])
    piece: Mask | None = None
    for _ in range(3):
        alike = found.tissue & (np.abs(found.brightness - centre[0]) < width[0]) & (np.abs(found.log_decay - centre[1]) < width[1])
        alike = ndimage.median_filter(alike.astype(np.uint8), size=_box(grid, 9.0)) > 0
        depth = depth_mm(alike, grid)
        reach = np.where((right_mm > 15) & np.isfinite(depth), depth, 0)
        if reach.max() < 10:
            return piece
        place = tuple(int(n) for n in np.unravel_index(int(np.argmax(reach)), reach.shape))
        piece = piece_at(depth > max(_NECKS_MM[0], 0.4 * float(reach.max())), place)
        inner = found.brightness[piece], found.log_decay[piece]
        centre, spread = np.array([median_and_scaled_mad(v) for v in inner], np.float32).T
        width = np.clip(3.5 * spread, (0.15, 0.12), (0.6, 0.6))
    return piece


def _score(core: Mask, right_mm: FloatArray, grid: VoxelGrid) -> float:
    """Volume [mL] of the part on the right, less twice what lies far on the left: bowel and muscle spread, the liver does not."""
    there = right_mm[core]
    return float((there > 0).sum() - 2.0 * (there < -60).sum()) * grid.voxel_volume_ml


def _refined(found: Features, core: Mask, body: Mask, right_mm: FloatArray, grid: VoxelGrid, neck_mm: float) -> Mask:
    """From the core to the organ: likelihood against everything else, smoothed in space, cut at necks, filled."""
    organ = core
    like = core
    for _ in range(4):
        like = _regularised(log_likelihood_ratio(found, core, organ), found.tissue, grid) & (right_mm > -75)
        # a vessel is unlike the liver and would cut it in two: what lies between parts of the organ belongs to it
        like |= closed(organ, grid, _CLOSING_MM) & body
        labels, _ = ndimage.label(opened(filled(like), grid, neck_mm))
        inside = np.bincount(labels[organ & like], minlength=1)
        inside[0] = 0
        if inside.max(initial=0) == 0:
            return organ
        organ = np.asarray(labels == int(np.argmax(inside)))
    # what the ball could not reach but touches the organ belongs to it up to half the ball's size
    organ = organ | (dilated(organ, grid, 0.5 * neck_mm) & like)
    return filled(closed(organ, grid, _CLOSING_MM) & (found.tissue | dilated(organ, grid, 3.0)))


def log_likelihood_ratio(found: Features, core: Mask, organ: Mask) -> FloatArray:
    """Log of P(features | liver) / P(features | rest of the tissue), feature by feature.

    The liver is a Student-like peak around its median; the rest is the histogram of the tissue outside of ``organ``. Decay and fat
    fraction are the same anywhere in a liver, so that their peak is that of its ``core``: what has leaked into the organ would be
    learned, and let in more of its kind. A coil is brighter here than there: the peak of brightness is the whole organ's.
    """
    rest = found.tissue & ~organ
    total = np.zeros(organ.shape, np.float32)
    features_of_what = ((found.brightness, organ), (found.log_decay, core), (found.pdff, core))
    for (values, known_liver), least_spread in zip(features_of_what, _LEAST_SPREADS, strict=True):
        known = np.isfinite(values)
        inside = values[known_liver & known]
        outside = values[rest & known]
        if inside.size < 50 or outside.size < 50:
            continue
        centre, spread = median_and_scaled_mad(inside)
        scale = max(least_spread, spread)
        # the logarithm of a t density with 4 degrees of freedom against that of the rest's histogram
        z2 = ((values - centre) / scale) ** 2
        peak = np.log(0.375 / scale) - 2.5 * np.log1p(z2 / 4)
        low, high = (float(v) for v in np.percentile(outside, [0.1, 99.9]))
        bins = np.linspace(low, max(high, low + 1e-3), _BINS)
        density, edges = np.histogram(outside, bins=bins, density=True)
        density = ndimage.gaussian_filter1d(density, 1.5) + 1e-2 / (edges[-1] - edges[0])
        place = np.clip(np.searchsorted(edges, values) - 1, 0, density.size - 1)
        total += np.where(known, peak - np.log(density[place]), 0).astype(np.float32)
    return total


def _regularised(likelihood: FloatArray, tissue: Mask, grid: VoxelGrid, strength: float = 4.0) -> Mask:
    """Mean field of an Ising model: a voxel is liver where its own likelihood and its neighbourhood's vote say so."""
    field = np.clip(likelihood, -6, 6)
    share: AnyArray = 1 / (1 + np.exp(-field))
    sigma = 3.0 / grid.voxel_size_mm
    for _ in range(6):
        vote = ndimage.gaussian_filter(np.where(tissue, share, 0), sigma) - 0.5
        share = 1 / (1 + np.exp(-(field + 2 * strength * vote)))
    return np.asarray((share > 0.5) & tissue)

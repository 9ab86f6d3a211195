"""Voxels whose signal went beyond what the images can store, and lie at the top of their range instead.

A magnitude touches its highest value in a voxel or a few. Where many hold exactly the highest, far more than hold any value just below
it, they were clipped (receiver or stored range): the decay from there is too slow and its fat wrong. Real and imaginary images are
clipped at either end; what a phase image holds is not looked at, it uses its whole range.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, Mask
from hqsm.compiled import njit, prange
from hqsm.data import WaterFat

_SAME = 1e-6
"""Values that differ by less, relatively, were one before rounding."""
_BELOW = 0.9
"""Share of the highest value above which values are compared with it."""
_LEAST_VOXELS, _TIMES_AS_MANY = 10, 5.0
"""Voxels at the highest value, and how many times as many as hold each value just below it."""
_MANY = 0.05
"""Share of the body."""
_ENDS_DIFFER = 1e-3
"""By how much the two ends of a signed range differ: -2048 and 2047."""


def clipped_voxels(signal: ComplexArray) -> Mask:
    """(x, y, z) whether an echo of a signal (x, y, z, echo) without NaN was clipped there."""
    clipped = np.zeros(signal.shape[:3], bool)
    # nearly always no value is anywhere near so common, which one look at each voxel tells
    if _most_at_the_top(signal, 1 - 2 * _SAME) < _LEAST_VOXELS:
        return clipped
    magnitudes = [np.abs(signal[..., e]) for e in range(signal.shape[3])]
    for e, magnitude in enumerate(magnitudes):
        others = [other for k, other in enumerate(magnitudes) if k != e]
        if _is_clipped(magnitude, others, float(magnitude.max())):
            clipped |= magnitude >= magnitude.max() * (1 - _SAME)
            continue
        for part in (np.abs(signal[..., e].real), np.abs(signal[..., e].imag)):
            if _is_clipped(part, [magnitude], 0.0):
                clipped |= part >= part.max() * (1 - _ENDS_DIFFER)
    return clipped


def without_clipped(maps: WaterFat, clipped: Mask) -> WaterFat:
    """The maps without a number where the signal was ``clipped`` (x, y, z), with ``SIGNAL_CLIPPED`` and how much of the body that is.

    Such voxels remain part of the body. Where they are many the phase's sign is not told: their fits mislead both of its witnesses.
    """
    if not clipped.any():
        return maps
    fitted = maps.model > 0
    share = float((clipped & fitted).sum()) / max(int(fitted.sum()), 1)
    codes = maps.codes
    if share > _MANY:
        codes = tuple(dict.fromkeys("SIGN_NOT_CHECKED" if code in ("PHASE_SIGN", "PHASE_FILTERED") else code for code in codes))
    numbers = ("fat", "pdff_percent", "r2star_per_s", "field_hz", "pdff_se_percent", "r2star_se_per_s", "field_se_hz")
    blanked = {name: np.where(clipped, np.float32(np.nan), getattr(maps, name)) for name in numbers}
    return replace(maps, **blanked, clipped_percent=100 * share, codes=(*codes, "SIGNAL_CLIPPED"))  # type: ignore[arg-type]


def _is_clipped(values: AnyArray, others: list[AnyArray], level: float) -> bool:
    """Whether values (x, y, z), not negative, are heaped up at their highest; ``others`` are of the same voxels, clipped at ``level``."""
    top = float(values.max())
    heap = values >= top * (1 - _SAME)
    n_heap = int(heap.sum())
    if not top > 0 or n_heap < _LEAST_VOXELS:
        return False
    below = np.sort(values[(values > _BELOW * top) & ~heap])
    if not below.size:  # no noise, or nothing but a heap
        return False
    n_values = 1 + int((np.diff(below) > _SAME * top).sum())
    if n_heap < _TIMES_AS_MANY * below.size / n_values:
        return False
    # voxels that are alike in all else hold one value because nothing (no noise) parts them
    return not any(_alike(other[heap], level) for other in others)


def _alike(values: AnyArray, level: float) -> bool:
    """Whether most of some voxels' values are one, which is not the ``level`` at which they would be clipped themselves."""
    middle = float(np.median(values))
    return abs(middle - level) > _ENDS_DIFFER * level and float((np.abs(values - middle) <= _SAME * middle).mean()) > 0.5


@njit(parallel=True)
def _most_at_the_top(signal: AnyArray, share: float) -> int:  # pragma: no cover - compiled
    """In how many voxels, at most, a magnitude, real or imaginary part of an echo is its highest times ``share`` or more."""
    nx, ny, nz, n_echoes = signal.shape
    tops, counts = np.zeros((nx, n_echoes, 3)), np.zeros((nx, n_echoes, 3), np.int64)
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                for e in range(n_echoes):
                    real, imag = float(signal[x, y, z, e].real) ** 2, float(signal[x, y, z, e].imag) ** 2
                    tops[x, e, 0] = max(tops[x, e, 0], real + imag)
                    tops[x, e, 1] = max(tops[x, e, 1], real)
                    tops[x, e, 2] = max(tops[x, e, 2], imag)
    least = np.zeros((n_echoes, 3))
    for x in range(nx):
        least = np.maximum(least, share * share * tops[x])
    least = np.where(least > 0, least, np.inf)  # a magnitude alone has no imaginary part
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                for e in range(n_echoes):
                    real, imag = float(signal[x, y, z, e].real) ** 2, float(signal[x, y, z, e].imag) ** 2
                    counts[x, e, 0] += real + imag >= least[e, 0]
                    counts[x, e, 1] += real >= least[e, 1]
                    counts[x, e, 2] += imag >= least[e, 2]
    return int(counts.sum(axis=0).max())

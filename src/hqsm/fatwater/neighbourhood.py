"""What a voxel's neighbours say: Gaussian sums over a few millimetres, and the prior of the field that follows from them."""

from __future__ import annotations

import numba
import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray

_SIGMA_MM = 3.5
_TRUNCATE = 2.5
_SPREAD_FLOOR_HZ_AT_1T5 = 1.5
_LARGEST_GRADIENT_HZ_PER_MM_AT_1T5 = 4.0


class Neighbourhood:
    """Gaussian sums around each voxel of a numbered volume, over the numbered voxels only."""

    def __init__(self, index: IntArray, voxel_size_mm: FloatArray) -> None:
        self._inside = index >= 0
        self._kernels = []
        """By axis: the Gaussian, and it times the distance [mm] and the distance squared."""
        for size_mm in voxel_size_mm:
            n = int(_TRUNCATE * _SIGMA_MM / size_mm + 0.5)
            away_mm = np.arange(-n, n + 1) * size_mm
            gauss = np.exp(-0.5 * (away_mm / _SIGMA_MM) ** 2)
            gauss /= gauss.sum()
            self._kernels.append(np.stack([gauss, gauss * away_mm, gauss * away_mm**2]).astype(np.float32))
        self.own = float(np.prod([k[0, k.shape[1] // 2] for k in self._kernels]))
        """Weight of the voxel itself in its sum."""

    def total(self, values: AnyArray) -> FloatArray:
        """(voxel,) weighted sum over the neighbourhood, the voxel itself included."""
        return self.moments(values, ((0, 0, 0),))[0]

    def share(self, marked: AnyArray) -> FloatArray:
        """(voxel,) share of marked voxels among the neighbours, the voxel itself left out."""
        everything = self.total(np.ones(marked.size)) - self.own
        share: FloatArray = (self.total(marked) - self.own * marked) / np.maximum(everything, 1e-9)
        return share

    def moments(self, values: AnyArray, powers: tuple[tuple[int, int, int], ...]) -> list[FloatArray]:
        """(voxel,) sums of values times x^i y^j z^k [mm], the distance to the neighbour, for each (i, j, k) of ``powers``."""
        volume = np.zeros(self._inside.shape, np.float32)
        volume[self._inside] = values
        along_z: dict[int, AnyArray] = {}
        along_y: dict[tuple[int, int], AnyArray] = {}
        found = []
        for i, j, k in powers:
            if k not in along_z:
                along_z[k] = _filtered(volume, self._kernels[2][k], 2)
            if (j, k) not in along_y:
                along_y[j, k] = _filtered(along_z[k], self._kernels[1][j], 1)
            found.append(_filtered(along_y[j, k], self._kernels[0][i], 0)[self._inside])
        return found


@numba.njit(cache=True, parallel=True, fastmath=True)
def _filtered(volume: AnyArray, kernel: AnyArray, axis: int) -> AnyArray:  # pragma: no cover - compiled
    """Correlation along one axis, zero outside."""
    nx, ny, nz = volume.shape
    reach = kernel.size // 2
    out = np.zeros_like(volume)
    for i in numba.prange(nx):
        if axis == 0:
            for m in range(max(i - reach, 0), min(i + reach + 1, nx)):
                weight = kernel[m - i + reach]
                for j in range(ny):
                    for k in range(nz):
                        out[i, j, k] += weight * volume[m, j, k]
        elif axis == 1:
            for j in range(ny):
                for m in range(max(j - reach, 0), min(j + reach + 1, ny)):
                    weight = kernel[m - j + reach]
                    for k in range(nz):
                        out[i, j, k] += weight * volume[i, m, k]
        else:
            for j in range(ny):
                for k in range(nz):
                    total = np.float32(0.0)
                    for m in range(max(k - reach, 0), min(k + reach + 1, nz)):
                        total += kernel[m - k + reach] * volume[i, j, m]
                    out[i, j, k] = total
    return out


_PLANE = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
_SQUARES = ((2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2))


def field_prior(
    field_hz: FloatArray, se_hz: FloatArray, good: AnyArray, local: Neighbourhood, wanted: IntArray, field_strength_tesla: float
) -> tuple[FloatArray, FloatArray]:
    """Mean and precision of the field at every ``wanted`` voxel, from its ``good`` neighbours (not itself) by their information.

    A plane through the neighbours, because a mean is pulled towards the side that knows more. The variance of the prior
    is what the field itself departs from the plane, not what noise adds to it, and the plane's own error.
    """
    scale = field_strength_tesla / 1.5
    floor_hz = _SPREAD_FLOOR_HZ_AT_1T5 * scale
    noise2 = np.where(good, se_hz**2, 0)
    weight = np.where(good, 1 / (noise2 + floor_hz**2), 0)
    centre = float(np.median(field_hz[good])) if good.any() else 0.0
    value = np.where(good, field_hz - centre, 0)
    weights = [m[wanted] for m in local.moments(weight, _PLANE + _SQUARES)]
    firsts = [m[wanted] for m in local.moments(weight * value, _PLANE)]
    squares = local.total(weight * value**2)[wanted]
    noises = local.total(weight * noise2)[wanted]
    own_weight, own_value, own_noise2 = (local.own * weight)[wanted], value[wanted], noise2[wanted]
    weights[0] = weights[0] - own_weight
    firsts[0] = firsts[0] - own_weight * own_value
    squares = squares - own_weight * own_value**2
    noises = noises - own_weight * own_noise2
    slope_precision = 1 / (_LARGEST_GRADIENT_HZ_PER_MM_AT_1T5 * scale) ** 2
    plane, variance, known = _planes(
        np.ascontiguousarray(np.stack(weights, axis=1), dtype=np.float64),
        np.ascontiguousarray(np.stack(firsts, axis=1), dtype=np.float64),
        np.ascontiguousarray(np.stack([squares, noises], axis=1), dtype=np.float64),
        slope_precision,
        floor_hz**2,
        float(local.own),
    )
    return np.where(known, plane + centre, 0), np.where(known, 1 / variance, 0)


@numba.njit(cache=True, parallel=True)
def _planes(
    moments: AnyArray, firsts: AnyArray, others: AnyArray, slope_precision: float, floor2: float, own: float
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Height of the plane at the voxel, variance of the field about it, and whether there are neighbours at all."""
    n = moments.shape[0]
    height = np.zeros(n)
    variance = np.full(n, np.inf)
    known = np.zeros(n, np.bool_)
    for v in numba.prange(n):
        total = moments[v, 0]
        if not total > 1e-9:
            continue
        matrix = np.empty((4, 4))
        for i in range(4):
            matrix[0, i] = matrix[i, 0] = moments[v, i]
        place = 4
        for i in range(1, 4):
            for j in range(i, 4):
                matrix[i, j] = matrix[j, i] = moments[v, place]
                place += 1
            matrix[i, i] += slope_precision
        inverse = np.linalg.inv(matrix)
        plane = np.zeros(4)
        explained = 0.0
        for i in range(4):
            for j in range(4):
                plane[i] += inverse[i, j] * firsts[v, j]
            explained += plane[i] * firsts[v, i]
        spread = max((others[v, 0] - explained) / total, 0.0)
        spread = max(spread - others[v, 1] / total, 0.1 * spread)
        # a Gaussian's squared weights sum to about its central weight times its sum
        variance[v] = floor2 + spread + own * max(inverse[0, 0], 0.0)
        height[v] = plane[0]
        known[v] = True
    return height, variance, known

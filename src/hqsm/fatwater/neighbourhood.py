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
        # Cholesky factor of the 4 x 4 moments; the plane solves them for the first moments, e for (1, 0, 0, 0)
        w0, w1, w2, w3 = moments[v, 0], moments[v, 1], moments[v, 2], moments[v, 3]
        l00 = np.sqrt(w0)
        l10, l20, l30 = w1 / l00, w2 / l00, w3 / l00
        l11 = np.sqrt(moments[v, 4] + slope_precision - l10 * l10)
        l21, l31 = (moments[v, 5] - l20 * l10) / l11, (moments[v, 6] - l30 * l10) / l11
        l22 = np.sqrt(moments[v, 7] + slope_precision - l20 * l20 - l21 * l21)
        l32 = (moments[v, 8] - l30 * l20 - l31 * l21) / l22
        l33 = np.sqrt(moments[v, 9] + slope_precision - l30 * l30 - l31 * l31 - l32 * l32)
        y0 = firsts[v, 0] / l00
        y1 = (firsts[v, 1] - l10 * y0) / l11
        y2 = (firsts[v, 2] - l20 * y0 - l21 * y1) / l22
        y3 = (firsts[v, 3] - l30 * y0 - l31 * y1 - l32 * y2) / l33
        e0 = 1 / l00
        e1 = -l10 * e0 / l11
        e2 = -(l20 * e0 + l21 * e1) / l22
        e3 = -(l30 * e0 + l31 * e1 + l32 * e2) / l33
        # what the plane explains, its height here, and the variance of that for unit weights
        explained = y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3
        here = y0 * e0 + y1 * e1 + y2 * e2 + y3 * e3
        here_variance = e0 * e0 + e1 * e1 + e2 * e2 + e3 * e3
        if not here_variance < np.inf:
            continue
        spread = max((others[v, 0] - explained) / total, 0.0)
        spread = max(spread - others[v, 1] / total, 0.1 * spread)
        # a Gaussian's squared weights sum to about its central weight times its sum
        variance[v] = floor2 + spread + own * here_variance
        height[v] = here
        known[v] = True
    return height, variance, known

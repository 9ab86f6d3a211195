"""What can be known where: the decay of a neighbourhood as a whole, and the standard errors that it allows.

Which model a voxel gets, and whether its R2* or fat fraction is given at all, must not depend on the voxel's own noise:
choosing by the voxel's own estimate keeps the low ones and loses the high ones. So both follow from the power of the
neighbourhood's echoes, less that of the noise: fifty voxels know their common decay seven times better than one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray, Mask
from hqsm.fatwater.field_init import Blocks

_FAT_SHARES = np.array([0.0, 0.15, 0.35, 0.9])
_N_ITERATIONS = 8
_TOP_PER_S = 4000.0
_REACH_MM = 5.0
_SPREAD2 = np.float32(0.02)
"""Squared relative scatter of neighbouring blocks' power that is tissue, not noise."""
R2STAR_RANGE_PER_S = 2000.0
LARGEST_RELATIVE_SE = 0.35
"""Beyond this ratio of standard error to R2* the estimate is skewed and its interval useless."""
_NO_DECAY_PER_S = 150.0
"""R2* below which a large relative error is a matter of brightness, not of decay."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalDecay:
    """(voxel,) amplitude at TE = 0 over the noise SD and R2* [1/s] of the neighbourhood."""

    snr: FloatArray
    r2star_per_s: FloatArray


def local_decay(
    signal: ComplexArray, index: IntArray, blocks: Blocks, echo_times_s: FloatArray, fat: ComplexArray, noise_sd: float
) -> LocalDecay:
    """Decay around each voxel, fat allowed for: that of its block and the like blocks around.

    Where a block is mixed (an edge, a vessel), each of its voxels goes with the like voxels around, itself left out. The
    model of the mean power is A^2 |1 - F + F c(t)|^2 exp(-2 R2* t) + 2 sigma^2, noise included.
    """
    squared = (signal.real**2 + signal.imag**2) * np.float32(1 / noise_sd**2)
    n_blocks = blocks.n_voxels.size
    weight = blocks.n_voxels.astype(np.float32)
    powers = np.stack([np.bincount(blocks.of_voxel, power, n_blocks) / weight for power in squared.T], axis=1).astype(np.float32)
    templates = (np.abs(1 - _FAT_SHARES[:, None] * (1 - fat)) ** 2).astype(np.float32)
    t = echo_times_s.astype(np.float32)
    pooled = _pooled(powers, weight, blocks.index, np.argwhere(blocks.index >= 0), np.array([1, 1, 1]), False)
    amplitude2, r2star = (values[blocks.of_voxel] for values in _decays(pooled, templates, t))
    mixed = np.flatnonzero(_mixed(squared, powers, blocks.of_voxel, weight)[blocks.of_voxel])
    if mixed.size:
        reach = np.minimum(np.round(_REACH_MM / (blocks.size_mm / _voxels_per_block(index, blocks))), 2).astype(np.int64)
        places = np.argwhere(index >= 0)[mixed]
        pooled = _pooled(squared, np.ones(squared.shape[0], np.float32), index, places, np.maximum(reach, 1), True)
        amplitude2[mixed], r2star[mixed] = _decays(pooled, templates, t)
    return LocalDecay(snr=np.sqrt(amplitude2), r2star_per_s=r2star)


def _voxels_per_block(index: IntArray, blocks: Blocks) -> IntArray:
    ratio: IntArray = np.ceil(np.array(index.shape) / np.array(blocks.index.shape)).astype(np.int64)
    return ratio


@numba.njit(cache=True, fastmath=True)
def _mixed(squared: AnyArray, powers: AnyArray, of_voxel: AnyArray, n_voxels: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(block,) whether its voxels differ by more than their noise."""
    n_blocks, n_echoes = powers.shape
    scatter = np.zeros(n_blocks, np.float32)
    for v in range(of_voxel.size):
        b = of_voxel[v]
        for e in range(n_echoes):
            power = powers[b, e]
            scatter[b] += (squared[v, e] - power) ** 2 / (4 * max(power - 2, 0.0) + 4 + _SPREAD2 * power * power)
    mixed = np.zeros(n_blocks, np.bool_)
    for b in range(n_blocks):
        freedom = (n_voxels[b] - 1) * n_echoes
        mixed[b] = freedom > 0 and scatter[b] > freedom + 3 * np.sqrt(2 * freedom)
    return mixed


@numba.njit(cache=True, parallel=True, fastmath=True)
def _pooled(
    powers: AnyArray, n_voxels: AnyArray, index: AnyArray, places: AnyArray, reach: AnyArray, without_itself: bool
) -> AnyArray:  # pragma: no cover - compiled
    """(place, echo) mean power over the nodes around that differ from the node there by no more than noise."""
    n_echoes = powers.shape[1]
    nx, ny, nz = index.shape
    mean = np.zeros((places.shape[0], n_echoes), np.float32)
    limit = n_echoes + 3 * np.sqrt(2.0 * n_echoes)
    for p in numba.prange(places.shape[0]):
        x, y, z = places[p]
        b = index[x, y, z]
        total = np.float32(0)
        for i in range(max(x - reach[0], 0), min(x + reach[0] + 1, nx)):
            for j in range(max(y - reach[1], 0), min(y + reach[1] + 1, ny)):
                for k in range(max(z - reach[2], 0), min(z + reach[2] + 1, nz)):
                    c = index[i, j, k]
                    if c < 0 or (without_itself and c == b):
                        continue
                    apart = np.float32(0)
                    for e in range(n_echoes):
                        mine = powers[b, e]
                        other = powers[c, e]
                        noise = (4 * max(mine - 2, np.float32(0)) + 4) / n_voxels[b] + (4 * max(other - 2, np.float32(0)) + 4) / n_voxels[c]
                        apart += (mine - other) ** 2 / (noise + _SPREAD2 * (mine * mine + other * other) / 2)
                    if apart < limit:
                        total += n_voxels[c]
                        for e in range(n_echoes):
                            mean[p, e] += n_voxels[c] * powers[c, e]
        for e in range(n_echoes):
            mean[p, e] = mean[p, e] / total if total > 0 else powers[b, e]
    return mean


@numba.njit(cache=True, parallel=True, fastmath=True)
def _decays(powers: AnyArray, templates: AnyArray, t: AnyArray) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Squared SNR at TE = 0 and R2* of each block: Gauss-Newton on (log A^2, R2*) for each share of fat, the best kept."""
    n_blocks, n_echoes = powers.shape
    amplitude2 = np.zeros(n_blocks, np.float32)
    r2star = np.zeros(n_blocks, np.float32)
    floor = np.float32(2)
    even = abs(t[-1] - t[0] - (n_echoes - 1) * (t[1] - t[0])) < 1e-6
    for b in numba.prange(n_blocks):
        best = np.float32(1e30)
        power_at = np.maximum(powers[b], np.float32(0.1))
        # start: the line through the first two echoes above the floor
        first = max(power_at[0] - floor, np.float32(0.3))
        second = max(power_at[1] - floor, np.float32(0.1))
        start_rate = min(max(np.float32(0.5) * np.log(first / second) / (t[1] - t[0]), np.float32(20)), np.float32(3000))
        for f in range(templates.shape[0]):
            rate = start_rate
            size = np.log(first) + 2 * rate * t[0]
            cost = np.float32(1e30)
            for _ in range(_N_ITERATIONS):
                haa = har = hrr = ga = gr = cost = np.float32(0)
                decay = np.exp(size - 2 * rate * t[0])
                factor = np.exp(-2 * rate * (t[1] - t[0]))
                for e in range(n_echoes):
                    signal = decay * templates[f, e]
                    if e + 1 < n_echoes:
                        decay = decay * factor if even else np.exp(size - 2 * rate * t[e + 1])
                    power = signal + floor
                    # the logarithm of the ratio, near enough where it matters
                    residual = 2 * (power_at[e] - power) / (power_at[e] + power)
                    slope = signal / power
                    weight = 1 / ((2 * signal + 1) / (power * power) + _SPREAD2)
                    da = slope
                    dr = -2 * t[e] * slope
                    haa += weight * da * da
                    har += weight * da * dr
                    hrr += weight * dr * dr
                    ga += weight * da * residual
                    gr += weight * dr * residual
                    cost += weight * residual * residual
                haa += np.float32(1e-3)
                hrr += np.float32(1e-9)
                determinant = haa * hrr - har * har
                if not determinant > 0:
                    break
                # no more than a factor of e, nor 500 1/s, at a time
                more = (haa * gr - har * ga) / determinant
                size += min(max((hrr * ga - har * gr) / determinant, np.float32(-2)), np.float32(2))
                rate += min(max(more, np.float32(-500)), np.float32(500))
                rate = min(max(rate, np.float32(0)), np.float32(_TOP_PER_S))
                if abs(more) < 0.5:
                    break
            # fat is rather little than much where nothing else tells
            cost += np.float32(0.02) * f
            if cost < best:
                best = cost
                r2star[b] = rate
                amplitude2[b] = np.exp(min(size, np.float32(30)))
    return amplitude2, r2star


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpectedErrors:
    """Standard errors for lean tissue of unit SNR at TE = 0, over a raster of R2* [1/s].

    Attributes
    ----------
    pdff_free
        Of PDFF [points] where W and F are complex and independent and the field is unknown.
    pdff_constrained, r2star_constrained
        Of PDFF [points] and R2* [1/s] where they share one phase and the field is known.
    r2star_alone
        Of R2* [1/s] where there is no fat unknown.
    """

    r2star_per_s: FloatArray
    pdff_free: FloatArray
    pdff_constrained: FloatArray
    r2star_constrained: FloatArray
    r2star_alone: FloatArray

    def at(self, errors: FloatArray, decay: LocalDecay) -> FloatArray:
        """(voxel,) one of the errors at each voxel's local R2* and SNR."""
        logarithm = np.interp(decay.r2star_per_s, self.r2star_per_s, np.log(errors))
        with np.errstate(divide="ignore"):
            expected: FloatArray = np.exp(logarithm) / decay.snr
        return expected


def expected_errors(echo_times_s: FloatArray, fat: ComplexArray) -> ExpectedErrors:
    """Inverse Fisher information of the two models, fat nil."""
    r2star = np.arange(0, 4001, 25.0)
    decay = np.exp(-np.outer(r2star, echo_times_s)) + 0j
    slope = -echo_times_s * decay
    free = np.sqrt(_variances(np.stack([1j * slope, slope, decay, 1j * decay, fat * decay, 1j * fat * decay], axis=-1)))
    constrained = np.sqrt(_variances(np.stack([slope, 1j * decay, decay, fat * decay], axis=-1)))
    return ExpectedErrors(
        r2star_per_s=r2star,
        pdff_free=100 * free[:, 4],
        pdff_constrained=100 * constrained[:, 3],
        r2star_constrained=constrained[:, 0],
        r2star_alone=np.sqrt(_variances(np.stack([slope, decay], axis=-1)))[:, 0],
    )


def _variances(jacobian: ComplexArray) -> FloatArray:
    """(point, parameter) of the inverse of Re(J^H J), scaled so that a column of any size is inverted alike."""
    fisher = np.einsum("rei,rej->rij", jacobian.conj(), jacobian).real
    size = np.sqrt(np.einsum("rii->ri", fisher))
    inverse = np.linalg.pinv(fisher / (size[:, :, None] * size[:, None, :]), rcond=1e-13, hermitian=True)
    variances: FloatArray = np.maximum(np.einsum("rii->ri", inverse), 1e-30) / size**2
    return variances


def not_measurable(expected_se_per_s: FloatArray, decay: LocalDecay) -> tuple[Mask, Mask]:
    """(voxel,) where R2* has decayed beyond what the echoes show (censored), and where it is lost for want of brightness."""
    lost = ~(expected_se_per_s <= LARGEST_RELATIVE_SE * np.maximum(decay.r2star_per_s, _NO_DECAY_PER_S))
    gone = decay.r2star_per_s > _NO_DECAY_PER_S
    return np.asarray(lost & gone), np.asarray(lost & ~gone)


def r2star_limit_per_s(echo_times_s: FloatArray, snr: float, fat: ComplexArray | None = None) -> float:
    """Highest R2* [1/s], at most 2,000, whose standard error is a third of it; ``snr`` is the tissue's at TE = 0.

    With two echoes (``fat`` None) of a decay with unknown amplitude, else of the constrained water-fat model.
    """
    raster = np.arange(50.0, R2STAR_RANGE_PER_S + 1, 10.0)
    decay = np.exp(-np.outer(raster, echo_times_s)) + 0j
    columns = [-echo_times_s * decay, decay] if fat is None else [-echo_times_s * decay, 1j * decay, decay, fat * decay]
    error = np.sqrt(_variances(np.stack(columns, axis=-1))[:, 0]) / snr
    measurable = np.flatnonzero(error <= LARGEST_RELATIVE_SE * raster)
    return float(raster[measurable[-1]]) if measurable.size else 0.0

"""What can be known where: the decay of a neighbourhood as a whole, and the standard errors that it allows.

Which model a voxel gets, and whether its R2* or fat fraction is given at all, must not depend on the voxel's own noise:
choosing by the voxel's own estimate keeps the low ones and loses the high ones. So both follow from the power of the
neighbourhood's echoes, less that of the noise: fifty voxels know their common decay seven times better than one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit, prange
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.lanes import LANES, evenly, exponential
from hqsm.fatwater.nodes import around
from hqsm.fatwater.tissue import Tissue

_FAT_SHARES = np.array([0.0, 0.15, 0.35, 0.9])
_N_ITERATIONS = 8
_TOP_PER_S = 4000.0
_REACH_MM = 5.0
_NEAR_PER_S = 0.5
_CHUNK = 4096
_ALIKE = 1.0
"""Standard deviations of chi-square up to which two nodes pass for one tissue; at three, places of other iron were let in."""
_FLOOR = 2.0
"""Mean power of noise, in variances of its real part."""
_SPREAD2 = np.float32(0.02)
"""Squared relative scatter of neighbouring blocks' power that is tissue, not noise."""
R2STAR_RANGE_PER_S = 2000.0
LARGEST_RELATIVE_SE = 0.35
"""Beyond this ratio of standard error to R2* the estimate is skewed and its interval useless."""
_NO_DECAY_PER_S = 150.0
"""R2* below which a large relative error is a matter of brightness, not of decay."""
_NEAR_THE_LIMIT = 0.2
"""Ratio of standard error to R2* from which a place is near the end of the data."""
_LARGEST_GROWTH = 0.8


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalDecay:
    """(voxel,) amplitude at TE = 0 over the noise SD and R2* [1/s] of the neighbourhood."""

    snr: FloatArray
    r2star_per_s: FloatArray


def local_decay(tissue: Tissue, blocks: Blocks, *, with_fat: bool) -> LocalDecay:
    """Decay around each voxel, fat allowed for if ``with_fat``: that of its block and the like blocks around.

    Where a block is mixed (an edge, a vessel), each of its voxels goes with the like voxels around, itself left out. The
    model of the mean power is A^2 |1 - F + F c(t)|^2 exp(-2 R2* t) + 2 sigma^2, noise included.
    """
    signal, index, noise_sd = tissue.signal, tissue.index, tissue.noise_sd
    fat = tissue.fat if with_fat else np.ones_like(tissue.fat)
    squared = (signal.real**2 + signal.imag**2) * np.float32(1 / noise_sd**2)
    n_blocks = blocks.n_voxels.size
    weight = blocks.n_voxels.astype(np.float32)
    powers = np.stack([np.bincount(blocks.of_voxel, power, n_blocks) / weight for power in squared.T], axis=1).astype(np.float32)
    templates = np.abs(1 - _FAT_SHARES[:, None] * (1 - fat)) ** 2
    t = tissue.echo_times_s
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


@njit()
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


@njit(parallel=True)
def _pooled(
    powers: AnyArray, n_voxels: AnyArray, index: AnyArray, places: AnyArray, reach: AnyArray, without_itself: bool
) -> AnyArray:  # pragma: no cover - compiled
    """(place, echo) mean power over the nodes around that differ from the node there by no more than noise.

    Echoes are padded with nothing to a multiple of eight, so that sums over them are vectors.
    """
    n_nodes, n_echoes = powers.shape
    width = 8 * ((n_echoes + 7) // 8)
    nx, ny, nz = index.shape
    mean = np.empty((places.shape[0], n_echoes), np.float32)
    limit = np.float32(n_echoes + _ALIKE * np.sqrt(2.0 * n_echoes))
    known = np.ones((n_nodes, 2 * width), np.float32)  # power, and its variance
    for c in prange(n_nodes):
        known[c, :width] = 0
        for e in range(n_echoes):
            power = powers[c, e]
            known[c, e] = power
            noise = (np.float32(4) * max(power - np.float32(2), np.float32(0)) + np.float32(4)) / n_voxels[c]
            known[c, width + e] = noise + np.float32(0.5) * _SPREAD2 * power * power
    for chunk in prange((places.shape[0] + _CHUNK - 1) // _CHUNK):
        sums = np.empty(width, np.float32)
        mine = np.empty(2 * width, np.float32)
        for p in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, places.shape[0])):
            x, y, z = places[p]
            b = index[x, y, z]
            total = np.float32(0)
            sums[:] = 0
            mine[:] = known[b]
            for i in range(max(x - reach[0], 0), min(x + reach[0] + 1, nx)):
                for j in range(max(y - reach[1], 0), min(y + reach[1] + 1, ny)):
                    for k in range(max(z - reach[2], 0), min(z + reach[2] + 1, nz)):
                        c = index[i, j, k]
                        if c < 0 or (without_itself and c == b):
                            continue
                        apart = np.float32(0)
                        for e in range(width):
                            difference = mine[e] - known[c, e]
                            apart += difference * difference / (mine[width + e] + known[c, width + e])
                        weight = n_voxels[c] if apart < limit else np.float32(0)
                        total += weight
                        for e in range(width):
                            sums[e] += weight * known[c, e]
            for e in range(n_echoes):
                mean[p, e] = sums[e] / total if total > 0 else powers[b, e]
    return mean


@njit(parallel=True)
def _decays(powers: AnyArray, templates: AnyArray, t: AnyArray) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Squared SNR at TE = 0 and R2* of each node: Gauss-Newton on (log A^2, R2*) for each share of fat, the best kept.

    A lane of nodes goes on until the last of them has arrived.
    """
    n_nodes, n_echoes = powers.shape
    amplitude2 = np.empty(n_nodes, np.float32)
    r2star = np.empty(n_nodes, np.float32)
    for chunk in prange((n_nodes + _CHUNK - 1) // _CHUNK):
        start, power = np.zeros((2, LANES)), np.ones((n_echoes, LANES))
        for first in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, n_nodes), LANES):
            count = min(LANES, n_nodes - first)
            for k in range(count):
                for e in range(n_echoes):
                    power[e, k] = max(powers[first + k, e], np.float32(0.1))
                # the line through the first two echoes above the floor
                one, two = max(power[0, k] - _FLOOR, 0.3), max(power[1, k] - _FLOOR, 0.1)
                start[1, k] = min(max(0.5 * np.log(one / two) / (t[1] - t[0]), 20.0), 3000.0)
                start[0, k] = np.log(one) + 2 * start[1, k] * t[0]
            best = _best_decay(power, templates, t, start)
            for k in range(count):
                amplitude2[first + k] = np.exp(min(best[0, k], 30.0))
                r2star[first + k] = best[1, k]
    return amplitude2, r2star


@njit(error_model="numpy")
def _best_decay(power: AnyArray, templates: AnyArray, t: AnyArray, start: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(2, lane) log A^2 and R2* of the share of fat that fits best."""
    n_echoes = t.size
    even = evenly(t)
    best = np.zeros((3, LANES))
    best[2, :] = 1e30
    scratch = np.zeros((2, LANES))
    bits = scratch.view(np.int64)
    decay, factor = np.zeros(LANES), np.zeros(LANES)
    for f in range(templates.shape[0]):
        here = start.copy() if f == 0 else best[:2].copy()
        s = np.zeros((7, LANES))
        for _ in range(_N_ITERATIONS):
            s = np.zeros((7, LANES))
            for k in range(LANES):
                decay[k], factor[k] = here[0, k] - 2 * here[1, k] * t[0], -2 * here[1, k] * (t[1] - t[0])
            exponential(decay, scratch, bits)
            exponential(factor, scratch, bits)
            for e in range(n_echoes):
                fat, time = templates[f, e], t[e]
                if not even and e > 0:
                    for k in range(LANES):
                        decay[k] = here[0, k] - 2 * here[1, k] * time
                    exponential(decay, scratch, bits)
                for k in range(LANES):
                    signal = decay[k] * fat
                    model = signal + _FLOOR
                    # the logarithm of the ratio, near enough where it matters
                    residual = 2 * (power[e, k] - model) / (power[e, k] + model)
                    slope = signal / model
                    weight = model * model / (2 * signal + 1 + _SPREAD2 * model * model)
                    weighted = weight * slope
                    s[0, k] += weighted * slope
                    s[1, k] -= 2 * time * weighted * slope
                    s[2, k] += 4 * time * time * weighted * slope
                    s[3, k] += weighted * residual
                    s[4, k] -= 2 * time * weighted * residual
                    s[5, k] += weight * residual * residual
                    decay[k] *= factor[k]
            largest = 0.0
            for k in range(LANES):
                haa, har, hrr, ga, gr = s[0, k] + 1e-3, s[1, k], s[2, k] + 1e-9, s[3, k], s[4, k]
                inverse = 1 / (haa * hrr - har * har)
                more = (haa * gr - har * ga) * inverse
                # no more than a factor of e, nor 500 1/s, at a time
                here[0, k] += min(max((hrr * ga - har * gr) * inverse, -2.0), 2.0)
                here[1, k] = min(max(here[1, k] + min(max(more, -500.0), 500.0), 0.0), _TOP_PER_S)
                largest = max(largest, abs(more))
            if largest < _NEAR_PER_S:
                break
        for k in range(LANES):
            # fat is rather little than much where nothing else tells
            cost = s[5, k] + 0.02 * f
            if cost < best[2, k]:
                best[0, k], best[1, k], best[2, k] = here[0, k], here[1, k], cost
    return best


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpectedErrors:
    """Standard errors for lean tissue of unit SNR at TE = 0, over a raster of R2* [1/s].

    Attributes
    ----------
    field_free, pdff_free
        Of the field [Hz] and PDFF [points] where W and F are complex and independent and the field is unknown.
    pdff_constrained, r2star_constrained
        Of PDFF [points] and R2* [1/s] where they share one phase and the field is known.
    r2star_alone
        Of R2* [1/s] where there is no fat unknown.
    """

    r2star_per_s: FloatArray
    field_free: FloatArray
    pdff_free: FloatArray
    pdff_constrained: FloatArray
    r2star_constrained: FloatArray
    r2star_alone: FloatArray

    def at(self, errors: FloatArray, decay: LocalDecay) -> FloatArray:
        """(voxel,) one of the errors at each voxel's local R2* and SNR."""
        expected: FloatArray = _interpolated(decay.r2star_per_s, decay.snr, np.log(errors), float(self.r2star_per_s[1]))
        return expected


@njit(parallel=True, error_model="numpy")
def _interpolated(r2star: AnyArray, snr: AnyArray, log_errors: AnyArray, step: float) -> AnyArray:  # pragma: no cover - compiled
    """(voxel,) error of unit SNR, its logarithm linear between the steps of R2*, over the SNR."""
    expected = np.empty(r2star.size)
    for v in prange(r2star.size):
        at = min(max(r2star[v] / step, 0.0), log_errors.size - 1.0)
        before = min(int(at), log_errors.size - 2)
        share = at - before
        expected[v] = np.exp((1 - share) * log_errors[before] + share * log_errors[before + 1]) / snr[v]
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
        field_free=free[:, 0] / (2 * np.pi),
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


@dataclass(frozen=True, eq=False, kw_only=True)
class DecaysAround:
    """Of the voxels ``near`` the end of the data: mean and SD of the decays of the blocks around [1/s]."""

    near: IntArray
    mean_per_s: FloatArray
    sd_per_s: FloatArray


def decays_around(decay: LocalDecay, expected_se_per_s: FloatArray, blocks: Blocks) -> DecaysAround:
    """How much the neighbourhoods around differ, which says how far one's decay may be off, by chance or by another tissue in it."""
    near = np.flatnonzero((expected_se_per_s > _NEAR_THE_LIMIT * decay.r2star_per_s) & (decay.r2star_per_s > _NO_DECAY_PER_S))
    block, rate = blocks.of_voxel[near], decay.r2star_per_s[near]
    n_near = np.bincount(block, minlength=blocks.n_voxels.size)
    there = n_near > 0.5 * blocks.n_voxels
    mean = np.where(there, np.bincount(block, rate, n_near.size) / np.maximum(n_near, 1), 0) / _TOP_PER_S
    first, second = around(there + 1j * mean, blocks.index), around(mean**2 + 0j, blocks.index).real
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = first.imag / first.real
        sd = np.sqrt(np.maximum(second / first.real - centre**2, 0))
    return DecaysAround(near=near, mean_per_s=_TOP_PER_S * centre[block], sd_per_s=_TOP_PER_S * sd[block])


def cautious(decay: LocalDecay, those: DecaysAround, first_echo_s: float) -> LocalDecay:
    """The decay that decides what is given: near the end of the data, one SD above the mean of the blocks around, if that is more.

    Where a neighbourhood's decay came out too slow every number there would be too low and look certain.
    """
    more = np.fmax(those.mean_per_s + those.sd_per_s - decay.r2star_per_s[those.near], 0)
    return _faster(decay, those.near, more, first_echo_s)


@dataclass(frozen=True, eq=False, kw_only=True)
class ErrorsNearTheEnd:
    """(voxel of ``DecaysAround.near``,) what the neighbourhood allows there.

    Attributes
    ----------
    expected
        Standard error by the neighbourhood's decay.
    inflation
        What a standard error is to be multiplied by, as the decay that it follows from is uncertain. A standard error grows like an
        exponential of the decay, exp(k R2*), so that of an uncertain one, of variance s^2, its mean square is exp(2 k^2 s^2) times
        that of the mean.
    """

    expected: FloatArray
    inflation: FloatArray


def errors_near_the_end(
    errors: FloatArray, expected: ExpectedErrors, decay: LocalDecay, those: DecaysAround, first_echo_s: float
) -> ErrorsNearTheEnd:
    """One of the ``errors`` of ``expected`` where the data end."""
    here = LocalDecay(snr=decay.snr[those.near], r2star_per_s=decay.r2star_per_s[those.near])
    below = np.fmax(those.mean_per_s - here.r2star_per_s, 0)
    uncertain = np.hypot(those.sd_per_s, below)
    faster = _faster(here, np.arange(those.near.size), np.where(np.isfinite(uncertain), uncertain, 0), first_echo_s)
    of_mean = expected.at(errors, here)
    with np.errstate(invalid="ignore", divide="ignore"):
        grown = np.log(expected.at(errors, faster) / of_mean)
    return ErrorsNearTheEnd(expected=of_mean, inflation=np.exp(np.clip(np.nan_to_num(grown), 0, _LARGEST_GROWTH) ** 2))


def both_errors(own: FloatArray, near_the_end: ErrorsNearTheEnd) -> FloatArray:
    """Root mean square of the fit's ``own`` standard errors and of the neighbourhood's, that times the inflation.

    Noise that lengthens W + F makes a voxel's fat fraction larger and its own standard error smaller, so that the fractions
    that are most off would look most certain; the neighbourhood's brightness does not know that noise.
    """
    both: FloatArray = np.hypot(own, near_the_end.expected * near_the_end.inflation) / np.sqrt(2)
    return both


def _faster(decay: LocalDecay, which: IntArray, more_per_s: FloatArray, first_echo_s: float) -> LocalDecay:
    """The decay with ``more_per_s`` at the voxels ``which``, their first echo as bright as it is."""
    faster = LocalDecay(snr=decay.snr.copy(), r2star_per_s=decay.r2star_per_s.copy())
    faster.r2star_per_s[which] += more_per_s
    faster.snr[which] *= np.exp(more_per_s * first_echo_s)
    return faster


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

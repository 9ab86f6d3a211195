"""Standard errors that no estimate can beat, over a raster of R2*, and the highest R2* that can be measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.compiled import njit, prange

SHARES = np.array([0.0, 0.15, 0.35])
"""Shares of fat for which the error of the fat fraction is worked out."""
R2STAR_RANGE_PER_S = 2000.0
LARGEST_RELATIVE_SE = 0.35
"""Beyond this ratio of standard error to R2* the estimate is skewed and its interval useless."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalDecay:
    """(voxel,) amplitude at TE = 0 over the noise SD and R2* [1/s] of the neighbourhood."""

    snr: FloatArray
    r2star_per_s: FloatArray

    def of(self, which: IntArray) -> LocalDecay:
        """That of the voxels ``which``."""
        return LocalDecay(snr=self.snr[which], r2star_per_s=self.r2star_per_s[which])


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpectedErrors:
    """Standard errors for lean tissue of unit SNR at TE = 0, over a raster of R2* [1/s].

    Attributes
    ----------
    field_free, pdff_free
        Of the field [Hz] and PDFF [points] where W and F are complex and independent and the field is unknown.
    pdff_constrained, r2star_constrained
        Of PDFF [points] and R2* [1/s] where they share one phase and the field is known.
    pdff_of_share
        (share, R2*) of PDFF [points] likewise, but in tissue with each of :data:`SHARES` of fat.
    r2star_alone
        Of R2* [1/s] where there is no fat unknown.
    """

    r2star_per_s: FloatArray
    field_free: FloatArray
    pdff_free: FloatArray
    pdff_constrained: FloatArray
    r2star_constrained: FloatArray
    pdff_of_share: FloatArray
    r2star_alone: FloatArray

    def of_r2star(self, *, with_fat: bool) -> FloatArray:
        """(R2*,) error of R2*, with or without a fat unknown."""
        return self.r2star_constrained if with_fat else self.r2star_alone

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
    of_share = []
    for share in SHARES:
        mixture = (1 - share + share * fat) * decay
        columns = [-echo_times_s * mixture, 1j * mixture, mixture, (fat - 1) * decay]
        of_share.append(100 * np.sqrt(_variances(np.stack(columns, axis=-1))[:, 3]))
    return ExpectedErrors(
        r2star_per_s=r2star,
        field_free=free[:, 0] / (2 * np.pi),
        pdff_free=100 * free[:, 4],
        pdff_constrained=100 * constrained[:, 3],
        r2star_constrained=constrained[:, 0],
        pdff_of_share=np.stack(of_share),
        r2star_alone=np.sqrt(_variances(np.stack([slope, decay], axis=-1)))[:, 0],
    )


def _variances(jacobian: ComplexArray) -> FloatArray:
    """(point, parameter) of the inverse of Re(J^H J), scaled so that a column of any size is inverted alike."""
    fisher = np.einsum("rei,rej->rij", jacobian.conj(), jacobian).real
    size = np.sqrt(np.einsum("rii->ri", fisher))
    inverse = np.linalg.pinv(fisher / (size[:, :, None] * size[:, None, :]), rcond=1e-13, hermitian=True)
    variances: FloatArray = np.maximum(np.einsum("rii->ri", inverse), 1e-30) / size**2
    return variances


def r2star_limit_per_s(echo_times_s: FloatArray, snr: float, fat: ComplexArray | None = None) -> float:
    """Highest R2* [1/s] of one tissue, as :func:`r2star_limits_per_s`."""
    return float(r2star_limits_per_s(echo_times_s, np.array([snr]), fat)[0])


def r2star_limits_per_s(echo_times_s: FloatArray, snr: FloatArray, fat: ComplexArray | None = None) -> FloatArray:
    """(tissue,) highest R2* [1/s], at most 2,000, whose standard error is a third of it, 0 if none; ``snr`` (tissue,) is at TE = 0.

    With two echoes (``fat`` None) of a decay with unknown amplitude, else of the constrained water-fat model.
    """
    raster = np.arange(50.0, R2STAR_RANGE_PER_S + 1, 10.0)
    decay = np.exp(-np.outer(raster, echo_times_s)) + 0j
    columns = [-echo_times_s * decay, decay] if fat is None else [-echo_times_s * decay, 1j * decay, decay, fat * decay]
    needed_snr = np.sqrt(_variances(np.stack(columns, axis=-1))[:, 0]) / (LARGEST_RELATIVE_SE * raster)
    of_this_or_higher = np.minimum.accumulate(needed_snr[::-1])[::-1]
    limits: FloatArray = np.append(0, raster).astype(np.float32)[np.searchsorted(of_this_or_higher, np.nan_to_num(snr), side="right")]
    return limits

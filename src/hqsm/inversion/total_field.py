"""Total-field inversion with a prior that knows what may be strong, and where (:mod:`hqsm.inversion.source_model`).

The posterior mean solves (A' w^2 A + 1) z = A' w^2 (f - D m) by conjugate gradients, first on voxels of about 3 mm, then
on the images' own. Data that the model cannot explain are left out and it is solved again. The posterior standard
deviation of any weighted sum of voxels is one more solution on the coarse voxels: it has the null space of the dipole,
the unknown surfaces and surroundings in it, not the noise alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hqsm.arrays import AnyArray, FloatArray
from hqsm.data import Solution, TotalField
from hqsm.inversion.source_model import Beyond, Preconditioner, Reduced, SourceModel, SourcePrior, block_mean
from hqsm.solvers import conjugate_gradient

_COARSE_MM = 3.0
_LOCAL_MM = 12.0
_LOCAL_TOLERANCE = 0.03
_LOCAL_ITERATIONS = 30
"""Of the images' own voxels, after the coarse ones: what is left is local, and a few steps find it."""
_OUTLIER_SD = 8.0
_FEW_OUTLIERS = 0.001
_VARIANCE_TOLERANCE = 0.03
"""Of the solution that a standard deviation is computed from; its own error is the square of it."""


class _Problem:
    """The model with its reduced problem and preconditioner."""

    def __init__(self, total: TotalField, noise_ppm: FloatArray, prior: SourcePrior) -> None:
        self.total, self.noise_ppm = total, noise_ppm
        self.model = SourceModel(total, noise_ppm, prior)
        self.renew()

    def renew(self) -> None:
        self.reduced = Reduced(self.model)
        self.precondition = Preconditioner(self.model, self.reduced)

    def solve(self, start: FloatArray, tolerance: float, max_iterations: int) -> Solution:
        return conjugate_gradient(
            self.model.normal,
            self.model.right_hand_side(),
            start=start,
            precondition=self.precondition,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )

    def leave_out_outliers(self, unknowns: FloatArray) -> float:
        """Leave out what is more than 8 standard errors from the model; the share of the data that it is."""
        mask = self.total.mask
        within = np.abs(self.model.residual_ppm(unknowns)) < _OUTLIER_SD * self.noise_ppm
        self.model.set_noise(mask & within, self.noise_ppm)
        return float(1 - (mask & within).sum() / max(mask.sum(), 1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Posterior:
    """What the inversion knows.

    Attributes
    ----------
    chi_ppm
        (x, y, z) posterior mean of the susceptibility.
    regional_ppm
        (x, y, z) the estimate by regions: organs and shared deviations alone, from the same data.
    solution
        Convergence of the coarse iteration, which carries the levels.
    outlier_share
        Share of the data that the model could not explain and that were left out.
    """

    chi_ppm: FloatArray
    regional_ppm: FloatArray
    solution: Solution
    outlier_share: float
    _coarse: _Problem
    _factors: tuple[int, ...]

    def standard_deviation_ppm(self, weights: FloatArray) -> float:
        """Posterior standard deviation of sum(weights * susceptibility), weights (x, y, z)."""
        functional = self._coarse.model.functional(_sum(weights, self._factors))
        solved = conjugate_gradient(
            self._coarse.model.normal,
            functional,
            precondition=self._coarse.precondition,
            tolerance=_VARIANCE_TOLERANCE,
            max_iterations=200,
        )
        return float(np.sqrt(max(float(np.vdot(functional, solved.x)), 0.0)))


def invert(total: TotalField, noise_ppm: FloatArray, prior: SourcePrior, *, tolerance: float, max_iterations: int) -> Posterior:
    """Posterior of the sources' susceptibility, given the field.

    Parameters
    ----------
    total
        Total field; voxels outside ``total.mask`` carry no data but may carry sources.
    noise_ppm
        (x, y, z) standard error of the field [ppm]; used inside ``total.mask``.
    prior
        Expected sources.
    tolerance, max_iterations
        Of the conjugate gradients.
    """
    factors = tuple(max(1, int(_COARSE_MM / float(d) + 0.01)) for d in total.grid.voxel_size_mm)
    coarse = _Problem(*_binned(total, noise_ppm, prior, factors))
    solution = coarse.solve(coarse.reduced.solve(), tolerance, max_iterations)
    outlier_share = coarse.leave_out_outliers(np.asarray(solution.x))
    if outlier_share > _FEW_OUTLIERS:
        coarse.renew()
        solution = coarse.solve(np.asarray(solution.x), tolerance, max_iterations)
    regional = _interpolated(coarse.model.susceptibility_ppm(coarse.reduced.solve()), factors, total.grid.shape)
    if max(factors) == 1:
        chi = coarse.model.susceptibility_ppm(np.asarray(solution.x))
    else:
        chi = _refined(total, noise_ppm, prior, coarse, np.asarray(solution.x), factors)
    return Posterior(
        chi_ppm=chi,
        regional_ppm=regional,
        solution=solution,
        outlier_share=outlier_share,
        _coarse=coarse,
        _factors=factors,
    )


def _refined(
    total: TotalField, noise_ppm: FloatArray, prior: SourcePrior, coarse: _Problem, unknowns: FloatArray, factors: tuple[int, ...]
) -> FloatArray:
    """The coarse map interpolated, and what of the field it leaves, as sources of the images' own voxels.

    What is left is local: no organs, no shared deviations, little around the images.
    """
    model = coarse.model
    shape = total.grid.shape
    coarse_field = coarse.total.field_ppm - model.residual_ppm(unknowns)
    kept = _nearest(model.weight2[model.inside] > 0, factors, shape)
    left = TotalField(
        field_ppm=(total.field_ppm - _interpolated(coarse_field, factors, shape)).astype(np.float32),
        weight=total.weight,
        mask=total.mask & kept,
        grid=total.grid,
    )
    around = Beyond(padding_mm=_LOCAL_MM, sd_ppm=0.0, smooth_sd_ppm=0.0, harmonic_sd_ppm=0.1)
    local = _Problem(left, noise_ppm, SourcePrior(mean_ppm=np.zeros(shape, np.float32), sd_ppm=prior.sd_ppm, beyond=around))
    solution = local.solve(np.zeros(local.model.n_unknowns, np.float32), _LOCAL_TOLERANCE, _LOCAL_ITERATIONS)
    correction = local.model.susceptibility_ppm(np.asarray(solution.x))
    return np.asarray(_interpolated(model.susceptibility_ppm(unknowns), factors, shape) + correction, np.float32)


def _binned(
    total: TotalField, noise_ppm: FloatArray, prior: SourcePrior, factors: tuple[int, ...]
) -> tuple[TotalField, FloatArray, SourcePrior]:
    """Data and prior on voxels that are ``factors`` times larger; errors that neighbours share stay, noise is counted as one."""
    if max(factors) == 1:
        return total, noise_ppm, prior
    data = total.mask.astype(np.float32)
    weight2 = _mean(data / np.where(total.mask, noise_ppm, 1) ** 2, factors)
    mask = _mean(data, factors) > 0.5
    field = _mean(data * total.field_ppm / np.where(total.mask, noise_ppm, 1) ** 2, factors) / np.maximum(weight2, 1e-12)
    noise = np.where(mask, np.sqrt(np.maximum(_mean(data, factors), 1e-12) / np.maximum(weight2, 1e-12)), 1)
    grid = total.grid.binned(factors)
    coarse = TotalField(field_ppm=np.where(mask, field, 0).astype(np.float32), weight=mask.astype(np.float32), mask=mask, grid=grid)
    return (
        coarse,
        noise.astype(np.float32),
        replace(
            prior,
            mean_ppm=_mean(prior.mean_ppm, factors),
            sd_ppm=_mean(prior.sd_ppm, factors),
            organs=tuple(replace(organ, share=_mean(organ.share, factors)) for organ in prior.organs),
            smooth=tuple(replace(part, sd_ppm=_mean(part.sd_ppm, factors)) for part in prior.smooth),
        ),
    )


def _filled(volume: AnyArray, factors: tuple[int, ...]) -> AnyArray:
    """Extended at its far ends so that the factors divide its shape."""
    return np.pad(volume, [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)], mode="edge")


def _mean(volume: FloatArray, factors: tuple[int, ...]) -> FloatArray:
    return block_mean(_filled(volume, factors), factors).astype(np.float32)


def _sum(volume: FloatArray, factors: tuple[int, ...]) -> FloatArray:
    return _mean(np.pad(volume, [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)]), factors) * np.float32(np.prod(factors))


def _nearest(volume: AnyArray, factors: tuple[int, ...], shape: tuple[int, ...]) -> AnyArray:
    for axis, f in enumerate(factors):
        volume = np.repeat(volume, f, axis=axis)
    return volume[tuple(slice(0, n) for n in shape)]


def _interpolated(volume: FloatArray, factors: tuple[int, ...], shape: tuple[int, ...]) -> FloatArray:
    """Linear interpolation from the centres of the larger voxels."""
    for axis, (f, n) in enumerate(zip(factors, shape, strict=True)):
        if f == 1:
            continue
        position = np.clip((np.arange(n) + 0.5) / f - 0.5, 0, volume.shape[axis] - 1)
        low = np.minimum(position.astype(int), volume.shape[axis] - 2)
        part = (position - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        volume = np.take(volume, low, axis=axis) * (1 - part) + np.take(volume, low + 1, axis=axis) * part
    return volume

"""Total-field inversion with a prior that knows what may be strong, and where (:mod:`hqsm.inversion.source_model`).

The posterior mean solves (A' w^2 A + 1) z = A' w^2 (f - D m) by conjugate gradients, first on voxels of about 3 mm, then
on the images' own. Data that the model cannot explain are left out, neighbours in the liver that are together farther
from it than independent voxels would be are believed, and it is solved again. The posterior standard
deviation of any weighted sum of voxels is one more solution on the coarse voxels: it has the null space of the dipole,
the unknown surfaces and surroundings in it, not the noise alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from hqsm.array_library import ToLibrary, to_numpy
from hqsm.arrays import FloatArray, box_around
from hqsm.coarse_grid import CoarseGrid
from hqsm.data import Solution, TotalField
from hqsm.inversion.reduced import Preconditioner, Reduced
from hqsm.inversion.source_model import SURELY_AIR_PPM, Beyond, SourceModel, SourcePrior
from hqsm.solvers import conjugate_gradient

_COARSE_MM = 3.0
_MARGIN_VOXELS = 2
_LOCAL_MM = 12.0
_LOCAL_TOLERANCE = 0.03
_LOCAL_ITERATIONS = 30
"""Of the images' own voxels, after the coarse ones: what is left is local, and a few steps find it."""
_LOCAL_HARMONICS = 0.05
"""What is left of shim and far body then, over what was expected of them."""
_OUTLIER_SD = 8.0
_FEW_OUTLIERS, _MANY_OUTLIERS = 0.001, 0.01
_MORE_PASSES = 3
_LESION_BLUR_MM = 4.0
_BEYOND_BELIEF_SD = 2.5
_LESION_GAIN = 3.0
"""A lesion of 15 mm keeps about half of its contrast against the prior of independent voxels, and two thirds of that in the blurred
map: what it may be is thrice what is seen there."""
_LESION_ITERATIONS = 25
_VARIANCE_TOLERANCE = 0.03
_VARIANCE_GAIN = 0.03
"""Of the solution that a variance is computed from: its residual (the variance's own error is the square of it), or the share
that the last ten steps added to the whole variance. It grows with the steps: the whole standard error is then up to 2 % low
(measured against 300 steps: docs/susceptibility_accuracy.md)."""


class _Problem:
    """The model with its reduced problem and preconditioner, which are numpy's, and the library that they are solved in."""

    def __init__(self, total: TotalField, noise_ppm: FloatArray, model: SourceModel, library: ToLibrary = np.asarray) -> None:
        self.total, self.noise_ppm, self.model, self.library = total, noise_ppm, model, library
        self.reduced = Reduced(self.model)
        self.precondition = Preconditioner(self.model, self.reduced)

    def solve(self, start: FloatArray, tolerance: float, max_iterations: int, min_iterations: int = 0) -> Solution:
        return self._solved(
            self.model.right_hand_side(),
            start=self.library(start),
            tolerance=tolerance,
            min_iterations=min_iterations,
            max_iterations=max_iterations,
        )

    def solve_for_variance(self, functional: FloatArray, beside_ppm2: float) -> Solution:
        """What the variance of a sum of voxels is computed from; it will be added to ``beside_ppm2``."""
        return self._solved(
            functional, tolerance=_VARIANCE_TOLERANCE, energy_tolerance=_VARIANCE_GAIN, energy_beside=beside_ppm2, max_iterations=200
        )

    def _solved(self, right_hand_side: FloatArray, **settings: Any) -> Solution:
        model, precondition = self.model.to(self.library), self.precondition.to(self.library)
        found = conjugate_gradient(model.normal, self.library(right_hand_side), precondition=precondition, **settings)
        return replace(found, x=to_numpy(found.x))

    def leave_out_outliers(self, unknowns: FloatArray) -> float:
        """Leave out what is more than 8 standard errors from the model; the share of the data that it is."""
        mask = self.total.mask
        within = np.abs(self.model.residual_ppm(unknowns)) < _OUTLIER_SD * self.noise_ppm
        share = float(1 - (mask & within).sum() / max(mask.sum(), 1))
        if share > 0:
            self.model.set_noise(mask & within, self.noise_ppm)
            self.reduced.reweigh()
            self.precondition = Preconditioner(self.model, self.reduced)
        return share

    def believe_lesions(self, unknowns: FloatArray) -> FloatArray | None:
        """Widen the prior where neighbours differ together from an organ that may hold lesions; about the same map by the new prior.

        The mean of independent voxels over a centimetre has a standard deviation of its own under the prior: a lesion, a
        vessel, anything with a shape goes beyond it, noise and uneven iron do not. None where nothing does.
        """
        model = self.model
        sd = np.ascontiguousarray(model.sd_ppm[model.inside])
        mean, mean_sd = _blurred_with_sd(model.of_voxels_ppm(unknowns)[model.inside], sd, model.grid.voxel_size_mm)
        seen = np.where(model.deep & (np.abs(mean) > _BEYOND_BELIEF_SD * mean_sd), np.abs(mean), 0)
        around = [2 * round(_LESION_BLUR_MM / float(d)) + 1 for d in model.grid.voxel_size_mm]
        wider = np.where(model.deep, np.maximum(_LESION_GAIN * ndimage.maximum_filter(seen, size=around), sd), sd).astype(np.float32)
        if np.array_equal(wider, sd):
            return None
        same_map = unknowns.copy()
        same_map[: model.n_voxels].reshape(model.shape)[model.inside] *= sd / np.maximum(wider, np.finfo(np.float32).tiny)
        model.sd_ppm[model.inside] = wider
        self.precondition = Preconditioner(model, self.reduced)
        return same_map


def _blurred_with_sd(values: FloatArray, sd: FloatArray, voxel_size_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gaussian means of ``values``, and their standard deviation were they independent with standard deviation ``sd``."""
    kernels = [_gaussian(_LESION_BLUR_MM / float(d)) for d in voxel_size_mm]
    mean, variance = values, sd**2
    for axis, kernel in enumerate(kernels):
        mean = ndimage.correlate1d(mean, kernel, axis=axis, mode="constant")
        variance = ndimage.correlate1d(variance, kernel**2, axis=axis, mode="constant")
    return mean, np.sqrt(variance)


def _gaussian(sigma: float) -> FloatArray:
    at = np.arange(-int(3 * sigma + 0.5), int(3 * sigma + 0.5) + 1)
    kernel = np.exp(-0.5 * (at / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())


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
    _larger: CoarseGrid
    _box: tuple[slice, ...]

    def standard_deviation_ppm(self, weights: FloatArray, beside_ppm: float = 0.0) -> float:
        """Posterior standard deviation of sum(weights * susceptibility), weights (x, y, z).

        ``beside_ppm`` is an independent error that it will be joined with: the sum of both is what is computed to a few per cent.
        """
        functional = self._coarse.model.functional(self._larger.sum(weights[self._box]))
        solved = self._coarse.solve_for_variance(functional, beside_ppm**2)
        return float(np.sqrt(max(float(np.vdot(functional, solved.x)), 0.0)))


class Inversion:
    """Data and model, ready to be solved: of the expected sources it keeps what it needs, so that their volumes can be let go.

    Parameters
    ----------
    total
        Total field; voxels outside ``total.mask`` carry no data but may carry sources.
    noise_ppm
        (x, y, z) standard error of the field [ppm]; used inside ``total.mask``.
    prior
        Expected sources.
    library
        Makes arrays of the library that iterates.
    """

    def __init__(self, total: TotalField, noise_ppm: FloatArray, prior: SourcePrior, library: ToLibrary = np.asarray) -> None:
        self._library = library
        self._mean_ppm, self._box = prior.mean_ppm, _box_of_tissue(prior)
        self._total, self._noise_ppm, prior = _cropped(total, noise_ppm, prior, self._box)
        self._sd_ppm, self._beyond = prior.sd_ppm, prior.beyond
        self._larger = CoarseGrid(self._total.grid, _COARSE_MM)
        self._coarse_total, self._coarse_noise_ppm, prior = _on_larger_voxels(self._total, self._noise_ppm, prior, self._larger)
        self._model = SourceModel(self._coarse_total, self._coarse_noise_ppm, prior)

    def posterior(self, *, tolerance: float, max_iterations: int) -> Posterior:
        """Posterior of the sources' susceptibility, given the field; the arguments are those of the conjugate gradients."""
        coarse = _Problem(self._coarse_total, self._coarse_noise_ppm, self._model, self._library)
        solution = coarse.solve(coarse.reduced.solve(), tolerance, max_iterations)
        unknowns = np.asarray(solution.x)
        outlier_share = coarse.leave_out_outliers(unknowns)
        with_lesions = coarse.believe_lesions(unknowns)
        if outlier_share > _FEW_OUTLIERS or with_lesions is not None:
            start, at_least = (unknowns, 0) if with_lesions is None else (with_lesions, _LESION_ITERATIONS)
            solution = coarse.solve(start, tolerance, max_iterations, at_least)
        # a large swapped region pulls the first model towards itself: what it was is seen by the second
        for _ in range(_MORE_PASSES if outlier_share > _MANY_OUTLIERS else 0):
            before, outlier_share = outlier_share, coarse.leave_out_outliers(np.asarray(solution.x))
            if abs(outlier_share - before) < _FEW_OUTLIERS:
                break
            solution = coarse.solve(np.asarray(solution.x), tolerance, max_iterations)
        unknowns = np.asarray(solution.x)
        chi, regional = (self._mean_ppm.astype(np.float32) for _ in range(2))
        regional[self._box] = self._larger.interpolated(coarse.model.susceptibility_ppm(coarse.reduced.solve()))
        del coarse.reduced  # the preconditioner has its own copy of the inverse
        chi[self._box] = coarse.model.susceptibility_ppm(unknowns) if self._larger.is_same else self._refined(coarse, unknowns)
        return Posterior(
            chi_ppm=chi,
            regional_ppm=regional,
            solution=solution,
            outlier_share=outlier_share,
            _coarse=coarse,
            _larger=self._larger,
            _box=self._box,
        )

    def _refined(self, coarse: _Problem, unknowns: FloatArray) -> FloatArray:
        """The coarse map interpolated, and what of the field it leaves, as sources of the images' own voxels.

        What is left is local: no organs, no shared deviations, little around the images.
        """
        model, larger, total = coarse.model, self._larger, self._total
        coarse_field = coarse.total.field_ppm - model.residual_ppm(unknowns)
        left = TotalField(
            field_ppm=(total.field_ppm - larger.interpolated(coarse_field)).astype(np.float32),
            weight=total.weight,
            mask=total.mask & larger.nearest(model.weight2 > 0),
            grid=total.grid,
        )
        harmonic_sd_ppm = _LOCAL_HARMONICS * self._beyond.harmonic_sd_ppm
        around = Beyond(padding_mm=_LOCAL_MM, sd_ppm=0.0, smooth_sd_ppm=0.0, near_sd_ppm=0.0, harmonic_sd_ppm=harmonic_sd_ppm)
        # as much wider as the coarse prior has become
        wider = larger.nearest(model.sd_ppm[model.inside] / np.maximum(larger.mean(self._sd_ppm), np.finfo(np.float32).tiny))
        sd_ppm = self._sd_ppm * np.maximum(wider, 1)
        prior = SourcePrior(mean_ppm=np.zeros_like(sd_ppm), sd_ppm=sd_ppm, beyond=around)
        local = _Problem(left, self._noise_ppm, SourceModel(left, self._noise_ppm, prior), self._library)
        solution = local.solve(np.zeros(local.model.n_unknowns, np.float32), _LOCAL_TOLERANCE, _LOCAL_ITERATIONS)
        correction = local.model.susceptibility_ppm(np.asarray(solution.x))
        return np.asarray(larger.interpolated(model.susceptibility_ppm(unknowns)) + correction, np.float32)


def _box_of_tissue(prior: SourcePrior) -> tuple[slice, ...]:
    """Where there is anything but air around the body, and a little more."""
    tissue = prior.mean_ppm < SURELY_AIR_PPM
    if not tissue.any():
        return tuple(slice(0, n) for n in tissue.shape)
    return tuple(
        slice(max(0, found.start - _MARGIN_VOXELS), min(n, found.stop + _MARGIN_VOXELS))
        for found, n in zip(box_around(tissue), tissue.shape, strict=True)
    )


def _cropped(
    total: TotalField, noise_ppm: FloatArray, prior: SourcePrior, box: tuple[slice, ...]
) -> tuple[TotalField, FloatArray, SourcePrior]:
    smaller = replace(total, field_ppm=total.field_ppm[box], weight=total.weight[box], mask=total.mask[box], grid=total.grid.cropped(box))
    return smaller, noise_ppm[box], _changed(prior, lambda volume: volume[box])


def _changed(prior: SourcePrior, change: Callable[[FloatArray], FloatArray]) -> SourcePrior:
    """The prior with every volume of it changed alike."""
    return replace(
        prior,
        mean_ppm=change(prior.mean_ppm),
        sd_ppm=change(prior.sd_ppm),
        organs=tuple(replace(organ, share=change(organ.share)) for organ in prior.organs),
        smooth=tuple(replace(part, sd_ppm=change(part.sd_ppm)) for part in prior.smooth),
        dome=prior.dome and replace(prior.dome, organ=change(prior.dome.organ), lung=change(prior.dome.lung)),
    )


def _on_larger_voxels(
    total: TotalField, noise_ppm: FloatArray, prior: SourcePrior, larger: CoarseGrid
) -> tuple[TotalField, FloatArray, SourcePrior]:
    """Data and prior on larger voxels; errors that neighbours share stay, noise is counted as one.

    A plain mean, as the modelled field is one: weighted by the finer voxels' noise it would be the field of another place,
    by tenths of a ppm beside a strong source, where noise changes from voxel to voxel.
    """
    if larger.is_same:
        return total, noise_ppm, prior
    data = total.mask.astype(np.float32)
    share = larger.mean(data)
    mask = share > 0.5
    held = np.maximum(share, 1e-12)
    field = np.where(mask, larger.mean(data * total.field_ppm) / held, 0).astype(np.float32)
    noise = np.where(mask, np.sqrt(larger.mean(data * noise_ppm**2) / held), 1).astype(np.float32)
    coarse = TotalField(field_ppm=field, weight=mask.astype(np.float32), mask=mask, grid=larger.grid)
    return coarse, noise, _changed(prior, larger.mean)

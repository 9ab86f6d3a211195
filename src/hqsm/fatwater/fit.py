"""What is fitted of each voxel: estimates with standard errors, and by which model.

The signal is s(t) = (W + F c(t)) exp(i 2 pi f t - R2* t). :mod:`hqsm.fatwater.free_fit` and
:mod:`hqsm.fatwater.constrained_fit` minimise |y - s|^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit

CHUNK = 4096
"""Voxels that one thread fits before it takes others."""

POOR = 2.5
"""Squared residual per degree of freedom, of the typical one, from which a fit is poor."""


class Estimates(NamedTuple):
    """What a fit found of n voxels, NaN where it did not converge; a named tuple because compiled code takes no dataclass.

    Attributes
    ----------
    linear
        (n, 2) complex64 W and F.
    nonlinear
        (n, 2) field [Hz] and R2* [1/s].
    errors
        (n, 3) standard errors of field [Hz], R2* [1/s] and PDFF [points], the last NaN where there is no fat unknown.
    residual
        (n,) squared residual.
    step
        (n,) float32 the step of Gauss and Newton that was left when the fit ended, in standard errors.
    """

    linear: AnyArray
    nonlinear: AnyArray
    errors: AnyArray
    residual: AnyArray
    step: AnyArray


def fits_poorly(residual: FloatArray, noise_sd: float, n_echoes: int) -> Mask:
    """(n,) where the squared ``residual`` is more than noise, and than what the model leaves everywhere, or there is no fit."""
    per_freedom = residual / (2 * noise_sd**2 * max(n_echoes - 3, 1))
    fitted = np.isfinite(residual)
    # counted first: a median takes ten times as long
    mostly_noise = 2 * np.count_nonzero(per_freedom <= 1) > np.count_nonzero(fitted)
    typical = 1.0 if mostly_noise or not fitted.any() else max(1.0, float(np.median(per_freedom[fitted])))
    return ~np.asarray(per_freedom < POOR * typical)


@njit()
def nothing_yet(n: int) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """The five arrays of :class:`Estimates` of ``n`` voxels, all NaN."""
    linear, step = np.full((n, 2), np.nan + 0j, np.complex64), np.full(n, np.nan, np.float32)
    return linear, np.full((n, 2), np.nan), np.full((n, 3), np.nan), np.full(n, np.nan), step


@dataclass(eq=False)
class Fit:
    """The fit as it grows: arrays over all voxels as in :class:`Estimates`, overwritten where a lower order replaces a higher one.

    ``model`` (voxel,) is the order of each voxel's, 0 where nothing converged.
    """

    linear: ComplexArray
    nonlinear: FloatArray
    errors: FloatArray
    residual: FloatArray
    step: FloatArray
    model: IntArray

    @classmethod
    def of(cls, found: Estimates, model: int) -> Fit:
        """A fit of every voxel, nothing before it."""
        return cls(*found, np.where(np.isfinite(found.residual), model, 0).astype(np.int8))

    def take(self, which: IntArray, found: Estimates, model: int, *, lowest_r2star_per_s: float = -np.inf) -> IntArray:
        """Keep what converged of the voxels ``which``, and return their numbers."""
        mine = Estimates(self.linear, self.nonlinear, self.errors, self.residual, self.step)
        kept: IntArray = which[_replace(which, found, lowest_r2star_per_s, mine, self.model, model)]
        return kept


@njit()
def _replace(
    which: AnyArray, new: Estimates, lowest: float, old: Estimates, model: AnyArray, number: int
) -> AnyArray:  # pragma: no cover - compiled
    new_linear, new_nonlinear, new_errors, new_residual, new_step = new
    linear, nonlinear, errors, residual, step = old
    done = np.isfinite(new_residual) & (new_nonlinear[:, 1] > lowest)
    for i in range(which.size):
        if done[i]:
            v = which[i]
            linear[v, 0], linear[v, 1] = new_linear[i, 0], new_linear[i, 1]
            nonlinear[v, 0], nonlinear[v, 1] = new_nonlinear[i, 0], new_nonlinear[i, 1]
            errors[v, 0], errors[v, 1], errors[v, 2] = new_errors[i, 0], new_errors[i, 1], new_errors[i, 2]
            residual[v], step[v], model[v] = new_residual[i], new_step[i], number
    return done

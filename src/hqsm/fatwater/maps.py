"""Maps of what was fitted: which numbers are given, put back into their volume, with what a person configured done to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hqsm import r2star
from hqsm.arrays import AnyArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit, prange
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.fatwater.bounds import LocalDecay
from hqsm.fatwater.decay import NO_DECAY_PER_S
from hqsm.fatwater.fit import Fit
from hqsm.fatwater.initialisation import InitialField
from hqsm.fatwater.measurability import Measurable
from hqsm.fatwater.pdff import pdff_percent, t1_weight_of_fat, without_t1
from hqsm.fatwater.tissue import Tissue
from hqsm.fit_models import CONSTRAINED
from hqsm.r2star.estimator_errors import estimator_errors

_LARGEST_PDFF_SE_PERCENT = 60.0
_FARTHEST_OUTSIDE_PERCENT, _FARTHEST_OUTSIDE_SE = 10.0, 4.0
"""Points and standard errors, the larger of the two, by which a fat fraction may lie below 0 or above 100."""
_LARGEST_RESIDUAL = 0.25
_CONVERGED, _STEP_LEFT, _NO_FIT = 1, 2, 3
_LARGEST_STEP = 0.1
"""Standard errors that a converged fit's next step may have: no more than half a percent is in what its estimate scatters by."""
_NOISE_LIKE = 8.0
"""Squared residual of each echo, in noise variances, up to which a large relative residual is noise."""


def assemble(
    echoes: MultiEcho,
    tissue: Tissue,
    fit: Fit,
    of_mixtures: FloatArray,
    far_off_hz: FloatArray,
    start: InitialField,
    measurable: Measurable,
    *,
    separable: bool,
) -> WaterFat:
    """The maps of what was fitted, each number only where it is known.

    ``of_mixtures`` (voxel, 3) is what a second tissue, or fat that the echoes cannot tell from water, adds to the errors of field, R2*
    and PDFF: it does not decide what is given.
    What lies ``far_off_hz`` (voxel,) its neighbours' lines may be on another field, with water and fat exchanged.
    """
    linear, nonlinear, errors = fit.linear, fit.nonlinear, fit.errors
    fitted = np.isfinite(fit.residual)
    censored = fitted & measurable.censored
    energy, brightest = tissue.powers
    relative = np.sqrt(fit.residual / energy)
    lit = fitted & (brightest > (3 * tissue.noise_sd) ** 2)
    decay_known = fitted & ~censored & ~measurable.lost
    with np.errstate(invalid="ignore"):
        # a fraction that is uncertain by more than half of its whole range (or has no error: no fat was fitted), or of a signal that is
        # no water and fat, is no measurement
        fits = is_explained(relative, fit.residual, tissue.noise_sd**2, tissue.echo_times_s.size)
        fat_known = decay_known & measurable.fat & fits & (errors[:, 2] < _LARGEST_PDFF_SE_PERCENT) & (far_off_hz == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        pdff = pdff_percent(linear[:, 0], linear[:, 1], errors[:, 2])
        signed = np.flatnonzero(fit.model == CONSTRAINED)
        water, fat = linear[signed].T
        pdff[signed] = 100 * (fat / (water + fat)).real
    with np.errstate(invalid="ignore"):
        # less than no fat, or less than no water, and by more than errors allow: two fields or moving tissue in one voxel
        fat_known &= np.abs(pdff - 50) < 50 + np.maximum(_FARTHEST_OUTSIDE_PERCENT, _FARTHEST_OUTSIDE_SE * errors[:, 2])

    def volume(values: AnyArray, valid: AnyArray) -> AnyArray:
        nothing = values.dtype.type(np.nan) if np.iscomplexobj(values) else np.float32(np.nan)
        return _placed(values, valid, tissue.places, tissue.index.shape, nothing)

    with np.errstate(invalid="ignore"):
        convergence = np.where(fitted, np.where(fit.step <= _LARGEST_STEP, _CONVERGED, _STEP_LEFT), _NO_FIT).astype(np.uint8)
    whole = errors.copy()
    flat, more = whole.reshape(-1), np.flatnonzero(of_mixtures)  # most have nothing more
    flat[more] = np.hypot(flat[more], of_mixtures.reshape(-1)[more])
    more = np.flatnonzero(far_off_hz)
    whole[more, 0] = np.hypot(whole[more, 0], far_off_hz[more])
    return WaterFat(
        water=volume(linear[:, 0], fitted),
        fat=volume(linear[:, 1], fat_known),
        pdff_percent=volume(pdff, fat_known),
        r2star_per_s=volume(nonlinear[:, 1], decay_known),
        field_hz=volume(nonlinear[:, 0], lit),
        pdff_se_percent=volume(whole[:, 2], fat_known),
        r2star_se_per_s=volume(whole[:, 1], decay_known),
        field_se_hz=volume(whole[:, 0], lit),
        residual=volume(relative, fitted),
        model=_placed(fit.model.astype(np.uint8), fitted, tissue.places, tissue.index.shape, np.uint8(0)),
        censored=_placed(censored, fitted, tissue.places, tissue.index.shape, np.False_),
        r2star_lower_bound_per_s=volume(measurable.lower_bound_per_s, censored),
        convergence=_placed(convergence, np.ones_like(fitted), tissue.places, tissue.index.shape, np.uint8(0)),
        swap_margin=volume(start.swap_margin, fitted),
        field_difference_hz=volume(start.difference_hz, fitted),
        r2star_limit_per_s=measurable.r2star_limit_per_s,
        field_strength_tesla=echoes.field_strength_tesla,
        grid=echoes.grid,
        codes=(*(() if separable else ("FAT_NOT_SEPARABLE",)), *start.codes),
    )


@njit(parallel=True)
def _placed(
    values: AnyArray, valid: AnyArray, places: AnyArray, shape: tuple[int, int, int], nothing: Any
) -> AnyArray:  # pragma: no cover - compiled
    """(x, y, z) the values of the voxels where they are ``valid``, of the type of ``nothing``, which is elsewhere."""
    volume = np.full(shape[0] * shape[1] * shape[2], nothing)
    for v in prange(places.size):
        if valid[v]:
            volume[places[v]] = values[v]
    return volume.reshape(shape)


def by_magnitude(
    maps: WaterFat, echoes: MultiEcho, params: FatWaterParams, places: IntArray, decay: LocalDecay, lower_bound_per_s: FloatArray
) -> WaterFat:
    """The maps with R2* by the configured estimator where the complex fit knows one, and censored where that estimator misleads.

    ``places`` (voxel,) in the raster of the volume have the neighbourhood's ``decay`` and R2* is not below ``lower_bound_per_s``.
    The standard error is the estimator's root mean square error there, bias included, fat not.
    """
    name, t, coils = params.r2star_estimator, echoes.echo_times_s, params.coils_in_magnitude
    known = np.isfinite(maps.r2star_per_s)
    which = np.flatnonzero(known.reshape(-1)[places])
    there = decay.of(which)
    error = estimator_errors(name, t, coils=coils).at(there.snr, there.r2star_per_s)
    misleads = error.misleads & (there.r2star_per_s > NO_DECAY_PER_S)
    alone, se, bound = np.full((3, *known.shape), np.nan, np.float32)
    bound[:] = np.nan if maps.r2star_lower_bound_per_s is None else maps.r2star_lower_bound_per_s
    censored = maps.censored.copy()
    rate = r2star.estimate(name, np.abs(echoes.signal[known]), t, echoes.noise_sd, coils=coils)
    given = ~misleads & np.isfinite(rate)
    alone[known], se[known] = np.where(given, rate, np.nan), np.where(given, error.rms_error_per_s, np.nan)
    censored[known], bound[known] = misleads, np.where(misleads, lower_bound_per_s[which], np.nan)  # what is known was not censored
    return replace(
        maps,
        r2star_per_s=alone,
        r2star_se_per_s=se,
        censored=censored,
        r2star_lower_bound_per_s=bound,
        codes=(*maps.codes, "R2STAR_FAT_FREE"),
    )


def is_explained(relative: FloatArray, squared: FloatArray, variance: float, n_echoes: int) -> Mask:
    """(voxel,) whether a fit leaves little of the signal (``relative``), or (``squared``) no more than noise of the ``variance``."""
    return np.asarray((relative < _LARGEST_RESIDUAL) | (squared < _NOISE_LIKE * variance * n_echoes))


def without_numbers(maps: WaterFat, there: AnyArray) -> WaterFat:
    """The maps without a number where the signal (x, y, z) is not what tissue gave; what is body remains body."""
    names = ("fat", "pdff_percent", "r2star_per_s", "field_hz", "pdff_se_percent", "r2star_se_per_s", "field_se_hz")
    blanked: dict[str, Any] = {name: np.where(there, np.float32(np.nan), getattr(maps, name)) for name in names}
    return replace(maps, **blanked)


def without_t1_weight(maps: WaterFat, echoes: MultiEcho) -> WaterFat:
    """The maps with a fat fraction that T1 does not weigh; ``T1_NOT_CORRECTED`` where the excitation is unknown."""
    if not (np.isfinite(echoes.flip_angle_degrees) and np.isfinite(echoes.repetition_time_s)):
        return replace(maps, codes=(*maps.codes, "T1_NOT_CORRECTED"))
    weight = t1_weight_of_fat(echoes.flip_angle_degrees, echoes.repetition_time_s, echoes.field_strength_tesla)
    pdff, factor = without_t1(maps.pdff_percent, weight)
    return replace(maps, pdff_percent=pdff.astype(np.float32), pdff_se_percent=(maps.pdff_se_percent * factor).astype(np.float32))

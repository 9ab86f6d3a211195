"""Water, fat, R2* and field of a multi-echo acquisition: from the number of echoes to the order of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from skimage.restoration import unwrap_phase

from hqsm import r2star
from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.compiled import njit, prange
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.errors import InputError
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.bounds import R2STAR_RANGE_PER_S, ExpectedErrors, LocalDecay, expected_errors, r2star_limit_per_s
from hqsm.fatwater.decay import local_decay
from hqsm.fatwater.field_errors import Prior, field_errors
from hqsm.fatwater.first_echo import first_echo_phase, without_phase_of_first
from hqsm.fatwater.fit import CONSTRAINED, FREE, NO_FAT, fit_constrained, fit_free
from hqsm.fatwater.initialisation import InitialField, initialise
from hqsm.fatwater.measurability import near_the_end, not_measurable
from hqsm.fatwater.neighbourhood import field_prior
from hqsm.fatwater.nodes import numbered
from hqsm.fatwater.pdff import pdff_percent, t1_weight_of_fat, without_t1
from hqsm.fatwater.single_voxels import doubtful_voxels, settle_voxels
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.fatwater.tissue import Tissue, holds_something, stands_out, strongest_echo, with_signal
from hqsm.fatwater.water_shift import water_shift
from hqsm.gating.noise import noise_sd_from_background

TWO_ECHOES = 4
_ORDINARY_R2STAR_PER_S, _GOOD_SNR, _LARGEST_PDFF_SE_AT_GOOD_SNR_PERCENT = 50.0, 50.0, 7.0
"""Standard error of PDFF in an ordinary liver of good SNR beyond which the echo times cannot tell fat from water."""
_LARGEST_UNEXPLAINED = 0.1
"""Beyond this share of the energy the phase follows no field: echoes whose phases were altered one by one."""
_N_PRIOR_PASSES = 2
_HARDLY_MOVED = 1.0
"""Standard deviations of the prior."""
_R2STAR_SPREAD = 1.0
_LEAST_R2STAR_SPREAD_PER_S = 200.0
_FIELD_OF_IRON_HZ_S = 0.05
"""Step of the field at an edge [Hz] for each 1/s of R2* that it steps by: 2.5 ppm for 1,000 1/s at 1.5 T, a third of it."""
_FIELD_INSIDE_IRON_HZ_S = 0.01
"""What of that step a plane through the neighbours does not foresee, in the darker tissue itself."""
_IRON_PER_S, _OTHER_TISSUE_PER_S = 100.0, 75.0
"""R2* from which the field's prior leaves out what decays as slowly as tissue without iron: at an organ's surface the field bends."""
_LARGEST_PDFF_SE_PERCENT = 50.0
_FARTHEST_OUTSIDE_PERCENT, _FARTHEST_OUTSIDE_SE = 10.0, 4.0
"""Points and standard errors, the larger of the two, by which a fat fraction may lie below 0 or above 100."""
_LARGEST_RESIDUAL = 0.25
_NOISE_LIKE = 8.0
"""Squared residual of each echo, in noise variances, up to which a large relative residual is noise."""
_DARK_FIELD_HZ_AT_1T5 = 15.0
"""What the field changes by over the blocks that share their echoes (SD)."""
_FAT_HZ_AT_1T5, _WORTH_OF_MARGIN = 217.0, 1.5
"""How far apart the fields lie that two echoes fit alike, and the log of odds that a block's swap margin of 1 is (it is a mean of many)."""
_AWAY_HZ_AT_1T5 = 75.0
"""A third of the way from water to fat: a fit that moved so far from where it began is in another minimum."""


def separate(
    echoes: MultiEcho, params: FatWaterParams, *, temperature_celsius: float = 37.0, setting: str = "in_vivo", n_threads: int = 1
) -> WaterFat:
    """Water, fat, PDFF, R2* and field map with standard errors.

    Of a specimen (``setting`` ``in_vitro``) the shift of water is estimated, starting from its temperature.

    With two echoes only the field (and a decay that fat confounds) can be had; with echo times that cannot separate
    fat, R2* and field of a single species. Both say so in ``codes``, as do echoes that hold nothing and are left out.

    Raises
    ------
    InputError
        With fewer than two echoes that hold anything but noise, or without a voxel above the noise.
    """
    n_echoes = echoes.echo_times_s.size
    holds = holds_something(echoes.signal)
    if n_echoes < 2 or holds.sum() == 1:
        raise InputError("Only one echo: a field map needs at least two.", remedy="Acquire more echoes.", code="ECHOES_TOO_FEW")

    def of_those(kept: AnyArray) -> WaterFat:
        part = replace(echoes, signal=echoes.signal[..., kept], echo_times_s=echoes.echo_times_s[kept])
        maps = separate(part, params, temperature_celsius=temperature_celsius, setting=setting, n_threads=n_threads)
        return replace(maps, codes=(*maps.codes, "ECHO_EMPTY"))

    if holds.any() and not holds.all():
        return of_those(holds)
    numba.set_num_threads(max(1, min(n_threads, int(numba.config.NUMBA_NUM_THREADS))))  # type: ignore[attr-defined]
    strongest, has_phase = strongest_echo(echoes.signal)
    finite = np.isfinite(strongest)
    signal = echoes.signal if finite.all() else np.where(finite[..., None], echoes.signal, 0)
    noise_sd = echoes.noise_sd if echoes.noise_sd > 0 else noise_sd_from_background(signal)
    if not noise_sd > 0:
        noise_sd = 1e-3 * float(np.abs(signal).max())  # noise-free data: any small positive scale serves
    usable = with_signal(strongest, params.signal_threshold * noise_sd)
    if not usable.any():
        raise InputError("No voxel rises above the noise.", remedy="Check that the folder holds images of tissue.", code="NO_SIGNAL")
    stands = stands_out(signal, usable, params.signal_threshold * noise_sd)
    if stands.sum() < 2:
        late_ms = " ms, ".join(f"{1e3 * t:g}" for t in echoes.echo_times_s[~stands])
        raise InputError(
            f"Only one echo rises above the noise; nothing but noise at {late_ms} ms.",
            remedy="Look at the images: echoes that failed, a wrong folder, or iron that these echo times cannot show.",
            code="ECHOES_TOO_FEW",
        )
    if not stands.all():
        return of_those(stands)

    def fat_at(water_shift_ppm: float) -> ComplexArray:
        times_s, tesla = echoes.echo_times_s, echoes.field_strength_tesla
        return fat_signal(SPECTRA[params.spectrum], times_s, tesla, temperature_celsius, water_shift_ppm)

    if not has_phase:
        return _magnitude_only(echoes, np.abs(signal), usable, noise_sd, params)
    if n_echoes == 2:
        return _two_echoes(echoes, signal, usable, noise_sd)
    fat = fat_at(0.0)
    expected = expected_errors(np.asarray(echoes.echo_times_s, float), fat)
    at_hand = float(np.interp(_ORDINARY_R2STAR_PER_S, expected.r2star_per_s, expected.pdff_free)) / _GOOD_SNR
    separable = at_hand < _LARGEST_PDFF_SE_AT_GOOD_SNR_PERCENT
    seek = fat_at if separable and setting == "in_vitro" and params.water_shift_of_explants else None
    return _many_echoes(echoes, signal, usable, noise_sd, fat, expected, params, separable=separable, fat_at=seek)


def _two_echoes(echoes: MultiEcho, signal: AnyArray, usable: AnyArray, noise_sd: float) -> WaterFat:
    spacing_s = float(echoes.echo_times_s[1] - echoes.echo_times_s[0])
    product = signal[..., 1] * np.conj(signal[..., 0])
    field_hz = _unwrapped(np.angle(product), usable) / (2 * np.pi * spacing_s)
    # whole turns that unwrapping cannot know: the body's median lies nearest zero
    field_hz -= np.round(np.median(field_hz[usable]) * spacing_s) / spacing_s
    magnitude = np.abs(signal)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2star = np.log(magnitude[..., 0] / magnitude[..., 1]) / spacing_s
        relative = np.sqrt((noise_sd / magnitude[..., 0]) ** 2 + (noise_sd / magnitude[..., 1]) ** 2)
        water = signal[..., 0] * np.exp(r2star * echoes.echo_times_s[0])
    usable = usable & np.isfinite(r2star) & np.isfinite(relative)
    nothing = np.full(usable.shape, np.nan, np.float32)
    limit = 1.0 / float(echoes.echo_times_s[0])
    censored = usable & (r2star > limit)
    return WaterFat(
        water=_masked(water, usable, np.complex64),
        fat=nothing.astype(np.complex64),
        pdff_percent=nothing,
        r2star_per_s=_masked(r2star, usable & ~censored),
        field_hz=_masked(field_hz, usable),
        pdff_se_percent=nothing,
        r2star_se_per_s=_masked(relative / spacing_s, usable),
        field_se_hz=_masked(relative / (2 * np.pi * spacing_s), usable),
        residual=_masked(np.zeros(usable.shape), usable),
        model=np.where(usable, TWO_ECHOES, 0).astype(np.uint8),
        censored=censored,
        r2star_limit_per_s=limit,
        field_strength_tesla=echoes.field_strength_tesla,
        grid=echoes.grid,
        codes=("TWO_ECHOES_NO_FAT", "R2STAR_TWO_ECHOES"),
    )


def _magnitude_only(echoes: MultiEcho, magnitude: FloatArray, usable: AnyArray, noise_sd: float, params: FatWaterParams) -> WaterFat:
    """R2* alone, by the configured estimator (``complex`` falls to the one with a noise floor): no phase, no field, no fat."""
    name = "noise-floor" if params.r2star_estimator == "complex" else params.r2star_estimator
    t = np.asarray(echoes.echo_times_s, float)
    rate = np.full(usable.shape, np.nan)
    rate[usable] = r2star.estimate(name, magnitude[usable], t, noise_sd)
    with np.errstate(invalid="ignore", over="ignore"):
        amplitude = magnitude[..., 0] * np.exp(rate * t[0])
        limit = r2star_limit_per_s(t, float(np.nanmedian(amplitude[usable])) / noise_sd)
        censored = usable & (rate > limit)
    nothing = np.full(usable.shape, np.nan, np.float32)
    return WaterFat(
        water=_masked(amplitude, usable, np.complex64),
        fat=nothing.astype(np.complex64),
        pdff_percent=nothing,
        r2star_per_s=_masked(rate, usable & ~censored),
        field_hz=nothing,
        pdff_se_percent=nothing,
        r2star_se_per_s=nothing,
        field_se_hz=nothing,
        residual=nothing,
        model=np.where(usable & np.isfinite(rate), NO_FAT, 0).astype(np.uint8),
        censored=censored,
        r2star_limit_per_s=limit,
        field_strength_tesla=echoes.field_strength_tesla,
        grid=echoes.grid,
        codes=("MAGNITUDE_ONLY", "R2STAR_FAT_FREE"),
    )


def _unwrapped(phase_rad: FloatArray, usable: AnyArray) -> FloatArray:
    """Phase without jumps inside ``usable`` (Herraez et al., Appl Opt 2002;41:7437); 0 outside."""
    masked = np.ma.masked_array(phase_rad, ~usable)
    unwrap: Any = unwrap_phase
    result = unwrap(masked, rng=0)
    return np.asarray(np.ma.filled(result, 0.0), dtype=np.float64)


def _many_echoes(
    echoes: MultiEcho,
    signal: AnyArray,
    usable: AnyArray,
    noise_sd: float,
    fat: ComplexArray,
    expected: ExpectedErrors,
    params: FatWaterParams,
    *,
    separable: bool,
    fat_at: Callable[[float], ComplexArray] | None,
) -> WaterFat:
    """``fat_at`` gives the signal of fat for a shift of water [ppm]; None where that is not to be estimated."""
    tissue = Tissue(
        signal=np.ascontiguousarray(signal[usable], dtype=np.complex64),
        index=numbered(usable),
        echo_times_s=np.array(echoes.echo_times_s, dtype=np.float64),  # a copy: compiled once, however the echoes were sliced
        fat=fat,
        noise_sd=noise_sd,
        voxel_size_mm=echoes.grid.voxel_size_mm,
        b0_direction=echoes.grid.b0_direction,
        field_strength_tesla=echoes.field_strength_tesla,
    )
    start, fit = _free_fits(tissue, params, separable=separable)
    codes: list[str] = []
    shift_ppm = phase_rad = 0.0
    if fat_at is not None:
        shift = water_shift(tissue, fat_at, fit.nonlinear[:, 0], fit.nonlinear[:, 1])
        if shift.helps:
            shift_ppm, tissue = shift.ppm, replace(tissue, fat=fat_at(shift.ppm))
            expected = expected_errors(tissue.echo_times_s, tissue.fat)
            codes.append("WATER_SHIFT_ESTIMATED")
            start, fit = _free_fits(tissue, params, separable=separable)
    if separable:
        eddy = first_echo_phase(tissue, fit.nonlinear[:, 0], fit.nonlinear[:, 1], fit.linear)
        if eddy is not None:
            phase_rad = float(np.sqrt(np.mean(eddy**2)))
            tissue = replace(tissue, signal=without_phase_of_first(tissue.signal, eddy))
            codes.append("FIRST_ECHO_PHASE")
            start, fit = _free_fits(tissue, params, separable=separable)
    if _unexplained(fit.residual, tissue) > _LARGEST_UNEXPLAINED:
        maps = _magnitude_only(echoes, np.abs(signal), usable, noise_sd, params)
        return replace(maps, codes=("PHASE_INCONSISTENT", "R2STAR_FAT_FREE"))
    decay, pools = local_decay(tissue, start.blocks, expected, with_fat=separable)
    near = near_the_end(decay, pools, start.blocks, expected, with_fat=separable)
    r2star_se = expected.at(expected.of_r2star(with_fat=separable), decay)
    pdff_se = expected.at(expected.pdff_constrained, decay)
    if separable:
        _lower_order(fit, tissue, start, decay, expected, params)
        fit.errors[near.which, 1] = near.errors_of_r2star(fit.errors[near.which, 1], r2star_se[near.which])
        fit.errors[near.which, 2] = near.errors_of_pdff(fit.errors[near.which, 2])
    limit = r2star_limit_per_s(tissue.echo_times_s, float(np.median(decay.snr)), tissue.fat if separable else None)
    r2star_se[near.which], pdff_se[near.which] = near.strict_r2star_se_per_s, near.strict_pdff_se_percent
    deciding_per_s = decay.r2star_per_s.copy()
    deciding_per_s[near.which] = near.r2star_per_s
    censored, dim = not_measurable(r2star_se, deciding_per_s)
    dim |= ~censored & (limit == 0)  # echoes so close together that no decay shows
    fat_known = np.isin(fit.model, (FREE, CONSTRAINED)) & (pdff_se <= params.pdff_se_for_no_fat_percent)
    maps = _assemble(echoes, usable, tissue, fit, start, censored, dim, fat_known, limit, separable=separable)
    maps = replace(maps, first_echo_phase_rad=phase_rad, water_shift_ppm=shift_ppm, codes=(*maps.codes, *codes))
    return _as_wished(maps, echoes, signal, noise_sd, params)


def _free_fits(tissue: Tissue, params: FatWaterParams, *, separable: bool) -> tuple[InitialField, _Fit]:
    """First field, and the free fit from there; voxels whose block's field does not fit them are decided one by one."""
    start = initialise(tissue, params.field_smoothness, params.field_initialisation, with_fat=separable)
    everything = np.arange(tissue.signal.shape[0])
    fit = _Fit.of(_free_fit(everything, tissue, start, with_fat=separable), FREE if separable else NO_FAT)
    if separable:
        field_hz, se_hz = fit.nonlinear[:, 0], fit.errors[:, 0]
        doubtful = doubtful_voxels(tissue, field_hz, se_hz, fit.residual, fit.linear, start.swap_margin, start.blocks)
        start = settle_voxels(start, doubtful, tissue, params.field_smoothness)
        fit.take(doubtful, _free_fit(doubtful, tissue, start, with_fat=True), FREE)
    return start, fit


def _free_fit(which: IntArray, tissue: Tissue, start: InitialField, *, with_fat: bool) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
    found: tuple[AnyArray, AnyArray, AnyArray, AnyArray] = fit_free(
        which, tissue.signal, tissue.echo_times_s, tissue.fat, start.field_hz, start.r2star_per_s, tissue.noise_sd, with_fat
    )
    return found


def _unexplained(residual: FloatArray, tissue: Tissue) -> float:
    """Share of the signal's energy that neither water, fat, field and decay nor noise explains."""
    energy, _ = tissue.powers
    noise = 2 * tissue.noise_sd**2 * max(tissue.echo_times_s.size - 3, 1)
    excess = np.maximum(np.where(np.isfinite(residual), residual, energy) - noise, 0)
    return float(excess.sum() / energy.sum(dtype=np.float64))


def _as_wished(maps: WaterFat, echoes: MultiEcho, signal: AnyArray, noise_sd: float, params: FatWaterParams) -> WaterFat:
    """The maps with the configured estimator of R2* and correction of the fat fraction; what is unknown stays unknown."""
    if params.r2star_estimator != "complex":
        known = np.isfinite(maps.r2star_per_s)
        alone = np.full(known.shape, np.nan, np.float32)
        alone[known] = r2star.estimate(params.r2star_estimator, np.abs(signal[known]), echoes.echo_times_s, noise_sd)
        maps = replace(maps, r2star_per_s=alone, codes=(*maps.codes, "R2STAR_FAT_FREE"))
    if params.t1_correction:
        if not (np.isfinite(echoes.flip_angle_degrees) and np.isfinite(echoes.repetition_time_s)):
            return replace(maps, codes=(*maps.codes, "T1_NOT_CORRECTED"))
        weight = t1_weight_of_fat(echoes.flip_angle_degrees, echoes.repetition_time_s, echoes.field_strength_tesla)
        pdff, factor = without_t1(maps.pdff_percent, weight)
        maps = replace(maps, pdff_percent=pdff.astype(np.float32), pdff_se_percent=(maps.pdff_se_percent * factor).astype(np.float32))
    return maps


@dataclass(eq=False)
class _Fit:
    """The fit as it grows: arrays over voxels, overwritten where a lower order of the model replaces a higher one."""

    linear: ComplexArray
    nonlinear: FloatArray
    errors: FloatArray
    residual: FloatArray
    model: IntArray

    @classmethod
    def of(cls, result: tuple[AnyArray, AnyArray, AnyArray, AnyArray], model: int) -> _Fit:
        """A fit of every voxel, nothing before it."""
        return cls(*result, np.where(np.isfinite(result[3]), model, 0).astype(np.int8))

    def take(
        self, which: IntArray, result: tuple[AnyArray, AnyArray, AnyArray, AnyArray], model: int, *, lowest_r2star_per_s: float = -np.inf
    ) -> IntArray:
        """Keep what converged of the voxels ``which``, and return their numbers."""
        mine = (self.linear, self.nonlinear, self.errors, self.residual, self.model)
        kept: IntArray = which[_replace(which, *result, lowest_r2star_per_s, *mine, model)]
        return kept


@njit()
def _replace(
    which: AnyArray,
    new_linear: AnyArray,
    new_nonlinear: AnyArray,
    new_errors: AnyArray,
    new_residual: AnyArray,
    lowest: float,
    linear: AnyArray,
    nonlinear: AnyArray,
    errors: AnyArray,
    residual: AnyArray,
    model: AnyArray,
    number: int,
) -> AnyArray:  # pragma: no cover - compiled
    done = np.isfinite(new_residual) & (new_nonlinear[:, 1] > lowest)
    for i in range(which.size):
        if done[i]:
            v = which[i]
            linear[v, 0], linear[v, 1] = new_linear[i, 0], new_linear[i, 1]
            nonlinear[v, 0], nonlinear[v, 1] = new_nonlinear[i, 0], new_nonlinear[i, 1]
            errors[v, 0], errors[v, 1], errors[v, 2] = new_errors[i, 0], new_errors[i, 1], new_errors[i, 2]
            residual[v], model[v] = new_residual[i], number
    return done


def _lower_order(
    fit: _Fit, tissue: Tissue, start: InitialField, decay: LocalDecay, expected: ExpectedErrors, params: FatWaterParams
) -> None:
    """Constrain fat, then give it up, where the neighbourhood's decay leaves too little to know it."""
    scale = tissue.field_strength_tesla / 1.5
    with np.errstate(invalid="ignore"):
        # a fit that walked away to another minimum is started again from its neighbourhood, with the prior
        away = ~(np.abs(fit.nonlinear[:, 0] - start.field_hz) < _AWAY_HZ_AT_1T5 * scale) | ~(fit.nonlinear[:, 1] > -100)
        uncertain = away | ~(fit.errors[:, 2] < params.pdff_se_for_constraint_percent)
    uncertain |= expected.at(expected.pdff_free, decay) > params.pdff_se_for_constraint_percent
    geometry = (tissue.index, tissue.voxel_size_mm)
    data = (tissue.signal, tissue.echo_times_s, tissue.fat)
    which = np.flatnonzero(uncertain)
    of_those = LocalDecay(snr=decay.snr[which], r2star_per_s=decay.r2star_per_s[which])
    no_fat = expected.at(expected.pdff_constrained, of_those) > params.pdff_se_for_no_fat_percent
    local_r2star = decay.r2star_per_s[which].astype(np.float64)
    # neighbours' decays differ by less than this, wherever there is a decay to speak of
    r2star_sd = np.maximum(_R2STAR_SPREAD * local_r2star, _LEAST_R2STAR_SPREAD_PER_S)
    # where two echoes are all there is, what the blocks around said together is better than what each voxel says
    dark = start.blocks.dark[start.blocks.of_voxel[which]]
    away[which[dark]] = True
    dark_se_hz = np.fmin(fit.errors[which[dark], 0], _AWAY_HZ_AT_1T5 * scale)
    of_blocks = (start.field_hz[which[dark]], 1 / ((_DARK_FIELD_HZ_AT_1T5 * scale) ** 2 + 0.04 * dark_se_hz**2))
    before_hz: FloatArray = np.zeros(which.size)
    darker_hz, brighter_hz = _field_steps_hz(decay, start.blocks)
    rim_hz2 = brighter_hz[which] ** 2
    iron = local_r2star > _IRON_PER_S
    prior_hz, precision, plane_hz2 = np.zeros(which.size), np.zeros(which.size), np.zeros(which.size)
    for turn in range(_N_PRIOR_PASSES):
        good = ~away & np.isfinite(fit.nonlinear[:, 0]) & np.isfinite(fit.errors[:, 0])
        se_hz = fit.errors[:, 0].copy()
        if turn == 0:
            # a free fit in the noise: by its own claim, those whose noise made the field low would count for more
            se_hz[which] = expected.at(expected.field_free, of_those)
        to_others_hz = np.hypot(se_hz, darker_hz)
        for ones, tell in ((~iron, good), (iron, good & (decay.r2star_per_s > _OTHER_TISSUE_PER_S))):
            prior_hz[ones], precision[ones], plane_hz2[ones] = field_prior(
                fit.nonlinear[:, 0], to_others_hz, tell, *geometry, which[ones], tissue.field_strength_tesla
            )
        precision /= 1 + precision * rim_hz2
        if turn == 0:
            prior_hz[dark], precision[dark] = of_blocks
        own_hz, own_r2star = fit.nonlinear[which].T
        with np.errstate(invalid="ignore", divide="ignore"):
            from_prior = away[which] | ~(precision < 1 / fit.errors[which, 0] ** 2)
        # what the prior has hardly moved goes on from where it arrived
        on = (fit.model[which] == CONSTRAINED) & (np.abs(prior_hz - before_hz) * np.sqrt(precision) < _HARDLY_MOVED)
        begin_hz = np.where(from_prior & ~on, prior_hz, own_hz)
        begin_r2star = np.where(away[which] | np.isnan(own_r2star), local_r2star, np.where(on, own_r2star, np.clip(own_r2star, 0, 1500)))
        begin_linear = np.where(on[:, None], fit.linear[which], np.nan)
        result = fit_constrained(
            which, *data, begin_hz, begin_r2star, begin_linear, prior_hz, precision, no_fat, local_r2star, r2star_sd, tissue.noise_sd
        )
        before_hz = prior_hz.copy()
        taken = fit.take(which, result, CONSTRAINED, lowest_r2star_per_s=-300)
        away[taken] = False
    prior = Prior(departure_hz=result[1][:, 0] - prior_hz, precision=precision, plane_hz2=plane_hz2, iron_hz2=rim_hz2)
    calibrated_hz = field_errors(result[2][:, 0], prior, which, fit.nonlinear[:, 0], fit.errors[:, 0], darker_hz, start.blocks, tissue)
    fit.errors[taken, 0] = calibrated_hz[np.isin(which, taken, assume_unique=True)]
    fit.model[which[no_fat & (fit.model[which] == CONSTRAINED)]] = NO_FAT
    fit.residual[away] = np.nan  # walked away and did not come back: no fit
    other_field = 1 / (1 + np.exp(np.clip(_WORTH_OF_MARGIN * start.swap_margin[which], -50, 50)))
    fit.errors[which, 0] = np.hypot(fit.errors[which, 0], _FAT_HZ_AT_1T5 * scale * np.sqrt(other_field))


def _field_steps_hz(decay: LocalDecay, blocks: Blocks) -> tuple[FloatArray, FloatArray]:
    """(voxel,) by how much a darker neighbour's field may depart from this one's, and this one's from a brighter neighbour's.

    Iron makes a field as it makes a decay. Bright tissue knows its field well, and would otherwise say, alone, what the field of
    the iron-loaded voxels beside it is.
    """
    there = blocks.index >= 0
    mean = np.bincount(blocks.of_voxel, decay.r2star_per_s) / blocks.n_voxels
    rate = np.zeros(blocks.index.shape, np.float32)
    rate[there] = mean
    darkest = _of_27(np.maximum, rate)[there]
    rate[~there] = np.inf
    brightest = _of_27(np.minimum, rate)[there]
    darker, brighter = _FIELD_OF_IRON_HZ_S * (darkest - mean), _FIELD_INSIDE_IRON_HZ_S * (mean - brightest)
    return darker[blocks.of_voxel], brighter[blocks.of_voxel]


def _of_27(larger: np.ufunc, values: FloatArray) -> FloatArray:
    """The largest (or smallest) of the 3 x 3 x 3 values around each."""
    for axis in range(3):
        before = np.moveaxis(values, axis, 0)
        values = values.copy()
        after = np.moveaxis(values, axis, 0)
        larger(after[1:], before[:-1], out=after[1:])
        larger(after[:-1], before[1:], out=after[:-1])
    return values


def _assemble(
    echoes: MultiEcho,
    usable: AnyArray,
    tissue: Tissue,
    fit: _Fit,
    start: InitialField,
    censored: AnyArray,
    dim: AnyArray,
    fat_known: AnyArray,
    limit_per_s: float,
    *,
    separable: bool,
) -> WaterFat:
    linear, nonlinear, errors = fit.linear, fit.nonlinear, fit.errors
    fitted = np.isfinite(fit.residual)
    with np.errstate(invalid="ignore"):
        censored = fitted & (censored | (nonlinear[:, 1] > R2STAR_RANGE_PER_S))
    energy, brightest = tissue.powers
    relative = np.sqrt(fit.residual / energy)
    lit = fitted & (brightest > (3 * tissue.noise_sd) ** 2)
    decay_known = fitted & ~censored & ~dim
    with np.errstate(invalid="ignore"):
        # a fraction that is uncertain by half of its whole range, or of a signal that is no water and fat, is no measurement
        fits = (relative < _LARGEST_RESIDUAL) | (fit.residual < _NOISE_LIKE * tissue.noise_sd**2 * tissue.echo_times_s.size)
        fat_known = decay_known & fat_known & fits & (errors[:, 2] < _LARGEST_PDFF_SE_PERCENT)
    with np.errstate(invalid="ignore", divide="ignore"):
        signed = 100 * (linear[:, 1] / (linear[:, 0] + linear[:, 1])).real
    pdff = np.where(fit.model == CONSTRAINED, signed, pdff_percent(linear[:, 0], linear[:, 1], errors[:, 2]))
    with np.errstate(invalid="ignore"):
        # less than no fat, or less than no water, and by more than errors allow: two fields or moving tissue in one voxel
        fat_known &= np.abs(pdff - 50) < 50 + np.maximum(_FARTHEST_OUTSIDE_PERCENT, _FARTHEST_OUTSIDE_SE * errors[:, 2])

    def volume(values: AnyArray, valid: AnyArray) -> AnyArray:
        nothing = values.dtype.type(np.nan) if np.iscomplexobj(values) else np.float32(np.nan)
        return _placed(values, valid, tissue.index, nothing)

    return WaterFat(
        water=volume(linear[:, 0], fitted),
        fat=volume(linear[:, 1], fat_known),
        pdff_percent=volume(pdff, fat_known),
        r2star_per_s=volume(nonlinear[:, 1], decay_known),
        field_hz=volume(nonlinear[:, 0], lit),
        pdff_se_percent=volume(errors[:, 2], fat_known),
        r2star_se_per_s=volume(errors[:, 1], decay_known),
        field_se_hz=volume(errors[:, 0], lit),
        residual=volume(relative, fitted),
        model=_placed(fit.model.astype(np.uint8), fitted, tissue.index, np.uint8(0)),
        censored=_placed(censored, fitted, tissue.index, np.False_),
        swap_margin=volume(start.swap_margin, fitted),
        field_difference_hz=volume(start.difference_hz, fitted),
        r2star_limit_per_s=limit_per_s,
        field_strength_tesla=echoes.field_strength_tesla,
        grid=echoes.grid,
        codes=(*(() if separable else ("FAT_NOT_SEPARABLE",)), *start.codes),
    )


@njit(parallel=True)
def _placed(values: AnyArray, valid: AnyArray, index: AnyArray, nothing: Any) -> AnyArray:  # pragma: no cover - compiled
    """(x, y, z) the values of the voxels where they are ``valid``, of the type of ``nothing``, which is elsewhere."""
    nx, ny, nz = index.shape
    volume = np.full((nx, ny, nz), nothing)
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                v = index[x, y, z]
                if v >= 0 and valid[v]:
                    volume[x, y, z] = values[v]
    return volume


def _masked(values: AnyArray, valid: AnyArray, dtype: type = np.float32) -> AnyArray:
    return np.where(valid, values, np.nan).astype(dtype)

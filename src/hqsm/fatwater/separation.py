"""Water, fat, R2* and field of a multi-echo acquisition: from the number of echoes to the order of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numba
import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, Mask
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.errors import InputError
from hqsm.fatwater.blocks import gather
from hqsm.fatwater.bounds import expected_errors, r2star_limit_per_s, r2star_limits_per_s
from hqsm.fatwater.clipping import clipped_voxels, without_clipped
from hqsm.fatwater.decay import local_decay
from hqsm.fatwater.echo_faults import echo_faults, order_code
from hqsm.fatwater.first_echo import LEAST_ECHOES, first_echo_phase, without_phase_of_first
from hqsm.fatwater.fit import Fit
from hqsm.fatwater.free_fit import fit_free
from hqsm.fatwater.initialisation import InitialField, initialise
from hqsm.fatwater.leads import far_off_hz, lead_back
from hqsm.fatwater.lower_order import lower_order
from hqsm.fatwater.maps import assemble, by_magnitude, without_t1_weight
from hqsm.fatwater.measurability import measurable, near_the_end
from hqsm.fatwater.mixed_voxels import errors_of_mixtures
from hqsm.fatwater.phase_sign import fat_says, sign_codes
from hqsm.fatwater.single_voxels import doubtful_voxels, settle_voxels
from hqsm.fatwater.spectrum import fat_signal, spectrum_of
from hqsm.fatwater.tissue import Tissue, holds_something, stands_out, strongest_echo, with_signal
from hqsm.fatwater.unknown_fat import errors_of_unknown_fat
from hqsm.fatwater.water_shift import water_shift
from hqsm.fatwater.without_fat import magnitude_only, two_echoes
from hqsm.fit_models import FREE, NO_FAT
from hqsm.gating.noise import noise_sd_from_background

_ORDINARY_R2STAR_PER_S, _GOOD_SNR, _LARGEST_PDFF_SE_AT_GOOD_SNR_PERCENT = 50.0, 50.0, 7.0
"""Standard error of PDFF in an ordinary liver of good SNR beyond which the echo times cannot tell fat from water."""
_LARGEST_UNEXPLAINED = 0.1
"""Beyond this share of the energy the phase follows no field: echoes whose phases were altered one by one."""


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
    noise_sd = echoes.noise_sd if echoes.noise_sd > 0 else noise_sd_from_background(signal, params.coils_in_magnitude)
    if not noise_sd > 0:
        noise_sd = 1e-3 * float(np.abs(signal).max())  # noise-free data: any small positive scale serves
    threshold = params.signal_threshold * noise_sd * (1.0 if has_phase else float(np.sqrt(params.coils_in_magnitude)))
    usable = with_signal(strongest, threshold)
    if not usable.any():
        raise InputError("No voxel rises above the noise.", remedy="Check that the folder holds images of tissue.", code="NO_SIGNAL")
    stands = stands_out(signal, usable, threshold)
    if stands.sum() < 2:
        late_ms = " ms, ".join(f"{1e3 * t:g}" for t in echoes.echo_times_s[~stands])
        raise InputError(
            f"Only one echo rises above the noise; nothing but noise at {late_ms} ms.",
            remedy="Look at the images: echoes that failed, a wrong folder, or iron that these echo times cannot show.",
            code="ECHOES_TOO_FEW",
        )
    if not stands.all():
        return of_those(stands)

    clean = replace(echoes, signal=signal, noise_sd=noise_sd)
    maps = _by_echoes(clean, usable, params, temperature_celsius, setting, has_phase=has_phase)
    return without_clipped(maps, clipped_voxels(signal) & usable)


def _by_echoes(
    echoes: MultiEcho, usable: Mask, params: FatWaterParams, temperature_celsius: float, setting: str, *, has_phase: bool
) -> WaterFat:
    """By what the number of echoes, and whether they have a phase, allow; ``echoes`` are finite and their noise is known."""
    if not has_phase:
        maps = magnitude_only(echoes, usable, params)
        return replace(maps, codes=(*maps.codes, *order_code(echoes.signal, usable, echoes.noise_sd)))

    def fat_at(water_shift_ppm: float) -> ComplexArray:
        times_s, tesla = echoes.echo_times_s, echoes.field_strength_tesla
        spectrum = spectrum_of(params.spectrum, params.double_bonds)
        return fat_signal(spectrum, times_s, tesla, temperature_celsius, water_shift_ppm)

    if echoes.echo_times_s.size == 2:
        maps = two_echoes(echoes, usable, fat_at(0.0), params)
        doubts = "FIRST_ECHO_NOT_CHECKED", *sign_codes(maps, 0.0), *order_code(echoes.signal, usable, echoes.noise_sd)
        return replace(maps, codes=(*maps.codes, *doubts))
    return _many_echoes(echoes, usable, fat_at, params, specimen=setting == "in_vitro")


def _many_echoes(
    echoes: MultiEcho, usable: Mask, fat_at: Callable[[float], ComplexArray], params: FatWaterParams, *, specimen: bool
) -> WaterFat:
    """``fat_at`` gives the signal of fat (echo,) for a shift of water [ppm]."""
    tissue = Tissue.of(echoes, usable, fat_at(0.0))
    expected = expected_errors(tissue.echo_times_s, tissue.fat)
    at_hand = float(np.interp(_ORDINARY_R2STAR_PER_S, expected.r2star_per_s, expected.pdff_free)) / _GOOD_SNR
    separable = at_hand < _LARGEST_PDFF_SE_AT_GOOD_SNR_PERCENT
    start, fit = _free_fits(tissue, params, separable=separable)
    codes: list[str] = []
    shift_ppm = phase_rad = of_fat = 0.0
    if separable and specimen and params.water_shift_of_explants:
        shift = water_shift(tissue, fat_at, fit.nonlinear[:, 0], fit.nonlinear[:, 1])
        if shift.helps:
            shift_ppm, tissue = shift.ppm, replace(tissue, fat=fat_at(shift.ppm))
            expected = expected_errors(tissue.echo_times_s, tissue.fat)
            codes.append("WATER_SHIFT_ESTIMATED")
            start, fit = _free_fits(tissue, params, separable=separable)
    if separable and tissue.echo_times_s.size < LEAST_ECHOES:
        codes.append("FIRST_ECHO_NOT_CHECKED")
    elif separable:
        eddy = first_echo_phase(tissue, fit.nonlinear[:, 0], fit.nonlinear[:, 1], fit.linear)
        conjugate = None if eddy is None else _conjugate(tissue, params)
        if eddy is not None:
            phase_rad = float(np.sqrt(np.mean(eddy**2)))
            tissue = replace(tissue, signal=without_phase_of_first(tissue.signal, eddy))
            codes.append("FIRST_ECHO_PHASE")
            start, fit = _free_fits(tissue, params, separable=separable)
        # of three echoes fat is not heard: a phase of the first, which none of them shows, turns what it says
        of_fat = fat_says(start.blocks, conjugate, tissue, start.typical_misfit)
    if _unexplained(fit.residual, tissue) > _LARGEST_UNEXPLAINED:
        maps = magnitude_only(echoes, usable, params)
        return replace(maps, codes=("PHASE_INCONSISTENT", "R2STAR_FAT_FREE", *order_code(echoes.signal, usable, echoes.noise_sd)))
    # once the first echo's phase is off: a large one leaves what a gain would
    codes.extend(echo_faults(tissue, fit) if separable else order_code(echoes.signal, usable, echoes.noise_sd))
    decay, pools = local_decay(tissue, start.blocks, expected, with_fat=separable)
    near = near_the_end(decay, pools, start.blocks, expected, with_fat=separable)
    of_mixtures: FloatArray = np.zeros(fit.errors.shape)
    far_off: FloatArray = np.zeros(fit.residual.size)
    if separable:
        of_local_decay = expected.at(expected.r2star_constrained, decay.of(near.which))
        lower_order(fit, tissue, start, decay, expected, params)
        far_off = far_off_hz(start, fit, tissue, params.field_smoothness)
        of_mixtures = errors_of_mixtures(fit, tissue)
        fit.errors[near.which, 1] = near.errors_of_r2star(fit.errors[near.which, 1], of_local_decay)
        fit.errors[near.which, 2] = near.errors_of_pdff(fit.errors[near.which, 2], fit.nonlinear[near.which, 1], expected)
    else:
        of_mixtures[:, :2] = errors_of_unknown_fat(tissue.echo_times_s, tissue.fat, decay.r2star_per_s)
    fat = tissue.fat if separable else None
    limit = r2star_limit_per_s(tissue.echo_times_s, float(np.median(decay.snr)), fat)
    own_limit = r2star_limits_per_s(tissue.echo_times_s, decay.snr, fat)
    known = measurable(decay, near, expected, limit, own_limit, params.pdff_se_for_no_fat_percent, with_fat=separable)
    maps = assemble(echoes, tissue, fit, of_mixtures, far_off, start, known, separable=separable)
    maps = replace(maps, first_echo_phase_rad=phase_rad, water_shift_ppm=shift_ppm, codes=(*maps.codes, *codes, *sign_codes(maps, of_fat)))
    if params.r2star_estimator != "complex":
        maps = by_magnitude(maps, echoes, params, tissue.places, near.decay(decay), known.lower_bound_per_s)
    return without_t1_weight(maps, echoes) if params.t1_correction else maps


def _free_fits(tissue: Tissue, params: FatWaterParams, *, separable: bool) -> tuple[InitialField, Fit]:
    """First field, and the free fit from there; voxels that their block's field or their neighbours' does not fit, one by one."""
    start = initialise(tissue, params.field_smoothness, params.field_initialisation, with_fat=separable)
    everything = np.arange(tissue.signal.shape[0])
    fit = Fit.of(fit_free(everything, tissue.echoes, start.field_hz, start.r2star_per_s, separable), FREE if separable else NO_FAT)
    if separable:
        field_hz, se_hz = fit.nonlinear[:, 0], fit.errors[:, 0]
        doubtful = doubtful_voxels(tissue, field_hz, se_hz, fit.residual, fit.linear, start.swap_margin, start.blocks)
        start = settle_voxels(start, doubtful, tissue, params.field_smoothness)
        fit.take(doubtful, fit_free(doubtful, tissue.echoes, start.field_hz, start.r2star_per_s, True), FREE)
        start, astray = lead_back(start, fit, tissue, params.field_smoothness)
        fit.take(astray, fit_free(astray, tissue.echoes, start.field_hz, start.r2star_per_s, True), FREE)
    return start, fit


def _conjugate(tissue: Tissue, params: FatWaterParams) -> ComplexArray:
    """Products (block, pair) of the conjugate echoes, a phase of their first one taken off like the echoes' own.

    A phase that runs backwards looks like one of the first echo, and that like one that runs backwards: both are tried with both.
    """
    turned = replace(tissue, signal=tissue.signal.conj())
    _, fit = _free_fits(turned, params, separable=True)
    eddy = first_echo_phase(turned, fit.nonlinear[:, 0], fit.nonlinear[:, 1], fit.linear)
    return gather(turned if eddy is None else replace(turned, signal=without_phase_of_first(turned.signal, eddy))).products


def _unexplained(residual: FloatArray, tissue: Tissue) -> float:
    """Share of the signal's energy that neither water, fat, field and decay nor noise explains."""
    energy, _ = tissue.powers
    noise = 2 * tissue.noise_sd**2 * max(tissue.echo_times_s.size - 3, 1)
    excess = np.maximum(np.where(np.isfinite(residual), residual, energy) - noise, 0)
    return float(excess.sum() / energy.sum(dtype=np.float64))

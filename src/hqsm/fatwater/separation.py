"""Water, fat, R2* and field of a multi-echo acquisition: from the number of echoes to the order of the model."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from scipy import ndimage
from skimage.restoration import unwrap_phase

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.errors import InputError
from hqsm.fatwater.field_init import initial_field
from hqsm.fatwater.fit import CONSTRAINED, FREE, NO_FAT, fit_constrained, fit_free
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.gating.noise import noise_sd_from_background

TWO_ECHOES = 4
_LARGEST_CONDITION = 25.0
"""Condition number of the water and fat columns beyond which the echo times cannot tell the two apart."""
_SPREAD_FLOOR_HZ_AT_1T5 = 1.5


def separate(echoes: MultiEcho, params: FatWaterParams, *, temperature_celsius: float = 37.0, n_threads: int = 1) -> WaterFat:
    """Water, fat, PDFF, R2* and field map with standard errors.

    With two echoes only the field (and a decay that fat confounds) can be had; with echo times that cannot separate
    fat, R2* and field of a single species. Both say so in ``codes``.

    Raises
    ------
    InputError
        With one echo, or without a voxel above the noise.
    """
    n_echoes = echoes.echo_times_s.size
    if n_echoes < 2:
        raise InputError("Only one echo: a field map needs at least two.", remedy="Acquire more echoes.", code="ECHOES_TOO_FEW")
    numba.set_num_threads(max(1, min(n_threads, int(numba.config.NUMBA_NUM_THREADS))))
    finite = np.asarray(np.isfinite(echoes.signal).all(axis=3))
    signal = np.where(finite[..., None], echoes.signal, 0)
    noise_sd = echoes.noise_sd if np.isfinite(echoes.noise_sd) else noise_sd_from_background(signal)
    strongest = np.abs(signal).max(axis=3)
    if not noise_sd > 0:
        noise_sd = 1e-3 * float(strongest.max())  # noise-free data: any small positive scale serves
    usable = finite & (strongest > params.signal_threshold * noise_sd)
    usable &= ndimage.uniform_filter(usable.astype(np.float32), 3) > 0.3  # lone specks of air are not tissue
    if not usable.any():
        raise InputError("No voxel rises above the noise.", remedy="Check that the folder holds images of tissue.", code="NO_SIGNAL")
    fat = fat_signal(SPECTRA[params.spectrum], echoes.echo_times_s, echoes.field_strength_tesla, temperature_celsius)
    if n_echoes == 2:
        return _two_echoes(echoes, signal, usable, noise_sd)
    columns = np.stack([np.ones_like(fat), fat], axis=1)
    separable = np.linalg.cond(columns) < _LARGEST_CONDITION
    return _many_echoes(echoes, signal, usable, noise_sd, fat, params, separable=separable)


def pdff_percent(water: ComplexArray, fat: ComplexArray) -> FloatArray:
    """Fat fraction [%] by magnitude discrimination (Liu et al., MRM 2007;58:354), free of the noise bias of |F|."""
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.abs(water + fat)
        fraction = np.where(np.abs(water) >= np.abs(fat), 1 - np.abs(water) / whole, np.abs(fat) / whole)
    return 100 * fraction


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
    params: FatWaterParams,
    *,
    separable: bool,
) -> WaterFat:
    t = np.asarray(echoes.echo_times_s, dtype=np.float64)
    index = np.full(usable.shape, -1, np.int64)
    index[usable] = np.arange(int(usable.sum()))
    voxels = np.ascontiguousarray(signal[usable].astype(np.complex64))
    unknown_fat = fat if separable else np.zeros_like(fat)
    start_hz, start_r2star, _ = initial_field(
        voxels,
        index,
        t,
        fat if separable else np.exp(2j * np.pi * 1e4 * t),
        noise_sd,
        echoes.grid.voxel_size_mm,
        echoes.field_strength_tesla,
        params.field_smoothness,
    )
    n = voxels.shape[0]
    kinds = np.full(n, FREE if separable else NO_FAT, np.int8)
    linear, nonlinear, errors, residual = fit_free(
        np.ones(n, bool), voxels, t, unknown_fat, start_hz.astype(np.float64), start_r2star, noise_sd, separable
    )
    model = kinds.copy()
    # a fit that walked away to another minimum is started again from its neighbourhood, with the prior below
    away = ~(np.abs(nonlinear[:, 0] - start_hz) < 0.35 / np.diff(t).min()) | ~(nonlinear[:, 1] > -100)
    prior_hz, prior_precision = _field_prior(nonlinear[:, 0], errors[:, 0], away, index, echoes)
    with np.errstate(invalid="ignore"):
        uncertain = ~(errors[:, 2] < params.pdff_se_for_constraint_percent) | away | np.isnan(residual)
    if separable:
        start_again = np.where(away, prior_hz, nonlinear[:, 0])
        again_r2star = np.where(away | np.isnan(nonlinear[:, 1]), start_r2star, np.clip(nonlinear[:, 1], 0, 2000))
        for kind in (CONSTRAINED, NO_FAT):
            with np.errstate(invalid="ignore"):
                if kind == NO_FAT:
                    uncertain &= ~(errors[:, 2] < params.pdff_se_for_no_fat_percent) | np.isnan(residual)
            share = np.full(n, -1.0 if kind == CONSTRAINED else 0.0)
            refit = fit_constrained(
                uncertain, voxels, t, fat, start_again, again_r2star, prior_hz, prior_precision, share, noise_sd
            )
            done = uncertain & np.isfinite(refit[3])
            for old, new in zip((linear, nonlinear, errors, residual), refit, strict=True):
                old[done] = new[done]
            model[done] = kind
    return _assemble(echoes, usable, voxels, noise_sd, model, linear, nonlinear, errors, residual, separable=separable)


def _field_prior(
    field_hz: FloatArray, se_hz: FloatArray, away: AnyArray, index: IntArray, echoes: MultiEcho
) -> tuple[FloatArray, FloatArray]:
    """Local mean and precision of the field around every voxel, from neighbours weighted by their information."""
    inside = index >= 0
    good = ~away & np.isfinite(field_hz) & np.isfinite(se_hz)
    floor_hz = _SPREAD_FLOOR_HZ_AT_1T5 * echoes.field_strength_tesla / 1.5
    weight = np.zeros(inside.shape)
    value = np.zeros(inside.shape)
    weight[inside] = np.where(good, 1 / (np.nan_to_num(se_hz, nan=1e3) ** 2 + floor_hz**2), 0)
    value[inside] = np.where(good, field_hz, 0)
    sigma = 3.5 / echoes.grid.voxel_size_mm

    def smooth(volume: FloatArray) -> FloatArray:
        filtered: FloatArray = ndimage.gaussian_filter(volume, sigma, truncate=2.5)
        return filtered

    total = smooth(weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = smooth(weight * value) / total
        spread2 = np.maximum(smooth(weight * value**2) / total - mean**2, 0)
    known = inside & (total > 1e-9)
    # the mean of an asymmetric neighbourhood is off by about the local spread
    precision = np.where(known, 1 / (floor_hz**2 + np.where(known, spread2, 0)), 0)
    return np.where(known, mean, 0)[inside], precision[inside]


def _assemble(
    echoes: MultiEcho,
    usable: AnyArray,
    voxels: AnyArray,
    noise_sd: float,
    model: AnyArray,
    linear: AnyArray,
    nonlinear: AnyArray,
    errors: AnyArray,
    residual: AnyArray,
    *,
    separable: bool,
) -> WaterFat:
    fitted = np.isfinite(residual)
    limit = 1.0 / float(echoes.echo_times_s[0])
    strong = (np.abs(voxels) > 3 * noise_sd).sum(axis=1)
    with np.errstate(invalid="ignore"):
        censored = fitted & ((nonlinear[:, 1] > limit) | (strong < 2))
        energy = np.linalg.norm(voxels, axis=1)
        relative = np.sqrt(residual) / energy
    fat_known = fitted & (model != NO_FAT) & ~censored
    common = linear[:, 0] + linear[:, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        signed = 100 * (linear[:, 1] / common).real
    pdff = np.where(model == CONSTRAINED, signed, pdff_percent(linear[:, 0], linear[:, 1]))

    def volume(values: AnyArray, valid: AnyArray, dtype: type = np.float32) -> AnyArray:
        full: AnyArray = np.full(usable.shape, np.nan, dtype)
        full[usable] = np.where(valid, values, np.nan)
        return full

    model_volume = np.zeros(usable.shape, np.uint8)
    model_volume[usable] = np.where(fitted, model, 0)
    censored_volume = np.zeros(usable.shape, bool)
    censored_volume[usable] = censored
    codes = () if separable else ("FAT_NOT_SEPARABLE",)
    return WaterFat(
        water=volume(linear[:, 0], fitted, np.complex64),
        fat=volume(linear[:, 1], fat_known, np.complex64),
        pdff_percent=volume(pdff, fat_known),
        r2star_per_s=volume(nonlinear[:, 1], fitted & ~censored),
        field_hz=volume(nonlinear[:, 0], fitted & (strong >= 2)),
        pdff_se_percent=volume(errors[:, 2], fat_known),
        r2star_se_per_s=volume(errors[:, 1], fitted & ~censored),
        field_se_hz=volume(errors[:, 0], fitted & (strong >= 2)),
        residual=volume(relative, fitted),
        model=model_volume,
        censored=censored_volume,
        r2star_limit_per_s=limit,
        field_strength_tesla=echoes.field_strength_tesla,
        grid=echoes.grid,
        codes=codes,
    )


def _masked(values: AnyArray, valid: AnyArray, dtype: type = np.float32) -> AnyArray:
    return np.where(valid, values, np.nan).astype(dtype)

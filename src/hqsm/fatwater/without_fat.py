"""Maps of echoes that cannot tell fat from water: two of them, or without a phase that a field explains."""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.restoration import unwrap_phase

from hqsm import r2star
from hqsm.arrays import AnyArray, FloatArray, Mask
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.fatwater.bounds import r2star_limit_per_s
from hqsm.fatwater.fit import NO_FAT, TWO_ECHOES


def two_echoes(echoes: MultiEcho, usable: Mask) -> WaterFat:
    """Field, and R2* that fat confounds, of two complex echoes."""
    signal, noise_sd = echoes.signal, echoes.noise_sd
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


def _unwrapped(phase_rad: FloatArray, usable: Mask) -> FloatArray:
    """Phase without jumps inside ``usable`` (Herraez et al., Appl Opt 2002;41:7437); 0 outside."""
    masked = np.ma.masked_array(phase_rad, ~usable)
    unwrap: Any = unwrap_phase
    result = unwrap(masked, rng=0)
    return np.asarray(np.ma.filled(result, 0.0), dtype=np.float64)


def magnitude_only(echoes: MultiEcho, usable: Mask, params: FatWaterParams) -> WaterFat:
    """R2* alone, by the configured estimator (``complex`` falls to the one with a noise floor): no phase, no field, no fat."""
    magnitude, noise_sd = np.abs(echoes.signal), echoes.noise_sd
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


def _masked(values: AnyArray, valid: AnyArray, dtype: type = np.float32) -> AnyArray:
    return np.where(valid, values, np.nan).astype(dtype)

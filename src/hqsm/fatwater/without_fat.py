"""Maps of echoes that cannot tell fat from water: two of them, or without a phase that a field explains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.stats import norm
from skimage.restoration import unwrap_phase

from hqsm import r2star
from hqsm.arrays import AnyArray, ComplexArray, FloatArray, Mask
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.fatwater.blocks import gather
from hqsm.fatwater.bounds import R2STAR_RANGE_PER_S, expected_errors, r2star_limit_per_s, r2star_limits_per_s
from hqsm.fatwater.decay import NO_DECAY_PER_S, local_decay
from hqsm.fatwater.initialisation import in_phase_pairs
from hqsm.fatwater.maps import is_explained
from hqsm.fatwater.measurability import measurable, near_the_end
from hqsm.fatwater.period import folded
from hqsm.fatwater.tissue import Tissue
from hqsm.fatwater.unknown_fat import errors_of_unknown_fat
from hqsm.fit_models import NO_FAT, TWO_ECHOES
from hqsm.r2star.estimator_errors import estimator_errors


def two_echoes(echoes: MultiEcho, usable: Mask, fat: ComplexArray, params: FatWaterParams) -> WaterFat:
    """Field, and R2* that fat confounds, of two complex echoes; ``fat`` (echo,) is the signal of unit fat against water.

    Their standard errors hold what fat of unknown share may do (:mod:`unknown_fat`). That of the field follows the neighbourhood's
    decay: where the second echo is noise, its phase is any, however bright noise makes the voxel itself.
    """
    signal, noise_sd = echoes.signal, echoes.noise_sd
    spacing_s = float(echoes.echo_times_s[1] - echoes.echo_times_s[0])
    magnitude = np.abs(signal)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2star = np.log(magnitude[..., 0] / magnitude[..., 1]) / spacing_s
        relative = np.sqrt((noise_sd / magnitude[..., 0]) ** 2 + (noise_sd / magnitude[..., 1]) ** 2)
        water = signal[..., 0] * np.exp(r2star * echoes.echo_times_s[0])
    usable = usable & np.isfinite(r2star) & np.isfinite(relative)
    nothing = np.full(usable.shape, np.nan, np.float32)
    decay = _known_decay(echoes, usable)
    given = usable & ~decay.censored & ~decay.lost
    with np.errstate(invalid="ignore"):
        local = np.nan_to_num(decay.snr[..., None] * np.exp(-decay.r2star_per_s[..., None] * echoes.echo_times_s))
    # a voxel at a surface is darker than its neighbours by more than noise makes it
    own = magnitude / noise_sd
    brightness = np.where(own < local - _DARKER, own, local)
    of_noise_rad = np.minimum(np.sqrt(np.sum(phase_sd_rad(brightness) ** 2, axis=-1)), _ANY_PHASE_RAD)
    phase_rad = np.angle(signal[..., 1] * np.conj(signal[..., 0]))
    field_hz = _unwrapped(phase_rad, usable, usable & (of_noise_rad < _KNOWN_PHASE_RAD)) / (2 * np.pi * spacing_s)
    # whole turns that unwrapping cannot know: the body's median lies nearest zero
    field_hz -= np.round(np.median(field_hz[usable]) * spacing_s) / spacing_s
    of_fat_hz, of_fat_per_s = errors_of_unknown_fat(echoes.echo_times_s, fat, np.zeros(1))[0]
    maps = WaterFat(
        water=_masked(water, usable, np.complex64),
        fat=nothing.astype(np.complex64),
        pdff_percent=nothing,
        r2star_per_s=_masked(r2star, given),
        field_hz=_masked(field_hz, usable),
        pdff_se_percent=nothing,
        r2star_se_per_s=_masked(np.hypot(relative / spacing_s, of_fat_per_s), given),
        field_se_hz=_masked(np.hypot(of_noise_rad / (2 * np.pi * spacing_s), of_fat_hz), usable),
        residual=_masked(np.zeros(usable.shape), usable),
        model=np.where(usable, TWO_ECHOES, 0).astype(np.uint8),
        censored=decay.censored,
        r2star_limit_per_s=decay.limit_per_s,
        r2star_lower_bound_per_s=_masked(decay.lower_bound_per_s, decay.censored),
        field_strength_tesla=echoes.field_strength_tesla,
        grid=echoes.grid,
        codes=("TWO_ECHOES_NO_FAT", "R2STAR_TWO_ECHOES", *_not_in_phase(echoes, fat, params)),
    )
    return maps if params.r2star_estimator == "complex" else _with_r2star_of(magnitude_only(echoes, usable, params), maps)


def _not_in_phase(echoes: MultiEcho, fat: ComplexArray, params: FatWaterParams) -> tuple[str, ...]:
    """The code where in-phase echoes were to give the field and the two are none: it is their phase all the same."""
    asked = params.field_initialisation == "in-phase"
    return ("IN_PHASE_NOT_POSSIBLE",) if asked and not in_phase_pairs(echoes.echo_times_s, fat) else ()


def _with_r2star_of(magnitude: WaterFat, maps: WaterFat) -> WaterFat:
    """The maps with the R2* that an estimator reads from their magnitude."""
    return replace(
        maps,
        r2star_per_s=magnitude.r2star_per_s,
        r2star_se_per_s=magnitude.r2star_se_per_s,
        censored=magnitude.censored,
        r2star_limit_per_s=magnitude.r2star_limit_per_s,
        r2star_lower_bound_per_s=magnitude.r2star_lower_bound_per_s,
        codes=(*maps.codes, "R2STAR_FAT_FREE"),
    )


_ANY_PHASE_RAD = np.pi / np.sqrt(3)
"""SD of a phase that may be any."""
_DARKER = 3.0
"""SD of noise."""
_BRIGHT_SNR, _MOST = 15.0, 0.5
_KNOWN_PHASE_RAD = 1.0
"""SD beyond which a phase leads no unwrapping."""
_SNR_OF_PHASE = np.linspace(0, 10, 101)


def _phase_sds_rad() -> FloatArray:
    """(SNR,) SD of the phase of a phasor of that length in noise whose real and imaginary part have SD 1, by its density."""
    angle = np.linspace(-np.pi, np.pi, 1441)
    along = _SNR_OF_PHASE[:, None] * np.cos(angle)
    across = _SNR_OF_PHASE[:, None] * np.sin(angle)
    # the integral over the length of the Gaussian about the phasor, along each angle
    density = np.exp(-(_SNR_OF_PHASE[:, None] ** 2) / 2) / (2 * np.pi) + along * norm.pdf(across) * norm.cdf(along)
    sd: FloatArray = np.sqrt(np.trapezoid(density * angle**2, angle, axis=1))
    return sd


def phase_sd_rad(snr: FloatArray) -> FloatArray:
    """SD of a phase by the signal over the SD of the noise of its real part: 1 / SNR where bright, that of any phase in noise."""
    bright = 1 / np.maximum(snr, _SNR_OF_PHASE[-1])
    sd: FloatArray = np.where(snr < _SNR_OF_PHASE[-1], np.interp(snr, _SNR_OF_PHASE, _phase_sds_rad()), bright)
    return sd


@dataclass(frozen=True, eq=False, kw_only=True)
class _KnownDecay:
    """What the neighbourhoods' echoes tell.

    Attributes
    ----------
    snr, r2star_per_s, relative_error
        (x, y, z) amplitude at TE = 0 over the noise SD of one coil, R2*, and how much more than its local decay's a voxel's error
        is, which near the end of the data may be of several tissues.
    censored, lost
        (x, y, z) where R2* has decayed beyond what the echoes show, and where it is lost for want of brightness.
    lower_bound_per_s
        (x, y, z) below which R2* does not lie where it is censored.
    limit_per_s
        The highest R2* that tissue of the volume's median brightness may have.
    """

    snr: FloatArray
    r2star_per_s: FloatArray
    relative_error: FloatArray
    censored: Mask
    lost: Mask
    lower_bound_per_s: FloatArray
    limit_per_s: float


def _known_decay(echoes: MultiEcho, usable: Mask, coils: int = 1) -> _KnownDecay:
    """By the power of the neighbourhood's echoes, as of many echoes (:mod:`hqsm.fatwater.measurability`).

    A rule on the voxel's own estimate keeps what noise makes slow, and of severe iron gives a moderate number. Of two echoes no
    R2* is told that is gone before the first, at 1 / TE1; and as their spacing makes low ones uncertain, not decay, all may be as
    uncertain as that one.
    """
    t = np.asarray(echoes.echo_times_s, float)
    highest_per_s, least_per_s = (1 / float(t[0]), 1 / float(t[0])) if t.size == 2 else (R2STAR_RANGE_PER_S, NO_DECAY_PER_S)
    # the noise of a sum of squares has the power of one coil with so much more; its scatter is less, so that this errs towards censoring
    noisy = replace(echoes, noise_sd=echoes.noise_sd * np.sqrt(coils))
    tissue = Tissue.of(noisy, usable, -np.ones(t.size, complex))  # no fat is fitted: any that is not water will do
    blocks, expected = gather(tissue), expected_errors(t, tissue.fat)
    decay, pools = local_decay(tissue, blocks, expected, with_fat=False)
    near = near_the_end(decay, pools, blocks, expected, with_fat=False)
    limit = min(highest_per_s, r2star_limit_per_s(t, float(np.median(decay.snr)), least_per_s=least_per_s))
    own_limit = r2star_limits_per_s(t, decay.snr, least_per_s=least_per_s)
    known = measurable(decay, near, expected, limit, own_limit, np.inf, with_fat=False, least_per_s=least_per_s)
    r2star_per_s, relative_error = near.decay(decay).r2star_per_s, np.ones(decay.snr.size)
    relative_error[near.which] = near.errors_of_r2star(np.ones(near.which.size), expected.at(expected.r2star_alone, decay.of(near.which)))

    def volume(values: AnyArray, nothing: float = np.nan) -> AnyArray:
        whole = np.full(usable.shape, nothing, values.dtype)
        whole[usable] = values
        return whole

    return _KnownDecay(
        snr=volume(decay.snr * np.sqrt(coils)),
        r2star_per_s=volume(r2star_per_s),
        relative_error=volume(relative_error),
        censored=volume(known.censored | (r2star_per_s > highest_per_s), False),
        lost=volume(known.lost & ~known.censored, False),
        lower_bound_per_s=volume(known.lower_bound_per_s),
        limit_per_s=limit,
    )


def _unwrapped(phase_rad: FloatArray, usable: Mask, known: Mask) -> FloatArray:
    """Phase without jumps inside ``usable`` (Herraez et al., Appl Opt 2002;41:7437); 0 outside.

    Of what is not ``known``, mere noise, each voxel takes the turn nearest to the next known one: its own steps would lead turns away.
    """
    known = known if known.any() else usable
    masked = np.ma.masked_array(phase_rad, ~known)
    unwrap: Any = unwrap_phase
    result = np.asarray(np.ma.filled(unwrap(masked, rng=0), 0.0), dtype=np.float64)
    noise = usable & ~known
    if noise.any():
        next_rad = result[tuple(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)[:, noise])]
        result[noise] = next_rad + folded(phase_rad[noise] - next_rad, 2 * np.pi)
    return result


def magnitude_only(echoes: MultiEcho, usable: Mask, params: FatWaterParams) -> WaterFat:
    """R2* alone, by the configured estimator (``complex`` falls to the one with a noise floor): no phase, no field, no fat.

    Its standard error is the root mean square error of that estimator at the neighbourhood's decay, bias included; where the bias
    is the larger part no number is given, and R2* is censored like what the echoes do not show. Nor is one given where the echoes follow
    no decay, by more than noise: fat near a half, or echoes that are not of their times; ``DECAY_INCONSISTENT`` where most are so.
    """
    magnitude, coils = np.abs(echoes.signal), params.coils_in_magnitude
    name = "noise-floor" if params.r2star_estimator == "complex" else params.r2star_estimator
    t = np.asarray(echoes.echo_times_s, float)
    rate = np.full(usable.shape, np.nan)
    rate[usable] = r2star.estimate(name, magnitude[usable], t, echoes.noise_sd, coils=coils)
    with np.errstate(invalid="ignore", over="ignore"):
        amplitude = magnitude[..., 0] * np.exp(rate * t[0])
    decay = _known_decay(echoes, usable, coils)
    error = estimator_errors(name, t, coils=coils).at(decay.snr[usable], decay.r2star_per_s[usable])
    se = np.full(usable.shape, np.nan)
    se[usable] = error.rms_error_per_s * decay.relative_error[usable]
    censored = decay.censored.copy()
    censored[usable] |= error.misleads & (decay.r2star_per_s[usable] > NO_DECAY_PER_S)
    residual = np.full(usable.shape, np.nan)
    residual[usable], fits = _residual_of_decay(magnitude[usable], rate[usable], t, echoes.noise_sd, coils)
    given = usable & ~censored & ~decay.lost & np.isfinite(rate)
    bright = given[usable] & (magnitude[usable].max(axis=1) > _BRIGHT_SNR * echoes.noise_sd)
    inconsistent = bright.any() and fits[bright].mean() < _MOST
    given[usable] &= fits
    nothing = np.full(usable.shape, np.nan, np.float32)
    return WaterFat(
        water=_masked(amplitude, usable, np.complex64),
        fat=nothing.astype(np.complex64),
        pdff_percent=nothing,
        r2star_per_s=_masked(rate, given),
        field_hz=nothing,
        pdff_se_percent=nothing,
        r2star_se_per_s=_masked(se, given),
        field_se_hz=nothing,
        residual=_masked(residual, usable),
        model=np.where(usable & (np.isfinite(rate) | censored), NO_FAT, 0).astype(np.uint8),
        censored=censored,
        r2star_limit_per_s=decay.limit_per_s,
        r2star_lower_bound_per_s=_masked(decay.lower_bound_per_s, censored),
        field_strength_tesla=echoes.field_strength_tesla,
        grid=echoes.grid,
        codes=("MAGNITUDE_ONLY", "R2STAR_FAT_FREE", *(("DECAY_INCONSISTENT",) if inconsistent else ())),
    )


def _residual_of_decay(
    magnitude: FloatArray, r2star_per_s: FloatArray, echo_times_s: FloatArray, noise_sd: float, coils: int
) -> tuple[FloatArray, Mask]:
    """(voxel,) norm of what one decay of R2* over a noise floor leaves of magnitudes (voxel, echo) over their norm; whether that is little.

    The floor is told by the mean square, ``A^2 exp(-2 R2* t) + 2 coils SD^2``, as is the amplitude A (least squares).
    """
    floor = 2 * coils * noise_sd**2
    squared = magnitude.astype(np.float64) ** 2
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        decay = np.exp(-r2star_per_s[:, None] * echo_times_s)
        amplitude = (np.sqrt(np.maximum(squared - floor, 0)) * decay).sum(axis=1) / (decay**2).sum(axis=1)
        left = ((magnitude - np.sqrt((amplitude[:, None] * decay) ** 2 + floor)) ** 2).sum(axis=1)
        relative: FloatArray = np.sqrt(left / squared.sum(axis=1))
        # noise of a magnitude is of its real part alone
        fits = is_explained(relative, left, noise_sd**2 / 2, echo_times_s.size)
    return relative, fits


def _masked(values: AnyArray, valid: AnyArray, dtype: type = np.float32) -> AnyArray:
    return np.where(valid, values, np.nan).astype(dtype)

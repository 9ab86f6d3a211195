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
_NEIGHBOURHOOD_MM = 3.5
_LARGEST_GRADIENT_HZ_PER_MM_AT_1T5 = 4.0
_UNCERTAIN_SHARE = 0.5
_N_PRIOR_PASSES = 2
_LARGEST_PDFF_SE_PERCENT = 50.0
_R2STAR_RANGE_PER_S = 2000.0
_LARGEST_RELATIVE_SE = 1.0
_LEAST_LOCAL_SNR = 2.5


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
    numba.set_num_threads(max(1, min(n_threads, int(numba.config.NUMBA_NUM_THREADS))))  # type: ignore[attr-defined]
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


def r2star_limit_per_s(echo_times_s: FloatArray, snr: float) -> float:
    """Highest R2* [1/s] that these echo times can measure: where its standard error, fat left out, reaches R2* itself.

    ``snr`` is that of the tissue at TE = 0. Fisher information of a decay with unknown amplitude; at most 2,000 1/s.
    """
    raster = np.arange(50.0, _R2STAR_RANGE_PER_S + 1, 10.0)
    squared = np.exp(-2 * np.outer(raster, echo_times_s))
    mean = (squared * echo_times_s).sum(axis=1) / squared.sum(axis=1)
    information = (squared * (echo_times_s - mean[:, None]) ** 2).sum(axis=1) * snr**2
    with np.errstate(divide="ignore"):
        measurable = np.flatnonzero(1 / np.sqrt(information) <= _LARGEST_RELATIVE_SE * raster)
    return float(raster[measurable[-1]]) if measurable.size else 1.0 / float(echo_times_s[0])


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
    index = _numbered(usable)
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
    away = ~(np.abs(nonlinear[:, 0] - start_hz) < 0.35 / np.diff(t).min()) | ~(nonlinear[:, 1] > -100) | np.isnan(residual)
    if separable:
        with np.errstate(invalid="ignore"):
            uncertain = ~(errors[:, 2] < params.pdff_se_for_constraint_percent) | away
        # the order of the model follows from the neighbourhood's R2*, never from the voxel's own noise: choosing by the
        # voxel's own estimate would keep the low ones and lose the high ones
        local = _Neighbourhood(index, echoes.grid.voxel_size_mm)
        severe = uncertain | (local.share(uncertain) > _UNCERTAIN_SHARE)
        uncertain = severe | away
        for _ in range(_N_PRIOR_PASSES):
            prior_hz, prior_precision = _field_prior(nonlinear[:, 0], errors[:, 0], away, local, uncertain, echoes.field_strength_tesla)
            start_again = np.where(away | (prior_precision > 1 / errors[:, 0] ** 2), prior_hz, nonlinear[:, 0])
            again_r2star = np.where(np.isnan(nonlinear[:, 1]) | away, start_r2star, np.clip(nonlinear[:, 1], 0, 1500))
            free_fat = np.full(n, -1.0)
            refit = fit_constrained(uncertain, voxels, t, fat, start_again, again_r2star, prior_hz, prior_precision, free_fat, noise_sd)
            done = uncertain & np.isfinite(refit[3]) & (refit[1][:, 1] > -300)
            for old, new in zip((linear, nonlinear, errors, residual), refit, strict=True):
                old[done] = new[done]
            model[done] = CONSTRAINED
            away &= ~done
        expected = _expected_pdff_se(local, uncertain, nonlinear, linear, t, fat, noise_sd)
        hopeless = uncertain & (~(expected < params.pdff_se_for_no_fat_percent) | away)
        if hopeless.any():
            none = np.zeros(n)
            again_r2star = np.where(np.isnan(nonlinear[:, 1]), start_r2star, np.clip(nonlinear[:, 1], 0, 1500))
            refit = fit_constrained(hopeless, voxels, t, fat, start_again, again_r2star, prior_hz, prior_precision, none, noise_sd)
            done = hopeless & np.isfinite(refit[3])
            for old, new in zip((linear, nonlinear, errors, residual), refit, strict=True):
                old[done] = new[done]
            model[done] = NO_FAT
    return _assemble(echoes, usable, voxels, noise_sd, model, linear, nonlinear, errors, residual, separable=separable)


def _numbered(usable: AnyArray) -> IntArray:
    """(x, y, z) number of each usable voxel in raster order, -1 elsewhere."""
    index = np.full(usable.shape, -1, np.int64)
    index[usable] = np.arange(int(usable.sum()))
    return index


class _Neighbourhood:
    """Gaussian means around each voxel of a numbered volume, over the numbered voxels only."""

    def __init__(self, index: IntArray, voxel_size_mm: FloatArray) -> None:
        self.inside = index >= 0
        self.position_mm = np.argwhere(self.inside) * voxel_size_mm
        self.sigma = _NEIGHBOURHOOD_MM / voxel_size_mm
        centre = np.zeros([2 * int(2.5 * s + 0.5) + 1 for s in self.sigma])
        centre[tuple(n // 2 for n in centre.shape)] = 1
        self.own = float(ndimage.gaussian_filter(centre, self.sigma, truncate=2.5).max())
        """Weight of the voxel itself in its sum."""

    def total(self, values: FloatArray) -> FloatArray:
        """(voxel,) weighted sum over the neighbourhood, the voxel itself included."""
        volume = np.zeros(self.inside.shape)
        volume[self.inside] = values
        filtered: FloatArray = ndimage.gaussian_filter(volume, self.sigma, truncate=2.5)[self.inside]
        return filtered

    def share(self, marked: AnyArray) -> FloatArray:
        """(voxel,) share of marked voxels among the neighbours, the voxel itself left out."""
        everything = self.total(np.ones(marked.size)) - self.own
        share: FloatArray = (self.total(marked.astype(np.float64)) - self.own * marked) / np.maximum(everything, 1e-9)
        return share


def _field_prior(
    field_hz: FloatArray, se_hz: FloatArray, away: AnyArray, local: _Neighbourhood, wanted: AnyArray, field_strength_tesla: float
) -> tuple[FloatArray, FloatArray]:
    """Mean and precision of the field at every ``wanted`` voxel, from its neighbours (not itself) by their information.

    A plane through the neighbours, because a mean is pulled towards the side that knows more. The variance of the prior
    is what the field itself departs from the plane, not what noise adds to it, and the plane's own error.
    """
    good = ~away & np.isfinite(field_hz) & np.isfinite(se_hz)
    scale = field_strength_tesla / 1.5
    floor_hz = _SPREAD_FLOOR_HZ_AT_1T5 * scale
    noise2 = np.where(good, np.nan_to_num(se_hz, nan=1e3) ** 2, 0)
    weight = np.where(good, 1 / (noise2 + floor_hz**2), 0)
    value = np.where(good, field_hz, 0)
    x = local.position_mm
    here = x[wanted]

    def around(values: FloatArray) -> FloatArray:
        return (local.total(values) - local.own * values)[wanted]

    # moments about the voxel itself from moments about the origin
    total = around(weight)
    first = np.stack([around(weight * x[:, i]) for i in range(3)], axis=1)
    sums = around(weight * value)
    matrix = np.zeros((total.size, 4, 4))
    right = np.zeros((total.size, 4))
    matrix[:, 0, 0] = total
    right[:, 0] = sums
    for i in range(3):
        matrix[:, 0, i + 1] = matrix[:, i + 1, 0] = first[:, i] - here[:, i] * total
        right[:, i + 1] = around(weight * x[:, i] * value) - here[:, i] * sums
        for j in range(i + 1):
            second = (
                around(weight * x[:, i] * x[:, j]) - here[:, i] * first[:, j] - here[:, j] * first[:, i] + here[:, i] * here[:, j] * total
            )
            matrix[:, i + 1, j + 1] = matrix[:, j + 1, i + 1] = second
        matrix[:, i + 1, i + 1] += 1 / (_LARGEST_GRADIENT_HZ_PER_MM_AT_1T5 * scale) ** 2
    known = total > 1e-9
    matrix[~known] = np.eye(4)
    inverse = np.linalg.inv(matrix)
    plane = np.einsum("vij,vj->vi", inverse, right)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread2 = (around(weight * value**2) - np.einsum("vi,vi->v", plane, right)) / total
        of_noise2 = around(weight * noise2) / total
    spread2 = np.maximum(spread2 - of_noise2, 0.1 * np.maximum(spread2, 0))
    # a Gaussian's squared weights sum to about its central weight times its sum
    of_mean2 = local.own * np.maximum(inverse[:, 0, 0], 0)
    mean_hz, precision = np.zeros(field_hz.size), np.zeros(field_hz.size)
    mean_hz[wanted] = np.where(known, plane[:, 0], 0)
    precision[wanted] = np.where(known, 1 / (floor_hz**2 + np.nan_to_num(spread2 + of_mean2)), 0)
    return mean_hz, precision


def _expected_pdff_se(
    local: _Neighbourhood,
    uncertain: AnyArray,
    nonlinear: FloatArray,
    linear: ComplexArray,
    t: FloatArray,
    fat: ComplexArray,
    noise_sd: float,
) -> FloatArray:
    """(voxel,) standard error of PDFF [points] that the R2* and amplitude of the neighbourhood lead to; NaN if unknown.

    Fisher information of W, F, R2* and phase for lean tissue with the field known: what the constrained model can reach.
    """
    good = np.isfinite(nonlinear[:, 1])
    everything = local.total(good.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        r2star = np.clip(local.total(np.where(good, np.clip(nonlinear[:, 1], 0, 2500), 0)) / everything, 0, 2500)
        amplitude = local.total(np.where(good, np.minimum(np.abs(linear.sum(axis=1)), 1e3 * noise_sd), 0)) / everything
    raster = np.arange(0, 2501, 25.0)
    decay = np.exp(-np.outer(raster, t))
    columns = np.stack([-t * decay, 1j * decay, decay + 0j, fat * decay], axis=-1)
    fisher = np.einsum("rei,rej->rij", columns.conj(), columns).real
    size = np.sqrt(np.einsum("rii->ri", fisher))
    scaled = fisher / (size[:, :, None] * size[:, None, :])
    inverse = np.linalg.pinv(scaled, hermitian=True)
    per_snr = 100 * np.sqrt(np.maximum(inverse[:, 3, 3], 0)) / size[:, 3]
    with np.errstate(invalid="ignore", divide="ignore"):
        expected: FloatArray = np.interp(r2star, raster, per_snr) * noise_sd / amplitude
    return np.where(uncertain & (everything > 1e-6), expected, np.nan)


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
    limit = r2star_limit_per_s(echoes.echo_times_s, float(np.nanmedian(np.abs(linear.sum(axis=1)))) / noise_sd)
    strong = (np.abs(voxels) > 3 * noise_sd).sum(axis=1)
    with np.errstate(invalid="ignore"):
        # two echoes that the neighbourhood as a whole does not show above the noise hold no decay
        neighbourhood = _Neighbourhood(_numbered(usable), echoes.grid.voxel_size_mm)
        everything = neighbourhood.total(np.ones(fitted.size))
        lit = np.zeros(fitted.size, np.int64)
        for e in range(voxels.shape[1]):
            power = neighbourhood.total(np.abs(voxels[:, e]).astype(np.float64) ** 2) / everything
            lit += power > (2 + _LEAST_LOCAL_SNR**2) * noise_sd**2
        censored = fitted & ((nonlinear[:, 1] > limit) | (lit < 2))
        energy = np.linalg.norm(voxels, axis=1)
        relative = np.sqrt(residual) / energy
        # a fat fraction that is uncertain by half of its whole range is no measurement
        meaningless = ~(errors[:, 2] < _LARGEST_PDFF_SE_PERCENT)
    fat_known = fitted & (model != NO_FAT) & ~censored & ~meaningless
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
        field_hz=volume(nonlinear[:, 0], fitted & (strong >= 1)),
        pdff_se_percent=volume(errors[:, 2], fat_known),
        r2star_se_per_s=volume(errors[:, 1], fitted & ~censored),
        field_se_hz=volume(errors[:, 0], fitted & (strong >= 1)),
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

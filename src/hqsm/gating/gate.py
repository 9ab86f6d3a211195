"""Navigator gating: from repetitions in free breathing to one complex volume at end-expiration.

The displacement of each repetition comes from the first source that is there (navigator.csv, a respiratory log, the DICOM
header, the images); the gate keeps those around end-expiration; :mod:`hqsm.gating.combine` adds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hqsm.arrays import FloatArray, Mask
from hqsm.config.gating import GatingParams
from hqsm.data import GatingReport, MultiEcho, NavigatorTrace, RepeatedMultiEcho, RespiratoryRecord
from hqsm.errors import InputError, ProcessingError
from hqsm.gating.combine import combine, multi_echo
from hqsm.gating.image_displacement import ImageMotion, motion_from_images
from hqsm.gating.noise import noise_sd_from_background
from hqsm.gating.respiratory import displacement_from_bellows
from hqsm.gating.window import choose_window
from hqsm.robust import median_and_scaled_mad

SINGLE = "prospective-or-breath-hold"
_ORDER = ("navigator.csv", "physio", "dicom", "images")
"""Sources of the displacement in the order in which they are believed."""
_LARGEST_SPAN_MM = 300.0
"""Positions of a navigator further apart are in another unit, or a mark for a failed one (-999)."""
_FEWEST_TO_JUDGE = 4
"""Repetitions inside the window from which an outlier among them can be told."""
_OUTLIER_RATIO = 2.0
"""An outlier's misfit is this many times the median at least, however alike the others are."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sources:
    """Displacement of each repetition by every source that has one, in the order in which they are believed."""

    displacement_mm: dict[str, FloatArray]
    codes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def gate(
    repeated: RepeatedMultiEcho,
    navigator: NavigatorTrace | None,
    params: GatingParams,
    record: RespiratoryRecord | None = None,
) -> tuple[MultiEcho, GatingReport]:
    """One complex multi-echo volume from all repetitions, and the report of which were used.

    Raises
    ------
    InputError
        If the navigator has another number of repetitions than the images, or holds no number.
    ProcessingError
        If fewer repetitions than ``params.minimum_accepted``, or a smaller share of them than
        ``params.minimum_efficiency``, lie in the widest window.
    """
    n = repeated.n_repetitions
    if n == 1:
        signal = repeated.signal[..., 0]
        report = _ungated(1, SINGLE, float("nan"), "GATING_SINGLE_REPETITION")
        return multi_echo(repeated, signal, noise_sd_from_background(signal)), report
    motion = motion_from_images(repeated)
    sources = find_sources(repeated, navigator, record or RespiratoryRecord(), motion, params)
    if not sources.displacement_mm:
        report = replace(_ungated(n, "none", 1.0, "GATING_NO_NAVIGATOR", *sources.codes), notes=sources.notes)
        return combine(repeated, report.accepted, np.zeros(n), 0), report
    times = repeated.repetition_times_of_day_s
    if not (np.isfinite(times).all() and np.ptp(times) > 0):
        times = np.arange(float(n))
    report = choose_repetitions(sources, times, params, motion.misfit)
    short = report.n_accepted < params.minimum_accepted
    if short or report.efficiency < params.minimum_efficiency:
        wanted = f"{params.minimum_accepted}" if short else f"{params.minimum_efficiency:.0%}"
        raise ProcessingError(
            f"Only {report.n_accepted} of {n} repetitions lie within {report.window_mm:g} mm of end-expiration, {wanted} are needed.",
            remedy="Scan again, or lower gating.minimum_accepted or gating.minimum_efficiency.",
            code="GATING_TOO_FEW",
        )
    away_mm = report.displacement_mm - report.window_centre_mm
    if report.followed == "all":
        shift_mm = -(report.displacement_mm - report.end_expiration_mm)
    elif report.followed == "drift":
        shift_mm = -(report.window_centre_mm - report.end_expiration_mm)
    else:
        shift_mm = np.zeros(n)
    first = int(np.flatnonzero(report.accepted)[np.argmin(np.abs(away_mm[report.accepted]))])
    return combine(repeated, report.accepted, shift_mm, first), report


def find_sources(
    repeated: RepeatedMultiEcho,
    navigator: NavigatorTrace | None,
    record: RespiratoryRecord,
    motion: ImageMotion,
    params: GatingParams,
) -> Sources:
    """Every source of the displacement: navigator.csv, physio, dicom, images."""
    n = repeated.n_repetitions
    found: dict[str, FloatArray] = {}
    codes: tuple[str, ...] = ("GATING_PHYSIO_UNREADABLE",) if record.problems else ()
    notes = record.problems
    if navigator is not None:
        found[navigator.source] = _checked(navigator, n)
    for name, log in (("physio", record.log), ("dicom", record.amplitude)):
        if log is not None:
            bellows = displacement_from_bellows(log, repeated.repetition_times_of_day_s, motion.displacement_mm, params)
            codes, notes = codes + bellows.codes, notes + bellows.notes
            if bellows.displacement_mm is not None:
                found[name] = bellows.displacement_mm
    if record.header is not None:
        found[record.header.source] = _checked(record.header, n)
    if np.isfinite(motion.displacement_mm).any():
        found["images"] = motion.displacement_mm
    order = sorted(found, key=_ORDER.index)
    return Sources(displacement_mm={name: found[name] for name in order}, codes=codes, notes=notes)


def _checked(navigator: NavigatorTrace, n_repetitions: int) -> FloatArray:
    displacement_mm = np.asarray(navigator.displacement_mm, dtype=np.float64)
    if displacement_mm.shape != (n_repetitions,):
        raise InputError(
            f"The navigator has {displacement_mm.size} repetitions but the images have {n_repetitions}.",
            remedy="Give one row per repetition in navigator.csv.",
            code="NAVIGATOR_LENGTH",
        )
    if not np.isfinite(displacement_mm).any():
        raise InputError("The navigator holds no number.", remedy="Check navigator.csv.", code="NAVIGATOR_EMPTY")
    span_mm = float(np.nanmax(displacement_mm) - np.nanmin(displacement_mm))
    if not span_mm < _LARGEST_SPAN_MM:
        raise InputError(
            f"The navigator moves by {span_mm:.3g} mm: no diaphragm does.",
            remedy="Give its position in mm, n/a where it failed (of a DICOM element: gating.displacement_element_mm_per_unit).",
            code="NAVIGATOR_UNIT",
        )
    return displacement_mm


def choose_repetitions(sources: Sources, times: FloatArray, params: GatingParams, misfit: FloatArray) -> GatingReport:
    """Accept the repetitions in the window around end-expiration whose images agree with that.

    Parameters
    ----------
    sources
        At least one source.
    times
        (repetition,) time or number of each repetition, increasing.
    misfit
        (repetition,) see :class:`ImageMotion`; NaN where unknown.
    """
    (source, displacement_mm), *others = sources.displacement_mm.items()
    known = np.isfinite(displacement_mm)
    window = choose_window(displacement_mm, times, known, params)
    reasons = ["" if ok else "no displacement known" for ok in known]
    codes = list(sources.codes)

    blurred = _misfits(misfit, window.accepted, params)
    second, disagreement_mm = "", float("nan")
    second_mm: FloatArray = np.empty(0)
    away_mm: FloatArray = np.zeros(displacement_mm.size)
    near = window.accepted & ~blurred
    if others:
        second, second_mm = others[0]
        disagreement_mm = compare_sources(displacement_mm, second_mm, near)[1]
        if disagreement_mm > params.disagreement_mm:
            codes.append("GATING_SOURCES_DISAGREE")
    if source != "images" and "images" in sources.displacement_mm:
        away_mm, _ = compare_sources(displacement_mm, sources.displacement_mm["images"], near)
    # an image that lies elsewhere than the navigator says it does, beyond what window and tolerance allow
    elsewhere = window.accepted & (np.abs(away_mm) > params.disagreement_mm + params.window_mm / 2)
    outlier = blurred | elsewhere
    if outlier.any() and (known & ~outlier).any():
        codes.append("GATING_OUTLIERS")
        window = choose_window(displacement_mm, times, known & ~outlier, params)

    for r in np.flatnonzero(known & ~window.accepted):
        from_level_mm = displacement_mm[r] - window.level_mm[r]
        if elsewhere[r]:
            reasons[r] = f"the images show it {away_mm[r]:+.1f} mm from where {source} says"
        elif blurred[r]:
            reasons[r] = f"its image is unlike the others ({misfit[r]:.1%} unexplained): cough, swallow or a fault"
        else:
            reasons[r] = f"{from_level_mm:+.1f} mm from end-expiration, outside the {window.width_mm:g} mm window"
    efficiency = float(window.accepted.mean())
    if window.width_mm > params.window_mm:
        codes.append("GATING_WINDOW_WIDENED")
    if efficiency < params.wanted_efficiency:
        codes.append("GATING_LOW_EFFICIENCY")
    drifts = abs(window.drift_mm) >= params.smallest_drift_mm
    if drifts:
        codes.append("GATING_DRIFT")
    followed = params.follow if params.follow != "drift" or drifts else "none"
    about_mm = (displacement_mm - window.level_mm)[window.accepted]
    return GatingReport(
        displacement_mm=displacement_mm,
        accepted=window.accepted,
        reasons=tuple(reasons),
        source=source,
        efficiency=efficiency,
        window_mm=window.width_mm,
        end_expiration_mm=float(np.median(window.level_mm)),
        residual_sd_mm=float(about_mm.std(ddof=1)) if about_mm.size > 1 else float("nan"),
        window_centre_mm=window.level_mm,
        drift_mm=window.drift_mm,
        followed=followed,
        second_source=second,
        second_displacement_mm=second_mm,
        disagreement_mm=disagreement_mm,
        misfit=misfit,
        notes=sources.notes,
        codes=tuple(dict.fromkeys(codes)),
    )


def compare_sources(first_mm: FloatArray, second_mm: FloatArray, near: Mask) -> tuple[FloatArray, float]:
    """Second minus first per repetition after their origins are matched, and its RMS over all repetitions [mm].

    The origins are matched by the median over ``near`` (the repetitions at end-expiration), where both sources are best.
    """
    difference = second_mm - first_mm
    both = np.isfinite(difference)
    if not both.any():
        return np.zeros(first_mm.size), float("nan")
    at = both & near if (both & near).any() else both
    difference = np.where(both, difference - np.median(difference[at]), 0.0)
    return difference, float(np.sqrt(np.mean(difference[both] ** 2)))


def _misfits(misfit: FloatArray, candidates: Mask, params: GatingParams) -> Mask:
    """(repetition,) candidates whose image the others do not explain."""
    values = misfit[candidates]
    if values.size < _FEWEST_TO_JUDGE or not np.isfinite(values).all():
        return np.zeros(misfit.size, bool)
    middle, spread = median_and_scaled_mad(values)
    return candidates & (misfit > max(middle + params.outlier_sd * spread, _OUTLIER_RATIO * middle))


def _ungated(n: int, source: str, efficiency: float, *codes: str) -> GatingReport:
    nothing = float("nan")
    return GatingReport(
        displacement_mm=np.full(n, np.nan),
        accepted=np.ones(n, bool),
        reasons=("",) * n,
        source=source,
        efficiency=efficiency,
        window_mm=nothing,
        end_expiration_mm=nothing,
        residual_sd_mm=nothing,
        codes=codes,
    )

"""The nouns of the pipeline: what one stage hands to the next.

Axis order is ``(x, y, z, echo)``, repetitions last, as NIfTI stores it; world coordinates are RAS+ in mm.
Arrays are read-only views: a stage that wants to change one makes its own.
Phase convention: ``signal = (water + fat * c(t)) * exp(i*2*pi*field_hz*t - r2star*t)``, so that phase grows with
time where the local field is stronger than B0; fat resonates below water.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray, Mask, read_only
from hqsm.errors import InputError
from hqsm.units import DAY_S, mm3_to_ml

_LEAST_TESLA, _MOST_TESLA = 0.1, 12.0
"""Of scanners of people, with room on both sides."""


class _Frozen:
    """Makes every array attribute of a dataclass a read-only view."""

    def _freeze(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, entry.name, read_only(value))


@dataclass(frozen=True, eq=False, kw_only=True)
class VoxelGrid(_Frozen):
    """Where the voxels are.

    Attributes
    ----------
    shape
        Number of voxels along (x, y, z).
    affine_mm
        (4, 4) voxel index to RAS+ world coordinates [mm]; the scanner's B0 points along world z.
    """

    shape: tuple[int, int, int]
    affine_mm: FloatArray

    def __post_init__(self) -> None:
        if self.affine_mm.shape != (4, 4) or not np.isfinite(self.affine_mm).all():
            raise ValueError(f"the affine must be a finite 4x4 matrix, not {self.affine_mm.shape}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"the grid must have three positive dimensions, not {self.shape}")
        columns = self.affine_mm[:3, :3]
        size = np.linalg.norm(columns, axis=0)
        if (size <= 0).any():
            raise ValueError("the affine has a voxel axis of length zero")
        axes = columns / size
        if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
            raise ValueError("the affine is sheared: its voxel axes are not perpendicular")
        self._freeze()

    @property
    def voxel_size_mm(self) -> FloatArray:
        """(3,) distance between voxel centres along each voxel axis [mm]."""
        size: FloatArray = np.linalg.norm(self.affine_mm[:3, :3], axis=0)
        return size

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel [mL]."""
        return mm3_to_ml(float(np.prod(self.voxel_size_mm)))

    @property
    def b0_direction(self) -> FloatArray:
        """(3,) unit vector of B0 along the voxel axes: world z expressed in the grid's own frame."""
        axes = self.affine_mm[:3, :3] / self.voxel_size_mm
        direction: FloatArray = axes.T @ np.array([0.0, 0.0, 1.0])
        return direction

    def resampled(self, shape: tuple[int, int, int]) -> VoxelGrid:
        """Another number of voxels that fill the same box."""
        ratio = np.array(self.shape) / np.array(shape)
        affine = self.affine_mm.copy()
        affine[:3, :3] = self.affine_mm[:3, :3] * ratio
        affine[:3, 3] += self.affine_mm[:3, :3] @ ((ratio - 1) / 2)
        return VoxelGrid(shape=shape, affine_mm=affine)

    def cropped(self, box: tuple[slice, ...]) -> VoxelGrid:
        """The voxels inside ``box``, three slices with start and stop."""
        affine = self.affine_mm.copy()
        affine[:3, 3] += self.affine_mm[:3, :3] @ np.array([part.start for part in box])
        x, y, z = (part.stop - part.start for part in box)
        return VoxelGrid(shape=(x, y, z), affine_mm=affine)

    def matches(self, other: VoxelGrid, tolerance_mm: float = 1e-3) -> bool:
        """Whether the two grids hold the same voxels: equal shape, every corner within ``tolerance_mm``."""
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k, 1] for i in (0, self.shape[0]) for j in (0, self.shape[1]) for k in (0, self.shape[2])])
        return bool(np.abs(corners @ (self.affine_mm - other.affine_mm).T).max() <= tolerance_mm)


LAST_ECHO_S = 1e-4, 0.5
"""Between which the last echo time of any gradient echo lies: beyond, times are of another unit."""


def _check_echo_times(echo_times_s: FloatArray, n_echoes: int) -> None:
    if echo_times_s.shape != (n_echoes,) or n_echoes == 0:
        raise InputError(
            f"signal has {n_echoes} echoes along its echo axis, but echo_times_s is {echo_times_s.shape}.",
            remedy="Give one echo time [s] for each echo; the signal's axes are x, y, z, echo.",
            code="ECHO_TIMES",
        )
    # not sorted here: the times alone may be out of order, or given twice for want of the right one, and maps would look plausible
    if not (np.diff(echo_times_s) > 0).all() or echo_times_s[0] <= 0:
        raise InputError(
            f"echo_times_s must be positive and grow from echo to echo, but is {', '.join(f'{t:g}' for t in echo_times_s)} s.",
            remedy="Give each echo its own time, and the signal's last axis in the order of the times.",
            code="ECHO_TIMES",
        )
    if echo_times_s[-1] > LAST_ECHO_S[1]:
        raise InputError(
            f"echo_times_s ends at {echo_times_s[-1]:g} s.", remedy="Give seconds; these look like milliseconds.", code="ECHO_TIMES"
        )
    if echo_times_s[-1] < LAST_ECHO_S[0]:
        raise InputError(
            f"echo_times_s ends at {echo_times_s[-1]:g} s.", remedy="Give seconds; these were divided by 1000 once more.", code="ECHO_TIMES"
        )


def _check_axes(signal: ComplexArray, grid: VoxelGrid, axes: str) -> None:
    if signal.ndim != len(axes.split(", ")) or signal.shape[:3] != grid.shape:
        raise InputError(
            f"signal is {signal.shape}, but the grid is {grid.shape}.",
            remedy=f"Give the signal with the axes {axes} and the grid of its own images.",
            code="SIGNAL_SHAPE",
        )


def _check_field_strength(field_strength_tesla: float) -> None:
    if not _LEAST_TESLA <= field_strength_tesla <= _MOST_TESLA:
        raise InputError(
            f"field_strength_tesla is {field_strength_tesla:g}; {_LEAST_TESLA:g} to {_MOST_TESLA:g} T can be.",
            remedy="Correct MagneticFieldStrength of the images (in tesla: gauss or MHz may stand there).",
            code="FIELD_STRENGTH",
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class MultiEcho(_Frozen):
    """One complex multi-echo gradient-echo volume.

    Attributes
    ----------
    signal
        (x, y, z, echo) complex64, scanner units; phase grows with off-resonance > 0.
    echo_times_s
        (echo,) strictly increasing [s].
    field_strength_tesla
        B0 [T].
    grid
        Geometry of the three spatial axes.
    noise_sd
        Standard deviation of the real and of the imaginary part of one voxel [scanner units]; NaN if unknown.
    flip_angle_degrees, repetition_time_s
        Of the excitation; NaN if unknown.
    """

    signal: ComplexArray
    echo_times_s: FloatArray
    field_strength_tesla: float
    grid: VoxelGrid
    noise_sd: float = float("nan")
    flip_angle_degrees: float = float("nan")
    repetition_time_s: float = float("nan")

    def __post_init__(self) -> None:
        _check_axes(self.signal, self.grid, "x, y, z, echo")
        _check_echo_times(self.echo_times_s, self.signal.shape[3])
        _check_field_strength(self.field_strength_tesla)
        self._freeze()


@dataclass(frozen=True, eq=False, kw_only=True)
class RepeatedMultiEcho(_Frozen):
    """Every repetition of one multi-echo acquisition, before gating.

    Attributes
    ----------
    signal
        (x, y, z, echo, repetition) complex64, scanner units; phase grows with off-resonance > 0.
    echo_times_s, field_strength_tesla, grid
        As in :class:`MultiEcho`.
    repetition_times_of_day_s
        (repetition,) seconds since midnight at which each repetition was acquired, going on where the scan passes the next one;
        NaN where the header is silent.
    """

    signal: ComplexArray
    echo_times_s: FloatArray
    field_strength_tesla: float
    grid: VoxelGrid
    repetition_times_of_day_s: FloatArray

    def __post_init__(self) -> None:
        _check_axes(self.signal, self.grid, "x, y, z, echo, repetition")
        _check_echo_times(self.echo_times_s, self.signal.shape[3])
        _check_field_strength(self.field_strength_tesla)
        if self.repetition_times_of_day_s.shape != (self.n_repetitions,):
            raise ValueError("one acquisition time per repetition is needed")
        self._freeze()

    @property
    def n_repetitions(self) -> int:
        """Number of repetitions of the whole multi-echo volume."""
        return int(self.signal.shape[4])


@dataclass(frozen=True, eq=False, kw_only=True)
class NavigatorTrace(_Frozen):
    """Respiratory position of each repetition.

    Attributes
    ----------
    displacement_mm
        (repetition,) superior-inferior position of the diaphragm [mm], positive towards the head; NaN where unknown.
    source
        Where it came from: ``navigator.csv``, ``physio``, ``dicom``, ``images``.
    """

    displacement_mm: FloatArray
    source: str

    def __post_init__(self) -> None:
        self._freeze()


@dataclass(frozen=True, eq=False, kw_only=True)
class RespiratoryLog(_Frozen):
    """A respiratory waveform beside the images: bellows or cushion, in arbitrary units.

    Attributes
    ----------
    times_of_day_s
        (sample,) strictly increasing, seconds since midnight on the scanner's clock, going on where the recording passes the
        next one; where ``relative``, seconds since the first repetition.
    values
        (sample,) arbitrary units; NaN where the recording has a hole.
    kind
        ``bids-physio``, ``siemens-pmu``, ``cmrr-log``, ``cmrr-dicom`` or ``dicom-amplitude`` (one sample a repetition).
    clock_offset_s
        Clock of the recording unit minus the scanner's clock [s]; NaN where the file names one clock only.
    relative
        Whether the times count from the first repetition.
    """

    times_of_day_s: FloatArray
    values: FloatArray
    kind: str
    clock_offset_s: float = float("nan")
    relative: bool = False

    def __post_init__(self) -> None:
        if self.times_of_day_s.ndim != 1 or self.times_of_day_s.shape != self.values.shape or self.values.size < 2:
            raise ValueError(f"{self.times_of_day_s.shape} times but {self.values.shape} values in a respiratory log")
        if not (np.diff(self.times_of_day_s) > 0).all():
            raise ValueError("the times of a respiratory log must increase")
        self._freeze()

    def on_its_clock_s(self, repetition_times_of_day_s: FloatArray) -> FloatArray:
        """(repetition,) the same moments on the log's clock [s]: of its day, as either may begin before midnight and the other after."""
        if self.relative:
            offset_s = -float(repetition_times_of_day_s[0])
        else:
            known = repetition_times_of_day_s[np.isfinite(repetition_times_of_day_s)]
            offset_s = DAY_S * round(float(self.times_of_day_s.mean() - known.mean()) / DAY_S) if known.size else 0.0
        moved: FloatArray = repetition_times_of_day_s + offset_s
        return moved


@dataclass(frozen=True, eq=False, kw_only=True)
class RespiratoryRecord:
    """What a visit folder says about breathing besides ``navigator.csv``.

    ``log`` is a waveform on the scanner's clock, ``header`` a displacement in the images' headers, ``amplitude`` the standard
    respiratory amplitude there, in arbitrary units, ``problems`` a sentence for each log that could not be read.
    """

    log: RespiratoryLog | None = None
    header: NavigatorTrace | None = None
    amplitude: RespiratoryLog | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """Something in a visit folder that is not part of the acquisition, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class AcquisitionInfo:
    """Facts of a visit's acquisition that identify nobody.

    ``acquisition_date`` is ISO ``YYYY-MM-DD`` as it stands in the header, empty if absent.
    ``convention`` names the reader's class (``siemens-classic``, ``ge``, ``philips-classic`` ...).
    """

    convention: str
    manufacturer: str
    model: str = ""
    software: str = ""
    acquisition_date: str = ""
    flip_angle_degrees: float = float("nan")
    repetition_time_s: float = float("nan")
    imaging_frequency_mhz: float = float("nan")
    n_files: int = 0
    set_aside: tuple[SetAside, ...] = ()
    notes: tuple[str, ...] = ()
    manifest: tuple[tuple[str, str], ...] = ()
    """SHA-256 of the SOPInstanceUID and of the stored pixels of every image that was used, sorted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VisitAcquisition:
    """What the reader makes of one visit folder."""

    echoes: RepeatedMultiEcho
    info: AcquisitionInfo
    navigator: NavigatorTrace | None


@dataclass(frozen=True, eq=False, kw_only=True)
class GatingReport(_Frozen):
    """Which repetitions were used and why.

    Attributes
    ----------
    displacement_mm
        (repetition,) [mm]; NaN where there is no navigator.
    accepted
        (repetition,) bool.
    reasons
        One sentence per repetition; empty for an accepted one.
    source
        Source of the displacement, or ``prospective-or-breath-hold`` for a single repetition.
    efficiency
        Accepted share of the repetitions, 0..1; NaN for a single repetition (nothing is made up).
    window_mm, end_expiration_mm, residual_sd_mm
        Acceptance window (full width), its centre, SD of the accepted displacements [mm]; NaN where not applicable.
        Where the window follows a drift, the centre is that of the middle repetition and the SD is about the line.
    window_centre_mm
        (repetition,) centre of the window at each repetition [mm]; empty where there is no window.
    drift_mm
        Drift of the end-expiratory level from the first to the last repetition [mm]; NaN where it cannot be told.
    followed
        What accepted repetitions were shifted by before they were combined: ``none``, ``drift`` or ``all``.
    second_source, second_displacement_mm, disagreement_mm
        Another source of the displacement, what it says (repetition,) on its own origin, and the RMS difference after the
        origins are matched [mm]; empty and NaN where there is none.
    misfit
        (repetition,) share of a repetition's image that the others do not explain; empty where not computed.
    notes
        Sentences about the source: clock, scale of a bellows signal.
    codes
        Quality codes, e.g. ``GATING_LOW_EFFICIENCY``.
    """

    displacement_mm: FloatArray
    accepted: Mask
    reasons: tuple[str, ...]
    source: str
    efficiency: float
    window_mm: float
    end_expiration_mm: float
    residual_sd_mm: float
    window_centre_mm: FloatArray = field(default_factory=lambda: np.empty(0))
    drift_mm: float = float("nan")
    followed: str = "none"
    second_source: str = ""
    second_displacement_mm: FloatArray = field(default_factory=lambda: np.empty(0))
    disagreement_mm: float = float("nan")
    misfit: FloatArray = field(default_factory=lambda: np.empty(0))
    notes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._freeze()

    @property
    def n_repetitions(self) -> int:
        """Number of repetitions that were acquired."""
        return int(self.accepted.size)

    @property
    def n_accepted(self) -> int:
        """Number of repetitions that were combined."""
        return int(self.accepted.sum())


@dataclass(frozen=True, eq=False, kw_only=True)
class WaterFat(_Frozen):
    """Fat-water separation with joint R2* and field map; all arrays (x, y, z) on one grid.

    Attributes
    ----------
    water, fat
        complex64 at TE = 0, scanner units; ``fat`` is NaN where fat was not separated.
    pdff_percent
        Proton density fat fraction [%]; NaN where it is meaningless.
    r2star_per_s
        Confounder-corrected R2* [1/s]; NaN where not measurable (see ``censored``).
    field_hz
        Unwrapped off-resonance of water [Hz]; NaN outside the usable signal.
    pdff_se_percent, r2star_se_per_s, field_se_hz
        Standard errors from the Fisher information; of R2* by a fat-free estimator its own root mean square error
        in tissue without fat.
    residual
        Norm of the fit residual over norm of the signal, 0..1.
    model
        uint8: 0 no fit, 1 water-fat free, 2 fat constrained, 3 fat given up (R2* and field only), 4 two echoes (field).
    censored
        True where R2* lies beyond what the echo times can measure; ``r2star_per_s`` is NaN there.
    r2star_limit_per_s
        The bound that tissue of the volume's median brightness has [1/s]; ``censored`` follows each place's own. Where R2* is only known
        to be fast it stands for it: one number for all, so that places compare.
    r2star_lower_bound_per_s
        Below which R2* does not lie where it is censored, by each place's own brightness [1/s]; NaN elsewhere. None where the
        limit serves.
    convergence
        uint8: 0 no usable signal, 1 the fit converged, 2 it ended more than a tenth of a standard error away, 3 no fit was reached
        (no number is given). None where nothing was fitted by steps.
    swap_margin
        How much worse the other choice of water and fat would be [log-likelihood per block of 5 mm]; None if not known.
    field_difference_hz
        Field of the chosen initialisation less that of the other one [Hz]; None or NaN where there is only one.
    first_echo_phase_rad
        Root mean square of the phase that was taken off the first echo; 0 where none was.
    water_shift_ppm
        Shift of water that was estimated beyond what the temperature makes; 0 where none was.
    clipped_percent
        Share of the fitted voxels whose signal went beyond the range of the images; they have no number.
    """

    water: ComplexArray
    fat: ComplexArray
    pdff_percent: FloatArray
    r2star_per_s: FloatArray
    field_hz: FloatArray
    pdff_se_percent: FloatArray
    r2star_se_per_s: FloatArray
    field_se_hz: FloatArray
    residual: FloatArray
    model: IntArray
    censored: Mask
    r2star_limit_per_s: float
    field_strength_tesla: float
    grid: VoxelGrid
    r2star_lower_bound_per_s: FloatArray | None = None
    convergence: IntArray | None = None
    swap_margin: FloatArray | None = None
    field_difference_hz: FloatArray | None = None
    first_echo_phase_rad: float = 0.0
    water_shift_ppm: float = 0.0
    clipped_percent: float = 0.0
    codes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, np.ndarray) and value.shape != self.grid.shape:
                raise ValueError(f"{entry.name} is {value.shape}, the grid {self.grid.shape}")
        self._freeze()

    @property
    def r2star_bound_per_s(self) -> FloatArray:
        """(x, y, z) lower bound of R2* [1/s] where it is censored, the limit where no other is known; NaN elsewhere."""
        if self.r2star_lower_bound_per_s is not None:
            return self.r2star_lower_bound_per_s
        bound: FloatArray = np.where(self.censored, self.r2star_limit_per_s, np.nan).astype(np.float32)
        return bound

    @property
    def amplitude(self) -> FloatArray:
        """(x, y, z) magnitude of water and fat together at TE = 0, scanner units; 0 where nothing was fitted."""
        amplitude: FloatArray = np.nan_to_num(np.abs(self.water + np.nan_to_num(self.fat)))
        return amplitude


@dataclass(frozen=True, eq=False, kw_only=True)
class Regions(_Frozen):
    """Labelled tissue of one visit; masks are (x, y, z) bool on one grid.

    Attributes
    ----------
    body
        Everything that gives signal: the body, or the specimen with its container.
    liver
        Liver without vessels and without its eroded edge: the voxels that LIC is read from.
    liver_whole
        The whole organ, vessels and edge included (volume, susceptibility model).
    vessel
        Hepatic vessels.
    references
        Reference tissues by name: ``fat``, ``aorta``, ``muscle`` or ``medium`` (explants); missing ones are absent.
    mask_source
        ``reader`` or ``automatic``.
    codes
        Quality codes, e.g. ``MASK_AUTOMATIC``.
    near_gas
        Liver voxels next to lung or gas, where susceptibility is not read; None where it was not looked for.
    readings
        Voxels that each reader's value is read from, by reader; empty with an automatic mask.
    parts
        Right lobe and segments by name, where readers named them; inside ``liver``.
    shares
        Share of ``liver_whole`` that is left out, by cause.
    overlaps
        Dice of what two readings drew, by ``A~B``.
    reason
        Why no liver was found automatically; empty where one was.
    """

    body: Mask
    liver: Mask
    liver_whole: Mask
    vessel: Mask
    references: dict[str, Mask]
    mask_source: str
    grid: VoxelGrid
    codes: tuple[str, ...] = ()
    near_gas: Mask | None = None
    readings: dict[str, Mask] = field(default_factory=dict)
    parts: dict[str, Mask] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    overlaps: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        named = {"body": self.body, "liver": self.liver, "liver_whole": self.liver_whole, "vessel": self.vessel}
        if self.near_gas is not None:
            named["near_gas"] = self.near_gas
        for name, mask in {**named, **self.references, **self.readings, **self.parts}.items():
            if mask.shape != self.grid.shape or mask.dtype != np.bool_:
                raise ValueError(f"mask {name} is {mask.shape} {mask.dtype}, the grid {self.grid.shape} bool")
        self._freeze()
        for group in ("references", "readings", "parts"):
            object.__setattr__(self, group, {name: read_only(mask) for name, mask in getattr(self, group).items()})

    @property
    def liver_for_susceptibility(self) -> Mask:
        """The voxels that the liver's susceptibility is read from: ``liver`` away from lung and gas.

        Where little is left (a thin or small liver), all of ``liver``.
        """
        if self.near_gas is None:
            return self.liver
        away: Mask = self.liver & ~self.near_gas
        return away if away.sum() >= 0.3 * self.liver.sum() else self.liver


@dataclass(frozen=True, eq=False, kw_only=True)
class TotalField(_Frozen):
    """The measured field with everything in it: what susceptibility estimation starts from.

    Attributes
    ----------
    field_ppm
        (x, y, z) relative field [ppm]; finite inside ``mask``, 0 outside.
    weight
        (x, y, z) inverse standard error, normalised to a median of 1 in ``mask``; 0 outside.
    mask
        Voxels whose field is trusted.
    """

    field_ppm: FloatArray
    weight: FloatArray
    mask: Mask
    grid: VoxelGrid

    def __post_init__(self) -> None:
        self._freeze()


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalField(_Frozen):
    """The field made by sources inside ``mask`` alone; the mask may be smaller than the one before [ppm]."""

    field_ppm: FloatArray
    weight: FloatArray
    mask: Mask
    grid: VoxelGrid

    def __post_init__(self) -> None:
        self._freeze()


@dataclass(frozen=True, eq=False, kw_only=True)
class Solution(_Frozen):
    """What an iteration found, and whether it arrived.

    Attributes
    ----------
    x
        The solution.
    n_iterations
        Iterations that were made; 0 where the solution has a closed form.
    relative_residual
        Norm of the final (normal-equation) residual over the first one.
    converged
        Whether the stated tolerance was reached.
    """

    x: AnyArray
    n_iterations: int
    relative_residual: float
    converged: bool

    def __post_init__(self) -> None:
        self._freeze()

    @classmethod
    def closed_form(cls, x: AnyArray) -> Solution:
        """A solution that no iteration was needed for."""
        return cls(x=x, n_iterations=0, relative_residual=0.0, converged=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Susceptibility(_Frozen):
    """Susceptibility of one visit.

    Attributes
    ----------
    chi_ppm
        (x, y, z) susceptibility relative to the reference tissue [ppm], paramagnetic positive; NaN where not valid.
    reference_name
        Tissue that is zero: ``fat``, ``aorta``, ``muscle``, ``medium`` or ``none``.
    reference_chi_ppm
        What was subtracted [ppm]: the reference tissue's value in the unreferenced map.
    all_references_ppm
        Value of every candidate reference tissue in the unreferenced map [ppm].
    methods
        Names of the methods used, by stage.
    solutions
        Convergence of each iterative stage, by stage: (n_iterations, relative_residual, converged).
    codes
        Quality codes, e.g. ``CHI_NOT_CONVERGED``.
    liver_se_ppm
        Standard error of liver minus reference [ppm], null space, masks and model included; assumed for published methods.
    liver_regional_ppm
        Liver minus reference by the estimate of regions alone [ppm], a second opinion; NaN where the method has none.
    """

    chi_ppm: FloatArray
    reference_name: str
    reference_chi_ppm: float
    all_references_ppm: dict[str, float]
    methods: dict[str, str]
    solutions: dict[str, tuple[int, float, bool]]
    grid: VoxelGrid
    codes: tuple[str, ...] = ()
    liver_se_ppm: float = float("nan")
    liver_regional_ppm: float = float("nan")

    def __post_init__(self) -> None:
        self._freeze()


@dataclass(frozen=True, kw_only=True)
class RoiStatistics:
    """Robust summary of a map in a region: median inside Tukey fences, its spread and its size.

    ``median`` and ``iqr`` carry the map's unit; ``standard_error`` that of the median;
    ``excluded_share`` is the share of the region's voxels without a valid value or beyond the fences; ``trimmed_mean`` is
    the mean inside the fences.
    """

    median: float
    iqr: float
    standard_error: float
    n_voxels: int
    excluded_share: float
    trimmed_mean: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class LiverIron:
    """Liver iron of one visit, by both methods; columns of ``lic.tsv`` that the images decide."""

    chi_liver_ppm: float
    chi_reference_ppm: float
    chi_hqsm_ppm: float
    lic_hqsm_mg_g: float
    lic_hqsm_lo: float
    lic_hqsm_hi: float
    r2star_per_s: float
    lic_r2star_mg_g: float
    lic_r2star_lo: float
    lic_r2star_hi: float
    pdff_percent: float
    liver_volume_ml: float
    n_voxels: int
    calibration_hqsm: str
    calibration_r2star: str
    codes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The columns of ``lic.tsv`` that the images decide."""
        columns = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        del columns["codes"], columns["details"]
        more = ("chi_iqr_ppm", "chi_se_ppm", "chi_regional_ppm", "r2star_iqr_per_s", "r2star_lower_bound_per_s")
        return columns | {name: self.details.get(name) for name in more}

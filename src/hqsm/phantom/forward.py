"""From anatomy to complex multi-echo images: susceptibility, field, decay, breathing, receive phase, noise.

The images are complex averages of a grid that is finer than their voxels, so that dephasing inside a voxel is real;
the field is that of the fine susceptibility map, of which the images show a slab: the body goes on beyond its ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.data import RepeatedMultiEcho, VoxelGrid
from hqsm.phantom.anatomy import Coordinates, abdomen_labels, explant_labels, mobile_mask
from hqsm.phantom.tissue import LABELS, TISSUES, field_scaling, liver_chi_ppm, liver_r2star_per_s
from hqsm.units import proton_frequency_hz

FAT_PEAKS_PPM = np.array([0.90, 1.30, 2.10, 2.75, 4.20, 5.30])
FAT_AMPLITUDES = np.array([0.088, 0.700, 0.120, 0.006, 0.039, 0.047])
"""Six-peak liver fat of Hamilton et al., NMR Biomed 2011;24:784 (peaks merged)."""
_BEYOND_MM = 150.0
_LONGEST_MM = 2.5
"""Of a voxel's parts: of two parts of 3.5 mm the dome is a staircase, and two fields beat in a voxel where many fade."""
WATER_PPM_AT_37_CELSIUS = 4.70
WATER_PPM_PER_CELSIUS = -0.01


@dataclass(frozen=True, kw_only=True)
class ScanProtocol:
    """How a simulated scan is acquired.

    ``snr`` is that of liver at TE = 0 in one repetition, ``oversampling`` into how many parts a voxel is divided along each axis
    (None: two at least, none longer than 2.5 mm).
    """

    echo_times_s: tuple[float, ...]
    field_strength_tesla: float
    shape: tuple[int, int, int]
    voxel_size_mm: tuple[float, float, float]
    tilt_degrees: float = 0.0
    n_repetitions: int = 1
    snr: float = 40.0
    temperature_celsius: float = 37.0
    oversampling: tuple[int, int, int] | None = None

    @property
    def sub_voxels(self) -> tuple[int, int, int]:
        """Into how many parts a voxel is divided along each axis."""
        nx, ny, nz = (max(2, int(np.ceil(d / _LONGEST_MM - 1e-6))) for d in self.voxel_size_mm)
        return self.oversampling or (nx, ny, nz)


@dataclass(frozen=True, kw_only=True)
class LiverState:
    """The liver of one visit and the body around it.

    ``other_chi_ppm`` names tissues whose susceptibility differs from the table of :mod:`hqsm.phantom.tissue`: lungs are
    more or less inflated, spleens may hold iron, and the literature does not agree on fat.
    """

    lic_mg_g: float
    pdff_percent: float = 3.0
    body_scale: float = 1.0
    heterogeneity: float = 0.04
    other_chi_ppm: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class TruthMaps:
    """What is true on the image grid at end-expiration; the three liver values are means over parenchyma."""

    chi_ppm: FloatArray
    r2star_per_s: FloatArray
    pdff_percent: FloatArray
    field_hz: FloatArray
    labels: IntArray
    liver_chi_ppm: float
    liver_r2star_per_s: float
    liver_pdff_percent: float


@dataclass(frozen=True, eq=False, kw_only=True)
class SimulatedScan:
    """A scan and its truth; ``displacement_mm`` (repetition,) is 0 at end-expiration, negative in inspiration."""

    echoes: RepeatedMultiEcho
    displacement_mm: FloatArray
    truth: TruthMaps


def fat_phasor(echo_times_s: FloatArray, field_strength_tesla: float, temperature_celsius: float) -> ComplexArray:
    """Signal of unit fat relative to on-resonance water at each echo; warmer water moves towards the fat."""
    water = WATER_PPM_AT_37_CELSIUS + WATER_PPM_PER_CELSIUS * (temperature_celsius - 37.0)
    offsets_hz = (FAT_PEAKS_PPM - water) * proton_frequency_hz(field_strength_tesla) * 1e-6
    phasor: ComplexArray = np.exp(2j * np.pi * np.outer(echo_times_s, offsets_hz)) @ FAT_AMPLITUDES
    return phasor


def dipole_field_ppm(chi_ppm: FloatArray, voxel_size_mm: FloatArray, b0_direction: FloatArray) -> FloatArray:
    """Relative field [ppm] of a susceptibility map (x, y, z) by a padded convolution.

    Around the map, in plane, there is its corner's susceptibility: air. Along z the map repeats itself, so that a body
    has no end: a cut there would be a surface of 9.4 ppm and make a field that no patient has.

    Salomir 2003: the spectrum of the field is ``(1/3 - (k.b)^2/k^2)`` times that of the susceptibility.
    """
    outside = float(chi_ppm[0, 0, 0])
    nx, ny, nz = chi_ppm.shape
    padded_shape = (fft.next_fast_len(2 * nx, real=True), fft.next_fast_len(2 * ny, real=True), nz)
    k = np.meshgrid(
        *(
            (fft.rfftfreq if axis == 2 else fft.fftfreq)(n, d).astype(np.float32)
            for axis, (n, d) in enumerate(zip(padded_shape, voxel_size_mm, strict=True))
        ),
        indexing="ij",
        sparse=True,
    )
    k2 = sum(component**2 for component in k)
    along = sum(component * np.float32(b) for component, b in zip(k, b0_direction, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        kernel = np.float32(1 / 3) - along**2 / k2
    kernel[0, 0, 0] = 0
    spectrum = fft.rfftn((chi_ppm - np.float32(outside)).astype(np.float32), s=padded_shape, workers=1)
    spectrum *= kernel
    field = fft.irfftn(spectrum, s=padded_shape, workers=1)
    return np.ascontiguousarray(field[tuple(slice(0, n) for n in chi_ppm.shape)])


def image_grid(protocol: ScanProtocol) -> VoxelGrid:
    """The image grid: centred on the world's origin, tilted about the patient's left-right axis."""
    tilt = np.radians(protocol.tilt_degrees)
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(protocol.voxel_size_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(protocol.shape) - 1) / 2)
    return VoxelGrid(shape=protocol.shape, affine_mm=affine)


def simulate_abdomen(
    liver: LiverState, protocol: ScanProtocol, rng_seed: int, anatomy_seed: int, displacement_mm: FloatArray | None = None
) -> SimulatedScan:
    """A free-breathing abdominal scan: ``protocol.n_repetitions`` repetitions, each at its respiratory position.

    ``displacement_mm`` (repetition,) prescribes the positions; without it they are drawn as quiet breathing.
    """
    volume = _with_surroundings(lambda xyz: abdomen_labels(xyz, liver.body_scale, anatomy_seed), protocol)
    rng = np.random.default_rng([rng_seed, 21])
    if displacement_mm is None:
        displacement_mm = breathing_displacement_mm(protocol.n_repetitions, rng)
    return _simulate(volume, liver, protocol, displacement_mm, rng, anatomy_seed)


def simulate_explant(liver: LiverState, protocol: ScanProtocol, rng_seed: int, anatomy_seed: int) -> SimulatedScan:
    """An explanted liver in its container: one repetition, room temperature, no motion."""
    volume = _with_surroundings(lambda xyz: explant_labels(xyz, anatomy_seed), protocol)
    rng = np.random.default_rng([rng_seed, 22])
    return _simulate(volume, liver, protocol, np.zeros(protocol.n_repetitions), rng, anatomy_seed)


def breathing_displacement_mm(n_repetitions: int, rng: np.random.Generator) -> FloatArray:
    """Diaphragm position of each repetition [mm], 0 at end-expiration, negative in inspiration.

    Lujan's cos^4 breathing with 10 to 16 mm amplitude; at least half of the repetitions (three where there are three)
    lie within 2.5 mm of end-expiration, as in quiet breathing.
    """
    if n_repetitions == 1:
        return np.zeros(1)
    amplitude_mm = rng.uniform(10, 16)
    n_quiet = min(n_repetitions, max(3, (n_repetitions + 1) // 2))
    quiet = rng.uniform(-2.0, 0.3, n_quiet)
    moving = -amplitude_mm * np.sin(rng.uniform(np.pi / 3.4, np.pi / 2, n_repetitions - n_quiet)) ** 4 - 5
    return rng.permutation(np.concatenate([quiet, moving]))


def _with_surroundings(labels_at: Callable[[Coordinates], IntArray], protocol: ScanProtocol) -> tuple[IntArray, slice]:
    """Labels on the fine grid with at least 150 mm of what lies beyond either end of the slab, and where the slab is."""
    n, o, size_mm = protocol.shape[2], protocol.sub_voxels[2], protocol.voxel_size_mm[2]
    margin = int(np.ceil(_BEYOND_MM / size_mm)) * o
    while fft.next_fast_len(n * o + 2 * margin, real=True) != n * o + 2 * margin:
        margin += 1
    # in pieces, for memory: the coordinates of the whole are three large arrays
    pieces = ((-margin, 0), (0, n * o), (n * o, n * o + margin))
    labels = np.concatenate([labels_at(_fine_world_coordinates(protocol, *piece)) for piece in pieces], axis=2)
    return labels, slice(margin, margin + n * o)


def _fine_world_coordinates(protocol: ScanProtocol, first: int, last: int) -> Coordinates:
    """World coordinates [mm] of the fine voxels from fine slice ``first`` to before ``last``; slice 0 begins the slab."""
    grid = image_grid(protocol)
    oversampling = np.array(protocol.sub_voxels)
    n = (protocol.shape[0] * oversampling[0], protocol.shape[1] * oversampling[1])
    spans = (np.arange(n[0]), np.arange(n[1]), np.arange(first, last))
    axes = [((span + 0.5) / o - 0.5).astype(np.float32) for span, o in zip(spans, oversampling, strict=True)]
    i, j, k = np.meshgrid(*axes, indexing="ij", sparse=True)
    a = grid.affine_mm.astype(np.float32)
    x, y, z = (
        np.ascontiguousarray(np.broadcast_to(a[r, 0] * i + a[r, 1] * j + a[r, 2] * k + a[r, 3], (i.size, j.size, k.size))) for r in range(3)
    )
    return x, y, z


def _tissue_maps(
    labels: IntArray, liver: LiverState, protocol: ScanProtocol, anatomy_seed: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Density, fat fraction, R2* [1/s] and susceptibility [ppm] on the fine grid of the slab."""
    scale = field_scaling(protocol.field_strength_tesla)
    density, fat, r2star, chi = (
        np.array(values, np.float32)[labels]
        for values in (
            [t.density for t in TISSUES],
            [t.fat_fraction for t in TISSUES],
            [t.r2star_per_s * scale for t in TISSUES],
            _chi_by_label(liver),
        )
    )
    rng = np.random.default_rng([anatomy_seed, 23])
    # by voxels, not by their parts: however finely a body is simulated, its iron lies as it does
    coarse = rng.standard_normal([max(2, n // 6) for n in protocol.shape])
    smooth = ndimage.zoom(ndimage.gaussian_filter(coarse, 0.8), [n / m for n, m in zip(labels.shape, coarse.shape, strict=True)], order=1)
    inside = labels == LABELS["liver"]
    texture = smooth[inside] - smooth[inside].mean()
    lic = liver.lic_mg_g * (1 + liver.heterogeneity * texture / texture.std())
    fat_fraction = liver.pdff_percent / 100
    density[inside] = 100 * (1 - 0.2 * fat_fraction)
    fat[inside] = fat_fraction
    slope = liver_r2star_per_s(1, protocol.field_strength_tesla) - liver_r2star_per_s(0, protocol.field_strength_tesla)
    r2star[inside] = liver_r2star_per_s(0, protocol.field_strength_tesla) + slope * lic
    chi_tissue = 0.6 * fat_fraction
    ppm_per_mg_g = liver_chi_ppm(1, protocol.temperature_celsius)
    chi[inside] = chi_tissue + ppm_per_mg_g * lic
    # iron of a spleen is seen in its decay as that of a liver is
    spleen = labels == LABELS["spleen"]
    r2star[spleen] += slope / ppm_per_mg_g * np.maximum(chi[spleen] - TISSUES[LABELS["spleen"]].chi_ppm, 0)
    return density, fat, r2star, chi


def _chi_by_label(liver: LiverState) -> list[float]:
    other = dict(liver.other_chi_ppm)
    return [other.get(t.name, t.chi_ppm) for t in TISSUES]


def _shimmed(field_hz: FloatArray, inside: AnyArray, xyz: tuple[AnyArray, AnyArray, AnyArray]) -> FloatArray:
    """What the scanner's shim leaves: linear terms removed, second order to 60 %.

    ``xyz`` are distances from the centre in one unit, so that each term obeys Laplace's equation as a shim's field does.
    """
    x, y, z = xyz
    first = [np.ones_like(x * y * z), x + 0 * y * z, y + 0 * x * z, z + 0 * x * y]
    second = [x * y + 0 * z, x * z + 0 * y, y * z + 0 * x, x**2 - y**2 + 0 * z, 2 * z**2 - x**2 - y**2]
    columns = np.stack([c[inside] for c in first + second], axis=1)
    step = max(1, columns.shape[0] // 40_000)
    weights, *_ = np.linalg.lstsq(columns[::step], field_hz[inside][::step], rcond=None)
    weights[4:] *= 0.6
    for weight, column in zip(weights, first + second, strict=True):
        field_hz = field_hz - np.float32(weight) * column
    return field_hz


def _simulate(
    volume: tuple[IntArray, slice],
    liver: LiverState,
    protocol: ScanProtocol,
    displacement_mm: FloatArray,
    rng: np.random.Generator,
    anatomy_seed: int,
) -> SimulatedScan:
    grid = image_grid(protocol)
    oversampling = np.array(protocol.sub_voxels)
    fine_mm = grid.voxel_size_mm / oversampling
    echo_times_s = np.array(protocol.echo_times_s)
    spacings_s = np.diff(echo_times_s)
    evenly = bool(np.allclose(spacings_s, spacings_s[:1], rtol=1e-9))
    everything, slab = volume
    labels = np.ascontiguousarray(everything[:, :, slab])
    density, fat, r2star, chi = _tissue_maps(labels, liver, protocol, anatomy_seed)
    tissue_chi_ppm = np.array(_chi_by_label(liver), np.float32)
    if (labels == LABELS["liver"]).any():
        tissue_chi_ppm[LABELS["liver"]] = chi[labels == LABELS["liver"]].mean()
    whole_chi = tissue_chi_ppm[everything]
    whole_chi[:, :, slab] = chi
    hz_per_ppm = proton_frequency_hz(protocol.field_strength_tesla) * 1e-6
    unit = [np.linspace(-1, 1, n, dtype=np.float32) for n in labels.shape]
    breathing_axis = int(np.argmax(np.abs(grid.b0_direction)))
    breathing_sign = float(np.sign(grid.b0_direction[breathing_axis]))
    u, v, w = np.meshgrid(*unit, indexing="ij", sparse=True)
    extent = fine_mm * np.array(labels.shape)
    from_centre = tuple(c * np.float32(e / extent.max()) for c, e in zip((u, v, w), extent, strict=True))
    # the field of what moves, and of all: what is still has the difference
    moving_hz = np.zeros_like(whole_chi)
    if displacement_mm.any():
        moving_chi = np.where(mobile_mask(everything), whole_chi, 0)
        moving_hz = dipole_field_ppm(moving_chi, fine_mm, grid.b0_direction) * np.float32(hz_per_ppm)
    field_hz = dipole_field_ppm(whole_chi, fine_mm, grid.b0_direction)[:, :, slab] * np.float32(hz_per_ppm)
    # the Larmor frequency is set on the water of the body; what is left is what the shim leaves
    field_hz = _shimmed(field_hz, density > 50, (from_centre[0], from_centre[1], from_centre[2])).astype(np.float32)

    receive = (0.9 - 0.12 * u * v + 0.1 * v - 0.05 * w**2) * np.exp(1j * (0.5 + 0.7 * u - 0.4 * v + 0.5 * w + 0.3 * u * w))
    receive = receive.astype(np.complex64)
    moving = mobile_mask(labels)
    phasor = fat_phasor(echo_times_s, protocol.field_strength_tesla, protocol.temperature_celsius)
    tissue = (density * (1 - fat), density * fat, r2star)
    n = (*protocol.shape, echo_times_s.size, displacement_mm.size)
    signal = np.empty(n, np.complex64)
    noise_sd = 100.0 / protocol.snr
    for repetition, shift_mm in enumerate(displacement_mm):
        shift_voxels = breathing_sign * float(shift_mm) / fine_mm[breathing_axis]
        water, fat_signal, decay = _displaced(tissue, moving, shift_voxels, breathing_axis)
        # what the field of the moving sources has changed by; wall and spine leave theirs where it was
        off_hz = field_hz
        if shift_voxels:
            off_hz = field_hz + (_shifted(moving_hz, shift_voxels, breathing_axis) - moving_hz)[:, :, slab]
        drift_hz = 0.3 * float(shift_mm) * (1 + 0.5 * w) + rng.uniform(-1, 1)
        rate = 2j * np.pi * (off_hz + drift_hz) - decay
        start = (receive * np.exp(1j * rng.uniform(-np.pi, np.pi))).astype(np.complex64)
        evolution = np.exp((rate * echo_times_s[0]).astype(np.complex64)) * start
        for echo in range(echo_times_s.size):
            if echo:
                if echo == 1 or not evenly:
                    onwards = np.exp((rate * spacings_s[echo - 1]).astype(np.complex64))
                evolution *= onwards
            fine = (water + fat_signal * np.complex64(phasor[echo])) * evolution
            noise = rng.standard_normal((2, *protocol.shape)).astype(np.float32) * np.float32(noise_sd)
            signal[..., echo, repetition] = _average(fine, oversampling) + noise[0] + 1j * noise[1]
    echoes = RepeatedMultiEcho(
        signal=signal,
        echo_times_s=echo_times_s,
        field_strength_tesla=protocol.field_strength_tesla,
        grid=grid,
        repetition_times_of_day_s=36_000.0 + 12.0 * np.arange(displacement_mm.size),
    )
    return SimulatedScan(
        echoes=echoes,
        displacement_mm=displacement_mm,
        truth=_truth(labels, density, fat, r2star, chi, field_hz, oversampling),
    )


def _displaced(maps: tuple[FloatArray, ...], moving: AnyArray, shift_voxels: float, axis: int) -> list[FloatArray]:
    """Move the organs along the voxel axis nearest head-foot and leave wall and spine.

    Inside the organs the shifted maps count; where an organ moved away from its place, what came in counts.
    """
    if shift_voxels == 0:
        return list(maps)
    inside = moving & (_shifted(moving.astype(np.float32), shift_voxels, axis) > 0.5)
    return [np.where(inside, _shifted(volume, shift_voxels, axis), volume) for volume in maps]


def _shifted(volume: FloatArray, shift_voxels: float, axis: int) -> FloatArray:
    """The volume moved along an axis, linear between its voxels; at its ends it goes on as it is there."""
    whole = int(np.floor(shift_voxels))
    part = np.float32(shift_voxels - whole)

    def by(k: int) -> FloatArray:
        index = np.clip(np.arange(volume.shape[axis]) - k, 0, volume.shape[axis] - 1)
        return np.take(volume, index, axis=axis)

    return by(whole) if part == 0 else (1 - part) * by(whole) + part * by(whole + 1)


def _average(fine: AnyArray, oversampling: AnyArray) -> AnyArray:
    a, b, c = (int(o) for o in oversampling)
    nx, ny, nz = fine.shape[0] // a, fine.shape[1] // b, fine.shape[2] // c
    mean: AnyArray = fine.reshape(nx, a, ny, b, nz, c).mean(axis=(1, 3, 5), dtype=fine.dtype)
    return mean


def _truth(
    labels: IntArray,
    density: FloatArray,
    fat: FloatArray,
    r2star: FloatArray,
    chi: FloatArray,
    field_hz: FloatArray,
    oversampling: AnyArray,
) -> TruthMaps:
    o = tuple(slice(int(n) // 2, None, int(n)) for n in oversampling)
    liver = labels == LABELS["liver"]
    with np.errstate(invalid="ignore", divide="ignore"):
        pdff = 100 * _average(density * fat, oversampling) / _average(density, oversampling)
    return TruthMaps(
        chi_ppm=_average(chi, oversampling),
        r2star_per_s=_average(r2star, oversampling),
        pdff_percent=pdff,
        field_hz=_average(field_hz, oversampling),
        labels=np.ascontiguousarray(labels[o]),
        liver_chi_ppm=float(chi[liver].mean()),
        liver_r2star_per_s=float(r2star[liver].mean()),
        liver_pdff_percent=float(100 * fat[liver].mean()),
    )

"""A simulated abdomen for fat-water separation: numpy and scipy only, no code of the package under test.

160 x 128 x 32 voxels of 2.4 x 2.4 x 6 mm by default. The liver is tiled with blocks of 14 mm that hold every pair of R2*
and PDFF, with a texture of 3 %; around it subcutaneous and visceral fat, marrow, spleen, kidneys, vessels, gas in the
stomach, and lungs above a dome. The field is that of the susceptibility map by dipole convolution, after a shim of second
order. Complex Gaussian noise; SNR is that of lean liver at TE = 0.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

R2STARS_PER_S = (30, 50, 80, 120, 200, 300, 450, 600, 750, 900)
PDFFS_PERCENT = (0, 5, 10, 20, 30, 40)
PEAKS_PPM = np.array([0.90, 1.30, 2.10, 2.75, 4.20, 5.30]) - 4.7
AMPLITUDES = np.array([0.088, 0.700, 0.120, 0.006, 0.039, 0.047])
GAMMA_HZ_PER_T = 42.577478518e6
AIR, FAT, MUSCLE, LIVER, SPLEEN, KIDNEY, VESSEL, MARROW, LUNG = range(9)
#        density, fat %, R2* at 1.5 T, susceptibility [ppm]
TISSUE = {
    AIR: (0.0, 0, 30, 0.36),
    FAT: (100.0, 92, 30, -8.4),
    MUSCLE: (85.0, 2, 35, -9.05),
    LIVER: (100.0, 0, 30, -9.05),
    SPLEEN: (95.0, 0, 25, -9.0),
    KIDNEY: (100.0, 1, 22, -9.05),
    VESSEL: (110.0, 0, 15, -9.0),
    MARROW: (90.0, 45, 70, -9.3),
    LUNG: (8.0, 0, 150, -2.5),
}


@dataclass(frozen=True)
class Case:
    name: str
    tesla: float
    first_s: float
    spacing_s: float
    snr: float
    shape: tuple = (160, 128, 32)
    n_echoes: int = 6
    seed: int = 1
    iron_by_block: bool = False

    @property
    def echo_times_s(self):
        return self.first_s + self.spacing_s * np.arange(self.n_echoes)


CASES = {
    case.name: case
    for case in (
        Case("A15", 1.5, 1.2e-3, 1.6e-3, 40),
        Case("A3", 3.0, 1.0e-3, 1.0e-3, 40),
        Case("A15lo", 1.5, 1.2e-3, 2.0e-3, 20),
        Case("A15hi", 1.5, 1.2e-3, 1.3e-3, 60),
        Case("A3lo", 3.0, 1.0e-3, 1.0e-3, 20),
        Case("A3hi", 3.0, 1.0e-3, 1.0e-3, 60),
        Case("A15x64", 1.5, 1.2e-3, 1.6e-3, 40, shape=(160, 128, 64)),
        Case("A15op", 1.5, 1.2e-3, 2.3e-3, 40),
        Case("A15blocks", 1.5, 1.2e-3, 1.6e-3, 40, iron_by_block=True),
        Case("S15", 1.5, 1.2e-3, 1.6e-3, 40, shape=(96, 80, 12)),
    )
}


@dataclass(frozen=True)
class Scan:
    signal: np.ndarray
    noise_sd: float
    voxel_size_mm: np.ndarray
    labels: np.ndarray
    r2star: np.ndarray
    pdff: np.ndarray
    field_hz: np.ndarray
    density: np.ndarray


def fat_phasor(echo_times_s, tesla):
    return np.exp(2j * np.pi * np.outer(echo_times_s, PEAKS_PPM * tesla * GAMMA_HZ_PER_T * 1e-6)) @ (AMPLITUDES / AMPLITUDES.sum())


def anatomy(shape, voxel_mm, z_mm=None):
    """Labels on a grid centred on the body; x to the left, y to the back, z to the head."""
    x, y = (((np.arange(n) - (n - 1) / 2) * d) for n, d in zip(shape[:2], voxel_mm[:2], strict=True))
    z = (np.arange(shape[2]) - (shape[2] - 1) / 2) * voxel_mm[2] if z_mm is None else z_mm
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    scale = min(1.0, shape[0] * voxel_mm[0] / 384)
    x, y = x / scale, y / scale

    def ellipsoid(cx, cy, cz, rx, ry, rz):
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1

    def column(cx, cy, rx, ry):
        return (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + 0 * z) < 1

    labels = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.uint8)
    labels[column(0, 0, 178, 122)] = FAT
    labels[column(0, 0, 158, 103)] = MUSCLE
    cavity = column(0, -4, 142, 88)
    labels[cavity & (((x + 2 * y + z) % 70) < 22)] = FAT  # visceral
    labels[column(0, 72, 24, 22)] = MARROW
    labels[column(118, 30, 6, 30) | column(-128, 20, 6, 30)] = MARROW
    dome = 62 - 0.0035 * (x + 62) ** 2 - 0.0035 * (y + 5) ** 2
    left_dome = 45 - 0.004 * (x - 75) ** 2 - 0.004 * (y + 5) ** 2
    liver = cavity & ((((x + 55) / 92) ** 2 + ((y + 8) / 80) ** 2 + (np.minimum(z + 10, 0) / 100) ** 2) < 1)
    labels[liver] = LIVER
    labels[ellipsoid(98, 30, -5, 36, 44, 50)] = SPLEEN
    labels[ellipsoid(62, 48, -85, 26, 30, 55) | ellipsoid(-62, 55, -85, 26, 28, 55)] = KIDNEY
    labels[column(14, 44, 11, 11) | column(-16, 42, 12, 10)] = VESSEL
    stomach = ellipsoid(62, -20, -5, 42, 50, 40)
    labels[stomach] = MUSCLE
    labels[stomach & (y < -38)] = AIR
    labels[ellipsoid(30, -45, -80, 40, 18, 14)] = AIR
    labels[cavity & (np.where(x < 5, z > dome, z > left_dome)) & (labels != VESSEL) & (labels != MARROW)] = LUNG
    heart = ellipsoid(40, -30, 85, 62, 48, 50)
    labels[cavity & heart & (z > 35)] = VESSEL
    return labels


def dipole_field_ppm(chi, voxel_mm):
    """Field of a map by convolution, in plane padded with its corner's value, along z taken as periodic."""
    chi = (chi - chi[0, 0, 0]).astype(np.float32)
    n = [2 * chi.shape[0], 2 * chi.shape[1], chi.shape[2]]
    kx, ky = (
        fft.fftfreq(m, d)[:, None] if i == 0 else fft.fftfreq(m, d)[None, :]
        for i, (m, d) in enumerate(zip(n[:2], voxel_mm[:2], strict=True))
    )
    kz = fft.rfftfreq(n[2], voxel_mm[2])[None, None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        kernel = 1 / 3 - kz**2 / (kx[..., None] ** 2 + ky[..., None] ** 2 + kz**2)
    kernel[0, 0, 0] = 0
    field = fft.irfftn(fft.rfftn(chi, s=n) * kernel.astype(np.float32), s=n)
    return field[: chi.shape[0], : chi.shape[1]]


def shimmed(field, inside):
    x, y, z = (c.astype(np.float32) / max(field.shape) - 0.5 for c in np.indices(field.shape, sparse=True))
    terms = [1 + 0 * (x + y + z), x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
    terms = [np.broadcast_to(term, field.shape) for term in terms]
    columns = np.stack([term[inside] for term in terms], axis=1)
    weights, *_ = np.linalg.lstsq(columns[::37], field[inside][::37], rcond=None)
    for weight, term in zip(weights, terms, strict=True):
        field = field - weight * term
    return field


def simulate(case, noise=True):
    rng = np.random.default_rng(case.seed)
    scale = 384 / (2.4 * case.shape[0]) if case.shape[0] < 160 else 1.0
    slab_mm = 6.0 * 32 if case.shape[2] >= 32 else 6.0 * case.shape[2]
    voxel_mm = np.array([2.4 * scale, 2.4 * scale, slab_mm / case.shape[2]])
    nz = case.shape[2]
    margin = int(np.ceil(160 / voxel_mm[2]))
    z_mm = (np.arange(nz + 2 * margin) - margin - (nz - 1) / 2) * voxel_mm[2]
    everything = anatomy(case.shape, voxel_mm, z_mm)
    labels = np.ascontiguousarray(everything[:, :, margin : margin + nz])
    values = np.array([TISSUE[k] for k in range(9)])
    density, pdff, r2star = (values[labels, k] for k in range(3))
    tesla_factor = case.tesla / 1.5
    r2star = np.where(labels == LIVER, r2star, r2star * (1 + 0.7 * (tesla_factor - 1)))
    # the liver's blocks: every pair in turn, in a fixed shuffle
    cells = [np.floor(np.arange(n) * d / 14).astype(int) for n, d in zip(case.shape, voxel_mm, strict=True)]
    pairs = [(r, p) for r in R2STARS_PER_S for p in PDFFS_PERCENT]
    number = cells[0][:, None, None] + 41 * cells[1][None, :, None] + 997 * cells[2][None, None, :]
    order = rng.integers(0, len(pairs), number.max() + 1)
    block = np.array(pairs, float)[order[number]]
    texture = 1 + 0.03 * np.clip(ndimage.gaussian_filter(rng.standard_normal(case.shape), 1.0) * 4.0, -2, 2)
    liver = labels == LIVER
    r2star = np.where(liver, block[..., 0] * texture, r2star)
    pdff = np.where(liver, block[..., 1] * texture, pdff)
    chi = values[everything, 3]
    # liver iron of 2.5 ppm per 1000 1/s: the mean level everywhere, or each block its own (steps that no liver has)
    iron = block[..., 0] if case.iron_by_block else np.full(case.shape, 350.0)
    everything_liver = everything == LIVER
    chi[everything_liver] += 2.5e-3 * 350.0 / tesla_factor
    chi[:, :, margin : margin + nz][liver] += 2.5e-3 * (iron[liver] - 350.0) / tesla_factor
    field = dipole_field_ppm(chi, voxel_mm)[:, :, margin : margin + nz] * case.tesla * GAMMA_HZ_PER_T * 1e-6
    field = shimmed(field, density > 50)
    t = case.echo_times_s
    x, y, z = (np.linspace(-1, 1, n) for n in case.shape)
    phase = 0.5 + 0.7 * x[:, None, None] - 0.4 * y[None, :, None] + 0.5 * z[None, None, :] ** 2
    clean = density * np.exp(1j * phase)
    f = pdff / 100
    noise_sd = 100.0 / case.snr
    c = fat_phasor(t, case.tesla)
    signal = np.empty((*case.shape, t.size), np.complex64)
    for e, time in enumerate(t):
        signal[..., e] = clean * (1 - f + f * c[e]) * np.exp((2j * np.pi * field - r2star) * time)
        if noise:
            signal[..., e] += noise_sd * (rng.standard_normal(case.shape) + 1j * rng.standard_normal(case.shape))
    return Scan(signal, noise_sd, voxel_mm, labels, r2star, pdff, field, density)


def cramer_rao(case, r2star, pdff, amplitude, noise_sd, *, constrained=False):
    """SD of PDFF [points], R2* [1/s] and field [Hz] that no unbiased estimate can beat; Fisher matrix by hand.

    Unknowns: f, R2*, and W, F complex; ``constrained``: the field known, W and F of one known-shape phase.
    """
    t = case.echo_times_s
    c = fat_phasor(t, case.tesla)
    fraction = np.asarray(pdff, float)[:, None] / 100
    decay = np.exp(-np.asarray(r2star, float)[:, None] * t) * np.asarray(amplitude, float)[:, None]
    s = (1 - fraction + fraction * c) * decay
    if constrained:
        columns = [-t * s, 1j * s, decay + 0j, c * decay]
    else:
        columns = [2j * np.pi * t * s, -t * s, decay + 0j, 1j * decay, c * decay, 1j * c * decay]
    jacobian = np.stack(columns, axis=-1)
    fisher = np.einsum("vei,vej->vij", jacobian.conj(), jacobian).real / noise_sd**2
    scale = np.sqrt(np.einsum("vii->vi", fisher))
    inverse = np.linalg.inv(fisher / (scale[:, :, None] * scale[:, None, :])) / (scale[:, :, None] * scale[:, None, :])
    # linear unknowns are in units of the amplitude already (decay carries it): PDFF = F / (W + F), W + F = 1
    w, f = (2, 3) if constrained else (2, 4)
    gradient = np.zeros((s.shape[0], jacobian.shape[-1]))
    gradient[:, w], gradient[:, f] = -fraction[:, 0], 1 - fraction[:, 0]
    var_pdff = np.einsum("vi,vij,vj->v", gradient, inverse, gradient)
    k = 0 if constrained else 1
    field = np.zeros(s.shape[0]) if constrained else np.sqrt(inverse[:, 0, 0])
    return 100 * np.sqrt(var_pdff), np.sqrt(inverse[:, k, k]), field

"""A digital abdomen and an explanted liver in a container, as label volumes on any grid.

World coordinates are RAS+ in mm: the liver lies at positive x (the patient's right), its dome below the right lung.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray, IntArray, Mask
from hqsm.phantom.tissue import LABELS

Coordinates = tuple[FloatArray, FloatArray, FloatArray]


def _ellipsoid(xyz: Coordinates, centre: tuple[float, float, float], radii: tuple[float, float, float], power: float = 2.0) -> Mask:
    total = sum(np.abs((c - c0) / r) ** power for c, c0, r in zip(xyz, centre, radii, strict=True))
    return np.asarray(total < 1)


def _tube(xyz: Coordinates, start: FloatArray, end: FloatArray, radius_mm: float) -> Mask:
    """Voxels within ``radius_mm`` of a line segment."""
    axis = end - start
    t = sum((c - s) * a for c, s, a in zip(xyz, start, axis, strict=True)) / float(axis @ axis)
    t = np.clip(t, 0, 1)
    distance2 = sum((c - (s + t * a)) ** 2 for c, s, a in zip(xyz, start, axis, strict=True))
    return np.asarray(distance2 < radius_mm**2)


def _deform(xyz: Coordinates, rng: np.random.Generator, amplitude_mm: float) -> Coordinates:
    """Smooth individual variation: each coordinate displaced by two long waves of the others."""
    out = []
    for axis in range(3):
        shift = 0.0
        for other in range(3):
            if other != axis:
                wavelength, phase = rng.uniform(140, 260), rng.uniform(0, 2 * np.pi)
                shift = shift + rng.uniform(0.3, 1) * amplitude_mm * np.sin(2 * np.pi * xyz[other] / wavelength + phase)
        out.append((xyz[axis] + shift).astype(np.float32))
    return out[0], out[1], out[2]


def abdomen_labels(xyz: Coordinates, body_scale: float, seed: int) -> IntArray:
    """Labels of the abdomen at world coordinates ``xyz`` [mm], as uint8 (see :data:`hqsm.phantom.tissue.TISSUES`)."""
    rng = np.random.default_rng([seed, 11])
    x, y, z = (c / np.float32(body_scale) for c in _deform(xyz, rng, 4.0))
    p = (x, y, z)
    size = rng.uniform(0.94, 1.06, size=8)
    labels = np.zeros(x.shape, np.uint8)

    angle = np.arctan2(y, x)
    radius = (np.abs(x / (163 * size[0])) ** 2.3 + np.abs(y / (108 * size[1])) ** 2.3) ** (1 / 2.3)
    fat_mm = 15 + 5 * np.cos(2 * angle) + 4 * rng.uniform(-1, 1)
    wall = 1 - fat_mm / 120
    cavity_edge = wall - 11 / 120
    labels[radius < 1] = LABELS["subcutaneous_fat"]
    labels[radius < wall] = LABELS["muscle"]
    cavity = (radius < cavity_edge) & ((y > -62) | (np.abs(x) > 62))
    labels[cavity] = np.where(z[cavity] < -15, LABELS["bowel"], LABELS["visceral_fat"])
    fat_pockets = cavity & (z < -15) & (np.sin(x / 17) * np.sin(y / 15) * np.sin(z / 19) > 0.15)
    labels[fat_pockets] = LABELS["visceral_fat"]

    # diaphragm: two domes, the right one higher; lung above it, heart between the lungs
    right = 58 - 52 * (((x - 72) / 88) ** 2 + ((y + 5) / 92) ** 2)
    left = 48 - 52 * (((x + 72) / 82) ** 2 + ((y + 10) / 92) ** 2)
    diaphragm = np.maximum(np.maximum(right, left), -30)
    above = cavity & (z > diaphragm)
    labels[above] = LABELS["lung"]
    heart = _ellipsoid(p, (-18, 38, 84), (46, 40, 48))
    labels[above & heart] = LABELS["heart"]
    labels[above & (np.abs(x) < 26) & (y < 5)] = LABELS["muscle"]

    below = cavity & ~above
    spleen = _ellipsoid(p, (-98, -38, 2), (30 * size[2], 36, 46 * size[2]))
    labels[below & spleen] = LABELS["spleen"]
    stomach = _ellipsoid(p, (-62, 30, 8), (38 * size[3], 30, 32))
    labels[below & stomach & ~spleen] = LABELS["stomach"]
    labels[below & stomach & ~spleen & (y > 44)] = LABELS["gas"]
    for sign in (1, -1):
        kidney = _ellipsoid(p, (sign * 62, -48, -62 - 6 * (sign > 0)), (25, 22, 42))
        labels[below & kidney] = LABELS["kidney"]
    for _ in range(4):
        centre = (rng.uniform(-70, 60), rng.uniform(25, 65), rng.uniform(-80, -45))
        gas = _ellipsoid(p, centre, (rng.uniform(8, 16), rng.uniform(7, 12), rng.uniform(9, 18)))
        labels[below & gas & (labels == LABELS["bowel"])] = LABELS["gas"]

    liver = _ellipsoid(p, (76, 2, -4), (74 * size[4], 82 * size[5], 74 * size[6]), power=2.4)
    liver |= _ellipsoid(p, (6, 42, 14), (66 * size[7], 34, 34))
    liver &= below & ~stomach & ~_ellipsoid(p, (62, -48, -68), (30, 27, 47)) & (z < diaphragm - 3)
    liver &= ~_ellipsoid(p, (0, -50, 0), (40, 32, 400))
    labels[liver] = LABELS["liver"]

    hilum = np.array([34.0, 2.0, -14.0])
    cava_top = np.array([26.0, -24.0, 34.0])
    for end, width in (
        ((98.0, 12.0, -20.0), 5.0),
        ((86.0, -28.0, 8.0), 4.0),
        ((80.0, 40.0, -4.0), 3.5),
        ((-14.0, 44.0, 16.0), 4.0),
    ):
        labels[liver & _tube(p, hilum, np.array(end), width)] = LABELS["vessel"]
    for end, width in (((112.0, -8.0, 10.0), 4.5), ((78.0, 38.0, 22.0), 4.0), ((4.0, 46.0, 24.0), 3.5)):
        labels[liver & _tube(p, cava_top, np.array(end), width)] = LABELS["vessel"]

    inside = radius < wall
    labels[inside & _tube(p, np.array([0.0, -68, -900]), np.array([0.0, -68, 900]), 19)] = LABELS["vertebra"]
    labels[inside & _tube(p, np.array([-15.0, -39, -900]), np.array([-15.0, -39, 900]), 10)] = LABELS["aorta"]
    labels[inside & _tube(p, np.array([24.0, -32, -900]), np.array([24.0, -30, 40]), 11)] = LABELS["vena_cava"]
    return labels


def explant_labels(xyz: Coordinates, seed: int) -> IntArray:
    """Labels of a liver block in a gel-filled box, upright in the scanner; air around."""
    rng = np.random.default_rng([seed, 12])
    x, y, z = xyz
    labels = np.zeros(x.shape, np.uint8)
    labels[_ellipsoid(xyz, (0, 0, 0), (95, 68, 66), power=8)] = LABELS["gel"]
    p = _deform((x, y, z), rng, 5.0)
    block = _ellipsoid(p, (0, -4, 0), (66 * rng.uniform(0.9, 1.05), 42, 40), power=2.6)
    labels[block & (labels == LABELS["gel"])] = LABELS["liver"]
    vein = _tube(p, np.array([-60.0, 4, -10]), np.array([40.0, -6, 12]), 3.5)
    labels[block & vein] = LABELS["gel"]
    return labels


def mobile_mask(labels: IntArray) -> Mask:
    """Voxels that move with breathing: everything but wall, spine, great vessels and outside air."""
    still = [LABELS[name] for name in ("air", "subcutaneous_fat", "muscle", "vertebra", "aorta", "gel")]
    return ~np.isin(labels, still)

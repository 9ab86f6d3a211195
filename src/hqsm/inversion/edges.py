"""Total variation that spares the edges of an image: gradients, their adjoint, and where edges are."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray, Mask


def gradient(volume: FloatArray, voxel_size_mm: FloatArray) -> FloatArray:
    """(3, x, y, z) forward differences [per mm]; 0 beyond the last voxel."""
    parts = np.zeros((3, *volume.shape), np.float32)
    parts[0, :-1] = np.diff(volume, axis=0) / np.float32(voxel_size_mm[0])
    parts[1, :, :-1] = np.diff(volume, axis=1) / np.float32(voxel_size_mm[1])
    parts[2, :, :, :-1] = np.diff(volume, axis=2) / np.float32(voxel_size_mm[2])
    return parts


def divergence(parts: FloatArray, voxel_size_mm: FloatArray) -> FloatArray:
    """Adjoint of :func:`gradient`: minus the divergence, (x, y, z)."""
    volume = np.zeros(parts.shape[1:], np.float32)
    for axis, size_mm in enumerate(voxel_size_mm):
        flow = np.moveaxis(parts[axis], axis, 0)[:-1] / np.float32(size_mm)
        along = np.moveaxis(volume, axis, 0)
        along[:-1] -= flow
        along[1:] += flow
    return volume


def gradient_mask(magnitude: FloatArray, mask: Mask, voxel_size_mm: FloatArray, edge_share: float) -> FloatArray:
    """(3, x, y, z) 0 at the strongest gradient components of ``magnitude``, 1 elsewhere.

    As many are edges as ``edge_share`` times the voxels of ``mask``.
    """
    strength = np.abs(gradient(magnitude, voxel_size_mm))
    n_edges = min(round(edge_share * int(mask.sum())), strength.size - 1)
    threshold = np.partition(strength.ravel(), strength.size - n_edges - 1)[strength.size - n_edges - 1]
    return np.asarray(strength <= threshold, np.float32)


def diffusivity(volume: FloatArray, smooth_here: FloatArray, voxel_size_mm: FloatArray, least_gradient: float) -> FloatArray:
    """(3, x, y, z) lagged weights of the gradients: M / sqrt((M grad)^2 + least^2), so that the norm's derivative is linear.

    ``least_gradient`` [map unit per mm] is what gives a flat map a derivative.
    """
    return np.asarray(smooth_here / np.sqrt((smooth_here * gradient(volume, voxel_size_mm)) ** 2 + np.float32(least_gradient) ** 2))

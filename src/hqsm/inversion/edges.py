"""Total variation that spares the edges of an image: gradients, their adjoint, and where edges are."""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace, device

from hqsm.arrays import FloatArray, Mask


def gradient(volume: FloatArray, voxel_size_mm: FloatArray) -> FloatArray:
    """(3, x, y, z) forward differences [per mm]; 0 beyond the last voxel."""
    xp = array_namespace(volume)
    parts: FloatArray = xp.zeros((3, *volume.shape), dtype=volume.dtype, device=device(volume))
    parts[0, :-1, :, :] = xp.diff(volume, axis=0) / float(voxel_size_mm[0])
    parts[1, :, :-1, :] = xp.diff(volume, axis=1) / float(voxel_size_mm[1])
    parts[2, :, :, :-1] = xp.diff(volume, axis=2) / float(voxel_size_mm[2])
    return parts


def divergence(parts: FloatArray, voxel_size_mm: FloatArray) -> FloatArray:
    """Adjoint of :func:`gradient`: minus the divergence, (x, y, z)."""
    volume: FloatArray = array_namespace(parts).zeros(parts.shape[1:], dtype=parts.dtype, device=device(parts))
    for axis, size_mm in enumerate(voxel_size_mm):
        before, after = (tuple(part if a == axis else slice(None) for a in range(3)) for part in (slice(None, -1), slice(1, None)))
        flow = parts[(axis, *before)] / float(size_mm)
        volume[before] -= flow
        volume[after] += flow
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
    sqrt = array_namespace(volume).sqrt
    weights: FloatArray = smooth_here / sqrt((smooth_here * gradient(volume, voxel_size_mm)) ** 2 + least_gradient**2)
    return weights

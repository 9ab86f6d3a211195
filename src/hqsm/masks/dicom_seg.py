"""DICOM Segmentation objects: binary and fractional frames, of which empty ones may be left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from hqsm.masks.dicom_file import Unplaceable
from hqsm.masks.placing import LabelVolume

_MOST_SLICES = 4096


def read_segments(dataset: Any) -> LabelVolume:
    """The labelled volume of a segmentation.

    Raises
    ------
    Unplaceable
        If frames are not evenly spaced or span too many slices; other errors where an attribute lacks.
    """
    shared, frames = dataset.SharedFunctionalGroupsSequence[0], list(dataset.PerFrameFunctionalGroupsSequence)

    def group(frame: Any, name: str) -> Any:
        return (frame if name in frame else shared)[name][0]

    orientation = np.array(group(frames[0], "PlaneOrientationSequence").ImageOrientationPatient, float)
    measures = group(frames[0], "PixelMeasuresSequence")
    along_columns, along_rows = orientation[:3], orientation[3:]
    normal = np.cross(along_columns, along_rows)
    row_spacing, column_spacing = (float(v) for v in measures.PixelSpacing)
    positions = np.array([group(frame, "PlanePositionSequence").ImagePositionPatient for frame in frames], float)
    heights = positions @ normal
    spacing = _slice_spacing(heights, measures)
    lowest = int(np.argmin(heights))
    slices = np.rint((heights - heights[lowest]) / spacing).astype(int)
    if np.abs(heights - heights[lowest] - slices * spacing).max() > 0.05:
        raise Unplaceable("its frames are not evenly spaced")
    if int(slices.max()) >= _MOST_SLICES:
        raise Unplaceable(f"its frames span {int(slices.max()) + 1} slices")
    pixels = np.asarray(dataset.pixel_array)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if str(dataset.get("SegmentationType", "BINARY")) == "FRACTIONAL":
        pixels = pixels >= 0.5 * float(dataset.MaximumFractionalValue)
    written = {int(s.SegmentNumber): str(s.SegmentLabel) for s in dataset.SegmentSequence}
    order = {number: layer for layer, number in enumerate(written)}
    shape = (pixels.shape[2], pixels.shape[1], int(slices.max()) + 1)
    layers = [np.zeros(shape, np.int32) for _ in written]
    for frame, pixel, k in zip(frames, pixels, slices, strict=True):
        number = int(group(frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        layers[order[number]][:, :, k] |= pixel.T.astype(np.int32)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = along_columns * column_spacing, along_rows * row_spacing, normal * spacing
    affine[:3, 3] = positions[lowest]
    # DICOM's coordinates are LPS
    affine[:2] *= -1
    return LabelVolume(layers=tuple(layers), names={(order[n], 1): name for n, name in written.items()}, affine_mm=affine, cropped=True)


def _slice_spacing(heights: Any, measures: Any) -> float:
    """Distance between slices: as stated, else the smallest between frames, else the slice's thickness."""
    stated = measures.get("SpacingBetweenSlices")
    if stated:
        return abs(float(stated))
    steps = np.diff(np.unique(np.round(heights, 3)))
    return float(steps.min()) if steps.size else float(measures.SliceThickness)

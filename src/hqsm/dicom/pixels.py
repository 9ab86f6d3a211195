"""The stored values of an acquisition's files as one complex array."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from hqsm.arrays import AnyArray, FloatArray
from hqsm.clock import past_midnight_s
from hqsm.config.dicom import DicomParams
from hqsm.dicom.arrangement import Acquisition, Place
from hqsm.dicom.conventions import MAGNITUDE, PHASE
from hqsm.dicom.files import read_pixels, stored_pixels
from hqsm.dicom.frames import Frame
from hqsm.dicom.guarded import RLE
from hqsm.errors import InputError


def assemble(acquisition: Acquisition, params: DicomParams) -> tuple[AnyArray, FloatArray, tuple[tuple[str, str], ...]]:
    """Complex signal (x, y, z, echo, repetition), the repetitions' acquisition times [s since midnight], and the manifest.

    The two parts are written into the real and imaginary halves of the one array that is returned, file by file; magnitude
    and phase are then multiplied out in place, so that the peak is little more than the result. The manifest is what a
    result can be traced to: each file by the hash of its UID, with the hash of its stored pixels.
    """
    first = acquisition.first
    n_echoes, n_slices = len(acquisition.echo_times_s), len(acquisition.positions_mm)
    # slices are contiguous as they come from the files; the transposed view has the package's axis order
    store = np.empty((acquisition.n_repetitions, n_echoes, n_slices, first.file.rows, first.file.columns), np.complex64)
    halves = {acquisition.parts[0]: store.real, acquisition.parts[1]: store.imag}
    by_file: dict[int, list[tuple[Place, Frame]]] = defaultdict(list)
    for place, frame in acquisition.table.items():
        by_file[id(frame.file)].append((place, frame))
    manifest = set()
    for members in by_file.values():
        file = members[0][1].file
        pixels = read_pixels(file)
        stored = stored_pixels(file) if file.syntax == RLE else pixels.data
        uid = file.header.raw("SOPInstanceUID")
        manifest.add((hashlib.sha256(uid).hexdigest(), hashlib.sha256(stored).hexdigest()))
        for (k, echo, r, part), frame in members:
            assert frame.scaling is not None
            slope, offset = frame.scaling
            half = halves[part][r, echo, k]
            np.multiply(pixels[frame.index], np.float32(slope), out=half, casting="unsafe")
            half += np.float32(offset)
    for r in range(acquisition.n_repetitions):
        if acquisition.parts == (MAGNITUDE, PHASE):
            for image in store[r].reshape(-1, first.file.rows, first.file.columns):  # one at a time: it stays in the cache
                magnitude, phase = image.real.copy(), image.imag.copy()
                image.real, image.imag = magnitude * np.cos(phase), magnitude * np.sin(phase)
        repetition = store[r].transpose(3, 2, 1, 0)
        first.convention.finish(repetition)
        if first.convention.name in params.reverse_phase_of:
            np.conjugate(repetition, out=repetition)
        if not np.isfinite(store[r]).all():
            raise InputError(
                "The images hold values that are no numbers (their rescale slope or intercept is infinite).",
                remedy="Export the visit again.",
                code="DICOM_DAMAGED",
            )
    times = np.array([acquisition.table[0, 0, r, acquisition.parts[0]].time_of_day_s for r in range(acquisition.n_repetitions)])
    return store.transpose(4, 3, 2, 1, 0), past_midnight_s(times), tuple(sorted(manifest))

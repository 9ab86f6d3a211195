"""Edge: the gated echoes as a BIDS dataset, the maps as a BIDS derivative dataset, sidecars of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import hqsm
from hqsm.arrays import AnyArray, FloatArray
from hqsm.data import AcquisitionInfo, MultiEcho, RepeatedMultiEcho, VoxelGrid
from hqsm.errors import InputError
from hqsm.nifti import load_volume, save_volume

BIDS_VERSION = "1.10.0"
UNGATED = "ungated"
"""Label (acq-) of repetitions that were not gated; its runs are repetitions of one scan."""
_NOT_IN_BIDS = ("*_PDFF.*", "*_fieldmap.*", "*_desc-gating.*", "*_desc-residual.*", "*_desc-swapmargin.*")
"""Files of the contract for which BIDS has no suffix; listed in .bidsignore so that a validator passes."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sidecar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    return value.tolist()


def write_repetitions(folder: Path, prefix: str, repeated: RepeatedMultiEcho, info: AcquisitionInfo) -> None:
    """Write every repetition as it was acquired: ``<prefix>_acq-ungated_run-<r>_echo-<k>_part-<p>_MEGRE``."""
    for r in range(repeated.n_repetitions):
        one = MultiEcho(
            signal=repeated.signal[..., r],
            echo_times_s=repeated.echo_times_s,
            field_strength_tesla=repeated.field_strength_tesla,
            grid=repeated.grid,
        )
        write_echoes(folder, f"{prefix}_acq-{UNGATED}_run-{r + 1}", one, info)


def write_echoes(folder: Path, prefix: str, echoes: MultiEcho, info: AcquisitionInfo) -> None:
    """Write every echo as magnitude and phase [rad] with its sidecar: ``<prefix>_echo-<k>_part-<p>_MEGRE``."""
    for k, echo_time_s in enumerate(echoes.echo_times_s):
        signal = echoes.signal[..., k]
        for part, volume in (("mag", np.abs(signal)), ("phase", np.angle(signal))):
            stem = f"{prefix}_echo-{k + 1}_part-{part}_MEGRE"
            save_volume(folder / f"{stem}.nii.gz", volume, echoes.grid)
            sidecar: dict[str, Any] = {
                "EchoTime": float(echo_time_s),
                "MagneticFieldStrength": echoes.field_strength_tesla,
                "Manufacturer": info.manufacturer,
                "BodyPart": "LIVER",
                "OffResonanceSign": 1,
                "Units": "rad" if part == "phase" else "arbitrary",
                "NoiseStandardDeviation": None if np.isnan(echoes.noise_sd) else echoes.noise_sd,
            }
            for key, value in (
                ("ManufacturersModelName", info.model),
                ("SoftwareVersions", info.software),
                ("FlipAngle", info.flip_angle_degrees),
                ("RepetitionTime", info.repetition_time_s),
            ):
                if value not in ("",) and value == value:
                    sidecar[key] = value
            write_json(folder / f"{stem}.json", sidecar)


def read_echoes(folder: Path) -> MultiEcho:
    """Read the gated echoes that :func:`write_echoes` wrote; echoes are ordered by their echo time, not by their name."""
    sidecars = sorted(path for path in folder.glob("*_part-mag_MEGRE.json") if f"_acq-{UNGATED}_" not in path.name)
    if not sidecars:
        raise InputError(f"No *_part-mag_MEGRE images in {folder}.", remedy="Run the visit again.", code="BIDS_NO_ECHOES")
    entries = sorted(((json.loads(p.read_text(encoding="utf-8")), p) for p in sidecars), key=lambda e: e[0]["EchoTime"])
    for (one, path), (other, next_path) in pairwise(entries):
        if one["EchoTime"] == other["EchoTime"]:
            raise InputError(
                f"{path.name} and {next_path.name} have the same EchoTime, {one['EchoTime']:g} s.",
                remedy="Remove what is no longer an echo of the visit, and run it again.",
                code="ECHO_TIMES",
            )
    images = [path.with_suffix(".nii.gz") for _, path in entries]
    first_magnitude, grid = load_volume(images[0])

    def on_the_grid(image: Path) -> FloatArray:
        values, its_grid = load_volume(image)
        if not its_grid.matches(grid):
            raise InputError(
                f"{image.name} does not lie on the grid of {images[0].name} ({its_grid.shape} and {grid.shape}, or different affines).",
                remedy="Remove what is no longer an echo of the visit, and run it again.",
                code="BIDS_GRIDS_DIFFER",
            )
        return values

    volumes = []
    for image in images:
        phase = on_the_grid(image.with_name(image.name.replace("_part-mag_", "_part-phase_")))
        magnitude = first_magnitude if image == images[0] else on_the_grid(image)
        volumes.append((magnitude * np.exp(1j * phase)).astype(np.complex64))
    first = entries[0][0]
    if "MagneticFieldStrength" not in first:
        raise InputError(f"{entries[0][1].name} has no MagneticFieldStrength.", remedy="Run the visit again.", code="FIELD_STRENGTH")
    noise = first.get("NoiseStandardDeviation")
    return MultiEcho(
        signal=np.stack(volumes, axis=-1),
        echo_times_s=np.array([entry["EchoTime"] for entry, _ in entries]),
        field_strength_tesla=float(first["MagneticFieldStrength"]),
        grid=grid,
        noise_sd=float("nan") if noise is None else float(noise),
        flip_angle_degrees=float(first.get("FlipAngle", "nan")),
        repetition_time_s=float(first.get("RepetitionTime", "nan")),
    )


def write_map(path: Path, volume: AnyArray, grid: VoxelGrid, sidecar: Mapping[str, Any]) -> None:
    """Write one map or mask of the derivative dataset with its sidecar; ``path`` ends in ``.nii.gz``."""
    save_volume(path, volume, grid)
    content = {"SkullStripped": False, "GeneratedBy": [{"Name": "hqsm", "Version": hqsm.__version__}], **sidecar}
    write_json(Path(str(path).removesuffix(".nii.gz") + ".json"), content)


def sources(participant: str, session: str) -> list[str]:
    """BIDS URIs of the gated echoes that a map was made from."""
    return [f"bids:raw:sub-{participant}/ses-{session}/anat/sub-{participant}_ses-{session}"]


def write_dataset_descriptions(raw: Path, derivative: Path, name: str) -> None:
    """Write what makes the two folders BIDS datasets."""
    generated = [{"Name": "hqsm", "Version": hqsm.__version__}]
    write_json(
        raw / "dataset_description.json",
        {"Name": name, "BIDSVersion": BIDS_VERSION, "DatasetType": "raw", "GeneratedBy": generated},
    )
    write_json(
        derivative / "dataset_description.json",
        {
            "Name": f"{name}: liver iron maps",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": generated,
            "DatasetLinks": {"raw": "../bids"},
        },
    )
    (raw / "README").write_text(
        f"{name}: navigator-gated multi-echo gradient echoes, magnitude and phase, written by hqsm.\n", encoding="utf-8"
    )
    (derivative / "README").write_text(
        f"{name}: R2*, susceptibility, fat fraction and field maps with masks, written by hqsm.\n"
        "Chimap ppm, R2starmap 1/s, T2starmap s, PDFF percent, fieldmap Hz; NaN where there is no valid estimate.\n"
        "desc-se: their standard errors; the other sidecars say what each map holds.\n",
        encoding="utf-8",
    )
    (derivative / ".bidsignore").write_text("\n".join(_NOT_IN_BIDS) + "\n", encoding="utf-8")

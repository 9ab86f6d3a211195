"""Draw magnitude, field map and susceptibility of every visit of a finished study: `real_dicom.py STUDY PICTURE.png`."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np


def middle(path: Path) -> np.ndarray:
    """The middle slice of the thickest voxel axis, in radiological orientation (R at the left, head or front up)."""
    image = nib.as_closest_canonical(nib.load(path))
    axis = int(np.argmax(image.header.get_zooms()[:3]))
    values = np.asarray(image.dataobj, float)
    return np.take(values, values.shape[axis] // 2, axis=axis).T[::-1, ::-1]


def draw(study: Path, picture: Path) -> None:
    maps = sorted((study / "results" / "maps").glob("sub-*/ses-*/anat"))
    figure, axes = plt.subplots(3, len(maps), figsize=(3.6 * len(maps), 9.6), squeeze=False, layout="constrained")
    for column, anat in zip(axes.T, maps, strict=True):
        stem = "_".join(anat.parts[-3:-1])
        echo = study / "results" / "bids" / anat.parts[-3] / anat.parts[-2] / "anat" / f"{stem}_echo-1_part-mag_MEGRE.nii.gz"
        magnitude = middle(echo)
        shown = [
            (magnitude, "gray", (0, np.percentile(magnitude, 99.5)), "magnitude, first echo"),
            (middle(anat / f"{stem}_fieldmap.nii.gz"), "RdBu_r", (-150, 150), "field (Hz)"),
            (middle(anat / f"{stem}_Chimap.nii.gz"), "gray", (-3, 3), "susceptibility (ppm)"),
        ]
        for ax, (values, colours, limits, label) in zip(column, shown, strict=True):
            drawn = ax.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{stem}\n{label}", fontsize=10)
            ax.set_facecolor("0.85")
            ax.text(0.02, 0.5, "R", transform=ax.transAxes, color="tab:orange", weight="bold")
            if colours != "gray" or limits[0] < 0:
                figure.colorbar(drawn, ax=ax, shrink=0.7)
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))

"""Say what a folder of DICOM holds and what would be used."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", type=Path, help="a visit's folder, of any nesting")


def run(options: argparse.Namespace) -> int:
    """Print the acquisition as the reader understands it, and what it leaves aside."""
    from hqsm.config.dicom import DicomParams
    from hqsm.dicom.reader import read_visit

    visit = read_visit(options.folder, DicomParams())
    echoes, info = visit.echoes, visit.info
    lines = [
        f"convention    {info.convention} ({info.manufacturer} {info.model})",
        f"echo times    {', '.join(f'{1e3 * t:g}' for t in echoes.echo_times_s)} ms",
        f"repetitions   {echoes.n_repetitions}",
        f"field         {echoes.field_strength_tesla:.3f} T",
        f"grid          {' x '.join(map(str, echoes.grid.shape))} voxels of "
        f"{' x '.join(f'{d:g}' for d in echoes.grid.voxel_size_mm.round(3))} mm",
        f"navigator     {visit.navigator.source if visit.navigator else 'none'}",
    ]
    lines += [f"left aside    {item.name}: {item.kind}, {item.reason}" for item in info.set_aside]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0

"""Say what changed between two runs of the same cohort: `hqsm diff STUDY_A STUDY_B`.

Compares results/tables of both: rows that only one has, and per column how many rows differ, by how much at most, and where.
Exit status 1 when anything differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study_a", type=Path, help="study folder before")
    parser.add_argument("study_b", type=Path, help="study folder after")
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative difference of numbers that counts as none (default 0)")


def run(options: argparse.Namespace) -> int:
    """Compare and print."""
    from hqsm.errors import InputError
    from hqsm.table_contract import TABLES
    from hqsm.table_diff import compare
    from hqsm.tables import read_frame

    found = []
    for study in (options.study_a, options.study_b):
        folder = study / "results" / "tables"
        tables = {name: read_frame(folder / f"{name}.tsv", name, complete=False) for name in TABLES if (folder / f"{name}.tsv").is_file()}
        if not tables:
            raise InputError(f"{study} has no tables in results/tables.", remedy="Run the workflow first.", code="TABLE_MISSING")
        found.append(tables)
    different = False
    for change in compare(*found, relative_tolerance=options.tolerance):
        if change.same:
            continue
        different = True
        sys.stdout.write(f"{change.table}.tsv\n")
        for side, keys in (("A", change.only_in_a), ("B", change.only_in_b)):
            if keys:
                more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
                sys.stdout.write(f"  only in {side}: {len(keys)} rows: {'; '.join(keys[:5])}{more}\n")
        for column in change.columns:
            percent = f" ({100 * column.relative:.3g} %)" if column.relative == column.relative else ""
            sys.stdout.write(
                f"  {column.column}: {column.n_changed} of {column.n_rows} rows; most: {column.where}: {column.text}{percent}\n"
            )
    if not different:
        sys.stdout.write(f"{len(found[0])} tables are the same.\n")
    return 1 if different else 0

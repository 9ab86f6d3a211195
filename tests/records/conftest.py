from __future__ import annotations

from pathlib import Path

import pytest

from hqsm.config.records import RecordsParams
from hqsm.records.data import Records
from hqsm.records.reading import read_records
from records.clean_tables import CLEAN, Check


@pytest.fixture
def checked(tmp_path: Path) -> Check:
    """Write the clean tables, some of them replaced, and read them."""

    def check(params: RecordsParams | None = None, **tables: str | bytes | None) -> Records:
        for name, text in {**CLEAN, **tables}.items():
            path = tmp_path / f"{name}.csv"
            if text is None:
                path.unlink(missing_ok=True)
            elif isinstance(text, bytes):
                path.write_bytes(text)
            else:
                path.write_text(text, encoding="utf-8")
        return read_records(tmp_path, params or RecordsParams())

    return check

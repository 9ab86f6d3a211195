"""A REDCap raw flat export, taken apart into the tables of the records.

The export is one wide table: a row is a record, event and repeat instance, and the fields of the other instruments are
empty in it. The data dictionary says what a code means, what range was meant, and which fields identify a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hqsm.config.records import RecordsParams, RedcapTable
from hqsm.errors import InputError
from hqsm.records.cells import RawTable
from hqsm.records.findings import WARNING, Finding
from hqsm.records.schema import TABLES

KEYS = ("redcap_event_name", "redcap_repeat_instrument", "redcap_repeat_instance", "redcap_data_access_group")
"""Columns that REDCap adds to the fields of the project."""


@dataclass(frozen=True, kw_only=True)
class RedcapField:
    """One line of the data dictionary."""

    name: str
    choices: Mapping[str, str]
    low: float
    high: float
    identifier: bool


def data_dictionary(table: RawTable) -> dict[str, RedcapField]:
    """The fields of a data dictionary (its 18 columns as REDCap exports them), by name.

    Raises
    ------
    InputError
        ``RECORDS_REDCAP``: the file is not a data dictionary.
    """
    wanted = "variable / field name"
    if wanted not in table.columns:
        raise InputError(
            f"records/{table.file} is no data dictionary: it has no column 'Variable / Field Name'.",
            remedy="Export it from REDCap's Data Dictionary page.",
            code="RECORDS_REDCAP",
        )
    fields = {}
    for _, cells in table.rows:
        row = dict(zip(table.columns, (cell.strip() for cell in cells), strict=False))
        kind, raw = row.get("field type", ""), row.get("choices, calculations, or slider labels", "")
        choices = {"1": "yes", "0": "no"} if kind in {"yesno", "truefalse"} else {}
        if kind in {"radio", "dropdown", "checkbox"}:
            pairs = (part.split(",", 1) for part in raw.split("|") if "," in part)
            choices = {code.strip(): label.strip() for code, label in pairs}
        fields[row[wanted].lower()] = RedcapField(
            name=row[wanted].lower(),
            choices=choices,
            low=_limit(row.get("text validation min", ""), float("-inf")),
            high=_limit(row.get("text validation max", ""), float("inf")),
            identifier=row.get("identifier?", "").lower() == "y",
        )
    return fields


def redcap_tables(
    export: RawTable, dictionary: Mapping[str, RedcapField], params: RecordsParams, findings: list[Finding]
) -> dict[str, RawTable]:
    """The mapped tables as text, their rows with the export's line numbers.

    Raises
    ------
    InputError
        ``REDCAP_IDENTIFIER``: the export has a field that the dictionary marks as identifying a person;
        ``RECORDS_REDCAP``: the mapping names a table, column or field that does not exist.
    """
    identifiers = [name for name in export.columns if name in dictionary and dictionary[name].identifier]
    if identifiers:
        raise InputError(
            f"records/{export.file} contains fields that identify a person: {', '.join(identifiers)}.",
            remedy="Delete the file, and export it again with 'Remove all identifier fields'.",
            code="REDCAP_IDENTIFIER",
        )
    _refuse_unknown_names(export, params)
    id_field = params.redcap.id_field or export.columns[0]
    return {name: _table(name, mapping, export, dictionary, id_field, params, findings) for name, mapping in params.redcap.tables.items()}


def _refuse_unknown_names(export: RawTable, params: RecordsParams) -> None:
    problems = []
    if params.redcap.id_field and params.redcap.id_field not in export.columns:
        problems.append(f"the export has no field {params.redcap.id_field}")
    for name, mapping in params.redcap.tables.items():
        if name not in TABLES:
            problems.append(f"there is no table {name} (known: {', '.join(TABLES)})")
            continue
        known = {rule.name for rule in TABLES[name]}
        problems += [f"{name} has no column {column}" for column in (*mapping.fields, *mapping.values) if column not in known]
        problems += [
            f"the export has no field {field} (for {name}.{column})"
            for column, field in mapping.fields.items()
            if not field.startswith("=") and field not in export.columns
        ]
    if problems:
        raise InputError(
            f"The mapping of the REDCap export does not fit: {'; '.join(problems)}.",
            remedy="Correct records: redcap: in config.yaml.",
            code="RECORDS_REDCAP",
        )


def _table(
    name: str,
    mapping: RedcapTable,
    export: RawTable,
    dictionary: Mapping[str, RedcapField],
    id_field: str,
    params: RecordsParams,
    findings: list[Finding],
) -> RawTable:
    fields = {"participant_id": id_field, **mapping.fields}
    own = [field for field in mapping.fields.values() if not field.startswith("=") and field not in (*KEYS, id_field)]
    missing = {"", *(code.lower() for code in params.missing_codes)}
    rows: list[tuple[int, tuple[str, ...]]] = []
    for line, cells in export.rows:
        row = dict(zip(export.columns, cells, strict=False))
        if mapping.instrument and row.get("redcap_repeat_instrument", "").strip().lower() != mapping.instrument.lower():
            continue
        if mapping.events and row.get("redcap_event_name", "").strip() not in mapping.events:
            continue
        if own and not any(row.get(field, "").strip() for field in own):
            continue  # a row of another instrument
        values = []
        for column, field in fields.items():
            text = field[1:] if field.startswith("=") else row.get(field, "").strip()
            source = dictionary.get(field.split("___")[0])
            if source is not None and text.lower() not in missing:
                _check_range(text, source, name, column, line, export, findings)
            values.append(_decoded(text, field, source, mapping.values.get(column, {})))
        rows.append((line, tuple(values)))
    return RawTable(file=export.file, separator=export.separator, columns=tuple(fields), rows=tuple(rows))


def _decoded(text: str, field: str, source: RedcapField | None, values: Mapping[str, str]) -> str:
    if text in values:
        return values[text]
    if "___" in field:  # a checkbox column holds 1 or 0 whatever its choice is called
        return text
    return source.choices.get(text, text) if source is not None else text


def _check_range(text: str, source: RedcapField, table: str, column: str, line: int, export: RawTable, findings: list[Finding]) -> None:
    """A number outside the range that the project's own dictionary asks for."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return
    if not source.low <= value <= source.high:
        findings.append(
            Finding(
                file=export.file,
                line=line,
                participant="",
                field=column,
                code="REDCAP_RANGE",
                severity=WARNING,
                problem=f"The number in the field {source.name} is outside the range of the data dictionary.",
                remedy="Check it against the source.",
                table=table,
            )
        )


def _limit(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise

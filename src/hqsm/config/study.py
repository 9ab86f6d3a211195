"""The whole configuration: one block per stage, checked at once, with a sentence for each mistake."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hqsm.config.base import parameters
from hqsm.config.dicom import DicomParams
from hqsm.config.explant import ExplantParams
from hqsm.config.fatwater import FatWaterParams
from hqsm.config.gating import GatingParams
from hqsm.config.intake import IntakeParams
from hqsm.config.lic import LicParams
from hqsm.config.liver import LiverParams
from hqsm.config.protocol import ProtocolParams
from hqsm.config.records import RecordsParams
from hqsm.config.report import ReportParams
from hqsm.config.statistics import StatisticsParams
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.errors import ConfigError


@parameters
class StudyParams:
    """The study as a whole."""

    name: str = "liver iron study"
    """Name on the report and in the BIDS datasets."""
    fail_on_rejected_visit: bool = True
    """End with exit status 3 when a visit was rejected (the cohort's tables are made all the same)."""


@parameters
class StudyConfig:
    """Everything a person may change."""

    study: StudyParams = StudyParams()
    blinding: bool = False
    """Keep images and records apart until both are locked and the study is unblinded (docs/security.md)."""
    explant: ExplantParams = ExplantParams()
    intake: IntakeParams = IntakeParams()
    dicom: DicomParams = DicomParams()
    protocol: ProtocolParams = ProtocolParams()
    gating: GatingParams = GatingParams()
    fatwater: FatWaterParams = FatWaterParams()
    liver: LiverParams = LiverParams()
    susceptibility: SusceptibilityParams = SusceptibilityParams()
    lic: LicParams = LicParams()
    records: RecordsParams = RecordsParams()
    statistics: StatisticsParams = StatisticsParams()
    report: ReportParams = ReportParams()


def load_config(raw: Mapping[str, Any]) -> StudyConfig:
    """Check a configuration as it was read from YAML.

    Raises
    ------
    ConfigError
        One sentence per mistake, all of them at once: the key, what is wrong, the nearest known key.
    """
    if "__use_yte__" in raw:
        raise ConfigError(
            "config.yaml: the key __use_yte__ would run code from the configuration.",
            remedy="Remove it.",
            code="CONFIG_YTE",
        )
    try:
        return TypeAdapter(StudyConfig).validate_python(_without_nulls(raw))
    except ValidationError as error:
        lines = [_sentence(item) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"config.yaml: {line}" for line in lines), code="CONFIG_INVALID") from None


def as_plain(config: Any) -> dict[str, Any]:
    """The configuration, or one block, as nested dictionaries with every default written out."""
    plain: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def json_schema() -> dict[str, Any]:
    """JSON schema of config.yaml, for editors and documentation."""
    return TypeAdapter(StudyConfig).json_schema()


def _without_nulls(raw: Mapping[str, Any]) -> dict[str, Any]:
    """An empty block in YAML is null: it means 'all defaults'."""
    known = {entry.name for entry in dataclasses.fields(StudyConfig)}
    return {key: ({} if value is None and key in known else value) for key, value in raw.items()}


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    schema = json_schema()
    node: dict[str, Any] = schema
    for part in location:
        child = node.get("properties", {}).get(part, {})
        reference = child.get("$ref") or next((o["$ref"] for o in child.get("allOf", []) if "$ref" in o), "")
        node = schema["$defs"].get(reference.rsplit("/", 1)[-1], child) if reference else child
    return list(node.get("properties", {}))


def _sentence(item: Any) -> str:
    location = tuple(item["loc"])
    key = ".".join(str(part) for part in location)
    if item["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else f"Known keys here: {', '.join(known)}."
        return f"the key {key} is not known. {hint}"
    if item["type"] == "value_error":  # two keys that disagree
        return f"{key}: {item['ctx']['error']}. Correct one of them."
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{key} is {_short(item['input'])}: {message}. Correct it, or delete the line to use the default."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

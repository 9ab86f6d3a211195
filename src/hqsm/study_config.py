"""Edge: the configuration of a study as the workflow would resolve it, for commands that run outside of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hqsm.config.study import StudyConfig, load_config
from hqsm.errors import ConfigError

REPOSITORY_CONFIG = Path(__file__).resolve().parents[2] / "config.yaml"


def read_config(override: Path | None) -> StudyConfig:
    """The repository's config.yaml with a study's on top, key by key, as snakemake merges them.

    Raises
    ------
    ConfigError
        If ``override`` does not exist, is not YAML, or has a key or value that is not known.
    """
    raw: dict[str, Any] = {}
    for path in (REPOSITORY_CONFIG, override):
        if path is None or (path == REPOSITORY_CONFIG and not path.is_file()):
            continue
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError as error:
            raise ConfigError(f"{path} does not exist.", remedy="Name a config.yaml.", code="CONFIG_MISSING") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path.name} is not YAML.", remedy="Check its indentation.", code="CONFIG_YAML") from error
        if not isinstance(loaded, dict):
            raise ConfigError(f"{path.name} is not a list of keys.", remedy="Write key: value lines.", code="CONFIG_YAML")
        raw = _merged(raw, loaded)
    return load_config(raw)


def study_config(study: Path) -> StudyConfig:
    """The configuration of a study folder; the repository's where it has none."""
    path = study / "config.yaml"
    return read_config(path if path.is_file() else None)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result

"""Edge: the configuration of a study as the workflow would resolve it, for commands that run outside of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hqsm.config.study import StudyConfig, load_config
from hqsm.errors import ConfigError
from hqsm.workflow_folder import find_workflow


def read_config(override: Path | None) -> StudyConfig:
    """The repository's config.yaml with a study's on top, key by key, as snakemake merges them.

    Raises
    ------
    ConfigError
        If ``override`` does not exist, is not YAML, or has a key or value that is not known.
    """
    raw: dict[str, Any] = {}
    workflow = find_workflow()
    for path in (workflow and workflow / "config.yaml", override):
        if path is not None:
            raw = _merged(raw, read_plain_yaml(path))
    return load_config(raw)


def read_plain_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of keys and plain values; whatever could run code or grow without bound is refused.

    Raises
    ------
    ConfigError
        ``CONFIG_MISSING``; ``CONFIG_YAML``: not YAML, or no keys; ``CONFIG_YTE``: the key ``__use_yte__``, with which
        snakemake runs Python out of a configuration; ``CONFIG_TRICK``: tags, aliases, deep nesting or more than 1 MB.
    """
    try:
        if path.stat().st_size > 1_000_000:
            raise ConfigError(f"{path.name} is larger than 1 MB.", remedy="Keep the configuration in it.", code="CONFIG_TRICK")
        text = path.read_text(encoding="utf-8")
        _refuse_tricks(text, path.name)
        loaded = yaml.safe_load(text) or {}
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist.", remedy="Name a config.yaml.", code="CONFIG_MISSING") from error
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" from line {mark.line + 1} on" if mark is not None else ""
        raise ConfigError(f"{path.name} is not YAML in UTF-8{where}.", remedy="Check its indentation.", code="CONFIG_YAML") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path.name} is not a list of keys.", remedy="Write key: value lines.", code="CONFIG_YAML")
    if "__use_yte__" in loaded:
        load_config(loaded)
    return loaded


def _refuse_tricks(text: str, name: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        trick = ""
        if isinstance(event, yaml.AliasEvent):
            trick = "an alias (*name)"
        elif depth > 20:
            trick = "nesting deeper than 20"
        elif isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None):
            trick = "a tag (!...)"
        if trick:
            raise ConfigError(f"{name} has {trick}.", remedy="Write plain keys and values.", code="CONFIG_TRICK")


def check_before_snakemake_reads(path: Path) -> None:
    """End the program with a sentence if a configuration must not even be opened by snakemake, which would run code in it."""
    try:
        read_plain_yaml(path)
    except ConfigError as error:
        sys.stderr.write(f"\nhqsm: {error}\n")
        sys.exit(2)


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

"""Print the JSON schema of config.yaml."""

from __future__ import annotations

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments (none)."""


def run(options: argparse.Namespace) -> int:
    """Print the schema, made from the parameter types."""
    from hqsm.config.study import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")
    return 0

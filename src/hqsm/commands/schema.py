"""Print the JSON schema of config.yaml, or its documentation (--markdown)."""

from __future__ import annotations

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--markdown", action="store_true", help="every key with its meaning, default and range, as Markdown")


def run(options: argparse.Namespace) -> int:
    """Print the schema, made from the parameter types."""
    from hqsm.config.study import json_schema
    from hqsm.config_documentation import as_markdown

    if options.markdown:
        sys.stdout.write(as_markdown(json_schema()))
        return 0
    sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")
    return 0

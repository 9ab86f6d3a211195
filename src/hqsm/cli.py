"""Edge: the command line. A command is a module of `hqsm.commands`; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys

from hqsm import __version__, commands
from hqsm.errors import HqsmError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a known error becomes one sentence and its exit status (2; 4 for the blind)."""
    parser = argparse.ArgumentParser(prog="hqsm", description="Liver iron from raw multi-echo MRI.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for found in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"{commands.__name__}.{found.name}")
        text = (module.__doc__ or "").strip()
        sub = subparsers.add_parser(
            found.name, help=text.splitlines()[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except BrokenPipeError:  # whoever reads the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except HqsmError as error:
        sys.stderr.write(f"hqsm: {error}\n")
        return error.exit_status
    except OSError as error:  # a path that cannot be read or written, a disk that is full
        sys.stderr.write(f"hqsm: {error.filename or 'The system says'}: {error.strerror or error}.\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())

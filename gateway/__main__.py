"""The command `tandem`: arguments to a subcommand, its answer to an exit status."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from gateway import __version__

COMMANDS = ("serve", "demo", "models", "bench", "route", "router", "config", "keys")
"""Subcommands: one module each in gateway/cli, loaded on every call since each is small."""
DESCRIPTION = (
    "One OpenAI-compatible endpoint for local models, cloud models, and the two together on one"
    " answer. `tandem serve` starts it; `tandem COMMAND --help` tells the rest."
)


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    return int(arguments.run(arguments))


def parser() -> argparse.ArgumentParser:
    """The whole command line, every subcommand with its actions."""
    whole = argparse.ArgumentParser(prog="tandem", description=DESCRIPTION)
    whole.add_argument("--version", action="version", version=f"tandem {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"gateway.cli.{name}").add_parser(commands)
    return whole


if __name__ == "__main__":
    sys.exit(main())

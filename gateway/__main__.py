"""The command `tandem`: arguments to a subcommand, its answer to an exit status."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from gateway import __version__

COMMANDS = ("serve", "demo", "models", "bench", "route", "router", "config", "keys")
"""Subcommands: one module each in gateway/cli, loaded on every call since each is small."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tandem", description=__doc__)
    parser.add_argument("--version", action="version", version=f"tandem {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"gateway.cli.{name}").add_parser(commands)
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())

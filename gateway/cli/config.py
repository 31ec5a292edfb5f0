"""`tandem config check`: everything wrong with a configuration, with lines."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import date
from pathlib import Path

from gateway.config import ConfigError, load
from gateway.limits.keys import callers_from
from gateway.price_notes import price_notes
from gateway.rule_notes import rule_notes


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("config", help="check a configuration")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="validate a file; exit 2 if it cannot be used")
    check.add_argument("file", type=Path)
    check.set_defaults(run=run_check)


def run_check(arguments: argparse.Namespace) -> int:
    try:
        config = load(arguments.file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    upstreams, aliases = len(config.upstreams), len(config.aliases)
    print(f"{arguments.file}: {upstreams} upstreams, {aliases} aliases, {len(config.rules)} rules")
    for name, alias in config.aliases.items():
        print(f"  {name}: {', '.join(alias.candidates)}")
    callers = callers_from(config.callers, os.environ)
    notes = price_notes(config.upstreams, date.today())
    for note in (*notes, *rule_notes(config.rules, callers)):
        print(f"warning: {note}")
    return 0

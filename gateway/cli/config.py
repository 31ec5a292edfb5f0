"""`tandem config check`: everything wrong with a configuration, with lines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from backends.engine.options import DraftOptions, LlamaCppOptions, model_path
from gateway.cli.arguments import add_model_dir
from gateway.config import Config, ConfigError, load
from gateway.limits.keys import callers_from
from gateway.price_notes import price_notes
from gateway.rule_notes import rule_notes


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("config", help="check a configuration")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="validate a file; exit 2 if it cannot be used")
    check.add_argument("file", type=Path, help="YAML file")
    add_model_dir(check)
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
    noted = (
        *notes(config, arguments.model_dir),
        *price_notes(config.upstreams, date.today()),
        *rule_notes(config.rules, callers),
    )
    for note in noted:
        print(f"warning: {note}")
    return 0


def notes(config: Config, model_dir: Path) -> Iterator[str]:
    """What is no mistake of the file's, but would be one here: it may be meant for elsewhere."""
    if not config.upstreams:
        yield "there are no upstreams: every request would be refused"
    for name, options in config.upstreams.items():
        if isinstance(options, LlamaCppOptions):
            draft = options.speculate.draft if isinstance(options.speculate, DraftOptions) else None
            for model in filter(None, (options.model, draft)):
                path = model_path(model, model_dir)
                if not path.is_file():
                    yield f"{name}: there is no model file {path} on this machine"

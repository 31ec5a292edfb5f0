"""`tandem models list`: the GGUF files there are."""

from __future__ import annotations

import argparse
from pathlib import Path

from backends.engine.backend import BUNDLED
from gateway.cli.serve import default_model_dir
from gateway.discovery import gguf_files


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("models", help="local models")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list", help="GGUF files in the model folder, and the bundled ones"
    )
    listing.add_argument("--model-dir", type=Path, default=default_model_dir())
    listing.set_defaults(run=run_list)


def run_list(arguments: argparse.Namespace) -> int:
    for folder in (arguments.model_dir, BUNDLED):
        print(f"{folder}:")
        files = gguf_files(folder)
        for path in files:
            print(f"  {path.stat().st_size / 1e6:9.1f} MB  {path.name}")
        if not files:
            print("  none")
    return 0

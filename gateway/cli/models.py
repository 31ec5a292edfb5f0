"""`tandem models`: the GGUF files there are, and what can be done with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from backends.engine.gguf import GgufError, read
from backends.engine.options import BUNDLED
from gateway.cli import models_inspect, models_offline, models_pull
from gateway.cli.arguments import add_model_dir, default_model_dir
from gateway.discovery import gguf_files


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("models", help="fetch, list, inspect, quantize, compare models")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list", help="GGUF files in the model folder, and the bundled ones"
    )
    add_model_dir(listing)
    listing.set_defaults(run=run_list)
    models_pull.add_parser(actions, default_model_dir())
    models_inspect.add_parser(actions)
    models_offline.add_parsers(actions)


def run_list(arguments: argparse.Namespace) -> int:
    for folder in (arguments.model_dir, BUNDLED):
        print(f"{folder}:")
        files = gguf_files(folder)
        for path in files:
            print(f"  {_line(path)}")
        if not files:
            print("  none")
    return 0


def _line(path: Path) -> str:
    try:
        gguf = read(path)
    except GgufError as error:
        return f"{path.stat().st_size / 1e6:9.1f} MB  {path.name}  (unusable: {error})"
    context = gguf.number(f"{gguf.architecture}.context_length")
    return f"{gguf.size / 1e6:9.1f} MB  {gguf.quantization:7} {context:>7} tokens  {path.name}"

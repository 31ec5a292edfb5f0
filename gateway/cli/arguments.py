"""Arguments that several commands take, each checked before anything starts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def default_model_dir() -> Path:
    """Where GGUF files are looked for: $TANDEM_MODELS, or a folder in the user's cache."""
    configured = os.environ.get("TANDEM_MODELS")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(configured) if configured else cache / "tandem" / "models"


def add_model_dir(parser: argparse.ArgumentParser) -> None:
    """`--model-dir`: the default need not exist, what is named must."""
    parser.add_argument(
        "--model-dir",
        type=folder,
        default=default_model_dir(),
        help="where GGUF files are ($TANDEM_MODELS, else ~/.cache/tandem/models)",
    )


def folder(named: str) -> Path:
    """A folder that is there, for argparse."""
    path = Path(named)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {named!r}")
    return path


def port(named: str) -> int:
    """A TCP port, for argparse; 0 lets the system choose one."""
    if not (named.isascii() and named.isdecimal() and int(named) <= 65535):
        raise argparse.ArgumentTypeError(f"{named!r} is no port: 0 to 65535")
    return int(named)

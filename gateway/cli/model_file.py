"""A model file as a person names it: by path, or as a configuration would."""

from __future__ import annotations

from pathlib import Path

from backends.engine.options import model_path
from gateway.cli.arguments import default_model_dir


def model_file(named: str) -> Path:
    """`named` is a path, a file in the model directory, or `bundled:NAME`; for argparse.

    What is nowhere comes back as it was typed, for the error to show.
    """
    known = model_path(named, default_model_dir())
    return known if not Path(named).exists() and known.exists() else Path(named)

"""Where training keeps its files, and the seed everything follows from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SEED = 20261122
VOCAB = 4096

BUNDLED = Path(__file__).parent.parent / "bundled"


def _default_work() -> Path:
    return Path.home() / ".cache" / "tandem" / "demo-pair"


@dataclass(frozen=True, kw_only=True)
class Settings:
    work: Path = field(default_factory=_default_work)  # checkpoints and intermediate files
    out: Path = BUNDLED  # GGUF files, manifest and model card
    stdlib: Path | None = None  # None: the library of the running interpreter
    seed: int = SEED

    @property
    def tokenizer(self) -> Path:
        return self.work / "tokenizer.json"

    @property
    def results(self) -> Path:
        return self.work / "results.json"

    @property
    def pause(self) -> Path:
        """Training sleeps while this file exists."""
        return self.work / "PAUSE"

    def checkpoint(self, role: str) -> Path:
        return self.work / f"{role}.pt"

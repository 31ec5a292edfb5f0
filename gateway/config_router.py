"""What the `router:` section names on disk, read and checked: artifacts and measured abilities."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway.config_sections import MIB, LabelsSection, RouterSection

if TYPE_CHECKING:
    from router_policies.learned.artifact import Artifact

MOST_ABILITIES = 1024 * 1024
LARGEST_ABILITY = 8.0
"""Of log-odds: from hopeless to nearly always right."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Where labels from own traffic are kept, and whether with the text of public requests."""

    path: Path
    max_bytes: int
    content: bool


@dataclass(frozen=True, kw_only=True)
class Router:
    """The section with its files read. `artifact` is None where no alias goes by one.

    `files` are those that the section names: another one in their place is another configuration.
    """

    artifact: Artifact | None = field(default=None, repr=False)
    shadow: Artifact | None = field(default=None, repr=False)
    abilities: Mapping[str, float] = field(default_factory=dict)
    novelty_limit: float = 0.8
    unsure: float = 0.1
    labels: Labels | None = None
    files: tuple[Path, ...] = ()


class RouterFileError(ValueError):
    """A file of the section that cannot be used; `key` is where it is named."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def read_router(
    section: RouterSection, folder: Path, *, used: bool, upstreams: Collection[str]
) -> Router:
    """Read what the section names, relative to `folder`. Raises RouterFileError."""
    artifact = shadow = None
    if used or section.artifact is not None:
        artifact = _artifact("artifact", section.artifact and folder / section.artifact)
    if section.shadow is not None:
        shadow = _artifact("shadow", folder / section.shadow)
    abilities = {}
    if section.abilities is not None:
        said = read_abilities(folder / section.abilities)
        abilities = {name: value for name, value in said.items() if name in upstreams}
    return Router(
        artifact=artifact,
        shadow=shadow,
        abilities=MappingProxyType(abilities),
        novelty_limit=section.novelty_limit,
        unsure=section.unsure,
        labels=_labels(section.labels, folder),
        files=_files(section, folder),
    )


def _files(section: RouterSection, folder: Path) -> tuple[Path, ...]:
    files = [] if section.abilities is None else [folder / section.abilities]
    for artifact in (section.artifact, section.shadow):
        if artifact is not None:
            from router_policies.learned.artifact import ARRAYS, MANIFEST

            files += (folder / artifact / name for name in (MANIFEST, ARRAYS))
    return tuple(files)


def _labels(section: LabelsSection | None, folder: Path) -> Labels | None:
    if section is None:
        return None
    return Labels(
        path=folder / section.path,
        max_bytes=section.max_mb * MIB,
        content=section.content == "public",
    )


def read_abilities(path: Path) -> dict[str, float]:
    """{upstream: shift of log-odds} as `tandem router probe` writes it. Raises RouterFileError."""
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(MOST_ABILITIES))
        said = {str(name): float(entry["ability"]) for name, entry in raw["abilities"].items()}
    except OSError as error:
        raise RouterFileError("abilities", f"cannot read it: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = "is not a file that `tandem router probe` wrote"
        raise RouterFileError("abilities", message) from None
    if not all(abs(value) <= LARGEST_ABILITY for value in said.values()):
        raise RouterFileError("abilities", f"an ability is at most {LARGEST_ABILITY:g} either way")
    return said


def _artifact(key: str, folder: Path | None) -> Artifact:
    # Imported where it is needed: numpy and two megabytes of vectors are not for everyone.
    from router_policies.learned.artifact import ARRAYS, DEFAULT, MANIFEST, ArtifactError

    folder = folder or DEFAULT
    try:
        stats = [(folder / name).stat() for name in (MANIFEST, ARRAYS)]
        return _loaded(folder, tuple((each.st_mtime_ns, each.st_ino) for each in stats))
    except OSError as error:
        raise RouterFileError(key, f"no artifact there: {error.strerror}") from None
    except ArtifactError as error:
        raise RouterFileError(key, str(error)) from None


@lru_cache(maxsize=4)
def _loaded(folder: Path, version: tuple[tuple[int, int], ...]) -> Artifact:
    """One copy in memory for all configurations that use it."""
    from router_policies.learned.artifact import load

    return load(folder)

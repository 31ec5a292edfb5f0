"""`tandem models pull hf:ORG/REPO:QUANT`: fetch a GGUF from a hub, check it, pin what it was.

huggingface_hub does the transfer: resuming, progress, tokens, mirrors (HF_ENDPOINT). It is the
extra `hub`, as only this command needs it. What arrives is held against the hub's sha256 and
written down in a manifest beside the file; another pull of the same name must find the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.engine.gguf import GgufError, read

_SPEC = re.compile(
    r"^hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<quant>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$"
)
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
DEFAULT_QUANT = "Q4_K_M"


class PullFailed(Exception):
    """Nothing was pulled, or it cannot be trusted; the message is a sentence with a remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file of a repository: its name there, size, and sha256 ("" where the hub has none)."""

    name: str
    size: int
    sha256: str


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser], folder: Path) -> None:
    parser = actions.add_parser(
        "pull",
        help="fetch a GGUF file from a hub, verified; HF_ENDPOINT names a mirror",
    )
    parser.add_argument(
        "model", metavar="hf:ORG/REPO[:QUANT][@REVISION]", help="for example hf:ORG/REPO:Q4_K_M"
    )
    parser.add_argument(
        "--model-dir",
        type=Path,
        default=folder,
        help="the folder it goes to",
    )
    parser.add_argument(
        "--update", action="store_true", help="take another file than the pinned one"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    try:
        path = pull(arguments.model, arguments.model_dir, update=arguments.update)
    except (PullFailed, GgufError) as error:
        print(error, file=sys.stderr)
        return 1
    print(path)
    return 0


def pull(spec: str, folder: Path, *, update: bool = False) -> Path:
    """Fetch a model into `folder`; the path of its file, or of the first part of a split one.

    Raises PullFailed, GgufError.
    """
    match = _SPEC.match(spec)
    if match is None:
        raise PullFailed(
            f"{spec} is not of the form hf:ORG/REPO:QUANT, as hf:org/model-GGUF:Q4_K_M."
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise PullFailed("Pulling needs huggingface_hub: pip install 'tandem-gateway[hub]'.")
    revision, files = _listing(match["repo"], match["revision"], folder)
    wanted = choose(files, match["quant"] or DEFAULT_QUANT, match["repo"])
    folder.mkdir(parents=True, exist_ok=True)
    for file in wanted:
        _fetch(match["repo"], revision, file, folder, update=update)
    path = folder / Path(wanted[0].name).name
    read(path)  # a file that is whole and still no GGUF is told of now, not at the first request
    return path


def choose(files: list[Remote], quant: str, repo: str) -> list[Remote]:
    """The files of one quantization: one, or all the parts of a split. Raises PullFailed."""
    ggufs = [file for file in files if file.name.lower().endswith(".gguf")]
    named = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quant)}(?![A-Za-z0-9_])", re.IGNORECASE)
    found = [file for file in ggufs if named.search(file.name) and "mmproj" not in file.name]
    stems = {_PART.sub("", file.name) for file in found}
    if len(stems) == 1:
        return sorted(found, key=lambda file: file.name)
    shown = ", ".join(sorted({Path(_PART.sub(".gguf", file.name)).name for file in ggufs})[:30])
    if not ggufs:
        raise PullFailed(
            f"{repo} has no GGUF files; look for a repository whose name ends in -GGUF."
        )
    count = "no file" if not stems else f"{len(stems)} models"
    raise PullFailed(f"{repo} has {count} named {quant}. There are: {shown}.")


def _listing(repo: str, revision: str | None, folder: Path) -> tuple[str, list[Remote]]:
    """The commit and its files."""
    hub = importlib.import_module("huggingface_hub")
    info = _ask(
        lambda: hub.HfApi().model_info(repo, revision=revision, files_metadata=True), folder
    )
    files = []
    for sibling in info.siblings or []:
        sha = sibling.lfs.sha256 if sibling.lfs else ""
        files.append(Remote(name=sibling.rfilename, size=sibling.size or 0, sha256=sha))
    return str(info.sha), files


def _fetch(repo: str, revision: str, file: Remote, folder: Path, *, update: bool) -> None:
    hub = importlib.import_module("huggingface_hub")
    path = folder / Path(file.name).name
    manifest = path.with_name(path.name + ".json")
    pinned = _pinned(manifest)
    if pinned and file.sha256 and pinned != file.sha256 and not update:
        raise PullFailed(
            f"{path.name} on the hub is not the file that was pinned here"
            f" ({file.sha256[:12]}…, pinned {pinned[:12]}…). --update takes the new one."
        )
    if pinned and path.is_file() and pinned == file.sha256 == _sha256(path):
        return
    # Our folder is flat, the repository's may not be: so the hub's layout stays beneath .pull,
    # which also keeps what an interrupted transfer has, for the next one to go on from.
    staging = folder / ".pull" / repo.replace("/", "--")
    got = _ask(
        lambda: hub.hf_hub_download(repo, file.name, revision=revision, local_dir=staging), folder
    )
    digest = _sha256(Path(got))
    if file.sha256 and digest != file.sha256:
        Path(got).unlink()
        raise PullFailed(
            f"{path.name} arrived damaged: its sha256 is {digest[:12]}…, the hub says"
            f" {file.sha256[:12]}…. It was removed; pull it again."
        )
    os.replace(got, path)
    written = {
        "source": f"hf:{repo}",
        "revision": revision,
        "file": file.name,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "pulled": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    manifest.write_text(json.dumps(written, indent=2) + "\n")


def _pinned(manifest: Path) -> str:
    """The sha256 that a manifest holds, "" without one. Raises PullFailed."""
    if not manifest.is_file():
        return ""
    try:
        return str(json.loads(manifest.read_text())["sha256"])
    except (ValueError, KeyError, TypeError):
        raise PullFailed(f"{manifest} is damaged; remove it to pull without a pin.") from None


def _ask(call: Callable[[], Any], folder: Path) -> Any:
    """Call the hub; its failures as sentences that say what to do."""
    errors = importlib.import_module("huggingface_hub.errors")
    endpoint = importlib.import_module("huggingface_hub.constants").ENDPOINT
    try:
        return call()
    except errors.GatedRepoError:
        raise PullFailed(
            "This model is gated: accept its terms on the hub, then set HF_TOKEN to your token."
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise PullFailed(
            f"{endpoint} has no such repository or revision; a private one needs HF_TOKEN."
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, _transport_error()):
        raise PullFailed(
            f"{endpoint} cannot be reached. Set HF_ENDPOINT to a mirror, or put the .gguf file into"
            f" {folder} yourself: `tandem models list` shows it, `tandem serve` finds it."
        ) from None
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise PullFailed(
            f"{endpoint} did not give it: {str(error).splitlines()[0][:300]}"
        ) from None


def _transport_error() -> type[Exception]:
    """The base of "cannot be reached": of whichever HTTP library this version of the hub's uses."""
    session = importlib.import_module("huggingface_hub.utils").get_session()
    library = importlib.import_module(type(session).__module__.partition(".")[0])
    found: type[Exception] = library.TransportError
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

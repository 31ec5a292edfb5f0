"""An artifact on disk: a folder with manifest.json and router.npz, checked before anything is used.

The manifest has the schema, the digest of the feature list, where each head's trees are, what was
learned from and how well, the SHA-256 of router.npz, and golden prompts with their scores. Nothing
in it is executed: arrays are read without pickle, their sizes are checked before memory is taken,
every index is checked before it is followed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from router_policies.learned import features
from router_policies.learned.model import Blend, Router
from router_policies.learned.trees import Forest, Shape, Trees, check
from router_policies.learned.wording import Wording

SCHEMA = 1
MANIFEST, ARRAYS = "manifest.json", "router.npz"
DEFAULT = Path(__file__).parent / "default"
"""The artifact that comes with Tandem."""

MOST_MANIFEST = 1024 * 1024
MOST_FILE = 64 * 1024 * 1024
MOST_ARRAYS = 256 * 1024 * 1024
MOST_TREES = 8192
MOST_PIECES = 1_000_000
MOST_WIDTH = 1024
MOST_SCORES = 10_000
LARGEST = 1e6
"""No value of a tree is larger than this: scores are shares of quality."""
TOLERANCE = 1e-4
"""Golden scores may differ by this much: float32 sums differ between processors."""

TYPES: Mapping[str, tuple[type[np.generic], int]] = {
    "feature": (np.int32, 2), "threshold": (np.float32, 2), "left": (np.int32, 2),
    "right": (np.int32, 2), "leaf": (np.float32, 2), "node": (np.float32, 2),
    "sizes": (np.int32, 1), "vectors": (np.int8, 2), "seen": (np.uint8, 1),
    "pieces": (np.uint8, 1), "scores": (np.float32, 1),
}  # fmt: skip


class ArtifactError(ValueError):
    """An artifact that cannot be used. The message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A loaded one. `scores` are scores of prompts it was not trained on, in rising order.

    `digest` is the start of the SHA-256 of its arrays: what records and logs call it by.
    """

    router: Router
    scores: tuple[float, ...]
    digest: str
    manifest: Mapping[str, Any]


def load(folder: Path) -> Artifact:
    """The artifact in a folder. Raises ArtifactError, whatever is there."""
    try:
        manifest = _manifest(folder / MANIFEST)
        raw = _read(folder / ARRAYS, MOST_FILE)
        digest = hashlib.sha256(raw).hexdigest()
        if manifest["files"][ARRAYS]["sha256"] != digest:
            raise ArtifactError("its SHA-256 is not the manifest's")
        arrays = _arrays(raw)
        router = _router(manifest, arrays)
        scores = arrays["scores"]
        if not 0 < scores.size <= MOST_SCORES or not np.isfinite(scores).all():
            raise ArtifactError("scores are missing")
        _golden(manifest, router)
    except ArtifactError as error:
        raise ArtifactError(f"router artifact {folder}: {error}") from None
    except OSError as error:
        raise ArtifactError(f"router artifact {folder}: {error.strerror or 'unreadable'}") from None
    except (
        AttributeError, EOFError, IndexError, KeyError, MemoryError, NotImplementedError,
        OverflowError, RecursionError, RuntimeError, TypeError, ValueError, SyntaxError,
        zipfile.BadZipFile, zlib.error, struct.error,
    ) as error:  # fmt: skip
        # Whatever a damaged file trips over in json, zipfile and numpy, it is a damaged file.
        message = f"router artifact {folder}: damaged ({type(error).__name__})"
        raise ArtifactError(message) from None
    return Artifact(
        router=router,
        scores=tuple(np.sort(scores).tolist()),
        digest=digest[:12],
        manifest=manifest,
    )


def save(
    folder: Path,
    *,
    trees: Trees,
    gain_trees: int,
    wording: Wording,
    blend: Blend,
    scores: Sequence[float],
    golden: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Write an artifact; `facts` go into its manifest. The same input gives the same bytes."""
    arrays: dict[str, NDArray[Any]] = {
        name: getattr(trees, name)
        for name in ("feature", "threshold", "left", "right", "leaf", "node", "sizes")
    }
    arrays["vectors"], arrays["seen"] = wording.vectors, wording.seen
    arrays["pieces"] = np.frombuffer("\n".join(wording.pieces).encode(), np.uint8)
    arrays["scores"] = np.array(scores, np.float32)
    raw = _packed(arrays)
    router = Router(forest=Forest(trees), gain_trees=gain_trees, wording=wording, blend=blend)
    manifest = {
        "schema": SCHEMA,
        "features": features.DIGEST,
        "heads": {"gain": [0, gain_trees], "fails": [gain_trees, int(trees.sizes.shape[0])]},
        "blend": asdict(blend),
        **facts,
        "files": {ARRAYS: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}},
        "golden": [{"text": text, "score": router.assess(text).score} for text in golden],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARRAYS).write_bytes(raw)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def resave(source: Path, out: Path, scores: Sequence[float]) -> None:
    """A copy of an artifact that starts from other scores, in any order. Raises ArtifactError."""
    load(source)
    arrays = _arrays((source / ARRAYS).read_bytes())
    ends = np.linspace(0, 1, min(len(scores), MOST_SCORES))
    arrays["scores"] = np.quantile(np.array(scores), ends).astype(np.float32)
    raw = _packed(arrays)
    manifest = json.loads((source / MANIFEST).read_text())
    manifest["files"] = {ARRAYS: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}}
    out.mkdir(parents=True, exist_ok=True)
    (out / ARRAYS).write_bytes(raw)
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ArtifactError(f"{path.name} is larger than {most} bytes")
    return raw


def _manifest(path: Path) -> dict[str, Any]:
    manifest: Any = json.loads(_read(path, MOST_MANIFEST))
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{MANIFEST} is not an object")
    schema = manifest.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise ArtifactError(f"its schema is not {SCHEMA}: made by another version of Tandem")
    if manifest.get("features") != features.DIGEST:
        raise ArtifactError("it was trained on other features: made by another version of Tandem")
    return manifest


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An npz whose bytes depend on nothing but the arrays."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            npy.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy")  # of 1980, whenever it is written
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return out.getvalue()


def _arrays(raw: bytes) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = archive.namelist()
        if sorted(names) != sorted(f"{name}.npy" for name in TYPES):
            raise ArtifactError(f"{ARRAYS} has other arrays than expected")
        if sum(info.file_size for info in archive.infolist()) > MOST_ARRAYS:
            raise ArtifactError(f"{ARRAYS} unpacks to more than {MOST_ARRAYS} bytes")
        return {name: _array(archive, name) for name in TYPES}


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array, its header checked against its size before any memory is taken."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        data = file.read(member.file_size)
    stream = io.BytesIO(data)
    if npy.read_magic(stream) != (1, 0):
        raise ArtifactError(f"{name} has an unknown format")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    kind, dimensions = TYPES[name]
    if dtype != np.dtype(kind) or len(shape) != dimensions or fortran:
        raise ArtifactError(f"{name} has the wrong type or shape")
    left = len(data) - stream.tell()
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != left:
        raise ArtifactError(f"{name} is not as long as it says")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)


def _router(manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Router:
    vectors, seen = arrays["vectors"], arrays["seen"]
    pieces = arrays["pieces"].tobytes().decode().split("\n")
    if not 0 < len(pieces) <= MOST_PIECES or vectors.shape[0] != len(pieces):
        raise ArtifactError("there is not one vector for each word piece")
    if not 0 < vectors.shape[1] <= MOST_WIDTH:
        raise ArtifactError("vectors are too long")
    bits = seen.size * 8
    if not 8 <= bits <= 2**27 or bits & (bits - 1):
        raise ArtifactError("the bitmap of known pairs has a size that is no power of two")
    names = ("feature", "threshold", "left", "right", "leaf", "node", "sizes")
    trees = Trees(**{name: arrays[name] for name in names})
    if trees.sizes.size > MOST_TREES:
        raise ArtifactError(f"more than {MOST_TREES} trees")
    try:
        check(trees, len(features.NAMES) + vectors.shape[1])
    except Shape as error:
        raise ArtifactError(f"not a forest: {error}") from None
    if any(array.size and np.abs(array).max() > LARGEST for array in (trees.leaf, trees.node)):
        raise ArtifactError("a tree says something absurdly large")
    cut, count = manifest["heads"]["gain"][1], trees.sizes.size
    if type(cut) is not int or manifest["heads"] != {"gain": [0, cut], "fails": [cut, count]}:
        raise ArtifactError("the heads are not the forest's two parts")
    if not 0 < cut < count:
        raise ArtifactError("a head has no trees")
    return Router(
        forest=Forest(trees),
        gain_trees=cut,
        wording=Wording(pieces, vectors, seen),
        blend=_blend(manifest["blend"]),
    )


def _blend(raw: Mapping[str, Any]) -> Blend:
    blend = Blend(**{name: float(value) for name, value in raw.items()})
    numbers = asdict(blend).values()
    if not all(math.isfinite(number) and abs(number) <= LARGEST for number in numbers):
        raise ArtifactError("blend has a number that is not finite")
    if not blend.known < blend.novel:
        raise ArtifactError("blend.known is not below blend.novel")
    return blend


def _golden(manifest: Mapping[str, Any], router: Router) -> None:
    golden = manifest["golden"]
    if not golden:
        raise ArtifactError("it has no golden prompts")
    for each in golden[:256]:
        score = router.assess(str(each["text"])).score
        if not abs(score - float(each["score"])) <= TOLERANCE:
            raise ArtifactError("a golden prompt does not get the score that it got in training")

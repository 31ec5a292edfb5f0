"""The code corpus: modules of the Python standard library, split by a hash of their names.

The library is under the PSF licence, which allows this use. Its test suites are left out (their
text is mostly data), and so are generated tables.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# One file in this many is never trained on.
HELD_OUT_ONE_IN = 24

_LEFT_OUT_FOLDERS = frozenset(
    {
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "ensurepip",
        "turtledemo",
        "lib2to3",
        "idlelib",
        "encodings",
        "msilib",
        "tkinter",
    }
)
# Tables, not prose or code anyone would type.
_LEFT_OUT_FILES = frozenset({"pydoc_data/topics.py", "html/entities.py", "stringprep.py"})
_LARGEST = 200_000


@dataclass(frozen=True)
class File:
    name: str  # relative to the library's root
    text: str


@dataclass(frozen=True)
class Corpus:
    train: tuple[File, ...]
    held_out: tuple[File, ...]
    sha256: str  # over every name and text, in order

    @property
    def size(self) -> int:
        return sum(len(file.text) for file in self.train)


def collect(root: Path | None = None) -> Corpus:
    root = root or Path(sysconfig.get_paths()["stdlib"])
    digest = hashlib.sha256()
    train: list[File] = []
    held_out: list[File] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not is_wanted(name):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a few modules are in Latin-1
            continue
        if not 200 <= len(text) <= _LARGEST:
            continue
        digest.update(f"{name}\0{text}\0".encode())
        (held_out if is_held_out(name) else train).append(File(name, text))
    return Corpus(tuple(train), tuple(held_out), digest.hexdigest())


def is_wanted(name: str) -> bool:
    *folders, file = name.split("/")
    if any(part in _LEFT_OUT_FOLDERS or part.startswith("config-") for part in folders):
        return False
    return name not in _LEFT_OUT_FILES and not file.startswith("_sysconfigdata")


def is_held_out(name: str) -> bool:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0

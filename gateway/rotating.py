"""An append-only file of lines that never takes more than its bound: two halves, the older goes."""

from __future__ import annotations

import os
from pathlib import Path

MODE = 0o600


class RotatingFile:
    """`path`, and beside it `path.1` with what was before. Not safe from several threads.

    A line that a crash cut short stays alone on its line, where readers skip it. Readable by its
    owner only; a symbolic link is refused. Raises OSError.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._half = max_bytes // 2
        self._open()

    def append(self, line: bytes) -> bool:
        """Write a line that ends with a newline; False if it alone is over half the bound."""
        if len(line) > self._half:
            return False
        if self._size + len(line) > self._half:
            os.close(self._file)
            os.replace(self.path, self.path.with_name(self.path.name + ".1"))
            self._open()
        self._size += os.write(self._file, line)
        return True

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self.path, flags, MODE)
        os.fchmod(self._file, MODE)
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._size += os.write(self._file, b"\n")

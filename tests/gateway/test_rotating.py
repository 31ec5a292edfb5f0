"""A file of lines within its bound, for its owner only, whole after a crash."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rotating import RotatingFile


def sizes(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir())


@given(st.lists(st.integers(1, 90), max_size=60))
def test_it_never_takes_more_than_its_bound(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    """Whatever lines come, both halves together stay within it, and the last line is there."""
    folder = tmp_path_factory.mktemp("log")
    log = RotatingFile(folder / "log", 160)
    for length in lengths:
        line = b"x" * length + b"\n"
        if log.append(line):
            assert (folder / "log").read_bytes().endswith(line)
        else:
            assert len(line) > 80
        assert sizes(folder) <= 160
    log.close()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """Mode 0600 for both halves, also where a wider file was there before."""
    (tmp_path / "log").touch(0o644)
    log = RotatingFile(tmp_path / "log", 100)
    for _ in range(5):
        log.append(b"y" * 30 + b"\n")
    log.close()
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_line_cut_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    """What is written after it stands on a line of its own."""
    (tmp_path / "log").write_bytes(b'{"a": 1}\n{"b": ')
    log = RotatingFile(tmp_path / "log", 1000)
    log.append(b'{"c": 3}\n')
    log.close()
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert json.loads(lines[0]) == {"a": 1}
    assert json.loads(lines[-1]) == {"c": 3}


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """Nobody leads the log into another file."""
    (tmp_path / "elsewhere").touch()
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        RotatingFile(tmp_path / "log", 1000)

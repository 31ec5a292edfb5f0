"""Artifacts on disk: what is damaged, foreign or hostile is refused with a sentence."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from router_policies.learned.artifact import (
    ARRAYS,
    DEFAULT,
    MANIFEST,
    ArtifactError,
    load,
    resave,
)
from tests.fakes.artifact import GOLDEN, save

damaging = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def rehash(folder: Path) -> None:
    """Let the manifest vouch for whatever the arrays have become."""
    manifest = json.loads((folder / MANIFEST).read_text())
    digest = hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()
    manifest["files"][ARRAYS]["sha256"] = digest
    (folder / MANIFEST).write_text(json.dumps(manifest))


def rewrite(folder: Path, **changes: Any) -> None:
    """Put other arrays into the artifact, rightly hashed."""
    with np.load(folder / ARRAYS) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays |= {name: value for name, value in changes.items() if value is not None}
    np.savez(folder / ARRAYS, **arrays)
    rehash(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """An artifact says after loading what it said before, twice written it is the same bytes."""
    first, second = save(tmp_path / "a"), save(tmp_path / "b")
    assert (first / ARRAYS).read_bytes() == (second / ARRAYS).read_bytes()
    loaded = load(first)
    golden = loaded.manifest["golden"]
    assert [each["text"] for each in golden] == list(GOLDEN)
    assert loaded.router.assess(GOLDEN[0]).score == pytest.approx(golden[0]["score"], abs=1e-6)
    assert loaded.scores == tuple(sorted(loaded.scores)) and len(loaded.scores) == 101


def test_the_default_artifact_loads() -> None:
    """The one that comes with Tandem passes its own golden test."""
    assert len(load(DEFAULT).manifest["golden"]) == 64


@damaging
@given(at=st.floats(0, 1), bit=st.integers(0, 7), vouched=st.booleans())
def test_a_flipped_bit_is_refused_or_harmless(
    tmp_path: Path, at: float, bit: int, vouched: bool
) -> None:
    """A bit flip is found by the hash; with a hash that agrees it is an error or harmless."""
    folder = save(tmp_path / "a")
    raw = bytearray((folder / ARRAYS).read_bytes())
    raw[min(len(raw) - 1, int(at * len(raw)))] ^= 1 << bit
    (folder / ARRAYS).write_bytes(raw)
    if not vouched:
        with pytest.raises(ArtifactError, match="SHA-256"):
            load(folder)
        return
    rehash(folder)
    try:
        loaded = load(folder)
    except ArtifactError:
        return
    assert np.isfinite(loaded.router.assess("what is the sum of 2 and 3").score)


@damaging
@given(which=st.sampled_from([ARRAYS, MANIFEST]), at=st.floats(0, 1), vouched=st.booleans())
def test_a_truncated_file_is_refused(tmp_path: Path, which: str, at: float, vouched: bool) -> None:
    """A file that ends too soon is refused, also if its hash is right."""
    folder = save(tmp_path / "a")
    raw = (folder / which).read_bytes().rstrip()
    (folder / which).write_bytes(raw[: int(at * (len(raw) - 1))])
    if vouched and which == ARRAYS:
        rehash(folder)
    with pytest.raises(ArtifactError):
        load(folder)


@damaging
@given(
    junk=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner)
        ),
        max_leaves=5,
    ),
    key=st.sampled_from(["schema", "features", "heads", "blend", "files", "golden"]),
)
def test_a_strange_manifest_is_refused(tmp_path: Path, junk: Any, key: str) -> None:
    """Any value in the place of any part of the manifest is an error, never a crash."""
    assume(type(junk) is not int)  # a schema of 1 is right
    folder = save(tmp_path / "a")
    edit(folder, lambda manifest: manifest.update({key: junk}))
    with pytest.raises(ArtifactError):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature": np.zeros((15, 3), np.int32)}, "shape"),
        ({"feature": np.full((15, 12), 10**6, np.int32)}, "feature"),
        ({"leaf": np.full((12, 16), 1e30, np.float32)}, "large"),
        ({"leaf": np.full((12, 16), np.nan, np.float32)}, "finite"),
        ({"threshold": np.zeros((15, 12), np.float64)}, "type or shape"),
        ({"left": np.zeros((15, 12), np.int32)}, "node"),
        ({"vectors": np.zeros((3, 4), np.int8)}, "vector"),
        ({"vectors": np.zeros((17, 0), np.int8)}, "vector"),
        ({"seen": np.zeros(3, np.uint8)}, "power of two"),
        ({"pieces": np.full(9, 0xFF, np.uint8)}, "damaged"),
        ({"scores": np.zeros(0, np.float32)}, "scores"),
        ({"scores": np.full(5, np.nan, np.float32)}, "scores"),
        ({"extra": np.zeros(3, np.float32)}, "other arrays"),
        ({"sizes": np.array([{}] * 12, object)}, "damaged|type"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Other shapes, types, indices and numbers are refused with what is wrong."""
    folder = save(tmp_path / "a")
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        load(folder)


def test_other_numbers_fail_the_golden_test(tmp_path: Path) -> None:
    """Arrays that are well formed but not those of the manifest do not get its scores."""
    folder = save(tmp_path / "a")
    rewrite(folder, leaf=np.ones((12, 16), np.float32))
    with pytest.raises(ArtifactError, match="golden"):
        load(folder)


def test_an_array_cannot_claim_more_than_it_has(tmp_path: Path) -> None:
    """A header that promises a terabyte is refused before memory is asked for."""
    folder = save(tmp_path / "a")
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    padded = header.ljust(117) + "\n"
    lying = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()
    with zipfile.ZipFile(folder / ARRAYS) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / ARRAYS, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, lying if name == "leaf.npy" else data)
    rehash(folder)
    with pytest.raises(ArtifactError, match="leaf is not as long as it says"):
        load(folder)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """An array of objects is refused, and what it would have run does not run."""
    folder = save(tmp_path / "a")
    marker = tmp_path / "ran"
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([Touch(marker)], object), allow_pickle=True)
    with zipfile.ZipFile(folder / ARRAYS) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["leaf.npy"] = stream.getvalue()
    with zipfile.ZipFile(folder / ARRAYS, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    rehash(folder)
    with pytest.raises(ArtifactError):
        load(folder)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()  # the bait works


class Touch:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    """The message has the folder's name."""
    with pytest.raises(ArtifactError, match="nothing-here"):
        load(tmp_path / "nothing-here")


def test_another_start_is_another_artifact(tmp_path: Path) -> None:
    """Calibration changes where a share starts from, and nothing that is scored."""
    first = save(tmp_path / "a")
    resave(first, tmp_path / "b", [3.0, 1.0, 2.0])
    before, after = load(first), load(tmp_path / "b")
    assert after.scores == (1.0, 2.0, 3.0) and after.digest != before.digest
    assert after.router.assess(GOLDEN[0]) == before.router.assess(GOLDEN[0])

"""A blob is whole or absent, is known by its content, and is refused once that has changed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.errors import Corrupt, StoreError
from tidemill.stores.blobs import Blobs, digest_of

FRESH = count()
NAMES = st.sampled_from(["a", "b", "model.onnx", "in/a", "in/deep/b", "with space", 'quo"te\n', "ü"])
CONTENTS = st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=5)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def filled(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    return filled(tmp_path / "artefact", {"artefact.json": b"{}", "weights/model.onnx": b"\x08\x07" * 5000})


def test_a_folder_comes_back_byte_for_byte(blobs: Blobs, artefact: Path) -> None:
    digest = blobs.put_folder(artefact)
    assert read(blobs.folder(digest)) == read(artefact)
    assert len(digest) == 64


def test_the_copy_does_not_change_with_its_source(blobs: Blobs, artefact: Path) -> None:
    digest = blobs.put_folder(artefact)
    (artefact / "artefact.json").write_text("changed")
    assert (blobs.folder(digest) / "artefact.json").read_bytes() == b"{}"


def test_storing_the_same_again_keeps_one(blobs: Blobs, artefact: Path, tmp_path: Path) -> None:
    digest = blobs.put_folder(artefact)
    os.utime(artefact / "artefact.json", (0, 0))
    (artefact / "artefact.json").chmod(0o600)
    assert blobs.put_folder(artefact) == digest
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == [digest]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=CONTENTS, other=CONTENTS)
def test_folders_have_one_digest_exactly_when_names_and_contents_are_the_same(
    blobs: Blobs, tmp_path: Path, one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    folders = [filled(tmp_path / f"f{next(FRESH)}", contents) for contents in (one, other)]
    digests = [blobs.put_folder(folder) for folder in folders]
    assert (digests[0] == digests[1]) == (one == other)
    assert [read(blobs.folder(digest)) for digest in digests] == [one, other]


def test_bytes_come_back_under_their_sha256(blobs: Blobs) -> None:
    data = os.urandom(3000)
    assert blobs.put_bytes(data) == blobs.put_bytes(data) == hashlib.sha256(data).hexdigest()
    assert blobs.bytes(hashlib.sha256(data).hexdigest()) == data


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove", "add", "rename", "link"])
def test_a_folder_that_changed_on_disk_is_refused(blobs: Blobs, artefact: Path, tmp_path: Path, damage: str) -> None:
    digest = blobs.put_folder(artefact)
    model = tmp_path / "blobs" / digest / "weights" / "model.onnx"
    data = bytearray(model.read_bytes())
    model.chmod(0o600)
    match damage:
        case "flip":
            data[777] ^= 1
            model.write_bytes(data)
        case "cut":
            model.write_bytes(data[:-1])
        case "grow":
            model.write_bytes(data + b"\0")
        case "remove":
            model.unlink()
        case "add":
            (model.parent / "extra").touch()
        case "rename":
            model.rename(model.parent / "other.onnx")
        case "link":
            model.rename(tmp_path / "outside")
            model.symlink_to(tmp_path / "outside")
    with pytest.raises(Corrupt, match=r"changed.*restore it|is a link"):
        Blobs(tmp_path / "blobs").folder(digest)


def test_bytes_that_changed_on_disk_are_refused_at_every_reading(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put_bytes(b"secret of the model")
    assert blobs.bytes(digest)
    (tmp_path / "blobs" / digest).chmod(0o600)
    (tmp_path / "blobs" / digest).write_bytes(b"Secret of the model")
    with pytest.raises(Corrupt, match=f"blob '{digest}' .* has changed"):
        blobs.bytes(digest)


def test_a_blob_that_is_not_there_is_named(blobs: Blobs, artefact: Path) -> None:
    for ask in (blobs.folder, blobs.bytes):
        with pytest.raises(StoreError, match=f"blob '{'0' * 64}' is not a "):
            ask("0" * 64)
    with pytest.raises(StoreError, match="is not a file"):
        blobs.bytes(blobs.put_folder(artefact))


@pytest.mark.parametrize("digest", ["", "../../etc", "ABC", "a" * 63, "a" * 64 + "\n", "/" * 64])
def test_only_a_digest_finds_a_blob(blobs: Blobs, digest: str) -> None:
    for ask in (blobs.folder, blobs.bytes):
        with pytest.raises(StoreError, match="is not the digest of a blob"):
            ask(digest)


def test_what_a_blob_cannot_hold_is_refused_and_leaves_nothing(blobs: Blobs, artefact: Path, tmp_path: Path) -> None:
    (artefact / "link").symlink_to("artefact.json")
    with pytest.raises(StoreError, match="artefact/link' is a link"):
        blobs.put_folder(artefact)
    (artefact / "link").unlink()
    os.mkfifo(artefact / "pipe")
    with pytest.raises(StoreError, match="artefact/pipe' is a link or a special file"):
        blobs.put_folder(artefact)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(StoreError, match=folder.name):
            blobs.put_folder(folder)
    assert list((tmp_path / "blobs").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, artefact: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"a blob cannot be stored in .*file/blobs"):
        Blobs(tmp_path / "file" / "blobs").put_folder(artefact)


def test_processes_and_threads_that_store_the_same_content_agree(blobs: Blobs, artefact: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        digests = set(pool.map(lambda _: Blobs(tmp_path / "blobs").put_folder(artefact), range(18)))
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == list(digests)
    assert read(blobs.folder(digests.pop())) == read(artefact)


STORER = """
import sys
from pathlib import Path
from tidemill.stores.blobs import Blobs
print("ready", flush=True)
for i in range(10_000):
    Path(sys.argv[2], "number").write_text(str(i))
    print(Blobs(sys.argv[1]).put_folder(Path(sys.argv[2])), flush=True)
"""


def test_a_process_killed_while_storing_leaves_nothing_torn(
    blobs: Blobs, tmp_path: Path, start_child: Callable[..., Any]
) -> None:
    """Kills at many moments: what has a digest is whole, what was acknowledged is there, the rest is swept away."""
    stored = tmp_path / "blobs"
    torn = 0
    for moment in range(8):
        source = filled(tmp_path / f"source{moment}", {f"part{i}": os.urandom(200_000) for i in range(8)})
        child = start_child(STORER, str(stored), str(source))
        assert child.hear() == "ready"
        acknowledged = [child.hear()]
        time.sleep(0.003 * moment)
        child.end()
        torn += len(list(stored.glob(".tmp-*")))
        for digest in (*acknowledged, *(p.name for p in stored.iterdir() if not p.name.startswith("."))):
            assert len(read(blobs.folder(digest))) == 9
    assert torn > 0  # else no kill hit the middle, and this test showed nothing
    blobs.put_bytes(b"the next one sweeps")
    assert list(stored.glob(".tmp-*")) == []


def test_the_sweep_spares_what_a_living_process_is_writing(
    blobs: Blobs, tmp_path: Path, start_child: Callable[..., Any]
) -> None:
    """While one process stores without pause, another stores and sweeps beside it: neither fails."""
    source = filled(tmp_path / "source", {f"part{i}": os.urandom(100_000) for i in range(4)})
    child = start_child(STORER, str(tmp_path / "blobs"), str(source))
    assert child.hear() == "ready"
    for i in range(60):
        blobs.put_bytes(str(i).encode())
    for digest in [child.hear() for _ in range(20)]:
        assert len(read(blobs.folder(digest))) == 5


def test_a_folder_whose_files_were_overwritten_is_whole_again_once_it_is_stored_again(
    blobs: Blobs, tmp_path: Path
) -> None:
    old = blobs.put_folder(filled(tmp_path / "old", {"shown": b"ann", "weights": b"1"}))
    new = blobs.put_folder(filled(tmp_path / "new", {"shown": b"", "weights": b"1"}))
    again = blobs.put_folder(filled(tmp_path / "third", {"shown": b"", "weights": b"2"}))
    blobs.overwrite(old, new, ["shown"])
    assert blobs.alike(new, ["shown"]) == sorted([old, again])
    assert blobs.alike(new, ["shown", "weights"]) == [old]
    with pytest.raises(Corrupt):
        blobs.folder(old)
    assert blobs.put_folder(tmp_path / "old") == old == digest_of(tmp_path / "old")
    assert (blobs.folder(old) / "shown").read_bytes() == b"ann"

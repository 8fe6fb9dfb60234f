"""The home folder names the places of an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.errors import StoreError
from tidemill.stores.database import Database
from tidemill.stores.home import Home


def test_every_place_lies_in_the_folder_and_is_made_once_or_more(tmp_path: Path) -> None:
    home = Home(tmp_path / "new" / "home").make().make()
    places = [home.segments, home.log, home.blobs, home.reservoir, home.datasets, home.runs]
    assert sorted(place.name for place in places) == ["blobs", "datasets", "log", "reservoir", "runs", "segments"]
    assert all(place.is_dir() and place.parent == home.folder for place in places)


def test_what_is_in_a_home_is_for_its_user_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    assert home.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["plain", "two words", "50%", "what?", "a#b", "ü/é"])
def test_the_database_lies_in_the_home_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / name).make()
    Database.open(home.db_url).close()
    assert (home.folder / "tidemill.db").stat().st_size > 0


def test_a_relative_folder_keeps_its_meaning_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home("here")
    monkeypatch.chdir("/")
    assert home.folder == tmp_path / "here"
    assert home == Home(tmp_path / "here")


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/home.*cannot be created"):
        Home(tmp_path / "file" / "home").make()

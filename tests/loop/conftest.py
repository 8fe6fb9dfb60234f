from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from harness import CALM_S, START, Harness
from persons import NOW, Persons, opened


@pytest.fixture(scope="session")
def first_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose home serves version 1, made once."""
    folder = tmp_path_factory.mktemp("first")
    harness = Harness.make(folder)
    harness.app.close()
    return folder


@pytest.fixture(scope="session")
def calm(first_version: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after some seconds of users whom version 1 serves well."""
    folder = tmp_path_factory.mktemp("calm") / "now"
    shutil.copytree(first_version, folder)
    harness = Harness.open(folder)
    harness.seconds(CALM_S)
    harness.app.close()
    return folder


@pytest.fixture(scope="session")
def tried(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The same when version 1 has fallen on the new app and version 2 is trained, not tested; and the second."""
    folder = tmp_path_factory.mktemp("tried") / "now"
    shutil.copytree(calm, folder)
    harness = Harness.open(folder, now=START + timedelta(seconds=CALM_S))
    harness.accuracy, harness.new_share = {(1, "v2"): 0.55}, 0.6
    second = CALM_S + harness.until_tested()
    harness.app.close()
    return folder, second


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose log, reservoir and queue hold requests of ann, bob, cid and others."""
    folder = tmp_path_factory.mktemp("asked") / "now"
    folder.mkdir()
    Persons.make(folder).close()
    return folder


@pytest.fixture(scope="session")
def noted(asked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same whose version 1 learnt from all of them."""
    folder = shutil.copytree(asked, tmp_path_factory.mktemp("noted") / "now")
    with opened(folder, now=NOW) as persons:
        persons.train()
    return folder


@pytest.fixture
def persons(noted: Path, tmp_path: Path) -> Iterator[Persons]:
    folder = shutil.copytree(noted, tmp_path / "now")
    with opened(folder, now=NOW) as made:
        yield made


@pytest.fixture
def harness(calm: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    """Return a factory of deployments: `calm`, or `tried` with an untested candidate; `edit` changes the project."""
    opened: list[Harness] = []

    def make(
        stage: str = "calm", *, edit: Mapping[str, str] | None = None, beside: Mapping[str, str] | None = None
    ) -> Harness:
        start, second = (calm, CALM_S) if stage == "calm" else request.getfixturevalue("tried")
        folder = tmp_path / f"deployment-{len(opened)}"
        shutil.copytree(start, folder)
        file = folder / "waves_project.py"
        for old, new in (edit or {}).items():
            assert old in file.read_text()
            file.write_text(file.read_text().replace(old, new))
        for name, text in (beside or {}).items():
            (folder / name).write_text(text)
        opened.append(Harness.open(folder, now=START + timedelta(seconds=second)))
        if stage == "tried":
            opened[-1].accuracy = {(1, "v2"): 0.55, (2, "v1"): 0.97, (2, "v2"): 0.97}
            opened[-1].new_share = 0.6
        return opened[-1]

    yield make
    for one in opened:
        one.app.close()

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Harness


@pytest.fixture(scope="session")
def first_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose home serves version 1, made once."""
    folder = tmp_path_factory.mktemp("first")
    harness = Harness.make(folder)
    harness.app.close()
    return folder


@pytest.fixture
def harness(first_version: Path, tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    """Return a factory of deployments that serve version 1; `offline` is the gate."""
    opened: list[Harness] = []

    def make(offline: str | None = None) -> Harness:
        folder = tmp_path / f"deployment-{len(opened)}"
        shutil.copytree(first_version, folder)
        if offline is not None:
            file = folder / "waves_project.py"
            file.write_text(file.read_text().replace("offline=[tm.offline.NoWorse('accuracy', by='cohort')]", f"offline=[{offline}]"))
        opened.append(Harness.open(folder))
        return opened[-1]

    yield make
    for one in opened:
        one.app.close()

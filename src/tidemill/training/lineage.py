"""Where a model came from: the code, the packages and the machine that made it."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from tidemill.records import Json

_GIT_TIMEOUT_S = 10.0


def environment() -> Json:
    """Return Python, platform, threads, and the version of every installed package."""
    packages = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def code(project_file: str) -> Json:
    """Return the hash of the sources beside the project file, and the git commit where there is one.

    Sources are the `.py` files in its folder and in the packages below it. `changed` tells whether they differ from
    the commit; it is None without git.
    """
    folder = Path(project_file.partition(":")[0]).resolve().parent
    hashed = hashlib.sha256()
    for path in sorted(_sources(folder)):
        hashed.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        hashed.update(hashlib.sha256(path.read_bytes()).digest())
    commit = _git(folder, "rev-parse", "HEAD")
    changed = None if commit is None else bool(_git(folder, "status", "--porcelain", "--", "*.py"))
    return {"file": project_file, "sources": hashed.hexdigest()[:16], "commit": commit, "changed": changed}


def _sources(folder: Path) -> Iterator[Path]:
    """Yield the sources; only packages are entered, so that a file in a home folder does not walk all of it."""
    for path in folder.iterdir():
        if path.suffix == ".py" and path.is_file():
            yield path
        elif path.is_dir() and (path / "__init__.py").is_file():
            yield from _sources(path)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

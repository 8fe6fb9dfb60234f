"""Finds the Chromium that browser tests run in; as a program, installs one where there is none.

`python tests/dashboard/chromium.py` prints where it is, or why there is none, and then ends with 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 300


def found() -> str | None:
    """Return the program: the one that TIDEMILL_CHROMIUM names, the system's, or Playwright's own."""
    named = os.environ.get("TIDEMILL_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None) or _of_playwright()


def _of_playwright() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install() -> str:
    """Install one, as the system's package for root and as Playwright's own for others; return why it did not work."""
    own = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    package = [["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "--no-install-recommends", "chromium"]]
    is_root = os.geteuid() == 0 and shutil.which("apt-get") is not None
    problems = []
    for commands in [package, own] if is_root else [own]:
        problem = next(filter(None, map(_run, commands)), "")
        if not problem and found():
            return ""
        problems.append(problem or f"{commands[-1][0]} installed none")
    return "; ".join(problems)


def _run(command: list[str]) -> str:
    """Run a command; return why it failed, or nothing."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=env, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`{' '.join(command)}`: {error}"
    said = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else f"`{' '.join(command)}`: {said[-1] if said else done.returncode}"


def main() -> int:
    """Say where a Chromium is, or what to do."""
    path = found()
    problem = "" if path else install()
    path = path or found()
    if path:
        print(f"browser tests run in {path}")
        return 0
    print(f"BROWSER TESTS WILL NOT RUN: there is no Chromium, and none can be installed ({problem}).", file=sys.stderr)
    print("Install one (apt-get install chromium), or name it in TIDEMILL_CHROMIUM.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

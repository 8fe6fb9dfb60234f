"""`tidemill try --gradio` over a real gateway, asked as its own page asks; without the extra, how to get it.

The app runs in a process of its own: what Gradio leaves open is none of this process's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tried_gateway import free_port, gateway_on

from tidemill.app import App
from tidemill.dashboard.gateway import Gateway
from tidemill.dashboard.gradio_app import build
from tidemill.errors import MissingExtra
from tidemill.schema import Classes, Number, Schema
from tidemill.stores.png import png


def test_without_the_extra_the_next_move_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match=r"tidemill\[gradio\]"):
        build("x", Schema({"x": Number()}, Classes(["a", "b"])), Gateway())


@contextmanager
def trying(folder: Path, gateway: str) -> Iterator[str]:
    """Run the command, and give the app's address."""
    called = [sys.executable, "-m", "tidemill.cli", "try", "--gradio", "--gateway", gateway, "--port", str(free_port())]
    options = ["--home", str(folder / "home"), "--project", "waves"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([*called, *options], stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        said = next((line for line in process.stdout if "http://" in line), "")
        found = re.search(r"http://\S+", said)
        assert found, "it ended without an address"
        yield found[0]
    finally:
        process.terminate()
        process.communicate()


def press(client: httpx.Client, name: str, *values: Any) -> list[Any]:
    """Press a button of the app in one session, and return what its components then show."""
    asked = client.post(f"/gradio_api/call/{name}", json={"data": values, "session_hash": "one-session"})
    told = client.get(f"/gradio_api/call/{name}/{asked.json()['event_id']}").text
    assert "event: complete" in told, told
    shown: list[Any] = json.loads(told.partition("event: complete\ndata: ")[2].splitlines()[0])
    return shown


@pytest.mark.skipif(find_spec("gradio") is None, reason="pip install 'tidemill[gradio]', or `make test GRADIO=1`")
def test_the_app_asks_the_gateway_and_sends_feedback(told: Path, tmp_path: Path) -> None:
    picture = png(np.zeros((16, 16), dtype=np.uint8))
    with (
        gateway_on(told, tmp_path / "tried") as (folder, url),
        trying(folder, url) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        (photo,) = client.post("/gradio_api/upload", files={"files": ("photo.png", picture)}).json()
        file = {"path": photo, "meta": {"_type": "gradio.FileData"}}
        given = {"app": "v1", "note": "calm", "photo": file, "x": 2.5, "y": 2.0}
        answer, about, *_ = press(client, "ask", *given.values())
        assert answer["label"] == "high" and "version" in about
        assert press(client, "confirm", None) == ["Kept as feedback: confirm True."]
        assert press(client, "correct", None, "low") == ["Kept as feedback: correct low."]
        app = App.open(str(folder / "waves_project.py"), folder / "home")
        segments = b"".join(path.read_bytes() for path in app.world.home.segments.rglob("*") if path.is_file())
        app.close()
    assert b"confirm" in segments and b"correct" in segments, "the gateway wrote it down"

"""The Gradio app over a real gateway; without the extra, how to get it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tried_gateway import gateway_on

from tidemill.dashboard.gateway import Gateway
from tidemill.dashboard.gradio_app import build
from tidemill.errors import MissingExtra
from tidemill.loop.controls import Controls
from tidemill.manifest import Manifest
from tidemill.schema import Classes, Number, Schema
from tidemill.stores.png import png


@pytest.mark.skipif(find_spec("gradio") is not None, reason="gradio is installed")
def test_without_the_extra_the_next_move_is_told() -> None:
    with pytest.raises(MissingExtra, match=r"tidemill\[gradio\]"):
        build("x", Schema({"x": Number()}, Classes(["a", "b"])), Gateway())


@pytest.mark.filterwarnings("ignore")  # those of gradio and what it stands on
def test_the_app_asks_the_gateway_and_sends_feedback(told: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="pip install 'tidemill[gradio]'")
    from gradio_client import Client, handle_file

    file = tmp_path / "photo.png"
    file.write_bytes(png(np.zeros((16, 16), dtype=np.uint8)))
    with gateway_on(told, tmp_path / "tried") as (folder, url):
        controls = Controls.of_home(folder / "home", "waves")
        schema = Manifest.from_json(controls.catalog.manifest("waves")).schema
        controls.close()
        app = build("waves", schema, Gateway(url=url))
        assert app.analytics_enabled is False
        _, address, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False)
        try:
            client = Client(address, verbose=False)
            given = {"x": 2.5, "y": 2.0, "app": "v1", "note": "calm", "photo": handle_file(str(file))}
            answer, about = client.predict(*(given[name] for name in schema.inputs), api_name="/ask")
            assert answer["label"] == "high"
            assert "version" in about
            assert "Kept as feedback: confirm True." in client.predict(api_name="/confirm")
        finally:
            app.close()

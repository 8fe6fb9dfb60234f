"""The try page over a real gateway: the form of the schema, the answer, what people say of it, no gateway at all."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_served import Served, running
from story import Story, end_of
from tried_gateway import free_port, gateway_on

from tidemill.cli import main
from tidemill.dashboard.gateway import Gateway
from tidemill.dashboard.page import Site
from tidemill.dashboard.session import Settings
from tidemill.dashboard.trial import bars, fields, said, wire
from tidemill.errors import InvalidInput
from tidemill.records import Feedback
from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text, Value
from tidemill.stores.frames import read_frames
from tidemill.stores.png import png
from tidemill.stores.segments import Segments, decode

HOSTILE = "<img src=x onerror='window.hacked=1'>"
GOOD = {
    "input.x": "2.5", "input.y": "2", "input.app": "v1", "input.note": HOSTILE,
    "input.photo": base64.b64encode(bytes(64)).decode(),
}  # fmt: skip
EVERY = Schema(
    {
        "text": Text(max_chars=20), "word": Category(), "colour": Category(["red", "green"]), "far": Number(0, 10),
        "photo": Image((2, 3)), "vector": Tensor((2, 2)), "name": Sensitive(),
    },
    Classes(["a", "b"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def open_gateway(told: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The story's home served by a gateway: the folder, and the address."""
    with gateway_on(told, tmp_path_factory.mktemp("tried") / "home-copy") as served:
        yield served


@pytest.fixture(scope="module")
def tried(open_gateway: tuple[Path, str], told: Path) -> Iterator[Served]:
    """The page of that home."""
    folder, url = open_gateway
    story = Story.open(folder, now=end_of(told))
    with running(Site(story.app, Settings(user="ann", gateway=Gateway(url=url)))) as served:
        yield served
    story.app.close()


def feedback(folder: Path) -> list[Feedback]:
    """Return the feedback that the gateway has written and nobody has taken into the log yet."""
    segments = Segments(folder / "home" / "segments").present()
    return [
        told
        for segment in segments
        for payload in read_frames(segment.path).payloads
        for told in decode(payload, name=segment.name).feedback
    ]


# --- the form


def test_the_form_has_a_field_of_its_kind_for_every_input(tried: Served) -> None:
    text = tried.client.get("/try").text
    for name in tried.app.project.schema.inputs:
        assert f'name="input.{name}"' in text
    assert 'type="file"' in text
    kinds = [one.kind for one in fields(EVERY)]
    assert kinds == ["text", "word", "choice", "number", "picture", "tensor", "secret"]


@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=20),
    number=st.floats(0, 10),
    pixels=st.binary(min_size=6, max_size=6),
    vector=st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4),
)
def test_what_a_past_request_fills_in_is_what_is_sent_again(
    text: str, number: float, pixels: bytes, vector: list[float]
) -> None:
    past = {
        "text": text, "word": text, "colour": "green", "far": number, "photo": pixels,
        "vector": np.array(vector, dtype="<f4").tobytes(),
    }  # fmt: skip
    typed = {one.name: one.value for one in fields(EVERY, past)} | {"name": "ann"}
    sent, wrong = wire(EVERY, typed)
    assert wrong == {}
    parsed = EVERY.validate(json.loads(json.dumps(sent)))
    assert {name: parsed[name] for name in ("text", "word", "colour", "photo")} == {
        name: past[name] for name in ("text", "word", "colour", "photo")
    }
    assert parsed["far"] == pytest.approx(number)
    again = np.frombuffer(parsed["vector"], dtype="<f4")
    assert np.allclose(again, np.array(vector, dtype="<f4"), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "text"),
    [("text", "x" * 21), ("colour", "blue"), ("far", "11"), ("far", "far"), ("photo", ""), ("vector", "[[1,2],[3]]"),
     ("vector", "[oops"), ("vector", "[" * 100_000)],
)  # fmt: skip
def test_what_does_not_fit_is_said_at_its_field(name: str, text: str) -> None:
    good = {
        "text": "t", "word": "w", "colour": "red", "far": "1", "photo": base64.b64encode(bytes(6)).decode(),
        "vector": "[[1, 2], [3, 4]]", "name": "n",
    }  # fmt: skip
    assert wire(EVERY, good)[1] == {}
    assert list(wire(EVERY, good | {name: text})[1]) == [name]


def test_feedback_takes_what_fits_the_output() -> None:
    assert said(Classes(["a", "b"]), "correct", "b") == "b"
    assert said(Value(), "correct", "2.5") == 2.5
    assert said(Value(), "rating", "4") == 4
    for kind, text in (("correct", "c"), ("rating", "many"), ("event", "click")):
        with pytest.raises(InvalidInput):
            said(Classes(["a", "b"]), kind, text)
    assert bars(Value(), {"scores": [2.0]}) == []


# --- over a real gateway


def ask(served: Served, **changes: str) -> str:
    answer = served.press("/try/-/ask", **(GOOD | changes))
    assert answer.status_code == 200, answer.text
    return answer.text


def test_an_answer_has_its_scores_version_and_time(tried: Served) -> None:
    text = ask(tried)
    assert 'class="try-decision">high' in text
    assert len(re.findall("<progress", text)) == 2
    assert re.search(r"<dt>Version</dt><dd>\d+, policy 1", text)
    assert re.search(r"<dt>Took</dt><dd>\d", text)
    assert "<dt>Version</dt><dd>1, policy 1" in ask(tried, version="1")


def test_inputs_that_do_not_fit_are_said_before_anything_is_asked(tried: Served) -> None:
    text = ask(tried, **{"input.x": "much", "input.photo": ""})
    assert 'data-wrong="x"' in text
    assert 'data-wrong="photo"' in text
    assert "try-reply" not in text


def test_what_is_said_of_an_answer_is_kept_as_feedback_with_its_source(
    tried: Served, open_gateway: tuple[Path, str]
) -> None:
    (request_id,) = set(re.findall(r"<code>([0-9a-f-]{36})</code>", ask(tried)))
    for kind, value in (("confirm", "true"), ("thumbs", "down"), ("correct", "low"), ("rating", "4")):
        answer = tried.press("/try/-/tell", request_id=request_id, kind=kind, value=value)
        assert answer.status_code == 200, answer.text
        assert "Kept as feedback from “http”" in answer.text
    kept = [one for one in feedback(open_gateway[0]) if one.request_id == request_id]
    assert [(one.kind, one.value, one.source) for one in kept] == [
        ("confirm", True, "http"), ("thumbs", False, "http"), ("correct", "low", "http"), ("rating", 4.0, "http"),
    ]  # fmt: skip
    assert tried.press("/try/-/tell", request_id=request_id, kind="correct", value="nothing").status_code == 422
    assert tried.press("/try/-/tell", request_id="0" * 36, kind="confirm", value="true").status_code == 404


def test_a_past_request_fills_the_form(tried: Served) -> None:
    first, second = (tried.client.get(f"/try/-/form?n={n}").text for n in (0, 1))
    assert re.search(r'name="input.x"[^>]*value="-?\d', first)
    assert "data:image/png;base64," in first
    assert first != second


def test_a_gateway_that_is_gone_is_said_with_the_next_move(tried: Served) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    site = Site(tried.app, Settings(user="ann", gateway=Gateway(url=url)))
    with running(site) as served:
        text = ask(served)
        assert f"no gateway answers at {url}" in text
        assert "tidemill up" in text
        assert served.press("/try/-/tell", request_id="x", kind="confirm", value="true").status_code == 503


def test_the_command_asks_too(
    tried: Served, open_gateway: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, url = open_gateway
    where = ["--home", str(folder / "home"), "--project", "waves", "--gateway", url]
    inputs = [f"{key.removeprefix('input.')}={value}" for key, value in GOOD.items()]
    with pytest.raises(SystemExit) as end:
        main.run(["try", *inputs, *where])
    said = capsys.readouterr()
    assert not end.value.code, said.err
    assert json.loads(said.out)["decision"] == "high"
    with pytest.raises(SystemExit):
        main.run(["try", "z=1", *where])
    assert "there is no input 'z'" in capsys.readouterr().err


# --- in a browser


def test_a_person_tries_a_picture_and_text_and_corrects_the_answer(
    tried: Served, tab: Any, open_gateway: tuple[Path, str]
) -> None:
    tab.goto(f"{tried.url}/try")
    for name, value in (("x", "2.5"), ("y", "2"), ("app", "v1"), ("note", HOSTILE)):
        tab.fill(f'[name="input.{name}"]', value)
    pixels = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, np.ones((4, 4), dtype=np.uint8))
    tab.set_input_files("input[type=file]", {"name": "p.png", "mimeType": "image/png", "buffer": png(pixels)})
    tab.wait_for_selector(".try-picture img:visible")
    got = base64.b64decode(tab.input_value('[name="input.photo"]'))
    assert np.abs(np.frombuffer(got, dtype=np.uint8).astype(int) - np.arange(64) * 4).max() <= 8
    tab.get_by_role("button", name="Ask the model").click()
    tab.wait_for_selector(".try-decision")
    assert tab.inner_text(".try-decision").strip() == "high"
    tab.select_option("#try-answer select", "low")
    tab.get_by_role("button", name="Correct it").click()
    tab.get_by_text("corrected to low").wait_for()
    request_id = tab.inner_text("#try-answer .facts code")
    assert [one.value for one in feedback(open_gateway[0]) if one.request_id == request_id] == ["low"]
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_field_that_may_be_left_empty_says_what_stands_for_it_then() -> None:
    colour = Category(["a", "b"], default="b")
    schema = Schema({"far": Number(0, 10, default=-1), "word": Category(default="none"), "colour": colour}, Value())
    assert [(one.value, one.default) for one in fields(schema)] == [("", "-1"), ("", "none"), ("b", "b")]
    past = fields(schema, {"far": -1.0, "word": "x", "colour": "a"})
    assert [one.value for one in past] == ["", "x", "a"]
    typed, wrong = wire(schema, {"far": "", "word": "", "colour": "a"})
    assert not wrong and schema.validate(typed) == {"far": -1.0, "word": "none", "colour": "a"}

"""`tidemill status --cohort` and `--worst`, `tidemill curate` and `tidemill alert test`, as they are typed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tidemill.cli import main

sys.path.insert(0, str(Path(__file__).parent / "loop"))

from receiver import SECRET, Receiver

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(
    digits_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shell]:
    """Runs commands in a copy of the folder that `init` and `train` made; nobody has asked its version anything."""
    monkeypatch.chdir(shutil.copytree(digits_home, tmp_path / "mine"))
    for name in ("HOME", "PROJECT", "WEBHOOK", "WEBHOOK_SECRET", "WEBHOOK_PRIVATE"):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    path, modules = [*sys.path], set(sys.modules)

    def run(*command: str) -> tuple[int, str, str]:
        code: object = 0
        try:
            main.run(command)
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        return code, said.out, said.err

    yield run
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name == "project":
            del sys.modules[name]


def test_a_product_that_nobody_uses_has_nothing_worst(shell: Shell) -> None:
    assert shell("status", "--worst") == (0, "no slice is worse than chance explains\n", "")
    assert shell("status", "--worst", "--json") == (0, "[]\n", "")


def test_a_cohort_without_requests_is_shown_as_such(shell: Shell) -> None:
    code, out, _ = shell("status", "--cohort", "app IS NULL")
    assert code == 0 and out.startswith("cohort app IS NULL: 0 answered requests, last 1d\n")
    code, out, _ = shell("status", "--cohort", "all", "--json")
    assert code == 0 and json.loads(out)["worst"] == []


@pytest.mark.parametrize(
    ("typed", "error", "hint"),
    [
        (("status", "--cohort", "nobody"), "'nobody' is no cohort and no condition", "cohorts are all"),
        (("status", "--worst", "--metric", "beauty"), "'beauty' is no metric of this project.", "accuracy"),
        (("curate", "nobody"), "'nobody' is no cohort and no condition", "cohorts are all"),
        (("curate", "all", "--last", "soon"), "--last is 'soon', which is not a duration.", "'30d', '2h'"),
        (("alert", "test"), "there is no webhook.", "TIDEMILL_WEBHOOK"),
        (
            ("alert", "test", "--webhook", "https://example.com"),
            "the webhook has no secret.",
            "TIDEMILL_WEBHOOK_SECRET",
        ),
        (("loop", "--webhook", "nonsense", "--webhook-secret", SECRET), "no http or https URL", "https://"),
    ],
)
def test_what_goes_wrong_says_what_to_do(shell: Shell, typed: tuple[str, ...], error: str, hint: str) -> None:
    code, _, said = shell(*typed)
    assert code == 1 and error in said and hint in said


def test_a_sample_is_sent_to_the_webhook_signed(shell: Shell) -> None:
    with Receiver() as receiver:
        where = ("--webhook", receiver.url, "--webhook-secret", SECRET)
        code, out, _ = shell("alert", "test", *where)
        assert (code, out) == (
            1,
            "not taken: 127.0.0.1: 127.0.0.1 is in a private range; --webhook-private allows it\n",
        )
        assert shell("alert", "test", *where, "--webhook-private")[:2] == (0, "127.0.0.1 took the sample\n")
        assert [letter["event"] for letter in receiver.got] == ["test"]
        receiver.answers = [401]
        assert shell("alert", "test", *where, "--webhook-private")[:2] == (1, "not taken: 127.0.0.1 answered 401\n")

"""The label page over real stores: keys, undo, two labellers, lost connections, hostile text."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from page_served import Serve, Served

from tidemill.app import App
from tidemill.dashboard.session import Settings
from tidemill.records import Example
from tidemill.stores.tokens import Scope

PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="signs",
    inputs={{
        "text": tm.Text(), "photo": tm.Image((4, 6, 3)), "speed": tm.Number(), "place": tm.Category()
    }},
    output={output}, trainer=tm.trainers.Sklearn(LogisticRegression()), metrics=[{metric}],
    strategy=tm.Strategy(label=tm.label.Queue(golden=0, rulebook="High is what is high.\\n<b>Not</b> low.", {queue})),
)
"""
CLASSES = "tm.Classes(['low', 'high', '<b>odd</b>'])"
HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>{{7*7}}\"'"
Desk = Callable[..., App]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Return a function that makes a home in which tasks wait, t00 first."""
    opened: list[App] = []

    def make(output: str = CLASSES, *, num: int = 8, queue: str = "", metric: str = "tm.metrics.Accuracy()") -> App:
        file = tmp_path / "signs_project.py"
        file.write_text(PROJECT.format(output=output, queue=queue, metric=metric))
        app = App.open(str(file), tmp_path / "home")
        now = app.clock.now()
        tasks = [
            Example(
                id=f"t{i:02}", request_id=None, unit=f"u{i}", received_at=now, picked_at=now, reason="test",
                probability=None, split="train", decision="high" if "Classes" in output else 3.0, version=1,
                inputs={"text": f"task {i} {HOSTILE}", "photo": bytes(72), "speed": float(i), "place": f"p{i}"},
            )
            for i in range(num)
        ]  # fmt: skip
        with app.db.begin() as conn:
            app.world.reservoir.add(conn, app.name, tasks)
            app.world.reservoir.ask(conn, app.name, [one.id for one in tasks], priority=0.0, now=now)
        opened.append(app)
        return app

    yield make
    for app in opened:
        app.close()


def labels(app: App) -> dict[str, object]:
    index = app.world.reservoir.index(app.name)
    return {row["id"]: row["label"] for row in index.iter_rows(named=True) if row["label"] is not None}


def lent(served: Served, limit: int = 3) -> list[str]:
    answer = served.client.get(f"/label/-/tasks?limit={limit}")
    assert answer.status_code == 200, answer.text
    return re.findall(r'data-task="(\w+)"', answer.text)


def answer(served: Served, id_: str, label: str, key: str) -> Any:
    return served.press("/label/-/answer", id=id_, label=label, key=key)


# --- over HTTP


def test_two_labellers_never_get_the_same_task_unless_two_are_wanted(desk: Desk, serve: Serve, token: Any) -> None:
    app = desk()
    ann, bob = (serve(app, token=token(app, Scope.LABEL, name=name)) for name in ("ann", "bob"))
    assert lent(ann) == ["t00", "t01", "t02"]
    assert lent(bob) == ["t03", "t04", "t05"]
    assert lent(ann) == ["t00", "t01", "t02"]


def test_tasks_from_before_the_inputs_were_edited_are_shown_as_they_are_declared_now(desk: Desk, serve: Serve) -> None:
    before = desk(num=2)
    file = Path(before.world.project_file)
    retyped = '"photo": tm.Number(), "speed": tm.Text(), "wind": tm.Number(default=-7)'
    file.write_text(file.read_text().replace('"photo": tm.Image((4, 6, 3)), "speed": tm.Number()', retyped))
    with closing(App.open(str(file), before.world.home.folder)) as app:
        served = serve(app)
        for asked in ("limit=2", "id=t00"):
            shown = served.client.get(f"/label/-/tasks?{asked}").text
            assert re.search(r"wind: -7", shown) and "task 0" in shown
            assert not re.search(r"(photo|speed): [^;\"]", shown), "of another kind: nothing is known"


def test_with_two_people_for_each_example_both_get_it(desk: Desk, serve: Serve, token: Any) -> None:
    app = desk(queue="per_example=2")
    ann, bob = (serve(app, token=token(app, Scope.LABEL, name=name)) for name in ("ann", "bob"))
    assert lent(ann) == lent(bob) == ["t00", "t01", "t02"]
    answer(ann, "t00", "low", "a" * 32)
    assert labels(app) == {}
    answer(bob, "t00", "low", "b" * 32)
    assert labels(app) == {"t00": "low"}


def test_what_is_sent_twice_is_taken_once_and_what_does_not_fit_not_at_all(desk: Desk, serve: Serve) -> None:
    app = desk()
    served = serve(app)
    assert "Taken." in answer(served, "t00", "low", "k" * 32).text
    assert "Taken already." in answer(served, "t00", "high", "k" * 32).text
    assert labels(app) == {"t00": "low"}
    assert answer(served, "t00", "high", "l" * 32).status_code == 200
    assert labels(app) == {"t00": "high"}
    assert answer(served, "t01", "medium", "m" * 32).status_code == 422
    assert answer(served, "nobody", "low", "n" * 32).status_code == 404
    assert answer(served, "t01", "low", "short").status_code == 422
    assert labels(app) == {"t00": "high"}
    assert answer(served, "t01", "low", "m" * 32).status_code == 200  # what was refused has spent no key


def test_a_skipped_task_goes_to_others_with_its_reason_and_an_answer_is_taken_back(
    desk: Desk, serve: Serve, token: Any
) -> None:
    app = desk(num=3)
    ann, bob, boss = (
        serve(app, token=token(app, scope, name=name))
        for name, scope in (("ann", Scope.LABEL), ("bob", Scope.LABEL), ("boss", Scope.OPERATE))
    )
    lent(ann, 1)
    assert ann.press("/label/-/skip", id="t00", key="k" * 32, reason="").status_code == 422
    assert "Skipped." in ann.press("/label/-/skip", id="t00", key="k" * 32, reason="cannot tell").text
    assert lent(ann, 1) == ["t01"]
    assert lent(bob, 1) == ["t00"]
    shown = boss.client.get("/label/-/waiting").text
    assert "cannot tell" in shown
    assert "t00" in shown
    assert ann.client.get("/label/-/waiting").status_code == 403
    answer(ann, "t01", "low", "l" * 32)
    ann.press("/label/-/skip", id="t01", key="m" * 32, reason="that was wrong")
    assert app.world.reservoir.num_waiting(app.name) == 3
    assert [one.labeller for one in app.labelling.skipped()] == ["ann", "ann"]
    assert app.labelling.num_answered(by="ann", since=app.clock.now().replace(year=2000)) == 0
    assert boss.press("/label/-/drop", id=["t00", "t01"], reason="unreadable").status_code == 200
    assert app.world.reservoir.num_waiting(app.name) == 1


def test_who_may_only_look_does_not_label(desk: Desk, serve: Serve, token: Any) -> None:
    app = desk()
    served = serve(app, token=token(app, Scope.VIEW))
    assert served.client.get("/label").status_code == 403
    assert served.client.get("/label/-/tasks").status_code == 403
    assert answer(served, "t00", "low", "k" * 32).status_code == 403
    assert labels(app) == {}
    assert '<li><a href="/label"' not in served.client.get("/").text


def test_progress_and_agreement_are_shown(desk: Desk, serve: Serve) -> None:
    app = desk(queue="per_example=2")
    app.labelling.make_golden([("t07", "low")])
    for name, last in (("bob", "low"), ("ann", "high")):
        app.labelling.take(8, by=name)
        app.labelling.answer([(f"t{i:02}", "low") for i in range(6)] + [("t06", last)], by=name)
    app.labelling.answer([("t07", "low")], by="ann")
    served, shown = serve(app, settings=Settings(user="ann")), "being measured"
    for _ in range(200):
        if "being measured" not in shown:
            break
        time.sleep(0.05)
        shown = served.client.get("/label/-/standing").text
    assert "8 answered" in shown
    assert "100% right" in shown
    assert "on 7 labelled by several" in shown


def test_a_project_without_a_queue_says_what_to_write(desk: Desk, serve: Serve) -> None:
    app = desk()
    Path(app.world.project_file).write_text(
        Path(app.world.project_file).read_text().replace("strategy=tm", "strategy=tm.Strategy() or tm")
    )
    again = App.open(app.world.project_file, app.world.home.folder)
    assert "tm.label.Queue()" in serve(again).client.get("/label").text
    again.close()


# --- in a browser


@pytest.fixture
def sit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the label page in a browser of its own; scripts that fail there fail the test."""
    contexts, problems = [], list[str]()

    def open_page(served: Served, *, width: int = 1280, context: Any = None) -> Any:
        context = context or browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce")
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(15_000)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(f"{served.url}/label")
        tab.wait_for_selector("#label-box [data-task]")
        return tab

    yield open_page
    for context in dict.fromkeys(contexts):
        context.close()
    assert problems == []


def at(tab: Any, id_: str) -> None:
    tab.wait_for_selector(f'#label-box [data-task="{id_}"]')


def sent(tab: Any) -> None:
    """Wait until the browser keeps no answer."""
    tab.wait_for_function("""() => Object.keys(localStorage).filter((key) => key.startsWith('tidemill-label:'))
        .every((key) => !JSON.parse(localStorage.getItem(key)).length)""")


def test_a_labeller_works_by_keys_alone_and_undoes(desk: Desk, serve: Serve, sit: Any) -> None:
    app = desk()
    tab = sit(serve(app))
    tab.keyboard.press("1")
    at(tab, "t01")
    tab.keyboard.press("2")
    at(tab, "t02")
    assert tab.inner_text("#label-said").startswith("Answered high. Next:")
    tab.keyboard.press("u")
    at(tab, "t01")
    tab.keyboard.press("3")
    at(tab, "t02")
    tab.keyboard.press("s")
    tab.keyboard.type("broken")
    tab.keyboard.press("Enter")
    at(tab, "t03")
    sent(tab)
    assert labels(app) == {"t00": "low", "t01": "<b>odd</b>"}
    assert [(one.example, one.reason) for one in app.labelling.skipped()] == [("t02", "broken")]


def test_all_tasks_come_one_after_the_other_until_none_is_left(desk: Desk, serve: Serve, sit: Any) -> None:
    app = desk(num=12)
    tab = sit(serve(app))
    for i in range(12):
        at(tab, f"t{i:02}")
        tab.keyboard.press("1")
    tab.get_by_text("Nothing waits for you.", exact=True).wait_for()
    sent(tab)
    assert len(labels(app)) == 12
    app.labelling.ask(["t05"])
    at(tab, "t05")  # the page hears of it
    assert "You said “low”" in tab.inner_text("#label-note")


def test_answers_given_without_a_connection_come_when_it_is_back_even_in_another_tab(
    desk: Desk, serve: Serve, sit: Any
) -> None:
    app = desk()
    served = serve(app)
    tab = sit(served)
    tab.context.set_offline(True)
    tab.keyboard.press("1")
    at(tab, "t01")
    tab.keyboard.press("2")
    at(tab, "t02")
    tab.get_by_text("2 answers are kept in this browser").wait_for()
    assert labels(app) == {}
    tab.close()
    tab.context.set_offline(False)
    again = sit(served, context=tab.context)
    sent(again)
    assert labels(app) == {"t00": "low", "t01": "high"}


def test_an_answer_whose_receipt_was_lost_is_sent_again_and_taken_once(desk: Desk, serve: Serve, sit: Any) -> None:
    app = desk()
    tab = sit(serve(app))
    heard: list[str] = []

    def lose(route: Any) -> None:
        reply = route.fetch()
        heard.append(reply.text())
        if len(heard) == 1:
            route.abort()  # the server has taken it, the browser never hears
        else:
            route.fulfill(response=reply)

    tab.route("**/label/-/answer", lose)
    tab.keyboard.press("1")
    sent(tab)
    assert "Taken." in heard[0]
    assert "Taken already." in heard[1]
    assert labels(app) == {"t00": "low"}


def test_hostile_text_is_shown_and_never_runs(desk: Desk, serve: Serve, sit: Any) -> None:
    tab = sit(serve(desk()))
    assert HOSTILE in tab.inner_text("#label-box")
    assert "<b>Not</b> low." in tab.inner_text(".rules")
    tab.keyboard.press("3")
    at(tab, "t01")
    sent(tab)
    tab.get_by_role("button", name="Change the answer <b>odd</b>").wait_for()
    assert tab.evaluate("window.hacked") is None


def test_the_model_s_answer_is_shown_only_if_asked_for(desk: Desk, serve: Serve, sit: Any) -> None:
    tab = sit(serve(desk()))
    said = tab.get_by_text("Version 1 said")
    assert not said.is_visible()
    tab.keyboard.press("m")
    said.wait_for()
    tab.keyboard.press("1")
    at(tab, "t01")
    assert not tab.get_by_text("Version 1 said").is_visible()


def test_numbers_are_typed(desk: Desk, serve: Serve, sit: Any) -> None:
    app = desk("tm.Value(0, 10)", metric="tm.metrics.MeanAbsoluteError()")
    tab = sit(serve(app))
    tab.keyboard.type("2.5")
    tab.keyboard.press("Enter")
    at(tab, "t01")
    tab.keyboard.type("11")
    tab.keyboard.press("Enter")  # the browser itself refuses it
    at(tab, "t01")
    sent(tab)
    assert labels(app) == {"t00": 2.5}


def test_a_task_of_days_ago_is_changed_from_the_last_answers(desk: Desk, serve: Serve, sit: Any) -> None:
    app = desk()
    app.labelling.answer([("t06", "low")], by="ann")
    tab = sit(serve(app))
    tab.get_by_role("button", name="Change the answer low").click()
    at(tab, "t06")
    assert tab.get_attribute(".label-class[data-label=low]", "aria-pressed") == "true"
    tab.keyboard.press("2")
    at(tab, "t00")
    sent(tab)
    assert labels(app) == {"t06": "high"}


def test_on_a_phone_nothing_is_wider_than_the_screen_and_answers_stay_in_sight(
    desk: Desk, serve: Serve, sit: Any
) -> None:
    tab = sit(serve(desk()), width=400)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    box = tab.locator(".label-class").first.bounding_box()
    assert box["y"] + box["height"] <= 800
    assert box["height"] >= 40
    tab.locator(".label-class").first.click()
    at(tab, "t01")

"""The datasets view: versions, what they hold, what changed, their tags, and what learnt from them."""

from __future__ import annotations

import csv
import io
from typing import Any

from page_served import Served

from tidemill.app import App
from tidemill.dashboard.views.datasets import facet
from tidemill.monitor.dataset_card import dataset_card


def test_the_list_has_every_version_and_the_models_that_learnt_from_it(shared: Served) -> None:
    rows = list(csv.DictReader(io.StringIO(shared.client.get("/datasets/datasets.csv").text)))
    known = shared.app.world.datasets.all(shared.app.name)
    assert [row["number"] for row in rows] == [f"dataset {d.number}" for d in reversed(known)]
    assert rows[-1]["models"] == "version 1"


def test_the_card_counts_every_row_by_label_trust_source_and_reason(shared: Served) -> None:
    app = shared.app
    version = app.world.datasets.resolve(app.name, 2)
    card = dataset_card(app.world.datasets, app.world.reservoir, app.name, version.digest)
    for counts in (card.contents.labels, card.contents.trusts, card.sources, card.reasons):
        assert sum(counts["train"].values()) == version.num_train
        assert sum(counts["test"].values()) == version.num_test
    text = shared.measured("/datasets/-/card?number=2")
    assert "Why it was picked" in text and "import" in text and "high" in text


def test_a_facet_has_a_row_for_each_value_of_either_split() -> None:
    rows = facet("Label", {"train": {"a": 3}, "test": {"b": 1}}).rows
    assert [(r.cells["value"], r.cells["train"], r.cells["test"]) for r in rows] == [("a", 3, 0), ("b", 0, 1)]


def test_what_changed_from_the_parent_is_counted_and_listed(shared: Served) -> None:
    app = shared.app
    before, after = (app.world.datasets.resolve(app.name, n).digest for n in (1, 2))
    diff = app.world.datasets.diff(app.name, before, after)
    text = shared.measured("/datasets/-/diff?number=2&with=1")
    assert "From dataset 1 to dataset 2" in text and f"added: {len(diff.added)}" in text
    rows = list(csv.DictReader(io.StringIO(shared.client.get("/datasets/diff.csv?number=2&with=1").text)))
    assert [row["id"] for row in rows if row["change"] == "added"] == list(diff.added)


def test_the_first_rows_are_shown_by_type_and_hostile_text_stays_text(shared: Served) -> None:
    text = shared.client.get("/datasets/-/rows?number=2").text
    assert "data:image/png" in text and "<script>" not in text and "<img src=x" not in text


def test_a_version_that_is_not_there_is_no_page(shared: Served) -> None:
    assert shared.client.get("/datasets/99").status_code == 404


def test_a_tag_is_given_moved_and_taken_away(home: App, serve: Any) -> None:
    served, datasets = serve(home), home.world.datasets
    served.press("/datasets/-/tag", number="1", name="golden")
    assert datasets.resolve(home.name, "golden").number == 1
    assert served.press("/datasets/-/tag", number="2", name="golden").status_code == 409
    served.press("/datasets/-/tag", number="2", name="golden", move="1")
    assert datasets.resolve(home.name, "golden").number == 2
    [row] = csv.DictReader(io.StringIO(served.client.get("/datasets/datasets.csv?tag=golden").text))
    assert (row["number"], row["tags"]) == ("dataset 2", "golden")
    served.press("/datasets/-/untag", number="2", name="golden", reason="no longer used")
    assert datasets.tags(home.name) == {}


def test_a_person_compares_two_versions_in_the_browser(shared: Served, tab: Any) -> None:
    tab.goto(f"{shared.url}/datasets")
    tab.get_by_role("link", name="dataset 3", exact=True).first.click()
    tab.get_by_text("From dataset 2 to dataset 3").wait_for()
    tab.get_by_label("Compared with").select_option("1")
    tab.get_by_text("From dataset 1 to dataset 3").wait_for()
    assert "with=1" in tab.url


def test_rows_that_were_erased_are_said_to_be_and_nothing_of_them_is_shown_any_more(home: App, serve: Any) -> None:
    """The card and the diff were measured before somebody in version 2 was forgotten."""
    served, datasets = serve(home), home.world.datasets
    before = datasets.resolve(home.name, 2)
    ids = datasets.diff(home.name, datasets.resolve(home.name, 1).digest, before.digest).added
    paths = ("/datasets/-/card?number=2", "/datasets/-/diff?number=2&with=1")
    shown = [served.measured(path) for path in paths]
    assert "Why it was picked" in shown[0] and ids[0] in shown[1]
    assert "gone_at" not in served.client.get("/datasets/datasets.csv").text
    with home.db.begin() as conn:
        datasets.erase(conn, home.name, [before.digest], now=home.clock.now())
    for path in paths:
        text = served.measured(path)
        assert "was erased on 2026-01-01" in text and "Why it was picked" not in text and ids[0] not in text
    rows = list(csv.DictReader(io.StringIO(served.client.get("/datasets/datasets.csv").text)))
    assert {row["number"]: row["state"] for row in rows} == {
        f"dataset {d.number}": "erased" if d.number == 2 else "kept" for d in datasets.all(home.name)
    }
    assert [row["gone_at"] for row in rows if row["state"] == "erased"] == [home.clock.now().isoformat()]
    assert "erased" in served.client.get("/datasets").text
    page = served.client.get("/datasets/2").text
    assert "somebody in it was forgotten" in page and "train_rows" not in page and "dataset export" not in page
    assert served.client.get("/datasets/rows.csv?number=2").status_code == 409
    assert "number=3&amp;with=1" in served.client.get("/datasets/3").text, "what is gone is not compared with"

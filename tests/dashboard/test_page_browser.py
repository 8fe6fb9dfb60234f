"""The page in a Chromium: buttons, live updates, hostile text, keyboard, themes, narrow screens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page_served import Serve, Served
from story import HOSTILE

from tidemill.app import App
from tidemill.dashboard.page import Site
from tidemill.dashboard.session import Settings
from tidemill.dashboard.table import Column, Link, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, Page, View
from tidemill.stores.audit import Audit

HERE = Path(__file__).parent
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_the_loop_is_paused_with_a_reason_and_the_page_shows_it(home: App, serve: Serve, tab: Any) -> None:
    tab.goto(serve(home).url)
    tab.get_by_role("button", name="Pause", exact=True).click()
    dialog = tab.get_by_role("dialog", name="Pause the loop?")
    dialog.get_by_label("Reason").fill("the labels look odd")
    dialog.get_by_role("button", name="Pause").click()
    tab.get_by_text("Paused: no cycle opens and no candidate").wait_for()
    tab.get_by_text("The loop is paused since").first.wait_for()
    tab.get_by_role("button", name="Resume").wait_for()
    assert Audit(home.db).acts(home.name)[0].reason == "the labels look odd"


def test_without_a_reason_nothing_is_sent(home: App, serve: Serve, tab: Any) -> None:
    tab.goto(serve(home).url)
    tab.get_by_role("button", name="Pause", exact=True).click()
    tab.get_by_role("dialog", name="Pause the loop?").get_by_role("button", name="Pause").click()
    tab.get_by_role("button", name="Cancel").click()
    assert home.catalog.paused_at(home.name) is None


def test_what_somebody_else_does_is_seen_without_loading_again(home: App, serve: Serve, tab: Any) -> None:
    tab.goto(serve(home).url)
    tab.locator("#live[data-state=on]").wait_for()
    home.ask("retrain", by="bob", reason="the new labels are in")
    tab.get_by_text("bob asked to retrain").wait_for()


def test_quality_comes_with_its_chart_and_its_deploys(shared: Served, tab: Any) -> None:
    tab.goto(shared.url)
    tab.locator("[data-chart] canvas").first.wait_for()
    tab.get_by_role("table", name="accuracy by cohort").wait_for()
    assert "accuracy" in tab.locator(".u-legend").first.inner_text()


def test_hostile_text_in_names_and_cells_is_text(shared_app: App, serve_site: Any, tab: Any) -> None:
    """What an attacker writes stands on the page as it was written, in cells, links, attributes, dialogs and toasts."""

    def show(asked: Asked) -> Page:
        return Page(template="probe.html", title=HOSTILE[0], data={"table": table(asked), "hostile": HOSTILE})

    def table(asked: Asked) -> Table:
        columns = [Column(key=name, title=bad) for name, bad in zip("abcde", HOSTILE, strict=True)]
        cells = dict(zip("abcde", (HOSTILE[0], Link(HOSTILE[1], "/?q=" + HOSTILE[2]), *HOSTILE[2:]), strict=True))
        return Table(name="bad", title=HOSTILE[2], columns=columns, rows=[Row(cells=cells, key=HOSTILE[2])], picks=True)

    def act(posted: Any) -> Done:
        return Done(said=HOSTILE[1] + posted.reason, stay=True)

    view = View(path="/", name=HOSTILE[1], group=HOSTILE[0], icon="alert", show=show, tables={"bad": table},
                actions={"act": Action(do=act, verb="act")})  # fmt: skip
    site = Site(shared_app, Settings(user=HOSTILE[0]), (view,))
    site.rendered.add("probe.html", (HERE / "probe.html").read_text())
    client = serve_site(site)
    tab.goto(str(client.base_url))
    for text in HOSTILE:
        assert tab.get_by_text(text, exact=True).count() >= 1, text
    tab.get_by_role("button", name=HOSTILE[2]).click()
    tab.get_by_label("Reason").fill(HOSTILE[0])
    tab.get_by_role("dialog").get_by_role("button", name=HOSTILE[2]).click()
    tab.locator("#toasts").get_by_text(HOSTILE[1]).wait_for()
    assert tab.evaluate("window.hacked") is None
    csv = client.get("/bad.csv").text
    assert "'=cmd" in csv and ",=cmd" not in csv


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_scrolls_sideways_and_words_can_be_read(shared: Served, browser: Any, theme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
    opened = context.new_page()
    opened.goto(shared.url)
    opened.locator("[data-chart] canvas").first.wait_for()
    assert opened.evaluate(WIDE) <= 0
    assert opened.evaluate((HERE / "contrast.js").read_text().partition("\n")[2]) == []
    context.close()


def test_the_theme_is_chosen_and_kept(shared: Served, tab: Any) -> None:
    tab.goto(shared.url)
    tab.get_by_role("button", name="Theme: system").click()
    tab.get_by_role("button", name="Theme: light").click()
    assert (
        tab.evaluate("getComputedStyle(document.body).colorScheme || document.documentElement.dataset.theme") == "dark"
    )
    tab.reload()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_on_a_narrow_screen_the_rail_is_a_menu(shared: Served, tab: Any) -> None:
    tab.set_viewport_size({"width": 400, "height": 800})
    tab.goto(shared.url)
    link = tab.get_by_role("navigation").get_by_role("link", name="Overview")
    assert not link.is_visible()
    tab.get_by_role("button", name="Menu").click()
    assert link.is_visible()
    tab.keyboard.press("Escape")
    assert not link.is_visible()


def test_every_control_can_be_reached_by_the_keyboard_and_is_seen_there(shared: Served, tab: Any) -> None:
    tab.goto(shared.url)
    tab.locator("[data-chart] canvas").first.wait_for()
    wanted = tab.evaluate(
        "[...document.querySelectorAll('a[href], button, select, input, summary')].filter((e) => e.checkVisibility()"
        " && !e.disabled && e.tabIndex >= 0).length"
    )
    seen: set[str] = set()
    for _ in range(wanted + 10):
        tab.keyboard.press("Tab")
        outline, name, what = tab.evaluate(FOCUS)
        assert outline != "none" or what == "BODY", what
        seen |= {name} - {""}
    assert len(seen) >= wanted


# How the focus is drawn, a name for what has it if it is a control, and what it is.
FOCUS = """(() => {
  const e = document.activeElement; e.dataset.seen ||= String(Math.random());
  const isControl = e.matches("a[href], button, select, input, summary");
  const what = e.tagName === "BODY" ? "BODY" : e.outerHTML;
  return [getComputedStyle(e).outlineStyle, isControl ? e.dataset.seen : "", what];
})()"""


def test_a_question_mark_lists_the_keys(shared: Served, tab: Any) -> None:
    tab.goto(shared.url)
    tab.keyboard.press("?")
    tab.get_by_role("dialog", name="Keys").wait_for()
    tab.keyboard.press("Escape")
    assert not tab.get_by_role("dialog", name="Keys").is_visible()


def test_a_filter_is_in_the_address_and_comes_back_with_it(shared: Served, tab: Any) -> None:
    tab.goto(shared.url)
    tab.get_by_label("Period").select_option("6h")
    tab.wait_for_url("**/?period=6h")
    tab.reload()
    assert tab.get_by_label("Period").input_value() == "6h"


def test_who_has_a_token_signs_in_and_comes_where_they_wanted(home: App, serve: Serve, token: Any, tab: Any) -> None:
    from tidemill.stores.tokens import Scope

    secret = token(home, Scope.VIEW, name="vera")
    tab.goto(serve(home).url + "/?period=6h")
    tab.get_by_label("Token").fill(secret)
    tab.get_by_role("button", name="Sign in").click()
    tab.wait_for_url("**/?period=6h")
    assert tab.get_by_text("vera").is_visible()
    tab.get_by_role("button", name="Sign out").click()
    tab.get_by_label("Token").wait_for()

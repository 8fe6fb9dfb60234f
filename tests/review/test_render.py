"""A report is told alike in a terminal, as Markdown and as one HTML file, and hostile text stays text in all three."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import fields, replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from reported import HOSTILE, cell, full, hostile
from rich.console import Console

from tidemill.records import Outcome, Verdict
from tidemill.review.render.markdown import escaped, markdown
from tidemill.review.render.page import page
from tidemill.review.render.plots import forest, over_time, plots
from tidemill.review.render.section import Table, clean
from tidemill.review.render.sections import sections
from tidemill.review.render.summary import headline, summary
from tidemill.review.render.svg import Scale
from tidemill.review.render.terminal import terminal
from tidemill.review.report import Report

EMPTY = Report(candidate=1, live=None, dataset="d1", cells=())


def printed(report: Report) -> str:
    out = io.StringIO()
    Console(file=out, width=400, force_terminal=False).print(terminal(report))
    return out.getvalue()


MEDIA: list[Callable[[Report], str]] = [printed, markdown, page]
each_medium = pytest.mark.parametrize("tell", MEDIA, ids=["terminal", "markdown", "html"])


# --- what is told


@each_medium
def test_everything_that_a_report_holds_is_told(tell: Callable[[Report], str]):
    said = Page(tell(full())).text if tell is page else tell(full())
    for part in (
        "Version 5 is stopped", "old_app", ".93", "-.12", "-.14 to -.10", "2026-03", "Majority()", ".62",
        "past_bugs", "line 3", "seen in May", "emoji.jsonl does not exist", "typos", "said ok, was toxic (16 of 18)",
        "v2 60.0%", "in_range(0, 1)", "served as a Python model", "evaluation set 3fa90c12, 420 rows",
        "p99 9.53 ms", "12.4 MB", "these rows cannot tell", ".041", "3.2%", "d41d8cd9", "back to",
    ):  # fmt: skip
        assert part in said.replace("\\", ""), part


@each_medium
def test_a_report_that_holds_next_to_nothing_is_told_too(tell: Callable[[Report], str]):
    assert "There are no labelled test rows to judge it by." in tell(EMPTY)


@each_medium
@pytest.mark.parametrize("left_out", [f.name for f in fields(Report) if f.default in ((), None)])
def test_any_part_may_be_missing(tell: Callable[[Report], str], left_out: str):
    default = next(f.default for f in fields(Report) if f.name == left_out)
    assert "Version 5" in tell(replace(full(), **{left_out: default}))


def test_the_three_media_have_the_same_parts_in_the_same_order():
    titles = [section.title for section in sections(full())]
    assert re.findall(r"^#+ (.*)$", markdown(full()), re.MULTILINE) == titles
    found = Page(page(full()))
    assert found.headings == titles
    lines = printed(full()).splitlines()
    places = [lines.index(title) for title in titles]
    assert places == sorted(places)


def test_columns_that_hold_nothing_are_left_out():
    table = Table.of(("name", "empty", "n"), [("", "", "1"), ("b", "", "2")], right=(2,))
    assert (table.columns, table.rows, table.right) == (("name", "n"), (("", "1"), ("b", "2")), (1,))


# --- the summary


def verdict(outcome: Outcome, by: str = "gate") -> Verdict:
    return Verdict(outcome=outcome, by=by, reason="because", back_to="data" if outcome is Outcome.FAIL else "")


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome.PASS, "Version 5 passes its tests and may meet traffic"),
        (Outcome.FAIL, "Version 5 is stopped"),
        (Outcome.UNKNOWN, "Version 5 waits for a person"),
    ],
)
def test_the_first_line_says_what_became_of_the_candidate(outcome: Outcome, told: str):
    assert headline(replace(full(), verdicts=(verdict(outcome),))) == told


def test_without_a_verdict_the_first_line_says_what_is_compared():
    assert headline(replace(full(), verdicts=())) == "Version 5 beside live version 4"
    assert headline(EMPTY) == "Version 1 is the first one"
    only = replace(full(), verdicts=(verdict(Outcome.FAIL, by="Latency(5)"),))
    assert headline(only) == "Version 5 beside live version 4"


def first(candidate: float, live: float | None) -> str:
    given_ = cell("all", live or 0.0, candidate)
    one = given_ if live is not None else replace(given_, live=None, gain=None, low=None, high=None)
    return summary(replace(EMPTY, live=4 if live is not None else None, cells=(one,)))[0]


def test_the_gain_is_called_what_its_interval_allows():
    assert "It is better: the gain lies between +1.3 points and +5.3 points." in first(0.913, 0.88)
    assert "It is worse: the change lies between -7 points and -3 points." in first(0.83, 0.88)
    assert "cannot tell the two apart: the change lies between -1 points and +3 points." in first(0.89, 0.88)
    assert "in truth between 86 % and 92 %, with 95 % confidence" in first(0.89, None)


def test_a_cohort_that_is_worse_is_named_and_else_that_none_is():
    assert "Worse on old_app: accuracy 93 % -> 81 % on 80 rows." in summary(full())
    good = replace(full(), cells=tuple(replace(c, outcome="pass") for c in full().cells))
    assert any("On none of 3 groups of rows is it shown to be worse." in said for said in summary(good))


def test_a_metric_that_is_no_share_is_told_as_a_number():
    one = cell("all", 4.0, 3.5, metric="mean_absolute_error", higher_is_better=False)
    assert "its mean absolute error is 3.50" in summary(replace(EMPTY, cells=(one,)))[0]


# --- hostile text


@each_medium
def test_no_text_hides_moves_or_controls_anything(tell: Callable[[Report], str]):
    said = tell(hostile())
    assert not set(said) & {"\x1b", "\u202e", "\x00"}
    assert "{{ 7*7 }}" in said.replace("\\", "")


def test_hostile_text_makes_no_element_and_no_attribute_of_the_page():
    found, plain = Page(page(hostile(), project=HOSTILE)), Page(page(full()))
    assert set(found.tags) == set(plain.tags)
    assert found.attributes == plain.attributes
    assert clean(HOSTILE) in found.text


@pytest.mark.parametrize("report", [full(), hostile()], ids=["full", "hostile"])
def test_the_page_loads_nothing_from_anywhere(report: Report):
    text = page(report, project="moderation")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"} & set(
        Page(text).tags
    )
    assert not {"src", "href", "xlink:href", "srcset", "action", "data", "onclick", "onload"} & Page(text).attributes
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|expression|//", style[1])
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in style[1]


def test_every_colour_of_the_light_page_has_one_in_the_dark():
    names = re.findall(r"--(\w+): #", page(full()))
    assert sorted(names) == sorted(2 * list(dict.fromkeys(names)))
    assert set(re.findall(r"var\(--(\w+)\)", page(full()))) <= set(names)


_READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def tokens(text: str) -> set[str]:
    return {t.type for token in _READER.parse(text) for t in (token, *(token.children or []))}


def test_hostile_text_makes_no_link_or_tag_of_the_markdown():
    assert tokens(markdown(hostile())) == tokens(markdown(full()))
    assert clean(HOSTILE).replace("&amp;", "&amp;amp;") in _READER.render(markdown(hostile())).replace(
        "&lt;", "<"
    ).replace("&gt;", ">").replace("&quot;", '"')


@given(st.text(st.sampled_from("a1 \\`*_{}[]()<>#+-.!|~&;=:/\"'\t\n"), max_size=30) | st.text(max_size=30))
@settings(max_examples=300)
def test_any_text_is_the_text_of_its_markdown(words: str):
    words = clean(words)
    rendered = ElementTree.fromstring(f"<r>{_READER.render(escaped(words))}</r>")
    assert [e.tag for e in rendered] == (["p"] if words else [])
    assert "".join(rendered.itertext()).strip() == words
    inside = _READER.parse(f"| a |\n|---|\n| x{escaped(words)} |")
    assert sum(token.type == "td_open" for token in inside) == 1


@given(st.text())
def test_what_is_cleaned_is_one_line_that_can_be_put_into_xml(words: str):
    line = clean(words)
    assert "\n" not in line
    assert clean(line) == line
    tree = ElementTree.fromstring(f"<r>{line.replace('&', '&amp;').replace('<', '&lt;')}</r>")
    assert (tree.text or "") == line


# --- plots


def points(svg: str, kind: str = "circle") -> list[dict[str, str]]:
    return [dict(e.attrib) for e in ElementTree.fromstring(svg).iter(kind)]


def test_every_plot_is_well_formed_and_says_what_it_is():
    for report in (full(), hostile()):
        for plot in plots(report).values():
            tree = ElementTree.fromstring(str(plot))
            assert tree.attrib["role"] == "img"
            assert tree[0].tag == "title"
            assert tree[0].text
    assert set(plots(full())) == {
        "metric:accuracy", "metric:log_loss", "baselines", "failures", "periods:accuracy", "calibration",
    }  # fmt: skip


def test_the_forest_places_gains_in_their_order_within_their_intervals():
    cells = [c for c in full().cells if c.metric == "accuracy" and not c.period]
    svg = str(forest(cells))
    dots = [float(point["cx"]) for point in points(svg)]
    assert sorted(range(4), key=lambda i: dots[i]) == sorted(range(4), key=lambda i: cells[i].gain)
    spans = [(float(a["x1"]), float(a["x2"])) for a in points(svg, "line") if a["class"].startswith("span")]
    assert all(low < dot < high for dot, (low, high) in zip(dots, spans, strict=True))
    zero = next(float(a["x1"]) for a in points(svg, "line") if a["class"] == "zero")
    assert [dot > zero for dot in dots] == [True, True, False, False]


def test_what_cannot_be_drawn_is_left_out():
    assert forest([]) is None
    assert over_time([cell("all", 0.5, 0.6, period="2026-01")]) is None
    assert plots(EMPTY) == {}
    alone = replace(cell("all", 0.5, 0.6), live=None, gain=None, low=None, high=None)
    assert len(points(str(forest([alone])))) == 1


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
def test_a_scale_keeps_order_and_has_a_few_round_ticks_within(low: float, width: float):
    scale = Scale.around([low, low + width], 0, 100)
    assert 0 <= scale(low) <= scale(low + width) <= 100
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 7
    assert ticks == sorted(ticks)
    room = 1e-6 * (scale.high - scale.low)
    assert all(scale.low - room <= tick <= scale.high + room for tick in ticks)


class Page(HTMLParser):
    """Reads a page: its elements in order, the names of its attributes, its headings and its text."""

    _VOID = ("meta", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "elements are closed in order"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self._open and self._open[-1] != "style":
            self.text += data

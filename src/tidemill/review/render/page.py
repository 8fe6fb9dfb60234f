"""A report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import jinja2
from markupsafe import Markup

from tidemill.review.render.plots import plots
from tidemill.review.render.section import Section
from tidemill.review.render.sections import sections
from tidemill.review.render.summary import decision
from tidemill.review.report import Report


def page(report: Report, *, project: str = "") -> str:
    """Return the file. All text is escaped, and the page forbids itself to load anything."""
    whole = decision(report)
    outcome = "" if whole is None else str(whole.outcome)
    return file(sections(report), plots(report), project=project, outcome=outcome)


def file(shown: Sequence[Section], drawn: Mapping[str, Markup], *, project: str = "", outcome: str = "") -> str:
    """Return sections as one file, the first on top, each with the plot that is drawn for its key."""
    first, *others = shown
    return _template().render(project=project, first=first, others=others, plots=drawn, outcome=outcome)


@cache
def _template() -> jinja2.Template:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("tidemill.review.render", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return found.get_template("page.html.jinja")

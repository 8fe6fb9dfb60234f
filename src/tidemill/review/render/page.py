"""A report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from functools import cache

import jinja2

from tidemill.review.render.plots import plots
from tidemill.review.render.sections import sections
from tidemill.review.render.summary import decision
from tidemill.review.report import Report


def page(report: Report, *, project: str = "") -> str:
    """Return the file. All text is escaped, and the page forbids itself to load anything."""
    shown = sections(report)
    whole = decision(report)
    return _template().render(
        project=project, first=shown[0], others=shown[1:], plots=plots(report),
        outcome="" if whole is None else str(whole.outcome),
    )  # fmt: skip


@cache
def _template() -> jinja2.Template:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("tidemill.review.render", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return found.get_template("page.html.jinja")

"""One HTML file that says what a backtest found. It needs nothing from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill.loop.backtest.result import BacktestResult


def page(result: BacktestResult) -> str:
    """Return the page."""
    return f"<!doctype html><title>{result.metric}</title>"

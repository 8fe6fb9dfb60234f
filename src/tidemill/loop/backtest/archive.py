"""What a backtest found, handed to the home folder: whoever looks later need not run it again."""

from __future__ import annotations

import math
from datetime import datetime

from tidemill.loop.backtest.card import Card
from tidemill.loop.backtest.result import BacktestResult
from tidemill.records import Json
from tidemill.stores.backtests import Backtests


def archive(
    result: BacktestResult, backtests: Backtests, *, project: str, source: str, card: Card | None, now: datetime
) -> str:
    """Keep a result, and return its id; `source` says what stream it was, in the words of whoever asked."""
    base = result.names[0] if card is None else card.old
    others = [name for name in result.names if name != base]
    about = {
        "project": project,
        "source": source,
        "metric": result.metric,
        "higher_is_better": result.higher_is_better,
        "coverage": result.coverage,
        "conclusive": result.conclusive,
        "names": result.names,
        "bodies": result.bodies,
        "setting": result.setting,
        "spent": result.spent,
        "summary": result.summary.to_dicts(),
        "comparisons": [result.compare(base, name).to_json() for name in others],
        "card": None if card is None else card.to_json(),
        "card_markdown": None if card is None else card.to_markdown(),
    }
    tables = {"windows": result.windows, "events": result.events, "kept": result.kept}
    return backtests.put(_finite(about), tables, result.html(), now=now)


def _finite(value: Json) -> Json:
    """Return a value without numbers that JSON has no form for: what is not known is null."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

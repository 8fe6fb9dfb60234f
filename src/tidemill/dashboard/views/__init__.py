"""The views of the page, in the order of the rail."""

from __future__ import annotations

from tidemill.dashboard.view import View
from tidemill.dashboard.views import (
    alerts,
    audit,
    backtests,
    cohorts,
    datasets,
    drift,
    label,
    models,
    overview,
    predictions,
    report,
    rollout,
    strategies,
    tokens,
    try_,
)

VIEWS: tuple[View, ...] = (
    overview.VIEW,
    predictions.VIEW,
    cohorts.VIEW,
    drift.VIEW,
    label.VIEW,
    try_.VIEW,
    models.VIEW,
    report.VIEW,
    rollout.VIEW,
    datasets.VIEW,
    backtests.VIEW,
    strategies.VIEW,
    alerts.VIEW,
    audit.VIEW,
    tokens.VIEW,
)

"""The catalog: what is declared, what was trained and who answers.

Writes take a connection from `Database.begin` or `Journal.write` first, so that all that one step writes is one
transaction; reads open their own.
"""

from __future__ import annotations

from tidemill.stores.models import Models, Run
from tidemill.stores.projects import Projects, StrategyVersion
from tidemill.stores.routes import RouteChange, Routes

__all__ = ["Catalog", "RouteChange", "Run", "StrategyVersion"]


class Catalog(Projects, Models, Routes):
    """Keeps projects with their strategies, model versions with their runs and reports, and routes."""

"""The views of the page, in the order of the rail."""

from __future__ import annotations

from tidemill.dashboard.view import View
from tidemill.dashboard.views import overview

VIEWS: tuple[View, ...] = (overview.VIEW,)

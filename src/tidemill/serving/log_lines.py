"""What processes that run for long tell on standard error: a line says when (UTC), who tells it, and how bad it is."""

from __future__ import annotations

import logging
import time


class _Lines(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


def tell(who: str) -> None:
    """Let this process tell its warnings, and what Tidemill itself has to say, as `who`."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(f"%(asctime)s {who}[%(process)d] %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("tidemill").setLevel(logging.INFO)

"""Tells at once that a route changed, where the database can: PostgreSQL by LISTEN and NOTIFY, SQLite not at all.

A notification is lost while nobody is connected, so it only ever shortens a wait: whoever listens reads regularly too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy import Connection, func, select

from tidemill.errors import StoreError
from tidemill.stores.database import Database

_CHANNEL = "tidemill_routes"
_WAIT_S = 0.5
_AGAIN_S = 5.0

_logger = logging.getLogger(__name__)


def announce(conn: Connection, project: str) -> None:
    """Tell listeners, once the transaction commits, that the route of `project` changed."""
    if conn.dialect.name == "postgresql":
        conn.execute(select(func.pg_notify(_CHANNEL, project)))


class Listener:
    """Calls `wake`, in a thread of its own, soon after any route changed."""

    def __init__(self, db: Database, wake: Callable[[], object]) -> None:
        self._db, self._wake = db, wake
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tidemill-listener", daemon=True)

    def start(self) -> None:
        """Begin to listen; of a database that does not tell, nothing is ever heard."""
        if self._db.can_notify:
            self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except StoreError as error:
                _logger.warning("changes of routes are not told for %g s: %s", _AGAIN_S, error)
                self._stopping.wait(_AGAIN_S)

    def _listen(self) -> None:
        with self._db.listening(_CHANNEL) as heard:
            self._wake()  # for what was told before this
            while not self._stopping.is_set():
                if heard(_WAIT_S):
                    self._wake()

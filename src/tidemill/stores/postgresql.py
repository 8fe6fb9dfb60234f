"""PostgreSQL under the catalog: sessions that cannot hold each other up without limit. Needs the extra `postgres`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from psycopg import Connection as Session
from psycopg import Error, sql
from psycopg.adapt import Dumper
from sqlalchemy import URL, Engine, create_engine, event

from tidemill.errors import StoreError

DRIVER = "postgresql+psycopg"
IDLE_TIMEOUT_S = 30
# A process that is stopped, or whose machine is gone, in the middle of a transaction keeps its locks until the server
# ends its session. Who waits for them waits a little longer than that.
_SESSION = {
    "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT_S}s",
    "lock_timeout": f"{IDLE_TIMEOUT_S + 10}s",
    "statement_timeout": "120s",
}
# Of libpq: a server that is gone is noticed within half a minute, not after the two hours of TCP.
_CONNECTION = {
    "application_name": "tidemill",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def engines(url: URL, *, pool_timeout_s: float) -> tuple[Engine, Engine]:
    """Return the reader and the writer of a database; no connection is made yet.

    What the URL says of a setting wins: `?connect_timeout=3`, `?options=-c lock_timeout=5s`.
    """
    options = [f"-c {name}={value}" for name, value in _SESSION.items()]
    settings: dict[str, str] = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    settings["options"] = " ".join([*options, *url.normalized_query.get("options", ())])
    url = url.set(drivername=DRIVER).difference_update_query(["options"])
    writer = create_engine(url, pool_pre_ping=True, pool_timeout=pool_timeout_s, connect_args=settings)
    event.listen(writer, "connect", _accept_any_text)
    return writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True), writer


@contextmanager
def listening(engine: Engine, channel: str) -> Iterator[Callable[[float], bool]]:
    """Give a function that waits for at most so many seconds and returns whether `channel` was notified.

    Raises:
        StoreError: the connection is lost.
    """
    with engine.connect() as conn:
        session = cast("Session[Any]", conn.connection.driver_connection)
        conn.detach()  # not for others of the pool, and closed at the end
        session.autocommit = True
        try:
            session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield lambda timeout_s: any(True for _ in session.notifies(timeout=timeout_s, stop_after=1))
        except Error as error:
            conn.invalidate()  # or the pool would roll it back first, and tell at length that it cannot
            session.close()
            said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise StoreError(f"listening to the database failed: {said}.", "check that it is reachable") from error


class _Text(Dumper):
    """Writes U+FFFD for the NUL character, which PostgreSQL has no place for, and SQLite and JSON have.

    What somebody sent as a unit must not stop the step that stores it.
    """

    def dump(self, obj: str) -> bytes:
        return obj.replace("\0", "\ufffd").encode()


def _accept_any_text(session: Session[Any], _: object) -> None:
    session.adapters.register_dumper(str, _Text)

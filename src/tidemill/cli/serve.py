"""`tidemill serve`."""

from __future__ import annotations

import typer

from tidemill.cli.log_failure import LogFailureOption
from tidemill.cli.settings import DEFAULT_HOME, DatabaseOption, DurabilityOption, HomeOption, HostOption, PortOption
from tidemill.serving import serve as gateway
from tidemill.stores.home import Home

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    durability: DurabilityOption = "process",
    on_log_failure: LogFailureOption = "refuse",
) -> None:
    """Run the gateway: it answers predictions, takes feedback, and logs both before it answers."""
    gateway.run(
        Home(home).make(),
        database=database,
        host=host,
        port=port,
        durability=durability,
        on_log_failure=on_log_failure,
    )

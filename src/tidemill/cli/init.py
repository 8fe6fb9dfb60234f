"""`tidemill init`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tidemill.cli.digits import digits_table
from tidemill.errors import ProjectError

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Where to write; must not hold a project yet.")] = Path()) -> None:
    """Write a project that runs: project.py to change, and digits.parquet to begin with."""
    project, data = folder / "project.py", folder / "digits.parquet"
    for file in (project, data):
        if file.exists():
            raise ProjectError(f"{file} exists already.", "choose an empty folder: `tidemill init FOLDER`")
    folder.mkdir(parents=True, exist_ok=True)
    project.write_text(resources.files("tidemill.cli.template").joinpath("project.py").read_text())
    table: pl.DataFrame = digits_table()
    table.write_parquet(data)
    where = "" if folder == Path() else f"cd {folder} && "
    commands = [f"{where}tidemill check", "tidemill train digits.parquet", "tidemill up"]
    typer.echo("\n  ".join([f"wrote {project} and {data}. Next:", *commands]))

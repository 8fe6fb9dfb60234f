"""The work of a scheduled batch prediction: what was declared, for one slot."""

from __future__ import annotations

from pathlib import Path

from tidemill.batches import Batch
from tidemill.clock import SystemClock
from tidemill.deploy.batch import Done, predict_table
from tidemill.deploy.job import BatchJob
from tidemill.deploy.order import Order
from tidemill.errors import ProjectError
from tidemill.model import Progress, Report
from tidemill.project import load_project
from tidemill.records import Json
from tidemill.stores.addresses import read_place
from tidemill.stores.belonging import open_database
from tidemill.stores.catalog import Catalog
from tidemill.stores.home import Home


def run(job: BatchJob, report: Report) -> Json:
    """Do `job` and return what `result.json` holds.

    Raises:
        TidemillError: see `tidemill.deploy.batch.predict_table`; or the project declares no such batch any more.
    """
    project = load_project(job.project_file)
    declared = next((one for one in project.batches if one.name == job.batch), None)
    if declared is None:
        raise ProjectError(f"{job.project_file} declares no batch {job.batch!r}.", "start the loop again")
    home = Home(job.home)
    order = order_of(declared, job)
    with open_database(home, job.db_url) as database:
        done = predict_table(
            order, project=job.project, home=home, catalog=Catalog(database), clock=SystemClock(),
            tell=lambda told: report(_progress(told)),
        )  # fmt: skip
    return {**done.to_json(), "to": str(order.to), "refused_to": str(order.refused_to)}


def order_of(declared: Batch, job: BatchJob) -> Order:
    """Return what is to be made for the slot of a job."""
    folder = Path(job.project_file.partition(":")[0]).absolute().parent

    source, to = (read_place(declared.place(text, job.slot), folder) for text in (declared.source, declared.to))
    refused = None if declared.refused is None else read_place(declared.place(declared.refused, job.slot), folder)
    return Order(
        source=source,
        to=to,
        refused=refused,
        version=job.version,
        on_bad_row=declared.on_bad_row,
        keep=declared.keep,
        jobs=declared.jobs,
        replace=True,
        restart_if_changed=True,
        slot=f"{declared.name}/{job.slot}",
    )


def _progress(told: Done) -> Progress:
    numbers = {"rows": told.num_rows, "refused": told.num_refused, "left_s": told.left_s or 0.0}
    return Progress(fraction=told.fraction, message="predicting", numbers=numbers)

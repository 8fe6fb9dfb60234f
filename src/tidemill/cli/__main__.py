"""`python -m tidemill.cli`: the same as `tidemill`."""

from tidemill.cli.main import run

run()

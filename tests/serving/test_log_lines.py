"""What a long-running process tells: each line says when, who and how bad."""

from __future__ import annotations

import re
import subprocess
import sys

SAYS = """
import logging
from tidemill.serving.log_lines import tell

tell("loop")
logging.getLogger("tidemill.loop.engine").warning("the loop rests for %g s", 2)
logging.getLogger("tidemill.serving").info("serving at %s", "here")
logging.getLogger("other").info("chatter")
logging.getLogger("other").error("a library fails")
"""


def test_each_line_says_when_and_who_and_how_bad() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAYS], capture_output=True, text=True, check=True, env={"TZ": "Asia/Tokyo"}
    )
    line = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z loop\[\d+\] ([A-Z]+ .*)")
    told = [line.fullmatch(text) for text in done.stderr.splitlines()]
    assert [found and found.group(1) for found in told] == [
        "WARNING the loop rests for 2 s",
        "INFO serving at here",
        "ERROR a library fails",
    ]

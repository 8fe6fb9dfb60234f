"""All benchmarks in turn: `python benchmarks [--data FOLDER] [--peers FOLDER --venvs FOLDER] [--only NAME ...]`.

It takes hours: `--only stores page` takes some, `--list` shows the commands. Those of recorded streams need `--data`
(`arxiv_titles.parquet`, `digit_cohorts.parquet`), those beside other servers `--peers` and `--venvs` (see gateway.py);
without its folder one is left out, which is said at the end. The exit status is 1 where one failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = (
    "stores.py", "catalog.py", "datasets.py", "log_queries.py group", "log_queries.py join", "log_queries.py tick",
    "log_ingest.py process 60", "log_ingest.py power 60", "log_ingest.py compact", "log_kills.py process",
    "log_kills.py power", "tensors.py", "cached.py", "grpc_unary.py", "fuzz.py", "batch.py",
    "gateway.py {peers} --venvs {venvs}", "gateway.py {peers} --only soak", "verdicts.py", "verdicts_canary.py",
    "verdicts_offline.py", "monitor.py cost", "monitor.py alarms", "monitor.py power", "monitor_day.py",
    "curation.py cost", "curation.py labels --data {data}", "backtest.py --data {data}", "page.py",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "peers", "venvs"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted({name_of(one) for one in COMMANDS}))
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    folders = {name: str(path) for name in ("data", "peers", "venvs") if (path := getattr(given, name)) is not None}
    left_out, failed = [], []
    for command in COMMANDS:
        if given.only and name_of(command) not in given.only:
            continue
        try:
            words = [word.format(**folders) for word in command.split()]
        except KeyError as missing:
            left_out.append(f"{command}: give --{missing.args[0]}")
            continue
        print("==", *words, flush=True)
        if not given.list and subprocess.run([sys.executable, HERE / words[0], *words[1:]], check=False).returncode:
            failed.append(command)
    for title, names in (("left out", left_out), ("failed", failed)):
        for name in names:
            print(f"{title}: {name}")
    return 1 if failed else 0


def name_of(command: str) -> str:
    """Return `stores` of `stores.py ...`."""
    return command.partition(".")[0]


if __name__ == "__main__":
    sys.exit(main())

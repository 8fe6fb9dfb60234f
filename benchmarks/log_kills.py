"""200 kills in the middle of an operation and 20 by SIGKILL, of gateways and compactors under 2,000 predictions/s.

`python benchmarks/log_kills.py [process|power] [INJECTED REAL]` ends with 1 unless each row that was acknowledged is in
the log exactly once.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "stores"))
from kills import Killing

multiprocessing.set_forkserver_preload(["kills"])


def main(durability: str = "process", injected: int = 200, real: int = 20) -> int:
    with tempfile.TemporaryDirectory() as home:
        done = Killing(Path(home), durability=durability).run(injected=injected, real=real, limit_s=600)
    print(f"durability {durability}: {done.injected} injected and {done.real} real kills in {done.seconds:.0f} s")
    print(f"  acknowledged {done.acknowledged:,}; missing {done.missing}, doubled {done.doubled}")
    print(f"  written when the kill came, before the caller heard: {done.extra}; torn and cut off: {done.torn:,} bytes")
    print(f"  a dead compactor's work taken over after at most {max(done.takeovers_s):.1f} s")
    return int(done.missing > 0 or done.doubled > 0)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(main(*arguments[:1], *map(int, arguments[1:])))

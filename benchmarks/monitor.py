"""Drift and monitoring, measured: what it costs, how often it cries wolf, what it sees.

    python benchmarks/monitor.py cost            1 M x 20 columns against 1 M: CPU and memory, exact and from sketches;
                                                 with EVIDENTLY=PYTHON also its default report, run by that interpreter
    python benchmarks/monitor.py alarms [NUM]    NUM reports (2,000) of each size on data that does not change
    python benchmarks/monitor.py power [NUM]     NUM reports (100) of each of five changes, beside other rules

`benchmarks/monitor_day.py` times a pass over a day.

Other rules are made again here from what their programs do: Bonferroni on Kolmogorov-Smirnov and chi-square tests;
Evidently's default for more than 1,000 rows (Wasserstein over the standard deviation, or Jensen-Shannon, above .1 in
any column); NannyML's (Jensen-Shannon above the mean plus 3 standard deviations of 10 chunks of the reference).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded: the processes share the cores

import numpy as np
from scipy import stats

LEVELS = (2, 5, 20, 50, 200, 1000)
NUM_NUMBERS = 14
REFERENCE = 20_000
SIZES = (1_000, 2_000, 10_000)
CHANGES = ("place", "spread", "tail", "shares", "new word", "many")


# --- data


def columns(rng, num, *, change="", since=0):
    """Return 14 columns of numbers and 6 of words; from row `since` on something has changed."""
    now = np.arange(num) >= since
    found = {}
    for i in range(NUM_NUMBERS):
        x = rng.normal(size=num) if i % 3 else rng.lognormal(size=num)
        if i % 7 == 6:
            x = np.round(x * 2)
        if i == 1:
            x = np.where(now, {"place": x + 0.25, "spread": x * 1.2}.get(change, x), x)
            x = np.where(now & (change == "tail") & (rng.random(num) < 0.02), 6.0, x)
        if change == "many" and i % 3:
            x = np.where(now, x + 0.1, x)
        found[f"n{i}"] = x
    for k in LEVELS:
        share = 1 / np.arange(1, k + 1) ** 0.7
        codes = rng.choice(k, size=num, p=share / share.sum())
        if k == 50 and change == "shares":
            codes = np.where(now & (rng.random(num) < 0.1), rng.integers(25, 50, num), codes)
        if k == 200 and change == "new word":
            codes = np.where(now & (rng.random(num) < 0.02), k, codes)
        found[f"c{k}"] = codes
    return found


# --- rules


def ours(data, n, rng):
    from tidemill.stats.alarm import raised
    from tidemill.stats.cells import number_cells, word_cells

    size = n // 20
    num = len(data["n0"]) // size
    rows = np.repeat(np.arange(num), size)
    tail = {name: column[-len(rows) :] for name, column in data.items()}
    cells = [
        (number_cells if name[0] == "n" else word_cells)(name, column, rows, num)[0] for name, column in tail.items()
    ]
    return raised(cells, num_blocks=num, num_now=20, alpha=0.01, rng=rng)


def bonferroni(before, now, level):
    p = []
    for name in before:
        if name[0] == "n":
            p.append(stats.ks_2samp(before[name], now[name], method="asymp").pvalue)
        else:
            num = max(before[name].max(), now[name].max()) + 1
            table = np.stack([np.bincount(side[name], minlength=num) for side in (before, now)])
            p.append(stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)
    return min(p) * len(p) <= level


def js(a, b):
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(a / a.sum(), b / b.sum(), base=2))


def binned(name, before, now):
    if name[0] == "c":
        num = max(before.max(), now.max()) + 1
        return np.bincount(before, minlength=num), np.bincount(now, minlength=num)
    edges = np.histogram_bin_edges(np.concatenate([before, now]), bins=30)
    return np.histogram(before, edges)[0], np.histogram(now, edges)[0]


def evidently(before, now):
    return any(
        stats.wasserstein_distance(before[name], now[name]) / before[name].std() > 0.1
        if name[0] == "n"
        else js(*binned(name, before[name], now[name])) > 0.1
        for name in before
    )


def nannyml(before, now):
    for name in before:
        chunks = [js(*binned(name, before[name], part)) for part in np.array_split(before[name], 10)]
        if js(*binned(name, before[name], now[name])) > np.mean(chunks) + 3 * np.std(chunks):
            return True
    return False


# --- alarms and power


def calm(args):
    n, seed = args
    rng = np.random.default_rng([n, seed])
    return ours(columns(rng, REFERENCE + n), n, rng).rank <= 0.01


def judged(args):
    change, n, seed = args
    rng = np.random.default_rng([n, seed, CHANGES.index(change) if change else 99])
    data = columns(rng, REFERENCE + n, change=change, since=REFERENCE)
    before = {name: column[:REFERENCE] for name, column in data.items()}
    now = {name: column[REFERENCE:] for name, column in data.items()}
    return [
        ours(data, n, rng).rank <= 0.01,
        bonferroni(before, now, 0.01),
        evidently(before, now),
        nannyml(before, now),
    ]


def alarms(num, jobs):
    print(f"no change, {num} reports of each size, reference of {REFERENCE:,} rows, nominal 1 %")
    with ProcessPoolExecutor(jobs) as pool:
        for n in SIZES:
            fired = sum(pool.map(calm, [(n, seed) for seed in range(num)], chunksize=10))
            low, high = stats.binomtest(fired, num).proportion_ci(method="exact")
            print(f"  n={n:6,}: {fired} of {num}, {fired / num:.2%} ({low:.2%} to {high:.2%})", flush=True)


def power(num, jobs):
    print(f"share of reports that alarm, {num} each: Tidemill | Bonferroni .01 | Evidently | NannyML")
    with ProcessPoolExecutor(jobs) as pool:
        for change in (*CHANGES, ""):
            for n in SIZES:
                found = np.mean(list(pool.map(judged, [(change, n, seed) for seed in range(num)])), axis=0)
                shown = " | ".join(f"{share:.2f}" for share in found)
                print(f"  {change or 'no change':9s} n={n:6,}: {shown}", flush=True)


# --- cost


def write_tables(folder, num):
    import polars as pl

    for at, name in enumerate(("before", "now")):
        data = columns(np.random.default_rng(at), num, change="place" if at else "", since=0)
        frame = {n: c if n[0] == "n" else np.char.add("level-", c.astype(str)) for n, c in data.items()}
        pl.DataFrame(frame).write_parquet(folder / f"{name}.parquet")


def measure(how, folder):
    """Compare two files column by column, in a process of its own; print CPU seconds, memory and the effects."""
    import polars as pl

    from tidemill.stats.drift import number_effect, sketched_effect, word_effect
    from tidemill.stats.profile import Profile

    begun = time.process_time()
    found, sizes = {}, []
    for name in pl.read_parquet_schema(folder / "now.parquet"):
        sides = [pl.read_parquet(folder / f"{s}.parquet", columns=[name])[name] for s in ("before", "now")]
        if how == "exact":
            if name[0] == "n":
                effect = number_effect(*(side.to_numpy() for side in sides))
            else:
                effect = word_effect(*(dict(side.value_counts().iter_rows()) for side in sides))
        else:
            made = [Profile(), Profile()]
            for profile, side in zip(made, sides, strict=True):
                if name[0] == "n":
                    profile.add_numbers(name, side.to_numpy())
                else:
                    profile.add_words(name, dict(side.value_counts().iter_rows()))
            stored = [profile.to_bytes() for profile in made]
            sizes += [len(body) for body in stored]
            effect = sketched_effect(*(Profile.from_bytes(body).columns[name] for body in stored))
        found[name] = {k: v for k, v in vars(effect).items() if isinstance(v, float)}
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    told = {"cpu_s": time.process_time() - begun, "peak_mb": int(peak.split()[1]) / 1024, "effects": found,
            "largest_kb": max(sizes, default=0) / 1000}  # fmt: skip
    print(json.dumps(told))


def measure_evidently(folder):
    """Make Evidently's default drift report, in a process of its own; print the CPU seconds of the report alone."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before, now = (pd.read_parquet(folder / f"{side}.parquet") for side in ("before", "now"))
    begun = time.process_time()
    Report([DataDriftPreset()]).run(now, before).dict()
    print(json.dumps({"cpu_s": time.process_time() - begun}))


def cost(num):
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), num)
        told = {}
        for how in ("exact", "sketches"):
            out = subprocess.run([sys.executable, __file__, "measure", how, folder], check=True, capture_output=True)
            told[how] = json.loads(out.stdout)
            print(f"{how:8s} {told[how]['cpu_s']:.2f} CPU s, {told[how]['peak_mb']:.0f} MB at most", flush=True)
        if os.environ.get("EVIDENTLY"):
            asked = [os.environ["EVIDENTLY"], __file__, "evidently", folder]
            out = subprocess.run(asked, check=True, capture_output=True)
            print(
                f"evidently {json.loads(out.stdout.splitlines()[-1])['cpu_s']:.1f} CPU s, the report alone", flush=True
            )
        apart = {}
        for name, effect in told["exact"]["effects"].items():
            for one, value in effect.items():
                gap = abs(value - told["sketches"]["effects"][name][one])
                apart[one] = max(apart.get(one, 0.0), gap)
        print("largest difference:", {k: round(v, 5) for k, v in apart.items()})
        print(f"largest column: {told['sketches']['largest_kb']:.1f} kB")


def main():
    what, *rest = sys.argv[1:] or ["help"]
    jobs = int(os.environ.get("JOBS", "2"))
    if what == "measure":
        measure(rest[0], Path(rest[1]))
    elif what == "evidently":
        measure_evidently(Path(rest[0]))
    elif what == "cost":
        cost(int(rest[0]) if rest else 1_000_000)
    elif what == "alarms":
        alarms(int(rest[0]) if rest else 2_000, jobs)
    elif what == "power":
        power(int(rest[0]) if rest else 100, jobs)
    else:
        print(__doc__)


if __name__ == "__main__":
    main()

"""Record `tidemill demo` as its page shows it: `make screenshots`, or `python docs/record_page.py`, some minutes.

It runs the real command, serves its home by `tidemill page`, and looks with a real Chromium. Pictures go to
docs/images, light and dark; with Pillow installed, docs/images/demo.webp is the overview all the way through the demo.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from playwright.sync_api import Page, sync_playwright

from tidemill.app import App
from tidemill.cli import digits
from tidemill.cli.template import fast
from tidemill.records import Route

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "dashboard"))
import chromium

IMAGES = Path(__file__).with_name("images")
WIDE, HIGH, EVERY_S, PATIENCE_S = 1280, 800, 2.5, 540
FRAME_WIDE, MOST_BYTES = 960, 1_500_000
_STRATEGIES = {"last_two_days": 'sliding_window("2d")', "each_300_labels": "amount(300)", "never": "never()"}


def main() -> None:
    """Run the demo and look at it."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidemill-page-") as name, sync_playwright() as playwright:
        home = Path(name)
        browser = playwright.chromium.launch(executable_path=chromium.found(), args=["--no-sandbox"])
        try:
            frames = watch(browser, home)
            replay(home)
            with served(home) as url:
                pictures_after(browser, url, home)
        finally:
            browser.close()
    animate(frames)
    for path in sorted(IMAGES.iterdir()):
        print(f"{path.name:<28}{path.stat().st_size / 1000:>8.0f} kB")


def command(*words: str) -> list[str]:
    """Return how to call Tidemill."""
    return [sys.executable, "-m", "tidemill.cli", *words]


@contextlib.contextmanager
def served(home: Path) -> Iterator[str]:
    """Run the page of a home."""
    called = command("page", "--project", fast.__file__, "--home", str(home), "--port", "0")
    env = {**os.environ, "LOGNAME": "ann"}  # whose name stands at the top
    process = subprocess.Popen(called, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        yield re.findall(r"http://\S+", process.stdout.readline())[0]
    finally:
        process.terminate()
        process.wait()


# --- while the demo runs


def watch(browser: Any, home: Path) -> list[bytes]:
    """Run the demo; return the overview every few seconds, and take pictures while a candidate has traffic."""
    demo = subprocess.Popen(command("demo", "--home", str(home)), stdout=subprocess.DEVNULL)
    try:
        wait(lambda: route(home) is not None)
        with served(home) as url:
            return frames_of(browser, url, home, demo)
    finally:
        if demo.poll() is None:
            demo.terminate()
        demo.wait()


def frames_of(browser: Any, url: str, home: Path, demo: subprocess.Popen[bytes]) -> list[bytes]:
    """Look at the overview until the demo ends, and once at a rollout."""
    tab, frames, is_taken = opened(browser, f"{url}/", "light"), list[bytes](), False
    while demo.poll() is None:
        began = time.monotonic()
        frames.append(tab.screenshot())
        now = route(home)
        if not is_taken and now is not None and now.candidate is not None and now.share > 0:
            pictures(browser, {"overview": f"{url}/", "rollout": f"{url}/rollout"})
            is_taken = True
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
    tab.context.close()
    return frames


def route(home: Path) -> Route | None:
    """Return the route of the demo, None before the first."""
    if not (home / "tidemill.db").exists():
        return None
    try:
        app = App.open(fast.__file__, home)
    except Exception:  # the demo is making it
        return None
    try:
        return app.catalog.route(app.name)
    finally:
        app.close()


def wait(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("the demo did not begin")
        time.sleep(0.5)


# --- once it is over


def replay(home: Path) -> None:
    """Keep a backtest: the demo's pictures one after the other, washed out from the middle on."""
    known = digits.digits_table()
    worn = pl.Series([digits.washed_out(p).tobytes() for p in digits.load().pictures])
    begins, middle = datetime(2026, 1, 1, tzinfo=UTC), len(known) // 2
    is_new = pl.Series(range(len(known))) >= middle
    stream = known.with_columns(
        image=pl.when(is_new).then(worn).otherwise(pl.col("image")),
        app=pl.when(is_new).then(pl.lit("v2")).otherwise(pl.lit("v1")),
        time=pl.Series([begins + i * timedelta(minutes=5) for i in range(len(known))]),
    )
    stream.write_parquet(home / "digits.parquet")
    chosen = list[str]()
    for name, preset in _STRATEGIES.items():
        (home / f"{name}.py").write_text(f"import tidemill as tm\n\nstrategy = tm.presets.{preset}\n")
        chosen += ["--against" if name == "never" else "--strategy", str(home / f"{name}.py")]
    options = ["--project", fast.__file__, "--home", str(home), "--step", "12h", "--jobs", "1", "--json"]
    called = command("backtest", str(home / "digits.parquet"), *chosen, *options)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # small networks: more threads only wait for one another
    done = subprocess.run(called, stdout=subprocess.DEVNULL, env=env, check=False)
    if done.returncode:
        print("the backtest did not run: there is no picture of it")


def pictures_after(browser: Any, url: str, home: Path) -> None:
    """Take pictures of what the demo left."""
    pictures(browser, {"predictions": f"{url}/predictions?cohort=new_app"}, act=open_drawer)
    pictures(browser, {"label": f"{url}/label"})
    pictures(browser, {"report": f"{url}/report/2"})
    kept = sorted((home / "backtests").glob("2*")) if (home / "backtests").is_dir() else []
    if kept:
        pictures(browser, {"backtests": f"{url}/backtests/{kept[-1].name}"})


def open_drawer(tab: Page) -> None:
    """Open the first request at the side."""
    tab.locator("tbody a[data-drawer]").first.click()
    tab.locator("#drawer[open]").wait_for()


def pictures(browser: Any, urls: dict[str, str], *, act: Callable[[Page], None] = lambda _: None) -> None:
    """Take pictures of pages, light and dark: all at one time, since what they show goes on."""
    tabs = {
        f"{name}{end}.png": opened(browser, url, theme)
        for name, url in urls.items()
        for theme, end in (("light", ""), ("dark", "-dark"))
    }
    for tab in tabs.values():
        act(tab)
    next(iter(tabs.values())).wait_for_timeout(1200)
    taken = {name: tab.screenshot() for name, tab in tabs.items()}
    for name, picture in taken.items():
        (IMAGES / name).write_bytes(smaller(picture))
        tabs[name].context.close()


def opened(browser: Any, url: str, theme: str) -> Page:
    """Open a page, and wait until nothing on it is being measured."""
    context = browser.new_context(viewport={"width": WIDE, "height": HIGH}, color_scheme=theme, reduced_motion="reduce")
    tab: Page = context.new_page()
    tab.set_default_timeout(60_000)
    tab.goto(url)
    with contextlib.suppress(Exception):  # what is never measured is shown as it is
        tab.wait_for_function("!document.querySelector('.measuring, .skeleton')", timeout=40_000)
    tab.wait_for_timeout(600)
    return tab


# --- files


def smaller(png: bytes) -> bytes:
    """Return a picture in 256 colours, as it is without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return png
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return min(png, out.getvalue(), key=len)


def animate(frames: list[bytes]) -> None:
    """Write the frames as one picture that moves, small enough for a README."""
    try:
        from PIL import Image
    except ImportError:
        print("Pillow is not installed: demo.webp was left as it is")
        return
    shown = [Image.open(io.BytesIO(one)).convert("RGB") for one in dict.fromkeys(frames)]
    if not shown:
        return
    high = round(HIGH * FRAME_WIDE / WIDE)
    shown = [one.resize((FRAME_WIDE, high), Image.Resampling.LANCZOS) for one in shown]
    for quality in (70, 55, 40, 25):
        out = io.BytesIO()
        first, *others = shown
        last = [600] * len(others) + [4000]
        first.save(out, "WEBP", save_all=True, append_images=others, duration=last, loop=0, quality=quality, method=4)
        if out.tell() <= MOST_BYTES:
            break
    (IMAGES / "demo.webp").write_bytes(out.getvalue())


if __name__ == "__main__":
    main()

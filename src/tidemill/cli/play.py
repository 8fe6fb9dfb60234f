"""The demo's play in two acts, on real processes and real HTTP.

Act one: a new app version sends washed-out pictures, accuracy falls there, the loop notices, has points labelled,
retrains and brings the new version in step by step. Act two: the crowd's labels are poisoned; the candidate that learnt
from them is stopped by the gate, which reads trusted labels, and when it is let through all the same, a guard rolls it
back at its first share of traffic.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tidemill.app import App
from tidemill.cli.digits import Digits, Pixels, washed_out
from tidemill.clock import micros
from tidemill.errors import TidemillError
from tidemill.records import Cycle
from tidemill.testing.traffic import Ask, Users

RATE = 200.0
FEEDBACK_SHARE, FEEDBACK_DELAY_S = 0.3, 1.5
NEW_APP_SHARE = 0.6
POISONED_LABELS = 350
PATIENCE_S = 150.0


class Cast:
    """Who sends what: users of two app versions, with pictures that no training has seen."""

    def __init__(self, pictures: Digits) -> None:
        self.pool, self.new_app_share = pictures, 0.0
        self.feedback_share, self.poisoned = FEEDBACK_SHARE, False

    def draw(self, rng: np.random.Generator) -> Ask:
        """Return a request of some user."""
        pick, is_new = int(rng.integers(len(self.pool))), rng.random() < self.new_app_share
        picture = self.pool.pictures[pick]
        inputs = {"image": as_text(washed_out(picture) if is_new else picture), "app": "v2" if is_new else "v1"}
        return Ask(inputs=inputs, unit=f"user-{rng.integers(10_000_000)}", truth=self.pool.labels[pick])

    def say(self, ask: Ask, rng: np.random.Generator) -> str | None:
        """Return what the user reports: mostly nothing, else the truth, or a systematic lie when poisoned."""
        if rng.random() >= self.feedback_share:
            return None
        return str((int(ask.truth) + 1) % 10) if self.poisoned else str(ask.truth)


def as_text(picture: Pixels) -> str:
    """Return a picture as the base64 that the gateway takes."""
    return base64.b64encode(picture.tobytes()).decode()


class Labeller(threading.Thread):
    """A person at the label queue, who knows the pictures and goes home at some point."""

    def __init__(self, app: App, digits: Digits) -> None:
        super().__init__(daemon=True)
        self._app, self._leave, self.num_answered = app, threading.Event(), 0
        both = [*digits.pictures, *washed_out(digits.pictures)]
        self._truth = {p.tobytes(): label for p, label in zip(both, digits.labels * 2, strict=True)}

    def run(self) -> None:
        """Answer what waits, as it comes."""
        while not self._leave.wait(0.5):
            waiting = self._app.queue(limit=100)
            answers = [(e.id, self._truth[e.inputs["image"]]) for e in waiting if e.inputs["image"] in self._truth]
            if answers:
                self._app.answer(answers, by="labeller")
                self.num_answered += len(answers)

    def go_home(self) -> None:
        """Answer no more."""
        self._leave.set()
        self.join()


@dataclass
class Play:
    """Runs the acts. `tell` gets a line for people; `marks` are kept in the store for the summary."""

    app: App
    cast: Cast
    users: Users
    labeller: Labeller
    fresh: Digits  # pictures for the traffic after the first retraining
    tell: Callable[[str], None]
    marks: dict[str, int] = field(default_factory=dict)

    def act_one(self) -> None:
        """Fall and recovery."""
        self.tell("Everybody uses the old app. The loop learns what version 1 is worth.")
        self.users.start()
        self.labeller.start()
        self._wait("enough feedback on version 1", lambda: self._num_feedback() > 450)
        time.sleep(FEEDBACK_DELAY_S)
        self.mark("shift")
        self.cast.new_app_share = NEW_APP_SHARE
        self.tell(f"A new app version is out: {NEW_APP_SHARE:.0%} of the users now send washed-out pictures.")
        self._wait("the trigger", lambda: self._cycle(1) is not None)
        self._wait("the dataset", lambda: self._past_form(1))
        self.cast.pool = self.fresh  # from here on, nobody can have learnt these pictures
        self._wait("the rollout", lambda: self._is_closed(1))
        self.mark("recovered")
        self.tell("Quality is measured on pictures that no version was trained on.")
        time.sleep(10)

    def act_two(self) -> None:
        """Poison, the gate, and the guard."""
        self.labeller.go_home()
        self.mark("poison")
        self.cast.poisoned, self.cast.feedback_share = True, 0.9
        self.tell("Act two: the labeller is on holiday, and bots flood the crowd feedback with wrong labels.")
        known = self._num_labelled()
        self._wait("poisoned labels", lambda: self._num_labelled() - known >= POISONED_LABELS)
        self.app.ask("retrain", by="engineer", reason="the crowd says accuracy fell")
        self._wait("the dataset", lambda: self._past_form(2))
        self.cast.poisoned, self.cast.feedback_share = False, FEEDBACK_SHARE
        self._wait("the gate", lambda: self._is_closed(2))
        bad = self._cycle(2)
        if bad is None or bad.candidate is None or bad.outcome != "rejected":
            return  # the summary says that it was not stopped
        self.tell(f"Somebody insists: `tidemill promote {bad.candidate}`. It meets traffic under guard.")
        time.sleep(FEEDBACK_DELAY_S)
        self.app.ask("promote", by="engineer", version=bad.candidate, reason="let it through")
        self._wait("the guard", lambda: self._is_closed(3))

    def mark(self, name: str) -> None:
        """Remember when a phase began, in the store."""
        self.marks[name] = micros(self.app.clock.now())
        with self.app.world.db.begin() as conn:
            self.app.world.journal.put_state(conn, self.app.name, "demo", dict(self.marks), self.app.clock.now())

    def _wait(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                logs = f"see loop.log and serve.log in {self.app.world.home.folder}"
                raise TidemillError(f"the demo waited {PATIENCE_S:.0f} s for {what}.", logs)
            time.sleep(0.2)

    def _cycle(self, number: int) -> Cycle | None:
        return next((c for c in self.app.world.journal.cycles(self.app.name) if c.number == number), None)

    def _past_form(self, number: int) -> bool:
        cycle = self._cycle(number)
        return cycle is not None and cycle.step != "form"

    def _is_closed(self, number: int) -> bool:
        cycle = self._cycle(number)
        return cycle is not None and cycle.closed_at is not None

    def _num_feedback(self) -> int:
        return self.users.counts["feedback"]

    def _num_labelled(self) -> int:
        return self.app.world.reservoir.num_labelled(self.app.name)

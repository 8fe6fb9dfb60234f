"""A fire drill for the way back: roll live traffic back to the version before, prove that it answers, and return.

What is shown: how many seconds it took until every gateway answered with the old version alone, that its answers are
the very ones it gave before (a hash over decisions and scores), and that no answer mixed the two.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from tidemill.errors import Conflict, NotFound, TidemillError
from tidemill.loop.controls import Controls
from tidemill.records import Json, Outcome, Route, Scalar, Verdict
from tidemill.runtime.artefact import example_rows, read_artefact
from tidemill.stores.blobs import Blobs

_UNIT = "tidemill-drill"
_STEP = "drill"
_QUIET = 20  # answers in a row from one version, each over a connection of its own, before the others are thought gone
_LIMIT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Drill:
    """What a drill showed; `seconds_*`: from the route's change to the slowest gateway's last other answer."""

    live: int
    back_to: int
    gateways: int
    answers: int
    seconds_back: float
    seconds_return: float
    hashes: tuple[str, str]  # of the old version's answers: asked for by number before, and when it was live
    mixed: int  # answers that were of neither version as they are

    @property
    def passed(self) -> bool:
        """Whether the old version answered as ever, in every gateway within a second, and nothing was mixed."""
        return self.hashes[0] == self.hashes[1] and not self.mixed and max(self.seconds_back, self.seconds_return) <= 1

    def to_json(self) -> Json:
        """Return it as JSON."""
        return {**asdict(self), "passed": self.passed}

    def verdict(self) -> Verdict:
        """Return it as the verdict that is kept."""
        same = "equal" if self.hashes[0] == self.hashes[1] else "NOT equal"
        reason = (
            f"rolled back from version {self.live} to {self.back_to} in {self.seconds_back:.2f} s and returned in "
            f"{self.seconds_return:.2f} s in {self.gateways} gateways; the old version's answers are {same} "
            f"({self.hashes[1][:12]}), {self.mixed} of {self.answers} mixed"
        )
        numbers: dict[str, Scalar] = {
            name: value for name, value in asdict(self).items() if isinstance(value, int | float)
        }
        outcome = Outcome.PASS if self.passed else Outcome.FAIL
        return Verdict(outcome=outcome, by="drill", reason=reason, numbers=numbers, back_to="")


class Asked:
    """One gateway, asked with the old version's own examples."""

    def __init__(self, address: str, project: str, rows: Sequence[Mapping[str, Any]], token: str | None) -> None:
        self.address, self._project, self._token = address, project, token
        self._rows = [{name: _wire(value) for name, value in row.items()} for row in rows]
        self.answers = 0

    def answer(self, row: int, *, version: int | None = None) -> tuple[int, str]:
        """Return which version answered a row, and the hash of what it said.

        Raises:
            TidemillError: the gateway cannot be reached, or refuses.
        """
        body = {"inputs": self._rows[row % len(self._rows)], "unit": _UNIT, "model": self._project}
        said = self._post(body if version is None else {**body, "version": version})
        self.answers += 1
        told = json.dumps([said["decision"], said["scores"]], sort_keys=True)
        return int(said["version"]), hashlib.sha256(told.encode()).hexdigest()

    def hash(self, version: int | None) -> str:
        """Return one hash over the answers to all rows, by that version or by whoever is live."""
        told = [self.answer(row, version=version)[1] for row in range(len(self._rows))]
        return hashlib.sha256("".join(told).encode()).hexdigest()

    def _post(self, body: Json) -> Any:
        parts = urlsplit(self.address)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        # A connection each: where several processes share the address, every one of them must be met.
        connection = kind(parts.hostname or "", parts.port, timeout=_LIMIT_S)
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {self._token}"} if self._token else {}),
        }
        try:
            connection.request("POST", "/v1/predict", json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read()
        except OSError as error:
            raise TidemillError(f"no gateway answers at {self.address}: {error}.", "give it with --gateway") from error
        finally:
            connection.close()
        if reply.status != 200:
            raise TidemillError(f"{self.address} answers {reply.status}: {text[:300].decode(errors='replace')}")
        return json.loads(text)


def drill(controls: Controls, blobs: Blobs, gateways: Sequence[str], *, by: str, token: str | None = None) -> Drill:
    """Roll back, measure, return, and keep the evidence as a verdict. Users get the old version for about a second.

    Raises:
        TidemillError: a gateway cannot be reached or refuses; the route is then as it was.
        NotFound: there is no version to go back to, or a rollout is under way.
    """
    route = controls.route()
    old = _way_back(controls, route)
    rows = example_rows(read_artefact(blobs.folder(controls.catalog.model(controls.name, old).artefact)))
    asked = [Asked(address, controls.name, rows, token) for address in gateways]
    before = [one.hash(old) for one in asked]
    try:
        seconds_back, mixed = _switch(controls, route, replace(route, stable=old, fallback=route.stable), asked, by)
        during = [one.hash(None) for one in asked]
    finally:  # whatever went wrong, users get their version back
        seconds_return, more = _switch(controls, controls.route(), route, asked, by)
    done = Drill(
        live=route.stable,
        back_to=old,
        gateways=len(asked),
        answers=sum(one.answers for one in asked),
        seconds_back=seconds_back,
        seconds_return=seconds_return,
        hashes=(_one(before), _one(during)),
        mixed=mixed + more,
    )
    with controls.db.begin() as conn:
        controls.journal.add_verdict(
            conn, controls.name, done.verdict(), cycle=None, step=_STEP, now=controls.clock.now()
        )
    return done


def _way_back(controls: Controls, route: Route) -> int:
    if route.rollout is not None:
        raise NotFound(
            "a rollout is under way, and a drill would end it.", "wait until `tidemill status` shows no cycle"
        )
    if route.fallback is None:
        raise NotFound(f"version {route.stable} has no version before it.", "a drill needs a second version")
    if controls.schemas.brought_by(route.fallback) is not None:
        raise Conflict(
            f"version {route.fallback} reads other inputs than callers send now.",
            "drill again when the version before the live one reads the same",
        )
    return route.fallback


def _switch(controls: Controls, old: Route, new: Route, asked: Sequence[Asked], by: str) -> tuple[float, int]:
    """Move the route and ask until all gateways answer by it; return the slowest's seconds, and mixed answers."""
    begun = time.monotonic()
    with controls.db.begin() as conn:
        said = f"version {new.stable} answers"
        controls.note(conn, "drill", f"version {old.stable}", by=by, reason="", result=said)
        controls.catalog.set_route(
            conn, controls.name, replace(new, revision=old.revision), now=controls.clock.now(), by=by, reason="drill"
        )
    known = {version: {one: one.answer(0, version=version)[1] for one in asked} for version in (old.stable, new.stable)}
    slowest, mixed = 0.0, 0
    for one in asked:
        quiet = 0
        while quiet < _QUIET:
            version, told = one.answer(0)
            took = time.monotonic() - begun
            mixed += told != known.get(version, {}).get(one)
            quiet = quiet + 1 if version == new.stable else 0
            slowest = slowest if version == new.stable else max(slowest, took)
            if took > _LIMIT_S:
                raise TidemillError(
                    f"{one.address} still answers by version {version} after {took:.0f} s.", "is it of this home?"
                )
    return slowest, mixed


def _one(hashes: Sequence[str]) -> str:
    """Return the hash that all gateways gave, or one over theirs where they differ."""
    return hashes[0] if len(set(hashes)) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _wire(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value

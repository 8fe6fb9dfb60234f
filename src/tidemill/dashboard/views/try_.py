"""The try page: a form made of the schema, the answer of the gateway, and what a person says of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tidemill.app import App
from tidemill.dashboard.gateway import Gateway
from tidemill.dashboard.trial import MOST_BARS, bars, fields, said, wire
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, Posted, Role, View
from tidemill.errors import InvalidInput, InvalidRequest, Unavailable
from tidemill.schema import Classes, Sensitive
from tidemill.serving.feedback import SOURCE
from tidemill.stores.tokens import Token, Tokens, digest

_PREFIX = "input."
_PAST = 20
_PAST_LOOKED_AT = 2_000


def show(asked: Asked) -> Page:
    """Return the form, empty."""
    data = {**_form(asked, {}), "past": 0, "gateway": gateway(asked).url, "source": source(asked)}
    return Page(template="try.html", title="Try", data=data)


def form(asked: Asked) -> Page:
    """Return the form with the inputs of a past request, another with each `n`."""
    number = asked.number("n", 0)
    found = past(asked.app, asked)
    inputs = found[number % len(found)] if found else {}
    note = "" if found else "The log has no request whose inputs were kept."
    return Page(template="_try_form.html", data={**_form(asked, inputs), "past": number + 1, "note": note})


def _form(asked: Asked, inputs: dict[str, Any]) -> dict[str, Any]:
    app = asked.app
    route = app.catalog.route(app.name)
    versions = [] if route is None else [route.stable, *([route.candidate] if route.candidate else []), *route.shadows]
    versions += [] if route is None or route.fallback is None else [route.fallback]
    return {
        "fields": fields(app.schemas.now(), inputs), "versions": list(dict.fromkeys(versions)),
        "unit": _unit(asked), "route": route, "note": "",
    }  # fmt: skip


def past(app: App, asked: Asked) -> list[dict[str, Any]]:
    """Return the inputs of the newest requests, those that were kept."""
    schema = app.schemas.now()
    names = [name for name, kind in schema.inputs.items() if not isinstance(kind, Sensitive)]
    found = app.world.log.newest(
        app.name, after=asked.now - timedelta(days=30), until=asked.now, limit=_PAST, at_most=_PAST_LOOKED_AT,
        columns=names, schema=schema,
    )  # fmt: skip
    rows = [{name: row.get(name) for name in names} for row in found.rows.iter_rows(named=True)]
    return [row for row in rows if all(value is not None for value in row.values())]


def gateway(asked: Asked) -> Gateway:
    """Return the gateway that the page was told of."""
    return asked.gateway


def source(asked: Asked) -> str:
    """Return the source that feedback from here is kept under: the name of the gateway's token."""
    token = _token(asked)
    return SOURCE if token is None else token.name


def _token(asked: Asked) -> Token | None:
    secret = gateway(asked).token
    mine = digest(secret.encode())
    return next((one for one in Tokens(asked.app.db).all() if secret and one.digest == mine), None)


def _unit(asked: Asked) -> str:
    return f"page:{asked.who.name}"


# --- what is pressed


def ask(posted: Posted) -> Done:
    """Ask the gateway and show its answer, or what is wrong with the inputs."""
    app = posted.app
    typed = {key.removeprefix(_PREFIX): values[-1] for key, values in posted.form.items() if key.startswith(_PREFIX)}
    inputs, wrong = wire(app.schemas.now(), typed)
    data: dict[str, Any] = {"wrong": wrong, "problem": "", "hint": "", "is_down": False, "reply": None}
    if not wrong:
        try:
            data |= _answered(posted, inputs)
        except InvalidRequest as error:
            data |= {"problem": error.message, "hint": error.hint, "is_down": isinstance(error, Unavailable)}
    return Done(said="Asked.", stay=True, shown=Page(template="_try_answer.html", data=data))


def _answered(posted: Posted, inputs: dict[str, Any]) -> dict[str, Any]:
    app, output = posted.app, posted.app.project.output
    version = posted.whole("version") if posted.form.get("version", [""])[-1] else None
    unit = posted.form.get("unit", [""])[-1].strip() or None
    reply = gateway(posted).predict(app.name, inputs, unit=unit, version=version)
    found = bars(output, reply)
    names = output.names if isinstance(output, Classes) else ()
    return {
        "reply": reply, "bars": found[:MOST_BARS], "num_more": max(0, len(found) - MOST_BARS), "names": names,
        "took_s": reply.took_s, "source": source(posted),
    }  # fmt: skip


def tell(posted: Posted) -> Done:
    """Send what a person says of an answer to the gateway, which keeps it as feedback of the page's source."""
    kind = posted.field("kind")
    value = said(posted.app.project.output, kind, posted.field("value"))
    request_id = posted.field("request_id")
    if not request_id:
        raise InvalidInput("there is no answer yet.", "ask the model first", "request_id")
    gateway(posted).tell(request_id, kind, value)
    words = {"confirm": "right", "thumbs": "wrong", "rating": f"rated {value}", "correct": f"corrected to {value}"}
    return Done(said=f"Kept as feedback from “{source(posted)}”: {words[kind]}.", stay=True)


def _request(posted: Posted) -> str:
    return f"request {posted.form.get('request_id', ['?'])[-1]}"


VIEW = View(
    path="/try",
    name="Try",
    group="Label",
    icon="try",
    show=show,
    role=Role.LABELLER,
    fragments={"form": Fragment(show=form)},
    actions={
        "ask": Action(do=ask, verb="try", role=Role.LABELLER, reason=False, audited=False),
        "tell": Action(do=tell, verb="give feedback", thing=_request, role=Role.LABELLER, reason=False, audited=False),
    },
)

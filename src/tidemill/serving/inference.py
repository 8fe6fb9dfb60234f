"""The Open Inference Protocol (v2) over the gateway: what HTTP and gRPC have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from tidemill import __version__
from tidemill.errors import InvalidRequest, Malformed, NotFound, Unavailable
from tidemill.manifest import Manifest
from tidemill.schema import Schema
from tidemill.serving.gateway import Gateway, check_size
from tidemill.serving.infer import InferForm, InferRequest
from tidemill.serving.protocol import Answer
from tidemill.serving.table import Version
from tidemill.serving.tokens import Caller
from tidemill.stores.tokens import Scope

EXTENSIONS = ("binary_tensor_data",)
LENGTH_HEADER = b"inference-header-content-length"

Target = tuple[str, int | None]
"""A model, and the version it is asked of where the request pins one."""


def target(path: str) -> Target | None:
    """Return what a path of inference is about, None for any other path.

    Raises:
        Malformed: the version is no number.
    """
    parts = path.split("/")
    if len(parts) < 5 or parts[-1] != "infer" or parts[:3] != ["", "v2", "models"]:
        return None
    if len(parts) == 5:
        return parts[3], None
    if len(parts) == 7 and parts[4] == "versions":
        return parts[3], version_number(parts[5])
    return None


def version_number(text: str) -> int | None:
    """Return the version that a request names, None where it names none.

    Raises:
        Malformed: it is no number.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Malformed(f"version {text[:20]!r} is no number.", "name one that GET /v2/models/NAME lists")
    return int(text)


def server_metadata() -> dict[str, Any]:
    """Return the reply to `GET /v2`."""
    return {"name": "tidemill", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, schema: Schema, versions: Sequence[int]) -> dict[str, Any]:
    """Return the reply to `GET /v2/models/NAME`; -1 stands for the number of rows."""
    return InferForm(name, schema).metadata(versions)


class Inference:
    """Answers requests of tensors. Every method is called in the event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._forms: dict[str, tuple[Manifest, InferForm]] = {}

    def form(self, model: str) -> InferForm:
        """Return how a project's tensors are read and written.

        Raises:
            NotFound: no such project is published.
            Unavailable: the project has no live version yet.
        """
        manifest = self._gateway.deployment(model).table.manifest
        known, form = self._forms.get(model, (None, None))
        if form is None or known is not manifest:
            form = InferForm(model, manifest.schema)
            self._forms[model] = manifest, form
        return form

    def is_ready(self, model: str, version: int | None) -> bool:
        """Tell whether a model, or the version of it that is asked about, can answer.

        Raises:
            NotFound: no such project is published, or no such version is served.
        """
        try:
            table = self._gateway.deployment(model).table
        except Unavailable:
            return False
        return table.is_ready if version is None else not self._served(model, version).problem

    def metadata(self, model: str, version: int | None) -> dict[str, Any]:
        """Return what is said of a model; every version of it takes and gives the same.

        Raises:
            NotFound: no such project is published, or no such version is served.
            Unavailable: the project has no live version yet.
        """
        form = self.form(model)
        if version is not None:
            self._served(model, version)
        return form.metadata(sorted(self._gateway.deployment(model).table.versions))

    def _served(self, model: str, version: int) -> Version:
        versions = self._gateway.deployment(model).table.versions
        if version not in versions:
            raise NotFound(
                f"version {version} of {model!r} is not served.", f"it serves {', '.join(map(str, versions))}"
            )
        return versions[version]

    async def post(
        self, asked: Target, body: bytes, headers: Iterable[tuple[bytes, bytes]], caller: Caller
    ) -> tuple[bytes, int | None]:
        """Answer a body; return that of the reply, and the length of its JSON where binary tensors follow it.

        Raises:
            InvalidRequest: the caller may not, the body or an input is not as declared, or nobody can answer now.
        """
        model, version = asked
        caller.enter(model, Scope.PREDICT)
        try:
            form = self.form(model)
            check_size(len(body), self._gateway.deployment(model).table.manifest.limits.max_body_bytes)
            request = form.read(body, header_length(headers))
        except InvalidRequest as error:
            self._gateway.count_refusal(model if model in self._gateway.deployments else "", error)
            raise
        return form.write(request, await self.answers(model, version, request))

    async def answers(self, model: str, version: int | None, request: InferRequest) -> Sequence[Answer]:
        """Answer each row.

        Raises:
            InvalidRequest: nobody can answer one of them; the error names it. The others are in the log all the same.
        """
        wanted = request.predictions(model, version)
        if len(wanted) == 1:
            return (await self._gateway.predict(wanted[0]),)
        found = await asyncio.gather(*map(self._gateway.predict, wanted), return_exceptions=True)
        answers: list[Answer] = []
        for row, answer in enumerate(found):
            if isinstance(answer, InvalidRequest):
                answer.message = f"row {row}: {answer.message}"
            if isinstance(answer, BaseException):
                raise answer
            answers.append(answer)
        return answers


def header_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Return how long the JSON in front of binary tensors is, None where there are none.

    Raises:
        Malformed: the header is no number.
    """
    value = next((value for name, value in headers if name == LENGTH_HEADER), None)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12:
        raise Malformed(f"Inference-Header-Content-Length is {value[:20]!r}.", "send a number of bytes")
    return int(value)

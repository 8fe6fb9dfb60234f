"""An alert goes over HTTPS only to a receiver whose certificate is trusted and is for the host that was named."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from receiver import SECRET, Receiver

from tidemill.loop.webhook import Webhook

AT = datetime(2026, 1, 1, tzinfo=UTC)


def of(ca: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(host).configure_cert(context)
    return context


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return ca


def posted_to(tls: ssl.SSLContext) -> tuple[str, Receiver]:
    with Receiver(tls=tls) as receiver:
        webhook = Webhook(url=receiver.url, secret=SECRET, private=True)
        return webhook.post(b'{"alert": 1}', key="1", at=AT), receiver


def test_a_trusted_receiver_takes_a_signed_letter(trusted: trustme.CA) -> None:
    problem, receiver = posted_to(of(trusted, "localhost"))
    assert problem == ""
    assert receiver.got == [{"alert": 1}]


@pytest.mark.usefixtures("trusted")
def test_a_receiver_that_nobody_vouches_for_gets_nothing() -> None:
    problem, receiver = posted_to(of(trustme.CA(), "localhost"))
    assert "CERTIFICATE_VERIFY_FAILED" in problem
    assert receiver.got == []


def test_a_certificate_of_another_host_is_refused(trusted: trustme.CA) -> None:
    problem, receiver = posted_to(of(trusted, "elsewhere.test"))
    assert "Hostname mismatch" in problem
    assert receiver.got == []

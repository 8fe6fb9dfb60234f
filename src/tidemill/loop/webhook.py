"""A webhook: where alerts are told, as signed JSON.

The address is resolved once for each letter and the connection goes to that very address, so that a name cannot point
elsewhere between the check and the call. Private, loopback and other special ranges are refused unless they are meant.
Redirects are never followed, and no proxy is asked.

A receiver checks that `Tidemill-Signature` is `v1=` and the hexadecimal HMAC-SHA256, keyed with the secret, of the
`Tidemill-Timestamp` header, a full stop and the body; that the timestamp is minutes old at most; and that it has not
seen the `Idempotency-Key` yet.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import SplitResult, urlsplit

from tidemill.errors import ProjectError

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LEAST_SECRET = 16


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """An address that takes alerts. The URL may hold a secret of the receiver's: only its host is ever shown.

    Raises:
        ProjectError: the URL is none, or the secret is missing or short.
    """

    url: str = field(repr=False)
    secret: str = field(repr=False)
    private: bool = False  # whether it may lie in a private range
    timeout_s: float = 10.0
    patience_s: float = 30.0  # for the whole of one delivery, however slowly it drips

    def __post_init__(self) -> None:
        parts = self._parts
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ProjectError("the webhook is no http or https URL.", "give one such as https://hooks.example.com/x")
        if parts.username is not None:
            raise ProjectError("the webhook's URL holds a user name.", "the signature tells who calls: leave it out")
        if len(self.secret) < _LEAST_SECRET:
            raise ProjectError(
                f"the webhook has {'no secret' if not self.secret else 'a short secret'}.",
                f"give {_LEAST_SECRET} characters or more in TIDEMILL_WEBHOOK_SECRET; letters are signed with it",
            )

    @property
    def _parts(self) -> SplitResult:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError as error:
            raise ProjectError(
                f"the webhook is no URL: {error}.", "give one such as https://hooks.example.com/x"
            ) from None
        return parts

    @property
    def host(self) -> str:
        """The part of the URL that may be shown."""
        return str(self._parts.hostname)

    def post(self, body: bytes, *, key: str, at: datetime) -> str:
        """Send one letter; return why it was not taken, "" when it was.

        Any status from 200 to 299 takes it. The same `key` means the same news, however often it comes.
        """
        try:
            status = self._post(body, self._headers(body, key, at))
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            return f"{self.host}: {str(error) or type(error).__name__}"
        if 200 <= status < 300:
            return ""
        followed = ", and redirects are not followed" if 300 <= status < 400 else ""
        return f"{self.host} answered {status}{followed}"

    def _headers(self, body: bytes, key: str, at: datetime) -> dict[str, str]:
        timestamp = str(int(at.timestamp()))
        return {
            "Content-Type": "application/json",
            "User-Agent": "tidemill",
            "Idempotency-Key": key,
            "Tidemill-Timestamp": timestamp,
            "Tidemill-Signature": signature(self.secret, timestamp, body),
            "Connection": "close",
        }

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        parts = self._parts
        port = parts.port or (443 if parts.scheme == "https" else 80)
        context = ssl.create_default_context() if parts.scheme == "https" else None
        connection = _Pinned(self.host, port, self._address(port), context, self.timeout_s)
        giving_up = threading.Timer(self.patience_s, connection.give_up)
        giving_up.daemon = True
        giving_up.start()
        try:
            target = parts.path or "/"
            connection.request("POST", f"{target}?{parts.query}" if parts.query else target, body, headers)
            return connection.getresponse().status
        finally:
            giving_up.cancel()
            connection.close()

    def _address(self, port: int) -> str:
        """Return the address to call. One in a private range among several refuses them all.

        Raises:
            OSError: there is none, or it is not for webhooks.
        """
        found = [str(info[4][0]) for info in socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM)]
        private = [address for address in found if not is_public(address)]
        if private and not self.private:
            raise OSError(f"{private[0]} is in a private range; --webhook-private allows it")
        return found[0]


class _Pinned(http.client.HTTPConnection):
    """A connection to one address, which has to show a certificate for the host's name."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext | None, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._to, self._context, self._timeout_s = (address, port), context, timeout_s

    def connect(self) -> None:
        raw = socket.create_connection(self._to, timeout=self._timeout_s)
        self.sock = raw if self._context is None else self._context.wrap_socket(raw, server_hostname=self.host)

    def give_up(self) -> None:
        """Break off, from another thread."""
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it has ended by itself


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return what `Tidemill-Signature` has to be."""
    return f"v1={hmac.new(secret.encode(), timestamp.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


def is_public(address: str) -> bool:
    """Tell whether an address is one of the open Internet, also behind a form that wraps an IPv4 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast and not getattr(found, "is_site_local", False)

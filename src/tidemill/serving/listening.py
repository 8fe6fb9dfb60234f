"""The address that a process listens on."""

from __future__ import annotations

import ipaddress
import socket

from tidemill.errors import TidemillError


def is_loopback(host: str) -> bool:
    """Tell whether `host` can be reached from this machine only; a name other than localhost may be anything."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int, *, share: bool = False) -> socket.socket:
    """Return a socket at that address that does not listen yet; with `share` other processes may bind it too.

    Raises:
        TidemillError: the address is taken, or not one of this machine's.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise TidemillError(f"cannot listen on {host}:{port}: {error.strerror}.", "choose another port") from error
    return sock

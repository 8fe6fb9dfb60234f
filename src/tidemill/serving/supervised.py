"""One of several gateway processes behind one port: `python -m tidemill.serving.supervised FD`, by the supervisor.

FD is one end of a socket pair. The supervisor sends one line of settings; the worker answers a line when it serves, or
why it cannot. When the other end closes, the supervisor is gone, and the worker drains and ends, or is killed where
nothing moves any more: no orphan keeps the port.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

import msgspec

from tidemill.errors import TidemillError
from tidemill.serving.heart import Heart
from tidemill.serving.hello import Answer, Hello, send
from tidemill.serving.log_lines import tell
from tidemill.serving.serve import run
from tidemill.stores.home import Home


def main(arguments: Sequence[str]) -> int:
    """Serve until told to end; return the exit code."""
    channel = socket.socket(fileno=int(arguments[0]))  # open until the very end, for the thread that listens
    hello = msgspec.json.decode(_line(channel), type=Hello)
    tell(f"serve/{hello.number}")
    inherited = [channel.fileno(), hello.hearts, *hello.counts, *([] if hello.listener is None else [hello.listener])]
    for descriptor in inherited:
        os.set_inheritable(descriptor, False)  # a model's process must not keep them open after this one's end
    heart = Heart(hello.hearts, hello.number)
    threading.Thread(target=_end_with, args=(channel, hello.end_s), name="tidemill-supervisor", daemon=True).start()
    try:
        run(
            Home(hello.home),
            **hello.settings,
            reuse_port=hello.listener is None,
            listener=None if hello.listener is None else socket.socket(fileno=hello.listener),
            counts=(hello.counts, hello.number),
            heart=heart,
            ready=lambda address: send(channel, Answer(address=address)),
        )
    except TidemillError as error:
        send(channel, Answer(problem=error.message, hint=error.hint))
        return 1
    finally:
        heart.leave()  # also where it ended unasked: there is no event loop any more
    return 0


def _line(channel: socket.socket) -> bytes:
    read = b""
    while not read.endswith(b"\n"):
        more = channel.recv(1 << 16)
        if not more:
            sys.exit(1)  # the supervisor has gone already
        read += more
    return read


def _end_with(channel: socket.socket, end_s: float) -> None:
    """Wait for the supervisor's end, then ask this process for its own, and take it when that has not come in time."""
    with contextlib.suppress(OSError):  # a broken connection is an end too
        while channel.recv(64):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(end_s)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

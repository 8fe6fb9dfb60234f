"""The process that makes parts: `python -m tidemill.deploy.hand FD TRAY_FD`.

It leaves when the job that started it is gone.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading

import msgspec

from tidemill.clock import SystemClock
from tidemill.deploy.hands import Here, said
from tidemill.deploy.task import Task
from tidemill.runtime.wire import receive, send
from tidemill.stores.tray import Tray


def main(argv: list[str]) -> int:
    """Answer one part after another."""
    sock = socket.socket(fileno=int(argv[0]))
    threading.Thread(target=_leave_when_alone, args=(sock,), daemon=True).start()
    task = msgspec.convert(receive(sock)["task"], Task)
    tray, hand = Tray(os.fdopen(int(argv[1]), "rb", buffering=0)), None
    while True:
        try:
            message = receive(sock)
        except (EOFError, ConnectionError):
            return 0
        try:
            hand = hand or Here(task, SystemClock())
            answer = hand.make(tray.take(**message))
        except Exception as error:
            answer = said(error)
        send(sock, answer)


def _leave_when_alone(sock: socket.socket) -> None:
    """Exit when the other end closes, even in the middle of a batch: nobody would know of it."""
    watch = select.poll()
    watch.register(sock.fileno(), 0)  # POLLHUP is always reported
    watch.poll()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

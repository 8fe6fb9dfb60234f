"""The process a Python model runs in: `python -m tidemill.runtime.worker FD FOLDER LOADER [PROJECT_FILE]`.

It loads the class named by `LOADER` (`module:Class`), answers one batch after another over the socket `FD`, and leaves
when the gateway is gone, even while the model hangs. What the model prints goes to standard error.
"""

from __future__ import annotations

import importlib
import os
import resource
import select
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.model import Model
from tidemill.runtime.wire import pack_array, receive, send, unpack_array


def load_model(folder: Path, loader: str, project_file: str = "") -> Model:
    """Return what the class `loader` (`module:Class`) makes of `folder` by its `load`.

    The folder of the project file is put on the import path first, so that a model defined there or beside it is found
    under the module name it was trained with.
    """
    if project_file:
        sys.path.insert(0, str(Path(project_file.partition(":")[0]).resolve().parent))
    module, _, name = loader.partition(":")
    kind: Any = importlib.import_module(module)
    for part in name.split("."):
        kind = getattr(kind, part)
    model: Model = kind.load(folder)
    return model


def serve(sock: socket.socket, model: Model) -> None:
    """Answer batches until the other side is gone."""
    while True:
        try:
            request = receive(sock)
        except (EOFError, ConnectionError):
            return
        send(sock, _answer(model, request))


def _answer(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    try:
        columns = {name: unpack_array(value) for name, value in request["columns"].items()}
        scores = pack_array(np.asarray(model.predict(columns), dtype=np.float32))
        return {"scores": scores, "memory": resident_bytes()}
    except Exception as error:
        return {"error": shown(error)}


def resident_bytes() -> int:
    """Return how much memory this process has; its most so far where the system does not tell what it has now."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  for every batch
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def shown(error: BaseException) -> str:
    """Return an error as one short line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


def _leave_when_alone(sock: socket.socket) -> None:
    """Exit when the gateway's end closes: a model that hangs would keep its process for ever."""
    watch = select.poll()
    watch.register(sock.fileno(), 0)  # POLLHUP is always reported
    watch.poll()
    os._exit(1)


def main(argv: list[str]) -> int:
    """Run the process; the exit status is 1 when the model does not load."""
    fd, folder, loader, *rest = argv
    sock = socket.socket(fileno=int(fd))
    threading.Thread(target=_leave_when_alone, args=(sock,), daemon=True).start()
    try:
        model = load_model(Path(folder), loader, rest[0] if rest else "")
    except Exception as error:
        send(sock, {"error": shown(error)})
        return 1
    send(sock, {"ready": True})
    serve(sock, model)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

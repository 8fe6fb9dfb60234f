"""Features and models in a folder of a backtest's own, which its processes share while it runs."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import pickle
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse

from tidemill.loop.backtest.lending import Find, Lender, apart, ask, point_to, pointed_to
from tidemill.model import Model

_ALIGNED = 64
_MOST_BYTES = 1 << 30  # of models on the disk; the oldest go first

Made = tuple[Model, float]
"""A model, and the CPU seconds that its training took."""


class Shelf:
    """What was made once is there for whoever needs it next: each thing is made by one process, and the others wait.

    The folder is the backtest's own, and gone when it ends: nobody else can put anything on it. `shared` says whether
    there are others, who may want what this process has at hand: a model is written only where memory is short.
    """

    def __init__(self, folder: Path, *, shared: bool) -> None:
        self._folder = folder
        self._shared = shared
        self._address = folder / f"{secrets.token_hex(4)}.at"  # a socket's path may not be long
        self._lender: Lender | None = None

    def lend(self, artefact: str, find: Find) -> None:
        """Let others have a model that `find` returns, as long as it does: called while `training` it."""
        if not self._shared:
            return
        try:
            self._lender = self._lender or Lender(self._address, find)
        except OSError:  # the path of the folder is too long for a socket
            self.put(artefact, *find(artefact))
        else:
            point_to(self._lent(artefact), self._address)

    @property
    def lending_s(self) -> float:
        """The CPU seconds that others' questions took of this process."""
        return 0.0 if self._lender is None else self._lender.spent_s

    def close(self) -> None:
        """Lend nothing any more."""
        if self._lender is not None:
            self._lender.close()

    def features(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a matrix, dense or CSR, mapped into memory from its file; `make` makes it where there is none."""
        path = self._folder / f"features-{_short(name)}"
        with self._alone(path.name):
            if not path.is_dir():
                _write_matrix(path, make())
        return _read_matrix(path)

    @contextmanager
    def training(self, artefact: str) -> Iterator[None]:
        """Hold other processes off that would make the same model."""
        with self._alone(f"training-{_short(artefact)}"):
            yield

    def model(self, artefact: str) -> Made | None:
        """Return a model that some process made, None where it is not there, or is there no more."""
        try:
            with self._place(artefact).open("rb") as file:
                made: Made = _read_apart(file)
        except FileNotFoundError:
            return self._borrowed(artefact)
        return made

    def _borrowed(self, artefact: str) -> Made | None:
        """Return a model that another process has at hand, None where none has."""
        at = pointed_to(self._lent(artefact))
        if at is None or at == self._address:
            return None
        found: Made | None = ask(at, artefact)
        return found

    def put(self, artefact: str, model: Model, cpu_s: float) -> None:
        """Keep a model, unless it is there already, cannot be written or takes up too much."""
        if self._place(artefact).exists():
            return
        part = self._folder / f".{os.getpid()}.part"
        written = apart((model, cpu_s))
        if written is None:
            return  # made again where it is needed
        with part.open("wb") as file:
            _write_apart(*written, file)
        with self._alone("models"):
            part.replace(self._place(artefact))
            self._make_room()

    def _make_room(self) -> None:
        known = sorted((path.stat().st_mtime_ns, path) for path in self._folder.glob("*.model"))
        taken = sum(path.stat().st_size for _, path in known)
        for _, path in known:
            if taken <= _MOST_BYTES:
                break
            taken -= path.stat().st_size
            path.unlink()

    def _lent(self, artefact: str) -> Path:
        return self._folder / f"{_short(artefact)}.lent"

    def _place(self, artefact: str) -> Path:
        return self._folder / f"{_short(artefact)}.model"

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with (self._folder / f"{name}.lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go of when the file closes, or its process dies
            yield


def size_of(model: Model) -> int | None:
    """Return how many bytes a model takes, None where it cannot be written; arrays are not copied for it."""
    written = apart(model)
    if written is None:
        return None
    head, arrays = written
    return len(head) + sum(array.nbytes for array in arrays)


def _write_apart(head: bytes, arrays: Sequence[memoryview], file: BinaryIO) -> None:
    pickle.dump((head, [array.nbytes for array in arrays]), file)
    for array in arrays:
        file.seek(-file.tell() % _ALIGNED, os.SEEK_CUR)
        file.write(array)


def _read_apart(file: BinaryIO) -> Any:
    """Return what was written; arrays are mapped from the file, and a write into them stays in this process."""
    head, sizes = pickle.load(file)
    mapped, at, arrays = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)), file.tell(), []
    for size in sizes:
        at += -at % _ALIGNED
        arrays.append(mapped[at : at + size])
        at += size
    return pickle.loads(head, buffers=arrays)


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _write_matrix(path: Path, matrix: Any) -> None:
    part = path.with_name(f".{path.name}.part")
    part.mkdir(exist_ok=True)
    arrays = {"dense": matrix}
    if scipy.sparse.issparse(matrix):
        arrays = {
            "data": matrix.data,
            "indices": matrix.indices,
            "indptr": matrix.indptr,
            "shape": np.array(matrix.shape),
        }
    for name, array in arrays.items():
        np.save(part / f"{name}.npy", array, allow_pickle=False)
    part.rename(path)


def _read_matrix(path: Path) -> Any:
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in path.glob("*.npy")}
    if "dense" in arrays:
        return arrays["dense"]
    parts = (arrays["data"], arrays["indices"], arrays["indptr"])
    return scipy.sparse.csr_matrix(parts, shape=tuple(arrays["shape"]), copy=False)

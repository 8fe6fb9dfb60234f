"""Start a training in a process of its own, see how it stands, and stop it.

Everything about a job is in its work folder, so a loop that restarts finds its training where it left it:

| file | what |
|---|---|
| `job.json` | the `Job` |
| `process.json` | pid and start time of the process, which together are never used again |
| `lock` | locked by the process from before its start to its end, so that there is only one |
| `log.txt` | what it printed |
| `progress.jsonl` | one line a report |
| `work`, `artefact` | what it is making; deleted when it has ended |
| `made.json` | the digest of the artefact that it stores, or was about to |
| `result.json` or `error.json` | how it ended, written whole |
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

from tidemill.errors import TrainingError, sentence
from tidemill.model import Progress
from tidemill.records import Json
from tidemill.stores.engines import without_password

JOB, PROCESS, LOG, PROGRESS = "job.json", "process.json", "log.txt", "progress.jsonl"
LOCK, RESULT, ERROR, MADE = "lock", "result.json", "error.json", "made.json"
SCRATCH, ARTEFACT = "work", "artefact"

_MARK = "TIDEMILL_TRAINING"  # names the work folder in the environment of all that a training starts
_TAIL_BYTES = 4_096
_GRACE_S = 2.0
_KILL_S = 10.0
_LOOK_S = 0.02
_MAX_THREADS = 8
_started: dict[tuple[int, str | None], subprocess.Popen[bytes]] = {}
"""Our own children by pid and start time, which must be reaped.

A job of an earlier process is nobody's child, and is found by its pid.
"""


class Runnable(Protocol):
    """What can be started in a process of its own: `python -m MODULE JOB.json`."""

    module: ClassVar[str]

    @property
    def workdir(self) -> str:
        """Where everything about the job is."""
        ...

    @property
    def db_url(self) -> str | None:
        """The database, if it is not the home's own."""
        ...

    def to_json(self) -> Json:
        """Return what the job file holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: all that its process is told.

    `project_file` is `file.py` or `file.py:name`. `db_url` is the home's own database unless given. `start_from` is the
    digest of the artefact to fine-tune.
    """

    module: ClassVar[str] = "tidemill.training.job"

    project_file: str
    home: str
    project: str
    dataset: str
    seed: int
    run: str
    workdir: str
    start_from: str | None = None
    smoke: bool = True
    max_latency_ms: float = 1_000.0
    db_url: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a job file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def to_json(self) -> Json:
        """Return what the job file holds."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a job stands: absent, running, done (with `result`), failed or dead (with `error`).

    `failed` means that the process told why; `dead` that it ended without a word, such as by a kill or for want of
    memory. `error` is a sentence for people; `failure` is `error.json` (type, message, hint, back_to,
    traceback).
    """

    state: str
    progress: Progress | None = None
    result: Json | None = None
    error: str | None = None
    failure: Json | None = None


def launch(job: Runnable) -> Status:
    """Start `job` and return how it stands; one that runs or is done is left alone.

    A failed or dead job is started again in the same folder.

    Raises:
        TrainingError: the process cannot be started, or what a dead one started does not end.
    """
    workdir = Path(job.workdir)
    status = poll(workdir)
    if status.state in ("running", "done"):
        return status
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / LOCK).open("ab") as lock:
        if not _locked(lock.fileno(), patience_s=0):
            if status.state == "absent":
                return Status(state="running")  # by a loop that was killed before it wrote so
            _sweep(workdir)
            if not _locked(lock.fileno(), patience_s=_KILL_S):
                what = f"something that an earlier training in {workdir} started does not end."
                raise TrainingError(what, "find it with `ps`, and stop it by hand")
        if status.state != "absent":
            _sweep(workdir)
        _start(job, workdir, lock.fileno())
    return poll(workdir)


def _locked(lock: int, *, patience_s: float) -> bool:
    """Take the lock; a process that was just swept away needs a moment to let go of it."""
    ends_at = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= ends_at:
            return False
        time.sleep(_LOOK_S)


def _start(job: Runnable, workdir: Path, lock: int) -> None:
    for name in (ERROR, PROGRESS):
        (workdir / name).unlink(missing_ok=True)
    bare, password = (None, None) if job.db_url is None else without_password(job.db_url)
    write_json(workdir / JOB, {**job.to_json(), "db_url": bare})  # kept, and shown to others
    try:
        with (workdir / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", job.module, str(workdir / JOB)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the loop, and `kill` reaches whatever the training starts
                pass_fds=(lock,),  # the lock is the child's from its first moment
                env=_environment(os.environ, workdir) | ({} if password is None else {"PGPASSWORD": password}),
            )
    except OSError as error:
        raise TrainingError(f"the training process cannot be started: {error}", f"look at {workdir}") from error
    _started[process.pid, started_at(process.pid)] = process
    sign(workdir, process.pid)


def sign(workdir: Path, pid: int) -> None:
    """Write who the training process is: by who starts it, and by itself in case that one was killed."""
    write_json(workdir / PROCESS, {"pid": pid, "started": started_at(pid)})


def poll(workdir: Path) -> Status:
    """Return how the job in `workdir` stands. Reads files only; safe to ask from any process."""
    alive = _is_alive(workdir)  # first: a process that ends in between has left its result by then
    progress = _last_progress(workdir / PROGRESS)
    result = _read_json(workdir / RESULT)
    if result is not None:
        _ended(workdir, _GRACE_S)  # it is about to, and one that nobody waits for stays behind as a zombie
        return Status(state="done", progress=progress, result=result)
    if alive:
        return Status(state="running", progress=progress)
    failure = _read_json(workdir / ERROR)
    if failure is not None:
        told = " Next: ".join(part for part in (sentence(failure["message"]), failure["hint"]) if part)
        return Status(state="failed", progress=progress, error=told, failure=failure)
    if (workdir / PROCESS).exists():
        return Status(state="dead", progress=progress, error=_last_words(workdir))
    return Status(state="absent")


def kill(workdir: Path, reason: str = "it was stopped") -> None:
    """End the job's process and all it started, delete what it was making, and leave `reason` as its error.

    Of one that has ended only what it left behind goes.

    Raises:
        TrainingError: it does not end even so, such as one that hangs in a device driver.
    """
    if not _is_alive(workdir):
        _sweep(workdir)
        clear(workdir, patience_s=_GRACE_S)
        return
    pid = int(_process(workdir)["pid"])
    for number, patience in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _KILL_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        if _ended(workdir, patience):
            break
    else:
        raise TrainingError(f"the training process {pid} does not end.", "look at it with `ps`, then stop it by hand")
    _sweep(workdir)
    clear(workdir, patience_s=_GRACE_S)
    if not (workdir / RESULT).exists():
        write_json(
            workdir / ERROR, error_json(TrainingError(f"the training was killed: {reason}.", f"see {workdir / LOG}"))
        )


def clear(workdir: Path, *, patience_s: float = 0.0) -> None:
    """Delete what a job that has ended was making: rows of its data may be in it. One that runs is left alone."""
    left = [folder for name in (SCRATCH, ARTEFACT) if (folder := workdir / name).exists()]
    if not left:
        return
    with (workdir / LOCK).open("ab") as lock:
        if _locked(lock.fileno(), patience_s=patience_s):
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)


def made(workdir: Path) -> str | None:
    """Return the digest of the artefact that a job stored, or was about to store; None where it came to none."""
    known = _read_json(workdir / MADE) or _read_json(workdir / RESULT) or {}
    digest = known.get("artefact")
    return None if digest is None else str(digest)


def _sweep(workdir: Path) -> None:
    """Kill what a dead job has left behind, known by its environment: pids and groups may be others' by now.

    Only Linux tells the environment; elsewhere what a killed training started must end by itself.
    """
    mark = f"{_MARK}={workdir.absolute()}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def error_json(error: BaseException, traceback: str = "") -> Json:
    """Return what `error.json` says of an error."""
    return {
        "type": type(error).__name__,
        "message": getattr(error, "message", None) or f"{type(error).__name__}: {error}",
        "hint": getattr(error, "hint", ""),
        "back_to": getattr(error, "back_to", "training"),
        "traceback": traceback,
    }


def write_json(path: Path, body: Json) -> None:
    """Write whole, then rename: a reader sees all of it or none."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def started_at(pid: int) -> str | None:
    """Return when a process started, as text to compare, None when there is none; a zombie counts as none.

    A pid is used again; with the start time, and on Linux the boot, it is not.
    """
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        done = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return None if done.returncode != 0 or done.stdout.startswith("Z") else done.stdout.split(None, 1)[1].strip()
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def _environment(own: Mapping[str, str], workdir: Path) -> dict[str, str]:
    """Return the variables of the training process: some of the cores, and what makes it repeatable."""
    threads = str(max(1, min(_MAX_THREADS, (os.cpu_count() or 1) // 2)))
    usual = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA's matrix products are not deterministic
    }
    return {**usual, **own, _MARK: str(workdir.absolute())}


def _process(workdir: Path) -> Json:
    return _read_json(workdir / PROCESS) or {}


def _reap() -> None:
    """Let go of our children that have ended, whoever they were; else they stay as zombies."""
    for who, child in list(_started.items()):
        if child.poll() is not None:
            del _started[who]


def _is_alive(workdir: Path) -> bool:
    _reap()
    process = _process(workdir)
    if not process or process["started"] is None:
        return False
    # A child that was not let go of is still ending: its first thread may be a zombie before its last one is gone.
    is_ours = (process["pid"], process["started"]) in _started
    return is_ours or bool(started_at(process["pid"]) == process["started"])


def _ended(workdir: Path, patience_s: float) -> bool:
    ends_at = time.monotonic() + patience_s
    while _is_alive(workdir):
        if time.monotonic() > ends_at:
            return False
        time.sleep(_LOOK_S)
    return True


def _read_json(path: Path) -> Json | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _last_progress(path: Path) -> Progress | None:
    """Return the last whole line; a torn one, written as the process died, is passed over."""
    for line in reversed(_tail(path).splitlines()):
        with contextlib.suppress(ValueError, TypeError):
            return Progress(**json.loads(line))
    return None


def _last_words(workdir: Path) -> str:
    lines = _tail(workdir / LOG).strip().splitlines()
    said = f" Its last words: {lines[-1][:300]}" if lines else ""
    return f"the training process ended without a result: killed, or out of memory.{said} Next: see {workdir / LOG}"


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""

"""Real disks of their own for tests: one that fills up, one that hangs, one whose power is cut. They need root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _run(*command: str | Path) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine does not let us: {getattr(error, 'stderr', None) or error}")


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[None]:
    """Mount a disk of that size over an existing folder."""
    _run("mount", "-t", "tmpfs", "-o", f"size={num_bytes},nr_inodes=10k", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def fill(folder: Path) -> Iterator[None]:
    """Leave no byte on the disk of a folder until the block ends."""
    filler = folder / "filler.other"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
        yield
    finally:
        filler.unlink()


@contextmanager
def image_disk(folder: Path, image: Path, *, megabytes: int = 48) -> Iterator[None]:
    """Mount an ext4 file system that lies in the file `image`."""
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    _run("mkfs.ext4", "-q", "-F", image)
    with mounted(folder, image):
        yield


@contextmanager
def mounted(folder: Path, image: Path) -> Iterator[None]:
    """Mount what is in an image; its journal is replayed."""
    _run("mount", "-o", "loop", image, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Let every write to a disk hang until the block ends."""
    _run("fsfreeze", "-f", folder)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", folder], check=True)


@contextmanager
def unwritable(*paths: Path) -> Iterator[None]:
    """Let the system refuse every change to these files and folders, even to root."""
    _run("chattr", "+i", *paths)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *paths], check=True)

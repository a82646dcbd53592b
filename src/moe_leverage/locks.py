"""Claims on work that several processes might start: at most one holds each, however they die.

A stand-alone helper without a section of the paper; the corpus and the runner of the studies use
it. The system drops a lock with its process, so a killed holder blocks nobody.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from moe_leverage.rules import require

PROBE_SECONDS = 0.1  # that a claim waits at most: `is_claimed` holds a lock for the blink of an eye
POLL_SECONDS = 0.02


@contextlib.contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file at `path`, yielding whether it was free; the file is gone afterwards.

    Inside it holds the process ids of the holder and of its parent. Raises ValueError if a folder
    stands in its place.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "run.lock"
    ...     with claim(path) as first, claim(path) as second:
    ...         print(first, second, is_claimed(path))
    ...     print(path.exists())
    True False True
    False
    """
    require(not path.is_dir(), "lock", str(path), "is a folder where a lock belongs; remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(
        path,
        timeout=-1 if wait else PROBE_SECONDS,
        poll_interval=POLL_SECONDS,
        fallback_to_soft=False,  # which would outlive a killed holder
        on_acquired=_sign,
    )
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        # Unlinked while still held: whoever opened the old file finds it gone and opens anew.
        # Windows keeps open files; there the lock takes its file away itself.
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)
        lock.release()


def is_claimed(path: Path) -> bool:
    """Whether a living process holds the lock at `path`."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except (FileNotFoundError, IsADirectoryError):
        return False
    try:
        return not lock_descriptor(descriptor, blocking=False)
    finally:
        os.close(descriptor)


def holder(path: Path) -> tuple[int, int]:
    """Process ids of who claimed `path` last, and of its parent; (0, 0) if it does not say."""
    try:
        pid, parent = path.read_text().split()
        return int(pid), int(parent)
    except (OSError, ValueError):
        return 0, 0


def _sign(descriptor: int) -> None:
    """Write into a lock file who holds it."""
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} {os.getppid()}\n".encode())

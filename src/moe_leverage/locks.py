"""Claims on work that several processes might start: at most one holds each, however they die.

A stand-alone helper without a section of the paper; the corpus and the runner of the studies use
it. The kernel drops a lock with its process, so a killed holder blocks nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

RETRIES = 3  # of a claim that failed: `is_claimed` holds a lock for the blink of an eye
RETRY_SECONDS = 0.02


@contextlib.contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file at `path`, yielding whether it was free; the file is gone afterwards.

    Inside it holds the process ids of the holder and of its parent.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "run.lock"
    ...     with claim(path) as first, claim(path) as second:
    ...         print(first, second, is_claimed(path))
    ...     print(path.exists())
    True False True
    False
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path, wait)
    for _ in range(RETRIES):
        if descriptor is None:
            time.sleep(RETRY_SECONDS)
            descriptor = _lock(path, wait)
    if descriptor is None:
        yield False
        return
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {os.getppid()}\n".encode())
        yield True
    finally:
        # Unlinked while still held: whoever opened the old file finds it gone and opens anew.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_claimed(path: Path) -> bool:
    """Whether a living process holds the lock at `path`."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(path: Path) -> tuple[int, int]:
    """Process ids of who claimed `path` last, and of its parent; (0, 0) if it does not say."""
    try:
        pid, parent = path.read_text().split()
        return int(pid), int(parent)
    except (OSError, ValueError):
        return 0, 0


def _lock(path: Path, wait: bool) -> int | None:
    """A descriptor of the locked file that `path` names now, None if another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)

"""One hash for what a built thing depends on; the build redoes a thing when its hash changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

IGNORED = {"__pycache__"}  # folders that a program may write into while it runs
DIGEST_LENGTH = 16  # hexadecimal digits, 64 bits


def of_values(*values: object) -> str:
    """The hash of plain JSON values.

    >>> of_values("a", 1) == of_values("a", 1), of_values("a", 1) == of_values("a", 2)
    (True, False)
    """
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:DIGEST_LENGTH]


def of_files(root: Path, *names: str) -> str:
    """The hash of the paths and contents of files and whole folders under `root`."""
    contents = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(_files(root / name for name in names))
    }
    return of_values(contents)


def _files(places: Iterable[Path]) -> Iterable[Path]:
    for place in places:
        candidates = [place] if place.is_file() else place.rglob("*")
        for path in candidates:
            hidden = any(p in IGNORED or p.startswith(".") for p in path.relative_to(place).parts)
            if path.is_file() and not hidden and ".egg-info" not in str(path):
                yield path

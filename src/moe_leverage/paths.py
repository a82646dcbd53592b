"""Where the project's data and caches lie, in a checkout and in an installed wheel alike.

And the one way to write a file: beside its place, then renamed into it.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = PACKAGE.parents[1]
_IS_CHECKOUT = (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "data").is_dir()

DATA = _CHECKOUT / "data" if _IS_CHECKOUT else PACKAGE / "data"
FITS = DATA / "fits"
INSTRUMENTS = DATA / "instruments"  # recordings that the interactive pages play
CACHE = _CHECKOUT / ".cache" if _IS_CHECKOUT else Path.home() / ".cache" / "moe-leverage"
BUILD = _CHECKOUT / "build" if _IS_CHECKOUT else Path.cwd() / "build"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside `path`, flush to disk and rename; a failure leaves what was there before.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_atomically(target, "kept")
    >>> target.read_text(), [p.name for p in target.parent.iterdir()]
    ('kept', ['note.txt'])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)

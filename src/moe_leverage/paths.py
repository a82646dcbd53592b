"""Where the project's data and caches lie, in a checkout and in an installed wheel alike.

And the one way to write a file: beside its place, then renamed into it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from moe_leverage.rules import require, shown

PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = PACKAGE.parents[1]
_IS_CHECKOUT = (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "data").is_dir()

CACHE_VARIABLE = "MOE_LEVERAGE_CACHE"  # of the environment: the cache elsewhere than here


def _cache() -> Path:
    """The folder of the cache: where the environment says, here, at home, or among what passes."""
    if given := os.environ.get(CACHE_VARIABLE, ""):
        return Path(given).absolute()
    if _IS_CHECKOUT:
        return _CHECKOUT / ".cache"
    with contextlib.suppress(RuntimeError):  # of a user without a home
        return Path.home() / ".cache" / "moe-leverage"
    return Path(tempfile.gettempdir()) / f"moe-leverage-{user_name()}"


def user_name() -> str:
    """A name of the user for a folder, where the system knows none its number, where it has one."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


DATA = _CHECKOUT / "data" if _IS_CHECKOUT else PACKAGE / "data"
FITS = DATA / "fits"
INSTRUMENTS = DATA / "instruments"  # recordings that the interactive pages play
CACHE = _cache()
BUILD = _CHECKOUT / "build" if _IS_CHECKOUT else Path.cwd() / "build"


def require_posix(what: str) -> None:
    """Refuse on Windows what counts on POSIX: signals that stop a run, folders put on the disk.

    >>> require_posix("train")
    """
    rule = f"{what} needs Linux, macOS or WSL; what trains nothing works here too"
    require(sys.platform != "win32", "system", sys.platform, rule)


def require_output(name: str, path: Path, *others: Path | None) -> Path:
    """Refuse a place that cannot be written before the work whose result goes there.

    An output is a new name in a folder that is there, or a regular file, and none of the inputs
    and outputs beside it.

    >>> require_output("report", Path("nowhere") / "report.html")
    Traceback (most recent call last):
    ValueError: report = 'nowhere/report.html': its folder nowhere is not there
    """
    text = str(path)
    require(not path.is_dir(), name, text, "is a directory; name a file")
    folder = path.parent
    require(folder.is_dir(), name, text, f"its folder {shown(str(folder))[1:-1]} is not there")
    _require_regular(name, path)
    for given in others:
        is_same = given is not None and (
            path.samefile(given)
            if path.exists() and given.exists()
            else path.resolve() == given.resolve()
        )
        require(not is_same, name, text, "is an input or another output; name another file")
    can_write = os.access(folder, os.W_OK | os.X_OK) and (
        not path.exists() or os.access(path, os.W_OK)
    )
    require(can_write, name, text, "cannot be written by this user")
    return path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside `path`, flush to disk and rename; a failure leaves what was there before.

    What is there and is no regular file, a device, a pipe or a link, is left alone: ValueError.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_atomically(target, "kept")
    >>> target.read_text(), [p.name for p in target.parent.iterdir()]
    ('kept', ['note.txt'])
    """
    _require_regular("output", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:  # of the file that was meant, not of the one beside it
        raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def commit() -> tuple[str, bool] | None:
    """The commit of the checkout that the package runs from, and whether it has changes.

    None without one: for a wheel, wherever it was installed, and for files copied out of a
    repository, be it into somebody else's.
    """
    if not _IS_CHECKOUT:
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_CHECKOUT), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        if not _CHECKOUT.samefile(git("rev-parse", "--show-toplevel")):
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(PACKAGE))
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None


def _require_regular(name: str, path: Path) -> None:
    """Refuse a name that something other than a regular file bears already."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    require(not stat.S_ISDIR(mode), name, str(path), "is a directory; name a file")
    rule = "is a link, and would be replaced by a file; name the file that it leads to"
    require(not stat.S_ISLNK(mode), name, str(path), rule)
    require(stat.S_ISREG(mode), name, str(path), "is a device, pipe or socket, not a file")

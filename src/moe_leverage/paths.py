"""Where the project's data and caches lie, in a checkout and in an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]
_IS_CHECKOUT = (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "data").is_dir()

DATA = _CHECKOUT / "data" if _IS_CHECKOUT else _PACKAGE / "data"
CACHE = _CHECKOUT / ".cache" if _IS_CHECKOUT else Path.home() / ".cache" / "moe-leverage"
BUILD = _CHECKOUT / "build" if _IS_CHECKOUT else Path.cwd() / "build"

"""What the runs behind our own fits can tell, read without what it took to find out."""

from __future__ import annotations

import csv
from pathlib import Path

from moe_leverage import paths
from moe_leverage.rules import read_object

IDENTIFIED = "identified"
INDEX = "index.json"
NOT_IDENTIFIED = "not identified"  # of the verdicts of `profiles.Profile`: any value fits as well


def verdicts(directory: Path = paths.FITS) -> dict[tuple[str, str], str]:
    """What the profile likelihood said of (fit, coefficient); empty where none was written.

    >>> verdicts()["moe_tokens", "exponent"]
    'identified'
    """
    path = directory / "profiles.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return {(row["fit"], row["coefficient"]): row["verdict"] for row in rows}


def failing_gates(directory: Path = paths.FITS) -> dict[str, tuple[str, ...]]:
    """By fit, the gates of the studies behind it that failed when it was made (`analysis.gates`).

    Beside the fits stand the roles of studies whose leverage is read without one.

    >>> {"joint", "plain", "sizes"} <= set(failing_gates())
    True
    """
    path = directory / INDEX
    if not path.is_file():
        return {}
    found = read_object(path, "index of the fits").get("failing_gates", {})
    return {name: tuple(gates) for name, gates in found.items()}

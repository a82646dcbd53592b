"""Which coefficients of our own fits the runs tell, read without what it took to find out."""

from __future__ import annotations

import csv
from pathlib import Path

from moe_leverage import paths

IDENTIFIED = "identified"
NOT_IDENTIFIED = "not identified"  # of the verdicts of `diagnose.Profile`: any value fits as well


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

"""What a chapter puts on its page besides figures and tables: numbers, standing and verdicts.

Prose quotes numbers by name, and the verdict of each claim is computed in a cell from the data.
"""

from __future__ import annotations

import numbers as abstract
from typing import Any

import pandas as pd
from IPython.display import display
from myst_nb import glue

from moe_leverage.config import require
from moe_leverage.figures.registry import show_table

PROFILES = ("read", "retrain", "full")


def require_profile(profile: str) -> None:
    """Raise a ValueError when a chapter is asked for a profile that does not exist."""
    rule = f"must be one of {', '.join(PROFILES)}"
    require(profile in PROFILES, "profile", profile, rule)


def numbers(**values: object) -> None:
    """Name numbers (and short texts) for the prose, which quotes them as {glue:text}`name:.2f`."""
    for name, value in values.items():
        plain: Any = value
        if isinstance(value, abstract.Integral):
            plain = int(value)
        elif isinstance(value, abstract.Real):
            plain = float(value)
        # bare text, since a string's repr would put its quotation marks into the sentence
        glue(name, _Text(plain) if isinstance(plain, str) else plain, display=False)


def standing(study: str, runs: pd.DataFrame) -> None:
    """Say how many runs of a study stand in the ledger and over which compute they reach."""
    finished = runs[runs["status"] == "ok"] if len(runs) else runs
    if finished.empty:
        text = (
            f"The ledger holds no finished run of the study `{study}` yet: the figures of this "
            "chapter show the published side alone, and no measured verdict is given."
        )
    else:
        low, high = finished["compute_flops"].min(), finished["compute_flops"].max()
        text = (
            f"The ledger holds {len(finished)} finished runs of the study `{study}`, from "
            f"{low:.1e} to {high:.1e} training FLOPs; {len(runs) - len(finished)} did not finish."
        )
    _markdown(f":::{{admonition}} What stands\n:class: note\n{text}\n:::", text)


def verdicts(name: str, caption: str, *rows: dict[str, object]) -> None:
    """Display the claims of a chapter with what decides each of them, as a numbered table."""
    show_table(name, pd.DataFrame(list(rows)), caption)


def claim(
    statement: str, *, locator: str, here: str, holds: bool | None, measured: bool = False
) -> dict[str, object]:
    """One row of `verdicts`: what the paper states and whether the numbers of this page agree.

    `holds` None means that the data cannot tell. `measured` is true when our own runs decide, and
    false when the published numbers themselves do.

    >>> claim("A = 1 gives EL = 1", locator="Eq. 10", here="1.0", holds=True)["verdict"]
    'reproduced'
    """
    words = {
        (True, True): "measured: agrees",
        (True, False): "measured: disagrees",
        (True, None): "measured: cannot tell",
        (False, True): "reproduced",
        (False, False): "discrepant",
        (False, None): "not checkable",
    }
    return {
        "claim": statement,
        "in the paper": locator,
        "what we get": here,
        "verdict": words[(measured, None if holds is None else bool(holds))],
    }


class _Text(str):
    """A string whose repr is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _markdown(markdown: str, plain: str) -> None:
    bundle = {"text/markdown": markdown, "text/plain": plain}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]

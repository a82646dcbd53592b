"""Rows at the foot of a table that sum up those above: means, totals. They are no runs."""

from __future__ import annotations

import pandas as pd

SUMMARIES = frozenset({
    "mean", "average", "avg", "median", "total", "totals", "grand total", "sum", "overall", "std",
    "stdev", "std dev", "standard deviation", "min", "minimum", "max", "maximum", "count",
})  # fmt: skip
MOST = 10  # of them


def num_summaries(cells: pd.DataFrame) -> tuple[int, str]:
    """How many rows at the foot of a table are summaries, and what they call themselves.

    A row is one if a cell of it says so, and if it lacks what every run above has or says so in
    the first column: elsewhere `max` may be a setting.

    >>> num_summaries(pd.DataFrame({"run": ["a", "b", "Mean:"], "C": [1.0, 2.0, None]}))
    (1, 'mean')
    """
    texts = [name for name in cells if not pd.api.types.is_numeric_dtype(cells[name])]
    first, found = cells.columns[0], []
    for place in range(len(cells) - 1, max(len(cells) - 1 - MOST, 0), -1):
        said = {name: _word(cells[name].iloc[place]) for name in texts}
        if not SUMMARIES.intersection(said.values()):
            break
        found.append(said)
    above = cells.iloc[: len(cells) - len(found)]
    foot = cells.iloc[len(cells) - len(found) :]
    is_told = pd.Series([said.get(first) in SUMMARIES for said in reversed(found)], foot.index)
    if not ((foot.isna() & above.notna().all()).any(axis=1) | is_told).all():
        return 0, ""
    words = [word for said in reversed(found) for word in said.values() if word in SUMMARIES]
    return len(found), ", ".join(dict.fromkeys(words))


def _word(cell: object) -> str:
    return str(cell).strip(" :*_.").lower().replace(".", "").replace("_", " ")

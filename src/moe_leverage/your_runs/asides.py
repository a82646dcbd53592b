"""Rows of a table that are no runs: units under the header, the header again, means, footnotes."""

from __future__ import annotations

import pandas as pd

from moe_leverage.your_runs.formats import numeric_if_all
from moe_leverage.your_runs.settings import row_names

SUMMARIES = frozenset({
    "mean", "average", "avg", "median", "total", "totals", "grand total", "sum", "overall", "std",
    "stdev", "std dev", "standard deviation", "min", "minimum", "max", "maximum", "count",
})  # fmt: skip
MOST = 10  # rows of a foot


def without_asides(cells: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    """The rows that may be runs; units under the header become part of it, the rest is named.

    >>> told: list[str] = []
    >>> sheet = pd.DataFrame({"run": ["", "a", "Mean:"], "C": ["(EFLOP)", "1.5", "2"]})
    >>> without_asides(sheet.replace("", None), told).to_dict("list"), told
    ({'run': ['a'], 'C (EFLOP)': [1.5]}, ['row 2 (mean): below the runs and none itself; left out'])
    """
    texts = [name for name in cells if not pd.api.types.is_numeric_dtype(cells[name])]
    if len(cells) < 2 or not texts:
        return cells
    kept = cells
    first = kept.iloc[0].dropna()
    if len(first) and all(_is_unit(cell) for cell in first):
        named = {name: f"{name} {first[name]}" for name in first.index}
        kept = kept.iloc[1:].rename(columns=named)
        texts = [named.get(name, name) for name in texts]
    again = pd.Series(len(texts) == kept.shape[1], kept.index)
    for name in texts:
        again &= kept[name] == str(name)
    if again.any():
        warnings.append(f"{row_names(kept[again])}: the header again; left out")
        kept = kept[~again]
    count, words = num_in_foot(kept)
    if count:
        what = f"{row_names(kept.iloc[-count:])} ({words})"
        warnings.append(f"{what}: below the runs and none itself; left out")
        kept = kept.iloc[:-count]
    return kept if len(kept) == len(cells) else kept.apply(numeric_if_all)


def num_in_foot(cells: pd.DataFrame) -> tuple[int, str]:
    """How many rows at the foot of a table are summaries or footnotes, and what they say.

    A row is a summary if a cell of it says so, and if it lacks what every run above has or says so
    in the first column: elsewhere `max` may be a setting. A footnote is a text alone in its row.

    >>> num_in_foot(pd.DataFrame({"run": ["a", "b", "Mean:"], "C": [1.0, 2.0, None]}))
    (1, 'mean')
    """
    first = cells.columns[0]
    words: list[str] = []
    is_told: list[bool] = []
    for place in range(len(cells) - 1, max(len(cells) - 1 - MOST, 0), -1):
        row = cells.iloc[place].dropna()
        said = {name: _word(cell) for name, cell in row.items() if isinstance(cell, str)}
        found = [word for word in said.values() if word in SUMMARIES]
        is_note = len(row) == 1 and len(said) == 1 and cells.shape[1] > 2
        if not found and not is_note:
            break
        words.insert(0, (found or ["a note"])[0])
        is_told.insert(0, said.get(first) in SUMMARIES)
    above, foot = cells.iloc[: len(cells) - len(words)], cells.iloc[len(cells) - len(words) :]
    lacks = (foot.isna() & above.notna().all()).any(axis=1)
    if not (lacks | pd.Series(is_told, foot.index, dtype=bool)).all():
        return 0, ""
    return len(words), ", ".join(dict.fromkeys(words))


def _is_unit(cell: object) -> bool:
    text = str(cell)
    return text[:1] + text[-1:] in ("()", "[]") and not any(c.isdigit() for c in text)


def _word(cell: object) -> str:
    return str(cell).strip(" :*_.").lower().replace(".", "").replace("_", " ")

"""Tables as tools export them, one scalar a row, spread into one column a quantity.

TensorBoard's scalars come with a run, a tag, a step and a value; the button of one curve gives its
wall time, step and value alone, which says of no run what it is.
"""

from __future__ import annotations

import re

import pandas as pd

from moe_leverage.rules import require

LONG = ("run", "tag", "step", "value")
ONE_CURVE = {"wall time", "step", "value"}


def spread(cells: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row a run and step, one column a tag; any other table as it is.

    A tag that was not written at a step has there the value that it had last, and one that a run
    wrote once, as it does its sizes, has that value throughout; steps before all of a run's tags
    were written are left out.

    >>> cells = pd.DataFrame({"run": "a", "tag": ["loss", "loss", "n"], "step": [1, 2, 0],
    ...     "value": [3.2, 3.1, 1e8]})
    >>> spread(cells, "runs.csv").iloc[-1].to_dict()
    {'run': 'a', 'step': 2, 'loss': 3.1, 'n': 100000000.0}
    """
    theirs = {re.sub(r"[\s_]+", " ", str(header).lower()): header for header in cells.columns}
    rule = (
        "is one curve of one run; export all runs with the columns run, tag, step and value, or "
        "TensorBoard's table of hyperparameters"
    )
    require(set(theirs) != ONE_CURVE, name, ", ".join(map(str, cells.columns)), rule)
    if not set(LONG) <= set(theirs):
        return cells
    run, tag, step, value = (theirs[word] for word in LONG)
    kept = cells.drop_duplicates([run, tag, step], keep="last")
    wide = kept.pivot_table(index=[run, step], columns=tag, values=value, aggfunc="last")
    by_run = wide.groupby(level=0)
    times = by_run.transform("count")
    filled = by_run.ffill().where(times != 1, by_run.transform("first"))
    has_all = (filled.notna() | (times == 0)).all(axis=1)
    rows = kept.reset_index(names="row").groupby([run, step])["row"].first()
    found = filled[has_all].reset_index()
    found.index = pd.Index(rows[has_all].to_numpy())
    found.columns = pd.Index([str(header) for header in found.columns])
    return found

"""Which rows are one run, which are one setting with other seeds, and which are a sweep.

Rows with the same seed are never repeats. A column that differs among otherwise equal rows is a
setting, whether its name is known or not, unless it is plainly a result or a label.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage.analysis.reductions import budget_of
from moe_leverage.your_runs.columns import is_outcome

PROGRESS = ("step", "num_tokens", "compute")  # what grows within one run, the surest first
RESULTS = ("loss", "run", "row", "file", "status", "outlier", *PROGRESS, "flops_per_step")
MOSTLY_DISTINCT = 0.9  # share of rows beyond which a column's values label rows, not settings
MOST_NAMED = 5


def split_checkpoints(
    frame: pd.DataFrame, settings: pd.DataFrame, *, keep_all: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The last row of each run, or all of them on request, and what was decided, in words.

    A column of runs is one only if within each run nothing but progress and results differs.
    """
    axis = next((name for name in PROGRESS if name in frame), None)
    if "run" not in frame or axis is None or not frame["run"].duplicated().any():
        return frame, _unnamed_checkpoints(frame, settings)
    runs, fixed = frame["run"].astype(str), settings.copy()
    for name in ("seed", "is_moe"):
        if name in frame:
            fixed[name] = frame[name]
    count = runs.nunique()
    constant = all(
        _codes(pd.DataFrame({"run": runs, "own": fixed[name]})).nunique() == count for name in fixed
    )
    if not constant or frame.duplicated(["run", axis]).any():
        return frame.drop(columns="run"), [
            "the column of runs names rows that differ in more than their progress: it is read "
            "as a label, not as a run"
        ]
    if keep_all:
        kept = f"all {len(frame)} checkpoints of {count} runs are kept; intervals go by run"
        return frame, [kept]
    last = frame.loc[frame.groupby(runs)[axis].idxmax().sort_values()]
    dropped = len(frame) - len(last)
    return last, [
        f"{dropped} earlier checkpoint(s) left out: of each of {count} runs the last {axis} counts;"
        " --all-checkpoints keeps them"
    ]


def setting_columns(cells: pd.DataFrame, mapped: list[str]) -> pd.DataFrame:
    """The columns of a file that nothing maps and that could be settings of its runs."""
    kept = {}
    for name in cells.columns:
        column = cells[name]
        known = int(column.nunique())
        is_label = known >= max(MOSTLY_DISTINCT * len(column), 2) and known > 2
        if name not in mapped and known > 1 and not is_outcome(str(name)) and not is_label:
            kept[str(name)] = column
    return pd.DataFrame(kept, index=cells.index)


def with_config_ids(
    frame: pd.DataFrame, settings: pd.DataFrame
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The table with `config_id`: equal for rows that are one setting with different seeds.

    Also what was found, as notes and as warnings: the columns that are swept, and rows that nothing
    but their loss tells apart.
    """
    known = [name for name in frame.columns if name not in (*RESULTS, "seed")]
    key = pd.concat([frame[known], settings.loc[frame.index]], axis=1)
    key = key.assign(budget=_budget(frame))
    setting = _codes(key)
    seed = frame["seed"] if "seed" in frame else pd.Series(np.nan, index=frame.index)
    run = frame["run"] if "run" in frame else pd.Series("", index=frame.index)
    with_seed = pd.DataFrame({"setting": setting, "seed": seed})
    again = with_seed.groupby(["setting", "seed"], dropna=False).cumcount()
    config = _codes(
        pd.DataFrame({"setting": setting, "again": again, "run": run.where(seed.isna())})
    )
    warnings = []
    if (again > 0).any():
        rows = row_names(frame.loc[again > 0])
        same = "their seed included " if "seed" in frame else ""
        warnings.append(
            f"{int((again > 0).sum())} row(s) equal another in every setting, {same}but not in "
            f"their loss: the best counts, none is a repeat ({rows})"
        )
    return frame.assign(config_id=config), _sweep_notes(frame, key, setting), warnings


def row_names(frame: pd.DataFrame) -> str:
    """Rows as the file numbers them: `row 3, 7 and 12 more`."""
    names = [str(row) for row in frame.index]
    shown = ", ".join(names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"row {shown}" + (f" and {more} more" if more > 0 else "")


def _sweep_notes(frame: pd.DataFrame, key: pd.DataFrame, setting: pd.Series) -> list[str]:
    """The columns that differ among rows of one family and budget."""
    axes = [name for name in ("is_moe", "activation_ratio", "granularity", "shared_ratio",
                              "variant") if name in frame]  # fmt: skip
    point = _codes(key[[*axes, "budget"]])
    counts = setting.groupby(point).nunique()
    swept = [
        str(name) for name in key.columns
        if name not in (*axes, "budget") and _differs(key[name], point)
    ]  # fmt: skip
    if not (counts > 1).any():
        return []
    what = f"columns that differ there: {', '.join(swept)}" if swept else "no column tells them"
    number = int((counts > 1).sum())
    return [
        f"at {number} of {len(counts)} points of family and budget several settings stand, of "
        f"which the best counts; {what}"
    ]


def _unnamed_checkpoints(frame: pd.DataFrame, settings: pd.DataFrame) -> list[str]:
    """A warning where rows that differ in their step alone look like the checkpoints of a run."""
    if "step" not in frame or len(frame) < 2:
        return []
    known = [name for name in frame.columns if name not in RESULTS]
    key = pd.concat([frame[known], settings.loc[frame.index]], axis=1)
    if key.shape[1] == 0:
        return []
    several = frame["step"].groupby(_codes(key)).nunique()
    if int((several > 2).sum()) == 0:
        return []
    return [
        "rows that differ in step alone look like checkpoints of one run; name the column that "
        "tells runs apart with --column run=NAME"
    ]


def _budget(frame: pd.DataFrame) -> pd.Series:
    """The budget of each row: of its compute, or of its tokens where there is none."""
    name = next((name for name in ("compute", "num_tokens") if name in frame), None)
    if name is None:
        return pd.Series(0.0, index=frame.index)
    return pd.Series(budget_of(frame[name].to_numpy(float)), index=frame.index)


def _codes(table: pd.DataFrame) -> pd.Series:
    """A number for each row, equal where all columns are; blanks equal one another."""
    codes = np.zeros(len(table), dtype=np.int64)
    for place in range(table.shape[1]):  # by place: two columns may bear one name
        own = pd.factorize(table.iloc[:, place], use_na_sentinel=False)[0]
        _, codes = np.unique(codes * (int(own.max(initial=0)) + 1) + own, return_inverse=True)
    return pd.Series(codes, index=table.index)


def _differs(column: pd.Series, point: pd.Series) -> bool:
    """Whether a column takes several values at any point."""
    return int(_codes(pd.DataFrame({"point": point, "own": column})).nunique()) > point.nunique()

"""A reader's tables of training runs as the one table that `findings` examines.

Columns are mapped as told or by their names, units are converted, axes and compute are counted from
shapes where they are not given, and every bad value is an error with its file, row and column: the
row as the file numbers it, a header being row 1. What was assumed is listed in `notes`.

    A, G, S   activation ratio, granularity, shared-expert ratio
    M, D, C   FLOPs per token (forward, without logits), tokens, training compute
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_leverage.rules import require
from moe_leverage.your_runs import conventions
from moe_leverage.your_runs.asides import without_asides
from moe_leverage.your_runs.axes import (
    COUNTED_WITHOUT,
    EXPERT_COLUMNS,
    SHAPES,
    complete_axes,
    count_shapes,
    is_mixture,
)
from moe_leverage.your_runs.columns import (
    LOG10,
    PERPLEXITY,
    UNITS,
    ColumnMap,
    checked,
    guess_map,
    load_map,
    told_map,
)
from moe_leverage.your_runs.formats import read_cells
from moe_leverage.your_runs.plausible import WHOLE, check_loss_unit, check_range, refuse_row
from moe_leverage.your_runs.settings import (
    row_names,
    setting_columns,
    split_checkpoints,
    with_config_ids,
)
from moe_leverage.your_runs.values import numbers

TEXTS = ("status", "variant", "is_moe", "run", "outlier")
FINISHED = ("", "ok", "finished", "done", "completed", "success", "true", "1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a reader chose: which columns, which units, which rows."""

    column_map: Path | None = None
    columns: Sequence[str] = ()  # ours=theirs
    units: Sequence[str] = ()  # ours=unit
    where: str = ""  # an expression over the columns of the file
    only: str = ""  # "dense" or "moe"
    all_checkpoints: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsTable:
    """The runs, and everything that was decided on the way."""

    runs: pd.DataFrame
    mapping: ColumnMap
    notes: list[str]
    warnings: list[str]
    convention_gap: float = 0.0  # ln of mixtures' FLOPs over dense rows' at equal N_a D; 0: alike


@dataclass(slots=True)
class _Log:
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


ALL = Choice()


def read_runs(paths: Path | Sequence[Path], choice: Choice = ALL) -> RunsTable:
    """Read, map, convert, check and complete one or several tables of runs.

    Raises ValueError naming file, row and column of the first value that cannot be right.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    require(bool(files), "RUNS", None, "name a file")
    names = _told_apart(files)
    log, read = _Log(), []
    for path, name in zip(files, names, strict=True):
        own = _Log()
        try:
            label = name if len(files) > 1 else ""
            frame, settings, mapping = _read_one(path, choice, own, label)
        except ValueError as error:
            raise ValueError(_in_file(name, str(error))) from None
        read.append((frame, settings, mapping))
        place = f"{name}: " if len(files) > 1 else ""
        log.notes += [f"{place}{note}" for note in own.notes]
        log.warnings += [f"{place}{warning}" for warning in own.warnings]
    shown = files[0].name if len(files) == 1 else "tables"
    try:
        return _complete(read, choice, log)
    except ValueError as error:
        raise ValueError(_in_file(shown, str(error))) from None


def _told_apart(files: Sequence[Path]) -> list[str]:
    """What each file is called: its name, or its whole path where two have one name."""
    for place, path in enumerate(files):
        is_new = path.resolve() not in {other.resolve() for other in files[:place]}
        require(is_new, "RUNS", str(path), "is named twice; its rows would count twice")
    names = [path.name for path in files]
    return [str(path) if names.count(path.name) > 1 else path.name for path in files]


def _in_file(name: str, text: str) -> str:
    """A message that names its file once."""
    return text if name in text.split(":")[0] else f"{name}, {text}"


def _read_one(
    path: Path, choice: Choice, log: _Log, label: str
) -> tuple[pd.DataFrame, pd.DataFrame, ColumnMap]:
    """One file in our names and units, the columns that may be settings, and its map.

    `label` names the file in each row's name, where there are several.
    """
    several = bool(label)
    cells = read_cells(path)
    blank = cells.isna().all(axis=1)
    cells = cells[~blank]
    require(len(cells) > 0, "RUNS", path.name, "has a header and no rows")
    if blank.any():
        log.warnings.append(f"{int(blank.sum())} blank line(s) were left out")
    cells = without_asides(cells, log.warnings)
    mapping = _mapped(cells, choice, several=several)
    cells = _chosen(cells, choice.where, log)
    log.notes += [
        f"column {theirs} is {ours}" + (f", in {unit}" if (unit := mapping.units.get(ours)) else "")
        for ours, theirs in mapping.columns.items()
    ]
    log.notes += mapping.notes
    cells, frame = _drop_unfinished(cells, mapping, log.warnings)
    frame = _in_our_units(cells, frame, mapping, log.notes)
    for name, theirs in mapping.columns.items():
        if name not in TEXTS and name != "seed":
            check_range(frame, name, cells[theirs], theirs)
    settings = setting_columns(cells, list(mapping.columns.values()))
    if several:
        frame.index = settings.index = pd.Index([f"{label}:{row}" for row in frame.index])
    return frame, settings, mapping


def _mapped(cells: pd.DataFrame, choice: Choice, *, several: bool) -> ColumnMap:
    told = told_map(choice.columns, choice.units)
    if several:  # what is told of one table need not be in the other
        there = {ours: name for ours, name in told.columns.items() if name in cells}
        told = replace(told, columns=there)
    if choice.column_map is None:
        mapping = guess_map(cells, told)
    else:
        given = load_map(choice.column_map)
        mapping = checked(
            replace(given, columns={**given.columns, **told.columns},
                    units={**given.units, **told.units}, told=given.told | told.told),
            cells,
        )  # fmt: skip
    for ours in told.units:
        rule = "no column is read as this quantity"
        require(several or ours in mapping.columns, f"--unit {ours}", told.units[ours], rule)
    units = {ours: unit for ours, unit in mapping.units.items() if ours in mapping.columns}
    return replace(mapping, units=units)


def _chosen(cells: pd.DataFrame, where: str, log: _Log) -> pd.DataFrame:
    """The rows that an expression over the file's columns keeps."""
    if not where:
        return cells
    try:
        kept = cells.query(where, engine="python")
    except Exception as error:  # whatever an expression can do wrong
        text = " ".join(str(error).split())
        raise ValueError(f"--where = {where!r}: {text[:160]}") from None
    require(len(kept) > 0, "--where", where, "keeps no row")
    log.notes.append(f"--where keeps {len(kept)} of {len(cells)} rows")
    return kept


def _drop_unfinished(
    cells: pd.DataFrame, mapping: ColumnMap, warnings: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of runs that ended well and that nobody marked, and the texts of those."""
    texts = {
        ours: cells[theirs].map(_text).astype(object)
        for ours, theirs in mapping.columns.items() if ours in TEXTS
    }  # fmt: skip
    frame = pd.DataFrame(texts, index=cells.index)
    if "status" in frame:
        finished = frame["status"].str.lower().isin(FINISHED)
        if not finished.all():
            named = ", ".join(sorted(set(frame.loc[~finished, "status"])))
            rows = row_names(frame[~finished])
            warnings.append(f"{(~finished).sum()} run(s) with status {named} were left out: {rows}")
        require(bool(finished.any()), "status", warnings, "no run has finished")
        frame = frame[finished]
    if "outlier" in frame:
        marked = frame["outlier"].str.lower().isin(("true", "1", "1.0", "yes", "y", "outlier"))
        if marked.any():
            rows = row_names(frame[marked])
            warnings.append(f"{marked.sum()} row(s) marked as outliers were left out: {rows}")
        require(not marked.all(), "outlier", warnings, "every row is marked")
        frame = frame[~marked]
    return cells.loc[frame.index], frame


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return "" if np.isnan(cell) else f"{cell:g}"
    return "" if cell is None or cell is pd.NA else str(cell).strip()


def _in_our_units(
    cells: pd.DataFrame, frame: pd.DataFrame, mapping: ColumnMap, notes: list[str]
) -> pd.DataFrame:
    for ours, theirs in mapping.columns.items():
        if ours in TEXTS:
            continue
        read = numbers(cells[theirs])
        value, shown = read.value, cells[theirs]
        if ours == "seed" and read.is_bad.any():  # a seed is a label
            value = pd.Series(pd.factorize(shown)[0].astype(float), index=shown.index)
        else:
            texts = shown[read.is_bad].astype(str)
            hint = "; decimals need a point" if texts.str.contains(",").any() else ""
            if ours == "loss" and not hint:
                hint = "; a run that did not end? leave its row out, or mark it in a column status"
            bad = pd.Series(read.is_bad, index=shown.index)
            refuse_row(bad, ours, shown, f"is not a number{hint}", theirs)
        if read.has_error.any():
            notes.append(
                f"column {theirs}: what {int(read.has_error.sum())} cell(s) say beside the number "
                "(its error, a footnote) is not used; intervals are by what the runs show"
            )
        if ours in UNITS:
            unit = mapping.units[ours]
            factor = np.where(read.has_unit, 1.0, UNITS[ours][unit])
            value = _in_own_unit(value, unit, factor)
        frame = frame.assign(**{ours: value})
    return frame


def _in_own_unit(value: pd.Series, unit: str, factor: NDArray[np.float64]) -> pd.Series:
    """A quantity in nats, FLOPs, tokens or parameters."""
    if unit == PERPLEXITY:
        return pd.Series(np.log(value))
    if unit == LOG10:
        with np.errstate(over="ignore"):  # a count that is none: infinite, and so refused
            return pd.Series(10.0**value)
    return value * factor


def _complete(
    read: list[tuple[pd.DataFrame, pd.DataFrame, ColumnMap]], choice: Choice, log: _Log
) -> RunsTable:
    """The tables as one, with axes, compute and settings."""
    mapping = _joined_map([entry for _, _, entry in read])
    frame = pd.concat([_with_family(entry, read, choice, log) for entry, _, _ in read])
    settings = pd.concat([entry for _, entry, _ in read]).loc[frame.index]
    frame = _only(frame, choice.only, log)
    frame = _drop_duplicates(frame, settings.loc[frame.index], log.warnings)
    settings = settings.loc[frame.index]
    frame = _with_step_compute(frame, log.notes)
    static = [name for name in frame.columns if name in (*WHOLE, "learning_rate", "batch_tokens")]
    fixed = pd.concat([frame[[n for n in static if n not in ("seed", "step")]], settings], axis=1)
    frame, said = split_checkpoints(frame, fixed, keep_all=choice.all_checkpoints)
    log.warnings += said
    frame = complete_axes(frame, log.notes)
    totals, counts = (
        count_shapes(frame, log.notes) if set(SHAPES) <= set(frame) and "num_tokens" in frame
        else (None, pd.DataFrame(index=frame.index))
    )  # fmt: skip
    frame, gap = conventions.complete_compute(frame, totals, mapping, log.notes, log.warnings)
    for name in counts.columns.difference(frame.columns, sort=False):
        frame = frame.assign(**{name: counts[name]})
        log.notes.append(f"{name} is counted from the shapes, without {COUNTED_WITHOUT[name]}")
    check_loss_unit(frame, mapping, log.warnings)
    frame, notes, warnings = with_config_ids(frame, settings)
    log.notes += notes
    log.warnings += warnings
    frame = frame.assign(row=[f"row {row}" for row in frame.index])
    if "run" in frame:
        frame = frame.rename(columns={"run": "run_id"})
    return RunsTable(
        runs=frame.reset_index(drop=True), mapping=mapping, notes=log.notes,
        warnings=log.warnings, convention_gap=gap,
    )  # fmt: skip


def _joined_map(maps: list[ColumnMap]) -> ColumnMap:
    first = maps[0]
    for other in maps[1:]:
        first = replace(
            first, columns={**other.columns, **first.columns}, units={**other.units, **first.units}
        )
    return first


def _with_family(
    frame: pd.DataFrame, read: list[tuple[pd.DataFrame, pd.DataFrame, ColumnMap]],
    choice: Choice, log: _Log,
) -> pd.DataFrame:  # fmt: skip
    """The rows of one table told dense from MoE."""
    others = [entry for entry, _, _ in read if entry is not frame]
    if not set(EXPERT_COLUMNS) & set(frame):
        told = any(set(EXPERT_COLUMNS) & set(other) for other in others)
        if told or choice.only:
            is_moe = choice.only == "moe" and not told
            what = "mixtures" if is_moe else "dense"
            log.notes.append(f"a table without any column of experts: its rows are {what}")
            return frame.assign(is_moe=is_moe)
    return frame.assign(is_moe=is_mixture(frame, log.notes))


def _only(frame: pd.DataFrame, only: str, log: _Log) -> pd.DataFrame:
    if not only:
        return frame
    kept = frame[frame["is_moe"] == (only == "moe")]
    require(len(kept) > 0, f"--{only}-only", len(frame), "keeps no row of the table")
    if len(kept) < len(frame):
        log.notes.append(f"--{only}-only keeps {len(kept)} of {len(frame)} rows")
    return kept


def _with_step_compute(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    if "compute" in frame or not {"flops_per_step", "step"} <= set(frame):
        return frame
    notes.append("compute is flops_per_step x step")
    return frame.assign(compute=frame["flops_per_step"] * frame["step"])


def _drop_duplicates(
    frame: pd.DataFrame, settings: pd.DataFrame, warnings: list[str]
) -> pd.DataFrame:
    whole = pd.concat([frame, settings], axis=1)
    again = whole.duplicated(keep="first")
    if again.any():
        rows = row_names(frame[again])
        warnings.append(f"{again.sum()} row(s) repeat another and count once: {rows}")
    return frame[~again]

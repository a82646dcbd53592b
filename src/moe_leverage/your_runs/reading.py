"""A reader's tables of training runs as the one table that `findings` examines.

Columns are mapped as told or by their names, units are converted, axes and compute are counted from
shapes where they are not given, and every bad value is an error with its file, row and column: the
row as the file numbers it, a header being row 1. What was assumed is listed in `notes`.

    A, G, S   activation ratio, granularity, shared-expert ratio
    M, D, C   FLOPs per token (forward, without logits), tokens, training compute
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.config import ModelConfig, refuse, require
from moe_leverage.your_runs import conventions
from moe_leverage.your_runs.columns import (
    MOE_WORDS,
    PERPLEXITY,
    UNITS,
    ColumnMap,
    checked,
    guess_map,
    load_map,
    told_map,
)
from moe_leverage.your_runs.formats import read_cells
from moe_leverage.your_runs.settings import (
    row_names,
    setting_columns,
    split_checkpoints,
    with_config_ids,
)
from moe_leverage.your_runs.values import numbers

TEXTS = ("status", "variant", "is_moe", "run", "outlier")
WHOLE = (
    "num_experts", "num_active_experts", "num_shared_experts", "d_model", "d_expert", "d_ffn",
    "num_layers", "num_dense_layers", "num_heads", "num_kv_heads", "vocab_size", "sequence_length",
    "seed",
)  # fmt: skip
COUNTED_WITHOUT = {  # columns that follow from a shape, and what each leaves out
    "flops_per_token": "logits",
    "active_params": "the vocabulary",
    "total_params": "the vocabulary",
}
MAY_BE_ZERO = (
    "num_experts", "num_active_experts", "num_shared_experts", "d_expert", "d_ffn",
    "num_dense_layers", "shared_ratio", "seed", "step", "shared_width",
)  # fmt: skip
MAY_BE_EMPTY = (  # what a dense row, or a run that did not finish, need not have
    *MAY_BE_ZERO, "activation_ratio", "granularity", "variant", "status", "is_moe", "loss", "run",
    "outlier", "d_expert", "learning_rate", "batch_tokens", "num_kv_heads",
)  # fmt: skip
PLAUSIBLE: dict[str, tuple[float, float, str]] = {  # low, high, and what else the number may be
    "loss": (0.01, 30.0, "nats per token"),
    "num_tokens": (1e4, 1e15, "tokens; in millions or billions? say so under [units]"),
    "batch_tokens": (16, 1e10, "tokens; sequences? map a column of tokens"),
    "compute": (1e7, 1e30, "FLOPs; in units of another size? convert the column"),
    "flops_per_token": (1e2, 1e16, "FLOPs of one token"),
    "active_params": (1e2, 1e15, "parameters; in millions or billions? say so under [units]"),
    "total_params": (1e2, 1e15, "parameters; in millions or billions? say so under [units]"),
    "activation_ratio": (1e-6, 1.0, "a fraction up to 1; in percent? say so under [units]"),
    "shared_ratio": (0.0, 1.0, "a fraction up to 1; in percent? say so under [units]"),
    "granularity": (0.05, 1e4, "2 d_model / d_expert"),
    "learning_rate": (1e-8, 10.0, "the peak learning rate"),
}
SHAPES = ("vocab_size", "num_layers", "d_model", "num_heads", "sequence_length")
FINISHED = ("", "ok", "finished", "done", "completed", "success", "true", "1")
AXIS_TOLERANCE = 0.05  # by which a given axis may differ from the one its sizes give
NEIGHBOURS = 5  # runs of about the same compute that a loss is compared with
BITS_MARGIN = 0.04  # around ln(1 / ln 2), the step from nats to bits
MOST_ODD = 0.2  # share of losses off their neighbours beyond which the spread is real
UNIFORM_MARGIN = 1.05  # over ln(vocabulary), which no trained model exceeds in nats
MOST_PERPLEXITY = 12.0  # median "loss" that is none in nats: over ln of a vocabulary of 160,000
EXPERT_COLUMNS = ("is_moe", "num_experts", "activation_ratio")


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
    log, read = _Log(), []
    for path in files:
        own = _Log()
        try:
            frame, settings, mapping = _read_one(path, choice, own, several=len(files) > 1)
        except ValueError as error:
            raise ValueError(_in_file(path, str(error))) from None
        read.append((frame, settings, mapping))
        place = f"{path.name}: " if len(files) > 1 else ""
        log.notes += [f"{place}{note}" for note in own.notes]
        log.warnings += [f"{place}{warning}" for warning in own.warnings]
    shown = files[0].name if len(files) == 1 else "tables"
    try:
        return _complete(read, choice, log)
    except ValueError as error:
        raise ValueError(_in_file(Path(shown), str(error))) from None


def _in_file(path: Path, text: str) -> str:
    """A message that names its file once."""
    return text if path.name in text.split(":")[0] else f"{path.name}, {text}"


def _read_one(
    path: Path, choice: Choice, log: _Log, *, several: bool
) -> tuple[pd.DataFrame, pd.DataFrame, ColumnMap]:
    """One file in our names and units, the columns that may be settings, and its map."""
    cells = read_cells(path)
    blank = cells.isna().all(axis=1)
    cells = cells[~blank]
    require(len(cells) > 0, "RUNS", path.name, "has a header and no rows")
    if blank.any():
        log.warnings.append(f"{int(blank.sum())} blank line(s) were left out")
    mapping = _mapped(cells, choice, several=several)
    cells = _chosen(cells, choice.where, log)
    log.notes += [
        f"column {theirs} is {ours}" + (f", in {unit}" if (unit := mapping.units.get(ours)) else "")
        for ours, theirs in mapping.columns.items()
    ]
    log.notes += mapping.notes
    cells, frame = _drop_unfinished(cells, mapping, log.warnings)
    frame = _in_our_units(cells, frame, mapping)
    for name in mapping.columns:
        if name not in TEXTS and name != "seed":
            _check_range(frame, name)
    settings = setting_columns(cells, list(mapping.columns.values()))
    if several:
        label = [f"{path.name}:{row}" for row in frame.index]
        frame.index = settings.index = pd.Index(label)
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


def _in_our_units(cells: pd.DataFrame, frame: pd.DataFrame, mapping: ColumnMap) -> pd.DataFrame:
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
            bad = pd.Series(read.is_bad, index=shown.index)
            _refuse(bad, ours, shown, f"is not a number{hint}", theirs)
        if ours in UNITS:
            unit = mapping.units[ours]
            factor = np.where(read.has_unit, 1.0, UNITS[ours][unit])
            value = np.log(value) if unit == PERPLEXITY else value * factor
        frame = frame.assign(**{ours: value})
    return frame


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
    frame = _complete_axes(frame, log.notes)
    totals, counts = (
        _count(frame, log.notes) if set(SHAPES) <= set(frame) and "num_tokens" in frame
        else (None, pd.DataFrame(index=frame.index))
    )  # fmt: skip
    frame, gap = conventions.complete_compute(frame, totals, mapping, log.notes, log.warnings)
    for name in counts.columns.difference(frame.columns, sort=False):
        frame = frame.assign(**{name: counts[name]})
        log.notes.append(f"{name} is counted from the shapes, without {COUNTED_WITHOUT[name]}")
    _check_loss_unit(frame, mapping, log.warnings)
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
    return frame.assign(is_moe=_is_moe(frame, log.notes))


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


def _check_range(frame: pd.DataFrame, name: str) -> None:
    """The first value of a column that is missing, out of range or not whole is an error."""
    column = frame[name]
    low, high, what = PLAUSIBLE.get(name, (0.0, np.inf, "a positive number"))
    outside = ~column.between(low, high) | (column <= 0 if name not in MAY_BE_ZERO else False)
    missing = column.isna()
    optional = name in MAY_BE_EMPTY and name != "loss"
    bad = (outside & ~missing) | (missing if not optional else False)
    if name in WHOLE:
        bad |= ~missing & (column != column.round())
        what = "a whole number"
    rule = f"between {low:g} and {high:g}: {what}" if name in PLAUSIBLE else what
    if name == "loss":
        absent = "no loss; leave the row out, or mark it in a column of status"
        _refuse(missing | np.isinf(column), name, column, absent)
    _refuse(bad, name, column, f"must be {rule}")


def _complete_axes(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Adds A, G and S, from their columns or from counts of experts; NaN where nothing tells."""
    moe = frame["is_moe"]
    derived = _axes_of_experts(frame)
    for name, dense in (("activation_ratio", 1.0), ("granularity", 2.0), ("shared_ratio", 0.0)):
        given = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
        if name in derived:
            counted = derived[name]
            differs = moe & given.notna() & ((given / counted - 1).abs() > AXIS_TOLERANCE)
            rule = f"differs from what the sizes give by over {AXIS_TOLERANCE:.0%}"
            _refuse(differs, name, given, rule)
            given = given.fillna(counted)
        if name == "shared_ratio" and given[moe].isna().all():
            notes.append("shared_ratio is not given: taken as 0 throughout")
            given = given.fillna(0.0)
        if moe.any() and given[moe].isna().all():
            notes.append(f"{name} is not given: leverage is told without it, its laws are not")
        else:
            rule = "an MoE row needs it where others have it, or the sizes of its experts"
            _refuse(moe & given.isna(), name, given, rule)
        frame = frame.assign(**{name: given.where(moe, dense)})
    variant = frame["variant"] if "variant" in frame else pd.Series("", index=frame.index)
    return frame.assign(variant=variant.fillna("").where(moe, ""))


def _is_moe(frame: pd.DataFrame, notes: list[str]) -> pd.Series:
    if "is_moe" in frame:
        known = frame["is_moe"].str.lower().map(MOE_WORDS)
        rule = f"must be one of {', '.join(filter(None, MOE_WORDS))}"
        _refuse(known.isna(), "is_moe", frame["is_moe"], rule)
        return known.astype(bool)
    if "num_experts" in frame:
        notes.append("rows with num_experts above 1 are MoE, the others dense")
        return frame["num_experts"].fillna(0) > 1
    advice = (
        "nothing tells dense from MoE rows; name a column of is_moe, num_experts or "
        "activation_ratio with --column, or say --dense-only or --moe-only"
    )
    require("activation_ratio" in frame, "is_moe", None, advice)
    notes.append("rows with activation_ratio below 1 are MoE, the others dense")
    return frame["activation_ratio"].fillna(1.0) < 1


def _axes_of_experts(frame: pd.DataFrame) -> dict[str, pd.Series]:
    derived = {}
    if {"num_experts", "num_active_experts"} <= set(frame):
        shared = _shared_experts(frame)
        top_k = frame["num_active_experts"]
        excess = frame["is_moe"] & (top_k > frame["num_experts"])
        _refuse(excess, "num_active_experts", top_k, "exceeds num_experts")
        own = pd.Series(0.0, index=frame.index) if shared is None else shared
        derived["activation_ratio"] = (top_k + own) / (frame["num_experts"] + own)
        if shared is not None:
            derived["shared_ratio"] = shared / (top_k + shared)
    if {"d_model", "d_expert"} <= set(frame):
        derived["granularity"] = 2 * frame["d_model"] / frame["d_expert"].replace(0.0, np.nan)
    return derived


def _shared_experts(frame: pd.DataFrame) -> pd.Series | None:
    """Shared experts in widths of routed ones, counted or from the width of the shared block."""
    if "num_shared_experts" in frame:
        return frame["num_shared_experts"].fillna(0)
    if {"shared_width", "d_expert"} <= set(frame):
        share = frame["shared_width"] / frame["d_expert"].replace(0.0, np.nan)
        return share.fillna(0.0)
    return None


def _count(frame: pd.DataFrame, notes: list[str]) -> tuple[pd.Series, pd.DataFrame]:
    """Exact forward FLOPs of a token, and the counts of `COUNTED_WITHOUT`, once for each shape."""
    names = [*SHAPES, "num_kv_heads", "d_ffn", "num_experts", "num_active_experts",
             "num_shared_experts", "d_expert", "num_dense_layers"]  # fmt: skip
    shapes = frame[[name for name in names if name in frame]].fillna(0).astype(int)
    if "num_kv_heads" not in shapes:
        shapes["num_kv_heads"] = shapes["num_heads"]
        notes.append("num_kv_heads is not given: taken as num_heads")
    experts = [name for name in names[7:] if name in shapes]
    shapes.loc[~frame["is_moe"], experts] = 0
    known: dict[tuple[int, ...], tuple[float, ...]] = {}
    counts = np.empty((len(shapes), 1 + len(COUNTED_WITHOUT)))
    for place, values in enumerate(shapes.itertuples(index=False)):
        if tuple(values) not in known:
            fields = dict(zip(shapes.columns, (int(v) for v in values), strict=True))
            length = fields.pop("sequence_length")
            try:
                model = ModelConfig(**fields)  # type: ignore[arg-type]
                forward, params = count_forward_flops(model, length), count_parameters(model)
            except ValueError as error:
                raise ValueError(f"row {shapes.index[place]}, {error}") from None
            inner = forward.non_embedding, params.active_non_vocabulary, params.non_vocabulary
            known[tuple(values)] = (forward.total, *inner)
        counts[place] = known[tuple(values)]
    totals = pd.Series(counts[:, 0], index=frame.index)
    return totals, pd.DataFrame(counts[:, 1:], index=frame.index, columns=list(COUNTED_WITHOUT))


def _check_loss_unit(frame: pd.DataFrame, mapping: ColumnMap, warnings: list[str]) -> None:
    """Losses above a uniform guess's are errors; ones 1.44 times their neighbours' are named."""
    loss = frame["loss"]
    if "vocab_size" in frame:
        bad = loss > UNIFORM_MARGIN * np.log(frame["vocab_size"])
        _refuse(bad, "loss", loss, "exceeds ln(vocabulary); in bits?")
    high = float(loss.median()) > MOST_PERPLEXITY and "loss" not in mapping.told
    rule = "is the median, too high for nats; a perplexity? say --unit loss=perplexity"
    require(not high, "loss", float(loss.median()), rule)
    order = np.argsort(frame["compute"].to_numpy(), kind="stable")
    ordered = loss.iloc[order]
    window = ordered.rolling(NEIGHBOURS, center=True, min_periods=NEIGHBOURS)
    ratio = np.abs(np.log(ordered / window.median()))
    odd = ordered.index[np.abs(ratio + np.log(np.log(2))) < BITS_MARGIN]
    if 0 < len(odd) < MOST_ODD * len(loss):
        rows = row_names(frame.loc[odd])
        warnings.append(f"loss of {rows} is 1.44 times off its neighbours': bits and nats mixed?")


def _drop_duplicates(
    frame: pd.DataFrame, settings: pd.DataFrame, warnings: list[str]
) -> pd.DataFrame:
    whole = pd.concat([frame, settings], axis=1)
    again = whole.duplicated(keep="first")
    if again.any():
        rows = row_names(frame[again])
        warnings.append(f"{again.sum()} row(s) repeat another and count once: {rows}")
    return frame[~again]


def _refuse(
    bad: pd.Series, name: str, values: pd.Series, rule: str | Callable[[int], str], column: str = ""
) -> None:
    """Raise a ValueError naming the first bad row of the file, its value and the rule."""
    if not bad.any():
        return
    place = int(bad.to_numpy(dtype=bool).argmax())
    value = values.iloc[place]
    text = rule if isinstance(rule, str) else rule(place)
    shown = float(value) if isinstance(value, float) else value
    theirs = f" (column {column})" if column and column != name else ""
    refuse(f"row {bad.index[place]}, {name}{theirs}", shown, text)

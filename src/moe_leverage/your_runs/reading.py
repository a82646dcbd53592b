"""A reader's CSV of training runs as the table that `findings` examines.

Columns are mapped by a file or by their names, units are converted, axes and compute are counted
from shapes where they are not given, and every bad value is an error with its row and column: the
row as the file numbers it, the header being row 1. What was assumed is listed in `notes`.

    A, G, S   activation ratio, granularity, shared-expert ratio
    M, D, C   FLOPs per token (forward, without logits), tokens, training compute
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moe_leverage.accounting import TRAINING_PASSES, count_forward_flops, count_parameters
from moe_leverage.config import ModelConfig, require
from moe_leverage.your_runs.columns import (
    UNITS,
    ColumnMap,
    encoding_rule,
    guess_map,
    load_map,
    read_headers,
)

TEXTS = ("status", "variant", "is_moe")
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
    "num_dense_layers", "shared_ratio", "seed",
)  # fmt: skip
MAY_BE_EMPTY = (  # what a dense row, or a run that did not finish, need not have
    *MAY_BE_ZERO, "activation_ratio", "granularity", "variant", "status", "is_moe", "loss",
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
AGREEMENT = 0.35  # by which given and counted compute may differ, as conventions do (Appendix C)
AXIS_TOLERANCE = 0.05  # by which a given axis may differ from the one its sizes give
FIRST_ROW = 2  # of data, as the file numbers it
NEIGHBOURS = 5  # runs of about the same compute that a loss is compared with
BITS_MARGIN = 0.04  # around ln(1 / ln 2), the step from nats to bits
MOST_ODD = 0.2  # share of losses off their neighbours beyond which the spread is real
UNIFORM_MARGIN = 1.05  # over ln(vocabulary), which no trained model exceeds in nats
SHOWN_ROWS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsTable:
    """The runs, and everything that was decided on the way."""

    runs: pd.DataFrame
    mapping: ColumnMap
    notes: list[str]
    warnings: list[str]


def read_runs(path: Path, column_map: Path | None = None) -> RunsTable:
    """Read, map, convert, check and complete a CSV of runs.

    Raises ValueError naming row and column of the first value that cannot be right.
    """
    headers, separator = read_headers(path)
    _check_cells(path, len(headers), separator)
    mapping = load_map(column_map, headers) if column_map else guess_map(headers)
    frame, blank = _read_cells(path, headers, separator, mapping)
    warnings: list[str] = []
    frame = _drop_unfinished(frame, warnings)
    notes = [
        f"column {theirs} is {ours}" + (f", in {unit}" if (unit := mapping.units.get(ours)) else "")
        for ours, theirs in mapping.columns.items()
    ]
    if blank:
        warnings.append(f"{blank} blank line(s) were left out")
    for name in mapping.columns:
        if name not in TEXTS:
            _check_range(frame, name)
    frame = _complete_axes(frame, notes)
    frame = _complete_compute(frame, mapping.units.get("compute", ""), notes)
    _check_loss_unit(frame, warnings)
    frame = _drop_duplicates(frame, warnings)
    return RunsTable(runs=frame, mapping=mapping, notes=notes, warnings=warnings)


def _read_cells(
    path: Path, headers: list[str], separator: str, mapping: ColumnMap
) -> tuple[pd.DataFrame, int]:
    """The mapped columns as numbers in our units, indexed by row of the file."""
    texts = {theirs: str for ours, theirs in mapping.columns.items() if ours in TEXTS}
    try:
        frame = pd.read_csv(
            path, sep=separator, names=headers, header=0, index_col=False, encoding="utf-8-sig",
            usecols=list(mapping.columns.values()), dtype=texts, skip_blank_lines=False,
            low_memory=False,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}, {_undecodable(path, error)}") from None
    except pd.errors.ParserError as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise ValueError(f"{path.name}: {reason}") from None
    frame = frame.rename(columns={theirs: ours for ours, theirs in mapping.columns.items()})
    frame.index = pd.RangeIndex(FIRST_ROW, FIRST_ROW + len(frame))
    blank = frame.isna().all(axis=1)
    frame = frame[~blank].copy()
    require(len(frame) > 0, "RUNS", path.name, "has a header and no rows")
    for name in frame.columns:
        if name in TEXTS:
            frame[name] = frame[name].fillna("").str.strip()
        else:
            factor = UNITS[name][mapping.units[name]] if name in UNITS else 1.0
            frame[name] = _numbers(frame[name]) * factor
    return frame, int(blank.sum())


def _check_cells(path: Path, num_columns: int, separator: str) -> None:
    """A row with more or fewer cells than the header is an error; pandas judges quoted rows."""
    mark = separator.encode()
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            cells = line.count(mark) + 1
            if cells != num_columns and b'"' not in line and line.strip():
                require(False, f"row {row}", f"{cells} cells", f"the header has {num_columns}")


def _numbers(column: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    bad = numbers.isna() & column.notna()
    hint = "; decimals need a point" if column[bad].astype(str).str.contains(",").any() else ""
    _refuse(bad, str(column.name), column, f"is not a number{hint}")
    return numbers


def _drop_unfinished(frame: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    if "status" not in frame:
        return frame
    finished = frame["status"].str.lower().isin(FINISHED)
    if not finished.all():
        named = ", ".join(sorted(set(frame.loc[~finished, "status"])))
        rows = _rows(frame.index[~finished])
        warnings.append(f"{(~finished).sum()} run(s) with status {named} were left out: {rows}")
    require(bool(finished.any()), "status", warnings, "no run has finished")
    return frame[finished]


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
    """Adds is_moe, A, G and S, from the columns of axes or from the counts of experts."""
    frame = frame.assign(is_moe=_is_moe(frame, notes))
    moe = frame["is_moe"]
    derived = _axes_of_experts(frame)
    for name, dense in (("activation_ratio", 1.0), ("granularity", 2.0), ("shared_ratio", 0.0)):
        given = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
        if name in derived:
            counted = derived[name]
            differs = moe & given.notna() & ((given / counted - 1).abs() > AXIS_TOLERANCE)
            _refuse(
                differs,
                name,
                given,
                f"differs from what the sizes give by over {AXIS_TOLERANCE:.0%}",
            )
            given = given.fillna(counted)
        if name == "shared_ratio" and given[moe].isna().all():
            notes.append("shared_ratio is not given: taken as 0 throughout")
            given = given.fillna(0.0)
        rule = "an MoE row needs it, or num_experts, num_active_experts, d_model and d_expert"
        _refuse(moe & given.isna(), name, given, rule)
        frame = frame.assign(**{name: given.where(moe, dense)})
    return frame.assign(variant=frame.get("variant", ""))


def _is_moe(frame: pd.DataFrame, notes: list[str]) -> pd.Series:
    if "is_moe" in frame:
        words = {"true": True, "1": True, "moe": True, "yes": True, "sparse": True}
        words |= {
            "1.0": True,
            "0.0": False,
            "false": False,
            "0": False,
            "dense": False,
            "no": False,
            "": False,
        }
        known = frame["is_moe"].str.lower().map(words)
        rule = f"must be one of {', '.join(filter(None, words))}"
        _refuse(known.isna(), "is_moe", frame["is_moe"], rule)
        return known.astype(bool)
    if "num_experts" in frame:
        notes.append("rows with num_experts above 1 are MoE, the others dense")
        return frame["num_experts"].fillna(0) > 1
    advice = "nothing tells dense from MoE rows; map is_moe, num_experts or activation_ratio"
    require("activation_ratio" in frame, "activation_ratio", None, advice)
    notes.append("rows with activation_ratio below 1 are MoE, the others dense")
    return frame["activation_ratio"].fillna(1.0) < 1


def _axes_of_experts(frame: pd.DataFrame) -> dict[str, pd.Series]:
    derived = {}
    if {"num_experts", "num_active_experts"} <= set(frame):
        shared = frame["num_shared_experts"].fillna(0) if "num_shared_experts" in frame else 0.0
        top_k = frame["num_active_experts"]
        excess = frame["is_moe"] & (top_k > frame["num_experts"])
        _refuse(excess, "num_active_experts", top_k, "exceeds num_experts")
        active = frame["num_active_experts"] + shared
        derived["activation_ratio"] = active / (frame["num_experts"] + shared)
        if "num_shared_experts" in frame:
            derived["shared_ratio"] = shared / active
    if {"d_model", "d_expert"} <= set(frame):
        derived["granularity"] = 2 * frame["d_model"] / frame["d_expert"].replace(0.0, np.nan)
    return derived


def _complete_compute(frame: pd.DataFrame, convention: str, notes: list[str]) -> pd.DataFrame:
    """Adds training compute where the file has none, and tokens and M where they follow."""
    shaped = set(SHAPES) <= set(frame) and "num_tokens" in frame
    counted = None
    if shaped:
        totals, counts = _count(frame, notes)
        counted = TRAINING_PASSES * totals * frame["num_tokens"]
        source = "3 x exact forward FLOPs of the shape x tokens"
        for name in counts.columns.difference(frame.columns, sort=False):
            frame = frame.assign(**{name: counts[name]})
            notes.append(f"{name} is counted from the shapes, without {COUNTED_WITHOUT[name]}")
    elif {"flops_per_token", "num_tokens"} <= set(frame):
        counted = TRAINING_PASSES * frame["flops_per_token"] * frame["num_tokens"]
        source = "3 x flops_per_token x tokens"
    elif {"active_params", "num_tokens"} <= set(frame):
        counted = 6 * frame["active_params"] * frame["num_tokens"]
        source = "6 x active parameters x tokens"
    if "compute" in frame:
        if convention == "six_n" and shaped:
            notes.append(f"compute in 6 N D is counted again as {source}")
            return frame.assign(compute=counted)
        if convention == "six_n":
            notes.append("compute is in 6 N D; the published law counts exact FLOPs")
        if counted is not None:
            _check_compute(frame["compute"], counted, source)
        return frame
    needs = f"not given, and cannot be counted: map num_tokens and {', '.join(SHAPES)}"
    require(counted is not None, "compute", None, needs)
    notes.append(f"compute is {source}")
    return frame.assign(compute=counted)


def _check_compute(given: pd.Series, counted: pd.Series, source: str) -> None:
    """Given compute that is another convention than it says, or a mixture, is an error."""
    ratio = given / counted
    typical = float(ratio.median())
    odd = (np.log(ratio / typical)).abs() > np.log1p(AGREEMENT)
    mixed = f"x {source}, other rows {typical:.3g} x: mixed units"
    _refuse(odd, "compute", given, lambda i: f"is {ratio.iloc[i]:.3g} {mixed}")
    if not 1 / (1 + AGREEMENT) < typical < 1 + AGREEMENT:
        guess = "; forward FLOPs? say so under [units]" if 0.2 < typical < 0.5 else ""
        rule = f"is {typical:.3g} x {source}{guess}"
        require(False, f"row {given.index[0]}, compute", float(given.iloc[0]), rule)


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


def _check_loss_unit(frame: pd.DataFrame, warnings: list[str]) -> None:
    """Losses above a uniform guess's are errors; ones 1.44 times their neighbours' are named."""
    loss = frame["loss"]
    if "vocab_size" in frame:
        bad = loss > UNIFORM_MARGIN * np.log(frame["vocab_size"])
        _refuse(bad, "loss", loss, "exceeds ln(vocabulary); in bits?")
    order = np.argsort(frame["compute"].to_numpy(), kind="stable")
    ordered = loss.iloc[order]
    window = ordered.rolling(NEIGHBOURS, center=True, min_periods=NEIGHBOURS)
    ratio = np.abs(np.log(ordered / window.median()))
    odd = ordered.index[np.abs(ratio + np.log(np.log(2))) < BITS_MARGIN]
    if 0 < len(odd) < MOST_ODD * len(loss):
        warnings.append(
            f"loss of {_rows(odd)} is 1.44 times off its neighbours': bits and nats mixed?"
        )


def _drop_duplicates(frame: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    again = frame.duplicated(keep="first")
    if again.any():
        rows = _rows(frame.index[again])
        warnings.append(f"{again.sum()} row(s) repeat another and count once: {rows}")
    return frame[~again].reset_index(drop=True)


def _refuse(bad: pd.Series, name: str, values: pd.Series, rule: str | Callable[[int], str]) -> None:
    """Raise a ValueError naming the first bad row of the file, its value and the rule."""
    if not bad.any():
        return
    place = int(bad.to_numpy(dtype=bool).argmax())
    value = values.iloc[place]
    text = rule if isinstance(rule, str) else rule(place)
    shown = float(value) if isinstance(value, float) else value
    require(False, f"row {bad.index[place]}, {name}", shown, text)


def _rows(index: pd.Index) -> str:
    shown = ", ".join(str(row) for row in index[:SHOWN_ROWS])
    return f"row {shown}" + (
        f" and {len(index) - SHOWN_ROWS} more" if len(index) > SHOWN_ROWS else ""
    )


def _undecodable(path: Path, error: UnicodeDecodeError) -> str:
    """The first row that is not UTF-8, and what to do."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                return f"row {number}: {encoding_rule(line, found)}"
    return f"{error}"

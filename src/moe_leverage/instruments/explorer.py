"""What the explorer page is given: every run of the ledger as a row, and the rest study by study.

The index is loaded with the page; the curves, configs and loads of a study only when one of its
runs is opened. Numbers are rounded to what a plot or a table shows.

    A, G, S   activation ratio, granularity, shared-expert ratio
    M, D, C   FLOPs per token, tokens, compute
    EL        efficiency leverage, from the fits of the ledger (data/fits)
    twin      the dense run that a run is laid beside
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from moe_leverage import ledger, paths
from moe_leverage.analysis.dense_frontier import best_dense, of_frontier
from moe_leverage.analysis.gates import MOST_IDLE, MOST_LOAD, gates, rests_on
from moe_leverage.config import LatentAttentionConfig, ModelConfig, RoutingConfig, RunConfig
from moe_leverage.instruments.scripts import assign
from moe_leverage.page import theme
from moe_leverage.studies.catalogue import STUDIES
from moe_leverage.studies.protocol import CORPUS
from moe_leverage.theory.law import Array
from moe_leverage.training.schedule import curve_steps

ESTIMATOR = "frontier"  # of the EL shown; chapter 07 has the others
DIGITS = 5  # significant, of every number that is no count
COLUMNS = {  # of the index: name in the page, column of the ledger
    "run": "run_id",
    "status": "status",
    "excluded": "excluded",
    "C": "training_flops",
    "A": "activation_ratio",
    "G": "granularity",
    "S": "shared_ratio",
    "M": "flops_per_token",
    "N": "total_params",
    "N_a": "active_params",
    "D": "num_tokens",
    "eta": "learning_rate",
    "seed": "seed",
    "B": "batch_tokens",
    "budget": "budget_flops",
    "loss": "loss_nats",
    "error": "validation_standard_error_nats",
    "bits": "validation_bits_per_byte",
}
PARTS: Mapping[str, type] = {  # of a config, under the names of their fields
    "model": ModelConfig,
    "routing": RoutingConfig,
    "latent_attention": LatentAttentionConfig,
}
SPEEDS = ("seconds", "tokens_per_second", "flops_per_second", "peak_share")


def study_names(directory: Path = ledger.DIRECTORY) -> list[str]:
    """The studies that the ledger holds, in the order of their plan."""
    found = {path.stem for path in directory.glob("*.jsonl")}
    return [name for name in STUDIES if name in found] + sorted(found - set(STUDIES))


def index(directory: Path = ledger.DIRECTORY, fits: Path = paths.FITS) -> dict[str, Any]:
    """One row for each run, whichever studies planned it, and what a study answers.

    >>> sorted(index())
    ['columns', 'frontier', 'gates', 'hasLeverage', 'rows', 'rungs', 'studies']
    """
    frame = _runs(directory, study_names(directory))
    names = _shown(frame, study_names(directory))
    answers = {name: STUDIES[name].answers if name in STUDIES else "" for name in names}
    rows = _index_table(frame, _leverage(fits)) if len(frame) else pd.DataFrame()
    return {
        "studies": answers,
        "hasLeverage": bool(len(rows)) and bool(rows["EL"].notna().any()),
        "gates": _gates(directory, names),
        "frontier": [list(map(plain, place)) for place in zip(*_frontier(frame), strict=True)],
        "rungs": list(map(plain, _best(frame)["budget"])),
        "columns": list(rows.columns),
        "rows": [list(map(plain, row)) for row in rows.itertuples(index=False)],
    }


def details(study: str, directory: Path = ledger.DIRECTORY) -> dict[str, Any]:
    """Of each run whose home is this study: config, loss curve, load, speed, environment.

    What all of them share stands once, in `common`; `steps` are the places of a curve's points.
    """
    frame = _runs(directory, study_names(directory))
    frame = frame[frame["study"] == study] if len(frame) else frame
    facts = _facts(frame) if len(frame) else []
    common = _shared(facts)
    if not facts:
        return {"common": common, "steps": {}, "runs": {}}
    curves = zip(facts, frame["training_loss_curve_nats"], _loads(frame), strict=True)
    own = [
        {
            "own": {k: v for k, v in values.items() if k not in common},
            "curve": [round(loss, 3) for loss in curve],
            "load": load,
        }
        for values, curve, load in curves
    ]
    lengths = sorted(frame["num_steps"].unique().tolist())
    return {
        "common": common,
        "steps": {str(number): curve_steps(number) for number in lengths},
        "runs": dict(zip(frame["run_id"], own, strict=True)),
    }


def overview(directory: Path = ledger.DIRECTORY) -> pd.DataFrame:
    """One row a study: what it answers, its runs and their reach, for a page without scripts."""
    frame = _runs(directory, study_names(directory))
    columns = ["study", "answers", "runs", "not finished", "C from", "C to", "lowest loss"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    rows = []
    for study in _shown(frame, study_names(directory)):
        runs = frame[frame["studies"].map(lambda names, study=study: study in names)]
        done = runs[runs["status"] == "ok"]
        reach = (runs["training_flops"].min(), runs["training_flops"].max())
        answers = STUDIES[study].answers if study in STUDIES else "no study of the package"
        lowest = done["loss_nats"].min()
        rows.append((study, answers, len(runs), len(runs) - len(done), *reach, lowest))
    return pd.DataFrame(rows, columns=columns)


def index_script() -> str:
    """The index as a script."""
    return assign("explorer", index())


def details_script(study: str) -> str:
    """The details of a study as a script."""
    return assign(f"details_{study.replace('-', '_')}", details(study))


def homes(directory: Path) -> dict[str, str]:
    """The home of every run: the first study of the plan that has it."""
    frame = _runs(directory, study_names(directory))
    return {} if frame.empty else dict(zip(frame["run_id"], frame["study"], strict=True))


def plain(value: Any) -> Any:
    """A value as JSON has it: short, and null where there is none."""
    if value is None or isinstance(value, (str, bool, list)):
        return value
    if isinstance(value, (np.integer, int)):
        return int(value)
    number = float(value)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def _runs(directory: Path, names: list[str]) -> pd.DataFrame:
    """Every run once, its home the first study of the plan that has it and leaves it in.

    Those on the small corpus are left out: losses on two texts do not compare.
    """
    frame = ledger.table(directory=directory)
    if frame.empty:
        return frame
    frame = frame[frame["corpus"] == CORPUS]
    frame = frame.sort_values("study", key=lambda studies: studies.map(names.index), kind="stable")
    planned = frame.groupby("run_id")["study"].agg(lambda studies: sorted(studies, key=names.index))
    frame = frame.sort_values("excluded", key=pd.Series.notna, kind="stable")
    frame = frame.drop_duplicates("run_id").reset_index(drop=True)
    return frame.assign(studies=frame["run_id"].map(planned))


def _shown(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Those of the studies that have a run here."""
    found = set() if frame.empty else {name for names in frame["studies"] for name in names}
    return [name for name in names if name in found]


def _index_table(frame: pd.DataFrame, leverage: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({name: frame.get(column) for name, column in COLUMNS.items()})
    table["studies"] = frame["studies"]
    table[["family", "role"]] = frame[["family", "role"]]
    table["config"] = pd.factorize(frame["config_id"])[0]
    table["excess"] = _excess(frame, table)
    table["load"] = ledger.worst_layer(frame, "load.max_over_mean")
    table["shade"] = [theme.activation_step(float(ratio)) for ratio in table["A"]]
    table = table.merge(leverage, on="run", how="left")
    table["twin"] = _twins(table)
    return table.drop(columns=["role"])


def _leverage(fits: Path) -> pd.DataFrame:
    """EL with its interval, or its bound beyond the dense frontier, for each run behind a point.

    A run of a variant that is the baseline itself has the baseline's: it stands on more seeds.
    """
    names = {"efficiency_leverage": "EL", "low": "EL_low", "high": "EL_high"}
    names |= {"at_least": "EL_least", "at_most": "EL_most"}
    blank = pd.DataFrame(columns=["run", *names.values()])
    path = fits / "leverage.csv"
    points = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    if "run_id" not in points:
        return blank
    said = points[["efficiency_leverage", "at_least", "at_most"]].notna().any(axis=1)
    points = points[(points["estimator"] == ESTIMATOR) & said]
    points = points.sort_values("variant", key=pd.Series.notna, kind="stable")
    each = points.assign(run=points["run_id"].str.split()).explode("run").rename(columns=names)
    return each[list(blank)].drop_duplicates("run") if len(each) else blank


def _dense(table: pd.DataFrame) -> pd.DataFrame:
    """The dense runs that others are compared with: the frontier's."""
    sound = table[(table["status"] == "ok") & table["excluded"].isna()]
    return of_frontier(sound.assign(is_moe=sound["family"] != "dense"))


def _gates(directory: Path, names: list[str]) -> dict[str, Any]:
    """The gates of each study, the studies on whose gates it rests, and the limits of one run."""
    table = ledger.table(directory=directory)
    found: dict[str, list[dict[str, Any]]] = {}
    for gate in gates(table):
        words = {"name": gate.name, "holds": gate.holds, "detail": gate.detail}
        figures = {"figure": plain(gate.figure), "limit": plain(gate.limit)}
        found.setdefault(gate.study, []).append(words | figures)
    return {
        "load": MOST_LOAD,
        "idle": MOST_IDLE,
        "found": found,
        "restsOn": {name: [n for n in names if n in rests_on(table, [name])] for name in names},
    }


def _best(frame: pd.DataFrame) -> pd.DataFrame:
    """The best dense design at each budget: a rung of the ladder, others lie between them."""
    return best_dense(frame if frame.empty else ledger.finished(frame))


def _frontier(frame: pd.DataFrame) -> tuple[Array, Array]:
    """C and the mean loss of the best dense design at each budget, the lowest so far."""
    best = _best(frame)
    return best["compute"].to_numpy(float), best["loss"].cummin().to_numpy(float)


def _excess(frame: pd.DataFrame, table: pd.DataFrame) -> Array:
    """Loss above the dense frontier at equal compute, interpolated in (ln C, ln L); NaN beyond."""
    compute, losses = map(np.log, _frontier(frame))
    if not len(compute):
        return np.full(len(table), np.nan)
    log_c = np.log(table["C"].to_numpy(dtype=float))
    is_inside = (log_c >= compute[0] - 0.04) & (log_c <= compute[-1] + 0.04)  # a budget's width
    excess = table["loss"].to_numpy(dtype=float) - np.exp(np.interp(log_c, compute, losses))
    return np.where(is_inside, excess, np.nan)


def _twins(table: pd.DataFrame) -> list[str | None]:
    """For each run the best dense run of the nearest budget: of its own studies, else of any."""
    dense: list[dict[Any, Any]] = _dense(table).to_dict("records")

    def order(twin: dict[Any, Any], run: dict[Any, Any]) -> tuple[bool, float, float]:
        is_foreign = set(twin["studies"]).isdisjoint(run["studies"])
        return is_foreign, abs(math.log(twin["budget"] / run["budget"])), twin["loss"]

    found: list[str | None] = []
    for run in table.to_dict("records"):
        others = [twin for twin in dense if twin["run"] != run["run"]]
        nearest = min(others, key=lambda twin, run=run: order(twin, run), default=None)  # type: ignore[misc]
        found.append(None if nearest is None else nearest["run"])
    return found


def _facts(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Config, speed and environment of each run as one level of named values."""
    facts = dict(_config(frame))
    if "parent_ids" in frame:  # in place of all of their configs
        begun = frame["parent_ids"].map(lambda ids: " ".join(ids) if isinstance(ids, tuple) else "")
        facts["config.parents"] = begun
    facts |= {f"speed.{name}": frame[name].map(plain) for name in SPEEDS}
    facts |= {str(name): column for name, column in frame.filter(like="environment.").items()}
    facts["environment.corpus"] = frame["corpus_digest"].str[:12]
    rows = pd.DataFrame(facts).to_dict("records")
    return [{str(k): v for k, v in row.items() if not pd.isna(v)} for row in rows]


def _config(
    frame: pd.DataFrame, kind: type = RunConfig, place: str = "config", prefix: str = ""
) -> Iterator[tuple[str, pd.Series]]:
    """Each option by its place in a config; one that a record does not know is at its default."""
    for field in fields(kind):
        name = f"{place}.{field.name}"
        if field.name in PARTS:
            inner = "" if field.name == "model" else f"{field.name}."
            yield from _config(frame, PARTS[field.name], name, inner)
        elif f"{prefix}{field.name}" in frame and field.name != "parents":
            column, default = frame[f"{prefix}{field.name}"], field.default
            if column.isna().any() and default is not MISSING:
                column = column.fillna(cast("Any", default)).astype(type(default))
            yield name, column


def _loads(frame: pd.DataFrame) -> list[dict[str, list[float]] | None]:
    """What each run's experts bore, layer by layer; None where it diverged or is dense."""
    loads = frame.filter(like="load.")
    names = [str(name).removeprefix("load.") for name in loads]
    found: list[dict[str, list[float]] | None] = []
    for row in loads.itertuples(index=False):
        is_known = names and all(isinstance(values, tuple) for values in row)
        pairs = zip(names, row, strict=True)
        rounded = {name: [round(float(v), 3) for v in values] for name, values in pairs if is_known}
        found.append(rounded or None)
    return found


def _shared(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values that every row has alike."""
    first = rows[0] if rows else {}
    return {k: v for k, v in first.items() if all(row[k] == v for row in rows)}

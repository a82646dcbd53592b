"""The ledger as one typed table: a row for each run of each study; every reader of runs takes it.

A leaf of `config`, `config.model` or `axes` is a column of its own name; others carry their path:
`routing.score`, `load.entropy`, `validation.code.loss_nats`, `environment.threads`. Lists become
tuples, since all readers share the cells. Beside the leaves stand the columns of `COLUMNS`, which
follow from a record and its study's plan alone, so that no run changes what is said of another.

    C    training_flops   what the run spent, exact convention
         budget_flops     the rung of the ladder it stands on
         config_id        identity of its config whatever its seeds: equal for repeats of a setting
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moe_leverage.config import RunConfig
from moe_leverage.ledger.file import DIRECTORY, PLANS, config_of, plans, records
from moe_leverage.modules import collector_paused
from moe_leverage.rules import require

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Mapping[str, str] = {  # added to the leaves of the records: type, unit and meaning
    "protocol": "int: by which it was trained; 1, the first ladder's, where its record says none",
    "role": "str: what its study is for, see `file.ROLES`",
    "variant": "str: what a run of a variant study changes, in the columns that the study names",
    "config_id": "str: identity of the config with both its seeds at their defaults",
    "is_moe": "bool: whether any layer routes",
    "family": "str: `moe` where it does, `dense` where none does",
    "batch_tokens": "int, tokens: of one optimiser step",
    "training_flops": "float, FLOPs: C, exact convention",
    "num_parents": "int: runs whose weights it began from",
    "chain_flops": "float, FLOPs: C with that of all runs behind it, each once",
    "budget_flops": "float, FLOPs: the rung of C, 1 or 3 times a power of ten, or C in two digits",
    "attention_share": "float: attention's part of the non-embedding FLOPs of a token",
    "loss_nats": "float, nats a token: validation loss, NaN where the run diverged",
}
RUNGS = (1.0, 3.0)  # of a decade of budgets
SAME_RUNG = 0.03  # relative: whole steps and batches move C by at most this
UNPREFIXED = ("config", "model", "axes")  # sections whose leaves are columns of their own name
Packed = NDArray[Any] | list[Any]  # part of a column
Stamp = tuple[tuple[str, int, int], ...]  # name, time and size of each file
CHUNK_LINES = 50  # turned into columns at once: so few stay in the processor's cache


def table(*studies: str, directory: Path = DIRECTORY) -> pd.DataFrame:
    """The runs of these studies, or of all; without columns while there are none.

    A run that several studies plan has a row in each. The files are read once for as long as they
    do not change. ValueError for a study that has neither a file nor a plan.
    """
    whole = _read(directory, stamp(directory))
    if not studies or whole.empty:
        return whole.copy(deep=False)
    for study in studies:
        is_known = study in plans(directory) or (directory / f"{study}.jsonl").is_file()
        require(is_known, "study", study, f"has no ledger in {directory.name}/ and no plan")
    return whole[whole["study"].isin(studies)].reset_index(drop=True)


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows that an analysis may use: with a loss, and without a reason to be left out."""
    if runs.empty:
        return runs
    return runs[(runs["status"] == "ok") & runs["excluded"].isna()].reset_index(drop=True)


def once(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run in the first of its rows: several studies may have planned it."""
    return runs if runs.empty else runs.drop_duplicates("run_id", ignore_index=True)


def worst_layer(runs: pd.DataFrame, column: str) -> pd.Series[float]:
    """The largest of the layers of each run, such as of `load.max_over_mean`.

    NaN, which keeps no limit, where none is recorded: for a dense run or one that diverged.
    """
    import pandas as pd

    layers = runs[column] if column in runs else pd.Series(None, runs.index, dtype=object)
    return layers.map(
        lambda found: float(max(found)) if isinstance(found, list | tuple) and found else math.nan
    ).astype(float)


def rung(training_flops: float) -> float:
    """The budget that a compute stands on: 1 or 3 times a power of ten, if it is as near as that.

    Rounding of steps and batches moves C by up to SAME_RUNG. A compute between the rungs is its own
    budget, in two significant digits.

    >>> rung(0.9993e12), rung(3.02e11), rung(1.5512e12)
    (1000000000000.0, 300000000000.0, 1600000000000.0)
    """
    decade = math.floor(math.log10(training_flops))
    candidates = [factor * 10.0**power for power in (decade, decade + 1) for factor in RUNGS]
    nearest = min(candidates, key=lambda budget: abs(math.log(training_flops / budget)))
    is_near = abs(training_flops / nearest - 1) <= SAME_RUNG
    return nearest if is_near else float(f"{training_flops:.1e}")


def stamp(directory: Path = DIRECTORY) -> Stamp:
    """What changes whenever a file of the ledger does: for caches of what is made from it."""
    files = [*sorted(directory.glob("*.jsonl")), directory / PLANS]
    found = [(path.name, path.stat()) for path in files if path.is_file()]
    return tuple((name, status.st_mtime_ns, status.st_size) for name, status in found)


@functools.lru_cache(maxsize=4)
def _read(directory: Path, _: Stamp) -> pd.DataFrame:
    files = sorted(directory.glob("*.jsonl"))
    found = (_named(record, path.stem) for path in files for record in records(path))
    with collector_paused():
        leaves = _table(found)
    return leaves if leaves.empty else _with_columns(leaves, plans(directory))


def _named(record: dict[str, Any], study: str) -> dict[str, Any]:
    """The record with its study, its config's identity and its protocol in their places."""
    config = config_of(record, f"{study}.jsonl")
    seedless = _seedless(config)
    return {
        **record,
        "study": study,
        "protocol": record.get("protocol", 1),
        "config_id": _config_id(json.dumps(seedless, sort_keys=True)),
    }


def _seedless(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without its seeds, nor those of the runs that it begins from."""
    kept = {name: value for name, value in config.items() if name not in ("seed", "order_seed")}
    return kept | {"parents": [_seedless(parent) for parent in kept.get("parents", ())]}


@functools.cache
def _config_id(config: str) -> str:
    return RunConfig.from_dict(json.loads(config)).identity()


def _with_columns(leaves: pd.DataFrame, planned: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    compute = leaves["training_flops"].astype(float)
    parts = ("attention_projections", "attention_scores")
    nothing = pd.Series(None, leaves.index, dtype=object)  # while no run begins from another
    parents = leaves.get("parent_ids", nothing)
    chained = leaves.get("chain_training_flops", nothing)
    attention = sum(leaves[f"forward_flops.{part}"].astype(float) for part in parts)
    roles = {study: plan["role"] for study, plan in planned.items()}
    is_moe = leaves["num_experts"].astype(int) > 0
    table = leaves.assign(
        role=[roles.get(study, "pilot") for study in leaves["study"]],
        is_moe=is_moe,
        family=np.where(is_moe, "moe", "dense"),
        batch_tokens=leaves["batch_sequences"] * leaves["sequence_length"],
        training_flops=compute,
        num_parents=[len(found) if isinstance(found, tuple) else 0 for found in parents],
        chain_flops=chained.astype(float).fillna(compute),
        budget_flops=compute.map(rung),
        attention_share=attention / leaves["flops_per_token"].astype(float),
        loss_nats=leaves["validation_loss_nats"].astype(float),
    )
    return table.assign(variant=_variants(table, planned))


def _variants(table: pd.DataFrame, planned: Mapping[str, Any]) -> pd.Series[str]:
    """The study of each run of a variant study, and the values in which it varies."""
    import pandas as pd

    found = pd.Series("", table.index)
    for study in table.loc[table["role"] == "variant", "study"].unique():
        mine = table[table["study"] == study]
        columns = [mine[name].map(_short) for name in planned[study].get("varies", ())]
        words = list(zip(*columns, strict=True)) or [()] * len(mine)
        named = [" ".join([str(study), *values]) for values in words]
        found = found.where(~found.index.isin(mine.index), pd.Series(named, mine.index))
    return found


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, int | float) else str(value)


def _table(found: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Columns of leaves, packed chunk by chunk: a number of a record is not kept as an object."""
    import pandas as pd  # only now: whoever asks for statuses or plans waits for no table

    columns: dict[str, list[Packed]] = {}
    length = 0
    for chunk in _chunks(found):
        leaves = dict(_leaves("", chunk))
        for name in leaves:
            columns.setdefault(name, [[None] * length])
        for name, parts in columns.items():
            parts.append(_pack(leaves.get(name, [None] * len(chunk))))
        length += len(chunk)
    return pd.DataFrame({name: _join(parts) for name, parts in columns.items()})


def _pack(values: list[Any]) -> Packed:
    """Numbers of one type as an array; equal strings as one object; lists as tuples."""
    kinds = set(map(type, values))
    if len(kinds) == 1 and kinds <= {float, int, bool}:
        return np.array(values)
    if kinds == {str}:
        return list(map(sys.intern, values))
    return list(map(_frozen, values)) if list in kinds else values


def _frozen(value: Any) -> Any:
    """Lists as tuples, to any depth; a list of numbers has no depth."""
    if not isinstance(value, list):
        return value
    return tuple(map(_frozen, value)) if value and isinstance(value[0], list) else tuple(value)


def _join(parts: list[Packed]) -> Packed:
    filled = [part for part in parts if len(part)]
    arrays = [part for part in filled if isinstance(part, np.ndarray)]
    if len(arrays) == len(filled) and len({part.dtype for part in arrays}) == 1:
        return np.concatenate(arrays)
    return [v for p in filled for v in (p.tolist() if isinstance(p, np.ndarray) else p)]


def _chunks(found: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(found)
    while chunk := list(itertools.islice(iterator, CHUNK_LINES)):
        yield chunk


def _leaves(prefix: str, sections: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Name and values of every leaf below `sections`, the same section of many records."""
    if len(layouts := set(map(tuple, sections))) > 1:
        empty = dict.fromkeys(itertools.chain.from_iterable(layouts))
        sections = [{**empty, **section} for section in sections]
    columns = zip(*map(dict.values, sections), strict=True)
    for key, values in zip(sections[0], columns, strict=True):
        path = f"{prefix}.{key}" if prefix else key
        may_nest = values[0] is None or isinstance(values[0], dict)
        if may_nest and any(isinstance(value, dict) for value in values):
            yield from _leaves("" if path in UNPREFIXED else path, [v or {} for v in values])
        else:
            yield path, list(values)

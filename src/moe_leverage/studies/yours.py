"""A reader's own study from a TOML file: two designs or more at equal compute, as a study of ours.

What the catalogue does for the paper's axes a file does for its reader's: designs and axes in the
paper's words or as fields of a run, budgets, seeds, and the laws that give sizes and rates. All of
it is refused or planned before anything is trained.

    name, answers       what it is called, and the question
    against             the design that the others are measured against
    budgets_flops       training FLOPs of every design, exact convention
    reach_flops         further budgets of `against` alone: a design that is better at the largest
                        budget has no EL unless the other goes further
    seeds               of weights and order, shared between designs, so that differences are paired
    sizes, rates        which law gives the body, and which the learning rate and the batch
    [base]              what all designs share
    [designs.NAME]      what each design has of its own
    [axes]              lists: every design is trained with every combination of their values
"""

from __future__ import annotations

import itertools
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_leverage import corpus, ledger
from moe_leverage.config import ModelConfig, RoutingConfig, RunConfig
from moe_leverage.record import converted, field_types
from moe_leverage.rules import one_of, refuse, require
from moe_leverage.studies.catalogue import cells, register
from moe_leverage.studies.place import Place
from moe_leverage.studies.protocol import (
    POINT_FIELDS,
    Point,
    adopted_laws,
    feasible,
    require_axis,
)
from moe_leverage.studies.sweeps import Study, Sweep

if TYPE_CHECKING:
    import pandas as pd

KEYS = (
    "name", "answers", "against", "budgets_flops", "reach_flops", "seeds", "sizes", "rates", "base",
    "designs", "axes",
)  # fmt: skip
SIZES = ("starting", "isoflop")
RATES = ("published", "tuning")
WITHOUT_A_LAW = ("starting", "published")
BY_OWN_KEYS = ("seed", "budget_flops")  # fields of a point that the file sets by keys of its own
TYPES = {  # of what a design may set
    name: hint
    for part in (RoutingConfig, ModelConfig, RunConfig, Point)
    for name, hint in field_types(part).items()
}
YOURS = 0  # the protocol of records that belong to no ladder
MOST_RUNS = 10_000  # of a study: each is planned before any is trained
LEAST_FLOPS, MOST_FLOPS = 1e8, 1e20


@dataclass(frozen=True, kw_only=True, slots=True)
class YourStudy:
    """A study read from a file, the design the others are measured against, and where it lives."""

    study: Study
    against: str
    designs: tuple[str, ...]
    budgets_flops: tuple[float, ...]
    seeds: tuple[int, ...]
    place: Place


def load(path: Path) -> YourStudy:
    """The study of a file, planned once so that what cannot be trained is refused here.

    Its records lie in a folder beside the file that bears the file's name. Raises ValueError naming
    the key, the value and the rule.
    """
    require(path.is_file(), "study", str(path), "is not a file")
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"study = {path.name!r}: is not TOML: {error}") from None
    for key in values:
        require(key in KEYS, key, values[key], f"is not a key of a study: {', '.join(KEYS)}")
    name = _text(values, "name")
    require(name.replace("-", "").replace("_", "").isalnum(), "name", name, "letters, digits, - _")
    budgets, reach = _budgets(values, "budgets_flops"), _budgets(values, "reach_flops", least=0)
    seeds = _seeds(values)
    designs = dict(_designs(values))
    against = _text(values, "against")
    if against not in designs:
        refuse("against", against, one_of(designs))
    count = (len(designs) * len(budgets) + len(reach)) * len(seeds)
    require(count <= MOST_RUNS, "runs", count, f"a study has at most {MOST_RUNS:,}")
    sweeps = tuple(
        _sweep(
            design, _table(values, "base") | changes, budgets + reach * (design == against), seeds
        )
        for design, changes in designs.items()
    )
    folder = path.with_suffix("")
    rule = "is where its records belong, and is no folder"
    require(folder.is_dir() or not os.path.lexists(folder), "study", str(folder), rule)
    ledger.statuses(folder / f"{name}.jsonl")  # what is no ledger is told before anything is loaded
    study = Study(
        name=name, answers=_text(values, "answers"), sweeps=sweeps, needs=_needs(values),
        protocol=YOURS, role="plain",
    )  # fmt: skip
    found = YourStudy(
        study=study, against=against, designs=tuple(designs), budgets_flops=budgets, seeds=seeds,
        place=Place(ledger=folder),
    )  # fmt: skip
    _require_trainable(found)
    register(study)
    return found


def runs(yours: YourStudy) -> pd.DataFrame:
    """Its finished runs as a table of the ledger, each with its `design`; empty before any."""
    table = ledger.finished(ledger.table(directory=yours.place.ledger))
    designs = {task.run_id: task.sweep for task in cells(yours.study)}
    if table.empty:
        return table
    table = table[table["run_id"].isin(designs)]
    return table.assign(design=table["run_id"].map(designs)).reset_index(drop=True)


def _sweep(
    design: str, changes: Mapping[str, Any], budgets: tuple[float, ...], seeds: tuple[int, ...]
) -> Sweep:
    own = {name: value for name, value in changes.items() if name in POINT_FIELDS}
    settings = {name: value for name, value in changes.items() if name not in own}
    base = Point(budget_flops=budgets[0], settings=settings, **own)
    axes = {"budget_flops": budgets, "seed": seeds}
    return Sweep(name=design, base=base, axes=axes, where=lambda point, run: True)


def _require_trainable(yours: YourStudy) -> None:
    """Raise a ValueError for a run off its axes, one that repeats text, or designs that are one."""
    owner: dict[str, str] = {}
    for task in cells(yours.study):
        model, run = task.run.model, task.run
        got = f"whole experts give A {model.activation_ratio:.3g}, G {model.granularity:.3g}, "
        got += f"S {model.shared_ratio:.3g} with {model.num_experts} experts at width "
        got += f"{model.d_model}: too far from the axes asked for"
        where = f"designs.{task.sweep} at {task.point.budget_flops:.3g} FLOPs"
        require(feasible(task.point, run), where, "refused", got)
        by_domain = corpus.read_manifest(run.corpus)["domains"]
        require(run.domain in ("", *by_domain), "domain", run.domain, one_of(by_domain))
        seen = [run.domain] if run.domain else list(by_domain)
        available = sum(by_domain[domain]["tokens"] for domain in seen)
        words = f"{run.domain} of corpus" if run.domain else "corpus"
        rule = f"tokens would repeat text: {words} {run.corpus} has {available:,}"
        require(run.num_tokens < available, where, run.num_tokens, rule)
        other = owner.setdefault(task.run_id, task.sweep)
        rule = f"trains the same runs as designs.{other}: nothing would be compared"
        require(other == task.sweep, f"designs.{task.sweep}", "refused", rule)


def _designs(values: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every design by name, times every combination of the axes."""
    designs, axes = _table(values, "designs"), _table(values, "axes")
    for axis, entries in axes.items():
        is_list = isinstance(entries, list) and len(entries) > 0
        require(is_list, f"axes.{axis}", entries, "an axis is a list of values")
        for entry in entries:
            _require_field(f"axes.{axis}", axis, entry)
    for name, changes in designs.items():
        require(isinstance(changes, dict), f"designs.{name}", changes, "must be a table")
        require(name.isprintable(), "designs", name, "must be named in letters that can be printed")
        for field, value in changes.items():
            _require_field(f"designs.{name}.{field}", field, value)
    for field, value in _table(values, "base").items():
        _require_field(f"base.{field}", field, value)
    count = max(1, len(designs)) * math.prod(len(entries) for entries in axes.values())
    require(count > 1, "designs", list(designs), "two at least, from [designs] and [axes]")
    require(count <= MOST_RUNS, "designs", count, f"with [axes] at most {MOST_RUNS:,}")
    for name, changes in (designs or {"": {}}).items():
        for combination in itertools.product(*axes.values()):
            chosen = dict(zip(axes, combination, strict=True))
            words = [name] * bool(name) + [f"{axis}={value}" for axis, value in chosen.items()]
            yield " ".join(words), {**changes, **chosen}


def _require_field(key: str, field: str, value: Any) -> None:
    require(field not in BY_OWN_KEYS, key, value, "is set by seeds and budgets_flops")
    try:
        require_axis(field, value)
    except ValueError as error:
        raise ValueError(f"{key.rpartition('.')[0]}.{error}") from None
    require(field != "settings", key, value, "has fields that are named without it")
    converted(key, value, TYPES[field])


def _needs(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The adopted laws that sizes and rates are taken from."""
    found = []
    for key, known in (("sizes", SIZES), ("rates", RATES)):
        law = values.get(key, known[0])
        require(law in known, key, law, f"must be one of {', '.join(known)}")
        if law not in WITHOUT_A_LAW:
            is_adopted = getattr(adopted_laws(), law) is not None
            require(is_adopted, key, law, "has not been measured yet")
            found.append(law)
    return tuple(found)


def _budgets(values: Mapping[str, Any], key: str, least: int = 1) -> tuple[float, ...]:
    given = values.get(key, [])
    rule = f"must be a list of FLOPs from {LEAST_FLOPS:g} to {MOST_FLOPS:g}, each once"
    is_list = (
        isinstance(given, list) and len(given) >= least and len(set(map(str, given))) == len(given)
    )
    require(is_list, key, given, rule)
    for value in given:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(is_number and LEAST_FLOPS <= value <= MOST_FLOPS, key, value, rule)
    return tuple(sorted(float(value) for value in given))


def _seeds(values: Mapping[str, Any]) -> tuple[int, ...]:
    given = values.get("seeds", [0, 1, 2])
    rule = "must be a list of whole numbers from 0 to 2^31, each once"
    require(isinstance(given, list) and len(given) > 0, "seeds", given, rule)
    for seed in given:
        is_whole = isinstance(seed, int) and not isinstance(seed, bool)
        require(is_whole and 0 <= seed < 2**31, "seeds", seed, rule)
    require(len(set(given)) == len(given), "seeds", given, rule)
    return tuple(given)


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    require(isinstance(value, str) and bool(value), key, value, "must be a text")
    return str(value)


def _table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key, {})
    require(isinstance(value, dict), key, value, "must be a table")
    return dict(value)

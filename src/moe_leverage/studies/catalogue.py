"""Every study there is, and what each of them wants trained: its plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from moe_leverage.config import RunConfig
from moe_leverage.rules import require
from moe_leverage.studies import ladder, neighbours
from moe_leverage.studies.protocol import Laws, Point, adopted_laws, laws_for
from moe_leverage.studies.sweeps import Planned, Study

STUDIES: dict[str, Study] = {study.name: study for study in (*ladder.STUDIES, *neighbours.STUDIES)}
OURS = frozenset(STUDIES)


def get(name: str) -> Study:
    """The study of this name; ValueError lists the names there are."""
    require(name in STUDIES, "study", name, f"must be one of {', '.join(STUDIES)}")
    return STUDIES[name]


def register(study: Study) -> None:
    """Let a study that stands in no catalogue be planned by its name, as long as this process."""
    require(study.name not in OURS, "name", study.name, "is a study of this project")
    STUDIES[study.name] = study


def plan(
    name: str, laws: Laws | None = None, losses: Mapping[str, float] | None = None
) -> list[Planned]:
    """The runs of a study, each once, cheapest budget first.

    `losses` are those of recorded runs, by identity, NaN where a run diverged: a study that repeats
    its best cells plans the repetitions once all the cells of their budget are among them.
    """
    study = get(name)
    found: dict[str, Planned] = {}
    for cell in cells(study, laws):
        found.setdefault(cell.run_id, cell)
    for repeat in _repetitions(study, list(found.values()), losses or {}):
        found.setdefault(repeat.run_id, repeat)
    awaiting: dict[str, list[str]] = {}
    for task in found.values():
        for parent in task.run.parents:
            awaiting.setdefault(parent.identity(), []).append(task.run_id)
    for run_id, stages in awaiting.items():
        found[run_id] = replace(found[run_id], awaited_by=tuple(stages))
    return sorted(found.values(), key=lambda task: (task.point.budget_flops, task.point.seed))


def cells(study: Study, laws: Laws | None = None) -> Iterator[Planned]:
    """Every run of every sweep of a study, one that two sweeps share twice."""
    laws = laws_for(study.name, study.needs, adopted_laws() if laws is None else laws)
    made: dict[str, list[tuple[Point, RunConfig]]] = {}
    for sweep in study.sweeps:
        made[sweep.name] = list(sweep.runs(laws, made.get(sweep.after, ())))
        for point, run in made[sweep.name]:
            yield Planned(
                study=study.name, sweep=sweep.name, point=point, run=run, protocol=study.protocol
            )


def _repetitions(
    study: Study, planned: list[Planned], losses: Mapping[str, float]
) -> Iterator[Planned]:
    """The best cell of each complete grid, with the further seeds of its sweep."""
    seeds = {sweep.name: sweep.repeat_best for sweep in study.sweeps}
    grids: dict[tuple[str, float], list[Planned]] = {}
    for cell in planned:
        grids.setdefault((cell.sweep, cell.point.budget_flops), []).append(cell)
    for grid in grids.values():
        finite = [task for task in grid if math.isfinite(losses.get(task.run_id, math.nan))]
        if finite and all(task.run_id in losses for task in grid):
            best = min(finite, key=lambda task: losses[task.run_id])
            for seed in seeds[best.sweep]:
                point = replace(best.point, seed=seed)
                yield replace(best, point=point, run=best.run.with_seed(seed))

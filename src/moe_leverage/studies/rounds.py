"""Rounds of a study: plan, run what is missing, and plan again with what was learned.

A study that repeats its best cells (Section 2.2) knows them only when its grid is done, so that
one plan is not enough; nor can a stage begin before the runs that it begins from are recorded. The
rounds end when nothing new is planned or can begin, or when time or a signal says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace

from moe_leverage.studies import runner, status
from moe_leverage.studies.backends import Pool
from moe_leverage.studies.catalogue import STUDIES
from moe_leverage.studies.place import Place, missing, ready
from moe_leverage.studies.protocol import adopted_laws
from moe_leverage.studies.runner import Outcome, Report
from moe_leverage.studies.sweeps import Planned

Progress = Callable[[list[Planned], Place], AbstractContextManager[Report]]


def run_rounds(
    studies: Collection[str], pool: Pool, place: Place, progress: Progress
) -> list[Outcome]:
    """Run the studies named, or all that can be planned, to their end; say what became of each run.

    `progress` is opened around each round and gives the function that is told of every outcome.
    """
    outcomes: dict[str, Outcome] = {}
    deadline = time.monotonic() + pool.max_seconds
    while True:
        planned = [run for run in planned_now(studies, place) if run.run_id not in outcomes]
        waiting = ready(missing(planned, place), place)
        was_stopped = any(outcome.state == "stopped" for outcome in outcomes.values())
        if was_stopped:
            return list(outcomes.values())
        if not waiting:
            return [*outcomes.values(), *map(_waiting, missing(planned, place))]
        from moe_leverage import corpus  # only now: a plan without a run needs none

        for tier in {run.run.corpus for run in waiting}:
            corpus.load(tier)  # refuses here, and not once for each run
        left = replace(pool, max_seconds=max(0.0, deadline - time.monotonic()))
        with progress(waiting, place) as report:
            found = runner.run(waiting, pool=left, place=place, report=report)
        outcomes |= {outcome.run_id: outcome for outcome in found}
        # a run that another study has recorded is copied, which is no outcome and no run left over
        if any(task.run_id not in outcomes for task in missing(waiting, place)):
            return list(outcomes.values())


def _waiting(task: Planned) -> Outcome:
    """Of a run that could not begin, since one that it begins from has no loss."""
    reason = f"begins from {', '.join(parent.identity() for parent in task.run.parents)}"
    return Outcome(study=task.study, run_id=task.run_id, state="waiting", reason=reason)


def planned_now(studies: Collection[str], place: Place) -> list[Planned]:
    """The plans of the studies named, or of all whose laws are adopted."""
    laws = adopted_laws()
    names = studies or [
        name
        for name, study in STUDIES.items()
        if all(getattr(laws, need) is not None for need in study.needs)
    ]
    return [run for name in names for run in status.plan_now(name, place)]

"""Where the studies stand: what is planned, done, running and missing, and what is wrong.

The counterpart of the paper's tables of runs (Tables 7 to 11), read from the ledger.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_leverage import ledger
from moe_leverage.accounting import count_training_flops
from moe_leverage.studies.catalogue import STUDIES, get, plan
from moe_leverage.studies.place import Place, in_progress
from moe_leverage.studies.sweeps import Planned

ASSUMED_FLOPS_PER_SECOND = 1e10  # of one core, until the ledger knows better


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStatus:
    """How far one study is; `waits` says why it cannot be planned yet."""

    study: str
    planned: int
    done: int
    diverged: int
    running: int
    missing: int
    waits: str = ""


def plan_now(name: str, place: Place) -> list[Planned]:
    """The plan of a study as the adopted laws and the ledger give it now."""
    wanted = plan(name)
    path = place.ledger / f"{name}.jsonl"
    repeats = any(sweep.repeat_best for sweep in get(name).sweeps)
    if not (repeats and path.is_file()):
        return wanted
    losses = {r["run_id"]: r["validation_loss_nats"] for r in ledger.records(path)}
    return plan(name, losses={i: math.nan if n is None else n for i, n in losses.items()})


def status(place: Place) -> dict[str, Any]:
    """All studies, and how many different runs have finished with a loss."""
    files = {path.stem: ledger.statuses(path) for path in sorted(place.ledger.glob("*.jsonl"))}
    planned = [name for name, study in STUDIES.items() if study.sweeps]
    studies = {name: asdict(_study_status(name, files.get(name, {}), place)) for name in planned}
    states = {run_id: state for have in files.values() for run_id, state in have.items()}
    finished = sum(state == "ok" for state in states.values())
    return {"finished": finished, "diverged": len(states) - finished, "studies": studies}


def _study_status(name: str, have: dict[str, str], place: Place) -> StudyStatus:
    try:
        wanted = plan_now(name, place)
    except ValueError as error:
        counts = dict.fromkeys(("planned", "done", "diverged", "running", "missing"), 0)
        return StudyStatus(study=name, waits=str(error), **counts)
    states = [have.get(task.run_id, "") for task in wanted]
    absent = [task for task in wanted if task.run_id not in have]
    running = sum(in_progress(task, place) for task in absent)
    return StudyStatus(
        study=name,
        planned=len(wanted),
        done=states.count("ok"),
        diverged=states.count("diverged"),
        running=running,
        missing=len(absent) - running,
    )


def plans_now(place: Place, *names: str) -> dict[str, dict[str, Any]]:
    """What these studies, or all, say of themselves, and the runs that can be planned now."""
    found = {}
    for name in names or tuple(STUDIES):
        study = STUDIES[name]
        runs: list[str] = []
        with contextlib.suppress(ValueError):
            runs = sorted(planned.run_id for planned in plan_now(name, place))
        found[name] = {"role": study.role, "varies": list(study.varies), "runs": runs}
    return found


def pin(place: Place, *names: str) -> None:
    """Write the plans beside the ledger, from which an analysis knows what a study lacks."""
    ledger.write_plans(plans_now(place, *names), place.ledger)


def verify(place: Place) -> list[str]:
    """What is wrong with the ledger, line by line and against the plans; empty if nothing is.

    A run that its study does not plan any more is stale, unless it carries a reason in `excluded`.
    """
    problems = ledger.verify(place.ledger)
    written, now = ledger.plans(place.ledger), plans_now(place)
    if written and written != now:
        problems.append(f"{ledger.PLANS}: not what the studies plan now: moe-leverage study pin")
    for path in sorted(place.ledger.glob("*.jsonl")):
        if path.stem not in STUDIES:
            problems.append(f"{path.name}: no study has this name")
            continue
        if not STUDIES[path.stem].sweeps:  # its runs were chosen by hand
            continue
        wanted = set(now[path.stem]["runs"])
        if not wanted:
            problems.append(f"{path.name}: {_why_unplanned(path.stem, place)}")
            continue
        stale = set(ledger.statuses(path)) - wanted - _excluded(path)
        problems += [
            f"{path.name}: run {run_id} is stale: the study does not plan it and it carries no "
            "reason in `excluded`"
            for run_id in sorted(stale)
        ]
    return problems


def _why_unplanned(name: str, place: Place) -> str:
    try:
        plan_now(name, place)
    except ValueError as error:
        return str(error)
    return "its study plans no run"


def predicted_seconds(planned: Iterable[Planned], place: Place) -> dict[str, float]:
    """Seconds each run will take on one worker, from the speed of recorded runs of its width."""
    speeds = _speeds(place.ledger)
    overall = list(itertools.chain.from_iterable(speeds.values()))
    usual = statistics.median(overall) if overall else ASSUMED_FLOPS_PER_SECOND
    typical = {size: statistics.median(found) for size, found in speeds.items()}
    found = {}
    for task in planned:
        model = task.run.model
        speed = typical.get((model.d_model, model.is_moe), usual)
        found[task.run_id] = count_training_flops(task.run) / speed
    return found


def _speeds(directory: Path) -> dict[tuple[int, bool], list[float]]:
    """FLOPs a second of every recorded run, by its width and by whether it routes."""
    found: dict[tuple[int, bool], list[float]] = {}
    for path in sorted(directory.glob("*.jsonl")):
        for record in ledger.records(path):
            model, speed = ledger.config_of(record, path.name)["model"], record["flops_per_second"]
            if speed and speed > 0:
                size = (model["d_model"], model["num_experts"] > 0)
                found.setdefault(size, []).append(speed)
    return found


def _excluded(path: Path) -> set[str]:
    return {line["run_id"] for line in ledger.records(path) if line.get("excluded")}

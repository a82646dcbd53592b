"""Where the records and checkpoints of the studies lie, and what stands there.

What asks how far the studies are loads nothing that trains.

    ledger/<study>.jsonl      one line a finished run
    runs/<run id>.lock        held by the process that trains the run
    runs/<run id>/            its checkpoint, gone once the record stands in the ledger, and those
                              of all runs that `awaited.json` there names: they begin from it
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moe_leverage import corpus, ledger, paths
from moe_leverage.accounting import count_training_flops
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.locks import is_claimed
from moe_leverage.rules import read_object
from moe_leverage.studies.sweeps import Planned


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where records and checkpoints go; every worker of a cluster must see the same files."""

    ledger: Path = field(default_factory=lambda: paths.DATA / "ledger")
    runs: Path = field(default_factory=lambda: paths.CACHE / "runs")
    open_corpus: Callable[[str], Corpus] = corpus.load


def missing(planned: Sequence[Planned], place: Place) -> list[Planned]:
    """Those of `planned` without a record in their study's ledger, each once, cheapest first."""
    have = {
        study: ledger.statuses(ledger_path(study, place)) for study in {p.study for p in planned}
    }
    unique = {task.run_id: task for task in planned if task.run_id not in have[task.study]}
    return sorted(unique.values(), key=lambda task: count_training_flops(task.run))


def ready(tasks: Sequence[Planned], place: Place) -> list[Planned]:
    """Those of `tasks` that can begin: the runs that they begin from are recorded, with a loss."""
    have = recorded(place.ledger) if any(task.run.parents for task in tasks) else {}
    return [task for task in tasks if all(have.get(p.identity()) == "ok" for p in task.run.parents)]


def recorded(directory: Path) -> dict[str, str]:
    """Status of every run in the ledger, by identity."""
    found: dict[str, str] = {}
    for path in sorted(directory.glob("*.jsonl")):
        found |= ledger.statuses(path)
    return found


def steps_done(task: Planned, place: Place) -> int:
    """Steps that the checkpoint of a run in progress holds."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        index = read_object(place.runs / task.run_id / "checkpoint.json", "checkpoint")
        return int(index["steps_done"])
    return 0


def in_progress(task: Planned, place: Place) -> bool:
    """Whether a living process trains this run."""
    return is_claimed(lock_path(task.run_id, place))


def ledger_path(study: str, place: Place) -> Path:
    """The file of a study's records."""
    return place.ledger / f"{study}.jsonl"


def lock_path(run_id: str, place: Place) -> Path:
    """The lock of a run, held by the process that trains it."""
    return place.runs / f"{run_id}.lock"

"""Running the studies: what is left, cheapest first, over worker processes, surviving their deaths.

Each run is claimed by a lock, trained with checkpoints, and appended to the ledger by the process
that trained it; so whatever is killed, a later `run` finds every finished record, goes on from the
last checkpoint of the others, and trains nothing twice.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from joblib import Parallel, delayed

from moe_leverage import ledger
from moe_leverage.accounting import count_training_flops
from moe_leverage.config import RunConfig
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.locks import claim, holder, is_claimed
from moe_leverage.model.native import door
from moe_leverage.paths import write_atomically
from moe_leverage.studies.backends import Pool, connected, deaths_of
from moe_leverage.studies.place import Place, ledger_path, lock_path, missing, ready, recorded
from moe_leverage.studies.sweeps import Planned
from moe_leverage.training import chain, loop
from moe_leverage.training.checkpoint import CheckpointError
from moe_leverage.training.machine import Execution

State = Literal["ok", "diverged", "recorded", "elsewhere", "stopped", "failed", "waiting"]
AWAITED = "awaited.json"  # beside a checkpoint: identities of the runs that will begin from it
COMPILED_FROM_FLOPS = 7e11  # at 3e11 compiling costs more than it saves: `bench_runner`
LONGEST_REASON = 240  # characters
DEATHS_ALONE = 2  # of a worker with nothing beside it, after which its run is given up
IDLE_DEATHS = 3  # of workers that had begun no run, after which all is given up
PASS_ON_SECONDS = 0.2  # between looks for runs that were not told to stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one planned run."""

    study: str
    run_id: str
    state: State
    reason: str = ""
    seconds: float = 0.0


Report = Callable[[Outcome], None]


def run(
    planned: Sequence[Planned],
    *,
    pool: Pool | None = None,
    place: Place | None = None,
    report: Report = lambda outcome: None,
) -> list[Outcome]:
    """Train what the ledger lacks of `planned`, cheapest first, and say what became of each.

    A run that begins from others is left out until they are recorded: that takes a further call. A
    run that fails is reported by name and the rest goes on. SIGTERM and Ctrl-C let the runs in
    progress write their checkpoints, and start no further one.
    """
    pool = pool or Pool()
    place = place or Place()
    outcomes: dict[str, Outcome] = {}

    def note(outcome: Outcome) -> None:
        outcomes[outcome.run_id] = outcome
        report(outcome)

    sweep_leftovers(place)
    share(planned, place)
    waiting = ready(missing(planned, place), place)
    with _stopping(place) as stopping:
        deadline = time.monotonic() + pool.max_seconds

        def is_over() -> bool:
            return stopping.is_set() or time.monotonic() > deadline

        suspects = _drain(waiting, pool, place, note, is_over)
        for task in missing(suspects, place):
            _try_alone(task, pool, place, note, is_over)
    have = recorded(place.ledger)
    for task in waiting:  # what was recorded as another worker's death took the pool down
        if task.run_id in have and task.run_id not in outcomes:
            note(_outcome(task, have[task.run_id]))
    share(planned, place)
    sweep_leftovers(place)
    return list(outcomes.values())


def run_one(task: Planned, pool: Pool, place: Place) -> Outcome:
    """Train one run in this process and append its record; every failure comes back by name."""
    start = time.monotonic()
    try:
        with claim(lock_path(task.run_id, place)) as is_mine:
            if not is_mine:
                return _outcome(task, "elsewhere", "another process trains it")
            path = ledger_path(task.study, place)
            if task.run_id in recorded(place.ledger):
                _copy(task, place)
                return _outcome(task, "recorded", "another process finished it")
            record, remark = _train(task.run, pool, place)
            if record["status"] == "ok" and task.awaited_by:
                awaited = json.dumps(task.awaited_by)
                write_atomically(place.runs / task.run_id / AWAITED, awaited)
            ledger.append(path, record | {"study": task.study, "protocol": task.protocol})
            _drop_checkpoint(task.run_id, place)
        return _outcome(task, record["status"], remark, time.monotonic() - start)
    except loop.Stopped as stopped:
        return _outcome(task, "stopped", str(stopped))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        return _outcome(task, "failed", reason)


def share(planned: Sequence[Planned], place: Place) -> None:
    """Copy the records of runs that several studies plan into the ledger of each.

    Such a run is trained once; its record stands in every study's file, equal but for the study.
    """
    have = recorded(place.ledger)
    for task in planned:
        path = ledger_path(task.study, place)
        lacks = task.run_id in have and task.run_id not in ledger.statuses(path)
        if lacks and _has_lock(task.run_id, place):
            with claim(lock_path(task.run_id, place)) as is_mine:
                if is_mine:
                    _copy(task, place)


def _copy(task: Planned, place: Place) -> None:
    """Write a recorded run into its study's ledger too, unless it stands there; it is claimed.

    A reason to leave it out is the other study's: what is wrong there may be what is asked here.
    """
    path = ledger_path(task.study, place)
    if task.run_id not in ledger.statuses(path):
        own = {"study": task.study, "excluded": None}
        ledger.append(path, ledger.find(task.run_id, place.ledger) | own)


def sweep_leftovers(place: Place) -> None:
    """Remove checkpoints and locks of runs whose record stands in the ledger already.

    A checkpoint stays for as long as a run that will begin from it is not recorded.
    """
    have = recorded(place.ledger)
    names = {path.name.removesuffix(".lock") for path in place.runs.glob("*")}
    for run_id in sorted(names & set(have)):
        if _has_lock(run_id, place):
            with claim(lock_path(run_id, place)) as is_mine:
                if is_mine:
                    _drop_checkpoint(run_id, place)


def _drop_checkpoint(run_id: str, place: Place) -> None:
    """Remove the checkpoint of a recorded run, unless a run without a record will begin from it."""
    directory = place.runs / run_id
    awaited: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        awaited = json.loads((directory / AWAITED).read_text("utf-8"))
    if set(awaited) <= set(recorded(place.ledger)):
        shutil.rmtree(directory, ignore_errors=True)


def _has_lock(run_id: str, place: Place) -> bool:
    """Whether a run can be claimed: no folder stands where its lock belongs; `run_one` names it."""
    return not lock_path(run_id, place).is_dir()


def _clear(path: Path) -> None:
    """Remove what stands where a checkpoint belongs, be it a folder, a file or a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _drain(
    waiting: Sequence[Planned],
    pool: Pool,
    place: Place,
    note: Report,
    is_over: Callable[[], bool],
) -> list[Planned]:
    """Work through `waiting`; the runs that were going on whenever a worker process died."""
    left = {task.run_id: task for task in waiting}
    suspects: list[Planned] = []
    idle_deaths = 0
    while left and not is_over():
        try:
            for outcome in _outcomes(list(left.values()), pool, place, is_over):
                left.pop(outcome.run_id, None)
                note(outcome)
            break
        except deaths_of(pool) as error:
            struck = [task for task in left.values() if _was_struck(task, place, pool)]
            suspects += struck
            idle_deaths += not struck
            left = {task.run_id: task for task in missing(list(left.values()), place)}
            for task in struck:
                left.pop(task.run_id, None)
            if idle_deaths == IDLE_DEATHS:
                for task in left.values():
                    note(_outcome(task, "failed", f"worker processes die: {error}"))
                break
    return suspects


def _try_alone(
    task: Planned, pool: Pool, place: Place, note: Report, is_over: Callable[[], bool]
) -> None:
    """Run one suspect with nothing beside it, so that a death is its own."""
    deaths = 0
    alone = replace(pool, workers=1)
    while deaths < DEATHS_ALONE and not is_over():
        try:
            for outcome in _outcomes([task], alone, place, is_over):
                note(outcome)
            return
        except deaths_of(pool):
            deaths += 1
    if deaths == DEATHS_ALONE:
        with claim(lock_path(task.run_id, place)):
            pass  # which removes the lock that the dead left
        reason = f"its worker process died {deaths} times, alone (killed, or out of memory)"
        note(_outcome(task, "failed", reason))


def _was_struck(task: Planned, place: Place, pool: Pool) -> bool:
    """Whether a worker left the run's lock behind when it died; here, one of this process."""
    path = lock_path(task.run_id, place)
    is_ours = pool.backend != "local" or holder(path)[1] == os.getpid()
    return path.exists() and is_ours and not is_claimed(path)


def _outcomes(
    tasks: Sequence[Planned], pool: Pool, place: Place, is_over: Callable[[], bool]
) -> Iterator[Outcome]:
    """The outcomes of `tasks` as they come, from the backend's workers."""
    calls = (delayed(run_one)(task, pool, place) for task in tasks if not is_over())
    with connected(pool):
        # Two processes at least, since joblib runs a single one inside the caller; no more than
        # `workers` tasks are ever under way.
        parallel = Parallel(
            n_jobs=max(2, pool.workers),
            pre_dispatch=pool.workers,
            batch_size=1,
            return_as="list" if pool.backend == "ray" else "generator_unordered",
        )
        yield from parallel(calls)


def _train(run: RunConfig, pool: Pool, place: Place) -> tuple[dict[str, Any], str]:
    """The record of a run, from its checkpoint if that can be read, and a remark if it cannot.

    What it begins from is trained again if its checkpoint is gone, without a second record.
    """
    directory = place.runs / run.identity()
    tokens = _opened(place.open_corpus, run.corpus)
    execution = Execution(
        device=pool.device,
        threads=pool.threads,
        compile=_repays_compiling(run) if pool.compile is None else pool.compile,
        checkpoint_seconds=pool.checkpoint_seconds,
    )
    parents = chain.parents_of(
        run,
        place.runs,
        train_one=lambda parent: _train(parent, pool, place)[0],
        hold=lambda parent: claim(lock_path(parent.identity(), place), wait=True),
    )
    again = functools.partial(
        loop.train,
        run,
        corpus=tokens,
        execution=execution,
        checkpoint_directory=directory,
        progress=False,
        parents=parents,
    )
    try:
        return again(), ""
    except CheckpointError as error:
        _clear(directory)
        return again(), f"begun again, since its checkpoint could not be read: {error}"


def _repays_compiling(run: RunConfig) -> bool:
    """Whether a run is long enough to win back the seconds that compiling its step takes.

    A rule of the run alone, so that a run trained again is trained in the same way; a machine
    without a C++ compiler trains all runs as they are.
    """
    return count_training_flops(run) >= COMPILED_FROM_FLOPS and door.has_compiler()


@functools.cache
def _opened(open_corpus: Callable[[str], Corpus], tier: str) -> Corpus:
    """The corpus, opened and checked once in a process."""
    return open_corpus(tier)


def _outcome(task: Planned, state: Any, reason: str = "", seconds: float = 0.0) -> Outcome:
    return Outcome(
        study=task.study, run_id=task.run_id, state=state, reason=reason, seconds=seconds
    )


@contextlib.contextmanager
def _stopping(place: Place) -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set; they are passed on to this process's workers.

    Each run is told once, and looked for until the end: joblib takes a task more from the plan than
    it has under way, so that a worker may begin one after the event.
    """
    event, is_done = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def pass_on() -> None:
        told: set[Path] = set()
        while not is_done.wait(PASS_ON_SECONDS):
            for path in place.runs.glob("*.lock") if event.is_set() else ():
                pid, parent = holder(path)
                if path not in told and parent == os.getpid() and is_claimed(path):
                    told.add(path)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: event.set()) for number in numbers}
    messenger = threading.Thread(target=pass_on, daemon=True)
    messenger.start()
    try:
        yield event
    finally:
        is_done.set()
        messenger.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def tally(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many runs ended in each state."""
    return dict(Counter(outcome.state for outcome in outcomes))

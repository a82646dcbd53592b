"""What the terminal shows while studies run: finished runs, what is left, and for how long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_leverage.studies.place import Place
    from moe_leverage.studies.runner import Outcome
    from moe_leverage.studies.sweeps import Planned

POLL_SECONDS = 1.0  # between two looks at the checkpoints of the runs in progress


@contextmanager
def runs_left(waiting: list[Planned], place: Place) -> Iterator[Callable[[Outcome], None]]:
    """A line a finished run, with how many are left and for how long; on a terminal also a bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from moe_leverage.studies.place import steps_done
    from moe_leverage.studies.status import predicted_seconds

    console = Console(stderr=True)
    costs = predicted_seconds(waiting, place)
    left = {task.run_id: task for task in waiting}
    columns = (
        TextColumn("{task.fields[runs]} of {task.fields[planned]} runs"),
        BarColumn(),
        TextColumn("{task.percentage:.1f} % of the work"),
        TimeRemainingColumn(),
    )

    def rest() -> float:
        return sum(
            costs[task.run_id] * (1 - steps_done(task, place) / task.run.num_steps)
            for task in list(left.values())
        )

    begun, whole, rest_at_first = time.monotonic(), sum(costs.values()), rest()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=whole, runs=0, planned=len(waiting))

        def look() -> float:
            remains = rest()
            bar.update(task, completed=whole - remains, runs=len(waiting) - len(left))
            return remains

        def report(outcome: Outcome) -> None:
            left.pop(outcome.run_id, None)
            remains = look()
            words = (outcome.study, outcome.run_id, outcome.state, outcome.reason)
            line = " ".join(word for word in words if word) + f" ({outcome.seconds:.0f} s)"
            if console.is_terminal:
                bar.console.print(line)
                return
            elapsed, gone = time.monotonic() - begun, rest_at_first - remains
            line += f", {len(waiting) - len(left)} of {len(waiting)}"
            line += f", {_duration(elapsed * remains / gone)} left" if left and gone > 0 else ""
            print(line, file=sys.stderr, flush=True)

        with _repeatedly(look):
            yield report


def _duration(seconds: float) -> str:
    """A time span in the unit that suits it.

    >>> _duration(44.4), _duration(720), _duration(9000)
    ('44 s', '12 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def _repeatedly(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` every POLL_SECONDS, from a thread, until the block ends."""
    is_over = threading.Event()

    def loop() -> None:
        while not is_over.wait(POLL_SECONDS):
            action()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()

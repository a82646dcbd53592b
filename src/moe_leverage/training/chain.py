"""A run with the runs behind it: what it begins from is found where it was left, or trained first.

A chain is a pure function of its last config, as a run is, and goes on bit for bit where it was
interrupted: each of its runs has a checkpoint of its own.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from moe_leverage.config import RunConfig
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.model.transformer import Transformer
from moe_leverage.rules import require
from moe_leverage.stages import behind
from moe_leverage.training.loop import require_fit, train, trained_model
from moe_leverage.training.machine import Execution, share_of_torchrun

PARENTS = "parents"  # folder in a run's checkpoint for those of the runs behind it, by identity


def train_chain(
    run: RunConfig,
    *,
    corpus: Corpus,
    execution: Execution | None = None,
    checkpoint_directory: Path | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """`loop.train` of a run and, before it, of those that it begins from; returns its record alone.

    With a checkpoint directory all of them resume what they find there, and stay until it goes.
    Raises ValueError before any work starts if one of them does not fit, or if several processes
    share a chain.
    """
    execution = Execution() if execution is None else execution
    num_processes, _ = share_of_torchrun()
    rule = f"a run that begins from others is trained by one process, not by {num_processes}"
    require(not run.parents or num_processes == 1, "parents", len(run.parents), rule)
    for one in (run, *behind(run)):
        require_fit(one, corpus, execution)
    again = functools.partial(train, corpus=corpus, execution=execution, progress=progress)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if checkpoint_directory is None else checkpoint_directory / PARENTS

        def train_one(parent: RunConfig) -> dict[str, Any]:
            models = parents_of(parent, folder, train_one)
            directory = folder / parent.identity()
            return again(parent, checkpoint_directory=directory, parents=models)

        models = parents_of(run, folder, train_one)
        return again(run, checkpoint_directory=checkpoint_directory, parents=models)


def parents_of(
    run: RunConfig,
    folder: Path,
    train_one: Callable[[RunConfig], dict[str, Any]],
    hold: Callable[[RunConfig], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> list[Transformer]:
    """The trained models that a run begins from, out of their checkpoints in `folder`.

    Those that are not there `train_one` trains into their place, and returns their records. Each is
    looked for and read while it is held. ValueError where one diverges.
    """
    found = []
    for parent in run.parents:
        directory = folder / parent.identity()
        with hold(parent):
            try:
                model = trained_model(parent, directory)
            except ValueError:
                status = train_one(parent)["status"]
                rule = "diverged, so that nothing can begin from it"
                require(status == "ok", "parents", parent.identity(), rule)
                model = trained_model(parent, directory)
        found.append(model)
    return found

"""One training run: config in, ledger record out; it checkpoints, stops and resumes by itself.

A run is a pure function of its config and corpus. What is interrupted goes on bit for bit, by the
protocol of Section 2 and Appendix B of the paper (see `learning` for one step of it).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from moe_leverage import ledger
from moe_leverage.config import RunConfig
from moe_leverage.corpus.tokens import Corpus, batch
from moe_leverage.model.transformer import Transformer, build_model, require_trainable
from moe_leverage.rules import require
from moe_leverage.stages import require_chain, sequences_before
from moe_leverage.training import checkpoint
from moe_leverage.training.evaluation import evaluate
from moe_leverage.training.learning import (
    State,
    exchange_merged,
    learn,
    misfit,
    restore,
    start,
    tensors,
)
from moe_leverage.training.machine import (
    Execution,
    Machine,
    environment,
    machine_of,
    measured_peak,
)
from moe_leverage.training.schedule import curve_steps


class Stopped(KeyboardInterrupt):
    """A signal ended the run after its checkpoint was written; the same call resumes it."""

    def __init__(self, signal_number: int, steps_done: int, num_steps: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"{name}: stopped after step {steps_done} of {num_steps}")
        self.signal_number = signal_number


def train(
    run: RunConfig,
    *,
    corpus: Corpus,
    execution: Execution | None = None,
    checkpoint_directory: Path | None = None,
    progress: bool | None = None,
    parents: Sequence[Transformer] = (),
) -> dict[str, Any]:
    """Train `run` on `corpus` and return its ledger record.

    A run that begins from others is given their trained models; `chain.train_chain` trains them.

    With a checkpoint directory, of this run alone, the run resumes what it finds there, writes a
    checkpoint now and then and at the end, and on SIGTERM or Ctrl-C writes one and raises
    `Stopped`. A loss or gradient that is not finite ends the run with status `diverged`. Progress
    shows where the error stream is a terminal, unless `progress` says otherwise.

    Raises ValueError before any work starts if run, corpus and execution do not fit together.
    """
    execution = Execution() if execution is None else execution
    require_fit(run, corpus, execution)
    with machine_of(execution, run.precision) as machine:
        rule = f"must be shared equally by {machine.num_processes} processes"
        is_shared = run.batch_sequences % machine.num_processes == 0
        require(is_shared, "batch_sequences", run.batch_sequences, rule)
        state = start(run, machine, parents)
        if checkpoint_directory is not None:
            _resume(state, run, corpus, checkpoint_directory)
        is_shown = sys.stderr.isatty() if progress is None else progress
        with (
            _caught_signals(checkpoint_directory is not None) as caught,
            _progress_bar(run, is_shown and machine.is_first) as show,
        ):
            is_finite = _run_steps(state, run, corpus, machine, checkpoint_directory, caught, show)
            record = _record(state, run, corpus, machine, is_finite)
        if caught:
            raise Stopped(caught[0], state.steps_done, run.num_steps)
    return record


def trained_model(run: RunConfig, checkpoint_directory: Path) -> Transformer:
    """The model that a finished run left in its checkpoint, merged if the run merges."""
    path = str(checkpoint_directory)
    found = checkpoint.load(checkpoint_directory, run_id=run.identity())
    if found is None or found.steps_done < run.num_steps:
        raise ValueError(f"checkpoint_directory = {path!r}: holds no finished run")
    model = build_model(run.model, run.seed)
    prefix = "merged" if run.merge_checkpoints else "model"
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(found.tensors[f"{prefix}.{name}"])
        for name, buffer in model.named_buffers():
            buffer.copy_(found.tensors[f"model.{name}"])
    return model.eval()


def require_fit(run: RunConfig, corpus: Corpus, execution: Execution) -> None:
    """Refuse a run that its corpus or its execution cannot serve, before any work starts."""
    rule = "needs whole matrices in each process: parallel = 'ddp'"
    is_whole = not run.prune_sparsity or execution.parallel != "fsdp"
    require(is_whole, "prune_sparsity", run.prune_sparsity, rule)
    dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
    require_trainable(run.model, execution.dispatch, dtype)
    require(run.corpus == corpus.tier, "corpus", run.corpus, f"the corpus given is {corpus.tier}")
    vocab_size, rule = run.model.vocab_size, f"the corpus has {corpus.vocab_size} tokens"
    require(vocab_size >= corpus.vocab_size, "vocab_size", vocab_size, rule)
    text = corpus.text(run.domain)
    rule = f"must be below the {len(text)} training tokens of the corpus"
    require(run.sequence_length < len(text), "sequence_length", run.sequence_length, rule)
    require_chain(run)
    if run.domain or run.parents:
        before, there = sequences_before(run), (len(text) - 1) // run.sequence_length
        rule = f"would repeat text: {there} sequences less {before} seen before are left of it"
        is_new = before + run.num_steps * run.batch_sequences <= there
        require(is_new, "num_steps", run.num_steps, rule)
    for name, tokens in corpus.validation.items():
        rule = f"{name} has {len(tokens)} validation tokens, fewer than two sequences"
        is_enough = 2 * run.sequence_length < len(tokens)
        require(is_enough, "sequence_length", run.sequence_length, rule)


def own_share(run: RunConfig, corpus: Corpus, step: int, machine: Machine) -> torch.Tensor:
    """This process's sequences of the batch of `step`."""
    tokens = batch(
        corpus.text(run.domain),
        seed=run.batch_seed,
        step=step,
        batch_sequences=run.batch_sequences,
        sequence_length=run.sequence_length,
        before=sequences_before(run),
    )
    return torch.from_numpy(np.split(tokens, machine.num_processes)[machine.rank])


def _run_steps(
    state: State,
    run: RunConfig,
    corpus: Corpus,
    machine: Machine,
    directory: Path | None,
    caught: list[int],
    show: Callable[[State], None],
) -> bool:
    """Learn step by step to the end, keeping checkpoints; False where the run diverged."""
    kept_at, kept_steps = time.monotonic(), state.steps_done
    while state.steps_done < run.num_steps:
        begun = time.perf_counter()
        is_finite = learn(state, run, own_share(run, corpus, state.steps_done, machine), machine)
        state.seconds += time.perf_counter() - begun
        if not is_finite:
            return False
        show(state)
        is_due = time.monotonic() - kept_at >= machine.execution.checkpoint_seconds
        must_stop, must_keep = machine.any_of(bool(caught), is_due)
        if directory is not None and (must_stop or must_keep):
            _keep(state, run, corpus, machine, directory)
            kept_at, kept_steps = time.monotonic(), state.steps_done
            if must_stop and state.steps_done < run.num_steps:
                number = caught[0] if caught else signal.SIGTERM
                raise Stopped(number, state.steps_done, run.num_steps)
    if directory is not None and kept_steps < state.steps_done:
        _keep(state, run, corpus, machine, directory)
    return True


def _resume(state: State, run: RunConfig, corpus: Corpus, directory: Path) -> None:
    """Bring `state` to where the checkpoint in `directory`, if there is one, left the run."""
    found = checkpoint.load(directory, run_id=run.identity())
    if found is None:
        return
    digest, seconds = (found.progress.get(name) for name in ("corpus_digest", "seconds"))
    is_told = isinstance(digest, str) and isinstance(seconds, float) and 0 <= seconds < math.inf
    rule = "damaged: its progress must have corpus_digest and seconds"
    checkpoint.require_usable(is_told, directory, rule)
    rule = f"was trained on another build of the corpus, {str(digest)[:12]}"
    checkpoint.require_usable(digest == corpus.digest, directory, rule)
    rule = f"damaged: steps_done is {found.steps_done} of {run.num_steps}"
    checkpoint.require_usable(0 <= found.steps_done <= run.num_steps, directory, rule)
    fault = misfit(state, found.tensors, found.steps_done)
    checkpoint.require_usable(not fault, directory, f"damaged: {fault}")
    restore(state, found.tensors, seconds=float(cast(float, seconds)))


def _keep(state: State, run: RunConfig, corpus: Corpus, machine: Machine, directory: Path) -> None:
    """Write a checkpoint, from the first process, of what all processes hold."""
    held = tensors(state)
    if machine.is_first:
        now = checkpoint.Checkpoint(
            run_id=run.identity(),
            steps_done=state.steps_done,
            tensors=held,
            progress={"seconds": state.seconds, "corpus_digest": corpus.digest},
        )
        checkpoint.save(directory, now)
    machine.wait()


def _record(
    state: State, run: RunConfig, corpus: Corpus, machine: Machine, is_finite: bool
) -> dict[str, Any]:
    """What the ledger keeps of the run; a diverged one has no validation loss."""
    begun = time.perf_counter()
    measured = _evaluate(state, run, corpus, machine) if is_finite else {}
    tokens = state.steps_done * run.batch_tokens
    described = ledger.describe(run)
    flops_per_second = described["training_flops"] / run.num_tokens * tokens / state.seconds
    peak = measured_peak(machine, run.precision) * machine.num_processes
    return {
        **described,
        "status": "ok" if is_finite else "diverged",
        "corpus_digest": corpus.digest,
        "steps_done": state.steps_done,
        **dict.fromkeys(ledger.RESULTS),
        **measured,
        "training_loss_curve_nats": _curve(state.losses, run.num_steps),
        "training_load_curve": state.loads,
        "seconds": state.seconds,
        "evaluation_seconds": time.perf_counter() - begun,
        "tokens_per_second": tokens / state.seconds,
        "flops_per_second": flops_per_second,
        "peak_flops_per_second": peak,
        "peak_share": flops_per_second / peak,
        "environment": environment(machine),
    }


def _evaluate(state: State, run: RunConfig, corpus: Corpus, machine: Machine) -> dict[str, Any]:
    """Validation of the model the run yields; of a merged one, also of its last checkpoint.

    Where several windows are scored, `merge_window_losses_nats` has the loss of each, the largest
    window first.
    """
    score = functools.partial(evaluate, state.wrapped, run, corpus, machine)
    last = score()
    if not state.merged:
        return last
    merged = []
    for window in state.merged:
        exchange_merged(state, window)
        merged.append(score())
        exchange_merged(state, window)
    found = {**merged[0], "unmerged_validation_loss_nats": last["validation_loss_nats"]}
    losses = [of["validation_loss_nats"] for of in merged]
    return found | ({"merge_window_losses_nats": losses} if len(losses) > 1 else {})


def _curve(losses: list[float], num_steps: int) -> list[float]:
    """Mean loss between the points of the grid, as far as the run came."""
    grid = [0, *(point for point in curve_steps(num_steps) if point <= len(losses))]
    return [round(float(np.mean(losses[a:b])), 6) for a, b in itertools.pairwise(grid)]


@contextlib.contextmanager
def _caught_signals(is_wanted: bool) -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list instead of dying of them; only the main thread can."""
    caught: list[int] = []
    if not is_wanted or threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {n: signal.signal(n, lambda number, _: caught.append(number)) for n in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress_bar(run: RunConfig, is_shown: bool) -> Iterator[Callable[[State], None]]:
    """A function to call after each step, which shows loss, tokens per second and time left."""
    if not is_shown:
        yield lambda state: None
        return
    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    # text on the error stream everywhere: rich's notebook mode would need widgets
    console = Console(stderr=True, force_jupyter=False, force_terminal=True)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=run.num_steps, loss=float("nan"), rate=0.0)

        def show(state: State) -> None:
            rate = state.steps_done * run.batch_tokens / state.seconds
            bar.update(task, completed=state.steps_done, loss=state.losses[-1], rate=rate)

        yield show

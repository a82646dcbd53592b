"""What a run needs at least, told from its config before anything is built (Section 2.1's counts).

Both figures are lower bounds: a run that they refuse cannot go on here, one that they let through
may still be too large. They are the reader's to overrule.

    N    parameters        16 bytes each: weight, gradient and two moments
    D    num_tokens        C = 3 x forward FLOPs x D
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from moe_leverage.accounting import count_parameters, count_training_flops
from moe_leverage.config import RunConfig
from moe_leverage.rules import require
from moe_leverage.training.schedule import merge_windows

BYTES_A_PARAMETER = 16  # fp32 weight, gradient and two moments
BYTES_A_MODULE = 20_000  # of Python objects of one layer
BYTES_A_NUMBER = 4
KEPT_WIDTHS = 8  # activations of a token and layer that wait for the backward pass, in d_model
LONGEST_SECONDS = 30 * 86_400.0  # that a run may take at least
FLOPS_PER_SECOND = {"cpu": 1e11, "mps": 3e13, "cuda": 2e15}  # of a core, of a device, at the most
SECONDS_A_STEP = 2e-4  # of Python, however small the model
CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What a run takes at least, of each of its processes."""

    weights_bytes: float
    activations_bytes: float
    seconds: float

    @property
    def bytes(self) -> float:
        """All of it."""
        return self.weights_bytes + self.activations_bytes


def need(run: RunConfig, *, device: str = "cpu", processes: int = 1, micro: int = 0) -> Need:
    """The least memory and time of `run`, `micro` sequences of a process's share at a time.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=1024, num_layers=4, d_model=64, num_heads=4,
    ...     num_kv_heads=2, d_ffn=192)
    >>> found = need(RunConfig(model=model, corpus="smoke", sequence_length=256, batch_sequences=8,
    ...     num_steps=100, learning_rate=1e-3))
    >>> f"{found.weights_bytes / 1e6:.1f} MB, {found.activations_bytes / 1e6:.1f} MB"
    '5.3 MB, 46.2 MB'
    """
    model, parameters = run.model, count_parameters(run.model).total
    share = -(-run.batch_sequences // processes)
    tokens = (min(micro, share) if micro else share) * run.sequence_length
    widths = KEPT_WIDTHS * model.d_model + 2 * model.d_active_ffn
    kept = tokens * (model.num_layers * widths + 2 * model.vocab_size) * BYTES_A_NUMBER
    batch = 2 * 8 * run.batch_sequences * (run.sequence_length + 1)  # the whole one, in int64
    copies = BYTES_A_PARAMETER + BYTES_A_NUMBER * len(merge_windows(run))
    speed = FLOPS_PER_SECOND.get(device, max(FLOPS_PER_SECOND.values())) * processes
    speed *= (os.cpu_count() or 1) if device == "cpu" else 1
    return Need(
        weights_bytes=parameters * copies + BYTES_A_MODULE * model.num_layers,
        activations_bytes=kept + batch,
        seconds=max(count_training_flops(run) / speed, SECONDS_A_STEP * run.num_steps),
    )


def memory_bytes() -> float:
    """Memory of this machine, or of the part of it that this process was given."""
    found = float("inf")
    with contextlib.suppress(OSError, ValueError, AttributeError):  # where the system is another
        found = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        found = min(found, float(CGROUP.read_text()))
    return found


def require_room(
    run: RunConfig, memory: float, *, device: str = "cpu", processes: int = 1, micro: int = 0
) -> None:
    """Refuse a run that this machine cannot hold, or that would not end, with the figure.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=1024, num_layers=4, d_model=64, num_heads=4,
    ...     num_kv_heads=2, num_experts=10**6, num_active_experts=1, d_expert=64)
    >>> require_room(RunConfig(model=model, corpus="smoke", sequence_length=256,
    ...     batch_sequences=8, num_steps=100, learning_rate=1e-3), 16e9)
    Traceback (most recent call last):
    ValueError: memory = '791 GB': is the least that this run needs, 791 GB of it for weights and \
their moments; this machine has 16 GB; --force begins it all the same
    """
    found = need(run, device=device, processes=processes, micro=micro)
    sized = f"{found.weights_bytes / 1e9:.3g} GB of it for weights and their moments"
    rule = f"is the least that this run needs, {sized}; this machine has {memory / 1e9:.3g} GB"
    allowed = "; --force begins it all the same"
    require(found.bytes <= memory, "memory", f"{found.bytes / 1e9:.3g} GB", rule + allowed)
    days = f"{found.seconds / 86_400:.3g} days"
    rule = f"is the least that this run takes here, more than {LONGEST_SECONDS / 86_400:g}"
    require(found.seconds <= LONGEST_SECONDS, "time", days, rule + allowed)

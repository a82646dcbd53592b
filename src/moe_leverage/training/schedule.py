"""The learning rate of every step (Appendix B: warm-up, stable, decay) and checkpoint merging.

Both ends are right: the first step already moves, the peak is reached, and the last step runs at
exactly the stated floor; merging is the average of late checkpoints that replaces the decay (WSM,
arXiv 2507.17634).

    n    num_steps              steps 0 to n - 1, one optimiser update each
    f    final_rate_fraction    rate of step n - 1 over the peak
    r    share of the decay done after a step: 1 / (decay steps) on its first, 1 on its last
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np

from moe_leverage.config import RunConfig
from moe_leverage.rules import require

CURVE_POINTS = 64  # of the training loss curve that a record keeps
LOAD_POINTS = 12  # of the experts' loads over training that a record keeps

# Decay from 1 to the floor f, of the share r of the decay that is done.
DECAYS: Mapping[str, Callable[[float, float], float]] = {
    "exponential": lambda r, f: f**r,
    "linear": lambda r, f: 1 - (1 - f) * r,
    "cosine": lambda r, f: f + (1 - f) * (1 + math.cos(math.pi * r)) / 2,
    "sqrt": lambda r, f: 1 - (1 - f) * math.sqrt(r),
    "none": lambda r, f: 1.0,
}


def phase_steps(run: RunConfig) -> tuple[int, int, int]:
    """Steps of the warm-up, of the stable phase and of the decay; they add to `num_steps`.

    The last warm-up step and every stable step run at the peak. In a run too short for all three
    the decay keeps its share and the warm-up is cut, never below one step.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> phase_steps(RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3))
    (10, 70, 20)
    """
    decay = 0 if run.decay == "none" else max(1, round(run.decay_fraction * run.num_steps))
    decay = min(decay, run.num_steps - 1)
    warmup = max(1, run.min_warmup_steps, round(run.warmup_fraction * run.num_steps))
    warmup = min(warmup, run.num_steps - decay)
    return warmup, run.num_steps - warmup - decay, decay


def learning_rate_multiplier(step: int, run: RunConfig) -> float:
    """Learning rate of `step` (0 to num_steps - 1) over the peak.

    (step + 1) / warm-up steps, then 1, then the decay from 1 to f, whose last value is f itself.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> run = RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3)
    >>> [round(learning_rate_multiplier(step, run), 4) for step in (0, 9, 79, 89, 99)]
    [0.1, 1.0, 1.0, 0.3162, 0.1]
    """
    require(0 <= step < run.num_steps, "step", step, f"must be from 0 to {run.num_steps - 1}")
    warmup, stable, decay = phase_steps(run)
    if step < warmup:
        return (step + 1) / warmup
    done = step + 1 - warmup - stable
    if done <= 0:
        return 1.0
    return DECAYS[run.decay](done / decay, run.final_rate_fraction)


def curve_steps(num_steps: int) -> list[int]:
    """The fixed grid of a loss curve: steps done at which it has a point, ascending.

    At most CURVE_POINTS, n (i / points)^2, closer together early, where the loss moves most. A
    point is the mean training loss since the one before.

    >>> curve_steps(5), curve_steps(6400)[:3], curve_steps(6400)[-2:]
    ([1, 2, 3, 4, 5], [2, 7, 15], [6202, 6400])
    """
    share = np.arange(1, CURVE_POINTS + 1) / CURVE_POINTS
    grid: list[int] = np.unique(np.ceil(num_steps * share**2).astype(int)).tolist()
    return grid


@functools.cache
def load_steps(run: RunConfig) -> tuple[int, ...]:
    """Numbers of steps done at which the experts' loads are noted, ascending; the last is n.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> load_steps(RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3))
    (1, 2, 4, 5, 8, 12, 19, 28, 43, 66, 100)
    """
    points = np.geomspace(1, run.num_steps, LOAD_POINTS).round().astype(int).tolist()
    return tuple(sorted({*points}))


def merge_windows(run: RunConfig) -> list[int]:
    """Checkpoints in each merge that is scored, all of them first; none where nothing is merged.

    One run at a constant rate answers for every window: a window is the last half of the one
    before, and the last checkpoint alone is the unmerged model.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> merge_windows(RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3, merge_checkpoints=8, merge_windows=3))
    [8, 4, 2]
    """
    if not run.merge_checkpoints:
        return []
    return [run.merge_checkpoints >> halvings for halvings in range(run.merge_windows)]


def merged_steps(run: RunConfig, window: int) -> list[int]:
    """Numbers of steps done at which one of `window` checkpoints is kept, ascending; n is last.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> merged_steps(RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3, merge_checkpoints=3, merge_interval=10), window=3)
    [80, 90, 100]
    """
    ages = range(window - 1, -1, -1)
    return [run.num_steps - age * run.merge_interval for age in ages]

"""The learning rate of every step (Appendix B: warm-up, stable, decay) and checkpoint merging.

Both ends are right: the first step already moves, the peak is reached, and the last step runs at
exactly the stated floor; merging is the average of late checkpoints that replaces the decay (WSM,
arXiv 2507.17634).

    n    num_steps              steps 0 to n - 1, one optimiser update each
    f    final_rate_fraction    rate of step n - 1 over the peak
    r    share of the decay done after a step: 1 / (decay steps) on its first, 1 on its last
    c_j  merging weights        of the checkpoints after 0, 1, ..., k further steps
    w_i  decay weights          of the update i = 1, ..., k that the merged model feels
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moe_leverage.config import RunConfig, require

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


def merged_steps(run: RunConfig) -> list[int]:
    """Numbers of steps done at which a checkpoint enters the merge, ascending; the last is n.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> merged_steps(RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3, merge_checkpoints=3, merge_interval=10))
    [80, 90, 100]
    """
    ages = range(run.merge_checkpoints - 1, -1, -1)
    return [run.num_steps - age * run.merge_interval for age in ages]


def merging_weights(decay_weights: Sequence[float]) -> NDArray[np.float64]:
    """Weights c_0 ... c_k of the checkpoints whose merge acts like the decay w_1 ... w_k.

    c_0 = 1 - w_1, c_j = w_j - w_{j+1}, c_k = w_k (WSM, inverse of `decay_weights`). Exact for
    plain gradient descent on the same gradients, an approximation for AdamW.

    >>> merging_weights([0.75, 0.5, 0.25]).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    weights = np.asarray(decay_weights, dtype=np.float64)
    falls = np.all(np.diff(weights) <= 0) and np.all((weights >= 0) & (weights <= 1))
    require(bool(falls), "decay_weights", list(decay_weights), "must fall within [0, 1]")
    return -np.diff(weights, prepend=1.0, append=0.0)


def decay_weights(weights: Sequence[float]) -> NDArray[np.float64]:
    """Decay w_1 ... w_k of the updates that merging with the weights c_0 ... c_k amounts to.

    w_i = sum of c_j over j >= i (WSM). The mean of k + 1 checkpoints is a linear decay.

    >>> decay_weights([0.25, 0.25, 0.25, 0.25]).tolist()
    [0.75, 0.5, 0.25]
    """
    merged = np.asarray(weights, dtype=np.float64)
    rule = "must be non-negative and add to 1"
    holds = np.all(merged >= 0) and math.isclose(float(merged.sum()), 1.0, rel_tol=1e-9)
    require(bool(holds), "weights", list(weights), rule)
    return merged[::-1].cumsum()[::-1][1:]

"""Magnitude pruning while a model trains: its schedule, its parameters and its FLOPs, exactly.

Stands for *The Journey Matters* (Jin et al. 2025, arXiv 2501.12486), which reads the loss of a
model that is pruned during training off the dense law, at the mean of its parameters. Arithmetic on
sizes alone; `training.masks` holds the masks.

    n_0, n_1  steps done at the start and at the end of pruning
    S         prune_sparsity, the share of the blocks' matrices that is zero from n_1 on
    N(n)      parameters without vocabulary matrices, less the zeros, after n steps
    N_0, N_1  at the first step and at the last
    N_mean    mean of N(n) over the steps, 1/D of the integral over the tokens

Pruned are the matrices of the blocks, each by itself: embedding, logits and gains are not. The
sparsity grows at a steady pace, and the masks move every `prune_interval` steps. What a step costs
is told in two ways: a dense machine multiplies zeros as well; a sparse one could skip each, two
FLOPs a token forward and four backward.
"""

from __future__ import annotations

from moe_leverage.accounting import (
    FFN_MATRICES,
    FLOPS_PER_MAC,
    TRAINING_PASSES,
    count_forward_flops,
    count_parameters,
)
from moe_leverage.config import ModelConfig, RunConfig


def sparsity(run: RunConfig, steps_done: int) -> float:
    """The share of each pruned matrix that is zero after so many steps.

    S (n - n_0) / (n_1 - n_0), held between two moves of the masks; 0 before n_0, S from n_1 on.

    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> run = RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3, prune_sparsity=0.5)
    >>> [sparsity(run, steps) for steps in (25, 35, 44, 50, 75, 100)]
    [0.0, 0.1, 0.1, 0.2, 0.5, 0.5]
    """
    first, last = (round(share * run.num_steps) for share in (run.prune_start, run.prune_end))
    if not run.prune_sparsity or steps_done <= first:
        return 0.0
    if steps_done >= last:
        return run.prune_sparsity
    moved = (steps_done - first) // run.prune_interval * run.prune_interval
    return run.prune_sparsity * moved / (last - first)


def num_zeros(entries: int, share: float) -> int:
    """Entries of a matrix that are zero at this sparsity, rounded down.

    >>> num_zeros(10, 0.35)
    3
    """
    return int(share * entries)


def pruned_matrices(model: ModelConfig) -> list[int]:
    """Entries of each matrix that is pruned: of every block the packed query, key and value
    projections, the output, the packed gate and up projections, and down."""
    width, head = model.d_model, model.d_head
    packed = width * head * (model.num_heads + 2 * model.num_kv_heads)
    ffn = FFN_MATRICES - 1, 1
    block = [packed, width * head * model.num_heads, *(n * width * model.d_ffn for n in ffn)]
    return model.num_layers * block


def parameters_after(run: RunConfig, steps_done: int) -> int:
    """N(n): parameters without vocabulary matrices that are not held at zero."""
    whole = count_parameters(run.model).non_vocabulary
    share = sparsity(run, steps_done)
    return whole - sum(num_zeros(entries, share) for entries in pruned_matrices(run.model))


def average_parameters(run: RunConfig) -> float:
    """N_mean: N of the model that each step trains, averaged over the steps.

    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> run = RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3, prune_sparsity=0.5, prune_interval=1)
    >>> parameters_after(run, 0), average_parameters(run), parameters_after(run, 100)
    (600, 458.4, 312)
    """
    return sum(parameters_after(run, step) for step in range(run.num_steps)) / run.num_steps


def sparse_training_flops(run: RunConfig) -> int:
    """FLOPs of the run on a machine that skips every zero, exact convention.

    `accounting.count_training_flops` is what a dense machine spends; this is less by two FLOPs for
    each zero, token and pass.
    """
    forward = round(count_forward_flops(run.model, run.sequence_length).total * run.batch_tokens)
    whole = count_parameters(run.model).non_vocabulary
    zeros = sum(whole - parameters_after(run, step) for step in range(run.num_steps))
    dense = run.num_steps * forward
    return TRAINING_PASSES * (dense - FLOPS_PER_MAC * run.batch_tokens * zeros)

"""Masks of a model that is pruned while it trains: the smallest weights are held at zero.

Magnitude pruning as in Jin et al. 2025 (arXiv 2501.12486). A mask keeps the largest entries of its
matrix by magnitude, the number that `pruning.sparsity` says. What is zero stays zero, since no
other entry is smaller. The gradient of a pruned entry is zero as well: neither the norm at which
gradients are clipped nor the moments see it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moe_leverage.config import RunConfig
from moe_leverage.model.transformer import Transformer
from moe_leverage.pruning import num_zeros, sparsity

Masks = dict[str, Tensor]  # by the name of the weight; true where an entry is kept


def pruned_weights(model: Transformer) -> dict[str, nn.Parameter]:
    """The weights that are pruned, by name: the matrices of the blocks."""
    return {
        name: weight
        for name, weight in model.named_parameters()
        if name.startswith("layers.") and weight.dim() > 1
    }


@torch.no_grad()
def largest(weight: Tensor, share: float) -> Tensor:
    """True for all but the `share` smallest entries by magnitude; of equals the first go first.

    >>> largest(torch.tensor([[0.0, -3.0], [1.0, 2.0]]), 0.5).tolist()
    [[False, True], [False, True]]
    """
    zeros = num_zeros(weight.numel(), share)
    order = weight.abs().flatten().argsort(stable=True)
    kept = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    kept[order[:zeros]] = False
    return kept.view_as(weight)


@torch.no_grad()
def mask_gradients(model: Transformer, masks: Masks) -> None:
    """Set the gradients of what is pruned to zero, before they are measured and used."""
    for name, weight in pruned_weights(model).items() if masks else ():
        if weight.grad is not None:
            weight.grad.mul_(masks[name])


@torch.no_grad()
def prune(model: Transformer, masks: Masks, run: RunConfig, steps_done: int) -> None:
    """After a step: move the masks if the schedule does, and set to zero what they prune."""
    share = sparsity(run, steps_done)
    has_moved = share != sparsity(run, steps_done - 1)
    for name, weight in pruned_weights(model).items() if share else ():
        if has_moved:
            masks[name] = largest(weight, share)
        weight.mul_(masks[name])

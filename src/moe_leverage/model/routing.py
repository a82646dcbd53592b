"""How a mixture-of-experts layer routes: scores, selection, gates, and what keeps loads even.

Stands for Appendix B of the paper (softmax gate, balance loss, router z-loss) and for the Ling 2.0
recipe (arXiv 2510.22115, Section 2: sigmoid gate, grouped selection, centred selection bias).

    T  tokens             p_ti  score of expert i for token t
    E  routed experts     z_ti  router logit
    K  chosen per token   c_i   assignments to expert i, sum K T
    L  layers             b_i   selection bias, in no gradient

Everything is a pure function of tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moe_leverage.config import RoutingConfig
from moe_leverage.model.native import functions as native
from moe_leverage.model.native.door import runs_here

GATE_EPS = 1e-20  # keeps the renormalised sigmoid gates finite when every chosen score underflows


def score(logits: Float[Tensor, "T E"], routing: RoutingConfig) -> Float[Tensor, "T E"]:
    """Scores of all experts: p = softmax(z) over the experts (Appendix B), or sigmoid(z).

    >>> score(torch.zeros(1, 4), RoutingConfig())
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return logits.sigmoid() if routing.score == "sigmoid" else logits.softmax(dim=-1)


def select(
    scores: Float[Tensor, "T E"],
    num_active_experts: int,
    routing: RoutingConfig,
    bias: Float[Tensor, " E"] | None = None,
) -> Int[Tensor, "T K"]:
    """The K experts of each token: the largest p + b, among the experts of the groups kept.

    A group is worth the sum of its two largest p + b. The bias decides who is chosen, never how
    much a chosen expert counts.

    >>> select(torch.tensor([[0.1, 0.6, 0.3]]), 2, RoutingConfig())
    tensor([[1, 2]])
    """
    with torch.no_grad():
        wanted = scores if bias is None else scores + bias
        if routing.num_groups_kept < routing.num_groups:
            wanted = wanted.masked_fill(~_in_kept_group(wanted, routing), -torch.inf)
        if runs_here("largest", wanted):
            return native.largest(wanted, num_active_experts)
        return wanted.topk(num_active_experts, dim=-1).indices


def weigh(
    scores: Float[Tensor, "T E"], chosen: Int[Tensor, "T K"], routing: RoutingConfig
) -> Float[Tensor, "T K"]:
    """Gates of the chosen experts: g = scaling p, or g = scaling p / sum of the chosen p.

    With one expert a token the sum is p itself: renormalised gates would be constant and the router
    would learn nothing from the language-model loss, so K = 1 is never renormalised.

    >>> weigh(torch.tensor([[0.1, 0.6, 0.3]]), torch.tensor([[1, 2]]), RoutingConfig())
    tensor([[0.6000, 0.3000]])
    """
    gates = scores.gather(1, chosen)
    if routing.renormalise and chosen.shape[1] > 1:
        gates = gates / (gates.sum(dim=-1, keepdim=True) + GATE_EPS)
    return gates if routing.scaling == 1 else gates * routing.scaling


def count(chosen: Int[Tensor, "T K"], num_experts: int) -> Int[Tensor, " E"]:
    """Assignments to each expert, c_i; their sum is K T.

    >>> count(torch.tensor([[0, 2], [2, 1]]), 4)
    tensor([1, 1, 2, 0])
    """
    chosen = chosen.flatten()
    if torch.compiler.is_compiling():  # which cannot know the length of a bincount
        return chosen.new_zeros(num_experts).scatter_add(0, chosen, torch.ones_like(chosen))
    return torch.bincount(chosen, minlength=num_experts)


def balance_loss(
    scores: Float[Tensor, "T E"], counts: Int[Tensor, " E"], routing: RoutingConfig
) -> Float[Tensor, ""]:
    """E sum_i f_i P_i with f_i = c_i / (K T) and P_i the mean share of expert i in the scores.

    1 when uniform, E / K when all tokens go to the same K experts; the gradient passes through P
    alone. Take it per layer and average the layers: pooled counts hide collapse.

    >>> balance_loss(torch.full((2, 4), 0.25), torch.tensor([1, 1, 2, 0]), RoutingConfig())
    tensor(1.)
    """
    if routing.score == "sigmoid":
        scores = scores / (scores.sum(dim=-1, keepdim=True) + GATE_EPS)
    load = counts.to(scores.dtype) / counts.sum()
    return len(counts) * torch.dot(load, scores.mean(dim=0))


def z_loss(logits: Float[Tensor, "T E"]) -> Float[Tensor, ""]:
    """Mean over tokens of (log sum_i exp z_ti)^2, on the raw logits; (ln E)^2 when they are zero.

    >>> z_loss(torch.zeros(3, 4))
    tensor(1.9218)
    """
    return logits.logsumexp(dim=-1).square().mean()


def bias_step(
    bias: Float[Tensor, " E"], counts: Int[Tensor, " E"], rate: float
) -> Float[Tensor, " E"]:
    """The selection bias after one optimiser step: b_i + u (e_i - mean e), e = sign(mean c - c).

    Counts are those of the biased choice, summed over all micro-batches of the step. Centring keeps
    the sum of the biases where it was.

    >>> bias_step(torch.zeros(4), torch.tensor([1, 1, 2, 0]), 0.001)
    tensor([ 0.0000,  0.0000, -0.0010,  0.0010])
    """
    load = counts.to(bias.dtype)
    sign = (load.mean(dim=-1, keepdim=True) - load).sign()
    return bias + rate * (sign - sign.mean(dim=-1, keepdim=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadStatistics:
    """How evenly the experts of each layer were used."""

    max_over_mean: tuple[float, ...]  # largest load over mean load: 1 is even, E / K collapsed
    entropy: tuple[float, ...]  # of the loads over ln E: 1 is even
    idle_experts: tuple[int, ...]  # experts that served no token


def load_statistics(counts: Int[Tensor, "L E"]) -> LoadStatistics:
    """Load statistics of each layer, from assignments summed over any number of batches.

    >>> load_statistics(torch.tensor([[5, 5], [10, 0]]))
    LoadStatistics(max_over_mean=(1.0, 2.0), entropy=(1.0, 0.0), idle_experts=(0, 1))
    """
    load = counts.double()
    share = load / load.sum(dim=-1, keepdim=True)
    entropy = torch.special.entr(share).sum(dim=-1)
    if counts.shape[-1] > 1:
        entropy = entropy / math.log(counts.shape[-1])
    return LoadStatistics(
        max_over_mean=tuple((load.amax(dim=-1) / load.mean(dim=-1)).tolist()),
        entropy=tuple(entropy.tolist()),
        idle_experts=tuple((counts == 0).sum(dim=-1).tolist()),
    )


def _in_kept_group(wanted: Tensor, routing: RoutingConfig) -> Tensor:
    groups = wanted.view(len(wanted), routing.num_groups, -1)  # [T, groups, experts of a group]
    worth = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(dim=-1)
    kept = worth.topk(routing.num_groups_kept, dim=-1).indices
    in_kept = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, kept, True)
    return in_kept.unsqueeze(-1).expand_as(groups).flatten(1)

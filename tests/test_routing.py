"""Routing: the invariants of its losses and choices, and the traps that others fell into."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

from moe_leverage.config import LING2_ROUTING, PAPER_ROUTING, RoutingConfig
from moe_leverage.model import routing

SIGMOID = RoutingConfig(score="sigmoid", renormalise=True, scaling=2.5, bias_update_rate=1e-3)
RENORMALISED = RoutingConfig(renormalise=True)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int, RoutingConfig]:
    """Logits of some tokens, how many experts each gets, and a recipe."""
    experts = draw(st.integers(1, 12))
    active = draw(st.integers(1, experts))
    recipe = draw(st.sampled_from([PAPER_ROUTING, RENORMALISED, SIGMOID]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    tokens = draw(st.integers(1, 20))
    return torch.randn(tokens, experts, generator=generator) * 2, active, recipe


def route(logits: Tensor, active: int, recipe: RoutingConfig) -> tuple[Tensor, Tensor, Tensor]:
    scores = routing.score(logits, recipe)
    chosen = routing.select(scores, active, recipe)
    return scores, chosen, routing.count(chosen, logits.shape[1])


# --- losses -------------------------------------------------------------------------------------


@given(cases())
@settings(deadline=None)
def test_zero_logits_are_balanced(case):
    logits, active, recipe = case
    scores, _, counts = route(torch.zeros_like(logits), active, recipe)
    assert routing.balance_loss(scores, counts, recipe).item() == pytest.approx(1, rel=1e-5)
    z_loss = routing.z_loss(torch.zeros_like(logits))
    assert z_loss.item() == pytest.approx(math.log(logits.shape[1]) ** 2, abs=1e-5)


@given(st.integers(1, 12), st.data(), st.sampled_from([PAPER_ROUTING, SIGMOID]))
@settings(deadline=None)
def test_collapse_costs_experts_over_active(experts, data, recipe):
    active = data.draw(st.integers(1, experts))
    logits = torch.full((7, experts), -40.0)
    logits[:, :active] = 40.0
    scores, _, counts = route(logits, active, recipe)
    loss = routing.balance_loss(scores, counts, recipe)
    assert loss.item() == pytest.approx(experts / active, rel=1e-5)


@given(cases())
@settings(deadline=None)
def test_every_token_is_assigned_to_distinct_experts(case):
    logits, active, recipe = case
    _, chosen, counts = route(logits, active, recipe)
    assert counts.sum() == active * len(logits)
    assert all(len(set(row)) == active for row in chosen.tolist())


@given(cases(), st.floats(-5, 5).filter(lambda c: abs(c) > 0.1))
@settings(deadline=None)
def test_a_constant_moves_the_z_loss_alone(case, constant):
    logits, active, recipe = case
    recipe = dataclasses.replace(recipe, score="softmax")
    scores, chosen, counts = route(logits, active, recipe)
    moved_scores, _, moved_counts = route(logits + constant, active, recipe)
    gates = routing.weigh(scores, chosen, recipe)
    torch.testing.assert_close(routing.weigh(moved_scores, chosen, recipe), gates)
    assert torch.equal(moved_counts, counts)
    loss = routing.balance_loss(scores, counts, recipe)
    torch.testing.assert_close(routing.balance_loss(moved_scores, counts, recipe), loss)
    log_sums = logits.logsumexp(-1)
    moved = (log_sums + constant).square().mean()
    torch.testing.assert_close(routing.z_loss(logits + constant), moved, rtol=1e-4, atol=1e-5)


@given(cases())
@settings(deadline=None)
def test_z_loss_equals_the_peer(case):
    logits = case[0]
    torch.testing.assert_close(routing.z_loss(logits), router_z_loss_func(logits[None]))


@given(cases())
@settings(deadline=None)
def test_balance_loss_is_the_peer_of_one_layer_over_active(case):
    """The peer sums over the k choices; its nominal coefficient is k times as strong."""
    logits, active, _ = case
    scores, _, counts = route(logits, active, PAPER_ROUTING)
    theirs = load_balancing_loss_func((logits,), logits.shape[1], active)
    ours = routing.balance_loss(scores, counts, PAPER_ROUTING)
    torch.testing.assert_close(ours, theirs / active)


def test_balance_loss_reaches_experts_that_were_not_chosen():
    """Probabilities masked to the chosen would leave the others without gradient."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    scores, _, counts = route(logits, 1, PAPER_ROUTING)
    idle = counts == 0
    assert idle.any()
    routing.balance_loss(scores, counts, PAPER_ROUTING).backward()
    assert (logits.grad[:, idle] != 0).all()


# --- choice and gates ---------------------------------------------------------------------------


@given(cases())
@settings(deadline=None)
def test_renormalised_gates_sum_to_the_scaling(case):
    logits, active, recipe = case
    scores, chosen, _ = route(logits, active, recipe)
    gates = routing.weigh(scores, chosen, recipe)
    if recipe.renormalise and active > 1:
        torch.testing.assert_close(gates.sum(-1), torch.full((len(logits),), recipe.scaling))
    else:
        torch.testing.assert_close(gates, recipe.scaling * scores.gather(1, chosen))


def test_renormalised_top_k_is_a_softmax_over_the_chosen_logits():
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    scores, chosen, _ = route(logits, 3, RENORMALISED)
    torch.testing.assert_close(
        routing.weigh(scores, chosen, RENORMALISED), logits.gather(1, chosen).softmax(-1)
    )


@pytest.mark.parametrize("recipe", [RENORMALISED, SIGMOID])
def test_a_single_active_expert_still_teaches_the_router(recipe):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    scores, chosen, _ = route(logits, 1, recipe)
    routing.weigh(scores, chosen, recipe).sum().backward()
    assert logits.grad.abs().max() > 0.01


def test_the_bias_chooses_but_does_not_weigh():
    scores = torch.tensor([[0.6, 0.5, 0.4]], requires_grad=True)
    bias = torch.tensor([-1.0, 0.0, 0.0], requires_grad=True)
    chosen = routing.select(scores, 2, SIGMOID, bias)
    assert sorted(chosen[0].tolist()) == [1, 2]
    gates = routing.weigh(scores, chosen, dataclasses.replace(SIGMOID, scaling=1.0))
    torch.testing.assert_close(gates, torch.tensor([[5 / 9, 4 / 9]]))
    gates[0, 0].backward()
    assert bias.grad is None
    assert scores.grad[0, 0] == 0


def test_a_group_is_worth_its_two_best_experts():
    recipe = dataclasses.replace(SIGMOID, num_groups=2, num_groups_kept=1)
    best_alone = torch.tensor([[0.9, 0.1, 0.0, 0.6, 0.5, 0.0]])  # 1.0 against 1.1
    assert sorted(routing.select(best_alone, 2, recipe)[0].tolist()) == [3, 4]


@given(st.integers(0, 2**16))
@settings(deadline=None)
def test_choices_stay_within_the_groups_kept_even_if_every_score_is_negative(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(10, 32, generator=generator)
    bias = torch.full((32,), -5.0)
    chosen = routing.select(scores, 8, LING2_ROUTING, bias)
    groups = chosen // 4
    assert max(len(set(row)) for row in groups.tolist()) <= LING2_ROUTING.num_groups_kept


# --- bias and statistics ------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=1, max_size=16), st.floats(1e-4, 1e-1))
@settings(deadline=None)
def test_bias_steps_stay_centred_and_favour_the_underloaded(loads, rate):
    counts = torch.tensor(loads)
    bias = routing.bias_step(torch.zeros(len(loads)), counts, rate)
    assert abs(bias.sum().item()) < 1e-5
    order = counts.argsort()
    assert (bias[order].diff() <= 1e-9).all()
    assert bias.abs().max() <= 2 * rate * 1.0001


def test_bias_steps_even_out_a_frozen_batch():
    logits = torch.randn(512, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8) * 0.3
    scores, bias = logits.sigmoid(), torch.zeros(8)
    excess = []
    for _ in range(400):
        counts = routing.count(routing.select(scores, 2, SIGMOID, bias), 8)
        excess.append(counts.max().item() / counts.float().mean().item())
        bias = routing.bias_step(bias, counts, 2e-3)
    assert excess[0] > 1.8
    assert excess[-1] < 1.1
    assert abs(bias.sum().item()) < 1e-4


def test_uneven_signs_would_drift_without_centring():
    counts = torch.tensor([9, 1, 1, 1])
    plain = 1e-3 * (counts.float().mean() - counts).sign()
    assert plain.sum() == pytest.approx(2e-3)
    assert routing.bias_step(torch.zeros(4), counts, 1e-3).sum() == pytest.approx(0, abs=1e-9)


def test_bias_steps_of_stacked_layers_are_those_of_each_layer():
    counts = torch.tensor([[3, 1, 0], [2, 2, 0]])
    together = routing.bias_step(torch.zeros(2, 3), counts, 0.1)
    alone = torch.stack([routing.bias_step(torch.zeros(3), row, 0.1) for row in counts])
    assert torch.equal(together, alone)


@given(st.integers(1, 12), st.integers(1, 40), st.data())
@settings(deadline=None)
def test_load_statistics_of_even_and_collapsed_layers(experts, tokens, data):
    active = data.draw(st.integers(1, experts))
    even = torch.full((experts,), tokens)
    collapsed = torch.zeros(experts, dtype=torch.int64)
    collapsed[:active] = tokens
    found = routing.load_statistics(torch.stack([even, collapsed]))
    assert found.max_over_mean == pytest.approx((1, experts / active))
    assert found.idle_experts == (0, experts - active)
    if experts > 1:
        assert found.entropy == pytest.approx((1, math.log(active) / math.log(experts)))

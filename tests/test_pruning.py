"""Masks in the step: their schedule, their exact counts, to the bit over a stop, and bad input."""

import dataclasses
import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toy import CORPUS, CPU, DENSE, MOE, run_of

from moe_leverage import ledger, pruning
from moe_leverage.accounting import count_parameters, count_training_flops
from moe_leverage.training import checkpoint
from moe_leverage.training import loop as training
from moe_leverage.training.learning import learn, start
from moe_leverage.training.loop import own_share, train, trained_model
from moe_leverage.training.machine import machine_of
from moe_leverage.training.masks import largest, pruned_weights

PRUNED = {"prune_sparsity": 0.6, "prune_interval": 2}  # 12 steps: from 3 to 9


def run_pruned(**changes):
    return run_of(DENSE, **PRUNED | changes)


def trained(run, watch=lambda state: None):
    """The state after the run; `watch` sees it before the first step and after each."""
    with machine_of(CPU) as machine:
        state = start(run, machine)
        watch(state)
        for step in range(run.num_steps):
            assert learn(state, run, own_share(run, CORPUS, step, machine), machine)
            watch(state)
        return state


def nonzero(state):
    """Parameters outside the vocabulary matrices that are not zero."""
    named = state.model.named_parameters()
    return sum(int(w.count_nonzero()) for n, w in named if "embed" not in n)


def test_what_is_counted_is_what_is_held_at_zero_after_every_step():
    run, seen = run_pruned(), []
    trained(run, lambda state: seen.append(nonzero(state)))
    assert seen == [pruning.parameters_after(run, n) for n in range(run.num_steps + 1)]
    assert seen[0] == count_parameters(run.model).non_vocabulary
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 4  # whole, two moves on the way, and the end
    assert pruning.average_parameters(run) == sum(seen[:-1]) / run.num_steps


def test_pruned_matrices_are_those_of_the_built_model():
    state = trained(run_of(DENSE, num_steps=1))
    sizes = [weight.numel() for weight in pruned_weights(state.model).values()]
    assert sorted(sizes) == sorted(pruning.pruned_matrices(DENSE))


def test_what_is_pruned_stays_pruned():
    gone = []

    def watch(state):
        gone.append({n: ~m for n, m in state.masks.items()})

    trained(run_pruned(), watch)
    for before, after in itertools.pairwise(gone):
        for name, mask in before.items():
            assert not (mask & ~after[name]).any()


def test_a_plain_reference_trains_to_the_same_weights():
    """Without `masks`: after every step the smallest are set to zero, their gradient before it."""
    run = run_pruned(prune_interval=1, gradient_clip=1e9)
    with machine_of(CPU) as machine:
        state, kept = (
            start(dataclasses.replace(run, prune_sparsity=0.0, prune_interval=10), machine),
            {},
        )
        weights = dict(pruned_weights(state.model))
        for name, weight in weights.items():
            weight.register_hook(lambda g, name=name: g * kept[name] if name in kept else g)
        plain = dataclasses.replace(run, prune_sparsity=0.0, prune_interval=10)
        for step in range(run.num_steps):
            learn(state, plain, own_share(run, CORPUS, step, machine), machine)
            share = 0.6 * min(1, max(0, (step + 1 - 3) / 6))
            for name, weight in weights.items():
                zeros = int(share * weight.numel())
                if zeros:
                    least = weight.detach().abs().flatten().sort().values[zeros - 1]
                    kept[name] = (weight.detach().abs() > least).float()
                    with torch.no_grad():
                        weight *= kept[name]
    found = trained(run)
    assert found.losses == state.losses
    for name, weight in found.model.named_parameters():
        assert torch.equal(weight, dict(state.model.named_parameters())[name]), name


def test_a_sparse_machine_skips_two_flops_for_each_zero_token_and_pass():
    """Each step of the model without its zeros: rows of a product that nothing has to multiply."""
    run = run_pruned()
    dense = count_training_flops(run)
    by_hand = 0
    for step in range(run.num_steps):
        zeros = count_parameters(run.model).non_vocabulary - pruning.parameters_after(run, step)
        by_hand += dense / run.num_steps - 3 * 2 * zeros * run.batch_tokens
    assert pruning.sparse_training_flops(run) == pytest.approx(by_hand, rel=1e-15)
    never = run_pruned(prune_sparsity=1e-9)  # so few that none is whole
    assert pruning.sparse_training_flops(never) == dense
    assert pruning.average_parameters(never) == count_parameters(run.model).non_vocabulary


def test_a_matrix_cut_to_its_kept_rows_costs_what_is_counted_for_torch():
    """Where a mask prunes whole rows, a smaller product is the sparse one: torch counts that."""
    kept, tokens, width = 5, torch.zeros(7, 8), torch.zeros(16, 8)
    totals = []
    for weight in (width, width[:kept]):
        with FlopCounterMode(display=False) as counter:
            tokens @ weight.T
        totals.append(counter.get_total_flops())
    assert totals[0] - totals[1] == 2 * len(tokens) * (width.numel() - kept * 8)


def test_records_carry_the_counts_of_what_was_pruned_and_no_others_do(tmp_path):
    run = run_pruned()
    record = train(run, corpus=CORPUS, execution=CPU) | {"study": "toy"}
    assert record["final_params"] < record["average_params"] < record["axes"]["total_params"]
    assert record["sparse_training_flops"] < record["training_flops"]
    assert "average_params" not in ledger.describe(run_of(DENSE))
    ledger.append(tmp_path / "toy.jsonl", record)
    assert ledger.verify(tmp_path) == []
    table = ledger.table(directory=tmp_path)
    assert table["average_params"].tolist() == [pruning.average_parameters(run)]


@pytest.mark.parametrize("step", [2, 6, 11])  # before the first mask, between moves, after all
def test_kill_and_resume_is_bit_identical_with_masks(step, tmp_path, monkeypatch):
    run = run_pruned()
    whole = train(run, corpus=CORPUS, execution=CPU)
    often = dataclasses.replace(CPU, checkpoint_seconds=1e-9)
    read = training.batch

    def batch(tokens, *, step: int, at=step, **rest):
        if step == at:
            raise SystemExit("killed")
        return read(tokens, step=step, **rest)

    monkeypatch.setattr(training, "batch", batch)
    with pytest.raises(SystemExit):
        train(run, corpus=CORPUS, execution=often, checkpoint_directory=tmp_path)
    monkeypatch.undo()
    found = checkpoint.load(tmp_path, run_id=run.identity())
    assert found.steps_done == step
    assert any(name.startswith("mask.") for name in found.tensors) == (step > 4)
    resumed = train(run, corpus=CORPUS, execution=often, checkpoint_directory=tmp_path)
    for name in ("validation_loss_nats", "training_loss_curve_nats"):
        assert resumed[name] == whole[name]
    model = trained_model(run, tmp_path)
    zeros = sum(int((w == 0).sum()) for w in pruned_weights(model).values())
    assert zeros == sum(int(0.6 * n) for n in pruning.pruned_matrices(DENSE))


def test_of_equal_magnitudes_the_first_go_first():
    assert largest(torch.tensor([[1.0, -1.0, 1.0, 1.0]]), 0.5).tolist() == [
        [False, False, True, True]
    ]


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (DENSE, {"prune_sparsity": 1.0}, "prune_sparsity = 1.0: must be a number from 0 to 0.99"),
        (DENSE, {"prune_end": 1.5}, "prune_end = 1.5: must be a number from 0 to 1"),
        (
            DENSE,
            {"prune_start": 0.8},
            "prune_end = 0.75: must be a step at least after prune_start",
        ),
        (DENSE, {"prune_start": 0.5, "prune_end": 0.51}, "prune_end = 0.51: must be a step"),
        (DENSE, {"prune_sparsity": 0.0}, "prune_interval = 2: prunes nothing without prune_spars"),
        (MOE, {}, "prune_sparsity = 0.6: the masks of a mixture's experts have no rule here"),
        (DENSE, {"merge_checkpoints": 2}, "prune_sparsity = 0.6: cannot be with merge_checkpoints"),
        (DENSE, {"prune_interval": 0}, "prune_interval = 0: must be a whole number >= 1"),
    ],
)
def test_impossible_schedules_name_the_field(model, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        run_of(model, **PRUNED | changes)


def test_shards_of_matrices_are_refused():
    how = dataclasses.replace(CPU, parallel="fsdp")
    with pytest.raises(ValueError, match=r"prune_sparsity = 0.6: needs whole matrices"):
        training.require_fit(run_pruned(), CORPUS, how)


def test_a_run_that_does_not_prune_keeps_its_identity():
    departures = run_of(DENSE).departures()
    assert not any(name.startswith("prune_") for name in departures)

"""A run is bit-exact, resumable at any step, honest about its loss, and refuses bad input."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from toy import CORPUS, CPU, DENSE, HERE, LING, MODELS, MOE, VOCABULARY, WIDE, losses_of, run_of

from moe_leverage import ledger
from moe_leverage.config import RoutingConfig, RunConfig
from moe_leverage.model import kernels
from moe_leverage.model.native import functions as native
from moe_leverage.training import checkpoint
from moe_leverage.training import loop as training
from moe_leverage.training.evaluation import evaluate
from moe_leverage.training.learning import (
    exchange_merged,
    flush_interval,
    learn,
    restore,
    start,
    tensors,
)
from moe_leverage.training.loop import Stopped, own_share, train, trained_model
from moe_leverage.training.machine import Execution, machine_of
from moe_leverage.training.schedule import CURVE_POINTS, curve_steps


def results(record):
    """The part of a record that must not depend on time or machine."""
    names = (*ledger.RESULTS, "training_loss_curve_nats", "steps_done", "status", "run_id")
    optional = {"merge_window_losses_nats"} & set(record)
    return {name: record[name] for name in (*names, *optional)}


@pytest.mark.parametrize("name", MODELS)
def test_a_run_learns_and_its_record_is_complete(name):
    run = run_of(MODELS[name], num_steps=60)
    record = train(run, corpus=CORPUS, execution=CPU)
    assert record["status"] == "ok"
    assert record["validation_loss_nats"] < math.log(VOCABULARY) - 1
    assert record["training_loss_curve_nats"][0] == pytest.approx(math.log(VOCABULARY), abs=0.05)
    assert len(record["training_loss_curve_nats"]) == len(curve_steps(60))
    assert record["run_id"] == run.identity()
    assert RunConfig.from_dict(record["config"]) == run
    assert record["training_flops"] > 0
    assert record["seconds"] > 0
    assert 0 < record["peak_share"] < 1
    assert record["environment"]["threads"] == 1
    layers = 2 if name != "dense" else 0
    assert len((record["load"] or {"entropy": ()})["entropy"]) == layers
    json.dumps(record, allow_nan=False)


def test_a_record_enters_the_ledger_and_verifies(tmp_path):
    record = train(run_of(), corpus=CORPUS, execution=CPU)
    ledger.append(tmp_path / "toy.jsonl", record | {"study": "toy"})
    assert ledger.verify(tmp_path) == []
    row = ledger.table("toy", directory=tmp_path).iloc[0]
    assert row["validation_loss_nats"] == record["validation_loss_nats"]
    assert row["num_experts"] == 8


# --- the loss that is reported ----------------------------------------------------------------


def test_the_reported_loss_is_cross_entropy_alone_in_eval_mode(tmp_path):
    run = run_of(dataclasses.replace(MOE, routing=RoutingConfig(balance_coefficient=5.0)))
    record = train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    model = trained_model(run, tmp_path)
    per_domain = {}
    for name, tokens in CORPUS.validation.items():
        count = (len(tokens) - 1) // run.sequence_length
        windows = [tokens[i * 16 : i * 16 + 17].astype(np.int64) for i in range(count)]
        inputs = torch.from_numpy(np.stack(windows))
        with torch.no_grad():
            logits = model(inputs[:, :-1]).logits.double()
        nats = F.cross_entropy(logits.flatten(0, 1), inputs[:, 1:].flatten(), reduction="none")
        per_domain[name] = nats.view(count, -1).mean(dim=1)
    for name, nats in per_domain.items():
        stored = record["validation"][name]
        assert stored["loss_nats"] == pytest.approx(nats.mean().item(), abs=1e-6)
        error = nats.std().item() / math.sqrt(len(nats))
        assert stored["standard_error_nats"] == pytest.approx(error, rel=1e-4)
        assert stored["num_tokens"] == len(nats) * 16
    pooled = torch.cat(list(per_domain.values())).mean().item()
    assert record["validation_loss_nats"] == pytest.approx(pooled, abs=1e-6)
    bytes_scored = sum(
        record["validation"][n]["num_tokens"] * CORPUS.bytes_per_token[n] for n in per_domain
    )
    bits = pooled * sum(map(len, per_domain.values())) * 16 / math.log(2) / bytes_scored
    assert record["validation_bits_per_byte"] == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("name", ["balance_coefficient", "z_coefficient"])
def test_balance_and_z_losses_are_trained_on_and_not_reported(name):
    plain = run_of(dataclasses.replace(MOE, routing=RoutingConfig(**{name: 0.0})))
    heavy = run_of(dataclasses.replace(MOE, routing=RoutingConfig(**{name: 9.0})))
    first, second = losses_of(plain), losses_of(heavy)
    assert first[0] == second[0]
    assert first[1:] != second[1:]


# --- determinism ------------------------------------------------------------------------------

CHILD = """
import json
from toy import MODELS, losses_of, run_of
cases = [("dense", 1), ("ling", 1), ("moe", 1), ("moe", 2)]
found = [losses_of(run_of(MODELS[name], num_steps=4), threads=n) for name, n in cases]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_give_the_same_bits_at_each_thread_count():
    command = [sys.executable, "-c", CHILD]
    children = [
        json.loads(
            subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout
        )
        for _ in range(2)
    ]
    assert children[0] == children[1]
    for losses, (name, threads) in zip(
        children[0], [("dense", 1), ("ling", 1), ("moe", 1), ("moe", 2)], strict=True
    ):
        assert losses == losses_of(run_of(MODELS[name], num_steps=4), threads=threads)


@pytest.mark.parametrize("name", MODELS)
def test_threads_change_only_floating_point_order(name):
    run = run_of(MODELS[name])
    assert losses_of(run, threads=2) == pytest.approx(losses_of(run, threads=1), abs=2e-5)


@pytest.mark.parametrize("name", ["moe", "ling"])
def test_the_loop_dispatch_changes_only_floating_point_order(name):
    run = run_of(MODELS[name])
    assert losses_of(run, dispatch="loop") == pytest.approx(losses_of(run), abs=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_stays_near_fp32_and_keeps_fp32_weights(name, tmp_path):
    run = run_of(MODELS[name], precision="bf16")
    assert losses_of(run) == pytest.approx(losses_of(run_of(MODELS[name])), abs=0.02)
    train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    assert {w.dtype for w in trained_model(run, tmp_path).parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in (*MODELS, "wide")), ("wide", "bf16")]
)
def test_compiling_changes_only_floating_point_order(name, precision):
    """One graph a model: each break would give back a part of what compiling gains."""
    model = (MODELS | {"wide": WIDE})[name]
    run = run_of(model, num_steps=3, sequence_length=32, precision=precision)
    torch.compiler.reset()
    counters.clear()
    with mock.patch.object(native, "_call", wraps=native._call) as call:
        losses = losses_of(run, compile=True, threads=2)
    rounding = 2e-5 if precision == "fp32" else 0.02
    assert losses == pytest.approx(losses_of(run, threads=2), abs=rounding)
    assert not counters["graph_break"]
    called = {function.__name__ for (function, *_), _ in call.call_args_list}
    if name == "wide":
        in_fp32 = {"forward", "backward", "multiply", "outer"} if precision == "fp32" else set()
        assert called == {"largest", "place"} | in_fp32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_process_compiles_more_shapes_than_the_compiler_would():
    torch.compiler.reset()
    limits = {"recompile_limit": 2, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(**limits):
        for width in (16, 32, 48, 64):
            model = dataclasses.replace(DENSE, num_layers=1, num_dense_layers=1, d_ffn=width)
            run = run_of(model, num_steps=1)
            assert losses_of(run, compile=True) == pytest.approx(losses_of(run), abs=2e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", ["dense", "ling", "wide"])
def test_compiled_runs_repeat_and_resume_to_the_bit(name, tmp_path, monkeypatch):
    """On two threads, which must not add to a sum in the order in which they come."""
    torch.compiler.reset()
    run = run_of((MODELS | {"wide": WIDE})[name], num_steps=30, sequence_length=32)
    execution = dataclasses.replace(CPU, compile=True, threads=2, checkpoint_seconds=1e-9)
    whole = [train(run, corpus=CORPUS, execution=execution) for _ in "ab"]
    read = training.batch

    def interrupted(tokens, *, step, **rest):
        if step == 17:
            raise InterruptedError
        return read(tokens, step=step, **rest)

    options = {"corpus": CORPUS, "execution": execution, "checkpoint_directory": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(training, "batch", interrupted)
        with pytest.raises(InterruptedError):
            train(run, **options)
    resumed = train(run, **options)
    for other in (whole[1], resumed):
        for field in ("training_loss_curve_nats", "validation_loss_nats"):
            assert other[field] == whole[0][field]


@pytest.mark.parametrize("dispatch", ["grouped", "loop"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_made_on_the_device_of_the_machine(name, precision, dispatch):
    """What a GPU needs, shown without one: a tensor that names no device is made elsewhere here."""
    run = run_of(MODELS[name], num_steps=4, precision=precision, merge_checkpoints=2)

    def found(elsewhere):
        execution = dataclasses.replace(CPU, dispatch=dispatch)
        with (
            machine_of(execution, precision) as machine,
            mock.patch.object(kernels, "_is_written_out", return_value=False),  # as on a GPU
        ):
            shares = [own_share(run, CORPUS, step, machine) for step in range(4)]
            state, again = start(run, machine), start(run, machine)
            with torch.device("meta") if elsewhere else contextlib.nullcontext():
                for share in shares[:2]:
                    assert learn(state, run, share, machine)
                restore(again, tensors(state), seconds=0.0)
                for share in shares[2:]:
                    assert learn(again, run, share, machine)
                exchange_merged(again, 2)
                return again.losses, evaluate(again.wrapped, run, CORPUS, machine)

    assert found(elsewhere=True) == found(elsewhere=False)


def test_seeds_differ():
    assert losses_of(run_of()) != losses_of(run_of(seed=1))


# --- micro-batches ----------------------------------------------------------------------------


def test_micro_batches_give_the_gradient_of_the_batch():
    free = RoutingConfig(balance_coefficient=0.0)  # the balance loss alone is not linear in tokens
    run = run_of(dataclasses.replace(MOE, routing=free))
    for width in (1, 3, 4):
        assert losses_of(run, micro_batch_sequences=width) == pytest.approx(
            losses_of(run), abs=2e-5
        )


def test_micro_batches_are_deterministic():
    assert losses_of(run_of(), micro_batch_sequences=3) == losses_of(
        run_of(), micro_batch_sequences=3
    )


def test_the_selection_bias_moves_once_a_step_from_summed_counts():
    run = run_of(LING, num_steps=1)
    biases = []
    for width in (0, 1, 2):
        with machine_of(dataclasses.replace(CPU, micro_batch_sequences=width)) as machine:
            state = start(run, machine)
            learn(state, run, own_share(run, CORPUS, 0, machine), machine)
            biases.append([buffer.clone() for buffer in state.model.buffers()])
    for layer in zip(*biases, strict=True):
        assert layer[0].abs().max() > 0
        assert layer[0].abs().max() < 2 * LING.routing.bias_update_rate
        assert all(torch.equal(layer[0], other) for other in layer)


# --- resuming ---------------------------------------------------------------------------------


class KilledAfter:
    """A corpus reader that dies, as from SIGKILL, when a step is asked for."""

    def __init__(self, step):
        self.step = step

    def __call__(self, tokens, *, step, **rest):
        if step == self.step:
            raise SystemExit("killed")
        return KilledAfter.read(tokens, step=step, **rest)

    read = staticmethod(training.batch)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("step", [1, 7, 11])
def test_kill_and_resume_is_bit_identical(name, step, tmp_path, monkeypatch):
    run = run_of(MODELS[name], merge_checkpoints=4, merge_interval=2, merge_windows=2)
    whole = train(run, corpus=CORPUS, execution=CPU)
    often = dataclasses.replace(CPU, checkpoint_seconds=1e-9)
    monkeypatch.setattr(training, "batch", KilledAfter(step))
    with pytest.raises(SystemExit):
        train(run, corpus=CORPUS, execution=often, checkpoint_directory=tmp_path)
    monkeypatch.undo()
    assert checkpoint.load(tmp_path, run_id=run.identity()).steps_done == step
    resumed = train(run, corpus=CORPUS, execution=often, checkpoint_directory=tmp_path)
    assert results(resumed) == results(whole)


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    run = run_of()
    first = train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    monkeypatch.setattr(training, "batch", KilledAfter(0))
    again = train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    assert results(again) == results(first)
    assert again["seconds"] == first["seconds"]


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    train(run_of(), corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    with pytest.raises(ValueError, match="belongs to run"):
        train(run_of(seed=1), corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)


def test_a_checkpoint_of_another_corpus_is_refused(tmp_path):
    train(run_of(), corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    rebuilt = dataclasses.replace(CORPUS, digest="f" * 64)
    with pytest.raises(
        checkpoint.CheckpointError, match="was trained on another build of the corpus"
    ):
        train(run_of(), corpus=rebuilt, execution=CPU, checkpoint_directory=tmp_path)


KILLED = """
import dataclasses, os, signal, sys
from pathlib import Path
from moe_leverage.training import checkpoint
from moe_leverage.training.loop import train
from toy import CORPUS, CPU, LING, run_of

sync, calls = checkpoint._sync, iter(range(1000))
def dying_sync(path):
    if next(calls) == int(sys.argv[2]):  # four calls a checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)
checkpoint._sync = dying_sync
how = dataclasses.replace(CPU, checkpoint_seconds=1e-9)
train(run_of(LING), corpus=CORPUS, execution=how, checkpoint_directory=Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("instant", [2, 13, 15])
def test_sigkill_while_writing_a_checkpoint_costs_one_step_and_no_bit(instant, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(instant)]
    done = subprocess.run(command, check=False, cwd=HERE, stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL
    run = run_of(LING)
    found = checkpoint.load(tmp_path, run_id=run.identity())
    written = instant // 4 + (instant % 4 == 3)  # renamed into place before its last sync
    assert (0 if found is None else found.steps_done) == written
    resumed = train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    assert results(resumed) == results(train(run, corpus=CORPUS, execution=CPU))


def test_state_survives_the_round_trip_through_a_checkpoint(tmp_path):
    run = run_of(LING)
    with machine_of(CPU) as machine:
        state = start(run, machine)
        for step in range(5):
            learn(state, run, own_share(run, CORPUS, step, machine), machine)
        training._keep(state, run, CORPUS, machine, tmp_path)
        saved = checkpoint.load(tmp_path, run_id=run.identity())
        fresh = start(run, machine)
        training.restore(fresh, saved.tensors, seconds=0.0)
        before, after = tensors(state), tensors(fresh)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_a_checkpoint_and_stops(number, tmp_path, monkeypatch):
    run = run_of()
    whole = train(run, corpus=CORPUS, execution=CPU)

    def signalled(tokens, *, step, **rest):
        if step == 5:
            os.kill(os.getpid(), number)
        return KilledAfter.read(tokens, step=step, **rest)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(training, "batch", signalled)
    with pytest.raises(Stopped, match=f"{number.name}: stopped after step 6 of 12"):
        train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    monkeypatch.undo()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    resumed = train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    assert results(resumed) == results(whole)


# --- merging, divergence, curves --------------------------------------------------------------


def test_merging_averages_the_late_checkpoints(tmp_path):
    run = run_of(decay="none", merge_checkpoints=3, merge_interval=4)
    with machine_of(CPU) as machine:
        state = start(run, machine)
        late = []
        for step in range(run.num_steps):
            learn(state, run, own_share(run, CORPUS, step, machine), machine)
            if step + 1 in (4, 8, 12):
                late.append([w.detach().clone() for w in state.model.parameters()])
    record = train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    for merged, *weights in zip(trained_model(run, tmp_path).parameters(), *late, strict=True):
        assert torch.allclose(merged, sum(weights) / 3, atol=1e-6)
    unmerged = record["unmerged_validation_loss_nats"]
    assert unmerged != record["validation_loss_nats"]
    plain = train(run_of(decay="none"), corpus=CORPUS, execution=CPU)
    assert unmerged == plain["validation_loss_nats"]


def test_one_run_answers_for_every_window_of_its_merge(tmp_path):
    run = run_of(decay="none", merge_checkpoints=8, merge_windows=3)
    record = train(run, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    apart = [
        train(run_of(decay="none", merge_checkpoints=n), corpus=CORPUS, execution=CPU)
        for n in (8, 4, 2)
    ]
    losses = [one["validation_loss_nats"] for one in apart]
    assert record["merge_window_losses_nats"] == losses
    assert record["validation_loss_nats"] == losses[0]
    assert len(set(losses)) == 3
    assert "merge_window_losses_nats" not in apart[0]


def test_divergence_ends_the_run_with_its_record(tmp_path):
    run = run_of(DENSE, learning_rate=9.9, gradient_clip=1e30, num_steps=200, weight_decay=1.0)
    blown = dataclasses.replace(run, model=dataclasses.replace(DENSE, init_std=1.0, norm_eps=1e-30))
    record = train(blown, corpus=CORPUS, execution=CPU, checkpoint_directory=tmp_path)
    if record["status"] == "ok":
        pytest.fail(f"stayed finite: {record['training_loss_curve_nats']}")
    assert record["status"] == "diverged"
    assert record["steps_done"] < 200
    assert record["validation_loss_nats"] is None
    json.dumps(record, allow_nan=False)


def test_a_step_that_is_not_finite_changes_nothing():
    run = run_of()
    with machine_of(CPU) as machine:
        state = start(run, machine)
        tokens = own_share(run, CORPUS, 0, machine)
        assert learn(state, run, tokens, machine)
        with torch.no_grad():
            state.model.norm.gain[0] = math.inf
        before = tensors(state)
        assert not learn(state, run, tokens, machine)
        after = tensors(state)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("num_steps", [1, 2, 63, 64, 65, 1000, 12_345])
def test_the_curve_grid_is_fixed_and_ends_with_the_run(num_steps):
    grid = curve_steps(num_steps)
    assert grid == sorted(set(grid))
    assert grid[0] >= 1
    assert grid[-1] == num_steps
    assert len(grid) <= CURVE_POINTS


def test_the_curve_is_the_mean_between_its_points():
    losses = [float(i) for i in range(1, 201)]
    curve, grid = training._curve(losses, 200), curve_steps(200)
    widths = np.diff([0, *grid])
    assert np.dot(curve, widths) == pytest.approx(sum(losses))


# --- optimiser --------------------------------------------------------------------------------


def test_matrices_decay_and_gains_do_not():
    run = run_of(LING)
    with machine_of(CPU) as machine:
        state = start(run, machine)
    decays = {id(w): g["weight_decay"] for g in state.optimiser.param_groups for w in g["params"]}
    for weight in state.model.parameters():
        assert decays[id(weight)] == (0.1 if weight.dim() > 1 else 0.0)


def test_one_step_is_adamw_on_the_clipped_gradient():
    run = run_of(DENSE, num_steps=1, gradient_clip=0.05)
    with machine_of(CPU) as machine:
        state, peer = start(run, machine), start(run, machine).model
        tokens = own_share(run, CORPUS, 0, machine)
        learn(state, run, tokens, machine)
    logits = peer(tokens[:, :-1]).logits
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    norm = math.sqrt(sum(w.grad.square().sum().item() for w in peer.parameters()))
    assert norm > 0.05
    for ours, weight in zip(state.model.parameters(), peer.parameters(), strict=True):
        grad = weight.grad * 0.05 / norm
        decay = 0.1 if weight.dim() > 1 else 0.0
        expected = weight * (1 - 1e-2 * decay) - 1e-2 * grad / (grad.abs() + 1e-8)
        assert torch.allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.5, 0.9)])
def test_moments_of_what_is_idle_are_never_subnormal(betas):
    # Token 63 leaves the corpus: its row of the embedding gets no gradient from then on.
    run = run_of(DENSE, num_steps=250, adam_beta1=betas[0], adam_beta2=betas[1])
    last = flush_interval(run) + 20
    with machine_of(CPU) as machine:
        state = start(run, machine)
        tokens = own_share(run, CORPUS, 0, machine)[:2, :6]
        assert learn(state, run, tokens * 0 + 63, machine)
        for moments in state.optimiser.state.values():
            moments["exp_avg"].mul_(1e-25)
            moments["exp_avg_sq"].mul_(1e-25)
        row = state.optimiser.state[state.model.embedding.weight]
        for _ in range(last):
            assert learn(state, run, tokens % 63, machine)
            for name in ("exp_avg", "exp_avg_sq"):
                idle = row[name][63].abs()
                if state.steps_done < flush_interval(run):
                    continue
                assert torch.all((idle == 0) | (idle >= torch.finfo(torch.float32).tiny))
    assert torch.all(row["exp_avg"][63] == 0)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "full"}, "corpus = 'full': the corpus given is smoke"),
        ({"sequence_length": 5_000}, "sequence_length = 5000: must be below the 4096 training"),
        ({"sequence_length": 400}, "sequence_length = 400: one has 600 validation tokens, fewer"),
        (
            {"model": dataclasses.replace(DENSE, vocab_size=63)},
            "vocab_size = 63: the corpus has 64 tokens",
        ),
        (
            {"model": dataclasses.replace(MOE, d_expert=6)},
            "d_expert = 6: must be a multiple of 4",
        ),
        (
            {"model": dataclasses.replace(MOE, d_expert=12), "precision": "bf16"},
            "d_expert = 12: must be a multiple of 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(changes, message, monkeypatch):
    monkeypatch.setattr(training, "start", None)
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(run_of(), **changes), corpus=CORPUS, execution=CPU)


def test_zero_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps = 0"):
        run_of(num_steps=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threads": -1}, "threads = -1"),
        ({"checkpoint_seconds": 0.0}, "checkpoint_seconds = 0.0"),
        ({"micro_batch_sequences": -2}, "micro_batch_sequences = -2"),
        ({"parallel": "tensor"}, "parallel = 'tensor': must be one of ddp, fsdp"),
        ({"dispatch": "dense"}, "dispatch = 'dense'"),
        ({"device": "abacus"}, "device = 'abacus'"),
    ],
)
def test_a_bad_execution_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Execution(**fields)


@pytest.mark.parametrize(
    ("name", "folder", "rule"),
    [
        ("TMPDIR", "nowhere", "is no folder to write in"),
        ("TMPDIR", "with space", "has white space"),
        ("TORCHINDUCTOR_CACHE_DIR", "with space", "has white space"),
    ],
)
def test_compiling_where_no_compiler_can_build_is_refused(
    monkeypatch, tmp_path, name, folder, rule
):
    (tmp_path / "with space").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # which torch itself sets
    monkeypatch.setenv(name, str(tmp_path / folder))
    with pytest.raises(ValueError, match=rf"{name} = .*{rule}"):
        Execution(device="cpu", compile=True)
    Execution(device="cpu")


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="compile = True: needs a C\\+\\+ compiler"):
        train(run_of(), corpus=CORPUS, execution=Execution(device="cpu", compile=True))


def test_trained_model_needs_a_finished_run(tmp_path):
    with pytest.raises(ValueError, match="holds no finished run"):
        trained_model(run_of(), tmp_path)

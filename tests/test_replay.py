"""Runs of the ledger, drawn by lot, are trained again from their configs and reach their losses."""

import random

import pytest

from moe_leverage import corpus, ledger
from moe_leverage.config import RunConfig
from moe_leverage.training.chain import train_chain
from moe_leverage.training.machine import Execution

LOT = 20260722  # the seed of the draw, written down before any run was drawn
DRAWN = 3
CHEAPEST = 30  # of the runs on the full corpus, among which the lot falls
# The same losses to the last bit on the machine that recorded them. Other instructions round
# differently, and training amplifies that: by 0.005 nats at most in the runs of `replay` under
# MKL_CBWR=COMPATIBLE or ATEN_CPU_CAPABILITY=avx2. Two seeds differ by some 0.06.
ROUNDING_NATS = 0.02


def drawn(tier):
    """DRAWN finished runs on a tier: of all its runs, or of the CHEAPEST ones."""
    found = {}
    for path in sorted(ledger.DIRECTORY.glob("*.jsonl")):
        for record in ledger.records(path):
            if record["config"]["corpus"] == tier and record["status"] == "ok":
                found[record["run_id"]] = record
    by_cost = sorted(
        found.values(), key=lambda record: (record["training_flops"], record["run_id"])
    )
    return random.Random(LOT).sample(by_cost[:CHEAPEST], DRAWN)


def retrained(record, tokens):
    """The loss of a recorded run trained again, on as many threads as then."""
    how = Execution(device="cpu", threads=record["environment"]["threads"])
    run = RunConfig.from_dict(record["config"])
    return train_chain(run, corpus=tokens, execution=how)["validation_loss_nats"]


@pytest.mark.slow
def test_three_runs_by_lot_on_the_small_corpus_reach_their_recorded_losses():
    tokens = corpus.load("smoke")
    for record in drawn("smoke"):
        assert record["corpus_digest"] == tokens.digest
        loss = retrained(record, tokens)
        assert loss == pytest.approx(record["validation_loss_nats"], abs=ROUNDING_NATS)


@pytest.mark.slow
def test_three_runs_by_lot_on_the_full_corpus_reach_their_recorded_losses():
    try:
        tokens = corpus.load("full")
    except ValueError as error:
        pytest.skip(str(error))
    for record in drawn("full"):
        loss = retrained(record, tokens)
        assert loss == pytest.approx(record["validation_loss_nats"], abs=ROUNDING_NATS)

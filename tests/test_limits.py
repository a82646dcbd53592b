"""The page of limits says what the ledger holds, and something sensible while it is empty."""

import numpy as np
import pandas as pd
import pytest

from moe_leverage import audit, ledger
from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.figures import limits

SHAPE = {"vocab_size": 64, "num_layers": 1, "d_model": 16, "num_heads": 2, "num_kv_heads": 1}
EMPTY = pd.DataFrame()


def record(loss, *, rate=1e-3, seed=0, status="ok", excluded=None):
    run = RunConfig(
        model=ModelConfig(**SHAPE, d_ffn=48), corpus="smoke", sequence_length=8,
        batch_sequences=2, num_steps=3, learning_rate=rate, seed=seed,
    )  # fmt: skip
    outcome = {
        "study": "toy",
        "status": status,
        "excluded": excluded,
        "validation_loss_nats": loss,
        "validation_standard_error_nats": 0.02,
    }
    return ledger.describe(run) | outcome


@pytest.fixture
def directory(tmp_path):
    """Two seeds of one setting, three of another, one run diverged and one excluded."""
    rows = [record(3.0), record(3.2, seed=1)]
    rows += [record(4.0 + 0.1 * seed, rate=2e-3, seed=seed) for seed in range(3)]
    rows += [record(None, rate=9.0, status="diverged")]
    rows += [record(2.0, seed=2, excluded="planned under an earlier protocol")]
    for row in rows:
        ledger.append(tmp_path / "toy.jsonl", row)
    return tmp_path


def test_noise_is_pooled_over_settings_and_leaves_out_what_is_excluded(directory):
    (row,) = limits.noise_by_budget(ledger.table(directory=directory)).to_dict("records")
    assert (row["settings"], row["runs"]) == (2, 5)
    squares = [np.log(losses).var(ddof=1) for losses in ([3.0, 3.2], [4.0, 4.1, 4.2])]
    pooled = np.sqrt((1 * squares[0] + 2 * squares[1]) / 3)
    assert row["sd_nats"] == pytest.approx(pooled * np.mean([3.0, 3.2, 4.0, 4.1, 4.2]))
    assert row["evaluation_nats"] == pytest.approx(0.02)


def test_one_seed_gives_no_noise(tmp_path):
    assert limits.noise_by_budget(ledger.table(directory=tmp_path)).empty
    ledger.append(tmp_path / "toy.jsonl", record(3.0))
    assert limits.noise_by_budget(ledger.table(directory=tmp_path)).empty


def test_every_run_left_out_is_listed_with_its_reason(directory):
    out = limits.left_out(ledger.table(directory=directory))
    assert sorted(out["why"]) == [
        "diverged: its loss was no number",
        "planned under an earlier protocol",
    ]
    assert limits.left_out(EMPTY).empty


def test_scale_sets_the_ledger_beside_the_tables(directory):
    reach = limits.scale(ledger.table(directory=directory), 7e7).set_index("quantity")
    first = reach.iloc[0]
    compute = limits.finished(ledger.table(directory=directory))["training_flops"].max()
    assert first["the paper"] == "6e20"  # Table 7
    assert first["ratio"] == pytest.approx(6e20 / compute)
    assert reach.loc["models trained", "this book"] == "5"


def test_an_empty_ledger_has_no_ratio():
    reach = limits.scale(EMPTY, 7e7)
    assert reach["this book"].iloc[0] == "no run yet"
    assert np.isnan(reach["ratio"].iloc[0])
    assert len(limits.tuning(EMPTY)) == 1


def test_tuning_counts_settings_not_runs(directory):
    tuned = limits.tuning(ledger.table(directory=directory)).set_index("family")
    assert tuned.loc["dense, this book", "settings tried"] == 2
    assert tuned.loc["dense, this book", "learning rates"] == "1.0e-03 to 2.0e-03"


def test_claims_are_chosen_by_verdict():
    verdicts = audit.audit()
    found = limits.claims(verdicts, "discrepant")
    assert len(found) == audit.counts(verdicts)["discrepant"]
    assert limits.claims((), "discrepant").empty

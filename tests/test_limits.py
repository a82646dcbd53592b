"""The page of limits says what the ledger holds, and something sensible while it is empty."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moe_leverage import audit, ledger
from moe_leverage.analysis.gates import Gate
from moe_leverage.audit.claims import Measurement
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


@pytest.fixture(scope="module")
def verdicts():
    return audit.audit()


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
    assert row["low"] == pytest.approx(row["sd_nats"] * np.sqrt(3 / 7.8147), rel=1e-4)
    assert row["high"] == pytest.approx(row["sd_nats"] * np.sqrt(3 / 0.35185), rel=1e-4)


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
    compute = ledger.finished(ledger.table(directory=directory))["training_flops"].max()
    assert first["the paper"] == "6e20"  # Table 7
    assert first["ratio"] == pytest.approx(6e20 / compute)
    assert reach.loc["models trained", "this book"] == "5"


def test_an_empty_ledger_has_no_ratio():
    reach = limits.scale(EMPTY, 7e7)
    assert reach["this book"].iloc[0] == "no run yet"
    assert np.isnan(reach["ratio"].iloc[0])
    assert len(limits.tuning(EMPTY)) == 1


def test_tuning_counts_settings_not_runs(directory):
    runs = ledger.table(directory=directory).assign(role="search")
    tuned = limits.tuning(runs).set_index("family")
    assert tuned.loc["dense, this book", "settings tried"] == 2
    assert tuned.loc["dense, this book", "learning rates"] == "1.0e-03 to 2.0e-03"


def test_claims_are_chosen_by_verdict(verdicts):
    found = limits.claims(verdicts, "discrepant")
    assert len(found) == audit.counts(verdicts)["discrepant"]
    assert limits.claims((), "discrepant").empty


@pytest.fixture
def undecided(verdicts):
    """A claim of the audit with an interval that reaches over the edge of its region."""
    some = next(v for v in verdicts if v.label == "measured: cannot tell")

    def with_interval(effect, low, high, region):
        claim, found = (
            replace(some.claim, region=region),
            Measurement(effect=effect, low=low, high=high),
        )
        return replace(some, claim=claim, found=found)

    return with_interval


@pytest.mark.parametrize(
    ("effect", "region", "then"),
    [(0.3, (0.1, 2.0), "agrees"), (0.3, (0.5, 0.9), "disagrees"), (0.3, (-9.0, 0.2), "disagrees")],
)
def test_the_runs_that_decide_a_claim_narrow_its_interval_just_enough(
    undecided, effect, region, then
):
    low, high = -0.2, 0.9
    verdict = undecided(effect, low, high, region)
    (needs,) = limits.runs_needed([verdict]).to_dict("records")
    assert needs["then"] == then
    for times, label in ((0.99, "cannot tell"), (1.01, then)):
        narrow = 1 / np.sqrt(times * needs["times_the_runs"])
        ends = {"low": effect + narrow * (low - effect), "high": effect + narrow * (high - effect)}
        assert verdict.claim.judge(Measurement(effect=effect, **ends)) == f"measured: {label}"


def test_an_effect_that_only_a_gate_keeps_open_needs_no_runs(undecided):
    verdict = replace(undecided(0.3, 0.2, 0.4, (0.1, 0.9)), label="not decided")
    assert limits.runs_needed([verdict]).empty


def test_failing_gates_have_a_row_each_with_the_worst_study():
    def gate(name, study, figure, limit, *, holds):
        return Gate(name=name, study=study, holds=holds, figure=figure, limit=limit, detail="")

    found = [
        gate("balanced", "a", 9.0, 4.0, holds=False),
        gate("balanced", "b", 2.0, 4.0, holds=True),
        gate("balanced", "c", 30.0, 4.0, holds=False),
        gate("repeated", "a", 1, 2, holds=False),
        gate("sized", "a", 0, 0, holds=True),
    ]
    rows = limits.failing(found).set_index("gate")
    assert rows["worst figure"].to_dict() == {"balanced": 30.0, "repeated": 1}
    assert rows.loc["balanced", ["in", "of", "studies"]].tolist() == [2, 3, "a, c"]
    assert limits.failing([found[1]]).empty
    unknown = limits.failing([*found, gate("balanced", "d", np.nan, 4.0, holds=False)])
    assert np.isnan(unknown.set_index("gate").loc["balanced", "worst figure"])


def test_no_number_of_runs_decides_an_effect_on_the_edge_or_none(undecided, verdicts):
    edge = limits.runs_needed([undecided(0.5, 0.2, 0.9, (0.5, 1.0))])
    assert np.isinf(edge["times_the_runs"].item())
    assert limits.runs_needed([undecided(None, -1.0, 1.0, (0.5, 1.0))]).empty
    open_labels = ("measured: cannot tell", "not decided")
    decided = [v for v in verdicts if v.label not in open_labels]
    assert limits.runs_needed(decided).empty

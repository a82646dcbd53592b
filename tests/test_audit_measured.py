"""What claims about training rest on: planted effects are found in a ledger of synthetic runs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moe_leverage import ledger
from moe_leverage.analysis.fitting import fit
from moe_leverage.audit import decide, evidence, load_claims
from moe_leverage.audit import trends as measured
from moe_leverage.audit.trends import fitted, measure
from moe_leverage.config import ModelConfig, RoutingConfig, RunConfig
from moe_leverage.studies.catalogue import STUDIES
from moe_leverage.theory.laws import PowerLaw
from moe_leverage.training.schedule import curve_steps

BUDGETS = (3e11, 1e12, 3e12, 1e13)

SIZES = {"vocab_size": 1024, "num_layers": 4, "d_model": 64, "num_heads": 4, "num_kv_heads": 2}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ledger, "DIRECTORY", tmp_path)
    return tmp_path


def plan(model: ModelConfig, budget: float, *, learning_rate: float = 1e-3,
         batch_sequences: int = 8, seed: int = 0) -> RunConfig:  # fmt: skip
    run = RunConfig(model=model, corpus="smoke", sequence_length=256, num_steps=1,
                    batch_sequences=batch_sequences, learning_rate=learning_rate,
                    min_warmup_steps=0, seed=seed)  # fmt: skip
    step = ledger.describe(run)["training_flops"]
    return RunConfig.from_dict({**run.to_dict(), "num_steps": max(round(budget / step), 1)})


def record(directory: Path, study: str, run: RunConfig, loss: float, **more: object) -> None:
    result = {"validation_loss_nats": loss, "training_loss_curve_nats": [4.0, loss]}
    state = {"study": study, "status": "ok", "steps_done": run.num_steps}
    line = {**ledger.describe(run), **state, **result, **more}
    ledger.append(directory / f"{study}.jsonl", line)
    plan_run(directory, study, run.identity())


def plan_run(directory: Path, study: str, run_id: str) -> None:
    plans = ledger.plans(directory)
    about = STUDIES[study] if study in STUDIES else STUDIES["activation"]
    plan = plans.get(study, {"role": about.role, "varies": list(about.varies), "runs": []})
    plan["runs"] = [*plan["runs"], run_id]
    ledger.write_plans({**plans, study: plan}, directory)


def moe(experts: int = 64, granularity: int = 2, **more: object) -> ModelConfig:
    scale = granularity // 2
    return ModelConfig(num_experts=experts * scale, num_active_experts=2 * scale,
                       num_shared_experts=scale, d_expert=64 // scale, **SIZES, **more)  # type: ignore[arg-type]  # fmt: skip


DENSE = ModelConfig(d_ffn=192, **SIZES)  # type: ignore[arg-type]


def noise(generator: np.random.Generator) -> float:
    return float(generator.normal(scale=1e-3))


def test_no_runs_is_said(directory: Path) -> None:
    found = measure(study="activation", statistic="slope", axis="activation_ratio")
    assert found.effect is None
    assert found.detail.endswith("activation: 0 of an unknown number of runs")


def test_too_few_runs_is_said(directory: Path) -> None:
    for experts in (16, 64):
        record(directory, "activation", plan(moe(experts), 1e12), 3.0 - experts / 1e3)
    found = measure(study="activation", statistic="slope", axis="activation_ratio")
    assert found.effect is None
    assert "at least 5 are needed (2 runs" in found.detail


def test_an_incomplete_study_decides_nothing_nor_one_whose_gates_fail(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, study = np.random.default_rng(1), "activation"
    for budget, experts in itertools.product(BUDGETS, (8, 16, 32, 64)):
        model = moe(experts)
        loss = 4 + 0.2 * math.log(model.activation_ratio) - 0.1 * math.log(budget / 3e11)
        record(directory, study, plan(model, budget), loss + noise(generator))
    claim = next(claim for claim in load_claims() if claim.id == "loss-falls-with-a")
    held = decide(claim)
    assert held.label == "not decided"
    assert held.detail.startswith("gates that fail: bodies, ")
    assert held.value == pytest.approx(0.2, abs=0.02)
    monkeypatch.setattr(evidence, "failing_gates", lambda studies, **_: ())
    assert decide(claim).label == "measured: agrees"
    plan_run(directory, study, "c0ffee")
    verdict = decide(claim)
    assert verdict.label == "measured: cannot tell"
    assert verdict.detail == "decided when complete: activation: 16 of 17 runs"
    assert verdict.value is None


def test_leverage_also_needs_the_study_of_the_dense_frontier(directory: Path) -> None:
    record(directory, "attention", plan(moe(), 1e12), 3.0)
    found = measure(
        study="attention", statistic="slope", axis="attention_share", response="log_leverage"
    )
    assert found.detail.endswith("the dense frontier: no run")


def test_the_frontier_is_that_of_whichever_study_is_of_the_baselines_recipe(
    directory: Path,
) -> None:
    for budget in BUDGETS:
        record(directory, "new-name", plan(DENSE, budget), 4 - math.log(budget) / 40)
        record(directory, "of-another-kind", plan(DENSE, budget), 1.0)
    found = ledger.plans(directory)
    roles = {"new-name": "plain", "of-another-kind": "search"}
    ledger.write_plans(
        {name: found[name] | {"role": roles.get(name, found[name]["role"])} for name in found},
        directory,
    )
    record(directory, "attention", plan(moe(), 1e12), 4 - math.log(2e12) / 40)
    assert evidence.frontier_studies() == ["new-name"]
    (leverage,) = evidence.with_response(evidence.runs(["attention"]), "log_leverage")["response"]
    assert math.exp(leverage) == pytest.approx(2, rel=0.02)
    plan_run(directory, "new-name", "c0ffee")
    assert evidence.shortfall(["attention"], "log_leverage") == "new-name: 4 of 5 runs"


def test_the_sizes_of_a_ladder_carry_its_frontier(directory: Path) -> None:
    for budget in BUDGETS:
        record(directory, "isoflop", plan(DENSE, budget), 4 - math.log(budget) / 40)
    record(directory, "attention", plan(moe(), 1e12), 4 - math.log(2e12) / 40)
    assert evidence.frontier_studies() == ["isoflop"]
    (leverage,) = evidence.with_response(evidence.runs(["attention"]), "log_leverage")["response"]
    assert math.exp(leverage) == pytest.approx(2, rel=0.02)


def test_a_budget_with_one_value_has_no_slope_and_is_named(directory: Path) -> None:
    generator = np.random.default_rng(0)
    for budget, experts in [*itertools.product(BUDGETS[1:], (8, 16, 32)), (BUDGETS[0], 64)]:
        model = moe(experts)
        loss = 4 + 0.2 * math.log(model.activation_ratio) + noise(generator)
        record(directory, "activation", plan(model, budget), loss)
    asked = {"study": "activation", "statistic": "slope", "axis": "activation_ratio"}
    found = measure(**asked, each="compute", pick="min")
    assert found.effect == pytest.approx(0.2, abs=0.01)
    assert "9 runs of the study activation, without 3e+11 FLOPs, where one value is left" in (
        found.detail
    )


def test_what_the_published_law_says_below_its_runs_is_of_another_scale(
    directory: Path,
) -> None:
    for budget in BUDGETS:
        level = 4 - math.log(budget) / 40
        record(directory, "isoflop", plan(DENSE, budget), level)
        for experts in (8, 16, 32):
            loss = level - math.log(experts) / 400
            record(directory, "activation", plan(moe(experts), budget), loss)
    asked = {"study": "activation", "statistic": "slope", "within": "none"}
    found = measure(**asked, axis="published_leverage")
    assert found.effect is not None
    assert found.is_of_another_scale
    assert not measure(**asked, axis="activation_ratio").is_of_another_scale


def test_excluded_and_diverged_runs_are_left_out(directory: Path) -> None:
    run = plan(moe(), 1e12)
    record(directory, "activation", run, 3.0)
    record(directory, "activation", run.with_seed(1), 9.0, excluded="a test")
    record(directory, "activation", run.with_seed(2), 9.0, status="diverged")
    assert evidence.runs(["activation"])["loss_nats"].tolist() == [3.0]


def test_slope_is_recovered_and_gap_stated(directory: Path) -> None:
    generator = np.random.default_rng(1)
    for budget, experts in itertools.product(BUDGETS, (8, 16, 32, 64, 128)):
        model = moe(experts)
        loss = 4 - 0.1 * math.log(budget / 3e11) + 0.2 * math.log(model.activation_ratio)
        record(directory, "activation", plan(model, budget), loss + noise(generator))
    whole = measure(study="activation", statistic="slope", axis="activation_ratio")
    assert whole.effect == pytest.approx(0.2, abs=0.01)
    assert whole.low < 0.2 < whole.high
    assert whole.high - whole.low < 0.02
    assert "3e+07 times below the paper's largest" in whole.detail
    each = measure(
        study="activation", statistic="slope", axis="activation_ratio", each="compute", pick="min"
    )
    assert each.effect is not None
    assert whole.effect is not None
    assert each.effect <= whole.effect


@pytest.mark.parametrize("best", [4.0, 8.0])
def test_optimum_and_its_drift_are_recovered(directory: Path, best: float) -> None:
    generator = np.random.default_rng(2)
    for budget, granularity in itertools.product(BUDGETS, (2, 4, 8, 16)):
        place = math.log(best) + 0.2 * math.log(budget / 1e12)
        loss = 3 + 0.1 * (math.log(granularity) - place) ** 2 - 0.1 * math.log(budget / 1e12)
        run = plan(moe(64, granularity), budget)
        record(directory, "granularity", run, loss + noise(generator))
    drift = measure(study="granularity", statistic="drift", axis="granularity", by="training_flops")
    assert drift.effect == pytest.approx(0.2, abs=0.05)
    assert drift.low < drift.effect < drift.high
    curved = measure(study="granularity", statistic="curvature", axis="granularity")
    assert curved.effect == pytest.approx(0.1, abs=0.02)
    one_budget = {"training_flops": [0.9e12, 1.1e12]}
    place = measure(study="granularity", statistic="optimum", axis="granularity")
    assert place.effect is not None
    assert (
        measure(
            study="granularity", statistic="optimum", axis="granularity", where=one_budget
        ).effect
        is None
    )  # four runs are too few


def test_a_hill_has_no_optimum(directory: Path) -> None:
    generator = np.random.default_rng(3)
    for budget, granularity in itertools.product(BUDGETS, (2, 4, 8, 16)):
        loss = 3 - 0.1 * (math.log(granularity) - 1.5) ** 2 + noise(generator)
        record(directory, "granularity", plan(moe(64, granularity), budget), loss)
    found = measure(study="granularity", statistic="optimum", axis="granularity")
    assert found.effect is None
    assert "no optimum is resolved" in found.detail


def test_shift_between_two_studies(directory: Path) -> None:
    generator = np.random.default_rng(4)
    weak = RoutingConfig(balance_coefficient=0.001)
    for study, best, more in (("granularity", 8.0, {}), ("balance", 4.0, {"routing": weak})):
        for budget, granularity in itertools.product(BUDGETS, (2, 4, 8, 16)):
            loss = 3 + 0.1 * math.log(granularity / best) ** 2 + noise(generator)
            record(directory, study, plan(moe(64, granularity, **more), budget), loss)
    found = measure(
        study=["granularity", "balance"], statistic="shift", axis="granularity",
        by="is_weakly_balanced",
    )  # fmt: skip
    assert found.effect == pytest.approx(math.log(4 / 8), abs=0.05)
    assert found.low < math.log(4 / 8) < found.high


def test_best_of_a_second_sweep_is_taken(directory: Path) -> None:
    generator = np.random.default_rng(5)
    rates, batches = (2.0**-9, 2.0**-8, 2.0**-7, 2.0**-6), (4, 8, 16)
    for budget, rate, batch in itertools.product(BUDGETS, rates, batches):
        place = math.log(2.0**-8) - 0.15 * math.log(budget / 1e12)
        loss = 3 + 0.1 * (math.log(rate) - place) ** 2 + 0.2 * abs(math.log(batch / 8))
        run = plan(moe(), budget, learning_rate=rate, batch_sequences=batch)
        record(directory, "tuning", run, loss + noise(generator))
    found = measure(
        study="tuning", statistic="drift", axis="learning_rate", by="training_flops",
        over="batch_tokens",
    )  # fmt: skip
    assert found.effect == pytest.approx(-0.15, abs=0.03)
    assert "; 16 runs of the study tuning" in found.detail


def test_leverage_is_read_from_the_dense_frontier(directory: Path) -> None:
    budgets = (3e11, 1e12, 3e12, 1e13, 3e13)
    for budget in budgets:
        run = plan(DENSE, budget)
        compute = ledger.describe(run)["training_flops"]
        record(directory, "activation", run, 3 * (compute / 1e12) ** -0.1)
    for budget, experts in itertools.product(budgets[1:4], (16, 64)):
        run = plan(moe(experts), budget)
        compute = ledger.describe(run)["training_flops"]
        leverage = 1.5 if experts == 16 else 2.0
        record(directory, "activation", run, 3 * (leverage * compute / 1e12) ** -0.1)
    sparse = evidence.runs(["activation"]).query("is_moe == 1")
    found = evidence.with_response(sparse, "log_leverage")
    wanted = np.where(found["num_experts"] == 16, 1.5, 2.0)
    assert np.exp(found["response"].to_numpy()) == pytest.approx(wanted, rel=0.01)
    level = measure(
        study="activation", statistic="level", response="log_leverage", each="compute",
        pick="min", where={"activation_ratio": [0.0, 0.5]},
    )  # fmt: skip
    assert math.exp(level.effect or 0.0) == pytest.approx(math.sqrt(3.0), rel=0.02)


def test_a_loss_below_every_dense_run_is_no_number(directory: Path) -> None:
    for budget in (1e12, 3e12):
        record(directory, "activation", plan(DENSE, budget), 3.0 - budget / 1e13)
    record(directory, "activation", plan(moe(), 3e12), 1.0)
    sparse = evidence.runs(["activation"]).query("is_moe == 1")
    assert evidence.with_response(sparse, "log_leverage")["response"].isna().all()


def test_early_loss_is_read_at_a_tenth_of_the_tokens_whatever_the_grid() -> None:
    steps = [1000, 1012, 37]
    curves = [[float(step) / n for step in curve_steps(n)] for n in steps]
    assert len(set(map(len, curves))) > 1
    frame = pd.DataFrame({"training_loss_curve_nats": curves, "num_steps": steps})
    found = evidence.with_response(frame, "early_loss")["response"]
    np.testing.assert_allclose(found, 0.1, rtol=1e-12)


def test_a_study_of_a_new_axis_needs_no_list_to_be_measured(directory: Path) -> None:
    """The study and a claim about it are the two files to touch."""
    generator = np.random.default_rng(3)
    for budget, beta, seed in itertools.product(BUDGETS, (0.9, 0.95, 0.99), (0, 1)):
        run = plan(DENSE, budget, seed=seed).with_settings({"adam_beta2": beta})
        record(directory, "optimiser", run, 3.0 - 0.5 * math.log(beta) + noise(generator))
    found = measure(study="optimiser", statistic="slope", axis="adam_beta2")
    assert found.low < -0.5 < found.high
    assert found.high - found.low < 0.1


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"axis": "adam_beta3"}, r"axis = 'adam_beta3': no run of the study activation has it"),
        ({"by": "hue"}, r"by = 'hue': no run of"),
        ({"within": "hue"}, r"within = 'hue': no run of"),
        ({"where": {"hue": [0, 1]}}, r"where\.hue = 'hue': no run of"),
        ({"hue": 3}, r"measured = {.*}: got an unexpected keyword argument 'hue'"),
    ],
)
def test_a_mistake_in_a_measurement_is_named(directory: Path, change: dict, rule: str) -> None:
    record(directory, "activation", plan(moe(), 1e12), 3.0)
    design = {"study": "activation", "statistic": "slope", "axis": "activation_ratio"} | change
    with pytest.raises(ValueError, match=rule):
        measure(**design)


def test_a_statistic_is_known_by_its_name_alone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "STATISTICS", dict(measured.STATISTICS))

    @measured.statistic("twice the slope")
    def _twice(theta, fit, design):  # type: ignore[no-untyped-def]
        return 2 * theta[:, -1:]

    generator = np.random.default_rng(4)
    for budget, experts in itertools.product(BUDGETS, (8, 16, 32, 64)):
        record(directory, "activation", plan(moe(experts), budget), 3.0 + noise(generator))
    design = {"study": "activation", "axis": "activation_ratio"}
    once, twice = (measure(**design, statistic=name) for name in ("slope", "twice the slope"))
    assert twice.effect == pytest.approx(2 * once.effect)
    with pytest.raises(ValueError, match=r"statistic = 'slope': is already a statistic"):
        measured.statistic("slope")(_twice)


def test_an_unknown_statistic_is_named() -> None:
    with pytest.raises(ValueError, match="statistic = 'vibe': must be one of slope"):
        measure(study="activation", statistic="vibe")


def test_a_fitted_coefficient_comes_with_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "FITS", tmp_path)
    monkeypatch.setattr(ledger, "DIRECTORY", tmp_path)
    assert "tuning: 0 of" in fitted("learning_rate", "exponent", "tuning").detail
    record(tmp_path, "tuning", plan(DENSE, 1e12), 3.0)
    found = fitted("learning_rate", "exponent", "tuning")
    assert found.detail == "no fit learning_rate of our runs yet"
    compute = np.geomspace(1e11, 1e14, 12)
    noisy = np.exp(np.random.default_rng(0).normal(scale=0.02, size=12))
    table = pd.DataFrame({"compute": compute, "value": 1.2 * compute**-0.15 * noisy})
    fit(PowerLaw, table, target="value").save(tmp_path / "learning_rate.json")
    found = fitted("learning_rate", "exponent", "tuning")
    assert found.effect == pytest.approx(-0.15, abs=0.01)
    assert found.low < found.effect < found.high
    with pytest.raises(ValueError, match="coefficient = 'slope': must be one of"):
        fitted("learning_rate", "slope", "tuning")
    verdict = "learning_rate,exponent,not identified"
    (tmp_path / "profiles.csv").write_text(f"fit,coefficient,verdict\n{verdict}\n")
    found = fitted("learning_rate", "exponent", "tuning")
    assert (found.effect, found.detail.split(":")[0]) == (None, "the data do not identify it")
    (tmp_path / "profiles.csv").unlink()
    plan_run(tmp_path, "tuning", "c0ffee")
    assert fitted("learning_rate", "exponent", "tuning").effect is None


def test_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    design = [(budget, g) for budget in BUDGETS for g in (2, 4, 6, 8, 12, 16)]
    compute, granularity = (np.array(column, dtype=float) for column in zip(*design, strict=True))
    z = np.log(compute) - np.log(compute).mean()
    columns = {"budget": compute.astype(str), "training_flops": compute, "granularity": granularity}
    covered = 0
    for seed in range(200):
        x = np.log(granularity / 8) - 0.1 * z
        loss = 3 - 0.1 * z + 0.02 * x**2 + np.random.default_rng(seed).normal(0, 0.005, len(z))
        frame = pd.DataFrame({**columns, "loss_nats": loss, "is_moe": 1, "seed": 0})
        monkeypatch.setattr(evidence, "runs", lambda studies, frame=frame: frame)
        monkeypatch.setattr(evidence, "shortfall", lambda studies, *columns: "")
        found = measure(
            study="granularity", statistic="drift", axis="granularity", by="training_flops"
        )
        covered += found.low <= 0.1 <= found.high
    assert 0.84 <= covered / 200 <= 0.96


def test_the_smallest_of_many_equal_effects_is_not_surely_below_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four slopes that are all 0: their least is negative, and 90 % of its intervals hold 0."""
    design = [(budget, a) for budget in BUDGETS for a in (0.01, 0.03, 0.1, 0.3, 0.6)]
    compute, ratio = (np.array(column, dtype=float) for column in zip(*design, strict=True))
    columns = {"budget": compute.astype(str), "training_flops": compute, "activation_ratio": ratio}
    monkeypatch.setattr(evidence, "shortfall", lambda studies, *columns: "")
    below = 0
    for seed in range(200):
        loss = 3 + np.random.default_rng(seed).normal(0, 0.01, len(compute))
        frame = pd.DataFrame({**columns, "loss_nats": loss, "is_moe": 1, "seed": 0})
        monkeypatch.setattr(evidence, "runs", lambda studies, frame=frame: frame)
        found = measure(
            study="activation", statistic="slope", axis="activation_ratio", each="compute"
        )
        assert found.effect is not None
        assert found.low <= found.effect <= found.high
        below += found.high < 0
    assert below / 200 <= 0.1


def test_noise_of_the_dense_runs_widens_a_leverage(directory: Path) -> None:
    generator = np.random.default_rng(8)
    for budget, seed in itertools.product(BUDGETS, (0, 1, 2)):
        loss = 30 * budget**-0.08 * math.exp(generator.normal(scale=0.01))
        record(directory, "activation", plan(DENSE, budget, seed=seed), loss)
    for budget, experts in itertools.product(BUDGETS[1:3], (16, 32, 64)):
        record(directory, "activation", plan(moe(experts), budget), 30 * (1.2 * budget) ** -0.08)
    design = {"study": "activation", "statistic": "level", "response": "log_leverage",
              "each": "compute", "where": {"activation_ratio": [0.0, 0.5]}}  # fmt: skip
    found = measure(**design)
    assert found.high - found.low > 0.05


def test_runs_far_above_the_lowest_loss_are_left_out_where_a_claim_says_so(directory: Path) -> None:
    for budget, experts in itertools.product(BUDGETS, (8, 16, 32, 64, 128)):
        loss = 9.0 if experts == 8 else 3.0 + 0.1 * math.log(experts) - math.log10(budget) / 100
        record(directory, "activation", plan(moe(experts), budget), loss)
    design = {"study": "activation", "statistic": "slope", "axis": "activation_ratio"}
    assert "; 20 runs of" in measure(**design).detail
    assert "; 16 runs of" in measure(**design, near=1.15).detail

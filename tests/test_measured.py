"""The ledger's fits: a synthetic ledger gives its laws back; the committed fits are current."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import typer
from synthetic_ledger import ADOPTED, BATCH, BODY, JOINT, RATE, fill

from moe_leverage import ledger
from moe_leverage.analysis import gates, measured
from moe_leverage.analysis.findings import Findings
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.points import table_noise
from moe_leverage.audit import evidence
from moe_leverage.cli.fit import fits
from moe_leverage.instruments import explorer
from moe_leverage.page import measured as page
from moe_leverage.studies.catalogue import plan

KINDS = ("learning_rate", "batch_tokens", "model", "tokens")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ledger")
    fill(directory)
    return directory


@pytest.fixture(scope="module")
def frame(filled):
    return measured.load_ledger(filled)


@pytest.fixture(scope="module")
def found(frame):
    return measured.fit_ledger(frame, resamples=100)


@pytest.mark.slow
def test_the_laws_that_the_book_reads_are_fitted_and_no_others(found):
    names = {f"{family}_{kind}" for family in ("dense", "moe") for kind in KINDS}
    assert set(found.fits) == names | {"joint"}, found.skipped
    for name, fitted in found.fits.items():
        assert name in (fitted.kind, f"{fitted.family}_{fitted.kind}")
        assert fitted.role == "law"
    assert {score.law for score in found.scores["held out"]} >= {"JointLaw", "FreeInteraction"}


@pytest.mark.slow
def test_the_laws_behind_the_ledger_come_back(found):
    fits = found.fits
    for name, law in (("moe_learning_rate", RATE), ("dense_learning_rate", RATE),
                      ("moe_batch_tokens", BATCH)):  # fmt: skip
        at = fits[name].law(1e12)
        assert abs(math.log(at / law(1e12))) < 0.5, name  # within the width of the grid's steps
    for name in ("moe_model", "dense_model"):
        assert fits[name].law(1e12) == pytest.approx(BODY(1e12), rel=0.1), name
    point = {"activation_ratio": 3 / 65, "granularity": 4.0, "compute": 3e12}
    assert fits["joint"].law.evaluate(**point) == pytest.approx(JOINT(**point), rel=0.1)
    low, high = fits["joint"].predict(point, level=0.99).confidence[0]
    assert low < JOINT(**point) < high


@pytest.mark.slow
def test_the_joint_study_and_variants_are_held_out(frame, found):
    table = measured.runs_table(frame)
    apart = table[table["study"] == "joint"]
    assert len(apart) == 24
    assert apart["held_out"].all()
    assert (apart["variant"] == "").all()
    assert table.loc[table["study"] == "balance", "variant"].eq("balance 0.001").all()
    assert table.loc[table["study"] == "dense-first", "variant"].nunique() == 2
    assert table.loc[table["study"] == "bias-routing", "variant"].nunique() == 2
    joint = found.leverage.points[found.leverage.points["estimator"] == "joint"]
    assert joint.loc[joint["variant"] != "", "held_out"].all()
    assert found.scores["held out"][0].num_held_out >= 20


@pytest.mark.slow
def test_fits_are_written_read_and_known_to_be_current(frame, tmp_path):
    (tmp_path / "adopted").mkdir()
    along = ["activation", "granularity"]
    part = frame[frame["study"].isin(along)].reset_index(drop=True)
    index = measured.write_fits(part, tmp_path, resamples=20)
    assert index["ledger"] == measured.digest(part) == measured.read_index(tmp_path)["ledger"]
    assert "no finished run" in index["skipped"]["allocation"]
    assert set(index["failing_gates"]) == {*index["fits"], *measured.READ}
    assert index["failing_gates"]["sizes"] == [gates.UNJUDGED]  # no run of its studies
    assert index["failing_gates"]["joint"] == list(gates.failing(part, along, gates.gates(part)))
    part_of = measured.fit_parts(part, resamples=20)
    lacking = measured.failing_gates(part, part_of, {"granularity"})["joint"]
    assert lacking == [measured.COMPLETE, *index["failing_gates"]["joint"]]
    assert measured.COMPLETE not in measured.failing_gates(part, part_of, {"tuning"})["joint"]
    for name, law in index["fits"].items():
        assert type(Fit.load(tmp_path / f"{name}.json").law).__name__ == law
    assert {"leverage.csv", "rivals.csv", "profiles.csv"} <= {p.name for p in tmp_path.iterdir()}
    fewer = part[part["study"] == "isoflop"].reset_index(drop=True)
    again = measured.write_fits(fewer, tmp_path, resamples=20)
    gone = set(index["fits"]) - set(again["fits"])
    assert gone
    assert not any((tmp_path / f"{name}.json").exists() for name in gone)
    assert (tmp_path / "adopted").is_dir()


@pytest.mark.slow
def test_leverage_along_an_axis_is_read_off_dense_models_at_their_best_size(frame, found):
    points = found.leverage.points
    read = points[(points["estimator"] == "frontier") & (points["granularity"].round(3) == 2)]
    read = read[(read["variant"] == "") & ~read["held_out"].astype(bool)]
    rungs = read["compute"].map(ledger.rung)
    inside = read[rungs == 1e12].dropna(subset="efficiency_leverage")
    assert inside["activation_ratio"].nunique() > 5
    truth = JOINT(
        activation_ratio=inside["activation_ratio"].to_numpy(), granularity=2.0, compute=1e12
    )
    np.testing.assert_allclose(inside["efficiency_leverage"], truth, rtol=0.1)
    beyond = read[(rungs == 3e13) & (read["activation_ratio"] < 0.05)]  # dense runs end at 3e13
    assert beyond["efficiency_leverage"].isna().all()
    assert beyond["at_least"].to_numpy() == pytest.approx(1, rel=0.01)
    sizes = frame[(frame["study"] == "isoflop") & ~frame["is_moe"]]
    dense = found.leverage.best[~found.leverage.best["is_moe"]]
    assert set(dense["compute"].map(ledger.rung)) == set(sizes["budget_flops"])


@pytest.mark.slow
def test_pages_read_the_baseline_off_the_one_table_of_leverage(frame, tmp_path):
    measured.write_fits(frame, tmp_path, resamples=20)
    points = page.baseline_leverage(tmp_path)
    assert set(points["estimator"]) == {"frontier", "power curves", "floored curves"}
    read = points[points["estimator"] == "frontier"].set_index("training_flops")
    assert read.index.is_unique
    inside = read.loc[[3e11, 1e12, 3e12], "efficiency_leverage"]
    truth = JOINT(activation_ratio=3 / 65, granularity=2.0, compute=inside.index.to_numpy())
    np.testing.assert_allclose(inside, truth, rtol=0.05)  # their noise is a hundredth of EL


def test_a_law_of_leverage_rests_on_whole_studies_of_sizes_and_of_axes(frame):
    nothing = Findings(fits={}, skipped={}, warnings=[])
    parts = dict.fromkeys(measured.PARTS, nothing)
    parts["leverage"] = dataclasses.replace(nothing, fits={"joint": None})
    for study in ("isoflop", "granularity"):
        assert measured.COMPLETE in measured.failing_gates(frame, parts, {study})["joint"]
    for study in ("joint", "shared", "tuning"):
        assert measured.COMPLETE not in measured.failing_gates(frame, parts, {study})["joint"]


def test_a_run_of_two_studies_counts_once_in_a_joined_fit(frame, monkeypatch):
    seen = {}

    def spy(table, **options):
        seen[len(seen)] = table
        return Findings(fits={}, skipped={}, warnings=[])

    for name in ("hyperparameters", "allocation", "leverage_laws"):
        monkeypatch.setattr(measured.findings, name, spy)
    measured.fit_ledger(frame)
    joined = seen[2]
    shared = set(frame.query("study == 'activation'")["run_id"])
    shared &= set(frame.query("study == 'granularity'")["run_id"])
    assert shared
    of_shared = joined[joined["run_id"].isin(shared)]
    plain = of_shared[of_shared["variant"] == ""]
    assert plain["run_id"].is_unique
    assert set(plain["study"]) == {"isoflop", "activation"}  # the first of them by role
    assert not plain["held_out"].any()
    variants = of_shared[of_shared["variant"] != ""]  # the same runs, begun a sweep of their own
    assert set(variants["variant"]) == {"merge exponential 0"}
    _, freedom = table_noise(joined)
    families = joined.groupby(["is_moe", "run_id", "variant"]).ngroups
    assert families == len(joined)
    assert 0 < freedom <= 2 * len(joined) / 3  # three seeds of a design leave two to tell noise by


def test_digest_follows_losses_and_exclusions_alone(tmp_path):
    fill(tmp_path, ("nano-beta",))
    frame = ledger.table(directory=tmp_path)
    digest = measured.digest(frame)
    assert measured.digest(frame.iloc[::-1]) == digest
    assert measured.digest(frame.assign(seconds=1.0)) == digest
    frame.loc[0, "loss_nats"] += 1e-3
    assert measured.digest(frame) != digest


def test_excluded_and_diverged_runs_are_not_used(tmp_path):
    fill(tmp_path, ("activation",))
    frame = ledger.table(directory=tmp_path)
    whole = len(measured.runs_table(frame))
    frame.loc[0, "status"] = "diverged"
    frame.loc[1, "excluded"] = "the corpus changed"
    assert len(measured.runs_table(frame)) == whole - 2


def test_an_empty_ledger_has_reasons_and_no_fits(tmp_path):
    fill(tmp_path, ("nano-beta",))
    none = ledger.table(directory=tmp_path).iloc[:0]
    found = measured.fit_ledger(none)
    assert found.fits == {}
    assert set(found.skipped) == {"hyperparameters", "allocation", "leverage"}


STEP = 1e-3  # of a coefficient as the fit sees it


def huber(fitted, theta):
    """The objective of a fit; NaN beyond the domain of its law."""
    error = np.abs(fitted.log_target - fitted.law.log_value(theta, fitted.inputs))
    quadratic = np.minimum(error, fitted.delta)
    return float((quadratic * (error - quadratic / 2)).sum())


def test_committed_fits_are_current():
    index = measured.read_index()
    if not index:
        pytest.skip("data/fits holds no fits yet: the studies have not been run")
    assert index["ledger"] == measured.digest(measured.load_ledger())
    frame = ledger.table()
    behind = frame.loc[frame["role"].isin(measured.FITTED["leverage"]), "study"].unique()
    failing = set(index["failing_gates"]["joint"]) - {measured.COMPLETE}
    assert failing == set(evidence.failing_gates(sorted(behind)))
    for name, law in index["fits"].items():
        stored = Fit.load(measured.DIRECTORY / f"{name}.json")
        assert type(stored.law).__name__ == law
        least = huber(stored, stored.theta)
        for place in range(len(stored.theta)):  # no step lowers it; one may leave the domain
            for step in (-STEP, STEP):
                moved = huber(stored, stored.theta + step * np.eye(len(stored.theta))[place])
                assert not moved < least * (1 - 1e-3) - 1e-12, name


def test_the_verb_checks(monkeypatch, tmp_path, capsys):
    empty = ledger.table(directory=tmp_path)
    monkeypatch.setattr(ledger, "table", lambda: empty)
    monkeypatch.setattr(measured, "read_index", lambda: {"ledger": "old"})
    with pytest.raises(typer.Exit) as stopped:
        fits(check=True, as_json=True)
    assert stopped.value.exit_code == 1
    assert json.loads(capsys.readouterr().out) == {"current": False}


def shown(directory):
    """What the explorer reads off the dense frontier, a row a run."""
    index = explorer.index(directory, directory)
    return pd.DataFrame(index["rows"], columns=index["columns"]).set_index("run")[["excess"]]


@pytest.mark.parametrize(
    ("role", "variant"), [("variant", "strange 0.5"), ("pilot", ""), ("check", "")]
)
def test_a_study_on_a_field_nobody_thought_of_moves_no_other_and_is_kept(tmp_path, role, variant):
    """Its runs are far better and far noisier: a frontier or noise that saw them would move."""
    fill(tmp_path, ("activation", "granularity"))
    before = ledger.table(directory=tmp_path)
    shown_before = shown(tmp_path)
    plans = ledger.plans(tmp_path)
    runs = []
    for planned in plan("activation", ADOPTED):
        strange = dataclasses.replace(planned.run, adam_beta2=0.5)
        loss = 2.5 * np.exp(0.1 * np.random.default_rng(len(runs)).standard_normal())
        outcome = {"study": "strange", "status": "ok", "validation_loss_nats": loss}
        ledger.append(tmp_path / "strange.jsonl", ledger.describe(strange) | outcome)
        runs.append(strange.identity())
    strangers = {"role": role, "varies": ["adam_beta2"], "runs": runs}
    ledger.write_plans(plans | {"strange": strangers}, tmp_path)
    after = ledger.table(directory=tmp_path)
    assert set(after["study"]) == set(before["study"]) | {"strange"}
    assert len(after) == len(before) + len(runs)
    kept = after[after["study"] != "strange"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[list(before)], before, check_dtype=False)
    assert set(after.loc[after["study"] == "strange", "variant"]) == {variant}
    shown_after = shown(tmp_path)
    assert set(runs) <= set(shown_after.index)
    pd.testing.assert_frame_equal(shown_after.loc[shown_before.index], shown_before)
    every = [measured.fit_ledger(frame, resamples=20) for frame in (before, after)]
    assert every[0].skipped == every[1].skipped
    found = [findings.leverage for findings in every]
    dense = [leverage.best[~leverage.best["is_moe"]]["loss"].tolist() for leverage in found]
    assert dense[0] == dense[1]
    assert found[0].noise == found[1].noise
    names = ["compute", "loss", "efficiency_leverage"]
    chosen = [
        leverage.points.query("variant == '' and estimator == 'frontier'") for leverage in found
    ]
    pd.testing.assert_frame_equal(*(points[names].reset_index(drop=True) for points in chosen))

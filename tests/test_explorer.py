"""What the explorer is given: every run once, its twin, and no more bytes than a reader loads."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from test_parts import in_javascript

from moe_leverage import ledger, paths
from moe_leverage.analysis.dense_frontier import of_frontier
from moe_leverage.analysis.gates import failing, gates, rests_on
from moe_leverage.analysis.points import best_runs
from moe_leverage.analysis.reductions import with_law_names
from moe_leverage.config import RunConfig
from moe_leverage.instruments import SCRIPTS, explorer

STUDY_BYTES = 300_000  # of the details of a study, which are loaded when one of its runs is opened
INDEX_BYTES = 400_000  # of what it loads with the page
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
EXACT = {"run", "status", "studies", "family", "twin"}


@pytest.fixture(scope="module")
def index():
    return explorer.index()


def table(index):
    return pd.DataFrame(index["rows"], columns=index["columns"])


def test_every_run_of_the_ledger_stands_once_under_its_studies(index):
    frame = ledger.table().query("corpus == 'full'")  # losses on the small one do not compare
    shown = table(index)
    assert shown["run"].is_unique
    assert set(shown["run"]) == set(frame["run_id"])
    pairs = {(run, study) for run, names in zip(shown["run"], shown["studies"], strict=True)
             for study in names}  # fmt: skip
    assert pairs == set(zip(frame["run_id"], frame["study"], strict=True))
    assert set(index["columns"]) >= EXACT
    is_left_out = shown.set_index("run")["excluded"].notna()  # by every study that has it
    reasons = frame.groupby("run_id")["excluded"].agg(lambda why: why.notna().all())
    assert is_left_out.to_dict() == reasons.to_dict()


def test_numbers_are_those_of_the_ledger_to_five_digits(index):
    frame = ledger.table().drop_duplicates("run_id").set_index("run_id")
    shown = table(index).set_index("run")
    for name, column in explorer.COLUMNS.items():
        if name in ("run", "status", "excluded"):
            continue
        wanted = pd.to_numeric(frame.loc[shown.index, column]).to_numpy(dtype=float)
        np.testing.assert_allclose(shown[name].to_numpy(dtype=float), wanted, rtol=1e-4)


def test_a_twin_is_another_dense_run_of_the_nearest_budget(index):
    shown = table(index).set_index("run")
    assert shown["twin"].notna().any()
    for run in shown.itertuples():
        if run.twin is None:
            continue
        twin = shown.loc[run.twin]
        assert twin["family"] == "dense"
        assert run.twin != run.Index
        rivals = shown[(shown["family"] == "dense") & (shown["budget"] == twin["budget"])]
        rivals = rivals[rivals["excluded"].isna()]
        is_own = [names == twin["studies"] for names in rivals["studies"]]
        rivals = rivals[is_own].drop(run.Index, errors="ignore")
        assert twin["loss"] == rivals["loss"].min()


def test_the_best_dense_run_of_a_budget_lies_on_the_chapters_frontier(index):
    shown = table(index)
    dense = shown[shown["family"] == "dense"]
    sizes = dense[["isoflop" in names for names in dense["studies"]]]
    lowest = sizes[sizes["excluded"].isna()].groupby("budget")["excess"].min()
    assert len(lowest) > 4
    assert lowest.max() <= 1e-6  # the frontier is the mean of the best design, which has this run
    assert lowest.min() > -0.06  # and seeds lie no farther from their mean


def test_details_hold_each_run_at_its_home_with_a_curve_on_its_grid(index):
    seen = set()
    for study in index["studies"]:
        found = explorer.details(study)
        for run_id, run in found["runs"].items():
            assert run_id not in seen
            seen.add(run_id)
            steps = run["own"].get("config.num_steps", found["common"].get("config.num_steps"))
            assert len(run["curve"]) <= len(found["steps"][str(steps)])
            assert not set(run["own"]) & set(found["common"])
    assert seen == set(table(index)["run"])


def test_a_config_is_whole_again_from_what_is_shared_and_what_is_its_own():
    study = explorer.study_names()[0]
    found = explorer.details(study)
    run_id, run = next(iter(found["runs"].items()))
    facts = found["common"] | run["own"]
    config = ledger.find(run_id)["config"]
    assert facts["config.model.d_model"] == config["model"]["d_model"]
    assert facts["config.corpus"] == config["corpus"]
    assert facts["speed.peak_share"] == pytest.approx(ledger.find(run_id)["peak_share"], rel=1e-4)


def test_a_stage_names_the_runs_that_it_begins_from():
    found = explorer.details("upcycling")
    for record in ledger.records(ledger.DIRECTORY / "upcycling.jsonl"):
        if record["run_id"] in found["runs"]:
            facts = found["common"] | found["runs"][record["run_id"]]["own"]
            assert facts["config.parents"].split() == record.get("parent_ids", [])
            parts = [name for name in facts if name.startswith("config.parents.")]
            assert parts == []


def test_an_option_that_old_records_do_not_know_is_at_its_default():
    found = explorer.details("activation")
    records = ledger.records(ledger.DIRECTORY / "activation.jsonl")
    at_home = [r for r in records if r["run_id"] in found["runs"]]
    old = next(r for r in at_home if "prune_sparsity" not in r["config"])
    facts = found["common"] | found["runs"][old["run_id"]]["own"]
    wanted = RunConfig.from_dict(old["config"]).to_dict()
    assert facts["config.prune_sparsity"] == wanted["prune_sparsity"]
    assert facts["config.validation_tokens"] == wanted["validation_tokens"]


def test_every_point_of_the_fits_leads_to_runs_with_its_axes_and_mean_loss(index):
    points = pd.read_csv(paths.FITS / "leverage.csv")
    points = points[points["estimator"] == explorer.ESTIMATOR]
    shown = table(index).set_index("run")
    homes = explorer.homes(ledger.DIRECTORY)
    plain = set(" ".join(points.loc[points["variant"].isna(), "run_id"]).split())
    assert len(points) > 30
    for point in points.to_dict("records"):
        runs = shown.loc[point["run_id"].split()]
        assert set(runs.index) <= set(homes)
        for name, column in (("A", "activation_ratio"), ("G", "granularity"), ("C", "compute")):
            np.testing.assert_allclose(runs[name].astype(float), point[column], rtol=1e-3)
        assert runs["loss"].mean() == pytest.approx(point["loss"], rel=1e-4)
        if isinstance(point["variant"], str):  # what is the baseline itself has the baseline's
            runs = runs[~runs.index.isin(plain)]
        told = [point["efficiency_leverage"]] * len(runs)
        assert runs["EL"].astype(float).tolist() == pytest.approx(told, rel=1e-4, nan_ok=True)


def test_scripts_are_valid_and_small():
    sizes = {name: len(text()) for name, text in SCRIPTS.items() if "explorer" in name}
    assert len(sizes) == 1 + len(explorer.study_names())
    assert sizes.pop("explorer-data.js") < INDEX_BYTES
    assert max(sizes.values()) < STUDY_BYTES
    for name in ("explorer-data.js", *sizes):
        text = SCRIPTS[name]()
        json.loads(text[text.index(" = ", text.index("{})")) + 3 :].rstrip(";\n"))


def test_leverage_reaches_every_seed_of_a_point(tmp_path):
    seeds = ledger.table()["run_id"].unique()[:2]
    row = {"estimator": "frontier", "efficiency_leverage": 1.5, "low": 1.2, "high": 1.9}
    row |= {"variant": None, "at_least": None, "at_most": None, "run_id": " ".join(seeds)}
    variant = row | {"variant": "the baseline, in a study of another thing"}
    variant |= {"efficiency_leverage": 9.0}
    pd.DataFrame([variant, row]).to_csv(tmp_path / "leverage.csv")
    shown = table(explorer.index(fits=tmp_path)).set_index("run")
    assert shown.loc[seeds, "EL"].tolist() == [1.5, 1.5]
    assert shown["EL"].notna().sum() == 2


def test_a_loss_beyond_the_dense_frontier_shows_its_bound(tmp_path):
    beyond, behind = ledger.table("activation")["run_id"].head(2)
    points = pd.DataFrame({
        "estimator": "frontier", "efficiency_leverage": np.nan, "low": np.nan, "high": np.nan,
        "at_least": [2.5, np.nan], "at_most": [np.nan, 0.4], "run_id": [beyond, behind],
        "variant": None,
    })  # fmt: skip
    points.to_csv(tmp_path / "leverage.csv", index=False)
    shown = table(explorer.index(fits=tmp_path)).set_index("run")
    assert shown.loc[beyond, "EL_least"] == 2.5
    assert shown.loc[behind, "EL_most"] == 0.4
    assert pd.isna(shown.loc[behind, "EL_least"])
    assert shown["EL"].isna().all()


def test_an_empty_ledger_and_a_diverged_run_are_told_apart(tmp_path):
    assert explorer.index(tmp_path, tmp_path)["rows"] == []
    assert explorer.overview(tmp_path).empty
    record = ledger.find(ledger.table()["run_id"].iloc[0])
    blank = dict.fromkeys((*ledger.RESULTS,))
    ledger.append(
        tmp_path / "hparams.jsonl", record | blank | {"study": "hparams", "status": "diverged"}
    )
    (row,) = explorer.index(tmp_path, tmp_path)["rows"]
    found = dict(zip(explorer.index(tmp_path, tmp_path)["columns"], row, strict=True))
    assert (found["status"], found["loss"], found["twin"]) == ("diverged", None, None)
    assert explorer.details("hparams", tmp_path)["runs"][record["run_id"]]["load"] is None


VIEW = """
    ml.explorer = values;
    const v = ml.explorerView, all = v.rows();
    const start = v.START;
    const view = (state) => v.marked(v.chosen(all, { ...start, ...state }), { ...start, ...state });
    const brief = (marks) => marks.map(({ runs, loss, EL, budget, family, A, ends }) =>
      ({ runs: runs.map((r) => r.run), loss, EL, budget, family, A, ends,
         status: runs[0].status }));
    const asked = Object.entries(v.questions(all)).map(([key, [, s]]) => [key, brief(view(s))]);
    const everything = { marks: "runs", excluded: "1" };
    return { asked: Object.fromEntries(asked), means: brief(view({ marks: "means" })),
             between: brief(view({ marks: "runs", budget: v.BETWEEN })),
             all: view(everything).length, ok: brief(view({ marks: "runs" })) };
"""


@needs_node
def test_views_begin_with_few_marks_which_are_means_over_seeds(index):
    found = in_javascript(VIEW, index, "explorer_view.js")
    shown = table(index).set_index("run")
    rungs = index["rungs"]
    first = found["asked"]["compute"]
    assert 4 <= len(first) <= 2 * len(rungs)
    assert {mark["budget"] for mark in first} <= set(rungs)
    assert {mark["family"] for mark in first} == {"dense", "moe"}
    for question, marks in found["asked"].items():
        assert len(marks) >= 3, question
        assert all(mark["status"] == "ok" for mark in marks)
    for mark in [*first, *found["means"]]:
        losses = shown.loc[mark["runs"], "loss"].astype(float)
        assert mark["loss"] == pytest.approx(losses.mean(), rel=1e-9)
        assert len(set(shown.loc[mark["runs"], "config"])) == 1
    several = [mark for mark in found["means"] if len(mark["runs"]) > 1]
    assert several
    for mark in several:
        losses = shown.loc[mark["runs"], "loss"].astype(float)
        assert mark["ends"] == [losses.min(), losses.max()]
    sparsity = found["asked"]["sparsity"]
    assert all(mark["EL"] is not None for mark in sparsity)
    assert len({mark["budget"] for mark in sparsity}) == 1
    assert len({mark["A"] for mark in sparsity}) >= 3
    assert found["all"] == len(index["rows"])
    assert len(found["ok"]) == (shown["excluded"].isna() & (shown["status"] == "ok")).sum()
    assert all(mark["budget"] not in rungs for mark in found["between"])


def test_the_frontier_is_that_of_the_chapters(index):
    """At each rung the best dense design's mean, the lowest so far, as `best_runs` has it."""
    frame = ledger.finished(ledger.table())
    dense = ledger.once(of_frontier(frame))
    best = best_runs(with_law_names(dense))
    places = np.array(index["frontier"])
    np.testing.assert_allclose(places[:, 0], best["compute"], rtol=1e-4)
    np.testing.assert_allclose(places[:, 1], best["loss"].cummin(), rtol=1e-4)


@needs_node
def test_the_panel_has_every_gate_that_a_run_rests_on(index):
    program = "ml.explorer = values; return values.asked.map((run) => ml.runPanel.gates(run));"
    frame = ledger.table()
    found = gates(frame)
    names = list(index["studies"])
    asked = [{"studies": [name]} for name in names] + [{"studies": ["activation", "tuning"]}]
    told = in_javascript(program, index | {"asked": asked}, "run_panel.js")
    for name, panel in zip(names, told, strict=False):
        wanted = {
            (g.study, g.name): g for g in found if g.study in {name, *rests_on(frame, [name])}
        }
        shown = {(study, gate["name"]): gate for study, gate in panel["rows"]}
        assert shown.keys() == wanted.keys()
        for key, gate in wanted.items():
            assert shown[key]["holds"] == gate.holds
            assert shown[key]["detail"] == gate.detail
            if np.isfinite(gate.figure):  # JSON has no infinity
                assert shown[key]["figure"] == pytest.approx(gate.figure, rel=1e-4)
        shut = {gate["name"] for _, gate in panel["rows"] if not gate["holds"]}
        if panel["rows"]:
            assert shut == set(failing(frame, [name], found))
            assert (
                f"{len(shown) - sum(not g['holds'] for g in shown.values())} of" in panel["words"]
            )
    two = [study for study, _ in told[-1]["rows"]]
    assert {"activation", "tuning", "isoflop"} <= set(two)
    unjudged = told[names.index("noise-pilot")]["words"]
    assert "No gate judges noise-pilot itself." in unjudged

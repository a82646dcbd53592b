"""A reader's own study: read from a file, refused where it would compare nothing, and compared."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_studies import synthetic

from moe_leverage import cli, ledger
from moe_leverage.analysis.comparison import compare, seeds_needed
from moe_leverage.studies import catalogue, status, yours
from moe_leverage.studies.catalogue import cells

EXAMPLE = Path(__file__).parents[1] / "data" / "studies" / "example.toml"


@pytest.fixture(autouse=True)
def catalogue_as_it_was():
    yield
    catalogue.STUDIES.pop("two-routers", None)


@pytest.fixture
def file(tmp_path):
    """Writes a study file like the example with some lines changed."""

    def write(**changes):
        text = EXAMPLE.read_text("utf-8")
        for before, after in changes.values():
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "mine.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def test_the_example_is_planned_with_shared_seeds_and_reach_for_one_design_alone(file):
    found = yours.load(file())
    tasks = list(cells(found.study))
    at = {(task.sweep, task.point.budget_flops, task.point.seed) for task in tasks}
    both = {(d, c, s) for d in ("softmax", "sigmoid") for c in (3e10, 1e11) for s in (0, 1, 2)}
    assert at == both | {("softmax", 3e11, seed) for seed in (0, 1, 2)}
    assert {task.run.corpus for task in tasks} == {"smoke"}
    assert {task.protocol for task in tasks} == {yours.YOURS}
    assert found.place.ledger == file().with_suffix("")


def test_axes_are_fields_of_the_run_or_words_of_the_paper(file):
    axes = "[axes]\nadam_beta2 = [0.95, 0.99]\ngranularity = [2, 4]\n\n[base]"
    found = yours.load(
        file(
            axes=("[base]", axes),
            against=('against = "softmax"', 'against = "softmax adam_beta2=0.95 granularity=2"'),
        )
    )
    assert len(found.designs) == 8
    runs = {task.sweep: task.run for task in cells(found.study)}
    run = runs["sigmoid adam_beta2=0.99 granularity=4"]
    assert (run.adam_beta2, run.model.granularity, run.model.routing.score) == (0.99, 4, "sigmoid")


REFUSED = {
    "no such key": (("seeds =", "seedz ="), "seedz = .*: is not a key of a study"),
    "a field of nothing": (("bias_routing = true", "wings = 2"), r"designs.sigmoid.wings = 2"),
    "ours": (("bias_routing = true", "seed = 2"), "designs.sigmoid.seed = 2: is set by seeds"),
    "against whom": (('"softmax" ', '"relu" '), "against = 'relu': must be one of softmax"),
    "one design": (("[designs.sigmoid]\nbias_routing = true", ""), "designs = .*two at least"),
    "the same": (
        ("bias_routing = true", "balance_coefficient = 0.01"),
        "designs.sigmoid = .*trains the same runs as designs.softmax",
    ),
    "repeats text": (("[3e11]", "[3e14]"), "tokens would repeat text: corpus smoke has 5,604,573"),
    "no such domain": (
        ("bias_routing = true", 'domain = "verse"'), "domain = 'verse': must be one of code, data",
    ),
    "parents": (("bias_routing = true", "parents = []"), "sigmoid.parents = .*follows from"),
    "budget": (("[3e10, 1e11]", "[0]"), "budgets_flops = 0: must be a list of FLOPs"),
    "nan": (("[3e10, 1e11]", "[nan]"), "budgets_flops = nan: must be a list of FLOPs"),
    "twice": (("[3e10, 1e11]", "[3e10, 3e10]"), "budgets_flops = .*each once"),
    "a text for a list": (("[3e10, 1e11]", '"3e10"'), "budgets_flops = '3e10': must be a list"),
    "seeds": (("[0, 1, 2]", "[0, -1]"), "seeds = -1: must be a list of whole numbers"),
    "law": (('"starting"', '"guess"'), "sizes = 'guess': must be one of starting, isoflop"),
    "unmeasured": (('rates = "tuning"', 'rates = "tuning"'), "rates = 'tuning'"),
    "off the axes": (
        ("activation_ratio = 0.12", "activation_ratio = 0.001"), "too far from the axes asked for",
    ),
    "a name of ours": (('"two-routers"', '"activation"'), "name = 'activation': is a study"),
    "a path": (('"two-routers"', '"../x"'), "name = '../x': letters, digits"),
    "not TOML": (("name =", "name"), "study = 'mine.toml': is not TOML"),
    "corpus": (('"smoke"', '"large"'), "tier = 'large'|corpus = 'large'"),
    "an axis of letters": (
        ("[base]", '[axes]\ngranularity = "24"\n[base]'), "axes.granularity = '24': an axis is",
    ),
    "an axis of nothing": (("[base]", "[axes]\ngranularity = []\n[base]"), "axes.granularity = "),
    "a budget in quotes": (("[3e10, 1e11]", '[3e10, "1e11"]'), "budgets_flops = '1e11': must be"),
    "a budget of true": (("[3e10, 1e11]", "[3e10, true]"), "budgets_flops = True: must be"),
    "seeds in quotes": (("[0, 1, 2]", '"12"'), "seeds = '12': must be a list"),
    "no seeds": (("[0, 1, 2]", "[]"), "seeds = .*: must be a list"),
    "seeds twice": (("[0, 1, 2]", "[1, 1]"), "seeds = .*each once"),
    "runs too many by those that reach": (
        ("[0, 1, 2]", str(list(range(yours.MOST_RUNS // 5 + 1)))), "runs = [0-9]+: a study has",
    ),
    "a text for a number": (
        ("bias_routing = true", 'learning_rate = "x"'),
        "designs.sigmoid.learning_rate = 'x': must be of type float",
    ),
    "a list for a switch": (
        ("bias_routing = true", "bias_routing = [true]"),
        "designs.sigmoid.bias_routing = .*: must be of type bool",
    ),
    "a date among numbers": (
        ("[base]", "[axes]\ngranularity = [2, 2020-01-01]\n[base]"),
        "axes.granularity = datetime.*: must be of type float",
    ),
    "settings": (("bias_routing = true", "settings = {}"), "designs.sigmoid.settings = "),
    "no table": (("[designs.sigmoid]\nbias_routing = true", "[designs]\nsigmoid = 1"), "designs"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_compare_nothing_is_refused_by_key_value_and_rule(file, name, monkeypatch):
    change, message = REFUSED[name]
    if name == "unmeasured":
        monkeypatch.setattr(yours, "adopted_laws", lambda: catalogue.Laws())
    with pytest.raises(ValueError, match=message) as error:
        yours.load(file(change=change))
    assert "\n" not in str(error.value)
    assert "two-routers" not in catalogue.STUDIES


@pytest.mark.parametrize("content", [None, b"\xff\n", b"a note\n"])
def test_records_that_are_none_are_told_before_anything_is_loaded(file, content):
    path = file()
    folder = path.with_suffix("")
    if content is None:
        folder.write_text("a note")
    else:
        folder.mkdir()
        (folder / "two-routers.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"^(study|ledger) = "):
        yours.load(path)


def test_a_record_without_a_config_is_named(file):
    path = file()
    path.with_suffix("").mkdir()
    (path.with_suffix("") / "two-routers.jsonl").write_text('{"schema": 1, "run_id": "x"}\n')
    found = yours.load(path)
    with pytest.raises(ValueError, match=r"^ledger = 'two-routers.jsonl': a record has no config"):
        yours.runs(found)
    with pytest.raises(ValueError, match=r"^ledger = 'two-routers.jsonl': a record has no config"):
        status.predicted_seconds(list(cells(found.study)), found.place)


def losses(advantage, noise, *, budgets=(1e10, 3e10, 1e11), reach=(3e11, 1e12), seed=0):
    """Runs of two designs on L = 40 C^-0.1, the second worth `advantage` times the compute."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(3):
        for budget in budgets + reach:
            shared = rng.normal(scale=noise)
            for design, worth in (("a", 1.0), ("b", advantage)):
                if design == "b" and budget in reach:
                    continue
                log_loss = np.log(40 * (worth * budget) ** -0.1) + shared + rng.normal(scale=noise)
                rows.append((design, budget, number, np.exp(log_loss), f"{design}{budget}"))
    names = ["design", "budget_flops", "seed", "loss_nats", "config_id"]
    return pd.DataFrame(rows, columns=names)


@pytest.mark.parametrize("advantage", [0.6, 1.0, 1.7, 3.0])
def test_the_worth_of_a_design_is_recovered(advantage):
    found = compare(losses(advantage, 0.0), "a")
    inside = found.dropna(subset="leverage")
    assert len(inside) >= 2
    assert inside["leverage"].to_numpy() == pytest.approx(advantage, rel=1e-6)
    assert found["difference"].to_numpy() == pytest.approx(advantage**-0.1 - 1, abs=1e-9)
    bounds = found[found["leverage"].isna()]
    assert ((bounds["at_most"] >= advantage) | (bounds["at_least"] <= advantage)).all()


def test_intervals_cover_as_often_as_they_claim():
    hits = {"difference": [], "leverage": []}
    truth = {"difference": 1.5**-0.1 - 1, "leverage": 1.5}
    for seed in range(150):
        found = compare(losses(1.5, 0.004, seed=seed), "a").dropna(subset="leverage_low")
        for name, value in truth.items():
            inside = (found[f"{name}_low"] <= value) & (value <= found[f"{name}_high"])
            hits[name] += inside.tolist()
    for name in truth:
        assert 0.85 <= np.mean(hits[name]) <= 0.95, name


def test_one_seed_has_no_interval_and_one_budget_no_leverage():
    single = losses(1.5, 0.01)
    single = single[single["seed"] == 0]
    found = compare(single, "a")
    assert found["leverage"].notna().any()
    assert found[["difference_low", "leverage_low"]].isna().all(axis=None)
    flat = losses(1.5, 0.01, budgets=(1e10,), reach=())
    assert compare(flat, "a")[["leverage", "at_least", "at_most"]].isna().all(axis=None)


def test_as_many_seeds_as_said_find_the_difference_nine_times_in_ten():
    rng = np.random.default_rng(0)
    noise, difference = 0.012, 0.02
    seeds = seeds_needed(noise, difference)
    means = rng.normal(scale=noise, size=(2, 4000, seeds)).mean(axis=2)
    gap = means[0] + difference - means[1]
    is_found = gap > 1.645 * noise * np.sqrt(2 / seeds)
    assert 0.9 <= is_found.mean() <= 0.97


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["moe-leverage", "study", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return call


def test_report_and_plan_read_the_folder_beside_the_file(file, call):
    path = file()
    assert call("report", path)[1] == "no run has finished yet\n"
    code, out, err = call("plan", path)
    assert (code, err) == (0, "")
    assert "nine times in ten" in out
    found = yours.load(path)
    found.place.ledger.mkdir()
    tasks = list(cells(found.study))
    worth = {"softmax": 1.0, "sigmoid": 1.5}

    def loss(task):
        noise = 0.002 * np.sin(hash(task.run_id) % 97)
        return 40 * (worth[task.sweep] * task.point.budget_flops) ** -0.1 * np.exp(noise)

    for record in synthetic(tasks, loss):
        ledger.append(found.place.ledger / "two-routers.jsonl", record | {"protocol": 0})
    code, out, _ = call("report", path)
    assert code == 0
    assert "sigmoid has a loss" in out
    code, out, _ = call("report", path, "--json")
    rows = json.loads(out)["designs"]
    assert [row["budget_flops"] for row in rows] == [3e10, 1e11]
    assert rows[1]["leverage"] == pytest.approx(1.5, rel=0.15)
    assert call("run", path, "activation")[0] == 2


@pytest.mark.slow
def test_a_study_of_ones_own_is_trained_resumed_and_reported(file, call):
    path = file(
        budgets=("[3e10, 1e11]", "[1e9, 2e9]"),
        reach=("[3e11]", "[4e9]"),
        seeds=("[0, 1, 2]", "[0, 1]"),
    )
    code, out, _ = call("run", path, "--workers", "2")
    assert code == 0
    assert "10 ok" in out
    assert "sigmoid has a loss" in out
    assert "nothing was missing" in call("run", path)[1]

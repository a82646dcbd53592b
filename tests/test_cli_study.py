"""The verbs of `moe-leverage study` print what scripts read, and a mistake is one line."""

import json
import re
import sys

import pytest
from test_studies import bowl, synthetic

from moe_leverage import cli, corpus, ledger, paths
from moe_leverage.studies import catalogue as studies
from moe_leverage.studies import runner
from moe_leverage.studies.ladder import TUNING_GRIDS
from moe_leverage.studies.runner import Outcome


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty ledger of its own."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    (tmp_path / "data" / "ledger").mkdir(parents=True)
    return tmp_path / "data" / "ledger"


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["moe-leverage", "study", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return call


def test_list_names_every_study_and_what_it_needs(call):
    code, out, _ = call("list", "--json")
    rows = {row["study"]: row for row in json.loads(out)}
    assert code == 0
    assert set(rows) == set(studies.STUDIES)
    assert rows["nano-beta"]["needs"] == ["tuning", "isoflop", "leverage"]


def test_plan_gives_derived_numbers_flops_and_minutes(here, call):
    code, out, _ = call("plan", "tuning", "--json")
    rows = json.loads(out)
    cells = [(budget, 2 * len(rates) * len(batches)) for budget, _, rates, batches in TUNING_GRIDS]
    total = sum(budget * number for budget, number in cells)  # dense and mixture
    assert code == 0
    assert len(rows) == 152
    assert sum(row["training_flops"] for row in rows) == pytest.approx(total, rel=0.01)
    assert {row["state"] for row in rows} == {"missing"}
    assert all(row["predicted_minutes"] > 0 for row in rows)
    code, out, _ = call("plan", "tuning")
    assert out.splitlines()[-1].startswith(f"152 runs, {total:.2e} FLOPs; ")


def test_status_gives_counts_by_study(here, call):
    records = synthetic(studies.plan("tuning")[:3], bowl)
    records[0] |= {"status": "diverged", "validation_loss_nats": None}
    for record in records:
        ledger.append(here / "tuning.jsonl", record)
    code, out, _ = call("status", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["finished"] == 2
    row = found["studies"]["tuning"]
    assert (row["planned"], row["done"], row["diverged"]) == (152, 2, 1)
    assert "2 finished runs, 1 diverged" in call("status")[1]


def test_verify_ends_with_one_when_a_line_is_wrong(here, call):
    assert call("verify")[:2] == (0, "the ledger holds\n")
    (record,) = synthetic(studies.plan("tuning")[:1], bowl)
    ledger.append(here / "tuning.jsonl", record | {"training_flops": 1.0})
    code, out, _ = call("verify", "--json")
    assert code == 1
    assert "training_flops is 1.0" in json.loads(out)["problems"][0]


def test_gates_are_a_list_with_a_figure_each(here, call):
    assert call("gates", "--json")[1] == "[]\n"
    cells = studies.plan("tuning")
    for record in synthetic(cells, bowl):
        ledger.append(here / "tuning.jsonl", record | {"protocol": 2})
    call("pin")
    code, out, _ = call("gates", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"tuned", "balanced"} <= {gate["name"] for gate in found}
    fields = ["name", "study", "holds", "figure", "limit", "detail"]
    assert all(list(gate) == fields for gate in found)
    text = call("gates")[1].splitlines()
    assert len(text) == len(found)
    assert [line.startswith("holds") for line in text] == [gate["holds"] for gate in found]


def test_run_reports_failures_by_name_and_ends_with_one(here, call, monkeypatch):
    def fails(planned, *, pool, place, report):
        found = [
            Outcome(study=task.study, run_id=task.run_id, state="failed", reason="disk full")
            for task in planned
        ]
        for outcome in found:
            report(outcome)
        return found

    monkeypatch.setattr(runner, "run", fails)
    monkeypatch.setattr(corpus, "load", lambda tier: None)
    code, out, err = call("run", "tuning", "--workers", "2")
    assert code == 1
    assert out == "152 failed\n"
    assert err.count("failed: disk full") == 152
    lines = [line for line in err.splitlines() if " of 152" in line]
    assert len(lines) == 152
    assert re.fullmatch(
        r"tuning \w{12} failed disk full \(0 s\), 60 of 152, [\d.]+ (s|min|h) left", lines[59]
    )
    assert lines[-1].endswith(", 152 of 152")


def test_mistakes_are_one_line(here, call):
    for arguments, message in {
        ("plan", "depth"): "study = 'depth': must be one of routing-pilot, noise",
        ("plan", "joint"): "study = 'joint': needs the tuning law",
        ("run",): "studies = None: name some, or say --all to train what all ",
        ("run", "tuning", "--all"): "studies = 'tuning': go without --all, which names every one",
        ("run", "tuning", "--workers", "0"): "workers = 0: must be a whole number >= 1",
        ("run", "tuning", "--backend", "slurm"): "backend = 'slurm': must be one of",
        ("run", "tuning", "--device", "abacus"): "Execution.device = 'abacus': must be one of",
        ("run", "tuning"): "corpus = 'full': not built; run moe-leverage corpus build",
        ("adopt", "taste"): "law = 'taste': must be one of tuning, isoflop",
        ("adopt", "isoflop"): "study = 'isoflop': needs the tuning law",
    }.items():
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"moe-leverage: {message}")
        assert err.count("\n") == 1

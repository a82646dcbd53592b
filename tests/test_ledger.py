"""Lines are appended whole or not at all, read as one tidy table, and checked."""

import copy
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_leverage import ledger
from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.ledger import append, describe, records, verify

DENSE = ModelConfig(vocab_size=64, num_layers=2, d_model=16, num_heads=2, num_kv_heads=1, d_ffn=32)


def record_of(seed=0, loss=2.5, study="toy", **changes):
    run = RunConfig(
        model=DENSE,
        corpus="smoke",
        sequence_length=16,
        batch_sequences=8,
        num_steps=12,
        learning_rate=1e-2,
        seed=seed,
    )
    measured = {
        "study": study,
        "status": "ok",
        "steps_done": 12,
        "validation_loss_nats": loss,
        "validation": {"code": {"loss_nats": loss, "num_tokens": 10}},
        "load": None,
        "training_loss_curve_nats": [4.0, 3.0],
        "environment": {"threads": 1},
    }
    return describe(run) | measured | changes


def test_axes_and_counts_follow_from_the_config():
    record = record_of()
    assert record["num_tokens"] == 12 * 8 * 16
    assert record["axes"]["total_params"] == record["axes"]["active_params"]
    forward = sum(record["forward_flops"].values())
    assert record["axes"]["flops_per_token"] == forward - record["forward_flops"]["logits"]
    assert record["training_flops"] == 3 * forward * record["num_tokens"]


def test_what_is_appended_is_read_back(tmp_path):
    path = tmp_path / "toy.jsonl"
    written = [record_of(seed) for seed in range(3)]
    for record in written:
        append(path, record)
    assert list(records(path)) == written


def test_columns_have_plain_names_for_the_config_and_paths_for_the_rest(tmp_path):
    append(tmp_path / "toy.jsonl", record_of(seed=4))
    row = ledger.table("toy", directory=tmp_path).iloc[0]
    assert row["seed"] == 4
    assert row["d_model"] == 16
    assert row["learning_rate"] == 1e-2
    assert row["activation_ratio"] == 1
    assert row["routing.score"] == "softmax"
    assert row["validation.code.loss_nats"] == 2.5
    assert row["environment.threads"] == 1
    assert row["training_loss_curve_nats"] == (4.0, 3.0)


def test_studies_are_joined_and_leaves_that_some_lack_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["moe_leverage.ledger.table"], "CHUNK_LINES", 2)
    for seed in range(5):
        append(tmp_path / "a.jsonl", record_of(seed, study="a"))
    extra = {"validation": {"prose": {"loss_nats": 1.5}}, "load": {"entropy": [1.0]}}
    append(tmp_path / "b.jsonl", record_of(9, study="b", **extra))
    runs = ledger.table(directory=tmp_path)
    assert runs["study"].tolist() == ["a"] * 5 + ["b"]
    assert runs["seed"].tolist() == [0, 1, 2, 3, 4, 9]
    assert runs["validation.prose.loss_nats"].isna().tolist() == [True] * 5 + [False]
    assert runs["validation.code.loss_nats"].isna().tolist() == [False] * 5 + [True]
    assert runs["load.entropy"].iloc[-1] == (1.0,)


def test_readers_share_cells_that_none_can_change(tmp_path):
    curve = {"training_load_curve": [[1.0, 2.0]], "load": {"entropy": []}}
    append(tmp_path / "toy.jsonl", record_of(**curve))
    (row,) = ledger.table("toy", directory=tmp_path).to_dict("records")
    assert (row["training_load_curve"], row["load.entropy"]) == (((1.0, 2.0),), ())
    assert all(hash(value) is not None for value in row.values())


def test_the_table_equals_a_plain_reading(tmp_path):
    rng = np.random.default_rng(0)
    losses = rng.uniform(1, 5, size=50).tolist()
    for seed, loss in enumerate(losses):
        append(tmp_path / "toy.jsonl", record_of(seed, loss))
    runs = ledger.table("toy", directory=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    plain = pd.json_normalize(lines)
    assert runs["validation_loss_nats"].tolist() == losses
    assert runs["run_id"].tolist() == plain["run_id"].tolist()
    assert runs["training_flops"].tolist() == plain["training_flops"].tolist()
    assert runs["d_ffn"].tolist() == plain["config.model.d_ffn"].tolist()


def test_an_empty_ledger_is_an_empty_table(tmp_path):
    assert ledger.table(directory=tmp_path).empty


def test_an_unknown_study_is_named(tmp_path):
    append(tmp_path / "toy.jsonl", record_of())
    with pytest.raises(ValueError, match="study = 'nowhere': has no ledger"):
        ledger.table("nowhere", directory=tmp_path)
    ledger.write_plans({"nowhere": {"role": "plain", "runs": []}}, tmp_path)
    assert ledger.table("nowhere", directory=tmp_path).empty


def test_a_line_cut_by_a_kill_is_dropped_and_the_next_append_is_whole(tmp_path):
    path = tmp_path / "toy.jsonl"
    append(path, record_of(0))
    with path.open("ab") as file:
        file.write(json.dumps(record_of(1)).encode()[:-40])
    assert len(ledger.table("toy", directory=tmp_path)) == 1
    append(path, record_of(2))
    assert ledger.table("toy", directory=tmp_path)["seed"].tolist() == [0, 2]
    path.write_bytes(b'{"schema":')
    append(path, record_of(3))
    assert ledger.table("toy", directory=tmp_path)["seed"].tolist() == [3]


def test_a_ledger_saved_by_another_writer_is_the_same_ledger(tmp_path):
    path = tmp_path / "toy.jsonl"
    for seed in range(3):
        append(path, record_of(seed, excluded="by hand" if seed == 2 else None))
    before = list(records(path)), ledger.statuses(path)
    lines = [
        json.dumps(json.loads(s), indent=None, sort_keys=True)
        for s in path.read_text().splitlines()
    ]
    path.write_text("\r\n".join(lines))  # spaces after colons, other ends, none at the last line
    assert (list(records(path)), ledger.statuses(path)) == before
    assert len(ledger.statuses(path)) == 3
    append(path, record_of(3))
    kept = list(records(path))
    assert kept[:3] == before[0]
    assert [record["excluded"] for record in kept] == [None, None, "by hand", None]


OTHERS = {
    "a note": b"buy milk",
    "two lines": b"first\nsecond\n",
    "a torn note": b"first\nsecond",
    "a config": json.dumps(record_of()["config"]).encode(),
    "a config with its end": json.dumps(record_of()["config"]).encode() + b"\n",
    "a binary": bytes(range(256)) * 300,
    "a ledger and a note": json.dumps(record_of()).encode() + b"\nand a note",
    "a list": b"[1]\n",
    "another schema": b'{"schema":99}\n',
    "no UTF-8": b'{"schema":1,"run_id":"\xff"}\n',
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_ledger_is_left_as_it_is(tmp_path, name):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(OTHERS[name])
    with pytest.raises(ValueError, match=r"^ledger = .*no ledger.*nothing was written"):
        append(path, record_of())
    assert path.read_bytes() == OTHERS[name]


@settings(deadline=None)  # a line waits for the disk
@given(st.binary(max_size=400))
def test_no_bytes_that_are_no_record_are_ever_cut(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.jsonl"
        path.write_bytes(content)
        try:
            append(path, record_of())
        except ValueError:
            assert path.read_bytes() == content
        else:
            assert content == b"" or b'{"schema":'.startswith(content[:10])


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "pipe"])
def test_a_ledger_is_a_regular_file(tmp_path, kind):
    path, beside = tmp_path / "mine.jsonl", tmp_path / "beside.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(beside)
        if kind == "link":
            append(beside, record_of())
    with pytest.raises(ValueError, match=r"^ledger = .*: is a (directory|link|device)"):
        append(path, record_of(1))
    assert kind != "dangling link" or not beside.exists()


def write_many(path, first):
    for seed in range(first, first + 50):
        append(path, record_of(seed))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\xff", "plans"), (b"[]", "plans"), (b'{"a":' * 10**5, "plans"),
        (b'{"toy": 1}', "plans.json.toy"), (b'{"toy": {"role": 1, "runs": []}}', "plans.json.toy"),
        (b'{"toy": {"role": "plain", "runs": [{}]}}', "plans.json.toy"),
        (b'{"toy": {"role": "plain", "runs": "c0ffee"}}', "plans.json.toy"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_plans_is_named(tmp_path, content, name):
    (tmp_path / "plans.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{name} = "):
        ledger.standing("toy", tmp_path)


def test_writers_beside_each_other_lose_nothing(tmp_path):
    path = tmp_path / "toy.jsonl"
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=write_many, args=(path, 50 * n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(ledger.table("toy", directory=tmp_path)["seed"]) == list(range(150))
    assert verify(tmp_path) == []


def test_not_a_number_never_enters(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        append(tmp_path / "toy.jsonl", record_of(loss=float("nan")))
    assert ledger.table(directory=tmp_path).empty


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json\n", "toy.jsonl:2.*not JSON"),
        (b"[1]\n", "toy.jsonl:2.*not the record of a run"),
        (b'{"schema":99}\n', "toy.jsonl:2.*schema 99, this version reads 1"),
    ],
)
def test_a_foreign_line_is_refused_with_its_place(tmp_path, line, message):
    path = tmp_path / "toy.jsonl"
    append(path, record_of())
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(ValueError, match=message):
        ledger.table("toy", directory=tmp_path)
    assert len(verify(tmp_path)) == 1


def test_a_good_ledger_verifies(tmp_path):
    append(tmp_path / "toy.jsonl", record_of())
    diverged = {"status": "diverged", "validation_loss_nats": None, "steps_done": 3}
    append(tmp_path / "toy.jsonl", record_of(1, **diverged))
    append(tmp_path / "toy.jsonl", record_of(2, excluded="machine was suspended"))
    assert verify(tmp_path) == []


def spoil(record, path, value):
    spoiled = copy.deepcopy(record)
    section = spoiled
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return spoiled


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("run_id",), "0" * 12, "run_id is '000000000000'"),
        (("config", "seed"), 1, "run_id is"),
        (("config", "seed"), "one", "config: RunConfig.seed"),
        (("config", "colour"), 1, "config: RunConfig.colour"),
        (("axes", "activation_ratio"), 0.5, "axes is"),
        (("parameters", "router"), 1, "parameters is"),
        (("forward_flops", "logits"), 1, "forward_flops is"),
        (("training_flops",), 1.0, "training_flops is"),
        (("num_tokens",), 1, "num_tokens is"),
        (("study",), "other", "study is 'other'"),
        (("status",), "fine", "status is 'fine'"),
        (("validation_loss_nats",), None, "validation_loss_nats is None in a run that is ok"),
        (("validation_loss_nats",), -1.0, "validation_loss_nats is -1.0 in a run that is ok"),
        (("steps_done",), 11, "steps_done is 11 of 12"),
        (("status",), "diverged", "validation_loss_nats is 2.5 in a run that is not ok"),
    ],
)
def test_verify_finds_what_is_wrong(tmp_path, path, value, message):
    append(tmp_path / "toy.jsonl", spoil(record_of(), path, value))
    found = verify(tmp_path)
    assert any(problem.startswith(f"toy.jsonl:1: {message}") for problem in found), found


def test_verify_finds_a_run_that_stands_twice(tmp_path):
    append(tmp_path / "toy.jsonl", record_of())
    with pytest.raises(ValueError, match=r"^run = '\w+': stands in toy\.jsonl already"):
        append(tmp_path / "toy.jsonl", record_of())
    assert verify(tmp_path) == []
    once = (tmp_path / "toy.jsonl").read_bytes()
    (tmp_path / "toy.jsonl").write_bytes(2 * once)
    assert verify(tmp_path) == [f"toy.jsonl: run {record_of()['run_id']} stands more than once"]


def test_the_ledger_of_this_project_verifies():
    assert verify() == []


@pytest.mark.parametrize(
    ("flops", "budget"),
    [(0.98e12, 1e12), (1.02e12, 1e12), (3.07e11, 3e11), (2.95e13, 3e13), (1.55e12, 1.6e12),
     (0.96e12, 9.6e11), (1.06e12, 1.1e12)],
)  # fmt: skip
def test_a_compute_stands_on_the_rung_that_it_is_within_a_thirtieth_of(flops, budget):
    assert ledger.rung(flops) == pytest.approx(budget, rel=1e-9)


def test_what_follows_from_a_record_and_its_plan(tmp_path):
    for seed in range(2):
        append(tmp_path / "toy.jsonl", record_of(seed))
    plan = {"role": "variant", "runs": [], "varies": ["d_model", "learning_rate"]}
    ledger.write_plans({"toy": plan}, tmp_path)
    row = ledger.table("toy", directory=tmp_path).iloc[0]
    count = record_of()
    parts = ("attention_projections", "attention_scores")
    attention = sum(count["forward_flops"][part] for part in parts)
    assert row["attention_share"] == attention / count["axes"]["flops_per_token"]
    assert row["batch_tokens"] == 8 * 16
    assert (row["is_moe"], row["family"]) == (False, "dense")
    assert row["variant"] == "toy 16 0.01"
    ledger.write_plans({"toy": plan | {"varies": []}}, tmp_path)
    assert ledger.table("toy", directory=tmp_path)["variant"].tolist() == ["toy", "toy"]
    moe = record_of(3)
    moe["config"]["model"] |= {
        "num_experts": 4, "num_active_experts": 1, "d_expert": 8, "num_dense_layers": 0,
    }  # fmt: skip
    append(tmp_path / "toy.jsonl", moe)
    assert ledger.table("toy", directory=tmp_path)["is_moe"].tolist() == [False, False, True]

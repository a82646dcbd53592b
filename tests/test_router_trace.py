"""The recording of routers: what the file says holds, and a recorder of today makes it again."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from moe_leverage import cli, corpus
from moe_leverage.config import RunConfig
from moe_leverage.instruments import recording, router, router_trace

LIMIT_BYTES = 1_000_000
FIRST_STEPS = 3


@pytest.fixture(scope="module")
def trace():
    return recording.load()


@pytest.fixture(scope="module")
def smoke():
    try:
        return corpus.load(router_trace.RUN.corpus)
    except ValueError as error:
        pytest.skip(str(error))


def test_it_is_what_the_recorder_would_train_today(trace):
    runs = router_trace.runs()
    assert list(trace["methods"]) == list(runs)
    for name, run in runs.items():
        assert RunConfig.from_dict(trace["methods"][name]["run"]) == run
        assert trace["methods"][name]["run_id"] == run.identity()
    assert trace["steps"] == router_trace.frame_steps(router_trace.RUN.num_steps)
    manifest = corpus.read_manifest(router_trace.RUN.corpus)
    assert trace["provenance"]["corpus_digest"] == manifest["digest"]
    assert {"commit", "torch", "python"} <= set(trace["provenance"]["environment"])
    assert trace["provenance"]["seconds"] > 0


def test_only_the_balancing_differs():
    methods = router_trace.METHODS
    loss, bias = methods["loss"].to_dict(), methods["bias"]
    for name, coefficient in {"none": 0.0, "strong": 0.1, "weak": 0.001}.items():
        found = methods[name].to_dict().items()
        assert {k: v for k, v in found if v != loss[k]} == {"balance_coefficient": coefficient}
    assert (bias.balance_coefficient, bias.bias_update_rate) == (0.0, 1e-3)
    assert list(router.NAMES) == list(methods)


def test_shares_sum_to_one_and_statistics_follow_from_them(trace):
    k, experts = trace["num_active_experts"], trace["num_experts"]
    layers = router_trace.RUN.model.num_moe_layers
    frames = len(trace["steps"])
    assert 60 <= frames <= 100
    for method in trace["methods"].values():
        counts = np.array(method["counts"])
        assert counts.shape == (frames, layers, experts)
        assert (counts.sum(axis=-1) == k * trace["probe_tokens"]).all()
        share = counts / counts.sum(axis=-1, keepdims=True)
        logs = np.log(share, out=np.zeros_like(share), where=share > 0)
        entropy = -(share * logs).sum(axis=-1) / math.log(experts)
        np.testing.assert_allclose(method["entropy"], entropy, atol=1e-4)
        np.testing.assert_allclose(method["max_over_mean"], experts * share.max(-1), atol=1e-3)
        assert method["idle_experts"] == (counts == 0).sum(axis=-1).tolist()
        assert np.isfinite(method["loss_nats"]).all()
        chosen = np.array(method["chosen_share"])
        assert ((chosen > 0) & (chosen <= 1)).all()


def test_every_token_of_the_text_goes_to_different_experts(trace):
    assert "".join(trace["text"]) == router_trace.TEXT
    k, digits = trace["num_active_experts"], router_trace.DIGITS[: trace["num_experts"]]
    for method in trace["methods"].values():
        for text in (text for frame in method["text"] for text in frame):
            assert len(text) == k * len(trace["text"])
            assert set(text) <= set(digits)
            assert all(len(set(text[i : i + k])) == k for i in range(0, len(text), k))


def test_biases_begin_at_zero_stay_centred_and_move_one_step_a_batch(trace):
    biases = np.array(trace["methods"]["bias"]["bias"])
    assert (biases[0] == 0).all()
    np.testing.assert_allclose(biases.mean(axis=-1), 0, atol=1e-4)
    rate = router_trace.METHODS["bias"].bias_update_rate
    steps = np.array(trace["steps"])[:, None, None]
    assert (np.abs(biases) <= 2 * rate * steps + 1e-4).all()
    assert [name for name, method in trace["methods"].items() if "bias" in method] == ["bias"]


def test_the_page_s_script_is_small_and_holds_the_recording(trace):
    assert recording.TRACE.stat().st_size < LIMIT_BYTES
    script = router.script()
    assert len(script) < LIMIT_BYTES
    given = json.loads(script.removeprefix("window.moeRouter = ").removesuffix(";\n"))
    assert given["steps"] == trace["steps"]
    assert given["methods"]["none"]["counts"] == trace["methods"]["none"]["counts"]
    assert given["batch_tokens"] == router_trace.RUN.batch_tokens


def test_the_course_has_a_row_a_method_and_step(trace):
    course = router.course(trace)
    assert len(course) == len(trace["methods"]) * len(trace["steps"])
    assert course["entropy"].between(0, 1).all()


def test_a_missing_or_foreign_recording_is_named(tmp_path):
    with pytest.raises(ValueError, match="not recorded; run moe-leverage router-trace"):
        recording.load(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format = 99"):
        recording.load(tmp_path / "other.json")


@pytest.mark.slow
def test_the_first_steps_come_out_again(trace, smoke):
    again = router_trace.record(corpus=smoke, until=FIRST_STEPS)
    assert again["steps"] == trace["steps"][: FIRST_STEPS + 1]
    assert again["text"] == trace["text"]
    total = trace["num_active_experts"] * trace["probe_tokens"]
    for name, method in again["methods"].items():
        kept = trace["methods"][name]
        frames = len(again["steps"])
        np.testing.assert_allclose(method["loss_nats"], kept["loss_nats"][:frames], atol=2e-3)
        moved = np.abs(np.array(method["counts"]) - np.array(kept["counts"][:frames])).sum(axis=-1)
        assert (moved <= 0.02 * total).all()  # ties fall by the order of floating-point sums


@pytest.mark.slow
def test_the_verb_writes_a_recording(tmp_path, smoke, monkeypatch, capsys):
    full = router_trace.record
    monkeypatch.setattr(router_trace, "record", lambda corpus: full(corpus=corpus, until=1))
    path = tmp_path / "trace.json"
    monkeypatch.setattr(sys, "argv", ["moe-leverage", "router-trace", "--out", str(path), "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["file"], said["frames"]) == (str(path), 2)
    assert recording.load(path)["provenance"]["seconds"] >= 0

"""Predictions, explanations and the verbs that print them, against the paper's own statements."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from moe_leverage import cli
from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.design.designer import dense_equivalent, explain, memory, predict
from moe_leverage.design.huggingface import OpenModel, load, names
from moe_leverage.theory.laws import PUBLISHED

EXPLAIN_KEYS = {
    "activation_ratio", "granularity", "shared_ratio", "total_params", "active_params",
    "flops_per_token", "compute", "efficiency_leverage", "interval", "in_domain", "warnings",
}  # fmt: skip
PREDICT_KEYS = {"efficiency_leverage", "interval", "in_domain", "warnings"}


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line as a user meets it: exit code, output, errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["moe-leverage", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


@pytest.mark.parametrize(("compute", "low", "high"), [(1e22, 7.2, 7.3), (1e20, 4.5, 4.6)])
def test_prediction_of_the_abstract(run, compute, low, high):
    point = ["--activation-ratio", 0.031, "--granularity", 12, "--compute", compute]
    code, out, _ = run("predict", *point, "--json")
    found = json.loads(out)
    assert code == 0
    assert found.keys() >= PREDICT_KEYS
    assert low < found["efficiency_leverage"] < high
    assert found["in_domain"] is (compute == 1e20)
    assert bool(found["warnings"]) is not found["in_domain"]
    assert (found["interval"] is None) == ("has no fit" in found["interval_note"])


def test_prediction_is_the_law_at_that_point():
    point = {"activation_ratio": 0.1, "granularity": 4.0, "compute": 1e19}
    assert predict(**point).efficiency_leverage == PUBLISHED.joint(**point)


def test_below_break_even_a_dense_model_is_said_to_be_cheaper():
    found = predict(activation_ratio=0.1, granularity=2, compute=1e14)
    assert found.efficiency_leverage < 1
    assert any("dense model is predicted cheaper" in line for line in found.warnings)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["activation_ratio", "granularity", "compute"])
def test_prediction_refuses_impossible_points(name, value):
    point = {"activation_ratio": 0.1, "granularity": 4.0, "compute": 1e19} | {name: value}
    with pytest.raises(ValueError, match=f"{name} = {value!r}: must be"):
        predict(**point)


def test_explanation_of_ling_mini_beta(run):
    code, out, _ = run("explain", "Ling-mini-beta", "--json")
    found = json.loads(out)
    assert code == 0
    assert found.keys() >= EXPLAIN_KEYS
    assert found["total_params"] == pytest.approx(17.5e9, rel=0.01)  # Table 3, non-vocabulary
    assert found["active_params"] == pytest.approx(0.855e9, rel=0.02)  # see test_models
    assert found["efficiency_leverage"] > 7  # the abstract's claim, at its own tokens
    flops = dict(found["flops_per_token"])
    total, scale = flops.pop("total"), flops.pop("non_embedding")
    assert sum(flops.values()) == total == scale + flops["logits"]
    assert found["compute"] == 3 * total * found["tokens"]
    assert found["tokens"] == 1e12


@pytest.mark.parametrize("name", names())
def test_every_model_is_explained(name):
    found = explain(load(name), compute=1e22)
    equal = found.dense_equivalent
    assert found.compute == pytest.approx(1e22)
    assert (found.efficiency_leverage == 1) == (found.activation_ratio == 1)
    assert equal.flops_per_token == pytest.approx(
        found.efficiency_leverage * found.flops_per_token["non_embedding"]
    )
    assert equal.shape_flops_per_token == pytest.approx(equal.flops_per_token, rel=0.05)
    assert not equal.shape.is_moe
    assert equal.total_params == count_parameters(equal.shape).non_vocabulary
    assert found.memory.training_gb == pytest.approx(found.parameters["total"] * 16e-9)


def test_dense_6_1b_is_its_own_equivalent():
    dense = load("Dense-6.1B").model
    shape = dense_equivalent(dense, 8192, 1.0).shape
    assert (shape.num_layers, shape.d_model, shape.d_ffn) == (28, 4096, 14336)
    assert count_parameters(shape) == count_parameters(dense)


def test_tokens_come_from_the_makers_then_from_table_1():
    assert explain(load("OLMoE-1B-7B")).tokens == 5.133e12
    model = load("OLMoE-1B-7B").model
    found = explain(OpenModel(name="mine", model=model))
    scale = 3 * count_forward_flops(model, 4096).non_embedding
    assert PUBLISHED.moe_model(PUBLISHED.moe_tokens.compute_for(found.tokens)) == pytest.approx(
        scale
    )
    assert any("Table 1" in line for line in found.assumptions)


def test_multi_token_prediction_is_left_out_and_said():
    found = explain(load("DeepSeek-V3"))
    assert found.parameters["total"] == pytest.approx(671e9, rel=1e-3)
    assert any("multi-token prediction is left out: 11.6 B" in a for a in found.assumptions)


def test_memory_counts_sixteen_bytes_a_parameter():
    found = memory(10**9)
    assert (found.weights_gb, found.gradients_gb, found.optimiser_gb) == (2, 2, 12)
    assert found.training_gb == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "nothing.json"], "CONFIG = 'nothing.json': is neither a file nor one of"),
        (["explain", "."], "CONFIG = '.': is a directory"),
        (["explain", "Llama-3-8B", "--tokens", "0"], "tokens = 0.0: must be a positive"),
        (["explain", "Llama-3-8B", "--tokens", "nan"], "tokens = nan: must be a positive"),
        (["explain", "Llama-3-8B", "--compute", "-1"], "compute = -1.0: must be a positive"),
        (["explain", "Llama-3-8B", "--compute", "1", "--tokens", "1"], "contradicts compute"),
        (["explain", "Llama-3-8B", "--compute", "much"], "'--compute': Input should be"),
        (["compare", "Llama-3-8B", "Mixtral"], "CONFIG = 'Mixtral': is neither"),
        (["predict", "--activation-ratio", "2", "--granularity", "2", "--compute", "1e20"],
         "activation_ratio = 2.0: must not exceed 1"),
        (["predict", "--granularity", "2", "--compute", "1e20"], "--activation-ratio"),
        (["design", "--compute", "nan"], "compute = nan: must be a positive"),
        (["design", "--compute", "1e22", "--expert-parallel", "0"], "expert_parallel = 0"),
        (["design", "--compute", "1e22", "--expert-parallel", "1.5"], "valid integer"),
        (["design", "--compute", "1e22", "--min-activation-ratio", "1.5"], "at most 1"),
        (["design", "--compute", "1e22", "--max-total-params", "1e9"], "4.39 times off the limit"),
        (["design", "--compute", "1e22", "--hf", "."], "is a directory"),
        (["design", "--compute", "1e22", "--hf", "no/such/x.json"], "no/such"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_line_and_exit_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_bad_config_is_one_line_and_exit_2(run, tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": 64}')
    code, _, err = run("explain", path)
    assert code == 2
    assert err == "moe-leverage: num_attention_heads = None: is required\n"


def test_unknown_architecture_is_explained_with_its_assumptions(run, tmp_path):
    path = tmp_path / "config.json"
    sizes = {"vocab_size": 9, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 8}
    path.write_text(json.dumps(sizes | {"num_attention_heads": 4, "model_type": "novel"}))
    code, out, _ = run("explain", path)
    assert code == 0
    assert "assumed: model_type = 'novel' is unknown" in out


def test_models_are_compared_in_one_table(run):
    code, out, _ = run("compare", "Ling-mini-beta", "Dense-6.1B", "--tokens", "1e12", "--json")
    moe, dense = json.loads(out)
    assert code == 0
    assert dense["efficiency_leverage"] == 1 < moe["efficiency_leverage"]
    assert moe["flops_per_token"]["total"] < dense["flops_per_token"]["total"]
    code, out, _ = run("compare", "Ling-mini-beta", "Dense-6.1B", "--tokens", "1e12")
    assert code == 0
    assert "17.51 B" in out
    assert "6.107 B" in out


def test_counting_needs_neither_torch_nor_pandas():
    program = (
        "import sys; from moe_leverage import cli; sys.argv = ['moe-leverage', 'explain', "
        "'Ling-mini-beta', '--json']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'pandas', 'scipy', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_million_predictions_are_one_call():
    ratios = np.linspace(0.02, 1, 1000)[:, None]
    leverage = PUBLISHED.joint(
        activation_ratio=ratios, granularity=np.linspace(2, 16, 1000), compute=1e21
    )
    assert leverage.shape == (1000, 1000)
    single = predict(
        activation_ratio=float(ratios[10, 0]),
        granularity=float(np.linspace(2, 16, 1000)[10]),
        compute=1e21,
    ).efficiency_leverage
    # arrays and single numbers pass through different vector instructions
    assert leverage[10, 10] == pytest.approx(single, rel=1e-12)


def test_dense_models_have_leverage_1_by_definition():
    found = explain(load("Llama-3-8B"))
    assert (found.efficiency_leverage, found.warnings) == (1.0, ())
    assert "by definition" in found.interval_note


def test_experts_beyond_the_law_are_warned_of():
    sparse = replace(load("Qwen3-30B-A3B").model, num_experts=4096)
    found = explain(OpenModel(name="sparse", model=sparse), tokens=1e12)
    assert not found.in_domain
    assert any(line.startswith("activation_ratio = 0.00195") for line in found.warnings)


def test_interval_comes_from_the_measured_fit_once_there_is_one(tmp_path, monkeypatch):
    from moe_leverage.analysis.fitting import fit
    from moe_leverage.design import designer
    from moe_leverage.theory.laws import JointLaw

    generator = np.random.default_rng(0)
    table = {
        "activation_ratio": generator.uniform(0.02, 0.5, 80),
        "granularity": generator.uniform(2, 16, 80),
        "compute": 10 ** generator.uniform(18, 20.4, 80),
    }
    noise = np.exp(0.02 * generator.standard_normal(80))
    table["efficiency_leverage"] = PUBLISHED.joint(**table) * noise
    path = tmp_path / "joint.json"
    fit(JointLaw, table, "efficiency_leverage", starts=16, resamples=100).save(path)
    monkeypatch.setattr(designer, "JOINT_FIT", path)
    point = {"activation_ratio": 0.05, "granularity": 8.0, "compute": 1e20}
    found = predict(**point)
    low, high = found.interval
    assert low < PUBLISHED.joint(**point) < high
    assert (high - low) / low < 0.1
    assert found.interval_note.startswith("90% bootstrap interval of the law measured here")
    assert "far outside" not in found.interval_note
    assert "far outside" in predict(**point | {"compute": 1e25}).interval_note

    monkeypatch.setattr(designer, "JOINT_FIT", tmp_path / "none.json")
    assert predict(**point).interval is None

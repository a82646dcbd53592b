"""Predictions, explanations and the verbs that print them, against the paper's own statements."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from moe_leverage import cli
from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.design.designer import dense_equivalent, dense_shape, explain, memory
from moe_leverage.design.huggingface import load, names, of_model
from moe_leverage.design.prediction import predict
from moe_leverage.theory.laws import PUBLISHED

pytestmark = pytest.mark.usefixtures("every_gate_holds")

# what each verb prints with --json: keys in order, and the type of each value
PUBLISHED_SHAPE = {"value": float, "in_domain": bool, "rounding_range": [float, float]}
ANSWERED = {"value": float, "interval": [float, float], "in_domain": bool, "reason": str}
BY_DEFINITION = ANSWERED | {"interval": None}
SILENT = BY_DEFINITION | {"value": None}
POINT = {"activation_ratio": float, "granularity": float}
EXPLAINED = {
    "name": str, **POINT, "shared_ratio": float, "total_params": int, "active_params": int,
    "parameters": dict, "flops_per_token": dict, "way": str, "convention": str,
    "sequence_length": int, "mixers": list, "experts": list,
    "tokens": float, "compute": float, "published": PUBLISHED_SHAPE, "measured": SILENT,
    "dense_equivalent": {
        "flops_per_token": float, "shape": dict, "shape_flops_per_token": float,
        "total_params": int,
    },
    "memory": dict.fromkeys(("weights_gb", "gradients_gb", "optimiser_gb", "training_gb"), float),
    "serving": {
        "weights_gb": dict, "cache_bytes_per_token": dict, "cache_gb": float,
        "expert_parallel": int, "experts_per_rank": float, "rank_weights_gb": dict,
        "rank_training_gb": float,
    },
    "warnings": list, "assumptions": list, "unused": list,
}  # fmt: skip
DESIGNED = EXPLAINED | {
    "model": dict, "learning_rate": float, "batch_tokens": int, "batch_sequences": int,
    "memory_per_rank_gb": float, "binding": list,
    "check": {"activation_ratio": float, "granularity": float, "shared_ratio": float},
}  # fmt: skip
LIMITS = {
    "compute": float,
    "tokens": None,
    "max_total_params": None,
    "max_memory_gb": None,
    "min_activation_ratio": None,
    "expert_parallel": int,
    "vocab_size": int,
    "sequence_length": int,
    "objective": float,
}
FRONTIER = {
    "total_params": int, "activation_ratio": float, "granularity": float,
    "efficiency_leverage": float,
}  # fmt: skip


def shape_of(value, like):
    """A JSON value as keys and types, down to where `like` has but a type."""
    if isinstance(like, dict) and isinstance(value, dict):
        return {key: shape_of(entry, like.get(key)) for key, entry in value.items()}
    if isinstance(like, list) and isinstance(value, list):
        return [shape_of(entry, like[0]) for entry in value]
    if like is float and type(value) is int:  # a whole number is a number
        return float
    return None if value is None else type(value)


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
    published = found["published"]
    assert low < published["value"] < high
    assert published["in_domain"] is (compute == 1e20)
    assert bool(found["warnings"]) is not published["in_domain"]
    assert found["measured"]["value"] is None
    assert found["measured"]["reason"].startswith("not at this scale: compute = 1e+2")


@pytest.mark.parametrize(
    ("ratio", "compute", "measured"),
    [(0.0461, 1e12, ANSWERED), (0.0461, 1e20, SILENT), (1, 1e20, BY_DEFINITION)],
)
def test_what_predict_prints_as_json(run, ratio, compute, measured):
    point = ["--activation-ratio", ratio, "--granularity", 2, "--compute", compute]
    found = json.loads(run("predict", *point, "--json")[1])
    wanted = POINT | {"compute": float, "published": PUBLISHED_SHAPE}
    wanted |= {"measured": measured, "warnings": list}
    assert list(found) == list(wanted)
    assert shape_of(found, wanted) == wanted


def test_what_explain_compare_and_design_print_as_json(run):
    explained = json.loads(run("explain", "Ling-mini-beta", "--json")[1])
    assert list(explained) == list(EXPLAINED)
    assert shape_of(explained, EXPLAINED) == EXPLAINED
    moe, dense = json.loads(run("compare", "Ling-mini-beta", "Dense-6.1B", "--json")[1])
    assert shape_of(moe, EXPLAINED) == EXPLAINED
    of_dense = EXPLAINED | {"measured": BY_DEFINITION, "shared_ratio": float}
    assert shape_of(dense, of_dense) == of_dense
    found = json.loads(run("design", "--compute", "1e22", "--json")[1])
    wanted = {
        "limits": LIMITS, "designs": [DESIGNED] * len(found["designs"]),
        "frontier": [FRONTIER] * len(found["frontier"]),
    }  # fmt: skip
    assert shape_of(found, wanted) == wanted


def test_both_laws_are_named_in_what_is_read(run):
    at = ["predict", "--granularity", 2, "--activation-ratio"]
    out = run(*at, 0.0461, "--compute", 1e12)[1].splitlines()
    assert out[0] == "published law: EL = 0.548 (0.539 to 0.558), extrapolated"
    assert re.fullmatch(r"measured law: EL = [\d.]+ \([\d.]+ to [\d.]+\)", out[1])
    assert "rounding" in out[2]
    out = run(*at, 0.0461, "--compute", 5e13)[1].splitlines()
    assert re.fullmatch(r"measured law: EL = [\d.]+ \([\d.]+ to [\d.]+\), extrapolated", out[1])
    out = run(*at, 0.0461, "--compute", 1e20)[1].splitlines()
    assert out[1].startswith("measured law: not at this scale: compute = 1e+20 FLOPs is")
    out = run(*at, 1, "--compute", 1e20)[1].splitlines()
    assert out[:2] == [f"{law} law: EL = 1, by definition" for law in ("published", "measured")]
    out = run("explain", "Ling-mini-beta")[1]
    assert "EL, published law" in out
    assert "EL, measured law         not at this scale" in out
    assert "measured law: not at this scale: compute" in out


def test_explanation_of_ling_mini_beta(run):
    code, out, _ = run("explain", "Ling-mini-beta", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["total_params"] == pytest.approx(17.5e9, rel=0.01)  # Table 3, non-vocabulary
    assert found["active_params"] == pytest.approx(0.855e9, rel=0.02)  # see test_models
    assert found["published"]["value"] > 7  # the abstract's claim, at its own tokens
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
    assert (found.published.value == 1) == (found.activation_ratio == 1)
    assert equal.flops_per_token == pytest.approx(
        found.published.value * found.flops_per_token["non_embedding"]
    )
    assert equal.shape_flops_per_token == pytest.approx(equal.flops_per_token, rel=0.05)
    assert not equal.shape.is_moe
    assert equal.total_params == count_parameters(equal.shape).non_vocabulary
    assert found.memory.training_gb == pytest.approx(found.parameters["total"] * 16e-9)


def test_dense_6_1b_is_its_own_equivalent():
    dense = load("Dense-6.1B").model
    scale = count_forward_flops(dense, 8192).non_embedding
    shape = dense_equivalent(scale, dense.vocab_size, 8192, 1.0).shape
    assert (shape.num_layers, shape.d_model, shape.d_ffn) == (28, 4096, 14336)
    assert count_parameters(shape) == count_parameters(dense)


def test_tokens_come_from_the_makers_then_from_table_1():
    assert explain(load("OLMoE-1B-7B")).tokens == 5.133e12
    model = load("OLMoE-1B-7B").model
    found = explain(of_model("mine", model))
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
        (["explain", "Llama-3-8B", "--tokens", "0"], "tokens = 0.0: must be a number from 1"),
        (["explain", "Llama-3-8B", "--tokens", "nan"], "tokens = nan: must be a number from 1"),
        (["explain", "Llama-3-8B", "--compute", "-1"], "compute = -1.0: must be a number from 1"),
        (["explain", "Llama-3-8B", "--compute", "1", "--tokens", "1"], "contradicts compute"),
        (["explain", "Llama-3-8B", "--compute", "much"], "'--compute': Input should be"),
        (["compare", "Llama-3-8B", "Mixtral"], "CONFIG = 'Mixtral': is neither"),
        (["predict", "--activation-ratio", "2", "--granularity", "2", "--compute", "1e20"],
         "activation_ratio = 2.0: must be a number from"),
        (["predict", "--granularity", "2", "--compute", "1e20"], "--activation-ratio"),
        (["design", "--compute", "nan"], "compute = nan: must be a number from 1"),
        (["design", "--compute", "1e22", "--expert-parallel", "0"], "expert_parallel = 0"),
        (["design", "--compute", "1e22", "--expert-parallel", "1.5"], "valid integer"),
        (["design", "--compute", "1e22", "--min-activation-ratio", "1.5"], "1.5: must be a number"),
        (["design", "--compute", "1e22", "--max-total-params", "1e9"], " times off the limit"),
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
    path.write_text('{"model_type": "llama", "hidden_size": "64"}')
    code, _, err = run("explain", path)
    assert code == 2
    assert err == "moe-leverage: hidden_size = '64': must be a whole number >= 0\n"


def test_nothing_is_guessed_of_an_unknown_architecture(run, tmp_path):
    path = tmp_path / "config.json"
    sizes = {"vocab_size": 9, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 8}
    path.write_text(json.dumps(sizes | {"num_attention_heads": 4, "model_type": "novel"}))
    code, out, err = run("compare", "Llama-3-8B", path)
    assert (code, out) == (2, "")
    assert "config.json: model_type = 'novel': is no type that transformers" in err


def test_models_are_compared_in_one_table(run):
    code, out, _ = run("compare", "Ling-mini-beta", "Dense-6.1B", "--tokens", "1e12", "--json")
    moe, dense = json.loads(out)
    assert code == 0
    assert dense["published"]["value"] == 1 < moe["published"]["value"]
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
    ).published.value
    # arrays and single numbers pass through different vector instructions
    assert leverage[10, 10] == pytest.approx(single, rel=1e-12)


def test_dense_models_have_leverage_1_by_definition():
    found = explain(load("Llama-3-8B"))
    assert (found.published.value, found.measured.value, found.warnings) == (1.0, 1.0, ())
    assert "by definition" in found.measured.reason


def test_experts_beyond_the_law_are_warned_of():
    sparse = replace(load("Qwen3-30B-A3B").model, num_experts=4096)
    found = explain(of_model("sparse", sparse), tokens=1e12)
    assert not found.published.in_domain
    assert any(
        line.startswith("published law: activation_ratio = 0.00195") for line in found.warnings
    )


def test_length_mask_vocabulary_and_ranks_are_the_readers(run):
    options = ["--sequence-length", 8192, "--causal", "--vocab", 1000, "--expert-parallel", 8]
    found = json.loads(run("explain", "gpt-oss-20b", *options, "--json")[1])
    plain = json.loads(run("explain", "gpt-oss-20b", "--sequence-length", 8192, "--json")[1])
    sliding, full = found["mixers"]
    assert (sliding["kind"], sliding["window"], full["kind"]) == ("sliding", 128, "full")
    assert full["causal_score_flops"] == full["score_flops"] / 2
    scores = sliding["causal_score_flops"] + full["causal_score_flops"]
    assert found["flops_per_token"]["attention_scores"] == scores
    assert plain["flops_per_token"]["attention_scores"] == 2 * full["score_flops"]
    assert (found["convention"], plain["convention"]) == ("causal", "exact")
    assert found["parameters"]["embedding"] == 1000 * 2880
    assert found["serving"]["experts_per_rank"] == 4
    cached = 2 * 8 * 64 * 2 * 12  # keys and values, heads, width, bytes, layers of a kind
    assert found["serving"]["cache_bytes_per_token"] == {"sliding": cached, "full": cached}
    assert found["serving"]["cache_gb"] == pytest.approx(cached * (128 + 8192) / 1e9)


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ({"sequence_length": "x"}, "sequence_length = 'x': must be a whole number"),
        ({"training_tokens": "many"}, "training_tokens = 'many': must be a number"),
        ({"training_tokens": -5}, "training_tokens = -5"),
    ],
)
def test_what_makers_cannot_have_printed_is_refused(printed, message):
    found = replace(load("Mixtral-8x7B"), published=printed)
    with pytest.raises(ValueError, match=message):
        explain(found)


def test_no_rank_is_without_an_expert():
    with pytest.raises(ValueError, match="expert_parallel = 16: exceeds the 8 experts of a layer"):
        explain(load("Mixtral-8x7B"), tokens=1e12, expert_parallel=16)
    assert explain(load("Llama-3-8B"), tokens=1e12, expert_parallel=16).serving.rank_training_gb


def test_the_dense_equal_of_the_largest_budgets_has_a_shape():
    assert dense_shape(1e13, 126_464, 4096).num_layers < 1000

"""Configs as people have them, against the model that transformers builds from the same file."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import bench_causal_models as bench
from moe_leverage import cli
from moe_leverage.design import built, closed_form, huggingface
from moe_leverage.design.designer import explain

CASES = json.loads((Path(__file__).parent / "data" / "small_configs.json").read_text())
KINDS = [kind for kind in closed_form.FORMS if kind not in closed_form.REPOSITORY]
TINY = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8,
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip
ROUTED = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
FINE = ROUTED | {"n_routed_experts": 8, "n_group": 1, "topk_group": 1}
# Small configs of types of every family, dense and routed, to be run for torch's counter.
RUN = {
    "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {}, "gemma": {}, "gemma2": {},
    "gemma3_text": {},
    "phi3": {"pad_token_id": 0}, "starcoder2": {}, "granite": {}, "olmo2": {}, "cohere": {},
    "glm": {"pad_token_id": 0},
    "gpt_neox": {}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1},
    "gpt2": {},
    "stablelm": {}, "smollm3": {"pad_token_id": 0}, "seed_oss": {},
    "mixtral": {"num_local_experts": 4}, "olmoe": {"num_experts": 8, "num_experts_per_tok": 2,
    "pad_token_id": 0}, "qwen2_moe": ROUTED | {"num_experts": 8,
    "shared_expert_intermediate_size": 32}, "qwen3_moe": ROUTED | {"num_experts": 8},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "ernie4_5_moe": {"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 16},
    "glm4_moe": FINE, "dots1": FINE | {"n_shared_experts": 1}, "deepseek_v2": FINE | LATENT,
    "deepseek_v3": FINE | LATENT, "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4}, "granitemoeshared": {"num_local_experts": 4,
    "num_experts_per_tok": 2, "shared_intermediate_size": 32},
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 8},
    "nemotron_h": FINE | {"n_shared_experts": 1, "moe_shared_expert_intermediate_size": 32,
    "hybrid_override_pattern": "*E-*"},
}  # fmt: skip
SAMPLED = ("gemma2", "qwen2_moe", "gpt_oss", "deepseek_v3")
TOKENS = 24


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_small_configs_have_their_right_values(case):
    found = huggingface.read(case["config"]).anatomy
    flops = found.forward_flops(4096)
    assert found.parameters.total == case["total_params"]
    assert found.parameters.routed_experts == case["routed_expert_params"]
    work = flops.total
    if case["config"]["model_type"] == "llama4_text":
        # The library's code of this class runs every expert on every token, with a gate of zero:
        # the right value counts that; ours the one that the router chooses.
        work += 7 * flops.routed_experts
    assert work == case["forward_flops"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_built_model_of_a_small_config_has_them_too(case):
    parameters = built.build(case["config"]).anatomy.parameters
    assert parameters.total == case["total_params"] == bench.built_total(case["config"])
    assert parameters.routed_experts == case["routed_expert_params"]
    assert parameters.other == 0


def same(kind, raw):
    """Where both count a config, they agree on every part and every product."""
    try:
        ours = huggingface.read(raw).anatomy
    except ValueError:
        return
    theirs = built.build(raw).anatomy
    assert ours.parameters == theirs.parameters
    assert ours.forward_flops(512) == theirs.forward_flops(512)
    assert ours.forward_flops(512, causal=True) == theirs.forward_flops(512, causal=True)
    assert ours.experts == theirs.experts
    assert {m.kind: m.cached for m in ours.mixers} == {m.kind: m.cached for m in theirs.mixers}


def configs(kind):
    """Configs of a type with any of its sizes given, the others left to the class."""
    names = [n for n in closed_form.class_tables()[kind]["defaults"] if n in bench.CHOICES]
    small = {n: st.sampled_from(bench.CHOICES[n]) for n in names if n in bench.SIZES}
    optional = {n: st.sampled_from(bench.CHOICES[n]) for n in names if n not in bench.SIZES}
    drawn = st.fixed_dictionaries(small, optional=optional)
    return drawn.map(lambda raw: {"model_type": kind} | raw)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS).flatmap(configs))
def test_closed_forms_equal_the_built_model(raw):
    same(raw["model_type"], raw)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fuzzed_configs_are_counted_as_built_or_refused(kind):
    off = [said for n in range(bench.FUZZED) for v, said in [bench.fuzz(kind, n)] if v == bench.OFF]
    assert off == []


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_some_fuzzed_configs(kind, number):
    assert bench.fuzz(kind, number)[0] != bench.OFF


def test_our_table_of_defaults_is_the_librarys():
    assert bench.class_defaults() == json.loads(closed_form.DEFAULTS.read_text())


@pytest.mark.slow
def test_no_causal_language_model_is_counted_otherwise_than_built():
    rows = bench.table()
    assert [row for row in rows if row[1] == bench.OFF] == []
    assert sum(row[1] == bench.EXACT for row in rows) > 150
    ours = [
        kind for kind, found, said in rows if found == bench.REFUSED and "cannot build" not in said
    ]
    assert ours == ["deepseek_v2", "dots1"]  # whose defaults name no number of experts


def counted_by_torch(raw):
    """Forward FLOPs a token of a real instance, by torch's own counter."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    with built.quietly():
        config = transformers.AutoConfig.for_model(raw["model_type"], **{
            key: value for key, value in raw.items() if key != "model_type"
        })  # fmt: skip
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(input_ids=torch.arange(TOKENS)[None] % 60, use_cache=False)
    return counter.get_total_flops() / TOKENS


def assert_counted(kind):
    raw = {"model_type": kind} | TINY | RUN[kind]
    found = huggingface.read(raw).anatomy.forward_flops(TOKENS)
    assert found.state_updates == 0
    assert found.total == counted_by_torch(raw)


@pytest.mark.parametrize("kind", SAMPLED)
def test_flops_equal_torchs_counter(kind):
    assert_counted(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in RUN if kind not in SAMPLED])
def test_flops_equal_torchs_counter_on_every_family(kind):
    assert_counted(kind)


def test_shared_width_is_so_many_shared_experts():
    qwen = {"model_type": "qwen2_moe", "num_hidden_layers": 2}
    found = explain(huggingface.read(qwen), tokens=1e9)
    assert found.activation_ratio == 0.125
    assert any("5632 wide: 4 of 1408" in line for line in found.assumptions)


def test_keys_that_were_not_used_are_listed():
    raw = {"model_type": "llama", "swa_window_pattern": [1]} | TINY
    assert huggingface.read(raw).unused == ("swa_window_pattern",)
    raw = {"model_type": "gemma2", "moe_like_width": 7, "num_mtp_heads": 2} | TINY
    assert set(huggingface.read(raw | {"num_experts": 0}).unused) == {
        "moe_like_width", "num_mtp_heads", "num_experts",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "llama", "moe_intermediate_size": 16}, "speaks of experts"),
        ({"model_type": "gemma2", "moe_intermediate_size": 16}, "builds has none"),
        ({"model_type": "mixtral", "n_routed_experts": 16}, "takes num_local_experts"),
        ({"model_type": "dots1"}, "n_routed_experts = 0: must be above 0"),
        ({"model_type": "t5"}, "no causal language model"),
        ({"model_type": "novel"}, "is no type that transformers"),
    ],
)
def test_nothing_about_experts_is_guessed(raw, message):
    with pytest.raises(ValueError, match=message) as raised:
        huggingface.read(raw | TINY)
    assert "\n" not in str(raised.value)


def test_without_the_library_other_types_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert huggingface.read({"model_type": "qwen3"}).anatomy.way == "closed form"
    with pytest.raises(ValueError, match=r"model_type = 'jamba': needs .*moe-leverage\[hf\]"):
        huggingface.read({"model_type": "jamba"})


def test_a_nested_config_is_tied_as_the_library_ties_it():
    text = {"model_type": "gemma3_text"} | TINY
    tied = huggingface.read({"model_type": "gemma3", "text_config": text}).anatomy.parameters
    loose = {"model_type": "gemma3", "text_config": text, "tie_word_embeddings": False}
    apart = huggingface.read(loose).anatomy.parameters
    assert (tied.logits, apart.logits) == (0, 64 * 32)
    assert apart.total - tied.total == 64 * 32


def test_a_trillion_parameters_take_less_than_five_seconds(monkeypatch, capsys, tmp_path):
    path = tmp_path / "config.json"
    sizes = {"num_hidden_layers": 66, "hidden_size": 8192, "num_experts": 640}
    path.write_text(json.dumps({"model_type": "bailing_hybrid"} | sizes))
    monkeypatch.setattr(sys, "argv", ["moe-leverage", "explain", str(path), "--json"])
    start = time.perf_counter()
    with pytest.raises(SystemExit):
        cli.main()
    assert time.perf_counter() - start < 5
    assert json.loads(capsys.readouterr().out)["parameters"]["total"] > 7e11


def test_layers_that_differ_are_a_table_and_a_mean():
    kinds = {"layers": 1, "num_active_experts": 1, "num_shared_experts": 0, "d_shared": 0}
    one = huggingface.read({"model_type": "mixtral"} | TINY).anatomy
    few, many = (
        dataclasses.replace(one.experts[0], **kinds, num_experts=n) for n in (2, 10)
    )  # fmt: skip
    mixed = dataclasses.replace(one, experts=(few, dataclasses.replace(many, layers=3)))
    assert mixed.activation_ratio == pytest.approx((0.5 + 3 * 0.1) / 4)

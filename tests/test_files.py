"""Files as people have them: other programs' words, marks of bytes, Infinity, folders."""

import json

import pytest

from moe_leverage.design import flavours
from moe_leverage.design.huggingface import load

LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
META = {
    "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
    "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0,
}  # fmt: skip
MISTRAL = {
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32,
    "n_kv_heads": 8, "vocab_size": 32000, "moe": {"num_experts_per_tok": 2, "num_experts": 8},
}  # fmt: skip
DEEPSEEK = {
    "vocab_size": 129280, "dim": 7168, "inter_dim": 18432, "moe_inter_dim": 2048, "n_layers": 61,
    "n_dense_layers": 3, "n_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1,
    "n_activated_experts": 8, "n_expert_groups": 8, "n_limited_groups": 4,
    "score_func": "sigmoid", "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "dtype": "fp8",
}  # fmt: skip
MEGATRON = """#!/bin/bash of a run
--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --group-query-attention \\
--num-query-groups 8 --ffn-hidden-size 14336 --num-experts 8 --moe-router-topk 2 --swiglu
--disable-bias-linear --untie-embeddings-and-output-weights --padded-vocab-size 32000
"""
MIXTRAL_TOTAL = 46_702_792_704


@pytest.mark.parametrize(
    ("name", "text", "total"),
    [
        ("params.json", json.dumps(META), 8_030_261_248),
        ("params.json", json.dumps(MISTRAL), MIXTRAL_TOTAL),
        ("config_671B.json", json.dumps(DEEPSEEK), 671_026_404_352),
        ("run.sh", MEGATRON, MIXTRAL_TOTAL),
        ("model.toml", "[model]\n" + "\n".join(f"{k} = {v}" for k, v in META.items()),
         8_030_261_248),
    ],
)  # fmt: skip
def test_other_programs_words_are_read(tmp_path, name, text, total):
    (tmp_path / name).write_text(text)
    found = load(tmp_path / name)
    assert found.anatomy.parameters.total == total
    assert any(line.startswith("read as ") for line in found.assumptions)


def test_a_mark_of_bytes_infinity_and_nan_are_no_faults(tmp_path):
    path = tmp_path / "config.json"
    text = json.dumps(LLAMA | {"embd_pdrop": float("nan"), "time_step_limit": [0, float("inf")]})
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    path_clean = tmp_path / "clean.json"
    path_clean.write_text(json.dumps(LLAMA))
    assert load(path).anatomy == load(path_clean).anatomy


def test_a_folder_with_params_is_read_and_a_vocabulary_given(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(META | {"vocab_size": -1}))
    with pytest.raises(ValueError, match="vocab_size = -1: is left to the tokenizer"):
        load(tmp_path)
    assert load(tmp_path, vocab_size=128_256).anatomy.parameters.total == 8_030_261_248


@pytest.mark.parametrize(
    ("raw", "looks"),
    [
        ({"tokenizer_class": "X"}, "a tokenizer"),
        ({"weight_map": {}}, "an index of weights"),
        ({"peft_type": "LORA"}, "an adapter"),
        ({"a": 1, "b": 2}, "something else, with a, b"),
    ],
)
def test_what_is_no_config_is_told_what_it_looks_like(tmp_path, raw, looks):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=f"not a model config: looks like {looks}"):
        load(path)


@pytest.mark.parametrize(
    ("name", "flavour", "total"),
    [
        ("llama3", "8B", 8_030_261_248),
        ("llama3", "70B_flex", 70_553_706_496),
        ("llama3", "405B", 405_853_388_800),
        ("deepseek_v3", "16B", 15_706_484_224),
        ("deepseek_v3", "236B", 235_741_434_880),
        ("deepseek_v3", "671B", 671_026_404_352),
        ("qwen3", "0.6B", 596_049_920),
        ("qwen3", "8B", 8_190_735_360),
        ("qwen3", "30B-A3B", 30_532_122_624),
        ("qwen3", "235B-A22B", 235_093_634_560),
    ],
)
def test_torchtitans_flavours_are_the_models_they_are_named_for(tmp_path, name, flavour, total):
    path = tmp_path / "train.toml"
    path.write_text(f'[model]\nname = "{name}"\nflavor = "{flavour}"\n')
    assert load(path).anatomy.parameters.total == total


def test_every_flavour_is_counted_and_takes_a_vocabulary(tmp_path):
    path = tmp_path / "train.toml"
    for name, shapes in flavours.FLAVOURS.items():
        for flavour in shapes:
            path.write_text(f'[model]\nname = "{name}"\nflavor = "{flavour}"\n')
            found = load(path, vocab_size=5000).anatomy
            assert found.vocab_size == 5000
            assert found.is_moe == ("n_routed_experts" in shapes[flavour]
                                    or "num_experts" in shapes[flavour])  # fmt: skip


def test_a_flavour_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text('[model]\nname = "llama4"\nflavor = "17bx16e"\n')
    with pytest.raises(ValueError, match=r"model.flavor = 'llama4 17bx16e': .* llama3 debugmodel"):
        load(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", json.dumps(META | {"multiple_of": 0}), "multiple_of = 0: must be above 0"),
        ("x.json", json.dumps(META | {"ffn_dim_multiplier": "a"}), "ffn_dim_multiplier = 'a'"),
        ("x.json", json.dumps(META | {"ffn_dim_multiplier": float("inf")}), "multiplier = inf"),
        ("x.json", json.dumps(META | {"ffn_dim_multiplier": float("nan")}), "multiplier = nan"),
        ("x.sh", MEGATRON.replace("heads 32", "heads 0"), "num_attention_heads = 0: must be above"),
        ("x.sh", "--num-layers 2 --hidden-size '64", "x.sh: is no line of arguments: No closing"),
        ("x.json", '{"model_type": "llama", "a": 1, "a": 2}', "x.json: a = 1: is given again as 2"),
    ],
)
def test_what_a_file_cannot_mean_is_said_of_its_field(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / name)

"""Configs as people have them, against the model that transformers builds from the same file."""

import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import bench_causal_models as bench
from moe_leverage import cli
from moe_leverage.design import built, class_words, closed_form, huggingface
from moe_leverage.design.designer import explain

CASES = json.loads((Path(__file__).parent / "data" / "small_configs.json").read_text())
KINDS = [kind for kind in closed_form.FORMS if kind not in class_words.REPOSITORY]
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
MAMBA2 = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_d_conv": 4, "mamba_expand": 2,
}  # fmt: skip
DELTA = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}  # fmt: skip
CONVOLVED = ["conv", "full_attention"] * 2
# The same of types whose layers keep a state: Mamba, linear attention, short convolutions.
STATEFUL = {
    "mamba": {"state_size": 4, "intermediate_size": 64},
    "falcon_mamba": {"state_size": 4, "intermediate_size": 64},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "jamba": {"num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2,
              "attn_layer_offset": 1, "use_mamba_kernels": False, "pad_token_id": 0,
              "mamba_dt_rank": 4},
    "bamba": MAMBA2 | {"attn_layer_indices": [1]},
    "granitemoehybrid": MAMBA2 | {"num_local_experts": 4, "num_experts_per_tok": 2,
                                  "shared_intermediate_size": 32,
                                  "layer_types": ["mamba", "attention"] * 2},
    "falcon_h1": MAMBA2 | {"mamba_d_ssm": 64},
    "nemotron_h": FINE | {"n_shared_experts": 1, "moe_shared_expert_intermediate_size": 32,
                          "hybrid_override_pattern": "ME*E", "mamba_num_heads": 8,
                          "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2},
    "qwen3_next": ROUTED | DELTA | {"num_experts": 8, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": DELTA,
    "lfm2": {"layer_types": CONVOLVED},
    "lfm2_moe": ROUTED | {"num_experts": 4, "num_dense_layers": 1, "layer_types": CONVOLVED},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 64},
    "minimax": {"num_local_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip
KERNELS = {"lfm2": 3, "lfm2_moe": 3}  # of the short convolution; all others have 4
LLAMA4 = {
    "intermediate_size_mlp": 64, "num_local_experts": 8, "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2, "moe_layers": [1], "num_hidden_layers": 2, "pad_token_id": 0,
}  # fmt: skip
SCANNED = ("mamba", "falcon_mamba", "jamba")  # torch's scan reads each number of the state once
SAMPLED = ("gemma2", "qwen2_moe", "gpt_oss", "deepseek_v3")
TOKENS = 24
# Fuzzed configs of each of the types that are built; `python -m bench causal_models` draws eighty.
EXAMPLES = int(os.environ.get("MOE_LEVERAGE_EXAMPLES", "1"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_small_configs_have_their_right_values(case):
    found = huggingface.read(case["config"]).anatomy
    flops = found.forward_flops(4096)
    assert found.parameters.total == case["total_params"]
    assert found.parameters.routed_experts == case["routed_expert_params"]
    work = flops.total
    if case["config"]["model_type"] == "llama4_text":
        # The right value counts what torch runs, every expert; ours the one that is chosen: see
        # test_the_experts_that_llama4_runs_without_choosing_them_change_nothing.
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
    names = [n for n in class_words.class_tables()[kind]["defaults"] if n in bench.CHOICES]
    small = {n: st.sampled_from(bench.CHOICES[n]) for n in names if n in bench.SIZES}
    optional = {n: st.sampled_from(bench.CHOICES[n]) for n in names if n not in bench.SIZES}
    drawn = st.fixed_dictionaries(small, optional=optional)
    return drawn.map(lambda raw: {"model_type": kind} | raw)


@settings(max_examples=25 * EXAMPLES, deadline=None)
@given(st.sampled_from(KINDS).flatmap(configs))
def test_closed_forms_equal_the_built_model(raw):
    same(raw["model_type"], raw)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fuzzed_configs_are_counted_as_built_or_refused(kind):
    off = [said for n in range(bench.FUZZED) for v, said in [bench.fuzz(kind, n)] if v == bench.OFF]
    assert off == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", bench.built_kinds())
def test_fuzzed_configs_of_types_without_a_closed_form_are_counted_or_refused(kind):
    verdicts = [bench.fuzz(kind, number) for number in range(EXAMPLES)]
    assert [said for verdict, said in verdicts if verdict == bench.OFF] == []


@pytest.mark.parametrize(
    ("raw", "total", "active"),
    [
        # A class of routed experts that is named after a model with shared ones.
        ({"model_type": "granitemoeshared", "num_hidden_layers": 1, "attention_bias": False,
          "shared_intermediate_size": 1}, 1_411_440_640, 599_842_816),
    ],
)  # fmt: skip
def test_configs_that_were_counted_in_two_ways(raw, total, active):
    assert bench.built_counts(raw) == (total, active)
    parameters = huggingface.read(raw).anatomy.parameters
    assert (parameters.total, parameters.active) == (total, active)


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_some_fuzzed_configs(kind, number):
    assert bench.fuzz(kind, number)[0] != bench.OFF


def test_our_table_of_defaults_is_the_librarys():
    assert bench.class_defaults() == json.loads(class_words.DEFAULTS.read_text())


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
    """Forward FLOPs a token of a real instance by torch's own counter: by module, and its class."""
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
    classes = {path: type(module).__name__ for path, module in model.named_modules()}
    return [
        (classes.get(path.partition(".")[2], "") if path != "Global" else path,
         Counter({str(op).rpartition(".")[2]: flops / TOKENS for op, flops in found.items()}))
        for path, found in counter.get_flop_counts().items()
    ]  # fmt: skip


def of_global(counts):
    (whole,) = (found for name, found in counts if name == "Global")
    return whole


def assert_counted(kind):
    raw = {"model_type": kind} | TINY | RUN[kind]
    found = huggingface.read(raw).anatomy.forward_flops(TOKENS)
    assert found.state_updates == 0
    assert found.total == of_global(counted_by_torch(raw)).total()


def assert_state_counted(kind):
    """Every product of a type with a state, and the scores of its attention, are torch's.

    A causal convolution is padded at both ends and cut off, so torch counts K - 1 outputs more. How
    a state is updated differs by kernel, of which the plain code is the slowest: our number is an
    estimate, apart. The scan of Mamba reads a state by one product, a third of that estimate.
    """
    raw = {"model_type": kind} | TINY | STATEFUL[kind]
    anatomy = huggingface.read(raw).anatomy
    found, counts = anatomy.forward_flops(TOKENS), counted_by_torch(raw)
    whole = of_global(counts)
    cut = TOKENS / (TOKENS + KERNELS.get(kind, 4) - 1)
    products = whole["mm"] + whole["addmm"] + whole["baddbmm"] + whole["convolution"] * cut
    assert found.total - found.attention_scores - found.state_updates == pytest.approx(products)
    attention = sum(
        found["bmm"]
        for name, found in counts
        if name.endswith("Attention") and "Lightning" not in name
    )
    assert found.attention_scores == attention
    assert found.state_updates > 0
    if kind in SCANNED:
        assert whole["bmm"] - attention == pytest.approx(found.state_updates / 3)


@pytest.mark.parametrize("kind", ["jamba", "qwen3_next"])
def test_products_of_layers_with_a_state_equal_torchs_counter(kind):
    assert_state_counted(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in STATEFUL if kind not in ("jamba", "qwen3_next")])
def test_products_of_every_layer_with_a_state_equal_torchs_counter(kind):
    assert_state_counted(kind)


def test_the_experts_that_llama4_runs_without_choosing_them_change_nothing():
    """Its code gives every token to every expert, with a gate of zero but for the chosen one.

    torch counts them all. By the rule of two FLOPs an active matrix parameter they are asleep: with
    other weights in them the model says the same, so `explain` counts the chosen one alone.
    """
    import torch
    import transformers

    raw = {"model_type": "llama4_text"} | TINY | LLAMA4
    flops = huggingface.read(raw).anatomy.forward_flops(TOKENS)
    counted = of_global(counted_by_torch(raw)).total()
    assert counted == flops.total + 7 * flops.routed_experts
    with built.quietly(), torch.no_grad():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(**raw)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        experts = model.get_submodule("model.layers.1.feed_forward.experts")
        router = model.get_submodule("model.layers.1.feed_forward.router")
        chosen = []
        router.register_forward_hook(lambda module, given, out: chosen.append(out))
        before = model(input_ids=torch.tensor([[5]]), use_cache=False).logits
        gates = next(part for part in chosen[0] if part.shape[-1] == 8)
        best = int(gates.reshape(-1, 8).argmax())
        asleep = torch.arange(8) != best
        experts.gate_up_proj[asleep] = 1.0
        experts.down_proj[asleep] = 1.0
        after = model(input_ids=torch.tensor([[5]]), use_cache=False).logits
    assert torch.equal(before, after)


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


@pytest.mark.parametrize(("name", "raw"), [
    ("closed form", {"model_type": "kimi_k2", "num_hidden_layers": 61, "hidden_size": 7168,
                     "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 163_840,
                     "intermediate_size": 18_432, "moe_intermediate_size": 2048,
                     "n_routed_experts": 384, "n_shared_experts": 1, "num_experts_per_tok": 8,
                     "first_k_dense_replace": 1} | dict.fromkeys(LATENT, 128) | {
                     "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64}),
    ("built", {"model_type": "bailing_hybrid", "num_hidden_layers": 88, "hidden_size": 8192,
               "num_experts": 640}),
])  # fmt: skip
def test_a_trillion_parameters_are_counted_without_storage(
    name, raw, monkeypatch, capsys, tmp_path
):
    """Nor does the collector of garbage look at what is loaded: it took a third of the time.

    `python -m bench design` measures time and memory in processes of their own.
    """
    models = []
    keep = built.construct
    monkeypatch.setattr(built, "construct", lambda raw: models.append(keep(raw)) or models[-1])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw))
    monkeypatch.setattr(sys, "argv", ["moe-leverage", "explain", str(path), "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    found = json.loads(capsys.readouterr().out)
    assert found["way"].startswith(name)
    assert found["parameters"]["total"] > 1e12
    assert len(models) == (name == "built")
    for _, model in models:
        assert all(tensor.is_meta for tensor in model.parameters())
        assert sum(b.numel() for b in model.buffers() if not b.is_meta) < 1e6


def test_the_library_builds_without_a_look_for_garbage(monkeypatch):
    """And whoever collects, collects again afterwards, also where the library cannot build."""
    whether = []
    keep = built.construct
    monkeypatch.setattr(built, "construct", lambda raw: whether.append(gc.isenabled()) or keep(raw))
    built.build({"model_type": "gemma2"} | TINY)
    with pytest.raises(ValueError, match="cannot build"):
        built.build({"model_type": "gemma2", "hidden_size": -1})
    assert (whether, gc.isenabled()) == ([False, False], True)


def test_layers_that_differ_are_a_table_and_a_mean():
    kinds = {"layers": 1, "num_active_experts": 1, "num_shared_experts": 0, "d_shared": 0}
    one = huggingface.read({"model_type": "mixtral"} | TINY).anatomy
    few, many = (
        dataclasses.replace(one.experts[0], **kinds, num_experts=n) for n in (2, 10)
    )  # fmt: skip
    mixed = dataclasses.replace(one, experts=(few, dataclasses.replace(many, layers=3)))
    assert mixed.activation_ratio == pytest.approx((0.5 + 3 * 0.1) / 4)


def test_what_was_stood_in_for_is_real_once_it_is_used():
    program = (
        "import sys; from moe_leverage.design.built import construct\n"
        f"config, model = construct({ {'model_type': 'gemma3_text'} | TINY!r})\n"
        "print(*({'torch._dynamo', 'scipy.optimize'} & set(sys.modules)))\n"
        "from transformers.loss.loss_for_object_detection import linear_sum_assignment\n"
        "print(linear_sum_assignment([[1, 2], [3, 1]])[1].tolist())\n"
        "from transformers.masking_utils import TransformGetItemToIndex\n"
        "print(type(TransformGetItemToIndex()).__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    nothing, assigned, module = done.stdout.splitlines()
    assert (nothing, assigned) == ("", "[0, 1]"), done.stderr
    assert module == "torch._dynamo._trace_wrapped_higher_order_op"


def test_a_dense_model_has_a_granularity_whatever_its_matrices_are_called():
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    bert = built.build({"model_type": "bert", "intermediate_size": 96} | sizes)
    assert bert.anatomy.granularity == pytest.approx(2 * 64 / 96)


def test_numbers_that_decide_no_size_may_be_infinite():
    plain = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 64}
    odd = {"rope_theta": float("inf"), "rms_norm_eps": float("nan")}
    assert huggingface.read(plain | odd).model == huggingface.read(plain).model

"""Model shapes written in the config form of Hugging Face, so that `transformers` builds them.

The way back of `huggingface`: the shape decides the class (Section 5 builds such a model), and what
no class can hold is refused rather than dropped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_leverage import paths
from moe_leverage.config import PAPER_SEQUENCE_LENGTH, ModelConfig
from moe_leverage.rules import require


def to_hf(model: ModelConfig, sequence_length: int = PAPER_SEQUENCE_LENGTH) -> dict[str, Any]:
    """A config that `transformers` loads and that builds exactly this shape.

    Llama or Qwen3 if dense; Mixtral, Qwen3Moe, OLMoE, Ernie4_5_Moe (softmax, shared experts) or
    Glm4Moe (sigmoid, the recipe of Ling 2.0) if not. Raises ValueError if none of them fits.

    >>> dense = ModelConfig(vocab_size=99, num_layers=2, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=24)
    >>> to_hf(dense)["architectures"]
    ['LlamaForCausalLM']
    """
    unwritten = (
        "latent_attention", "num_mtp_layers", "attention_sinks", "ffn_bias",
        "num_attention_experts", "parallel_blocks",
    )  # fmt: skip
    for name in unwritten:
        value = getattr(model, name)
        require(not value, name, value, "is not written; no class we write to has it")
    for name in ("router_bias", "attention_bias", "attention_output_bias"):
        require(not getattr(model, name), name, True, "is not written; leave biases out")
    config = _moe_form(model) if model.is_moe else _dense_form(model)
    rope = {"rope_type": "default", "rope_theta": model.rope_theta}
    if config["model_type"] == "glm4_moe":
        rope["partial_rotary_factor"] = model.rope_fraction
    else:
        rule = f"must be 1 in the class that fits otherwise, {config['model_type']}"
        require(model.rope_fraction == 1, "rope_fraction", model.rope_fraction, rule)
    own = {"max_position_embeddings": sequence_length, "rope_parameters": rope}
    return config | _common_form(model) | own


def write_hf(
    model: ModelConfig,
    path: Path,
    sequence_length: int = PAPER_SEQUENCE_LENGTH,
    *,
    force: bool = False,
) -> None:
    """Write `to_hf(model)` to `path`, whole or not at all; over a file only with `force`."""
    require_writable(path, force=force)
    text = json.dumps(to_hf(model, sequence_length), indent=2) + "\n"
    paths.write_atomically(path, text)


def require_writable(path: Path, *, force: bool) -> None:
    """ValueError if the path is no place for a new file."""
    require(not path.is_dir(), "path", str(path), "is a directory; name a file to write")
    folder = str(path.parent)
    require(path.parent.is_dir(), "path", str(path), f"the folder {folder} does not exist")
    require(force or not path.exists(), "path", str(path), "exists; --force writes over it")


def _common_form(model: ModelConfig) -> dict[str, Any]:
    """Fields of every class; token ids are the reader's to set."""
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.d_head,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tie_embeddings,
        "dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _dense_form(model: ModelConfig) -> dict[str, Any]:
    rule = "must be none or head in a dense class that we write to"
    require(model.qk_norm != "width", "qk_norm", model.qk_norm, rule)
    kind, name = ("llama", "Llama") if model.qk_norm == "none" else ("qwen3", "Qwen3")
    return _named(kind, name) | {"intermediate_size": model.d_ffn}


def _moe_form(model: ModelConfig) -> dict[str, Any]:
    routing, experts = model.routing, {"num_experts_per_tok": model.num_active_experts}
    rule = f"must be num_shared_experts x d_expert = {model.num_shared_experts * model.d_expert}"
    whole_shared = model.d_shared == model.num_shared_experts * model.d_expert
    require(whole_shared, "d_shared", model.d_shared, rule)
    if routing.score == "sigmoid":
        return _glm_form(model)
    for name, plain in (("scaling", 1.0), ("num_groups", 1), ("bias_update_rate", 0.0)):
        value = getattr(routing, name)
        require(value == plain, f"routing.{name}", value, f"must be {plain} with softmax scores")
    if model.num_shared_experts:
        return _ernie_form(model)
    if model.qk_norm == "head":
        return _named("qwen3_moe", "Qwen3Moe") | experts | {
            "num_experts": model.num_experts,
            "moe_intermediate_size": model.d_expert,
            "intermediate_size": model.d_ffn or model.d_expert,
            "mlp_only_layers": list(range(model.num_dense_layers)),
            "norm_topk_prob": routing.renormalise,
        }  # fmt: skip
    rule = "must be 0 in the class that fits otherwise"
    require(model.num_dense_layers == 0, "num_dense_layers", model.num_dense_layers, rule)
    if model.qk_norm == "width":
        rule = "must be d_model / num_heads in an OLMoE"
        whole = model.d_head * model.num_heads == model.d_model
        require(whole, "d_head", model.d_head, rule)
        return _named("olmoe", "Olmoe") | experts | {
            "num_experts": model.num_experts,
            "intermediate_size": model.d_expert,
            "norm_topk_prob": routing.renormalise,
        }  # fmt: skip
    rule = "must be true in a Mixtral"
    require(routing.renormalise, "routing.renormalise", routing.renormalise, rule)
    return _named("mixtral", "Mixtral") | experts | {
        "num_local_experts": model.num_experts,
        "intermediate_size": model.d_expert,
    }  # fmt: skip


def _ernie_form(model: ModelConfig) -> dict[str, Any]:
    rule = "must be none beside shared experts and softmax scores"
    require(model.qk_norm == "none", "qk_norm", model.qk_norm, rule)
    renormalise = model.routing.renormalise
    rule = "must be true beside shared experts: no class we write to has raw gates and them"
    require(renormalise, "routing.renormalise", renormalise, rule)
    return _named("ernie4_5_moe", "Ernie4_5_Moe") | {
        "moe_num_experts": model.num_experts,
        "moe_k": model.num_active_experts,
        "moe_num_shared_experts": model.num_shared_experts,
        "moe_intermediate_size": model.d_expert,
        "intermediate_size": model.d_ffn or model.d_expert,
        "moe_layer_start_index": model.num_dense_layers,
    }


def _glm_form(model: ModelConfig) -> dict[str, Any]:
    require(model.qk_norm != "width", "qk_norm", model.qk_norm, "must be none or head in Glm4Moe")
    shared = model.num_shared_experts
    require(shared > 0, "num_shared_experts", shared, "must be above 0 in Glm4Moe")
    return _named("glm4_moe", "Glm4Moe") | {
        "n_routed_experts": model.num_experts,
        "num_experts_per_tok": model.num_active_experts,
        "n_shared_experts": shared,
        "moe_intermediate_size": model.d_expert,
        "intermediate_size": model.d_ffn or model.d_expert,
        "first_k_dense_replace": model.num_dense_layers,
        "use_qk_norm": model.qk_norm == "head",
        "norm_topk_prob": model.routing.renormalise,
        "routed_scaling_factor": model.routing.scaling,
        "n_group": model.routing.num_groups,
        "topk_group": model.routing.num_groups_kept,
        "attention_bias": False,
        "num_mtp_layers": 0,
    }


def _named(kind: str, name: str) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [f"{name}ForCausalLM"]}

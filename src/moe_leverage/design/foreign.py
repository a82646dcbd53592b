"""Shapes in the words of other programs, put into those of a `config.json` where that is plain.

Meta's and Mistral's `params.json`, DeepSeek's inference configs, and the arguments of Megatron and
torchtitan, as JSON, YAML, TOML or a command line. Each is known by the words that only it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moe_leverage.design import flavours
from moe_leverage.rules import require

# Words by which a file that is no model is known for what it is.
LOOKS_LIKE: Mapping[str, tuple[str, ...]] = {
    "a tokenizer": ("added_tokens", "tokenizer_class", "added_tokens_decoder"),
    "an index of weights": ("weight_map",),
    "generation settings": ("temperature", "top_p", "do_sample"),
    "a training state": ("global_step", "log_history"),
    "a DeepSpeed config": ("zero_optimization", "train_micro_batch_size_per_gpu"),
    "an adapter (LoRA)": ("peft_type", "lora_alpha"),
    "a Python package": ("scripts", "devDependencies"),
    "a diffusion model": ("_diffusers_version", "_class_name"),
    "a processor of images or sound": ("image_mean", "feature_extractor_type", "processor_class"),
}


def in_hf_words(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """A config in Hugging Face's words, and what it was read from.

    Raises ValueError saying what the file looks like if it is no model config.

    >>> meta = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "multiple_of": 1024,
    ...     "ffn_dim_multiplier": 1.3, "vocab_size": 128256, "norm_eps": 1e-5}
    >>> in_hf_words(meta)[0]["intermediate_size"]
    14336
    """
    if isinstance(raw.get("model_type"), str):
        return raw, ()
    for is_this, convert, name in FORMATS:
        if is_this(raw):
            return convert(raw), (f"read as {name}",)
    nested = isinstance(raw.get("text_config"), Mapping)
    if nested and isinstance(raw["text_config"].get("model_type"), str):
        return raw["text_config"], ("text_config: the language model alone is counted",)
    known = raw.get("model_type")
    is_hf = "hidden_size" in raw or "num_hidden_layers" in raw or "model_type" in raw or nested
    require(not is_hf, "model_type", known, "is required: it names the class that reads the config")
    raise ValueError(f"not a model config: looks like {_looks(raw)}")


def _looks(raw: Mapping[str, Any]) -> str:
    for name, words in LOOKS_LIKE.items():
        if any(word in raw for word in words):
            return name
    if not raw:
        return "an empty object"
    return f"something else, with {', '.join(list(raw)[:4])}"


def _meta(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Meta's `params.json`, whose FFN width follows from two factors; torchtitan's Llama alike."""
    dim = _size(raw, "dim")
    width = int(2 * 4 * dim / 3)
    factor = raw.get("ffn_dim_multiplier")
    if factor is not None:
        number = isinstance(factor, int | float) and not isinstance(factor, bool)
        require(
            number and 0 < factor < 1e6, "ffn_dim_multiplier", factor, "must be a number above 0"
        )
        width = int(factor * width)
    multiple = _above_zero(raw, "multiple_of", 256)
    vocab = raw.get("vocab_size")
    rule = "is left to the tokenizer by this file; give --vocab"
    require(isinstance(vocab, int) and vocab > 0, "vocab_size", vocab, rule)
    heads = _size(raw, "n_heads")
    return {
        "model_type": "llama",
        "hidden_size": dim,
        "num_hidden_layers": _size(raw, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": _size(raw, "n_kv_heads", heads),
        "intermediate_size": multiple * ((width + multiple - 1) // multiple),
        "vocab_size": vocab,
        "tie_word_embeddings": bool(raw.get("enable_weight_tying", False)),
    }


def _mistral(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral's `params.json`, dense or with `moe`."""
    heads = _size(raw, "n_heads")
    common = {
        "hidden_size": _size(raw, "dim"),
        "num_hidden_layers": _size(raw, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": _size(raw, "n_kv_heads", heads),
        "head_dim": raw.get("head_dim"),
        "intermediate_size": _size(raw, "hidden_dim"),
        "vocab_size": _size(raw, "vocab_size"),
        "tie_word_embeddings": bool(raw.get("tied_embeddings", False)),
        "sliding_window": raw.get("sliding_window"),
    }
    moe = raw.get("moe")
    if moe is None:
        return common | {"model_type": "mistral"}
    require(isinstance(moe, Mapping), "moe", moe, "must be an object")
    strange = set(moe) - {"num_experts", "num_experts_per_tok"}
    require(not strange, "moe", sorted(strange), "are words of a mixture that is not Mixtral's")
    return common | {
        "model_type": "mixtral",
        "num_local_experts": _size(moe, "num_experts"),
        "num_experts_per_tok": _size(moe, "num_experts_per_tok"),
    }


def _deepseek(raw: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSeek's inference configs, `inference/configs/*.json` of its repositories."""
    heads = _size(raw, "n_heads")
    sigmoid = raw.get("score_func") == "sigmoid"
    return {
        "model_type": "deepseek_v3" if sigmoid else "deepseek_v2",
        "vocab_size": _size(raw, "vocab_size"),
        "hidden_size": _size(raw, "dim"),
        "intermediate_size": _size(raw, "inter_dim"),
        "moe_intermediate_size": _size(raw, "moe_inter_dim"),
        "num_hidden_layers": _size(raw, "n_layers"),
        "first_k_dense_replace": _size(raw, "n_dense_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "n_routed_experts": _size(raw, "n_routed_experts"),
        "n_shared_experts": _size(raw, "n_shared_experts"),
        "num_experts_per_tok": _size(raw, "n_activated_experts"),
        "n_group": raw.get("n_expert_groups", 1),
        "topk_group": raw.get("n_limited_groups", 1),
        "q_lora_rank": raw.get("q_lora_rank") or None,
        "kv_lora_rank": _size(raw, "kv_lora_rank"),
        "qk_nope_head_dim": _size(raw, "qk_nope_head_dim"),
        "qk_rope_head_dim": _size(raw, "qk_rope_head_dim"),
        "v_head_dim": _size(raw, "v_head_dim"),
        "num_mtp_layers": 0,
    } | ({} if sigmoid else {"num_nextn_predict_layers": 0})


def _megatron(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Megatron-LM's arguments: a gated decoder without biases, dense or with equal MoE layers."""
    raw = {key.replace("-", "_"): value for key, value in raw.items()}
    heads = _above_zero(raw, "num_attention_heads")
    require(bool(raw.get("swiglu")), "swiglu", raw.get("swiglu"), "must be set: else no gated FFN")
    bias = raw.get("disable_bias_linear") or raw.get("add_bias_linear") is False
    require(
        bool(bias), "disable_bias_linear", None, "must be set: biases have no plain counterpart"
    )
    for name in ("multi_latent_attention", "moe_shared_expert_intermediate_size", "moe_layer_freq"):
        value = raw.get(name)
        require(
            value in (None, False, 0, 1), name, value, "has no plain counterpart; give a config"
        )
    vocab = raw.get("padded_vocab_size") or raw.get("vocab_size")
    rule = "is left to the tokenizer by this file; give --vocab"
    require(isinstance(vocab, int) and vocab > 0, "vocab_size", vocab, rule)
    width = _size(raw, "hidden_size")
    common = {
        "hidden_size": width,
        "num_hidden_layers": _size(raw, "num_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": _size(raw, "num_query_groups", heads),
        "head_dim": raw.get("kv_channels") or width // heads,
        "vocab_size": vocab,
        "tie_word_embeddings": not raw.get("untie_embeddings_and_output_weights", False),
    }
    number = raw.get("num_experts")
    if not number:
        kind = "qwen3" if raw.get("qk_layernorm") else "llama"
        return common | {
            "model_type": kind, "intermediate_size": _size(raw, "ffn_hidden_size"),
        }  # fmt: skip
    qk_norm = {"model_type": "qwen3_moe", "num_experts": number}
    plain = {"model_type": "mixtral", "num_local_experts": number}
    expert = _size(raw, "moe_ffn_hidden_size", _size(raw, "ffn_hidden_size", 0))
    return common | (qk_norm if raw.get("qk_layernorm") else plain) | {
        "num_experts_per_tok": _size(raw, "moe_router_topk", 2),
        "intermediate_size": expert,
    } | ({"moe_intermediate_size": expert} if raw.get("qk_layernorm") else {})  # fmt: skip


def _torchtitan(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A flavour of torchtitan's, with another vocabulary if one is given."""
    shape = flavours.sizes(raw.get("name"), raw["flavor"])
    if raw.get("vocab_size") is not None:
        shape["vocab_size"] = _size(raw, "vocab_size")
    if "model_type" in shape:
        return shape
    return _deepseek(shape) if "inter_dim" in shape else _meta(shape)


def _size(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = raw.get(name)
    if value is None and default is not None:
        return default
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    require(whole, name, value, "must be a whole number >= 0")
    return int(value or 0)


def _above_zero(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = _size(raw, name, default)
    require(value > 0, name, value, "must be above 0")
    return value


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda raw: all(name in raw for name in names)


def _is_megatron(raw: Mapping[str, Any]) -> bool:
    names = {key.replace("-", "_") for key in raw}
    return {"num_layers", "hidden_size", "num_attention_heads"} <= names


FORMATS: tuple[
    tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], dict[str, Any]], str],
    ...,
] = (
    (_has("inter_dim", "n_routed_experts"), _deepseek, "DeepSeek's inference config"),
    (_has("dim", "n_layers", "n_heads", "hidden_dim"), _mistral, "Mistral's params.json"),
    (_has("dim", "n_layers", "n_heads"), _meta, "Meta's params.json"),
    (_is_megatron, _megatron, "arguments of Megatron-LM"),
    (_has("name", "flavor"), _torchtitan, "a flavour of torchtitan's"),
)

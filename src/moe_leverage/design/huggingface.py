"""Model shapes read from the config form of Hugging Face, strictly, saying what is assumed.

Stands beside Table 3: the shapes of published models lie in `data/models` in this form, each with
its source and the counts that its makers print.

    theirs   field of a `config.json`, such as `num_hidden_layers`
    ours     field of `ModelConfig`, such as `num_layers`
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moe_leverage import paths
from moe_leverage.config import (
    LING2_ROUTING,
    LatentAttentionConfig,
    ModelConfig,
    RoutingConfig,
    require,
)

MODELS = paths.DATA / "models"

# What the code of an architecture does whatever its config says, in our fields; `expert_width` is
# their field for d_expert and `output_bias` theirs for a bias of attention's last matrix.
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"output_bias": "attention_bias"},
    "mistral": {},
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": "head", "output_bias": "attention_bias"},
    "mixtral": {"renormalise": True, "expert_width": "intermediate_size"},
    "olmoe": {
        "qk_norm": "width",
        "output_bias": "attention_bias",
        "expert_width": "intermediate_size",
    },
    "qwen3_moe": {"qk_norm": "head", "output_bias": "attention_bias"},
    "ernie4_5_moe": {"renormalise": True},
    "glm4_moe": {"score": "sigmoid"},
    "dots1": {"qk_norm": "head", "score": "sigmoid", "output_bias": "attention_bias"},
    "deepseek_v2": {"output_bias": "attention_bias"},
    "deepseek_v3": {"score": "sigmoid", "output_bias": "attention_bias"},
    "kimi_k2": {"score": "sigmoid", "output_bias": "attention_bias"},
    "bailing_moe": {"output_bias": "use_bias"},
    "bailing_moe_v2": {"output_bias": "use_bias", "score": "sigmoid"},
    "gpt_oss": {
        "renormalise": True,
        "attention_bias": True,
        "attention_output_bias": True,
        "attention_sinks": True,
        "ffn_bias": True,
        "router_bias": True,
        "expert_width": "intermediate_size",
    },
}

# Our field: the names it goes by. Names that stand for one field must agree where several are set.
THEIR_NAMES: Mapping[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "num_layers": ("num_hidden_layers", "num_layers"),
    "d_model": ("hidden_size", "d_model"),
    "num_heads": ("num_attention_heads",),
    "num_kv_heads": ("num_key_value_heads",),
    "d_head": ("head_dim",),
    "d_ffn": ("intermediate_size",),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_active_experts": ("num_experts_per_tok", "num_experts_per_token", "moe_k"),
    "num_shared_experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "d_expert": ("moe_intermediate_size",),
    "num_mtp_layers": ("num_nextn_predict_layers", "num_mtp_layers"),
    "kv_rank": ("kv_lora_rank",),
    "q_rank": ("q_lora_rank",),
    "d_head_nope": ("qk_nope_head_dim",),
    "d_head_rope": ("qk_rope_head_dim",),
    "d_head_value": ("v_head_dim",),
    "d_shared": ("shared_expert_intermediate_size",),
    "num_dense_layers": ("first_k_dense_replace", "moe_layer_start_index"),
    "moe_layer_step": ("decoder_sparse_step", "moe_layer_interval"),
    "num_groups": ("n_group",),
    "num_groups_kept": ("topk_group",),
}
MAX_LAYERS = 100_000  # each is looked at when dense layers are told from the others
GATED_ACTIVATIONS = ("silu", "swish", "swiglu", None)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenModel:
    """A model read from a config: its shape, what had to be assumed, and what its makers print."""

    name: str
    model: ModelConfig
    assumptions: tuple[str, ...] = ()
    published: Mapping[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """The models of `data/models`, by name.

    >>> "Mixtral-8x7B" in names()
    True
    """
    return sorted(path.stem for path in MODELS.glob("*.json"))


def load(source: str | Path) -> OpenModel:
    """The model of a `config.json` (a path) or of `data/models` (a name, in any case).

    Raises ValueError naming the field, its value and the rule it breaks; OSError if unreadable.

    >>> load("mixtral-8x7b").model.num_experts
    8
    """
    path = _find(str(source))
    raw = _parse(path)
    model, assumptions = from_hf(raw)
    published = raw.get("published", {})
    require(isinstance(published, Mapping), "published", published, "must be an object")
    name = path.parent.name if path.name == "config.json" else path.stem
    return OpenModel(name=name, model=model, assumptions=assumptions, published=published)


def from_hf(raw: Mapping[str, Any]) -> tuple[ModelConfig, tuple[str, ...]]:
    """The shape that a config describes, and what had to be assumed to read it.

    >>> shape, assumptions = from_hf({"model_type": "mine", "vocab_size": 99, "hidden_size": 8,
    ...     "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24})
    >>> shape.num_kv_heads, assumptions[0]
    (2, "model_type = 'mine' is unknown: taken for a pre-norm decoder with gated FFNs")
    """
    raw, assumptions = _language_part(raw)
    kind, act = _text(raw, "model_type"), _text(raw, "hidden_act")
    known = ARCHITECTURES.get(kind or "", {})
    if kind not in ARCHITECTURES:
        reading = "is unknown: taken for a pre-norm decoder with gated FFNs"
        assumptions.append(f"model_type = {kind!r} {reading}")
    if act not in GATED_ACTIVATIONS:
        assumptions.append(f"hidden_act = {act!r}: FFNs are counted as three gated matrices")
    sizes = _attention_fields(raw, known) | _other_fields(raw, known)
    num_experts = _whole(raw, "num_experts", 0)
    if num_experts:
        sizes |= _expert_fields(raw, known, num_experts, sizes, assumptions)
    else:
        sizes["d_ffn"] = _whole(raw, "d_ffn")
    assumptions += _windows(raw)
    try:
        return ModelConfig(**sizes), tuple(assumptions)
    except ValueError as error:
        raise ValueError(_in_their_words(str(error), raw)) from error


def _find(source: str) -> Path:
    path = Path(source)
    by_name = {name.lower(): name for name in names()}
    if source.lower() in by_name and not path.is_file():
        return MODELS / f"{by_name[source.lower()]}.json"
    require(not path.is_dir(), "CONFIG", source, "is a directory; name the config.json in it")
    rule = f"is neither a file nor one of {', '.join(names())}"
    require(path.is_file(), "CONFIG", source, rule)
    return path


def _parse(path: Path) -> Mapping[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{path.name}: holds {constant}, which is not a number in JSON")

    try:
        raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: is not UTF-8 text") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name}: is not JSON: {error}") from error
    require(isinstance(raw, Mapping), path.name, type(raw).__name__, "must hold a JSON object")
    return dict(raw)


def _language_part(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The config itself, or the language model nested in a multimodal one."""
    nested = raw.get("text_config")
    if "hidden_size" in raw or not isinstance(nested, Mapping):
        return raw, []
    return nested, ["text_config: the language model alone is counted"]


def _whole(raw: Mapping[str, Any], ours: str, default: int | None = None) -> int:
    """The whole number that goes by one of the names of our field; required without a default."""
    found = [(name, raw[name]) for name in THEIR_NAMES[ours] if raw.get(name) is not None]
    if not found:
        require(default is not None, THEIR_NAMES[ours][0], None, "is required")
    for name, value in found:
        is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        require(is_whole, name, value, "must be a whole number >= 0")
        rule = f"contradicts {found[0][0]} = {found[0][1]}"
        require(value == found[0][1], name, value, rule)
    return int(found[0][1]) if found else int(default or 0)


def _number(raw: Mapping[str, Any], name: str, default: float) -> float:
    value = raw.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    require(is_number, name, value, "must be a number")
    return float(value)


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name)
    require(value is None or isinstance(value, bool), name, value, "must be true or false")
    return bool(value)


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    require(value is None or isinstance(value, str), name, value, "must be text")
    return value


def _list(raw: Mapping[str, Any], name: str) -> list[Any]:
    value = raw.get(name)
    require(value is None or isinstance(value, list), name, value, "must be a list")
    return value or []


def _attention_fields(raw: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    heads = _whole(raw, "num_heads")
    uses_norm = known.get("qk_norm") is None and _flag(raw, "use_qk_norm")
    sizes: dict[str, Any] = {
        "num_heads": heads,
        "num_kv_heads": _whole(raw, "num_kv_heads", heads),
        "d_head": _whole(raw, "d_head", 0),
        "qk_norm": "head" if uses_norm else known.get("qk_norm", "none"),
        "attention_sinks": known.get("attention_sinks", False),
        "attention_bias": known.get("attention_bias", False)
        or _flag(raw, "attention_bias")
        or _flag(raw, "use_qkv_bias"),
        "attention_output_bias": known.get("attention_output_bias", False)
        or ("output_bias" in known and _flag(raw, known["output_bias"])),
    }
    if raw.get("kv_lora_rank") is not None:
        ranks = ("kv_rank", "d_head_nope", "d_head_rope", "d_head_value")
        widths = {ours: _whole(raw, ours) for ours in ranks}
        latent = LatentAttentionConfig(q_rank=_whole(raw, "q_rank", 0), **widths)
        sizes |= {"latent_attention": latent, "d_head": widths["d_head_value"]}
    return sizes


def _other_fields(raw: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    rope = raw.get("rope_parameters") or {}
    require(isinstance(rope, Mapping), "rope_parameters", rope, "must be an object")
    rope = {**raw, **rope}
    num_layers = _whole(raw, "num_layers")
    require(num_layers <= MAX_LAYERS, "num_hidden_layers", num_layers, f"exceeds {MAX_LAYERS}")
    return {
        "vocab_size": _whole(raw, "vocab_size"),
        "num_layers": num_layers,
        "d_model": _whole(raw, "d_model"),
        "num_mtp_layers": _whole(raw, "num_mtp_layers", 0),
        "rope_fraction": _number(rope, "partial_rotary_factor", 1.0),
        "rope_theta": _number(rope, "rope_theta", 10_000.0),
        "ffn_bias": known.get("ffn_bias", False) or _flag(raw, "mlp_bias"),
        "router_bias": known.get("router_bias", False),
        "tie_embeddings": _flag(raw, "tie_word_embeddings"),
        "norm_eps": _number(raw, "rms_norm_eps", 1e-6),
        "init_std": _number(raw, "initializer_range", 0.02),
    }


def _expert_fields(
    raw: Mapping[str, Any],
    known: Mapping[str, Any],
    num_experts: int,
    sizes: Mapping[str, Any],
    assumptions: list[str],
) -> dict[str, Any]:
    width_name = known.get("expert_width", "moe_intermediate_size")
    if raw.get(width_name) is None and raw.get("intermediate_size") is not None:
        assumptions.append(f"{width_name} is absent: experts are intermediate_size wide")
        width_name = "intermediate_size"
    d_expert = _whole(raw, "d_expert" if width_name == "moe_intermediate_size" else "d_ffn")
    dense = _dense_layers(raw, sizes["num_layers"])
    leading = list(range(len(dense)))
    if dense != leading:
        assumptions.append(f"dense layers {dense} are counted as if they came first")
    shared = _whole(raw, "num_shared_experts", 0)
    d_shared = _whole(raw, "d_shared", 0)
    if d_shared and not shared:
        assumptions.append("shared_expert_intermediate_size: one shared expert, gate not counted")
    return {
        "num_experts": num_experts,
        "num_active_experts": _whole(raw, "num_active_experts"),
        "num_shared_experts": shared or int(d_shared > 0),
        "d_expert": d_expert,
        "d_shared": d_shared,
        "num_dense_layers": len(dense),
        "d_ffn": _whole(raw, "d_ffn") if dense else 0,
        "routing": _routing(raw, known),
    }


def _dense_layers(raw: Mapping[str, Any], num_layers: int) -> list[int]:
    """Indices of the layers without experts, by any of the rules in use."""
    first, step = _whole(raw, "num_dense_layers", 0), _whole(raw, "moe_layer_step", 1)
    listed = _list(raw, "mlp_only_layers")
    require(step > 0, THEIR_NAMES["moe_layer_step"][0], step, "must be above 0")
    return [i for i in range(num_layers) if i < first or (i + 1) % step or i in listed]


def _routing(raw: Mapping[str, Any], known: Mapping[str, Any]) -> RoutingConfig:
    named = _text(raw, "scoring_func") or _text(raw, "score_function")
    score: Any = named or known.get("score", "softmax")
    recipe = LING2_ROUTING if score == "sigmoid" else RoutingConfig()
    return replace(
        recipe,
        score=score,
        renormalise=known.get("renormalise", False) or _flag(raw, "norm_topk_prob"),
        scaling=_number(raw, "routed_scaling_factor", 1.0),
        num_groups=_whole(raw, "num_groups", 1) or 1,
        num_groups_kept=_whole(raw, "num_groups_kept", 1) or 1,
    )


def _windows(raw: Mapping[str, Any]) -> list[str]:
    """Layers that attend otherwise than to the whole sequence."""
    kinds = _list(raw, "layer_types")
    other = sum(kind != "full_attention" for kind in kinds)
    if other == 0:
        return []
    return [f"layer_types: {other} of {len(kinds)} layers are counted as full attention"]


def _in_their_words(message: str, raw: Mapping[str, Any]) -> str:
    """An error of ours with the names that the reader's file uses."""
    for ours, theirs in THEIR_NAMES.items():
        used = [name for name in theirs if name in raw]
        message = re.sub(rf"\b{ours}\b", used[0], message) if used else message
    return message

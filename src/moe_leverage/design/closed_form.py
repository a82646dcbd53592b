"""Configs of the types whose counts are closed forms, read strictly, with their class's defaults.

`data/architectures.json` holds, for each type that transformers knows, the defaults of its config
class, the other names of its fields and which may be null; a test holds it equal to the library.
Types that only their makers' repositories define have a table below, and no defaults of sizes.

    theirs   field of a `config.json`, such as `num_hidden_layers`
    ours     field of `ModelConfig`, such as `num_layers`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from moe_leverage.config import LING2_ROUTING, LatentAttentionConfig, ModelConfig, RoutingConfig
from moe_leverage.design.class_words import (
    REPOSITORY,
    THEIR_NAMES,
    Words,
    class_tables,
    in_its_words,
    in_their_words,
)
from moe_leverage.design.words import expert_words, says_dense
from moe_leverage.rules import refuse, require

MAX_LAYERS = 100_000  # each is looked at when dense layers are told from the others

# What the code of an architecture does whatever its config says, in our fields; `expert_width` is
# their field for d_expert and `output_bias` theirs for a bias of attention's last matrix.
FORMS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"output_bias": "attention_bias", "divides": True},
    "mistral": {},
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": "head", "output_bias": "attention_bias"},
    "mixtral": {"renormalise": True, "expert_width": "intermediate_size"},
    "olmoe": {
        "qk_norm": "width",
        "output_bias": "attention_bias",
        "expert_width": "intermediate_size",
    },
    "qwen3_moe": {"qk_norm": "head", "output_bias": "attention_bias", "may_be_dense": True},
    "ernie4_5_moe": {"renormalise": True},
    "glm4_moe": {"score": "sigmoid"},
    "dots1": {"qk_norm": "head", "score": "sigmoid", "output_bias": "attention_bias"},
    "deepseek_v2": {"output_bias": "attention_bias", "divides": True},
    "deepseek_v3": {"score": "sigmoid", "output_bias": "attention_bias"},
    "kimi_k2": {"score": "sigmoid", "output_bias": "attention_bias"},
    "bailing_moe": {"output_bias": "use_bias"},
    "bailing_moe_v2": {"output_bias": "use_bias", "score": "sigmoid"},
    "gpt_oss": {
        "renormalise": True,
        "output_bias": "attention_bias",
        "attention_sinks": True,
        "ffn_bias": True,
        "router_bias": True,
        "expert_width": "intermediate_size",
    },
}


class NotCovered(ValueError):
    """A config of a known type that the closed forms have no place for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A shape, the window of each layer, what was assumed and what was not used."""

    model: ModelConfig
    windows: tuple[int | None, ...] = ()
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def read(raw: Mapping[str, Any]) -> Read:
    """The shape that a config of a known type describes, by the defaults of its own class.

    Raises ValueError naming the field, its value and the rule; NotCovered if only a built model
    can be counted.

    >>> read({"model_type": "qwen3_moe", "hidden_size": 64}).model.num_experts
    128
    """
    kind = raw["model_type"]
    known = FORMS[kind]
    words, unused = in_its_words(raw, kind)
    _require_covered(raw, kind, words)
    notes = [f"model_type = {kind!r} is of its makers' repository; no library checks it"]
    notes = notes if kind in REPOSITORY else []
    try:
        model = ModelConfig(**_sizes(raw, words, known, notes))
    except ValueError as error:
        raise ValueError(in_their_words(str(error), words)) from error
    windows = _windows(words, model.num_layers, kind)
    return Read(model=model, windows=windows, notes=tuple(notes), unused=unused)


def _sizes(
    raw: Mapping[str, Any], words: Words, known: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """The fields of the shape; what had to be said goes to `notes`."""
    sizes = _attention_fields(words, known) | _other_fields(words, known)
    num_experts = words.whole("num_experts", 0) if words.name("num_experts") else 0
    _require_number_of_experts(raw, num_experts)
    number = words.name("num_experts")
    rule = "must be above 0: this type has experts in every config"
    may = number is None or bool(known.get("may_be_dense"))
    require(num_experts > 0 or may, str(number), 0, rule)
    if num_experts:
        sizes |= _expert_fields(words, known, num_experts, sizes, notes)
    else:
        sizes["d_ffn"] = words.whole("d_ffn")
    return sizes


def _require_covered(raw: Mapping[str, Any], kind: str, words: Words) -> None:
    if "per_layer_config" in raw:
        raise NotCovered("per_layer_config: layers differ in more than a closed form holds")
    if kind == "ernie4_5_moe" and words.flag("use_bias"):
        raise NotCovered("use_bias = True: biases all but the experts")
    if kind == "deepseek_v2" and words.flag("mlp_bias"):
        raise NotCovered("mlp_bias = True: biases all but the experts")
    width = words.whole("d_model") // max(words.whole("num_heads"), 1)
    if kind == "olmoe" and words.values.get("head_dim", width) != width:
        raise NotCovered("head_dim: the norms of all heads keep the width of the model")
    act = words.values.get("hidden_act")
    require(act is None or isinstance(act, str), "hidden_act", act, "must be text")
    # The rival spellings of the number of experts are other classes' words: none is guessed at.
    number = words.name("num_experts")
    for key in THEIR_NAMES["num_experts"]:
        if key in raw and key not in words.values and raw[key] != words.values.get(number or ""):
            aliased = class_tables()[kind]["aliases"].get(key) in words.values
            takes = f"takes {number}" if number else "has no experts"
            said = aliased or (raw[key] in (None, 0) and not number)
            require(said or (number or "") in raw, key, raw[key], f"model_type {kind} {takes}")


def _require_number_of_experts(raw: Mapping[str, Any], num_experts: int) -> None:
    """Words about experts without a number of them are no dense model."""
    said = expert_words(raw)
    if num_experts or not said or says_dense(raw):
        return
    rule = "speaks of experts, and the file of no number of them that this type reads"
    refuse(said[0], raw[said[0]], rule)


def _attention_fields(words: Words, known: Mapping[str, Any]) -> dict[str, Any]:
    heads = words.whole("num_heads")
    uses_norm = known.get("qk_norm") is None and words.flag("use_qk_norm")
    if known.get("divides"):
        rule = f"must be a multiple of num_attention_heads = {heads}"
        width = words.whole("d_model")
        require(heads > 0 and width % heads == 0, "hidden_size", width, rule)
    own = words.whole("d_head", 0) if words.name("d_head") else 0
    sizes: dict[str, Any] = {
        "num_heads": heads,
        "num_kv_heads": words.whole("num_kv_heads", heads),
        "d_head": own or words.whole("d_model") // max(heads, 1),
        "qk_norm": "head" if uses_norm else known.get("qk_norm", "none"),
        "attention_sinks": known.get("attention_sinks", False),
        "attention_bias": known.get("attention_bias", False)
        or words.flag("attention_bias")
        or words.flag("use_qkv_bias"),
        "attention_output_bias": "output_bias" in known and words.flag(known["output_bias"]),
    }
    if words.values.get("kv_lora_rank") is not None:
        ranks = ("kv_rank", "d_head_nope", "d_head_rope", "d_head_value")
        widths = {ours: words.whole(ours) for ours in ranks}
        latent = LatentAttentionConfig(q_rank=words.whole("q_rank", 0), **widths)
        sizes |= {
            "latent_attention": latent,
            "d_head": widths["d_head_value"],
            "num_kv_heads": heads,  # all heads read one latent
        }
    return sizes


def _other_fields(words: Words, known: Mapping[str, Any]) -> dict[str, Any]:
    rope = words.values.get("rope_parameters") or {}
    require(isinstance(rope, Mapping), "rope_parameters", rope, "must be an object")
    rope_words = Words({**words.values, **rope})
    num_layers = words.whole("num_layers")
    require(num_layers <= MAX_LAYERS, "num_hidden_layers", num_layers, f"exceeds {MAX_LAYERS}")
    has_mtp = words.name("num_mtp_layers") is not None
    return {
        "vocab_size": words.whole("vocab_size"),
        "num_layers": num_layers,
        "d_model": words.whole("d_model"),
        "num_mtp_layers": words.whole("num_mtp_layers", 0) if has_mtp else 0,
        "rope_fraction": rope_words.number("partial_rotary_factor", 1.0),
        "rope_theta": rope_words.number("rope_theta", 10_000.0),
        "ffn_bias": known.get("ffn_bias", False) or words.flag("mlp_bias"),
        "router_bias": known.get("router_bias", False),
        "tie_embeddings": words.flag("tie_word_embeddings"),
        "norm_eps": words.number("rms_norm_eps", 1e-6),
        "init_std": words.number("initializer_range", 0.02),
    }


def _expert_fields(
    words: Words,
    known: Mapping[str, Any],
    num_experts: int,
    sizes: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    d_expert = words.whole("d_ffn" if known.get("expert_width") else "d_expert")
    dense = _dense_layers(words, sizes["num_layers"])
    leading = list(range(len(dense)))
    if dense != leading:
        notes.append(f"dense layers {dense} are counted as if they came first")
    shared = words.whole("num_shared_experts", None if _needs_shared(words) else 0)
    d_shared = words.whole("d_shared", 0) if words.name("d_shared") else 0
    if d_shared and d_expert and d_shared % d_expert == 0:
        shared = d_shared // d_expert
    return {
        "num_experts": num_experts,
        "num_active_experts": words.whole("num_active_experts"),
        "num_shared_experts": shared or int(d_shared > 0),
        "d_expert": d_expert,
        "d_shared": d_shared,
        "num_dense_layers": len(dense),
        "d_ffn": words.whole("d_ffn") if dense else 0,
        "routing": _routing(words, known),
    }


def _needs_shared(words: Words) -> bool:
    """Whether the class multiplies by its number of shared experts, so that null is no number."""
    return "n_shared_experts" in words.values


def _dense_layers(words: Words, num_layers: int) -> list[int]:
    """Indices of the layers without experts, by any of the rules in use."""

    def said(ours: str, default: int) -> int:
        return words.whole(ours, default) if words.name(ours) else default

    first, step, end = said("num_dense_layers", 0), said("moe_layer_step", 1), num_layers - 1
    if words.values.get("moe_layer_end_index", -1) not in (-1, None):
        end = words.whole("moe_layer_end")
    listed = words.items("mlp_only_layers")
    require(step > 0, words.name("moe_layer_step") or "", step, "must be above 0")
    return [i for i in range(num_layers) if i < first or i > end or (i + 1) % step or i in listed]


def _routing(words: Words, known: Mapping[str, Any]) -> RoutingConfig:
    named = next((words.values.get(n) for n in ("scoring_func", "score_function")), None)
    score: Any = named if named in ("softmax", "sigmoid") else known.get("score", "softmax")
    recipe = LING2_ROUTING if score == "sigmoid" else RoutingConfig()
    groups = "n_group" in words.values
    return replace(
        recipe,
        score=score,
        renormalise=known.get("renormalise", False) or words.flag("norm_topk_prob"),
        scaling=words.number("routed_scaling_factor", 1.0),
        num_groups=words.whole("num_groups", 1) or 1 if groups else 1,
        num_groups_kept=words.whole("num_groups_kept", 1) or 1 if groups else 1,
    )


def _windows(words: Words, num_layers: int, kind: str) -> tuple[int | None, ...]:
    """The window of each layer; none at all where every layer sees the whole sequence."""
    window = words.values.get("sliding_window")
    if "use_sliding_window" in words.values and not words.flag("use_sliding_window"):
        window = None
    kinds = words.items("layer_types") if kind != "mistral" else []
    if kinds:
        require(len(kinds) == num_layers, "layer_types", len(kinds), f"needs {num_layers} entries")
    elif window is None:
        return ()
    require(
        window is None or (isinstance(window, int) and window > 0),
        "sliding_window", window, "must be a whole number above 0",
    )  # fmt: skip
    if kind == "gpt_oss" and not kinds:
        kinds = ["sliding" if (i + 1) % 2 else "full" for i in range(num_layers)]
    elif "max_window_layers" in words.values and not kinds:
        last = words.values["max_window_layers"]
        kinds = ["sliding" if i >= (last or 0) else "full" for i in range(num_layers)]
    slides = ["sliding" in str(kinds[i]) if kinds else True for i in range(num_layers)]
    return tuple(window if slide else None for slide in slides)

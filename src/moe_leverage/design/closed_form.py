"""Configs of the types whose counts are closed forms, read strictly, with their class's defaults.

`data/architectures.json` holds, for each type that transformers knows, the defaults of its config
class, the other names of its fields and which may be null; a test holds it equal to the library.
Types that only their makers' repositories define have a table below, and no defaults of sizes.

    theirs   field of a `config.json`, such as `num_hidden_layers`
    ours     field of `ModelConfig`, such as `num_layers`
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moe_leverage import paths
from moe_leverage.config import (
    LING2_ROUTING,
    LatentAttentionConfig,
    ModelConfig,
    RoutingConfig,
    refuse,
    require,
)
from moe_leverage.design.words import expert_words, is_structural, says_dense

DEFAULTS = paths.DATA / "architectures.json"
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
# Our field: the names that it goes by; a class has one of them.
THEIR_NAMES: Mapping[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "num_layers": ("num_hidden_layers",),
    "d_model": ("hidden_size",),
    "num_heads": ("num_attention_heads",),
    "num_kv_heads": ("num_key_value_heads",),
    "d_head": ("head_dim",),
    "d_ffn": ("intermediate_size",),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts"),
    "num_active_experts": ("num_experts_per_tok", "moe_k"),
    "num_shared_experts": ("n_shared_experts", "moe_num_shared_experts", "num_shared_experts"),
    "d_expert": ("moe_intermediate_size",),
    "num_mtp_layers": ("num_mtp_layers", "num_nextn_predict_layers"),
    "kv_rank": ("kv_lora_rank",),
    "q_rank": ("q_lora_rank",),
    "d_head_nope": ("qk_nope_head_dim",),
    "d_head_rope": ("qk_rope_head_dim",),
    "d_head_value": ("v_head_dim",),
    "d_shared": ("moe_shared_expert_intermediate_size",),
    "num_dense_layers": ("first_k_dense_replace", "moe_layer_start_index"),
    "moe_layer_step": ("decoder_sparse_step", "moe_layer_interval"),
    "moe_layer_end": ("moe_layer_end_index",),
    "num_groups": ("n_group",),
    "num_groups_kept": ("topk_group",),
}
WORDS = (
    *(name for group in THEIR_NAMES.values() for name in group),
    "mlp_only_layers", "tie_word_embeddings", "attention_bias", "use_bias", "use_qkv_bias",
    "mlp_bias", "use_qk_norm", "sliding_window", "use_sliding_window", "max_window_layers",
    "layer_types", "hidden_act", "norm_topk_prob", "routed_scaling_factor", "rms_norm_eps",
    "initializer_range",
)  # fmt: skip
# Types of makers' own repositories: what their released configs leave out.
_OWN: dict[str, Any] = {
    "tie_word_embeddings": False, "num_key_value_heads": None, "head_dim": None,
    "intermediate_size": None, "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1,
    "hidden_act": "silu", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "rms_norm_eps": 1e-6, "initializer_range": 0.02, "num_nextn_predict_layers": 0,
}  # fmt: skip
REPOSITORY: Mapping[str, Mapping[str, Any]] = {
    "kimi_k2": _OWN | {"attention_bias": False, "n_shared_experts": 0, "q_lora_rank": None},
    "bailing_moe": _OWN | {
        "use_bias": False, "use_qkv_bias": False, "use_qk_norm": False, "num_shared_experts": 0,
    },
    "bailing_moe_v2": _OWN | {
        "use_bias": False, "use_qkv_bias": False, "use_qk_norm": False, "num_shared_experts": 0,
    },
}  # fmt: skip
GATED_ACTIVATIONS = ("silu", "swish", "swiglu")
# Fields of no class that every attention class reads all the same.
READ_ANYWAY = ("head_dim",)
NO_SIZES = ("rope_parameters", "rope_theta", "partial_rotary_factor", "scoring_func",
            "score_function")  # fmt: skip
NOT_READ = frozenset(("model_type", "published", "source", "counted"))


class NotCovered(ValueError):
    """A config of a known type that the closed forms have no place for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A shape, the window of each layer, what was assumed and what was not used."""

    model: ModelConfig
    windows: tuple[int | None, ...] = ()
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Words:
    """A config in the words of its class: given values over defaults."""

    values: Mapping[str, Any]
    nullable: frozenset[str] = field(default_factory=frozenset)

    def name(self, ours: str) -> str | None:
        return next((name for name in THEIR_NAMES[ours] if name in self.values), None)

    def whole(self, ours: str, default: int | None = None) -> int:
        """The whole number of our field; required without a default."""
        name = self.name(ours)
        value = None if name is None else self.values[name]
        if value is None:
            require(default is not None, name or THEIR_NAMES[ours][0], None, "is required")
            return int(default or 0)
        is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        require(is_whole, str(name), value, "must be a whole number >= 0")
        return int(value)

    def number(self, name: str, default: float) -> float:
        value = self.values.get(name)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(is_number, name, value, "must be a number")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        require(value is None or isinstance(value, bool), name, value, "must be true or false")
        return bool(value)

    def items(self, name: str) -> list[Any]:
        value = self.values.get(name)
        require(value is None or isinstance(value, list), name, value, "must be a list")
        return value or []


def read(raw: Mapping[str, Any]) -> Read:
    """The shape that a config of a known type describes, by the defaults of its own class.

    Raises ValueError naming the field, its value and the rule; NotCovered if only a built model
    can be counted.

    >>> read({"model_type": "qwen3_moe", "hidden_size": 64}).model.num_experts
    128
    """
    kind = raw["model_type"]
    known = FORMS[kind]
    words, unused = _in_its_words(raw, kind)
    _require_covered(raw, kind, words)
    notes = [f"model_type = {kind!r} is of its makers' repository; no library checks it"]
    notes = notes if kind in REPOSITORY else []
    try:
        model = ModelConfig(**_sizes(raw, words, known, notes))
    except ValueError as error:
        raise ValueError(_in_their_words(str(error), words)) from error
    windows = _windows(words, model.num_layers, kind)
    return Read(model=model, windows=windows, notes=tuple(notes), unused=unused)


def _sizes(
    raw: Mapping[str, Any], words: _Words, known: Mapping[str, Any], notes: list[str]
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


@functools.cache
def class_tables() -> dict[str, dict[str, Any]]:
    """Defaults, other names and nullable fields of the config classes, by model type."""
    tables: dict[str, dict[str, Any]] = json.loads(DEFAULTS.read_text())
    for kind, defaults in REPOSITORY.items():
        nullable = [name for name, value in defaults.items() if value in (None, 0, 1, False)]
        tables[kind] = {"defaults": dict(defaults), "aliases": {}, "nullable": nullable}
    return tables


def _in_its_words(raw: Mapping[str, Any], kind: str) -> tuple[_Words, tuple[str, ...]]:
    """Given values over the class's defaults, under the class's names; and structural keys left."""
    table = class_tables()[kind]
    fields, values = table["defaults"], dict(table["defaults"])
    given: dict[str, tuple[str, Any]] = {}
    unused = []
    repository = kind in REPOSITORY
    for key, value in raw.items():
        name = table["aliases"].get(key, key)
        if name in fields or name in READ_ANYWAY or (repository and name in WORDS):
            if name in given:
                rule = f"contradicts {given[name][0]} = {given[name][1]}"
                require(value == given[name][1], key, value, rule)
            given[name] = key, value
            nullable = value is not None or name in table["nullable"]
            require(nullable, key, value, f"must not be null in a config of type {kind}")
            values[name] = value
        elif key in NO_SIZES:
            values[name] = value
        elif key not in NOT_READ and is_structural(key):
            unused.append(key)
    return _Words(values, frozenset(table["nullable"])), tuple(unused)


def _require_covered(raw: Mapping[str, Any], kind: str, words: _Words) -> None:
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


def _attention_fields(words: _Words, known: Mapping[str, Any]) -> dict[str, Any]:
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


def _other_fields(words: _Words, known: Mapping[str, Any]) -> dict[str, Any]:
    rope = words.values.get("rope_parameters") or {}
    require(isinstance(rope, Mapping), "rope_parameters", rope, "must be an object")
    rope_words = _Words({**words.values, **rope})
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
    words: _Words,
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


def _needs_shared(words: _Words) -> bool:
    """Whether the class multiplies by its number of shared experts, so that null is no number."""
    return "n_shared_experts" in words.values


def _dense_layers(words: _Words, num_layers: int) -> list[int]:
    """Indices of the layers without experts, by any of the rules in use."""

    def said(ours: str, default: int) -> int:
        return words.whole(ours, default) if words.name(ours) else default

    first, step, end = said("num_dense_layers", 0), said("moe_layer_step", 1), num_layers - 1
    if words.values.get("moe_layer_end_index", -1) not in (-1, None):
        end = words.whole("moe_layer_end")
    listed = words.items("mlp_only_layers")
    require(step > 0, words.name("moe_layer_step") or "", step, "must be above 0")
    return [i for i in range(num_layers) if i < first or i > end or (i + 1) % step or i in listed]


def _routing(words: _Words, known: Mapping[str, Any]) -> RoutingConfig:
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


def _windows(words: _Words, num_layers: int, kind: str) -> tuple[int | None, ...]:
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


def _in_their_words(message: str, words: _Words) -> str:
    """An error of ours with the names that the reader's file uses."""
    for ours in THEIR_NAMES:
        if name := words.name(ours):
            message = re.sub(rf"\b{ours}\b", name, message)
    return message

"""A config in the words of its class: what the file gives over the defaults of its model type.

The defaults of transformers' classes lie in `data/architectures.json`, those of makers' own
repositories here; a field goes by the name that its class has for it.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_leverage import paths
from moe_leverage.design.words import is_structural
from moe_leverage.rules import require

DEFAULTS = paths.DATA / "architectures.json"
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
# Fields of no class that every attention class reads all the same.
READ_ANYWAY = ("head_dim",)
NO_SIZES = ("rope_parameters", "rope_theta", "partial_rotary_factor", "scoring_func",
            "score_function")  # fmt: skip
NOT_READ = frozenset(("model_type", "published", "source", "counted"))


@dataclass(frozen=True, slots=True)
class Words:
    """A config in the words of its class: given values over defaults."""

    values: Mapping[str, Any]
    nullable: frozenset[str] = field(default_factory=frozenset)

    def name(self, ours: str) -> str | None:
        """The name that this class has for our field, or None."""
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
        """A number that decides no size; the default where the file has none, Infinity or NaN."""
        value = self.values.get(name)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(is_number, name, value, "must be a number")
        return float(value) if math.isfinite(value) else default

    def flag(self, name: str) -> bool:
        """True or false; false where the file has neither."""
        value = self.values.get(name)
        require(value is None or isinstance(value, bool), name, value, "must be true or false")
        return bool(value)

    def items(self, name: str) -> list[Any]:
        """The entries of a list; none where there is no list."""
        value = self.values.get(name)
        require(value is None or isinstance(value, list), name, value, "must be a list")
        return value or []


@functools.cache
def class_tables() -> dict[str, dict[str, Any]]:
    """Defaults, other names and nullable fields of the config classes, by model type."""
    tables: dict[str, dict[str, Any]] = json.loads(DEFAULTS.read_text())
    for kind, defaults in REPOSITORY.items():
        nullable = [name for name, value in defaults.items() if value in (None, 0, 1, False)]
        tables[kind] = {"defaults": dict(defaults), "aliases": {}, "nullable": nullable}
    return tables


def in_its_words(raw: Mapping[str, Any], kind: str) -> tuple[Words, tuple[str, ...]]:
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
    return Words(values, frozenset(table["nullable"])), tuple(unused)


def in_their_words(message: str, words: Words) -> str:
    """An error of ours with the names that the reader's file uses."""
    for ours in THEIR_NAMES:
        if name := words.name(ours):
            message = re.sub(rf"\b{ours}\b", name, message)
    return message

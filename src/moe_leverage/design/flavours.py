"""Shapes that torchtitan keeps in its code, by the name and flavour of a training file.

The numbers are those of `torchtitan/models/*/__init__.py`, each in the words of the format that
reads it: Meta's for Llama 3, DeepSeek's for DeepSeek-V3, Hugging Face's for Qwen3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_leverage.rules import require

LLAMA = {"vocab_size": 128_256, "n_kv_heads": 8}
LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
DEEPSEEK = LATENT | {"vocab_size": 102_400, "n_dense_layers": 1, "n_shared_experts": 2}
QWEN = {"vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8}
DENSE = QWEN | {"model_type": "qwen3", "tie_word_embeddings": False}
MOE = QWEN | {
    "model_type": "qwen3_moe", "tie_word_embeddings": False, "num_experts": 128,
    "num_experts_per_tok": 8, "num_key_value_heads": 4, "intermediate_size": 0,
}  # fmt: skip
TINY = {"vocab_size": 2048}


def _llama(dim: int, layers: int, heads: int, multiple: int, factor: float) -> dict[str, Any]:
    return LLAMA | {
        "dim": dim, "n_layers": layers, "n_heads": heads, "multiple_of": multiple,
        "ffn_dim_multiplier": factor,
    }  # fmt: skip


def _deepseek(dim: int, layers: int, heads: int, widths: tuple[int, int], experts: tuple[int, int],
              **more: Any) -> dict[str, Any]:  # fmt: skip
    """`widths` are those of dense layers and of an expert, `experts` all and the chosen."""
    return DEEPSEEK | {
        "dim": dim, "n_layers": layers, "n_heads": heads, "inter_dim": widths[0],
        "moe_inter_dim": widths[1], "n_routed_experts": experts[0],
        "n_activated_experts": experts[1], "score_func": "softmax", "q_lora_rank": 0,
    } | more  # fmt: skip


def _qwen(dim: int, layers: int, heads: int, width: int, **more: Any) -> dict[str, Any]:
    return DENSE | {
        "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": width,
    } | more  # fmt: skip


def _qwen_moe(dim: int, layers: int, heads: int, width: int, **more: Any) -> dict[str, Any]:
    return MOE | {
        "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads,
        "moe_intermediate_size": width,
    } | more  # fmt: skip


TIED = {"tie_word_embeddings": True}
FLAVOURS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "llama3": {
        "debugmodel": TINY | {"dim": 256, "n_layers": 6, "n_heads": 16, "multiple_of": 256},
        "8B": _llama(4096, 32, 32, 1024, 1.3),
        "70B": _llama(8192, 80, 64, 4096, 1.3),
        "405B": _llama(16_384, 126, 128, 4096, 1.2),
    },
    "deepseek_v3": {
        "debugmodel": _deepseek(256, 6, 16, (1024, 256), (8, 3), **TINY),
        "16B": _deepseek(2048, 27, 16, (10_944, 1408), (64, 6)),
        "236B": _deepseek(5120, 60, 128, (12_288, 1536), (160, 6), q_lora_rank=1536,
                          n_expert_groups=8, n_limited_groups=3),
        "671B": _deepseek(7168, 61, 128, (18_432, 2048), (256, 8), q_lora_rank=1536,
                          n_expert_groups=8, n_limited_groups=4, score_func="sigmoid",
                          vocab_size=129_280, n_dense_layers=3, n_shared_experts=1),
    },
    "qwen3": {
        "debugmodel": _qwen(256, 8, 16, 3072, **TINY, **TIED),
        "0.6B": _qwen(1024, 28, 16, 3072, **TIED),
        "1.7B": _qwen(2048, 28, 16, 6144, **TIED),
        "4B": _qwen(2560, 36, 32, 9728, **TIED),
        "8B": _qwen(4096, 36, 32, 12_288),
        "14B": _qwen(5120, 40, 40, 17_408),
        "32B": _qwen(5120, 64, 64, 25_600),
        "debugmodel_moe": _qwen_moe(256, 8, 16, 768, num_experts=64, num_key_value_heads=8, **TINY),
        "30B-A3B": _qwen_moe(2048, 48, 32, 768),
        "235B-A22B": _qwen_moe(4096, 94, 64, 1536),
    },
}  # fmt: skip
# How attention is computed, which changes no size.
KERNELS = ("_flex_attn", "_varlen_attn", "_flex", "_varlen", "_fused_qkv")


def sizes(name: object, flavour: object) -> dict[str, Any]:
    """The shape of a flavour; ValueError naming those that are known.

    >>> sizes("llama3", "8B_flex")["dim"]
    4096
    """
    known = FLAVOURS.get(str(name), {})
    plain = str(flavour)
    for kernel in KERNELS:
        plain = plain.removesuffix(kernel)
    names = ", ".join(f"{one} {'/'.join(shapes)}" for one, shapes in FLAVOURS.items())
    rule = f"is a shape in torchtitan's code; known here: {names}; or give the sizes as JSON"
    require(plain in known, "model.flavor", f"{name} {flavour}", rule)
    return dict(known[plain])

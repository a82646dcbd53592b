"""Logits and gradients equal those of independent implementations, on random weights in fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor

from moe_leverage.config import LING2_ROUTING, ModelConfig, RoutingConfig
from moe_leverage.model.transformer import Dispatch, Transformer

TOLERANCE = 1e-5
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD, VOCABULARY = 2, 32, 4, 2, 8, 48
EXPERTS, ACTIVE, EXPERT_WIDTH, DENSE_WIDTH = 8, 2, 16, 56


@dataclass(frozen=True)
class Peer:
    """One class of transformers, its settings and ours for the same architecture."""

    model: type[Any]
    config: type[Any]
    settings: dict[str, Any]
    ours: dict[str, Any]
    interleaved: bool = False  # pairs of rotary coordinates lie side by side, not half a head apart
    norm_eps: float = 1e-6
    shape: dict[str, Any] = field(default_factory=dict)


MOE = {"num_experts": EXPERTS, "num_active_experts": ACTIVE, "d_expert": EXPERT_WIDTH}
SHARED = {"num_shared_experts": 1, "num_dense_layers": 1, "d_ffn": DENSE_WIDTH}
HF_MOE = {"num_experts_per_tok": ACTIVE, "moe_intermediate_size": EXPERT_WIDTH}
RENORMALISED = RoutingConfig(renormalise=True)
BIASED = RoutingConfig(score="sigmoid", renormalise=True, scaling=2.5, bias_update_rate=1e-3)

PEERS = {
    "Llama": Peer(hf.LlamaForCausalLM, hf.LlamaConfig, {}, {"d_ffn": DENSE_WIDTH}),
    "Ernie4_5_Moe": Peer(
        hf.Ernie4_5_MoeForCausalLM,
        hf.Ernie4_5_MoeConfig,
        {
            "moe_k": ACTIVE,
            "moe_num_experts": EXPERTS,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
            "moe_intermediate_size": EXPERT_WIDTH,
            "pad_token_id": None,  # or token 0 gets no gradient
        },
        {**MOE, **SHARED, "routing": RENORMALISED},
        interleaved=True,
    ),
    "Qwen3Moe": Peer(
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig,
        {**HF_MOE, "num_experts": EXPERTS, "norm_topk_prob": True, "mlp_only_layers": [0]},
        {**MOE, **SHARED, "num_shared_experts": 0, "qk_norm": "head", "routing": RENORMALISED},
        shape={"head_dim": HEAD},
    ),
    "Olmoe": Peer(
        hf.OlmoeForCausalLM,
        hf.OlmoeConfig,
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": ACTIVE,
            "intermediate_size": EXPERT_WIDTH,
            "eos_token_id": 1,
        },
        {**MOE, "qk_norm": "width"},
    ),
    "Mixtral": Peer(
        hf.MixtralForCausalLM,
        hf.MixtralConfig,
        {
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": ACTIVE,
            "intermediate_size": EXPERT_WIDTH,
        },
        {**MOE, "routing": RENORMALISED},
    ),
    "Dots1": Peer(
        hf.Dots1ForCausalLM,
        hf.Dots1Config,
        {
            **HF_MOE,
            "n_routed_experts": EXPERTS,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "first_k_dense_replace": 1,
        },
        {**MOE, **SHARED, "qk_norm": "head", "routing": BIASED},
        shape={"head_dim": HEAD},
    ),
    "Glm4Moe": Peer(  # the whole block of Ling 2.0
        hf.Glm4MoeForCausalLM,
        hf.Glm4MoeConfig,
        {
            **HF_MOE,
            "n_routed_experts": 2 * EXPERTS,
            "n_shared_experts": 1,
            "n_group": 8,
            "topk_group": 4,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "first_k_dense_replace": 1,
            "use_qk_norm": True,
            "attention_bias": False,
        },
        {
            **MOE,
            **SHARED,
            "num_experts": 2 * EXPERTS,
            "qk_norm": "head",
            "rope_fraction": 0.5,
            "routing": LING2_ROUTING,
        },
        shape={"head_dim": HEAD},
    ),
}


@pytest.fixture(params=PEERS, scope="module")
def peer(request: pytest.FixtureRequest) -> Peer:
    return PEERS[request.param]


@pytest.mark.parametrize("dispatch", ["grouped", "loop"])
def test_logits_and_gradients_equal_the_peer(peer: Peer, dispatch: Dispatch) -> None:
    theirs, ours = build_both(peer, dispatch)
    tokens = torch.randint(VOCABULARY, (3, 13), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    their_logits = theirs(inputs).logits
    our_logits = ours(inputs).logits
    torch.testing.assert_close(our_logits, their_logits, atol=TOLERANCE, rtol=0)
    assert their_logits.std() > 0.1  # the weights are large enough for the comparison to mean much

    for logits in (their_logits, our_logits):
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    expected = translate(gradients, ours.config, peer)
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=TOLERANCE, rtol=0, msg=name)


def test_renormalised_single_expert_departs_from_the_peer_on_purpose() -> None:
    """With one active expert the peer's router learns nothing from the loss; ours does."""
    peer = PEERS["Qwen3Moe"]
    single = Peer(
        peer.model,
        peer.config,
        peer.settings | {"num_experts_per_tok": 1},
        peer.ours | {"num_active_experts": 1},
        shape=peer.shape,
    )
    theirs, ours = build_both(single, "grouped")
    tokens = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    theirs(tokens).logits.square().mean().backward()
    ours(tokens).logits.square().mean().backward()
    assert theirs.model.layers[1].mlp.gate.weight.grad.abs().max() < 1e-7
    assert ours.layers[1].ffn.router.weight.grad.abs().max() > 1e-5


def build_both(peer: Peer, dispatch: Dispatch) -> tuple[Any, Transformer]:
    """The peer and our model with the same random weights, selection biases included."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": DENSE_WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "tie_word_embeddings": False,
        "rms_norm_eps": peer.norm_eps,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": peer.ours.get("rope_fraction", 1.0),
        },
    }
    theirs = peer.model(peer.config(**(shape | peer.shape | peer.settings)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.state_dict().items():
            spread = 0.02 if "correction_bias" in name else 0.2
            center = 1.0 if "norm" in name else 0.0
            weight.copy_(center + spread * torch.randn(weight.shape, generator=generator))
            if "moe_statics" in name:
                weight.zero_()
    config = ModelConfig(
        vocab_size=VOCABULARY,
        num_layers=LAYERS,
        d_model=WIDTH,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        norm_eps=peer.norm_eps,
        **peer.ours,
    )
    ours = Transformer(config, dispatch)
    ours.load_state_dict(translate(theirs.state_dict(), config, peer))
    return theirs, ours


def translate(source: dict[str, Tensor], config: ModelConfig, peer: Peer) -> dict[str, Tensor]:
    """Weights, or gradients, of the peer under our names and in our layout: a linear map."""
    found = {
        "embedding.weight": source["model.embed_tokens.weight"],
        "norm.gain": source["model.norm.weight"],
        "unembed.weight": source["lm_head.weight"],
    }
    for layer in range(config.num_layers):

        def get(name: str, prefix: str = f"model.layers.{layer}.") -> Tensor:
            return source[f"{prefix}{name}"]

        block = {
            "attention_norm.gain": get("input_layernorm.weight"),
            "ffn_norm.gain": get("post_attention_layernorm.weight"),
            **_attention(get, config, peer),
        }
        if layer < config.num_dense_layers:
            block |= {f"ffn.{name}": weight for name, weight in _swiglu(get, "mlp").items()}
        else:
            block |= _experts(get, config, source, layer)
        found |= {f"layers.{layer}.{name}": weight for name, weight in block.items()}
    return found


def _attention(get: Callable[[str], Tensor], config: ModelConfig, peer: Peer) -> dict[str, Tensor]:
    def ours(rows: Tensor) -> Tensor:
        """Rows of whole heads, with each pair of rotary coordinates side by side."""
        if peer.interleaved:
            return rows
        heads = rows.unflatten(0, (-1, config.d_head))
        turned = int(config.d_head * config.rope_fraction)
        first, second = heads[:, :turned].chunk(2, dim=1)
        pairs = torch.stack((first, second), dim=2).flatten(1, 2)
        return torch.cat((pairs, heads[:, turned:]), dim=1).flatten(0, 1)

    parts = [ours(get(f"self_attn.{name}_proj.weight")) for name in "qk"]
    found = {
        "attention.query_key_value.weight": torch.cat([*parts, get("self_attn.v_proj.weight")]),
        "attention.output.weight": get("self_attn.o_proj.weight"),
    }
    if config.qk_norm != "none":
        found["attention.query_norm.gain"] = ours(get("self_attn.q_norm.weight"))
        found["attention.key_norm.gain"] = ours(get("self_attn.k_norm.weight"))
    return found


def _swiglu(get: Callable[[str], Tensor], name: str) -> dict[str, Tensor]:
    gate_up = [get(f"{name}.{part}_proj.weight") for part in ("gate", "up")]
    return {"gate_up.weight": torch.cat(gate_up), "down.weight": get(f"{name}.down_proj.weight")}


def _experts(
    get: Callable[[str], Tensor], config: ModelConfig, source: dict[str, Tensor], layer: int
) -> dict[str, Tensor]:
    found = {
        "ffn.router.weight": get("mlp.gate.weight"),
        "ffn.gate_up": get("mlp.experts.gate_up_proj").transpose(1, 2),
        "ffn.down": get("mlp.experts.down_proj").transpose(1, 2),
    }
    if config.num_shared_experts:
        shared = _swiglu(get, "mlp.shared_experts")
        found |= {f"ffn.shared.{name}": weight for name, weight in shared.items()}
    bias = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
    if bias in source:
        found["ffn.selection_bias"] = source[bias]
    return found

"""Mixtures of attention, parallel blocks, and mixtures made of dense branches."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import silu
from toy import CORPUS, CPU, DENSE, VOCABULARY, run_of

from moe_leverage.config import RoutingConfig
from moe_leverage.model.counter import counter_table
from moe_leverage.model.transformer import build_model
from moe_leverage.model.upcycling import upcycled
from moe_leverage.stages import require_branches
from moe_leverage.training.loop import train

RENORMALISED = RoutingConfig(renormalise=True)
FFN_ONLY = dataclasses.replace(
    DENSE, d_ffn=0, num_dense_layers=0, num_experts=4, num_active_experts=2, d_expert=DENSE.d_ffn,
    routing=RENORMALISED,
)  # fmt: skip
FULL = dataclasses.replace(FFN_ONLY, num_attention_experts=4)
SHARED = dataclasses.replace(FULL, shares_key_values=True)
KINDS = {"ffn-only": FFN_ONLY, "full": FULL, "shared": SHARED}
PARALLEL = {"parallel_blocks": True}


def tokens_of(length=9):
    return torch.randint(VOCABULARY, (2, length), generator=torch.Generator().manual_seed(1))


def large(model):
    """The same model with weights large enough for softmaxes and gates to mean something."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(12)
    return model


# --- a readable reference ------------------------------------------------------------------


def plain_attention(x, weights, config, key_value):
    """One attention of one sequence [s, D], head by head and position by position."""
    queries = config.num_heads * config.d_head
    packed = x @ weights["query_key_value.weight"].T
    query, rest = packed[:, :queries], packed[:, queries:] if key_value is None else key_value
    key, value = rest.chunk(2, dim=-1)
    width, out = config.d_head, []
    for head in range(config.num_heads):
        group = head // (config.num_heads // config.num_kv_heads)
        q = rotated(query[:, head * width : (head + 1) * width])
        k = rotated(key[:, group * width : (group + 1) * width])
        v = value[:, group * width : (group + 1) * width]
        rows = []
        for t in range(len(x)):
            share = torch.softmax(q[t] @ k[: t + 1].T / math.sqrt(width), dim=-1)
            rows.append(share @ v[: t + 1])
        out.append(torch.stack(rows))
    return torch.cat(out, dim=-1) @ weights["output.weight"].T


def rotated(heads):
    pairs = heads.shape[1] // 2
    turn = 10_000 ** (-torch.arange(pairs) / pairs)
    angles = torch.arange(len(heads))[:, None] * turn
    real, imaginary = heads[:, 0::2], heads[:, 1::2]
    turned = torch.empty_like(heads)
    turned[:, 0::2] = real * angles.cos() - imaginary * angles.sin()
    turned[:, 1::2] = real * angles.sin() + imaginary * angles.cos()
    return turned


def norm(x, gain):
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * gain


def below(weights, prefix):
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def plain_logits(model, tokens):
    """A dense model with a mixture of attention, as the equations say it, of one sequence."""
    config, weights = model.config, dict(model.named_parameters())
    x = weights["embedding.weight"][tokens]
    for layer in range(config.num_layers):
        block = below(weights, f"layers.{layer}.")
        normed = norm(x, block["attention_norm.gain"])
        shared = block.get("attention.key_value.weight")
        key_value = None if shared is None else normed @ shared.T
        gates = torch.softmax(normed @ block["attention.router.weight"].T, dim=-1)
        attended = sum(
            gates[:, place, None]
            * plain_attention(
                normed, below(block, f"attention.experts.{place}."), config, key_value
            )
            for place in range(config.num_attention_experts)
        )
        after = x + attended
        ffn_in = normed if config.parallel_blocks else norm(after, block["ffn_norm.gain"])
        gate, up = (ffn_in @ block["ffn.gate_up.weight"].T).chunk(2, dim=-1)
        x = after + silu(gate) * up @ block["ffn.down.weight"].T
    return norm(x, weights["norm.gain"]) @ weights["unembed.weight"].T


@pytest.mark.parametrize("is_parallel", [False, True])
@pytest.mark.parametrize("is_shared", [False, True])
def test_logits_equal_those_of_the_plain_reference(is_shared, is_parallel):
    config = dataclasses.replace(
        DENSE, num_attention_experts=3, shares_key_values=is_shared, parallel_blocks=is_parallel,
    )  # fmt: skip
    model, tokens = large(build_model(config, seed=0)), tokens_of()
    with torch.no_grad():
        expected = torch.stack([plain_logits(model, sequence) for sequence in tokens])
        found = model(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, PARALLEL, {"qk_norm": "head", "attention_bias": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_every_component_is_counted_as_torch_counts_it(kind, changes):
    table = counter_table(dataclasses.replace(KINDS[kind], **changes), 8)
    assert set(table["component"]) >= {"router", "attention_scores", "total"}
    assert (table["formula_flops"] == table["counter_flops"]).all()


# --- from branches to a mixture ------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, PARALLEL, {"qk_norm": "head", "attention_bias": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_of_equal_branches_is_their_model(kind, changes):
    """Whatever the routers say: gates sum to one and every expert says the same."""
    seed = large(build_model(dataclasses.replace(DENSE, **changes), seed=0))
    with torch.no_grad():
        for name, weight in seed.named_parameters():
            if name.endswith("bias"):
                weight.normal_(generator=torch.Generator().manual_seed(2))
    made = upcycled([seed] * 4, dataclasses.replace(KINDS[kind], **changes), seed=3)
    with torch.no_grad():
        torch.testing.assert_close(
            made(tokens_of()).logits, seed(tokens_of()).logits, rtol=1e-4, atol=1e-4
        )


def test_every_branch_is_kept_in_its_place_and_the_rest_is_averaged():
    branches = [build_model(DENSE, seed) for seed in range(4)]
    made, shared = upcycled(branches, FULL, seed=9), upcycled(branches, SHARED, seed=9)
    for place, branch in enumerate(branches):
        block, ours = branch.layers[1], made.layers[1]
        assert torch.equal(ours.ffn.gate_up[place], block.ffn.gate_up.weight.T)
        assert torch.equal(
            ours.attention.experts[place].output.weight, block.attention.output.weight
        )
        packed = block.attention.query_key_value.weight
        assert torch.equal(ours.attention.experts[place].query_key_value.weight, packed)
        queries = DENSE.num_heads * DENSE.d_head
        half = shared.layers[1].attention.experts[place].query_key_value.weight
        assert torch.equal(half, packed[:queries])
    mean = torch.stack([b.layers[1].attention.query_key_value.weight for b in branches]).mean(0)
    assert torch.equal(shared.layers[1].attention.key_value.weight, mean[queries:])
    only = upcycled(branches, FFN_ONLY, seed=9)
    assert torch.equal(only.layers[1].attention.query_key_value.weight, mean)
    for one in (made, shared, only):
        average = torch.stack([branch.embedding.weight for branch in branches]).mean(0)
        assert torch.equal(one.embedding.weight, average)
        fresh = build_model(one.config, 9)
        assert torch.equal(one.layers[0].ffn.router.weight, fresh.layers[0].ffn.router.weight)


@pytest.mark.parametrize("config", [SHARED, dataclasses.replace(FULL, **PARALLEL)])
def test_a_mixture_of_attention_learns(config):
    record = train(run_of(config, num_steps=40), corpus=CORPUS, execution=CPU)
    assert record["status"] == "ok"
    assert record["validation_loss_nats"] < math.log(VOCABULARY) - 0.5


@pytest.mark.parametrize(
    ("branches", "config", "message"),
    [
        ([DENSE], FULL, "branches = 1: must be two at least"),
        ([FFN_ONLY] * 4, FULL, "branches = 4: must be dense"),
        ([DENSE] * 3, FULL, "num_experts = 4: must be the number of branches, 3"),
        ([DENSE, dataclasses.replace(DENSE, d_ffn=48)], FULL, "branches = 2: must be of one shape"),
        (
            [DENSE] * 4,
            dataclasses.replace(FULL, num_attention_experts=2),
            "num_attention_experts = 2",
        ),
        ([DENSE] * 4, dataclasses.replace(FULL, d_expert=16), "d_expert = 16: must be the d_ffn"),
        ([DENSE] * 4, dataclasses.replace(FULL, num_shared_experts=1), "num_shared_experts = 1"),
        (
            [DENSE] * 4,
            dataclasses.replace(FULL, **PARALLEL),
            "parallel_blocks = True: must be that",
        ),
        (
            [DENSE] * 4,
            dataclasses.replace(FULL, num_dense_layers=1, d_ffn=32),
            "num_dense_layers = 1: must be 0",
        ),
    ],
)
def test_what_branches_cannot_become_is_named(branches, config, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        require_branches(branches, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_experts": 1}, "num_attention_experts = 1: must be 0 where there is one"),
        ({"num_attention_experts": -2}, "num_attention_experts = -2: must be a whole number >= 0"),
        ({"shares_key_values": True}, "shares_key_values = True: needs num_attention_experts"),
        (
            {"num_attention_experts": 2, "attention_sinks": True},
            "num_attention_experts = 2: cannot be with attention_sinks",
        ),
    ],
)
def test_impossible_mixtures_of_attention_name_the_field(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        dataclasses.replace(DENSE, **changes)


def test_models_without_them_keep_their_identity():
    assert not {"num_attention_experts", "shares_key_values", "parallel_blocks"} & set(
        run_of(DENSE).departures()["model"]
    )

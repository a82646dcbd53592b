"""The model: symmetries that hold exactly, kernels against plain expressions, traps avoided."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from moe_leverage.config import (
    LING2_ROUTING,
    PAPER_ROUTING,
    LatentAttentionConfig,
    ModelConfig,
    RoutingConfig,
)
from moe_leverage.model import dispatch, grouped, kernels, routing
from moe_leverage.model.transformer import (
    MixtureOfExperts,
    SwiGLU,
    Transformer,
    build_model,
    loop_experts,
    rotations,
)

SHAPE = {"vocab_size": 40, "num_layers": 2, "d_model": 16, "num_heads": 4, "num_kv_heads": 2}
DENSE = ModelConfig(**SHAPE, d_ffn=24, init_std=0.3)
MOE = ModelConfig(
    **SHAPE,
    num_experts=8,
    num_active_experts=3,
    num_shared_experts=1,
    d_expert=8,
    init_std=0.3,
)
LING = ModelConfig(
    **SHAPE,
    num_experts=16,
    num_active_experts=4,
    num_shared_experts=1,
    d_expert=8,
    d_ffn=24,
    num_dense_layers=1,
    num_mtp_layers=2,
    qk_norm="head",
    rope_fraction=0.5,
    routing=LING2_ROUTING,
    init_std=0.3,
)
RENORMALISED = RoutingConfig(renormalise=True)
SIGMOID = RoutingConfig(score="sigmoid", renormalise=True, scaling=2.5, bias_update_rate=1e-3)


def tokens_of(batch: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SHAPE["vocab_size"], (batch, length), generator=generator)


def layer_of(config: ModelConfig, how: str = "grouped", seed: int = 0) -> MixtureOfExperts:
    model = build_model(config, seed, how)
    (layer, *_) = model.routers()
    return layer


def rows_of(count: int, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(1, count, width, generator=torch.Generator().manual_seed(seed))


@st.composite
def moe_shapes(draw: st.DrawFn, **fixed: object) -> ModelConfig:
    """Small MoE models of one layer with any recipe."""
    experts = draw(st.integers(1, 9))
    sizes = {
        "num_layers": 1,
        "num_experts": experts,
        "num_active_experts": draw(st.integers(1, experts)),
        "num_shared_experts": draw(st.integers(0, 2)),
        "d_expert": draw(st.sampled_from([4, 12])),
        "routing": draw(st.sampled_from([PAPER_ROUTING, RENORMALISED, SIGMOID])),
        "init_std": 0.4,
    }
    return ModelConfig(**(SHAPE | sizes | fixed))


# --- symmetries of the expert layer --------------------------------------------------------------


@given(config=moe_shapes(), count=st.integers(1, 30), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_grouped_dispatch_equals_the_loop(config, count, seed):
    grouped, loop = layer_of(config, seed=seed), layer_of(config, "loop", seed=seed)
    outputs = []
    for layer in (grouped, loop):
        x = rows_of(count, seed=seed).requires_grad_()
        mixed, routed = layer(x)
        (mixed.square().sum() + routed.balance_loss + routed.z_loss).backward()
        gradients = {name: p.grad for name, p in layer.named_parameters()}
        outputs.append({"mixed": mixed, "x": x.grad, **gradients})
    for name, value in outputs[0].items():
        scale = 1 + outputs[1][name].abs().max().item()  # what small entries are the difference of
        torch.testing.assert_close(value, outputs[1][name], rtol=0, atol=1e-5 * scale, msg=name)


@given(moe_shapes(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_permuted_experts_change_nothing(config, seed):
    layer, permuted = layer_of(config), layer_of(config)
    order = torch.randperm(config.num_experts, generator=torch.Generator().manual_seed(seed))
    bias = torch.randn(config.num_experts, generator=torch.Generator().manual_seed(seed)) * 0.1
    with torch.no_grad():
        for weight in (permuted.gate_up, permuted.down, permuted.router.weight):
            weight.copy_(weight[order])
        if layer.selection_bias is not None:
            layer.selection_bias.copy_(bias)
            permuted.selection_bias.copy_(bias[order])
    (mixed, routed), (other, other_routed) = layer(rows_of(20)), permuted(rows_of(20))
    torch.testing.assert_close(mixed, other, rtol=1e-4, atol=1e-4)
    assert torch.equal(routed.counts[order], other_routed.counts)
    torch.testing.assert_close(routed.balance_loss, other_routed.balance_loss)


@given(moe_shapes(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_permuted_tokens_permute_the_output(config, seed):
    layer, x = layer_of(config), rows_of(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    mixed, routed = layer(x)
    permuted, permuted_routed = layer(x[:, order])
    torch.testing.assert_close(permuted, mixed[:, order], rtol=1e-4, atol=1e-4)
    assert torch.equal(routed.counts, permuted_routed.counts)


@given(moe_shapes(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_identical_experts_make_routing_irrelevant(config, seed):
    layer, x = layer_of(config), rows_of(15, seed=seed)
    with torch.no_grad():
        layer.gate_up.copy_(layer.gate_up[:1].expand_as(layer.gate_up))
        layer.down.copy_(layer.down[:1].expand_as(layer.down))
        mixed, _ = layer(x)
        _, gates, _ = layer.route(x[0])
        gate, up = (x[0] @ layer.gate_up[0]).chunk(2, dim=-1)
        expected = (F.silu(gate) * up @ layer.down[0]) * gates.sum(-1, keepdim=True)
        if layer.shared is not None:
            expected = expected + layer.shared(x[0])
    torch.testing.assert_close(mixed[0], expected, rtol=1e-4, atol=1e-4)


def swiglu_of(gate_up: Tensor, down: Tensor) -> SwiGLU:
    ffn = SwiGLU(gate_up.shape[0], down.shape[0])
    with torch.no_grad():
        ffn.gate_up.weight.copy_(gate_up.t())
        ffn.down.weight.copy_(down.t())
    return ffn


def test_one_expert_that_serves_all_is_the_dense_ffn():
    config = dataclasses.replace(
        MOE, num_experts=1, num_active_experts=1, num_shared_experts=0, d_shared=0
    )
    layer, x = layer_of(config), rows_of(12)
    ffn = swiglu_of(layer.gate_up[0], layer.down[0])
    torch.testing.assert_close(layer(x)[0], ffn(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", [RENORMALISED, SIGMOID])
def test_all_experts_active_are_the_dense_mixture(recipe):
    config = dataclasses.replace(MOE, num_active_experts=8, routing=recipe)
    layer, x = layer_of(config), rows_of(12)
    scores = routing.score(x[0] @ layer.router.weight.t(), recipe)
    gates = recipe.scaling * scores / scores.sum(-1, keepdim=True)
    parts = [swiglu_of(up, down)(x) for up, down in zip(layer.gate_up, layer.down, strict=True)]
    expected = sum(gates[:, i, None] * part for i, part in enumerate(parts)) + layer.shared(x)
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_an_ffn_cut_into_equally_weighted_experts_is_the_same_ffn(pieces):
    """The identity behind granularity: m experts of width H / m, all active, scaled by m."""
    width = 16
    recipe = RoutingConfig(renormalise=True, scaling=float(pieces))
    config = dataclasses.replace(
        MOE,
        num_experts=pieces,
        num_active_experts=pieces,
        num_shared_experts=0,
        d_shared=0,
        d_expert=width // pieces,
        routing=recipe,
    )
    layer, x = layer_of(config), rows_of(12)
    gate, up = torch.randn(2, 16, width, generator=torch.Generator().manual_seed(0)) * 0.3
    down = torch.randn(width, 16, generator=torch.Generator().manual_seed(1)) * 0.3
    with torch.no_grad():
        layer.router.weight.zero_()
        halves = zip(gate.chunk(pieces, 1), up.chunk(pieces, 1), strict=True)
        layer.gate_up.copy_(torch.stack([torch.cat(pair, dim=1) for pair in halves]))
        layer.down.copy_(torch.stack(down.chunk(pieces)))
        if pieces == 1:  # a single gate is its softmax, which is 1 already
            assert layer.route(x[0])[1].eq(1).all()
    expected = swiglu_of(torch.cat((gate, up), dim=1), down)(x)
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-4, atol=1e-4)


def test_no_token_is_dropped_when_all_choose_the_same_experts():
    layer, x = layer_of(MOE), rows_of(200).abs()
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[:3] += 1.0
    _, routed = layer(x)
    assert routed.counts.tolist() == [200, 200, 200, 0, 0, 0, 0, 0]
    chosen, gates, _ = layer.route(x[0])
    expected = loop_experts(x[0], chosen, gates, routed.counts, layer.gate_up, layer.down)
    torch.testing.assert_close(layer(x)[0][0] - layer.shared(x[0]), expected, rtol=1e-4, atol=1e-4)


# --- the whole model ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [DENSE, MOE, LING], ids=["dense", "moe", "ling"])
@pytest.mark.parametrize("length", [1, 7, 64, 100, 128])
def test_the_fast_model_equals_the_plain_one(config, length):
    fast, plain = build_model(config, seed=0), build_model(config, seed=0, dispatch="loop")
    tokens = tokens_of(2, length)
    if config.num_mtp_layers and length <= config.num_mtp_layers:
        tokens = tokens_of(2, config.num_mtp_layers + 1)
    ours = fast(tokens)
    with sdpa_kernel(SDPBackend.MATH):
        theirs = plain(tokens)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=2e-4)
    for mine, other in zip(ours.mtp_logits, theirs.mtp_logits, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-4)
    assert torch.equal(ours.counts, theirs.counts)


@pytest.mark.parametrize("config", [DENSE, MOE, LING], ids=["dense", "moe", "ling"])
def test_later_tokens_do_not_reach_earlier_logits(config):
    model, tokens = build_model(config, seed=0), tokens_of(2, 128)
    changed = tokens.clone()
    changed[:, 70:] = tokens_of(2, 58, seed=1)
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after.logits[:, :70], before.logits[:, :70], rtol=1e-4, atol=1e-4)
    assert (after.logits[:, 70] - before.logits[:, 70]).abs().max() > 0.01
    for depth, (early, other) in enumerate(
        zip(before.mtp_logits, after.mtp_logits, strict=True), 1
    ):
        seen = 70 - depth
        torch.testing.assert_close(other[:, :seen], early[:, :seen], rtol=1e-4, atol=1e-4)


def test_prediction_layers_see_the_tokens_ahead_and_nothing_wrapped_around():
    """Depth d is its layer run on the positions with a token d places ahead, and on those alone."""
    model, tokens = build_model(LING, seed=0), tokens_of(2, 12)
    output = model(tokens)
    hidden = model.embedding(tokens)
    for block in model.layers:
        hidden, _ = block(hidden, rotations(12, LING, tokens.device))
    for depth, layer in enumerate(model.mtp, start=1):
        length = 12 - depth
        ahead = model.embedding(tokens[:, depth:])
        rope = rotations(length, LING, tokens.device)
        hidden, normed, _ = layer(hidden[:, :length], ahead, rope)
        expected = model.unembed(normed)
        torch.testing.assert_close(output.mtp_logits[depth - 1], expected, rtol=1e-4, atol=1e-4)


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(1)
    model = build_model(MOE, seed=3)
    torch.manual_seed(2)
    two, other = build_model(MOE, seed=3), build_model(MOE, seed=4)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])
    assert not torch.equal(model.unembed.weight, other.unembed.weight)
    wide = build_model(dataclasses.replace(MOE, vocab_size=4096, init_std=0.006), seed=0)
    assert wide.unembed.weight.std().item() == pytest.approx(0.006, rel=0.02)
    assert wide.norm.gain.eq(1).all()


def test_tied_embeddings_are_one_parameter():
    model = build_model(dataclasses.replace(MOE, tie_embeddings=True), seed=0)
    assert model.unembed.weight is model.embedding.weight
    assert "unembed.weight" not in dict(model.named_parameters())


# --- traps --------------------------------------------------------------------------------------


def test_collapse_onto_different_experts_in_each_layer_is_not_hidden():
    """Counts pooled over layers would look perfectly even."""
    config = dataclasses.replace(MOE, num_layers=4, num_active_experts=2)
    model = build_model(config, seed=0)
    with torch.no_grad():
        for index, layer in enumerate(model.routers()):
            layer.router.weight.zero_()
            layer.router.bias = torch.nn.Parameter(torch.full((8,), -30.0))
            layer.router.bias[2 * index : 2 * index + 2] = 30.0
    output = model(tokens_of(2, 16))
    pooled = output.counts.sum(dim=0)
    assert pooled.max() == pooled.min()
    assert output.balance_loss.item() == pytest.approx(8 / 2, rel=1e-4)


def test_router_losses_are_means_over_layers():
    shallow, deep = (build_model(dataclasses.replace(MOE, num_layers=n), seed=0) for n in (1, 5))
    for model in (shallow, deep):
        for layer in model.routers():
            layer.router.weight.data.zero_()
    for output in (shallow(tokens_of(2, 9)), deep(tokens_of(2, 9))):
        assert output.balance_loss.item() == pytest.approx(1)
        assert output.z_loss.item() == pytest.approx(math.log(8) ** 2, rel=1e-5)


def test_dense_models_have_no_router_losses():
    output = build_model(DENSE, seed=0)(tokens_of(1, 5))
    assert (output.balance_loss.item(), output.z_loss.item(), output.counts.numel()) == (0, 0, 0)


def test_selection_biases_are_saved_not_trained_and_moved_only_by_their_step():
    model = build_model(LING, seed=0)
    names = [name for name in model.state_dict() if name.endswith("selection_bias")]
    assert len(names) == len(model.routers()) == LING.num_moe_layers + LING.num_mtp_layers
    assert not any(name.endswith("selection_bias") for name, _ in model.named_parameters())
    output = model(tokens_of(2, 12))
    output.logits.sum().backward()
    model.eval()(tokens_of(2, 12))
    biases = [layer.selection_bias for layer in model.routers()]
    assert all(bias.eq(0).all() and bias.dtype == torch.float32 for bias in biases)

    model.step_biases(output.counts)
    for bias, counts in zip(biases, output.counts, strict=True):
        expected = routing.bias_step(torch.zeros(16), counts, LING2_ROUTING.bias_update_rate)
        assert torch.equal(bias, expected)
        assert bias.ne(0).any()


def test_counts_are_those_of_the_biased_choice():
    model = build_model(LING, seed=0)
    for layer in model.routers():
        layer.selection_bias[:4] = 10.0
    counts = model(tokens_of(2, 12)).counts
    assert (counts[:, :4] == 24).all()
    assert (counts[:, 4:] == 0).all()


def test_routing_stays_fp32_under_bf16_autocast():
    model, tokens = build_model(MOE, seed=0), tokens_of(2, 64)
    exact = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(tokens)
        _, gates, routed = model.routers()[0].route(rows_of(5)[0])
    assert (gates.dtype, routed.balance_loss.dtype) == (torch.float32, torch.float32)
    assert output.z_loss.dtype == torch.float32
    error = (output.logits.float() - exact.logits).std() / exact.logits.std()
    assert 1e-4 < error < 0.2


# --- what is refused ----------------------------------------------------------------------------

LATENT = LatentAttentionConfig(kv_rank=8, d_head_nope=4, d_head_rope=4, d_head_value=4)


@pytest.mark.parametrize(
    ("changes", "how", "message"),
    [
        ({"d_expert": 6, "d_shared": 6}, "grouped", "d_expert = 6: must be a multiple of 4"),
        (
            {"d_model": 18, "num_heads": 3, "num_kv_heads": 1, "d_head": 6},
            "grouped",
            "d_model = 18",
        ),
        ({"d_head": 5}, "loop", "rope_fraction = 1.0: must rotate whole pairs"),
        ({"latent_attention": LATENT}, "loop", "latent_attention"),
        ({"attention_sinks": True}, "loop", "attention_sinks = True"),
        ({"ffn_bias": True}, "loop", "ffn_bias = True"),
        ({}, "scatter", "dispatch = 'scatter'"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(changes, how, message):
    with pytest.raises(ValueError, match=message):
        Transformer(dataclasses.replace(MOE, **changes), how)


def test_odd_expert_widths_run_in_the_loop():
    config = dataclasses.replace(MOE, d_expert=6, d_shared=6)
    assert Transformer(config, "loop")(tokens_of(1, 3)).logits.shape == (1, 3, 40)


# --- kernels against plain expressions, in double precision --------------------------------------


def doubles(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def assert_same(fast: Tensor, plain: Tensor, *inputs: Tensor) -> None:
    """Equal values and equal gradients of a random projection."""
    torch.testing.assert_close(fast, plain)
    weights = doubles(*fast.shape, seed=9).detach()
    found = torch.autograd.grad((fast * weights).sum(), inputs)
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other)


def test_what_is_written_out_equals_what_the_compiler_is_given():
    angles = torch.outer(torch.arange(64.0), torch.tensor([1.0, 0.1]))
    turns = torch.stack((angles.cos(), angles.sin()), dim=-1).double()
    wide, packed, heads = doubles(3, 8), doubles(2, 64, 36), doubles(2, 6, 64, 6)
    for function, inputs, options in (
        (kernels._RMSNorm, (wide, doubles(8, seed=1)), (1e-5,)),
        (kernels._SwiGLU, (wide,), ()),
        (kernels._HeadsFirst, (packed,), (6, turns, 4)),
        (kernels._CausalAttention, (heads,), (4, 1)),
        (kernels._CrossEntropy, (wide,), (torch.tensor([1, 0, 7]),)),
    ):
        plain = function.plain(*inputs, *options).flatten()
        assert_same(kernels.written_out(function, *inputs, *options).flatten(), plain, *inputs)
    wide, grad = wide.detach(), doubles(3, 4, seed=2).detach()
    active = F.silu(wide[:, :4])
    by_hand = kernels.swiglu_gradient(grad, wide, active)
    with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
        torch.testing.assert_close(kernels.swiglu_gradient(grad, wide, active), by_hand)


def test_the_embedding_that_the_compiler_is_given():
    table, tokens = doubles(9, 4), tokens_of(3, 5) % 9
    assert_same(kernels._Embedding.apply(tokens, table), F.embedding(tokens, table), table)
    torch.library.opcheck(kernels._embedding_gradient, (torch.ones(3, 5, 4), tokens, 9))


def test_rms_norm_and_swiglu_and_cross_entropy():
    x, gain = doubles(3, 5, 8), doubles(8, seed=1)
    assert_same(kernels.rms_norm(x, gain, 1e-5), F.rms_norm(x, (8,), gain, 1e-5), x, gain)
    gate, up = x.chunk(2, dim=-1)
    assert_same(kernels.swiglu(x), F.silu(gate) * up, x)
    logits, targets = x.float().detach().requires_grad_(), tokens_of(3, 5) % 8
    fast = kernels.cross_entropy(logits, targets)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(fast, plain)
    (found,) = torch.autograd.grad(3 * fast, logits)
    (expected,) = torch.autograd.grad(3 * plain, logits)
    torch.testing.assert_close(found, expected)


@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    st.sampled_from([1, 5, 64, 128, 192]),
    st.sampled_from([2, 6]),
)
@settings(deadline=None, max_examples=25)
def test_causal_attention_in_chunks(batch, heads, length, width):
    num_heads, num_kv_heads = heads
    packed = doubles(batch, num_heads + 2 * num_kv_heads, length, width)
    assert kernels._is_explicit(packed)
    with sdpa_kernel(SDPBackend.MATH):
        plain = kernels.causal_attention(packed, num_heads, num_kv_heads)
    assert_same(kernels.causal_attention(packed, num_heads, num_kv_heads), plain, packed)


def test_heads_are_rotated_by_their_position_alone():
    """A query and a key meet at an angle that depends on their distance only (RoFormer)."""
    angles = torch.outer(torch.arange(9.0), torch.tensor([1.0, 0.1]))
    turns = torch.stack((angles.cos(), angles.sin()), dim=-1).double()
    packed = doubles(1, 1, 12).expand(1, 9, 12)  # the same two heads and value at every position
    heads = kernels.heads_first(packed, 3, turns, 2)
    scores = (heads[0, 0] @ heads[0, 1].t()).detach()
    for distance in range(-4, 5):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert torch.equal(heads[0, 2], packed[0, :, 8:])
    torch.testing.assert_close(heads.norm(dim=-1)[0, 0], packed[0, :, :4].norm(dim=-1))
    x = doubles(2, 9, 12)
    assert torch.autograd.gradcheck(lambda x: kernels.heads_first(x, 3, turns, 2), x)


@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_expert_dispatch_whatever_the_loads(experts, count, seed):
    chosen, counts, inputs = dispatched(experts, count, seed)
    tokens, gates, gate_up, down = inputs
    plain = loop_experts(tokens, chosen, gates, counts, gate_up, down)
    fast = dispatch.experts(tokens, gates, gate_up, down, dispatch.place(chosen, counts))
    assert_same(fast, plain, *inputs)


@given(experts=st.integers(1, 9), count=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_grouped_mm_of_the_experts_equals_the_loop(experts, count, seed):
    """In fp32; in double precision, as above, dispatch takes a loop of its own."""
    chosen, counts, inputs = dispatched(experts, count, seed)
    inputs = [t.detach().float().requires_grad_() for t in inputs]
    tokens, gates, gate_up, down = inputs
    fast = dispatch.experts(tokens, gates, gate_up, down, dispatch.place(chosen, counts))
    found = torch.autograd.grad(fast.square().sum(), inputs)
    plain = loop_experts(tokens, chosen, gates, counts, gate_up, down)
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    for ours, other in zip((fast, *found), (plain, *expected), strict=True):
        scale = 1 + other.abs().max().item()
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5 * scale)
    assert found[2][counts == 0].eq(0).all()  # an expert without tokens learns nothing


def dispatched(experts, count, seed):
    """Chosen experts, evenly or hardly spread, their counts, and what the experts work on."""
    active = 1 + seed % experts
    generator = torch.Generator().manual_seed(seed)
    favour = torch.randn(experts, generator=generator) * (seed % 5)
    scores = torch.randn(count, experts, generator=generator) + favour
    chosen = scores.topk(active, dim=-1).indices
    inputs = (
        doubles(count, 8, seed=seed),
        doubles(count, active, seed=seed + 1),
        doubles(experts, 8, 8, seed=seed + 2),
        doubles(experts, 4, 8, seed=seed + 3),
    )
    return chosen, routing.count(chosen, experts), inputs


def test_a_product_gathers_its_rows():
    chosen, counts, _ = dispatched(5, 30, 3)
    at = dispatch.place(chosen, counts)
    x, y, weights = torch.randn(30, 8), torch.randn(30, 12), torch.randn(5, 8, 12)
    rows, others = x[at.tokens], y[at.tokens]
    assert torch.equal(
        grouped.multiply(x, weights, at.ends, at.tokens), grouped.multiply(rows, weights, at.ends)
    )
    expected = grouped.outer(rows, others, at.ends)
    assert torch.equal(grouped.outer(x, y, at.ends, at.tokens, at.tokens), expected)
    gathered, which = grouped.gather(x, at.tokens)
    assert which is None
    assert torch.equal(gathered, rows)

"""Counts against an enumeration of every tensor, and against the formulas of Appendix C."""

from dataclasses import dataclass, replace
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moe_leverage.accounting import (
    CONVENTIONS,
    count_forward_flops,
    count_parameters,
    count_training_flops,
)
from moe_leverage.axes import whole_experts
from moe_leverage.config import LatentAttentionConfig, ModelConfig, RunConfig
from moe_leverage.model.transformer import build_model

SEQUENCE_LENGTH = 256
BASELINE = ModelConfig(
    vocab_size=1024, num_layers=4, d_model=64, num_heads=4, num_kv_heads=2,
    num_experts=64, num_active_experts=2, num_shared_experts=1, d_expert=64,
)  # fmt: skip
LATENT = LatentAttentionConfig(kv_rank=16, d_head_nope=12, d_head_rope=4, d_head_value=8, q_rank=24)


@dataclass(frozen=True)
class Tensor:
    component: str
    shape: tuple[int, ...]
    active_share: float = 1.0


def attention_tensors(m: ModelConfig) -> list[Tensor]:
    d, latent = m.d_model, m.latent_attention
    if latent is not None:
        width = m.num_heads * (latent.d_head_nope + latent.d_head_rope)
        value_width = m.num_heads * latent.d_head_value
        if latent.q_rank:
            shapes = [(d, latent.q_rank), (latent.q_rank, width)]
            shapes += [(latent.q_rank,)] if m.attention_bias else []
        else:
            shapes = [(d, width)]
        shapes.append((d, latent.kv_rank + latent.d_head_rope))
        shapes += [(latent.kv_rank + latent.d_head_rope,)] if m.attention_bias else []
        shapes.append((latent.kv_rank, m.num_heads * latent.d_head_nope + value_width))
        shapes.append((value_width, d))
        norms = [(latent.kv_rank,)] + ([(latent.q_rank,)] if latent.q_rank else [])
    else:
        q, kv = m.num_heads * m.d_head, m.num_kv_heads * m.d_head
        own, shared = attentions_of(m)
        shapes = own * [(d, q), (q, d)] + shared * [(d, kv), (d, kv)]
        shapes += own * [(q,)] + shared * [(kv,), (kv,)] if m.attention_bias else []
        norms = {
            "none": [],
            "head": [(m.d_head,), (m.d_head,)],
            "width": [(q,), (kv,)],
        }[m.qk_norm] * own
    shapes += [(d,)] * attentions_of(m)[0] if m.attention_output_bias else []
    shapes += [(m.num_heads,)] if m.attention_sinks else []
    gate = [Tensor("router", (d, m.num_attention_experts))] if m.num_attention_experts else []
    return gate + [Tensor("attention", s) for s in shapes] + [Tensor("norms", s) for s in norms]


def attentions_of(m: ModelConfig) -> tuple[int, int]:
    """Attentions of a layer, and how many projections of keys and values they have."""
    count = max(1, m.num_attention_experts)
    return count, 1 if m.shares_key_values else count


def ffn_tensors(m: ModelConfig, component: str, width: int, share: float = 1.0) -> list[Tensor]:
    shapes = [(m.d_model, width), (m.d_model, width), (width, m.d_model)]
    shapes += [(width,), (width,), (m.d_model,)] if m.ffn_bias else []
    return [Tensor(component, s, share) for s in shapes]


def block_tensors(m: ModelConfig, is_moe: bool) -> list[Tensor]:
    tensors = attention_tensors(m) + (2 - m.parallel_blocks) * [Tensor("norms", (m.d_model,))]
    if not is_moe:
        return tensors + ffn_tensors(m, "dense_ffn", m.d_ffn)
    tensors.append(Tensor("router", (m.d_model, m.num_experts)))
    tensors += [Tensor("router", (m.num_experts,))] if m.router_bias else []
    share = m.num_active_experts / m.num_experts
    for _ in range(m.num_experts):
        tensors += ffn_tensors(m, "routed_experts", m.d_expert, share)
    return tensors + (ffn_tensors(m, "shared_experts", m.d_shared) if m.d_shared else [])


def all_tensors(m: ModelConfig) -> list[Tensor]:
    tensors = [Tensor("embedding", (m.vocab_size, m.d_model)), Tensor("norms", (m.d_model,))]
    for layer in range(m.num_layers):
        tensors += block_tensors(m, m.is_moe and layer >= m.num_dense_layers)
    for _ in range(m.num_mtp_layers):
        shell = [Tensor("mtp", (2 * m.d_model, m.d_model))] + 3 * [Tensor("mtp", (m.d_model,))]
        block = block_tensors(m, m.is_moe)
        tensors += shell + [Tensor("mtp", t.shape, t.active_share) for t in block]
    return tensors + ([] if m.tie_embeddings else [Tensor("logits", (m.d_model, m.vocab_size))])


def by_component(tensors: list[Tensor], *, active: bool = False) -> dict[str, int]:
    sizes: dict[str, float] = {}
    for t in tensors:
        size = prod(t.shape) * (t.active_share if active else 1.0)
        sizes[t.component] = sizes.get(t.component, 0.0) + size
    return {name: round(size) for name, size in sizes.items()}


def latent_attentions():
    widths = st.integers(1, 24)
    return st.builds(
        LatentAttentionConfig, kv_rank=widths, d_head_nope=widths, d_head_rope=widths,
        d_head_value=widths, q_rank=st.integers(0, 24),
    )  # fmt: skip


@st.composite
def models(draw, latent=True):
    flag = st.booleans()
    num_layers, num_kv_heads = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sizes = {
        "vocab_size": draw(st.integers(2, 300)),
        "num_layers": num_layers,
        "d_model": 8 * draw(st.integers(1, 8)),
        "num_heads": num_kv_heads * draw(st.integers(1, 3)),
        "num_kv_heads": num_kv_heads,
        "d_head": 4 * draw(st.integers(1, 6)),
        "d_ffn": draw(st.integers(1, 64)),
        "num_mtp_layers": draw(st.integers(0, 2)),
        "qk_norm": draw(st.sampled_from(["none", "head", "width"])),
        "latent_attention": draw(st.none() | latent_attentions()) if latent else None,
    }
    for name in ("attention_bias", "attention_output_bias", "attention_sinks", "ffn_bias"):
        sizes[name] = draw(flag)
    sizes["parallel_blocks"] = draw(flag)
    if not (sizes["latent_attention"] or sizes["attention_sinks"]) and draw(flag):
        sizes |= {"num_attention_experts": draw(st.integers(2, 4)), "shares_key_values": draw(flag)}
    if draw(flag):
        num_experts, num_shared = draw(st.integers(1, 9)), draw(st.integers(0, 2))
        sizes |= {
            "num_experts": num_experts,
            "num_active_experts": draw(st.integers(1, num_experts)),
            "num_shared_experts": num_shared,
            "d_expert": draw(st.integers(1, 32)),
            "d_shared": draw(st.integers(1, 48)) if num_shared and draw(flag) else 0,
            "num_dense_layers": draw(st.integers(0, num_layers - 1)),
            "router_bias": draw(flag),
        }
    return ModelConfig(**sizes, tie_embeddings=draw(flag))


@settings(max_examples=200, deadline=None)
@given(models())
def test_counts_equal_an_enumeration_of_every_tensor(model):
    count, tensors = count_parameters(model), all_tensors(model)
    sizes = by_component(tensors)
    for name, size in sizes.items():
        assert getattr(count, name) == size, name
    assert count.total == sum(sizes.values())
    assert count.active == sum(by_component(tensors, active=True).values())


@settings(max_examples=200, deadline=None)
@given(models(), st.integers(1, 64))
def test_exact_flops_are_two_for_each_active_matrix_entry(model, sequence_length):
    flops = count_forward_flops(model, sequence_length)
    matrices = [t for t in all_tensors(model) if len(t.shape) == 2]
    expected = {name: 2 * size for name, size in by_component(matrices, active=True).items()}
    heads, latent = model.num_heads, model.latent_attention
    d_key = latent.d_head_nope + latent.d_head_rope if latent else model.d_head
    d_value = latent.d_head_value if latent else model.d_head
    scores = 2 * sequence_length * heads * (d_key + d_value) * attentions_of(model)[0]
    assert flops.attention_projections == expected["attention"]
    assert flops.attention_scores == scores * model.num_layers
    for name in ("router", "routed_experts", "shared_experts", "dense_ffn"):
        assert getattr(flops, name) == expected.get(name, 0)
    assert flops.mtp == expected.get("mtp", 0) + scores * model.num_mtp_layers
    positions = [max(sequence_length - k, 0) for k in range(model.num_mtp_layers + 1)]
    logits = 2 * model.d_model * model.vocab_size * sum(positions) / sequence_length
    assert flops.logits == pytest.approx(logits, rel=1e-15)
    assert flops.norms == 0
    assert flops.total == flops.non_embedding + flops.logits


def test_paper_convention_is_equations_14_to_16():
    model = replace(BASELINE, num_dense_layers=1, d_ffn=192, d_head=32)
    batch, length, d, heads, kv_heads = 3, SEQUENCE_LENGTH, 64, 4, 2
    attention = batch * length * d**2 * (2 + 2 / (heads / kv_heads)) + 4 * batch * length**2 * d
    dense = 6 * batch * length * d * 192
    moe = 6 * batch * length * d * (2 * 64) + 6 * batch * length * d * 64
    forward = 4 * attention + dense + 3 * moe + 2 * batch * length * d * 1024
    counted = count_forward_flops(model, length, "paper")
    assert counted.total * batch * length == pytest.approx(forward, rel=1e-15)
    assert counted.router == 0


def test_equation_14_lacks_half_of_the_projections():
    exact, paper = (count_forward_flops(BASELINE, 256, name) for name in ("exact", "paper"))
    assert exact.attention_projections == 2 * paper.attention_projections
    assert exact.attention_scores == paper.attention_scores
    assert exact.routed_experts == paper.routed_experts
    assert exact.logits == paper.logits
    difference = exact.router + paper.attention_projections
    assert exact.total == paper.total + difference


@settings(deadline=None)
@given(models())
def test_six_n_is_twice_the_active_non_vocabulary_parameters(model):
    flops = count_forward_flops(model, 1, "six_n")
    assert flops.total == flops.non_embedding == 2 * count_parameters(model).active_non_vocabulary


def test_paper_convention_refuses_what_it_does_not_define():
    with pytest.raises(ValueError, match=r"latent_attention.*outside equations"):
        count_forward_flops(replace(BASELINE, latent_attention=LATENT), 8, "paper")
    with pytest.raises(ValueError, match="num_attention_experts = 2"):
        count_forward_flops(replace(BASELINE, num_attention_experts=2), 8, "paper")
    with pytest.raises(ValueError, match="num_mtp_layers = 1"):
        count_forward_flops(replace(BASELINE, num_mtp_layers=1), 8, "paper")


@pytest.mark.parametrize("length", [0, -1, 2.5])
def test_sequence_length_must_be_a_positive_whole_number(length):
    with pytest.raises(ValueError, match="sequence_length"):
        count_forward_flops(BASELINE, length)


def test_unknown_convention_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'chinchilla'.*exact, paper, six_n"):
        count_forward_flops(BASELINE, 8, "chinchilla")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_training_is_three_forward_passes_over_every_token(convention):
    run = RunConfig(
        model=BASELINE, corpus="smoke", sequence_length=128, batch_sequences=8, num_steps=50,
        learning_rate=1e-3,
    )  # fmt: skip
    forward = count_forward_flops(BASELINE, 128, convention).total
    assert count_training_flops(run, convention) == 3 * forward * 128 * 8 * 50


def test_tied_embeddings_are_counted_once_and_projected_all_the_same():
    tied = replace(BASELINE, tie_embeddings=True)
    count, untied = count_parameters(tied), count_parameters(BASELINE)
    assert count.total == untied.total - 1024 * 64
    assert count.non_vocabulary == untied.non_vocabulary
    assert count_forward_flops(tied, 8) == count_forward_flops(BASELINE, 8)


def test_granularity_leaves_parameters_and_expert_flops_alone():
    axes = {"activation_ratio": 3 / 65, "d_model": BASELINE.d_model}
    shapes = [
        replace(BASELINE, d_shared=0, **whole_experts(granularity=g, **axes)) for g in (2, 4, 8)
    ]
    assert len({count_parameters(shape).routed_experts for shape in shapes}) == 1
    assert len({count_forward_flops(shape, 8).routed_experts for shape in shapes}) == 1


def trainable(model):
    """The nearest shape that is built here: latent attention, sinks and FFN biases are not."""
    return replace(model, latent_attention=None, attention_sinks=False, ffn_bias=False)


def counted_flops(model, run):
    """FLOPs as torch counts them; its counter sees the plain attention kernel and the loop only."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run(model)
    return counter.get_total_flops()


@settings(max_examples=40, deadline=None)
@given(models(latent=False), st.integers(1, 3), st.integers(3, 9))
def test_counts_equal_the_built_model_and_the_flop_counter(shape, batch, length):
    shape = trainable(shape)
    model = build_model(shape, seed=0, dispatch="loop")
    assert count_parameters(shape).total == sum(p.numel() for p in model.parameters())
    tokens = torch.zeros(batch, length, dtype=torch.int64)
    with torch.no_grad():
        flops = counted_flops(model, lambda built: built(tokens))
    expected = count_forward_flops(shape, length).total * batch * length
    assert flops == pytest.approx(expected, rel=1e-14)  # logits are an average over positions


def test_a_training_step_is_three_forward_passes_for_the_flop_counter():
    model, tokens = build_model(BASELINE, seed=0, dispatch="loop"), torch.zeros(2, 16).long()

    def step(built):
        built(tokens).logits.float().logsumexp(-1).sum().backward()

    forward = count_forward_flops(BASELINE, 16).total * tokens.numel()
    assert counted_flops(model, step) == 3 * forward

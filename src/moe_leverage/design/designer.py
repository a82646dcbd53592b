"""What the laws say of a model: leverage, dense equivalent, memory, warnings.

Stands for the use that Section 5 makes of Equation 13. What they say of a point is answered by
`prediction`, which model to build for a budget by `search`.

    A, G, S  activation ratio, granularity, shared-expert ratio
    C        training compute, FLOPs: three exact forward passes over D tokens
    M        non-embedding FLOPs of one token's forward pass
    EL       efficiency leverage: at equal D and loss, a dense model needs EL M (Section 3)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from moe_leverage.accounting import (
    TRAINING_PASSES,
    count_forward_flops,
    count_parameters,
)
from moe_leverage.axes import quantity
from moe_leverage.config import PAPER_SEQUENCE_LENGTH, ModelConfig
from moe_leverage.design.anatomy import Anatomy
from moe_leverage.design.huggingface import OpenModel
from moe_leverage.design.prediction import MeasuredLeverage, PublishedLeverage, predict
from moe_leverage.rules import require
from moe_leverage.theory.laws import PUBLISHED

WEIGHT_BYTES = 2  # bfloat16
GRADIENT_BYTES = 2  # bfloat16
OPTIMISER_BYTES = 12  # fp32 master weight and two fp32 moments (ZeRO, arXiv 1910.02054, Sec. 3.1)
TRAINING_BYTES = WEIGHT_BYTES + GRADIENT_BYTES + OPTIMISER_BYTES
PRECISIONS = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "int4": 0.5}  # bytes of a weight
CACHE_BYTES = 2  # bfloat16
GIGABYTE = 1e9

DENSE_HEAD = 128
DENSE_KV_GROUP = 4  # query heads for each key-value head, as in Dense-6.1B (Table 3)
DENSE_FFN_RATIO = 3.5  # d_ffn / d_model of Dense-6.1B (Table 3)
DENSE_ASPECT = 128  # d_model / num_layers aimed at; Dense-6.1B has 146


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseEquivalent:
    """The dense model that a leverage holds equal at the same tokens, as EL M and as a shape."""

    flops_per_token: float  # EL M, non-embedding
    shape: ModelConfig
    shape_flops_per_token: float  # M of the shape
    total_params: int  # N of the shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes / 1e9 in all; activations come on top."""

    weights_gb: float
    gradients_gb: float
    optimiser_gb: float
    training_gb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What serving one sequence takes: weights by precision, the cache of its keys and values."""

    weights_gb: dict[str, float]  # by precision
    cache_bytes_per_token: dict[str, float]  # bfloat16, by kind of layer; what grows with s
    cache_gb: float  # of one whole sequence, states included
    expert_parallel: int  # ranks over which the experts of a layer are spread
    experts_per_rank: float  # of one layer; shared experts and all else are on every rank
    rank_weights_gb: dict[str, float]
    rank_training_gb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A model on the paper's axes and under both laws; multi-token prediction is left out."""

    name: str
    activation_ratio: float
    granularity: float
    shared_ratio: float
    total_params: int  # N, without vocabulary
    active_params: int  # N_a, without vocabulary
    parameters: dict[str, int]  # by component, with `total` and `active`, vocabulary included
    flops_per_token: dict[str, float]  # forward by component, with `total` and `non_embedding`
    way: str  # how it was counted: a closed form, or built by which transformers
    convention: str  # exact, or causal: half the square of the scores
    sequence_length: int
    mixers: tuple[dict[str, Any], ...]  # equal layers together: kind, window, scores
    experts: tuple[dict[str, Any], ...]  # equal MoE layers together, with A, G and S
    tokens: float
    compute: float
    published: PublishedLeverage
    measured: MeasuredLeverage
    dense_equivalent: DenseEquivalent  # by the published leverage
    memory: Memory
    serving: Serving
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...]
    unused: tuple[str, ...]  # keys of the file that speak of a shape and had no part in the count

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def explain(
    found: OpenModel,
    *,
    compute: float | None = None,
    tokens: float | None = None,
    sequence_length: int | None = None,
    causal: bool = False,
    expert_parallel: int = 1,
) -> Explanation:
    """A model on the paper's axes, its counts and what both laws say of it at C or D.

    With neither, D is what its makers print, or that of Table 1 at this model's M. Raises
    ValueError if both are given or one is not positive.

    >>> from moe_leverage.design.huggingface import load
    >>> mini = explain(load("Ling-mini-beta"), tokens=1e12)
    >>> round(mini.total_params / 1e9, 1), round(mini.activation_ratio, 3), f"{mini.compute:.1e}"
    (17.5, 0.034, '1.1e+22')
    """
    anatomy = found.anatomy
    printed = found.published.get("sequence_length", PAPER_SEQUENCE_LENGTH)
    length = printed if sequence_length is None else sequence_length
    flops = anatomy.forward_flops(length, causal=causal)
    count = anatomy.parameters
    tokens, notes = _tokens(found, flops.total, flops.non_embedding, compute, tokens)
    spent = TRAINING_PASSES * flops.total * tokens
    said = predict(
        activation_ratio=anatomy.activation_ratio,
        granularity=anatomy.granularity or 1.0,  # no FFN, no G: at A = 1 none is asked for
        compute=spent,
    )
    return Explanation(
        name=found.name,
        activation_ratio=anatomy.activation_ratio,
        granularity=anatomy.granularity,
        shared_ratio=anatomy.shared_ratio,
        total_params=count.non_vocabulary,
        active_params=count.active_non_vocabulary,
        parameters=asdict(count) | {"total": count.total, "active": count.active},
        flops_per_token=asdict(flops)
        | {"total": flops.total, "non_embedding": flops.non_embedding},
        way=anatomy.way,
        convention="causal" if causal else "exact",
        sequence_length=length,
        mixers=_mixer_rows(anatomy, length),
        experts=_expert_rows(anatomy),
        tokens=tokens,
        compute=spent,
        published=said.published,
        measured=said.measured,
        dense_equivalent=dense_equivalent(
            flops.non_embedding, anatomy.vocab_size, length, said.published.value
        ),
        memory=memory(count.total),
        serving=serving(anatomy, length, expert_parallel),
        warnings=said.warnings,
        assumptions=(*found.assumptions, *_left_out(found), *_axes_notes(anatomy), *notes),
        unused=found.unused,
    )


def dense_equivalent(
    flops_per_token: float, vocab_size: int, length: int, leverage: float
) -> DenseEquivalent:
    """The dense model with EL times M = `flops_per_token` (Section 3, at fixed D), also as a shape.

    >>> dense_equivalent(1.5e9, 126_464, 8192, 7.0).shape.d_model
    3584
    """
    target = leverage * flops_per_token
    shape = dense_shape(target, vocab_size, length)
    return DenseEquivalent(
        flops_per_token=target,
        shape=shape,
        shape_flops_per_token=count_forward_flops(shape, length).non_embedding,
        total_params=count_parameters(shape).non_vocabulary,
    )


def dense_shape(flops_per_token: float, vocab_size: int, length: int) -> ModelConfig:
    """The buildable dense shape closest to M = `flops_per_token`, in proportions of Dense-6.1B."""
    step = DENSE_HEAD * DENSE_KV_GROUP
    shapes: list[tuple[float, ModelConfig, int]] = []
    for d_model in [128, 256, *range(step, 64 * step + 1, step)]:
        d_head = DENSE_HEAD if d_model >= step else d_model // DENSE_KV_GROUP
        heads = d_model // d_head
        layer = ModelConfig(
            vocab_size=vocab_size,
            num_layers=1,
            d_model=d_model,
            d_head=d_head,
            num_heads=heads,
            num_kv_heads=heads // DENSE_KV_GROUP,
            d_ffn=round(DENSE_FFN_RATIO * d_model),
        )
        per_layer = count_forward_flops(layer, length).non_embedding
        layers = max(1, round(flops_per_token / per_layer))
        off = abs(math.log(layers * per_layer / flops_per_token))
        skew = abs(math.log(d_model / layers / DENSE_ASPECT))
        shapes.append((4 * off + skew, layer, layers))
    _, layer, layers = min(shapes, key=lambda scored: scored[0])
    return replace(layer, num_layers=layers, num_dense_layers=0)


def memory(total_params: int) -> Memory:
    """Weights and gradients in bfloat16, master weights and Adam's moments in fp32.

    >>> memory(10**9).training_gb
    16.0
    """
    return Memory(
        weights_gb=total_params * WEIGHT_BYTES / GIGABYTE,
        gradients_gb=total_params * GRADIENT_BYTES / GIGABYTE,
        optimiser_gb=total_params * OPTIMISER_BYTES / GIGABYTE,
        training_gb=total_params * TRAINING_BYTES / GIGABYTE,
    )


def serving(anatomy: Anatomy, sequence_length: int, expert_parallel: int = 1) -> Serving:
    """Weights by precision, cache by kind of layer, and what one expert-parallel rank holds.

    >>> from moe_leverage.design.huggingface import load
    >>> found = serving(load("DeepSeek-V3").anatomy, 4096, expert_parallel=64)
    >>> found.cache_bytes_per_token, found.experts_per_rank
    ({'full': 70272.0}, 4.0)
    """
    rule = "must be from 1 to 65536"
    require(1 <= expert_parallel <= 65_536, "expert_parallel", expert_parallel, rule)
    experts = max((expert.num_experts for expert in anatomy.experts), default=0)
    fits = expert_parallel <= max(experts, 1) or not experts
    require(fits, "expert_parallel", expert_parallel, f"exceeds the {experts} experts of a layer")
    count = anatomy.parameters
    held = count.total - count.routed_experts * (1 - 1 / expert_parallel)
    growing: dict[str, float] = {}
    for mixer in anatomy.mixers:
        if mixer.cached:
            growing[mixer.kind] = (
                growing.get(mixer.kind, 0.0) + CACHE_BYTES * mixer.layers * mixer.cached
            )
    cache = sum(mixer.cached_numbers(sequence_length) for mixer in anatomy.mixers) * CACHE_BYTES
    return Serving(
        weights_gb={name: count.total * size / GIGABYTE for name, size in PRECISIONS.items()},
        cache_bytes_per_token=growing,
        cache_gb=cache / GIGABYTE,
        expert_parallel=expert_parallel,
        experts_per_rank=experts / expert_parallel,
        rank_weights_gb={name: held * size / GIGABYTE for name, size in PRECISIONS.items()},
        rank_training_gb=held * TRAINING_BYTES / GIGABYTE,
    )


def _mixer_rows(anatomy: Anatomy, length: int) -> tuple[dict[str, Any], ...]:
    """Each kind of layer with its scores over the full square and over what its mask leaves."""
    return tuple(
        {
            "kind": mixer.kind,
            "layers": mixer.layers,
            "window": mixer.window,
            "score_flops": mixer.score_flops(length),
            "causal_score_flops": mixer.score_flops(length, causal=True),
            "cached_numbers_per_token": mixer.layers * mixer.cached,
            "state_numbers": mixer.layers * mixer.state,
        }
        for mixer in anatomy.mixers
    )


def _expert_rows(anatomy: Anatomy) -> tuple[dict[str, Any], ...]:
    return tuple(
        asdict(expert)
        | {
            "activation_ratio": expert.activation_ratio,
            "granularity": expert.granularity,
            "shared_ratio": expert.shared_ratio,
        }
        for expert in anatomy.experts
    )


def _axes_notes(anatomy: Anatomy) -> Sequence[str]:
    notes = []
    if len(anatomy.experts) > 1:
        kinds = len(anatomy.experts)
        notes.append(f"MoE layers are of {kinds} kinds: A, G and S are means over the layers")
    for expert in anatomy.experts:
        whole = expert.num_shared_experts * expert.d_expert
        if expert.num_shared_experts > 1 and expert.d_shared == whole:
            said = f"{expert.d_shared} wide: {expert.num_shared_experts} of {expert.d_expert}"
            notes.append(f"shared experts are {said}")
    return tuple(dict.fromkeys(notes))


def _tokens(
    found: OpenModel,
    flops: float,
    model_scale: float,
    compute: float | None,
    tokens: float | None,
) -> tuple[float, Sequence[str]]:
    """D, and what was assumed to know it."""
    require(compute is None or tokens is None, "tokens", tokens, "contradicts compute; give one")
    if tokens is not None:
        return quantity("tokens", tokens), ()
    if compute is not None:
        return quantity("compute", compute) / (TRAINING_PASSES * flops), ()
    printed = found.published.get("training_tokens")
    if printed is not None:
        number = isinstance(printed, int | float) and not isinstance(printed, bool)
        require(number, "training_tokens", printed, "must be a number")
        known = quantity("training_tokens", printed)
        return known, (f"tokens = {known:g}, as its makers print",)
    laws = (PUBLISHED.moe_model, PUBLISHED.moe_tokens)
    if not found.anatomy.is_moe:
        laws = (PUBLISHED.dense_model, PUBLISHED.dense_tokens)
    best = float(laws[1](laws[0].compute_for(TRAINING_PASSES * model_scale)))
    return best, (f"tokens = {best:.3g}: none printed; Table 1 holds this optimal for this M",)


def _left_out(found: OpenModel) -> Sequence[str]:
    if found.shape is None or not found.shape.num_mtp_layers:
        return ()
    extra = count_parameters(found.shape).mtp
    return (f"multi-token prediction is left out: {extra / 1e9:.3g} B parameters in training",)

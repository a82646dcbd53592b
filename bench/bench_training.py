"""Speed of a training step beside Hugging Face transformers, and what limits it.

python -m bench training

All contestants of one shape live in one process and take turns, step by step, so that whatever
else the machine does falls on all alike; ratios are medians of ratios within a turn. The peer is
Ernie4_5_Moe, the same architecture at the same sizes, with the same fused AdamW and clipping; it
is spared the balance and z-losses, which we compute. Our step is timed as it is and through
`torch.compile`, and so is the peer's; what compiling takes is no part of a step and has its own
figure. Peak memory is that of a child process.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.training.evaluation import evaluate
from moe_leverage.training.learning import learn, start
from moe_leverage.training.machine import Execution, Machine, machine_of

SEQUENCE_LENGTH, BATCH_TOKENS, VOCABULARY = 256, 2_048, 1_024
TURNS, WARM_TURNS = 11, 2
LARGER_BATCHES = (8_192, 32_768)  # tokens, over which the parameters' own costs are spread
PEER_RATIO, DENSE_RATIO = 1.5, 1.25
MEMORY_STEPS = 3
PEAK_WIDTH = 1_024

Step = Callable[[torch.Tensor], object]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape of the bench and what is to be reached there."""

    width: int
    layers: int
    heads: int
    experts: int
    granularity: float = 2
    dense_target: float | None = None  # of MoE time over dense time
    peak_target: float | None = None  # share of the measured matrix-multiply peak

    def __str__(self) -> str:
        text = f"width {self.width}, {self.layers} layers, E {self.experts}"
        return text if self.granularity == 2 else f"{text}, G {self.granularity:g}"

    def moe(self) -> ModelConfig:
        """Two routed and one shared expert of the model's width at G = 2, finer at larger G."""
        active = round(1.5 * self.granularity)
        return ModelConfig(
            vocab_size=VOCABULARY,
            num_layers=self.layers,
            d_model=self.width,
            num_heads=self.heads,
            num_kv_heads=self.heads // 2,
            num_experts=self.experts,
            num_active_experts=active - active // 3,
            num_shared_experts=active // 3,
            d_expert=round(2 * self.width / self.granularity),
        )

    def dense(self) -> ModelConfig:
        """The dense model of the same depth, width and FLOPs per token, the router's aside."""
        moe = self.moe()
        return replace(
            moe, num_experts=0, num_active_experts=0, num_shared_experts=0, d_expert=0, d_shared=0,
            d_ffn=moe.d_active_ffn,
        )  # fmt: skip


SHAPES = (
    Shape(width=64, layers=4, heads=4, experts=32),
    Shape(width=64, layers=4, heads=4, experts=128, dense_target=DENSE_RATIO),
    Shape(width=128, layers=6, heads=8, experts=64, peak_target=0.45),
    Shape(width=256, layers=8, heads=8, experts=64, granularity=8, peak_target=0.60),
)


def run() -> list[dict[str, Any]]:
    """One row a figure: name, shape, value, unit, peer, ratio, target, met."""
    rows = []
    with (
        machine_of(Execution(device="cpu")) as machine,
        machine_of(Execution(device="cpu", compile=True)) as compiled,
    ):
        for shape in SHAPES:
            rows += time_shape(shape, machine, compiled)
        for batch_tokens in LARGER_BATCHES:
            rows.append(time_larger_batch(SHAPES[1], compiled, batch_tokens))
        rows.append(time_evaluation(SHAPES[0], machine))
    for shape in SHAPES:
        rows.append(memory(shape))
    return rows


def time_shape(shape: Shape, machine: Machine, compiled: Machine) -> list[dict[str, Any]]:
    """Rows of one shape: against the peers, against the dense model, against the peak."""
    torch.compiler.reset()
    steps = {
        "ours": our_step(shape.moe(), machine),
        "ours, compiled": our_step(shape.moe(), compiled),
        "grouped_mm": peer_step(shape.moe(), "grouped_mm"),
        "grouped_mm, compiled": peer_step(shape.moe(), "grouped_mm", is_compiled=True),
        "eager": peer_step(shape.moe(), "eager"),
        "dense": our_step(shape.dense(), machine),
        "dense, compiled": our_step(shape.dense(), compiled),
        "peak": square_product(),
    }
    first = seconds_of_first_steps(steps)
    seconds = take_turns(steps)
    rows = []
    for suffix in ("", ", compiled"):
        ours = seconds[f"ours{suffix}"]
        speed = [BATCH_TOKENS / s for s in ours]
        name = f"training step{suffix}"
        for experts in ("grouped_mm", "eager"):
            ratio = median_ratio(seconds[experts], ours)
            peer = f"transformers Ernie4_5_Moe, {experts} experts"
            row = figure(name, shape, speed, "tokens/s", peer, ratio)
            rows.append(row | {"target": f">= {PEER_RATIO} x", "met": ratio >= PEER_RATIO})
        if suffix:
            peer = "transformers Ernie4_5_Moe, grouped_mm experts, compiled"
            ratio = median_ratio(seconds["grouped_mm, compiled"], ours)
            rows.append(figure(name, shape, speed, "tokens/s", peer, ratio))
            rows.append(figure("compiling", shape, [first[f"ours{suffix}"]], "s", None, None))
        peer = f"our dense step at equal FLOPs{suffix}"
        ratio = median_ratio(ours, seconds[f"dense{suffix}"])
        row = figure(f"MoE step{suffix}", shape, ours, "s", peer, ratio)
        if shape.dense_target:
            row |= {"target": f"<= {shape.dense_target} x", "met": ratio <= shape.dense_target}
        rows.append(row)
        rows.append(share_of_peak(suffix, shape, ours, seconds["peak"]))
    return rows


def share_of_peak(
    suffix: str, shape: Shape, ours: list[float], peak: list[float]
) -> dict[str, Any]:
    """FLOPs of a step per second, over those of a large matrix product in the same turn."""
    flops = 3 * count_forward_flops(shape.moe(), SEQUENCE_LENGTH).total * BATCH_TOKENS
    shares = np.divide(flops, ours) / np.divide(2 * PEAK_WIDTH**3, peak)
    unit = "of fp32 matmul FLOP/s"
    row = figure(f"share of peak{suffix}", shape, shares.tolist(), unit, None, None)
    if shape.peak_target:
        met = row["value"] >= shape.peak_target
        row |= {"target": f">= {shape.peak_target:.0%}", "met": met}
    return row


def time_larger_batch(shape: Shape, machine: Machine, batch_tokens: int) -> dict[str, Any]:
    """Our step against our dense step once more, with more tokens in a step."""
    torch.compiler.reset()
    models = {"ours": shape.moe(), "dense": shape.dense()}
    steps = {name: our_step(model, machine, batch_tokens) for name, model in models.items()}
    seconds_of_first_steps(steps, batch_tokens)
    seconds = take_turns(steps, batch_tokens)
    ratio = median_ratio(seconds["ours"], seconds["dense"])
    peer = "our dense step at equal FLOPs, compiled"
    row = figure("MoE step, compiled", shape, seconds["ours"], "s", peer, ratio)
    return row | {"shape": f"{shape}, {batch_tokens:,} tokens"}


def seconds_of_first_steps(
    steps: Mapping[str, Step], batch_tokens: int = BATCH_TOKENS
) -> dict[str, float]:
    """Seconds of each contestant's first step, which compiles what is to be compiled."""
    tokens = random_tokens(torch.Generator().manual_seed(1), batch_tokens)
    seconds = {}
    for name, step in steps.items():
        begun = time.perf_counter()
        step(tokens)
        seconds[name] = time.perf_counter() - begun
    return seconds


def take_turns(
    steps: Mapping[str, Step], batch_tokens: int = BATCH_TOKENS, turns: int = TURNS
) -> dict[str, list[float]]:
    """Seconds of each contestant's step in each turn; the same tokens for all in a turn."""
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_TURNS + turns):
        tokens = random_tokens(generator, batch_tokens)
        for name, step in steps.items():
            begun = time.perf_counter()
            step(tokens)
            if turn >= WARM_TURNS:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def our_step(model: ModelConfig, machine: Machine, batch_tokens: int = BATCH_TOKENS) -> Step:
    """The trainer's own step, loss check, clipping and optimiser included."""
    run = run_of(model, batch_tokens)
    state = start(run, machine)
    return lambda tokens: learn(state, run, tokens, machine)


def peer_step(model: ModelConfig, experts: str, *, is_compiled: bool = False) -> Step:
    """The same step with transformers' model."""
    peer = peer_model(model, experts)
    if is_compiled:
        peer.compile()
    weights = [w for w in peer.parameters() if w.requires_grad]
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": 0.1},
        {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)

    def step(tokens: torch.Tensor) -> float:
        logits = peer(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


def peer_model(model: ModelConfig, experts: str) -> transformers.PreTrainedModel:
    """Ernie4_5_Moe at the sizes of `model`."""
    config = transformers.Ernie4_5_MoeConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.d_model,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads,
        moe_k=model.num_active_experts,
        moe_num_experts=model.num_experts,
        moe_num_shared_experts=model.num_shared_experts,
        moe_intermediate_size=model.d_expert,
        moe_layer_start_index=0,
        moe_layer_interval=1,
        max_position_embeddings=SEQUENCE_LENGTH,
        tie_word_embeddings=False,
        pad_token_id=None,
    )
    peer = transformers.Ernie4_5_MoeForCausalLM(config)
    peer.set_experts_implementation(experts)
    ours = count_parameters(model).total
    theirs = sum(w.numel() for w in peer.parameters() if w.requires_grad)
    assert ours == theirs, f"{ours:,} parameters of ours, {theirs:,} of the peer"
    return peer


def square_product() -> Step:
    """One large square fp32 matrix product: the machine's best, at this moment."""
    left, right = torch.ones(2, PEAK_WIDTH, PEAK_WIDTH)
    return lambda tokens: left @ right


def time_evaluation(shape: Shape, machine: Machine) -> dict[str, Any]:
    """Validation, in tokens a second, beside the training step's forward share of a third."""
    run = run_of(shape.moe())
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCABULARY, 65_537).astype(np.uint16)
    corpus = Corpus(
        tier="smoke",
        digest="",
        vocab_size=VOCABULARY,
        train=tokens,
        validation={"text": tokens},
        bytes_per_token={"text": 1.0},
    )
    state = start(run, machine)
    step = our_step(shape.moe(), machine)
    seconds = take_turns(
        {"train": step, "score": lambda _: evaluate(state.wrapped, run, corpus, machine)}
    )
    speed = [65_536 / s for s in seconds["score"]]
    ratio = 65_536 / BATCH_TOKENS * median_ratio(seconds["train"], seconds["score"])
    return figure("validation", shape, speed, "tokens/s", "our training step", ratio)


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median over the turns of the ratio within a turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def memory(shape: Shape) -> dict[str, Any]:
    """Peak resident memory of a child that makes a few steps, less that of one that makes none."""
    found = {}
    for who in ("ours", "grouped_mm", "nothing"):
        command = [sys.executable, "-m", "bench.bench_training", str(SHAPES.index(shape)), who]
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(command, capture_output=True, check=True, cwd=root)
        found[who] = json.loads(done.stdout)
    ours, peer = (found[who] - found["nothing"] for who in ("ours", "grouped_mm"))
    row = figure("peak memory above imports", shape, [ours / 2**20], "MiB", None, ours / peer)
    return row | {"peer": "transformers Ernie4_5_Moe, grouped_mm experts"}


def resident_after(shape: Shape, who: str) -> int:
    """Largest resident bytes of this process after a few steps."""
    if who != "nothing":
        with machine_of(Execution(device="cpu")) as machine:
            is_ours = who == "ours"
            step = our_step(shape.moe(), machine) if is_ours else peer_step(shape.moe(), who)
            for _ in range(MEMORY_STEPS):
                step(random_tokens(torch.Generator().manual_seed(0)))
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Largest resident size so far; Linux's rusage would count the parent's before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_of(model: ModelConfig, batch_tokens: int = BATCH_TOKENS) -> RunConfig:
    """A run of this model by the paper's recipe."""
    return RunConfig(
        model=model,
        corpus="smoke",
        sequence_length=SEQUENCE_LENGTH,
        batch_sequences=batch_tokens // SEQUENCE_LENGTH,
        num_steps=1_000,
        learning_rate=1e-3,
    )


def random_tokens(generator: torch.Generator, batch_tokens: int = BATCH_TOKENS) -> torch.Tensor:
    """A batch [b, s + 1] without any text in it: speed does not depend on what is read."""
    size = (batch_tokens // SEQUENCE_LENGTH, SEQUENCE_LENGTH + 1)
    return torch.randint(VOCABULARY, size, generator=generator)


def figure(
    name: str, shape: Shape, values: list[float], unit: str, peer: str | None, ratio: float | None
) -> dict[str, Any]:
    """The median of the turns, with their interquartile range as spread; no target yet."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {
        "name": name,
        "shape": str(shape),
        "value": middle,
        "spread": f"{low:.3g} to {high:.3g}",
        "unit": unit,
        "peer": peer,
        "ratio": ratio,
        "target": None,
        "met": None,
    }


if __name__ == "__main__":
    print(resident_after(SHAPES[int(sys.argv[1])], sys.argv[2]))

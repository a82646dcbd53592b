"""A recording of what routers do while a small model learns, under five ways of balancing.

The same model, data and seed each time: the paper's balance loss (Appendix B), the second ladder's,
ten times as strong, and that of its study of weak balance; the selection bias of Ling 2.0
(arXiv 2510.22115, Section 2); and none of it. The router microscope plays it.

    L, E, K    layers that route, routed experts, experts chosen per token
    T          tokens of the probe: held-out windows of every domain
    frame      what is seen after a step: loads, losses and choices on the probe and on a text
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe_leverage import corpus as corpora
from moe_leverage.accounting import count_training_flops
from moe_leverage.config import (
    LING2_WITHOUT_GROUPS,
    PAPER_ROUTING,
    ModelConfig,
    RoutingConfig,
    RunConfig,
)
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.instruments.recording import FORMAT
from moe_leverage.model import routing
from moe_leverage.model.kernels import cross_entropy
from moe_leverage.model.transformer import MixtureOfExperts
from moe_leverage.rules import require
from moe_leverage.studies.ladder import BASE, WEAK_BALANCE
from moe_leverage.studies.protocol import VOCAB_SIZE
from moe_leverage.training.evaluation import windows
from moe_leverage.training.learning import State, learn, start
from moe_leverage.training.loop import own_share, require_fit
from moe_leverage.training.machine import Execution, Machine, environment, machine_of

TEXT = (
    "The river rises in the hills, and by noon the old mill turns.\n"
    "def area(width, height):\n"
    "    return width * height\n"
    "A router chooses 2 of 32 experts; nobody tells it which.\n"
)  # our own words, and code, and figures
PROBE_WINDOWS = 4  # of each domain
NUM_FRAMES = 72
DENSE_FRAMES = 12  # one a step at the start, where loads move most
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # of an expert's number in the text's choices

RUN = RunConfig(  # with the first of the ways of balancing
    model=ModelConfig(
        vocab_size=VOCAB_SIZE,
        num_layers=3,
        d_model=48,
        num_heads=3,
        num_kv_heads=1,
        num_experts=32,
        num_active_experts=2,
        num_shared_experts=1,
        d_expert=48,
        routing=replace(PAPER_ROUTING, renormalise=True),
    ),
    corpus="smoke",  # the tier that every clone builds
    sequence_length=256,
    batch_sequences=2,
    num_steps=600,
    learning_rate=3e-3,
)
# Only the balancing differs: Ling 2.0 without its groups of experts, so that all compete as in the
# others, and no balancing keeps the z-loss, which balances nothing.
METHODS: dict[str, RoutingConfig] = {
    "loss": RUN.model.routing,
    "bias": LING2_WITHOUT_GROUPS,
    "none": replace(RUN.model.routing, balance_coefficient=0.0),
    "strong": replace(RUN.model.routing, balance_coefficient=BASE.balance_coefficient),
    "weak": replace(RUN.model.routing, balance_coefficient=WEAK_BALANCE),
}


def runs(base: RunConfig = RUN) -> dict[str, RunConfig]:
    """The run of each way of balancing; they differ in their routing alone.

    >>> [run.model.routing.score for run in runs().values()]
    ['softmax', 'sigmoid', 'softmax', 'softmax', 'softmax']
    """
    return {
        name: replace(base, model=replace(base.model, routing=method))
        for name, method in METHODS.items()
    }


def frame_steps(num_steps: int, count: int = NUM_FRAMES) -> list[int]:
    """Steps done at which a frame is kept: every one at first, then ever further apart.

    >>> steps = frame_steps(600)
    >>> steps[:4], steps[-1], len(steps)
    ([0, 1, 2, 3], 600, 72)
    """
    if num_steps <= DENSE_FRAMES:
        return list(range(num_steps + 1))
    wanted = min(count - DENSE_FRAMES - 1, num_steps - DENSE_FRAMES)
    late: list[int] = []
    for tried in range(wanted, 8 * wanted + 1):  # rounding merges the first; more are then asked
        grid = np.geomspace(DENSE_FRAMES, num_steps, tried + 1)[1:].round().astype(int)
        late = np.unique(grid[grid > DENSE_FRAMES]).tolist()
        if len(late) >= wanted:
            break
    return [*range(DENSE_FRAMES + 1), *late]


def record(
    base: RunConfig = RUN,
    *,
    corpus: Corpus,
    until: int | None = None,
    execution: Execution | None = None,
) -> dict[str, Any]:
    """The whole recording as plain values; with `until`, only the frames up to that step.

    Raises ValueError if corpus and run do not fit, or a run diverges.
    """
    execution = Execution(threads=1) if execution is None else execution
    require_fit(base, corpus, execution)
    rule = f"must be from 2 to {len(DIGITS)}, one digit each"
    experts = base.model.num_experts
    require(2 <= experts <= len(DIGITS), "num_experts", experts, rule)
    text = corpora.load_tokenizer().encode(TEXT).ids
    steps = [s for s in frame_steps(base.num_steps) if until is None or s <= until]
    methods = {}
    with machine_of(execution, base.precision) as machine:
        for name, run in runs(base).items():
            methods[name] = _method(run, corpus, torch.tensor([text]), steps, machine)
        made = environment(machine)
    tokens = [corpora.load_tokenizer().decode([token]) for token in text]
    return {
        "format": FORMAT,
        "provenance": {"corpus": corpus.tier, "corpus_digest": corpus.digest, "environment": made},
        "training_flops": count_training_flops(base),
        "num_experts": experts,
        "num_active_experts": base.model.num_active_experts,
        "probe_tokens": len(_probe(corpus, base)) * base.sequence_length,
        "text": tokens,
        "steps": steps,
        "methods": methods,
    }


def _method(
    run: RunConfig, corpus: Corpus, text: Tensor, steps: list[int], machine: Machine
) -> dict[str, Any]:
    """Train one run up to the last of `steps` and keep a frame at each."""
    probe = _probe(corpus, run)
    state = start(run, machine)
    frames = []
    for step in range(steps[-1] + 1):
        if step in steps:
            frames.append(_frame(state, probe, text))
        if step < steps[-1]:
            is_finite = learn(state, run, own_share(run, corpus, step, machine), machine)
            require(is_finite, "loss", step, "the run diverged")
    kept = {key: [frame[key] for frame in frames] for key in frames[0]}
    if run.model.routing.bias_update_rate == 0:
        del kept["bias"]
    return {"run_id": run.identity(), "run": run.to_dict(), **kept}


@torch.no_grad()
def _frame(state: State, probe: Tensor, text: Tensor) -> dict[str, Any]:
    """Loads, evenness, score of the chosen, biases and loss on the probe; choices of the text."""
    model = state.model
    model.eval()
    with _watched(model.routers()) as seen:
        output = model(probe[:, :-1])
    with _watched(model.routers()) as read:
        model(text)
    model.train()
    statistics = routing.load_statistics(output.counts)
    biases = [layer.selection_bias for layer in model.routers()]
    return {
        "loss_nats": round(cross_entropy(output.logits, probe[:, 1:]).item(), 4),
        "counts": output.counts.tolist(),  # [layer][expert], assignments of the probe
        "entropy": _rounded(statistics.entropy),
        "max_over_mean": _rounded(statistics.max_over_mean),
        "idle_experts": list(statistics.idle_experts),
        "chosen_share": _rounded([share for _, share in seen]),
        "bias": [[] if bias is None else _rounded(bias.tolist()) for bias in biases],
        "text": ["".join(DIGITS[e] for e in chosen.flatten().tolist()) for chosen, _ in read],
    }


@contextmanager
def _watched(routers: list[MixtureOfExperts]) -> Iterator[list[tuple[Tensor, float]]]:
    """Of each router in turn: the experts it chose [T, K], their mean share of all scores."""
    seen: list[tuple[Tensor, float]] = []

    def watch(layer: MixtureOfExperts, inputs: tuple[Tensor], _: Any) -> None:
        tokens = inputs[0].flatten(0, 1)
        chosen = layer.route(tokens)[0]
        scores = routing.score(layer.router(tokens.float()), layer.routing)
        share = scores.gather(1, chosen).sum(dim=-1) / scores.sum(dim=-1)
        seen.append((chosen, share.mean().item()))

    hooks = [router.register_forward_hook(watch) for router in routers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _probe(corpus: Corpus, run: RunConfig) -> Tensor:
    """The first, evenly spaced held-out windows of each domain [windows, sequence + 1]."""
    found = windows(corpus.validation, run.sequence_length, run.validation_tokens).values()
    picked = [part[:: max(1, math.ceil(len(part) / PROBE_WINDOWS))] for part in found]
    return torch.from_numpy(np.concatenate([part[:PROBE_WINDOWS] for part in picked]))


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]

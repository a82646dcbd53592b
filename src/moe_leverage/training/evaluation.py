"""The loss that is reported: language-model cross-entropy alone, on held-out documents.

In evaluation mode, dropless, without auxiliary terms (Section 2.1 compares models by this loss);
with a standard error over windows and the load of every expert.

    window      consecutive tokens, one sequence long, of one domain's validation tokens
    loss        nats a token; the mean over domains is weighted by their tokens
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moe_leverage.config import RunConfig
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.model.routing import load_statistics
from moe_leverage.training.machine import Machine

PASS_TOKENS = 4_096  # of one forward pass; larger ones leave the processor's cache


def windows(
    validation: Mapping[str, NDArray[np.uint16]], sequence_length: int, num_tokens: int
) -> dict[str, NDArray[np.int64]]:
    """Windows of sequence_length + 1 tokens of each domain, evenly spaced over its tokens.

    Windows share no target; each domain gives the same share of its windows, at least two, so
    that all domains together give at most `num_tokens` targets, or little more.

    >>> text = {"code": np.arange(10, dtype=np.uint16)}
    >>> found = windows(text, sequence_length=4, num_tokens=100)
    >>> found["code"].tolist()
    [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    """
    available = {name: (len(tokens) - 1) // sequence_length for name, tokens in validation.items()}
    share = min(1.0, num_tokens / sequence_length / sum(available.values()))
    found = {}
    for name, tokens in validation.items():
        wanted = max(2, round(share * available[name]))
        starts = np.linspace(0, available[name] - 1, wanted).round().astype(np.int64)
        places = starts[:, None] * sequence_length + np.arange(sequence_length + 1)
        found[name] = tokens[places].astype(np.int64)
    return found


def evaluate(
    model: nn.Module,
    run: RunConfig,
    corpus: Corpus,
    machine: Machine,
) -> dict[str, Any]:
    """Loss, standard error and bits per byte, overall and by domain, and the load statistics.

    The standard error is that of the mean over independent windows, domains being strata.
    """
    was_training = model.training
    model.eval()
    bytes_per_token = corpus.bytes_per_token
    domains, counts = {}, torch.zeros((), device=machine.device)
    scored = windows(corpus.validation, run.sequence_length, run.validation_tokens)
    for name, tokens in scored.items():
        losses, domain_counts = _window_losses(model, torch.from_numpy(tokens), run, machine)
        counts = counts + domain_counts
        loss = float(losses.mean())
        domains[name] = {
            "loss_nats": loss,
            "standard_error_nats": float(losses.std()) / math.sqrt(len(losses)),
            "bits_per_byte": loss / math.log(2) / bytes_per_token[name],
            "num_tokens": losses.numel() * run.sequence_length,
        }
    model.train(was_training)
    total = sum(domain["num_tokens"] for domain in domains.values())
    share = {name: domain["num_tokens"] / total for name, domain in domains.items()}
    loss = sum(share[name] * domain["loss_nats"] for name, domain in domains.items())
    bytes_scored = sum(share[name] * bytes_per_token[name] for name in domains)
    return {
        "validation_loss_nats": loss,
        "validation_standard_error_nats": math.hypot(
            *(share[name] * domain["standard_error_nats"] for name, domain in domains.items())
        ),
        "validation_bits_per_byte": loss / math.log(2) / bytes_scored,
        "validation": domains,
        "load": asdict(load_statistics(counts.cpu())) if counts.numel() > 1 else None,
    }


@torch.inference_mode()
def _window_losses(
    model: nn.Module, tokens: Tensor, run: RunConfig, machine: Machine
) -> tuple[Tensor, Tensor]:
    """Mean loss of each window in float64, and the assignments [L, E] over all of them."""
    losses, counts = [], []
    width = max(1, PASS_TOKENS // run.sequence_length)
    for start in range(0, len(tokens), width):
        piece = tokens[start : start + width].to(machine.device)
        with machine.autocast(run.precision):
            output = model(piece[:, :-1])
        nats = F.cross_entropy(
            output.logits.float().transpose(1, 2), piece[:, 1:], reduction="none"
        )
        losses.append(nats.cpu().double().mean(dim=1))
        counts.append(output.counts)
    return torch.cat(losses), torch.stack(counts).sum(dim=0)

"""Speed of the second ladder's own steps, with one thread as a study's worker has.

python -m bench ladder

Each body at the batch of its budget, dense and with 8, 64 and 256 experts: the step compiled beside
the step as it is, both beside a large matrix product in the same turn. Compiling is timed twice:
from nothing, and once more after the process has forgotten it, when it lies in the cache on disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.bench_training import (
    PEAK_WIDTH,
    SEQUENCE_LENGTH,
    median_ratio,
    our_step,
    seconds_of_first_steps,
    square_product,
    take_turns,
)
from moe_leverage.accounting import count_forward_flops
from moe_leverage.config import ModelConfig
from moe_leverage.studies.ladder import BASE
from moe_leverage.studies.protocol import Laws, derive
from moe_leverage.studies.sweeps import DENSE, EXPERTS
from moe_leverage.training.machine import Execution, machine_of

BODIES = ((3, 2_048), (5, 4_096), (7, 8_192), (8, 16_384))  # place in GEOMETRIES, tokens a step
DESIGNS = (DENSE, EXPERTS[2], EXPERTS[5], EXPERTS[7])
GAINS = {48: 1.6, 64: 1.5}  # of compiling, by width: to be reached
SHARES = {64: 0.6, 96: 0.6}  # of a core's matrix peak
COMPILING_SECONDS = 2.0
TURNS = 7


def run() -> list[dict[str, Any]]:
    """One row a figure: name, shape, value, unit, peer, ratio, target, met."""
    rows = []
    for size, batch_tokens in BODIES:
        dense_seconds: list[float] = []
        for design in DESIGNS:
            point = replace(BASE, size=size, batch_tokens=batch_tokens, **design)
            found, seconds = time_design(derive(point, Laws()).model, batch_tokens)
            rows += found
            if not dense_seconds:
                dense_seconds = seconds
                continue
            ratio = median_ratio(seconds, dense_seconds)
            peer = "the dense step at equal FLOPs, compiled"
            rows.append(rows[-1] | {
                "name": "mixture's step, compiled", "value": float(np.median(seconds)), "unit": "s",
                "peer": peer, "ratio": ratio, "target": None, "met": None,
            })  # fmt: skip
    return rows


def time_design(model: ModelConfig, batch_tokens: int) -> tuple[list[dict[str, Any]], list[float]]:
    """The rows of one model at one batch, and the seconds of its compiled steps."""
    torch.compiler.reset()
    shape = f"{model.num_layers}x{model.d_model}, E {model.num_experts}, {batch_tokens:,} tokens"
    with (
        machine_of(Execution(device="cpu", threads=1)) as machine,
        machine_of(Execution(device="cpu", threads=1, compile=True)) as compiled,
    ):
        steps = {
            "eager": our_step(model, machine, batch_tokens),
            "compiled": our_step(model, compiled, batch_tokens),
            "peak": square_product(),
        }
        first = seconds_of_first_steps(steps, batch_tokens)
        seconds = take_turns(steps, batch_tokens, TURNS)
        torch.compiler.reset()
        again = seconds_of_first_steps({"": our_step(model, compiled, batch_tokens)}, batch_tokens)
    flops = 3 * count_forward_flops(model, SEQUENCE_LENGTH).total * batch_tokens
    gain = median_ratio(seconds["eager"], seconds["compiled"])
    shares = np.divide(flops, seconds["compiled"]) / np.divide(2 * PEAK_WIDTH**3, seconds["peak"])
    share, speed = float(np.median(shares)), flops / float(np.median(seconds["compiled"]))
    cached = again[""] - float(np.median(seconds["compiled"]))
    return [
        row("step, compiled", shape, speed / 1e9, "GFLOP/s", gain, GAINS.get(model.d_model), 1),
        row("share of a core's matrix peak", shape, share, "of 1", None,
            SHARES.get(model.d_model), 1),
        row("compiling from nothing", shape, first["compiled"], "s", None, None, -1),
        row("compiling from the cache", shape, cached, "s", None, COMPILING_SECONDS, -1),
    ], seconds["compiled"]  # fmt: skip


def row(
    name: str, shape: str, value: float, unit: str, gain: float | None, target: float | None,
    direction: int,
) -> dict[str, Any]:  # fmt: skip
    """One line of the table; the target is of the gain where there is one, else of the value."""
    reached = value if gain is None else gain
    sign = ">=" if direction > 0 else "<="
    return {
        "name": name, "shape": shape, "value": value, "unit": unit,
        "peer": None if gain is None else "the same step as it is", "ratio": gain,
        "target": None if target is None else f"{sign} {target:g}",
        "met": None if target is None else direction * reached >= direction * target,
    }  # fmt: skip

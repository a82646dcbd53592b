"""Where a training step spends its time: the operators of a few steps, the costliest first.

python -m bench.profile_training [SHAPE] [moe | dense] [eager | compiled]

SHAPE is a number of bench_training.SHAPES.
"""

from __future__ import annotations

import sys

import torch
from torch.profiler import ProfilerActivity, profile

from bench.bench_training import SHAPES, our_step, random_tokens
from moe_leverage.training.machine import Execution, machine_of

WARM_STEPS, STEPS, ROWS = 4, 5, 30


def main(shape: str = "1", family: str = "moe", how: str = "eager") -> None:
    """Print the table of operators, five steps summed."""
    chosen = SHAPES[int(shape)]
    model = chosen.moe() if family == "moe" else chosen.dense()
    generator = torch.Generator().manual_seed(0)
    with machine_of(Execution(device="cpu", compile=how == "compiled")) as machine:
        step = our_step(model, machine)
        for _ in range(WARM_STEPS):
            step(random_tokens(generator))
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(STEPS):
                step(random_tokens(generator))
    table = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS)
    print(f"{chosen}, {family}, {how}, {STEPS} steps\n{table}")


if __name__ == "__main__":
    main(*sys.argv[1:])

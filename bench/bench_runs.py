"""CPU seconds and memory of `moe-leverage fit` on tables of several sizes, each in a new process.

    python -m bench.bench_runs [KIND/ROWS ...]

CPU seconds, start and imports included, are what a busy machine leaves unchanged. A `sweep` is like
the ledger of a step-size law: seven families, four sizes, a grid of rates and batches at each. Of
`settings` each row has an architecture, a size and a number of tokens of its own.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_leverage.theory.rivals import ChinchillaLaw

LAW = ChinchillaLaw(1.82, 482.0, 2085.0, 0.3478, 0.3658)  # Besiroglu et al. (2024), Table 1
SECONDS = {2_600: 3.0, 5_600: 6.0, 100_000: 60.0}
MEGABYTES = 500.0
SHAPES = ("sweep/2600", "sweep/5600", "settings/2600", "settings/5600", "sweep/100000",
          "settings/100000")  # fmt: skip
NOISE = 0.003
FIT = "import sys; sys.argv = ['moe-leverage', 'fit', sys.argv[1], '--json']\n" + (
    "from moe_leverage.cli import main; main()"
)


def made(kind: str, rows: int) -> pd.DataFrame:
    """A made-up table of so many rows whose mixtures have EL = A^(-1/4)."""
    generator = np.random.default_rng(0)
    if kind == "sweep":
        place = np.arange(rows)
        rate, batch, family = place % 6, place // 6 % 6, place // 36 % 7
        size, ratio = place // 252 % 4, place // 1008
        share = np.array([1.0, 0.03, 0.06, 0.12, 0.06, 0.06, 0.03])[family]
        granularity = np.array([2.0, 4.0, 4.0, 4.0, 2.0, 8.0, 8.0])[family]
        params = np.geomspace(6e7, 1.1e9, 4)[size]
        tokens = params * 10 * 20 ** (ratio / max(int(ratio.max()), 1))
        penalty = 1 + 0.01 * ((rate - 2.5) ** 2 + 0.5 * (batch - 3) ** 2)
        swept = {"lr": 2.5e-4 * 2.0**rate, "batch_tokens": 3e4 * 2.0**batch}
    else:
        share = generator.choice([1.0, 1.0, 1.0, 0.016, 0.03, 0.06], rows)
        granularity = np.where(share < 1, generator.choice([2.0, 4.0, 8.0, 16.0], rows), 2.0)
        params = np.exp(generator.uniform(np.log(5e7), np.log(1.6e10), rows))
        tokens = np.exp(generator.uniform(np.log(2e9), np.log(5e11), rows))
        penalty, swept = np.ones(rows), {}
    gain = share ** (-1 / 8)  # of size and of tokens each
    loss = LAW.evaluate(num_params=params * gain, num_tokens=tokens * gain) * penalty
    loss = loss * np.exp(NOISE * generator.standard_normal(rows))
    return pd.DataFrame({
        "kind": np.where(share < 1, "moe", "dense"), "A": share, "G": granularity,
        "active_params": params, "tokens": tokens, "flops": 6 * params * tokens, **swept,
        "loss": loss,
    })  # fmt: skip


def run(shapes: tuple[str, ...] = SHAPES) -> list[dict[str, Any]]:
    """Two rows a table: name, shape, value, unit, peer, ratio, target, met."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            kind, rows = shape.split("/")
            path = Path(folder) / "runs.csv"
            made(kind, int(rows)).to_csv(path, index=False)
            seconds, megabytes = spent(path)
            limits = (SECONDS.get(int(rows)), MEGABYTES)
            for value, unit, limit in zip((seconds, megabytes), ("CPU s", "MB"), limits,
                                          strict=True):  # fmt: skip
                found.append({
                    "name": "fit of a table", "shape": shape, "value": value, "unit": unit,
                    "peer": None, "ratio": None,
                    "target": None if limit is None else f"<= {limit:g}",
                    "met": None if limit is None else value <= limit,
                })  # fmt: skip
    return found


def spent(path: Path) -> tuple[float, float]:
    """CPU seconds and megabytes of one fit; the peak is that of the largest process so far."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}  # as installed: compiled once
    command = [sys.executable, "-c", FIT, str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_maxrss / 1024


if __name__ == "__main__":
    for row in run(tuple(sys.argv[1:]) or SHAPES):
        mark = "" if row["met"] is not False else "  missed"
        print(f"{row['shape']:18} {row['value']:8.1f} {row['unit']} ({row['target']}){mark}")

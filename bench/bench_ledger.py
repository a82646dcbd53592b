"""Time to read a ledger of 100,000 runs as one table.

python -m bench ledger
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from moe_leverage import ledger
from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.ledger import describe

RUNS, SECONDS = 100_000, 5.0
PEER_RUNS = 5_000  # that pandas' own flattening reads; its time is scaled


def run() -> list[dict[str, Any]]:
    """One row a figure: name, shape, value, unit, peer, ratio, target, met."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.jsonl"
        line = json.dumps(record(), separators=(",", ":")) + "\n"
        path.write_text(line * RUNS)
        seconds, table = timed(lambda: ledger.table(directory=Path(folder)))
        lines = [line] * PEER_RUNS
        peer, _ = timed(lambda: pd.json_normalize([json.loads(text) for text in lines]))
    assert len(table) == RUNS
    return [
        {
            "name": "ledger to table",
            "shape": f"{RUNS:,} runs of {len(line):,} bytes",
            "value": seconds,
            "unit": "s",
            "peer": "json and pandas.json_normalize",
            "ratio": peer * RUNS / PEER_RUNS / seconds,
            "target": f"<= {SECONDS:g} s",
            "met": seconds <= SECONDS,
        }
    ]


def record() -> dict[str, Any]:
    """A record as large as those of the studies."""
    model = ModelConfig(
        vocab_size=1_024, num_layers=6, d_model=128, num_heads=8, num_kv_heads=2,
        num_experts=64, num_active_experts=2, num_shared_experts=1, d_expert=128,
    )  # fmt: skip
    described = describe(
        RunConfig(
            model=model, corpus="full", sequence_length=256, batch_sequences=8, num_steps=2_000,
            learning_rate=1e-3,
        )
    )  # fmt: skip
    domain = {
        "loss_nats": 2.718281828459045,
        "standard_error_nats": 0.01234567890123,
        "bits_per_byte": 1.234567890123456,
        "num_tokens": 65_536,
    }
    return described | {
        "status": "ok",
        "corpus_digest": "0" * 64,
        "validation_loss_nats": 2.718281828459045,
        "validation": dict.fromkeys(("code", "prose", "services", "data"), domain),
        "load": {name: [1.234567890123456] * 6 for name in ("max_over_mean", "entropy", "idle")},
        "training_loss_curve_nats": [3.141593] * 64,
        "seconds": 123.45678901234567,
        "environment": dict.fromkeys("abcdefghijklmn", "2.13.0+cpu"),
    }


def timed(function: Any) -> tuple[float, Any]:
    """Seconds of one call, and what it returned."""
    begun = time.perf_counter()
    result = function()
    return time.perf_counter() - begun, result


if __name__ == "__main__":
    print(*run(), sep="\n")

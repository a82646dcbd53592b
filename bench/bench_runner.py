"""The runner: speed of its `status`, its share of the time, and what a second worker adds.

python -m bench runner
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_ledger import record
from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.studies.backends import Pool
from moe_leverage.studies.catalogue import STUDIES
from moe_leverage.studies.place import Place
from moe_leverage.studies.protocol import Point
from moe_leverage.studies.runner import run as run_planned
from moe_leverage.studies.status import status
from moe_leverage.studies.sweeps import Planned

RUNS, STATUS_SECONDS = 100_000, 3.0
SPEED_UP, OVERHEAD = 1.8, 0.02
TIMED_RUNS = 8
VOCABULARY = 256


def run() -> list[dict[str, Any]]:
    """One row a figure: name, shape, value, unit, peer, ratio, target, met."""
    return [status_of_a_large_ledger(), *workers()]


def status_of_a_large_ledger() -> dict[str, Any]:
    """`study status` over 100,000 runs spread over the files of all studies."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(ledger=Path(folder), runs=Path(folder) / "runs")
        line = json.dumps(record(), separators=(",", ":")) + "\n"
        run_id = json.loads(line)["run_id"]
        names = itertools.cycle(STUDIES)
        files = {name: (Path(folder) / f"{name}.jsonl").open("w") for name in STUDIES}
        for number in range(RUNS):
            files[next(names)].write(line.replace(run_id, f"{number:012x}"))
        for file in files.values():
            file.close()
        begun = time.perf_counter()
        found = status(place)
        seconds = time.perf_counter() - begun
    assert found["finished"] == RUNS
    return row("study status", f"{RUNS:,} runs", seconds, "s", STATUS_SECONDS, least=False)


def workers() -> list[dict[str, Any]]:
    """Equal runs by one worker process and by two, each with one thread."""
    seconds, share = {}, 0.0
    for count in (2, 1, 2):  # the first starts the processes and is measured again
        with tempfile.TemporaryDirectory() as folder:
            place = Place(
                ledger=Path(folder) / "ledger", runs=Path(folder) / "runs", open_corpus=toy_corpus
            )
            pool = Pool(workers=count, threads=1, device="cpu")
            begun = time.perf_counter()
            outcomes = run_planned(toy_plan(), pool=pool, place=place)
            seconds[count] = time.perf_counter() - begun
            troubles = [
                f"{outcome.state}: {outcome.reason}"
                for outcome in outcomes
                if outcome.state != "ok"
            ]
            assert not troubles, troubles
            assert len(outcomes) == TIMED_RUNS
            lines = (place.ledger / "toy.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines]
            if count == 1:
                trained = sum(
                    record["seconds"] + record["evaluation_seconds"] for record in records
                )
                share = 1 - trained / seconds[count]
    shape = f"{TIMED_RUNS} runs of {seconds[1] / TIMED_RUNS:.1f} s, {os.cpu_count()} cores"
    gain = seconds[1] / seconds[2]
    return [
        row("two workers over one", shape, gain, "times", SPEED_UP, least=True),
        row("runner's own share of the time", shape, share, "of 1", OVERHEAD, least=False),
    ]


def toy_plan() -> list[Planned]:
    """Runs of some seconds that differ in their seed."""
    model = ModelConfig(
        vocab_size=VOCABULARY, num_layers=3, d_model=64, num_heads=4, num_kv_heads=2,
        num_experts=8, num_active_experts=2, num_shared_experts=1, d_expert=64,
    )  # fmt: skip
    return [
        Planned(
            study="toy",
            sweep="seeds",
            point=Point(budget_flops=1e10, seed=seed),
            run=RunConfig(
                model=model, corpus="smoke", sequence_length=128, batch_sequences=8, num_steps=60,
                learning_rate=1e-3, seed=seed,
            ),
        )
        for seed in range(TIMED_RUNS)
    ]  # fmt: skip


def toy_corpus(tier: str) -> Corpus:
    """Random tokens: the time of a step does not depend on them."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 200_000).astype(np.uint16)
    return Corpus(
        tier=tier,
        digest="toy",
        vocab_size=VOCABULARY,
        train=tokens[:150_000],
        validation={"toy": tokens[190_000:]},
        bytes_per_token={"toy": 1.0},
    )


def row(
    name: str, shape: str, value: float, unit: str, target: float, *, least: bool
) -> dict[str, Any]:
    """One line of the table that `python -m bench` prints."""
    return {
        "name": name,
        "shape": shape,
        "value": value,
        "unit": unit,
        "peer": None,
        "ratio": None,
        "target": f"{'>=' if least else '<='} {target:g}",
        "met": value >= target if least else value <= target,
    }


if __name__ == "__main__":
    print(*run(), sep="\n")

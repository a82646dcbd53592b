"""Speed of counting, predicting and designing, beside transformers and plain Python.

python bench/bench_design.py
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from moe_leverage.accounting import count_parameters
from moe_leverage.design.huggingface import MODELS, load
from moe_leverage.design.limits import Limits
from moe_leverage.design.search import design
from moe_leverage.theory.laws import PUBLISHED

PREDICTIONS_SECONDS = 0.2  # a million, one core
EXPLAIN_SECONDS = 1.0  # from a cold start
NUM_PREDICTIONS = 1_000_000
LOOPED = 20_000  # of the million, for the loop in plain Python; its time is scaled
REPEATS = 5
EXPLAIN = "import sys; sys.argv = ['moe-leverage', 'explain', 'Mixtral-8x7B', '--json']\n" + (
    "from moe_leverage.cli import main; main()"
)
TRILLION_SECONDS, TRILLION_GIGABYTES = 5.0, 2.0
TRILLIONS = {
    "closed form": json.loads((MODELS / "Kimi-K2.json").read_text()),
    "built": {"model_type": "bailing_hybrid", "num_hidden_layers": 88, "hidden_size": 8192,
              "num_experts": 640},
}  # fmt: skip
MEASURED = """
import contextlib, io, json, resource, sys
from moe_leverage.cli import main
sys.argv = ["moe-leverage", "explain", {!r}, "--json"]
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
    main()
total = json.loads(said.getvalue())["parameters"]["total"]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, total)
"""
PEER_COUNT = (
    "import torch, transformers\n"
    "with torch.device('meta'):\n"
    "    model = transformers.MixtralForCausalLM(transformers.MixtralConfig())\n"
    "print(sum(p.numel() for p in model.parameters()))"
)
# What building costs however it is counted: the library's imports, the model, the end of a process.
PEER_TRILLION = """
import json, resource, sys, torch, transformers
with torch.device("meta"):
    config = transformers.AutoConfig.for_model(**json.load(open({!r})))
    model = transformers.AutoModelForCausalLM.from_config(config)
print(sum(p.numel() for p in model.parameters()))
"""


def run() -> list[dict[str, Any]]:
    """One row a figure: name, shape, value, unit, peer, ratio, target, met."""
    return [predictions(), explanation(), *trillions(), search()]


def predictions() -> dict[str, Any]:
    """The joint law at a million points, against the same formula in a Python loop."""
    generator = np.random.default_rng(0)
    point = {
        "activation_ratio": generator.uniform(0.01, 1, NUM_PREDICTIONS),
        "granularity": generator.uniform(2, 16, NUM_PREDICTIONS),
        "compute": 10 ** generator.uniform(18, 24, NUM_PREDICTIONS),
    }
    seconds = min(timed(lambda: PUBLISHED.joint(**point)) for _ in range(REPEATS))
    rows = np.stack(list(point.values()), axis=1)[:LOOPED].tolist()
    looped = timed(lambda: [plain(*row) for row in rows]) * NUM_PREDICTIONS / LOOPED
    ours = PUBLISHED.joint(**{name: column[:LOOPED] for name, column in point.items()})
    equal = bool(np.allclose(ours, [plain(*row) for row in rows], rtol=1e-12))
    return row(
        "predictions of the joint law", "1,000,000 points, one core", seconds,
        "loop in plain Python", looped / seconds, PREDICTIONS_SECONDS,
    ) | {"equal": equal}  # fmt: skip


def plain(activation_ratio: float, granularity: float, compute: float) -> float:
    """Equation 13 with `math` alone."""
    law = PUBLISHED.joint
    offset = 1 / (1 / law.a_start - 1 / law.a_max)
    saturated = 1 / (1 / (activation_ratio + offset) + 1 / law.a_max)
    log_g = math.log2(granularity)
    exponent = law.a + law.d * math.log10(compute) + law.gamma * log_g**2 + law.beta * log_g
    return float(saturated**exponent)


def explanation() -> dict[str, Any]:
    """`moe-leverage explain` from a cold start, against counting with transformers on meta."""
    seconds = min(timed(lambda: python(EXPLAIN)) for _ in range(REPEATS))
    peer = timed(lambda: python(PEER_COUNT))
    equal = int(python(PEER_COUNT)) == count_parameters(load("Mixtral-8x7B").model).total
    return row(
        "explain a model, cold start", "Mixtral-8x7B, a new process", seconds,
        "transformers on the meta device, parameters alone", peer / seconds, EXPLAIN_SECONDS,
    ) | {"equal": equal}  # fmt: skip


def trillions() -> list[dict[str, Any]]:
    """`explain` of 1e12 parameters in a new process, by a closed form and built: CPU and memory.

    CPU is that of the process from its start to its end; the peer builds the same and sums it up.
    """
    found = []
    for way, config in TRILLIONS.items():
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(config, file)
            file.flush()
            seconds, said = cpu(MEASURED.format(file.name))
            peer, summed = cpu(PEER_TRILLION.format(file.name)) if way == "built" else (None, "")
        gigabytes, parameters = map(float, said.split())
        shape = f"{way}, {parameters / 1e12:.2f} T parameters, {gigabytes:.2f} GB, CPU"
        name = "transformers on the meta device, parameters alone" if peer else None
        ratio = peer / seconds if peer else None
        one = row("explain a trillion", shape, seconds, name, ratio, TRILLION_SECONDS)
        equal = int(summed) == parameters if peer else None
        found.append(one | {"met": one["met"] and gigabytes < TRILLION_GIGABYTES, "equal": equal})
    return found


def search() -> dict[str, Any]:
    """The design search, warm."""
    limits = Limits(compute=1e22, max_total_params=20e9)
    seconds = min(timed(lambda: design(limits)) for _ in range(REPEATS))
    shape = "C = 1e22, at most 20e9 parameters"
    return row("design search", shape, seconds, None, None, None)


def python(program: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return done.stdout.decode()


def cpu(program: str) -> tuple[float, str]:
    """CPU seconds of a new process, user and system, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = python(program)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def row(
    name: str, shape: str, value: float, peer: str | None, ratio: float | None,
    target: float | None,
) -> dict[str, Any]:  # fmt: skip
    """One figure in seconds; `met` says whether it is under its target."""
    return {
        "name": name,
        "shape": shape,
        "value": round(value, 4),
        "unit": "s",
        "peer": peer,
        "ratio": None if ratio is None else round(ratio, 1),
        "target": None if target is None else f"<= {target:g} s",
        "met": None if target is None else value <= target,
    }


if __name__ == "__main__":
    for figure in run():
        print(figure)

"""What the router microscope is given: the recording as a script, and as a table of its course.

Stands for Appendix B of the paper (balance loss) beside the selection bias of Ling 2.0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from moe_leverage.instruments import recording

NAMES = {  # of the ways of balancing that `router_trace` records
    "loss": "balance loss",
    "bias": "selection bias",
    "none": "no balancing",
    "strong": "strong balance loss",
    "weak": "weak balance loss",
}
PLAYED = ("loss_nats", "counts", "entropy", "max_over_mean", "idle_experts", "chosen_share", "text")


def script(path: Path = recording.TRACE) -> str:
    """The recording as a script, which works from a file where fetching would not."""
    trace = recording.load(path)
    methods = {
        name: {"name": NAMES[name], "coefficient": coefficient(m)}
        | {key: m[key] for key in (*PLAYED, "bias") if key in m}
        for name, m in trace["methods"].items()
    }
    shown = ("num_experts", "num_active_experts", "text", "steps", "probe_tokens")
    values = {key: trace[key] for key in shown} | {"batch_tokens": batch_tokens(trace)}
    text = json.dumps(values | {"methods": methods}, separators=(",", ":"), allow_nan=False)
    return f"window.moeRouter = {text};\n"


def coefficient(method: dict[str, Any]) -> float:
    """The coefficient of a way's balance loss, 0 where it has none."""
    return float(method["run"]["model"]["routing"]["balance_coefficient"])


def course(trace: dict[str, Any]) -> pd.DataFrame:
    """One row a way of balancing and step: loss, and evenness averaged over the layers."""
    rows = [
        {
            "balancing": NAMES[name],
            "steps": step,
            "loss_nats": method["loss_nats"][i],
            "entropy": sum(method["entropy"][i]) / len(method["entropy"][i]),
            "max_over_mean": sum(method["max_over_mean"][i]) / len(method["max_over_mean"][i]),
            "idle_experts": sum(method["idle_experts"][i]),
            "chosen_share": sum(method["chosen_share"][i]) / len(method["chosen_share"][i]),
        }
        for name, method in trace["methods"].items()
        for i, step in enumerate(trace["steps"])
    ]
    return pd.DataFrame(rows)


def batch_tokens(trace: dict[str, Any]) -> int:
    """Tokens of one training step, the same in every run of the recording."""
    run = next(iter(trace["methods"].values()))["run"]
    return int(run["batch_sequences"] * run["sequence_length"])

"""The fits of a reader's table in one file, and leverage predicted from it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moe_leverage import paths
from moe_leverage.analysis.findings import Findings
from moe_leverage.analysis.fitted import Fit
from moe_leverage.axes import quantity
from moe_leverage.rules import require

FORMAT = 1


def save(path: Path, found: Findings) -> None:
    """Write every law that was fitted, with its samples, as one JSON file."""
    record: dict[str, Any] = {"format": FORMAT, "fits": {}}
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / "fit.json"
        for name, fitted in found.fits.items():
            if fitted.role == "law" and np.isfinite(fitted.samples).all():
                fitted.save(beside)
                record["fits"][name] = json.loads(beside.read_text("utf-8"))
    require(
        bool(record["fits"]), "--save", path.name, "no law was fitted, so there is none to keep"
    )
    paths.write_atomically(path, json.dumps(record, separators=(",", ":")) + "\n")


def load(path: Path) -> dict[str, Fit]:
    """The fits that `save` wrote; ValueError if the file is another thing."""
    require(path.is_file(), "--from", str(path), "is not a file")
    try:
        record = json.loads(path.read_text("utf-8"))
        fits = record["fits"] if record["format"] == FORMAT else None
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = None
    if not isinstance(fits, dict):
        raise ValueError(f"--from = {path.name!r}: is no file that fit --save wrote")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / path.name
        for name, record in fits.items():
            beside.write_text(json.dumps(record), "utf-8")
            found[name] = Fit.load(beside)
    return found


def predict(path: Path, point: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """What every saved law whose inputs the point has says there, with its interval."""
    point = {name: quantity(name, value) for name, value in point.items()}
    found = {}
    for name, fitted in load(path).items():
        if not set(fitted.law.inputs) <= set(point):
            continue
        own = {key: point[key] for key in fitted.law.inputs}
        with np.errstate(over="ignore"):
            told = fitted.predict(own)
        value = float(told.value[0])
        require(0 < value < np.inf, f"--from {name}", value, "is what the law gives here")
        ends = [float(end) for end in told.confidence[0]]
        found[name] = {
            "target": fitted.target,
            "value": value,
            "interval": ends if np.isfinite(ends).all() else None,
            "warnings": fitted.law.outside(**own),
        }
    require(bool(found), "--from", path.name, "keeps no law of A, G and compute")
    return found


def sentence(name: str, told: Mapping[str, Any]) -> str:
    """One law's answer in a line."""
    ends = told["interval"]
    span = "no interval" if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}"
    beyond = f"; {'; '.join(told['warnings'])}" if told["warnings"] else ""
    return f"{name}: {told['target']} = {told['value']:.3g} ({span}){beyond}"

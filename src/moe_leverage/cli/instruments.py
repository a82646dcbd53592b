"""`moe-leverage router-trace`: record what the router microscope plays."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from moe_leverage.cli import app


@app.command("router-trace")
def router_trace(
    out: Annotated[Path | None, typer.Option(help="File to write; data/instruments' own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was seen as JSON.")] = False,
) -> None:
    """Train a small model under each way of balancing; record its routers for the microscope.

    Example: moe-leverage router-trace --out trace.json
    """
    from moe_leverage import paths

    if out is not None:
        paths.require_output("out", out)

    from moe_leverage import corpus  # only now: a mistake is answered at once
    from moe_leverage.instruments import recording
    from moe_leverage.instruments import router_trace as recorder

    path = recording.TRACE if out is None else out
    begun, worked = time.monotonic(), time.process_time()
    trace = recorder.record(corpus=corpus.load(recorder.RUN.corpus))
    trace["provenance"]["seconds"] = round(time.monotonic() - begun, 1)
    trace["provenance"]["processor_seconds"] = round(time.process_time() - worked, 1)
    recording.write(trace, path)
    last = {
        name: {
            "loss_nats": method["loss_nats"][-1],
            "entropy": method["entropy"][-1],
            "max_over_mean": method["max_over_mean"][-1],
        }
        for name, method in trace["methods"].items()
    }
    if as_json:
        typer.echo(json.dumps({"file": str(path), "frames": len(trace["steps"]), "last": last}))
        return
    typer.echo(f"{path}: {len(trace['steps'])} frames in {trace['provenance']['seconds']} s")
    for name, seen in last.items():
        evenness = ", ".join(f"{value:.2f}" for value in seen["max_over_mean"])
        loss = seen["loss_nats"]
        typer.echo(f"{name:6} loss {loss:.3f} nats, largest load over mean by layer {evenness}")

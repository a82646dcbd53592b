"""The file of a recording of routers, written by `router_trace`, played by the microscope.

Apart from the recorder, so that a page is built without loading what trains.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from moe_leverage import paths
from moe_leverage.rules import require

TRACE = paths.INSTRUMENTS / "router.json"
FORMAT = 1


def write(trace: dict[str, Any], path: Path = TRACE) -> None:
    """Write a recording as JSON, a line for each entry of a method."""
    head = {key: value for key, value in trace.items() if key != "methods"}
    lines = [f"{json.dumps(key)}:{_compact(value)}" for key, value in head.items()]
    methods = [
        f"{json.dumps(name)}:{{\n"
        + ",\n".join(f"{json.dumps(key)}:{_compact(value)}" for key, value in method.items())
        + "\n}"
        for name, method in trace["methods"].items()
    ]
    lines.append('"methods":{\n' + ",\n".join(methods) + "\n}")
    paths.write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load(path: Path = TRACE) -> dict[str, Any]:
    """The recording that `write` wrote; ValueError if there is none or it is of another format."""
    rule = "not recorded; run moe-leverage router-trace"
    require(path.is_file(), "router trace", path.name, rule)
    trace: dict[str, Any] = json.loads(path.read_text("utf-8"))
    require(trace.get("format") == FORMAT, "format", trace.get("format"), f"must be {FORMAT}")
    return trace


_compact = functools.partial(json.dumps, separators=(",", ":"))

"""Lays the executed chapters out, renders them strictly, puts the site in place.

Nothing is done where the site in place stands on the same hashes already.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import fingerprint
import publishing
import staging
import yaml
from _ext.addresses import pages_address
from chapters import ROOT

from moe_leverage import paths
from moe_leverage.paths import BUILD, write_atomically

RENDERED = BUILD / "sphinx"
STATE = BUILD / "site.json"  # the hashes behind the site that is in place


def render(given: dict[str, Any]) -> Path:
    """Stage, render and publish, unless that would change nothing; the first page."""
    state = {"stage": staging.stage(_provenance(), given), "frame": staging.frame()}
    before = json.loads(STATE.read_text(encoding="utf-8")) if STATE.is_file() else {}
    first_page = publishing.SITE / "index.html"
    if state == before and first_page.is_file():
        return first_page
    if state["frame"] != before.get("frame"):
        shutil.rmtree(RENDERED, ignore_errors=True)
    STATE.unlink(missing_ok=True)
    _sphinx()
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    first_page = publishing.publish(
        RENDERED / "_build/html", pages_address(config["repository"]["url"])
    )
    write_atomically(STATE, json.dumps(state))
    return first_page


def _sphinx() -> None:
    """Render the stage; a warning is an error, and then no page of the attempt is kept."""
    program = Path(sys.executable).with_name("jupyter-book")
    places: list[str | Path] = [
        "--config",
        ROOT / "_config.yml",
        "--toc",
        ROOT / "_toc.yml",
        "--path-output",
        RENDERED,
    ]
    strict = ["-W", "-n", "--keep-going", "-q"]
    try:
        subprocess.run(
            [program, "build", staging.STAGE, *places, *strict],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError:
        # a page that is not read again would not repeat its warnings
        shutil.rmtree(RENDERED, ignore_errors=True)
        message = "the pages were not rendered, see above; the site in place is the last good one"
        raise RuntimeError(message) from None


def _provenance() -> dict[str, str]:
    """What the footer of every page says."""
    versions = {name: metadata.version(name).split("+")[0] for name in ("moe-leverage", "torch")}
    described = [f"{name} {version}" for name, version in versions.items()]
    return {
        "Commit": _commit(),
        "Data": fingerprint.of_files(ROOT, "data"),
        "Versions": ", ".join([*described, f"Python {platform.python_version()}"]),
    }


def _commit() -> str:
    """The commit with its date, which stands for the date of the build so that builds repeat."""
    found = paths.commit()
    if found is None:
        return "unknown"
    show = ["git", "-C", str(ROOT), "show", "--no-patch", "--format=%h of %cs", "HEAD"]
    commit = subprocess.run(show, capture_output=True, text=True, check=False).stdout.strip()
    status = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    dirty = subprocess.run(status, capture_output=True, text=True, check=False).stdout.strip()
    return f"{commit}{', with changes' if dirty else ''}"

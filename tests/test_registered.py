"""What decides a claim was written down before the runs that decide it: read from the history."""

from __future__ import annotations

import subprocess
import tomllib
from typing import Any

import pytest

from moe_leverage import audit
from moe_leverage.paths import DATA
from moe_leverage.studies.catalogue import STUDIES

ROOT = DATA.parent
CLAIMS = "data/paper/claims.toml"


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def has_history() -> bool:
    try:
        return git("rev-parse", "--is-shallow-repository") == "false"
    except (OSError, subprocess.CalledProcessError):
        return False


def measured() -> list[tuple[str, str]]:
    """(claim, study) of every claim that runs of the second ladder decide."""
    found = []
    for claim in audit.load_claims():
        named = claim.arguments.get("study", ())
        studies = (named,) if isinstance(named, str) else tuple(named)
        found += [(claim.id, s) for s in studies if s in STUDIES and STUDIES[s].protocol == 2]
    return found


def regions(text: str) -> dict[str, Any]:
    return {entry["id"]: entry.get("region") for entry in tomllib.loads(text)["claim"]}


@pytest.mark.skipif(not has_history(), reason="no history: not a full clone of the repository")
@pytest.mark.parametrize(("name", "study"), measured())
def test_a_region_is_older_than_the_runs_it_judges(name: str, study: str) -> None:
    rows = f"data/ledger/{study}.jsonl"
    first = git("log", "--diff-filter=A", "--format=%H", "--", rows).splitlines()
    if not first:
        return  # no run of it yet
    before = regions(git("show", f"{first[-1]}^:{CLAIMS}"))
    now = regions((ROOT / CLAIMS).read_text(encoding="utf-8"))
    assert name in before, f"{name} was registered after the first runs of {study}"
    assert now[name] == before[name], f"the region of {name} moved after the first runs of {study}"

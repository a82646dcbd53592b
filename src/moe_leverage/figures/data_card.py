"""Tables of the data card: what the corpus holds, from its manifest, beside the paper's corpus.

The paper describes its training data by size and source type only (Section 3.1); ours can be built
again byte for byte, so its card is computed from the manifest that the build is checked against.
"""

from __future__ import annotations

import pandas as pd

from moe_leverage.corpus.documents import recipe
from moe_leverage.corpus.tokens import TIERS, read_manifest
from moe_leverage.stages import DOMAINS

DESCRIPTIONS = {
    "code": "library source without its docstrings",
    "prose": "docstrings, documentation, worked examples",
    "services": "machine-readable descriptions of web services",
    "data": "configuration, translations, lists of names and places",
}


def domains(tier: str) -> pd.DataFrame:
    """One row a domain: share, documents, bytes and tokens, and the held-out ones."""
    rows = read_manifest(tier)["domains"]
    return pd.DataFrame([
        {
            "domain": domain,
            "text": DESCRIPTIONS[domain],
            "share (%)": 100 * rows[domain]["share"],
            "documents": rows[domain]["documents"],
            "MB": rows[domain]["bytes"] / 1e6,
            "tokens (million)": rows[domain]["tokens"] / 1e6,
            "bytes a token": rows[domain]["bytes"] / rows[domain]["tokens"],
            "held-out documents": rows[domain]["validation_documents"],
            "held-out tokens": rows[domain]["validation_tokens"],
        }
        for domain in DOMAINS
    ])  # fmt: skip


def sources(tier: str) -> pd.DataFrame:
    """One row a wheel, the largest first: version, licence and what it gives to the tier."""
    rows = read_manifest(tier)["sources"]
    in_smoke = {source.label for source in recipe("smoke").sources}
    table = pd.DataFrame([
        {
            "package": source.name,
            "version": source.version,
            "licence": source.licence,
            "in smoke": "yes" if source.label in in_smoke else "no",
            "documents": rows[source.label]["documents"],
            "tokens (million)": rows[source.label]["tokens"] / 1e6,
        }
        for source in recipe(tier).sources
    ])  # fmt: skip
    return table.sort_values("tokens (million)", ascending=False, ignore_index=True)


def totals() -> dict[str, float]:
    """Tokens in millions of each tier, trained on and held out, for the prose."""
    found: dict[str, float] = {}
    for tier in TIERS:
        rows = read_manifest(tier)["domains"].values()
        found[f"{tier}_train"] = sum(row["tokens"] for row in rows) / 1e6
        found[f"{tier}_held_out"] = sum(row["validation_tokens"] for row in rows) / 1e6
        found[f"{tier}_megabytes"] = sum(row["bytes"] for row in rows) / 1e6
    return found

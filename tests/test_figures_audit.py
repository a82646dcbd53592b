"""Chapter 10 on the page: two figures, the table of claims, the leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from moe_leverage.audit import LABELS, Verdict, audit, audit_statements, counts
from moe_leverage.figures import audit as page
from moe_leverage.page import registry


@pytest.fixture(scope="module")
def verdicts() -> tuple[Verdict, ...]:
    return audit()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    bundles: list[dict[str, Any]] = []
    monkeypatch.setattr(registry, "FIGURE_DIRECTORY", tmp_path)
    for module in (page, registry):
        monkeypatch.setattr(module, "display", lambda bundle, **_: bundles.append(bundle))
    monkeypatch.setattr(page, "say", lambda text: bundles.append({"text/plain": text}))
    return bundles


def test_statements_of_other_papers_are_counted_law_by_law() -> None:
    statements = audit_statements()
    found = page.by_law(statements)
    assert len(found) == len({verdict.claim.law for verdict in statements})
    labels = [label for label in found.columns if label != "law"]
    expected = {label: count for label, count in counts(statements).items() if count}
    assert found[labels].sum().to_dict() == expected


def test_the_tally_counts_what_the_audit_counts(verdicts: tuple[Verdict, ...]) -> None:
    tally = page.tally(verdicts)
    assert tally[list(LABELS)].sum().to_dict() == counts(verdicts)
    drawing = registry.draw("audit-verdicts", tally)
    assert drawing.figure.axes[0].get_xlabel() == "Claims"
    assert f"Of {sum(counts(verdicts).values())} claims" in drawing.finding
    plt.close(drawing.figure)


def test_ratios_are_those_of_the_verdicts(verdicts: tuple[Verdict, ...]) -> None:
    ratios = page.recomputed(verdicts).set_index("id")
    assert ratios.loc["ling-g-12", "found_over_published"] == pytest.approx(32 / 3 / 12)
    near = ratios.query("verdict == 'reproduced'")["found_over_published"]
    assert near.between(0.9, 1.1).all()
    drawing = registry.draw("audit-recomputed", ratios.reset_index())
    assert "recomputed numbers" in drawing.finding
    labels = [text.get_text() for text in drawing.figure.axes[0].get_yticklabels()]
    assert "1" in labels
    plt.close(drawing.figure)


def test_claims_are_shown_as_one_table(
    verdicts: tuple[Verdict, ...], shown: list[dict[str, Any]]
) -> None:
    page.show_claims(verdicts)
    (bundle,) = shown
    assert 'data-filter="verdict kind chapter"' in bundle["text/html"]
    assert bundle["text/html"].count("<tr id=") == len(verdicts)
    assert '<a href="claims.html#lead-8">lead 8</a>' in bundle["text/html"]
    own = [verdict for verdict in verdicts if not verdict.claim.reading_of]
    assert bundle["text/html"].count("#conclusion-") == len(own)


@pytest.mark.parametrize("number", range(1, 13))
def test_a_lead_is_a_table_and_an_answer(number: int, shown: list[dict[str, Any]]) -> None:
    page.show_lead(number)
    answer, table = shown
    assert f":name: tab-lead-{number}" in table["text/markdown"]
    assert len(answer["text/plain"]) > 200
    csv = pd.read_csv(registry.FIGURE_DIRECTORY / f"lead-{number}.csv")
    assert len(csv) > 0
